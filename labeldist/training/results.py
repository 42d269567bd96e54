"""The results of training from Python: a run that predicts, and a comparison, each with a table for notebooks."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from labeldist.messages import escape_controls
from labeldist.training.arguments import says_it_in_python
from labeldist.training.data.columns import Place, labeled_table, text_of
from labeldist.training.data.corpus import read_split, split_of_table
from labeldist.training.data.memory import rows_of
from labeldist.training.errors import UserError
from labeldist.training.measures import MEASURES
from labeldist.training.output.words import change, percent, verdict_sentence
from labeldist.training.records import PredictionMetrics, RunMetrics
from labeldist.training.relations import Costs, costs_of
from labeldist.training.run_folder import RunConfig, RunFolder, check_new_folder
from labeldist.training.study.results import Comparison

if TYPE_CHECKING:
    from labeldist.reports.report import Report
    from labeldist.training.inference import Predictor

__all__ = ["FinishedComparison", "TemporaryFolder", "TrainedRun"]

_NUM_CONFUSED_SHOWN = 5


def _checked(texts: str | Iterable[str]) -> list[str]:
    """One text or several as a list, each a string that is not blank."""
    if not isinstance(texts, Iterable):
        raise UserError(f"texts must be one text or several, got {texts!r}.")
    texts = [texts] if isinstance(texts, str) else list(texts)
    return [text_of({"text": text}, "text", f"Text {number}") for number, text in enumerate(texts, 1)]


class TemporaryFolder:
    """A folder that is deleted together with the last object that refers to it, at the latest when Python exits."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="labeldist-"))
        self.delete = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class TrainedRun:
    """A finished run: its metrics and its classifier.

    Args:
        folder: the run folder.
        device: device of the classifier: `"auto"`, `"cpu"` or `"cuda"`.
        temporary: owner of a temporary folder, which is deleted together with this object.
        trust_remote_code: whether code that comes with the run's encoder may run.

    Attributes:
        folder: the run folder. The command-line guide lists its files.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        temporary: TemporaryFolder | None = None,
        trust_remote_code: bool = False,
    ):
        self.folder = folder
        self._device = device
        self._trust_remote_code = trust_remote_code
        self._temporary = temporary

    @cached_property
    def config(self) -> RunConfig:
        """The configuration of the run, as in `config.json`."""
        return RunFolder(self.folder).read_config()

    @cached_property
    def metrics(self) -> RunMetrics:
        """The metrics of the run, as in `metrics.json`: `metrics.test` has accuracy, F1 and confusions."""
        return RunFolder(self.folder).read_metrics()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names, in the order of the class indices."""
        return self.config.class_names

    @property
    def accuracy(self) -> float:
        """Fraction of the test rows that are classified correctly, in [0, 1]."""
        return self.metrics.test.accuracy

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes in the test set, in [0, 1]."""
        return self.metrics.test.macro_f1

    @cached_property
    def label_distances(self) -> list[list[float]] | None:
        """The label-distance matrix of the training, `(C, C)`, in the order of `class_names`.

        `None` if the run was trained with cross-entropy only.
        """
        matrix = RunFolder(self.folder).read_matrix()
        return None if matrix is None else matrix.tolist()

    @cached_property
    def relevance(self) -> list[list[float]] | None:
        """The graded targets of the training, `(C, C)`; `None` if only rows of the same class were positives."""
        relevance = RunFolder(self.folder).read_relevance()
        return None if relevance is None else relevance.tolist()

    @cached_property
    def levels(self) -> list[list[list[float]]]:
        """The graded targets of each level, `(C, C)`, of objective `"levels"`; empty for other objectives."""
        return [level.tolist() for level in RunFolder(self.folder).read_levels()]

    @cached_property
    def _predictor(self) -> "Predictor":
        # Read when texts come: looking at the figures needs no model.
        from labeldist.training.inference import Predictor

        return Predictor.from_run(self.folder, device=self._device, trust_remote_code=self._trust_remote_code)

    @says_it_in_python
    def predict(
        self,
        texts: str | Iterable[str],
        *,
        costs: Costs | None = None,
        order: Sequence[Any] = (),
        calibrated: bool = False,
        top_k: int | None = None,
    ) -> list[dict[str, Any]]:
        """Classify texts.

        Args:
            texts: one text, or several.
            costs: costs of mistakes, by true class and chosen class, or a file with them. Each label is then the class
                of least expected cost instead of the most probable class. See `labeldist.evaluation.decide`.
            order: all classes from one end to the other, instead of costs: each step between two classes costs 1.
            calibrated: use the probabilities at the temperature that was fitted on the validation rows of the run
                (`metrics.calibration`), also for decisions by cost.
            top_k: number of the most probable classes in `"probabilities"`, >= 1; `None` returns all classes.

        Returns:
            A dictionary for each text, with the keys `"text"`, `"label"`, `"probability"` and `"probabilities"`. The
            last one maps class names to probabilities, the most probable class first.

        Raises:
            labeldist.training.errors.UserError: if a text is empty or not a string, costs or order do not match the
                classes, `calibrated` is set but the run has no temperature, or `top_k` is below 1.
        """
        from labeldist.training.inference import check_top_k

        check_top_k(top_k)
        table_of_costs = costs_of(costs, order, self.class_names)
        return list(self._predictor.predictions(_checked(texts), table_of_costs, top_k=top_k, calibrated=calibrated))

    @says_it_in_python
    def embed(self, texts: str | Iterable[str]) -> np.ndarray:
        """The encoder's vectors, to search in: texts of one class lie close together, by cosine.

        Args:
            texts: one, or any number.

        Returns:
            `(N, hidden_size)`, float32, not normalized: what the class layer reads, and what the run's measures of
            embeddings were taken of.

        Raises:
            labeldist.training.errors.UserError: for an empty text, or one that is no string.
        """
        return self._predictor.vectors(_checked(texts)).numpy()

    @says_it_in_python
    def evaluate(
        self,
        data: Any,
        labels: Any = None,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        costs: Costs | None = None,
        order: Sequence[Any] = (),
        calibrated: bool = False,
    ) -> PredictionMetrics:
        """Measure the classifier on other labeled rows.

        Args:
            data: a list of texts, with `labels`; a data frame or data set; a file; a folder, of which the test file is
                used; or `"demo"`.
            labels: class of each text, if `data` is a list.
            text_column: column of the texts; `None` finds it by its name.
            label_column: column of the labels; `None` finds it by its name.
            costs: as in `predict`. The costs of the decisions are then measured as well, as `costs`.
            order: as in `predict`.
            calibrated: as in `predict`.

        Returns:
            The metrics, as from `labeldist.training.metrics.evaluate_predictions`; a `CostedMetrics` with costs or an
            order.

        Raises:
            labeldist.training.errors.UserError: if the data cannot be used, or a label is not a class of the run.
        """
        table_of_costs = costs_of(costs, order, self.class_names)
        if isinstance(data, str | Path):
            split = read_split(data, self.class_names, text_column=text_column, label_column=label_column)
            return self._predictor.evaluate(split, table_of_costs, calibrated=calibrated)
        table = data if labels is None else (data, labels)
        rows = labeled_table(
            rows_of(table, "data")(), Place("data", "row"), text_column=text_column, label_column=label_column
        )
        if not len(rows):
            raise UserError("data holds no rows.")
        split = split_of_table(rows, self.class_names)
        return self._predictor.evaluate(split, table_of_costs, calibrated=calibrated)

    def report(self) -> "Report":
        """The report of the test rows: which classes are confused, and by which texts. A notebook displays it."""
        # Here: the figures alone need neither templates nor an index of texts.
        from labeldist.training.reporting.runs import run_report

        return run_report(self.folder)

    def save(self, folder: str | Path) -> Path:
        """Copy the run folder, for example to keep a run that is in a temporary folder.

        Args:
            folder: the target: a new or empty folder.

        Returns:
            The target folder.

        Raises:
            labeldist.training.errors.UserError: if `folder` exists and is not empty.
        """
        folder = Path(folder)
        check_new_folder(folder, "Choose another folder.")
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return folder

    def __repr__(self) -> str:
        place = "in a temporary folder; save(folder) keeps it" if self._temporary else f"in {self.folder}"
        return escape_controls(f"TrainedRun({self._title()}: accuracy {100 * self.accuracy:.1f} %, {place})")

    def _title(self) -> str:
        spec = self.config.spec
        encoder = Path(spec.settings.model.encoder).name
        return f"{self.config.data_name}, {encoder}, {spec.objective}, seed {spec.seed}"

    def _repr_html_(self) -> str:
        test = self.metrics.test
        classes = [
            [one.name, percent(one.f1), percent(one.precision), percent(one.recall), str(one.num_rows)]
            for one in sorted(test.per_class, key=lambda one: one.f1)
            if one.num_rows
        ]
        confused = [
            [pair.true, pair.predicted, str(pair.num_rows), percent(pair.rate)]
            for pair in test.confused_pairs[:_NUM_CONFUSED_SHOWN]
        ]
        figures = f"accuracy {percent(self.accuracy)} %, macro-F1 {percent(self.macro_f1)} %, {test.num_rows} rows"
        parts = [
            f"<p><strong>{_html(self._title())}</strong>: {figures}</p>",
            _html_table(["class", "F1 %", "precision %", "recall %", "rows"], classes),
        ]
        if confused:
            parts.append(_html_table(["true", "taken for", "rows", "% of true"], confused))
        return "\n".join(parts)


class FinishedComparison:
    """A comparison of objectives over seeds.

    Args:
        folder: the folder of the comparison.
        comparison: its results: see `labeldist.training.study.comparison`.
        temporary: owner of a temporary folder, which is deleted together with this object.
        trust_remote_code: whether code that comes with the encoder of the runs may run.

    Attributes:
        folder: the folder of the comparison. It contains the runs, `comparison.json` and the pictures.
        comparison: all results, as in `comparison.json`.
    """

    def __init__(
        self,
        folder: Path,
        comparison: Comparison,
        *,
        temporary: TemporaryFolder | None = None,
        trust_remote_code: bool = False,
    ):
        self.folder = folder
        self._trust_remote_code = trust_remote_code
        self.comparison = comparison
        self._temporary = temporary

    @property
    def verdict(self) -> str:
        """The answer in one sentence: label distance helps, does not help, or the result is inconclusive."""
        return verdict_sentence(self.comparison)

    @property
    def accuracy(self) -> dict[str, tuple[float | None, ...]]:
        """Test accuracy of each objective, in [0, 1], one value per seed."""
        return {name: tuple(scores.accuracy) for name, scores in self.comparison.objectives.items()}

    @property
    def measured(self) -> dict[str, tuple[float | None, ...]]:
        """The measure of the verdict (`comparison.measure`) for each objective, one value per seed."""
        column = MEASURES[self.comparison.measure].column
        empty = (None,) * len(self.comparison.seeds)
        return {name: getattr(scores, column) or empty for name, scores in self.comparison.objectives.items()}

    def run(self, objective: str, seed: int) -> TrainedRun:
        """The run of one objective and seed.

        Raises:
            labeldist.training.errors.UserError: if the comparison has no such run, or it is not finished.
        """
        folder = self.folder / "runs" / f"{objective}-seed{seed}"
        if objective not in self.accuracy or not RunFolder(folder).is_finished:
            raise UserError(f"The comparison has no run of {objective} with seed {seed}.")
        return TrainedRun(folder, temporary=self._temporary, trust_remote_code=self._trust_remote_code)

    def report(self) -> "Report":
        """The report: the verdict, and the confusions of the best label-distance objective. A notebook displays it."""
        from labeldist.training.reporting.comparisons import comparison_report

        return comparison_report(self.folder)

    def __repr__(self) -> str:
        return f"FinishedComparison({escape_controls(self.verdict)!r})"

    def __str__(self) -> str:
        from labeldist.training.output.terminal import comparison_table

        return comparison_table(self.comparison)

    def _repr_html_(self) -> str:
        baseline, measure = self.comparison.baseline, MEASURES[self.comparison.measure]
        rows = []
        for name, scores in self.comparison.objectives.items():
            difference = self.comparison.difference_to_baseline(name)
            shown = "" if difference is None else change(difference.mean, measure)
            interval = ""
            if difference is not None and difference.low is not None and difference.high is not None:
                interval = f"{change(difference.low, measure)} to {change(difference.high, measure)}"
            rows.append([name, _spread(scores.accuracy), _spread(scores.macro_f1), shown, interval])
        by = "" if measure.name == "accuracy" else f", {measure.name}"
        headers = ["objective", "accuracy %", "macro-F1 %", f"vs {baseline}{by}", "95 % interval"]
        return f"{_html_table(headers, rows)}\n<p>{_html(self.verdict)}</p>"


def _spread(values: Sequence[float | None]) -> str:
    found = [100 * value for value in values if value is not None]
    return f"{mean(found):.1f} ± {stdev(found):.1f}" if len(found) > 1 else f"{found[0]:.1f}" if found else ""


def _html(text: str) -> str:
    return escape(escape_controls(text))


def _html_table(headers: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_html(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(headers, 'th')}</thead><tbody>{body}</tbody></table>"
