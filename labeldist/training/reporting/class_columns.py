"""Predictions from a column of probabilities for each class, as `predict_proba` of scikit-learn gives them."""

from collections.abc import Callable, Mapping, Sequence

from labeldist.messages import listed, shown
from labeldist.training.errors import UserError
from labeldist.training.reporting.table_values import is_probability

__all__ = ["ROUNDING", "class_columns", "columns_of_all_classes", "most_probable"]

# A column of a class's probability: the class name, or one of these before it.
PREFIXES = ("", "p_", "prob_", "proba_", "probability_", "score_", "p(", "probs.", "probabilities.")
ROUNDING = 0.02
"""What a row of probabilities may miss 1 by."""

Row = Mapping[str, float] | None
"""The numbers of a row, by column."""


def class_columns(classes: Sequence[str], columns: Sequence[str]) -> dict[str, str] | None:
    """The column of each class's probability; `None` unless every class has one of its own.

    Examples:
        >>> class_columns(["ask", "tell"], ["id", "p_ask", "p_tell"])
        {'ask': 'p_ask', 'tell': 'p_tell'}
    """
    folded = {name.casefold(): name for name in columns}
    found = {}
    for name in classes:
        key = next((key for prefix in PREFIXES if (key := _named(prefix, name)) in folded), None)
        if key is None:
            return None
        found[name] = folded[key]
    return found if len(set(found.values())) == len(classes) else None


def _named(prefix: str, name: str) -> str:
    return f"{prefix}{name}{')' if prefix.endswith('(') else ''}".casefold()


def columns_of_all_classes(
    labels: Sequence[str], columns: Sequence[str], rows: Sequence[Row], path: str, place: Callable[[int], str]
) -> dict[str, str]:
    """The column of each class that a label names, and of each class that no row is labeled with.

    Args:
        labels: the classes that labels name.
        columns: those that may hold a probability.
        rows: their numbers.
        path: of the table.
        place: the name of a row, by its index.

    Raises:
        UserError: if a label has no column, or the probabilities of a row lie outside [0, 1] or do not sum to 1.
    """
    known = class_columns(labels, columns)
    if known is None:
        lacking = next((name for name in labels if class_columns([name], columns) is None), None)
        reason = f"none has the probability of class {shown(lacking)}"
        if lacking is None:
            reason = "two classes differ in case only, so their columns of probabilities cannot be told apart"
        raise UserError(
            f"{path}: no column has predictions, and {reason}. Give --prediction-column, or a column of probabilities "
            "for each class."
        )
    others = [name for name in columns if name not in known.values()]
    others = [name for name in others if all(_is_probability(row, name) for row in rows)]
    prefix = next((p for p in PREFIXES if all(_named(p, name) == known[name].casefold() for name in labels)), "")
    end = len(")") if prefix.endswith("(") else 0
    more = {name[len(prefix) : len(name) - end]: name for name in others if name.casefold().startswith(prefix)}
    for found in (known, {**more, **known}):
        faulty = next((i for i, row in enumerate(rows) if not _is_distribution(row, found)), None)
        if faulty is None:
            return found
    row = rows[faulty] or {}
    got = [f"{row[name]:.4g} in {shown(name)}" if name in row else f"none in {shown(name)}" for name in known.values()]
    raise UserError(
        f"{place(faulty)}: no column has predictions, so the probabilities of all classes must lie in [0, 1] and sum "
        f"to 1, got {listed(got, 5)}. Give --prediction-column, or a column for each class that the model knows."
    )


def most_probable(labels: Sequence[str], columns: Mapping[str, str], rows: Sequence[Row], path: str) -> list[str]:
    """The class with the largest probability in each row.

    Args:
        labels: the class of each row.
        columns: the column of each class.
        rows: a probability in each of these columns.
        path: of the table.

    Raises:
        UserError: if the columns repeat the labels, as one-hot labels do.
    """
    found = [max(columns, key=lambda name: row[columns[name]]) for row in rows if row is not None]
    is_certain = all(row[column] in (0, 1) for row in rows if row for column in columns.values())
    if is_certain and found == list(labels):
        raise UserError(
            f"{path}: no column has predictions, and the columns {listed(map(shown, columns.values()), 3)} repeat the "
            "label. Give --prediction-column, or the model's probabilities."
        )
    return found


def _is_probability(row: Row, column: str) -> bool:
    return row is not None and column in row and is_probability(row[column])


def _is_distribution(row: Row, columns: Mapping[str, str]) -> bool:
    if row is None or not all(_is_probability(row, column) for column in columns.values()):
        return False
    return abs(sum(row[column] for column in columns.values()) - 1) <= ROUNDING
