"""Parquet files to rows, holding a small batch at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labeldist.messages import shown
from labeldist.training.data.columns import Unread
from labeldist.training.data.lines import path_kind
from labeldist.training.errors import UserError

__all__ = ["parquet_rows"]

_BATCH = 1024
_BUFFER = 2**20

Rows = Iterator[tuple[int, dict[str, Any]]]


def parquet_rows(path: Path) -> Rows:
    """Read a Parquet file row by row.

    Columns of strings, integers, numbers and booleans are read; any other value is an `Unread` of its type. Class
    indices of a file that `datasets` wrote become class names.

    Args:
        path: a regular file.

    Yields:
        The number of the row, from 1, and the row, by column.

    Raises:
        UserError: for a file that is broken, or names a column twice; if `pyarrow` is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError('Reading Parquet needs pyarrow. Install it with: pip install "labeldist[train]"') from error
    if path_kind(path) != "file":
        raise UserError(f"{path} is a pipe or a device. Parquet is read from a regular file.")
    number = 0
    try:
        # A small buffer, and nothing read ahead: else a whole row group, often the whole file, stands in memory.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as table:
            schema = table.schema_arrow
            _check_columns(schema.names, path)
            # A date out of Python's range, say, in a column that nobody asked for must not end the reading.
            read = [field.name for field in schema if _is_plain(field.type)]
            others = {field.name: Unread(str(field.type)) for field in schema if not _is_plain(field.type)}
            classes = _class_names(schema.metadata)
            for batch in table.iter_batches(_BATCH, columns=read):
                for row in batch.to_pylist():
                    number += 1
                    for column, names in classes.items():
                        row[column] = _named(row.get(column), names)
                    yield number, row | others if others else row
            # Without any plain column there is nothing in the batches to count.
            while number < table.metadata.num_rows:
                number += 1
                yield number, dict(others)
    except UserError:
        raise
    # On damaged files pyarrow raises errors of its own and many of Python's, some of them from C++ code.
    except Exception as error:
        after = f" after row {number}" if number else ""
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise UserError(f"{path} is not a sound Parquet file{after}: {reason}.") from error


def _check_columns(names: list[str], path: Path) -> None:
    if len(set(names)) < len(names):
        doubled = next(name for i, name in enumerate(names) if name in names[:i])
        raise UserError(f"{path} has more than one column {shown(doubled)}.")


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    tests = (
        types.is_string, types.is_large_string, types.is_string_view, types.is_integer, types.is_floating,
        types.is_boolean, types.is_null,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names behind columns of class indices, which `datasets` keeps in the schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(column): [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    # No such metadata, or not of that form: the indices stay.
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _named(index: Any, names: list[str]) -> Any:
    """The name of a class index; no label for a hidden one (-1), anything else as it is."""
    if not isinstance(index, int) or index >= len(names):
        return index
    return names[index] if index >= 0 else None
