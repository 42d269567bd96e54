r"""How a CSV or TSV file writes its fields: which character separates them, and what a quote means.

The suffix and the standard (RFC 4180) come first. Another dialect is taken only if it fits the beginning of the file
better, and it is said. `csv.Sniffer` is not used: it guesses from counts of characters and never checks its guess.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labeldist.training.errors import UserError

__all__ = ["Dialect", "TableFormat", "csv_defect", "find_dialect", "joins_rows", "num_rows_within"]

Quoting = Literal["standard", "escaped", "spaced", "none"]

_DELIMITERS = "\t,;|"
_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "vertical bars"}
# So many lines that a quote joins and that look like rows are no accident.
_MIN_JOINED = 6
# Excel's own first line.
_SEPARATOR_LINE = re.compile(r'"?sep=([\t,;|])"?\s*', re.IGNORECASE)


@dataclass(frozen=True)
class TableFormat:
    """What the user says about the fields of CSV and TSV files, where it would be found wrongly.

    Attributes:
        delimiter: between fields; found if `None`.
        quotes: `"standard"`, or `"none"`: part of the text; found if `None`.
    """

    delimiter: str | None = None
    quotes: Literal["standard", "none"] | None = None

    @classmethod
    def of(cls, delimiter: str | None, quotes: Literal["standard", "none"] | None) -> "TableFormat":
        r"""What is said on the command line, where a tab is called `tab`.

        Raises:
            UserError: for a delimiter that is no single character, or a quote.

        Examples:
            >>> TableFormat.of("tab", None).delimiter
            '\t'
        """
        delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise UserError(f"--delimiter must be one character, or tab, and no quote, got {delimiter!r}.")
        return cls(delimiter, quotes)

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return self != TableFormat()


@dataclass(frozen=True)
class Dialect:
    r"""How fields are written.

    Attributes:
        delimiter: between fields.
        quoting: `"standard"`: a field in quotes may hold the delimiter, line breaks, and quotes written twice;
            `"escaped"`: the same with a backslash before a quote; `"spaced"`: with spaces before the opening quote;
            `"none"`: a quote is a character like any other, and each line is one row.
        skipped: lines before the header that only name the delimiter.

    Examples:
        >>> Dialect(";").rows(["a;b\n", '"one; two";three\n'])
        [['a', 'b'], ['one; two', 'three']]
    """

    delimiter: str
    quoting: Quoting = "standard"
    skipped: int = 0

    def options(self) -> dict[str, Any]:
        """The arguments of `csv.reader`."""
        options: dict[str, Any] = {"delimiter": self.delimiter, "strict": True}
        if self.quoting == "escaped":
            options |= {"escapechar": "\\"}
        if self.quoting == "spaced":
            options |= {"skipinitialspace": True}
        if self.quoting == "none":
            options |= {"quoting": csv.QUOTE_NONE, "quotechar": None}
        return options

    def rows(self, lines: Sequence[str]) -> list[list[str]]:
        """The fields of each row."""
        return list(csv.reader(lines, **self.options()))

    def note(self, usual: str) -> str | None:
        """One clause that says what is unusual, for a file whose fields `usual` should separate."""
        said: list[str] = []
        if self.delimiter != usual:
            name = _NAMES.get(self.delimiter)
            said.append(f"fields are separated by {name or repr(self.delimiter)}")
        if self.quoting == "none":
            said.append("quotes are read as part of the text, each line as one row")
        if self.quoting == "escaped":
            said.append("quotes inside a field are written after a backslash")
        return "; ".join(said) or None


def find_dialect(head: Sequence[str], usual: str, *, is_whole: bool, told: TableFormat | None = None) -> Dialect:
    r"""Find the dialect of a table from its first lines.

    The delimiter must stand in the header; `usual` wins if it fits, then the others. Of the ways of quoting, the
    standard one wins if all rows have as many fields as the header. It loses to none at all if it joins lines that are
    rows in themselves.

    Args:
        head: the first lines, with their ends.
        usual: the delimiter that the suffix stands for.
        is_whole: whether these are all lines.
        told: what the user says, which is taken as it is.

    Returns:
        The first dialect that fits, or the one that reads furthest before its first defect.

    Examples:
        >>> find_dialect(["id;text\n", "1;where is it?\n"], ",", is_whole=True)
        Dialect(delimiter=';', quoting='standard', skipped=0)
        >>> find_dialect(["text\tlabel\n", '"Where is it?\tasks\n', 'he "said"\tasks\n'], "\t", is_whole=True)
        Dialect(delimiter='\t', quoting='none', skipped=0)
    """
    skipped, told = 0, told or TableFormat()
    if head and (separator := _SEPARATOR_LINE.fullmatch(head[0])):
        skipped, head = 1, head[1:]
        delimiters = separator[1]
    else:
        header = next((line for line in head if line.strip()), "")
        delimiters = [d for d in (usual, *_DELIMITERS.replace(usual, "")) if len(_split(header, d)) > 1] or [usual]
    delimiters = [told.delimiter] if told.delimiter else delimiters
    has_quotes = any('"' in line for line in head)
    best, furthest = Dialect(delimiters[0], skipped=skipped), -1
    for delimiter in delimiters:
        kinds: Iterable[Quoting] = (
            [told.quotes] if told.quotes else _quotings(head, delimiter) if has_quotes else ["standard"]
        )
        for quoting in kinds:
            dialect = Dialect(delimiter, quoting, skipped)
            reached, num_joined = _fit(head, dialect, is_whole=is_whole)
            if reached == len(head):
                unquoted = Dialect(delimiter, "none", skipped)
                is_doubtful = (
                    told.quotes is None
                    and num_joined >= _MIN_JOINED
                    and _fit(head, unquoted, is_whole=is_whole)[0] == len(head)
                )
                return unquoted if is_doubtful else dialect
            if reached > furthest:
                best, furthest = dialect, reached
    return best


def num_rows_within(lines: Sequence[str], delimiter: str, width: int) -> int:
    r"""How many of the lines that a quote joined are rows in themselves: of `width` fields, none of them empty.

    Examples:
        >>> num_rows_within(["where?\tasks", "He said\ttells"], "\t", 2)
        2
        >>> num_rows_within(["Dear team,", "where is it?", "Yours,asks"], ",", 2)
        1
    """
    if width < 2:
        return 0
    return sum(line.count(delimiter) == width - 1 and all(map(str.strip, line.split(delimiter))) for line in lines)


def joins_rows(lines: Sequence[str], delimiter: str, width: int) -> bool:
    r"""Whether a quote joined lines that are rows in themselves, beyond doubt.

    Tabs do not stand in texts; commas and semicolons do, so that a short text may look like rows.

    Examples:
        >>> joins_rows(["a\tb", "c\td"], "\t", 2), joins_rows(["a,b", "c,d"], ",", 2)
        (True, False)
    """
    enough = 2 if delimiter == "\t" else _MIN_JOINED
    return len(lines) >= enough and num_rows_within(lines, delimiter, width) >= 0.9 * len(lines)


def csv_defect(error: csv.Error) -> str:
    """What `csv` has to say about a row, in a user's words.

    Examples:
        >>> csv_defect(csv.Error("unexpected end of data"))
        'a quote is opened in this row and never closed.'
    """
    if "unexpected end of data" in str(error):
        return "a quote is opened in this row and never closed."
    if "field limit" in str(error):
        limit = csv.field_size_limit()
        return f"a field is longer than {limit} characters. Close its quote, or use .jsonl for long texts."
    if "new-line character" in str(error):
        return "a carriage return stands in a field without quotes. Quote the field."
    return (
        "text follows the closing quote of a field. In a quoted field write each quote twice, or put no field in "
        "quotes."
    )


def _split(header: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:
        return []


def _quotings(head: Sequence[str], delimiter: str) -> Iterator[Quoting]:
    yield "standard"
    if any('\\"' in line for line in head):
        yield "escaped"
    if any(f'{delimiter} "' in line for line in head):
        yield "spaced"
    yield "none"


def _fit(head: Sequence[str], dialect: Dialect, *, is_whole: bool) -> tuple[int, int]:
    """How many lines are read before the first defect, and how many of them are joined but look like rows."""
    reader = csv.reader(head, **dialect.options())
    width, reached, num_joined = 0, 0, 0
    try:
        for fields in reader:
            if fields and fields != [""]:
                width = width or len(fields)
                lines = head[reached : reader.line_num]
                if len(fields) != width or (len(lines) > 1 and joins_rows(lines, dialect.delimiter, width)):
                    return reached, num_joined
                if len(lines) > 1 and num_rows_within(lines, dialect.delimiter, width) == len(lines):
                    num_joined += len(lines)
            reached = reader.line_num
    except csv.Error as error:
        # A quote that is open at the end may be closed in the rest of the file.
        is_cut = not is_whole and "unexpected end of data" in str(error)
        if not is_cut or joins_rows(head[reached:], dialect.delimiter, width):
            return reached, num_joined
    return len(head), num_joined
