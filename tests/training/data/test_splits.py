import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeldist.training.data.splits import draw_shots, stratified_folds, stratified_split

labels_of_rows = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)
fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32)


@given(labels_of_rows, fractions, seeds)
def test_split_parts_the_rows_and_leaves_each_class_one(labels, fraction, seed):
    keep, drawn = stratified_split(labels, fraction, seed)
    assert sorted([*keep, *drawn]) == list(range(len(labels)))
    assert np.all(np.diff(keep) > 0)
    assert np.all(np.diff(drawn) > 0)
    assert set(labels[keep]) == set(labels)


@given(labels_of_rows, fractions, seeds)
def test_split_draws_the_fraction_as_far_as_classes_allow(labels, fraction, seed):
    _, drawn = stratified_split(labels, fraction, seed)
    spare = len(labels) - len(set(labels.tolist()))
    assert len(drawn) == min(max(round(fraction * len(labels)), 1), spare)


@given(labels_of_rows, seeds)
def test_draws_repeat_by_seed(labels, seed):
    for first, second in zip(stratified_split(labels, 0.3, seed), stratified_split(labels, 0.3, seed), strict=True):
        assert np.array_equal(first, second)
    assert np.array_equal(draw_shots(labels, 2, seed), draw_shots(labels.copy(), 2, seed))


def test_split_keeps_the_shares_of_classes():
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    _, drawn = stratified_split(labels, 0.1, seed=3)
    assert np.bincount(labels[drawn]).tolist() == [50, 30, 20]


def test_split_gives_the_rest_to_the_largest_remainders():
    # Quotas 1.8, 1.5, 1.2, 0.5 of 20 % of 25 rows: whole parts 1, 1, 1, 0 and two more for 1.8 and one of the halves.
    labels = np.repeat([0, 1, 2, 3], [9, 7, 6, 3])
    _, drawn = stratified_split(labels, 0.2, seed=0)
    assert np.bincount(labels[drawn], minlength=4).tolist() == [2, 1, 1, 1]


def test_rows_of_single_row_classes_are_never_drawn():
    labels = np.array([0] * 10 + [1] + [2])
    for seed in range(20):
        _, drawn = stratified_split(labels, 0.5, seed)
        assert set(labels[drawn]) == {0}
        assert len(drawn) == 6


def test_nothing_is_drawn_where_no_class_has_two_rows():
    keep, drawn = stratified_split(np.arange(5), 0.5, seed=0)
    assert keep.tolist() == [0, 1, 2, 3, 4]
    assert drawn.tolist() == []


def test_other_seeds_draw_other_rows():
    labels = np.zeros(100, dtype=np.int64)
    assert len({tuple(stratified_split(labels, 0.1, seed)[1]) for seed in range(20)}) == 20
    assert len({tuple(draw_shots(labels, 10, seed)) for seed in range(20)}) == 20
    # Shots and split are independent of each other.
    assert set(draw_shots(labels, 10, 0)) != set(stratified_split(labels, 0.1, 0)[1])


@given(labels_of_rows, st.integers(1, 10), seeds)
def test_shots_take_so_many_of_each_class_or_all(labels, shots, seed):
    drawn = draw_shots(labels, shots, seed)
    expected = np.minimum(np.bincount(labels, minlength=7), shots)
    assert np.bincount(labels[drawn], minlength=7).tolist() == expected.tolist()
    assert set(draw_shots(labels, shots, seed)) <= set(draw_shots(labels, shots + 1, seed))


@given(labels_of_rows, st.integers(2, 5), seeds)
def test_folds_hold_out_each_row_once_but_classes_of_one(labels, num_folds, seed):
    counts = np.bincount(labels, minlength=7)
    shared = np.flatnonzero(counts[labels] > 1)
    if len(shared) < num_folds:
        with pytest.raises(ValueError, match="num_folds must not exceed"):
            stratified_folds(labels, num_folds, seed)
        return
    folds = stratified_folds(labels, num_folds, seed)
    assert len(folds) == num_folds
    assert sorted(np.concatenate(folds)) == shared.tolist()
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        per_class = np.bincount(labels[fold], minlength=7)
        assert np.all(np.abs(per_class - counts / num_folds)[counts > 1] < 1)
        # Every class keeps a row to train on.
        assert np.all(per_class[counts > 0] < counts[counts > 0])


def test_draws_refuse_what_has_no_meaning():
    labels = np.array([0, 0, 1, 1])
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="fraction must lie between 0 and 1"):
            stratified_split(labels, fraction, 0)
    with pytest.raises(ValueError, match="shots must be at least 1, got 0"):
        draw_shots(labels, 0, 0)
    with pytest.raises(ValueError, match="num_folds must be at least 2, got 1"):
        stratified_folds(labels, 1, 0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        draw_shots(labels, 1, -1)
