"""The report of a folder that the user names: a run, an evaluation or a comparison."""

from pathlib import Path

from labeldist.reports.report import Report
from labeldist.training.errors import UserError
from labeldist.training.reporting.comparisons import COMPARISON, comparison_report
from labeldist.training.reporting.evaluations import evaluation_report, is_evaluation
from labeldist.training.reporting.runs import run_report
from labeldist.training.run_folder import RunFolder

__all__ = ["folder_report"]


def folder_report(folder: Path) -> Report:
    """The report of a folder that this library wrote.

    Raises:
        UserError: if it holds none of them, or one that is not finished.
    """
    if RunFolder(folder).is_begun:
        return run_report(folder)
    if (folder / COMPARISON).is_file():
        return comparison_report(folder)
    if is_evaluation(folder):
        return evaluation_report(folder)
    if (folder / "compare.json").is_file():
        raise UserError(f"The comparison in {folder} is not finished: give its command again.")
    raise UserError(
        f"{folder} holds no run, evaluation or comparison. Give one of those, or a file of predictions, such as a csv."
    )
