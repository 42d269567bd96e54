"""A file of predictions, of whatever model, to what a report is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeldist.messages import listed, shown
from labeldist.reports.predictions import MIN_SURPRISING, Predictions, TopClasses, predictions_of
from labeldist.reports.words import count
from labeldist.training.data.dialects import TableFormat
from labeldist.training.data.readers import place_of, read_rows
from labeldist.training.errors import UserError
from labeldist.training.reporting.class_columns import (
    ROUNDING,
    class_columns,
    columns_of_all_classes,
    most_probable,
)
from labeldist.training.reporting.prediction_columns import ColumnFinder, PredictionColumns
from labeldist.training.reporting.table_values import (
    by_number,
    class_of,
    is_missing,
    maybe_number,
    maybe_probability,
    probabilities_by_class,
    probability_of,
)

__all__ = ["PredictionColumns", "read_predictions"]

# Share of the rows whose probability may be below that of a guess; decisions by cost take such classes.
MAX_LOW = 0.02


@dataclass
class _Columns:
    """What was read, row by row."""

    labels: list[str] = field(default_factory=list)
    predicted: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    confidence: list[float | None] = field(default_factory=list)
    by_class: list[dict[str, float] | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def read_predictions(
    path: Path | str,
    columns: PredictionColumns | None = None,
    *,
    class_names: Sequence[str] | None = None,
    table_format: TableFormat | None = None,
    note: Callable[[str], None] = lambda note: None,
    say: Callable[[str], None] | None = None,
) -> Predictions:
    r"""Read a table of predictions.

    A row needs a label and a prediction. A text, the probability of the prediction, and the probabilities of all
    classes (a JSON object in one column, or a column for each class) are used where they are there. Without a column of
    predictions, the class with the largest probability is the prediction.

    Args:
        path: a jsonl, csv, tsv (each also .gz) or parquet file.
        columns: those that the user names.
        class_names: all classes, in order; those that occur, sorted, if `None`.
        table_format: of a csv or tsv file, where it is not found.
        note: receives what was decided.
        say: receives what was left out, which the user must know; `note` if `None`.

    Raises:
        UserError: for a missing column or value, a named column that does not fit, or a broken file.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "predictions.csv"
        >>> _ = path.write_text("text,label,prediction\nis it fast?,ask,tell\nit is,tell,tell\n")
        >>> found = read_predictions(path)
        >>> found.class_names, found.predicted.tolist(), found.texts
        (('ask', 'tell'), [1, 1], ('is it fast?', 'it is'))
    """
    path, named = Path(path), columns or PredictionColumns()
    place = place_of(path)
    read = _Columns()
    finder: ColumnFinder | None = None
    for number, row in read_rows(path, note=note, table_format=table_format):
        finder = finder or ColumnFinder(row, place.at(number), named, place.of_columns(number))
        _read_row(read, row, finder, place.at(number))
        read.numbers.append(number)
    assert finder is not None
    found = _predictions(read, finder, class_names, str(path), lambda row: place.at(read.numbers[row]))
    note(f"{path}: {finder.in_words()}")
    if finder.predicted is None:
        (say or note)(
            "no column of predictions was found, so the most probable class is the prediction; if there is one, name "
            "it by --prediction-column"
        )
    if finder.num_missing:
        lack = "has no probability" if finder.num_missing == 1 else "have no probability"
        (say or note)(f"{finder.num_missing:,} of {count(len(found), 'row')} {lack}: confidence is about the others")
    for name, reason in finder.dropped.items():
        (say or note)(
            f"column {shown(name)} is left out: {reason.removesuffix('.')}; --probability-column names another one"
        )
    return found


def _read_row(read: _Columns, row: Mapping[str, Any], finder: ColumnFinder, where: str) -> None:
    read.labels.append(class_of(row.get(finder.label), f"label (column {shown(finder.label)})", where))
    by_class = None
    if finder.all is not None:
        try:
            by_class = probabilities_by_class(row.get(finder.all), finder.all, where)
        except UserError as error:
            finder.drop_all(str(error))
    if finder.predicted is not None:
        guess = class_of(row.get(finder.predicted), f"prediction (column {shown(finder.predicted)})", where)
    elif by_class:
        guess = max(by_class.items(), key=lambda item: item[1])[0]
    elif finder.by_class_columns:
        guess = ""  # found once all classes are known
    else:
        raise UserError(f"{where}: there is neither a prediction nor a probability.")
    read.predicted.append(guess)
    if finder.text is not None:
        value = row.get(finder.text)
        read.texts.append("" if value is None else str(value))
    confidence = None
    if finder.probability is not None and not is_missing(row.get(finder.probability)):
        try:
            kind = f"probability (column {shown(finder.probability)})"
            confidence = probability_of(row[finder.probability], kind, where)
        except UserError as error:
            finder.drop_probability(str(error))
    elif by_class is not None:
        confidence = by_class.get(guess)
    read.confidence.append(confidence)
    if by_class is None and finder.rest:
        # The classes are known at the end of the file only: keep what may be a probability.
        by_class = {name: value for name in finder.rest if (value := maybe_probability(row.get(name))) is not None}
        read.by_class.append(by_class or None)
    else:
        read.by_class.append(by_class)


def _predictions(
    read: _Columns, finder: ColumnFinder, class_names: Sequence[str] | None, path: str, place: Callable[[int], str]
) -> Predictions:
    if class_names is None:
        _write_numbers_alike(read)
    own_columns: dict[str, str] = {}
    if finder.by_class_columns:
        known = sorted(set(read.labels), key=by_number) if class_names is None else class_names
        own_columns = columns_of_all_classes(known, finder.rest, read.by_class, path, place)
        read.predicted[:] = most_probable(read.labels, own_columns, read.by_class, path)
    names = {*read.labels, *read.predicted, *own_columns}
    if finder.all is not None:
        names |= {name for row in read.by_class if row for name in row}
    classes = sorted(names, key=by_number) if class_names is None else list(class_names)
    if unknown := sorted(names - set(classes)):
        raise UserError(f"{path}: {shown(unknown[0])} is no class; the classes are {listed(map(shown, classes), 10)}.")
    if len(classes) < 2:
        raise UserError(f"{path}: labels and predictions name one class, {shown(classes[0])}; a report needs two.")
    scores = _all_scores(read, finder, classes)
    has_some = scores is None and _has_confidence(read, finder, len(classes))
    if len(read.labels) >= MIN_SURPRISING and not set(read.labels) & set(read.predicted):
        ours, theirs = (listed(map(shown, sorted(set(side))), 3) for side in (read.labels, read.predicted))
        raise UserError(f"{path}: labels and predictions have no class in common: {ours} and {theirs}.")
    found = predictions_of(
        read.labels,
        read.predicted,
        texts=read.texts or None,
        class_names=classes,
        probabilities=scores,
    )
    confidence = np.array([np.nan if v is None else v for v in read.confidence]) if has_some else found.confidence
    top = _top_of(read.by_class, classes) if scores is None and finder.all is not None else found.top
    return replace(found, top=top, confidence=confidence)


def _write_numbers_alike(read: _Columns) -> None:
    """Write whole numbers in one way: in a column with gaps, or of another tool, the class 1 is called 1.0."""
    names = {*read.labels, *read.predicted} - {""}
    numbers = {name: maybe_number(name) for name in names}
    if any(number is None or not number.is_integer() for number in numbers.values()):
        return
    alike = {name: str(int(number)) for name, number in numbers.items() if number is not None}
    read.labels[:] = [alike[name] for name in read.labels]
    read.predicted[:] = [alike.get(name, name) for name in read.predicted]


def _has_confidence(read: _Columns, finder: ColumnFinder, num_classes: int) -> bool:
    """Whether rows have probabilities of their predictions; those without one are counted and told."""
    if finder.probability is None and finder.all is None:
        return False
    column = finder.probability or finder.all or ""
    known = [value for value in read.confidence if value is not None]
    if not known:
        return False
    # The most probable class of C has at least 1/C: less is the probability of something else, such as of class 1.
    least = 1 / num_classes - 1e-3
    num_low = sum(value < least for value in known)
    if not finder.is_named and num_low > MAX_LOW * len(known):
        finder.dropped[column] = (
            f"{num_low:,} of {len(known):,} rows have less than one in {num_classes}, so these are not the "
            "probabilities of the predicted classes"
        )
        return False
    finder.num_missing = len(read.confidence) - len(known)
    return True


def _all_scores(read: _Columns, finder: ColumnFinder, classes: Sequence[str]) -> NDArray[np.float64] | None:
    """Probabilities of all classes; None where a row lacks one, or a row does not sum to 1."""
    columns = {name: name for name in classes} if finder.all is not None else class_columns(classes, finder.rest)
    if columns is None:
        return None
    scores = np.full((len(read.labels), len(classes)), np.nan)
    for i, row in enumerate(read.by_class):
        for c, name in enumerate(classes):
            value = None if row is None else row.get(columns[name])
            if value is None:
                return None
            scores[i, c] = value
    in_range = scores.min() >= 0 and scores.max() <= 1 + 1e-3
    return scores if in_range and np.abs(scores.sum(axis=1) - 1).max() <= ROUNDING else None


def _top_of(rows: Sequence[Mapping[str, float] | None], classes: Sequence[str]) -> TopClasses:
    place = {name: c for c, name in enumerate(classes)}
    width = min(max((len(row) for row in rows if row), default=1), 5)
    indices = np.full((len(rows), width), -1, dtype=np.int64)
    values = np.zeros((len(rows), width))
    for i, row in enumerate(rows):
        ranked = sorted((row or {}).items(), key=lambda item: -item[1])[:width]
        for k, (name, value) in enumerate(ranked):
            indices[i, k], values[i, k] = place[name], value
    return TopClasses(indices, values)
