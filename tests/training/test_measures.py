"""Measures by an order, costs or a relation of the classes: in runs, in comparisons, and which direction is better."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from comparisons import WHERE, finished, metrics_of
from labeldist import Relation
from labeldist.cli import main
from labeldist.evaluation import graded_ndcg, group_mean_average_precision
from labeldist.training.api import compare, load, train
from labeldist.training.config import DataSettings, MatrixSettings, RunSettings
from labeldist.training.errors import UserError
from labeldist.training.measures import MEASURES
from labeldist.training.metrics import evaluate_predictions, with_relation
from labeldist.training.output.pictures import plot_comparison
from labeldist.training.output.terminal import comparison_table, train_summary
from labeldist.training.output.words import training_sentence, verdict_sentence
from labeldist.training.records import PredictionMetrics, RelationScores, record_from_json, record_to_json
from labeldist.training.relations import check_measure_is_given, groups_of, measure_tables
from labeldist.training.results import FinishedComparison
from labeldist.training.study.comparison import build_comparison
from labeldist.training.study.results import Comparison
from runs import CLASSES, QUICK, messages, read
from strategies import brief

pytestmark = pytest.mark.usefixtures("as_it_was")

ORDER = (CLASSES[0], CLASSES[3], CLASSES[2], CLASSES[1])
TREE = {"verdict": list(CLASSES[:2]), "news": list(CLASSES[2:])}
COSTS = {a: {b: 4.0 if a == CLASSES[0] else 1.0 for b in CLASSES if b != a} for a in CLASSES}
ROWS = messages(100)
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]
SMALL: dict[str, Any] = {"embedding_dim": 8, "projection_dim": 8, "batch_size": 16, "epochs": 1}


def of(order: tuple[str, ...] = (), **data: Any) -> RunSettings:
    return RunSettings(data=DataSettings(**data), matrix=MatrixSettings(order=order))


# What is known of the classes


def test_a_hierarchy_makes_groups_and_gains_of_three_and_one():
    tables = measure_tables(of(hierarchy=json.dumps(TREE)), CLASSES)
    assert tables is not None
    assert tables.gains is not None
    assert tables.groups is not None
    assert tables.gains.tolist() == [[3, 1, 0, 0], [1, 3, 0, 0], [0, 0, 3, 1], [0, 0, 1, 3]]
    assert tables.groups.tolist() == [0, 0, 1, 1]
    assert tables.rank is None
    assert tables.costs is None


def test_nothing_known_is_nothing_measured():
    assert measure_tables(of(), CLASSES) is None
    metrics = metrics_of([[1, 0], [0, 1]])
    assert with_relation(metrics, [0, 1], [[1.0, 0.0], [0.0, 1.0]], None) is metrics
    # A hierarchy that serves coarse labels need not hold every class.
    assert measure_tables(of(hierarchy=json.dumps({"verdict": list(CLASSES[:2])})), CLASSES) is None
    with pytest.raises(UserError, match="--order: The order must name every class"):
        measure_tables(of(order=ORDER[:3]), CLASSES)


@pytest.mark.parametrize(
    ("relation", "groups"),
    [
        (Relation.from_groups([[0, 2], [1, 3]], num_classes=4, closeness=0.5), [0, 1, 0, 1]),
        (Relation.from_groups([[0, 1], [1, 2]], num_classes=4), None),
        (Relation.from_pairs([(0, 1)], num_classes=3, symmetric=False), None),
        (Relation.from_pairs([], num_classes=3), None),
        (Relation(torch.ones(3, 3)), None),
    ],
)
def test_only_a_relation_that_divides_the_classes_has_groups(relation, groups):
    found = groups_of(relation)
    assert (None if found is None else found.tolist()) == groups


@brief
@given(st.permutations(range(4)), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8))
def test_errors_count_steps_of_the_order_whatever_the_order_of_the_classes(order, rows):
    names = [CLASSES[i] for i in order]
    tables = measure_tables(of(order=tuple(names)), CLASSES)
    true, decided = zip(*rows, strict=True)
    scores = with_relation(
        evaluate_predictions(true, np.eye(4)[list(decided)], CLASSES, ["x"] * len(rows)),
        true,
        np.eye(4)[list(decided)],
        tables,
    ).relation
    assert scores is not None
    steps = [abs(order.index(a) - order.index(b)) for a, b in rows]
    # Where one class has all the probability, it is the median, too.
    assert scores.mean_absolute_error == scores.median_absolute_error == pytest.approx(np.mean(steps))
    assert scores.expected_cost is None


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(
        TEXTS, LABELS, objective="contrastive", hierarchy=TREE, costs=COSTS,
        output=tmp_path_factory.mktemp("measures") / "run", **SMALL,
    )  # fmt: skip


def test_a_run_measures_what_it_knows_of_its_classes(run):
    scores = run.metrics.test.relation
    assert scores is not None
    rows = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    texts, true, predicted = ([row[name] for row in rows] for name in ("text", "label", "predicted"))
    group = {name: key for key, names in TREE.items() for name in names}
    pairs = list(zip(true, predicted, strict=True))
    assert scores.group_accuracy == pytest.approx(np.mean([group[a] == group[b] for a, b in pairs]))
    assert scores.expected_cost == pytest.approx(np.mean([0 if a == b else COSTS[a][b] for a, b in pairs]))
    assert scores.least_expected_cost is not None
    assert scores.mean_absolute_error is None
    predictor = run._predictor
    vectors, labels = predictor.classifier.predict(texts).vectors, torch.tensor([CLASSES.index(a) for a in true])
    gains = measure_tables(of(hierarchy=json.dumps(TREE)), CLASSES).gains  # type: ignore[union-attr]
    assert scores.graded_ndcg == pytest.approx(graded_ndcg(vectors, labels, gains))
    assert scores.group_mean_average_precision == pytest.approx(
        group_mean_average_precision(vectors, labels, [0, 0, 1, 1])
    )
    assert load(run.folder).metrics == run.metrics
    assert run.evaluate(texts, true) == run.metrics.test


def test_a_run_that_knows_nothing_leaves_the_record_as_it_was(finished_run):
    stored = read(finished_run / "metrics.json")
    assert "relation" not in stored["test"]
    assert "costs" not in read(finished_run / "config.json")["data"]


def test_the_summary_of_a_run_tells_what_was_measured(run):
    text = train_summary(run.metrics.test, title="x")
    assert "Mean cost: " in text
    assert "Related classes: group accuracy " in text
    ordered = replace(run.metrics.test, relation=RelationScores(0.75, 0.72, 0.643))
    assert (
        "Mean absolute error: 0.75 steps deciding for the most probable class, 0.72 for the posterior median; "
        "quadratic weighted kappa 0.643"
    ) in " ".join(train_summary(ordered, title="x").split())


def test_costs_that_do_not_fit_are_told_before_anything_is_written(tmp_path, tickets, capsys):
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps({CLASSES[0]: {}}))
    flags = ["--data", str(tickets), *QUICK, "-o", str(tmp_path / "run"), "--costs", str(costs)]
    assert main(["train", *flags]) == 2
    assert f"{costs}: the cost of deciding" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"^costs: the cost of deciding"):
        train(TEXTS, LABELS, costs={CLASSES[0]: {}}, **SMALL)


# Verdicts

NAMES = ("bad", "fair", "good")


def run_with(objective: str, seed: int, **scores: float):
    metrics = replace(metrics_of(np.eye(3, dtype=int) * 4, NAMES), relation=RelationScores(**scores))
    return finished(objective, seed, metrics)


def errors(**by_objective: list[float]) -> list[Any]:
    return [
        run_with(name.replace("_", "-"), seed, mean_absolute_error=value)
        for name, values in by_objective.items()
        for seed, value in enumerate(values)
    ]


CONTROLS = {"ce_two_views": [0.80, 0.83, 0.82], "contrastive": [0.79, 0.82, 0.81], "uniform": [0.80, 0.82, 0.80]}


@pytest.mark.parametrize(
    ("far", "answer", "sentence"),
    [
        (
            [0.70, 0.73, 0.71],
            "helps",
            "-0.093 of mean absolute error against contrastive (95 % interval -0.108 to -0.079, 3 seeds)",
        ),
        ([0.90, 0.92, 0.91], "does not help", "a reduction of the mean absolute error by 0.005 is ruled out"),
    ],
)
def test_a_lower_error_helps_and_a_higher_one_does_not(far, answer, sentence):
    comparison = build_comparison(errors(far=far, **CONTROLS), measure="mean-absolute-error", **WHERE)
    assert comparison.verdict.answer == answer
    assert sentence in verdict_sentence(comparison)
    stored = json.loads(json.dumps(record_to_json(comparison)))
    assert record_from_json(Comparison, stored, source="comparison.json") == comparison


@brief
@given(
    st.lists(st.lists(st.integers(0, 100), min_size=4, max_size=4), min_size=4, max_size=4),
    st.sampled_from([0.005, 0.05]),
)
def test_a_verdict_on_costs_is_that_on_their_negatives(values, margin):
    """As if less cost were more accuracy: answer and reason are the same, and the difference has the other sign."""
    names = ("ce-two-views", "contrastive", "uniform", "static")
    costs, gains = [], []
    for name, by_seed in zip(names, values, strict=True):
        for seed, value in enumerate(by_seed):
            costs.append(run_with(name, seed, expected_cost=value / 100))
            gains.append(finished(name, seed, metrics_of(np.eye(3, dtype=int), NAMES, accuracy=1 - value / 100)))
    lower = build_comparison(costs, measure="expected-cost", margin=margin, **WHERE).verdict.objectives["static"]
    higher = build_comparison(gains, margin=margin, **WHERE).verdict.objectives["static"]
    assert (lower.answer, lower.reason, lower.is_strongest) == (higher.answer, higher.reason, higher.is_strongest)
    assert lower.difference is not None
    assert higher.difference is not None
    assert lower.difference.mean == pytest.approx(-higher.difference.mean, abs=1e-9)


def test_a_notebook_shows_the_difference_in_the_measure():
    comparison = build_comparison(errors(far=[0.70, 0.73, 0.71], **CONTROLS), measure="mean-absolute-error", **WHERE)
    found = FinishedComparison(Path(), comparison)
    assert found.measured["far"] == (0.70, 0.73, 0.71)
    html = found._repr_html_()
    assert "<th>vs ce-two-views, mean-absolute-error</th>" in html
    assert "<td>-0.103</td><td>-0.118 to -0.089</td>" in html


def test_the_chart_of_a_measure_says_which_side_is_better(tmp_path, monkeypatch):
    labels: list[str] = []
    set_xlabel = Axes.set_xlabel
    monkeypatch.setattr(
        Axes, "set_xlabel", lambda axes, text, **kw: labels.append(text) or set_xlabel(axes, text, **kw)
    )
    comparison = build_comparison(errors(far=[0.70, 0.73, 0.71], **CONTROLS), measure="mean-absolute-error", **WHERE)
    plot_comparison(comparison, tmp_path / "chart.png")
    assert labels == [
        "test mean absolute error; left is better",
        "change of mean absolute error; gray: less than 0.005",
    ]


def test_training_is_judged_by_the_measure():
    runs = errors(ce=[0.5, 0.52, 0.51], contrastive=[0.6, 0.62, 0.63], logistic=[0.9, 0.93, 0.91])
    comparison = build_comparison(runs, measure="mean-absolute-error", **WHERE)
    sentence = training_sentence(comparison)
    assert sentence is not None
    assert sentence.startswith("The best trained objective, ce: -0.403 of mean absolute error against logistic")
    assert "training was worth it" in sentence


def test_the_table_shows_the_measure_and_the_decisions_that_need_no_training():
    runs = [
        run_with(name, seed, mean_absolute_error=0.8 + seed / 100, median_absolute_error=0.7, expected_cost=2.0,
                 least_expected_cost=1.5, group_accuracy=0.9)
        for name in ("ce-two-views", "static")
        for seed in range(2)
    ]  # fmt: skip
    text = comparison_table(build_comparison(runs, measure="mean-absolute-error", **WHERE))
    assert "change: difference of mean absolute error to ce-two-views; below 0 is better" in text
    assert "abs. error" in text
    assert "0.805 ± 0.007" in text
    assert "of median: of the posterior median" in text
    assert "least cost: of the class of least expected cost" in text
    assert "group acc. %" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_hierarchy_for_coarse_labels_stands_beside_a_measure_of_costs():
    settings = of(costs=json.dumps(COSTS), hierarchy=json.dumps({"verdict": list(CLASSES[:2])}))
    check_measure_is_given("expected-cost", settings, CLASSES)
    with pytest.raises(UserError, match="hierarchy must hold every class"):
        check_measure_is_given("group-map", settings, CLASSES)


def test_runs_without_the_measure_are_compared_with_none():
    runs = [*errors(far=[0.7, 0.71]), finished("ce", 0, metrics_of(np.eye(3, dtype=int), NAMES))]
    comparison = build_comparison(runs, measure="mean-absolute-error", **WHERE)
    assert comparison.differences["far"] == {}
    assert comparison.verdict.answer == "inconclusive"
    assert "mean_absolute_error" not in record_to_json(comparison)["objectives"]["ce"]


@pytest.mark.parametrize(
    ("measure", "options", "sentence"),
    [
        ("mean-absolute-error", {}, "measure mean-absolute-error needs order (the classes from one end to the other)."),
        ("expected-cost", {"order": ORDER}, "measure expected-cost needs costs (what each mistake costs)."),
        ("graded-ndcg", {}, "measure graded-ndcg needs a relation of the classes: order (the classes from"),
        (
            "group-map",
            {"order": ORDER},
            "measure group-map needs a relation that divides the classes into groups: rela",
        ),
        ("group-map", {"hierarchy": [list(CLASSES)]}, "measure group-map needs a relation that divides the classes"),
        (
            "graded-ndcg",
            {"hierarchy": [list(CLASSES[:3])]},
            "hierarchy: The hierarchy must hold every class, 'delivery",
        ),
        ("f2", {}, "measure must be one of accuracy, macro-f1, "),
        ("accuracy", {"margin": 2.0}, "margin must lie between 0 and 1"),
        ("expected-cost", {"margin": -2.0, "costs": COSTS}, "margin must be a number above 0, got -2.0."),
    ],
)
def test_a_measure_without_what_it_takes_is_one_sentence(measure, options, sentence):
    with pytest.raises(UserError) as caught:
        compare(TEXTS, LABELS, objectives=["ce", "contrastive"], seeds=[0], measure=measure, **options, **SMALL)
    assert str(caught.value).startswith(sentence)


def test_a_comparison_by_costs_is_judged_again_by_another_measure(tmp_path, tickets, capsys):
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps(COSTS))
    folder = tmp_path / "study"
    command = ["compare", "--data", str(tickets), *QUICK, "--epochs", "1", "--objectives", "ce", "contrastive"]
    command += ["--seeds", "0", "--costs", str(costs), "-o", str(folder)]
    for measure in ("expected-cost", "macro-f1"):
        assert main([*command, "--measure", measure]) == 0
        out = capsys.readouterr().out
        assert f"difference of {MEASURES[measure].noun} to ce" in out
        stored = read(folder / "comparison.json")
        assert (stored["measure"], stored["provenance"]["settings"]["measure"]) == (measure, measure)
        column = "expected_cost" if measure == "expected-cost" else "macro_f1"
        found = [stored["objectives"][name][column][0] for name in ("contrastive", "ce")]
        assert stored["differences"]["contrastive"]["ce"]["mean"] == pytest.approx(found[0] - found[1])
    assert len(list((folder / "runs").iterdir())) == 2


def test_metrics_from_before_there_were_measures_are_read(finished_run):
    stored = {"format": 1, **read(finished_run / "metrics.json")["test"]}
    assert record_from_json(PredictionMetrics, stored, source="metrics.json").relation is None
