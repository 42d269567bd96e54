"""What pictures show of confusion counts: which classes, in which order, and which of them are confused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labeldist.reports.look_alikes import cluster_order, look_alike_groups
from labeldist.training.records import Confusion

__all__ = ["MAX_DRAWN_CLASSES", "NUM_DRAWN_OF_MORE", "Cells", "ClassPair", "class_order"]

MAX_DRAWN_CLASSES = 80
"""Of more, the names beside a map of all classes are too small to read."""

NUM_DRAWN_OF_MORE = 50
"""Classes that are drawn where there are too many to draw all."""

MAX_GROUPED_CLASSES = 150
"""Groups are sought among so many classes: the time grows faster than their number."""

MAX_GIVEN_ORDER = 30
"""Of more classes nobody finds a pair by name: those that are confused stand side by side."""


class ClassPair(NamedTuple):
    """Two classes, and how many rows of both were taken for the other one."""

    first: int
    second: int
    num_rows: int
    share: float


@dataclass(frozen=True)
class Cells:
    """Confusion counts, cell by cell: with many classes nearly all cells are zero.

    Attributes:
        true: class index of each cell's rows.
        predicted: class index that they were taken for.
        num_rows: how many rows that is.
        num_classes: C.
    """

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    num_rows: NDArray[np.int64]
    num_classes: int

    @classmethod
    def of(cls, counts: ArrayLike | Confusion, num_classes: int) -> "Cells":
        """Cells of counts, `(C, C)`, row = true class, or of a record of them.

        Raises:
            ValueError: if the counts are of another number of classes.
        """
        if isinstance(counts, Confusion):
            true, predicted, num_rows = (
                np.array(column, dtype=np.int64) for column in (counts.true, counts.predicted, counts.num_rows)
            )
            return cls(true, predicted, num_rows, num_classes)
        matrix = np.asarray(counts)
        if matrix.shape != (num_classes, num_classes):
            raise ValueError(
                f"counts must have shape (C, C) = ({num_classes}, {num_classes}), as class_names says, got "
                f"{matrix.shape}."
            )
        true, predicted = matrix.nonzero()
        return cls(true, predicted, matrix[true, predicted].astype(np.int64), num_classes)

    @property
    def support(self) -> NDArray[np.int64]:
        """Rows of each class, `(C,)`."""
        return np.bincount(self.true, self.num_rows, self.num_classes).astype(np.int64)

    @property
    def mistakes(self) -> NDArray[np.int64]:
        """Rows of each class that were taken for another one, and rows that were taken for it, `(C,)`."""
        wrong = self.num_rows * (self.true != self.predicted)
        both = [np.bincount(classes, wrong, self.num_classes) for classes in (self.true, self.predicted)]
        return np.sum(both, axis=0).astype(np.int64)

    def among(self, classes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts of some classes in this order, `(n, n)`; rows that were taken for a class that is left out are too."""
        place = np.full(self.num_classes, -1)
        place[classes] = range(len(classes))
        is_among = (place[self.true] >= 0) & (place[self.predicted] >= 0)
        counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(counts, (place[self.true[is_among]], place[self.predicted[is_among]]), self.num_rows[is_among])
        return counts

    def groups(self, classes: Sequence[int] | NDArray[np.int64] | None = None) -> list[list[int]]:
        """Groups of classes that are hardly told apart, the one with the most confused rows first."""
        among = first_classes(self.mistakes, MAX_GROUPED_CLASSES) if classes is None else np.asarray(classes)
        return [among[group].tolist() for group in look_alike_groups(self._with_all_rows(among))]

    def worst_pairs(self, top: int | None = None) -> list[ClassPair]:
        """The `top` pairs with the most confused rows, either way; every confused pair if `None`."""
        wrong = self.true != self.predicted
        low, high = (choose(self.true[wrong], self.predicted[wrong]) for choose in (np.minimum, np.maximum))
        pairs, index = np.unique(low * self.num_classes + high, return_inverse=True)
        num_rows = np.bincount(index, self.num_rows[wrong], len(pairs)).astype(np.int64)
        first, second, support = pairs // self.num_classes, pairs % self.num_classes, self.support
        shares = num_rows / np.maximum(support[first] + support[second], 1)
        order = np.lexsort((-shares, -num_rows))[:top]
        return [ClassPair(int(first[i]), int(second[i]), int(num_rows[i]), float(shares[i])) for i in order]

    def most_confused(self, limit: int) -> NDArray[np.int64]:
        """The classes of the pairs with the most confused rows, at most `limit` of them, in ascending order."""
        found: set[int] = set()
        for pair in self.worst_pairs():
            both = found | {pair.first, pair.second}
            if len(both) <= limit:
                found = both
            if len(found) == limit:
                break
        return np.array(sorted(found), dtype=np.int64)

    def share_of_mistakes(self, classes: NDArray[np.int64]) -> float:
        """Mistakes between two of some classes, by all mistakes; 1 without any mistake."""
        among = self.among(classes)
        all_mistakes = int(self.num_rows[self.true != self.predicted].sum())
        return float(among.sum() - among.trace()) / all_mistakes if all_mistakes else 1.0

    def in_order(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same classes, those that are confused side by side."""
        return classes[cluster_order(self._with_all_rows(classes))]

    def _with_all_rows(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `among`; rows that were taken for another class stand on the diagonal, so that shares are of all rows."""
        counts = self.among(classes)
        np.fill_diagonal(counts, counts.diagonal() + self.support[classes] - counts.sum(axis=1))
        return counts


def class_order(counts: ArrayLike | Confusion, num_classes: int) -> NDArray[np.int64]:
    """The classes that a confusion matrix shows, in their order.

    Up to 30 classes stand as they are. More are ordered so that those which are confused stand side by side; of more
    than 80, the 50 that are confused most are taken: those of the pairs with the most confused rows.

    Args:
        counts: `(C, C)`, row = true class, column = predicted class, or its cells.
        num_classes: C.

    Returns:
        Class indices, at most 80.

    Examples:
        >>> class_order([[8, 2], [0, 10]], 2).tolist()
        [0, 1]
    """
    cells = Cells.of(counts, num_classes)
    if num_classes <= MAX_GIVEN_ORDER:
        return np.arange(num_classes)
    if num_classes <= MAX_DRAWN_CLASSES:
        return cells.in_order(np.arange(num_classes))
    confused = cells.most_confused(NUM_DRAWN_OF_MORE)
    return cells.in_order(confused if len(confused) else first_classes(cells.support, NUM_DRAWN_OF_MORE))


def first_classes(scores: NDArray, limit: int) -> NDArray[np.int64]:
    """The `limit` classes with the largest scores, in their order."""
    return np.sort(np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:limit])
