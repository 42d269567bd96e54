"""The report of a comparison: the verdict, and what one objective predicts over all seeds beside the baseline."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from labeldist.reports.comparison import ComparedObjective, ComparisonPart, flips_of, pairs_over_seeds
from labeldist.reports.findings import find
from labeldist.reports.page import About
from labeldist.reports.predictions import Predictions, TopClasses
from labeldist.reports.report import Report
from labeldist.training.errors import UserError
from labeldist.training.measures import MEASURES
from labeldist.training.objectives import CONTROLS, FROZEN
from labeldist.training.output.words import training_sentence, verdict_sentence, verdict_sentences
from labeldist.training.records import read_record
from labeldist.training.reporting.commands import compare_base, compare_command
from labeldist.training.reporting.places import with_map
from labeldist.training.reporting.prediction_table import read_predictions
from labeldist.training.reporting.runs import costs_of_run, settings_of_run
from labeldist.training.run_folder import RunFolder
from labeldist.training.study.results import Comparison

__all__ = ["COMPARISON", "comparison_report", "run_of"]

COMPARISON = "comparison.json"


def run_of(folder: Path, objective: str, seed: int) -> RunFolder:
    """The folder of one run of a comparison."""
    return RunFolder(folder / "runs" / f"{objective}-seed{seed}")


def comparison_report(folder: Path) -> Report:
    """The report of a finished comparison, from what its folder holds.

    Raises:
        UserError: if it is no comparison, a run is missing, or a file is broken.
    """
    comparison = read_record(folder / COMPARISON, Comparison)
    shown = _shown(comparison)
    seeds = [
        seed
        for seed in comparison.seeds
        if all(run_of(folder, name, seed).is_finished for name in (shown, comparison.baseline))
    ]
    if not seeds:
        raise UserError(f"{folder} holds no runs of {shown} and {comparison.baseline} with the same seed.")
    config = run_of(folder, shown, seeds[0]).read_config()
    names = config.class_names
    # Of each objective, in the order of the seeds.
    predictions = {
        name: [read_predictions(run_of(folder, name, seed).predictions, class_names=names) for seed in seeds]
        for name in dict.fromkeys((shown, comparison.baseline))
    }
    map_seed, map_method = _add_maps(predictions, folder, seeds)
    ours, theirs = predictions[shown], predictions[comparison.baseline]
    settings = {name: value for name, value in settings_of_run(config).items() if name not in ("Objective", "Seed")}
    spec = config.spec
    about = About(
        title=f"Comparison: {comparison.data}, {comparison.encoder}",
        settings={"Objectives": ", ".join(comparison.objectives), "Seeds": ", ".join(map(str, seeds)), **settings},
        notes=config.notes,
        command=compare_command(
            spec.settings,
            tuple(comparison.objectives),
            tuple(comparison.seeds),
            comparison.margin,
            comparison.measure,
        ),
        compare=compare_base(spec.settings),
        map_method=map_method,
    )
    try:
        findings = find(pooled(ours), costs=costs_of_run(config), baseline=pooled(theirs))
    except ValueError as error:
        raise UserError(f"{folder}: the runs of {shown} and {comparison.baseline} do not fit: {error}") from error
    part = replace(_part(comparison, shown, ours, theirs), map_seed=map_seed)
    if map_seed is None:
        why = (
            f"There are no maps: no seed has a run of {comparison.baseline} and one of {shown} with a map of its own "
            "(map.json). `labeldist compare` makes them while it trains the runs of its first seed."
        )
        part = replace(part, why_no_map=why)
    return Report(findings, about, part)


def _add_maps(predictions: dict[str, list[Predictions]], folder: Path, seeds: Sequence[int]) -> tuple[int | None, str]:
    """Give the runs of the first seed that has a map of every objective their places on it.

    Args:
        predictions: of each objective, in the order of the seeds; the placed runs take the place of those without.
        folder: of the comparison.
        seeds: of the runs.

    Returns:
        The seed, and how the maps were made; None where no seed has a map of every objective.
    """
    for place, seed in enumerate(seeds):
        maps = {name: run_of(folder, name, seed).map for name in predictions}
        if not all(path.exists() for path in maps.values()):
            continue
        methods = {}
        for name, path in maps.items():
            predictions[name][place], methods[name] = with_map(predictions[name][place], path)
        alike = len(set(methods.values())) == 1
        return seed, next(iter(methods.values())) if alike else ", ".join(f"{n}: {how}" for n, how in methods.items())
    return None, ""


def _shown(comparison: Comparison) -> str:
    """The label-distance objective of the best mean of the measure; without one, the best of the others."""
    measure = MEASURES[comparison.measure]
    means = {
        name: measure.sign
        * float(np.mean([value for value in getattr(scores, measure.column) or () if value is not None] or [0]))
        for name, scores in comparison.objectives.items()
        if name != comparison.baseline
    }
    candidates = [name for name in means if name not in (*CONTROLS, *FROZEN)] or list(means)
    return max(candidates, key=lambda name: means[name]) if candidates else comparison.baseline


def pooled(runs: Sequence[Predictions]) -> Predictions:
    """The rows of several runs, one after the other; see `Predictions.num_runs`.

    Examples:
        >>> from labeldist.reports.predictions import predictions_of
        >>> both = pooled([predictions_of(["a", "b"], ["a", "a"]), predictions_of(["a", "b"], ["a", "b"])])
        >>> both.predicted.tolist(), both.num_runs
        ([0, 0, 0, 1], 2)
    """
    if len(runs) == 1:
        return runs[0]
    first = runs[0]

    def rows(name: str) -> np.ndarray | None:
        columns = [getattr(run, name) for run in runs]
        return None if any(column is None for column in columns) else np.concatenate(columns)

    labels, predicted = rows("labels"), rows("predicted")
    assert labels is not None
    assert predicted is not None
    tops = [run.top for run in runs]
    same_width = all(top is not None for top in tops) and len({top.classes.shape[1] for top in tops if top}) == 1
    return Predictions(
        class_names=first.class_names,
        labels=labels,
        predicted=predicted,
        texts=None
        if any(run.texts is None for run in runs)
        else tuple(text for run in runs for text in run.texts or ()),
        confidence=rows("confidence"),
        probabilities=rows("probabilities"),
        points=_points(runs),
        top=TopClasses(
            np.concatenate([top.classes for top in tops if top]),
            np.concatenate([top.probabilities for top in tops if top]),
        )
        if same_width
        else None,
        num_runs=len(runs),
        repeats=_repeats(runs),
    )


def _points(runs: Sequence[Predictions]) -> np.ndarray | None:
    """Places on a map, NaN for the rows of a run without one; None where no run has one."""
    if all(run.points is None for run in runs):
        return None
    return np.concatenate([np.full((len(run), 2), np.nan) if run.points is None else run.points for run in runs])


def _repeats(runs: Sequence[Predictions]) -> float:
    """Rows by different texts of a label: the number of runs where all have the same test rows."""
    if any(run.texts is None for run in runs):
        return float(len(runs))
    distinct = {key for run in runs for key in zip(run.texts or (), run.labels.tolist(), strict=True)}
    # Of a single run: a text that it has twice counts twice.
    alone = max(1.0, len(runs[0]) / len(set(zip(runs[0].texts or (), runs[0].labels.tolist(), strict=True))))
    return max(1.0, sum(map(len, runs)) / len(distinct) / alone)


def _part(
    comparison: Comparison, shown: str, ours: Sequence[Predictions], theirs: Sequence[Predictions]
) -> ComparisonPart:
    measure = MEASURES[comparison.measure]
    objectives = []
    for name, scores in comparison.objectives.items():
        difference = comparison.difference_to_baseline(name)
        objectives.append(
            ComparedObjective(
                name=name,
                is_control=name in comparison.controls,
                values=tuple(value for value in getattr(scores, measure.column) or () if value is not None),
                difference=None if difference is None else difference.mean,
                low=None if difference is None else difference.low,
                high=None if difference is None else difference.high,
            )
        )
    training = training_sentence(comparison)
    many = len(comparison.verdict.objectives) > 1
    part = ComparisonPart(
        verdict=verdict_sentence(comparison),
        answer=comparison.verdict.answer,
        sentences=(*(verdict_sentences(comparison) if many else ()), *([training] if training else [])),
        objectives=tuple(objectives),
        baseline=comparison.baseline,
        shown=shown,
        margin=comparison.margin,
        num_seeds=len(comparison.seeds),
        num_pair_seeds=len(ours),
        lower_is_better=measure.is_lower_better,
        measure=measure.noun,
        is_fraction=measure.is_fraction,
    )
    if shown == comparison.baseline:
        return part
    repaired, broken = pairs_over_seeds(theirs, ours)
    fixed, lost = flips_of(theirs, ours)
    return replace(part, repaired=repaired, broken=broken, fixed_texts=fixed, lost_texts=lost)
