r"""Text from data, file names and other libraries, made safe to print.

A class name or a text may hold control characters that set the window's title, clear the screen, go back over what
was printed, or turn the direction of writing. On terminals, and in pipes meant for people, they are shown as escapes.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["MAX_SENTENCE", "bounded", "escape_controls", "escape_values"]

MAX_SENTENCE = 2000
"""Characters of one error sentence."""

# C0, DEL and C1; line and paragraph separators; marks that turn the direction of writing; halves of surrogate pairs.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""`text` with every control character shown as its escape.

    Args:
        text: anything.
        keep: characters left as they are, such as the line feed of a text of several lines.

    Examples:
        >>> escape_controls("a\x1b[2Jb\u202e")
        'a\\x1b[2Jb\\u202e'
        >>> escape_controls("one\ntwo", keep="\n")
        'one\ntwo'
    """
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def _escaped(character: str) -> str:
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(character)
    return named.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def escape_values(value: Any) -> Any:
    r"""Nested dictionaries and lists with every string escaped, keys included: what a table for people is made of.

    Examples:
        >>> escape_values({"class": ["a\x07", 3]})
        {'class': ['a\\x07', 3]}
    """
    if isinstance(value, str):
        return escape_controls(value)
    if isinstance(value, Mapping):
        return {escape_values(key): escape_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [escape_values(one) for one in value]
    return value


def bounded(sentence: str, length: int = MAX_SENTENCE) -> str:
    """`sentence` on one line, of at most `length` characters; its end, where the cure stands, is kept.

    Examples:
        >>> bounded("a" * 30 + " The cure.", 25)
        'aaaaaaa ... aa The cure.'
    """
    line = escape_controls(" ".join(sentence.split()))
    if len(line) <= length:
        return line
    tail = length // 2
    return f"{line[: length - tail - 6].rstrip()} ... {line[-tail:].lstrip()}"
