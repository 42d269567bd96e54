"""Rows to texts and labels: which columns hold them, and what their values must be."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from labeldist.class_names import nearest_name
from labeldist.messages import listed, shown
from labeldist.training.errors import UserError

__all__ = [
    "LABEL_COLUMNS",
    "MAX_TEXT",
    "TEXT_COLUMNS",
    "Place",
    "Table",
    "Unread",
    "find_column",
    "find_text_column",
    "is_text",
    "labeled_table",
    "text_of",
]

_TABLE = re.compile(r"\.[ct]sv(\.gz)?$", re.IGNORECASE)

MAX_TEXT = 2**22
"""Characters of one text. A model reads a text's first tokens, but a tokenizer takes memory for all of them."""

# JSON can escape half of a surrogate pair, which no UTF-8 file can hold: results could not be written.
_SURROGATE = re.compile("[\ud800-\udfff]")

TEXT_COLUMNS = (
    "text", "sentence", "content", "message", "utterance", "review", "question", "body", "document", "article",
    "comment", "tweet", "post", "query", "title", "description",
)  # fmt: skip
"""Columns taken for the text unless one is named: the first that is there, in either case."""

LABEL_COLUMNS = (
    "label", "labels", "intent", "category", "class", "topic", "target", "tag", "sentiment", "coarse_label",
    "label_text", "label_name",
)  # fmt: skip
"""Columns taken for the label unless one is named: the first that is there, in either case."""


@dataclass(frozen=True)
class Place:
    """Where rows come from, for messages.

    Attributes:
        name: the file or data set.
        unit: what numbers count, `"line"` or `"row"`.
    """

    name: str
    unit: str = "line"

    def at(self, number: int) -> str:
        """The name of one row.

        Examples:
            >>> Place("train.csv").at(3)
            'train.csv, line 3'
        """
        return f"{self.name}, {self.unit} {number}"

    def of_columns(self, number: int) -> str:
        """Where the names of the columns of a row stand: in a header, or in the row itself.

        Examples:
            >>> Place("Train.CSV").of_columns(2), Place("train.jsonl").of_columns(2)
            ('Train.CSV', 'train.jsonl, line 2')
        """
        return self.name if _TABLE.search(self.name) else self.at(number)


@dataclass(frozen=True)
class Unread:
    """Stands for a value that can be neither a text nor a label, such as a date or an image, and is not read.

    Examples:
        >>> Unread("timestamp[us]")
        <timestamp[us]>
    """

    kind: str

    def __repr__(self) -> str:
        return f"<{self.kind}>"


@dataclass(frozen=True)
class Table:
    """Labeled texts, as they were read.

    Attributes:
        place: where they come from.
        texts: one a row, never blank.
        labels: one class name a row.
        numbers: the number of each row in `place`.
        columns: the columns that were read, text and label.
        notes: what was decided in reading them, one clause each.
        coarse: the coarse label of each row, empty where there is none; `None` without a column of them.
    """

    place: Place
    texts: list[str]
    labels: list[str]
    numbers: list[int]
    columns: tuple[str, str]
    notes: tuple[str, ...] = ()
    coarse: list[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Iterable[int]) -> "Table":
        """The rows at these positions."""
        return self.relabeled((i, self.labels[i]) for i in index)

    def relabeled(self, rows: Iterable[tuple[int, str]]) -> "Table":
        """The rows at these positions, with these labels and no coarse ones."""
        rows = list(rows)
        texts, numbers = [self.texts[i] for i, _ in rows], [self.numbers[i] for i, _ in rows]
        return Table(self.place, texts, [label for _, label in rows], numbers, self.columns, self.notes)

    def with_notes(self, notes: Iterable[str]) -> "Table":
        """The same rows, with more notes."""
        return replace(self, notes=(*self.notes, *notes))


def labeled_table(
    rows: Iterable[tuple[int, dict[str, Any]]],
    place: Place,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    coarse_column: str | None = None,
    may_lack_label: bool = False,
) -> Table:
    """Take text and label out of rows.

    A label is a string, an integer or a boolean, and its class is named `str(label).strip()`.

    Args:
        rows: numbered rows, by column, at least one.
        place: where they come from.
        text_column: the column with the text, found among `TEXT_COLUMNS` unless given.
        label_column: the column with the label, found among `LABEL_COLUMNS` unless given.
        coarse_column: a column that is not the label's; with `may_lack_label` the one with the coarse label.
        may_lack_label: whether a row may have no label, which is then `""`.

    Raises:
        UserError: for a missing column, an empty text, or a missing label unless a row may lack it.

    Examples:
        >>> table = labeled_table([(1, {"Sentence": "where is it?", "intent": 3})], Place("train.jsonl"))
        >>> table.texts, table.labels, table.columns
        (['where is it?'], ['3'], ('Sentence', 'intent'))
    """
    texts: list[str] = []
    labels: list[str] = []
    numbers: list[int] = []
    # One string per class, however many rows it has: by the label as it stands in the file.
    names: dict[str, str] = {}
    text, label, group = text_column or "", label_column or "", coarse_column or ""
    coarse: list[str] | None = [] if may_lack_label and coarse_column is not None else None
    for number, row in rows:
        if not texts:
            text = find_text_column(row, place.of_columns(number), named=text_column, other=label_column)
            label = _find_label_column(
                row, place.of_columns(number), named=label_column, text_column=text, coarse_column=coarse_column
            )
            if coarse is not None:
                _find_coarse_column(row, place.of_columns(number), group, others=(text, label))
        value, name = row.get(text), row.get(label)
        if not is_text(value):
            value = text_of(row, text, place.at(number))
        if may_lack_label:
            if coarse is not None:
                coarse.append(_name_or_nothing(row.get(group), group, place.at(number)))
            name = _name_or_nothing(name, label, place.at(number))
            labels.append(names.setdefault(name, name))
        elif type(name) is str and name in names:
            labels.append(names[name])
        else:
            known = _label_of(row, label, place.at(number))
            labels.append(names.setdefault(name, known) if type(name) is str else known)
        texts.append(value)
        numbers.append(number)
    return Table(place, texts, labels, numbers, (text, label), _space_notes(names), coarse)


def _space_notes(names: dict[str, str]) -> tuple[str, ...]:
    """Say which labels became one because spaces around them do not count."""
    merged = sorted(name for name, count in Counter(names.values()).items() if count > 1)
    if not merged:
        return ()
    return (f"labels: {listed(map(shown, merged), 5)} also with spaces around, which do not count",)


def find_text_column(row: dict[str, Any], where: str, *, named: str | None = None, other: str | None = None) -> str:
    """The column of `row` that holds the text: `named`, or one of `TEXT_COLUMNS`, or the only column.

    Args:
        row: the first row.
        where: where the names of the columns stand, for the message.
        named: the column that the user named.
        other: a column that it cannot be.

    Raises:
        UserError: if it is not there.

    Examples:
        >>> find_text_column({"id": 7, "Review": "not slow at all"}, "train.csv")
        'Review'
    """
    if named is None and len(row) == 1 and other is None:
        return next(iter(row))
    return find_column(
        row, where, named=named, known=TEXT_COLUMNS, others=(other,), option="--text-column", kind="text"
    )


def _find_label_column(
    row: dict[str, Any], where: str, *, named: str | None, text_column: str, coarse_column: str | None
) -> str:
    if named == text_column:
        raise UserError(f"--text-column and --label-column must differ, got {named!r} for both.")
    others = (text_column, coarse_column)
    return find_column(
        row, where, named=named, known=LABEL_COLUMNS, others=others, option="--label-column", kind="label"
    )


def _find_coarse_column(row: dict[str, Any], where: str, named: str, *, others: Sequence[str]) -> None:
    if named in others:
        raise UserError(f"--coarse-column must differ from the columns of text and label, got {named!r}.")
    find_column(row, where, named=named, known=(), option="--coarse-column", kind="coarse label")


def find_column(
    row: dict[str, Any],
    where: str,
    *,
    named: str | None,
    known: Sequence[str],
    option: str,
    kind: str,
    others: Sequence[str | None] = (),
) -> str:
    """The column of `row` that the user named, or the first of those that are known to hold such values.

    Args:
        row: the first row.
        where: where the names of the columns stand, for the message.
        named: the column that the user named.
        known: names to look for, in lower case.
        option: that names the column.
        kind: what the column holds, for the message.
        others: columns that it cannot be.

    Raises:
        UserError: if it is not there.
    """
    names = [str(name) for name in row]
    there = listed(map(shown, names), 20) or "none"
    if named is not None:
        if named in row:
            return named
        raise UserError(
            f"{where}: there is no column {shown(named)} ({option}); the columns are {there}."
            f"{nearest_name(named, names)}"
        )
    folded = {name.casefold(): name for name in reversed(names) if name not in others}
    for candidate in known:
        if candidate in folded:
            return folded[candidate]
    raise UserError(
        f"{where}: no column is known to hold the {kind} ({', '.join(known[:7])}, ...); the columns are {there}. "
        f"Name it with {option}.{' A csv or tsv file needs a header.' if _TABLE.search(where) else ''}"
    )


def text_of(row: dict[str, Any], column: str, where: str) -> str:
    """The text of a row, as it stands.

    Raises:
        UserError: if the column is missing, holds no string, or the text is blank.

    Examples:
        >>> text_of({"text": "  where is it? "}, "text", "train.csv, line 2")
        '  where is it? '
    """
    value = _value_of(row, column, where)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: the text (column {shown(column)}) must be a string, got {_shown(value)}.")
    if value is None or not value.strip():
        raise UserError(f"{where}: the text is empty. Give every row a text or drop it.")
    if len(value) > MAX_TEXT:
        raise UserError(f"{where}: the text has {len(value)} characters, more than {MAX_TEXT}. Split it, or cut it.")
    _check_characters(value, "text", where)
    return value


def is_text(value: Any) -> TypeGuard[str]:
    """Whether `text_of` would return `value`, at the cost of a look.

    Examples:
        >>> is_text("where is it?"), is_text(" "), is_text(3)
        (True, False, False)
    """
    return (
        type(value) is str
        and 0 < len(value) <= MAX_TEXT
        and not value.isspace()
        and (value.isascii() or not _SURROGATE.search(value))
    )


def _label_of(row: dict[str, Any], column: str, where: str) -> str:
    value = _value_of(row, column, where)
    if value is not None and not isinstance(value, str | int):
        raise UserError(
            f"{where}: the label (column {shown(column)}) must be one string, integer or boolean, got {_shown(value)}."
        )
    name = "" if value is None else str(value).strip()
    if not name:
        raise UserError(f"{where}: the label is missing. Give every row a label or drop it.")
    _check_characters(name, "label", where)
    return name


def _name_or_nothing(value: Any, column: str, where: str) -> str:
    """A label, or nothing where it is missing."""
    # Integers become floats in a column of numbers that has gaps.
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    return _label_of({column: value}, column, where)


def _check_characters(value: str, kind: str, where: str) -> None:
    if not value.isascii() and _SURROGATE.search(value):
        raise UserError(
            f"{where}: the {kind} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character."
        )


def _value_of(row: dict[str, Any], column: str, where: str) -> Any:
    if column not in row:
        there = listed(map(shown, row), 20) or "none"
        raise UserError(f"{where}: this row has no column {shown(column)}; its columns are {there}.")
    return row[column]


def _shown(value: Any) -> str:
    if isinstance(value, Unread):
        return f"a value of type {value.kind}"
    return f"{shown(value)} ({type(value).__name__})"
