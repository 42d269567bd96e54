"""What a comparison found: finished runs gathered into one dict.

`build_comparison` gathers runs into the *comparison dict*, which goes to disk as JSON and feeds the table
(`labeldist.training.output.terminal`) and the figure (`labeldist.training.output.pictures`). Accuracies and
differences are fractions; only tables, figures and sentences speak of points. `None` stands for what is not there: a
missing run, the interval of one seed.

```
{"data": "trec", "encoder": "textcnn", "margin": 0.005,
 "seeds": [0, 1, 2],                            every seed that any objective ran with, sorted
 "baseline": "ce-two-views",                    what the table, the figure and `pairs` compare with
 "controls": ["ce", "ce-two-views", "uniform"], the controls that were run
 "objectives": {"adaptive": {"accuracy": [0.88, 0.87, null], "macro_f1": [...], "seconds": [...],
                             "precision_at_1": [...], "r_precision": [...], "mean_average_precision_at_r": [...],
                             "mistake_distance": [...], "expected_mistake_distance": [...]}},
                                                controls first; one entry for each of the seeds
 "severity_matrix": "the matrix of static, seed 0",
                                                under which both mistake distances are taken, for every objective and
                                                seed the same; null where none tells pairs apart
 "differences": {"adaptive": {"uniform": {"mean": 0.003, "low": -0.008, "high": 0.014, "p_value": 0.42,
                                          "num_pairs": 3, "spread": 0.004}}},
                                                accuracy of the objective minus that of every other control
 "verdict": {"answer": "helps" | "does not help" | "cannot be told", "sentence": "...",
             "objectives": {"adaptive": the fields of `Verdict`}},
 "pairs": {"adaptive": {"repaired": [{"classes": ["a", "b"], "base": 4.0, "other": 2.0}], "broken": []}}}
```
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import torch

from labeldist.evaluation import METRICS
from labeldist.ldm.distances import distances_from_confusion
from labeldist.training.metrics import repaired_pairs, severity_under, tells_pairs_apart
from labeldist.training.study.statistics import (
    CONTROLS,
    MARGIN,
    Answer,
    PairedDifference,
    Verdict,
    holm,
    paired_difference,
    verdict,
)

__all__ = ["build_comparison", "choose_baseline"]

Runs = Mapping[int, Mapping[str, Any]]
Distances = Sequence[Sequence[float]]


def choose_baseline(objectives: Sequence[str], controls: Sequence[str] = CONTROLS) -> str | None:
    """The control to compare with: two-view cross-entropy if run, else cross-entropy, else the first one, else None.

    Examples:
        >>> choose_baseline(["adaptive", "uniform", "ce"])
        'ce'
    """
    preferred = ("ce-two-views", "ce", *controls)
    return next((name for name in preferred if name in objectives and name in controls), None)


def build_comparison(
    runs: Sequence[Mapping[str, Any]],
    *,
    data: str,
    encoder: str,
    baseline: str | None = None,
    controls: Sequence[str] = CONTROLS,
    margin: float = MARGIN,
) -> dict[str, Any]:
    """The comparison dict (see the module) of finished runs; differences pair the seeds that both objectives have.

    The Holm correction runs over every comparison of a label-distance objective (any that is not among `controls`) with
    a control.

    Args:
        runs: `{"objective": str, "seed": int, "metrics": dict of evaluate_predictions, "seconds": float}` each, and
            `"matrix"`, the label distances as nested lists, where there are any. Metrics of earlier versions, without
            `embeddings`, leave those columns empty.
        data: name of the data.
        encoder: name of the encoder.
        baseline: the control that tables compare with; None takes `choose_baseline`.
        controls: names that count as controls.
        margin: smallest gain worth having, as a fraction.

    Raises:
        ValueError: if there is no run, a run occurs twice, or the baseline was not run.
    """
    table = _by_objective_and_seed(runs)
    present = [name for name in controls if name in table]
    names = present + [name for name in table if name not in controls]
    baseline = baseline or choose_baseline(names, controls) or names[0]
    if baseline not in table:
        cure = f"Choose one of {', '.join(names)}."
        raise ValueError(f"baseline must be an objective that was run, got {baseline!r}. {cure}")
    seeds = sorted({seed for by_seed in table.values() for seed in by_seed})
    differences = {name: _differences(table, name, dict.fromkeys([*present, baseline])) for name in names}
    same = {name: [c for c in present if _same_matrix(table[name], table[c])] for name in names if name not in present}
    candidates = {
        name: {
            control: d for control, d in differences[name].items() if control in present and control not in same[name]
        }
        for name in same
    }
    verdicts = [
        verdict(
            name,
            candidates[name],
            data=data,
            encoder=encoder,
            corrected_p=corrected,
            margin=margin,
            same_matrix=same[name],
        )
        for name, corrected in _corrected(candidates).items()
    ]
    severity_matrix, matrix_name = _severity_matrix(table)
    return {
        "data": data,
        "encoder": encoder,
        "margin": margin,
        "seeds": seeds,
        "baseline": baseline,
        "controls": present,
        "objectives": {name: _columns(table[name], seeds, severity_matrix) for name in names},
        "severity_matrix": matrix_name,
        "differences": {n: {control: asdict(d) for control, d in by.items()} for n, by in differences.items()},
        "verdict": _overall(verdicts, data, encoder),
        "pairs": {n: pairs for n in names if n != baseline and (pairs := _pairs(table[n], table[baseline]))},
    }


def _same_matrix(runs: Runs, others: Runs) -> bool:
    """Whether both objectives trained with one matrix on every seed that they share, as two classes make it."""
    common = runs.keys() & others.keys()
    matrices = [(runs[seed].get("matrix"), others[seed].get("matrix")) for seed in common]
    return bool(matrices) and all(ours is not None and ours == theirs for ours, theirs in matrices)


def _by_objective_and_seed(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    if not runs:
        raise ValueError("runs must hold at least one finished run, got none.")
    table: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        objective, seed = run["objective"], run["seed"]
        if seed in table.setdefault(objective, {}):
            raise ValueError(f"runs must be distinct, got objective {objective!r} with seed {seed} twice.")
        table[objective][seed] = run
    return table


def _differences(table: Mapping[str, Runs], name: str, against: Iterable[str]) -> dict[str, PairedDifference]:
    differences = {}
    for control in against:
        common = sorted(table[name].keys() & table[control].keys())
        if control != name and common:
            ours, theirs = ([table[n][seed]["metrics"]["accuracy"] for seed in common] for n in (name, control))
            differences[control] = paired_difference(ours, theirs)
    return differences


def _corrected(candidates: Mapping[str, Mapping[str, PairedDifference]]) -> dict[str, dict[str, float | None]]:
    keys = [(name, control) for name, by_control in candidates.items() for control in by_control]
    p_values = holm([candidates[name][control].p_value for name, control in keys])
    corrected: dict[str, dict[str, float | None]] = {name: {} for name in candidates}
    for (name, control), p_value in zip(keys, p_values, strict=True):
        corrected[name][control] = p_value
    return corrected


def _severity_matrix(table: Mapping[str, Runs]) -> tuple[Distances | None, str | None]:
    """The matrix under which the mistakes of every objective and seed are measured, and its name.

    The first static matrix that tells pairs apart: it was fixed without the test rows. Without one, distances from the
    test confusions of all runs together: those of one objective alone would make its own mistakes the severe ones.
    """
    for seed, run in sorted(table.get("static", {}).items()):
        matrix = run.get("matrix")
        if matrix is not None and tells_pairs_apart(matrix):
            return matrix, f"the matrix of static, seed {seed}"
    counts = sum(np.asarray(run["metrics"]["confusion"]) for runs in table.values() for run in runs.values())
    pooled = distances_from_confusion(torch.as_tensor(counts)).tolist()
    return (pooled, "a matrix from the confusions of all these runs") if tells_pairs_apart(pooled) else (None, None)


def _columns(runs: Runs, seeds: Sequence[int], matrix: Distances | None) -> dict[str, list[float | None]]:
    found = [runs.get(seed) for seed in seeds]
    metrics = [None if run is None else run["metrics"] for run in found]
    embeddings = [None if one is None else one.get("embeddings") for one in metrics]
    severity = [None if one is None else severity_under(one["confusion"], matrix) for one in metrics]
    return {
        **{name: _column(metrics, name) for name in ("accuracy", "macro_f1")},
        "seconds": _column(found, "seconds"),
        **{name: _column(embeddings, name) for name in METRICS},
        "mistake_distance": _column(severity, "mean_distance"),
        "expected_mistake_distance": _column(severity, "expected_distance"),
    }


def _column(found: Sequence[Mapping[str, Any] | None], name: str) -> list[float | None]:
    return [None if one is None else one[name] for one in found]


def _pairs(runs: Runs, base: Runs) -> dict[str, Any] | None:
    common = sorted(runs.keys() & base.keys())
    if not common:
        return None
    base_confusions, confusions = ([side[seed]["metrics"]["confusion"] for seed in common] for side in (base, runs))
    return repaired_pairs(base_confusions, confusions, runs[common[0]]["metrics"]["class_names"])


def _overall(verdicts: Sequence[Verdict], data: str, encoder: str) -> dict[str, Any]:
    """The verdict part of the comparison: one sentence for all label-distance objectives together."""
    answers = [one.answer for one in verdicts]
    if "helps" in answers:
        answer = "helps"
    else:
        answer = "does not help" if answers and set(answers) == {"does not help"} else "cannot be told"
    subject = f"Label distance on {data}, {encoder}"
    if not verdicts:
        sentence = f"{subject}: no label-distance objective was run, so whether it helps cannot be told."
    elif len(verdicts) == 1:
        sentence = verdicts[0].sentence
    else:
        sentence = f"{subject}: {_answers_in_words(verdicts)}."
    return {"answer": answer, "sentence": sentence, "objectives": {one.objective: asdict(one) for one in verdicts}}


def _answers_in_words(verdicts: Sequence[Verdict]) -> str:
    helping, useless, unknown = (
        [one.objective for one in verdicts if one.answer == answer] for answer in get_args(Answer)
    )
    parts = [f"{' and '.join(helping)} {'helps' if len(helping) == 1 else 'help'}"] if helping else []
    parts += [f"{' and '.join(useless)} {'does' if len(useless) == 1 else 'do'} not help"] if useless else []
    parts += [f"whether {' or '.join(unknown)} helps cannot be told with these seeds"] if unknown else []
    return "; ".join(parts)
