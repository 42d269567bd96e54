"""How well embeddings group the classes: whether rows of one class are each other's neighbors."""

import math

import torch
from pytorch_metric_learning.distances import DotProductSimilarity
from torch import Tensor

from labeldist.checks import check_rows
from labeldist.confusion import ArrayLike, class_tensor
from labeldist.functional import unit_rows

__all__ = ["METRICS", "embedding_metrics"]

METRICS = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
# Queries whose neighbors are searched at a time: a matrix of all rows by all rows is never held.
BLOCK_ROWS = 256


@torch.no_grad()
def embedding_metrics(
    embeddings: Tensor, labels: ArrayLike, *, ref_emb: Tensor | None = None, ref_labels: ArrayLike | None = None
) -> dict[str, float]:
    r"""Measure how often the nearest neighbors of a row, by cosine, have its class.

    These are metrics of pytorch-metric-learning's `AccuracyCalculator`, each a mean over the queries. $R$ is the number
    of references of the query's class, and $\mathrm{rel}(k)$ is 1 if the $k$-th nearest reference has this class and 0
    otherwise:

    - `precision_at_1`: the nearest reference has the class, $\mathrm{rel}(1)$
    - `r_precision`: fraction of the $R$ nearest references that have it, $\frac{1}{R} \sum_{k=1}^{R} \mathrm{rel}(k)$
    - `mean_average_precision_at_r`: the same, with more weight on nearer references,
      $\frac{1}{R} \sum_{k=1}^{R} \mathrm{rel}(k)\, \mathrm{precision}(k)$

    Without references, each row is compared with all *other* rows. A query without a reference of its class (the only
    row of a class) is left out of the means, but remains a reference for the others. The order of equally near
    references is not defined.

    Queries are searched in blocks, so memory grows with the number of references and not with its square. faiss is not
    needed.

    Args:
        embeddings: queries, `(B, D)`, floating point, finite; rows may have any length. Computed in float32.
        labels: class of each query, `(B,)`, any integers: a tensor, a numpy array or a list.
        ref_emb: references, `(R, D)`; `None` uses the other queries. A query that is also in `ref_emb` finds itself.
        ref_labels: class of each reference, `(R,)`, in the same form; required with `ref_emb`.

    Returns:
        The three metrics by name, each in [0, 1]; NaN if no query has a reference of its class.

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
    # Imported here because it loads scikit-learn, which would add a second to `import labeldist`.
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    labels = class_tensor(labels)
    ref_labels = None if ref_labels is None else class_tensor(ref_labels)
    _check_rows(embeddings, labels, ref_emb, ref_labels)
    rows, classes, references, ref_classes = _prepared(embeddings, labels, ref_emb, ref_labels)
    num_same = torch.bincount(ref_classes, minlength=int(classes.max()) + 1)[classes]
    queries = (num_same > (ref_emb is None)).nonzero()[:, 0]
    if not len(queries):
        return dict.fromkeys(METRICS, math.nan)
    calculator = AccuracyCalculator(
        include=METRICS,
        # As many neighbors as the largest class has rows: R-precision needs no more.
        k="max_bin_count",
        device=rows.device,
        # The dot product of unit rows is their cosine.
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
    # Any integers may name the classes: their range is not checked.
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
    # Renumber from 0: pytorch-metric-learning compares labels as float32, which rounds large ids to the same number.
    numbers = torch.unique(both, return_inverse=True)[1]
    classes = numbers[: len(rows)]
    if ref_emb is None:
        return rows, classes, rows, classes
    return rows, classes, unit_rows(ref_emb.to(rows.device)).float(), numbers[len(rows) :]


def _block_first(block: Tensor, num_rows: int) -> Tensor:
    """All row numbers, those of `block` first: pytorch-metric-learning expects each query at its own position."""
    is_other = torch.ones(num_rows, dtype=torch.bool, device=block.device)
    is_other[block] = False
    return torch.cat([block, is_other.nonzero()[:, 0]])
