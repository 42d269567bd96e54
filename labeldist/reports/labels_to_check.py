"""Rows whose label may be wrong, or that distort the measurement."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np

from labeldist.reports.pairs import SURE
from labeldist.reports.predictions import Predictions
from labeldist.reports.similar_texts import same_text_key

__all__ = ["Doubt", "DoubtfulRow", "labels_to_check"]

Doubt = Literal["sure mistake", "same text, other label", "same text in training", "nearest training text"]
"""Why a row is worth a look.

- `"same text, other label"`: the same text, apart from case and spaces, has another label elsewhere.
- `"nearest training text"`: the row is a mistake, and the most similar training text has the predicted class, too.
- `"sure mistake"`: the predicted class has a probability of at least 90 %, and the label is another one.
- `"same text in training"`: the text is a training text with the same label: the measurement counts what was learned.
"""

WEIGHTS: dict[Doubt, int] = {
    "same text, other label": 4,
    "nearest training text": 2,
    "sure mistake": 2,
    "same text in training": 1,
}


@dataclass(frozen=True)
class DoubtfulRow:
    """A row whose label should be checked.

    Attributes:
        row: index of the row.
        doubts: reasons for doubt, the strongest first.
        others: names of the other labels that the same text has.
    """

    row: int
    doubts: tuple[Doubt, ...]
    others: tuple[str, ...] = ()


def labels_to_check(predictions: Predictions) -> list[DoubtfulRow]:
    """Find rows with a doubtful label, and rows that were seen in training; the strongest doubts first.

    A mistake with a high probability is either a hard text or a wrong label; only a person can decide. The rules are
    simple (identical texts, a high probability, a similar training text) and need no additional package.

    Args:
        predictions: predictions of labeled rows. Without texts, only mistakes with a high probability are found.

    Examples:
        >>> from labeldist.reports.predictions import predictions_of
        >>> found = predictions_of(["a", "b", "a"], ["a", "a", "a"], texts=["x", "X ", "y"], probabilities=[1, 0.95, 1])
        >>> [(row.row, row.doubts) for row in labels_to_check(found)]
        [(1, ('same text, other label', 'sure mistake')), (0, ('same text, other label',))]
    """
    doubts: dict[int, set[Doubt]] = defaultdict(set)
    others: dict[int, set[str]] = defaultdict(set)
    wrong, names = predictions.is_wrong, predictions.class_names
    if predictions.confidence is not None:
        seen: set[tuple[str, int]] = set()
        for row in np.flatnonzero(wrong & (predictions.confidence >= SURE)).tolist():
            # Pooled runs bring a text several times: once is enough.
            key = (predictions.text(row), int(predictions.predicted[row]))
            if predictions.num_runs == 1 or key not in seen:
                doubts[row].add("sure mistake")
            seen.add(key)
    if predictions.texts is not None and predictions.num_runs == 1:
        _same_texts(predictions, doubts, others)
    for row, nearest in enumerate(predictions.nearest or ()):
        if nearest is None:
            continue
        if nearest.is_same and nearest.label != names[predictions.labels[row]]:
            doubts[row].add("same text, other label")
            others[row].add(nearest.label)
        elif nearest.is_same:
            doubts[row].add("same text in training")
        elif wrong[row] and nearest.label == names[predictions.predicted[row]]:
            doubts[row].add("nearest training text")

    def rank(row: int) -> tuple[int, bool, float, int]:
        return (
            -sum(WEIGHTS[doubt] for doubt in doubts[row]),
            not wrong[row],
            -(predictions.confidence_of(row) or 0.0),
            row,
        )

    return [
        DoubtfulRow(row, tuple(sorted(doubts[row], key=lambda doubt: -WEIGHTS[doubt])), tuple(sorted(others[row])))
        for row in sorted(doubts, key=rank)
    ]


def _same_texts(predictions: Predictions, doubts: dict[int, set[Doubt]], others: dict[int, set[str]]) -> None:
    assert predictions.texts is not None
    by_text: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(predictions.texts):
        if key := same_text_key(text):
            by_text[key].append(row)
    for rows in by_text.values():
        labels = {int(predictions.labels[row]) for row in rows}
        if len(labels) > 1:
            for row in rows:
                doubts[row].add("same text, other label")
                others[row] |= {predictions.class_names[c] for c in labels - {int(predictions.labels[row])}}
