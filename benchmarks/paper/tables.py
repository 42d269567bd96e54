"""Markdown tables from recorded comparisons: for the documentation when it is built, and for the README.

python -m benchmarks.paper.tables    # rewrites the README's results
"""

import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from labeldist.training.config import RunSettings
from labeldist.training.objectives import DEFAULT_COMPARED
from labeldist.training.output.words import points, verdict_sentences
from labeldist.training.record_json import to_json
from labeldist.training.records import record_from_json
from labeldist.training.study.results import Comparison, Provenance

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->"

# Table II of the paper: accuracy in percent, without and with CLLD; one number a cell, no seeds, no spread.
PAPER = {"textcnn-trec": (88.2, 88.8), "textcnn-mr": (70.9, 72.1), "minilm-trec": (97.6, 97.8)}


@dataclass(frozen=True)
class Result:
    """A recorded comparison, the commit that it ran at, and what a reader must know beside the settings."""

    comparison: Comparison
    provenance: Provenance
    commit: str
    note: str


def load(name: str) -> Result:
    """A recorded comparison."""
    path = RESULTS / f"{name}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    comparison = record_from_json(Comparison, stored["comparison"], source=path)
    assert comparison.provenance is not None
    return Result(comparison, comparison.provenance, stored["commit"], stored["note"])


def table(name: str) -> str:
    """One comparison: a row an objective, then the verdict, the command and the machine."""
    result = load(name)
    comparison, provenance = result.comparison, result.provenance
    lines = [
        f"| objective | accuracy % | macro-F1 % | against {comparison.baseline} | 95 % interval | p |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for objective, scores in comparison.objectives.items():
        difference = comparison.difference_to_baseline(objective)
        cells = [objective, spread(scores.accuracy), spread(scores.macro_f1)]
        if difference is None or difference.low is None or difference.high is None:
            cells += ["", "", ""]
        else:
            interval = f"{points(difference.low)} to {points(difference.high)}"
            p_value = "" if difference.p_value is None else f"{difference.p_value:.2f}"
            cells += [points(difference.mean), interval, p_value]
        lines.append(f"| {' | '.join(cells)} |")
    versions = provenance.versions
    facts = (
        f"{len(comparison.seeds)} seeds, mean ± standard deviation on the test set; p from a paired t-test, not "
        f"corrected. {provenance.machine}; torch {versions['torch']}, transformers {versions['transformers']}; "
        f"commit {result.commit}. {result.note}"
    )
    return "\n".join(
        [
            *lines,
            "",
            *(f"> {sentence}\n>" for sentence in verdict_sentences(comparison)),
            "",
            "```sh",
            on_lines(command(provenance.settings)),
            "```",
            "",
            facts,
        ]
    )


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation in percent."""
    found = [value for value in values if value is not None]
    return f"{100 * mean(found):.1f} ± {100 * stdev(found):.1f}"


def command(settings: Mapping[str, Any]) -> str:
    """The command line that repeats a comparison of these settings: only what differs from the defaults."""
    default = to_json(RunSettings())
    words = ["labeldist", "compare"]
    for section, fields in default.items():
        for field, usual in fields.items():
            # A setting that came after the record was at its default then.
            value = settings[section].get(field, usual)
            if field == "data":
                words += ["--data", *value]
            elif isinstance(value, bool) and value != usual:
                words.append("--" + ("" if value else "no-") + field.replace("_", "-"))
            elif value != usual and field != "device":
                values = value if isinstance(value, list) else [value]
                words += ["--" + field.replace("_", "-"), *map(str, values)]
    words += ["--objectives", *settings["objectives"], "--seeds", *map(str, settings["seeds"])]
    if settings["margin"] != 0.005:
        words += ["--margin", str(settings["margin"])]
    return shlex.join(words)


def on_lines(words: str, width: int = 84) -> str:
    """A command line broken for the eye; the shell reads it as one."""
    lines = textwrap.wrap(words, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines)


def readme_block() -> str:
    """The README's short table: each recorded comparison against its controls."""
    lines = [
        f"| data, encoder | {' | '.join(DEFAULT_COMPARED)} | paper, without → with |",
        f"|---|{'--:|' * len(DEFAULT_COMPARED)}--:|",
    ]
    for name, title in TITLES.items():
        objectives = load(name).comparison.objectives
        cells = [spread(objectives[objective].accuracy) for objective in DEFAULT_COMPARED]
        paper = "{} → {}".format(*PAPER[name]) if name in PAPER else ""
        lines.append(f"| {title} | {' | '.join(cells)} | {paper} |")
    return "\n".join(lines) + "\n"


TITLES = {
    "textcnn-trec": "TREC, TextCNN",
    "textcnn-mr": "MR, TextCNN",
    "minilm-trec": "TREC, MiniLM (the paper: BERT)",
    "minilm-trec-20-shots": "TREC, 20 labels per class, MiniLM",
}


def main() -> None:
    """Rewrite the results between the README's markers."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    readme.write_text(text[:start] + readme_block() + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
