r"""How near the mistakes of a classifier lie, and how well its embeddings group the classes.

Two questions that accuracy leaves open: which *pairs* of classes the remaining mistakes fall on, and whether rows of
one class are each other's neighbours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pytorch_metric_learning.distances import DotProductSimilarity
from torch import Tensor

from labeldist.checks import check_matrix, check_rows
from labeldist.functional import unit_rows
from labeldist.ldm import LabelDistanceMatrix, StaticLDM

__all__ = ["MistakeSeverity", "embedding_metrics", "mistake_severity"]

METRICS = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
# Queries whose neighbours are searched at a time: no matrix of all rows by all rows is ever held.
BLOCK_ROWS = 256


class MistakeSeverity(NamedTuple):
    """Where in a label-distance matrix the mistakes of a classifier fall.

    Attributes:
        mean_distance: mean entry of the matrix over the mistakes; NaN without a mistake.
        expected_distance: the same mean if each class's mistakes were spread evenly over the other classes: the level
            of chance, against which `mean_distance` is read. NaN without a mistake.
        num_mistakes: wrong predictions, in rows.
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
    $a$. The form of Bertinetto et al., who take the height of the lowest common ancestor in a hierarchy for the matrix.

    What a high value means is the matrix's to say:

    - In the matrices of this library a *large* entry stands between classes that are easily confused and are therefore
      pushed apart harder: the listed pairs of `from_pairs`, the *near* classes of `from_hierarchy`, the confused ones
      of `from_confusion`. Under these, severity above the expected value says that the mistakes fall on the pairs that
      the matrix singles out; it sinks where those pairs are repaired.
    - In a matrix of costs (the height of the lowest common ancestor is one) a large entry is a bad mistake, and
      severity is the mean cost of a mistake.

    A mean does not see how many mistakes there are: repairing cheap ones raises it. Read it beside `num_mistakes`.

    Args:
        counts: confusion counts, `(C, C)`, integer, non-negative, row = true class, column = predicted: see
            `confusion_counts`. The diagonal is not looked at.
        ldm: label distances or costs, `(C, C)`, non-negative, row = true class. The diagonal is not looked at.

    Returns:
        Severity, its level by chance, and the number of mistakes, computed in float64. Both means are NaN where no
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
    # A mistake takes two classes: C - 1 is not 0 here.
    row_means = distances.sum(dim=1) / (len(distances) - 1)
    severity = (mistakes * distances).sum() / num_mistakes
    expected = (mistakes.sum(dim=1) * row_means).sum() / num_mistakes
    return MistakeSeverity(severity.item(), expected.item(), num_mistakes)


@torch.no_grad()
def embedding_metrics(
    embeddings: Tensor, labels: Tensor, *, ref_emb: Tensor | None = None, ref_labels: Tensor | None = None
) -> dict[str, float]:
    r"""How often the nearest neighbours of a row, by cosine, are of its own class.

    The metrics of pytorch-metric-learning's `AccuracyCalculator`, each the mean over the queries. With $R$ references
    of the query's class and $\mathrm{rel}(k)$ whether the $k$-th nearest reference is of it:

    - `precision_at_1`: whether the nearest reference is of the class, $\mathrm{rel}(1)$
    - `r_precision`: the share of the class among the $R$ nearest, $\frac{1}{R} \sum_{k=1}^{R} \mathrm{rel}(k)$
    - `mean_average_precision_at_r`: the same with weight on the order,
      $\frac{1}{R} \sum_{k=1}^{R} \mathrm{rel}(k)\, \mathrm{precision}(k)$

    Without references each row is compared with all *other* rows. A query without a reference of its class (a class of
    one row) can find nothing and is left out of the means; it still stands among the references of the others. Which
    of several equally near references comes first is not defined.

    The work goes in blocks of queries: memory grows with the number of references, not with its square. faiss is not
    needed.

    Args:
        embeddings: queries, `(B, D)`, floating point, finite, of any length. Computed in float32 whatever their type.
        labels: class of each query, `(B,)`, any integers.
        ref_emb: references, `(R, D)`; the other queries if `None`. Given, they are all compared: a row that is among
            the queries as well finds itself.
        ref_labels: class of each reference, `(R,)`; goes with `ref_emb`.

    Returns:
        The three metrics by name, each in [0, 1]; NaN where no query has a reference of its class.

    Raises:
        ValueError: if shapes disagree, there is no row, or an entry is NaN or infinite.
        TypeError: if labels are not integers or embeddings not floating point.

    Examples:
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> embedding_metrics(embeddings, torch.tensor([0, 0, 1, 1]))
        {'precision_at_1': 1.0, 'r_precision': 1.0, 'mean_average_precision_at_r': 1.0}

    References:
        Musgrave, Belongie and Lim, *A Metric Learning Reality Check*, ECCV 2020.
    """
    # Imported here: it loads scikit-learn, a second that `import labeldist` need not cost.
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    _check_rows(embeddings, labels, ref_emb, ref_labels)
    rows, classes, references, ref_classes = _prepared(embeddings, labels, ref_emb, ref_labels)
    num_same = torch.bincount(ref_classes, minlength=int(classes.max()) + 1)[classes]
    queries = (num_same > (ref_emb is None)).nonzero()[:, 0]
    if not len(queries):
        return dict.fromkeys(METRICS, math.nan)
    calculator = AccuracyCalculator(
        include=METRICS,
        # As many neighbours as the largest class has rows: what R-precision needs at most.
        k="max_bin_count",
        device=rows.device,
        # Of unit rows, their dot product is the cosine.
        knn_func=CustomKNN(DotProductSimilarity(normalize_embeddings=False)),
    )
    sums = dict.fromkeys(METRICS, 0.0)
    with torch.autocast(rows.device.type, enabled=False):
        for block in queries.split(BLOCK_ROWS):
            order = _block_first(block, len(rows)) if ref_emb is None else slice(None)
            found = calculator.get_accuracy(
                rows[block], classes[block], references[order], ref_classes[order], ref_includes_query=ref_emb is None
            )
            for name in METRICS:
                sums[name] += found[name] * len(block)
    return {name: total / len(queries) for name, total in sums.items()}


def _check_rows(embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None) -> None:
    # Any integers may name the classes: their range is not looked at.
    check_rows(embeddings, labels, 0, validate=False)
    if (ref_emb is None) != (ref_labels is None):
        raise ValueError("ref_emb and ref_labels go together: pass both or neither.")
    if ref_emb is not None and ref_labels is not None:
        check_rows(ref_emb, ref_labels, 0, prefix="ref_", dim=embeddings.shape[1], validate=False)
    for name, rows in (("embeddings", embeddings), ("ref_emb", ref_emb)):
        if rows is None:
            continue
        if not len(rows):
            raise ValueError(f"{name} must have at least one row, got none. Metrics of nothing are undefined.")
        if not torch.isfinite(rows).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity.")


def _prepared(
    embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit rows and classes, of the queries and of the references, on the device of `embeddings`."""
    rows = unit_rows(embeddings).float()
    labels = labels.to(rows.device).long()
    both = labels if ref_labels is None else torch.cat([labels, ref_labels.to(rows.device).long()])
    # Numbered from 0: pytorch-metric-learning compares labels as float32, in which large ids fall together.
    numbers = torch.unique(both, return_inverse=True)[1]
    classes = numbers[: len(rows)]
    if ref_emb is None:
        return rows, classes, rows, classes
    return rows, classes, unit_rows(ref_emb.to(rows.device)).float(), numbers[len(rows) :]


def _block_first(block: Tensor, num_rows: int) -> Tensor:
    """All row numbers, those of `block` first: so pytorch-metric-learning knows which reference a query is itself."""
    is_other = torch.ones(num_rows, dtype=torch.bool, device=block.device)
    is_other[block] = False
    return torch.cat([block, is_other.nonzero()[:, 0]])
