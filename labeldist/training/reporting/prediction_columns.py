"""Which columns of a table of predictions hold what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labeldist.messages import shown
from labeldist.training.data.columns import LABEL_COLUMNS, TEXT_COLUMNS, find_column
from labeldist.training.errors import UserError
from labeldist.training.reporting.class_columns import class_columns
from labeldist.training.reporting.table_values import class_of, maybe_number, maybe_probability

__all__ = ["ColumnFinder", "PredictionColumns"]

TRUE_COLUMNS = ("label", "labels", "true_label", "gold", "y_true", "true", "truth", "actual", *LABEL_COLUMNS[2:])
PREDICTED_COLUMNS = (
    "predicted", "prediction", "predictions", "pred", "predicted_label", "predicted_class", "pred_label", "y_pred",
    "model_label", "guess", "output",
)  # fmt: skip
"""Columns taken for the prediction unless one is named: the first that is there, in either case."""

PROBABILITY_COLUMNS = ("probability", "confidence", "score", "prob", "proba", "predicted_probability", "p")
ALL_PROBABILITIES = ("probabilities", "probs", "scores")


@dataclass(frozen=True)
class PredictionColumns:
    """Columns that the user names; what is None is found.

    Attributes:
        text: of the texts.
        label: of the true classes.
        prediction: of the predicted classes.
        probability: of the predicted class's probability.
    """

    text: str | None = None
    label: str | None = None
    prediction: str | None = None
    probability: str | None = None


class ColumnFinder:
    """Which column of a table holds what, found from its first row.

    A column that was found by its name alone and holds something else is dropped, with a note; one that the user named
    must fit.

    Args:
        row: the first row.
        where: its place.
        named: what the user names.
        header: where the names of the columns stand, if not in the row.

    Raises:
        UserError: for a missing label, and where no column holds labels or predictions, or a named one is not there.
    """

    def __init__(self, row: Mapping[str, Any], where: str, named: PredictionColumns, header: str | None = None):
        first = dict(row)
        self.header = header or where
        self.is_named = named.probability is not None
        self.dropped: dict[str, str] = {}
        self.num_missing = 0
        self.label = find_column(
            first, self.header, named=named.label, known=TRUE_COLUMNS, option="--label-column", kind="label"
        )
        others = [self.label]
        self.all = _optional(first, ALL_PROBABILITIES, others)
        self.predicted = self._prediction(first, where, named.prediction)
        self.by_class_columns = self.predicted is None and self.all is None
        if self.predicted is not None:
            others.append(self.predicted)
        self.probability = (
            find_column(
                first, self.header, named=named.probability, known=(), option="--probability-column", kind="probability"
            )
            if named.probability is not None
            # The columns of the classes say it, one of which may have such a name.
            else (None if self.by_class_columns else _optional(first, PROBABILITY_COLUMNS, others))
        )
        self.text = (
            find_column(first, self.header, named=named.text, known=TEXT_COLUMNS, option="--text-column", kind="text")
            if named.text is not None
            else _optional(first, TEXT_COLUMNS, [*others, *([self.probability] if self.probability else [])])
        )
        taken = {self.label, self.predicted, self.probability, self.text, self.all}
        self.rest = [name for name in first if name not in taken]

    def _prediction(self, row: Mapping[str, Any], where: str, named: str | None) -> str | None:
        """The column of predictions; `None` where there are probabilities of all classes to find them from."""
        others = {name: value for name, value in row.items() if name != self.label}
        if named is None:
            found = _optional(others, PREDICTED_COLUMNS, ())
            if found is not None or self.all is not None or self._has_own_column(row, list(others), where):
                return found
        try:
            return find_column(
                dict(row),
                self.header,
                named=named,
                known=PREDICTED_COLUMNS,
                option="--prediction-column",
                kind="prediction",
                others=(self.label,),
            )
        except UserError as error:
            more = "" if named else " Or give each class a column of its probability, with the name of the class."
            raise UserError(f"{error}{more}") from error

    def _has_own_column(self, row: Mapping[str, Any], columns: Sequence[str], where: str) -> bool:
        """Whether the class of the first row has a column of probabilities: then each class should."""
        own = class_of(row[self.label], f"label (column {shown(self.label)})", where)
        number = maybe_number(own)
        own = str(int(number)) if number is not None and number.is_integer() else own
        found = class_columns([own], columns)
        return found is not None and maybe_probability(row[found[own]]) is not None

    def drop_probability(self, reason: str) -> None:
        """Leave out the column of probabilities, or raise if the user named it."""
        if self.is_named:
            raise UserError(reason)
        assert self.probability is not None
        self.dropped[self.probability] = reason
        self.probability = None

    def drop_all(self, reason: str) -> None:
        """Leave out the column of all probabilities, or raise if the prediction is found from it."""
        if self.predicted is None:
            raise UserError(reason)
        assert self.all is not None
        self.dropped[self.all] = reason
        self.all = None

    def in_words(self) -> str:
        """Which columns were read."""
        names = {
            "text": self.text,
            "label": self.label,
            "prediction": self.predicted or "the most probable class",
            "probability": self.probability,
            "all probabilities": self.all,
        }
        return "; ".join(f"{kind}: {shown(name)}" for kind, name in names.items() if name is not None)


def _optional(row: Mapping[str, Any], known: Sequence[str], others: Sequence[str]) -> str | None:
    folded = {name.casefold(): name for name in reversed(list(row)) if name not in others}
    return next((folded[name] for name in known if name in folded), None)
