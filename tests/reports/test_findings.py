"""What a report finds, beside counting by hand."""

import itertools
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from labeldist.reports.comparison import flips_of, pairs_over_seeds
from labeldist.reports.confidence import confidence_of
from labeldist.reports.costs import costs_of_mistakes
from labeldist.reports.findings import MAX_MATRIX_CLASSES, find
from labeldist.reports.intervals import share_of
from labeldist.reports.labels_to_check import labels_to_check
from labeldist.reports.look_alikes import cluster_order, confused_shares, look_alike_groups
from labeldist.reports.pairs import pairs_to_look_at
from labeldist.reports.predictions import Nearest, predictions_of
from labeldist.reports.similar_texts import TextIndex, differing_words

NAMES = ["ask", "tell", "order", "cancel", "praise"]


@st.composite
def labeled(draw):
    size = draw(st.integers(1, 60))
    classes = st.lists(st.integers(0, len(NAMES) - 1), min_size=size, max_size=size)
    return draw(classes), draw(classes)


@settings(max_examples=60, deadline=None)
@given(labeled())
def test_findings_are_those_of_counting(rows):
    true, predicted = rows
    found = find(predictions_of(true, predicted, class_names=NAMES))
    wrong = [(a, b) for a, b in zip(true, predicted, strict=True) if a != b]
    assert found.accuracy.num == len(true) - len(wrong)
    by_pair = {pair: sum({a, b} == set(pair) for a, b in wrong) for pair in itertools.combinations(range(5), 2)}
    counts = sorted((number for number in by_pair.values() if number), reverse=True)
    assert found.num_pairs == len(counts)
    assert [pair.num_rows for pair in found.pairs] == counts
    if wrong:
        assert found.first_pairs == pytest.approx(sum(counts[:5]) / len(wrong))
    else:
        assert found.first_pairs is None
    for pair in found.pairs:
        for one in (pair.forward, pair.backward):
            number = sum(cell == (one.true, one.predicted) for cell in wrong)
            assert (0 if one.share is None else one.share.num) == number
    score: Any = precision_recall_fscore_support
    precision, recall, f1, support = score(true, predicted, labels=range(5), zero_division=np.nan)
    for one in found.classes:
        assert one.num_rows == support[one.index]
        for ours, theirs in ((one.precision, precision), (one.recall, recall)):
            assert (ours is None and np.isnan(theirs[one.index])) or ours == pytest.approx(theirs[one.index])
        if one.precision is not None and one.recall is not None:
            assert one.f1 == pytest.approx(f1[one.index])
    assert set(found.never_predicted) == set(true) - set(predicted)
    assert found.matrix.counts.sum() == len(true)
    assert sorted(found.matrix.classes.tolist()) == list(range(5))


@settings(max_examples=60, deadline=None)
@given(labeled(), st.permutations(range(5)))
def test_the_order_of_the_classes_changes_no_group(rows, order):
    true, predicted = (np.array(column) for column in rows)
    counts = np.zeros((5, 5), dtype=int)
    np.add.at(counts, (true, predicted), 1)
    place = np.argsort(order)
    again = look_alike_groups(counts[np.ix_(order, order)])
    # Ties of average linkage may be broken either way: compare where all shares differ.
    shares = confused_shares(counts)[np.triu_indices(5, 1)]
    if len(set(np.round(shares[shares > 0], 9))) == (shares > 0).sum():
        assert {frozenset(np.array(order)[group].tolist()) for group in again} == {
            frozenset(group) for group in look_alike_groups(counts)
        }
    assert sorted(cluster_order(counts).tolist()) == list(range(5))
    assert sorted(place.tolist()) == list(range(5))


def test_a_chain_of_pairs_is_no_group():
    # ask-tell and tell-order are confused, ask-order never.
    counts = np.diag([90, 90, 90]) + 0
    counts[0, 1] = counts[2, 1] = 10
    assert look_alike_groups(counts, min_share=0.04) == [[0, 1]]
    counts[0, 2] = 10
    assert look_alike_groups(counts, min_share=0.04) == [[0, 1, 2]]


def test_confused_classes_stand_side_by_side():
    counts = np.diag([50] * 6)
    for a, b in ((0, 3), (1, 4), (2, 5)):
        counts[a, b] = counts[b, a] = 9
    order = cluster_order(counts).tolist()
    for a, b in ((0, 3), (1, 4), (2, 5)):
        assert abs(order.index(a) - order.index(b)) == 1


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 500), st.data())
def test_the_interval_is_where_the_score_test_does_not_reject(total, data):
    num = data.draw(st.integers(0, total))
    share: Any = share_of(num, total)
    assert share.low <= share.value <= share.high
    z = NormalDist().inv_cdf(0.975)
    for end in (share.low, share.high):
        if 0 < end < 1:
            assert abs(share.value - end) == pytest.approx(z * (end * (1 - end) / total) ** 0.5, rel=1e-6)


def test_runs_that_share_their_texts_do_not_narrow_an_interval():
    one: Any = share_of(9, 10)
    five: Any = share_of(45, 50, repeats=5)
    assert (one.low, one.high) == pytest.approx((five.low, five.high))
    assert share_of(0, 0) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([True] * 9 + [False]), st.integers(0, 20)), min_size=1, max_size=90))
def test_thresholds_keep_what_they_promise(rows):
    right = np.array([is_right for is_right, _ in rows])
    scores = np.array([score / 20 for _, score in rows])
    found: Any = confidence_of(right, scores)
    for one in found.thresholds:
        kept_by = {t: scores >= t for t in np.unique(scores)}
        reached = [t for t, kept in kept_by.items() if kept.sum() >= 30 and right[kept].mean() >= one.target]
        if not reached:
            assert one.threshold is None
            continue
        kept = scores >= one.threshold
        assert one.threshold == min(reached)
        assert right[kept].sum() == one.accuracy.num
        assert one.num_handed_over == (~kept).sum()
    assert sum(one.num_rows for one in found.bins) == len(rows)
    assert found.curve[-1] == pytest.approx((1.0, right.mean()))


def test_costs_fall_where_the_mistakes_do():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), 200)
    labels = rng.integers(0, 4, 200)
    table = np.abs(np.subtract.outer(np.arange(4), np.arange(4))).astype(float)
    given_rows = predictions_of(labels, probabilities=scores, class_names="abcd")
    found = costs_of_mistakes(given_rows, table)
    guess = scores.argmax(axis=1)
    assert found.most_probable == pytest.approx(np.abs(labels - guess).mean())
    by_hand = [min(range(4), key=lambda j: (row * table[:, j]).sum()) for row in scores]
    assert found.least_expected == pytest.approx(np.abs(labels - by_hand).mean())
    assert [level.num_mistakes for level in found.levels] == [(np.abs(labels - guess) == d).sum() for d in (1, 2, 3)]
    number = (labels != guess).sum()
    assert sum(level.expected for level in found.levels) == pytest.approx(number)
    with pytest.raises(ValueError, match=r"costs must have shape \(C, C\) = \(4, 4\)"):
        costs_of_mistakes(given_rows, table[:3])
    many = costs_of_mistakes(given_rows, table * rng.random((4, 4)) + table)
    assert sum(level.num_mistakes for level in many.levels) == number


def test_a_mistake_stands_beside_the_most_similar_text_of_the_predicted_class():
    texts = ["was delivery fast today", "is delivery fast today", "cancel my parcel", "the weather is nice", "is it so"]
    rows = predictions_of(
        ["ask", "tell", "cancel", "tell", "ask"], ["tell", "tell", "cancel", "tell", "ask"], texts=texts
    )
    [pair] = pairs_to_look_at(rows)
    [mistake] = pair.forward.examples
    assert mistake.other is not None
    assert "".join(piece.text for piece in mistake.other) == texts[1]
    assert "".join(piece.text for piece in mistake.text) == texts[0]
    assert [piece.text.strip() for piece in mistake.text if piece.differs] == ["was"]
    assert [piece.text.strip() for piece in mistake.other if piece.differs] == ["is"]
    assert pair.backward.examples == ()


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        ([(0, 1)] * 4 + [(1, 0)] * 3 + [(0, 0)] * 20 + [(1, 1)] * 20, ("both ways",)),
        ([(0, 1)] * 4 + [(0, 0)] * 20 + [(1, 1)] * 20, ("one way",)),
        ([(0, 1)] * 8 + [(0, 0)] * 2 + [(1, 1)] * 20, ("swallowed", "one way")),
        ([(0, 1)] * 2 + [(0, 0)] * 20, ("too few rows",)),
    ],
)
def test_the_pattern_of_a_pair_decides_on_the_advice(rows, advice):
    true, predicted = zip(*rows, strict=True)
    [pair] = pairs_to_look_at(predictions_of(true, predicted, class_names=["a", "b"]))
    assert pair.advice == advice
    sure = predictions_of(true, predicted, class_names=["a", "b"], probabilities=[0.95] * len(rows))
    expected = advice if advice == ("too few rows",) else (*advice, "sure mistakes")
    assert pairs_to_look_at(sure)[0].advice == expected


def test_labels_to_check_names_the_reason():
    nearest = [None, Nearest("B", "b", True), Nearest("C", "c", True), Nearest("y", "b", False), None, None]
    rows = predictions_of(
        ["a", "b", "b", "a", "a", "b"],
        ["a", "b", "b", "b", "b", "b"],
        texts=["same", "B", "C", "x", "sure", "SAME "],
        class_names=["a", "b", "c"],
        probabilities=[0.6, 0.6, 0.6, 0.6, 0.95, 0.6],
        nearest=nearest,
    )
    found = {one.row: one for one in labels_to_check(rows)}
    assert found[0].doubts == ("same text, other label",)
    assert found[0].others == ("b",)
    assert found[1].doubts == ("same text in training",)
    assert found[2].doubts == ("same text, other label",)
    assert found[2].others == ("c",)
    assert found[3].doubts == ("nearest training text",)
    assert found[4].doubts == ("sure mistake",)
    assert found[5].others == ("a",)
    assert [one.row for one in labels_to_check(rows)][-1] == 1


def test_words_that_differ_are_those_that_differ():
    for first, second in (
        ("等待被取消了吗", "等待被取消了"),
        ("a " * 3000, "b " * 3000),
        ("", "word"),
        ("Fast", "fast"),
    ):
        pieces = differing_words(first, second)
        assert tuple("".join(piece.text for piece in side) for side in pieces) == (first, second)
    assert not any(piece.differs for piece in differing_words("Fast", "fast")[0])
    assert [piece.text for piece in differing_words("等待被取消了吗", "等待被取消了")[0] if piece.differs] == ["吗"]


def test_nothing_is_marked_where_nearly_everything_differs():
    for side in differing_words("the fed sets repurchases", "transatlantic row imperils the louvre accord"):
        assert not any(piece.differs for piece in side)


def test_a_group_has_at_least_three_mistakes():
    def groups(num_confused):
        rows = [(0, 0)] * 9 + [(1, 1)] * 9 + [(0, 1)] * num_confused
        return find(predictions_of(*zip(*rows, strict=True), class_names=["fuel", "gnp"])).groups

    assert groups(2) == ()
    assert [group.classes for group in groups(3)] == [(0, 1)]


def test_a_text_without_words_finds_nothing():
    assert TextIndex(["", " "]).nearest(["x"], [None]).tolist() == [-1]
    index = TextIndex(["a b", "b c"])
    assert index.nearest(["z"], [None]).tolist() == [-1]
    assert index.nearest(["b c", "b c"], [np.array([0]), None]).tolist() == [0, 1]


def test_many_classes_show_those_with_mistakes():
    size = MAX_MATRIX_CLASSES + 50
    true = np.arange(size).repeat(2)
    predicted = true.copy()
    predicted[-1] = 0
    found = find(predictions_of(true, predicted, class_names=[f"c{i}" for i in range(size)]))
    assert len(found.matrix.classes) == MAX_MATRIX_CLASSES
    assert {0, size - 1} <= set(found.matrix.classes.tolist())
    assert len(found.classes) == size


def test_pairs_and_texts_over_seeds():
    texts = ["u", "v", "w", "x"]
    base = [predictions_of("aabb", guess, texts=texts) for guess in ("bbbb", "bbba")]
    other = [predictions_of("aabb", guess, texts=texts) for guess in ("aaba", "aaaa")]
    repaired, broken = pairs_over_seeds(base, other)
    assert [(one.base, one.other, one.change) for one in repaired] == [(2.5, 1.5, -1.0)]
    assert broken == ()
    # Both seeds change alike: no interval.
    assert (repaired[0].low, repaired[0].high) == (None, None)
    assert pairs_over_seeds([base[0], base[0]], other)[0][0].low is not None
    fixed, lost = flips_of(base, other)
    assert [flip.text for flip in fixed] == ["u", "v"]
    assert lost == ()
    assert [flip.text for flip in flips_of(other, base)[1]] == ["u", "v"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["a"], None), "predicted must be given"),
        (([], []), "labels must hold at least one row"),
        ((["a", "b"], ["a"]), "predicted must have 2 rows, one for each label, got 1"),
        ((["a"], ["x"], {"class_names": ["a", "b"]}), "predicted must be class names or indices below 2, got 'x'"),
        ((["a"], ["a"], {"class_names": ["a", "a"]}), "class_names must differ from each other, got 'a' twice"),
        ((["a"], ["a"], {"probabilities": [1.5]}), r"probabilities must lie in \[0, 1\]"),
        ((["a"], None, {"probabilities": [[1.0]]}), "class_names must be given"),
        ((["a"], ["a"], {"probabilities": [[0.5, 0.5]], "class_names": ["a"]}), "must have 1 columns"),
        ((["a"], ["a"], {"points": [[1.0]]}), r"points must have shape \(N, 2\)"),
    ],
)
def test_what_does_not_fit_is_said(arguments, sentence):
    options = arguments[2] if len(arguments) > 2 else {}
    with pytest.raises(ValueError, match=sentence):
        predictions_of(arguments[0], arguments[1], **options)


def test_numbers_keep_the_order_of_numbers():
    assert predictions_of([2, 10, 1], [2, 2, 1]).class_names == ("1", "2", "10")
    assert predictions_of(np.array([0, 1]), np.array([1, 1]), class_names=["x", "y"]).predicted.tolist() == [1, 1]
