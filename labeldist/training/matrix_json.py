"""A `(C, C)` matrix in JSON: rows of numbers, or, with many classes, its most common entry and the others."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["matrix_from_json", "matrix_to_json"]

MAX_LISTED_CLASSES = 500
"""With more classes, rows of numbers would take gigabytes in a file and more in memory."""


def matrix_to_json(matrix: Tensor) -> list[list[float]] | dict[str, Any]:
    """A matrix, JSON-ready.

    Args:
        matrix: `(C, C)`.

    Returns:
        The rows; above 500 classes, where at least three quarters of the entries are equal:
        `{"common": value, "others": [[row, column, entry], ...]}`.

    Examples:
        >>> import torch
        >>> matrix_to_json(torch.eye(2))
        [[1.0, 0.0], [0.0, 1.0]]
        >>> matrix_to_json(torch.ones(501, 501))
        {'common': 1.0, 'others': []}
    """
    if len(matrix) > MAX_LISTED_CLASSES:
        common = matrix[0].mode().values
        others = (matrix != common).nonzero()
        if 4 * len(others) <= matrix.numel():
            entries = matrix[others[:, 0], others[:, 1]].tolist()
            cells = [[*cell, entry] for cell, entry in zip(others.tolist(), entries, strict=True)]
            return {"common": common.item(), "others": cells}
    return matrix.tolist()


def matrix_from_json(stored: Any, num_classes: int | None = None) -> NDArray[np.float64] | None:
    """The inverse of `matrix_to_json`.

    Args:
        stored: what JSON holds.
        num_classes: `C`; as many as there are rows if `None`.

    Returns:
        `(C, C)`, read-only where all entries are equal; `None` if that is no such matrix.

    Examples:
        >>> matrix_from_json({"common": 1.0, "others": [[0, 1, 5.0]]}, 2)
        array([[1., 5.],
               [1., 1.]])
        >>> matrix_from_json([[1, 5], [5]]) is None
        True
    """
    if isinstance(stored, list):
        size = len(stored) if num_classes is None else num_classes
        is_matrix = len(stored) == size and all(isinstance(row, list) and len(row) == size for row in stored)
        return np.array(stored, dtype=np.float64) if is_matrix and all(map(_are_numbers, stored)) else None
    if not isinstance(stored, dict) or stored.keys() != {"common", "others"} or num_classes is None:
        return None
    common, others = stored["common"], stored["others"]
    if not _are_numbers([common]) or not isinstance(others, list):
        return None
    if not others:
        return np.broadcast_to(np.float64(common), (num_classes, num_classes))
    if not all(isinstance(cell, list) and len(cell) == 3 and _are_numbers(cell) for cell in others):
        return None
    if not all(type(i) is int and 0 <= i < num_classes for cell in others for i in cell[:2]):
        return None
    matrix = np.full((num_classes, num_classes), common, dtype=np.float64)
    rows, columns, entries = zip(*others, strict=True)
    matrix[list(rows), list(columns)] = entries
    return matrix


def _are_numbers(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int, float}
