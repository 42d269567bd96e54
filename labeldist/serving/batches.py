"""Token ids through a classifier, one batch at a time."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labeldist.models.two_heads import TwoHeads

__all__ = ["BATCH_SIZE", "Encodings", "Pad", "Predictions", "pad_as", "padded", "predict_encoded"]

BATCH_SIZE = 256
"""Texts that a batch holds."""

Encodings = Mapping[str, list[list[int]]]
"""Lists of token ids, and whatever else a tokenizer returns, not padded: one list per text under each name."""

Pad = Callable[[dict[str, list[list[int]]]], Mapping[str, Tensor]]
"""Makes a batch of equally long rows from some of the encodings."""


def pad_as(tokenizer: Any) -> Pad:
    """Padding as a transformers tokenizer does it, without the checks that it makes of each row."""
    values = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    return lambda rows: padded(rows, values, left=tokenizer.padding_side == "left")


def padded(rows: Encodings, values: Mapping[str, int], *, left: bool = False) -> dict[str, Tensor]:
    """A batch of encoded texts: int64, each tensor `(B, L)`, with the length L of the longest text.

    Args:
        rows: the texts, at least one.
        values: what fills up the rows of each name; 0 if it has none.
        left: whether padding comes before the text.

    Examples:
        >>> padded({"input_ids": [[5, 6, 7], [8]]}, {"input_ids": 1})
        {'input_ids': tensor([[5, 6, 7],
                [8, 1, 1]])}
    """
    batch = {}
    for name, lists in rows.items():
        length = max(map(len, lists))
        table = np.full((len(lists), length), values.get(name, 0), dtype=np.int64)
        for place, row in zip(table, lists, strict=True):
            place[length - len(row) if left else 0 :][: len(row)] = row
        batch[name] = torch.from_numpy(table)
    return batch


class Predictions(NamedTuple):
    """What a classifier makes of N texts, float32 on the CPU, in the order given.

    Attributes:
        probabilities: of each class, `(N, C)`.
        embeddings: the projection's output, `(N, D)`, in which contrast is taken.
        vectors: the encoder's output, `(N, hidden_size)`, which both heads read. Every objective trains it.
            Cross-entropy alone does not train the projection.
    """

    probabilities: Tensor
    embeddings: Tensor
    vectors: Tensor


@torch.inference_mode()
def predict_encoded(
    model: TwoHeads, encodings: Encodings, pad: Pad, *, advance: Callable[[int], None] | None = None
) -> Predictions:
    """Run the classifier on encoded texts of any number, at least one.

    Args:
        model: is put into evaluation mode.
        encodings: with `input_ids`, of which each text has at least one.
        pad: makes the batches.
        advance: receives the number of texts that are done, after each batch.
    """
    model.eval()
    device = next(model.parameters()).device
    lengths = [len(ids) for ids in encodings["input_ids"]]
    # Texts of like length share a batch: less padding to compute.
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    found: list[Tensor] = []
    for start in range(0, len(order), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        batch = pad({name: [values[i] for i in rows] for name, values in encodings.items()})
        encoded: Any = model.encode(**{name: tensor.to(device) for name, tensor in batch.items()})
        outputs = model.heads_of(encoded)
        parts = (outputs.logits.float().softmax(dim=1), outputs.embeddings.float(), encoded.float())
        # Each at its place: with many classes, a list of batches and what it becomes take memory twice.
        found = found or [torch.empty(len(order), part.shape[1], dtype=torch.float32) for part in parts]
        for whole, part in zip(found, parts, strict=True):
            whole[rows] = part.cpu()
        if advance is not None:
            advance(start + len(rows))
    return Predictions(*found)
