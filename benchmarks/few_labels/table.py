"""The tables of a record of `benchmarks.few_labels`.

python -m benchmarks.few_labels.table benchmarks/results/few-labels/cuda.json
"""

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.few_labels.record import RESULTS, load, name_of, names_of
from labeldist.training.output.words import points
from labeldist.training.study.statistics import paired_difference

__all__ = [
    "RESULTS",
    "comparison_table",
    "default_pairs",
    "difference",
    "difference_table",
    "load",
    "report",
    "scores_of",
    "settings",
    "table",
    "time_table",
    "variants_table",
]

ALL = "mean"
"""In place of a corpus: the mean over all corpora."""

Scores = dict[str, dict[tuple[str, int], dict[int, float]]]
"""By method, by corpus and number of labels, by seed."""


def scores_of(record: dict[str, Any], metric: str = "accuracy") -> Scores:
    """A metric of each run; with the mean over corpora, of seeds that have all corpora."""
    scores: Scores = {name: defaultdict(dict) for name in names_of(record)}
    for run in record["runs"]:
        scores[name_of(run)][run["corpus"], run["shots"]][run["seed"]] = run[metric]
    corpora = _corpora(record)
    for cells in scores.values():
        for shots in {shots for _, shots in cells}:
            of_corpora = [cells.get((corpus, shots), {}) for corpus in corpora]
            seeds = set.intersection(*map(set, of_corpora))
            if len(corpora) > 1 and seeds:
                cells[ALL, shots] = {seed: mean(cell[seed] for cell in of_corpora) for seed in sorted(seeds)}
    return scores


def table(record: dict[str, Any], metric: str = "accuracy", methods: Sequence[str] | None = None) -> str:
    """Markdown: a metric in percent with its standard error over seeds, a line for each corpus and number of labels."""
    scores = scores_of(record, metric)
    methods = methods or list(scores)
    lines = [
        f"| corpus | labels per class | seeds | {' | '.join(methods)} |",
        f"|---|--:|--:|{'--:|' * len(methods)}",
    ]
    for corpus, shots in _cells(record):
        cells = [scores[method].get((corpus, shots), {}) for method in methods]
        if any(cells):
            seeds = _range(len(cell) for cell in cells if cell)
            means = [_mean(list(cell.values())) for cell in cells]
            lines.append(f"| {corpus} | {shots or 'all'} | {seeds} | {' | '.join(means)} |")
    return "\n".join(lines)


def difference_table(record: dict[str, Any], pairs: Sequence[tuple[str, str]] | None = None) -> str:
    """Markdown: differences of accuracy in points, paired by seed, with the 95 % interval of the t test."""
    scores = scores_of(record)
    pairs = default_pairs(scores) if pairs is None else pairs
    lines = [
        f"| corpus | labels per class | {' | '.join(f'{first} − {second}' for first, second in pairs)} |",
        f"|---|--:|{'--:|' * len(pairs)}",
    ]
    for corpus, shots in _cells(record):
        cells = [difference(scores, first, second, (corpus, shots)) for first, second in pairs]
        if any(cells):
            lines.append(f"| {corpus} | {shots or 'all'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def comparison_table(record: dict[str, Any], first: str, second: str) -> str:
    """Markdown: the accuracy of every method as in `table`, and the difference of two; the means over corpora first."""
    scores = scores_of(record)
    lines = [
        f"| corpus | labels per class | {' | '.join(scores)} | difference to {second} |",
        f"|---|--:|{'--:|' * (len(scores) + 1)}",
    ]
    # A stable sort: the order of corpora stays.
    for corpus, shots in sorted(_cells(record), key=lambda cell: cell[0] != ALL):
        means = [_mean(list(cells.get((corpus, shots), {}).values())) for cells in scores.values()]
        means.append(difference(scores, first, second, (corpus, shots)))
        lines.append(f"| {corpus} | {shots or 'all'} | {' | '.join(means)} |")
    return "\n".join(lines)


def variants_table(record: dict[str, Any], variants: Mapping[str, str]) -> str:
    """Markdown: the mean accuracy over all corpora in percent, a line a variant, a column for each number of labels.

    Args:
        record: of the bare loop with variants.
        variants: what each is called in the table, by its name in the record. An empty cell was not run.
    """
    scores = scores_of(record)
    found = {run["variant"]: scores[name_of(run)] for run in record["runs"]}
    shots = sorted({run["shots"] for run in record["runs"]})
    headings = [f"{number} {'label' if number == 1 else 'labels'}" for number in shots]
    lines = [f"| | {' | '.join(headings)} |", f"|---|{'--:|' * len(shots)}"]
    for name, title in variants.items():
        cells = [found[name].get((ALL, number)) for number in shots]
        means = [f"{100 * mean(cell.values()):.1f}" if cell else "" for cell in cells]
        lines.append(f"| {title} | {' | '.join(means)} |")
    return "\n".join(lines)


def default_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each method of ours with SetFit that was given the same, label texts or none."""
    names = list(names)
    pairs = []
    for name in names:
        method = name.partition(" [")[0]
        if method.startswith("labeldist"):
            texts = method.removeprefix("labeldist")
            peers = ["setfit", *(f"setfit{form}" for form in (texts, texts.replace("label", "plain label")) if form)]
            pairs += [(name, peer) for peer in peers if peer in names]
    return pairs


def ranking(record: dict[str, Any]) -> str:
    """Markdown: accuracy in percent, a line a method, the best first; to choose among many variants.

    Each column is the mean over the seeds of all corpora and one number of labels; the first one is their mean.
    """
    scores = scores_of(record)
    shots = sorted({run["shots"] for run in record["runs"]})
    means = {}
    for name, cells in scores.items():
        columns = [
            [mean(seeds.values()) for (c, s), seeds in cells.items() if s == number and c != ALL] for number in shots
        ]
        means[name] = [mean(column) if column else None for column in columns]
    overall = {name: mean(value for value in columns if value is not None) for name, columns in means.items()}
    lines = [f"| method | mean | {' | '.join(map(str, shots))} |", f"|---|--:|{'--:|' * len(shots)}"]
    for name in sorted(means, key=overall.__getitem__, reverse=True):
        cells = ["" if value is None else f"{100 * value:.1f}" for value in means[name]]
        lines.append(f"| {name} | {100 * overall[name]:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def time_table(record: dict[str, Any], metric: str = "train_seconds", methods: Sequence[str] | None = None) -> str:
    """Markdown: mean seconds, a line for each corpus and number of labels: wall time, or that of the processor."""
    scores = scores_of(record, metric)
    methods = methods or list(scores)
    lines = [f"| corpus | labels per class | {' | '.join(methods)} |", f"|---|--:|{'--:|' * len(methods)}"]
    for corpus, shots in _cells(record):
        cells = [list(scores[method].get((corpus, shots), {}).values()) for method in methods]
        if any(cells):
            times = [f"{mean(cell):.1f}" if cell else "" for cell in cells]
            lines.append(f"| {corpus} | {shots or 'all'} | {' | '.join(times)} |")
    return "\n".join(lines)


def settings(record: dict[str, Any]) -> str:
    """What was run, by which commands, and where."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    runs = "one run at a time" if record["jobs"] == 1 else f"{record['jobs']} runs at a time"
    device = f"{record['gpus']} GPU(s)" if record["gpus"] else record["device"]
    commands = "\n".join(record["commands"])
    return (
        f"Judged on {record['evaluated']} rows, the first {record['max_length']} tokens of a text.\n\n"
        f"```sh\n{commands}\n```\n\n"
        f"{'; '.join(record['machines'])}, on {device}, {runs}, {record['threads']} thread(s) each; {versions}; commit "
        f"{record['commit']}."
    )


def report(record: dict[str, Any]) -> str:
    """All tables, under headings; of many variants, their ranking only."""
    if record["options"].keys() - {""}:
        return f"{ranking(record)}\n\n{settings(record)}"
    parts = ["Accuracy, %, ± standard error", table(record)]
    if pairs := default_pairs(scores_of(record)):
        parts += ["Difference of accuracy, points, 95 % interval", difference_table(record, pairs)]
    parts += ["Macro-F1, %, ± standard error", table(record, "macro_f1")]
    parts += ["Seconds to train", time_table(record)]
    if record["device"] == "cpu":
        parts += ["Seconds of the processor to train", time_table(record, "train_processor_seconds")]
    parts += ["Seconds to predict", time_table(record, "predict_seconds")]
    return "\n\n".join([*parts, settings(record)])


def _corpora(record: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(run["corpus"] for run in record["runs"]))


def _cells(record: dict[str, Any]) -> list[tuple[str, int]]:
    shots = sorted({run["shots"] for run in record["runs"]})
    return [(corpus, number) for corpus in [*_corpora(record), ALL] for number in shots]


def difference(scores: Scores, first: str, second: str, cell: tuple[str, int]) -> str:
    """The difference of two methods in points, paired by seed, with its 95 % interval; empty without a common seed."""
    ours, theirs = scores[first].get(cell, {}), scores[second].get(cell, {})
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return ""
    found = paired_difference([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
    if found.low is None or found.high is None:
        return points(found.mean)
    return f"{points(found.mean)} ({points(found.low)} to {points(found.high)})"


def _mean(scores: list[float]) -> str:
    if not scores:
        return ""
    error = f" ± {100 * stdev(scores) / math.sqrt(len(scores)):.1f}" if len(scores) > 1 else ""
    return f"{100 * mean(scores):.1f}{error}"


def _range(numbers: Iterable[int]) -> str:
    numbers = set(numbers)
    return str(min(numbers)) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"


def main() -> None:
    """Read a record; print its tables."""
    print(report(load(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
