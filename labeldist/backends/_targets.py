r"""Graded targets from sums over classes: what the loss needs of an anchor's targets, without looking at pairs.

All pairs of two classes share relevance $A$, scale and bias. With sums $m_b$ of the unit rows of class $b$ and class
sizes $n_b$, an anchor of class $a$ has (for the tables of dot products, `ClassPairTables.for_dot_products`)

$$\sum_j A_{ab}\, \mathrm{logit}_{ij} = h_i^\top \Big(\sum_b A_{ab}\, \mathrm{scale}_{ab}\, m_b\Big)
  + \sum_b A_{ab}\, \mathrm{bias}_{ab}\, n_b .$$

So graded targets cost one product of $(C, C)$ by $(C, D)$. The anchor's own class is kept apart: where the anchor is a
reference as well, it is subtracted from the sum of its class before anything else is added. In a class of one row the
two cancel exactly.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.pairs import ClassPairTables

__all__ = ["ClassTargets", "TargetTables", "class_targets", "target_tables"]


class TargetTables(NamedTuple):
    """Tables of dot products, weighted by relevance, for other classes and for the anchor's own class.

    Attributes:
        weights: relevance, `(C, C)`; 0 on the diagonal and for excluded class pairs.
        scale: `weights * scale`, `(C, C)`.
        constant: `weights * (bias - log weights)`, `(C, C)`.
        own_weights: relevance of the own class, `(C,)`; 0 where its pairs are excluded.
        own_scale: `own_weights * scale`, `(C,)`.
        own_constant: `own_weights * (bias - log own_weights)`, `(C,)`.
    """

    weights: Tensor
    scale: Tensor
    constant: Tensor
    own_weights: Tensor
    own_scale: Tensor
    own_constant: Tensor


def target_tables(tables: ClassPairTables) -> TargetTables:
    """Weight the tables of dot products by their relevance, which is set. An entry of 0 has no gradient."""
    relevance = tables.relevance
    assert relevance is not None
    is_out = (relevance == 0) | (tables.bias == -torch.inf)
    own_is_out = is_out.diagonal().clone()
    own = _weighted(relevance.diagonal(), tables.scale.diagonal(), tables.bias.diagonal(), own_is_out)
    return TargetTables(*_weighted(relevance, tables.scale, tables.bias, is_out.fill_diagonal_(True)), *own)


def _weighted(relevance: Tensor, scale: Tensor, bias: Tensor, is_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weights = relevance.masked_fill(is_out, 0)
    # Replace the entries before the log and the product: 0 * inf is NaN.
    constant = bias.masked_fill(is_out, 0) - relevance.masked_fill(is_out, 1).log()
    return weights, weights * scale, weights * constant


class ClassTargets(NamedTuple):
    """Sums over the references that are the same for all anchors of a class.

    Attributes:
        total: sum of the relevances, `(C,)`, the $Z$ of the targets; 0 without a relevant reference.
        constant: sum of `relevance * (bias - log relevance)`, `(C,)`.
        pulls: sum of `relevance * scale * row` over the references of *other* classes, `(C, D)`.
    """

    total: Tensor
    constant: Tensor
    pulls: Tensor


def class_targets(targets: TargetTables, sums: Tensor, sizes: Tensor, *, is_self: bool) -> ClassTargets:
    """Sum the weighted tables over the references.

    Args:
        targets: from `target_tables`.
        sums: sum of the unit rows of each class of references, `(C, D)`.
        sizes: number of references of each class, `(C,)`, in the dtype of the sums.
        is_self: whether the anchors are their own references, so that one row of its class is the anchor itself.
    """
    own_sizes = (sizes - 1).clamp_min(0) if is_self else sizes
    return ClassTargets(
        total=targets.weights @ sizes + targets.own_weights * own_sizes,
        constant=targets.constant @ sizes + targets.own_constant * own_sizes,
        pulls=targets.scale @ sums,
    )
