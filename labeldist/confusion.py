"""Confusion counts and the class pairs that a classifier confuses most. Rows are true classes, columns predictions."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from labeldist.checks import check_labels, check_matrix

__all__ = ["ArrayLike", "ConfusedPair", "as_counts", "confusion_counts", "most_confused_pairs"]

ArrayLike = Any
"""A tensor, a numpy array, or nested sequences of numbers."""


class ConfusedPair(NamedTuple):
    """Two classes and how often a classifier confuses them, in both directions.

    Attributes:
        first: the class with the lower index.
        second: the class with the higher index.
        num_mistakes: number of rows of either class that were predicted as the other.
        rate: mean of the two confusion rates, each relative to the number of rows of the true class, in [0, 1].
    """

    first: int
    second: int
    num_mistakes: int
    rate: float


def as_counts(counts: ArrayLike) -> Tensor:
    """Convert confusion counts of any library to a tensor.

    Args:
        counts: `(C, C)`, whole numbers of rows, non-negative, row = true class, column = predicted: a tensor, a numpy
            array as `sklearn.metrics.confusion_matrix` returns it, or nested sequences.

    Returns:
        `(C, C)`, int64 or floating point, on the device of `counts` if that is a tensor, otherwise on the CPU.

    Raises:
        ValueError: if the matrix is not square, or an entry is negative, not finite, or not a whole number, as in
            fractions or percentages.

    Examples:
        >>> as_counts([[8, 2], [0, 10]])
        tensor([[ 8,  2],
                [ 0, 10]])
    """
    counts = torch.as_tensor(counts)
    # Sums of narrow integers overflow.
    counts = counts if counts.is_floating_point() else counts.long()
    check_matrix(counts, whole="Confusion counts", entries="Confusion counts")
    if counts.is_floating_point() and (counts != counts.round()).any():
        share = next(value for value in counts.flatten().tolist() if value != round(value))
        raise ValueError(
            f"Confusion counts must be whole numbers of rows, got {share:.4g}. Pass counts, not shares: with "
            "scikit-learn, confusion_matrix(..., normalize=None)."
        )
    return counts


def class_tensor(classes: ArrayLike) -> Tensor:
    """Class indices in any form as a tensor, on the device of `classes` if that is a tensor.

    Examples:
        >>> class_tensor([1, 0]), class_tensor([]).dtype
        (tensor([1, 0]), torch.int64)
    """
    tensor = torch.as_tensor(classes)
    # An empty list has no type of its own: torch takes it for floating point.
    return tensor if tensor.numel() else tensor.long()


def confusion_counts(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> Tensor:
    """Count how often each class was predicted for each true class.

    Args:
        labels: true classes, `(N,)`, integer, in [0, `num_classes`): a tensor, a numpy array or a list.
        predictions: predicted classes, `(N,)`, in the same form.
        num_classes: `C`.

    Returns:
        `(C, C)`, int64, row = true class, column = predicted class. Sums to `N`.

    Raises:
        ValueError: if lengths differ or a class is out of range.
        TypeError: if the classes are not integers.

    Examples:
        >>> confusion_counts(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
        tensor([[1, 1],
                [0, 1]])
    """
    labels, predictions = class_tensor(labels), class_tensor(predictions)
    check_labels(labels, len(labels), num_classes)
    check_labels(predictions, len(labels), num_classes, name="predictions", rows="labels")
    cells = labels.long() * num_classes + predictions.long()
    # index_add instead of bincount, which has no deterministic implementation on CUDA.
    counts = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=labels.device)
    return counts.index_add(0, cells, torch.ones_like(cells)).view(num_classes, num_classes)


def confusion_rates(counts: Tensor, *, symmetric: bool = True) -> Tensor:
    """Off-diagonal confusion rates per true class, `(C, C)`, floating point, in [0, 1]; the diagonal is 0.

    A class without rows has rate 0. `symmetric=True` averages both directions: `(r + r.T) / 2`.
    """
    counts = counts.to(torch.get_default_dtype())
    rates = (counts / counts.sum(dim=1, keepdim=True).clamp_min(1)).fill_diagonal_(0)
    return (rates + rates.T) / 2 if symmetric else rates


def most_confused_pairs(counts: ArrayLike, *, num_pairs: int | None = None) -> list[ConfusedPair]:
    """List the class pairs that were confused, highest rate first.

    Args:
        counts: confusion counts, `(C, C)`, row = true class: see `as_counts`.
        num_pairs: maximum number of pairs; `None` lists all pairs with at least one mistake.

    Returns:
        Unordered pairs with `num_mistakes >= 1`, sorted by rate, then number of mistakes (both descending), then index.

    Examples:
        >>> most_confused_pairs(torch.tensor([[8, 2, 0], [1, 9, 0], [0, 0, 10]]))
        [ConfusedPair(first=0, second=1, num_mistakes=3, rate=0.15...)]
    """
    counts = as_counts(counts)
    rates = confusion_rates(counts)
    both = counts + counts.T
    pairs = [ConfusedPair(a, b, int(both[a, b]), float(rates[a, b])) for a, b in both.triu(1).nonzero().tolist()]
    pairs.sort(key=lambda pair: (-pair.rate, -pair.num_mistakes, pair.first, pair.second))
    return pairs[:num_pairs]
