import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labeldist.training.study.statistics import (
    REQUIRED_CONTROLS,
    PairedDifference,
    holm,
    num_seeds_needed,
    paired_difference,
    points,
    verdict,
)

WHERE: dict[str, Any] = {"data": "trec", "encoder": "textcnn"}


def difference(mean, half_width, p_value, num_pairs=3, spread=0.01):
    return PairedDifference(mean, mean - half_width, mean + half_width, p_value, num_pairs, spread)


def test_paired_difference_of_a_worked_example():
    # differences 1, 2, 3 points: mean 2, deviation 1, error 1 / sqrt(3); t(0.975, 2) = 4.302653
    result = paired_difference([0.81, 0.82, 0.83], [0.80, 0.80, 0.80])
    assert (result.mean, result.spread, result.num_pairs) == (pytest.approx(0.02), pytest.approx(0.01), 3)
    assert result.high == pytest.approx(0.02 + 4.302653 * 0.01 / math.sqrt(3), abs=1e-8)
    assert result.low == pytest.approx(0.02 - 4.302653 * 0.01 / math.sqrt(3), abs=1e-8)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_paired_difference_agrees_with_scipy_and_changes_sign_with_the_order(pairs):
    a, b = zip(*pairs, strict=True)
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.mean == pytest.approx(-backward.mean, abs=1e-15)
    assert forward.spread is not None
    # nearly equal differences lose their digits in scipy, which warns
    if forward.spread > 1e-6:
        assert forward.low is not None
        assert forward.high is not None
        assert forward.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-6, abs=1e-12)
        assert forward.low <= forward.mean <= forward.high


def test_one_pair_gives_the_mean_only():
    assert paired_difference([0.75], [0.5]) == PairedDifference(0.25, None, None, None, 1, None)


def test_differences_that_are_all_zero_give_p_one():
    assert paired_difference([0.9, 0.8], [0.9, 0.8]) == PairedDifference(0.0, 0.0, 0.0, 1.0, 2, 0.0)


def test_equal_differences_cannot_be_tested():
    # in binary 0.9 - 0.8 and 0.8 - 0.7 are not the same number
    result = paired_difference([0.9, 0.8], [0.8, 0.7])
    assert result.p_value is None
    assert result.low == result.high == result.mean == pytest.approx(0.1)


@pytest.mark.parametrize(("a", "b"), [([], []), ([0.1], [0.1, 0.2]), ([math.nan], [0.1])])
def test_paired_difference_refuses_what_cannot_be_paired(a, b):
    with pytest.raises(ValueError, match="a and b must be"):
        paired_difference(a, b)


def test_holm_of_a_worked_example():
    # sorted 0.01 * 4, 0.02 * 3, 0.03 * 2 = 0.06, 0.04 raised to 0.06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_counts_an_untested_comparison():
    assert holm([0.01, None, 0.9]) == [pytest.approx(0.03), None, 1.0]


@given(st.lists(st.floats(0, 1), max_size=10))
def test_holm_never_lowers_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(q is not None and p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(corrected, dtype=float)[order]) >= 0)


def test_seeds_needed_reach_the_power_they_promise():
    spread, margin = 0.01, 0.005
    num_seeds = num_seeds_needed(spread, margin)
    assert num_seeds is not None
    critical = stats.t.ppf(0.975, num_seeds - 1)
    power = stats.nct.sf(critical, num_seeds - 1, margin / spread * math.sqrt(num_seeds))
    assert power == pytest.approx(0.8, abs=0.02)


def test_seeds_needed_grow_with_the_spread_and_stop_at_the_limit():
    assert num_seeds_needed(0.0, 0.005) == 2
    assert (num_seeds_needed(0.01, 0.005), num_seeds_needed(0.02, 0.005)) == (34, 128)
    assert num_seeds_needed(1.0, 0.005) is None
    with pytest.raises(ValueError, match="margin must be > 0"):
        num_seeds_needed(0.01, 0.0)


def test_points_have_a_sign_and_no_negative_zero():
    assert [points(x) for x in (0.003, -0.014, -0.0004)] == ["+0.3", "-1.4", "0.0"]


def against_required(one, **others):
    """The same difference to every required control, but for those named."""
    return dict.fromkeys(REQUIRED_CONTROLS, one) | others


def test_it_helps_only_if_every_control_is_beaten():
    beaten, open_ = difference(0.02, 0.01, 0.001), difference(0.01, 0.02, 0.2)
    assert verdict("adaptive", against_required(beaten), **WHERE).answer == "helps"
    assert verdict("adaptive", against_required(beaten, uniform=open_), **WHERE).answer == "cannot be told"


def test_it_helps_only_if_every_required_control_was_run():
    beaten = difference(0.02, 0.01, 0.001)
    result = verdict("adaptive", {"ce-two-views": beaten, "contrastive": beaten}, **WHERE)
    assert result.answer == "cannot be told"
    assert result.sentence.endswith("whether it helps cannot be told without uniform.")


def test_a_control_with_the_same_matrix_says_nothing():
    beaten = difference(0.02, 0.01, 0.001)
    differences = {"ce-two-views": beaten, "contrastive": beaten}
    result = verdict("static", differences, **WHERE, same_matrix=["uniform"])
    assert result.answer == "helps"
    assert result.sentence.endswith("it helps (uniform had the same matrix).")


def test_an_interval_above_zero_does_not_help_if_holm_says_chance():
    lucky = difference(0.02, 0.019, 0.04)
    certain: dict[str, float | None] = {name: 0.04 for name in REQUIRED_CONTROLS}  # noqa: C420
    assert verdict("adaptive", against_required(lucky), corrected_p=certain, **WHERE).answer == "helps"
    assert verdict("adaptive", against_required(lucky), **WHERE).answer == "cannot be told"


def test_it_does_not_help_if_some_control_rules_the_margin_out():
    result = verdict("static", {"ce": difference(0.02, 0.01, 0.001), "uniform": difference(-0.01, 0.01, 0.06)}, **WHERE)
    assert (result.answer, result.control) == ("does not help", "uniform")
    assert result.sentence == (
        "Label distance (static) on trec, textcnn: -1.0 points of accuracy over uniform (95 % interval -2.0 to 0.0, "
        "3 seeds), the hardest of 2 controls; it does not help: a gain of 0.5 points is ruled out."
    )


def test_the_control_that_rules_the_gain_out_need_not_be_the_hardest():
    result = verdict("static", {"ce": difference(-0.02, 0.04, 0.2), "uniform": difference(-0.01, 0.01, 0.06)}, **WHERE)
    assert (result.answer, result.control) == ("does not help", "uniform")
    assert "one of 2 controls" in result.sentence


def test_the_sentence_names_the_hardest_control_and_the_seeds_needed():
    result = verdict("adaptive", {"ce": difference(0.02, 0.03, 0.3), "uniform": difference(0.003, 0.011, 0.4)}, **WHERE)
    assert (result.answer, result.control, result.num_seeds_needed) == ("cannot be told", "uniform", 34)
    assert result.sentence == (
        "Label distance (adaptive) on trec, textcnn: +0.3 points of accuracy over uniform (95 % interval -0.8 to +1.4, "
        "3 seeds), the hardest of 2 controls; whether it helps cannot be told with these seeds "
        "(about 34 would tell a gain of 0.5 points)."
    )


@pytest.mark.parametrize("a", [[0.9], [0.9, 0.9], [0.7, 0.7]])
def test_what_cannot_be_tested_cannot_be_told(a):
    result = verdict("adaptive", {"ce": paired_difference(a, [0.8] * len(a))}, **WHERE)
    assert (result.answer, result.num_seeds_needed) == ("cannot be told", None)
    assert "cannot be told" in result.sentence


def test_without_a_control_nothing_can_be_told():
    result = verdict("adaptive", {}, **WHERE)
    assert (result.answer, result.control) == ("cannot be told", None)
    assert "no control" in result.sentence
