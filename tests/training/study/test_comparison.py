"""What a comparison gathers from finished runs."""

import json
from typing import Any

import pytest

from labeldist.evaluation import METRICS
from labeldist.training.study.comparison import build_comparison, choose_baseline

WHERE: dict[str, Any] = {"data": "trec", "encoder": "textcnn"}


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


def run(objective, seed, accuracy):
    wrong = round(100 * (1 - accuracy))
    confusion = [[50 - wrong, wrong], [0, 50]]
    metrics = {"accuracy": accuracy, "macro_f1": accuracy, "confusion": confusion, "class_names": ["ask", "tell"]}
    return {"objective": objective, "seed": seed, "metrics": metrics, "seconds": 10.0 + seed}


RUNS = [
    *(run("adaptive", seed, accuracy) for seed, accuracy in enumerate([0.90, 0.92, 0.91, 0.93])),
    *(run("ce-two-views", seed, accuracy) for seed, accuracy in enumerate([0.80, 0.83, 0.80, 0.82])),
    *(run("contrastive", seed, accuracy) for seed, accuracy in enumerate([0.81, 0.82, 0.80, 0.82])),
    *(run("uniform", seed, accuracy) for seed, accuracy in enumerate([0.80, 0.81, 0.82, 0.82])),
]


def test_a_comparison_holds_controls_first_and_survives_json():
    comparison = build_comparison(RUNS, **WHERE)
    assert list(comparison["objectives"]) == ["ce-two-views", "contrastive", "uniform", "adaptive"]
    assert (comparison["baseline"], comparison["seeds"]) == ("ce-two-views", [0, 1, 2, 3])
    assert comparison["verdict"]["answer"] == "helps"
    assert comparison["verdict"]["sentence"].endswith("it helps.")
    assert comparison["pairs"]["adaptive"]["repaired"] == [{"classes": ["ask", "tell"], "base": 18.75, "other": 8.5}]
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison


def test_the_order_of_runs_does_not_matter():
    # objectives that are no controls keep the order in which they came
    assert build_comparison(RUNS[::-1], **WHERE) == build_comparison(RUNS, **WHERE)


def test_an_interrupted_comparison_pairs_the_seeds_that_both_have():
    comparison = build_comparison([*RUNS[:2], *RUNS[5:8]], **WHERE)
    assert comparison["objectives"]["ce-two-views"]["accuracy"] == [None, 0.83, 0.80, 0.82]
    assert comparison["differences"]["adaptive"]["ce-two-views"]["num_pairs"] == 1
    assert comparison["verdict"]["answer"] == "cannot be told"


def test_holm_runs_over_all_label_distance_objectives():
    alone = build_comparison(RUNS, **WHERE)["verdict"]["objectives"]["adaptive"]["corrected_p"]
    static = [run("static", seed, accuracy) for seed, accuracy in enumerate([0.85, 0.80, 0.84, 0.80])]
    verdicts = build_comparison([*RUNS, *static], **WHERE)["verdict"]
    assert verdicts["objectives"]["adaptive"]["corrected_p"]["uniform"] > alone["uniform"]
    assert verdicts["sentence"].startswith(
        "Label distance on trec, textcnn: adaptive helps; whether static helps cannot"
    )


def test_objectives_with_one_answer_share_a_clause():
    runs = [run(name, 0, 0.8) for name in ("ce", "static", "adaptive")]
    assert build_comparison(runs, **WHERE)["verdict"]["sentence"] == (
        "Label distance on trec, textcnn: whether static or adaptive helps cannot be told with these seeds."
    )


def test_without_label_distance_the_verdict_says_so():
    comparison = build_comparison([each for each in RUNS if each["objective"] != "adaptive"], **WHERE)
    assert comparison["verdict"]["answer"] == "cannot be told"
    assert "no label-distance objective was run" in comparison["verdict"]["sentence"]


def test_a_label_distance_objective_alone_is_its_own_baseline():
    comparison = build_comparison(RUNS[:2], **WHERE)
    assert (comparison["baseline"], comparison["differences"], comparison["pairs"]) == (
        "adaptive",
        {"adaptive": {}},
        {},
    )
    assert "no control was run" in comparison["verdict"]["sentence"]


def test_a_comparison_refuses_no_run_a_run_twice_and_an_absent_baseline():
    with pytest.raises(ValueError, match="at least one finished run"):
        build_comparison([], **WHERE)
    with pytest.raises(ValueError, match="'ce' with seed 0 twice"):
        build_comparison([run("ce", 0, 0.8), run("ce", 0, 0.8)], **WHERE)
    with pytest.raises(ValueError, match=r"got 'ce'\. Choose one of ce-two-views, contrastive, uniform"):
        build_comparison(RUNS, baseline="ce", **WHERE)


def test_two_classes_leave_uniform_out_of_the_verdict_on_static():
    matrix = [[1.0, 5.0], [5.0, 1.0]]
    accuracies = {"static": [0.8, 0.82], "uniform": [0.8, 0.82], "ce-two-views": [0.7, 0.81]}
    runs = [
        {**run(name, seed, accuracy), "matrix": matrix if name in ("static", "uniform") else None}
        for name, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]
    sentence = build_comparison(runs, **WHERE)["verdict"]["sentence"]
    assert "over ce-two-views" in sentence
    assert "(uniform had the same matrix)" in sentence


# Neighbours and mistakes

STATIC = [[1.0, 5.0, 1.0], [5.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
OTHER = [[1.0, 1.0, 5.0], [1.0, 1.0, 1.0], [5.0, 1.0, 1.0]]
FLAT = [[1.0, 2.0, 2.0], [2.0, 1.0, 2.0], [2.0, 2.0, 1.0]]


def run_of_three(objective, seed, confusion, *, matrix=None, precision: float | None = 0.5):
    metrics = {"accuracy": 0.8, "macro_f1": 0.8, "confusion": confusion, "class_names": ["ask", "tell", "order"]}
    if precision is not None:
        metrics["embeddings"] = dict.fromkeys(METRICS, precision)
    return {"objective": objective, "seed": seed, "metrics": metrics, "seconds": 1.0, "matrix": matrix}


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
    assert comparison["severity_matrix"] == "the matrix of static, seed 0"
    columns = comparison["objectives"]
    # Three at distance 5 and one at 1; class `ask` has a mean distance of 3.
    assert columns["static"]["mistake_distance"] == [4.0, 1.0]
    assert columns["static"]["expected_mistake_distance"] == [3.0, 3.0]
    # A run that is missing, and one without a mistake.
    assert columns["adaptive"]["mistake_distance"] == [3.0, None]
    assert columns["ce"]["mistake_distance"] == [None, 1.0]
    assert build_comparison(runs[::-1], **WHERE)["objectives"] == columns


def test_a_static_matrix_that_tells_no_pairs_apart_is_passed_over():
    runs = [
        run_of_three("static", 0, mistakes(1, 1), matrix=FLAT),
        run_of_three("static", 1, mistakes(1, 1), matrix=OTHER),
    ]
    assert build_comparison(runs, **WHERE)["severity_matrix"] == "the matrix of static, seed 1"


def test_without_static_the_mistakes_of_all_runs_make_the_matrix():
    runs = [
        run_of_three("ce", 0, mistakes(4, 0)),
        run_of_three("contrastive", 0, mistakes(0, 2), matrix=FLAT),
        run_of_three("adaptive", 0, mistakes(1, 1), matrix=OTHER),
    ]
    comparison = build_comparison(runs, **WHERE)
    assert comparison["severity_matrix"] == "a matrix from the confusions of all these runs"
    # Together ask was taken for tell 5 times and for order 3 times of 38: distances 5 and 1 + 4 * 3 / 5 = 3.4.
    distances = {name: columns["mistake_distance"] for name, columns in comparison["objectives"].items()}
    assert distances == {"ce": [5.0], "contrastive": [pytest.approx(3.4)], "adaptive": [pytest.approx(4.2)]}


def test_where_no_matrix_tells_pairs_apart_mistakes_have_no_distance():
    comparison = build_comparison([run("ce", 0, 0.8), run("adaptive", 0, 0.9)], **WHERE)
    assert comparison["severity_matrix"] is None
    assert comparison["objectives"]["ce"]["mistake_distance"] == [None]


def test_neighbours_stand_by_seed_and_are_absent_where_they_were_not_measured():
    runs = [
        run_of_three("ce", 0, mistakes(1, 0), precision=0.25),
        run_of_three("ce", 2, mistakes(1, 0), precision=0.75),
        # A run of an earlier version.
        run_of_three("static", 1, mistakes(1, 0), matrix=STATIC, precision=None),
    ]
    comparison = build_comparison(runs, **WHERE)
    for name in METRICS:
        assert comparison["objectives"]["ce"][name] == [0.25, None, 0.75]
        assert comparison["objectives"]["static"][name] == [None, None, None]
    assert comparison["objectives"]["static"]["mistake_distance"] == [None, 5.0, None]
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison
