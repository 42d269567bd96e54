"""What the terminal shows after a run and after a comparison: pure functions that return text."""

from collections.abc import Callable, Sequence
from typing import TextIO

import numpy as np

from labeldist.messages import escape_controls
from labeldist.training.metrics import shorten
from labeldist.training.output.text_layout import Style, fit, fit_tables, output_width, rule, style, wrap
from labeldist.training.output.words import (
    count,
    duration,
    percent,
    points,
    short_duration,
    training_sentence,
    verdict_sentence,
    verdict_sentences,
)
from labeldist.training.records import CostedMetrics, DirectedPair, PredictionMetrics
from labeldist.training.study.results import Answer, Comparison, PairChange, PairChanges, PairedDifference, SeedScores

__all__ = ["comparison_table", "train_summary"]

ANSWER_STYLES: dict[Answer, Style] = {"helps": "green", "does not help": "red", "inconclusive": "yellow"}
NUM_WEAK_CLASSES = 5
NUM_PAIRS_SHOWN = 3
NUM_EXAMPLES_SHOWN = 2
NAME_COLUMNS = 28
INDENT = "  "


def train_summary(
    metrics: PredictionMetrics,
    *,
    title: str,
    seconds: float | None = None,
    folder: str | None = None,
    stream: TextIO | None = None,
) -> str:
    """What a trained model does on the test rows: accuracy, the weakest classes, the most confused pairs with examples.

    Args:
        metrics: of the test rows.
        title: what was run, such as `trec, textcnn, adaptive`.
        seconds: wall time of the run.
        folder: where the run was saved.
        stream: where the text will be written: its width is kept, and colors are for terminals only.
    """
    width = output_width(stream)
    facts = [count(metrics.num_rows, "row")] + ([duration(seconds)] if seconds is not None else [])
    accuracy = style(f"accuracy {percent(metrics.accuracy)} %", "bold", stream)
    heading = style(escape_controls(title), "bold", stream)
    lines = [
        *wrap(f"{heading}: {accuracy}, macro-F1 {percent(metrics.macro_f1)} % ({', '.join(facts)})", width, INDENT),
        *(line for sentence in _neighbors_and_mistakes(metrics) for line in wrap(sentence, width, INDENT)),
        *_costs(metrics, width),
        "",
        *_weakest_classes(metrics, width, stream),
        "",
        *_confused_pairs(metrics.confused_pairs, width, stream),
    ]
    if folder:
        lines += ["", f"Saved in {escape_controls(folder)}"]
    return "\n".join(lines)


def _neighbors_and_mistakes(metrics: PredictionMetrics) -> list[str]:
    """How the embedding groups the rows, and how far the mistakes lie, where that could be measured."""
    lines = []
    if (found := metrics.embeddings) is not None:
        scores = (found.precision_at_1, found.r_precision, found.mean_average_precision_at_r)
        titles = ("precision@1", "R-precision", "MAP@R")
        shown = [f"{title} {percent(s)} %" for title, s in zip(titles, scores, strict=True) if s is not None]
        lines += [f"Nearest neighbors: {', '.join(shown)}"] if shown else []
    if (severity := metrics.mistake_severity) is not None:
        mean, expected = severity.mean_distance, severity.expected_distance
        if mean is not None and expected is not None:
            lines.append(f"Mean label distance of the mistakes: {mean:.2f} ({expected:.2f} if spread evenly)")
    return lines


def _costs(metrics: PredictionMetrics, width: int) -> list[str]:
    if not isinstance(metrics, CostedMetrics):
        return []
    costs = metrics.costs
    return wrap(
        f"Mean cost: {costs.most_probable:.4g} deciding for the most probable class, {costs.least_expected:.4g} at "
        f"least expected cost (accuracy {percent(costs.least_expected_accuracy)} %)",
        width,
        INDENT,
    )


def _weakest_classes(metrics: PredictionMetrics, width: int, stream: TextIO | None) -> list[str]:
    present = sorted((scores for scores in metrics.per_class if scores.num_rows), key=lambda scores: scores.f1)
    is_cut = len(present) > NUM_WEAK_CLASSES + 2
    rows = [
        [
            _name(scores.name),
            *map(percent, (scores.f1, scores.precision, scores.recall)),
            f"{scores.num_rows:,}",
        ]
        for scores in (present[:NUM_WEAK_CLASSES] if is_cut else present)
    ]
    title = f"The {NUM_WEAK_CLASSES} weakest of {len(present)} classes" if is_cut else "Classes, weakest first"
    return [
        style(title, "bold", stream),
        fit_tables(["class", "F1 %", "precision %", "recall %", "rows"], rows, "<>>>>", width),
    ]


def _confused_pairs(pairs: Sequence[DirectedPair], width: int, stream: TextIO | None) -> list[str]:
    if not pairs:
        return ["No test row was misclassified."]
    lines = [style("Most confused", "bold", stream)]
    for pair in pairs[:NUM_PAIRS_SHOWN]:
        true, predicted = _name(pair.true), _name(pair.predicted)
        share = f"{count(pair.num_rows, 'row')}, {percent(pair.rate)} % of {true}"
        lines += wrap(f"{true} taken for {predicted}: {share}", width, INDENT)
        for example in pair.examples[:NUM_EXAMPLES_SHOWN]:
            start = f"    {100 * example.probability:3.0f} %  "
            lines.append(style(start + _one_line(example.text, width - len(start)), "dim", stream))
    return lines


def comparison_table(comparison: Comparison, stream: TextIO | None = None) -> str:
    """The tables of a comparison, the class pairs repaired or broken, and, last, below a rule, the verdict.

    Args:
        comparison: what was found.
        stream: where the text will be written: its width is kept, and colors are for terminals only.
    """
    width = output_width(stream)
    place = escape_controls(f"{comparison.data}, {comparison.encoder}")
    seeds = count(len(comparison.seeds), "seed")
    baseline = _name(comparison.baseline)
    lines = [
        *_bold(f"{place}: mean ± standard deviation over {seeds}", width, stream),
        *wrap(f"points: difference of accuracy to {baseline}", width, INDENT),
        "",
        _scores_table(comparison, width, stream),
        "",
        *_neighbors_and_mistakes_table(comparison, width, stream),
    ]
    if comparison.pairs:
        title = f"Rows confused between two classes, from {baseline}, mean over seeds"
        lines += _bold(title, width, stream)
        for objective, pairs in comparison.pairs.items():
            lines += _pair_changes(_name(objective), pairs, baseline, width)
        lines.append("")
    if len(comparison.verdict.objectives) > 1:
        for sentence in verdict_sentences(comparison):
            lines += [*wrap(escape_controls(sentence), width, INDENT), ""]
    if (training := training_sentence(comparison)) is not None:
        lines += [*wrap(escape_controls(training), width), ""]
    answer = ANSWER_STYLES[comparison.verdict.answer]
    verdict = wrap(escape_controls(verdict_sentence(comparison)), width)
    lines += [style(style(line, "bold", stream), answer, stream) for line in (rule(width), *verdict)]
    return "\n".join(lines)


def _bold(title: str, width: int, stream: TextIO | None) -> list[str]:
    return [style(line, "bold", stream) for line in wrap(title, width)]


def _scores_table(comparison: Comparison, width: int, stream: TextIO | None) -> str:
    headers = ["objective", "accuracy %", "macro-F1 %", "a run", "points", "95 % interval", "p"]
    rows = []
    for objective, scores in comparison.objectives.items():
        difference = comparison.difference_to_baseline(objective)
        if difference is None:
            is_baseline = objective == comparison.baseline
            cells = [style("baseline", "dim", stream) if is_baseline else "-", "", ""]
        else:
            cells = [points(difference.mean), _interval(difference), _p_value(difference.p_value)]
        seconds = _present(scores.seconds)
        time_taken = short_duration(float(np.mean(seconds))) if seconds else "-"
        means = (_mean_percent(scores.accuracy), _mean_percent(scores.macro_f1))
        rows.append([_name(objective), *means, time_taken, *cells])
    return fit_tables(headers, rows, "<>>>>>>", width)


Column = tuple[str, Callable[[SeedScores], Sequence[float | None]], Callable[[Sequence[float | None]], str]]
"""Title of a column, what it shows, and how that is written."""


def _neighbors_and_mistakes_table(comparison: Comparison, width: int, stream: TextIO | None) -> list[str]:
    """The second table, with the columns that some objective has values for."""
    columns: list[Column] = [
        ("precision@1", lambda scores: scores.precision_at_1, _mean_percent),
        ("R-precision", lambda scores: scores.r_precision, _mean_percent),
        ("MAP@R", lambda scores: scores.mean_average_precision_at_r, _mean_percent),
        ("distance", lambda scores: scores.mistake_distance, _mean_distance),
        ("if even", lambda scores: scores.expected_mistake_distance, _mean_distance),
    ]
    objectives = comparison.objectives
    columns = [one for one in columns if any(_present(one[1](scores)) for scores in objectives.values())]
    if not columns:
        return []
    rows = [
        [_name(name), *(show(values(scores)) for _, values, show in columns)] for name, scores in objectives.items()
    ]
    headers = ["objective", *(title for title, _, _ in columns)]
    table = fit_tables(headers, rows, "<" + ">" * len(columns), width)
    title = "Nearest neighbors among the test rows, in %, and the distance of the mistakes"
    lines = [*_bold(title, width, stream), "", table]
    if comparison.severity_matrix is not None:
        note = (
            f"distance: mean label distance of the mistakes under {escape_controls(comparison.severity_matrix)}; "
            "if even: were they spread evenly over the other classes. A large distance says that they fall on the "
            "pairs that this matrix marks as easily confused. Read it beside the accuracy: repairing other pairs "
            "raises it."
        )
        lines += wrap(note, width)
    return [*lines, ""]


def _pair_changes(objective: str, pairs: PairChanges, baseline: str, width: int) -> list[str]:
    lines: list[str] = []
    for word, changes in (("repairs", pairs.repaired), ("breaks", pairs.broken)):
        if changes:
            lines.append(f"{objective} {word}")
            for change in changes[:NUM_PAIRS_SHOWN]:
                lines += [INDENT + line for line in wrap(_pair_change(change), width - len(INDENT), INDENT)]
    return lines or wrap(f"{objective} confuses every pair of classes as often as {baseline}.", width, INDENT)


def _pair_change(change: PairChange) -> str:
    return f"{_name(change.first)} / {_name(change.second)}: {change.base:.1f} to {change.other:.1f}"


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean_percent(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of fractions, in percent."""
    return _mean_and_deviation(values, percent)


def _mean_distance(values: Sequence[float | None]) -> str:
    return _mean_and_deviation(values, "{:.2f}".format)


def _mean_and_deviation(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    found = _present(values)
    if not found:
        return "-"
    deviation = f" ± {show(float(np.std(found, ddof=1)))}" if len(found) > 1 else ""
    return show(float(np.mean(found))) + deviation


def _interval(difference: PairedDifference) -> str:
    if difference.low is None or difference.high is None:
        return "-"
    return f"{points(difference.low)} to {points(difference.high)}"


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return "-"
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _name(name: str) -> str:
    """The name of a class or an objective, safe to print and short enough for a column."""
    return _one_line(name, NAME_COLUMNS)


def _one_line(text: str, width: int) -> str:
    """`text` from data on one line, safe to print, cut to `width` columns."""
    return fit(escape_controls(shorten(text, max(1, width))), width)
