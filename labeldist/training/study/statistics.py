"""Paired statistics over seeds, and what they decide: does label distance help?

Accuracies and differences are fractions. `labeldist.training.output.words` tells the answer in sentences.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from scipy import stats

from labeldist.training.objectives import OBJECTIVES
from labeldist.training.study.results import Answer, PairedDifference, Reason, Verdict

__all__ = ["MARGIN", "REQUIRED_CONTROLS", "decide", "holm", "num_seeds_needed", "paired_difference"]

# Without each of these, a gain may come from seeing texts twice, from contrast, or from more weight on all negatives.
REQUIRED_CONTROLS = tuple(name for name, spec in OBJECTIVES.items() if spec.is_required)
CONFIDENCE = 0.95
POWER = 0.8
MARGIN = 0.005


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Mean of `a - b` with its 95 % t interval and the paired t test, both by SciPy.

    One pair gives the mean only. Differences that are all zero give the interval [0, 0] and p = 1. Differences that are
    all equal but not zero give the degenerate interval [d, d] and no p-value: without a spread nothing can be tested.

    Args:
        a: a score for each seed, finite.
        b: the other objective's score for each seed; entry i of both has the same seed.

    Raises:
        ValueError: if the lengths differ or are zero, or a value is not finite.

    Examples:
        >>> difference = paired_difference([0.88, 0.90, 0.89], [0.87, 0.88, 0.89])
        >>> round(difference.mean, 3), round(difference.low, 3), round(difference.high, 3), round(difference.p_value, 3)
        (0.01, -0.015, 0.035, 0.225)
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(f"a and b must be of one length >= 1, got shapes {first.shape} and {second.shape}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a and b must be finite, got NaN or infinity.")
    differences = first - second
    num_pairs, mean = len(differences), float(differences.mean())
    if num_pairs == 1:
        return PairedDifference(mean, None, None, None, 1, None)
    # Equal decimal differences such as 0.9 - 0.8 and 0.8 - 0.7 differ in the last bits: that is no spread.
    if np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(first).max()), float(np.abs(second).max())):
        is_zero = bool(np.abs(differences).max() <= 1e-12)
        mean = 0.0 if is_zero else mean
        return PairedDifference(mean, mean, mean, 1.0 if is_zero else None, num_pairs, 0.0)
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(CONFIDENCE)
    spread = float(differences.std(ddof=1))
    return PairedDifference(mean, float(interval.low), float(interval.high), float(test.pvalue), num_pairs, spread)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of several p-values; None stays None and counts as a comparison that was made.

    SciPy corrects the false discovery rate only; statsmodels has Holm, and would be a dependency for five lines.

    Args:
        p_values: in [0, 1], of the tests that are looked at together.

    Returns:
        Corrected p-values in [0, 1], in the order of `p_values`.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected: list[float | None] = [None] * len(p_values)
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected


def num_seeds_needed(spread: float, margin: float = MARGIN, *, limit: int = 1000) -> int | None:
    """Pairs of runs with which a paired t test finds a true difference of `margin` in 80 % of cases.

    The smallest n with n >= (t(0.975, n - 1) + t(0.8, n - 1))^2 (spread / margin)^2: a hint, as the spread is itself
    estimated. SciPy computes power by simulation only, which is slow and draws random numbers.

    Args:
        spread: standard deviation of the differences.
        margin: true difference to find, > 0, in the unit of `spread`.
        limit: largest number that is tried.

    Returns:
        Number of pairs; None if more than `limit` would be needed.

    Raises:
        ValueError: if `margin` is not above 0.

    Examples:
        >>> num_seeds_needed(0.01, 0.01), num_seeds_needed(0.01, 0.005)
        (10, 34)
    """
    if margin <= 0:
        raise ValueError(f"margin must be > 0, got {margin}.")
    sizes = np.arange(2, limit + 1)
    quantiles = stats.t.ppf((1 + CONFIDENCE) / 2, sizes - 1) + stats.t.ppf(POWER, sizes - 1)
    enough = np.flatnonzero(sizes >= (quantiles * spread / margin) ** 2)
    return int(sizes[enough[0]]) if len(enough) else None


def decide(
    objective: str,
    differences: Mapping[str, PairedDifference],
    *,
    corrected_p: Mapping[str, float | None] | None = None,
    margin: float = MARGIN,
    same_matrix: Collection[str] = (),
) -> Verdict:
    """Whether a label-distance objective helps, judged against every control.

    - It *helps* if each of `REQUIRED_CONTROLS` was run and against each control the interval lies above zero and the
      Holm-corrected p-value is below 0.05.
    - It *does not help* if against some control the interval lies below `margin`, the smallest gain worth having.
    - Otherwise, and wherever a difference could not be tested, the answer is *inconclusive*.

    The control that decides is the one with the smallest difference, among those that rule the gain out where there
    are any.

    Args:
        objective: name of the label-distance objective.
        differences: the gain of the objective over each control: above 0 where it is better.
        corrected_p: Holm-corrected p-value for each control; None corrects over `differences`.
        margin: smallest gain worth having, in the unit of the differences.
        same_matrix: controls that trained with this objective's own matrix, and so say nothing about it.

    Examples:
        >>> difference = paired_difference([0.88, 0.90, 0.89], [0.87, 0.88, 0.89])
        >>> verdict = decide("adaptive", {"uniform": difference})
        >>> verdict.answer, verdict.reason, verdict.num_seeds_needed
        ('inconclusive', 'too few seeds', 34)
    """
    missing = tuple(name for name in REQUIRED_CONTROLS if name not in differences and name not in same_matrix)
    if not differences:
        return Verdict(
            objective, "inconclusive", "no control", None, None, False, None, {}, missing, tuple(same_matrix)
        )
    if corrected_p is None:
        corrected_p = dict(zip(differences, holm([d.p_value for d in differences.values()]), strict=True))
    ruled_out = [name for name, difference in differences.items() if _rules_out(difference, margin)]
    beats_all = all(_is_beaten(difference, corrected_p[name]) for name, difference in differences.items())
    answer: Answer
    reason: Reason
    candidates = list(differences)
    if beats_all and not missing:
        answer, reason = "helps", "beats every control"
    elif ruled_out:
        answer, reason, candidates = "does not help", "rules out the margin", ruled_out
    elif beats_all:
        answer, reason = "inconclusive", "control missing"
    else:
        answer, reason = "inconclusive", "too few seeds"
    control = min(candidates, key=lambda name: differences[name].mean)
    difference = differences[control]
    if reason == "too few seeds" and difference.num_pairs == 1:
        reason = "one seed"
    return Verdict(
        objective=objective,
        answer=answer,
        reason=reason,
        control=control,
        difference=difference,
        is_strongest=all(difference.mean <= other.mean for other in differences.values()),
        num_seeds_needed=_more_seeds(difference, margin) if answer == "inconclusive" else None,
        corrected_p=dict(corrected_p),
        missing_controls=missing,
        same_matrix=tuple(same_matrix),
    )


def _rules_out(difference: PairedDifference, margin: float) -> bool:
    return difference.p_value is not None and difference.high is not None and difference.high < margin


def _is_beaten(difference: PairedDifference, corrected_p: float | None) -> bool:
    """Whether the objective is above the control; a difference that could not be tested decides nothing."""
    return (
        difference.low is not None and difference.low > 0 and corrected_p is not None and corrected_p < 1 - CONFIDENCE
    )


def _more_seeds(difference: PairedDifference, margin: float) -> int | None:
    """Seeds that would detect a gain of the margin, where that is more than there are."""
    if not difference.spread:
        return None
    needed = num_seeds_needed(difference.spread, margin)
    return needed if needed is not None and needed > difference.num_pairs else None
