"""Numbers and verdicts in words: the one module that turns what was decided into sentences."""

from collections.abc import Sequence

from labeldist.reports.words import count, percent
from labeldist.training.measures import MEASURES, Measure, MeasureSpec
from labeldist.training.objectives import is_label_distance
from labeldist.training.study.results import Comparison, PairedDifference, Verdict

__all__ = [
    "change",
    "count",
    "duration",
    "percent",
    "points",
    "short_duration",
    "training_sentence",
    "verdict_sentence",
    "verdict_sentences",
]


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, with its sign.

    Examples:
        >>> points(0.0132), points(-0.0001)
        ('+1.3', '0.0')
    """
    text = f"{100 * fraction:+.1f}"
    return "0.0" if float(text) == 0 else text


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


def short_duration(seconds: float) -> str:
    """Seconds to about two digits, in one unit, for a column of a table.

    Examples:
        >>> short_duration(4.21), short_duration(83), short_duration(1000), short_duration(9000)
        ('4.2 s', '83 s', '17 min', '2.5 h')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 9.95:
        return f"{minutes:.1f} min"
    return f"{minutes:.0f} min" if minutes < 99.5 else f"{minutes / 60:.1f} h"


def verdict_sentence(comparison: Comparison) -> str:
    """Whether label distance helps, in one sentence for all objectives together."""
    verdicts = list(comparison.verdict.objectives.values())
    by = "" if comparison.measure == "accuracy" else f", by {comparison.measure}"
    is_all = all(_is_label_distance(verdict.objective, comparison) for verdict in verdicts)
    subject = f"Label distance{'' if is_all else ' and class relations'} on {comparison.data}, {comparison.encoder}{by}"
    if not verdicts:
        return _without_label_distance(comparison)
    if len(verdicts) == 1:
        return verdict_sentences(comparison)[0]
    helping, useless, unknown = (
        [verdict.objective for verdict in verdicts if verdict.answer == answer]
        for answer in ("helps", "does not help", "inconclusive")
    )
    parts = [f"{_listed(helping)} {'helps' if len(helping) == 1 else 'help'}"] if helping else []
    parts += [f"{_listed(useless)} {'does' if len(useless) == 1 else 'do'} not help"] if useless else []
    are = "is" if len(unknown) == 1 else "are"
    parts += [f"{_listed(unknown)} {are} inconclusive with these seeds"] if unknown else []
    return f"{subject}: {'; '.join(parts)}."


def _without_label_distance(comparison: Comparison) -> str:
    """The best objective beside the baseline, where no objective with label distance was run."""
    measure = MEASURES[comparison.measure]
    differences = {name: comparison.difference_to_baseline(name) for name in comparison.objectives}
    known = {name: difference for name, difference in differences.items() if difference is not None}
    place = f"on {comparison.data}, {comparison.encoder}"
    if not known:
        return f"No objective with label distance was run {place}."
    best = max(known, key=lambda name: known[name].gain(measure.sign).mean)
    # Chosen among several on the rows that it is judged by.
    rank = ", the best of the others" if len(known) > 1 else ""
    shown = _difference(comparison.baseline, known[best], measure)
    return f"No objective with label distance was run {place}. {best}{rank}: {shown}."


def training_sentence(comparison: Comparison) -> str | None:
    """Whether training was worth it, beside what is fitted on the frozen encoder; None where one was not run."""
    worth = comparison.training
    if worth is None:
        return None
    measure = MEASURES[comparison.measure]
    difference = worth.difference.gain(measure.sign)
    if difference.low is not None and difference.low > 0:
        answer = "training was worth it"
    elif difference.high is not None and difference.high < comparison.margin:
        answer = f"training was not worth it: {_gain(comparison.margin, measure)} is ruled out"
    else:
        answer = "whether training was worth it is open" + (" with one seed" if difference.num_pairs == 1 else "")
    subject = "The trained objective" if worth.chosen_on is None else "The best trained objective"
    shown = _difference(worth.frozen, worth.difference, measure)
    return f"{subject}, {worth.trained}: {shown}; {answer}.{_CHOSEN[worth.chosen_on]}"


_CHOSEN = {
    None: "",
    "validation": " Both are the most accurate of their kind on the validation rows.",
    "test": " Both are the best of their kind on these same test rows, so the interval is too narrow.",
}


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def verdict_sentences(comparison: Comparison) -> list[str]:
    """For each label-distance objective, whether it helps, and the numbers that this rests on."""
    place = f"on {comparison.data}, {comparison.encoder}"
    return [
        f"{_subject(name, comparison)} {place}: {objective_verdict(verdict, comparison.margin, comparison.measure)}."
        for name, verdict in comparison.verdict.objectives.items()
    ]


def _subject(objective: str, comparison: Comparison) -> str:
    is_distance = _is_label_distance(objective, comparison)
    return f"Label distance ({objective})" if is_distance else f"The objective {objective}"


def _is_label_distance(objective: str, comparison: Comparison) -> bool:
    """Whether its distances differ between classes: an adaptive matrix may drive graded targets instead."""
    settings = {} if comparison.provenance is None else comparison.provenance.settings
    learns_targets = settings.get("matrix", {}).get("adaptive_use") == "graded"
    return is_label_distance(objective) and not (objective == "adaptive" and learns_targets)


def objective_verdict(verdict: Verdict, margin: float, measure: Measure = "accuracy") -> str:
    """A verdict without its subject: the difference to the control that decides, and the answer.

    Args:
        verdict: what was decided.
        margin: smallest gain worth having, as a fraction or in the unit of the measure.
        measure: that the verdict is about.

    Examples:
        >>> difference = PairedDifference(0.01, -0.015, 0.035, 0.225, 3, 0.01)
        >>> missing = ("ce-two-views", "contrastive")
        >>> reason = "too few seeds"
        >>> verdict = Verdict("static", "inconclusive", reason, "uniform", difference, True, 34, {}, missing, ())
        >>> print(objective_verdict(verdict, 0.005))  # doctest: +NORMALIZE_WHITESPACE
        +1.0 points of accuracy against uniform (95 % interval -1.5 to +3.5, 3 seeds);
        inconclusive with these seeds (about 34 would detect a gain of 0.5 points)
    """
    if verdict.control is None or verdict.difference is None:
        other = f"{_listed(verdict.same_matrix)} had the same matrix and no other" if verdict.same_matrix else "no"
        return f"inconclusive, because {other} control was run with the same seeds"
    num_controls = len(verdict.corrected_p)
    rank = (
        f", {'the strongest' if verdict.is_strongest else 'one'} of {num_controls} controls" if num_controls > 1 else ""
    )
    same = f"; {_listed(verdict.same_matrix)} had the same matrix" if verdict.same_matrix else ""
    spec = MEASURES[measure]
    answer = _answer(verdict, _gain(margin, spec))
    return f"{_difference(verdict.control, verdict.difference, spec)}{rank}; {answer}{same}"


def change(difference: float, measure: MeasureSpec) -> str:
    """A difference of a measure, with its sign: in percentage points, or a number.

    Examples:
        >>> change(0.0132, MEASURES["accuracy"]), change(-0.02134, MEASURES["mean-absolute-error"])
        ('+1.3', '-0.021')
        >>> change(0.0004, MEASURES["expected-cost"])  # not "0", which would say that nothing changed
        '+0.0004'
    """
    if measure.is_fraction:
        return points(difference)
    # Three decimals, so that a difference and the ends of its interval have the same; of large costs fewer, of tiny
    # ones the first digit that is not 0.
    if abs(difference) >= 10:
        return f"{difference:+,.4g}"
    return f"{difference:+.3f}" if abs(difference) >= 0.0005 else f"{difference:+.1g}" if difference else "0"


def _gain(margin: float, measure: MeasureSpec) -> str:
    if measure.is_fraction:
        return f"a gain of {100 * margin:g} points"
    return f"a reduction of the {measure.noun} by {margin:g}"


def _difference(control: str, difference: PairedDifference, measure: MeasureSpec) -> str:
    seeds = count(difference.num_pairs, "seed")
    if difference.low is None or difference.high is None:
        interval = f"{seeds}, so no interval"
    else:
        interval = f"95 % interval {change(difference.low, measure)} to {change(difference.high, measure)}, {seeds}"
    unit = "points of" if measure.is_fraction else "of"
    return f"{change(difference.mean, measure)} {unit} {measure.noun} against {control} ({interval})"


def _answer(verdict: Verdict, gain: str) -> str:
    if verdict.answer == "helps":
        return "it helps"
    if verdict.answer == "does not help":
        return f"it does not help: {gain} is ruled out"
    if verdict.reason == "control missing":
        return f"inconclusive without {_listed(verdict.missing_controls)}"
    if verdict.reason == "one seed":
        return "inconclusive with one seed"
    hint = f" (about {verdict.num_seeds_needed} would detect {gain})" if verdict.num_seeds_needed else ""
    return f"inconclusive with these seeds{hint}"
