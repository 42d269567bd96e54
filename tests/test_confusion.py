"""Confusion counts and the most confused pairs."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from labeldist import AdaptiveLDM, ConfusedPair, StaticLDM, confusion_counts, most_confused_pairs
from labeldist.confusion import confusion_rates
from strategies import brief, confusion_matrices, refusal_of


def test_rows_are_true_classes_and_columns_predicted_ones():
    counts = confusion_counts(torch.tensor([0, 0, 0, 2]), torch.tensor([0, 1, 1, 2]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert counts.dtype == torch.int64


def test_no_rows_give_zeros():
    assert (
        confusion_counts(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 2).tolist()
        == [[0, 0]] * 2
    )


@brief
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30), st.integers(0, 30))
def test_counts_of_two_parts_add_up_to_those_of_the_whole(rows, cut):
    pairs = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
    parts = [confusion_counts(part[:, 0], part[:, 1], 5) for part in (pairs[:cut], pairs[cut:])]
    whole = confusion_counts(pairs[:, 0], pairs[:, 1], 5)
    assert torch.equal(parts[0] + parts[1], whole)
    assert whole.sum() == len(rows)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64]
)
def test_classes_may_have_any_integer_dtype(dtype):
    labels = torch.tensor([0, 99, 99], dtype=dtype)
    assert confusion_counts(labels, labels, 100)[99, 99] == 2


def test_empty_lists_are_no_rows():
    assert confusion_counts([], [], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.float32])
def test_counts_of_a_narrow_dtype_add_up(dtype):
    assert most_confused_pairs(np.array([[0, 100], [100, 0]], dtype=np.int8))[0].num_mistakes == 200
    assert most_confused_pairs(np.array([[0, 128], [128, 0]], dtype=dtype))[0].num_mistakes == 256


@pytest.mark.parametrize(
    ("labels", "predictions", "error", "sentence"),
    [
        (
            torch.tensor([0, 1]),
            torch.tensor([0]),
            ValueError,
            "predictions must have shape (2,), got (1,). Pass one label for each row of labels.",
        ),
        (
            torch.tensor([0, 1]),
            torch.tensor([0.0, 1.0]),
            TypeError,
            "predictions must be integers (class indices), got torch.float32. Convert them with .long().",
        ),
    ],
)
def test_a_bad_argument_raises_a_clear_error(labels, predictions, error, sentence):
    assert refusal_of(error, confusion_counts, labels, predictions, 2) == sentence


@pytest.mark.parametrize(("labels", "predictions", "name"), [([2], [0], "labels"), ([0], [-1], "predictions")])
def test_a_class_out_of_range_gives_an_error_that_names_the_argument(labels, predictions, name):
    with pytest.raises(ValueError, match=rf"^{name} must lie in \[0, 2\)"):
        confusion_counts(torch.tensor(labels), torch.tensor(predictions), 2)


def test_rates_are_relative_to_the_true_class():
    # Row 0: 2 of 10 and 0 of 10; row 1: 5 of 10 as class 0; row 2 has no rows at all.
    counts = torch.tensor([[8, 2, 0], [5, 5, 0], [0, 0, 0]])
    expected = torch.tensor([[0.0, 0.2, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(confusion_rates(counts, symmetric=False), expected)
    torch.testing.assert_close(confusion_rates(counts), (expected + expected.T) / 2)


def test_a_pair_counts_both_directions_and_averages_their_rates():
    # 0 as 1: 2 of 10; 1 as 0: 5 of 10: 7 mistakes, rate (0.2 + 0.5) / 2 = 0.35.
    (pair,) = most_confused_pairs(torch.tensor([[8, 2], [5, 5]]))
    assert isinstance(pair, ConfusedPair)
    assert (pair.first, pair.second, pair.num_mistakes) == (0, 1, 7)
    assert pair.rate == pytest.approx(0.35)


def test_the_most_confused_pair_comes_first_and_ties_go_by_count_then_index():
    counts = torch.tensor([[90, 10, 0, 0], [10, 90, 0, 0], [0, 0, 9, 1], [0, 0, 1, 9]])
    # Both pairs have rate 0.1; the first has 20 mistakes, the second 2.
    assert [(pair.first, pair.second) for pair in most_confused_pairs(counts)] == [(0, 1), (2, 3)]
    counts[3] = torch.tensor([0, 0, 5, 5])
    assert [(pair.first, pair.second) for pair in most_confused_pairs(counts)] == [(2, 3), (0, 1)]
    even = torch.ones(3, 3, dtype=torch.int64)
    assert [(pair.first, pair.second) for pair in most_confused_pairs(even)] == [(0, 1), (0, 2), (1, 2)]


def test_without_confusion_no_pair_is_listed():
    assert most_confused_pairs(torch.eye(3, dtype=torch.int64)) == []


@brief
@given(confusion_matrices(), st.integers(0, 4))
def test_pairs_are_unordered_distinct_and_no_more_than_asked_for(counts, num_pairs):
    before = counts.clone()
    pairs = most_confused_pairs(counts)
    assert sum(pair.num_mistakes for pair in pairs) == counts.sum() - counts.diagonal().sum()
    assert all(pair.first < pair.second and pair.num_mistakes >= 1 and 0 < pair.rate <= 1 for pair in pairs)
    assert len({(pair.first, pair.second) for pair in pairs}) == len(pairs)
    assert most_confused_pairs(counts, num_pairs=num_pairs) == pairs[:num_pairs]
    assert torch.equal(counts, before)


def test_counts_of_scikit_learn_and_lists_are_taken():
    labels, predictions = [0, 0, 1, 2], [0, 1, 1, 2]
    counts = confusion_counts(np.array(labels), predictions, 3)
    assert torch.equal(counts, torch.as_tensor(confusion_matrix(labels, predictions)))
    expected = most_confused_pairs(counts)
    assert most_confused_pairs(counts.numpy()) == most_confused_pairs(counts.tolist()) == expected
    ldm = AdaptiveLDM(3)
    assert ldm.update(counts.numpy(), progress=0.5)
    assert torch.equal(StaticLDM.from_confusion(counts.numpy()).matrix, StaticLDM.from_confusion(counts).matrix)


@pytest.mark.parametrize("normalize", ["true", "all"])
def test_shares_in_place_of_counts_are_refused(normalize):
    shares = confusion_matrix([0, 0, 0, 1], [0, 1, 1, 1], normalize=normalize)
    for function in (most_confused_pairs, StaticLDM.from_confusion, partial(AdaptiveLDM(2).update, progress=0.5)):
        assert "Confusion counts must be whole numbers of rows, got 0." in refusal_of(ValueError, function, shares)
