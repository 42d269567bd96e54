r"""Names and values inside an error sentence: control characters escaped, and short enough to be read.

A class name or a text comes from a file that may hold anything: escape sequences of a terminal, marks that turn the
direction of writing, or 100 kB in one cell.
"""

import json
import re
import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

__all__ = ["cut", "escaped", "listed", "shown", "shown_json"]

MAX_NAME = 80
"""Characters of one name or value in a sentence."""

# C0, DEL and C1; line and paragraph separators; marks that turn the direction of writing; halves of surrogate pairs.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""`text` with each control character as `repr` writes it.

    Examples:
        >>> print(escaped("a\x1b[2Jb\u202e"))
        a\x1b[2Jb\u202e
    """
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def cut(text: str, length: int = MAX_NAME) -> str:
    """`text`, or its beginning and its end where it is longer than `length` characters.

    Examples:
        >>> cut("a" * 50 + " the cure", 30)
        'aaaaaaaaaaaaa ... aaa the cure'
    """
    if len(text) <= length:
        return text
    tail = (length - 5) // 2
    return f"{text[: length - 5 - tail]} ... {text[len(text) - tail :]}"


def shown(value: Any) -> str:
    r"""`repr(value)`, shortened.

    Examples:
        >>> print(shown("a\x07b"), shown([[[["deep"]]]]))
        'a\x07b' [[[[...]]]]
    """
    try:
        text = repr(cut(value)) if isinstance(value, str) else cut(_REPR.repr(value))
    # Python writes no integer of more than 4,300 digits.
    except ValueError:
        text = f"a value of type {type(value).__name__}"
    return escaped(text)


def shown_json(value: Any) -> str:
    """`value` as JSON, shortened.

    Examples:
        >>> shown_json(["a", None])
        '["a", null]'
    """
    try:
        return escaped(cut(json.dumps(value, ensure_ascii=False)))
    except (RecursionError, ValueError):
        return shown(value)


def listed(names: Iterable[str], limit: int = 10) -> str:
    """The first `limit` names, separated by commas, and `...` where there are more.

    Examples:
        >>> listed(["a", "b", "c"], 2)
        'a, b, ...'
    """
    first = list(islice(names, limit + 1))
    return ", ".join([*(escaped(cut(name)) for name in first[:limit]), *(["..."] if len(first) > limit else [])])


_REPR = reprlib.Repr()
_REPR.maxlevel = 4
_REPR.maxother = _REPR.maxlong = _REPR.maxstring = MAX_NAME
