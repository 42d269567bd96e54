"""A saved tokenizer without transformers: `tokenizer.json`, and how its texts are padded and cut."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from labeldist.serving.batches import Encodings, padded

__all__ = ["TextTokenizer"]


class TextTokenizer:
    """Token ids of texts, as `PreTrainedTokenizerFast` makes them from the same files.

    Args:
        folder: with `tokenizer.json` and `tokenizer_config.json`.
        max_length: tokens a text is cut to, >= 1.

    Attributes:
        tokenizer: of the `tokenizers` library.

    Raises:
        OSError: if a file is missing.
        ValueError: if a file is damaged, or the tokenizer has no padding or unknown token.
    """

    def __init__(self, folder: Path, max_length: int):
        options = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        definition = (folder / "tokenizer.json").read_text(encoding="utf-8")
        try:
            self.tokenizer: Tokenizer = Tokenizer.from_str(definition)
        # The library raises nothing more special.
        except Exception as error:
            raise ValueError(f"{folder / 'tokenizer.json'} is damaged: {error}") from error
        stands_for_unknown = getattr(self.tokenizer.model, "unk_token", None)
        if stands_for_unknown is not None and self.tokenizer.model.token_to_id(stands_for_unknown) is None:
            # It would fail at the first unknown word.
            raise ValueError(f"{folder / 'tokenizer.json'} is damaged: its vocabulary lacks {stands_for_unknown}.")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length, direction=options.get("truncation_side", "right"))
        self._pad_id = self._id_of("pad_token", options)
        self._unknown_id = self._id_of("unk_token", options)
        self._pads_left = options.get("padding_side", "right") == "left"

    def encode(self, texts: list[str]) -> Encodings:
        """Token ids of `texts`, cut to `max_length` tokens, not padded.

        A text of nothing but invisible characters has no token: an unknown word stands for it.
        """
        unknown = [self._unknown_id]
        encoded = self.tokenizer.encode_batch_fast(texts)
        return {"input_ids": [encoding.ids or unknown for encoding in encoded]}

    def pad(self, rows: dict[str, list[list[int]]]) -> dict[str, Tensor]:
        """A batch of `encode`'s rows: `input_ids` and `attention_mask`, each `(B, L)`, int64."""
        mask = [[1] * len(row) for row in rows["input_ids"]]
        return padded({**rows, "attention_mask": mask}, {"input_ids": self._pad_id}, left=self._pads_left)

    def _id_of(self, name: str, options: dict[str, Any]) -> int:
        token = options.get(name)
        # Saved either as it is or with how it is matched.
        token = token.get("content") if isinstance(token, dict) else token
        index = self.tokenizer.token_to_id(token) if isinstance(token, str) else None
        if index is None:
            raise ValueError(f"The tokenizer has no {name}.")
        return index
