"""A file of predictions, of whatever model, to what a report is made from."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeldist.messages import listed, shown
from labeldist.reports.predictions import MIN_SURPRISING, Predictions, TopClasses, predictions_of
from labeldist.reports.words import count
from labeldist.training.data.columns import LABEL_COLUMNS, TEXT_COLUMNS, find_column
from labeldist.training.data.dialects import TableFormat
from labeldist.training.data.readers import place_of, read_rows
from labeldist.training.errors import UserError

__all__ = ["PredictionColumns", "read_predictions"]

TRUE_COLUMNS = ("label", "labels", "true_label", "gold", "y_true", "true", "truth", "actual", *LABEL_COLUMNS[2:])
PREDICTED_COLUMNS = (
    "predicted", "prediction", "predictions", "pred", "predicted_label", "predicted_class", "pred_label", "y_pred",
    "model_label", "guess", "output",
)  # fmt: skip
"""Columns taken for the prediction unless one is named: the first that is there, in either case."""

PROBABILITY_COLUMNS = ("probability", "confidence", "score", "prob", "proba", "predicted_probability", "p")
ALL_PROBABILITIES = ("probabilities", "probs", "scores")
# A column of a class's probability: the class name, or one of these before it.
PREFIXES = ("", "p_", "prob_", "proba_", "probability_", "score_", "p(", "probs.", "probabilities.")
_SPREADSHEET_NUMBER = re.compile(r"(?P<number>\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?)\s*(?P<percent>%)?")
# A row of probabilities may miss 1 by rounding.
ROUNDING = 0.02
# Share of the rows whose probability may be below that of a guess; decisions by cost take such classes.
MAX_LOW = 0.02


@dataclass(frozen=True)
class PredictionColumns:
    """Columns that the user names; what is None is found.

    Attributes:
        text: of the texts.
        label: of the true classes.
        prediction: of the predicted classes.
        probability: of the predicted class's probability.
    """

    text: str | None = None
    label: str | None = None
    prediction: str | None = None
    probability: str | None = None


@dataclass
class _Columns:
    """What was read, row by row."""

    labels: list[str] = field(default_factory=list)
    predicted: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    confidence: list[float | None] = field(default_factory=list)
    by_class: list[dict[str, float] | None] = field(default_factory=list)


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
    classes (a JSON object in one column, or a column for each class) are used where they are there. With such an object
    and no column of predictions, the most probable class is the prediction.

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
    finder: _Finder | None = None
    for number, row in read_rows(path, note=note, table_format=table_format):
        finder = finder or _Finder(row, place.at(number), named, class_names)
        _read_row(read, row, finder, place.at(number))
    assert finder is not None
    found = _predictions(read, finder, class_names, str(path))
    note(f"{path}: {finder.in_words()}")
    if finder.num_missing:
        lack = "has no probability" if finder.num_missing == 1 else "have no probability"
        (say or note)(f"{finder.num_missing:,} of {count(len(found), 'row')} {lack}: confidence is about the others")
    for name, reason in finder.dropped.items():
        (say or note)(
            f"column {shown(name)} is left out: {reason.removesuffix('.')}; --probability-column names another one"
        )
    return found


class _Finder:
    """Which column of a table holds what, found from its first row.

    A column that was found by its name alone and holds something else is dropped, with a note; one that the user named
    must fit.

    Args:
        row: the first row.
        where: its place.
        named: what the user names.
        class_names: all classes, where they are known.
    """

    def __init__(self, row: Mapping[str, Any], where: str, named: PredictionColumns, class_names: Sequence[str] | None):
        first = dict(row)
        self.is_named = named.probability is not None
        self.dropped: dict[str, str] = {}
        self.num_missing = 0
        self.label = find_column(
            first, where, named=named.label, known=TRUE_COLUMNS, option="--label-column", kind="label"
        )
        others = [self.label]
        self.all = _optional(first, ALL_PROBABILITIES, others)
        known = PREDICTED_COLUMNS
        self.predicted: str | None
        if named.prediction is None and self.all is not None:
            self.predicted = _optional(first, known, others)
        else:
            self.predicted = find_column(
                {name: value for name, value in first.items() if name not in others},
                where,
                named=named.prediction,
                known=known,
                option="--prediction-column",
                kind="prediction",
            )
        if self.predicted is not None:
            others.append(self.predicted)
        self.probability = (
            find_column(
                first, where, named=named.probability, known=(), option="--probability-column", kind="probability"
            )
            if named.probability is not None
            else _optional(first, PROBABILITY_COLUMNS, others)
        )
        self.text = (
            find_column(first, where, named=named.text, known=TEXT_COLUMNS, option="--text-column", kind="text")
            if named.text is not None
            else _optional(first, TEXT_COLUMNS, [*others, *([self.probability] if self.probability else [])])
        )
        taken = {self.label, self.predicted, self.probability, self.text, self.all}
        self.rest = [name for name in first if name not in taken]

    def drop_probability(self, reason: str) -> None:
        """Leave out the column of probabilities, or raise if the user named it."""
        if self.is_named:
            raise UserError(reason)
        assert self.probability is not None
        self.dropped[self.probability] = reason
        self.probability = None

    def drop_all(self, reason: str) -> None:
        """Leave out the column of all probabilities, or raise if the prediction is found from it."""
        if self.predicted is None:
            raise UserError(reason)
        assert self.all is not None
        self.dropped[self.all] = reason
        self.all = None

    def in_words(self) -> str:
        """Which columns were read."""
        names = {
            "text": self.text,
            "label": self.label,
            "prediction": self.predicted or "the most probable class",
            "probability": self.probability,
            "all probabilities": self.all,
        }
        return "; ".join(f"{kind}: {shown(name)}" for kind, name in names.items() if name is not None)

    def class_columns(self, classes: Sequence[str]) -> dict[str, str] | None:
        """The column of each class's probability; None unless every class has one."""
        folded = {name.casefold(): name for name in self.rest}
        found = {}
        for name in classes:
            keys = [f"{prefix}{name}{')' if prefix.endswith('(') else ''}".casefold() for prefix in PREFIXES]
            key = next((key for key in keys if key in folded), None)
            if key is None:
                return None
            found[name] = folded[key]
        return found if len(set(found.values())) == len(classes) else None


def _optional(row: Mapping[str, Any], known: Sequence[str], others: Sequence[str]) -> str | None:
    folded = {name.casefold(): name for name in reversed(list(row)) if name not in others}
    return next((folded[name] for name in known if name in folded), None)


def _read_row(read: _Columns, row: Mapping[str, Any], finder: _Finder, where: str) -> None:
    read.labels.append(_class_of(row.get(finder.label), f"label (column {shown(finder.label)})", where))
    by_class = None
    if finder.all is not None:
        try:
            by_class = _by_class(row.get(finder.all), finder.all, where)
        except UserError as error:
            finder.drop_all(str(error))
    if finder.predicted is not None:
        guess = _class_of(row.get(finder.predicted), f"prediction (column {shown(finder.predicted)})", where)
    elif by_class:
        guess = max(by_class.items(), key=lambda item: item[1])[0]
    else:
        raise UserError(f"{where}: there is neither a prediction nor a probability.")
    read.predicted.append(guess)
    if finder.text is not None:
        value = row.get(finder.text)
        read.texts.append("" if value is None else str(value))
    confidence = None
    if finder.probability is not None and not _is_missing(row.get(finder.probability)):
        try:
            confidence = _number(row[finder.probability], f"probability (column {shown(finder.probability)})", where)
        except UserError as error:
            finder.drop_probability(str(error))
    elif by_class is not None:
        confidence = by_class.get(guess)
    read.confidence.append(confidence)
    if by_class is None and finder.rest:
        # The classes are known at the end of the file only: keep what may be a probability.
        by_class = {name: value for name in finder.rest if (value := _maybe_probability(row.get(name))) is not None}
        read.by_class.append(by_class or None)
    else:
        read.by_class.append(by_class)


def _class_of(value: Any, kind: str, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        # Integers become floats in a column that has gaps.
        value = int(value)
    if value is not None and not isinstance(value, str | int | float):
        raise UserError(f"{where}: the {kind} must be one string or number, got {shown(value)}.")
    name = "" if value is None or value != value else str(value).strip()
    if not name:
        raise UserError(f"{where}: the {kind} is missing. Give every row one or drop it.")
    return name


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().casefold() in ("", "nan")) or value != value


def _number(value: Any, kind: str, where: str) -> float:
    number = _maybe_probability(value)
    if number is None or not -1e-6 <= number <= 1 + 1e-3:
        raise UserError(f"{where}: the {kind} must lie in [0, 1], got {shown(value)}.")
    return min(max(number, 0.0), 1.0)


def _maybe_probability(value: Any) -> float | None:
    """A number as spreadsheets write it, too: 0,91 and 9,1E-01 with a decimal comma, 91 % and 91,0%."""
    number = _maybe_number(value)
    if number is not None or not isinstance(value, str):
        return number
    found = _SPREADSHEET_NUMBER.fullmatch(value.strip())
    if found is None:
        return None
    return float(found["number"].replace(",", ".")) / (100 if found["percent"] else 1)


def _maybe_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _by_class(value: Any, column: str, where: str) -> dict[str, float] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            value = "no JSON"
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: the probabilities (column {shown(column)}) must be an object {{class: probability}}, "
            f"got {shown(value)}."
        )
    kind = f"probabilities (column {shown(column)})"
    return {str(name).strip(): _number(number, kind, where) for name, number in value.items() if number is not None}


def _predictions(read: _Columns, finder: _Finder, class_names: Sequence[str] | None, path: str) -> Predictions:
    if class_names is None:
        _write_numbers_alike(read)
    names = {*read.labels, *read.predicted}
    if finder.all is not None:
        names |= {name for row in read.by_class if row for name in row}
    classes = sorted(names, key=_by_number) if class_names is None else list(class_names)
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
    names = {*read.labels, *read.predicted}
    numbers = {name: _maybe_number(name) for name in names}
    if any(number is None or not number.is_integer() for number in numbers.values()):
        return
    alike = {name: str(int(number)) for name, number in numbers.items() if number is not None}
    read.labels[:] = [alike[name] for name in read.labels]
    read.predicted[:] = [alike[name] for name in read.predicted]


def _has_confidence(read: _Columns, finder: _Finder, num_classes: int) -> bool:
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


def _by_number(name: str) -> tuple[bool, float, str]:
    number = _maybe_number(name)
    return number is None, number or 0.0, name


def _all_scores(read: _Columns, finder: _Finder, classes: Sequence[str]) -> NDArray[np.float64] | None:
    """Probabilities of all classes; None where a row lacks one, or a row does not sum to 1."""
    columns = {name: name for name in classes} if finder.all is not None else finder.class_columns(classes)
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
