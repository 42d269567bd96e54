"""Files to rows: JSON Lines, CSV, TSV and Parquet, in constant memory; every defect names its file and line."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from labeldist.class_names import nearest_name
from labeldist.training.data.columns import Place, find_text_column, text_of
from labeldist.training.errors import UserError

__all__ = ["SUFFIXES", "data_suffix", "place_of", "read_rows", "read_texts"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""The kinds of file that `read_rows` opens, by the end of the name."""

_STDIN = "-"
_PARQUET_BATCH = 1024
_PARQUET_BUFFER = 2**20


def read_rows(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    r"""Read a data file row by row.

    UTF-8, with or without byte order mark; Unix or Windows line ends; quoted line breaks in CSV and TSV. Blank lines
    are skipped. A CSV or TSV file starts with the names of its columns, and all its values are strings.

    Args:
        path: a file whose name ends in one of `SUFFIXES`.

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
        raise UserError(f"{path} is of no kind that can be read. Give a file whose name ends in {_listed(SUFFIXES)}.")
    _check_file(path)
    if suffix == ".parquet":
        rows = _parquet_rows(path)
    else:
        lines = _file_lines(path)
        delimiter = "\t" if suffix.startswith(".tsv") else ","
        rows = _json_rows(lines, path) if suffix.startswith(".jsonl") else _table_rows(lines, path, delimiter)
    is_empty = True
    for row in rows:
        is_empty = False
        yield row
    if is_empty:
        raise UserError(f"{path} holds no rows.")


def read_texts(path: Path | str, text_column: str | None = None) -> Iterator[str]:
    r"""Read texts one by one, for prediction.

    Args:
        path: a file as in `read_rows`, a `.txt` file (one text a line), or `"-"` for standard input (one text a line).
        text_column: the column that holds the text; found by name unless given. A file of one column needs neither.

    Yields:
        The texts, in order.

    Raises:
        UserError: for a defect of the file, a missing column or an empty text.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "texts.txt"
        >>> _ = path.write_text("first text\nsecond text\n")
        >>> list(read_texts(path))
        ['first text', 'second text']
    """
    is_stdin = str(path) == _STDIN
    if is_stdin or Path(path).suffix.lower() == ".txt":
        yield from _plain_texts(path, is_stdin=is_stdin)
        return
    if data_suffix(path) is None:
        kinds = _listed((".txt", *SUFFIXES))
        raise UserError(f"{path} is of no kind that can be read. Give '-' or a file whose name ends in {kinds}.")
    place = place_of(path)
    for number, row in read_rows(path):
        if text_column is None or text_column not in row:
            text_column = find_text_column(row, place.at(number), named=text_column)
        yield text_of(row, text_column, place.at(number))


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


def _plain_texts(path: Path | str, *, is_stdin: bool) -> Iterator[str]:
    name = "standard input" if is_stdin else str(path)
    if not is_stdin:
        _check_file(Path(path))
    number = 0
    for number, line in _decoded(sys.stdin.buffer, name) if is_stdin else _file_lines(Path(path)):
        yield text_of({"text": line.rstrip("\r\n")}, "text", f"{name}, line {number}")
    if not number:
        raise UserError(f"{name} holds no texts.")


def _check_file(path: Path) -> None:
    """Raise unless there is such a file with something in it."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder where a file is expected.")
        if not path.exists():
            folder = path.parent
            names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
            raise UserError(f"There is no file {path}.{nearest_name(path.name, names)}")
        # Only a regular file tells its size: a pipe such as /dev/stdin says 0.
        if path.is_file() and not path.stat().st_size:
            raise UserError(f"{path} is empty.")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _file_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a plain or gzipped UTF-8 file."""
    with _reading(path), gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        yield from _decoded(stream, str(path))


def _decoded(stream: IO[bytes] | gzip.GzipFile, name: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(stream, start=1):
        try:
            # utf-8-sig drops the byte order mark that some editors write at the start.
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8. "
                "Convert the file to UTF-8."
            ) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the system or the decompressor says into one sentence."""
    try:
        yield
    except gzip.BadGzipFile as error:
        raise UserError(f"{path} is not a sound gzip file: {error}.") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is a damaged or incomplete gzip file: {error}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _json_rows(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not valid JSON: {error.msg} at column {error.colno}. "
                "Each line must be one JSON object."
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: JSON that cannot be read: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {number}: each line must be one JSON object such as "
                f'{{"text": "...", "label": "..."}}, got {_json_kind(row)}.'
            )
        yield number, row


def _json_kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _table_rows(lines: Iterator[tuple[int, str]], path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}, line {number}: {_csv_defect(error)}") from error
        if not fields or fields == [""]:
            continue
        if header is None:
            header = [name.strip() for name in fields]
            _check_header(header, path)
        elif len(fields) != len(header):
            raise UserError(
                f"{path}, line {number}: {_counted(len(fields), 'field')} where the header has {len(header)}. "
                "Quote fields that contain the separator, a quote or a line break."
            )
        else:
            yield number, dict(zip(header, fields, strict=True))


def _csv_defect(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quote is opened in this row and never closed."
    if "field limit" in str(error):
        limit = csv.field_size_limit()
        return f"a field is longer than {limit} characters. Close its quote, or use .jsonl for long texts."
    return f"a broken row: {error}."


def _check_header(header: list[str], path: Path) -> None:
    doubled = [name for i, name in enumerate(header) if name in header[:i]]
    if doubled:
        raise UserError(f"{path}: the header names the column {doubled[0]!r} more than once.")


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError('Reading Parquet needs pyarrow. Install it with: pip install "labeldist[train]"') from error
    number = 0
    try:
        # A small buffer, and nothing read ahead: else a whole row group, often the whole file, stands in memory.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BUFFER) as table:
            for batch in table.iter_batches(_PARQUET_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        after = f" after row {number}" if number else ""
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path} is not a sound Parquet file{after}: {reason}.") from error


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]
