r"""Large batches: rows are sorted by class, and pairs are computed tile by tile.

With $\mathrm{logit}_{ij} = \mathrm{scale}_{ab}\, u_i^\top v_j + \mathrm{bias}_{ab}$ for unit rows (see
`ClassPairTables.for_dot_products`):

1. The positives of an anchor share its class: their mean logit comes from class sums in float32.
2. $\mathrm{lse}_i$ comes from all pairs. Where the batch is its own reference, the tables are symmetric and one shift
   fits all logits, each unordered pair is computed once ("mirrored"). Otherwise a running maximum keeps any span right
   ("dense").
3. The softmax gives $A V$ with $A_{ij} = \mathrm{scale}_{ab}\, q_{ij} g_i + \mathrm{scale}_{ba}\, q_{ji} g_j$ for the
   upstream gradient g and the softmax q: one product, since that A is symmetric whatever the tables. The gradient is
   $A V$ minus the positives' term, which `rows.scatter_gradient` computes from class sums.

Graded targets change the first step and the last term only: `graded.py`. The passes over pairs are those of `narrow.py`
or `wide.py`.
"""

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_pairs, graded, narrow, rows, wide
from labeldist.backends.fused.launching import launch, on_device_of
from labeldist.backends.fused.operators import Gradients, Results, define_loss
from labeldist.backends.fused.state import AnchorTerms, PartialSums, Problem, num_words, problem_of
from labeldist.backends.fused.tilings import divide_up, num_splits, tiling_for
from labeldist.distributed import ProcessGroup
from labeldist.pairs import Batch, ClassPairTables

__all__ = ["large_losses"]


def _passes(problem: Problem):
    """The module with the passes over pairs of such rows."""
    return wide if problem.is_wide else narrow


# Forward


def _forward(batch: Batch, tables: ClassPairTables, results: Results, group: ProcessGroup | None) -> None:
    with on_device_of(batch.embeddings):
        problem = problem_of(batch, tables, results.workspace, group)
        rows.pack_tables(problem)
        _sort(problem)
        # The pairs as early as possible: while the device computes them, the host prepares the rest.
        partial = _passes(problem).partition_sums(problem)
        rows.sum_classes(problem, problem.references, problem.state.class_sums)
        if problem.graded is not None:
            graded.sum_targets(problem)
        if group is not None:
            partial = _sum_over_group(partial, group, is_mirrored=problem.modes == ("mirrored",))
        finish = rows.finish_losses if problem.graded is None else graded.finish_losses
        finish(problem, partial, results.losses, results.is_valid)


def _sort(problem: Problem) -> None:
    batch = problem.batch
    sides = [(batch.embeddings, batch.labels, problem.anchors)]
    if batch.ref_emb is not None and batch.ref_labels is not None:
        sides.append((batch.ref_emb, batch.ref_labels, problem.references))
    for source, labels, into in sides:
        rows.normalize(source.contiguous(), into.unit_rows, into.inverse_norms)
        rows.sort_rows(problem, into, labels)


def _sum_over_group(partial: PartialSums, group: ProcessGroup, *, is_mirrored: bool) -> PartialSums:
    """Sums over all pairs, from those over each process's shard."""
    if is_mirrored:
        return PartialSums(partial.maxima, group.sum(partial.sums.sum(dim=0))[None], partial.num_dense, 1)
    highest = group.max(partial.maxima.amax(dim=0))
    # An anchor may have nothing to be compared with, here or anywhere: -inf - -inf would be NaN.
    factors = (partial.maxima - highest).exp2().masked_fill(partial.maxima == -torch.inf, 0)
    return PartialSums(highest[None], group.sum((partial.sums * factors).sum(dim=0))[None], 1, 1)


# Backward


def _backward(
    upstream: Tensor,
    workspace: Tensor,
    batch: Batch,
    tables: ClassPairTables,
    gradients: Gradients,
    group: ProcessGroup | None,
) -> None:
    with on_device_of(batch.embeddings):
        problem = problem_of(batch, tables, workspace, group)
        terms = _anchor_terms(problem, upstream.to(torch.float32))
        if gradients.embeddings is not None or gradients.ref_emb is not None:
            _row_gradients(problem, terms, gradients)
        if gradients.scale is not None or gradients.bias is not None:
            _table_gradients(problem, terms, gradients)
        elif gradients.relevance is not None:
            gradients.relevance.copy_(_over_group(problem, _graded_table_gradients(problem, terms)[2]))


def _anchor_terms(problem: Problem, upstream: Tensor) -> AnchorTerms:
    group = problem.group
    total = upstream if group is None else group.sum(upstream.contiguous())
    # Pair weights of float16 need a loss scale; those of wide rows are always float16.
    is_half = problem.is_wide or problem.dtype == torch.float16
    loss_scale = rows.find_loss_scale(problem, total) if is_half else None
    terms = rows.softmax_coefficients(problem, total, loss_scale)
    if group is not None:
        # The pairs are sharded, with the upstream gradients of all processes. The positives are not.
        terms = terms._replace(gradients=rows.softmax_coefficients(problem, upstream, None).gradients)
    return terms


def _row_gradients(problem: Problem, terms: AnchorTerms, gradients: Gradients) -> None:
    is_self = problem.is_self
    # The long kernels first: the host launches the short ones meanwhile.
    anchor_parts, ref_parts = _passes(problem).gradient_parts(
        problem, terms, of_anchors=gradients.embeddings is not None, of_references=gradients.ref_emb is not None
    )
    anchor_sums, ref_pulls = None, None
    if is_self or gradients.ref_emb is not None:
        anchor_sums = _anchor_sums(problem, terms)
        if problem.graded is not None:
            ref_pulls = graded.reference_pulls(problem, anchor_sums)
    for side, parts, gradient, is_anchor in (
        (problem.anchors, anchor_parts, gradients.embeddings, True),
        (problem.references, ref_parts, gradients.ref_emb, False),
    ):
        if parts is None or gradient is None:
            continue
        roles = {"is_anchor": is_anchor, "is_reference": is_self or not is_anchor}
        plane_scale = wide.plane_scale(problem)
        if problem.graded is None:
            rows.scatter_gradient(problem, side, parts, terms, anchor_sums, gradient, plane_scale=plane_scale, **roles)
        else:
            graded.scatter_gradient(
                problem, side, parts, terms, anchor_sums, ref_pulls, gradient, plane_scale=plane_scale, **roles
            )


def _anchor_sums(problem: Problem, terms: AnchorTerms) -> Tensor:
    """Sum of the anchors of each class times their upstream gradients, `(C, width)`."""
    sums = terms.gradients.new_empty(problem.num_classes, problem.width)
    rows.sum_classes(problem, problem.anchors, sums, terms.gradients)
    return sums


def _table_gradients(problem: Problem, terms: AnchorTerms, gradients: Gradients) -> None:
    of_tables = _dot_product_table_gradients(problem, terms)
    if problem.graded is not None:
        of_scale, of_bias, of_relevance = _graded_table_gradients(problem, terms)
        of_tables += torch.stack([of_scale, of_bias], dim=-1)
        if gradients.relevance is not None:
            gradients.relevance.copy_(_over_group(problem, of_relevance))
    grad_scale, grad_bias = _over_group(problem, of_tables).unbind(dim=-1)
    # scale of dot products = scale / 2, and their bias = scale / 2 + bias
    if gradients.scale is not None:
        gradients.scale.copy_((grad_scale + grad_bias) / 2)
    if gradients.bias is not None:
        gradients.bias.copy_(grad_bias)


def _over_group(problem: Problem, of_tables: Tensor) -> Tensor:
    """The mean over the processes, each of which has the gradient of its own losses."""
    return of_tables if problem.group is None else problem.group.sum(of_tables) / problem.group.size


def _graded_table_gradients(problem: Problem, terms: AnchorTerms) -> tuple[Tensor, Tensor, Tensor]:
    return graded.table_gradients(problem, terms, _anchor_sums(problem, terms))


def _dot_product_table_gradients(problem: Problem, terms: AnchorTerms) -> Tensor:
    """Gradients of the scale and bias of dot products, `(C, C, 2)`."""
    anchors, references, state = problem.anchors, problem.references, problem.state
    num_classes, width = problem.num_classes, problem.width
    tiling = tiling_for("tables", anchors.rows.dtype.itemsize, width)
    splits = num_splits(num_classes**2, divide_up(anchors.num_rows, tiling.block_rows))
    # Many classes are small ones: several to a program.
    classes_per_program = max(1, num_classes**2 >> 20)
    parts = terms.gradients.new_empty(splits, num_classes, num_classes, 2)
    # `graded.table_gradients` has the term of graded targets.
    positives = state.positives if problem.graded is None else terms.gradients.new_zeros(anchors.num_padded)
    launch(
        _kernels_pairs.sum_table_gradient,
        (num_classes, divide_up(num_classes, classes_per_program), splits),
        anchors.rows,
        anchors.starts,
        anchors.ends,
        state.shifts,
        state.normalizers,
        terms.gradients,
        positives,
        references.rows,
        references.starts,
        references.ends,
        state.tables,
        parts,
        num_classes,
        classes_per_program,
        splits,
        product_scale=1 / wide.plane_scale(problem) ** 2,
        TWO_PLANES=problem.is_two_planes,
        IS_SELF=problem.is_self,
        WIDTH=width,
        BLOCK_ROWS=tiling.block_rows,
        BLOCK_COLUMNS=tiling.block_columns,
        BLOCK_D=min(tiling.block_d, width),
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return rows.sum_parts(parts)


large_losses = define_loss("large_losses", num_words=num_words, forward=_forward, backward=_backward)
