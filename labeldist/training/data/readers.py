"""Files to rows: JSON Lines, CSV, TSV and Parquet, in bounded memory; every defect names its file and line."""

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from labeldist.messages import listed, shown
from labeldist.training.data.columns import Place, find_text_column, is_text, text_of
from labeldist.training.data.dialects import (
    Dialect,
    TableFormat,
    csv_defect,
    find_dialect,
    joins_rows,
    num_rows_within,
)
from labeldist.training.data.lines import Lines, check_file, decoded_lines, file_lines
from labeldist.training.data.parquet import parquet_rows
from labeldist.training.errors import UserError

__all__ = ["SUFFIXES", "Note", "Rows", "data_suffix", "place_of", "read_rows", "read_texts"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""The kinds of file that `read_rows` opens, by the end of the name."""

_STDIN = "-"
# Characters of a table that its dialect is found from.
_HEAD = 2**20

Rows = Iterator[tuple[int, dict[str, Any]]]
Note = Callable[[str], None]
"""Receives what was decided in reading, one clause each."""


def _ignore(note: str) -> None:
    pass


def read_rows(path: Path | str, *, note: Note = _ignore, table_format: TableFormat | None = None) -> Rows:
    r"""Read a data file row by row.

    UTF-8, with or without byte order mark; any line ends. Blank lines are skipped. A CSV or TSV file starts with the
    names of its columns, and all its values are strings; quoted line breaks, other delimiters and quotes that are part
    of the text are recognized (see `labeldist.training.data.dialects`).

    Args:
        path: a file whose name ends in one of `SUFFIXES`.
        note: receives what was decided.
        table_format: what the user says about the fields of a CSV or TSV file.

    Yields:
        Where the row starts (line number, or row number in a Parquet file; from 1) and the row, by column.

    Raises:
        UserError: for a file that is missing, of another kind, broken, not UTF-8, or without rows.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "train.csv"
        >>> _ = path.write_text("text,label\nwhere is it?,question\n")
        >>> list(read_rows(path))
        [(2, {'text': 'where is it?', 'label': 'question'})]
    """
    path = Path(path)
    suffix = data_suffix(path)
    if suffix is None:
        raise UserError(f"{path} is of no kind that can be read. Give a file whose name ends in {_or(SUFFIXES)}.")
    check_file(path)
    if table_format and not suffix.startswith((".csv", ".tsv")):
        raise no_table(str(path))
    blank = _BlankLines(path)
    if suffix == ".parquet":
        rows = parquet_rows(path)
    elif suffix.startswith(".jsonl"):
        rows = _json_rows(file_lines(path), path, blank)
    else:
        usual = "\t" if suffix.startswith(".tsv") else ","
        rows = _table_rows(file_lines(path), path, usual, note, blank, table_format)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path} holds no rows.")
    yield first
    yield from rows
    if clause := blank.note():
        note(clause)


def no_table(name: str) -> UserError:
    """The complaint about a table's format given for what is no table."""
    return UserError(f"--delimiter and --quotes belong to csv and tsv files, and {name} is none.")


class _BlankLines:
    """Counts the blank lines between rows, which are skipped; those at the end are nothing to speak of."""

    def __init__(self, path: Path):
        self._path = path
        self._pending: list[int] = []
        self._first, self._number = 0, 0

    def add(self, number: int) -> None:
        """A blank line."""
        self._pending.append(number)

    def row(self) -> None:
        """A row follows."""
        if self._pending:
            self._first = self._first or self._pending[0]
            self._number += len(self._pending)
            self._pending = []

    def note(self) -> str | None:
        """What to say at the end."""
        if not self._number:
            return None
        return f"{self._path}: {_counted(self._number, 'blank line')} skipped, the first is line {self._first}"


def read_texts(
    path: Path | str,
    text_column: str | None = None,
    *,
    note: Note = _ignore,
    table_format: TableFormat | None = None,
) -> Iterator[str]:
    r"""Read texts one by one, for prediction.

    Args:
        path: a file as in `read_rows`, a `.txt` file (one text a line), or `"-"` for standard input (one text a line).
        text_column: the column that holds the text; found by name unless given. A file of one column needs neither.
        note: receives what was decided: the dialect of a table at once, rows that were joined or skipped at the end.
        table_format: what the user says about the fields of a CSV or TSV file.

    Yields:
        The texts, in order. A blank line of plain text is yielded, too: the answer to line N is the N-th one.

    Raises:
        UserError: for a defect of the file, a missing column or a row whose text is empty.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "texts.txt"
        >>> _ = path.write_text("first text\nsecond text\n")
        >>> list(read_texts(path))
        ['first text', 'second text']
    """
    is_stdin = str(path) == _STDIN
    if is_stdin or Path(path).suffix.lower() == ".txt":
        if table_format:
            raise no_table("standard input" if is_stdin else str(path))
        yield from _plain_texts(path, note, is_stdin=is_stdin)
        return
    if data_suffix(path) is None:
        kinds = _or((".txt", *SUFFIXES))
        raise UserError(f"{path} is of no kind that can be read. Give '-' or a file whose name ends in {kinds}.")
    place = place_of(path)
    for number, row in read_rows(path, note=note, table_format=table_format):
        if text_column is None or text_column not in row:
            text_column = find_text_column(row, place.of_columns(number), named=text_column)
        text = row[text_column]
        yield text if is_text(text) else text_of(row, text_column, place.at(number))


def data_suffix(path: Path | str) -> str | None:
    """Which of `SUFFIXES` a file name ends in, in either case.

    Examples:
        >>> data_suffix("data/Train.JSONL.gz"), data_suffix("notes.docx")
        ('.jsonl.gz', None)
    """
    name = Path(path).name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default=None)


def place_of(path: Path | str) -> Place:
    """How to name a row of this file in a message.

    Examples:
        >>> place_of("train.csv").at(3)
        'train.csv, line 3'
    """
    return Place(str(path), "row" if data_suffix(path) == ".parquet" else "line")


def _plain_texts(path: Path | str, note: Note, *, is_stdin: bool) -> Iterator[str]:
    name = "standard input" if is_stdin else str(path)
    if not is_stdin:
        check_file(Path(path))
    number, num_blank, first_blank = 0, 0, 0
    for number, line in decoded_lines(sys.stdin.buffer, name) if is_stdin else file_lines(Path(path)):
        text = line.removesuffix("\r")
        if not text.strip():
            num_blank, first_blank = num_blank + 1, first_blank or number
            yield text
            continue
        yield text if is_text(text) else text_of({"text": text}, "text", f"{name}, line {number}")
    if not number:
        raise UserError(f"{name} holds no texts.")
    if num_blank:
        have = "has" if num_blank == 1 else "have"
        note(f"{name}: {_counted(num_blank, 'blank line')} {have} no label, the first is line {first_blank}")


def _json_rows(lines: Lines, path: Path, blank: "_BlankLines") -> Rows:
    decode = json.JSONDecoder().decode
    quoted: dict[str, str] = {}
    for number, line in lines:
        if not line or line.isspace():
            blank.add(number)
            continue
        blank.row()
        try:
            row = decode(line)
            # Each member has a colon. More of them stand in texts, or in a member that is written twice.
            if type(row) is dict and line.count(":") > len(row):
                _check_keys(line, row, quoted)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not valid JSON: {error.msg} at column {error.colno}. "
                "Each line must be one JSON object."
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: JSON that cannot be read: {error}.") from error
        if type(row) is not dict:
            raise UserError(
                f"{path}, line {number}: each line must be one JSON object such as "
                f'{{"text": "...", "label": "..."}}, got {_json_kind(row)}.'
            )
        yield number, row


def _check_keys(line: str, row: dict[str, Any], quoted: dict[str, str]) -> None:
    """Raise `ValueError` if a key stands twice in `row`: `json` keeps the last one in silence.

    `quoted` remembers how keys are written. To decode each line with a hook for its keys would take twice the time.
    """
    for key in row:
        if key not in quoted:
            quoted[key] = json.dumps(key, ensure_ascii=False)
        if line.count(quoted[key]) > 1:
            json.loads(line, object_pairs_hook=_unique_keys)
            return


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"the key {shown(_doubled([key for key, _ in pairs]))} stands more than once in one object")
    return row


def _json_kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _table_rows(
    lines: Lines, path: Path, usual: str, note: Note, blank: "_BlankLines", told: TableFormat | None
) -> Rows:
    head, lines = _head(lines)
    is_whole = sum(len(line) for _, line in head) < _HEAD
    dialect = find_dialect([line + "\n" for _, line in head], usual, is_whole=is_whole, told=told)
    if unusual := dialect.note(usual):
        note(f"{path}: {unusual}")
    lines = itertools.islice(itertools.chain(head, lines), dialect.skipped, None)
    del head
    reader = csv.reader((line + "\n" for _, line in lines), **dialect.options())
    header: list[str] = []
    joined = _JoinedLines(path, dialect)
    number, header_line, num_rows = dialect.skipped + 1, 0, 0
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}, line {number}: {csv_defect(error)}") from error
        if fields is None:
            break
        first, number = number, dialect.skipped + reader.line_num + 1
        if not fields or fields == [""]:
            blank.add(first)
            continue
        blank.row()
        if not header:
            header = [name.strip() for name in fields]
            header_line = first
            _check_header(header, path, first)
            if told and told.delimiter and len(header) == 1:
                raise UserError(
                    f"{path}, line {first}: --delimiter {shown(told.delimiter)} does not stand in the header, "
                    f"{shown(header[0])}."
                )
            continue
        if len(fields) != len(header):
            hint = (
                "Quotes are read as part of the text here, so no field may contain the separator."
                if dialect.quoting == "none"
                else "Quote fields that contain the separator, a quote or a line break."
            )
            raise UserError(
                f"{path}, line {first}: {_counted(len(fields), 'field')} where the header has {len(header)}. {hint}"
                f"{'' if told else ' Where the format is found wrongly, give --delimiter or --quotes.'}"
            )
        if number - first > 1:
            joined.check(fields, first)
        yield first, dict(zip(header, fields, strict=True))
        num_rows += 1
    if header and not num_rows:
        raise UserError(
            f"{path} holds no rows: line {header_line} names the columns ({listed(header)}), and that is all."
        )
    if clause := joined.note():
        note(clause)


def _head(lines: Lines) -> tuple[list[tuple[int, str]], Lines]:
    """The first lines, and an iterator over the others; a defect among the first is raised after them."""
    head: list[tuple[int, str]] = []
    size = 0
    try:
        for numbered in lines:
            head.append(numbered)
            size += len(numbered[1])
            if size >= _HEAD:
                break
    except UserError as error:
        return head, _raising(error)
    return head, lines


def _raising(error: UserError) -> Lines:
    raise error
    yield


class _JoinedLines:
    """Watches over the rows that quotes made of several lines: no row must become a part of another one unsaid."""

    def __init__(self, path: Path, dialect: Dialect):
        self._path = path
        self._delimiter = dialect.delimiter
        self._doubtful: list[int] = []

    def check(self, fields: list[str], number: int) -> None:
        """Raise `UserError` if the lines of this row are rows in themselves."""
        lines = self._delimiter.join(fields).split("\n")
        if joins_rows(lines, self._delimiter, len(fields)):
            raise UserError(
                f"{self._path}, line {number}: a quote that is opened here is closed {len(lines) - 1} lines below, but "
                "these lines are rows in themselves. In a quoted field write each quote twice, or give the file as "
                ".jsonl."
            )
        if num_rows_within(lines, self._delimiter, len(fields)) == len(lines):
            self._doubtful.append(number)

    def note(self) -> str | None:
        """What to say at the end."""
        if not self._doubtful:
            return None
        rows = _counted(len(self._doubtful), "row")
        return (
            f"{self._path}: {rows} of several lines that could be rows in themselves, joined by quotes; the first "
            f"starts in line {self._doubtful[0]}"
        )


def _check_header(header: list[str], path: Path, number: int) -> None:
    if len(set(header)) < len(header):
        raise UserError(f"{path}, line {number}: the header names the column {shown(_doubled(header))} more than once.")


def _doubled(names: list[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _or(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]
