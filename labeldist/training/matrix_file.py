"""A label-distance matrix from a file, by class name: pairs, groups, a hierarchy, or every entry."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from labeldist.class_names import class_index
from labeldist.ldm import StaticLDM
from labeldist.training.errors import UserError

__all__ = ["parse_pair", "read_matrix_file"]

_KEYS = ("pairs", "groups", "hierarchy", "matrix")


def read_matrix_file(path: Path | str, class_names: Sequence[str], *, max_distance: float = 5.0) -> StaticLDM:
    """Read a label-distance matrix.

    A `.json` file holds one object with exactly one of these keys:

    - `"pairs"`: `[["a", "b"], ["a", "c", 3.0]]`, the third entry a distance of the pair's own;
    - `"groups"`: `{"sport": ["a", "b"]}` or `[["a", "b"]]`;
    - `"hierarchy"`: nested objects and arrays whose leaves are all the classes;
    - `"matrix"`: rows of numbers, with `"class_names"` for their order, as in the `ldm.json` of a run,

    and optionally `"max_distance"`, which takes precedence over the argument. A `.csv` or `.tsv` file holds the whole
    matrix: class names in the first row and the first column, in any order. Row = anchor's class, column = the
    other's.

    Args:
        path: the file.
        class_names: the corpus's classes, in its order.
        max_distance: distance of confusable classes in pairs, groups and hierarchies.

    Returns:
        The matrix, in the order of `class_names`.

    Raises:
        UserError: for a file that is missing or broken, an unknown, missing or doubled class (the nearest name is
            offered), a matrix of another size, or an entry that is negative, NaN or no number.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "ldm.json"
        >>> _ = path.write_text('{"pairs": [["question", "status"]], "max_distance": 3}')
        >>> read_matrix_file(path, ["praise", "question", "status"]).distance("question", "status")
        3.0
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".json", ".csv", ".tsv"):
        raise UserError(f"{path}: a label-distance matrix is read from a .json, .csv or .tsv file.")
    text = _read_text(path)
    try:
        if suffix == ".json":
            return _from_json(_parse_json(text), class_names, max_distance)
        return _from_table(text, "\t" if suffix == ".tsv" else ",", class_names)
    # The builders check classes and entries; here their sentence gets the file's name.
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: {error}") from error


def parse_pair(text: str, class_names: Sequence[str]) -> tuple[str, str]:
    """Split `first,second` into two classes; their names may contain commas themselves.

    Args:
        text: as written on the command line.
        class_names: the corpus's classes.

    Returns:
        Both names.

    Raises:
        UserError: if there is no comma, a class is unknown (the nearest name is offered), both are the same, or the
            text can be read in two ways.

    Examples:
        >>> parse_pair("praise, thanks,question", ["praise, thanks", "question", "status"])
        ('praise, thanks', 'question')
    """
    known = {name.strip() for name in class_names}
    pieces = text.split(",")
    if len(pieces) < 2:
        raise UserError(f"A confusable pair is written first,second, got {text!r}.")
    splits = [(",".join(pieces[:i]).strip(), ",".join(pieces[i:]).strip()) for i in range(1, len(pieces))]
    valid = [pair for pair in splits if pair[0] in known and pair[1] in known]
    if len(valid) > 1:
        readings = " or ".join(f"{a!r} and {b!r}" for a, b in valid)
        raise UserError(
            f"The confusable pair {text!r} can be read as {readings}. Give it in a matrix file (--matrix-file)."
        )
    if not valid:
        # Report the reading that is nearest to a valid one: one known side if there is such.
        first, second = next((pair for pair in splits if known & set(pair)), splits[0])
        try:
            class_index(second if first in known else first, class_names)
        except ValueError as error:
            raise UserError(f"The confusable pair {text!r}: {error}") from error
    if valid[0][0] == valid[0][1]:
        raise UserError(f"A confusable pair must name two different classes, got {valid[0][0]!r} twice.")
    return valid[0]


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path} is a folder where a file is expected.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"There is no matrix file {path}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start + 1} is not UTF-8. Convert the file to UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not text.strip():
        raise UserError(f"{path} is empty.")
    return text


def _parse_json(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not valid JSON: {error.msg} at column {error.colno}.") from error
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply.") from error
    found = [key for key in _KEYS if key in content] if isinstance(content, dict) else []
    if len(found) != 1:
        got = " and ".join(found) or "none of them"
        raise ValueError(f"a matrix file is one JSON object with exactly one of {', '.join(_KEYS)}, got {got}.")
    # What stands beside the matrix in a run's own file.
    beside = ("class_names", "source", "history") if found[0] == "matrix" else ()
    unknown = set(content) - {found[0], "max_distance", *beside}
    if unknown:
        raise ValueError(f"beside {found[0]!r} there is {sorted(unknown)[0]!r}, which has no meaning here.")
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {doubled!r} stands twice in one JSON object.")
    return content


def _from_json(content: dict[str, Any], class_names: Sequence[str], max_distance: float) -> StaticLDM:
    max_distance = content.get("max_distance", max_distance)
    if not _is_number(max_distance):
        raise ValueError(f"max_distance must be a number above 0, got {max_distance!r}.")
    if "pairs" in content:
        return StaticLDM.from_pairs(_pairs(content["pairs"]), max_distance=max_distance, class_names=class_names)
    if "groups" in content:
        return StaticLDM.from_groups(_groups(content["groups"]), max_distance=max_distance, class_names=class_names)
    if "hierarchy" in content:
        return StaticLDM.from_hierarchy(
            _named_leaves(content["hierarchy"]), max_distance=max_distance, class_names=class_names
        )
    if "class_names" not in content:
        raise ValueError('a "matrix" needs "class_names" beside it, the classes of its rows and columns in order.')
    names = _names(content["class_names"], "class_names")
    return _ordered(_rows(content["matrix"], names), names, names, class_names)


def _pairs(value: Any) -> list[list[Any]]:
    """Check the form of pairs and that no two speak of the same classes."""
    seen: dict[frozenset[str], list[Any]] = {}
    if not isinstance(value, list):
        raise ValueError('"pairs" must be an array of pairs such as ["a", "b"] or ["a", "b", 3.0].')
    for pair in value:
        if not isinstance(pair, list) or len(pair) not in (2, 3):
            raise ValueError(f'each of "pairs" must be ["a", "b"] or ["a", "b", 3.0], got {json.dumps(pair)}.')
        first, second = _names(pair[:2], "pairs")
        if pair[2:] and not (_is_number(pair[2]) and 0 <= pair[2] < math.inf):
            raise ValueError(f"the distance of a pair must be a finite number >= 0, got {json.dumps(pair)}.")
        if frozenset((first, second)) in seen:
            raise ValueError(f"the pair {first!r} and {second!r} stands more than once.")
        seen[frozenset((first, second))] = [first, second, *pair[2:]]
    return list(seen.values())


def _groups(value: Any) -> list[list[str]]:
    groups = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise ValueError('"groups" must be {"name": ["a", "b"]} or [["a", "b"]].')
    named = [_names(group, "groups") for group in groups]
    for group in named:
        doubled = [name for name in group if group.count(name) > 1]
        if doubled:
            raise ValueError(f"a group names the class {doubled[0]!r} more than once.")
    return named


def _names(value: Any, key: str) -> list[str]:
    """Class names; numbers and booleans are named as in a corpus."""
    if not isinstance(value, list) or not all(isinstance(name, str | int) for name in value):
        raise ValueError(f'"{key}" must hold class names, got {json.dumps(value)}.')
    return [str(name).strip() for name in value]


def _named_leaves(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _named_leaves(child) for name, child in tree.items()}
    if isinstance(tree, list):
        return [_named_leaves(child) for child in tree]
    return _names([tree], "hierarchy")[0]


def _rows(value: Any, names: Sequence[str]) -> list[list[float]]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise ValueError('"matrix" must be an array of rows, each an array of numbers.')
    if len(value) != len(names):
        raise ValueError(f"the matrix has {len(value)} rows for {len(names)} class names.")
    for name, row in zip(names, value, strict=True):
        if len(row) != len(names):
            raise ValueError(f"row {name!r} of the matrix has {len(row)} entries for {len(names)} class names.")
        wrong = [entry for entry in row if not _is_number(entry)]
        if wrong:
            raise ValueError(f"row {name!r} of the matrix has the entry {json.dumps(wrong[0])}, which is no number.")
    return value


def _from_table(text: str, delimiter: str, class_names: Sequence[str]) -> StaticLDM:
    lines = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    rows = [[field.strip() for field in row] for row in lines if any(field.strip() for field in row)]
    if not rows:
        raise ValueError("the table holds no rows.")
    columns = rows[0][1:]
    row_names = [row[0] for row in rows[1:]]
    matrix: list[list[float]] = []
    for name, *entries in rows[1:]:
        if len(entries) != len(columns):
            raise ValueError(f"row {name!r} has {len(entries)} entries where the header names {len(columns)} classes.")
        matrix.append([_as_number(entry, name, column) for entry, column in zip(entries, columns, strict=True)])
    return _ordered(matrix, row_names, columns, class_names)


def _as_number(entry: str, row: str, column: str) -> float:
    try:
        return float(entry)
    except ValueError:
        raise ValueError(f"row {row!r}, column {column!r}: {entry!r} is no number.") from None


def _ordered(
    matrix: list[list[float]], rows: Sequence[str], columns: Sequence[str], class_names: Sequence[str]
) -> StaticLDM:
    """Reorder a matrix to `class_names`, and check its entries while its own row and column names are at hand."""
    for names, kind in ((rows, "row"), (columns, "column")):
        # Raises for an unknown class, with the nearest name.
        indices = [class_index(name, class_names) for name in names]
        doubled = [name for name in names if list(names).count(name) > 1]
        if doubled:
            raise ValueError(f"the class {doubled[0]!r} has more than one {kind}.")
        missing = [name for i, name in enumerate(class_names) if i not in indices]
        if missing:
            raise ValueError(
                f"the matrix must have a {kind} for each of the {len(class_names)} classes, "
                f"it has {len(names)} and {missing[0]!r} is missing."
            )
    for name, row in zip(rows, matrix, strict=True):
        for column, entry in zip(columns, row, strict=True):
            if not 0 <= entry < math.inf:
                raise ValueError(f"row {name!r}, column {column!r}: a distance must be finite and >= 0, got {entry}.")
    row_of, column_of = ({name: i for i, name in enumerate(names)} for names in (rows, columns))
    ordered = [[float(matrix[row_of[a]][column_of[b]]) for b in class_names] for a in class_names]
    return StaticLDM(torch.tensor(ordered), class_names=class_names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
