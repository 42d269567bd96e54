"""Graded targets of a large batch: the sums over class pairs, and the launches that read them.

The passes over the pairs do not change. Forward and backward each have one product of (C, C) by (C, D) more, in
float32: of few classes in the launch that weighs the tables, of more by `torch.matmul` after it. Few launches and
operations of torch, since they run while the host is what a batch of some ten thousand rows waits for.
"""

from typing import Any

import torch
from torch import Tensor

from labeldist.backends._class_sums import add_by_class
from labeldist.backends.fused import _kernels_graded
from labeldist.backends.fused.launching import Argument, launch
from labeldist.backends.fused.rows import ROWS_PER_PROGRAM, WHOLE_ROWS_PER_PROGRAM
from labeldist.backends.fused.state import AnchorTerms, GradedState, PartialSums, Problem, SortedRows
from labeldist.backends.fused.tilings import DIMS_PER_STEP

__all__ = ["finish_losses", "reference_pulls", "scatter_gradient", "sum_targets", "table_gradients"]

# Up to so many classes the kernel that weighs the tables also multiplies them by the class sums, which saves the host a
# product of torch. Its programs read C times as much as there is, which the device would wait for with more classes.
MAX_CLASSES_IN_KERNEL = 128
# Entries of a table's row that a program reads at a time, and where it multiplies them by class sums.
CLASSES_PER_STEP, CLASS_SUMS_PER_STEP = 128, 32


def _state(problem: Problem) -> GradedState:
    assert problem.graded is not None
    return problem.graded


def _class_sizes(problem: Problem) -> Tensor:
    references = problem.references
    return (references.ends.view() - references.starts.view()).to(torch.float32)


def _has_few_classes(problem: Problem) -> bool:
    return problem.num_classes <= MAX_CLASSES_IN_KERNEL


def _launch_pulls(kernel: Any, problem: Problem, *arguments: Argument, **options: bool) -> None:
    """Start a kernel that multiplies the tables by class sums: a class and some dimensions a program."""
    tables, width = problem.tables, problem.width
    assert tables.relevance is not None
    # It divides the width: a power of two, or a multiple of `DIMS_PER_STEP`.
    block_d = min(width, DIMS_PER_STEP)
    launch(
        kernel,
        (problem.num_classes, width // block_d),
        tables.relevance.contiguous(),
        tables.scale.contiguous(),
        tables.bias.contiguous(),
        *arguments,
        problem.num_classes,
        WIDTH=width,
        BLOCK=CLASS_SUMS_PER_STEP,
        BLOCK_D=block_d,
        **options,
    )


def sum_targets(problem: Problem) -> None:
    """Fill `pulls` and `numbers` from the class sums."""
    references, sums, (pulls, numbers) = problem.references, problem.state.class_sums, _state(problem)
    if _has_few_classes(problem):
        ends = references.starts, references.ends
        _launch_pulls(_kernels_graded.pull_anchors, problem, *ends, sums, pulls, numbers, IS_SELF=problem.is_self)
    else:
        torch.matmul(_weigh_targets(problem, by_total=False), sums.view(), out=pulls.view())


def _weigh_targets(problem: Problem, *, by_total: bool) -> Tensor:
    """Relevance times the scale of dot products for pairs of different classes, `(C, C)`; fills `numbers`, or reads it.

    Args:
        problem: the batch.
        by_total: whether each row is divided by the sum of its relevances, which `numbers` then holds.
    """
    tables, references = problem.tables, problem.references
    assert tables.relevance is not None
    weighted = torch.empty_like(tables.relevance, memory_format=torch.contiguous_format)
    launch(
        _kernels_graded.weigh_targets,
        (problem.num_classes,),
        tables.relevance.contiguous(),
        tables.scale.contiguous(),
        tables.bias.contiguous(),
        references.starts,
        references.ends,
        weighted,
        _state(problem).numbers,
        problem.num_classes,
        IS_SELF=problem.is_self,
        BY_TOTAL=by_total,
        BLOCK=CLASSES_PER_STEP,
    )
    return weighted


def finish_losses(problem: Problem, partial: PartialSums, losses: Tensor, is_valid: Tensor) -> None:
    """Fill losses and validity, in the caller's order, and `shifts`, `normalizers` and `positives`."""
    anchors, state, graded = problem.anchors, problem.state, _state(problem)
    launch(
        _kernels_graded.finish_graded_losses,
        (anchors.num_padded // ROWS_PER_PROGRAM,),
        anchors.unit_rows,
        anchors.order,
        anchors.labels,
        state.class_sums,
        graded.pulls,
        graded.numbers,
        state.summaries,
        *partial,
        losses,
        is_valid,
        state.shifts,
        state.normalizers,
        state.positives,
        anchors.num_rows,
        anchors.num_padded,
        problem.num_classes,
        anchors.unit_rows.shape[1],
        IS_SELF=problem.is_self,
        WIDTH=problem.width,
        BLOCK=ROWS_PER_PROGRAM,
        BLOCK_D=min(problem.width, DIMS_PER_STEP),
    )


def _inverse_totals(problem: Problem) -> Tensor:
    """1 / Z of each class, `(C,)`; 0 where no anchor of the class has a target."""
    total = _state(problem).numbers.view()[0]
    return torch.where(total == 0, 0.0, 1 / total)


def reference_pulls(problem: Problem, anchor_sums: Tensor) -> Tensor:
    """What the anchors of other classes pull the references of each class with, `(C, width)`.

    Args:
        problem: the batch.
        anchor_sums: sum of the anchors of each class times their upstream gradients, `(C, width)`.
    """
    if not _has_few_classes(problem):
        return _weigh_targets(problem, by_total=True).T @ anchor_sums
    pulls = anchor_sums.new_empty(problem.num_classes, problem.width)
    _launch_pulls(_kernels_graded.pull_references, problem, _state(problem).numbers, anchor_sums, pulls)
    return pulls


def scatter_gradient(
    problem: Problem,
    rows: SortedRows,
    parts: Tensor,
    terms: AnchorTerms,
    anchor_sums: Tensor | None,
    ref_pulls: Tensor | None,
    gradient: Tensor,
    *,
    plane_scale: float,
    is_anchor: bool,
    is_reference: bool,
) -> None:
    """Fill the gradient at the caller's rows from its parts at sorted unit rows."""
    splits, padded, width = parts.shape
    graded = _state(problem)
    launch(
        _kernels_graded.scatter_graded_gradient,
        (padded // WHOLE_ROWS_PER_PROGRAM,),
        parts,
        rows.unit_rows,
        rows.inverse_norms,
        rows.order,
        rows.labels,
        terms.gradients,
        problem.state.class_sums,
        graded.pulls,
        anchor_sums,
        ref_pulls,
        graded.numbers,
        terms.loss_scale,
        gradient,
        splits,
        rows.num_rows,
        padded,
        problem.num_classes,
        rows.unit_rows.shape[1],
        plane_scale=plane_scale,
        ROWS_ARE_ANCHORS=is_anchor,
        COLUMNS_ARE_ANCHORS=is_reference,
        IS_SELF=problem.is_self,
        WIDTH=width,
        BLOCK=WHOLE_ROWS_PER_PROGRAM,
        BLOCK_D=min(width, 128 if width % 128 == 0 else DIMS_PER_STEP),
    )


def table_gradients(problem: Problem, terms: AnchorTerms, anchor_sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""What the targets add to the gradients of scale and bias of dot products, and the gradient of the relevance.

    With the derivative of an anchor's loss by the weight of a pair, $(\log w_{ij} - \mathrm{logit}_{ij} + \mu_i) / Z_i$
    for the mean $\mu_i$ of $\mathrm{logit} - \log w$ under the targets, summed over the pairs of two classes.

    Args:
        problem: the batch.
        terms: upstream gradients of the anchors.
        anchor_sums: as in `reference_pulls`.

    Returns:
        Three tables, each `(C, C)`.
    """
    anchors, tables = problem.anchors, problem.tables.for_dot_products()
    relevance = tables.relevance
    assert relevance is not None
    gradients = terms.gradients[: anchors.num_rows]
    rows = anchors.unit_rows.view().index_select(0, anchors.order.view()).to(torch.float32)
    means = problem.state.positives.view()[: anchors.num_rows]
    values = torch.stack([gradients, gradients * means, gradients * rows.square().sum(dim=1)], dim=1)
    labels = anchors.labels.view()[: anchors.num_rows].long()
    # (C, 1) each
    upstream, upstream_means, own = add_by_class(values.new_zeros(problem.num_classes, 3), labels, values).split(1, 1)
    products = anchor_sums @ problem.state.class_sums.view().T  # (C, C)
    counts = _class_sizes(problem).repeat(problem.num_classes, 1)
    if problem.is_self:
        products.diagonal().sub_(own[:, 0])
        counts.diagonal().sub_(1).clamp_min_(0)
    is_out = (relevance == 0) | (tables.bias == -torch.inf)
    inverse = _inverse_totals(problem)[:, None]
    weights = relevance.masked_fill(is_out, 0) * inverse
    constant = relevance.masked_fill(is_out, 1).log() - tables.bias.masked_fill(is_out, 0)
    of_relevance = (counts * (constant * upstream + upstream_means) - tables.scale * products) * inverse
    of_bias = -weights * counts * upstream
    # The kernel has subtracted one positive of the own class.
    of_bias.diagonal().add_(upstream[:, 0])
    return -weights * products, of_bias, of_relevance.masked_fill(is_out, 0)
