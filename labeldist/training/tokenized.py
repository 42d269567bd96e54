"""Texts as token ids. The runs of a comparison share them, so that each text is tokenized once."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from labeldist.serving.batches import pad_as
from labeldist.training.config import RunSettings
from labeldist.training.data.corpus import Corpus, Split

__all__ = ["Collator", "EncodedSplit", "Encodings", "TokenCache", "encode"]

Encodings = dict[str, list[list[int]]]
"""Lists of token ids, and whatever else a tokenizer returns, not padded: one list per text under each name."""


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encodings:
    """Token ids of `texts`, cut to `max_length` tokens, not padded."""
    if not texts:
        return {"input_ids": []}
    encodings = dict(tokenizer(list(texts), truncation=True, max_length=max_length))
    for i, tokens in enumerate(encodings["input_ids"]):
        # A text of nothing but invisible characters has no token: an unknown word stands for it.
        if not tokens:
            tokens.append(tokenizer.unk_token_id)
            encodings["attention_mask"][i].append(1)
    return encodings


class TokenCache:
    """The token ids of one tokenizer's texts; those of another tokenizer take their place."""

    def __init__(self):
        self._key: Hashable = None
        self._names: list[str] = []
        self._rows: dict[str, tuple[list[int], ...]] = {}

    def encode(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, settings: RunSettings, corpus: Corpus
    ) -> Encodings:
        """As `labeldist.training.tokenized.encode`; only texts that are new to this tokenizer are tokenized.

        Args:
            texts: any number.
            tokenizer: that of `settings` on `corpus`; tokenizes new ones.
            settings: of the run.
            corpus: gives a TextCNN's vocabulary. A pretrained encoder's tokenizer is the same for every corpus.
        """
        model = settings.model
        key = (model, corpus.fingerprint if model.encoder == "textcnn" else None)
        if key != self._key:
            self._key, self._rows = key, {}
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            encodings = encode(new, tokenizer, model.max_length)
            self._names = list(encodings)
            self._rows.update(zip(new, zip(*encodings.values(), strict=True), strict=True))
        if not texts:
            return encode(texts, tokenizer, model.max_length)
        rows = [self._rows[text] for text in texts]
        return {name: [row[i] for row in rows] for i, name in enumerate(self._names)}


class EncodedSplit(torch.utils.data.Dataset):
    """Tokenized texts with their labels, as the Trainer's collator takes them.

    Args:
        split: gives the labels.
        encodings: of its texts.
    """

    def __init__(self, split: Split, encodings: Encodings):
        self.labels = split.labels
        self.encodings = encodings

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = {name: values[index] for name, values in self.encodings.items()}
        return {**row, "labels": int(self.labels[index])}


class Collator:
    """Makes the batches of an `EncodedSplit`, as `DataCollatorWithPadding` does.

    Args:
        tokenizer: of the texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._pad = pad_as(tokenizer)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad the rows of a batch; with their labels, `(B,)`."""
        names = [name for name in rows[0] if name != "labels"]
        batch = self._pad({name: [row[name] for row in rows] for name in names})
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}
