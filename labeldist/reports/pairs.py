"""The class pairs to look at first: how often they are confused, by which texts, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from labeldist.reports.intervals import Share, share_of
from labeldist.reports.predictions import Predictions
from labeldist.reports.similar_texts import Piece, TextIndex, differing_words

__all__ = ["SURE", "Advice", "Direction", "Mistake", "Pair", "confused_cells", "pairs_to_look_at"]

SURE = 0.9
"""A mistake of at least this probability is a sure one."""

NUM_PAIRS = 12
NUM_EXAMPLES = 4
# A direction that makes up at least this share of a pair's mistakes counts as a direction of its own.
MIN_SHARE_OF_PAIR = 0.25
# A class of which more than this share is taken for one other class is swallowed by it.
SWALLOWED = 0.5

Advice = Literal["both ways", "one way", "swallowed", "sure mistakes", "too few rows"]
"""What the mistakes of a pair look like.

- `"both ways"`: each class is taken for the other.
- `"one way"`: more than three quarters of the mistakes go in one direction.
- `"swallowed"`: more than half of a class is taken for the other one.
- `"sure mistakes"`: at least half of the mistakes have a probability of 90 % or more.
- `"too few rows"`: there are fewer than three mistakes, which may be chance.
"""


@dataclass(frozen=True)
class Mistake:
    """A misclassified text, and the most similar text of the class that was predicted for it.

    Attributes:
        row: index of the row.
        text: the text in pieces; the pieces that do not occur in the other text are marked.
        confidence: probability of the wrong class; `None` if unknown.
        num_runs: number of pooled runs in which this class was predicted for this text.
        other: the most similar text of the predicted class, in pieces; `None` if no such text shares a word with it.
    """

    row: int
    text: tuple[Piece, ...]
    confidence: float | None
    num_runs: int
    other: tuple[Piece, ...] | None


@dataclass(frozen=True)
class Direction:
    """The rows of one class that were predicted as another class.

    Attributes:
        true: index of the true class.
        predicted: index of the predicted class.
        share: their fraction of all rows of the true class; `None` if it has no rows.
        examples: example mistakes, the most confident first.
    """

    true: int
    predicted: int
    share: Share | None
    examples: tuple[Mistake, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two classes that are confused.

    Attributes:
        forward: the direction with more rows.
        backward: the other direction.
        num_rows: number of confused rows in both directions.
        share_of_mistakes: `num_rows` as a fraction of all mistakes.
        num_sure: number of mistakes with a probability of at least 90 %; `None` if probabilities are not known.
        advice: what the pattern suggests, the most important advice first.
    """

    forward: Direction
    backward: Direction
    num_rows: int
    share_of_mistakes: float
    num_sure: int | None
    advice: tuple[Advice, ...]


def confused_cells(predictions: Predictions) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """True class, predicted class and number of rows of each cell of the confusion matrix that is not zero.

    Examples:
        >>> from labeldist.reports.predictions import predictions_of
        >>> [column.tolist() for column in confused_cells(predictions_of([0, 0, 1], [0, 1, 1], class_names="ab"))]
        [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    """
    num_classes = len(predictions.class_names)
    cells, num_rows = np.unique(predictions.labels * num_classes + predictions.predicted, return_counts=True)
    return cells // num_classes, cells % num_classes, num_rows


def pairs_to_look_at(
    predictions: Predictions, *, num_pairs: int = NUM_PAIRS, num_examples: int = NUM_EXAMPLES
) -> list[Pair]:
    """Find the class pairs with the most mistakes in both directions together.

    Args:
        predictions: predictions of labeled rows.
        num_pairs: maximum number of pairs.
        num_examples: maximum number of example texts in each direction.

    Returns:
        The pairs, sorted by number of mistakes, then by class index.

    Examples:
        >>> from labeldist.reports.predictions import predictions_of
        >>> found = predictions_of(["fast", "slow", "slow"], ["slow", "slow", "fast"], texts=["a b", "a c", "a d"])
        >>> [pair] = pairs_to_look_at(found)
        >>> pair.num_rows, pair.forward.share.value, pair.advice
        (2, 1.0, ('too few rows',))
    """
    true, predicted, num_rows = confused_cells(predictions)
    counts = dict(zip(zip(true.tolist(), predicted.tolist(), strict=True), num_rows.tolist(), strict=True))
    by_pair: dict[tuple[int, int], int] = {}
    for (a, b), number in counts.items():
        if a != b:
            pair = (min(a, b), max(a, b))
            by_pair[pair] = by_pair.get(pair, 0) + number
    first = sorted(by_pair, key=lambda pair: (-by_pair[pair], pair))[:num_pairs]
    if not first:
        return []
    support = np.bincount(predictions.labels, minlength=len(predictions.class_names))
    num_mistakes = int(predictions.is_wrong.sum())
    directions = [direction for a, b in first for direction in ((a, b), (b, a))]
    examples = _examples(predictions, directions, num_examples)
    found = []
    for a, b in first:
        if counts.get((b, a), 0) > counts.get((a, b), 0):
            a, b = b, a
        forward, backward = (
            Direction(
                x,
                y,
                share_of(counts.get((x, y), 0), int(support[x]), repeats=predictions.repeats),
                tuple(examples[x, y]),
            )
            for x, y in ((a, b), (b, a))
        )
        number = by_pair[min(a, b), max(a, b)]
        sure = _num_sure(predictions, a, b)
        advice = _advice(forward, backward, number, sure, predictions.num_runs)
        found.append(Pair(forward, backward, number, number / num_mistakes, sure, advice))
    return found


def _num_sure(predictions: Predictions, a: int, b: int) -> int | None:
    if predictions.confidence is None:
        return None
    labels, predicted = predictions.labels, predictions.predicted
    between = ((labels == a) & (predicted == b)) | ((labels == b) & (predicted == a))
    return int((predictions.confidence[between] >= SURE).sum())


def _advice(
    forward: Direction, backward: Direction, num_rows: int, sure: int | None, num_runs: int
) -> tuple[Advice, ...]:
    if num_rows < 3 * num_runs:
        return ("too few rows",)
    advice: list[Advice] = []
    if any(one.share is not None and one.share.value > SWALLOWED for one in (forward, backward)):
        advice.append("swallowed")
    num_backward = 0 if backward.share is None else backward.share.num
    advice.append("both ways" if num_backward >= MIN_SHARE_OF_PAIR * num_rows else "one way")
    if sure is not None and 2 * sure >= num_rows:
        advice.append("sure mistakes")
    return tuple(advice)


def _examples(
    predictions: Predictions, directions: Sequence[tuple[int, int]], num_examples: int
) -> dict[tuple[int, int], list[Mistake]]:
    """The most confident mistakes of each direction, beside the most similar text of the predicted class."""
    chosen: list[tuple[tuple[int, int], int, int]] = []
    for true, predicted in directions:
        rows = np.flatnonzero((predictions.labels == true) & (predictions.predicted == predicted))
        if predictions.confidence is not None:
            rows = rows[np.argsort(-predictions.confidence[rows], kind="stable")]
        # A text that several of the pooled runs take for this class is one example.
        times: dict[str, list[int]] = {}
        for row in rows.tolist():
            times.setdefault(predictions.text(row), []).append(row)
        ranked = (
            sorted(times.values(), key=lambda same: -len(same)) if predictions.num_runs > 1 else list(times.values())
        )
        chosen += [((true, predicted), same[0], len(same)) for same in ranked[:num_examples]]
    found: dict[tuple[int, int], list[Mistake]] = {direction: [] for direction in directions}
    if predictions.texts is None:
        return found
    others = _most_similar(predictions, [row for _, row, _ in chosen])
    for (direction, row, times_seen), other in zip(chosen, others, strict=True):
        text = predictions.texts[row]
        pieces, other_pieces = ([Piece(text, False)], None) if other is None else differing_words(text, other)
        found[direction].append(
            Mistake(
                row,
                tuple(pieces),
                predictions.confidence_of(row),
                times_seen,
                None if other_pieces is None else tuple(other_pieces),
            )
        )
    return found


def _most_similar(predictions: Predictions, rows: Sequence[int]) -> list[str | None]:
    """For each row, the most similar text whose label is the class that the row was taken for."""
    assert predictions.texts is not None
    texts, labels = list(predictions.texts), predictions.labels
    needed = np.unique(predictions.predicted[list(rows)]) if rows else np.array([], dtype=np.int64)
    pool = np.flatnonzero(np.isin(labels, needed))
    if not len(pool):
        return [None] * len(rows)
    index = TextIndex([texts[int(i)] for i in pool])
    by_class = {int(c): np.flatnonzero(labels[pool] == c) for c in needed}
    candidates = []
    for row in rows:
        allowed = by_class[int(predictions.predicted[row])]
        # Not the same text with the other label: that one is listed among the labels to check.
        same = np.array([texts[int(pool[i])] == texts[row] for i in allowed], dtype=bool)
        candidates.append(allowed[~same])
    found = index.nearest([texts[row] for row in rows], candidates)
    return [None if place < 0 else texts[int(pool[place])] for place in found.tolist()]
