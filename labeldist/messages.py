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

__all__ = ["cut", "escape_controls", "listed", "shown", "shown_json"]

MAX_NAME = 80
"""Characters of one name or value in a sentence."""

# C0 and DEL, C1, the line and paragraph separators, the marks that change the direction of text, and halves of
# surrogate pairs, which no stream can encode. The joiners U+200C and U+200D stay: words of Persian and Hindi, and
# emoji, are written with them.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""`text` with every control character replaced by its code, as Python writes it.

    A class name, a text or a file name may hold characters that move the cursor, clear the screen, set the window's
    title, fill the clipboard, or turn the direction of what follows. Shown as codes they do nothing. A backslash stays
    as it is, so the result is for people and cannot be turned back.

    Args:
        text: any text.
        keep: characters left as they are, such as the line feed of a text of several lines.

    Returns:
        Text without C0 and C1 controls, line and paragraph separators, and marks of direction (bidi).

    Examples:
        >>> print(escape_controls("red\x1b[31m, two\nlines, \u202eright to left"))
        red\x1b[31m, two\nlines, \u202eright to left
        >>> escape_controls("one\ntwo", keep="\n")
        'one\ntwo'
        >>> escape_controls("naïve 提问 👩‍🔬") == "naïve 提问 👩‍🔬"
        True
    """
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode("ascii"), text
    )


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
    return escape_controls(text)


def shown_json(value: Any) -> str:
    """`value` as JSON, shortened.

    Examples:
        >>> shown_json(["a", None])
        '["a", null]'
    """
    try:
        return escape_controls(cut(json.dumps(value, ensure_ascii=False)))
    except (RecursionError, ValueError):
        return shown(value)


def listed(names: Iterable[str], limit: int = 10) -> str:
    """The first `limit` names, separated by commas, and `...` where there are more.

    Examples:
        >>> listed(["a", "b", "c"], 2)
        'a, b, ...'
    """
    first = list(islice(names, limit + 1))
    return ", ".join(
        [*(escape_controls(cut(name)) for name in first[:limit]), *(["..."] if len(first) > limit else [])]
    )


_REPR = reprlib.Repr()
_REPR.maxlevel = 4
_REPR.maxother = _REPR.maxlong = _REPR.maxstring = MAX_NAME
