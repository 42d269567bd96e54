"""The label distances of a classifier's mistakes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.checks import check_matrix
from labeldist.ldm import LabelDistanceMatrix, StaticLDM

__all__ = ["MistakeSeverity", "mistake_severity"]


class MistakeSeverity(NamedTuple):
    """The label distances of a classifier's mistakes.

    Attributes:
        mean_distance: mean entry of the matrix over the mistakes; NaN without a mistake.
        expected_distance: the same mean if the mistakes of each class were spread evenly over the other classes.
            Compare `mean_distance` with it. NaN without a mistake.
        num_mistakes: number of wrong predictions.
    """

    mean_distance: float
    expected_distance: float
    num_mistakes: int


def mistake_severity(
    counts: Tensor | Sequence[Sequence[int]], ldm: LabelDistanceMatrix | Tensor | Sequence[Sequence[float]]
) -> MistakeSeverity:
    r"""Mean label distance of the wrong predictions.

    $$\mathrm{severity} = \frac{\sum_{a \ne b} n_{ab}\, \mathrm{LDM}_{ab}}{\sum_{a \ne b} n_{ab}}, \qquad
    \mathrm{expected} = \frac{\sum_{a \ne b} n_{ab}\, \overline{\mathrm{LDM}}_a}{\sum_{a \ne b} n_{ab}}$$

    with $n_{ab}$ rows of class $a$ predicted as $b$ and $\overline{\mathrm{LDM}}_a$ the mean off-diagonal entry of row
    $a$. Bertinetto et al. use this form with the height of the lowest common ancestor in a hierarchy as the matrix.

    The matrix decides what a high value means:

    - In the matrices of this library, a *large* entry marks two classes that are easily confused and are therefore
      pushed apart harder: the listed pairs of `from_pairs`, the related classes of `Relation.near`, the confused pairs
      of `from_confusion`. A severity above the expected value then means that the mistakes are between marked pairs,
      and training that separates those pairs lowers it.
    - In a matrix of costs, such as the height of the lowest common ancestor, a large entry marks a bad mistake, and
      the severity is the mean cost of a mistake.

    A mean does not depend on the number of mistakes: it rises if the cheapest mistakes disappear. Read it together with
    `num_mistakes`.

    Args:
        counts: confusion counts, `(C, C)`, integer, non-negative, row = true class, column = predicted: see
            `confusion_counts`. The diagonal is ignored.
        ldm: label distances or costs, `(C, C)`, non-negative, row = true class. The diagonal is ignored.

    Returns:
        The severity, its expected value and the number of mistakes, computed in float64. Both means are NaN if no
        prediction is wrong.

    Raises:
        ValueError: if the shapes disagree or an entry is negative, NaN or infinite.
        TypeError: if `counts` are not integers.

    Examples:
        >>> ldm = StaticLDM.from_pairs([("fast", "slow")], class_names=["fast", "slow", "question"])
        >>> mistake_severity([[7, 2, 1], [1, 8, 1], [0, 0, 9]], ldm)  # three mistakes between fast and slow, two others
        MistakeSeverity(mean_distance=3.4, expected_distance=3.0, num_mistakes=5)

    References:
        Bertinetto et al., *Making Better Mistakes: Leveraging Class Hierarchies with Deep Networks*, CVPR 2020.
    """
    counts = torch.as_tensor(counts)
    check_matrix(counts, whole="Confusion counts", entries="Confusion counts")
    if counts.is_floating_point():
        raise TypeError(f"Confusion counts must be integers (numbers of rows), got {counts.dtype}.")
    matrix = (ldm if isinstance(ldm, LabelDistanceMatrix) else StaticLDM(ldm)).matrix
    if counts.shape != matrix.shape:
        raise ValueError(
            f"counts must have the shape of ldm, {tuple(matrix.shape)}, got {tuple(counts.shape)}. Count over the same "
            "classes."
        )
    mistakes, distances = (tensor.detach().cpu().double().clone().fill_diagonal_(0) for tensor in (counts, matrix))
    num_mistakes = int(mistakes.sum())
    if not num_mistakes:
        return MistakeSeverity(math.nan, math.nan, 0)
    # A mistake needs two classes, so C - 1 is at least 1 here.
    row_means = distances.sum(dim=1) / (len(distances) - 1)
    severity = (mistakes * distances).sum() / num_mistakes
    expected = (mistakes.sum(dim=1) * row_means).sum() / num_mistakes
    return MistakeSeverity(severity.item(), expected.item(), num_mistakes)
