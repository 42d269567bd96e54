"""The costs of mistakes and decisions."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labeldist.reports.predictions import Predictions

__all__ = ["CostLevel", "Costs", "costs_of_mistakes"]

MAX_LEVELS = 12


@dataclass(frozen=True)
class CostLevel:
    """The mistakes with similar costs.

    Attributes:
        low: smallest cost of the level.
        high: largest cost of the level; equal to `low` if the table has few different costs.
        num_mistakes: number of mistakes with such a cost.
        expected: the same number if the mistakes of each class were spread evenly over the other classes.
    """

    low: float
    high: float
    num_mistakes: int
    expected: float


@dataclass(frozen=True)
class Costs:
    """The costs of decisions.

    Attributes:
        most_probable: mean cost per row if the most probable class is chosen.
        least_expected: mean cost per row if the class of least expected cost is chosen; `None` unless the
            probabilities of all classes are known.
        least_expected_accuracy: accuracy of these decisions; `None` unless the probabilities of all classes are known.
        mean_of_mistakes: mean cost of a mistake; `None` without a mistake.
        spread_evenly: the same mean if the mistakes of each class were spread evenly over the other classes.
        levels: mistakes by cost, the lowest cost first.
    """

    most_probable: float
    least_expected: float | None
    least_expected_accuracy: float | None
    mean_of_mistakes: float | None
    spread_evenly: float | None
    levels: tuple[CostLevel, ...]


def costs_of_mistakes(predictions: Predictions, costs: ArrayLike) -> Costs:
    r"""Compute mean costs, for the most probable class and for the class of least expected cost.

    The class of least expected cost is $\operatorname{argmin}_j \sum_i p_i\, C_{ij}$ (Elkan 2001, Eq. 1). It needs no
    additional training.

    Args:
        predictions: predictions of labeled rows.
        costs: costs of mistakes, `(C, C)`, non-negative, row = true class, column = predicted class.

    Raises:
        ValueError: if the table has the wrong shape, or a cost is negative or not finite.

    Examples:
        >>> from labeldist.reports.predictions import predictions_of
        >>> found = predictions_of([0, 2, 1], [0, 0, 2], class_names=["low", "mid", "high"])
        >>> costs = costs_of_mistakes(found, [[0, 1, 2], [1, 0, 1], [2, 1, 0]])
        >>> costs.most_probable, costs.mean_of_mistakes, [level.num_mistakes for level in costs.levels]
        (1.0, 1.5, [1, 1])
    """
    table = np.asarray(costs, dtype=np.float64)
    size = len(predictions.class_names)
    if table.shape != (size, size):
        raise ValueError(f"costs must have shape (C, C) = ({size}, {size}), got {table.shape}.")
    if not np.isfinite(table).all() or table.min() < 0:
        raise ValueError("costs must be finite and not negative.")
    labels, predicted, wrong = predictions.labels, predictions.predicted, predictions.is_wrong
    paid = table[labels, predicted]
    least, least_accuracy = None, None
    if predictions.probabilities is not None:
        decided = (predictions.probabilities @ table).argmin(axis=1)
        least, least_accuracy = float(table[labels, decided].mean()), float((decided == labels).mean())
    mistakes = np.bincount(labels[wrong], minlength=size)
    # For each true class: its mistakes, spread over the other classes.
    others = mistakes[:, None] / (size - 1) * (1 - np.eye(size))
    number = int(wrong.sum())
    return Costs(
        most_probable=float(paid.mean()),
        least_expected=least,
        least_expected_accuracy=least_accuracy,
        mean_of_mistakes=float(paid[wrong].mean()) if number else None,
        spread_evenly=float((others * table).sum() / number) if number else None,
        levels=_levels(table, paid[wrong], others),
    )


def _levels(
    table: NDArray[np.float64], paid: NDArray[np.float64], others: NDArray[np.float64]
) -> tuple[CostLevel, ...]:
    is_pair = ~np.eye(len(table), dtype=bool)
    values = np.unique(table[is_pair])
    if len(values) > MAX_LEVELS:
        values = np.unique(np.quantile(values, np.linspace(0, 1, 6)))
        ends = list(itertools.pairwise(values))
    else:
        ends = [(value, value) for value in values]
    levels = []
    for i, (low, high) in enumerate(ends):
        # A level that is a range has its upper end only if it is the last.
        is_open = low < high and i < len(ends) - 1
        inside, in_table = (
            (found >= low) & ((found < high) if is_open else (found <= high)) for found in (paid, table)
        )
        levels.append(CostLevel(float(low), float(high), int(inside.sum()), float(others[in_table & is_pair].sum())))
    return tuple(levels)
