"""Steps whose work grows with the number of rows: normalizing, sorting, class sums, losses, and writing gradients."""

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_rows, _kernels_tables
from labeldist.backends.fused.launching import Argument, Slot, launch
from labeldist.backends.fused.state import MAX_SPAN, AnchorTerms, PartialSums, Problem, SortedRows
from labeldist.backends.fused.tilings import DIMS_PER_STEP, divide_up, num_splits

__all__ = [
    "find_loss_scale",
    "finish_losses",
    "normalize",
    "pack_tables",
    "scatter_gradient",
    "softmax_coefficients",
    "sort_rows",
    "sum_classes",
    "sum_parts",
]

# Rows of a program, and fewer where it reads each whole; dimensions that it then takes at a time.
ROWS_PER_PROGRAM, WHOLE_ROWS_PER_PROGRAM, WHOLE_DIMS_PER_STEP = 16, 4, 256
# Rows of a class at a time. Up to so many rows in all, one program adds up a class.
CLASS_ROWS_PER_STEP, MAX_UNSPLIT_ROWS = 64, 16384
# Anchors of a program that needs one number of each; upstream gradients at a time.
ANCHORS_PER_PROGRAM, UPSTREAM_PER_STEP = 32, 4096


def normalize(source: Tensor, unit_rows: Slot, inverse_norms: Slot) -> None:
    """Fill `unit_rows`, `(padded N, padded D)`, with rows of length 1, and `inverse_norms`, `(N,)`."""
    launch(
        _kernels_rows.normalize_rows,
        (divide_up(unit_rows.shape[0], WHOLE_ROWS_PER_PROGRAM),),
        source,
        unit_rows,
        inverse_norms,
        source.shape[0],
        source.shape[1],
        *unit_rows.shape,
        BLOCK=WHOLE_ROWS_PER_PROGRAM,
        BLOCK_D=WHOLE_DIMS_PER_STEP,
    )


def pack_tables(problem: Problem) -> None:
    """Fill `tables` and `summaries`."""
    tables, state = problem.tables, problem.state
    is_symmetric = tables.is_symmetric if problem.is_self else False
    fits_one_shift = None if tables.span is None else tables.span <= MAX_SPAN
    codes = {None: -1, False: 0, True: 1}
    launch(
        _kernels_tables.pack_tables,
        (int(_kernels_tables.NUM_SUMMARIES),),
        tables.scale.contiguous(),
        tables.bias.contiguous(),
        state.tables.as_type(torch.float32, (*state.tables.shape, 2)),
        state.summaries,
        problem.num_classes,
        codes[is_symmetric],
        codes[fits_one_shift],
        BLOCK=128,
    )


def sort_rows(problem: Problem, into: SortedRows, labels: Tensor) -> None:
    """Fill all of `into` but the unit rows and their norms with the rows by class."""
    # 16 bits are enough for a class here, and a radix sort takes time by the bit.
    classes, order = labels.to(torch.int16).sort(stable=True)
    if not into.num_rows:
        into.starts.view().zero_()
        into.ends.view().zero_()
    width = problem.width
    block_d = min(width, DIMS_PER_STEP)
    launch(
        _kernels_rows.gather_rows,
        (into.num_padded // ROWS_PER_PROGRAM, divide_up(width, block_d)),
        into.unit_rows,
        order,
        classes,
        into.rows,
        into.labels,
        into.order,
        into.starts,
        into.ends,
        *into.unit_rows.shape,
        problem.num_classes,
        WIDTH=width,
        TWO_PLANES=problem.is_two_planes,
        BLOCK=ROWS_PER_PROGRAM,
        BLOCK_D=block_d,
    )


def sum_classes(problem: Problem, rows: SortedRows, into: Slot | Tensor, row_weights: Tensor | None = None) -> None:
    """Fill `into`, `(C, width)`, with the weighted sum of the unit rows of each class."""
    num_classes, width = into.shape
    # A second launch, which adds up parts, takes as long as the sums of so few rows.
    splits = 1
    if rows.num_rows > MAX_UNSPLIT_ROWS:
        splits = num_splits(num_classes, divide_up(rows.num_rows, CLASS_ROWS_PER_STEP))
    target: Argument = into
    if splits > 1:
        target = problem.batch.embeddings.new_empty(splits, num_classes, width, dtype=torch.float32)
    block_d = min(width, DIMS_PER_STEP)
    launch(
        _kernels_rows.sum_classes,
        (num_classes, divide_up(width, block_d), splits),
        rows.unit_rows,
        rows.order,
        row_weights,
        rows.starts,
        rows.ends,
        target,
        num_classes,
        rows.unit_rows.shape[1],
        splits,
        WIDTH=width,
        BLOCK=CLASS_ROWS_PER_STEP,
        BLOCK_D=block_d,
    )
    if splits > 1:
        assert isinstance(target, Tensor)
        torch.sum(target, dim=0, out=into if isinstance(into, Tensor) else into.view())


def sum_parts(parts: Tensor) -> Tensor:
    """The sum over the first dimension."""
    return parts[0] if parts.shape[0] == 1 else parts.sum(dim=0)


def finish_losses(problem: Problem, partial: PartialSums, losses: Tensor, is_valid: Tensor) -> None:
    """Fill losses and validity, in the caller's order, and `shifts`, `normalizers` and `positives`."""
    anchors, references, state = problem.anchors, problem.references, problem.state
    launch(
        _kernels_rows.finish_losses,
        (anchors.num_padded // ROWS_PER_PROGRAM,),
        anchors.unit_rows,
        anchors.order,
        anchors.labels,
        references.starts,
        references.ends,
        state.class_sums,
        state.tables,
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


def find_loss_scale(problem: Problem, upstream: Tensor) -> Tensor:
    """`(1,)`: what brings the pair weights into the range of float16."""
    loss_scale = upstream.new_empty(1)
    launch(
        _kernels_tables.find_loss_scale,
        (1,),
        upstream,
        problem.state.summaries,
        loss_scale,
        upstream.shape[0],
        upstream.stride(0),
        BLOCK=UPSTREAM_PER_STEP,
    )
    return loss_scale


def softmax_coefficients(problem: Problem, upstream: Tensor, loss_scale: Tensor | None) -> AnchorTerms:
    """What each anchor contributes to the weights of its pairs."""
    anchors = problem.anchors
    gradients, coefficients = upstream.new_empty(2, anchors.num_padded).unbind()
    launch(
        _kernels_rows.softmax_coefficients,
        (anchors.num_padded // ANCHORS_PER_PROGRAM,),
        upstream,
        anchors.order,
        problem.state.normalizers,
        loss_scale,
        gradients,
        coefficients,
        anchors.num_rows,
        upstream.stride(0),
        BLOCK=ANCHORS_PER_PROGRAM,
    )
    return AnchorTerms(gradients, coefficients, loss_scale)


def scatter_gradient(
    problem: Problem,
    rows: SortedRows,
    parts: Tensor,
    terms: AnchorTerms,
    anchor_sums: Tensor | None,
    gradient: Tensor,
    *,
    plane_scale: float,
    is_anchor: bool,
    is_reference: bool,
) -> None:
    """Fill the gradient at the caller's rows from its parts at sorted unit rows."""
    splits, padded, width = parts.shape
    launch(
        _kernels_rows.scatter_gradient,
        (padded // WHOLE_ROWS_PER_PROGRAM,),
        parts,
        rows.unit_rows,
        rows.inverse_norms,
        rows.order,
        rows.labels,
        terms.gradients,
        problem.references.starts,
        problem.references.ends,
        problem.state.class_sums,
        anchor_sums,
        problem.state.tables,
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
