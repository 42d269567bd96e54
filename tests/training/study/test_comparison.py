"""What a comparison gathers from finished runs."""

import json
from dataclasses import replace

import pytest

from comparisons import WHERE, finished, metrics_of, run_with_accuracy
from labeldist.training.output.words import training_sentence
from labeldist.training.records import record_from_json, record_to_json
from labeldist.training.study.comparison import build_comparison, choose_baseline
from labeldist.training.study.results import Comparison, PairChange


@pytest.mark.parametrize(
    ("objectives", "baseline"),
    [
        (["adaptive", "ce", "ce-two-views"], "ce-two-views"),
        (["ce", "uniform"], "ce"),
        (["uniform", "contrastive", "static"], "contrastive"),
        (["static"], None),
    ],
)
def test_the_baseline_is_two_view_cross_entropy_if_it_was_run(objectives, baseline):
    assert choose_baseline(objectives) == baseline


RUNS = [
    *(run_with_accuracy("adaptive", seed, accuracy) for seed, accuracy in enumerate([0.90, 0.92, 0.91, 0.93])),
    *(run_with_accuracy("ce-two-views", seed, accuracy) for seed, accuracy in enumerate([0.80, 0.83, 0.80, 0.82])),
    *(run_with_accuracy("contrastive", seed, accuracy) for seed, accuracy in enumerate([0.81, 0.82, 0.80, 0.82])),
    *(run_with_accuracy("uniform", seed, accuracy) for seed, accuracy in enumerate([0.80, 0.81, 0.82, 0.82])),
]


def through_json(comparison):
    return record_from_json(Comparison, json.loads(json.dumps(record_to_json(comparison))), source="comparison.json")


def test_a_comparison_holds_controls_first_and_survives_json():
    comparison = build_comparison(RUNS, **WHERE)
    assert list(comparison.objectives) == ["ce-two-views", "contrastive", "uniform", "adaptive"]
    assert (comparison.baseline, comparison.seeds) == ("ce-two-views", (0, 1, 2, 3))
    assert comparison.verdict.answer == "helps"
    pair = comparison.pairs["adaptive"].repaired[0]
    assert replace(pair, base_right=None, other_right=None) == PairChange("ask", "tell", 18.75, 8.5)
    # Of two classes what is not confused is right.
    assert pair.base_right is not None
    assert pair.other_right is not None
    assert pair.base + pair.base_right == pair.other + pair.other_right
    assert through_json(comparison) == comparison


def test_the_order_of_runs_does_not_matter():
    # Objectives that are no controls keep the order in which they came.
    assert build_comparison(RUNS[::-1], **WHERE) == build_comparison(RUNS, **WHERE)


def test_an_interrupted_comparison_pairs_the_seeds_that_both_have():
    comparison = build_comparison([*RUNS[:2], *RUNS[5:8]], **WHERE)
    assert comparison.objectives["ce-two-views"].accuracy == (None, 0.83, 0.80, 0.82)
    assert comparison.differences["adaptive"]["ce-two-views"].num_pairs == 1
    assert comparison.verdict.answer == "inconclusive"


def test_holm_runs_over_all_label_distance_objectives():
    alone = build_comparison(RUNS, **WHERE).verdict.objectives["adaptive"].corrected_p["uniform"]
    static = [run_with_accuracy("static", seed, accuracy) for seed, accuracy in enumerate([0.85, 0.80, 0.84, 0.80])]
    verdict = build_comparison([*RUNS, *static], **WHERE).verdict
    corrected = verdict.objectives["adaptive"].corrected_p["uniform"]
    assert alone is not None
    assert corrected is not None
    assert corrected > alone
    # One that helps is enough.
    assert {name: one.answer for name, one in verdict.objectives.items()} == {
        "adaptive": "helps",
        "static": "inconclusive",
    }
    assert verdict.answer == "helps"


def test_label_distance_does_not_help_where_none_of_its_objectives_does():
    level = [0.8, 0.801, 0.799]
    runs = [
        run_with_accuracy(name, seed, accuracy - loss)
        for name, loss in (("ce", 0.0), ("static", 0.05), ("adaptive", 0.04))
        for seed, accuracy in enumerate(level)
    ]
    # Equal differences cannot be tested.
    assert build_comparison(runs, **WHERE).verdict.answer == "inconclusive"
    moved = [run_with_accuracy("ce", 3, 0.81), *(run_with_accuracy(n, 3, 0.75) for n in ("static", "adaptive"))]
    assert build_comparison([*runs, *moved], **WHERE).verdict.answer == "does not help"


def test_without_label_distance_there_is_nothing_to_judge():
    verdict = build_comparison([each for each in RUNS if each.objective != "adaptive"], **WHERE).verdict
    assert (verdict.answer, verdict.objectives) == ("inconclusive", {})


def test_a_label_distance_objective_alone_is_its_own_baseline():
    comparison = build_comparison(RUNS[:2], **WHERE)
    assert comparison.baseline == "adaptive"
    assert comparison.differences == {"adaptive": {}}
    assert comparison.pairs == {}
    assert comparison.verdict.objectives["adaptive"].reason == "no control"


def test_a_comparison_refuses_no_run_a_run_twice_other_classes_and_an_absent_baseline():
    with pytest.raises(ValueError, match="at least one finished run"):
        build_comparison([], **WHERE)
    with pytest.raises(ValueError, match="'ce' with seed 0 twice"):
        build_comparison([run_with_accuracy("ce", 0, 0.8), run_with_accuracy("ce", 0, 0.8)], **WHERE)
    other = finished("ce", 1, metrics_of([[1, 0], [0, 1]], ["ask", "order"]))
    with pytest.raises(ValueError, match="the same classes, and 'ce' with seed 1 has others"):
        build_comparison([run_with_accuracy("ce", 0, 0.8), other], **WHERE)
    with pytest.raises(ValueError, match=r"got 'ce'\. Choose one of ce-two-views, contrastive, uniform"):
        build_comparison(RUNS, baseline="ce", **WHERE)


def test_two_classes_leave_uniform_out_of_the_verdict_on_static():
    matrix = [[1.0, 5.0], [5.0, 1.0]]
    accuracies = {"static": [0.8, 0.82], "uniform": [0.8, 0.82], "ce-two-views": [0.7, 0.81]}
    runs = [
        run_with_accuracy(name, seed, accuracy, matrix=matrix if name in ("static", "uniform") else None)
        for name, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]
    verdict = build_comparison(runs, **WHERE).verdict.objectives["static"]
    assert verdict.control == "ce-two-views"
    assert verdict.same_matrix == ("uniform",)


# Whether training was worth it

WORTH = {"logistic": (0.7, 0.9), "centroid": (0.8, 0.6), "ce": (0.75, 0.7), "contrastive": (0.7, 0.8)}
"""Of each objective its accuracy on the test rows, and on validation rows."""


@pytest.mark.parametrize(
    ("names", "missing", "chosen"),
    [
        (tuple(WORTH), None, ("contrastive", "logistic", "validation")),
        (tuple(WORTH), "centroid", ("ce", "centroid", "test")),
        (("logistic", "ce"), "ce", ("ce", "logistic", None)),
    ],
)
def test_the_best_of_either_kind_is_chosen_on_validation_rows_where_every_run_has_them(names, missing, chosen):
    runs = [
        run_with_accuracy(name, seed, test, validation_accuracy=None if name == missing else validation)
        for name, (test, validation) in WORTH.items()
        for seed in (0, 1)
        if name in names
    ]
    comparison = build_comparison(runs, **WHERE)
    worth = comparison.training
    assert worth is not None
    assert (worth.trained, worth.frozen, worth.chosen_on) == chosen
    assert worth.difference.mean == pytest.approx(WORTH[worth.trained][0] - WORTH[worth.frozen][0])
    assert through_json(comparison) == comparison
    sentence = training_sentence(comparison)
    assert sentence is not None
    assert sentence.startswith("The trained objective, ce: " if worth.chosen_on is None else "The best trained obj")
    assert ("on the validation rows." in sentence) == (worth.chosen_on == "validation")
    assert ("on these same test rows, so the interval is too narrow." in sentence) == (worth.chosen_on == "test")


# Neighbors and mistakes

STATIC = [[1.0, 5.0, 1.0], [5.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
OTHER = [[1.0, 1.0, 5.0], [1.0, 1.0, 1.0], [5.0, 1.0, 1.0]]
FLAT = [[1.0, 2.0, 2.0], [2.0, 1.0, 2.0], [2.0, 2.0, 1.0]]


def run_of_three(objective, seed, confusion, *, matrix=None, precision: float | None = 0.5):
    metrics = metrics_of(confusion, ["ask", "tell", "order"], precision=precision)
    return finished(objective, seed, metrics, matrix=matrix)


def mistakes(first_second: int, first_third: int):
    return [[10, first_second, first_third], [0, 10, 0], [0, 0, 10]]


def test_all_mistakes_are_measured_under_the_first_static_matrix():
    runs = [
        run_of_three("static", 1, mistakes(0, 4), matrix=OTHER),
        run_of_three("static", 0, mistakes(3, 1), matrix=STATIC),
        run_of_three("adaptive", 0, mistakes(1, 1), matrix=OTHER),
        run_of_three("ce", 1, mistakes(0, 2)),
        run_of_three("ce", 0, mistakes(0, 0)),
    ]
    comparison = build_comparison(runs, **WHERE)
    assert comparison.severity_matrix == "the matrix of static, seed 0"
    columns = comparison.objectives
    # Three at distance 5 and one at 1; class `ask` has a mean distance of 3.
    assert columns["static"].mistake_distance == (4.0, 1.0)
    assert columns["static"].expected_mistake_distance == (3.0, 3.0)
    # A run that is missing, and one without a mistake.
    assert columns["adaptive"].mistake_distance == (3.0, None)
    assert columns["ce"].mistake_distance == (None, 1.0)
    assert build_comparison(runs[::-1], **WHERE).objectives == columns


def test_a_static_matrix_that_tells_no_pairs_apart_is_passed_over():
    runs = [
        run_of_three("static", 0, mistakes(1, 1), matrix=FLAT),
        run_of_three("static", 1, mistakes(1, 1), matrix=OTHER),
    ]
    assert build_comparison(runs, **WHERE).severity_matrix == "the matrix of static, seed 1"


def test_without_static_the_mistakes_of_all_runs_make_the_matrix():
    runs = [
        run_of_three("ce", 0, mistakes(4, 0)),
        run_of_three("contrastive", 0, mistakes(0, 2), matrix=FLAT),
        run_of_three("adaptive", 0, mistakes(1, 1), matrix=OTHER),
    ]
    comparison = build_comparison(runs, **WHERE)
    assert comparison.severity_matrix == "a matrix from the confusions of all these runs"
    # Together ask was taken for tell 5 times and for order 3 times of 38: distances 5 and 1 + 4 * 3 / 5 = 3.4.
    distances = {name: columns.mistake_distance for name, columns in comparison.objectives.items()}
    assert distances == {
        "ce": (5.0,),
        "contrastive": (pytest.approx(3.4),),
        "adaptive": (pytest.approx(4.2),),
    }


def test_where_no_matrix_tells_pairs_apart_mistakes_have_no_distance():
    comparison = build_comparison([run_with_accuracy("ce", 0, 0.8), run_with_accuracy("adaptive", 0, 0.9)], **WHERE)
    assert comparison.severity_matrix is None
    assert comparison.objectives["ce"].mistake_distance == (None,)


def test_neighbors_stand_by_seed_and_are_absent_where_they_were_not_measured():
    runs = [
        run_of_three("ce", 0, mistakes(1, 0), precision=0.25),
        run_of_three("ce", 2, mistakes(1, 0), precision=0.75),
        run_of_three("static", 1, mistakes(1, 0), matrix=STATIC, precision=None),
    ]
    comparison = build_comparison(runs, **WHERE)
    for scores, expected in (("ce", (0.25, None, 0.75)), ("static", (None, None, None))):
        found = comparison.objectives[scores]
        assert found.precision_at_1 == found.r_precision == found.mean_average_precision_at_r == expected
    assert comparison.objectives["static"].mistake_distance == (None, 5.0, None)
    assert through_json(comparison) == comparison
