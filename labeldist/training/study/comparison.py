"""A comparison from its finished runs: scores by seed, paired differences, verdicts, and changed class pairs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from labeldist.ldm.distances import distances_from_confusion
from labeldist.training.measures import MEASURES, Measure, MeasureSpec
from labeldist.training.metrics import severity_under, tells_pairs_apart
from labeldist.training.objectives import CONTROLS, FROZEN, IN_CROSS_ENTROPY
from labeldist.training.records import RelationScores
from labeldist.training.study.pair_changes import pair_changes
from labeldist.training.study.results import (
    Answer,
    Comparison,
    FinishedRun,
    PairChanges,
    PairedDifference,
    SeedScores,
    StudyVerdict,
    Verdict,
    WorthOfTraining,
)
from labeldist.training.study.statistics import MARGIN, decide, holm, paired_difference

__all__ = ["build_comparison", "choose_baseline"]

Runs = Mapping[int, FinishedRun]
"""The runs of one objective, by seed."""

Distances = ArrayLike
"""A label-distance matrix, `(C, C)`."""


def choose_baseline(objectives: Sequence[str]) -> str | None:
    """The control to compare with: two-view cross-entropy if run, else cross-entropy, else the first one, else None.

    Examples:
        >>> choose_baseline(["adaptive", "uniform", "ce"])
        'ce'
    """
    return next((name for name in ("ce-two-views", "ce", *CONTROLS) if name in objectives), None)


def build_comparison(
    runs: Sequence[FinishedRun],
    *,
    data: str,
    encoder: str,
    baseline: str | None = None,
    margin: float = MARGIN,
    measure: Measure = "accuracy",
) -> Comparison:
    """Compare finished runs; differences pair the seeds that both objectives have.

    The Holm correction runs over every comparison of a label-distance objective (any that is no control) with a
    control.

    Args:
        runs: at least one, in any order.
        data: name of the data.
        encoder: name of the encoder.
        baseline: the control that tables compare with; None takes `choose_baseline`.
        margin: smallest gain worth having, as a fraction or in the unit of the measure.
        measure: what differences and verdicts are about. Runs without it are paired with none.

    Returns:
        The comparison, what trains nothing first, then the controls, without provenance.

    Raises:
        ValueError: if there is no run, a run occurs twice, runs have different classes, or the baseline was not run.
    """
    table = _by_objective_and_seed(runs)
    controls = [name for name in CONTROLS if name in table]
    frozen = [name for name in FROZEN if name in table]
    names = frozen + controls + [name for name in table if name not in (*CONTROLS, *FROZEN)]
    baseline = baseline or choose_baseline(names) or names[0]
    if baseline not in table:
        hint = f"Choose one of {', '.join(names)}."
        raise ValueError(f"baseline must be an objective that was run, got {baseline!r}. {hint}")
    seeds = sorted({seed for by_seed in table.values() for seed in by_seed})
    spec = MEASURES[measure]
    differences = {name: _differences(table, name, dict.fromkeys([*controls, baseline]), spec) for name in names}
    severity_matrix, matrix_name = _severity_matrix(table)
    return Comparison(
        data=data,
        encoder=encoder,
        margin=margin,
        seeds=tuple(seeds),
        baseline=baseline,
        controls=tuple(controls),
        objectives={name: _scores(table[name], seeds, severity_matrix) for name in names},
        severity_matrix=matrix_name,
        differences=differences,
        verdict=_verdict(table, differences, controls, margin, spec),
        pairs={
            name: pairs
            for name in names
            if name not in (baseline, *FROZEN) and (pairs := _pairs(table[name], table[baseline]))
        },
        training=_worth_of_training(table, spec),
        measure=measure,
    )


def _by_objective_and_seed(runs: Sequence[FinishedRun]) -> dict[str, dict[int, FinishedRun]]:
    if not runs:
        raise ValueError("runs must hold at least one finished run, got none.")
    table: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        if run.metrics.class_names != runs[0].metrics.class_names:
            raise ValueError(f"runs must have the same classes, and {run.objective!r} with seed {run.seed} has others.")
        if run.seed in table.setdefault(run.objective, {}):
            raise ValueError(f"runs must be distinct, got objective {run.objective!r} with seed {run.seed} twice.")
        table[run.objective][run.seed] = run
    return table


def _differences(
    table: Mapping[str, Runs], name: str, against: Iterable[str], measure: MeasureSpec
) -> dict[str, PairedDifference]:
    differences = {}
    for control in against:
        values = [
            [measure.value(table[objective][seed].metrics) for objective in (name, control)]
            for seed in _common_seeds(table[name], table[control])
        ]
        pairs = [(a, b) for a, b in values if a is not None and b is not None]
        if control != name and pairs:
            differences[control] = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    return differences


def _common_seeds(runs: Runs, others: Runs) -> list[int]:
    return sorted(runs.keys() & others.keys())


def _verdict(
    table: Mapping[str, Runs],
    differences: Mapping[str, Mapping[str, PairedDifference]],
    controls: Sequence[str],
    margin: float,
    measure: MeasureSpec,
) -> StudyVerdict:
    """Judge each label-distance objective against every control that trained with another matrix."""
    same_matrix = {
        name: [
            control
            for control in controls
            # A relation in the classification loss makes another objective of it, whatever the matrix.
            if name not in IN_CROSS_ENTROPY and _have_same_matrix(table[name], table[control])
        ]
        for name in table
        if name not in (*CONTROLS, *FROZEN)
    }
    judged = {
        name: {
            control: difference.gain(measure.sign)
            for control, difference in differences[name].items()
            if control in controls and control not in same
        }
        for name, same in same_matrix.items()
    }
    verdicts = {
        name: _in_the_measure(
            decide(name, judged[name], corrected_p=corrected_p, margin=margin, same_matrix=same_matrix[name]), measure
        )
        for name, corrected_p in _corrected(judged).items()
    }
    return StudyVerdict(_overall(list(verdicts.values())), verdicts)


def _in_the_measure(verdict: Verdict, measure: MeasureSpec) -> Verdict:
    """A verdict that was reached on gains, with its difference as all others are."""
    gain = verdict.difference
    return verdict if gain is None else replace(verdict, difference=gain.gain(measure.sign))


def _worth_of_training(table: Mapping[str, Runs], measure: MeasureSpec) -> WorthOfTraining | None:
    """The best trained objective beside the best frozen one, on the seeds that both have.

    Both are chosen by validation accuracy where every run has one. Without it they are chosen by the measure on the
    test rows, and the difference between the best of several is not what it would be on new rows.
    """
    sides = ([name for name in table if name not in FROZEN], [name for name in table if name in FROZEN])
    if not all(sides):
        return None
    runs = [run for by_seed in table.values() for run in by_seed.values()]
    on_validation = all(run.validation_accuracy is not None for run in runs)

    def goodness(name: str) -> float:
        values = [
            run.validation_accuracy if on_validation else measure.value(run.metrics) for run in table[name].values()
        ]
        found = [value for value in values if value is not None]
        return (1 if on_validation else measure.sign) * float(np.mean(found)) if found else -np.inf

    trained, frozen = (max(names, key=goodness) for names in sides)
    difference = _differences(table, trained, [frozen], measure).get(frozen)
    if difference is None:
        return None
    is_choice = max(map(len, sides)) > 1
    chosen_on = ("validation" if on_validation else "test") if is_choice else None
    return WorthOfTraining(trained, frozen, difference, chosen_on)


def _have_same_matrix(runs: Runs, others: Runs) -> bool:
    """Whether both objectives trained with one matrix on every seed that they share, as two classes make it.

    Graded targets or levels beside the same matrix make another objective of it.
    """
    pairs = [(runs[seed], others[seed]) for seed in _common_seeds(runs, others)]
    return bool(pairs) and all(
        _are_one(one.matrix, other.matrix)
        and (one.relevance is other.relevance is None or _are_one(one.relevance, other.relevance))
        and len(one.levels) == len(other.levels)
        and all(_are_one(*levels) for levels in zip(one.levels, other.levels, strict=True))
        for one, other in pairs
    )


def _are_one(table: ArrayLike | None, other: ArrayLike | None) -> bool:
    return table is not None and other is not None and np.array_equal(table, other)


def _corrected(judged: Mapping[str, Mapping[str, PairedDifference]]) -> dict[str, dict[str, float | None]]:
    """Holm-corrected p-values, of all comparisons together."""
    keys = [(name, control) for name, by_control in judged.items() for control in by_control]
    p_values = holm([judged[name][control].p_value for name, control in keys])
    corrected: dict[str, dict[str, float | None]] = {name: {} for name in judged}
    for (name, control), p_value in zip(keys, p_values, strict=True):
        corrected[name][control] = p_value
    return corrected


def _overall(verdicts: Sequence[Verdict]) -> Answer:
    answers = {verdict.answer for verdict in verdicts}
    if "helps" in answers:
        return "helps"
    return "does not help" if answers == {"does not help"} else "inconclusive"


def _severity_matrix(table: Mapping[str, Runs]) -> tuple[Distances | None, str | None]:
    """The matrix under which the mistakes of every objective and seed are measured, and its name.

    The first static matrix that tells pairs apart: it was fixed without the test rows. Without one, distances from the
    test confusions of all runs together: those of one objective alone would make its own mistakes the severe ones.
    """
    for seed, run in sorted(table.get("static", {}).items()):
        if run.matrix is not None and tells_pairs_apart(run.matrix):
            return run.matrix, f"the matrix of static, seed {seed}"
    pooled = distances_from_confusion(torch.as_tensor(_pooled_confusions(table))).numpy()
    return (pooled, "a matrix from the confusions of all these runs") if tells_pairs_apart(pooled) else (None, None)


def _pooled_confusions(table: Mapping[str, Runs]) -> NDArray[np.int64]:
    """Confusion counts of all runs together, `(C, C)`."""
    metrics = [run.metrics for runs in table.values() for run in runs.values()]
    num_classes = len(metrics[0].class_names)
    cells = np.concatenate(
        [(one.confusion.num_rows, one.confusion.true, one.confusion.predicted) for one in metrics], axis=1
    )
    return sparse.coo_array((cells[0], (cells[1], cells[2])), shape=(num_classes, num_classes)).toarray()


def _scores(runs: Runs, seeds: Sequence[int], matrix: Distances | None) -> SeedScores:
    found = [runs.get(seed) for seed in seeds]
    metrics = [None if run is None else run.metrics for run in found]
    embeddings = [None if one is None else one.embeddings for one in metrics]
    relation = [None if one is None else one.relation for one in metrics]
    more = {one.name: _column(relation, one.name) for one in fields(RelationScores)}
    severity = [None if one is None or matrix is None else severity_under(one.confusion, matrix) for one in metrics]
    return SeedScores(
        accuracy=_column(metrics, "accuracy"),
        macro_f1=_column(metrics, "macro_f1"),
        seconds=_column(found, "seconds"),
        precision_at_1=_column(embeddings, "precision_at_1"),
        r_precision=_column(embeddings, "r_precision"),
        mean_average_precision_at_r=_column(embeddings, "mean_average_precision_at_r"),
        mistake_distance=_column(severity, "mean_distance"),
        expected_mistake_distance=_column(severity, "expected_distance"),
        **{name: column for name, column in more.items() if any(value is not None for value in column)},
    )


def _column(found: Sequence[object | None], name: str) -> tuple[float | None, ...]:
    return tuple(None if one is None else getattr(one, name) for one in found)


def _pairs(runs: Runs, base: Runs) -> PairChanges | None:
    common = _common_seeds(runs, base)
    if not common:
        return None
    confusions, base_confusions = ([side[seed].metrics.confusion for seed in common] for side in (runs, base))
    return pair_changes(base_confusions, confusions, runs[common[0]].metrics.class_names)
