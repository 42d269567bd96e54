"""Metrics of predictions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from labeldist.evaluation import mistake_severity
from labeldist.training.metrics import evaluate_predictions, severity_under, shorten
from labeldist.training.records import (
    ClassScores,
    Confusion,
    EmbeddingScores,
    PredictionMetrics,
    Severity,
    record_from_json,
    record_to_json,
)

NAMES = ["ask", "tell", "order"]
# Rows: true class, predicted class; the probability of the predicted class rises with the row number
TRUE = np.array([0, 0, 0, 1, 1, 0])
PREDICTED = np.array([0, 1, 1, 1, 0, 1])
TEXTS = [f"text {row}" for row in range(6)]


def probabilities(predicted, num_classes=3):
    top = 0.5 + 0.05 * np.arange(len(predicted))
    scores = np.repeat(((1 - top) / (num_classes - 1))[:, None], num_classes, axis=1)
    scores[np.arange(len(predicted)), predicted] = top
    return scores


@pytest.fixture
def metrics():
    return evaluate_predictions(TRUE, probabilities(PREDICTED), NAMES, TEXTS)


def test_accuracy_and_macro_f1_of_a_worked_example(metrics):
    # ask: 1 of 4 found, 1 of 2 predicted right: F1 = 2 * 1/4 * 1/2 / (3/4) = 1/3
    # tell: 1 of 2 found, 1 of 4 predicted right: F1 = 1/3; order does not occur and is left out
    assert metrics.accuracy == pytest.approx(2 / 6)
    assert metrics.macro_f1 == pytest.approx(1 / 3)
    assert metrics.confusion_matrix().tolist() == [[1, 3, 0], [1, 1, 0], [0, 0, 0]]


def test_a_class_without_rows_has_f1_zero(metrics):
    assert metrics.per_class[2] == ClassScores("order", precision=0.0, recall=0.0, f1=0.0, num_rows=0)


def test_confused_pairs_are_ordered_and_their_examples_most_confident_first(metrics):
    first, second = metrics.confused_pairs
    assert (first.true, first.predicted, first.num_rows, first.rate) == ("ask", "tell", 3, 0.75)
    assert (second.true, second.predicted, second.num_rows, second.rate) == ("tell", "ask", 1, 0.5)
    assert [example.text for example in first.examples] == ["text 5", "text 2", "text 1"]
    assert first.examples[0].probability == pytest.approx(0.75)


def through_json(metrics):
    stored = json.loads(json.dumps(record_to_json(metrics), allow_nan=False))
    return record_from_json(PredictionMetrics, stored, source="metrics.json")


def test_metrics_survive_a_round_trip_through_json(metrics):
    assert through_json(metrics) == metrics


def test_neighbors_and_mistakes_are_measured_where_vectors_and_a_matrix_are_given(metrics):
    assert (metrics.embeddings, metrics.mistake_severity) == (None, None)
    # ask taken for tell three times (distance 5), tell for ask once (2); row means of ask and tell: 3 and 1.5.
    matrix = [[1, 5, 1], [2, 1, 1], [1, 1, 1]]
    vectors = np.eye(3, dtype=np.float32)[TRUE]
    full = evaluate_predictions(TRUE, probabilities(PREDICTED), NAMES, TEXTS, vectors=vectors, matrix=matrix)
    assert full.embeddings == EmbeddingScores(1.0, 1.0, 1.0)
    assert full.mistake_severity == Severity(mean_distance=4.25, expected_distance=2.625, num_mistakes=4)
    assert replace(full, embeddings=None, mistake_severity=None) == metrics


def test_neighbors_are_searched_among_a_part_of_very_many_rows(monkeypatch):
    monkeypatch.setattr("labeldist.training.metrics.MAX_NEIGHBOR_ROWS", 20)
    seen = []

    def watched(vectors, labels):
        seen.append((vectors.tolist(), labels.tolist()))
        return dict.fromkeys(("precision_at_1", "r_precision", "mean_average_precision_at_r"), 1.0)

    monkeypatch.setattr("labeldist.training.metrics.embedding_metrics", watched)
    true = np.arange(50) % 3
    rows = np.stack([true, np.arange(50)], axis=1).astype(np.float32)
    for _ in range(2):
        evaluate_predictions(true, np.eye(3)[true], NAMES, ["x"] * 50, vectors=rows)
    evaluate_predictions(true[:20], np.eye(3)[true[:20]], NAMES, ["x"] * 20, vectors=rows[:20])
    assert seen[0] == seen[1]
    vectors, labels = seen[0]
    assert len({row for _, row in vectors}) == 20
    assert [label for label, _ in vectors] == labels
    assert seen[2] == (rows[:20].tolist(), true[:20].tolist())


def test_what_cannot_be_measured_is_null():
    matrix = [[1, 5, 1], [5, 1, 1], [1, 1, 1]]
    metrics = evaluate_predictions([0, 1], np.eye(3)[:2], NAMES, ["x", "y"], vectors=np.eye(2), matrix=matrix)
    assert metrics.embeddings == EmbeddingScores(None, None, None)
    assert metrics.mistake_severity == Severity(None, None, num_mistakes=0)
    assert through_json(metrics) == metrics


@pytest.mark.parametrize("matrix", [None, [[1]], [[1, 5], [5, 1]], [[1, 2, 2], [2, 9, 2], [2, 2, 1]]])
def test_a_matrix_that_tells_no_pairs_apart_measures_no_mistake(matrix):
    last = len(matrix or NAMES) - 1
    assert severity_under(Confusion((0, last), (last, 0), (3, 2)), matrix) is None


def test_severity_is_the_same_for_many_classes():
    rng = np.random.default_rng(0)
    cells = np.unique(rng.integers(0, 1200, (500, 2)), axis=0)
    confusion = Confusion(*map(tuple, cells.T.tolist()), num_rows=tuple(rng.integers(1, 9, len(cells)).tolist()))
    matrix = 1 + 4 * rng.random((1200, 1200))
    found = severity_under(confusion, matrix)
    assert found is not None
    expected = mistake_severity(torch.from_numpy(confusion.matrix(1200)), torch.from_numpy(matrix))
    assert (found.mean_distance, found.expected_distance) == pytest.approx(expected[:2], rel=1e-6)
    assert found.num_mistakes == expected.num_mistakes


def test_at_most_ten_pairs_with_three_examples_each():
    true, predicted = np.divmod(np.repeat(np.arange(25), 5), 5)
    names = list("abcde")
    pairs = evaluate_predictions(true, probabilities(predicted % 5, 5) / 2, names, ["x"] * 125).confused_pairs
    assert len(pairs) == 10
    assert all(len(pair.examples) == 3 for pair in pairs)


def test_a_perfect_model_confuses_nothing():
    metrics = evaluate_predictions([0, 1], np.eye(2), ["a", "b"], ["x", "y"])
    assert (metrics.accuracy, metrics.macro_f1, metrics.confused_pairs) == (1.0, 1.0, ())


def test_shorten_cuts_at_200_characters_and_joins_lines():
    assert len(shorten("word " * 100)) <= 200
    assert shorten("word " * 100).endswith("…")
    assert shorten("a\n\tb") == "a b"


@pytest.mark.parametrize(
    ("labels", "scores", "texts", "message"),
    [
        ([], np.empty((0, 3)), [], "at least one row"),
        ([0], np.ones((1, 2)), ["x"], r"probabilities must have shape \(N, C\) = \(1, 3\), got \(1, 2\)"),
        ([0, 1], np.ones((1, 3)), ["x"], "labels must have shape"),
        ([3], np.ones((1, 3)), ["x"], r"labels must lie in \[0, 3\)"),
        ([0], np.full((1, 3), np.nan), ["x"], "finite"),
    ],
)
def test_what_disagrees_is_refused(labels, scores, texts, message):
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(labels, scores, NAMES, texts)


def test_confusion_has_a_cell_for_each_pair_of_classes_that_occurs(metrics):
    assert metrics.confusion.true == (0, 0, 1, 1)
    assert metrics.confusion.predicted == (0, 1, 0, 1)
    assert metrics.confusion.num_rows == (1, 3, 1, 1)
    assert sum(metrics.confusion.num_rows) == metrics.num_rows
