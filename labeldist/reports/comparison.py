"""What a report shows of a comparison of training objectives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from labeldist.reports.pairs import confused_cells
from labeldist.reports.predictions import Predictions

__all__ = ["ComparedObjective", "ComparisonPart", "Flip", "PairOverSeeds", "flips_of", "pairs_over_seeds"]

MAX_FLIPS = 40
NUM_PAIRS = 8


@dataclass(frozen=True)
class ComparedObjective:
    """One line of the comparison's table and picture.

    Attributes:
        name: of the objective.
        is_control: whether it is one of the controls.
        values: of the measure, one for each seed.
        difference: mean difference to the baseline; None for the baseline itself.
        low: lower end of its 95 % interval; None with one seed.
        high: upper end.
    """

    name: str
    is_control: bool
    values: tuple[float, ...]
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairOverSeeds:
    """A pair of classes, and how many rows were confused, either way, by seed.

    Attributes:
        first: name of one class.
        second: name of the other.
        base: mean number of confused rows of the baseline.
        other: the same of the objective.
        base_right: mean number of rows of the two classes that the baseline gets right.
        other_right: the same of the objective.
        change: `other - base`.
        low: lower end of the 95 % t interval of the change; None with one seed, and where all seeds change alike.
        high: upper end.
    """

    first: str
    second: str
    base: float
    other: float
    base_right: float
    other_right: float
    change: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Flip:
    """A text that one side gets right in every seed and the other side wrong in every seed.

    Attributes:
        text: the text.
        label: its class.
        base: what the baseline took it for, most often.
        other: what the objective took it for, most often.
    """

    text: str
    label: str
    base: str
    other: str


@dataclass(frozen=True)
class ComparisonPart:
    """A comparison, ready to be shown.

    Attributes:
        verdict: the answer in one sentence.
        answer: the same as one of three.
        sentences: one for each label-distance objective, and whether training was worth it.
        objectives: in the order of the table.
        baseline: what the differences are taken to.
        shown: the objective that the rest of the report is about.
        margin: smallest gain worth having.
        num_pair_seeds: seeds that pairs and texts are compared over.
        measure: what is compared, such as `accuracy`.
        lower_is_better: whether a smaller value of the measure is better.
        is_fraction: whether the measure lies in [0, 1]: it is then shown in percent.
        num_seeds: seeds of the comparison.
        repaired: pairs that `shown` confuses less often than the baseline.
        broken: pairs that it confuses more often.
        fixed_texts: texts that `shown` gets right in every seed and the baseline in none.
        lost_texts: the reverse.
        map_seed: seed of the runs whose embeddings are on the maps; None without maps.
        why_no_map: why there are none, in a sentence.
    """

    verdict: str
    answer: Literal["helps", "does not help", "inconclusive"]
    sentences: tuple[str, ...]
    objectives: tuple[ComparedObjective, ...]
    baseline: str
    shown: str
    margin: float
    num_seeds: int
    num_pair_seeds: int = 0
    measure: str = "accuracy"
    lower_is_better: bool = False
    is_fraction: bool = True
    repaired: tuple[PairOverSeeds, ...] = ()
    broken: tuple[PairOverSeeds, ...] = ()
    fixed_texts: tuple[Flip, ...] = ()
    lost_texts: tuple[Flip, ...] = ()
    map_seed: int | None = None
    why_no_map: str = ""


def pairs_over_seeds(
    base: Sequence[Predictions], other: Sequence[Predictions], *, num_pairs: int = NUM_PAIRS
) -> tuple[tuple[PairOverSeeds, ...], tuple[PairOverSeeds, ...]]:
    """Pairs that are confused less often, and pairs that are confused more often, with intervals over the seeds.

    The interval is that of the mean of paired differences (Student's t). The pairs
    returned are the largest changes of all, so some intervals exclude 0 by chance.

    Args:
        base: predictions of the baseline, one for each seed.
        other: predictions of the objective, of the same seeds and rows.
        num_pairs: at most so many pairs in each list.

    Examples:
        >>> from labeldist.reports.predictions import predictions_of
        >>> base = [predictions_of(["a", "b"], ["b", "b"])] * 2
        >>> other = [predictions_of(["a", "b"], ["a", "b"])] * 2
        >>> repaired, broken = pairs_over_seeds(base, other)
        >>> (repaired[0].first, repaired[0].second, repaired[0].change), broken
        (('a', 'b', -1.0), ())
    """
    names = base[0].class_names
    rows = [[_pair_counts(one) for one in side] for side in (base, other)]
    right = [np.mean([_right_rows(one) for one in side], axis=0) for side in (base, other)]
    pairs = sorted({pair for side in rows for counts in side for pair in counts})
    found = []
    for a, b in pairs:
        before, after = (np.array([counts.get((a, b), 0) for counts in side], dtype=float) for side in rows)
        low, high = _interval(after - before)
        change = float((after - before).mean())
        confused = float(before.mean()), float(after.mean())
        kept = [float(of_classes[a] + of_classes[b]) for of_classes in right]
        found.append(PairOverSeeds(names[a], names[b], confused[0], confused[1], kept[0], kept[1], change, low, high))
    repaired = sorted((one for one in found if one.change < 0), key=lambda one: one.change)
    broken = sorted((one for one in found if one.change > 0), key=lambda one: -one.change)
    return tuple(repaired[:num_pairs]), tuple(broken[:num_pairs])


def flips_of(
    base: Sequence[Predictions], other: Sequence[Predictions], *, limit: int = MAX_FLIPS
) -> tuple[tuple[Flip, ...], tuple[Flip, ...]]:
    """Texts whose prediction flips from wrong to right in every seed, and from right to wrong.

    Only texts that every seed has count: where the test rows are drawn by the seed, these are few.

    Args:
        base: predictions of the baseline, one for each seed, with texts.
        other: predictions of the objective, of the same seeds and rows.
        limit: at most so many texts in each list.

    Examples:
        >>> from labeldist.reports.predictions import predictions_of
        >>> base = [predictions_of(["a", "b"], ["b", "b"], texts=["x", "y"])]
        >>> other = [predictions_of(["a", "b"], ["a", "b"], texts=["x", "y"])]
        >>> flips_of(base, other)
        ((Flip(text='x', label='a', base='b', other='a'),), ())
    """
    if any(one.texts is None for one in (*base, *other)):
        return (), ()
    names = base[0].class_names
    by_seed = [[_by_text(one) for one in side] for side in (base, other)]
    common = set.intersection(*(set(rows) for side in by_seed for rows in side))
    fixed, lost = [], []
    # In the order of the first seed's rows.
    for key in [key for key in by_seed[0][0] if key in common]:
        text, label = key
        before, after = ([rows[key] for rows in side] for side in by_seed)
        was_right, is_right = ([guess == label for guess in side] for side in (before, after))
        if not any(was_right) and all(is_right):
            fixed.append(Flip(text, names[label], names[_most_frequent(before)], names[label]))
        elif all(was_right) and not any(is_right):
            lost.append(Flip(text, names[label], names[label], names[_most_frequent(after)]))
    return tuple(fixed[:limit]), tuple(lost[:limit])


def _by_text(predictions: Predictions) -> Mapping[tuple[str, int], int]:
    assert predictions.texts is not None
    rows = zip(predictions.texts, predictions.labels.tolist(), predictions.predicted.tolist(), strict=True)
    return {(text, label): predicted for text, label, predicted in rows}


def _most_frequent(values: Sequence[int]) -> int:
    return max(sorted(set(values)), key=list(values).count)


def _pair_counts(predictions: Predictions) -> dict[tuple[int, int], int]:
    counts: dict[tuple[int, int], int] = {}
    for a, b, number in zip(*(column.tolist() for column in confused_cells(predictions)), strict=True):
        if a != b:
            pair = (min(a, b), max(a, b))
            counts[pair] = counts.get(pair, 0) + number
    return counts


def _right_rows(predictions: Predictions) -> np.ndarray:
    """Rows of each class that are right, `(C,)`."""
    is_right = predictions.labels == predictions.predicted
    return np.bincount(predictions.labels[is_right], minlength=len(predictions.class_names))


def _interval(differences: np.ndarray) -> tuple[float | None, float | None]:
    number = len(differences)
    # Without any spread the interval would be a point: few seeds that agree do not make a change certain.
    if number < 2 or not np.ptp(differences):
        return None, None
    error = float(differences.std(ddof=1)) / number**0.5
    half = float(stats.t.ppf(0.975, number - 1)) * error
    mean = float(differences.mean())
    return mean - half, mean + half
