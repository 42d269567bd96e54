"""Temperature scaling: its laws, SciPy's minimizer as a reference, and bins counted by loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from labeldist.evaluation import (
    calibrate,
    decide,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from strategies import brief, label_vectors, matrices, refusal_of, thorough


@st.composite
def predictions(draw, *, min_rows=1):
    """Probabilities of any sharpness, and labels."""
    num_rows, num_classes = draw(st.integers(min_rows, 8)), draw(st.integers(1, 5))
    logits = draw(matrices(num_rows, num_classes, st.integers(-6, 6).map(float)))
    sharpness = draw(st.sampled_from([0.1, 1.0, 10.0]))
    return (sharpness * logits.double()).softmax(dim=1), draw(label_vectors(num_rows, num_classes))


temperatures = st.sampled_from([0.02, 0.5, 1.0, 1.7, 30.0])


@thorough
@given(predictions(), temperatures)
def test_the_most_probable_class_stays_the_most_probable(case, temperature):
    probabilities, _ = case
    found = calibrate(probabilities, temperature)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found), dtype=found.dtype))
    best = probabilities.argmax(dim=1, keepdim=True)
    assert torch.equal(found.gather(1, best)[:, 0], found.amax(dim=1))
    # So does the order of all classes.
    ascending = found.gather(1, probabilities.argsort(dim=1))
    assert bool((ascending.diff(dim=1) >= -1e-15).all())


@brief
@given(predictions(), temperatures, temperatures)
def test_temperatures_multiply_and_one_changes_nothing(case, first, second):
    probabilities, _ = case
    torch.testing.assert_close(calibrate(probabilities, 1.0), probabilities)
    assume(probabilities.min() > 1e-6)
    twice = calibrate(calibrate(probabilities, first).clamp_min(1e-300), second)
    assume(calibrate(probabilities, first).min() > 1e-250)
    torch.testing.assert_close(twice, calibrate(probabilities, first * second), rtol=1e-6, atol=1e-12)


@thorough
@given(predictions())
def test_the_fitted_rows_are_never_less_likely_than_before(case):
    probabilities, labels = case
    temperature = fit_temperature(probabilities, labels)
    assert 0.01 <= temperature <= 100
    before, after = (negative_log_likelihood(probabilities, labels, temperature=t) for t in (1.0, temperature))
    assert after <= before
    # No other temperature is better, but where the rows do not say.
    if temperature != 1.0:
        for factor in (0.9, 1.1):
            other = min(max(temperature * factor, 0.01), 100)
            assert after <= negative_log_likelihood(probabilities, labels, temperature=other) + 1e-9


def test_the_temperature_is_that_of_scipy():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 7))
    labels = np.array([generator.choice(7, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    probabilities = torch.tensor(3 * logits).softmax(dim=1)

    def loss(temperature: float) -> float:
        scaled = 3 * logits / temperature
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(500), labels]))

    wanted: Any = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-9})
    found = fit_temperature(probabilities, labels)
    assert found == pytest.approx(wanted.x, rel=1e-4)
    # The rows were drawn at temperature 1, and the classifier is three times too sure.
    assert found == pytest.approx(3, rel=0.15)
    assert negative_log_likelihood(probabilities, labels, temperature=found) == pytest.approx(wanted.fun)
    assert expected_calibration_error(calibrate(probabilities, found), labels) < (
        expected_calibration_error(probabilities, labels) / 3
    )


@brief
@given(predictions(), st.sampled_from([1, 3, 15]))
def test_the_calibration_error_is_that_of_loops(case, num_bins):
    probabilities, labels = case
    total = 0.0
    for m in range(num_bins):
        rows = []
        for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
            confidence = max(row)
            if min(max(math.ceil(confidence * num_bins), 1), num_bins) - 1 == m:
                rows.append((confidence, row.index(confidence) == label))
        if rows:
            accuracy, confidence = np.mean([right for _, right in rows]), np.mean([value for value, _ in rows])
            total += len(rows) / len(labels) * abs(accuracy - confidence)
    assert expected_calibration_error(probabilities, labels, num_bins=num_bins) == pytest.approx(total)


def test_a_decision_by_cost_follows_the_calibrated_probabilities():
    sure = [[0.95, 0.05]]
    costs = [[0, 1], [5, 0]]
    assert decide(sure, costs).tolist() == [0]
    assert decide(calibrate(sure, 4.0), costs).tolist() == [1]


def test_where_the_rows_do_not_say_the_temperature_is_one():
    assert fit_temperature([[0.6, 0.4], [0.1, 0.9]], [0, 1]) == 1.0
    assert fit_temperature(torch.zeros(0, 2), []) == 1.0
    assert fit_temperature([[1.0]], [0]) == 1.0
    # Wrong throughout: the flatter the better.
    assert fit_temperature([[0.9, 0.1]], [1]) == pytest.approx(100, rel=1e-6)


def test_probabilities_of_zero_stay_and_give_a_finite_likelihood():
    probabilities = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    found = calibrate(probabilities, 3.0)
    assert found.tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert found.dtype == torch.float32
    assert math.isfinite(negative_log_likelihood(probabilities, [1, 0]))
    assert math.isfinite(fit_temperature(probabilities, [1, 0]))


def test_without_rows_nothing_is_measured():
    assert math.isnan(negative_log_likelihood(torch.zeros(0, 3), []))
    assert math.isnan(expected_calibration_error(torch.zeros(0, 3), []))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibrate([[0.5, 0.5]], 0.0), "temperature must be a finite number above 0, got 0.0."),
        (lambda: calibrate([[3.0, 1.0]], 1.0), "Apply a softmax to logits."),
        (lambda: fit_temperature([[0.5, 0.5]], [2]), "labels must lie in [0, 2)"),
        (lambda: fit_temperature([[0.5, 0.5]], [0, 1]), "labels must have shape (1,), got (2,)."),
        (lambda: expected_calibration_error([[0.5, 0.5]], [0], num_bins=0), "num_bins must be at least 1, got 0."),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    assert message in refusal_of(ValueError, call)
