"""How well embeddings order related classes: neighbors first by class, then by relation."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from labeldist.checks import check_count, check_matrix, check_rows
from labeldist.confusion import ArrayLike, class_tensor
from labeldist.evaluation.decisions import group_numbers
from labeldist.evaluation.retrieval import BLOCK_ROWS
from labeldist.functional import unit_rows

__all__ = ["graded_ndcg", "group_mean_average_precision"]


@torch.no_grad()
def graded_ndcg(
    embeddings: ArrayLike,
    labels: ArrayLike,
    gains: ArrayLike,
    *,
    k: int = 50,
    ref_emb: ArrayLike | None = None,
    ref_labels: ArrayLike | None = None,
) -> float:
    r"""Normalized discounted cumulative gain of the $k$ nearest rows by cosine, with a gain for each pair of classes.

    $$\mathrm{nDCG@}k = \frac{\sum_{r=1}^{k} g_r / \log_2(r + 1)}{\sum_{r=1}^{k} g^*_r / \log_2(r + 1)}$$

    with $g_r$ the gain of the $r$-th nearest reference and $g^*$ the gains in decreasing order. The result is the mean
    over the queries. Without references, each row is compared with all other rows. A query without a reference of
    positive gain is left out. The order of equally near references is not defined.

    Args:
        embeddings: queries, `(B, D)`, floating point, finite; rows may have any length.
        labels: class of each query, `(B,)`, integer, in [0, C).
        gains: `(C, C)`, non-negative, row = the query's class: for example 3 for the same class, 1 for the same group.
        k: number of nearest references to use, at least 1.
        ref_emb: references, `(R, D)`; `None` uses the other queries.
        ref_labels: class of each reference, `(R,)`; required with `ref_emb`.

    Returns:
        A number in [0, 1]; NaN if no query has a reference of positive gain.

    Raises:
        ValueError: if shapes disagree, a class is out of range, or an entry is not finite.
        TypeError: if labels are not integers or embeddings not floating point.

    Examples:
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> graded_ndcg(rows, torch.tensor([0, 0, 1]), [[3, 1], [1, 3]])
        1.0

    References:
        Järvelin and Kekäläinen, *Cumulated gain-based evaluation of IR techniques*, TOIS 2002.
    """
    check_count("k", k)
    table = torch.as_tensor(gains).detach()
    check_matrix(table, whole="gains", entries="Entries of gains")
    embeddings = torch.as_tensor(embeddings)
    table = table.to(embeddings.device, torch.float32)
    total, number = 0.0, 0
    for classes, found in _rankings(embeddings, labels, len(table), ref_emb, ref_labels):
        gain = table[classes[:, None], found]  # (block, references)
        discounts = 1 / torch.arange(2, gain.shape[1] + 2, device=gain.device, dtype=torch.float32).log2()
        discounts[k:] = 0
        ideal = gain.sort(dim=1, descending=True).values @ discounts
        has_gain = ideal > 0
        total += ((gain @ discounts)[has_gain] / ideal[has_gain]).double().sum().item()
        number += int(has_gain.sum())
    return total / number if number else math.nan


@torch.no_grad()
def group_mean_average_precision(
    embeddings: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[object] | Tensor,
    *,
    ref_emb: ArrayLike | None = None,
    ref_labels: ArrayLike | None = None,
) -> float:
    r"""Mean average precision of the references in the query's group, ranked by cosine.

    $\mathrm{AP} = \frac{1}{G} \sum_{r} \mathrm{rel}(r)\, \mathrm{precision}(r)$, where $G$ is the number of references
    in the query's group, and $\mathrm{rel}(r)$ is 1 if the $r$-th nearest reference is in this group and 0 otherwise.
    Queries and references are as in `graded_ndcg`. A query without a reference in its group is left out.

    Args:
        embeddings: queries, `(B, D)`, floating point, finite.
        labels: class of each query, `(B,)`, integer, in [0, C).
        groups: the group of each class, `(C,)`: numbers or names.
        ref_emb: references, `(R, D)`; `None` uses the other queries.
        ref_labels: class of each reference, `(R,)`; required with `ref_emb`.

    Returns:
        A number in [0, 1]; NaN if no query has a reference in its group.

    Raises:
        ValueError: if shapes disagree, a class is out of range, or an entry is not finite.
        TypeError: if labels are not integers or embeddings not floating point.

    Examples:
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> group_mean_average_precision(rows, torch.tensor([0, 1, 2, 2]), groups=["sport", "sport", "politics"])
        1.0
    """
    embeddings = torch.as_tensor(embeddings)
    numbers = group_numbers(groups).to(embeddings.device)
    total, number = 0.0, 0
    for classes, found in _rankings(embeddings, labels, len(numbers), ref_emb, ref_labels):
        is_relevant = (numbers[classes][:, None] == numbers[found]).float()
        rank = torch.arange(1, is_relevant.shape[1] + 1, device=is_relevant.device)
        num_relevant = is_relevant.sum(dim=1)
        precision = is_relevant.cumsum(dim=1) / rank
        has_relevant = num_relevant > 0
        averages = (is_relevant * precision).sum(dim=1)[has_relevant] / num_relevant[has_relevant]
        total += averages.double().sum().item()
        number += int(has_relevant.sum())
    return total / number if number else math.nan


def _rankings(
    embeddings: Tensor, labels: ArrayLike, num_classes: int, ref_emb: ArrayLike | None, ref_labels: ArrayLike | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of queries: their classes, `(block,)`, and the classes of their references, nearest first."""
    labels = class_tensor(labels)
    check_rows(embeddings, labels, num_classes)
    if (ref_emb is None) != (ref_labels is None):
        raise ValueError("ref_emb and ref_labels go together: pass both or neither.")
    is_self = ref_emb is None
    others, other_labels = (embeddings, labels) if is_self else (torch.as_tensor(ref_emb), class_tensor(ref_labels))
    if not is_self:
        check_rows(others, other_labels, num_classes, prefix="ref_", dim=embeddings.shape[1])
    for name, rows in (("embeddings", embeddings), ("ref_emb", others)):
        if not torch.isfinite(rows).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity.")
    queries, references = unit_rows(embeddings).float(), unit_rows(others.to(embeddings.device)).float()
    labels, other_labels = labels.to(queries.device).long(), other_labels.to(queries.device).long()
    with torch.autocast(queries.device.type, enabled=False):
        for block in torch.arange(len(queries), device=queries.device).split(BLOCK_ROWS):
            similarity = queries[block] @ references.T
            if is_self:
                # The row itself comes last, and is cut off.
                similarity[torch.arange(len(block), device=block.device), block] = -torch.inf
            order = similarity.argsort(dim=1, descending=True)
            yield labels[block], other_labels[order[:, : len(references) - is_self]]
