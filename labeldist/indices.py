"""The index tuples that miners hand to losses: pairs `(a1, p, a2, n)` or triplets `(a, p, n)`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from labeldist.functional import may_read

__all__ = ["check_indices_tuple"]

NAMES = {3: ("anchors", "positives", "negatives"), 4: ("anchors", "positives", "anchors of negatives", "negatives")}


def check_indices_tuple(
    indices_tuple: Sequence[Tensor], num_anchors: int, num_references: int, *, validate: bool = True
) -> None:
    """Raise unless an index tuple names existing rows.

    Args:
        indices_tuple: three or four integer tensors, each `(P,)`: triplets `(a, p, n)` or pairs `(a1, p, a2, n)`.
        num_anchors: `B`, rows that `a`, `a1` and `a2` may name.
        num_references: `R`, rows that `p` and `n` may name.
        validate: whether the indices are read; on a GPU this waits for the device.

    Raises:
        ValueError: if there are not three or four tensors, lengths disagree, or an index is out of range.
        TypeError: if an index is no integer.

    Examples:
        >>> import torch
        >>> check_indices_tuple((torch.tensor([0]), torch.tensor([1]), torch.tensor([9])), 3, 3)
        Traceback (most recent call last):
        ValueError: negatives of indices_tuple must lie in [0, 3), got values from 9 to 9. ...
    """
    if not isinstance(indices_tuple, tuple | list) or len(indices_tuple) not in NAMES:
        held = f"{len(indices_tuple)}" if isinstance(indices_tuple, tuple | list) else type(indices_tuple).__name__
        raise ValueError(
            f"indices_tuple must hold 3 tensors (anchors, positives, negatives) or 4 (anchors, positives, anchors, "
            f"negatives), got {held}."
        )
    names = NAMES[len(indices_tuple)]
    for name, indices in zip(names, indices_tuple, strict=True):
        if not isinstance(indices, Tensor) or indices.ndim != 1:
            raise ValueError(f"{name} of indices_tuple must be a tensor of shape (P,), got {_described(indices)}.")
        # PML's own empty results are of any type.
        is_integer = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
        if indices.numel() and not is_integer:
            raise TypeError(f"{name} of indices_tuple must be integers, got {indices.dtype}.")
    lengths = [len(indices) for indices in indices_tuple]
    together = [lengths] if len(lengths) == 3 else [lengths[:2], lengths[2:]]
    if any(len(set(group)) > 1 for group in together):
        raise ValueError(f"the tensors of indices_tuple must be equally long, got lengths {lengths}.")
    for name, indices in zip(names, indices_tuple, strict=True):
        num_rows = num_anchors if name.startswith("anchors") else num_references
        if not len(indices) or not may_read(indices, validate):
            continue
        smallest, largest = (int(value) for value in indices.aminmax())
        if smallest < 0 or largest >= num_rows:
            raise ValueError(
                f"{name} of indices_tuple must lie in [0, {num_rows}), got values from {smallest} to {largest}. Mine "
                f"the same rows that the loss receives."
            )


def _described(indices: object) -> str:
    return f"shape {tuple(indices.shape)}" if isinstance(indices, Tensor) else type(indices).__name__
