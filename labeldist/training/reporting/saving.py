"""Where a report goes, and writing it."""

from pathlib import Path

from labeldist.reports.report import Report
from labeldist.training.atomic import write_text, writing_to
from labeldist.training.errors import UserError
from labeldist.training.reporting import REPORT

__all__ = ["is_report", "report_path", "save_report"]

GENERATOR = '<meta name="generator" content="labeldist'


def report_path(source: Path) -> Path:
    """Where the report of a source goes unless the user says.

    Examples:
        >>> report_path(Path("answers.csv")).name
        'answers.report.html'
    """
    if source.is_dir():
        return source / REPORT
    name = source.name.removesuffix(".gz")
    return source.with_name(f"{Path(name).stem}.{REPORT}")


def save_report(report: Report, path: Path) -> Path:
    """Write the page in place of an earlier report; any other file is not overwritten.

    Raises:
        UserError: if there is another file, or the place cannot be written.
    """
    with writing_to(path.parent):
        if path.exists() and not is_report(path):
            raise UserError(f"{path} exists already and is no report of labeldist. Choose another --output.")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, report.html)
    return path


def is_report(path: Path) -> bool:
    """Whether a file is a page that this library made."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(4_096)
    except OSError:
        return False
