"""Make a report page from the predictions of any model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labeldist.messages import escape_controls
from labeldist.reports.comparison import ComparisonPart
from labeldist.reports.findings import Findings, find
from labeldist.reports.page import About, render
from labeldist.reports.predictions import Nearest, Predictions, encoded, predictions_of
from labeldist.reports.similar_texts import TextIndex, same_text_key
from labeldist.reports.words import count, percent

__all__ = ["Report", "report"]

MAX_COMPARED_MISTAKES = 5_000


class Report:
    """A report: which classes a classifier confuses, by which texts, and what to do about it.

    A notebook displays the page.

    Args:
        findings: the content of the report.
        about: source of the predictions.
        comparison: the comparison that the predictions belong to, if any.

    Attributes:
        findings: accuracy, pairs, groups, classes, doubtful labels, confidence, costs.
        about: where the predictions come from.
    """

    def __init__(self, findings: Findings, about: About, comparison: ComparisonPart | None = None):
        self.findings = findings
        self.about = about
        self._comparison = comparison

    @cached_property
    def html(self) -> str:
        """The page as one HTML file that refers to no other file."""
        return render(self.findings, self.about, self._comparison)

    def of_source(self, source: str) -> "Report":
        """The same report, with a page that names its source.

        Args:
            source: for example the path of a table.
        """
        return Report(self.findings, replace(self.about, source=source), self._comparison)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page.

        Args:
            path: the file, such as `report.html`; an existing file is replaced.

        Returns:
            The path.
        """
        path = Path(path)
        path.write_text(self.html, encoding="utf-8")
        return path

    def __str__(self) -> str:
        found = self.findings
        names = [escape_controls(name) for name in found.predictions.class_names]
        lines = [
            f"accuracy {percent(found.accuracy.value)} % (95 % interval {percent(found.accuracy.low)} to "
            f"{percent(found.accuracy.high)}), {count(found.accuracy.total, 'row')}"
        ]
        lines += [
            f"{names[pair.forward.true]} and {names[pair.forward.predicted]}: {count(pair.num_rows, 'row')}, "
            f"{100 * pair.share_of_mistakes:.0f} % of the mistakes"
            for pair in found.pairs[:5]
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Report: {str(self).splitlines()[0]}>"

    def _repr_html_(self) -> str:
        # A frame of its own: neither the notebook's style nor its scripts meet the page's.
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts allow-downloads" '
            'style="width: 100%; height: 720px; border: 1px solid #8884" title="Report"></iframe>'
        )


def report(
    labels: Sequence[Any] | ArrayLike,
    predictions: Sequence[Any] | ArrayLike | None = None,
    *,
    texts: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    probabilities: ArrayLike | None = None,
    points: ArrayLike | None = None,
    train_texts: Sequence[str] | None = None,
    train_labels: Sequence[Any] | None = None,
    costs: ArrayLike | None = None,
    baseline: Sequence[Any] | ArrayLike | None = None,
    title: str = "Report",
    settings: Mapping[str, str] | None = None,
) -> Report:
    """Make a report of the predictions of any classifier. It needs no model and trains nothing.

    Args:
        labels: true class of each of the N rows: names, or indices if `class_names` is given. At least one row.
        predictions: predicted class of each row, in the same form; `None` uses the most probable class.
        texts: the N texts. Without them the report has no examples.
        class_names: name of each class; `None` uses the names that occur, sorted.
        probabilities: probability of the predicted class, `(N,)`, or of all classes, `(N, C)`, in the order of
            `class_names`.
        points: position of each row on a map, `(N, 2)`, such as a t-SNE of embeddings; NaN for rows without one.
        train_texts: texts that the classifier was trained on, to find rows that were seen in training, and similar
            training texts.
        train_labels: classes of the training texts: names, or indices if `class_names` is given.
        costs: costs of mistakes, `(C, C)`, non-negative, row = true class, column = predicted class.
        baseline: predictions of another classifier for the same rows, to show the difference of the confusion matrices.
        title: title of the page.
        settings: more facts to show on the page, by name.

    Returns:
        The report. `save` writes it to a file; a notebook displays it.

    Raises:
        ValueError: if lengths disagree, a class is unknown, or a probability lies outside [0, 1].

    Examples:
        >>> labels = ["ask", "ask", "tell", "tell"]
        >>> found = report(labels, ["ask", "tell", "tell", "ask"], texts=["is it?", "is it so?", "it is", "it is so"])
        >>> print(found)
        accuracy 50.0 % (95 % interval 15.0 to 85.0), 4 rows
        ask and tell: 2 rows, 100 % of the mistakes
        >>> found.html.startswith("<!doctype html>")
        True
    """
    given = predictions_of(
        labels, predictions, texts=texts, class_names=class_names, probabilities=probabilities, points=points
    )
    names = given.class_names
    if (train_texts is None) != (train_labels is None):
        raise ValueError("train_texts and train_labels must be given together.")
    if train_texts is not None and train_labels is not None:
        if texts is None:
            raise ValueError("texts must be given with train_texts: the two are compared.")
        nearest = _nearest(given, [str(text) for text in train_texts], train_labels, names if class_names else None)
        given = replace(given, nearest=tuple(nearest))
    other = None
    if baseline is not None:
        guesses = encoded(baseline, names, "baseline", may_be_indices=class_names is not None)
        if len(guesses) != len(given):
            raise ValueError(f"baseline must have {len(given):,} rows, one for each label, got {len(guesses):,}.")
        other = replace(given, predicted=guesses, confidence=None, probabilities=None, top=None)
    shown = {str(key): str(value) for key, value in (settings or {}).items()}
    about = About(title=title, settings=shown, map_method="" if points is None else "the points given")
    return Report(find(given, costs=costs, baseline=other), about)


def _nearest(
    given: Predictions, train_texts: list[str], train_labels: Sequence[Any], names: Sequence[str] | None
) -> list[Nearest | None]:
    """Of labels as names; indices are resolved where class names were given."""
    if names is None:
        # Of classes that the predictions may lack.
        found = predictions_of(train_labels, train_labels)
        labels = [found.class_names[c] for c in found.labels.tolist()]
    else:
        labels = [str(names[int(c)]) for c in encoded(train_labels, names, "train_labels", may_be_indices=True)]
    if len(labels) != len(train_texts):
        raise ValueError(f"train_labels must have {len(train_texts):,} rows, one for each text, got {len(labels):,}.")
    return nearest_by_words(list(given.texts or ()), given.is_wrong, train_texts, labels)


def nearest_by_words(
    texts: Sequence[str], is_wrong: NDArray[np.bool_], train_texts: Sequence[str], train_labels: Sequence[str]
) -> list[Nearest | None]:
    """Find the identical training text of each text, and the most similar training text of each other mistake.

    Args:
        texts: N texts.
        is_wrong: whether each of them is a mistake, `(N,)`. The first 5,000 mistakes are compared word by word.
        train_texts: training texts, at least one.
        train_labels: class names of the training texts.
    """
    first: dict[str, int] = {}
    for row, text in enumerate(train_texts):
        first.setdefault(same_text_key(text), row)
    found: list[Nearest | None] = [None] * len(texts)
    compared: list[int] = []
    for row, wrong in enumerate(is_wrong.tolist()):
        same = first.get(same_text_key(texts[row]))
        if same is not None:
            found[row] = Nearest(train_texts[same], train_labels[same], True)
        elif wrong and len(compared) < MAX_COMPARED_MISTAKES:
            compared.append(row)
    if compared:
        places = TextIndex(train_texts).nearest([texts[row] for row in compared], [None] * len(compared))
        for row, place in zip(compared, map(int, places), strict=True):
            if place >= 0:
                found[row] = Nearest(train_texts[place], train_labels[place], False)
    return found
