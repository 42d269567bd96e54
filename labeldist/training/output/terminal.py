"""What the terminal shows after a run and after a comparison: pure functions that return text."""

import os
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TextIO

import numpy as np

from labeldist.training.metrics import shorten
from labeldist.training.study.statistics import points

__all__ = ["comparison_table", "display_width", "format_table", "style", "train_summary"]

Style = Literal["bold", "dim", "red", "green", "yellow", "blue"]
STYLE_CODES: dict[str, int] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34}
ANSI_PATTERN = re.compile(r"\x1b\[[0-9;]*m")
ANSWER_STYLES: dict[str, Style] = {"helps": "green", "does not help": "red", "cannot be told": "yellow"}
EMBEDDING_TITLES = {
    "precision_at_1": "precision@1",
    "r_precision": "R-precision",
    "mean_average_precision_at_r": "MAP@R",
}
NUM_WEAK_CLASSES = 5
NUM_PAIRS_SHOWN = 3
NAME_COLUMNS = 28
NOTE_COLUMNS = 100


def style(text: str, name: Style, stream: TextIO | None) -> str:
    """`text` in bold or colour if `stream` is a terminal and NO_COLOR is unset; else as it is.

    Examples:
        >>> import io
        >>> style("done", "green", io.StringIO())
        'done'
    """
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{STYLE_CODES[name]}m{text}\x1b[0m"


def display_width(text: str) -> int:
    """Terminal columns that `text` takes: 2 for East Asian wide characters, 0 for combining marks and colour codes.

    Examples:
        >>> display_width("ask"), display_width("提问")
        (3, 4)
    """
    return sum(map(_character_width, ANSI_PATTERN.sub("", text)))


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cc", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A plain table: headers, a rule, rows; columns padded by display width, without trailing spaces.

    Args:
        headers: title of each column.
        rows: cells, as many in each row as there are headers.
        align: one of `<`, `>` for each column; missing ones are `<`.

    Examples:
        >>> print(format_table(["class", "rows"], [["ask", "12"], ["提问", "3"]], "<>"))
        class  rows
        -----  ----
        ask      12
        提问      3
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"each row must have {len(headers)} cells, one for each header, got {len(row)}.")
    widths = [max(map(display_width, column)) for column in zip(headers, *rows, strict=True)]
    sides = align.ljust(len(headers), "<")[: len(headers)]

    def line(cells: Sequence[str]) -> str:
        padded = (_pad(cell, width, side) for cell, width, side in zip(cells, widths, sides, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), "  ".join("-" * width for width in widths), *map(line, rows)])


def _pad(cell: str, width: int, side: str) -> str:
    space = " " * (width - display_width(cell))
    return space + cell if side == ">" else cell + space


def train_summary(
    metrics: Mapping[str, Any],
    *,
    title: str,
    seconds: float | None = None,
    folder: str | None = None,
    width: int = 100,
    stream: TextIO | None = None,
) -> str:
    """What a trained model does on the test rows: accuracy, the weakest classes, the most confused pairs with examples.

    Args:
        metrics: result of `evaluate_predictions`.
        title: what was run, such as `trec, textcnn, adaptive`.
        seconds: wall time of the run.
        folder: where the run was saved.
        width: columns that examples may take.
        stream: where the text will be written; colours only if it is a terminal.
    """
    facts = [f"{metrics['num_rows']:,} rows"] + ([duration(seconds)] if seconds is not None else [])
    accuracy = style(f"accuracy {percent(metrics['accuracy'])} %", "bold", stream)
    lines = [
        f"{style(title, 'bold', stream)}: {accuracy}, macro-F1 {percent(metrics['macro_f1'])} % ({', '.join(facts)})",
        *_neighbours_and_mistakes(metrics),
        "",
        *_weakest_classes(metrics["per_class"], stream),
        "",
        *_confused_pairs(metrics["confused_pairs"], width, stream),
    ]
    return "\n".join([*lines, "", f"Saved in {folder}"] if folder else lines)


def _neighbours_and_mistakes(metrics: Mapping[str, Any]) -> list[str]:
    """How the embedding groups the rows, and how far the mistakes lie, where that was measured."""
    lines = []
    embeddings = _measured(metrics.get("embeddings"))
    if embeddings:
        shown = ", ".join(f"{title} {percent(embeddings[key])} %" for key, title in EMBEDDING_TITLES.items())
        lines.append(f"Nearest neighbours among these rows: {shown}")
    severity = _measured(metrics.get("mistake_severity"))
    if severity:
        mean, expected = severity["mean_distance"], severity["expected_distance"]
        lines.append(
            f"Mean distance of the mistakes by the run's own matrix: {mean:.2f} ({expected:.2f} if spread evenly)"
        )
    return lines


def _measured(values: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """None for what earlier versions did not measure, and for what could not be."""
    return None if values is None or None in values.values() else values


def _weakest_classes(per_class: Sequence[Mapping[str, Any]], stream: TextIO | None) -> list[str]:
    present = sorted((one for one in per_class if one["support"]), key=lambda one: one["f1"])
    is_cut = len(present) > NUM_WEAK_CLASSES + 2
    rows = [
        [_name(one["class"]), *(percent(one[key]) for key in ("f1", "precision", "recall")), f"{one['support']:,}"]
        for one in (present[:NUM_WEAK_CLASSES] if is_cut else present)
    ]
    title = f"The {NUM_WEAK_CLASSES} weakest of {len(present)} classes" if is_cut else "Classes, weakest first"
    return [
        style(title, "bold", stream),
        format_table(["class", "F1 %", "precision %", "recall %", "rows"], rows, "<>>>>"),
    ]


def _confused_pairs(pairs: Sequence[Mapping[str, Any]], width: int, stream: TextIO | None) -> list[str]:
    if not pairs:
        return ["No test row was misclassified."]
    lines = [style("Most confused", "bold", stream)]
    for pair in pairs[:NUM_PAIRS_SHOWN]:
        rows = "1 row" if pair["count"] == 1 else f"{pair['count']:,} rows"
        true, predicted = _name(pair["true"]), _name(pair["predicted"])
        lines.append(f"{true} taken for {predicted}: {rows}, {percent(pair['rate'])} % of {true}")
        for example in pair["examples"][:2]:
            text = _fit(example["text"], width - 14)
            lines.append(style(f"    {100 * example['probability']:3.0f} %  {text}", "dim", stream))
    return lines


def comparison_table(comparison: Mapping[str, Any], stream: TextIO | None = None) -> str:
    """The tables of a comparison, the class pairs repaired or broken, and, last, the verdict in one sentence.

    Args:
        comparison: result of `labeldist.training.comparison.build_comparison`; of an earlier version, too.
        stream: where the text will be written; colours only if it is a terminal.
    """
    baseline, objectives = comparison["baseline"], comparison["objectives"]
    rows = [_objective_row(name, comparison, stream) for name in objectives]
    headers = ["objective", "accuracy %", "macro-F1 %", f"vs {baseline}", "95 % interval", "p", "a run"]
    num_seeds = len(comparison["seeds"])
    title = f"{comparison['data']}, {comparison['encoder']}: mean ± standard deviation over {_seeds(num_seeds)}"
    lines = [style(title, "bold", stream), "", format_table(headers, rows, "<>>>>>>"), ""]
    lines += _neighbours_and_mistakes_table(comparison, stream)
    if comparison["pairs"]:
        lines.append(style(f"Confused rows of a class pair, mean over seeds, against {baseline}", "bold", stream))
        for name, pairs in comparison["pairs"].items():
            lines += _pair_changes(name, pairs, baseline)
        lines.append("")
    summary = comparison["verdict"]
    if len(summary["objectives"]) > 1:
        lines += [one["sentence"] for one in summary["objectives"].values()]
    lines.append(style(summary["sentence"], ANSWER_STYLES[summary["answer"]], stream))
    return "\n".join(lines)


def _objective_row(name: str, comparison: Mapping[str, Any], stream: TextIO | None) -> list[str]:
    columns = comparison["objectives"][name]
    seconds = _present(columns["seconds"])
    row = [name, _mean_and_deviation(columns["accuracy"]), _mean_and_deviation(columns["macro_f1"])]
    difference = comparison["differences"].get(name, {}).get(comparison["baseline"])
    if difference is None:
        row += [style("baseline", "dim", stream) if name == comparison["baseline"] else "-", "", ""]
    else:
        row += [points(difference["mean"]), _interval(difference), _p_value(difference["p_value"])]
    return [*row, duration(float(np.mean(seconds))) if seconds else "-"]


def _neighbours_and_mistakes_table(comparison: Mapping[str, Any], stream: TextIO | None) -> list[str]:
    """The second table, with the columns that some objective has values for."""
    objectives = comparison["objectives"]
    columns = [(key, f"{title} %", _mean_and_deviation) for key, title in EMBEDDING_TITLES.items()]
    columns += [
        ("mistake_distance", "mistake distance", _distance),
        ("expected_mistake_distance", "if even", _distance),
    ]
    columns = [one for one in columns if any(_present(values.get(one[0], [])) for values in objectives.values())]
    if not columns:
        return []
    rows = [[name, *(show(values.get(key, [])) for key, _, show in columns)] for name, values in objectives.items()]
    headers = ["objective", *(title for _, title, _ in columns)]
    lines = [
        style("Nearest neighbours among the test rows, and where the mistakes fall", "bold", stream),
        "",
        format_table(headers, rows, "<" + ">" * len(columns)),
    ]
    if comparison.get("severity_matrix"):
        note = (
            f"Mistake distance: the mean label distance of the mistakes under {comparison['severity_matrix']}; "
            "if even: were they spread evenly over the other classes. Large: they fall on the pairs that this matrix "
            "marks as easily confused. Read it beside the accuracy: repairing other pairs raises it."
        )
        lines += textwrap.wrap(note, NOTE_COLUMNS)
    return [*lines, ""]


def _distance(values: Sequence[float | None]) -> str:
    found = _present(values)
    if not found:
        return "-"
    return f"{np.mean(found):.2f}" + (f" ± {np.std(found, ddof=1):.2f}" if len(found) > 1 else "")


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    found = _present(values)
    if not found:
        return "-"
    return percent(float(np.mean(found))) + (f" ± {percent(float(np.std(found, ddof=1)))}" if len(found) > 1 else "")


def _interval(difference: Mapping[str, Any]) -> str:
    if difference["low"] is None:
        return "-"
    return f"{points(difference['low'])} to {points(difference['high'])}"


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return "-"
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _pair_changes(name: str, pairs: Mapping[str, Any], baseline: str) -> list[str]:
    lines = []
    for word, changes in (("repairs", pairs["repaired"]), ("breaks", pairs["broken"])):
        listed = "; ".join(
            f"{_name(one['classes'][0])} / {_name(one['classes'][1])} ({one['base']:.1f} to {one['other']:.1f})"
            for one in changes[:NUM_PAIRS_SHOWN]
        )
        if listed:
            lines.append(f"{name} {word}: {listed}")
    if not lines:
        return [f"{name} confuses every pair of classes as often as {baseline}."]
    return lines


def percent(fraction: float) -> str:
    """A fraction as percent with one decimal, without the sign.

    Examples:
        >>> percent(0.8824)
        '88.2'
    """
    return f"{100 * fraction:.1f}"


def duration(seconds: float) -> str:
    """Seconds in the units that a person would say.

    Examples:
        >>> duration(4.21), duration(83), duration(5000)
        ('4.2 s', '1 min 23 s', '1 h 23 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _seeds(num_seeds: int) -> str:
    return "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"


def _name(class_name: str) -> str:
    return _fit(class_name, NAME_COLUMNS)


def _fit(text: str, width: int) -> str:
    """`text` on one line, cut to `width` terminal columns."""
    num_characters = max(1, width)
    line = shorten(text, num_characters)
    while display_width(line) > width and num_characters > 1:
        num_characters -= 1
        line = shorten(text, num_characters)
    return line
