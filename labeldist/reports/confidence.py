"""Whether a classifier's probabilities can be trusted, and which rows a person should check."""

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
        num_rows: number of rows in the bin.
        confidence: mean probability of these rows; `None` without rows.
        accuracy: fraction of these rows that are correct; `None` without rows.
    """

    low: float
    high: float
    num_rows: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Threshold:
    """A threshold of the probability: the model decides the rows at or above it, a person decides the others.

    Attributes:
        target: the wanted accuracy of the rows that the model decides.
        threshold: smallest probability of a row that the model decides; `None` if no threshold reaches the target.
        accuracy: accuracy of the rows that the model decides, with its interval.
        coverage: fraction of the rows that the model decides.
        num_handed_over: number of rows that a person decides.
    """

    target: float
    threshold: float | None
    accuracy: Share | None
    coverage: float
    num_handed_over: int


@dataclass(frozen=True)
class Confidence:
    """Calibration and thresholds of the probabilities of the predicted classes.

    Attributes:
        num_rows: rows that have a probability; the rest of the findings is about these.
        calibration_error: expected calibration error, in [0, 1].
        bins: ten bins of equal width.
        curve: coverage and accuracy of the most confident rows, from few rows to all rows.
        thresholds: a threshold for each target accuracy that is above the accuracy of all rows.
    """

    num_rows: int
    calibration_error: float
    bins: tuple[Bin, ...]
    curve: tuple[tuple[float, float], ...]
    thresholds: tuple[Threshold, ...]


def confidence_of(is_right: ArrayLike, confidence: ArrayLike) -> Confidence:
    r"""Compute the calibration and the thresholds.

    The expected calibration error (Guo et al. 2017, Eq. 3) is
    $\sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|$ over ten bins of equal width. A threshold is the smallest
    probability for which at least 30 rows lie at or above it and these rows have the target accuracy. It is chosen on
    the same rows, so new rows will be less accurate. The interval shows the uncertainty that is due to chance.

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
