"""Matrices from files, by class name: label distances (pairs, groups, a hierarchy, every entry) and costs."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from labeldist.class_names import class_index, class_indices
from labeldist.ldm import StaticLDM
from labeldist.messages import shown, shown_json
from labeldist.relation import Relation
from labeldist.relation.files import map_leaves
from labeldist.training.data.dialects import csv_defect, find_dialect
from labeldist.training.data.lines import check_file, open_file
from labeldist.training.errors import UserError
from labeldist.training.matrix_json import matrix_from_json

__all__ = ["cost_table", "parse_pair", "read_cost_file", "read_costs", "read_hierarchy", "read_matrix_file"]

_KEYS = ("pairs", "groups", "hierarchy", "matrix")
_MAX_BYTES = 2**30


def read_matrix_file(path: Path | str, class_names: Sequence[str], *, max_distance: float = 5.0) -> StaticLDM:
    """Read a label-distance matrix.

    A `.json` file holds one object with exactly one of these keys:

    - `"pairs"`: `[["a", "b"], ["a", "c", 3.0]]`, the third entry a distance of the pair's own;
    - `"groups"`: `{"sport": ["a", "b"]}` or `[["a", "b"]]`;
    - `"hierarchy"`: nested objects and arrays whose leaves are all the classes; the classes with the deepest common
      ancestor are pushed apart hardest (`Relation.near`);
    - `"matrix"`: rows of numbers, with `"class_names"` for their order, as in the `ldm.json` of a run,

    and optionally `"max_distance"`, which takes precedence over the argument. The `ldm.json` of a run is such a file:
    its matrix is taken. A `.csv` or `.tsv` file holds the whole matrix: class names in the first row and the first
    column, in any order. Row = anchor's class, column = the other's.

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
        entries = _ordered(*_table(text, suffix), class_names)
        return StaticLDM(entries, class_names=class_names)
    # The builders check classes and entries; here their sentence gets the file's name.
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def read_hierarchy(source: str) -> Any:
    """Read a hierarchy: nested objects and arrays whose leaves are class names.

    Args:
        source: a JSON file, or JSON itself, which starts with a brace or bracket. A matrix file with the key
            `"hierarchy"` gives what stands there.

    Raises:
        UserError: for a file that is missing or broken, or anything else than such a tree.

    Examples:
        >>> read_hierarchy('{"number": ["count", "date"]}')
        {'number': ['count', 'date']}
    """
    is_text = source.lstrip().startswith(("{", "["))
    name = "--hierarchy" if is_text else source
    text = source if is_text else _read_text(Path(source), "hierarchy file")
    try:
        content = _json_of(text)
        if isinstance(content, dict) and "hierarchy" in content and set(content) <= {"hierarchy", "max_distance"}:
            content = content["hierarchy"]
        if not isinstance(content, dict | list):
            raise ValueError('a hierarchy is made of objects and arrays, such as {"number": ["count", "date"]}.')
        return _named_leaves(content)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def read_costs(source: str, class_names: Sequence[str]) -> torch.Tensor:
    """Read what mistakes cost from a file, see `read_cost_file`, or from JSON itself, which starts with a brace.

    Raises:
        UserError: for anything else, or costs that do not fit the classes.

    Examples:
        >>> read_costs('{"spam": {"mail": 1}, "mail": {"spam": 20}}', ["mail", "spam"])[0]
        tensor([ 0., 20.])
    """
    if not source.lstrip().startswith("{"):
        return read_cost_file(source, class_names)
    try:
        return cost_table(_json_of(source), class_names)
    except ValueError as error:
        raise UserError(f"--costs: {error}") from error


def read_cost_file(path: Path | str, class_names: Sequence[str]) -> torch.Tensor:
    """Read what mistakes cost.

    A `.json` file holds one object by true class, `{"spam": {"mail": 1}, "mail": {"spam": 20}}`, or `"matrix"` with
    `"class_names"`. A `.csv` or `.tsv` file holds the whole table: class names in the first row and the first column,
    in any order. Row = true class, column = decided class. Without an entry, the right decision costs nothing.

    Args:
        path: the file.
        class_names: the classes, in their order.

    Returns:
        `(C, C)`, in the order of `class_names`.

    Raises:
        UserError: for a file that is missing or broken, an unknown, missing or doubled class (the nearest name is
            offered), or a cost that is missing, negative, NaN or no number.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "costs.json"
        >>> _ = path.write_text('{"spam": {"mail": 1}, "mail": {"spam": 20}}')
        >>> read_cost_file(path, ["mail", "spam"])
        tensor([[ 0., 20.],
                [ 1.,  0.]])
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".json", ".csv", ".tsv"):
        raise UserError(f"{path}: costs are read from a .json, .csv or .tsv file.")
    text = _read_text(path, "cost file")
    try:
        if suffix == ".json":
            return cost_table(_json_of(text), class_names)
        return _ordered(*_table(text, suffix), class_names, "cost")
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def cost_table(costs: Any, class_names: Sequence[str]) -> torch.Tensor:
    """Costs by true class and decided class, or `"matrix"` with `"class_names"`, as a table; see `read_cost_file`.

    Raises:
        ValueError: for anything else.

    Examples:
        >>> cost_table({"spam": {"mail": 1}, "mail": {"spam": 20}}, ["mail", "spam"])[0]
        tensor([ 0., 20.])
    """
    if isinstance(costs, Mapping) and set(costs) == {"class_names", "matrix"} and isinstance(costs["matrix"], list):
        names = _names(costs["class_names"], "class_names")
        return _ordered(_rows(costs["matrix"], names), names, names, class_names, "cost")
    if not isinstance(costs, Mapping) or not all(isinstance(row, Mapping) for row in costs.values()):
        raise ValueError('costs are one object by true class, such as {"spam": {"mail": 1}, "mail": {"spam": 20}}.')
    rows = _names(list(costs), "costs")
    # Raises for an unknown class, with the nearest name.
    class_indices(rows, class_names)
    table = []
    for name, row in zip(rows, costs.values(), strict=True):
        given = dict(zip(_names(list(row), "costs"), row.values(), strict=True))
        class_indices(given, class_names)
        for other, cost in given.items():
            if not _is_number(cost):
                raise ValueError(f"the cost of {shown(other)} for {shown(name)} must be a number, got {shown(cost)}.")
        missing = next((other for other in class_names if other != name and other not in given), None)
        if missing is not None:
            raise ValueError(f"the cost of deciding {shown(missing)} for a row of {shown(name)} is missing.")
        table.append([_as_float(given.get(other, 0)) for other in class_names])
    return _ordered(table, rows, class_names, class_names, "cost")


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
        raise UserError(
            f"A confusable pair is written first,second, got {shown(text)}. In Python, give a list of pairs of names."
        )
    splits = [(",".join(pieces[:i]).strip(), ",".join(pieces[i:]).strip()) for i in range(1, len(pieces))]
    valid = [pair for pair in splits if pair[0] in known and pair[1] in known]
    if len(valid) > 1:
        readings = " or ".join(f"{shown(a)} and {shown(b)}" for a, b in valid[:3])
        raise UserError(
            f"The confusable pair {shown(text)} can be read as {readings}. Give it in a matrix file (--matrix-file)."
        )
    if not valid:
        # Report the reading that is nearest to a valid one: one known side if there is such.
        first, second = next((pair for pair in splits if known & set(pair)), splits[0])
        try:
            class_index(second if first in known else first, class_names)
        except ValueError as error:
            raise UserError(f"The confusable pair {shown(text)}: {error}") from error
    if valid[0][0] == valid[0][1]:
        raise UserError(f"A confusable pair must name two different classes, got {shown(valid[0][0])} twice.")
    return valid[0]


def _read_text(path: Path, noun: str = "matrix file") -> str:
    check_file(path, noun)
    with open_file(path) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path} is larger than {_MAX_BYTES >> 30} GiB, which is more than a {noun} may have.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start + 1} is not UTF-8. Convert the file to UTF-8.") from error
    if not text.strip():
        raise UserError(f"{path} is empty.")
    return text


def _json_of(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not valid JSON: {error.msg} at column {error.colno}.") from error
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply.") from error


def _under(content: Any) -> str:
    # A bare tree, as `--hierarchy` and `--relation-file` take it.
    is_tree = isinstance(content, dict) and content and all(isinstance(one, dict | list) for one in content.values())
    return ' Put a hierarchy under the key "hierarchy".' if is_tree else ""


def _parse_json(text: str) -> dict[str, Any]:
    content = _json_of(text)
    found = [key for key in _KEYS if key in content] if isinstance(content, dict) else []
    if len(found) != 1:
        got = " and ".join(found) or "none of them"
        raise ValueError(
            f"a matrix file is one JSON object with exactly one of {', '.join(_KEYS)}, got {got}.{_under(content)}"
        )
    unknown = set(content) - {found[0], "max_distance", *(("class_names",) if found[0] == "matrix" else ())}
    # A run writes where its matrix is from, and more that is of no use here.
    if unknown and not {"matrix", "class_names", "source"} <= content.keys():
        raise ValueError(f"beside {found[0]!r} there is {shown(min(unknown))}, which has no meaning here.")
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"the key {shown(_doubled([key for key, _ in pairs]))} stands twice in one JSON object.")
    return content


def _from_json(content: dict[str, Any], class_names: Sequence[str], max_distance: float) -> StaticLDM:
    if "max_distance" in content:
        if not _is_number(content["max_distance"]):
            raise ValueError(f"max_distance must be a number above 0, got {shown(content['max_distance'])}.")
        max_distance = _as_float(content["max_distance"])
    if "pairs" in content:
        return StaticLDM.from_pairs(_pairs(content["pairs"]), max_distance=max_distance, class_names=class_names)
    if "groups" in content:
        return StaticLDM.from_groups(_groups(content["groups"]), max_distance=max_distance, class_names=class_names)
    if "hierarchy" in content:
        relation = Relation.from_hierarchy(_named_leaves(content["hierarchy"]), class_names=class_names)
        return relation.scaled().near(max_distance)
    if "class_names" not in content:
        raise ValueError('a "matrix" needs "class_names" beside it, the classes of its rows and columns in order.')
    names = _names(content["class_names"], "class_names")
    if isinstance(content["matrix"], dict):
        compact = matrix_from_json(content["matrix"], len(names))
        if compact is None:
            raise ValueError('a "matrix" that is no array must be {"common": 1.0, "others": [[row, column, 5.0]]}.')
        return StaticLDM(_ordered(compact, names, names, class_names), class_names=class_names)
    entries = _ordered(_rows(content["matrix"], names), names, names, class_names)
    return StaticLDM(entries, class_names=class_names)


def _pairs(value: Any) -> list[list[Any]]:
    """Check the form of pairs and that no two speak of the same classes."""
    seen: dict[frozenset[str], list[Any]] = {}
    if not isinstance(value, list):
        raise ValueError('"pairs" must be an array of pairs such as ["a", "b"] or ["a", "b", 3.0].')
    for pair in value:
        if not isinstance(pair, list) or len(pair) not in (2, 3):
            raise ValueError(f'each of "pairs" must be ["a", "b"] or ["a", "b", 3.0], got {shown_json(pair)}.')
        first, second = _names(pair[:2], "pairs")
        distance = [_as_float(entry) for entry in pair[2:] if _is_number(entry)]
        if pair[2:] and not (distance and 0 <= distance[0] < math.inf):
            raise ValueError(f"the distance of a pair must be a finite number >= 0, got {shown_json(pair)}.")
        if frozenset((first, second)) in seen:
            raise ValueError(f"the pair {shown(first)} and {shown(second)} stands more than once.")
        seen[frozenset((first, second))] = [first, second, *distance]
    return list(seen.values())


def _groups(value: Any) -> list[list[str]]:
    groups = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise ValueError('"groups" must be {"name": ["a", "b"]} or [["a", "b"]].')
    named = [_names(group, "groups") for group in groups]
    for group in named:
        if len(set(group)) < len(group):
            raise ValueError(f"a group names the class {shown(_doubled(group))} more than once.")
    return named


def _names(value: Any, key: str) -> list[str]:
    """Class names; integers and booleans are named as in a corpus."""
    if not isinstance(value, list) or not all(isinstance(name, str | int) for name in value):
        raise ValueError(f'"{key}" must hold class names, got {shown_json(value)}.')
    return [str(name).strip() for name in value]


def _named_leaves(tree: Any) -> Any:
    """Make each leaf a class name, in place."""
    return map_leaves(tree, lambda leaf: _names([leaf], "hierarchy")[0])


def _rows(value: Any, names: Sequence[str]) -> list[list[float]]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise ValueError('"matrix" must be an array of rows, each an array of numbers.')
    if len(value) != len(names):
        raise ValueError(f"the matrix has {len(value)} rows for {len(names)} class names.")
    for name, row in zip(names, value, strict=True):
        if len(row) != len(names):
            raise ValueError(f"row {shown(name)} of the matrix has {len(row)} entries for {len(names)} class names.")
        if not set(map(type, row)) <= {int, float}:
            wrong = next(entry for entry in row if not _is_number(entry))
            raise ValueError(f"row {shown(name)} of the matrix has the entry {shown_json(wrong)}, which is no number.")
    return [[_as_float(entry) for entry in row] for row in value]


def _table(text: str, suffix: str) -> tuple[list[list[float]], list[str], list[str]]:
    """Entries, row names and column names of a csv or tsv file."""
    delimiter = "\t" if suffix == ".tsv" else ","
    lines = [line + "\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    dialect = find_dialect(lines, delimiter, is_whole=True)
    try:
        table = dialect.rows(lines[dialect.skipped :])
    except csv.Error as error:
        raise ValueError(csv_defect(error)) from error
    rows = [[field.strip() for field in row] for row in table if any(field.strip() for field in row)]
    if not rows:
        raise ValueError("the table holds no rows.")
    columns = rows[0][1:]
    row_names = [row[0] for row in rows[1:]]
    matrix: list[list[float]] = []
    for name, *entries in rows[1:]:
        if len(entries) != len(columns):
            raise ValueError(
                f"row {shown(name)} has {len(entries)} entries where the header names {len(columns)} classes."
            )
        matrix.append([_as_number(entry, name, column) for entry, column in zip(entries, columns, strict=True)])
    return matrix, row_names, columns


def _as_number(entry: str, row: str, column: str) -> float:
    try:
        return float(entry)
    except ValueError:
        raise ValueError(f"row {shown(row)}, column {shown(column)}: {shown(entry)} is no number.") from None


def _ordered(
    matrix: ArrayLike, rows: Sequence[str], columns: Sequence[str], class_names: Sequence[str], noun: str = "distance"
) -> torch.Tensor:
    """Reorder a matrix to `class_names`, and check its entries while its own row and column names are at hand."""
    indices = {}
    for names, kind in ((rows, "row"), (columns, "column")):
        # Raises for an unknown class, with the nearest name.
        indices[kind] = class_indices(names, class_names)
        if len(set(names)) < len(names):
            raise ValueError(f"the class {shown(_doubled(names))} has more than one {kind}.")
        if len(names) < len(class_names):
            absent = min(set(range(len(class_names))) - set(indices[kind]))
            raise ValueError(
                f"the matrix must have a {kind} for each of the {len(class_names)} classes, "
                f"it has {len(names)} and {shown(class_names[absent])} is missing."
            )
    entries = torch.from_numpy(np.array(matrix, dtype=np.float64))
    wrong = ~((entries >= 0) & (entries <= _largest()))
    if wrong.any():
        row, column = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"row {shown(rows[row])}, column {shown(columns[column])}: a {noun} must be finite and >= 0, "
            f"got {entries[row, column].item()}."
        )
    ordered = torch.empty_like(entries)
    ordered[torch.tensor(indices["row"])[:, None], torch.tensor(indices["column"])] = entries
    return ordered.to(torch.get_default_dtype())


def _doubled(names: Sequence[str]) -> str:
    """The first name that stands again; one does."""
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(number: float) -> float:
    """A number of JSON, which knows no largest one; infinite beyond the range of the matrix's type."""
    try:
        value = float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
    return math.copysign(math.inf, value) if abs(value) > _largest() else value


def _largest() -> float:
    return torch.finfo(torch.get_default_dtype()).max
