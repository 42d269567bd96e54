"""Entries of a label-distance matrix from confusion counts and from measures of closeness.

Closeness (larger = more easily confused) is mapped linearly to entries between 1 and `max_distance`.
"""

import math

import torch
from torch import Tensor

from labeldist.checks import check_labels
from labeldist.confusion import ArrayLike, as_counts, confusion_rates
from labeldist.functional import unit_rows
from labeldist.options import Normalization


def distances_from_confusion(
    counts: ArrayLike, *, max_distance: float = 5.0, normalization: Normalization = "rate", symmetric: bool = True
) -> Tensor:
    r"""Turn confusion counts into the entries of an LDM: `COUNT(CM)` of Algorithm 1.

    - `"rate"` (Choice): uses the off-diagonal confusion rates $r_{ab}$ per true class, averaged over both directions. A
      pair without confusion gets 1, the most confused pair `max_distance`; the diagonal is 1. Without any confusion,
      all entries are 1.
    - `"count"`: uses the counts themselves, the paper's literal form. They grow with the size of the validation set,
      and the diagonal holds the correct predictions.

    Args:
        counts: `(C, C)`, non-negative, row = true class, column = predicted class.
        max_distance: entry of the most confused pair, > 0; ignored for `"count"`.
        normalization: `"rate"` or `"count"`.
        symmetric: average both directions. Otherwise row `a`, column `b` only counts class `a` predicted as `b`.

    Returns:
        `(C, C)`, in the default floating-point dtype.

    Raises:
        ValueError: if `counts` is not square or has a negative entry, or an option is unknown.

    Examples:
        >>> distances_from_confusion(torch.tensor([[8, 2], [0, 10]]), max_distance=3.0, symmetric=False)
        tensor([[1., 3.],
                [1., 1.]])
    """
    check_max_distance(max_distance)
    check_normalization(normalization)
    counts = as_counts(counts)
    if normalization == "count":
        counts = counts.to(torch.get_default_dtype())
        return (counts + counts.T) / 2 if symmetric else counts
    return stretch(confusion_rates(counts, symmetric=symmetric), max_distance, lowest=0.0)


def class_centroids(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean of the normalized embeddings of each class, for `StaticLDM.from_vectors`.

    Args:
        embeddings: `(N, D)`, floating point.
        labels: `(N,)`, integer, in [0, `num_classes`).
        num_classes: `C`.

    Returns:
        `(C, D)`; NaN for a class without rows.

    Examples:
        >>> class_centroids(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0]), 1)
        tensor([[0.5000, 0.5000]])
    """
    check_labels(labels, len(embeddings), num_classes)
    rows = unit_rows(embeddings)
    sums = rows.new_zeros(num_classes, rows.shape[1]).index_add(0, labels.long(), rows)
    return sums / torch.bincount(labels.long(), minlength=num_classes)[:, None]


def stretch(closeness: Tensor, max_distance: float, *, lowest: float | None = None) -> Tensor:
    """Map off-diagonal closeness linearly to [1, max_distance].

    Args:
        closeness: `(C, C)`, floating point; larger values for classes that are more easily confused.
        max_distance: entry of the largest closeness, > 0.
        lowest: closeness that maps to 1; `None` uses the off-diagonal minimum.

    Returns:
        `(C, C)`, with ones on the diagonal. All entries are 1 if all values are equal up to rounding.
    """
    matrix = torch.ones_like(closeness)
    off_diagonal = ~torch.eye(len(closeness), dtype=torch.bool, device=closeness.device)
    values = closeness[off_diagonal]
    if not values.numel():
        return matrix
    low = values.min() if lowest is None else torch.as_tensor(lowest).to(values)
    span = values.max() - low
    # Do not stretch the rounding errors of equal cosines to the whole range.
    if span > 16 * torch.finfo(values.dtype).eps * closeness.abs().max():
        matrix[off_diagonal] = 1 + (max_distance - 1) * (values - low) / span
    return matrix


def check_max_distance(max_distance: float) -> None:
    """Raise `ValueError` unless `max_distance` is a finite number above 0."""
    if not 0 < max_distance < math.inf:
        raise ValueError(f"max_distance must be a finite number above 0, got {max_distance}.")


def check_normalization(normalization: str) -> None:
    """Raise `ValueError` unless `normalization` is `"rate"` or `"count"`."""
    if normalization not in ("rate", "count"):
        raise ValueError(f"normalization must be 'rate' or 'count', got {normalization!r}.")
