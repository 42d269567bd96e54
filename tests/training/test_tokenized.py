"""Texts as token ids, and each text tokenized once for the runs that share it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from transformers import DataCollatorWithPadding

from labeldist.training.data.corpus import Split, load_corpus
from labeldist.training.encoders import train_tokenizer
from labeldist.training.tokenized import Collator, EncodedSplit, TokenCache, encode
from runs import messages, settings_of

ROWS = messages(60)
NAMES = sorted({row["label"] for row in ROWS})
SPLIT = Split([row["text"] for row in ROWS], np.array([NAMES.index(row["label"]) for row in ROWS]))


def test_texts_are_cut_and_not_padded():
    tokenizer: Any = train_tokenizer(["a b c d e f"])
    encodings = encode(["a b", "a b c d e f"], tokenizer, 4)
    assert [len(ids) for ids in encodings["input_ids"]] == [2, 4]
    assert encode([], tokenizer, 4) == {"input_ids": []}


def test_a_text_without_tokens_becomes_an_unknown_word():
    tokenizer: Any = train_tokenizer(["a b"])
    encodings = encode(["a", "\u200b"], tokenizer, 4)
    assert encodings["input_ids"][1] == [tokenizer.unk_token_id]
    assert encodings["attention_mask"][1] == [1]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("values", [(0, 0), (7, 3)])
def test_batches_are_those_of_the_collator_of_transformers(side, values):
    tokenizer: Any = train_tokenizer(SPLIT.texts)
    tokenizer.padding_side = side
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(values[0])
    tokenizer._pad_token_type_id = values[1]
    encodings = encode(SPLIT.texts, tokenizer, 128)
    encodings["token_type_ids"] = [[i % 2 for i in range(len(ids))] for ids in encodings["input_ids"]]
    split = EncodedSplit(SPLIT, encodings)
    for rows in ([3], [0, 1, 2, 3], range(60)):
        found = Collator(tokenizer)([split[row] for row in rows])
        expected = DataCollatorWithPadding(tokenizer)([split[row] for row in rows])
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.tolist() == expected[name].tolist()
            assert tensor.dtype == expected[name].dtype


def test_a_row_holds_tokens_and_label():
    tokenizer: Any = train_tokenizer(SPLIT.texts)
    split = EncodedSplit(SPLIT, encode(SPLIT.texts, tokenizer, 128))
    assert len(split) == 60
    row = split[3]
    assert row["labels"] == SPLIT.labels[3]
    assert tokenizer.decode(row["input_ids"]).split() == tokenizer.tokenize(SPLIT.texts[3])


class CountingTokenizer:
    """A tokenizer that notes what it is given."""

    def __init__(self, texts: list[str]):
        self.tokenizer: Any = train_tokenizer(texts)
        self.seen: list[str] = []

    def __call__(self, texts: list[str], **options: Any) -> Any:
        self.seen += texts
        return self.tokenizer(texts, **options)


def test_each_text_is_tokenized_once_however_often_it_is_asked_for(tickets):
    corpus, settings = load_corpus([str(tickets)]), settings_of(tickets)
    tokenizer: Any = CountingTokenizer(corpus.train.texts)
    cache = TokenCache()
    for split in (corpus.train, corpus.validation, corpus.train, corpus.test, corpus.validation):
        found = cache.encode(split.texts, tokenizer, settings, corpus)
        assert found == encode(split.texts, tokenizer.tokenizer, settings.model.max_length)
    assert len(tokenizer.seen) == len(set(tokenizer.seen))
    assert cache.encode([], tokenizer, settings, corpus) == {"input_ids": []}


def test_another_vocabulary_tokenizes_anew(tickets):
    first, second = (load_corpus([str(tickets)], seed=seed) for seed in (0, 1))
    settings, cache = settings_of(tickets), TokenCache()
    for corpus in (first, second, first):
        tokenizer: Any = train_tokenizer(corpus.train.texts)
        found = cache.encode(corpus.test.texts, tokenizer, settings, corpus)
        assert found == encode(corpus.test.texts, tokenizer, settings.model.max_length)
    shorter = replace(settings, model=replace(settings.model, max_length=2))
    assert max(map(len, cache.encode(first.test.texts, tokenizer, shorter, first)["input_ids"])) == 2
