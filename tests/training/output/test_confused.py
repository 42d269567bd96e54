"""Which classes a picture shows, in which order, and which pairs it names."""

import numpy as np
import pytest

from labeldist.training.output.pictures.confused import MAX_DRAWN_CLASSES, NUM_DRAWN_OF_MORE, Cells, class_order
from labeldist.training.records import Confusion


def test_a_record_and_a_matrix_have_the_same_cells():
    counts = [[5, 2, 0], [1, 4, 0], [0, 0, 0]]
    of_matrix = Cells.of(counts, 3)
    of_record = Cells.of(Confusion((0, 0, 1, 1), (0, 1, 0, 1), (5, 2, 1, 4)), 3)
    for cells in (of_matrix, of_record):
        assert cells.support.tolist() == [7, 5, 0]
        assert cells.mistakes.tolist() == [3, 3, 0]
        assert cells.among([1, 0]).tolist() == [[4, 1], [2, 5]]


def test_counts_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"counts must have shape .* \(2, 2\), as class_names says, got \(3, 3\)"):
        Cells.of(np.eye(3), 2)


def test_pairs_count_both_directions():
    cells = Cells.of([[6, 2, 2], [2, 8, 0], [3, 0, 7]], 3)
    assert cells.worst_pairs(5) == [(0, 2, 5, 0.25), (0, 1, 4, 0.2)]
    assert cells.worst_pairs(1) == [(0, 2, 5, 0.25)]
    assert Cells.of(np.eye(3), 3).worst_pairs(5) == []


def test_few_classes_stay_in_their_order():
    counts = 10 * np.eye(30)
    counts[0, 29] = 10
    assert class_order(counts, 30).tolist() == list(range(30))


def test_of_many_classes_the_confused_ones_stand_side_by_side():
    counts = 10 * np.eye(31)
    counts[0, 30] = 10
    order = class_order(counts, 31).tolist()
    assert sorted(order) == list(range(31))
    assert abs(order.index(0) - order.index(30)) == 1


def test_of_more_classes_than_have_room_those_of_the_worst_pairs_are_taken():
    num_classes = MAX_DRAWN_CLASSES + 20
    counts = 10 * np.eye(num_classes, dtype=int)
    # A class with many mistakes, none of which comes twice, and 30 pairs with two each.
    counts[99, :40] += 1
    for c in range(40, 100, 2):
        counts[c, c + 1] += 2
    assert sorted(class_order(counts, MAX_DRAWN_CLASSES + 20).tolist()) == list(range(40, 40 + NUM_DRAWN_OF_MORE))
    cells = Cells.of(counts, num_classes)
    assert cells.share_of_mistakes(np.arange(40, 90)) == 0.5
    assert sorted(class_order(np.eye(MAX_DRAWN_CLASSES), MAX_DRAWN_CLASSES)) == list(range(MAX_DRAWN_CLASSES))


def test_of_very_many_classes_only_confused_ones_are_drawn():
    num_classes = 3000
    confusion = Confusion((0, 2999, 7), (5, 2998, 0), (4, 3, 2))
    assert sorted(class_order(confusion, num_classes).tolist()) == [0, 5, 7, 2998, 2999]


def test_of_very_many_classes_without_a_mistake_the_largest_are_drawn():
    confusion = Confusion((7, 2999), (7, 2999), (4, 3))
    order = class_order(confusion, 3000).tolist()
    assert len(order) == NUM_DRAWN_OF_MORE
    assert {7, 2999} <= set(order)


def test_shares_count_rows_that_were_taken_for_a_class_that_is_not_drawn():
    # A tenth of a class is taken for the next one: a group. Were the rest of its rows forgotten, it would be half.
    cells = Cells.of([[1, 1, 98], [0, 2, 0], [0, 0, 100]], 3)
    assert cells.groups([0, 1]) == []
    assert cells.groups([0, 2]) == [[0, 2]]
