"""The table of a record of `benchmarks.integrations`.

python -m benchmarks.integrations.table benchmarks/results/integrations/minilm-trec.json
"""

import json
import math
import sys
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from labeldist.training.output.words import points
from labeldist.training.study.statistics import holm, paired_difference

RESULTS = Path(__file__).parent.parent / "results" / "integrations"


def load(path: Path) -> dict[str, Any]:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


def settings(record: dict[str, Any]) -> str:
    """What was trained, by which command, and where."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"The pretrained MiniLM on {record['num_train']} rows of {record['corpus']}, {record['epochs']} epochs in "
        f"batches of {record['batch_size']} rows and {record['views']} views, learning rate {record['lr']:g} falling "
        f"to zero, temperature {record['temperature']:g}; tested on {record['num_test']} rows.\n\n"
        f"```sh\n{command(record)}\n```\n\n"
        f"{record['machine']}, {record['threads']} threads; {versions}; commit {record['commit']}."
    )


def command(record: dict[str, Any]) -> str:
    """What gives the seeds of the table again: a record that was stopped early has fewer than were asked for."""
    seeds = " ".join(map(str, next(iter(accuracies(record).values()))))
    rows = f"--rows {record['num_train']} --epochs {record['epochs']} --seeds {seeds}"
    return f"python -m benchmarks.integrations --data corpora/{record['corpus']} {rows}"


def accuracies(record: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Test accuracy of each way by seed, in [0, 1], of the seeds that all ways have."""
    ways: dict[str, dict[int, float]] = {}
    for run in record["runs"]:
        ways.setdefault(run["way"], {})[run["seed"]] = run["accuracy"]
    seeds = set.intersection(*(set(scores) for scores in ways.values()))
    return {way: {seed: scores[seed] for seed in sorted(seeds)} for way, scores in ways.items()}


def table(record: dict[str, Any]) -> str:
    """Markdown: accuracy by seed, then the differences in pairs, then whether seeds explain them."""
    ways = accuracies(record)
    seeds = list(next(iter(ways.values())))
    lines = [
        f"| integration | {' | '.join(f'seed {seed}' for seed in seeds)} | accuracy % |",
        f"|---|{'--:|' * (len(seeds) + 1)}",
    ]
    for way, scores in ways.items():
        cells = [f"{100 * score:.1f}" for score in scores.values()]
        lines.append(f"| {way} | {' | '.join(cells)} | {_spread(list(scores.values()))} |")
    if len(seeds) < 2:
        return "\n".join(lines)
    lines += ["", "| difference | points | standard error | 95 % interval | p | p, Holm |", "|---|--:|--:|--:|--:|--:|"]
    pairs = list(combinations(ways, 2))
    differences = [paired_difference(list(ways[a].values()), list(ways[b].values())) for a, b in pairs]
    corrected = holm([difference.p_value for difference in differences])
    names = [f"{first} − {second}" for first, second in pairs]
    for name, difference, p_holm in zip(names, differences, corrected, strict=True):
        error = 100 * (difference.spread or 0.0) / math.sqrt(difference.num_pairs)
        interval = f"{points(difference.low or 0.0)} to {points(difference.high or 0.0)}"
        cells = [points(difference.mean), f"{error:.2f}", interval, _p(difference.p_value), _p(p_holm)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ends = [(difference.low or 0.0, difference.high or 0.0) for difference in differences]
    alone = [name for name, (low, high) in zip(names, ends, strict=True) if not low <= 0 <= high]
    kept = [name for name, p_holm in zip(names, corrected, strict=True) if p_holm is not None and p_holm < 0.05]
    return "\n".join([*lines, "", _answer(alone, kept, max(max(-low, high) for low, high in ends), len(seeds))])


def _answer(alone: list[str], kept: list[str], largest: float, num_seeds: int) -> str:
    limit = f"Differences of up to {100 * largest:.1f} points are not ruled out."
    if not alone:
        return (
            f"All differences lie within the noise of seeds: each 95 % interval holds zero ({num_seeds} seeds, paired; "
            f"intervals not corrected for several looks). {limit}"
        )
    return (
        f"Taken alone, more than seeds explain ({num_seeds} seeds, paired): {', '.join(alone)}. Corrected for several "
        f"looks at once (Holm): {', '.join(kept) or 'none'}. {limit}"
    )


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _spread(scores: list[float]) -> str:
    spread = f" ± {100 * stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{100 * mean(scores):.1f}{spread}"


def main() -> None:
    """Read a record; print its table."""
    record = load(Path(sys.argv[1]))
    print(f"{settings(record)}\n\n{table(record)}")


if __name__ == "__main__":
    main()
