"""Markdown tables from recorded comparisons: for the documentation when it is built, and for the README.

python -m benchmarks.paper.tables    # rewrites the README's results
"""

import json
import shlex
import textwrap
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from labeldist.training.config import RunSettings, to_json
from labeldist.training.objectives import DEFAULT_COMPARED
from labeldist.training.study.statistics import points

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->"

# Table II of the paper: accuracy in percent, without and with CLLD; one number a cell, no seeds, no spread.
PAPER = {"textcnn-trec": (88.2, 88.8), "textcnn-mr": (70.9, 72.1), "minilm-trec": (97.6, 97.8)}


def load(name: str) -> dict[str, Any]:
    """A recorded comparison."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(name: str) -> str:
    """One comparison: a row an objective, then the verdict, the command and the machine."""
    result = load(name)
    baseline, seeds = result["baseline"], len(result["seeds"])
    lines = [
        f"| objective | accuracy % | macro-F1 % | against {baseline} | 95 % interval | p |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for objective, columns in result["objectives"].items():
        difference = result["differences"].get(objective, {}).get(baseline)
        cells = [objective, spread(columns["accuracy"]), spread(columns["macro_f1"])]
        if difference is None:
            cells += ["", "", ""]
        else:
            p_value = difference["p_value"]
            interval = f"{points(difference['low'])} to {points(difference['high'])}"
            cells += [points(difference["mean"]), interval, "" if p_value is None else f"{p_value:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    sentences = [one["sentence"] for one in result["verdict"]["objectives"].values()]
    versions = result["versions"]
    facts = (
        f"{seeds} seeds, mean ± standard deviation on the test set; p from a paired t-test, not corrected. "
        f"{result['machine']}; torch {versions['torch']}, transformers {versions['transformers']}; "
        f"commit {result['commit']}. {result['note']}"
    )
    return "\n".join(
        [
            *lines,
            "",
            *(f"> {sentence}\n>" for sentence in sentences),
            "",
            "```sh",
            on_lines(command(result)),
            "```",
            "",
            facts,
        ]
    )


def spread(values: list[float]) -> str:
    """Mean and standard deviation in percent."""
    return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}"


def command(result: dict[str, Any]) -> str:
    """The command line that repeats a comparison: only what differs from the defaults."""
    settings = result["settings"]
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
        objectives = load(name)["objectives"]
        cells = [spread(objectives[objective]["accuracy"]) for objective in DEFAULT_COMPARED]
        paper = "{} → {}".format(*PAPER[name]) if name in PAPER else ""
        lines.append(f"| {title} | {' | '.join(cells)} | {paper} |")
    return "\n".join(lines) + "\n"


TITLES = {
    "textcnn-trec": "TREC, TextCNN",
    "textcnn-mr": "MR, TextCNN",
    "minilm-trec": "TREC, MiniLM (the paper: BERT)",
    "minilm-trec-20-shots": "TREC, 20 labels a class, MiniLM",
}


def main() -> None:
    """Rewrite the results between the README's markers."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    readme.write_text(text[:start] + readme_block() + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
