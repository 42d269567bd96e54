"""The tables of a record of `benchmarks.outside`, as Markdown.

python -m benchmarks.outside.table RECORD.json
"""

import sys
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.few_labels.table import difference, scores_of, settings, table, time_table
from benchmarks.records import load
from labeldist.training.output.words import points
from labeldist.training.study.statistics import holm, paired_difference

__all__ = ["RESULTS", "difference_table", "methods_table", "report"]

RESULTS = Path(__file__).resolve().parent.parent / "results" / "outside"
OWN = "labeldist"
BASE = "trainer"
"""What every other method is compared with: cross-entropy by the Trainer as it comes."""


def difference_table(record: dict[str, Any], base: str = BASE) -> str:
    """Markdown: accuracy of each method minus the base's, in points, paired by seed, with 95 % intervals.

    The p-values are Holm's, over all differences of the table.
    """
    scores = scores_of(record)
    if base not in scores:
        return f"Without {base} there is nothing to compare with."
    methods = [name for name in scores if name != base]
    cells = [(corpus, shots) for corpus, shots in scores[base] if corpus != "mean"]
    found = {}
    for cell in cells:
        for method in methods:
            seeds = sorted(scores[method].get(cell, {}).keys() & scores[base][cell].keys())
            if seeds:
                pairs = [[scores[name][cell][seed] for seed in seeds] for name in (method, base)]
                found[cell, method] = paired_difference(*pairs)
    corrected = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))
    lines = [
        f"| corpus | labels per class | {' | '.join(f'{method} − {base}' for method in methods)} |",
        f"|---|--:|{'--:|' * len(methods)}",
    ]
    for corpus, shots in cells:
        row = []
        for method in methods:
            difference = found.get(((corpus, shots), method))
            if difference is None:
                row.append("not run")
            elif difference.low is None or difference.high is None:
                row.append(points(difference.mean))
            else:
                p_value = corrected[(corpus, shots), method]
                at = "" if p_value is None else f", p {p_value:.2f}"
                row.append(f"{points(difference.mean)} ({points(difference.low)} to {points(difference.high)}{at})")
        lines.append(f"| {corpus} | {shots or 'all'} | {' | '.join(row)} |")
    return "\n".join(lines)


def methods_table(record: dict[str, Any]) -> str:
    """Markdown: a line for each method: accuracy, below it the difference to `labeldist`, and seconds to train.

    Differences are in points, paired by seed, with 95 % intervals that are not corrected for the number of looks.
    """
    scores, seconds = scores_of(record), scores_of(record, "train_seconds")
    cells = [cell for cell in scores[OWN] if cell[0] != "mean"]
    headings = [f"{corpus}, {shots or 'all'} labels: % | seconds" for corpus, shots in cells]
    lines = [f"| method | {' | '.join(headings)} |", f"|---|{'--:|--:|' * len(cells)}"]
    for method in scores:
        columns = []
        for cell in cells:
            found = scores[method].get(cell, {})
            shown = f"{100 * mean(found.values()):.1f}" if found else "not run"
            if found and method != OWN:
                shown += f"<br>{difference(scores, method, OWN, cell)}"
            columns += [shown, f"{mean(seconds[method][cell].values()):.0f}" if found else ""]
        lines.append(f"| {method} | {' | '.join(columns)} |")
    return "\n".join(lines)


def report(record: dict[str, Any]) -> str:
    """All tables, under headings."""
    if not record["runs"]:
        return "No run has ended."
    parts = ["Accuracy, %, ± standard error", table(record)]
    parts += ["Macro-F1, %, ± standard error", table(record, "macro_f1")]
    heading = "Difference of accuracy, points, paired by seed, 95 % interval; p corrected over the table (Holm)"
    parts += [heading, difference_table(record)]
    shared = "" if record["jobs"] <= max(1, record["gpus"]) else ", several runs beside one another"
    parts += [f"Seconds to train on {record['device']}{shared}", time_table(record)]
    parts += ["Seconds to predict the test rows", time_table(record, "predict_seconds")]
    return "\n\n".join([*parts, f"Encoder: {record['encoder']}. {settings(record)}"])


def main() -> None:
    """Read a record; print its tables."""
    print(report(load(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
