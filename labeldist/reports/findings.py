"""The content of a report, as numbers: the page turns it into words and pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labeldist.reports.confidence import Confidence, confidence_of
from labeldist.reports.costs import Costs, costs_of_mistakes
from labeldist.reports.intervals import Share, share_of
from labeldist.reports.labels_to_check import DoubtfulRow, labels_to_check
from labeldist.reports.look_alikes import cluster_order, look_alike_groups
from labeldist.reports.pairs import Pair, confused_cells, pairs_to_look_at
from labeldist.reports.predictions import Predictions

__all__ = ["ClassFinding", "Findings", "Group", "Matrix", "find"]

MAX_MATRIX_CLASSES = 300
"""Larger matrices show the classes with the most mistakes."""

NUM_FIRST_PAIRS = 5
# One mistake between two small classes is a large share of their rows, and may be chance.
MIN_GROUP_ROWS = 3


@dataclass(frozen=True)
class Group:
    """Classes that the classifier hardly distinguishes: see `labeldist.reports.look_alikes.look_alike_groups`.

    A group has at least three mistakes.

    Attributes:
        classes: class indices.
        share_of_mistakes: fraction of all mistakes that are between two classes of the group.
    """

    classes: tuple[int, ...]
    share_of_mistakes: float


@dataclass(frozen=True)
class ClassFinding:
    """Scores of one class.

    Attributes:
        index: index of the class.
        precision: fraction of the rows predicted as this class that belong to it; `None` without such rows.
        recall: fraction of the rows of this class that were predicted as it; `None` without rows.
        f1: harmonic mean of precision and recall; `None` if the class has no rows and was never predicted.
        num_rows: number of rows of the class.
        num_predicted: number of rows that were predicted as this class.
        confused_with: the class that most of its wrong rows were predicted as; `None` without a mistake.
        num_confused: number of these rows.
    """

    index: int
    precision: float | None
    recall: float | None
    f1: float | None
    num_rows: int
    num_predicted: int
    confused_with: int | None
    num_confused: int


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix of some classes, ordered so that confused classes are neighbors.

    Attributes:
        classes: class indices in this order, `(K,)`.
        counts: `(K, K)`, row = true class, column = predicted class.
        baseline: counts of the baseline, `(K, K)`; `None` without a baseline.
    """

    classes: NDArray[np.int64]
    counts: NDArray[np.int64]
    baseline: NDArray[np.int64] | None


@dataclass(frozen=True)
class Findings:
    """The content of a report.

    Attributes:
        predictions: the predictions that the report is about.
        accuracy: fraction of the rows that are correct, with its interval.
        macro_f1: mean F1 of the classes that have rows.
        num_seen: number of rows whose text is also a training text; `None` if training texts are not known.
        accuracy_unseen: accuracy of the other rows; `None` if there are none, or if no row was seen in training.
        num_pairs: number of class pairs with at least one mistake.
        first_pairs: fraction of the mistakes that are in the first five pairs; `None` without a mistake.
        groups: groups of classes that are hardly distinguished.
        never_predicted: classes that have rows but were never predicted.
        pairs: the class pairs to look at first.
        doubtful: rows whose label should be checked.
        classes: scores of each class, the class with the lowest F1 first.
        matrix: the confusion matrix.
        confidence: calibration and thresholds of the probabilities; `None` without probabilities.
        costs: costs of the decisions; `None` without a table of costs.
        baseline: predictions of the baseline for the same rows; `None` without a baseline.
    """

    predictions: Predictions
    accuracy: Share
    macro_f1: float
    num_seen: int | None
    accuracy_unseen: Share | None
    num_pairs: int
    first_pairs: float | None
    groups: tuple[Group, ...]
    never_predicted: tuple[int, ...]
    pairs: tuple[Pair, ...]
    doubtful: tuple[DoubtfulRow, ...]
    classes: tuple[ClassFinding, ...]
    matrix: Matrix
    confidence: Confidence | None
    costs: Costs | None
    baseline: Predictions | None = None


def find(predictions: Predictions, *, costs: ArrayLike | None = None, baseline: Predictions | None = None) -> Findings:
    """Compute the content of a report.

    Args:
        predictions: predictions of at least one labeled row.
        costs: costs of mistakes, `(C, C)`, non-negative, row = true class, column = predicted class.
        baseline: predictions of the baseline for the same rows and classes.

    Raises:
        ValueError: if `costs` has the wrong shape, or the baseline has different classes or rows.

    Examples:
        >>> from labeldist.reports.predictions import predictions_of
        >>> found = find(predictions_of(["ask", "tell", "tell"], ["ask", "ask", "tell"]))
        >>> found.accuracy.num, found.first_pairs, [one.index for one in found.classes]
        (2, 1.0, [0, 1])
    """
    if baseline is not None and baseline.class_names != predictions.class_names:
        raise ValueError("baseline must have the classes of the predictions, in the same order.")
    if baseline is not None and not np.array_equal(baseline.labels, predictions.labels):
        raise ValueError("baseline must have the rows of the predictions, in the same order.")
    size = len(predictions.class_names)
    true, predicted, num_rows = confused_cells(predictions)
    support = np.bincount(predictions.labels, minlength=size)
    guessed = np.bincount(predictions.predicted, minlength=size)
    wrong = true != predicted
    num_mistakes = int(num_rows[wrong].sum())
    accuracy = share_of(len(predictions) - num_mistakes, len(predictions), repeats=predictions.repeats)
    assert accuracy is not None
    by_pair = np.unique(
        np.minimum(true, predicted)[wrong] * size + np.maximum(true, predicted)[wrong], return_inverse=True
    )[1]
    pair_rows = np.sort(np.bincount(by_pair, num_rows[wrong]))[::-1] if num_mistakes else np.array([])
    classes = _classes(true, predicted, num_rows, support, guessed)
    matrix = _matrix(predictions, baseline, support)
    scores = [one.f1 or 0.0 for one in classes if one.num_rows]
    nearest, right = predictions.nearest, ~predictions.is_wrong
    seen = None if nearest is None else np.array([one is not None and one.is_same for one in nearest])
    return Findings(
        predictions=predictions,
        accuracy=accuracy,
        macro_f1=float(np.mean(scores)),
        num_seen=None if seen is None else int(seen.sum()),
        accuracy_unseen=None
        if seen is None or not seen.any()
        else share_of(int(right[~seen].sum()), int((~seen).sum())),
        num_pairs=len(pair_rows),
        first_pairs=float(pair_rows[:NUM_FIRST_PAIRS].sum() / num_mistakes) if num_mistakes else None,
        groups=_groups(matrix, support, num_mistakes, predictions.num_runs),
        never_predicted=tuple(np.flatnonzero((support > 0) & (guessed == 0)).tolist()),
        pairs=tuple(pairs_to_look_at(predictions)),
        doubtful=tuple(labels_to_check(predictions)),
        classes=classes,
        matrix=matrix,
        confidence=None
        if predictions.confidence is None
        else confidence_of(~predictions.is_wrong, predictions.confidence),
        costs=None if costs is None else costs_of_mistakes(predictions, costs),
        baseline=baseline,
    )


def _matrix(predictions: Predictions, baseline: Predictions | None, support: NDArray[np.int64]) -> Matrix:
    size = len(predictions.class_names)
    if size > MAX_MATRIX_CLASSES:
        wrong = predictions.is_wrong
        mistakes = np.bincount(predictions.labels[wrong], minlength=size)
        mistakes += np.bincount(predictions.predicted[wrong], minlength=size)
        # Those with the most mistakes, then those with the most rows.
        kept = np.sort(np.lexsort((-support, -mistakes))[:MAX_MATRIX_CLASSES])
        predictions = predictions.restricted(kept)
        baseline = None if baseline is None else baseline.restricted(kept)
    else:
        kept = np.arange(size)
    counts = _counts(predictions)
    order = cluster_order(counts)
    other = None if baseline is None else _counts(baseline)[np.ix_(order, order)]
    return Matrix(kept[order], counts[np.ix_(order, order)], other)


def _counts(predictions: Predictions) -> NDArray[np.int64]:
    size = len(predictions.class_names)
    cells = np.bincount(predictions.labels * size + predictions.predicted, minlength=size * size)
    return cells.reshape(size, size)


def _groups(matrix: Matrix, support: NDArray[np.int64], num_mistakes: int, num_runs: int) -> tuple[Group, ...]:
    groups = []
    for places in look_alike_groups(matrix.counts, support[matrix.classes]):
        block = matrix.counts[np.ix_(places, places)]
        if block.sum() - block.trace() < MIN_GROUP_ROWS * num_runs:
            continue
        groups.append(
            Group(
                tuple(sorted(int(matrix.classes[place]) for place in places)),
                float((block.sum() - block.trace()) / num_mistakes),
            )
        )
    return tuple(groups)


def _classes(
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    num_rows: NDArray[np.int64],
    support: NDArray[np.int64],
    guessed: NDArray[np.int64],
) -> tuple[ClassFinding, ...]:
    size = len(support)
    right = np.zeros(size, dtype=np.int64)
    right[true[true == predicted]] = num_rows[true == predicted]
    most = np.full(size, -1)
    most_rows = np.zeros(size, dtype=np.int64)
    for a, b, number in zip(true.tolist(), predicted.tolist(), num_rows.tolist(), strict=True):
        if a != b and number > most_rows[a]:
            most[a], most_rows[a] = b, number

    def ratio(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    found = [
        ClassFinding(
            index=c,
            precision=ratio(int(right[c]), int(guessed[c])),
            recall=ratio(int(right[c]), int(support[c])),
            f1=ratio(2 * int(right[c]), int(support[c] + guessed[c])),
            num_rows=int(support[c]),
            num_predicted=int(guessed[c]),
            confused_with=None if most[c] < 0 else int(most[c]),
            num_confused=int(most_rows[c]),
        )
        for c in range(size)
    ]
    # Classes without a row say nothing: last.
    return tuple(sorted(found, key=lambda one: (not one.num_rows, 1.0 if one.f1 is None else one.f1, one.index)))
