"""Relations in files: JSON in several forms, and a table of closeness as csv or tsv."""

import csv
import json
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from labeldist.class_names import class_indices, nearest_name
from labeldist.messages import listed, shown, shown_json

__all__ = ["KEYS", "check_same_classes", "map_leaves", "parse_relation", "read_text", "table_of_text", "text_of_table"]

KEYS = ("closeness", "distances", "costs", "order", "groups", "pairs", "hierarchy")
"""What a JSON file may describe a relation by."""

Described = tuple[str, Any, tuple[str, ...] | None]
"""The key, what stands there, and the class names of the file."""


def parse_relation(text: str, suffix: str) -> Described:
    r"""What a file describes a relation by.

    Args:
        text: of the file.
        suffix: `".json"`, `".csv"` or `".tsv"`.

    Raises:
        ValueError: if the text is no such file.

    Examples:
        >>> parse_relation('{"order": ["bad", "fair", "good"]}', ".json")
        ('order', ['bad', 'fair', 'good'], ('bad', 'fair', 'good'))
        >>> parse_relation(",a,b\na,1,0.5\nb,0.5,1\n", ".csv")
        ('closeness', [[1.0, 0.5], [0.5, 1.0]], ('a', 'b'))
    """
    if suffix != ".json":
        header = text.lstrip().partition("\n")[0]
        comma = ";" if ";" in header and "," not in header else ","
        table, names = table_of_text(text, "\t" if suffix == ".tsv" else comma)
        return "closeness", table, names
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not valid JSON: {error.msg} at column {error.colno}.") from error
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply.") from error
    if not isinstance(content, dict | list):
        raise ValueError(f"a relation is a JSON object with one of {', '.join(KEYS)}, or a hierarchy itself.")
    found = [key for key in KEYS if key in content] if isinstance(content, dict) else []
    if isinstance(content, dict) and not found and _is_table(content):
        raise ValueError(
            "this reads like costs, {true class: {chosen class: cost}}. A relation takes them as rows of numbers: "
            '{"class_names": [...], "costs": [[...], ...]}.'
        )
    if isinstance(content, list) or not found:
        # A hierarchy as `--hierarchy` takes it.
        return "hierarchy", _named(content, "hierarchy"), None
    if len(found) > 1 or set(content) - {found[0], "class_names"}:
        other = found[1] if len(found) > 1 else min(set(content) - {found[0], "class_names"})
        raise ValueError(f'beside {found[0]!r} there may be "class_names" alone, got {shown(other)}.')
    key = found[0]
    value = _named(content[key], key)
    names = _names(content["class_names"]) if "class_names" in content else None
    if key == "order":
        names = names or tuple(value)
    if key in ("closeness", "distances", "costs"):
        if names is None:
            raise ValueError(f'{key!r} needs "class_names" beside it, the classes of its rows and columns in order.')
        _check_table(value, names)
    return key, value, names


def _is_table(content: dict[str, Any]) -> bool:
    """Whether all values are objects that hold numbers alone, as in a file of costs."""
    cells = [cell for row in content.values() for cell in (row.values() if isinstance(row, dict) else [None])]
    return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


def table_of_text(text: str, delimiter: str) -> tuple[list[list[float]], tuple[str, ...]]:
    r"""A table with class names in the first row and the first column, its rows put into the order of the columns.

    Raises:
        ValueError: if there is no row, an entry is no number, or rows and columns do not name the same classes.

    Examples:
        >>> table_of_text(",a,b\nb,3,4\na,1,2\n", ",")
        ([[1.0, 2.0], [3.0, 4.0]], ('a', 'b'))
    """
    try:
        rows = [[field.strip() for field in row] for row in csv.reader(StringIO(text, newline=""), delimiter=delimiter)]
    except csv.Error as error:
        raise ValueError(f"the table cannot be read: {error}.") from error
    rows = [row for row in rows if any(row)]
    if len(rows) < 2:
        raise ValueError("the table must have class names in its first row and a row for each class.")
    columns = tuple(rows[0][1:])
    table = {}
    for name, *entries in rows[1:]:
        if name in table:
            raise ValueError(f"the class {shown(name)} has more than one row.")
        if len(entries) != len(columns):
            raise ValueError(
                f"row {shown(name)} has {len(entries)} entries where the header names {len(columns)} classes."
            )
        table[name] = [_number(entry, name, column) for entry, column in zip(entries, columns, strict=True)]
    order = class_indices(table, columns)
    doubled = next((name for i, name in enumerate(columns) if name in columns[:i]), None)
    missing = next((name for name in columns if name not in table), None)
    if doubled is not None or missing is not None:
        fault = f"{shown(doubled)} has more than one column" if doubled is not None else f"{shown(missing)} has no row"
        raise ValueError(f"rows and columns must name the same classes, and {fault}.")
    entries = list(table.values())
    return [entries[order.index(i)] for i in range(len(columns))], columns


def text_of_table(table: Sequence[Sequence[float]], names: Sequence[str], delimiter: str) -> str:
    r"""The inverse of `table_of_text`.

    Examples:
        >>> text_of_table([[1.0, 0.5], [0.5, 1.0]], ["a", "b"], ",")
        ',a,b\na,1.0,0.5\nb,0.5,1.0\n'
    """
    stream = StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(["", *names])
    writer.writerows([name, *row] for name, row in zip(names, table, strict=True))
    return stream.getvalue()


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: if it has another suffix, cannot be read, or is not UTF-8.
    """
    if path.suffix.lower() not in (".json", ".csv", ".tsv"):
        raise ValueError(f"{path}: a relation is read from a .json, .csv or .tsv file.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start + 1} is not UTF-8. Convert the file to UTF-8.") from error


def check_same_classes(found: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """The place in the file of each class.

    Raises:
        ValueError: if the file lacks a class, or names another one (the nearest name is offered).
    """
    for name in found:
        if name not in class_names:
            raise ValueError(
                f"There is no class {shown(name)}; the classes are {listed(class_names)}."
                f"{nearest_name(name, class_names)}"
            )
    for name in class_names:
        if name not in found:
            raise ValueError(f"it must relate every class, and {shown(name)} is missing.")
    return class_indices(class_names, found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"the key {shown(doubled)} stands twice in one JSON object.")
    return content


def _named(value: Any, key: str) -> Any:
    """What stands under a key, with class names that are whole numbers as text, as in a corpus."""
    if key == "order":
        return list(_names(value))
    if key == "hierarchy":
        return map_leaves(value, lambda leaf: _names([leaf])[0])
    if key == "groups":
        groups = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(groups, list):
            raise ValueError(f'"groups" must be {{"name": ["a", "b"]}} or [["a", "b"]], got {shown_json(value)}.')
        return [list(_names(group)) for group in groups]
    if key == "pairs":
        if not isinstance(value, list) or not all(isinstance(pair, list) for pair in value):
            raise ValueError(f'"pairs" must be [["a", "b"], ["a", "c", 0.5]], got {shown_json(value)}.')
        return [[*_names(pair[:2]), *pair[2:]] for pair in value]
    return value


def map_leaves(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Replace each leaf of nested objects and arrays, in place.

    Not recursive: a file may be nested deeper than Python's stack.

    Args:
        tree: as `json.loads` returns it.
        function: from a leaf to what stands there instead.

    Examples:
        >>> map_leaves({"sport": ["a", 1]}, str)
        {'sport': ['a', '1']}
    """
    root = [tree]
    inner: list[Any] = [root]
    while inner:
        node = inner.pop()
        for key, child in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if isinstance(child, dict | list):
                inner.append(child)
            else:
                node[key] = function(child)
    return root[0]


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str | int) for name in value):
        raise ValueError(f"class names must be a list of names, got {shown_json(value)}.")
    return tuple(str(name).strip() for name in value)


def _check_table(value: Any, names: Sequence[str]) -> None:
    if not isinstance(value, list) or len(value) != len(names):
        raise ValueError(f"the table must have a row for each of the {len(names)} class names.")
    for name, row in zip(names, value, strict=True):
        if not isinstance(row, list) or len(row) != len(names):
            raise ValueError(f"row {shown(name)} of the table must have {len(names)} entries.")
        for entry in row:
            if isinstance(entry, bool) or not isinstance(entry, int | float):
                raise ValueError(f"row {shown(name)} of the table has {shown_json(entry)}, which is no number.")


def _number(entry: str, row: str, column: str) -> float:
    try:
        return float(entry)
    except ValueError:
        raise ValueError(f"row {shown(row)}, column {shown(column)}: {shown(entry)} is no number.") from None
