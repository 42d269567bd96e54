"""The recorded cells of `benchmarks.relations` as Markdown, for the guides when the documentation is built."""

import json
from collections.abc import Sequence
from statistics import mean

from benchmarks.paper.tables import RESULTS, SHOWN, Result, command, load, on_lines
from benchmarks.relations.protocol import CELLS, CORPORA, UNSEEN
from labeldist.training.study.results import SeedScores
from labeldist.training.study.statistics import paired_difference

__all__ = ["differences_report", "missing_cells", "ranking_report", "recorded_cells", "relation_report"]

FOLDER = RESULTS / "relations"
BASELINE = "contrastive"
"""Differences are to plain contrast: it is what a relation is added to."""
OF_ORDERS = ("mean_absolute_error", "median_absolute_error", "quadratic_weighted_kappa")
OF_HIERARCHIES = (
    "group_accuracy",
    "expected_cost",
    "least_expected_cost",
    "graded_ndcg",
    "group_mean_average_precision",
)


def recorded_cells(corpus: str) -> list[str]:
    """The cells of a corpus that have a record, the fewest labels first."""
    return [cell for cell in _cells(corpus) if (FOLDER / f"{cell}.json").exists()]


def missing_cells(corpora: Sequence[str]) -> str:
    """A sentence that names the cells without a record, and the command that makes them; empty if there are none.

    Examples:
        >>> missing_cells([])
        ''
    """
    missing = [cell for corpus in corpora for cell in _cells(corpus) if not (FOLDER / f"{cell}.json").exists()]
    if not missing:
        return ""
    return f"Not run yet: {', '.join(missing)} (`python -m benchmarks.relations --cells {' '.join(missing)} ...`)."


def relation_report(cell: str) -> str:
    """A cell: plain contrast, and the differences of the other objectives to it, with command and machine."""
    result = load(f"relations/{cell}")
    columns = ("accuracy", *_measures(result))
    lines = [
        f"| objective | {' | '.join(_heading(column) for column in columns)} |",
        f"|---|{'--:|' * len(columns)}",
    ]
    objectives = result.comparison.objectives
    for name in sorted(objectives, key=lambda name: name != BASELINE):
        cells = [_cell(objectives[name], objectives[BASELINE], column, name == BASELINE) for column in columns]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _facts(result)])


def differences_report(column: str, cells: Sequence[str]) -> str:
    """One measure in several cells: plain contrast, and the differences of the other objectives to it.

    Args:
        column: `"accuracy"`, or a measure of all these cells.
        cells: that were recorded.
    """
    compared = {cell: load(f"relations/{cell}").comparison.objectives for cell in cells}
    lines = [f"| {_heading(column)} | {' | '.join(_title(cell) for cell in cells)} |", f"|---|{'--:|' * len(cells)}"]
    names = sorted(next(iter(compared.values())), key=lambda name: name != BASELINE)
    for name in names:
        found = [_cell(of[name], of[BASELINE], column, name == BASELINE) for of in compared.values()]
        lines.append(f"| `{name}` | {' | '.join(found)} |")
    return "\n".join(lines)


def _title(cell: str) -> str:
    """Data and labels of a cell.

    Examples:
        >>> _title("trec50-10"), _title("sst5-all")
        ('trec50, 10 labels', 'sst5, all labels')
    """
    data, _, shots = cell.rpartition("-")
    return f"{data}, {shots} labels"


def ranking_report(cell: str) -> str:
    """A cell of a hierarchy: how well rows are ranked by their vectors, and by the gain that the classifier expects."""
    objectives = load(f"relations/{cell}").comparison.objectives
    ranked = json.loads((FOLDER / f"{cell}.json").read_text(encoding="utf-8"))["by_probabilities"]
    commit = ranked["commit"]
    columns = {"graded_ndcg": "nDCG@50 %", "group_mean_average_precision": "group MAP %"}
    headings = [f"{title} by {what}" for title in columns.values() for what in ("vectors", "probabilities")]
    lines = [f"| objective | {' | '.join(headings)} |", f"|---|{'--:|' * len(headings)}"]
    for name, scores in objectives.items():
        cells = []
        for column in columns:
            by_probabilities = [run[column] for run in ranked["runs"] if run["objective"] == name]
            cells += [f"{100 * mean(values):.1f}" for values in (getattr(scores, column), by_probabilities)]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Means over the seeds; ranked by probabilities at commit {commit}."])


def _cells(corpus: str) -> list[str]:
    of_unseen = [cell for cell, name in UNSEEN.items() if name == corpus]
    return [cell for cell in CELLS if cell.rpartition("-")[0] == corpus and cell not in UNSEEN] + of_unseen


def _measures(result: Result) -> list[str]:
    order = CORPORA[result.comparison.data].relation[0] == "--order"
    names = OF_ORDERS if order else OF_HIERARCHIES
    return [name for name in names if any(getattr(scores, name) for scores in result.comparison.objectives.values())]


def _heading(column: str) -> str:
    return SHOWN[column][0] if column in SHOWN else "accuracy %"


def _cell(scores: SeedScores, baseline: SeedScores, column: str, is_baseline: bool) -> str:
    scale = SHOWN[column][1] if column in SHOWN else 100
    digits = 1 if scale > 1 else 3
    found = [scale * value for value in getattr(scores, column)]
    if is_baseline:
        return f"{mean(found):.{digits}f}"
    difference = paired_difference(found, [scale * value for value in getattr(baseline, column)])
    bounds = [value for value in (difference.low, difference.high) if value is not None]
    assert len(bounds) == 2, "a recorded cell has two seeds or more"
    # Without the sign of a zero.
    middle, low, high = (f"{round(value, digits) + 0.0:+.{digits}f}" for value in (difference.mean, *bounds))
    is_clear = bounds[0] > 0 or bounds[1] < 0
    return f"{f'**{middle}**' if is_clear else middle}<br>{low} to {high}"


def _facts(result: Result) -> str:
    comparison, provenance = result.comparison, result.provenance
    facts = (
        f"The row `{BASELINE}` has means over {len(comparison.seeds)} seeds, the others the difference to it, paired "
        "by seed, with its 95 % interval, not corrected for the number of looks; bold where the interval does not "
        f"contain 0. {provenance.machine}; torch {provenance.versions['torch']}; commit {result.commit}. {result.note}"
    )
    return "\n".join(["```sh", on_lines(command(provenance.settings)), "```", "", facts])
