"""Dataclasses to JSON and back, with every value's type checked: a file that was edited by hand is read as strictly."""

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["from_json", "to_json", "typed"]

_T = TypeVar("_T")


def to_json(record: Any) -> dict[str, Any]:
    """A dataclass as JSON-ready nested dictionaries; paths become strings, tuples lists."""
    return json.loads(json.dumps(dataclasses.asdict(record), default=str))


def from_json(kind: type[_T], value: Any, where: str = "") -> _T:
    """The inverse of `to_json`: a dataclass from exactly its fields, each of its type.

    Args:
        kind: the dataclass.
        value: what `to_json` made of one, perhaps read from a file.
        where: name of the value, for messages.

    Raises:
        TypeError: if a field is missing, unknown or of another type.

    Examples:
        >>> @dataclasses.dataclass
        ... class Size:
        ...     width: int
        >>> from_json(Size, {"width": 3})
        Size(width=3)
        >>> from_json(Size, {"width": "3"})
        Traceback (most recent call last):
        ...
        TypeError: width must be int, got '3' (str)
    """
    name = where or kind.__name__
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be an object, got {shown(value)}")
    hints = get_type_hints(kind)
    names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for field in names:
        if field not in value:
            raise TypeError(f"{name} has no {field!r}")
    for field in value:
        if field not in names:
            raise TypeError(f"{name} has an unknown {field!r}")
    return kind(**{field: typed(hints[field], value[field], field) for field in names})


def typed(hint: Any, value: Any, name: str) -> Any:
    """`value` as the type `hint`: lists become tuples, strings paths, integers floats; anything else must fit already.

    Args:
        hint: `str`, `int`, `float`, `bool`, `None`, `Path`, `Any`, a `Literal`, a union, `tuple[X, ...]`,
            `dict[str, X]` or a dataclass.
        value: what is to be of that type.
        name: of the value, for the message.

    Raises:
        TypeError: if it is not.

    Examples:
        >>> typed(tuple[int, ...], [1, 2], "seeds"), typed(float | None, 3, "rate")
        ((1, 2), 3.0)
    """
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in options:
            try:
                return typed(option, value, name)
            except TypeError:
                continue
    elif origin is Literal:
        # 1 == True, and a list cannot be looked up.
        if isinstance(value, str) and value in options:
            return value
        raise TypeError(f"{name} must be one of {', '.join(map(str, options))}, got {shown(value)}")
    elif origin is tuple and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(typed(options[0], one, name) for one in value)
    elif origin is dict and isinstance(value, Mapping):
        return {typed(str, key, name): typed(options[1], one, name) for key, one in value.items()}
    elif dataclasses.is_dataclass(hint):
        return from_json(hint, value, name) if not isinstance(value, hint) else value  # type: ignore[arg-type]
    elif hint is Any or (hint in (None, type(None)) and value is None):
        return value
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (bool, str, int) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise TypeError(f"{name} must be {_named(hint)}, got {shown(value)}")


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("pathlib.", "")


def shown(value: Any) -> str:
    """A value and its type for a message, shortened.

    Examples:
        >>> shown("a")
        "'a' (str)"
    """
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"
