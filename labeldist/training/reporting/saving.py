"""Where a report goes, and writing it."""

import os
from html.parser import HTMLParser
from pathlib import Path

from labeldist.messages import escape_controls, shown
from labeldist.reports.report import Report
from labeldist.training.atomic import write_text, writing_to
from labeldist.training.errors import UserError
from labeldist.training.reporting import REPORT

__all__ = ["check_page", "report_path", "save_report", "source_of"]

SOURCE = "labeldist-source"
# A path may be long; the first element of the head that is not small comes after it.
MAX_HEAD = 16_384


def report_path(source: Path, output: Path | None = None) -> Path:
    """Where the report of a source goes: into or beside it, unless the user says.

    Args:
        source: a folder or a table.
        output: file or existing folder that the user names.

    Examples:
        >>> report_path(Path("answers.csv")).name
        'answers.report.html'
        >>> report_path(Path("answers.csv"), Path("page.html")).name
        'page.html'
    """
    if output is not None and not output.is_dir():
        return output
    if source.is_dir():
        return (output or source) / REPORT
    name = f"{Path(source.name.removesuffix('.gz')).stem}.{REPORT}"
    return source.with_name(name) if output is None else output / name


def save_report(report: Report, path: Path, source: Path) -> Path:
    """Write the page in place of an earlier one of the same source; any other file is not overwritten.

    Args:
        report: of the source.
        path: of the page.
        source: file or folder that the report was made from. The page names it by its place beside the page, so that
            both may move together.

    Raises:
        UserError: if there is another file or the page of another source, or the place cannot be written.
    """
    check_page(path, source)
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, report.of_source(_beside(source, path)).html)
    return path


def check_page(path: Path, source: Path) -> None:
    """Raise `UserError` where the page of a source would overwrite something else, or has no name of a page.

    Args:
        path: of the page.
        source: file or folder that it is made from.
    """
    with writing_to(path.parent):
        if not path.exists():
            if path.suffix.casefold() not in (".html", ".htm"):
                raise UserError(f"A report is a page, and --output must end in .html or name a folder, got {path}.")
            return
    found, name = source_of(path), _beside(source, path)
    if found is None:
        raise UserError(f"{path} exists already and is no report of labeldist. Choose another --output.")
    if found != name:
        other = "a report of its folder" if found == "." else f"the report of {shown(found)}"
        other = other if found else "a report that names no source"
        raise UserError(f"{path} exists already and is {other}, not of {shown(name)}. Choose another --output.")


def source_of(path: Path) -> str | None:
    """The source that a page names, as seen from its folder; empty if it names none, None if it is no page of ours.

    Examples:
        >>> source_of(Path("no such file")) is None
        True
    """
    head = _Head()
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head.feed(file.read(MAX_HEAD))
    except OSError:
        return None
    is_ours = head.contents.get("generator", "").startswith("labeldist ")
    return head.contents.get(SOURCE, "") if is_ours else None


def _beside(source: Path, page: Path) -> str:
    """A source as seen from the folder of its page, with slashes on every system."""
    start = page.absolute().parent
    try:
        found = Path(os.path.relpath(source.absolute(), start))
    # Windows: another drive.
    except ValueError:
        found = source.absolute()
    return escape_controls(found.as_posix())


class _Head(HTMLParser):
    """The named `meta` elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "meta" and (name := found.get("name")):
            self.contents.setdefault(name, found.get("content") or "")
