r"""Graded targets from sums over classes: what the loss needs of an anchor's targets, without looking at pairs.

All pairs of two classes share relevance $A$, scale and bias. With sums $m_b$ of the unit rows of class $b$ and class
sizes $n_b$, an anchor of class $a$ has (for the tables of dot products, `ClassPairTables.for_dot_products`)

$$\sum_j A_{ab}\, \mathrm{logit}_{ij} = h_i^\top \Big(\sum_b A_{ab}\, \mathrm{scale}_{ab}\, m_b\Big)
  + \sum_b A_{ab}\, \mathrm{bias}_{ab}\, n_b .$$

So graded targets cost one product of $(C, C)$ by $(C, D)$, or less where most entries are 0. The anchor's own class is
kept apart: where the anchor is a reference as well, it is subtracted from the sum of its class before anything else is
added. In a class of one row the two cancel exactly.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from labeldist.pairs import ClassPairTables

__all__ = ["ClassTargets", "TargetTables", "class_targets", "few_class_targets", "target_tables"]

# Numbers that `_EntryProduct` holds at a time.
MAX_ENTRY_NUMBERS = 2**22


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
        own_scale: `relevance * scale` of the own class, `(C,)`.
    """

    total: Tensor
    constant: Tensor
    pulls: Tensor
    own_scale: Tensor


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
        own_scale=targets.own_scale,
    )


def few_class_targets(
    tables: ClassPairTables, classes: Tensor, ref_classes: Tensor, sums: Tensor, sizes: Tensor, *, is_self: bool
) -> ClassTargets:
    """`class_targets` from the class pairs whose relevance is not 0, listed, in time proportional to their number.

    Args:
        tables: tables of dot products.
        classes: the anchors' class of each listed pair, `(P,)`.
        ref_classes: the references' class, `(P,)`.
        sums: as in `class_targets`, like the next.
        sizes: number of references of each class.
        is_self: whether the anchors are their own references.
    """
    assert tables.relevance is not None
    entries = classes * tables.num_classes + ref_classes
    relevance, scale, bias = (
        table.reshape(-1).index_select(0, entries) for table in (tables.relevance, tables.scale, tables.bias)
    )
    weights, scale, constant = _weighted(relevance, scale, bias, bias == -torch.inf)
    is_own = classes == ref_classes
    counts = sizes.index_select(0, ref_classes)
    if is_self:
        counts = (counts - is_own.to(counts.dtype)).clamp_min(0)
    zeros = sizes.new_zeros(tables.num_classes)
    return ClassTargets(
        total=zeros.index_add(0, classes, weights * counts),
        constant=zeros.index_add(0, classes, constant * counts),
        pulls=_EntryProduct.apply(scale.masked_fill(is_own, 0), classes, ref_classes, sums),
        own_scale=zeros.index_add(0, classes, scale.masked_fill(~is_own, 0)),
    )


class _EntryProduct(Function):
    """The product of a square matrix, given by its entries, with a matrix: `(P,)` three times and `(C, D)` to `(C, D)`.

    A few entries at a time: their rows together may be larger than the matrix.
    """

    @staticmethod
    def forward(ctx, values: Tensor, rows: Tensor, columns: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(values, rows, columns, matrix)
        return _add_entries(values, rows, columns, matrix)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] # torch declares *grads
        values, rows, columns, matrix = ctx.saved_tensors
        of_values = of_matrix = None
        if ctx.needs_input_grad[0]:
            parts = zip(_parts(rows, matrix), _parts(columns, matrix), strict=True)
            of_values = torch.cat([(grad[here] * matrix[there]).sum(dim=1) for here, there in parts])
        if ctx.needs_input_grad[3]:
            of_matrix = _add_entries(values, columns, rows, grad)
        return of_values, None, None, of_matrix


def _add_entries(values: Tensor, rows: Tensor, columns: Tensor, matrix: Tensor) -> Tensor:
    product = torch.zeros_like(matrix)
    for part, here, there in zip(*(_parts(tensor, matrix) for tensor in (values, rows, columns)), strict=True):
        product.index_add_(0, here, part[:, None] * matrix.index_select(0, there))
    return product


def _parts(entries: Tensor, matrix: Tensor) -> tuple[Tensor, ...]:
    return entries.split(max(1, MAX_ENTRY_NUMBERS // max(1, matrix.shape[1])))
