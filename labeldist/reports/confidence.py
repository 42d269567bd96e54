"""How far a classifier's probabilities can be trusted, and what to hand to a person."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from labeldist.reports.intervals import Share, share_of

__all__ = ["Bin", "Confidence", "Threshold", "confidence_of"]

NUM_BINS = 10
MIN_ROWS = 30
"""Rows that a threshold leaves to the model at least: the accuracy of fewer says little."""

TARGETS = (0.9, 0.95, 0.98, 0.99)
NUM_CURVE_POINTS = 200


@dataclass(frozen=True)
class Bin:
    """Rows whose probability lies in one tenth of [0, 1].

    Attributes:
        low: lower end.
        high: upper end.
        num_rows: rows in it.
        confidence: their mean probability; None without rows.
        accuracy: share of them that is right; None without rows.
    """

    low: float
    high: float
    num_rows: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Threshold:
    """Rows that reach a probability are left to the model; the rest goes to a person.

    Attributes:
        target: the accuracy that the rows left to the model shall have.
        threshold: smallest probability of a row that is left to the model; None where no threshold reaches the target.
        accuracy: of the rows left to the model, with its interval.
        coverage: share of the rows left to the model.
        num_handed_over: rows for a person.
    """

    target: float
    threshold: float | None
    accuracy: Share | None
    coverage: float
    num_handed_over: int


@dataclass(frozen=True)
class Confidence:
    """What the probabilities of the predicted classes are worth.

    Attributes:
        num_rows: rows that have a probability; the rest of the findings is about these.
        calibration_error: expected calibration error, in [0, 1].
        bins: ten bins of equal width.
        curve: coverage and accuracy of the most confident rows, from few rows to all of them.
        thresholds: for each target accuracy above that of all rows.
    """

    num_rows: int
    calibration_error: float
    bins: tuple[Bin, ...]
    curve: tuple[tuple[float, float], ...]
    thresholds: tuple[Threshold, ...]


def confidence_of(is_right: ArrayLike, confidence: ArrayLike) -> Confidence:
    r"""Calibration, and accuracy against coverage.

    The expected calibration error (Guo et al. 2017, Eq. 3) is
    $\sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|$ over ten bins of equal width. A threshold is the smallest
    probability for which the rows at or above it, 30 or more, have the target accuracy. It was chosen on the same rows,
    so new rows will be less accurate; the interval says by how much chance alone could mislead.

    Args:
        is_right: whether each prediction is right, `(N,)`, N >= 1.
        confidence: probability of each predicted class, `(N,)`, in [0, 1]; NaN for a row that is left out, which are
            not all.

    Examples:
        >>> found = confidence_of([True, True, False, True], [0.9, 0.8, 0.7, 0.6])
        >>> round(found.calibration_error, 3)
        0.35
        >>> found = confidence_of([True] * 40 + [False] * 10, [0.9] * 40 + [0.5] * 10)
        >>> [(one.target, one.threshold, one.num_handed_over) for one in found.thresholds][:1]
        [(0.9, 0.9, 10)]
    """
    right, scores = np.asarray(is_right, dtype=bool), np.asarray(confidence, dtype=np.float64)
    is_known = ~np.isnan(scores)
    right, scores = right[is_known], scores[is_known]
    number = len(right)
    place = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    bins, error = [], 0.0
    for i in range(NUM_BINS):
        inside = place == i
        size = int(inside.sum())
        mean, accuracy = (float(scores[inside].mean()), float(right[inside].mean())) if size else (None, None)
        bins.append(Bin(i / NUM_BINS, (i + 1) / NUM_BINS, size, mean, accuracy))
        if mean is not None and accuracy is not None:
            error += size / number * abs(accuracy - mean)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    accuracy = np.cumsum(right[order]) / np.arange(1, number + 1)
    # A threshold parts no rows of one probability: only the last row of equals can be one.
    ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))
    thresholds = tuple(_threshold(target, ends, ranked, accuracy) for target in TARGETS if accuracy[-1] < target)
    steps = np.unique(np.linspace(0, len(ends) - 1, min(NUM_CURVE_POINTS, len(ends))).astype(int))
    curve = tuple((float((ends[i] + 1) / number), float(accuracy[ends[i]])) for i in steps)
    return Confidence(number, error, tuple(bins), curve, thresholds)


def _threshold(target: float, ends: np.ndarray, ranked: np.ndarray, accuracy: np.ndarray) -> Threshold:
    number = len(ranked)
    reached = ends[(accuracy[ends] >= target) & (ends + 1 >= MIN_ROWS)]
    if not len(reached):
        return Threshold(target, None, None, 0.0, number)
    last = int(reached[-1])
    share = share_of(round(accuracy[last] * (last + 1)), last + 1)
    return Threshold(target, float(ranked[last]), share, (last + 1) / number, number - last - 1)
