"""Paired statistics, and what they decide."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labeldist.training.study.results import PairedDifference
from labeldist.training.study.statistics import (
    REQUIRED_CONTROLS,
    decide,
    holm,
    num_seeds_needed,
    paired_difference,
)
from strategies import thorough


def difference(mean, half_width, p_value, num_pairs=3, spread=0.01):
    return PairedDifference(mean, mean - half_width, mean + half_width, p_value, num_pairs, spread)


def test_paired_difference_of_a_worked_example():
    # Differences 1, 2, 3 points: mean 2, deviation 1, error 1 / sqrt(3); t(0.975, 2) = 4.302653
    result = paired_difference([0.81, 0.82, 0.83], [0.80, 0.80, 0.80])
    assert (result.mean, result.spread, result.num_pairs) == (pytest.approx(0.02), pytest.approx(0.01), 3)
    assert result.high == pytest.approx(0.02 + 4.302653 * 0.01 / math.sqrt(3), abs=1e-8)
    assert result.low == pytest.approx(0.02 - 4.302653 * 0.01 / math.sqrt(3), abs=1e-8)


@thorough
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_paired_difference_is_students_t_of_the_differences_and_changes_sign_with_the_order(pairs):
    a, b = zip(*pairs, strict=True)
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.mean == pytest.approx(-backward.mean, abs=1e-15)
    assert forward.spread is not None
    # Nearly equal differences lose their digits.
    if forward.spread > 1e-6:
        error = forward.spread / math.sqrt(len(pairs))
        half_width = stats.t.ppf(0.975, len(pairs) - 1) * error
        assert (forward.low, forward.high) == (
            pytest.approx(forward.mean - half_width, abs=1e-12),
            pytest.approx(forward.mean + half_width, abs=1e-12),
        )
        p_value = 2 * stats.t.sf(abs(forward.mean) / error, len(pairs) - 1)
        assert forward.p_value == pytest.approx(p_value, rel=1e-6, abs=1e-12)


def test_one_pair_gives_the_mean_only():
    assert paired_difference([0.75], [0.5]) == PairedDifference(0.25, None, None, None, 1, None)


def test_differences_that_are_all_zero_give_p_one():
    assert paired_difference([0.9, 0.8], [0.9, 0.8]) == PairedDifference(0.0, 0.0, 0.0, 1.0, 2, 0.0)


def test_equal_differences_cannot_be_tested():
    # In binary 0.9 - 0.8 and 0.8 - 0.7 are not the same number
    result = paired_difference([0.9, 0.8], [0.8, 0.7])
    assert result.p_value is None
    assert result.low == result.high == result.mean == pytest.approx(0.1)


@pytest.mark.parametrize(("a", "b"), [([], []), ([0.1], [0.1, 0.2]), ([math.nan], [0.1])])
def test_paired_difference_refuses_what_cannot_be_paired(a, b):
    with pytest.raises(ValueError, match="a and b must be"):
        paired_difference(a, b)


def test_holm_of_a_worked_example():
    # Sorted 0.01 * 4, 0.02 * 3, 0.03 * 2 = 0.06, 0.04 raised to 0.06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_counts_an_untested_comparison():
    assert holm([0.01, None, 0.9]) == [pytest.approx(0.03), None, 1.0]


@thorough
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


def against_required(one, **others):
    """The same difference to every required control, but for those named."""
    return dict.fromkeys(REQUIRED_CONTROLS, one) | others


def test_the_required_controls_are_those_of_the_table_of_objectives():
    assert REQUIRED_CONTROLS == ("ce-two-views", "contrastive", "uniform")


def test_it_helps_only_if_every_control_is_beaten():
    beaten, open_ = difference(0.02, 0.01, 0.001), difference(0.01, 0.02, 0.2)
    verdict = decide("adaptive", against_required(beaten))
    assert (verdict.answer, verdict.reason) == ("helps", "beats every control")
    verdict = decide("adaptive", against_required(beaten, uniform=open_))
    assert (verdict.answer, verdict.reason) == ("inconclusive", "too few seeds")


def test_it_helps_only_if_every_required_control_was_run():
    beaten = difference(0.02, 0.01, 0.001)
    verdict = decide("adaptive", {"ce-two-views": beaten, "contrastive": beaten})
    assert (verdict.answer, verdict.reason) == ("inconclusive", "control missing")
    assert verdict.missing_controls == ("uniform",)


def test_a_control_with_the_same_matrix_says_nothing():
    beaten = difference(0.02, 0.01, 0.001)
    differences = {"ce-two-views": beaten, "contrastive": beaten}
    verdict = decide("static", differences, same_matrix=["uniform"])
    assert (verdict.answer, verdict.same_matrix, verdict.missing_controls) == ("helps", ("uniform",), ())


def test_an_interval_above_zero_does_not_help_if_holm_says_chance():
    lucky = difference(0.02, 0.019, 0.04)
    certain: dict[str, float | None] = {name: 0.04 for name in REQUIRED_CONTROLS}  # noqa: C420
    assert decide("adaptive", against_required(lucky), corrected_p=certain).answer == "helps"
    assert decide("adaptive", against_required(lucky)).answer == "inconclusive"


def test_it_does_not_help_if_some_control_rules_the_margin_out():
    uniform = difference(-0.01, 0.01, 0.06)
    verdict = decide("static", {"ce": difference(0.02, 0.01, 0.001), "uniform": uniform})
    assert (verdict.answer, verdict.reason) == ("does not help", "rules out the margin")
    assert (verdict.control, verdict.difference, verdict.is_strongest) == ("uniform", uniform, True)
    assert verdict.num_seeds_needed is None


def test_a_gain_below_the_margin_does_not_help_whatever_control_is_missing():
    # The interval lies above zero and below half a point.
    verdict = decide("static", {"ce": difference(0.002, 0.001, 0.001)})
    assert (verdict.answer, verdict.reason) == ("does not help", "rules out the margin")


def test_the_control_that_rules_the_gain_out_need_not_be_the_strongest():
    verdict = decide("static", {"ce": difference(-0.02, 0.04, 0.2), "uniform": difference(-0.01, 0.01, 0.06)})
    assert (verdict.answer, verdict.control, verdict.is_strongest) == ("does not help", "uniform", False)


def test_an_inconclusive_verdict_names_the_strongest_control_and_the_seeds_needed():
    verdict = decide("adaptive", {"ce": difference(0.02, 0.03, 0.3), "uniform": difference(0.003, 0.011, 0.4)})
    assert (verdict.answer, verdict.control, verdict.is_strongest) == ("inconclusive", "uniform", True)
    assert verdict.num_seeds_needed == 34


@pytest.mark.parametrize(
    ("a", "reason"), [([0.9], "one seed"), ([0.9, 0.9], "too few seeds"), ([0.7, 0.7], "too few seeds")]
)
def test_what_cannot_be_tested_is_inconclusive(a, reason):
    verdict = decide("adaptive", {"ce": paired_difference(a, [0.8] * len(a))})
    assert (verdict.answer, verdict.reason, verdict.num_seeds_needed) == ("inconclusive", reason, None)


def test_without_a_control_nothing_is_decided():
    verdict = decide("adaptive", {})
    assert (verdict.answer, verdict.reason, verdict.control) == ("inconclusive", "no control", None)
