import json
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from labeldist.serving.tokenizer import TextTokenizer
from labeldist.training.encoders import train_tokenizer
from runs import messages

TEXTS = ["Is it fast?", "发货快不快, is it?", "it is very very very very fast", "unseen words", "\u200b", "ขอเงินคืน"]
TRAIN = [row["text"] for row in messages(100)]


@pytest.fixture(params=["right", "left"])
def folder(request, tmp_path):
    tokenizer: Any = train_tokenizer(TRAIN)
    tokenizer.padding_side = tokenizer.truncation_side = request.param
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("max_length", [1, 4, 128])
def test_its_batches_are_those_of_transformers(folder, max_length):
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    assert isinstance(theirs, PreTrainedTokenizerFast)
    ours = TextTokenizer(folder, max_length)
    encodings = ours.encode(TEXTS)
    expected = dict(theirs(TEXTS, truncation=True, max_length=max_length))
    expected["input_ids"] = [ids or [theirs.unk_token_id] for ids in expected["input_ids"]]
    assert encodings["input_ids"] == expected["input_ids"]
    expected["attention_mask"] = [[1] * len(ids) for ids in expected["input_ids"]]
    batch = theirs.pad(expected, return_tensors="pt")
    found = ours.pad(dict(encodings))
    assert set(found) == set(batch)
    for name, tensor in found.items():
        assert tensor.tolist() == batch[name].tolist()
        assert tensor.dtype == batch[name].dtype


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{}", r"tokenizer\.json is damaged"),
        ("tokenizer.json", "\x00\x01", r"tokenizer\.json is damaged"),
        ("tokenizer_config.json", "{}", "has no pad_token"),
        ("tokenizer_config.json", '{"pad_token": "[PAD]", "unk_token": "nowhere"}', "has no unk_token"),
    ],
)
def test_a_damaged_tokenizer_is_told(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        TextTokenizer(folder, 8)


def test_a_vocabulary_without_its_unknown_token_is_told(folder):
    definition = json.loads((folder / "tokenizer.json").read_text())
    # It still stands among the added tokens.
    del definition["model"]["vocab"]["[UNK]"]
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(ValueError, match=r"its vocabulary lacks \[UNK\]"):
        TextTokenizer(folder, 8)


def test_a_token_may_be_saved_with_how_it_is_matched(folder):
    options = json.loads((folder / "tokenizer_config.json").read_text())
    expected = TextTokenizer(folder, 8).encode(TEXTS)
    options["pad_token"] = {"content": "[PAD]", "lstrip": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    assert TextTokenizer(folder, 8).encode(TEXTS) == expected
