"""Text for a terminal: styles, the width of characters, wrapped sentences and plain tables."""

import contextlib
import itertools
import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from typing import Literal, TextIO

__all__ = [
    "Style",
    "display_width",
    "fit",
    "fit_tables",
    "format_table",
    "output_width",
    "rule",
    "style",
    "wrap",
    "wrap_for",
]

Style = Literal["bold", "dim", "red", "green", "yellow", "blue"]
STYLE_CODES: dict[Style, int] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34}
ANSI_PATTERN = re.compile(r"\x1b\[[0-9;]*m")
# A percent sign and a unit of time stay with their number.
_SPACE = re.compile(r" (?!%|(?<=\d )(?:s|min|h)\b)")
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
    return max(MIN_COLUMNS, min(_terminal_columns(stream), MAX_COLUMNS))


def _terminal_columns(stream: TextIO) -> int:
    """Of this stream: the terminal of standard error is known although standard output goes to a file."""
    if not os.environ.get("COLUMNS"):
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(stream.fileno()).columns
    return shutil.get_terminal_size((DEFAULT_COLUMNS, 24)).columns


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


def wrap_for(stream: TextIO, text: str) -> str:
    r"""Paragraphs, one a line, wrapped to the width of the stream they are written to.

    Examples:
        >>> import io
        >>> print(wrap_for(io.StringIO(), "A short sentence.\nAnother one."))
        A short sentence.
        Another one.
    """
    width = output_width(stream)
    return "\n".join(line for paragraph in text.split("\n") for line in wrap(paragraph, width, "  "))


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


def fit_tables(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str, width: int) -> str:
    """A table, as `format_table` makes it; several, one below the other, where one is wider than `width`.

    Each of them begins with the first column, and the others are shared out evenly. If a single column beside the
    first is still too wide, the first one is cut.

    Args:
        headers: title of each column.
        rows: cells, as many in each row as there are headers.
        align: one of `<`, `>` for each column; missing ones are `<`.
        width: columns of a line.

    Examples:
        >>> print(fit_tables(["class", "precision", "recall"], [["ask", "0.9", "0.8"]], "<>>", 16))
        class  precision
        -----  ---------
        ask          0.9
        <BLANKLINE>
        class  recall
        -----  ------
        ask       0.8
    """
    sides = align.ljust(len(headers), "<")
    num_others = len(headers) - 1
    for num_tables in range(1, num_others + 1):
        ends = [round(num_others * place / num_tables) for place in range(num_tables + 1)]
        parts = [[0, *range(1 + start, 1 + end)] for start, end in itertools.pairwise(ends)]
        tables = [_part_of_table(headers, rows, sides, part) for part in parts]
        if max(_width_of(table) for table in tables) <= width:
            return "\n\n".join(tables)
    widest = max(display_width(cell) for line in (headers, *rows) for cell in line[1:])
    room = max(1, width - 2 - widest)
    cut = [[fit(line[0], room), *line[1:]] for line in rows]
    return "\n\n".join(_part_of_table(headers, cut, sides, [0, column]) for column in range(1, len(headers)))


def _part_of_table(headers: Sequence[str], rows: Sequence[Sequence[str]], sides: str, columns: Sequence[int]) -> str:
    picked = [[line[column] for column in columns] for line in (headers, *rows)]
    return format_table(picked[0], picked[1:], "".join(sides[column] for column in columns))


def _width_of(text: str) -> int:
    return max(map(display_width, text.splitlines()))


def rule(width: int) -> str:
    """A line across the page.

    Examples:
        >>> rule(5)
        '====='
    """
    return "=" * width


def _pad(cell: str, width: int, side: str) -> str:
    space = " " * (width - display_width(cell))
    return space + cell if side == ">" else cell + space
