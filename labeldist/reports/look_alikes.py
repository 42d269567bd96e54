"""Classes that a classifier hardly distinguishes: confusion of each pair, an order of the classes, and groups."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

__all__ = ["MIN_GROUP_SHARE", "cluster_order", "confused_shares", "look_alike_groups"]

MIN_GROUP_SHARE = 0.05
"""Two groups of classes are one if at least this share of the rows of two members is confused, on average."""

# The optimal order of leaves takes time that grows with the third power of the classes.
MAX_OPTIMAL_ORDER = 300


def confused_shares(counts: ArrayLike, num_rows: ArrayLike | None = None) -> NDArray[np.float64]:
    """Fraction of the rows of each pair of classes that were predicted as the other class of the pair.

    Args:
        counts: `(C, C)`, row = true class, column = predicted class.
        num_rows: number of rows of each class, `(C,)`, if `counts` leaves out some classes; `None` sums the rows of
            `counts`.

    Returns:
        `(C, C)`, symmetric, values in [0, 1], zeros on the diagonal and for pairs without rows.

    Examples:
        >>> confused_shares([[8, 2], [0, 10]]).tolist()
        [[0.0, 0.1], [0.1, 0.0]]
    """
    matrix = _square(counts)
    rows = matrix.sum(axis=1) if num_rows is None else np.asarray(num_rows, dtype=np.float64)
    confused = matrix + matrix.T
    np.fill_diagonal(confused, 0.0)
    return confused / np.maximum(rows[:, None] + rows[None, :], 1.0)


def cluster_order(counts: ArrayLike) -> NDArray[np.int64]:
    """Order the classes so that confused classes are neighbors.

    Hierarchical clustering with average linkage and the distances `1 - confused_shares`. With up to 300 classes the
    leaves are ordered so that neighbors are as close as possible. Without any mistake, or with two classes, the order
    is that of the indices.

    Args:
        counts: `(C, C)`, row = true class, column = predicted class.

    Returns:
        Class indices in the new order, `(C,)`.

    Examples:
        >>> counts = [[9, 0, 1, 0], [0, 9, 0, 1], [1, 0, 9, 0], [0, 1, 0, 9]]
        >>> cluster_order(counts).tolist()
        [0, 2, 3, 1]
    """
    shares = confused_shares(counts)
    size = len(shares)
    if size < 3 or not shares.any():
        return np.arange(size)
    order = leaves_list(_linkage(shares)).astype(np.int64)
    # Either direction is as good: begin at the end that holds the smaller index.
    return order if order[0] <= order[-1] else order[::-1]


def look_alike_groups(
    counts: ArrayLike, num_rows: ArrayLike | None = None, *, min_share: float = MIN_GROUP_SHARE
) -> list[list[int]]:
    """Find groups of classes that a classifier hardly distinguishes.

    Hierarchical clustering with average linkage: two groups are joined while the mean of `confused_shares` between
    their members is at least `min_share`. A chain of confused pairs is therefore not always one group: its ends must
    be confused, too.

    Args:
        counts: `(C, C)`, row = true class, column = predicted class.
        num_rows: as in `confused_shares`.
        min_share: smallest mean to join two groups, in (0, 1].

    Returns:
        Groups of at least two classes as sorted class indices, the group with the most confused rows first.

    Raises:
        ValueError: if `min_share` is out of range.

    Examples:
        >>> look_alike_groups([[8, 2, 0], [1, 9, 0], [0, 0, 10]])
        [[0, 1]]
    """
    if not 0 < min_share <= 1:
        raise ValueError(f"min_share must lie in (0, 1], got {min_share}.")
    matrix = _square(counts)
    shares = confused_shares(matrix, num_rows)
    if len(shares) < 2 or not shares.any():
        return []
    # A rounding error must not part two classes that are confused exactly this often.
    labels = fcluster(_linkage(shares, ordered=False), 1 - min_share + 1e-12, criterion="distance")
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    found = [group for group in groups if len(group) > 1]

    def num_confused(group: NDArray[np.int64]) -> float:
        block = matrix[np.ix_(group, group)]
        return float(block.sum() - block.trace())

    return [group.tolist() for group in sorted(found, key=lambda group: (-num_confused(group), group[0]))]


def _linkage(shares: NDArray[np.float64], *, ordered: bool = True) -> NDArray[np.float64]:
    distances = 1.0 - shares
    np.fill_diagonal(distances, 0.0)
    optimal = ordered and len(shares) <= MAX_OPTIMAL_ORDER
    return linkage(squareform(distances, checks=False), method="average", optimal_ordering=optimal)


def _square(counts: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(counts, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"counts must have shape (C, C), got {matrix.shape}.")
    return matrix
