"""What a comparison works with and finds: finished runs, differences, verdicts, and the record of all of them.

Accuracies and differences are fractions. None stands for a value that is not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from numpy.typing import ArrayLike

from labeldist.training.measures import Measure
from labeldist.training.record_json import ADDED
from labeldist.training.records import PredictionMetrics, Record

__all__ = [
    "Answer",
    "Comparison",
    "FinishedRun",
    "PairChange",
    "PairChanges",
    "PairedDifference",
    "Provenance",
    "Reason",
    "SeedScores",
    "StudyVerdict",
    "Verdict",
    "WorthOfTraining",
]

Answer = Literal["helps", "does not help", "inconclusive"]
"""Whether label distance helps. "Does not help": a gain of the margin is ruled out."""

Reason = Literal[
    "beats every control", "rules out the margin", "no control", "control missing", "one seed", "too few seeds"
]
"""What an answer rests on; the last four leave it inconclusive."""


@dataclass(frozen=True)
class FinishedRun:
    """What a comparison reads of a run.

    Attributes:
        objective: what was trained.
        seed: of the run.
        metrics: on the test rows.
        seconds: wall time of the training; None where it was interrupted.
        matrix: label distances, `(C, C)`; None without any.
        matrix_source: where they came from, in words.
        relevance: graded targets, `(C, C)`; None without any.
        levels: graded targets of each level, `(C, C)`; empty without any.
        validation_accuracy: best one of the training; None without validation rows.
    """

    objective: str
    seed: int
    metrics: PredictionMetrics
    seconds: float | None
    matrix: ArrayLike | None = None
    matrix_source: str = ""
    relevance: ArrayLike | None = None
    levels: Sequence[ArrayLike] = ()
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two objectives over seeds, in the unit of the measure: below 0 is better where lower is better.

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

    def gain(self, sign: int) -> "PairedDifference":
        """The difference as a gain, above 0 where the objective is better.

        Args:
            sign: 1 where larger is better, -1 where lower is.

        Examples:
            >>> PairedDifference(-0.2, -0.3, -0.1, 0.01, 3, 0.02).gain(-1)
            PairedDifference(mean=0.2, low=0.1, high=0.3, p_value=0.01, num_pairs=3, spread=0.02)
        """
        if sign > 0:
            return self
        low = None if self.high is None else -self.high
        high = None if self.low is None else -self.low
        return replace(self, mean=-self.mean, low=low, high=high)


@dataclass(frozen=True)
class Verdict:
    """Whether one label-distance objective helps, and the numbers that this rests on.

    Attributes:
        objective: its name.
        answer: helps, does not help, or inconclusive.
        reason: what the answer rests on.
        control: the control that decides; None if no control was run on the same seeds.
        difference: the objective minus that control, in the measure.
        is_strongest: whether no other control leaves a smaller gain.
        num_seeds_needed: seeds that would detect a gain of the margin over that control, where the answer is
            inconclusive and the spread gives an estimate that exceeds the seeds at hand.
        corrected_p: Holm-corrected p-value against each control.
        missing_controls: required controls that were not run on the same seeds.
        same_matrix: controls that trained with this objective's own matrix, and so say nothing about it.
    """

    objective: str
    answer: Answer
    reason: Reason
    control: str | None
    difference: PairedDifference | None
    is_strongest: bool
    num_seeds_needed: int | None
    corrected_p: Mapping[str, float | None]
    missing_controls: tuple[str, ...]
    same_matrix: tuple[str, ...]


@dataclass(frozen=True)
class StudyVerdict:
    """The answer for all label-distance objectives together.

    Attributes:
        answer: helps if one of them does, does not help if all of them do not, else inconclusive.
        objectives: the verdict on each of them.
    """

    answer: Answer
    objectives: Mapping[str, Verdict]


@dataclass(frozen=True)
class WorthOfTraining:
    """The best trained objective beside the best one on the frozen encoder, by mean accuracy.

    Attributes:
        trained: name of the trained objective.
        frozen: name of the other.
        difference: the trained one minus the other, on the test rows.
        chosen_on: the rows by whose accuracy both were chosen; None where there was one of each, and no choice.
    """

    trained: str
    frozen: str
    difference: PairedDifference
    chosen_on: Literal["validation", "test"] | None = field(default="test", metadata=ADDED)


@dataclass(frozen=True)
class SeedScores:
    """Scores of one objective: an entry for each seed of the comparison, None for a run or a value that is missing.

    Attributes:
        accuracy: on the test rows.
        macro_f1: likewise.
        seconds: wall time of the training.
        precision_at_1: of the embeddings, as the next two.
        r_precision: likewise.
        mean_average_precision_at_r: likewise.
        mistake_distance: mean label distance of the mistakes, under one matrix for the whole comparison.
        expected_mistake_distance: the same if each class's mistakes were spread evenly over the other classes.
        mean_absolute_error: as the rest, see `RelationScores`; no entries at all where no run measured it.
        median_absolute_error: likewise.
        quadratic_weighted_kappa: likewise.
        expected_cost: likewise.
        least_expected_cost: likewise.
        group_accuracy: likewise.
        graded_ndcg: likewise.
        group_mean_average_precision: likewise.
    """

    accuracy: tuple[float | None, ...]
    macro_f1: tuple[float | None, ...]
    seconds: tuple[float | None, ...]
    precision_at_1: tuple[float | None, ...]
    r_precision: tuple[float | None, ...]
    mean_average_precision_at_r: tuple[float | None, ...]
    mistake_distance: tuple[float | None, ...]
    expected_mistake_distance: tuple[float | None, ...]
    mean_absolute_error: tuple[float | None, ...] = field(default=(), metadata=ADDED)
    median_absolute_error: tuple[float | None, ...] = field(default=(), metadata=ADDED)
    quadratic_weighted_kappa: tuple[float | None, ...] = field(default=(), metadata=ADDED)
    expected_cost: tuple[float | None, ...] = field(default=(), metadata=ADDED)
    least_expected_cost: tuple[float | None, ...] = field(default=(), metadata=ADDED)
    group_accuracy: tuple[float | None, ...] = field(default=(), metadata=ADDED)
    graded_ndcg: tuple[float | None, ...] = field(default=(), metadata=ADDED)
    group_mean_average_precision: tuple[float | None, ...] = field(default=(), metadata=ADDED)


@dataclass(frozen=True)
class PairChange:
    """Two classes whose confusions changed.

    Attributes:
        first: name of one class.
        second: name of the other.
        base: confused rows of the baseline, either way, mean over seeds.
        other: confused rows of the objective, likewise.
        base_right: rows of the two classes that the baseline gets right, mean over seeds; None in older records. Fewer
            confusions help only if these rise: otherwise the rows went to third classes.
        other_right: the same of the objective.
    """

    first: str
    second: str
    base: float
    other: float
    base_right: float | None = field(default=None, metadata=ADDED)
    other_right: float | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class PairChanges:
    """Class pairs that an objective keeps apart better, or worse, than the baseline; the largest changes first."""

    repaired: tuple[PairChange, ...]
    broken: tuple[PairChange, ...]


@dataclass(frozen=True)
class Provenance:
    """What a comparison came from.

    Attributes:
        matrices: where the label distances of each run came from, in words; by `OBJECTIVE-seedN`.
        settings: of `labeldist compare`.
        machine: that it ran on.
        versions: of Python and the packages that matter.
    """

    matrices: Mapping[str, str]
    settings: Mapping[str, Any]
    machine: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Comparison(Record):
    """What `comparison.json` holds.

    Attributes:
        data: name of the data.
        encoder: name of the encoder.
        margin: smallest gain of the measure worth having, as a fraction or in its own unit.
        seeds: every seed that any objective ran with, sorted.
        baseline: the objective that tables, figures and `pairs` compare with.
        controls: the controls that were run.
        objectives: scores of each objective, controls first.
        severity_matrix: the matrix that mistake distances are taken under, in words; None where there is none that
            tells pairs of classes apart.
        differences: the measure of each objective minus that of each control.
        verdict: whether label distance helps.
        training: whether training beats what is fitted on the frozen encoder; None where one of both was not run.
        pairs: for each objective but the baseline, the class pairs that it repairs and breaks.
        provenance: what the comparison came from; None for one that was never run as a whole.
        measure: what differences and verdicts are about.
    """

    title: ClassVar[str] = "a comparison"

    data: str
    encoder: str
    margin: float
    seeds: tuple[int, ...]
    baseline: str
    controls: tuple[str, ...]
    objectives: Mapping[str, SeedScores]
    severity_matrix: str | None
    differences: Mapping[str, Mapping[str, PairedDifference]]
    verdict: StudyVerdict
    pairs: Mapping[str, PairChanges]
    provenance: Provenance | None = None
    training: WorthOfTraining | None = None
    measure: Measure = field(default="accuracy", metadata=ADDED)

    def __post_init__(self) -> None:
        """Check that every name is that of an objective and every objective has an entry for each seed."""
        named = {
            self.baseline,
            *self.controls,
            *self.differences,
            *(control for by_control in self.differences.values() for control in by_control),
            *self.verdict.objectives,
            *self.pairs,
            *((self.training.trained, self.training.frozen) if self.training else ()),
        }
        if unknown := sorted(named - self.objectives.keys()):
            raise ValueError(f"objectives must have {unknown[0]!r}, which another entry names")
        for name, scores in self.objectives.items():
            added_later = {one.name for one in fields(scores) if one.default == ()}
            columns = [column for name, column in vars(scores).items() if column or name not in added_later]
            if any(len(column) != len(self.seeds) for column in columns):
                raise ValueError(
                    f"objectives.{name!r} must have {len(self.seeds)} entries in each list, one for each seed"
                )

    def difference_to_baseline(self, objective: str) -> PairedDifference | None:
        """The measure of an objective minus the baseline's; None for the baseline itself, and without common seeds."""
        return self.differences.get(objective, {}).get(self.baseline)
