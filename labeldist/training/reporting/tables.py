"""The report of a table of predictions, of whatever model."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from labeldist.messages import escape_controls, listed, shown
from labeldist.reports.findings import find
from labeldist.reports.page import About
from labeldist.reports.report import Report, nearest_by_words
from labeldist.training.data.dialects import TableFormat
from labeldist.training.data.notes import look_alike_notes
from labeldist.training.data.sources import find_source
from labeldist.training.errors import UserError
from labeldist.training.output.progress import SILENT, Progress
from labeldist.training.reporting.prediction_table import PredictionColumns, read_predictions

__all__ = ["table_report"]


def table_report(
    path: Path,
    columns: PredictionColumns | None = None,
    *,
    train: str | None = None,
    costs: Path | None = None,
    order: Sequence[str] = (),
    title: str | None = None,
    table_format: TableFormat | None = None,
    command: Sequence[str] = (),
    note: Callable[[str], None] = lambda note: None,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = SILENT,
) -> Report:
    """The report of a table of predictions.

    Args:
        path: of the table.
        columns: those that the user names.
        train: labeled texts that the classifier was trained on: a file, or a folder (its training file).
        costs: file of what mistakes cost.
        order: all classes from one end to the other.
        title: of the page; the name of the file if `None`.
        table_format: of a csv or tsv file, where it is not found.
        command: that the user gave.
        note: receives what was decided.
        say: receives what was left out, which the user must know.
        progress: where it shows what is read and sought.

    Raises:
        UserError: for any defect of a file, or costs that do not fit the classes.
    """
    notes: list[str] = []

    def take(clause: str) -> None:
        notes.append(clause)
        note(clause)

    def take_and_say(clause: str) -> None:
        notes.append(clause)
        say(clause)

    with progress.step(f"reading {path}"):
        predictions = read_predictions(path, columns, table_format=table_format, note=take, say=take_and_say)
    for clause in look_alike_notes(predictions.class_names):
        take_and_say(clause)
    if train is not None:
        if predictions.texts is None:
            raise UserError(f"--train compares texts, and {path} has no column of texts. Name it with --text-column.")
        table = find_source([train]).table("train")
        notes.extend(table.notes)
        unknown = sorted(set(table.labels) - set(predictions.class_names))
        if unknown:
            take_and_say(f"{train}: classes that the predictions do not have: {listed(map(shown, unknown), 5)}")
        with progress.step("finding the most similar training texts"):
            nearest = nearest_by_words(predictions.texts, predictions.is_wrong, table.texts, table.labels)
        predictions = replace(predictions, nearest=tuple(nearest))
    found: Any = None
    if costs is not None or order:
        # PyTorch is loaded here: only a table of costs needs it.
        from labeldist.training.relations import costs_of

        table_of_costs = costs_of(costs, order, predictions.class_names)
        found = None if table_of_costs is None else table_of_costs.double().numpy()
    about = About(
        title=title or path.name,
        settings={"Predictions": str(path), "Classes": f"{len(predictions.class_names):,}"},
        notes=[escape_controls(clause) for clause in notes],
        command=shlex.join(command),
        compare=() if train is None else ("labeldist", "compare", "--data", train),
    )
    with progress.step("finding the confused pairs"):
        return Report(find(predictions, costs=found), about)
