"""Input validation. Each error message says what is required, what was received, and how to fix it.

Public functions validate their inputs once. A check that reads values of a GPU tensor synchronizes with the device, so
it can be disabled (`validate=False`), and it is skipped inside `torch.compile` and during CUDA graph capture.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import get_args

import torch
from torch import Tensor

from labeldist.options import Weighting
from labeldist.pairs import Batch

__all__ = [
    "can_read_values",
    "check_batch",
    "check_ce_weight",
    "check_class_pairs",
    "check_count",
    "check_indices_tuple",
    "check_labels",
    "check_matrix",
    "check_relevance",
    "check_rows",
    "check_temperature",
]

INDEX_NAMES = {
    3: ("anchors", "positives", "negatives"),
    4: ("anchors", "positives", "anchors of negatives", "negatives"),
}


def check_temperature(temperature: float) -> None:
    """Raise `ValueError` unless `temperature` is a finite number above 0."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}.")


def check_ce_weight(ce_weight: float) -> None:
    """Raise `ValueError` unless `ce_weight` lies in [0, 1]."""
    if not 0 <= ce_weight <= 1:
        raise ValueError(f"ce_weight (lambda of Eq. 9) must lie in [0, 1], got {ce_weight}.")


def check_count(name: str, value: int) -> None:
    """Raise `TypeError` unless `value` is an integer, and `ValueError` unless it is at least 1."""
    if not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def check_class_pairs(ldm: Tensor, temperature: float, weighting: str) -> None:
    """Raise `ValueError` unless the LDM and the options are valid; entries are only checked on the CPU."""
    if ldm.ndim != 2 or ldm.shape[0] != ldm.shape[1]:
        raise ValueError(f"ldm must have shape (C, C), got {tuple(ldm.shape)}.")
    check_temperature(temperature)
    if ldm.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((ldm >= 0).all()):
        raise ValueError("ldm must be non-negative, got a negative or NaN entry.")
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting must be 'scale' or 'log', got {weighting!r}.")


def check_matrix(matrix: Tensor, *, whole: str = "A label-distance matrix", entries: str = "Label distances") -> None:
    """Raise `ValueError` unless `matrix` is square, not empty, finite and non-negative."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"{whole} must have shape (C, C) with C >= 1, got {tuple(matrix.shape)}.")
    wrong = ~torch.isfinite(matrix) | (matrix < 0)
    if wrong.any():
        row, column = (int(i) for i in wrong.nonzero()[0])
        value = matrix[row, column].item()
        raise ValueError(f"{entries} must be finite and non-negative, got {value} at row {row}, column {column}.")


def check_relevance(relevance: Tensor, num_classes: int, *, validate: bool = True) -> None:
    """Raise `ValueError` unless `relevance` is a table of graded targets for `num_classes` classes.

    Args:
        relevance: `(C, C)`, finite and non-negative, positive on the diagonal; row = anchor's class.
        num_classes: `C`.
        validate: check the entries; on a GPU this synchronizes with the device.

    Raises:
        ValueError: for a different shape or an invalid entry.

    Examples:
        >>> check_relevance(torch.tensor([[1.0, 0.5], [0.5, 0.0]]), 2)
        Traceback (most recent call last):
        ValueError: The relevance of a class to itself must be above 0, got 0.0 for class 1. Use 1 on the diagonal.
    """
    if relevance.shape != (num_classes, num_classes):
        raise ValueError(
            f"relevance must have shape (C, C) = ({num_classes}, {num_classes}), got {tuple(relevance.shape)}. Give "
            "one row and one column for each class of the label-distance matrix."
        )
    if not can_read_values(relevance, validate) or not num_classes:
        return
    check_matrix(relevance.detach(), whole="relevance", entries="Entries of relevance")
    diagonal = relevance.detach().diagonal()
    if not bool((diagonal > 0).all()):
        label = int((diagonal <= 0).nonzero()[0])
        raise ValueError(
            f"The relevance of a class to itself must be above 0, got {diagonal[label].item()} for class {label}. Use "
            "1 on the diagonal."
        )


def check_batch(batch: Batch, num_classes: int, *, validate: bool = True) -> None:
    """Raise unless the shapes, dtypes and labels of a batch are valid for an LDM of `num_classes` classes."""
    check_rows(batch.embeddings, batch.labels, num_classes, validate=validate)
    if (batch.ref_emb is None) != (batch.ref_labels is None):
        raise ValueError("ref_emb and ref_labels go together: pass both or neither.")
    if not batch.is_self:
        dim = batch.embeddings.shape[1]
        check_rows(*batch.references, num_classes, prefix="ref_", dim=dim, validate=validate)


def check_rows(
    embeddings: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    prefix: str = "",
    dim: int | None = None,
    validate: bool = True,
) -> None:
    """Raise unless embeddings and labels are valid for an LDM of `num_classes` classes."""
    rows, classes = f"{prefix}emb" if prefix else "embeddings", f"{prefix}labels"
    if embeddings.ndim != 2 or (dim is not None and embeddings.shape[1] != dim):
        wanted = "(B, D)" if dim is None else f"(R, {dim})"
        raise ValueError(f"{rows} must have shape {wanted}, got {tuple(embeddings.shape)}.")
    if not embeddings.is_floating_point():
        raise TypeError(f"{rows} must be floating point, got {embeddings.dtype}.")
    check_labels(labels, len(embeddings), num_classes, name=classes, rows=rows, validate=validate)


def check_labels(
    labels: Tensor,
    num_rows: int,
    num_classes: int,
    *,
    name: str = "labels",
    rows: str = "embeddings",
    validate: bool = True,
) -> None:
    """Raise unless `labels` holds `num_rows` integers in [0, `num_classes`).

    `validate=False` checks shape and dtype, but not the range.
    """
    if labels.shape != (num_rows,):
        raise ValueError(
            f"{name} must have shape ({num_rows},), got {tuple(labels.shape)}. Pass one label for each row of {rows}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must be integers (class indices), got {labels.dtype}. Convert them with .long().")
    if not num_rows or not can_read_values(labels, validate):
        return
    # PyTorch has no aminmax of wide unsigned integers.
    is_known = labels.dtype.is_signed or labels.dtype == torch.uint8
    smallest, largest = (int(value) for value in (labels if is_known else labels.long()).aminmax())
    if smallest < 0 or largest >= num_classes:
        raise ValueError(
            f"{name} must lie in [0, {num_classes}) for an LDM of {num_classes} classes, got values from {smallest} "
            f"to {largest}. Pass class indices counted from 0, not ids of rows, or build the LDM for all classes."
        )


def check_indices_tuple(
    indices_tuple: Sequence[Tensor], num_anchors: int, num_references: int, *, validate: bool = True
) -> None:
    """Raise unless the indices of an `indices_tuple` are valid.

    Args:
        indices_tuple: three or four integer tensors, each `(P,)`: triplets `(a, p, n)` or pairs `(a1, p, a2, n)`.
        num_anchors: `B`; `a`, `a1` and `a2` must lie in [0, B).
        num_references: `R`; `p` and `n` must lie in [0, R).
        validate: check the range of the indices; on a GPU this synchronizes with the device.

    Raises:
        ValueError: if there are not three or four tensors, lengths differ, or an index is out of range.
        TypeError: if the indices are not integers.

    Examples:
        >>> import torch
        >>> check_indices_tuple((torch.tensor([0]), torch.tensor([1]), torch.tensor([9])), 3, 3)
        Traceback (most recent call last):
        ValueError: negatives of indices_tuple must lie in [0, 3), got values from 9 to 9. ...
    """
    if not isinstance(indices_tuple, tuple | list) or len(indices_tuple) not in INDEX_NAMES:
        received = f"{len(indices_tuple)}" if isinstance(indices_tuple, tuple | list) else type(indices_tuple).__name__
        raise ValueError(
            f"indices_tuple must hold 3 tensors (anchors, positives, negatives) or 4 (anchors, positives, anchors, "
            f"negatives), got {received}."
        )
    names = INDEX_NAMES[len(indices_tuple)]
    for name, indices in zip(names, indices_tuple, strict=True):
        if not isinstance(indices, Tensor) or indices.ndim != 1:
            raise ValueError(f"{name} of indices_tuple must be a tensor of shape (P,), got {_describe(indices)}.")
        # Empty tensors from PML may have any dtype.
        is_integer = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
        if indices.numel() and not is_integer:
            raise TypeError(f"{name} of indices_tuple must be integers, got {indices.dtype}.")
    lengths = [len(indices) for indices in indices_tuple]
    equally_long = [lengths] if len(lengths) == 3 else [lengths[:2], lengths[2:]]
    if any(len(set(group)) > 1 for group in equally_long):
        raise ValueError(f"the tensors of indices_tuple must be equally long, got lengths {lengths}.")
    for name, indices in zip(names, indices_tuple, strict=True):
        num_rows = num_anchors if name.startswith("anchors") else num_references
        if not len(indices) or not can_read_values(indices, validate):
            continue
        smallest, largest = (int(value) for value in indices.aminmax())
        if smallest < 0 or largest >= num_rows:
            raise ValueError(
                f"{name} of indices_tuple must lie in [0, {num_rows}), got values from {smallest} to {largest}. Mine "
                f"the same rows that the loss receives."
            )


def _describe(indices: object) -> str:
    return f"shape {tuple(indices.shape)}" if isinstance(indices, Tensor) else type(indices).__name__


def can_read_values(tensor: Tensor, validate: bool = True) -> bool:
    """Whether the values of `tensor` may be read: not with `validate=False`, and not while tracing or capturing."""
    if not validate or torch.compiler.is_compiling() or tensor.is_meta:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
