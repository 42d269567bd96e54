"""Text from data, made safe to print: what could steer a terminal is shown as a code."""

import re

__all__ = ["escape_controls"]

# C0 and DEL, C1, the line and paragraph separators, the marks that change the direction of text, and halves of
# surrogate pairs, which no stream can encode. The joiners U+200C and U+200D stay: words of Persian and Hindi, and
# emoji, are written with them.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str) -> str:
    r"""`text` with every control character replaced by its code, as Python writes it.

    A class name, a text or a file name may hold characters that move the cursor, clear the screen, set the window's
    title, fill the clipboard, or turn the direction of what follows. Shown as codes they do nothing. Line breaks and
    tabs are controls, too: what comes from data stays on its line. A backslash stays as it is, so the result is for
    people and cannot be turned back.

    Args:
        text: any text.

    Returns:
        Text without C0 and C1 controls, line and paragraph separators, and marks of direction (bidi).

    Examples:
        >>> print(escape_controls("red\x1b[31m, two\nlines, \u202eright to left"))
        red\x1b[31m, two\nlines, \u202eright to left
        >>> escape_controls("naïve 提问 👩‍🔬") == "naïve 提问 👩‍🔬"
        True
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
