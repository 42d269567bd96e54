"""The paper's tables from the records of `benchmarks.paper`, as Markdown, with the paper's own figures beside them.

python -m benchmarks.paper.report benchmarks/results/paper

A cell that was not run says so, and one that lacks seeds says how many it has.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import records
from benchmarks.paper.protocol import (
    ABLATION,
    CONTRASTIVE,
    CORPORA,
    ENCODERS,
    NOT_REACHABLE,
    OBJECTIVES,
    PAPER,
    PAPER_ABLATION,
    Setting,
    objectives_of,
    seeds_of,
)
from benchmarks.paper.runs import chosen_temperature
from labeldist.training.objectives import Objective
from labeldist.training.output.words import points
from labeldist.training.study.results import PairedDifference
from labeldist.training.study.statistics import decide, holm, paired_difference

__all__ = [
    "RESULTS",
    "Results",
    "ablation_table",
    "difference_table",
    "differences_to_two_views",
    "main_table",
    "report",
    "temperature_table",
]

COMPARED: tuple[tuple[Objective, tuple[Objective, ...]], ...] = (
    ("contrastive", ("ce-two-views",)),
    ("static", ("ce-two-views", "contrastive", "uniform")),
    ("adaptive", ("ce-two-views", "contrastive", "uniform")),
)
"""The differences of a table: contrast, and label distance with the controls that its claim needs."""
TITLES: dict[Setting, str] = {
    "paper": "Table II in the paper's setting",
    "tuned": "Table II at a temperature chosen on held-out training rows",
}

RESULTS = Path(__file__).parent.parent / "results" / "paper"
Run = dict[str, Any]


class Results:
    """The records of a folder.

    Args:
        folder: with a file for each encoder that was run; there may be none.
    """

    def __init__(self, folder: Path):
        self.records = {name: records.load(path) for name in ENCODERS if (path := folder / f"{name}.json").exists()}

    @property
    def encoders(self) -> list[str]:
        """The encoders that have runs, in the protocol's order."""
        return [name for name in ENCODERS if self.runs(name)]

    def runs(self, encoder: str) -> list[Run]:
        """All runs of an encoder."""
        return self.records[encoder]["runs"] if encoder in self.records else []

    def temperature(self, encoder: str, corpus: str) -> float | None:
        """The temperature that the development runs of a cell chose; `None` until all of them are there."""
        if encoder not in self.records:
            return None
        each = runs_at_a_temperature(encoder, corpus)
        return chosen_temperature(self.development(encoder, corpus), self.records[encoder]["temperatures"], each)

    def development(self, encoder: str, corpus: str) -> list[Run]:
        """The development runs of a cell."""
        return [one for one in self.runs(encoder) if (one["corpus"], one["setting"]) == (corpus, "development")]

    def scores(
        self, encoder: str, corpus: str, setting: Setting, objective: Objective, metric: str = "accuracy"
    ) -> dict[int, float]:
        """A metric by seed, a fraction; nothing where it was not run.

        What no temperature is part of, and everything where the paper's temperature was chosen, are the runs of the
        paper's setting.
        """
        temperature = self.temperature(encoder, corpus) if setting == "tuned" else 1.0
        if temperature is None:
            return {}
        is_shared = setting == "tuned" and (temperature == 1 or objective not in (*CONTRASTIVE, "near"))
        wanted = ("paper", 1.0) if is_shared else (setting, temperature)
        return {
            run["seed"]: run[metric]
            for run in self.runs(encoder)
            if (run["corpus"], run["objective"]) == (corpus, objective)
            and (run["setting"], run["temperature"]) == wanted
            and metric in run
        }


def main_table(results: Results, setting: Setting) -> str:
    """Markdown: accuracy in percent, mean and standard deviation over seeds; a line a cell, a column an objective.

    Only encoders that have runs: `report` names the others.
    """
    temperature = " temperature |" if setting == "tuned" else ""
    lines = [
        f"| corpus | encoder |{temperature} {' | '.join(OBJECTIVES)} | the paper, without → with |",
        f"|---|---|{'--:|' * (len(OBJECTIVES) + 1 + bool(temperature))}",
    ]
    for corpus, encoder in _cells(results):
        cells = [_mean(results.scores(encoder, corpus, setting, name), encoder, setting) for name in OBJECTIVES]
        if temperature:
            cells.insert(0, _temperature(results.temperature(encoder, corpus)))
        base = ENCODERS[encoder].paper
        own = "" if base.lower() == encoder else f" ({base})"
        without, with_clld = PAPER[corpus][base]
        lines.append(f"| {CORPORA[corpus].title} | {encoder} | {' | '.join(cells)} | {without} → {with_clld}{own} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Compared:
    """Differences of one objective of a cell to its controls."""

    corpus: str
    encoder: str
    objective: Objective
    differences: dict[str, PairedDifference]


def difference_table(results: Results, setting: Setting) -> str:
    """Markdown: differences of accuracy in points, paired by seed, with 95 % intervals and corrected p-values.

    The p-values are Holm's, over all differences of the table. The answer is that of `labeldist compare`: an objective
    "helps" if it is better than every control, and "does not help" if a gain of half a point over one of them is ruled
    out. A cell without runs has no line.
    """
    controls = COMPARED[-1][1]
    lines = [
        f"| corpus | encoder | objective | {' | '.join(f'− {control}' for control in controls)} | answer |",
        f"|---|---|---|{'--:|' * len(controls)}---|",
    ]
    compared = [row for row in _compared(results, setting) if row.differences]
    corrected = iter(holm([found.p_value for row in compared for found in row.differences.values()]))
    for row in compared:
        own_p = {control: next(corrected) for control in row.differences}
        cells = [CORPORA[row.corpus].title, row.encoder, row.objective]
        cells += [_difference(row.differences.get(control), own_p.get(control)) for control in controls]
        same_matrix = ("uniform",) if _is_one_matrix(row.corpus, row.objective, "uniform") else ()
        verdict = decide(row.objective, row.differences, corrected_p=own_p, same_matrix=same_matrix)
        # Plain contrast is itself a control: no claim about label distance.
        cells.append("" if row.objective == "contrastive" else verdict.answer)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if compared else "No two objectives were run."


def differences_to_two_views(
    results: Results, setting: Setting
) -> dict[tuple[str, str], dict[str, PairedDifference | None]]:
    """Of each cell, (corpus, encoder), the differences of accuracy to two-view cross-entropy, by objective."""
    found: dict[tuple[str, str], dict[str, PairedDifference | None]] = {}
    for row in _compared(results, setting):
        found.setdefault((row.corpus, row.encoder), {})[row.objective] = row.differences.get("ce-two-views")
    return found


def ablation_table(results: Results, setting: Setting = "paper") -> str:
    """Markdown: the paper's Table III on 20NG, a line a row of the ablation, a column an encoder."""
    lines = [
        f"| | {' | '.join(results.encoders)} | the paper, BERT |",
        f"|---|{'--:|' * (len(results.encoders) + 1)}",
    ]
    for objective, title in ABLATION.items():
        cells = [
            _mean(results.scores(encoder, "20ng", setting, objective), encoder, setting) for encoder in results.encoders
        ]
        paper = PAPER_ABLATION.get(objective)
        lines.append(f"| {title} (`{objective}`) | {' | '.join(cells)} | {'' if paper is None else f'{paper:.2f}'} |")
    return "\n".join(lines)


def temperature_table(results: Results) -> str:
    """Markdown: accuracy on development rows at each temperature, and the one chosen; empty without such runs."""
    begun = [(corpus, encoder) for corpus, encoder in _cells(results) if results.development(encoder, corpus)]
    temperatures = sorted({one for _, name in begun for one in results.records[name]["temperatures"]}, reverse=True)
    lines = [
        f"| corpus | encoder | {' | '.join(f'{value:g}' for value in temperatures)} | chosen |",
        f"|---|---|{'--:|' * (len(temperatures) + 1)}",
    ]
    for corpus, encoder in begun:
        runs, each = results.development(encoder, corpus), runs_at_a_temperature(encoder, corpus)
        cells = [_development([run for run in runs if run["temperature"] == one], each) for one in temperatures]
        chosen = _temperature(results.temperature(encoder, corpus))
        lines.append(f"| {CORPORA[corpus].title} | {encoder} | {' | '.join(cells)} | {chosen} |")
    return "\n".join(lines) if temperatures else ""


def runs_at_a_temperature(encoder: str, corpus: str) -> int:
    """Number of development runs of a cell at each temperature.

    Examples:
        >>> runs_at_a_temperature("textcnn", "trec")
        4
    """
    return len(objectives_of(corpus, "development")) * len(seeds_of(encoder, "development"))


def _development(runs: Sequence[Run], number: int) -> str:
    """Mean accuracy of the development runs at a temperature, or what is wrong with them.

    Examples:
        >>> run = {"accuracy": 0.5}
        >>> _development([run, run], 2), _development([run], 2), _development([], 2), _development([run, {}], 2)
        ('50.0', '50.0 (1 of 2 runs)', 'not run', 'failed')
    """
    found = [run["accuracy"] for run in runs if "accuracy" in run]
    if len(found) < len(runs):
        return "failed"
    if not runs:
        return "not run"
    return f"{100 * mean(found):.1f}" + (f" ({len(runs)} of {number} runs)" if len(runs) < number else "")


def report(folder: Path, *, level: int = 2) -> str:
    """Every table of a folder of records, under headings of a level, with what was run and where."""
    heading = "#" * level
    results = Results(folder)
    if not results.encoders:
        return "\n\n".join(_facts(results))
    parts = []
    for setting, title in TITLES.items():
        parts.append(f"{heading} {title}")
        if not _is_any_run(results, setting, tuple(CORPORA)):
            parts.append("Not run yet.")
            continue
        note = (
            "Differences of accuracy, points, paired by seed, with 95 % intervals; p corrected over the table (Holm)."
        )
        parts += ["Accuracy, %, mean ± standard deviation over seeds.", main_table(results, setting)]
        parts += [note, difference_table(results, setting)]
    ablation = ablation_table(results) if _is_any_run(results, "paper", ("20ng",)) else "Not run yet."
    parts += [f"{heading} Table III: ablation on 20NG", ablation]
    if temperatures := temperature_table(results):
        parts += [f"{heading} Choice of the temperature", "Accuracy on held-out training rows, %.", temperatures]
    return "\n\n".join([*parts, *_facts(results)])


def _is_any_run(results: Results, setting: Setting, corpora: Sequence[str]) -> bool:
    return any(
        (run["setting"], run["corpus"] in corpora) == (setting, True)
        for encoder in results.encoders
        for run in results.runs(encoder)
    )


def _facts(results: Results) -> Iterator[str]:
    missing = [name for name in ENCODERS if name not in results.encoders]
    if others := [name for name in missing if name not in NOT_REACHABLE]:
        yield f"Not run yet: {', '.join(others)}."
    yield from (f"{name}: {NOT_REACHABLE[name]}." for name in missing if name in NOT_REACHABLE)
    for encoder, record in results.records.items():
        failed = [run for run in record["runs"] if "failed" in run]
        hours = sum(run.get("seconds") or 0 for run in record["runs"]) / 3600
        note = f", {len(failed)} failed" if failed else ""
        flags = f" With {record['options']}." if record["options"] else ""
        yield (
            f"{encoder}: {record['title']}; {len(record['runs'])} runs{note}, {hours:.1f} hours of training in all."
            f"{flags} {'; '.join(record['machines'])}; {'; '.join(record['versions'])}; commit {record['commit']}."
        )


def _cells(results: Results) -> Iterator[tuple[str, str]]:
    return ((corpus, encoder) for corpus in CORPORA for encoder in results.encoders)


def _compared(results: Results, setting: Setting) -> Iterator[_Compared]:
    for corpus, encoder in _cells(results):
        for objective, controls in COMPARED:
            scores = results.scores(encoder, corpus, setting, objective)
            differences: dict[str, PairedDifference] = {}
            for control in controls:
                if _is_one_matrix(corpus, objective, control):
                    continue
                others = results.scores(encoder, corpus, setting, control)
                seeds = sorted(scores.keys() & others.keys())
                if seeds:
                    pairs = [[one[seed] for seed in seeds] for one in (scores, others)]
                    differences[control] = paired_difference(*pairs)
            yield _Compared(corpus, encoder, objective, differences)


def _is_one_matrix(corpus: str, objective: Objective, control: Objective) -> bool:
    """Of two classes there is one pair: the mean of the static distances is the static distance."""
    return CORPORA[corpus].num_classes == 2 and (objective, control) == ("static", "uniform")


def _mean(scores: dict[int, float], encoder: str, setting: Setting) -> str:
    if not scores:
        return "not run"
    values = [100 * value for value in scores.values()]
    text = f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"
    wanted = len(seeds_of(encoder, setting))
    return text if len(values) >= wanted else f"{text} ({len(values)} of {wanted} seeds)"


def _difference(difference: PairedDifference | None, corrected_p: float | None) -> str:
    if difference is None:
        return ""
    if difference.low is None or difference.high is None:
        return points(difference.mean)
    p_value = "" if corrected_p is None else f", p {corrected_p:.2f}"
    return f"{points(difference.mean)} ({points(difference.low)} to {points(difference.high)}{p_value})"


def _temperature(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def main() -> None:
    """Read the command line; print every table."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("Give the folder of the records: python -m benchmarks.paper.report FOLDER")
    print(report(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
