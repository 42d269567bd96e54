"""Paired statistics over seeds, and the plain answer: does label distance help?

Accuracies and differences are fractions; only sentences speak of points.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

__all__ = [
    "CONTROLS",
    "Answer",
    "PairedDifference",
    "Verdict",
    "holm",
    "num_seeds_needed",
    "paired_difference",
    "points",
    "verdict",
]

CONTROLS = ("ce", "ce-two-views", "contrastive", "uniform")
# Without each of these, a gain may come from seeing texts twice, from contrast, or from more weight on all negatives.
REQUIRED_CONTROLS = ("ce-two-views", "contrastive", "uniform")
CONFIDENCE = 0.95
POWER = 0.8
MARGIN = 0.005

Answer = Literal["helps", "does not help", "cannot be told"]


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two objectives over seeds.

    Attributes:
        mean: mean of the differences.
        low: lower end of the 95 % t interval of the mean; None with one pair.
        high: upper end of it.
        p_value: two-sided paired t test; None where it cannot be made: one pair, or all differences equal and not zero.
        num_pairs: number of seeds.
        spread: standard deviation of the differences; None with one pair.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    num_pairs: int
    spread: float | None


@dataclass(frozen=True)
class Verdict:
    """Whether one label-distance objective helps.

    Attributes:
        objective: its name.
        answer: helps, does not help, or cannot be told.
        control: the control that decides, the hardest one to beat; None if no control was run on the same seeds.
        num_seeds_needed: seeds that would tell a gain of the margin over that control, where the answer cannot be told
            and the spread gives an estimate that exceeds the seeds at hand.
        corrected_p: Holm-corrected p-value against each control.
        sentence: the answer in plain words.
    """

    objective: str
    answer: Answer
    control: str | None
    num_seeds_needed: int | None
    corrected_p: dict[str, float | None]
    sentence: str


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Mean of `a - b` with its 95 % t interval and the paired t test; entry i of both comes from the same seed.

    One pair gives the mean only. Differences that are all zero give the interval [0, 0] and p = 1. Differences that are
    all equal but not zero give the degenerate interval [d, d] and no p-value: without a spread nothing can be tested.

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
    # equal decimal differences such as 0.9 - 0.8 and 0.8 - 0.7 differ in the last bits: that is no spread
    if np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(first).max()), float(np.abs(second).max())):
        is_zero = bool(np.abs(differences).max() <= 1e-12)
        mean = 0.0 if is_zero else mean
        return PairedDifference(mean, mean, mean, 1.0 if is_zero else None, num_pairs, 0.0)
    spread = float(differences.std(ddof=1))
    error = spread / math.sqrt(num_pairs)
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_pairs - 1)) * error
    p_value = 2 * float(stats.t.sf(abs(mean) / error, num_pairs - 1))
    return PairedDifference(mean, mean - half_width, mean + half_width, p_value, num_pairs, spread)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of several p-values; None stays None and counts as a comparison that was made.

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
    estimated. None if more than `limit` would be needed.

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


def verdict(
    objective: str,
    differences: Mapping[str, PairedDifference],
    *,
    data: str,
    encoder: str,
    corrected_p: Mapping[str, float | None] | None = None,
    margin: float = MARGIN,
    same_matrix: Collection[str] = (),
) -> Verdict:
    """Whether a label-distance objective helps, judged against every control.

    It *helps* if each of `REQUIRED_CONTROLS` was run and against each control the interval lies above zero and the
    Holm-corrected p-value is below 0.05. It
    *does not help* if against some control the interval lies below `margin`, the smallest gain worth having. Otherwise,
    and wherever a difference could not be tested, the answer *cannot be told*. The sentence names the hardest control:
    the one with the smallest difference, among those that rule the gain out where there are any.

    Args:
        objective: name of the label-distance objective.
        differences: objective minus control, as fractions of accuracy, for each control.
        data: name of the data, for the sentence.
        encoder: name of the encoder, for the sentence.
        corrected_p: Holm-corrected p-value for each control; None corrects over `differences`.
        margin: smallest gain worth having, as a fraction.
        same_matrix: controls that trained with this objective's own matrix, and so say nothing about it.

    Examples:
        >>> difference = paired_difference([0.88, 0.90, 0.89], [0.87, 0.88, 0.89])
        >>> print(verdict("adaptive", {"uniform": difference}, data="trec", encoder="textcnn").sentence)
        Label distance (adaptive) on trec, textcnn: +1.0 points of accuracy over uniform (95 % interval ...
    """
    subject = f"Label distance ({objective}) on {data}, {encoder}"
    if not differences:
        sentence = f"{subject}: no control was run on the same seeds; whether it helps cannot be told."
        return Verdict(objective, "cannot be told", None, None, {}, sentence)
    if corrected_p is None:
        corrected_p = dict(zip(differences, holm([d.p_value for d in differences.values()]), strict=True))
    ruled_out = [name for name, d in differences.items() if d.p_value is not None and _end(d.high) < margin]
    missing = [name for name in REQUIRED_CONTROLS if name not in differences and name not in same_matrix]
    is_beaten = [_end(d.low) > 0 and _p(corrected_p[name]) < 1 - CONFIDENCE for name, d in differences.items()]
    answer: Answer = "helps" if all(is_beaten) and not missing else "does not help" if ruled_out else "cannot be told"
    hardest = min(ruled_out if answer == "does not help" else differences, key=lambda name: differences[name].mean)
    difference = differences[hardest]
    needed = _hint(difference, margin) if answer == "cannot be told" else None
    is_hardest = all(difference.mean <= other.mean for other in differences.values())
    rank = f", {'the hardest' if is_hardest else 'one'} of {len(differences)} controls" if len(differences) > 1 else ""
    tail = _tail(answer, difference, needed, margin)
    if all(is_beaten) and missing:
        tail = f"whether it helps cannot be told without {' and '.join(missing)}"
    same = f" ({' and '.join(same_matrix)} had the same matrix)" if same_matrix else ""
    sentence = f"{subject}: {_difference_in_words(hardest, difference)}{rank}; {tail}{same}."
    return Verdict(objective, answer, hardest, needed, dict(corrected_p), sentence)


def _end(end: float | None) -> float:
    # comparisons with NaN are false: what could not be computed decides nothing
    return math.nan if end is None else end


def _p(p_value: float | None) -> float:
    return 1.0 if p_value is None else p_value


def _hint(difference: PairedDifference, margin: float) -> int | None:
    if not difference.spread:
        return None
    needed = num_seeds_needed(difference.spread, margin)
    return needed if needed is not None and needed > difference.num_pairs else None


def _difference_in_words(control: str, difference: PairedDifference) -> str:
    seeds = "1 seed" if difference.num_pairs == 1 else f"{difference.num_pairs} seeds"
    if difference.low is None or difference.high is None:
        interval = f"{seeds}, so no interval"
    else:
        interval = f"95 % interval {points(difference.low)} to {points(difference.high)}, {seeds}"
    return f"{points(difference.mean)} points of accuracy over {control} ({interval})"


def points(fraction: float) -> str:
    """A difference of accuracies in points, with its sign.

    Examples:
        >>> points(0.0132), points(-0.0001)
        ('+1.3', '0.0')
    """
    text = f"{100 * fraction:+.1f}"
    return "0.0" if float(text) == 0 else text


def _tail(answer: Answer, difference: PairedDifference, needed: int | None, margin: float) -> str:
    if answer == "helps":
        return "it helps"
    if answer == "does not help":
        return f"it does not help: a gain of {100 * margin:g} points is ruled out"
    if difference.num_pairs == 1:
        return "whether it helps cannot be told with one seed"
    hint = f" (about {needed} would tell a gain of {100 * margin:g} points)" if needed else ""
    return f"whether it helps cannot be told with these seeds{hint}"
