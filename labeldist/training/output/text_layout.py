"""Text for a terminal: styles, the width of characters, wrapped sentences and plain tables."""

import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from typing import Literal, TextIO

__all__ = ["Style", "display_width", "fit", "format_table", "output_width", "style", "wrap"]

Style = Literal["bold", "dim", "red", "green", "yellow", "blue"]
STYLE_CODES: dict[Style, int] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34}
ANSI_PATTERN = re.compile(r"\x1b\[[0-9;]*m")
# A percent sign stays with its number.
_SPACE = re.compile(" (?!%)")
# What is no terminal has no width: files and pipes get the classic one.
DEFAULT_COLUMNS = 80
# Longer lines are hard to read, and shorter ones hold no table.
MAX_COLUMNS, MIN_COLUMNS = 100, 40


def output_width(stream: TextIO | None) -> int:
    """Columns that text for `stream` may take: those of a terminal, from 40 to 100, and 80 for anything else.

    Examples:
        >>> import io
        >>> output_width(io.StringIO())
        80
    """
    if stream is None or not stream.isatty():
        return DEFAULT_COLUMNS
    columns = shutil.get_terminal_size((DEFAULT_COLUMNS, 24)).columns
    return max(MIN_COLUMNS, min(columns, MAX_COLUMNS))


def style(text: str, name: Style, stream: TextIO | None) -> str:
    """`text` in bold or color if `stream` is a terminal and NO_COLOR is unset; else as it is.

    Examples:
        >>> import io
        >>> style("done", "green", io.StringIO())
        'done'
    """
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{STYLE_CODES[name]}m{text}\x1b[0m"


def display_width(text: str) -> int:
    """Terminal columns that `text` takes: 2 for East Asian wide characters, 0 for combining marks and color codes.

    Examples:
        >>> display_width("ask"), display_width("提问")
        (3, 4)
    """
    return sum(map(_character_width, ANSI_PATTERN.sub("", text)))


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cc", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """`text` cut to `width` columns; an ellipsis marks the cut.

    Examples:
        >>> fit("a long name", 7), fit("提问和取消", 7), fit("short", 7)
        ('a long…', '提问和…', 'short')
    """
    if display_width(text) <= width:
        return text
    kept, used = "", 1
    for character in text:
        used += _character_width(character)
        if used > width:
            break
        kept += character
    return kept.rstrip() + "…"


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most `width` columns, broken between words; `textwrap` counts characters instead of columns.

    A word that is wider than a line has a line of its own: a path stays whole.

    Args:
        text: one paragraph.
        width: columns of a line.
        indent: what the second line and all later ones start with.

    Examples:
        >>> wrap("accuracy of each class", 14, "  ")
        ['accuracy of', '  each class']
    """
    lines: list[str] = []
    line = ""
    for word in _SPACE.split(text):
        start = indent if lines else ""
        longer = f"{line} {word}" if line else start + word
        if line and display_width(longer) > width:
            lines.append(line)
            longer = indent + word
        line = longer
    return [*lines, line]


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A plain table: headers, a rule, rows; columns padded by display width, without trailing spaces.

    Args:
        headers: title of each column.
        rows: cells, as many in each row as there are headers.
        align: one of `<`, `>` for each column; missing ones are `<`.

    Raises:
        ValueError: if a row has another number of cells.

    Examples:
        >>> print(format_table(["class", "rows"], [["ask", "12"], ["提问", "3"]], "<>"))
        class  rows
        -----  ----
        ask      12
        提问      3
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"each row must have {len(headers)} cells, one for each header, got {len(row)}.")
    widths = [max(map(display_width, column)) for column in zip(headers, *rows, strict=True)]
    sides = align.ljust(len(headers), "<")[: len(headers)]

    def line(cells: Sequence[str]) -> str:
        padded = (_pad(cell, width, side) for cell, width, side in zip(cells, widths, sides, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), "  ".join("-" * width for width in widths), *map(line, rows)])


def _pad(cell: str, width: int, side: str) -> str:
    space = " " * (width - display_width(cell))
    return space + cell if side == ">" else cell + space
