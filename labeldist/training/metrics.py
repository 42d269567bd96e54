"""Metrics of a model: how often it is right, which classes it takes for which, and how it groups them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from labeldist.evaluation import embedding_metrics, mistake_severity

__all__ = ["evaluate_predictions", "repaired_pairs", "severity_under", "shorten", "tells_pairs_apart"]

NUM_CONFUSED_PAIRS = 10
NUM_EXAMPLES = 3
EXAMPLE_CHARACTERS = 200
# Every row is compared with every other: ten times the rows take a hundred times as long.
MAX_NEIGHBOUR_ROWS = 10_000


def evaluate_predictions(
    labels: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    texts: Sequence[str],
    *,
    vectors: ArrayLike | None = None,
    matrix: ArrayLike | None = None,
) -> dict[str, Any]:
    """Accuracy, F1 and confusions of one set of predictions.

    The predicted class is the most probable one. Macro-F1 is the mean over the classes that occur in `labels`: a class
    without a row there has support 0 and F1 0 in `per_class`, and is left out of the mean.

    Args:
        labels: true class indices, `(N,)`, values in `[0, C)`, N >= 1.
        probabilities: predicted probabilities, `(N, C)`, finite.
        class_names: name of each class, C of them.
        texts: the N texts, for the examples.
        vectors: one vector a text, `(N, D)`, finite, for `embeddings`.
        matrix: label distances, `(C, C)`, for `mistake_severity`.

    Returns:
        A dict that `json.dump` takes:

        - `accuracy`, `macro_f1`: fractions; `num_rows`: N
        - `embeddings`: `{precision_at_1, r_precision, mean_average_precision_at_r}` of `vectors`, each row compared
          with all others (see `labeldist.evaluation.embedding_metrics`), of at most 10,000 rows, drawn by a fixed seed;
          None where no class has two rows; None in place of the dict without `vectors`
        - `mistake_severity`: see `severity_under`
        - `class_names`: list of C names
        - `per_class`: one `{class, precision, recall, f1, support}` for each class, in the order of `class_names`
        - `confused_pairs`: at most 10 ordered pairs, most frequent first, each `{true, predicted, count, rate,
          examples}`; `rate` is the share of the true class's rows; `examples` are up to 3 `{text, probability}`, the
          most confidently wrong ones, shortened to 200 characters
        - `confusion`: `(C, C)` counts as nested lists, row = true class, column = predicted class

    Raises:
        ValueError: if the sizes disagree, there is no row, a label is out of range or a probability is not finite.

    Examples:
        >>> probabilities = [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]
        >>> metrics = evaluate_predictions([0, 1, 1], probabilities, ["ask", "tell"], ["a", "b", "c"])
        >>> round(metrics["accuracy"], 3), metrics["confusion"]
        (0.667, [[1, 0], [1, 1]])
        >>> metrics["confused_pairs"][0]["examples"]
        [{'text': 'c', 'probability': 0.7}]
    """
    true, scores = _checked(labels, probabilities, class_names, texts)
    num_classes = len(class_names)
    predicted = scores.argmax(axis=1)
    every_class = list(range(num_classes))
    confusion = confusion_matrix(true, predicted, labels=every_class)
    # scikit-learn's annotations know neither the number 0 here nor that all four results are arrays of length C
    columns = precision_recall_fscore_support(
        true,
        predicted,
        labels=every_class,
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    precision, recall, f1, support = (np.asarray(column).tolist() for column in columns)
    return {
        "accuracy": float((true == predicted).mean()),
        "macro_f1": float(np.mean([score for score, rows in zip(f1, support, strict=True) if rows])),
        "num_rows": len(true),
        "embeddings": _embeddings(vectors, true),
        "mistake_severity": severity_under(confusion, matrix),
        "class_names": list(class_names),
        "per_class": [
            {
                "class": class_names[c],
                "precision": precision[c],
                "recall": recall[c],
                "f1": f1[c],
                "support": int(support[c]),
            }
            for c in every_class
        ],
        "confused_pairs": _confused_pairs(true, predicted, scores, confusion, class_names, texts),
        "confusion": confusion.tolist(),
    }


def _checked(
    labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str], texts: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    true, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
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


def _embeddings(vectors: ArrayLike | None, true: NDArray[np.int64]) -> dict[str, float | None] | None:
    if vectors is None:
        return None
    rows = np.asarray(vectors)
    if len(rows) > MAX_NEIGHBOUR_ROWS:
        kept = np.sort(np.random.default_rng(0).choice(len(rows), MAX_NEIGHBOUR_ROWS, replace=False))
        rows, true = rows[kept], true[kept]
    return _without_nan(embedding_metrics(torch.as_tensor(rows), torch.as_tensor(true)))


def severity_under(confusion: ArrayLike, matrix: ArrayLike | None) -> dict[str, Any] | None:
    """`labeldist.evaluation.mistake_severity` as a dict that `json.dump` takes, None for its NaN.

    Args:
        confusion: counts, `(C, C)`, row = true class.
        matrix: label distances, `(C, C)`.

    Returns:
        `{mean_distance, expected_distance, num_mistakes}`; None without a matrix, and under one whose distances between
        different classes are all equal: there every mistake is as far as any other.

    Examples:
        >>> severity_under([[7, 2, 1], [1, 8, 1], [0, 0, 9]], [[1, 5, 1], [5, 1, 1], [1, 1, 1]])
        {'mean_distance': 3.4, 'expected_distance': 3.0, 'num_mistakes': 5}
        >>> severity_under([[7, 3], [1, 9]], [[1, 5], [5, 1]])
    """
    if matrix is None or not tells_pairs_apart(matrix):
        return None
    severity = mistake_severity(torch.as_tensor(np.asarray(confusion)), torch.as_tensor(np.asarray(matrix)))
    return _without_nan(severity._asdict())


def tells_pairs_apart(matrix: ArrayLike) -> bool:
    """Whether some pairs of different classes are further apart than others.

    Examples:
        >>> tells_pairs_apart([[1, 5, 1], [5, 1, 1], [1, 1, 1]]), tells_pairs_apart([[0, 2], [2, 0]])
        (True, False)
    """
    distances = np.asarray(matrix)
    return len(np.unique(distances[~np.eye(len(distances), dtype=bool)])) > 1


def _without_nan(values: Mapping[str, float]) -> dict[str, Any]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _confused_pairs(
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    scores: NDArray[np.float64],
    confusion: NDArray[np.int64],
    class_names: Sequence[str],
    texts: Sequence[str],
) -> list[dict[str, Any]]:
    support = confusion.sum(axis=1)
    off_diagonal = confusion - np.diag(np.diag(confusion))
    # argwhere goes row by row, and sorted is stable: ties of count and rate stay in the order of the classes
    cells = sorted(map(tuple, np.argwhere(off_diagonal)), key=lambda cell: (-confusion[cell], support[cell[0]]))
    pairs = []
    for row, column in cells[:NUM_CONFUSED_PAIRS]:
        wrong = np.flatnonzero((true == row) & (predicted == column))
        wrong = wrong[np.argsort(-scores[wrong, column], kind="stable")][:NUM_EXAMPLES]
        pairs.append(
            {
                "true": class_names[row],
                "predicted": class_names[column],
                "count": int(confusion[row, column]),
                "rate": float(confusion[row, column] / support[row]),
                "examples": [{"text": shorten(texts[int(i)]), "probability": float(scores[i, column])} for i in wrong],
            }
        )
    return pairs


def shorten(text: str, num_characters: int = EXAMPLE_CHARACTERS) -> str:
    r"""`text` on one line, with at most `num_characters` characters; an ellipsis marks a cut.

    Examples:
        >>> shorten("a  long\n text", 7)
        'a long…'
    """
    line = " ".join(text.split())
    return line if len(line) <= num_characters else line[: num_characters - 1].rstrip() + "…"


def repaired_pairs(
    base_confusions: Sequence[ArrayLike],
    other_confusions: Sequence[ArrayLike],
    class_names: Sequence[str],
    top: int = 5,
) -> dict[str, list[dict[str, Any]]]:
    """Class pairs that one objective keeps apart better, or worse, than another.

    A pair counts both directions: rows of the first class taken for the second, and the reverse.

    Args:
        base_confusions: confusion counts of the objective compared with, one `(C, C)` for each seed.
        other_confusions: confusion counts of the objective in question, one `(C, C)` for each seed.
        class_names: name of each class, C of them.
        top: at most so many pairs in each list.

    Returns:
        `{"repaired": [...], "broken": [...]}`, largest change of the mean first; each entry is
        `{"classes": [first, second], "base": mean, "other": mean}`, means over seeds of the number of confused rows.
        Pairs without a change are in neither list.

    Raises:
        ValueError: if a list is empty or a matrix is not `(C, C)`.

    Examples:
        >>> repaired_pairs([[[9, 3], [1, 9]]], [[[9, 1], [1, 9]]], ["ask", "tell"])["repaired"]
        [{'classes': ['ask', 'tell'], 'base': 4.0, 'other': 2.0}]
    """
    base = _mean_pair_counts(base_confusions, len(class_names))
    other = _mean_pair_counts(other_confusions, len(class_names))

    def largest(gain: NDArray[np.float64]) -> list[dict[str, Any]]:
        cells = sorted(map(tuple, np.argwhere(gain > 0)), key=lambda cell: -gain[cell])
        return [
            {
                "classes": [class_names[first], class_names[second]],
                "base": float(base[first, second]),
                "other": float(other[first, second]),
            }
            for first, second in cells[:top]
        ]

    return {"repaired": largest(base - other), "broken": largest(other - base)}


def _mean_pair_counts(confusions: Sequence[ArrayLike], num_classes: int) -> NDArray[np.float64]:
    counts = [np.asarray(confusion, dtype=np.float64) for confusion in confusions]
    if not counts:
        raise ValueError("confusions must hold one matrix for each seed, got none.")
    for count in counts:
        if count.shape != (num_classes, num_classes):
            raise ValueError(f"confusions must have shape (C, C) = ({num_classes}, {num_classes}), got {count.shape}.")
    mean = np.mean(counts, axis=0)
    return np.triu(mean + mean.T, k=1)
