"""Dataclasses written as JSON and read back, checked against their annotations.

The annotations that a dataclass may use: `bool`, `int`, `float`, `str`, `Path`, `Any`, a `Literal`, `X | None`,
`tuple[X, ...]`, `Mapping[str, X]` or `dict[str, X]`, and other dataclasses.

A field that joins a dataclass after files of it were written has the metadata `ADDED`: files without it stay readable.
"""

import math
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

__all__ = ["ADDED", "from_json", "to_json", "typed"]

T = TypeVar("T")

MAX_CHARACTERS = 40
ADDED = {"added": True}
"""Metadata of a field that earlier versions did not write: a file without it has its default, which is not written.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Point:
...     name: str
...     color: str | None = field(default=None, metadata=ADDED)
>>> to_json(Point("a")), to_json(Point("a", "red"))
({'name': 'a'}, {'name': 'a', 'color': 'red'})
>>> from_json(Point, {"name": "a"})
Point(name='a', color=None)
"""


def to_json(value: Any) -> Any:
    """A dataclass as nested dictionaries and lists, which `json.dump` takes.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point:
        ...     name: str
        ...     place: tuple[float, ...]
        >>> to_json(Point("a", (1.0, 2.0)))
        {'name': 'a', 'place': [1.0, 2.0]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        entries = [(one, getattr(value, one.name)) for one in fields(value)]
        return {one.name: to_json(entry) for one, entry in entries if not (_is_added(one) and entry == one.default)}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has finite numbers only, got {value}. Use None for a value that is not there.")
    return value


def from_json(kind: type[T], value: object) -> T:
    """The inverse of `to_json`: a dataclass from what `json.load` returned.

    Nothing is guessed: each field must be there, with its type, and no other entry may be. Only a field with
    the metadata `ADDED` may be missing.

    Args:
        kind: the dataclass.
        value: its JSON.

    Raises:
        ValueError: naming the entry that does not fit, what it must be, and what came.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point:
        ...     name: str
        ...     place: tuple[float, ...]
        >>> from_json(Point, {"name": "a", "place": [1, 2.5]})
        Point(name='a', place=(1.0, 2.5))
        >>> from_json(Point, {"name": "a", "place": [1, "x"]})
        Traceback (most recent call last):
        ...
        ValueError: place[1] must be a number, got 'x'
    """
    return cast(T, _parse(kind, value, ""))


def typed(annotation: Any, value: object, name: str) -> Any:
    """A value given in Python as the type that an annotation names: sequences become tuples, strings paths.

    Text may name a file or folder, such as that of an encoder: a path becomes text.

    Args:
        annotation: as in `from_json`.
        value: what is to be of that type.
        name: of the value, for the message.

    Raises:
        TypeError: if it is not.

    Examples:
        >>> typed(tuple[int, ...], [1, 2], "seeds"), typed(float | None, 3, "rate")
        ((1, 2), 3.0)
        >>> typed(str | None, Path("costs.json"), "costs")
        'costs.json'
        >>> typed(int, "3", "epochs")
        Traceback (most recent call last):
        ...
        TypeError: epochs must be a whole number, got '3'.
    """
    try:
        return _parse(annotation, list(value) if isinstance(value, tuple) else value, name)
    except ValueError as error:
        raise TypeError(f"{error}.") from error


def _parse(annotation: Any, value: object, at: str) -> Any:
    """`value` as the type that `annotation` names; `at` is its place in the file."""
    if annotation is Any:
        return value
    if is_dataclass(annotation):
        return _parse_dataclass(annotation, value, at)
    if annotation is Path:
        if not isinstance(value, str | Path):
            raise _misfit(at, "a path", value)
        return Path(value)
    if annotation in _SCALARS:
        return _parse_scalar(annotation, value, at)
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind in (Union, UnionType) and NoneType in arguments and len(arguments) == 2:
        inner = next(argument for argument in arguments if argument is not NoneType)
        return None if value is None else _parse(inner, value, at)
    if kind is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _misfit(at, f"one of {', '.join(map(repr, arguments))}", value)
        return value
    if kind is tuple:
        item, _ = arguments
        if not isinstance(value, list):
            raise _misfit(at, "a list", value)
        return tuple(_parse(item, part, f"{at}[{index}]") for index, part in enumerate(value))
    if kind in (Mapping, dict):
        if not isinstance(value, dict):
            raise _misfit(at, "an object", value)
        return {key: _parse(arguments[1], part, _below(at, key)) for key, part in value.items()}
    raise TypeError(f"{annotation} is no annotation that can be read from JSON.")


_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _parse_scalar(kind: type, value: object, at: str) -> Any:
    if kind is str and isinstance(value, Path):
        return str(value)
    # In Python true is a number, and in JSON it is none.
    is_right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    if not is_right or (isinstance(value, float) and not math.isfinite(value)):
        raise _misfit(at, _SCALARS[kind], value)
    return value


def _is_added(one: Field) -> bool:
    return "added" in one.metadata


def _parse_dataclass(kind: Any, value: object, at: str) -> Any:
    if not isinstance(value, dict):
        raise _misfit(at, "an object", value)
    annotations = get_type_hints(kind)
    names = [one.name for one in fields(kind)]
    for one in fields(kind):
        if one.name not in value and not _is_added(one):
            raise ValueError(f"{_below(at, one.name)} is missing")
    for name in value:
        if name not in names:
            raise ValueError(f"{_below(at, name)} is not known")
    arguments = {name: _parse(annotations[name], value[name], _below(at, name)) for name in names if name in value}
    try:
        # A dataclass may check in `__post_init__` how its fields belong together.
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{at}: {error}" if at else str(error)) from error


def _below(at: str, name: str) -> str:
    """The place of an entry; names that come from the file are quoted, with their control characters escaped."""
    shown = name if name.isidentifier() and name.isascii() and len(name) <= MAX_CHARACTERS else _quoted(name)
    return f"{at}.{shown}" if at else shown


def _misfit(at: str, wanted: str, value: object) -> ValueError:
    return ValueError(f"{at or 'the file'} must be {wanted}, got {_in_words(value)}")


def _in_words(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _quoted(value)
    # An integer in JSON may have any number of digits.
    if isinstance(value, int) and abs(value) >= 2**64:
        return "a number that is too large"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else str(value)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…")
