"""Decisions, their costs and graded retrieval: against loops and against scikit-learn."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, cohen_kappa_score, ndcg_score

from labeldist.evaluation import (
    decide,
    expected_cost,
    graded_ndcg,
    group_accuracy,
    group_mean_average_precision,
    mean_absolute_error,
    posterior_median,
    quadratic_weighted_kappa,
)
from labeldist.evaluation import graded_retrieval as module
from strategies import brief, label_vectors, matrices, normal, refusal_of, seeds, thorough


@st.composite
def predictions(draw, *, min_rows=1):
    """Number of classes, labels and predictions."""
    num_classes, num_rows = draw(st.integers(1, 4)), draw(st.integers(min_rows, 8))
    return num_classes, draw(label_vectors(num_rows, num_classes)), draw(label_vectors(num_rows, num_classes))


@st.composite
def probability_tables(draw):
    """`(N, C)` with rows of sum 1; equal and zero entries are common."""
    num_rows, num_classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    table = draw(matrices(num_rows, num_classes, st.integers(0, 4).map(float)))
    assume((table.sum(dim=1) > 0).all())
    return table / table.sum(dim=1, keepdim=True)


@st.composite
def costs_for(draw, num_classes):
    return draw(matrices(num_classes, num_classes, st.sampled_from([0.0, 0.5, 1.0, 7.0])))


# Decisions


@thorough
@given(st.data())
def test_the_decision_has_the_least_expected_cost(data):
    probabilities = data.draw(probability_tables())
    num_classes = probabilities.shape[1]
    costs = data.draw(costs_for(num_classes))
    for row, decided in zip(probabilities.tolist(), decide(probabilities, costs).tolist(), strict=True):
        expected = [math.fsum(row[b] * costs[b, c].item() for b in range(num_classes)) for c in range(num_classes)]
        assert expected[decided] == pytest.approx(min(expected))


@brief
@given(probability_tables())
def test_equal_costs_give_the_most_probable_class(probabilities):
    num_classes = probabilities.shape[1]
    decided = decide(probabilities, 1 - torch.eye(num_classes))
    chosen = probabilities.gather(1, decided[:, None])[:, 0]
    torch.testing.assert_close(chosen, probabilities.amax(dim=1))


@thorough
@given(probability_tables())
def test_the_median_has_the_least_expected_absolute_error(probabilities):
    num_classes = probabilities.shape[1]
    rank = torch.arange(num_classes).double()
    steps = probabilities @ (rank[:, None] - rank).abs()
    chosen = steps.gather(1, posterior_median(probabilities)[:, None])[:, 0]
    torch.testing.assert_close(chosen, steps.amin(dim=1))


def test_the_first_of_two_medians_is_taken():
    assert posterior_median([[0.5, 0.0, 0.5], [0.0, 0.4, 0.6]]).tolist() == [0, 2]


# Costs


@thorough
@given(predictions(), st.data())
def test_the_expected_cost_is_the_mean_over_the_rows(case, data):
    num_classes, labels, predicted = case
    costs = data.draw(costs_for(num_classes))
    each = [costs[a, b].item() for a, b in zip(labels.tolist(), predicted.tolist(), strict=True)]
    assert expected_cost(labels, predicted, costs) == pytest.approx(math.fsum(each) / len(each))


@thorough
@given(predictions())
def test_the_mean_absolute_error_is_an_expected_cost(case):
    num_classes, labels, predicted = case
    rank = torch.arange(num_classes)
    assert mean_absolute_error(labels, predicted) == pytest.approx(
        expected_cost(labels, predicted, (rank[:, None] - rank).abs())
    )


# scikit-learn divides by zero where all rows are of one class.
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@thorough
@given(predictions())
def test_kappa_is_that_of_scikit_learn(case):
    num_classes, labels, predicted = case
    assume(num_classes > 1)
    expected = cohen_kappa_score(
        labels.numpy(), predicted.numpy(), weights="quadratic", labels=list(range(num_classes))
    )
    assert quadratic_weighted_kappa(labels, predicted, num_classes) == pytest.approx(expected, nan_ok=True)


@thorough
@given(predictions(), st.data())
def test_the_group_accuracy_is_the_accuracy_of_the_groups(case, data):
    num_classes, labels, predicted = case
    groups = data.draw(label_vectors(num_classes, 3))
    right = [groups[a] == groups[b] for a, b in zip(labels.tolist(), predicted.tolist(), strict=True)]
    assert group_accuracy(labels, predicted, groups) == pytest.approx(sum(right) / len(right))
    assert group_accuracy(labels, predicted, [f"group {number}" for number in groups.tolist()]) == pytest.approx(
        sum(right) / len(right)
    )
    accuracy = (labels == predicted).double().mean().item()
    assert group_accuracy(labels, predicted, groups) >= accuracy
    assert group_accuracy(labels, predicted, list(range(num_classes))) == pytest.approx(accuracy)


def test_numpy_arrays_and_lists_are_taken():
    labels, predicted = np.array([0, 1, 2]), [0, 2, 2]
    assert mean_absolute_error(labels, predicted) == pytest.approx(1 / 3)
    assert expected_cost(labels, predicted, np.ones((3, 3))) == 1


def test_graded_retrieval_takes_numpy_arrays_and_lists():
    rows, labels = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), np.array([0, 1, 1])
    others: dict[str, Any] = {"ref_emb": rows.tolist(), "ref_labels": labels.tolist()}
    for references in ({}, others):
        tensors: dict[str, Any] = {name: torch.tensor(value) for name, value in references.items()}
        assert graded_ndcg(rows, labels, np.eye(2), **references) == graded_ndcg(
            torch.tensor(rows), torch.tensor(labels), torch.eye(2), **tensors
        )
        assert group_mean_average_precision(rows.tolist(), labels.tolist(), [0, 1], **references) == (
            group_mean_average_precision(torch.tensor(rows), torch.tensor(labels), [0, 1], **tensors)
        )


@pytest.mark.parametrize("none", [torch.tensor([], dtype=torch.int64), []])
def test_without_rows_nothing_is_measured(none):
    for value in (
        mean_absolute_error(none, none),
        expected_cost(none, none, [[0.0]]),
        quadratic_weighted_kappa(none, none, 2),
        group_accuracy(none, none, [0]),
    ):
        assert math.isnan(value)


# Graded retrieval


def cosines(queries, references):
    return torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(references).T


@brief
@given(seeds, st.integers(1, 12), st.integers(1, 20), st.booleans())
def test_ndcg_is_that_of_scikit_learn(seed, num_rows, k, is_self):
    generator = torch.Generator().manual_seed(seed)
    rows, others = normal(num_rows + 2, 4, seed=seed).float(), normal(9, 4, seed=seed + 1).float()
    labels, ref_labels = (torch.randint(4, (count,), generator=generator) for count in (num_rows + 2, 9))
    gains = torch.tensor([[3.0, 1, 0, 0], [1, 3, 0, 0], [0, 0, 3, 0.5], [0, 0, 0.5, 3]])
    references = {} if is_self else {"ref_emb": others, "ref_labels": ref_labels}
    expected = []
    for i, row in enumerate(rows):
        similarity = cosines(row[None], rows if is_self else others)[0]
        gain = gains[labels[i], labels if is_self else ref_labels]
        if is_self:
            keep = torch.arange(len(rows)) != i
            similarity, gain = similarity[keep], gain[keep]
        if gain.sum() > 0 and len(gain) > 1:
            expected.append(ndcg_score(gain[None].numpy(), similarity[None].numpy(), k=k))
    found = graded_ndcg(rows, labels, gains, k=k, **references)
    assert found == pytest.approx(np.mean(expected) if expected else math.nan, nan_ok=True, abs=1e-5)


@brief
@given(seeds, st.integers(3, 14), st.booleans())
def test_group_precision_is_that_of_scikit_learn(seed, num_rows, is_self):
    generator = torch.Generator().manual_seed(seed)
    rows, others = normal(num_rows, 4, seed=seed).float(), normal(9, 4, seed=seed + 1).float()
    labels, ref_labels = (torch.randint(5, (count,), generator=generator) for count in (num_rows, 9))
    groups = torch.tensor([7, 7, 3, 3, 1])
    references = {} if is_self else {"ref_emb": others, "ref_labels": ref_labels}
    expected = []
    for i, row in enumerate(rows):
        similarity = cosines(row[None], rows if is_self else others)[0]
        relevant = groups[labels[i]] == groups[labels if is_self else ref_labels]
        if is_self:
            keep = torch.arange(len(rows)) != i
            similarity, relevant = similarity[keep], relevant[keep]
        if relevant.any():
            expected.append(average_precision_score(relevant.numpy(), similarity.numpy()))
    found = group_mean_average_precision(rows, labels, groups, **references)
    assert found == pytest.approx(np.mean(expected) if expected else math.nan, nan_ok=True, abs=1e-5)


def test_blocks_of_queries_change_nothing(monkeypatch):
    rows, labels = normal(23, 5).float(), torch.arange(23) % 4
    arguments = rows, labels, torch.eye(4)
    whole = graded_ndcg(*arguments), group_mean_average_precision(rows, labels, [0, 0, 1, 1])
    monkeypatch.setattr(module, "BLOCK_ROWS", 5)
    parts = graded_ndcg(*arguments), group_mean_average_precision(rows, labels, [0, 0, 1, 1])
    assert parts == pytest.approx(whole)


# What is refused


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: decide([[1.2, 0.4]], torch.ones(2, 2)), ValueError, "non-negative and sum to 1 in each row"),
        (lambda: decide([[3.0, -2.0]], torch.ones(2, 2)), ValueError, "Apply a softmax to logits."),
        (
            lambda: decide([1.0], [[1]]),
            ValueError,
            "must be floating point, (N, C), got torch.float32 (1,)",
        ),
        (lambda: decide([[1.0, 0.0]], torch.ones(3, 3)), ValueError, "costs must have shape (C, C) = (2, 2) for"),
        (lambda: decide([[1.0]], [[-1.0]]), ValueError, "Entries of costs must be finite and non-negative, got -1.0"),
        (lambda: posterior_median([[0.0, 0.0]]), ValueError, "sum to 1 in each row"),
        (lambda: expected_cost([0], [2], torch.ones(2, 2)), ValueError, "predictions must lie in [0, 2)"),
        (lambda: expected_cost([0], [0], torch.ones(2, 3)), ValueError, "costs must have shape (C, C)"),
        (lambda: mean_absolute_error([0, 1], [0]), ValueError, "predictions must have shape (2,), got (1,)."),
        (lambda: mean_absolute_error([0.5], [0]), TypeError, "labels must be integers"),
        (lambda: quadratic_weighted_kappa([3], [0], 3), ValueError, "labels must lie in [0, 3)"),
        (lambda: group_accuracy([3], [0], [0, 1]), ValueError, "labels must lie in [0, 2)"),
        (
            lambda: graded_ndcg(torch.ones(2, 3), torch.tensor([0, 1]), torch.ones(1, 1)),
            ValueError,
            "must lie in [0, 1)",
        ),
        (lambda: graded_ndcg(torch.ones(1, 3), torch.tensor([0]), [[1.0]], k=0), ValueError, "k must be at least 1"),
        (lambda: graded_ndcg(torch.ones(1, 3), torch.tensor([0]), [[-1.0]]), ValueError, "Entries of gains must be"),
        (
            lambda: graded_ndcg(torch.full((1, 3), math.nan), torch.tensor([0]), [[1.0]]),
            ValueError,
            "embeddings must be finite",
        ),
        (
            lambda: group_mean_average_precision(torch.ones(1, 3), torch.tensor([0]), [0], ref_emb=torch.ones(1, 3)),
            ValueError,
            "ref_emb and ref_labels go together",
        ),
    ],
)
def test_bad_input_gets_one_sentence(call, error, message):
    assert message in refusal_of(error, call)
