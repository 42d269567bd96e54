"""What a report is made from: labels, predictions, and as much beside them as there is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labeldist.messages import listed, shown

__all__ = ["MIN_SURPRISING", "Nearest", "Predictions", "TopClasses", "encoded", "predictions_of"]

MIN_SURPRISING = 5
"""Labels and predictions of fewer rows may have no class in common by chance."""


@dataclass(frozen=True)
class Nearest:
    """The training text that is most similar to a row.

    Attributes:
        text: of the training row.
        label: class name of the training row.
        is_same: whether both are the same text, apart from case and spaces.
    """

    text: str
    label: str
    is_same: bool


@dataclass(frozen=True)
class TopClasses:
    """The most probable classes of each row.

    Attributes:
        classes: class indices, `(N, K)`, the most probable one first; -1 where a row has fewer.
        probabilities: of these classes, `(N, K)`, in [0, 1]; 0 where a row has fewer.
    """

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """Labeled rows and what a classifier took them for.

    Attributes:
        class_names: name of each class, C of them.
        labels: true class of each row, `(N,)`, values in [0, C).
        predicted: predicted class of each row, `(N,)`, values in [0, C).
        texts: the N texts; None where they are not known.
        confidence: probability of the predicted class, `(N,)`, in [0, 1], NaN for a row without one; None where no row
            has one.
        probabilities: of all classes, `(N, C)`; None where they are not all known.
        top: the most probable classes; None where no other class than the predicted one is known.
        points: place of each row on a map, `(N, 2)`, NaN for rows that are not on it; None without a map.
        nearest: the most similar training text of each row, None for a row without one; None without training texts.
        num_runs: how many runs the rows are pooled from.
        repeats: rows by different texts of a label, >= 1: pooled runs may share texts, and intervals count each once.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    texts: tuple[str, ...] | None = None
    confidence: NDArray[np.float64] | None = None
    probabilities: NDArray[np.float64] | None = None
    top: TopClasses | None = None
    points: NDArray[np.float64] | None = None
    nearest: tuple[Nearest | None, ...] | None = None
    num_runs: int = 1
    repeats: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """Which rows are mistakes, `(N,)`."""
        return self.labels != self.predicted

    def text(self, row: int) -> str:
        """The text of a row; its number where texts are not known."""
        return f"row {row + 1:,}" if self.texts is None else self.texts[row]

    def confidence_of(self, row: int) -> float | None:
        """The probability of the predicted class of a row; None where it is not known."""
        if self.confidence is None or np.isnan(self.confidence[row]):
            return None
        return float(self.confidence[row])

    def restricted(self, classes: NDArray[np.int64]) -> "Predictions":
        """The rows whose label and prediction are both among `classes`, which are renumbered; without probabilities."""
        place = np.full(len(self.class_names), -1)
        place[classes] = np.arange(len(classes))
        rows = np.flatnonzero((place[self.labels] >= 0) & (place[self.predicted] >= 0))
        return replace(
            self,
            class_names=tuple(self.class_names[int(c)] for c in classes),
            labels=place[self.labels[rows]],
            predicted=place[self.predicted[rows]],
            texts=None if self.texts is None else tuple(self.texts[int(i)] for i in rows),
            confidence=None if self.confidence is None else self.confidence[rows],
            probabilities=None,
            top=None,
            points=None,
            nearest=None,
        )


def predictions_of(
    labels: Sequence[Any] | ArrayLike,
    predicted: Sequence[Any] | ArrayLike | None = None,
    *,
    texts: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    probabilities: ArrayLike | None = None,
    points: ArrayLike | None = None,
    nearest: Sequence[Nearest | None] | None = None,
) -> Predictions:
    """Predictions from what a classifier of any kind returns.

    Args:
        labels: class of each row: names, or, where `class_names` is given, indices into it; N of them, at least one.
        predicted: predicted class of each row, likewise; the most probable one if `None`.
        texts: the N texts.
        class_names: name of each class; all names that occur, sorted, if `None`. Needed with `probabilities`.
        probabilities: either of the predicted class, `(N,)`, or of all classes, `(N, C)`, in the order of
            `class_names`; in [0, 1].
        points: place of each row on a map, `(N, 2)`.
        nearest: the most similar training text of each row.

    Raises:
        ValueError: if lengths disagree, a class is unknown, or a probability lies outside [0, 1].

    Examples:
        >>> found = predictions_of(["ask", "tell", "ask"], ["ask", "ask", "ask"])
        >>> found.class_names, found.labels.tolist(), found.predicted.tolist()
        (('ask', 'tell'), [0, 1, 0], [0, 0, 0])
    """
    scores = None if probabilities is None else _probabilities(probabilities)
    if scores is not None and scores.ndim == 2 and class_names is None:
        raise ValueError("class_names must be given with probabilities of all classes: they name its columns.")
    if predicted is None and (scores is None or scores.ndim != 2):
        raise ValueError("predicted must be given, or probabilities of all classes, shape (N, C), got neither.")
    columns = [_column(labels)] + ([] if predicted is None else [_column(predicted)])
    if not len(columns[0]):
        raise ValueError("labels must hold at least one row, got none.")
    columns = _alike(columns)
    names = _names(class_names, columns)
    true = encoded(columns[0], names, "labels", may_be_indices=class_names is not None)
    if predicted is None:
        assert scores is not None
        guesses = scores.argmax(axis=1)
    else:
        guesses = encoded(columns[1], names, "predicted", may_be_indices=class_names is not None)
        if class_names is None and len(true) >= MIN_SURPRISING and not set(true.tolist()) & set(guesses.tolist()):
            ours, theirs = ([names[int(c)] for c in np.unique(side)] for side in (true, guesses))
            raise ValueError(
                f"labels and predicted have no class in common: {listed(map(shown, ours), 3)} and "
                f"{listed(map(shown, theirs), 3)}. Give both as names, or both as indices."
            )
    num_rows = len(true)
    for title, length in (
        ("predicted", len(guesses)),
        ("texts", None if texts is None else len(texts)),
        ("probabilities", None if scores is None else len(scores)),
        ("points", None if points is None else len(np.asarray(points))),
        ("nearest", None if nearest is None else len(nearest)),
    ):
        if length is not None and length != num_rows:
            raise ValueError(f"{title} must have {num_rows:,} rows, one for each label, got {length:,}.")
    all_scores = scores if scores is not None and scores.ndim == 2 else None
    if all_scores is not None and all_scores.shape[1] != len(names):
        raise ValueError(
            f"probabilities must have {len(names)} columns, one for each class name, got {all_scores.shape[1]}."
        )
    return Predictions(
        class_names=names,
        labels=true,
        predicted=guesses,
        texts=None if texts is None else tuple(map(str, texts)),
        confidence=scores if all_scores is None else all_scores[np.arange(num_rows), guesses],
        probabilities=all_scores,
        top=None if all_scores is None else _top(all_scores),
        points=None if points is None else _points(points),
        nearest=None if nearest is None else tuple(nearest),
    )


def _column(values: Sequence[Any] | ArrayLike) -> list[Any]:
    """A column as a list of Python values, whatever held it: a list, an array, a tensor, a pandas or Arrow column."""
    for method in ("tolist", "to_pylist"):
        if hasattr(values, method):
            return list(getattr(values, method)())
    return list(values)  # pyright: ignore[reportArgumentType]


def _alike(columns: list[list[Any]]) -> list[list[Any]]:
    """The columns with booleans as integers, where both kinds occur."""
    kinds = {type(value) for column in columns for value in column}
    if kinds <= {bool, int} and len(kinds) == 2:
        return [[int(value) for value in column] for column in columns]
    return columns


def _names(class_names: Sequence[str] | None, columns: Sequence[list[Any]]) -> tuple[str, ...]:
    if class_names is not None:
        names = tuple(map(str, class_names))
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"class_names must differ from each other, got {shown(twice)} twice.")
        return names
    values = {value for column in columns for value in column}
    # Numbers in the order of numbers: class 10 comes after class 9.
    if all(isinstance(value, int | float) for value in values):
        return tuple(dict.fromkeys(map(str, sorted(values))))
    return tuple(sorted({str(value) for value in values}))


def encoded(
    values: Sequence[Any] | ArrayLike, names: Sequence[str], title: str, *, may_be_indices: bool
) -> NDArray[np.int64]:
    """Class indices of a column of names, or of indices.

    Args:
        values: one for each row.
        names: name of each class, C of them.
        title: of the column, for the message.
        may_be_indices: whether integers may be indices: then a column of integers is one of indices, unless all of them
            are names, too, which is an error where the two readings differ.

    Returns:
        `(N,)`, values in [0, C).

    Raises:
        ValueError: for a value that is no class, or a column that can be read either way.

    Examples:
        >>> encoded(["b", "a"], ["a", "b"], "labels", may_be_indices=True).tolist()
        [1, 0]
        >>> encoded([1, 2], ["1", "2", "3"], "labels", may_be_indices=True)
        Traceback (most recent call last):
        ...
        ValueError: labels holds integers that can be names or indices, such as 1. Give names as strings.
    """
    column = _column(values)
    place = {name: index for index, name in enumerate(names)}
    by_name = [place.get(value if isinstance(value, str) else str(value)) for value in column]
    if may_be_indices and all(type(value) is int for value in column):
        are_indices = all(0 <= value < len(names) for value in column)
        if are_indices and None not in by_name and by_name != column:
            first = next(value for value, index in zip(column, by_name, strict=True) if value != index)
            raise ValueError(
                f"{title} holds integers that can be names or indices, such as {first}. Give names as strings."
            )
        by_name = column if are_indices else by_name
    unknown = [value for value, index in zip(column, by_name, strict=True) if index is None]
    if unknown:
        kinds = f"class names or indices below {len(names)}" if may_be_indices else "class names"
        raise ValueError(
            f"{title} must be {kinds}, got {shown(unknown[0])}. The classes are {listed(map(shown, names), 10)}."
        )
    return np.array(by_name, dtype=np.int64)


def _probabilities(values: ArrayLike) -> NDArray[np.float64]:
    # A tensor of half precision rounds a probability of 1 to slightly above.
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim not in (1, 2):
        raise ValueError(f"probabilities must have shape (N,) or (N, C), got {scores.shape}.")
    if not np.isfinite(scores).all() or (scores.size and (scores.min() < -1e-6 or scores.max() > 1 + 1e-3)):
        raise ValueError("probabilities must lie in [0, 1]. Apply a softmax to scores of another kind.")
    return scores.clip(0, 1)


def _points(values: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must have shape (N, 2), got {points.shape}.")
    return points


NUM_TOP_CLASSES = 5


def _top(scores: NDArray[np.float64]) -> TopClasses:
    kept = min(NUM_TOP_CLASSES, scores.shape[1])
    # Partition first: sorting all of 100,000 x 200 takes seconds.
    classes = np.argpartition(-scores, kept - 1, axis=1)[:, :kept] if kept < scores.shape[1] else None
    classes = np.broadcast_to(np.arange(kept), (len(scores), kept)) if classes is None else classes
    found = np.take_along_axis(scores, classes, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return TopClasses(
        np.take_along_axis(classes, order, axis=1).astype(np.int64), np.take_along_axis(found, order, axis=1)
    )
