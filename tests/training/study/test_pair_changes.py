"""Class pairs that one objective keeps apart better, or worse, than another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeldist.training.records import Confusion
from labeldist.training.study.pair_changes import pair_changes
from labeldist.training.study.results import PairChange, PairChanges
from strategies import brief

NAMES = ["ask", "tell", "order"]


def cells(matrix) -> Confusion:
    counts = np.asarray(matrix)
    true, predicted = counts.nonzero()
    return Confusion(tuple(true.tolist()), tuple(predicted.tolist()), tuple(counts[true, predicted].tolist()))


def test_repaired_and_broken_pairs_count_both_directions_and_average_over_seeds():
    # ask-tell: base (3 + 1, 5 + 1) / 2 = 5, other 2; tell-order: base 0, other (4 + 2) / 2 = 3; ask-order: 1 in both.
    base = [[[9, 3, 1], [1, 9, 0], [0, 0, 9]], [[9, 5, 0], [1, 9, 0], [1, 0, 9]]]
    other = [[[9, 1, 1], [1, 9, 4], [0, 0, 9]], [[9, 1, 1], [1, 9, 0], [0, 2, 9]]]
    assert pair_changes([*map(cells, base)], [*map(cells, other)], NAMES) == PairChanges(
        repaired=(PairChange("ask", "tell", 5.0, 2.0, 18.0, 18.0),),
        broken=(PairChange("tell", "order", 0.0, 3.0, 18.0, 18.0),),
    )


def test_at_most_top_pairs_are_listed_the_largest_change_first():
    base = cells([[0, 1, 2], [0, 0, 3], [0, 0, 0]])
    repaired = pair_changes([base], [cells(np.zeros((3, 3), dtype=int))], NAMES, top=2).repaired
    assert [(pair.first, pair.second) for pair in repaired] == [("tell", "order"), ("ask", "order")]


@brief
@given(st.integers(1, 4).flatmap(lambda seeds: st.lists(st.integers(0, 5), min_size=seeds * 32, max_size=seeds * 32)))
def test_all_changes_agree_with_dense_means(counts):
    base, other = np.array(counts).reshape(2, -1, 4, 4)
    changes = pair_changes([*map(cells, base)], [*map(cells, other)], list("abcd"), top=100)
    means = [(side + side.transpose(0, 2, 1)).mean(axis=0) for side in (base, other)]
    right = [side.mean(axis=0).diagonal() for side in (base, other)]
    for pair in (*changes.repaired, *changes.broken):
        ends = ["abcd".index(pair.first), "abcd".index(pair.second)]
        assert [pair.base_right, pair.other_right] == pytest.approx([rows[ends].sum() for rows in right])
    found = {(pair.first, pair.second): (pair.base, pair.other) for pair in (*changes.repaired, *changes.broken)}
    for first, second in zip(*np.triu_indices(4, 1), strict=True):
        before, after = (mean[first, second] for mean in means)
        if before == after:
            assert ("abcd"[first], "abcd"[second]) not in found
        else:
            assert found["abcd"[first], "abcd"[second]] == (pytest.approx(before), pytest.approx(after))
    assert all(pair.base > pair.other for pair in changes.repaired)
    assert all(pair.base < pair.other for pair in changes.broken)


def test_no_seeds_and_unknown_classes_are_refused():
    with pytest.raises(ValueError, match="an entry for each seed"):
        pair_changes([], [cells(np.eye(3, dtype=int))], NAMES)
    with pytest.raises(ValueError, match="exceeds matrix dimension"):
        pair_changes([cells(np.eye(4, dtype=int))], [cells(np.eye(3, dtype=int))], NAMES)


def test_rows_that_went_to_a_third_class_are_not_right():
    base = cells([[5, 4, 0], [0, 9, 0], [0, 0, 9]])
    other = cells([[5, 0, 4], [0, 9, 0], [0, 0, 9]])
    changes = pair_changes([base], [other], NAMES)
    assert changes.repaired == (PairChange("ask", "tell", 4.0, 0.0, 14.0, 14.0),)
    assert changes.broken == (PairChange("ask", "order", 0.0, 4.0, 14.0, 14.0),)
