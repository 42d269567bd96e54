"""Tables of closeness from class names, vectors and tables of unlikeness."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from labeldist.checks import check_matrix
from labeldist.confusion import ArrayLike
from labeldist.functional import unit_rows
from labeldist.messages import listed, shown

# Offered where class names have no separator: what labels are commonly divided by.
SEPARATORS = (":", ".", "/", "_", "-", " ")
_ROUNDING = 5e-6


def checked_closeness(value: float) -> float:
    """A closeness in [0, 1], or a `ValueError`."""
    if not 0 <= value <= 1:
        raise ValueError(f"closeness must lie in [0, 1], got {value}.")
    return float(value)


def check_relevance_options(weight: float, level: float) -> None:
    """Raise `ValueError` unless `weight` is finite and at least 0, and `level` lies in [0, 1]."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight must be a finite number of at least 0, got {weight}.")
    if not 0 <= level <= 1:
        raise ValueError(f"level must lie in [0, 1], got {level}.")


def relevance_of(closeness: Tensor, weight: float, level: float) -> Tensor:
    """Graded targets, `(C, C)`: `weight` times the closeness, 0 below `level`, and 1 on the diagonal.

    A closeness that differs from the level by rounding alone is not below it: 1 - 3/5 is a bit less than 0.4.
    """
    rounding = max(_ROUNDING, torch.finfo(closeness.dtype).eps)
    return (weight * closeness).masked_fill(closeness < level - rounding, 0).fill_diagonal_(1)


def of_unlikeness(values: ArrayLike, one: str, many: str) -> Tensor:
    """1 - value / largest value, for a table with a zero diagonal."""
    table = torch.as_tensor(values).detach().cpu()
    table = table if table.is_floating_point() else table.to(torch.get_default_dtype())
    check_matrix(table, whole=many, entries=f"Entries of {many}")
    if table.diagonal().any():
        label = int(table.diagonal().nonzero()[0])
        raise ValueError(
            f"The {one} of a class to itself must be 0, got {table[label, label].item()} for class {label}."
        )
    if not table.any():
        raise ValueError(f"{many} must have an entry above 0, all are 0. Without differences there is no relation.")
    return 1 - table / table.max()


def of_names(names: Sequence[str], separator: str) -> Tensor:
    """Number of parts that two names share at their start, over the most parts of a name."""
    if not separator:
        raise ValueError("separator must not be empty. Give what divides a class name into parts, such as ':'.")
    if not any(separator in name for name in names):
        found = [other for other in SEPARATORS if any(other in name for name in names)]
        cure = f" They contain {' and '.join(map(repr, found))}." if found else ""
        raise ValueError(f"No class name contains the separator {separator!r}: {listed(names, 3)}.{cure}")
    paths = [name.split(separator) for name in names]
    table = torch.zeros(len(names), len(names))
    deepest = max(map(len, paths))
    # From the root down: what is shared to a greater depth overwrites what was shared above it.
    for depth in range(1, deepest + 1):
        numbers: dict[tuple[str, ...], int] = {}
        starts = [numbers.setdefault(tuple(path[:depth]), len(numbers)) for path in paths]
        start = torch.tensor(starts)
        is_as_deep = torch.tensor([len(path) >= depth for path in paths])
        table[(start[:, None] == start) & is_as_deep] = depth / deepest
    return table.fill_diagonal_(1)


def of_vectors(vectors: Tensor, names: Sequence[str]) -> Tensor:
    """Cosines stretched so that the least similar pair has 0, and parallel vectors 1."""
    unusable = ~torch.isfinite(vectors).all(dim=1) | (vectors == 0).all(dim=1)
    if unusable.any():
        name = names[int(unusable.nonzero()[0])]
        raise ValueError(f"Each class needs a finite, nonzero vector, that of class {shown(name)} is not.")
    rows = unit_rows(vectors)
    cosines = (rows @ rows.T).clamp(-1, 1).fill_diagonal_(1)
    cosines = (cosines + cosines.T) / 2
    lowest = cosines.min()
    # All vectors parallel, up to rounding.
    if 1 - lowest < 16 * torch.finfo(cosines.dtype).eps:
        return torch.ones_like(cosines)
    return ((cosines - lowest) / (1 - lowest)).clamp(0, 1).fill_diagonal_(1)
