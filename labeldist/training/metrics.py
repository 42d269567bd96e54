"""Metrics of predictions: how often they are right, which classes they confuse, and how the embedding groups rows."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import precision_recall_fscore_support

from labeldist.evaluation import (
    decide,
    embedding_metrics,
    expected_cost,
    graded_ndcg,
    group_accuracy,
    group_mean_average_precision,
    mean_absolute_error,
    mistake_severity,
    posterior_median,
    quadratic_weighted_kappa,
)
from labeldist.training.records import (
    ClassScores,
    Confusion,
    CostedMetrics,
    DecisionCosts,
    DirectedPair,
    EmbeddingScores,
    Example,
    PredictionMetrics,
    RelationScores,
    Severity,
)
from labeldist.training.relations import MeasureTables

__all__ = ["evaluate_predictions", "severity_under", "shorten", "tells_pairs_apart", "with_costs", "with_relation"]

NUM_CONFUSED_PAIRS = 10
NUM_EXAMPLES = 3
EXAMPLE_CHARACTERS = 200
# Every row is compared with every other: ten times the rows take a hundred times as long.
MAX_NEIGHBOR_ROWS = 10_000
# With more classes, confusion counts as a matrix take many times the memory of their cells.
MAX_DENSE_CLASSES = 1_000


def evaluate_predictions(
    labels: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    texts: Sequence[str],
    *,
    vectors: ArrayLike | None = None,
    matrix: ArrayLike | None = None,
) -> PredictionMetrics:
    """Accuracy, F1 and confusions of one set of predictions.

    The predicted class is the most probable one. Macro-F1 is the mean over the classes that occur in `labels`: a class
    without a row there has F1 0 in `per_class`, and is left out of the mean.

    Args:
        labels: true class indices, `(N,)`, values in `[0, C)`, N >= 1.
        probabilities: predicted probabilities, `(N, C)`, finite.
        class_names: name of each class, C of them.
        texts: the N texts, for the examples.
        vectors: a vector of each text, `(N, D)`, finite, for `embeddings`: each row is compared with all others, of at
            most 10,000 rows, drawn by a fixed seed.
        matrix: label distances, `(C, C)`, for `mistake_severity`: see `severity_under`.

    Returns:
        The metrics. `confused_pairs` has at most 10 ordered pairs, the most frequent first, each with up to 3 of its
        most confidently wrong texts, shortened to 200 characters.

    Raises:
        ValueError: if the sizes disagree, there is no row, a label is out of range or a probability is not finite.

    Examples:
        >>> probabilities = [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]
        >>> metrics = evaluate_predictions([0, 1, 1], probabilities, ["ask", "tell"], ["a", "b", "c"])
        >>> round(metrics.accuracy, 3), metrics.confusion_matrix().tolist()
        (0.667, [[1, 0], [1, 1]])
        >>> metrics.confused_pairs[0].examples
        (Example(text='c', probability=0.7),)
    """
    true, scores = _checked(labels, probabilities, class_names, texts)
    num_classes = len(class_names)
    predicted = scores.argmax(axis=1)
    # scikit-learn's annotations know neither the number 0 here nor that all four results are arrays of length C.
    columns = precision_recall_fscore_support(
        true,
        predicted,
        labels=list(range(num_classes)),
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    precision, recall, f1, support = (np.asarray(column).tolist() for column in columns)
    confusion = _confusion(true, predicted, num_classes)
    return PredictionMetrics(
        accuracy=float((true == predicted).mean()),
        macro_f1=float(np.mean([score for score, rows in zip(f1, support, strict=True) if rows])),
        num_rows=len(true),
        embeddings=_embeddings(vectors, true),
        mistake_severity=None if matrix is None else severity_under(confusion, matrix),
        class_names=tuple(class_names),
        per_class=tuple(
            ClassScores(*scores_of_class)
            for scores_of_class in zip(class_names, precision, recall, f1, map(int, support), strict=True)
        ),
        confused_pairs=_confused_pairs(true, predicted, scores, confusion, class_names, texts),
        confusion=confusion,
    )


def with_costs(
    metrics: PredictionMetrics, labels: ArrayLike, probabilities: ArrayLike, costs: ArrayLike
) -> CostedMetrics:
    """Add what the decisions cost, for the most probable class and for the class of least expected cost.

    Args:
        metrics: of these predictions.
        labels: true class indices, `(N,)`.
        probabilities: predicted probabilities, `(N, C)`.
        costs: `(C, C)`, non-negative, row = true class, column = decided class.

    Examples:
        >>> labels, probabilities = [0, 1], [[0.9, 0.1], [0.6, 0.4]]
        >>> metrics = evaluate_predictions(labels, probabilities, ["mail", "fraud"], ["a", "b"])
        >>> with_costs(metrics, labels, probabilities, [[0, 1], [5, 0]]).costs
        DecisionCosts(most_probable=2.5, least_expected=0.0, least_expected_accuracy=1.0)
    """
    true, scores, table = (torch.as_tensor(values) for values in (labels, probabilities, costs))
    decided = decide(scores, table)
    found = DecisionCosts(
        most_probable=expected_cost(true, scores.argmax(dim=1), table),
        least_expected=expected_cost(true, decided, table),
        least_expected_accuracy=(decided == true).double().mean().item(),
    )
    return CostedMetrics(**{one.name: getattr(metrics, one.name) for one in fields(metrics)}, costs=found)


def with_relation(
    metrics: PredictionMetrics,
    labels: ArrayLike,
    probabilities: ArrayLike,
    tables: MeasureTables | None,
    *,
    vectors: ArrayLike | None = None,
) -> PredictionMetrics:
    """Add what an order, costs or a relation of the classes measure.

    Args:
        metrics: of these predictions.
        labels: true class indices, `(N,)`.
        probabilities: predicted probabilities, `(N, C)`.
        tables: what is known of the classes; the metrics are returned as they are if `None`.
        vectors: a vector of each text, `(N, D)`; of at most 10,000 rows, as in `evaluate_predictions`.

    Examples:
        >>> labels, probabilities = [0, 2], [[0.5, 0.2, 0.3], [0.4, 0.3, 0.3]]
        >>> metrics = evaluate_predictions(labels, probabilities, ["bad", "fair", "good"], ["a", "b"])
        >>> scores = with_relation(metrics, labels, probabilities, MeasureTables(rank=torch.arange(3))).relation
        >>> scores.mean_absolute_error, scores.median_absolute_error
        (1.0, 0.5)
    """
    if tables is None:
        return metrics
    true, scores = torch.as_tensor(np.asarray(labels)).long(), torch.as_tensor(np.asarray(probabilities))
    predicted = scores.argmax(dim=1)
    found: dict[str, float] = {}
    if tables.rank is not None:
        rank, order = tables.rank, tables.rank.argsort()
        found["mean_absolute_error"] = mean_absolute_error(rank[true], rank[predicted])
        found["median_absolute_error"] = mean_absolute_error(rank[true], posterior_median(scores[:, order]))
        found["quadratic_weighted_kappa"] = quadratic_weighted_kappa(rank[true], rank[predicted], len(rank))
    if tables.costs is not None:
        found["expected_cost"] = expected_cost(true, predicted, tables.costs)
        found["least_expected_cost"] = expected_cost(true, decide(scores, tables.costs), tables.costs)
    if tables.groups is not None:
        found["group_accuracy"] = group_accuracy(true, predicted, tables.groups)
    if vectors is not None:
        rows, classes = _sampled(np.asarray(vectors), true.numpy())
        if tables.gains is not None:
            found["graded_ndcg"] = graded_ndcg(rows, classes, tables.gains)
        if tables.groups is not None:
            found["group_mean_average_precision"] = group_mean_average_precision(rows, classes, tables.groups)
    return replace(metrics, relation=RelationScores(**{name: _none_for_nan(value) for name, value in found.items()}))


def _checked(
    labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str], texts: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    true, scores = np.asarray(labels), np.asarray(probabilities)
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    num_rows, num_classes = len(texts), len(class_names)
    if num_rows == 0:
        raise ValueError("texts must hold at least one row, got none. Metrics of no prediction are undefined.")
    if scores.shape != (num_rows, num_classes):
        raise ValueError(
            f"probabilities must have shape (N, C) = ({num_rows}, {num_classes}), got {scores.shape}. "
            "Pass one row for each text and one column for each class name."
        )
    if true.shape != (num_rows,):
        raise ValueError(
            f"labels must have shape (N,) = ({num_rows},), got {true.shape}. Pass one label for each text."
        )
    if not np.isfinite(scores).all():
        raise ValueError("probabilities must be finite, got NaN or infinity.")
    if true.min() < 0 or true.max() >= num_classes:
        raise ValueError(f"labels must lie in [0, {num_classes}), got values from {true.min()} to {true.max()}.")
    return true.astype(np.int64), scores


def _confusion(true: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> Confusion:
    # By cell rather than as a matrix: with many classes nearly all cells are zero.
    cells, num_rows = np.unique(true * num_classes + predicted, return_counts=True)
    return Confusion(*(tuple(column.tolist()) for column in (cells // num_classes, cells % num_classes, num_rows)))


def _embeddings(vectors: ArrayLike | None, true: NDArray[np.int64]) -> EmbeddingScores | None:
    if vectors is None:
        return None
    rows, true = _sampled(np.asarray(vectors), true)
    found = embedding_metrics(torch.as_tensor(rows), torch.as_tensor(true))
    return EmbeddingScores(**{name: _none_for_nan(value) for name, value in found.items()})


def _sampled(rows: NDArray, labels: NDArray[np.int64]) -> tuple[NDArray, NDArray[np.int64]]:
    """The rows whose neighbors are searched: all, or some that a fixed seed draws."""
    if len(rows) <= MAX_NEIGHBOR_ROWS:
        return rows, labels
    kept = np.sort(np.random.default_rng(0).choice(len(rows), MAX_NEIGHBOR_ROWS, replace=False))
    return rows[kept], labels[kept]


def severity_under(confusion: Confusion, matrix: ArrayLike | None) -> Severity | None:
    """`labeldist.evaluation.mistake_severity` as a record, with None for its NaN.

    Args:
        confusion: counts by true and predicted class.
        matrix: label distances, `(C, C)`.

    Returns:
        The severity; None without a matrix, and under one whose distances between different classes are all equal:
        there every mistake is as far as any other.

    Examples:
        >>> confusion = Confusion((0, 0, 1), (0, 1, 2), (7, 2, 1))
        >>> severity_under(confusion, [[1, 5, 1], [5, 1, 1], [1, 1, 1]])
        Severity(mean_distance=3.6666666666666665, expected_distance=3.0, num_mistakes=3)
        >>> severity_under(confusion, [[1, 5, 5], [5, 1, 5], [5, 5, 1]])
    """
    if matrix is None or not tells_pairs_apart(matrix):
        return None
    distances = np.asarray(matrix)
    if len(distances) > MAX_DENSE_CLASSES:
        return _severity_of_cells(confusion, distances)
    severity = mistake_severity(torch.as_tensor(confusion.matrix(len(distances))), torch.as_tensor(distances))
    return Severity(
        mean_distance=_none_for_nan(severity.mean_distance),
        expected_distance=_none_for_nan(severity.expected_distance),
        num_mistakes=severity.num_mistakes,
    )


def _severity_of_cells(confusion: Confusion, distances: NDArray[np.floating]) -> Severity:
    """As `mistake_severity`, without another `(C, C)` array."""
    true, predicted, num_rows = (
        np.array(column, dtype=np.int64) for column in (confusion.true, confusion.predicted, confusion.num_rows)
    )
    wrong = true != predicted
    true, predicted, num_rows = true[wrong], predicted[wrong], num_rows[wrong]
    num_mistakes = int(num_rows.sum())
    if not num_mistakes:
        return Severity(None, None, 0)
    means = (distances.sum(axis=1, dtype=np.float64) - distances.diagonal()) / (len(distances) - 1)
    mean = (num_rows * distances[true, predicted].astype(np.float64)).sum() / num_mistakes
    return Severity(float(mean), float((num_rows * means[true]).sum() / num_mistakes), num_mistakes)


def tells_pairs_apart(matrix: ArrayLike) -> bool:
    """Whether some pairs of different classes are further apart than others.

    Examples:
        >>> tells_pairs_apart([[1, 5, 1], [5, 1, 1], [1, 1, 1]]), tells_pairs_apart([[0, 2], [2, 0]])
        (True, False)
    """
    distances = np.asarray(matrix)
    size = len(distances)
    if size < 2 or not any(distances.strides):
        return False
    # Without its first entry, a row of C + 1 entries ends on the diagonal: a view of all other entries, not a copy.
    others = distances.ravel()[1:].reshape(size - 1, size + 1)[:, :-1]
    return bool(others.min() < others.max())


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _confused_pairs(
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    scores: NDArray[np.floating],
    confusion: Confusion,
    class_names: Sequence[str],
    texts: Sequence[str],
) -> tuple[DirectedPair, ...]:
    support = np.bincount(true, minlength=len(class_names))
    cells = zip(confusion.true, confusion.predicted, confusion.num_rows, strict=True)
    # Cells go row by row, and sorted is stable: ties of count and rate stay in the order of the classes.
    mistakes = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: (-cell[2], support[cell[0]]))
    pairs = []
    for row, column, num_rows in mistakes[:NUM_CONFUSED_PAIRS]:
        wrong = np.flatnonzero((true == row) & (predicted == column))
        wrong = wrong[np.argsort(-scores[wrong, column], kind="stable")][:NUM_EXAMPLES]
        examples = tuple(Example(shorten(texts[int(i)]), float(scores[i, column])) for i in wrong)
        rate = float(num_rows / support[row])
        pairs.append(DirectedPair(class_names[row], class_names[column], num_rows, rate, examples))
    return tuple(pairs)


def shorten(text: str, num_characters: int = EXAMPLE_CHARACTERS) -> str:
    r"""`text` on one line, with at most `num_characters` characters; an ellipsis marks a cut.

    Examples:
        >>> shorten("a  long\n text", 7)
        'a long…'
    """
    line = " ".join(text.split())
    return line if len(line) <= num_characters else line[: num_characters - 1].rstrip() + "…"
