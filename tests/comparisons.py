"""Metrics and finished runs made by hand, shared by the tests of comparisons and of their output."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from labeldist.training.metrics import evaluate_predictions
from labeldist.training.records import EmbeddingScores, PredictionMetrics
from labeldist.training.study.comparison import build_comparison
from labeldist.training.study.results import Comparison, FinishedRun

WHERE: dict[str, Any] = {"data": "trec", "encoder": "textcnn"}


def metrics_of(
    confusion: ArrayLike,
    class_names: Sequence[str] = ("ask", "tell"),
    *,
    precision: float | None = None,
    **changes: Any,
) -> PredictionMetrics:
    """Metrics of rows that were confused so; `precision` of the embeddings; `changes` replace what was computed."""
    counts = np.asarray(confusion)
    true, predicted = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    texts = [f"text {row} " * 30 for row in range(len(true))]
    metrics = evaluate_predictions(true, np.eye(len(class_names))[predicted], class_names, texts)
    embeddings = None if precision is None else EmbeddingScores(precision, precision, precision)
    return replace(metrics, **{"embeddings": embeddings, **changes})


def finished(objective: str, seed: int, metrics: PredictionMetrics, **options: Any) -> FinishedRun:
    """A run with these metrics on the test rows."""
    return FinishedRun(objective, seed, metrics, **{"seconds": 61.0, **options})


def run_with_accuracy(objective: str, seed: int, accuracy: float, **options: Any) -> FinishedRun:
    """A run on 50 rows of either of two classes; all mistakes are rows of the first."""
    wrong = round(100 * (1 - accuracy))
    metrics = metrics_of([[50 - wrong, wrong], [0, 50]], accuracy=accuracy, macro_f1=accuracy)
    return finished(objective, seed, metrics, **options)


def compared(accuracies: Mapping[str, Sequence[float]], **options: Any) -> Comparison:
    """The comparison of objectives with these accuracies, a seed each."""
    runs = [
        run_with_accuracy(objective, seed, accuracy)
        for objective, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]
    return build_comparison(runs, **{**WHERE, **options})
