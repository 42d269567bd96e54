"""The records that runs and comparisons leave, and the one place where they are written and read.

Here are the metrics of predictions and of a run; a comparison's record is in `labeldist.training.study.results`.

Accuracies and all other rates are fractions in [0, 1]; only tables, figures and sentences speak of percent and points.
`None` stands for a value that is not there: a run that is missing, the interval of one seed, a mean over nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from labeldist.training.atomic import read_json, write_json
from labeldist.training.errors import UserError
from labeldist.training.objectives import Objective
from labeldist.training.record_json import ADDED, from_json, to_json

__all__ = [
    "FORMAT",
    "CalibrationScores",
    "ClassScores",
    "Confusion",
    "CostedMetrics",
    "DecisionCosts",
    "DirectedPair",
    "EmbeddingScores",
    "Example",
    "PredictionMetrics",
    "Record",
    "RelationScores",
    "RunMetrics",
    "Severity",
    "read_record",
    "record_from_json",
    "record_to_json",
    "write_record",
]

FORMAT = 1
"""Number of the format on disk. A change that older readers cannot read raises it."""


@dataclass(frozen=True)
class Record:
    """What has a file of its own."""

    title: ClassVar[str]
    """What it is, for error messages."""


R = TypeVar("R", bound=Record)


def record_to_json(record: Record) -> dict[str, Any]:
    """A record as it stands on disk: its fields after the number of the format.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    return {"format": FORMAT, **to_json(record)}


def record_from_json(kind: type[R], value: object, *, source: Path | str) -> R:
    """The inverse of `record_to_json`.

    Args:
        kind: the record that is wanted.
        value: what `json.load` returned.
        source: where it came from, for the error.

    Raises:
        UserError: for another format, or anything that is not exactly such a record.

    Examples:
        >>> record_from_json(RunMetrics, {"format": 2}, source="metrics.json")
        Traceback (most recent call last):
        ...
        labeldist.training.errors.UserError: metrics.json must have format 1, got format 2. Read it with ...
    """
    if not isinstance(value, dict):
        raise UserError(f"{source} must hold {kind.title} as a JSON object, and holds something else.")
    stored = value.get("format")
    if isinstance(stored, bool) or not isinstance(stored, int):
        raise UserError(f"{source} must hold {kind.title} with its format, a whole number, and has none.")
    if stored != FORMAT:
        raise UserError(
            f"{source} must have format {FORMAT}, got format {stored}. Read it with the version of labeldist that "
            "wrote it, or run the command again."
        )
    try:
        return from_json(kind, {name: entry for name, entry in value.items() if name != "format"})
    except ValueError as error:
        raise UserError(f"{source} does not hold {kind.title} as labeldist writes it: {error}.") from error


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, as a whole or not at all.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    write_json(path, record_to_json(record))


def read_record(path: Path, kind: type[R]) -> R:
    """Read what `write_record` wrote.

    Raises:
        UserError: if the file is missing or broken, has another format, or is not exactly such a record.
    """
    return record_from_json(kind, read_json(path), source=path)


@dataclass(frozen=True)
class Confusion:
    """Confusion counts, cell by cell: only the cells that are not zero, of which there are at most as many as rows.

    Attributes:
        true: class index of the cell's rows.
        predicted: class index that they were taken for.
        num_rows: how many rows that is, at least 1.
    """

    true: tuple[int, ...]
    predicted: tuple[int, ...]
    num_rows: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the three columns belong together."""
        if not len(self.true) == len(self.predicted) == len(self.num_rows):
            raise ValueError("true, predicted and num_rows must have one length")
        if min((*self.true, *self.predicted), default=0) < 0 or min(self.num_rows, default=1) < 1:
            raise ValueError("classes must be at least 0 and num_rows at least 1")

    def matrix(self, num_classes: int) -> NDArray[np.int64]:
        """All cells, `(C, C)`, row = true class, column = predicted class.

        Examples:
            >>> Confusion((0, 1, 1), (0, 0, 1), (4, 1, 3)).matrix(2).tolist()
            [[4, 0], [1, 3]]
        """
        counts = np.zeros((num_classes, num_classes), dtype=np.int64)
        counts[list(self.true), list(self.predicted)] = self.num_rows
        return counts


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class.

    Attributes:
        name: of the class.
        precision: share of the rows predicted as this class that are of it; 0 without such rows.
        recall: share of the class's rows that were found; 0 without rows.
        f1: harmonic mean of both.
        num_rows: rows of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    num_rows: int


@dataclass(frozen=True)
class Example:
    """A misclassified text, shortened, and the probability of the wrong class."""

    text: str
    probability: float


@dataclass(frozen=True)
class DirectedPair:
    """A class and another one that its rows were taken for.

    Attributes:
        true: name of the rows' class.
        predicted: name of the class that they were taken for.
        num_rows: how many.
        rate: share of the true class's rows.
        examples: the most confidently wrong ones.
    """

    true: str
    predicted: str
    num_rows: int
    rate: float
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class EmbeddingScores:
    """How well the embedding groups the classes: see `labeldist.evaluation.embedding_metrics`.

    Each is None where no class has two rows.
    """

    precision_at_1: float | None
    r_precision: float | None
    mean_average_precision_at_r: float | None


@dataclass(frozen=True)
class Severity:
    """How far the mistakes lie: see `labeldist.evaluation.mistake_severity`. Means are None without a mistake."""

    mean_distance: float | None
    expected_distance: float | None
    num_mistakes: int


@dataclass(frozen=True)
class RelationScores:
    """What is measured by an order, costs or a relation of the classes; see `labeldist.evaluation`.

    Each is None where the run does not know what it takes.

    Attributes:
        mean_absolute_error: steps of the order between true and most probable class, mean over the rows.
        median_absolute_error: the same for the posterior median in place of the most probable class.
        quadratic_weighted_kappa: of the most probable classes; None also where all rows have one class.
        expected_cost: mean cost of deciding for the most probable class.
        least_expected_cost: mean cost of deciding for the class of least expected cost.
        group_accuracy: share of the rows whose predicted class is in the true class's group.
        graded_ndcg: nDCG@50 of the encoder's vectors, with gains by closeness; None without vectors.
        group_mean_average_precision: of the true class's group among them; None without vectors or groups.
    """

    mean_absolute_error: float | None = None
    median_absolute_error: float | None = None
    quadratic_weighted_kappa: float | None = None
    expected_cost: float | None = None
    least_expected_cost: float | None = None
    group_accuracy: float | None = None
    graded_ndcg: float | None = None
    group_mean_average_precision: float | None = None


@dataclass(frozen=True)
class PredictionMetrics(Record):
    """What `labeldist.training.metrics.evaluate_predictions` finds.

    Attributes:
        accuracy: share of the rows that are right.
        macro_f1: mean F1 of the classes that have rows.
        num_rows: rows that were predicted.
        embeddings: None where no vectors were given.
        mistake_severity: None without a matrix, or under one whose distances are all equal.
        class_names: name of each class, C of them.
        per_class: scores of each class, in the order of `class_names`.
        confused_pairs: the most frequent mistakes, at most 10.
        confusion: counts by true and predicted class.
        relation: what is measured by an order, costs or a relation of the classes; None without any.
    """

    title: ClassVar[str] = "the metrics of an evaluation"

    accuracy: float
    macro_f1: float
    num_rows: int
    embeddings: EmbeddingScores | None
    mistake_severity: Severity | None
    class_names: tuple[str, ...]
    per_class: tuple[ClassScores, ...]
    confused_pairs: tuple[DirectedPair, ...]
    confusion: Confusion
    relation: RelationScores | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        """Check that everything is about the same classes and rows."""
        num_classes = len(self.class_names)
        if tuple(scores.name for scores in self.per_class) != self.class_names:
            raise ValueError(f"per_class must have the {num_classes} classes of class_names, in their order")
        if max((*self.confusion.true, *self.confusion.predicted), default=-1) >= num_classes:
            raise ValueError(f"confusion must have classes below {num_classes}, as class_names has")
        if sum(self.confusion.num_rows) != self.num_rows:
            raise ValueError(f"confusion must count the {self.num_rows} rows of num_rows")

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Confusion counts, `(C, C)`, row = true class, column = predicted class."""
        return self.confusion.matrix(len(self.class_names))


@dataclass(frozen=True)
class DecisionCosts:
    """What the decisions cost, by the user's table of costs: means over the rows.

    Attributes:
        most_probable: of deciding for the most probable class, as all other metrics do.
        least_expected: of deciding for the class of least expected cost (`labeldist.evaluation.decide`).
        least_expected_accuracy: share of the rows that the latter decides right.
    """

    most_probable: float
    least_expected: float
    least_expected_accuracy: float


@dataclass(frozen=True)
class CostedMetrics(PredictionMetrics):
    """Metrics of predictions, and what the decisions cost.

    Attributes:
        costs: of the decisions.
    """

    costs: DecisionCosts = field(kw_only=True)


@dataclass(frozen=True)
class CalibrationScores:
    """The temperature of a run's probabilities, and what it does on the test rows; see `labeldist.evaluation`.

    Attributes:
        temperature: fitted on the validation rows; above 1 for a classifier that is too sure.
        num_rows: validation rows.
        error: expected calibration error, 15 bins, of the probabilities as they are.
        calibrated_error: the same at the temperature.
        negative_log_likelihood: in nats, of the probabilities as they are.
        calibrated_negative_log_likelihood: the same at the temperature.
    """

    temperature: float
    num_rows: int
    error: float
    calibrated_error: float
    negative_log_likelihood: float
    calibrated_negative_log_likelihood: float


@dataclass(frozen=True)
class RunMetrics(Record):
    """What `metrics.json` of a run folder holds.

    Attributes:
        objective: what was trained.
        seed: of the run.
        matrix_source: where the label distances came from, in words.
        num_ldm_updates: how often adaptive distances had moved when the kept weights were trained.
        best_validation_accuracy: of the kept weights, before a class layer is fitted on trained vectors; of the fitted
            layer on a frozen encoder; None without validation rows.
        num_epochs: epochs that ran, whole or in part. With `--steps`, an epoch leaves out the rows that fill no batch.
        num_parameters: trainable and frozen parameters of the model.
        test: metrics on the test rows.
        calibration: of the probabilities; None without validation rows.
    """

    title: ClassVar[str] = "the metrics of a run"

    objective: Objective
    seed: int
    matrix_source: str
    num_ldm_updates: int
    best_validation_accuracy: float | None
    num_epochs: float
    num_parameters: int
    test: PredictionMetrics
    calibration: CalibrationScores | None = field(default=None, metadata=ADDED)
