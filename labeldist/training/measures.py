"""The measures that a comparison can judge by: what each needs, and which direction is better.

Nothing here imports PyTorch, so that `labeldist --help` answers at once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from labeldist.training.errors import UserError

if TYPE_CHECKING:
    from labeldist.training.records import PredictionMetrics

__all__ = ["MEASURES", "Measure", "MeasureSpec", "measure_of"]

Measure = Literal["accuracy", "macro-f1", "mean-absolute-error", "expected-cost", "graded-ndcg", "group-map"]


@dataclass(frozen=True)
class MeasureSpec:
    """One measure of a run on its test rows.

    Attributes:
        name: as on the command line.
        noun: as in a sentence.
        title: as the heading of a column.
        is_fraction: whether it lies in [0, 1]; it is then shown in percent, and differences in points.
        is_lower_better: whether an objective helps by lowering it.
        entry: of `PredictionMetrics.relation`; None for an attribute of the metrics themselves.
        needs: what a run must know of its classes, in words; None if nothing.
    """

    name: Measure
    noun: str
    title: str
    is_fraction: bool = True
    is_lower_better: bool = False
    entry: str | None = None
    needs: str | None = None

    @property
    def sign(self) -> int:
        """1 where larger is better, else -1."""
        return -1 if self.is_lower_better else 1

    @property
    def scale(self) -> int:
        """What a value is multiplied with to be shown."""
        return 100 if self.is_fraction else 1

    @property
    def column(self) -> str:
        """Its name in the scores of a comparison."""
        return self.entry or self.name.replace("-", "_")

    def value(self, metrics: "PredictionMetrics") -> float | None:
        """The measure of a run's metrics; None where it was not measured."""
        owner = metrics if self.entry is None else metrics.relation
        return None if owner is None else getattr(owner, self.column)


_ORDER = "--order (the classes from one end to the other)"
_TREE = "--relation-file, --hierarchy or --hierarchy-separator"

MEASURES: dict[Measure, MeasureSpec] = {
    spec.name: spec
    for spec in (
        MeasureSpec("accuracy", "accuracy", "accuracy %"),
        MeasureSpec("macro-f1", "macro-F1", "macro-F1 %"),
        MeasureSpec(
            "mean-absolute-error",
            "mean absolute error",
            "abs. error",
            is_fraction=False,
            is_lower_better=True,
            entry="mean_absolute_error",
            needs=_ORDER,
        ),
        MeasureSpec(
            "expected-cost",
            "mean cost",
            "mean cost",
            is_fraction=False,
            is_lower_better=True,
            entry="expected_cost",
            needs="--costs (what each mistake costs)",
        ),
        MeasureSpec(
            "graded-ndcg",
            "graded nDCG",
            "nDCG@50 %",
            entry="graded_ndcg",
            needs=f"a relation of the classes: {_ORDER}, {_TREE}",
        ),
        MeasureSpec(
            "group-map",
            "group MAP",
            "group MAP %",
            entry="group_mean_average_precision",
            needs=f"a relation that divides the classes into groups: {_TREE}",
        ),
    )
}
"""By name. A measure of embeddings or costs is in the metrics of a run whose settings say what it needs."""
assert tuple(MEASURES) == get_args(Measure)


def measure_of(name: str) -> MeasureSpec:
    """The entry of a measure.

    Raises:
        UserError: if there is none of this name.

    Examples:
        >>> measure_of("mean-absolute-error").is_lower_better
        True
    """
    if name not in MEASURES:
        raise UserError(f"--measure must be one of {', '.join(MEASURES)}, got {name!r}.")
    return MEASURES[name]
