"""The recorded cells of `benchmarks.relations` as Markdown, for the guides when the documentation is built."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean

from benchmarks import records
from benchmarks.paper.tables import RESULTS, SHOWN, Result, command, load, on_lines
from benchmarks.relations.protocol import CELLS, HIERARCHIES, corpus_of
from labeldist.training.output.words import points
from labeldist.training.study.results import PairedDifference, SeedScores
from labeldist.training.study.statistics import paired_difference

__all__ = [
    "differences_report",
    "differences_table",
    "ranking_differences",
    "ranking_report",
    "recorded_cells",
    "relation_report",
    "unseen_report",
    "uses_report",
]

FOLDER = RESULTS / "relations"
BASELINE = "contrastive"
"""Differences are to plain contrast: it is what a relation is added to."""
OF_ORDERS = ("mean_absolute_error", "median_absolute_error", "quadratic_weighted_kappa")
USES = {
    "plain contrast, against two-view cross-entropy": (BASELINE, "ce-two-views"),
    "`near`, against plain contrast": ("near", BASELINE),
    **{f"`{name}`": (name, BASELINE) for name in ("far", "graded", "levels")},
}
OF_USES = (
    ("stars: absolute error", "mean_absolute_error", ("sst5-20", "sst5-100", "sst5-all")),
    ("questions: nDCG", "graded_ndcg", ("trec50-10", "trec50-50", "trec50-all")),
    ("questions: group MAP", "group_mean_average_precision", ("trec50-10", "trec50-50", "trec50-all")),
    ("newsgroups: nDCG", "graded_ndcg", ("20ng-10", "20ng-50", "20ng-all")),
    ("newsgroups: group MAP", "group_mean_average_precision", ("20ng-10", "20ng-50", "20ng-all")),
)
"""Heading, measure and cells of each column of `uses_report`."""
OF_RANKINGS = {"graded_ndcg": "nDCG@50 %", "group_mean_average_precision": "group MAP %"}
OF_HIERARCHIES = (
    "group_accuracy",
    "expected_cost",
    "least_expected_cost",
    "graded_ndcg",
    "group_mean_average_precision",
)


def recorded_cells(corpus: str) -> list[str]:
    """The cells of a corpus that have a record, the fewest labels first."""
    return [cell for cell in CELLS if corpus_of(cell) == corpus and (FOLDER / f"{cell}.json").exists()]


def relation_report(cell: str) -> str:
    """A cell: plain contrast, and the differences of the other objectives to it, with command and machine."""
    result = load(f"relations/{cell}")
    objectives = result.comparison.objectives
    columns = [(_heading(column), objectives, column) for column in ("accuracy", *_measures(cell, objectives))]
    return f"{differences_table('objective', columns)}\n\n{_facts(result)}"


def differences_report(column: str, cells: Sequence[str]) -> str:
    """One measure in several cells: plain contrast, and the differences of the other objectives to it.

    Args:
        column: `"accuracy"`, or a measure of all these cells.
        cells: that were recorded.
    """
    columns = [(_title(cell), load(f"relations/{cell}").comparison.objectives, column) for cell in cells]
    return differences_table(_heading(column), columns)


def differences_table(title: str, columns: Sequence[tuple[str, Mapping[str, SeedScores], str]]) -> str:
    """A table with a row for each objective.

    Args:
        title: heading of the objectives.
        columns: each with its heading, the scores of the objectives, and the name of the measure.
    """
    lines = [f"| {title} | {' | '.join(heading for heading, _, _ in columns)} |", f"|---|{'--:|' * len(columns)}"]
    for name in sorted(columns[0][1], key=lambda name: name != BASELINE):
        cells = [_cell(scores[name], scores[BASELINE], column, name == BASELINE) for _, scores, column in columns]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def uses_report() -> str:
    """Every use of a relation on every corpus: its mean difference, the fewest labels per class first."""
    lines = [f"| use | {' | '.join(heading for heading, _, _ in OF_USES)} |", f"|---|{'--:|' * len(OF_USES)}"]
    for use, (name, baseline) in USES.items():
        cells = []
        for _, column, recorded in OF_USES:
            compared = [load(f"relations/{cell}").comparison.objectives for cell in recorded]
            found = [_scale(column) * (_mean(of[name], column) - _mean(of[baseline], column)) for of in compared]
            cells.append(" / ".join(_signed(value, _digits(column)) for value in found))
        lines.append(f"| {use} | {' | '.join(cells)} |")
    return "\n".join(lines)


def unseen_report(cells: Sequence[str]) -> str:
    """Graded retrieval among rows of classes that training did not see: plain contrast, and the differences to it.

    Args:
        cells: of unseen classes, that were recorded.
    """
    columns = []
    for column in ("graded_ndcg", "group_mean_average_precision"):
        for cell in cells:
            scores = load(f"relations/{cell}").comparison.objectives
            runs = records.load(FOLDER / f"{cell}.json")["unseen"]
            found = {name: [run[column] for run in runs if run["objective"] == name] for name in scores}
            of_unseen = {name: replace(scores[name], **{column: values}) for name, values in found.items()}
            columns.append((f"{corpus_of(cell)}: {_heading(column)}", of_unseen, column))
    return differences_table("objective", columns)


def _title(cell: str) -> str:
    """Data and labels of a cell.

    Examples:
        >>> _title("trec50-10"), _title("sst5-all")
        ('trec50, 10 labels', 'sst5, all labels')
    """
    data, _, shots = cell.rpartition("-")
    return f"{data}, {shots} labels"


def ranking_report(cell: str) -> str:
    """A cell of a hierarchy: how well rows are ranked by their vectors, and by the gain that the classifier expects.

    Args:
        cell: whose record has such a ranking, of all its objectives or some.
    """
    objectives = load(f"relations/{cell}").comparison.objectives
    ranked = _ranked(cell)
    headings = [f"{title} by {what}" for title in OF_RANKINGS.values() for what in ("vectors", "probabilities")]
    lines = [f"| objective | {' | '.join(headings)} |", f"|---|{'--:|' * len(headings)}"]
    for name, scores in objectives.items():
        cells = []
        for column in OF_RANKINGS if name in ranked else ():
            cells += [f"{100 * mean(values):.1f}" for values in (getattr(scores, column), ranked[name][column])]
        if cells:
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    commit = records.load(FOLDER / f"{cell}.json")["by_probabilities"]["commit"]
    return "\n".join([*lines, "", f"Means over the seeds; ranked by probabilities at commit {commit}."])


def ranking_differences(cells: Sequence[str]) -> str:
    """Plain contrast ranked by probabilities, minus graded targets ranked by vectors, paired by seed.

    Args:
        cells: whose records have such a ranking of plain contrast.
    """
    lines = [f"| | {' | '.join(OF_RANKINGS.values())} |", f"|---|{'--:|' * len(OF_RANKINGS)}"]
    for cell in cells:
        graded, ranked = load(f"relations/{cell}").comparison.objectives["graded"], _ranked(cell)[BASELINE]
        found = [paired_difference(ranked[column], getattr(graded, column)) for column in OF_RANKINGS]
        shown = [f"{points(one.mean)} ({' to '.join(map(points, _bounds(one)))})" for one in found]
        lines.append(f"| {_title(cell)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _ranked(cell: str) -> dict[str, dict[str, list[float]]]:
    """The measures of a ranking by probabilities, by objective, in the order of the seeds."""
    runs = sorted(records.load(FOLDER / f"{cell}.json")["by_probabilities"]["runs"], key=lambda run: run["seed"])
    names = dict.fromkeys(run["objective"] for run in runs)
    return {
        name: {column: [run[column] for run in runs if run["objective"] == name] for column in OF_RANKINGS}
        for name in names
    }


def _measures(cell: str, objectives: Mapping[str, SeedScores]) -> list[str]:
    names = OF_HIERARCHIES if corpus_of(cell) in HIERARCHIES else OF_ORDERS
    return [name for name in names if any(getattr(scores, name) for scores in objectives.values())]


def _heading(column: str) -> str:
    return SHOWN[column][0] if column in SHOWN else "accuracy %"


def _cell(scores: SeedScores, baseline: SeedScores, column: str, is_baseline: bool) -> str:
    scale, digits = _scale(column), _digits(column)
    found = [scale * value for value in getattr(scores, column)]
    if is_baseline:
        return f"{mean(found):.{digits}f}"
    difference = paired_difference(found, [scale * value for value in getattr(baseline, column)])
    bounds = _bounds(difference)
    middle, low, high = (_signed(value, digits) for value in (difference.mean, *bounds))
    is_clear = bounds[0] > 0 or bounds[1] < 0
    return f"{f'**{middle}**' if is_clear else middle}<br>{low} to {high}"


def _bounds(difference: PairedDifference) -> tuple[float, float]:
    bounds = [value for value in (difference.low, difference.high) if value is not None]
    assert len(bounds) == 2, "a recorded cell has two seeds or more"
    return bounds[0], bounds[1]


def _scale(column: str) -> float:
    return SHOWN[column][1] if column in SHOWN else 100


def _digits(column: str) -> int:
    return 1 if _scale(column) > 1 else 3


def _mean(scores: SeedScores, column: str) -> float:
    return mean(getattr(scores, column))


def _signed(value: float, digits: int) -> str:
    # Without the sign of a zero.
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _facts(result: Result) -> str:
    comparison, provenance = result.comparison, result.provenance
    facts = (
        f"The row `{BASELINE}` has means over {len(comparison.seeds)} seeds, the others the difference to it, paired "
        "by seed, with its 95 % interval, not corrected for the number of looks; bold where the interval does not "
        f"contain 0. {provenance.machine}; torch {provenance.versions['torch']}; commit {result.commit}. {result.note}"
    )
    return "\n".join(["```sh", on_lines(command(provenance.settings)), "```", "", facts])
