"""The temperature of a finished run, fitted on its validation rows, and what it does on its test rows."""

from numpy.typing import ArrayLike
from torch import Tensor

from labeldist.evaluation import (
    calibrate,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from labeldist.training.records import CalibrationScores

__all__ = ["calibration_of"]


def calibration_of(
    validation: Tensor, validation_labels: ArrayLike, test: Tensor, test_labels: ArrayLike
) -> CalibrationScores:
    """Fit a temperature on validation rows and measure test rows before and after.

    Validation rows also decide when training stops, so they are not quite as new to the model as test rows.

    Args:
        validation: probabilities of the finished model, `(V, C)`.
        validation_labels: class indices, `(V,)`.
        test: probabilities, `(N, C)`.
        test_labels: class indices, `(N,)`.

    Examples:
        >>> import torch
        >>> sure = torch.tensor([[0.99, 0.01]] * 4)
        >>> scores = calibration_of(sure, [0, 0, 0, 1], sure, [0, 0, 1, 0])
        >>> round(scores.temperature, 2), round(scores.error, 2), round(scores.calibrated_error, 2)
        (4.18, 0.24, 0.0)
    """
    temperature = fit_temperature(validation, validation_labels)
    calibrated = calibrate(test, temperature)
    return CalibrationScores(
        temperature=temperature,
        num_rows=len(validation),
        error=expected_calibration_error(test, test_labels),
        calibrated_error=expected_calibration_error(calibrated, test_labels),
        negative_log_likelihood=negative_log_likelihood(test, test_labels),
        calibrated_negative_log_likelihood=negative_log_likelihood(test, test_labels, temperature=temperature),
    )
