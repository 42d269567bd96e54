"""Numbers and verdicts in words."""

from dataclasses import replace

import pytest

from comparisons import WHERE, compared, run_with_accuracy
from labeldist.training.output.words import (
    count,
    duration,
    objective_verdict,
    percent,
    points,
    short_duration,
    verdict_sentence,
    verdict_sentences,
)
from labeldist.training.study.comparison import build_comparison
from labeldist.training.study.results import PairedDifference
from labeldist.training.study.statistics import REQUIRED_CONTROLS, decide, paired_difference


def difference(mean, half_width, p_value, num_pairs=3, spread=0.01):
    return PairedDifference(mean, mean - half_width, mean + half_width, p_value, num_pairs, spread)


BEATEN = difference(0.02, 0.01, 0.001)


def told(differences, objective="adaptive", **options):
    return objective_verdict(decide(objective, differences, **options), 0.005)


def test_points_have_a_sign_and_no_negative_zero():
    assert [points(x) for x in (0.003, -0.014, -0.0004)] == ["+0.3", "-1.4", "0.0"]
    assert percent(0.12345) == "12.3"


def test_nouns_follow_their_number():
    assert [count(n, "row") for n in (0, 1, 2, 12345)] == ["0 rows", "1 row", "2 rows", "12,345 rows"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (3599.6, "1 h 00 min"), (7290, "2 h 02 min")],
)
def test_durations_never_show_sixty(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (99.4, "99 s"), (99.6, "1.7 min"), (599, "10 min"), (5970, "1.7 h")],
)
def test_short_durations_have_one_unit(seconds, text):
    assert short_duration(seconds) == text


def test_a_gain_is_told_with_the_control_that_decides():
    assert told(dict.fromkeys(REQUIRED_CONTROLS, BEATEN)) == (
        "+2.0 points of accuracy against ce-two-views (95 % interval +1.0 to +3.0, 3 seeds), the strongest of 3 "
        "controls; it helps"
    )


def test_no_gain_is_told_with_the_margin_that_is_ruled_out():
    assert told({"ce": BEATEN, "uniform": difference(-0.01, 0.01, 0.06)}) == (
        "-1.0 points of accuracy against uniform (95 % interval -2.0 to 0.0, 3 seeds), the strongest of 2 controls; "
        "it does not help: a gain of 0.5 points is ruled out"
    )


def test_a_control_that_is_not_the_strongest_is_one_of_them():
    text = told({"ce": difference(-0.02, 0.04, 0.2), "uniform": difference(-0.01, 0.01, 0.06)})
    assert "one of 2 controls" in text


def test_an_open_question_is_told_with_the_seeds_that_it_needs():
    assert told({"ce": difference(0.02, 0.03, 0.3), "uniform": difference(0.003, 0.011, 0.4)}) == (
        "+0.3 points of accuracy against uniform (95 % interval -0.8 to +1.4, 3 seeds), the strongest of 2 controls; "
        "inconclusive with these seeds (about 34 would detect a gain of 0.5 points)"
    )


def test_what_keeps_a_question_open_is_named():
    two = {"ce-two-views": BEATEN, "contrastive": BEATEN}
    assert told(two).endswith("; inconclusive without uniform")
    assert told({"ce": BEATEN}).endswith("; inconclusive without ce-two-views, contrastive and uniform")
    assert told({"ce": paired_difference([0.9], [0.8])}) == (
        "+10.0 points of accuracy against ce (1 seed, so no interval); inconclusive with one seed"
    )
    assert told({}) == "inconclusive, because no control was run with the same seeds"


def test_a_control_with_the_same_matrix_is_named():
    differences = {"ce-two-views": BEATEN, "contrastive": BEATEN}
    assert told(differences, "static", same_matrix=["uniform"]).endswith("; it helps; uniform had the same matrix")
    assert told({}, "static", same_matrix=["uniform"]) == (
        "inconclusive, because uniform had the same matrix and no other control was run with the same seeds"
    )


def test_one_objective_has_one_sentence():
    comparison = compared({"ce": [0.8, 0.82], "adaptive": [0.7, 0.75]})
    assert verdict_sentences(comparison) == [verdict_sentence(comparison)]
    assert verdict_sentence(comparison).startswith(
        "Label distance (adaptive) on trec, textcnn: -8.5 points of accuracy"
    )


def test_what_is_no_label_distance_is_not_called_one():
    comparison = compared({"contrastive": [0.8, 0.82], "graded": [0.7, 0.75]})
    assert verdict_sentence(comparison).startswith("The objective graded on trec, textcnn: -8.5 points of accuracy")
    runs = [run_with_accuracy(name, 0, 0.8) for name in ("contrastive", "far", "soft-labels")]
    assert verdict_sentence(build_comparison(runs, **WHERE)) == (
        "Label distance and class relations on trec, textcnn: far and soft-labels are inconclusive with these seeds."
    )


def test_objectives_with_one_answer_share_a_clause():
    runs = [run_with_accuracy(name, 0, 0.8) for name in ("ce", "static", "adaptive")]
    assert verdict_sentence(build_comparison(runs, **WHERE)) == (
        "Label distance on trec, textcnn: static and adaptive are inconclusive with these seeds."
    )


def test_objectives_with_different_answers_have_a_clause_each():
    comparison = compared(
        {"ce": [0.80, 0.82, 0.81], "static": [0.70, 0.74, 0.72], "adaptive": [0.70, 0.85, 0.80]},
    )
    assert verdict_sentence(comparison) == (
        "Label distance on trec, textcnn: static does not help; adaptive is inconclusive with these seeds."
    )
    helps = replace(comparison.verdict.objectives["static"], answer="helps")
    objectives = {**comparison.verdict.objectives, "static": helps}
    verdict = replace(comparison.verdict, objectives=objectives)
    assert "static helps; adaptive is inconclusive" in verdict_sentence(replace(comparison, verdict=verdict))


def test_without_a_label_distance_objective_the_sentence_says_so():
    no_distance = "No objective with label distance was run on trec, textcnn."
    assert verdict_sentence(compared({"ce": [0.8], "uniform": [0.81]})) == (
        f"{no_distance} uniform: +1.0 points of accuracy against ce (1 seed, so no interval)."
    )
    three = compared({"ce": [0.8, 0.7], "uniform": [0.81, 0.72], "contrastive": [0.83, 0.74]})
    assert verdict_sentence(three).startswith(
        f"{no_distance} contrastive, the best of the others: +3.5 points of accuracy against ce (95 % interval "
    )
    assert verdict_sentence(compared({"ce": [0.8, 0.9]})) == no_distance
