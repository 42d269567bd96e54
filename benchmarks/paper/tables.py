"""Markdown tables from recorded comparisons: for the documentation when it is built, and for the README.

python -m benchmarks.paper.tables    # rewrites the README's results
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from labeldist.training.config import RunSettings
from labeldist.training.measures import MEASURES
from labeldist.training.objectives import DEFAULT_COMPARED
from labeldist.training.output.words import change, points, training_sentence, verdict_sentences
from labeldist.training.recipes import NOT_BY_EPOCHS, RECIPES
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
            p_value = "" if difference.p_value is None else _p_value(difference.p_value)
            cells += [points(difference.mean), interval, p_value]
        lines.append(f"| {' | '.join(cells)} |")
    training = training_sentence(comparison)
    sentences = [*verdict_sentences(comparison), *([training] if training else [])]
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
            *(f"> {sentence}\n>" for sentence in sentences),
            "",
            "```sh",
            on_lines(command(provenance.settings)),
            "```",
            "",
            facts,
        ]
    )


SHOWN = {
    "mean_absolute_error": ("absolute error", 1),
    "median_absolute_error": ("of the posterior median", 1),
    "quadratic_weighted_kappa": ("kappa", 1),
    "expected_cost": ("cost", 1),
    "least_expected_cost": ("least expected cost", 1),
    "group_accuracy": ("group accuracy %", 100),
    "graded_ndcg": ("nDCG@50 %", 100),
    "group_mean_average_precision": ("group MAP %", 100),
}
"""Measures by a relation of the classes, with their headings and what they are multiplied with."""


def relation_table(name: str) -> str:
    """A comparison by what is known of the classes: a row an objective, the verdicts, the command and the machine."""
    result = load(name)
    comparison, provenance = result.comparison, result.provenance
    measure = MEASURES[comparison.measure]
    columns = [entry for entry in SHOWN if any(getattr(scores, entry) for scores in comparison.objectives.values())]
    change_of = f"{measure.noun} against {comparison.baseline}, with its 95 % interval"
    headings = ["objective", "accuracy %", *(SHOWN[entry][0] for entry in columns), change_of]
    lines = [f"| {' | '.join(headings)} |", f"|---|{'--:|' * (len(headings) - 1)}"]
    for objective, scores in comparison.objectives.items():
        cells = [objective, spread(scores.accuracy)]
        for entry in columns:
            found = [value * SHOWN[entry][1] for value in getattr(scores, entry) if value is not None]
            cells.append(f"{mean(found):.{1 if SHOWN[entry][1] > 1 else 3}f}" if found else "")
        difference = comparison.difference_to_baseline(objective)
        if difference is None or difference.low is None or difference.high is None:
            cells.append("")
        else:
            low, middle, high = (change(value, measure) for value in (difference.low, difference.mean, difference.high))
            cells.append(f"{middle} ({low} to {high})")
        lines.append(f"| {' | '.join(cells)} |")
    versions = provenance.versions
    facts = (
        f"Means over {len(comparison.seeds)} seeds, ± standard deviation. {provenance.machine}; torch "
        f"{versions['torch']}; commit {result.commit}. {result.note}"
    )
    verdicts = [f"> {sentence}\n>" for sentence in verdict_sentences(comparison)]
    shell = ["```sh", on_lines(command(provenance.settings)), "```"]
    return "\n".join([*lines, "", *verdicts, "", *shell, "", facts])


def _p_value(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else "< 0.01"


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation in percent."""
    found = [value for value in values if value is not None]
    return f"{100 * mean(found):.1f} ± {100 * stdev(found):.1f}"


def command(settings: Mapping[str, Any]) -> str:
    """The command line that repeats a comparison of these settings: only what differs from the defaults."""
    # The defaults of the recipe; what it makes of the data, such as the number of steps, is said again.
    recipe = settings["optim"].get("recipe", "standard")
    standard = _values(RunSettings())
    default = _values(RECIPES[recipe].settings) if recipe in RECIPES else standard
    words = ["labeldist", "compare"]
    for section, usual_values in default.items():
        # A setting that came after the record was at its standard then; one that came later still has no default here.
        for field, value in {**usual_values, **standard[section], **settings[section]}.items():
            usual = usual_values.get(field)
            if field == "epochs" and value == NOT_BY_EPOCHS:
                continue
            if field == "data":
                words += ["--data", *value]
            elif isinstance(value, bool) and value != usual:
                words.append("--" + ("" if value else "no-") + field.replace("_", "-"))
            elif value != usual and field != "device":
                values = value if isinstance(value, list) else [value]
                words += ["--" + field.replace("_", "-"), *map(str, values)]
    words += ["--objectives", *settings["objectives"], "--seeds", *map(str, settings["seeds"])]
    if settings.get("measure", "accuracy") != "accuracy":
        words += ["--measure", settings["measure"]]
    if settings["margin"] != 0.005:
        words += ["--margin", str(settings["margin"])]
    return shlex.join(words)


def _values(settings: RunSettings) -> dict[str, dict[str, Any]]:
    """All settings by section, as JSON; also those that a record leaves out at their default."""
    sections = {one.name: getattr(settings, one.name) for one in fields(settings)}
    return {
        name: {one.name: to_json(getattr(section, one.name)) for one in fields(section)}
        for name, section in sections.items()
    }


def on_lines(words: str, width: int = 84) -> str:
    """A command line broken for the eye, between its words; the shell reads it as one."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(words)):
        if lines[-1] and len(f"{lines[-1]} {word}") > width:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
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
