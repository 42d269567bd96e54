"""Measures beyond accuracy: which *pairs* of classes are confused, what mistakes cost, how embeddings group classes.

Measures of predictions take confusion counts or classes. Measures of embeddings take embeddings and labels.
"""

from labeldist.evaluation.calibration import (
    calibrate,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from labeldist.evaluation.decisions import (
    decide,
    expected_cost,
    group_accuracy,
    mean_absolute_error,
    posterior_median,
    quadratic_weighted_kappa,
)
from labeldist.evaluation.graded_retrieval import graded_ndcg, group_mean_average_precision
from labeldist.evaluation.mistakes import MistakeSeverity, mistake_severity
from labeldist.evaluation.retrieval import embedding_metrics

__all__ = [
    "MistakeSeverity",
    "calibrate",
    "decide",
    "embedding_metrics",
    "expected_calibration_error",
    "expected_cost",
    "fit_temperature",
    "graded_ndcg",
    "group_accuracy",
    "group_mean_average_precision",
    "mean_absolute_error",
    "mistake_severity",
    "negative_log_likelihood",
    "posterior_median",
    "quadratic_weighted_kappa",
]
