"""Token ids through a classifier, one batch at a time."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labeldist.models.two_heads import TwoHeads

__all__ = ["BATCH_SIZE", "Encodings", "Pad", "Predictions", "predict_encoded"]

BATCH_SIZE = 256
"""Texts that a batch holds."""

Encodings = Mapping[str, list[list[int]]]
"""Lists of token ids, and whatever else a tokenizer returns, not padded: one list per text under each name."""

Pad = Callable[[dict[str, list[list[int]]]], Mapping[str, Tensor]]
"""Makes a batch of equally long rows from some of the encodings."""


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
        found = found or [torch.empty(len(order), part.shape[1]) for part in parts]
        for whole, part in zip(found, parts, strict=True):
            whole[rows] = part.cpu()
        if advance is not None:
            advance(start + len(rows))
    return Predictions(*found)
