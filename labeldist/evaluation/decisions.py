"""Decisions from class probabilities and their costs, if some mistakes are worse than others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from labeldist.checks import check_labels, check_matrix
from labeldist.confusion import ArrayLike, class_tensor, confusion_counts

__all__ = [
    "decide",
    "expected_cost",
    "group_accuracy",
    "mean_absolute_error",
    "posterior_median",
    "quadratic_weighted_kappa",
]


def decide(probabilities: ArrayLike, costs: ArrayLike) -> Tensor:
    r"""Choose the class of least expected cost for each row: $\operatorname{argmin}_c \sum_b p_b\, \mathrm{cost}_{bc}$.

    If each mistake costs 1, this is the most probable class. The decision needs no training. If you train with the
    costs, compare the result with this decision on the probabilities of a plain classifier.

    Args:
        probabilities: `(N, C)`, non-negative; each row sums to 1.
        costs: `(C, C)`, non-negative and finite, row = true class, column = chosen class.

    Returns:
        Class indices, `(N,)`, int64. Among equal costs, the class with the lowest index.

    Raises:
        ValueError: if shapes differ, or probabilities or costs are out of range.

    Examples:
        >>> decide([[0.6, 0.4]], [[0, 1], [5, 0]])  # missing the second class costs 5
        tensor([1])

    References:
        Elkan, *The Foundations of Cost-Sensitive Learning*, IJCAI 2001.
    """
    probabilities = checked_probabilities(probabilities)
    table = _costs(costs, probabilities.shape[1]).to(probabilities)
    return (probabilities @ table).argmin(dim=1)


def posterior_median(probabilities: ArrayLike) -> Tensor:
    r"""Choose the median class of each row, for ordered classes: the first $c$ with $\sum_{b \le c} p_b \ge \tfrac12$.

    It minimizes the expected absolute error, $\sum_b p_b\, \lvert b - c \rvert$.

    Args:
        probabilities: `(N, C)`, non-negative; each row sums to 1. The classes are in order.

    Returns:
        Class indices, `(N,)`, int64.

    Raises:
        ValueError: if the probabilities are out of range.

    Examples:
        >>> posterior_median([[0.4, 0.25, 0.35]])  # the most probable class is the first
        tensor([1])
    """
    cumulative = checked_probabilities(probabilities).cumsum(dim=1)
    # Half of the total, which is 1 up to rounding: a row always has a median.
    return (cumulative >= cumulative[:, -1:] / 2).to(torch.uint8).argmax(dim=1)


def expected_cost(labels: ArrayLike, predictions: ArrayLike, costs: ArrayLike) -> float:
    r"""Mean cost of the predictions, $\frac{1}{N} \sum_i \mathrm{cost}[y_i, \hat y_i]$.

    Args:
        labels: true classes, `(N,)`, integer, in [0, C).
        predictions: predicted classes, `(N,)`, in the same form.
        costs: `(C, C)`, non-negative and finite, row = true class, column = predicted class.

    Returns:
        The mean; NaN without rows.

    Raises:
        ValueError: if lengths differ, a class is out of range, or the costs are invalid.
        TypeError: if the classes are not integers.

    Examples:
        >>> expected_cost([0, 1, 1, 0], [0, 1, 0, 1], [[0, 1], [5, 0]])
        1.5
    """
    table = _costs(costs).double()
    counts = confusion_counts(*_classes(labels, predictions, len(table)), len(table))
    return ((counts * table).sum() / counts.sum()).item()


def mean_absolute_error(labels: ArrayLike, predictions: ArrayLike) -> float:
    r"""Mean number of steps between true and predicted class, for ordered classes: $\frac1N \sum_i |y_i - \hat y_i|$.

    Args:
        labels: true classes, `(N,)`, integer; the classes are in order.
        predictions: predicted classes, `(N,)`, in the same form.

    Returns:
        The mean; NaN without rows.

    Raises:
        ValueError: if lengths differ or a class is negative.
        TypeError: if the classes are not integers.

    Examples:
        >>> mean_absolute_error([0, 2, 4], [0, 3, 2])
        1.0
    """
    labels, predictions = _classes(labels, predictions)
    return (labels - predictions).abs().double().mean().item()


def quadratic_weighted_kappa(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    r"""Agreement beyond chance for ordered classes, with squared steps as weights.

    $$\kappa = 1 - \frac{\sum_{ab} (a - b)^2\, n_{ab}}{\sum_{ab} (a - b)^2\, n_{a \cdot}\, n_{\cdot b} / N}$$

    with $n_{ab}$ rows of class $a$ predicted as $b$.

    Args:
        labels: true classes, `(N,)`, integer, in [0, C); the classes are in order.
        predictions: predicted classes, `(N,)`, in the same form.
        num_classes: `C`.

    Returns:
        1 for perfect agreement, 0 for chance, below 0 for less agreement than chance. NaN if there are no rows, or if
        all true and predicted classes are the same class.

    Raises:
        ValueError: if lengths differ or a class is out of range.
        TypeError: if the classes are not integers.

    Examples:
        >>> round(quadratic_weighted_kappa([0, 1, 2, 2], [0, 1, 1, 2], 3), 3)
        0.8

    References:
        Cohen, *Weighted kappa*, Psychological Bulletin 1968.
    """
    counts = confusion_counts(*_classes(labels, predictions, num_classes), num_classes).double()
    rank = torch.arange(num_classes, dtype=torch.float64)
    squares = (rank[:, None] - rank).square()
    by_chance = counts.sum(dim=1)[:, None] * counts.sum(dim=0) / counts.sum()
    return (1 - (squares * counts).sum() / (squares * by_chance).sum()).item()


def group_accuracy(labels: ArrayLike, predictions: ArrayLike, groups: Sequence[object] | Tensor) -> float:
    r"""Fraction of the rows whose predicted class is in the same group as the true class.

    Args:
        labels: true classes, `(N,)`, integer, in [0, C).
        predictions: predicted classes, `(N,)`, in the same form.
        groups: the group of each class, `(C,)`: numbers or names.

    Returns:
        A number in [0, 1], at least as large as the accuracy; NaN without rows.

    Raises:
        ValueError: if lengths differ or a class is out of range.
        TypeError: if the classes are not integers.

    Examples:
        >>> group_accuracy([0, 1, 2], [1, 1, 0], groups=["sport", "sport", "politics"])
        0.6666666666666666
    """
    numbers = group_numbers(groups)
    labels, predictions = _classes(labels, predictions, len(numbers))
    return (numbers[labels] == numbers[predictions]).double().mean().item()


def group_numbers(groups: Sequence[object] | Tensor) -> Tensor:
    """The groups of the classes, numbered from 0, `(C,)`."""
    names = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.int64)


def _classes(labels: ArrayLike, predictions: ArrayLike, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Checked classes on the CPU."""
    labels, predictions = class_tensor(labels).cpu(), class_tensor(predictions).cpu()
    bound = 2**62 if num_classes is None else num_classes
    check_labels(labels, len(labels), bound)
    check_labels(predictions, len(labels), bound, name="predictions", rows="labels")
    return labels.long(), predictions.long()


def checked_probabilities(probabilities: ArrayLike) -> Tensor:
    """Probabilities, `(N, C)`, as float64 (float32 on a GPU).

    Raises:
        ValueError: unless each row is non-negative and sums to 1.

    Examples:
        >>> checked_probabilities([[0.5, 0.5]]).dtype
        torch.float64
    """
    table = torch.as_tensor(probabilities).detach()
    if table.ndim != 2 or not table.shape[1] or not table.is_floating_point():
        raise ValueError(f"probabilities must be floating point, (N, C), got {table.dtype} {tuple(table.shape)}.")
    table = table.double() if table.device.type == "cpu" else table.float()
    if not bool((table >= 0).all()) or not bool(((table.sum(dim=1) - 1).abs() < 1e-2).all()):
        raise ValueError(
            "probabilities must be non-negative and sum to 1 in each row, got others. Apply a softmax to logits."
        )
    return table


def _costs(costs: ArrayLike, num_classes: int | None = None) -> Tensor:
    table = torch.as_tensor(costs).detach().cpu()
    check_matrix(table, whole="costs", entries="Entries of costs")
    if num_classes is not None and len(table) != num_classes:
        raise ValueError(
            f"costs must have shape (C, C) = ({num_classes}, {num_classes}) for probabilities of {num_classes} "
            f"classes, got {tuple(table.shape)}."
        )
    return table
