"""Saved classifiers with a pretrained encoder: the part of serving that needs transformers."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from labeldist.models.classifier import ContrastiveClassifier
from labeldist.models.pretrained import load_tokenizer
from labeldist.serving.batches import Encodings, pad_as

__all__ = ["PretrainedTokenizer", "load_pretrained", "load_saved_tokenizer"]


def load_pretrained(folder: Path) -> ContrastiveClassifier:
    """A saved classifier, in evaluation mode, on the CPU."""
    return ContrastiveClassifier.load(folder)


def load_saved_tokenizer(folder: Path, max_length: int) -> "PretrainedTokenizer":
    """The tokenizer that was saved with a classifier."""
    return PretrainedTokenizer(load_tokenizer(folder, local_files_only=True), max_length)


class PretrainedTokenizer:
    """A Hugging Face tokenizer.

    Args:
        tokenizer: reads texts.
        max_length: tokens a text is cut to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.tokenizer = tokenizer
        self._max_length = max_length
        self._pad = pad_as(tokenizer)

    def encode(self, texts: list[str]) -> Encodings:
        """Whatever the tokenizer returns for `texts`, cut to `max_length` tokens, not padded."""
        encodings = dict(self.tokenizer(texts, truncation=True, max_length=self._max_length))
        for i, tokens in enumerate(encodings["input_ids"]):
            # A text of nothing but invisible characters has no token: an unknown word stands for it.
            if not tokens:
                tokens.append(self.tokenizer.unk_token_id)
                encodings["attention_mask"][i].append(1)
        return encodings

    def pad(self, rows: dict[str, list[list[int]]]) -> Mapping[str, Tensor]:
        """A batch of `encode`'s rows, each tensor `(B, L)`."""
        return self._pad(rows)
