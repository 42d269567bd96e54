"""What the terminal shows after a run and after a comparison: pure functions that return text."""

import math
from collections.abc import Callable, Sequence
from typing import TextIO

import numpy as np

from labeldist.messages import escape_controls
from labeldist.training.measures import MEASURES, MeasureSpec
from labeldist.training.metrics import shorten
from labeldist.training.output.text_layout import Style, fit, fit_tables, output_width, rule, style, wrap
from labeldist.training.output.words import (
    change,
    count,
    duration,
    percent,
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
        *_relation(metrics, width),
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


def _relation(metrics: PredictionMetrics, width: int) -> list[str]:
    """What an order, costs or a relation of the classes measure."""
    found = metrics.relation
    if found is None:
        return []
    lines = []
    if found.mean_absolute_error is not None and found.median_absolute_error is not None:
        kappa = found.quadratic_weighted_kappa
        lines.append(
            f"Mean absolute error: {found.mean_absolute_error:.3g} steps deciding for the most probable class, "
            f"{found.median_absolute_error:.3g} for the posterior median"
            + ("" if kappa is None else f"; quadratic weighted kappa {kappa:.3g}")
        )
    # Of costs that are given later, both decisions are told below.
    if found.expected_cost is not None and not isinstance(metrics, CostedMetrics):
        lines.append(
            f"Mean cost: {found.expected_cost:.4g} deciding for the most probable class, "
            f"{found.least_expected_cost:.4g} for the class of least expected cost"
        )
    related = {
        "group accuracy": found.group_accuracy,
        "graded nDCG@50": found.graded_ndcg,
        "group MAP": found.group_mean_average_precision,
    }
    shown = [f"{name} {percent(value)} %" for name, value in related.items() if value is not None]
    lines += [f"Related classes: {', '.join(shown)}"] if shown else []
    return [part for line in lines for part in wrap(line, width, INDENT)]


def _costs(metrics: PredictionMetrics, width: int) -> list[str]:
    if not isinstance(metrics, CostedMetrics):
        return []
    costs = metrics.costs
    return wrap(
        f"Mean cost: {costs.most_probable:.4g} deciding for the most probable class, {costs.least_expected:.4g} for "
        f"the class of least expected cost (accuracy {percent(costs.least_expected_accuracy)} %)",
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
        *wrap(_what_is_compared(MEASURES[comparison.measure], baseline), width, INDENT),
        "",
        _scores_table(comparison, width, stream),
        "",
        *_neighbors_and_mistakes_table(comparison, width, stream),
        *_relation_tables(comparison, width, stream),
    ]
    if comparison.pairs:
        title = f"Confused rows of two classes (right rows), mean over seeds, from {baseline}"
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


def _what_is_compared(measure: MeasureSpec, baseline: str) -> str:
    word = "points" if measure.is_fraction else "change"
    direction = "; below 0 is better" if measure.is_lower_better else ""
    return f"{word}: difference of {measure.noun} to {baseline}{direction}"


def _bold(title: str, width: int, stream: TextIO | None) -> list[str]:
    return [style(line, "bold", stream) for line in wrap(title, width)]


def _scores_table(comparison: Comparison, width: int, stream: TextIO | None) -> str:
    measure = MEASURES[comparison.measure]
    second = MEASURES["macro-f1"] if measure.name == "accuracy" else measure
    change_title = "points" if measure.is_fraction else "change"
    headers = ["objective", "accuracy %", second.title, "a run", change_title, "95 % interval", "p"]
    rows = []
    for objective, scores in comparison.objectives.items():
        difference = comparison.difference_to_baseline(objective)
        if difference is None:
            is_baseline = objective == comparison.baseline
            cells = [style("baseline", "dim", stream) if is_baseline else "-", "", ""]
        else:
            cells = [change(difference.mean, measure), _interval(difference, measure), _p_value(difference.p_value)]
        seconds = _present(scores.seconds)
        time_taken = short_duration(float(np.mean(seconds))) if seconds else "-"
        values = getattr(scores, second.column)
        means = (_mean_percent(scores.accuracy), (_mean_percent if second.is_fraction else _mean_number)(values))
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
    table = _table(comparison, columns, width)
    if not table:
        return []
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


def _relation_tables(comparison: Comparison, width: int, stream: TextIO | None) -> list[str]:
    """What mistakes cost, and how related classes lie, where some objective has values."""
    decided: list[Column] = [
        ("abs. error", lambda scores: scores.mean_absolute_error, _mean_number),
        ("of median", lambda scores: scores.median_absolute_error, _mean_number),
        ("kappa", lambda scores: scores.quadratic_weighted_kappa, _mean_number),
        ("cost", lambda scores: scores.expected_cost, _mean_number),
        ("least cost", lambda scores: scores.least_expected_cost, _mean_number),
    ]
    related: list[Column] = [
        ("group acc. %", lambda scores: scores.group_accuracy, _mean_percent),
        ("nDCG@50 %", lambda scores: scores.graded_ndcg, _mean_percent),
        ("group MAP %", lambda scores: scores.group_mean_average_precision, _mean_percent),
    ]
    notes = {
        "of median": "of median: of the posterior median in place of the most probable class",
        "least cost": "least cost: of the class of least expected cost; both need no training",
    }
    lines = []
    for title, columns in (("What the mistakes cost", decided), ("How related classes lie", related)):
        table = _table(comparison, columns, width)
        if table:
            lines += [*_bold(title, width, stream), "", table]
            for note in [note for column, note in notes.items() if columns is decided and column in table]:
                lines += wrap(note, width, INDENT)
            lines.append("")
    return lines


def _table(comparison: Comparison, columns: Sequence[Column], width: int) -> str:
    """A row for each objective, with the columns that some objective has values for; empty without any."""
    objectives = comparison.objectives
    columns = [one for one in columns if any(_present(one[1](scores)) for scores in objectives.values())]
    if not columns:
        return ""
    rows = [
        [_name(name), *(show(values(scores)) for _, values, show in columns)] for name, scores in objectives.items()
    ]
    headers = ["objective", *(title for title, _, _ in columns)]
    return fit_tables(headers, rows, "<" + ">" * len(columns), width)


def _pair_changes(objective: str, pairs: PairChanges, baseline: str, width: int) -> list[str]:
    lines: list[str] = []
    # Fewer confusions are no repair if the rows went to third classes; the right rows show it.
    for word, changes in (("less", pairs.repaired), ("more", pairs.broken)):
        if changes:
            lines.append(f"{objective} confuses {word} often")
            for change in changes[:NUM_PAIRS_SHOWN]:
                lines += [INDENT + line for line in wrap(_pair_change(change), width - len(INDENT), INDENT)]
    return lines or wrap(f"{objective} confuses every pair of classes as often as {baseline}.", width, INDENT)


def _pair_change(change: PairChange) -> str:
    line = f"{_name(change.first)} / {_name(change.second)}: {change.base:.1f} to {change.other:.1f}"
    if change.base_right is None or change.other_right is None:
        return line
    return f"{line} (right: {change.base_right:.1f} to {change.other_right:.1f})"


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean_percent(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of fractions, in percent."""
    return _mean_and_deviation(values, percent)


def _mean_number(values: Sequence[float | None]) -> str:
    """Mean to three digits, and the standard deviation to the same decimal place."""
    size = abs(float(np.mean(_present(values) or [0.0])))
    decimals = max(0, 2 - math.floor(math.log10(size))) if size >= 1e-6 else 2
    return _mean_and_deviation(values, f"{{:.{min(decimals, 6)}f}}".format)


def _mean_distance(values: Sequence[float | None]) -> str:
    return _mean_and_deviation(values, "{:.2f}".format)


def _mean_and_deviation(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    found = _present(values)
    if not found:
        return "-"
    deviation = f" ± {show(float(np.std(found, ddof=1)))}" if len(found) > 1 else ""
    return show(float(np.mean(found))) + deviation


def _interval(difference: PairedDifference, measure: MeasureSpec) -> str:
    if difference.low is None or difference.high is None:
        return "-"
    return f"{change(difference.low, measure)} to {change(difference.high, measure)}"


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
