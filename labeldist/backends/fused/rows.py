"""Steps whose work grows with the number of rows: normalising, sorting, class sums, losses, and writing gradients."""

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_rows, _kernels_tables
from labeldist.backends.fused.launching import (
    DIMS_AT_ONCE,
    divide_up,
    launch,
    num_splits,
)
from labeldist.backends.fused.state import PartialSums, Problem, Saved, Sorted, Units, Weights

__all__ = [
    "find_unit",
    "finish_losses",
    "normalise",
    "pack_tables",
    "put_back",
    "sort_rows",
    "sum_classes",
    "weigh_rows",
]

# Rows at a time; fewer where each is read whole.
ROWS_AT_ONCE, WHOLE_ROWS_AT_ONCE = 16, 4
# Rows of a class at a time. Up to so many rows in all, one program adds up a class.
CLASS_ROWS_AT_ONCE, MAX_UNSPLIT_ROWS = 64, 16384
# Of what has one number a row.
ANCHORS_AT_ONCE, ANCHORS_FOR_MAXIMUM = 32, 4096


def normalise(source: Tensor, units: Tensor, inverse: Tensor) -> None:
    """Fill `units`, `(padded N, padded D)`, with rows of length 1, and `inverse`, `(N,)`, with what made them so."""
    launch(
        _kernels_rows.normalise_rows,
        (divide_up(units.shape[0], WHOLE_ROWS_AT_ONCE),),
        source,
        units,
        inverse,
        source.shape[0],
        source.shape[1],
        *units.shape,
        BLOCK=WHOLE_ROWS_AT_ONCE,
        BLOCK_D=256,
    )


def pack_tables(scale: Tensor, bias: Tensor, is_symmetric: bool | None, is_bounded: bool | None, saved: Saved) -> None:
    """Fill `tables` and `summaries`."""
    known = {None: -1, False: 0, True: 1}
    launch(
        _kernels_tables.pack_tables,
        (int(_kernels_tables.NUM_SUMMARIES),),
        scale.contiguous(),
        bias.contiguous(),
        saved.tables.view(torch.float32),
        saved.summaries,
        scale.shape[0],
        known[is_symmetric],
        known[is_bounded],
        BLOCK=128,
    )


def sort_rows(units: Units, labels: Tensor, into: Sorted, width: int) -> Sorted:
    """Fill `into` with the rows by class, padded to `width`."""
    # 16 bits are enough for a class here, and a radix sort takes time by the bit.
    classes, order = labels.to(torch.int16).sort(stable=True)
    result = into._replace(order=order)
    if not result.num_rows:
        result.segments.zero_()
    block_d = min(width, DIMS_AT_ONCE)
    launch(
        _kernels_rows.gather_rows,
        (result.num_padded // ROWS_AT_ONCE, divide_up(width, block_d)),
        units.rows,
        order,
        classes,
        result.rows,
        result.labels,
        *result.segments,
        units.rows.shape[0],
        units.rows.shape[1],
        result.segments.shape[1],
        WIDTH=width,
        IS_SPLIT=into.is_split(width),
        BLOCK=ROWS_AT_ONCE,
        BLOCK_D=block_d,
    )
    return result


def sum_classes(units: Units, rows: Sorted, width: int, weights: Tensor | None = None) -> Tensor:
    """Sum of the unit rows of each class, `(C, width)`, float32."""
    num_classes, source = rows.segments.shape[1], units.rows
    # A second launch, which adds up parts, takes as long as the sums of so few rows.
    splits = 1
    if source.shape[0] > MAX_UNSPLIT_ROWS:
        splits = num_splits(num_classes, divide_up(source.shape[0], CLASS_ROWS_AT_ONCE))
    sums = source.new_empty(splits, num_classes, width)
    block_d = min(width, DIMS_AT_ONCE)
    launch(
        _kernels_rows.sum_classes,
        (num_classes, divide_up(width, block_d), splits),
        source,
        rows.order,
        weights,
        *rows.segments,
        sums,
        num_classes,
        source.shape[1],
        splits,
        WIDTH=width,
        BLOCK=CLASS_ROWS_AT_ONCE,
        BLOCK_D=block_d,
    )
    return sum_parts(sums)


def sum_parts(parts: Tensor) -> Tensor:
    """The sum over the first dimension."""
    return parts[0] if parts.shape[0] == 1 else parts.sum(dim=0)


def finish_losses(
    units: Units,
    own: Sorted,
    others: Sorted,
    saved: Saved,
    parts: PartialSums,
    losses: Tensor,
    is_valid: Tensor,
    *,
    is_self: bool,
) -> None:
    """Fill losses and validity, in the caller's order, and `bases`, `normalisers` and `positives`."""
    width = saved.class_sums.shape[1]
    launch(
        _kernels_rows.finish_losses,
        (own.num_padded // ROWS_AT_ONCE,),
        units.rows,
        own.order,
        own.labels,
        *others.segments,
        saved.class_sums,
        saved.tables,
        saved.summaries,
        *parts,
        losses,
        is_valid,
        saved.bases,
        saved.normalisers,
        saved.positives,
        own.num_rows,
        own.num_padded,
        saved.num_classes,
        units.rows.shape[1],
        SELF=is_self,
        WIDTH=width,
        BLOCK=ROWS_AT_ONCE,
        BLOCK_D=min(width, DIMS_AT_ONCE),
    )


def find_unit(upstream: Tensor, saved: Saved) -> Tensor:
    """`(1,)`: a factor that fits the pairs' weights to float16."""
    unit = saved.bases.new_empty(1)
    launch(
        _kernels_tables.find_unit,
        (1,),
        upstream,
        saved.summaries,
        unit,
        upstream.shape[0],
        upstream.stride(0),
        BLOCK=ANCHORS_FOR_MAXIMUM,
    )
    return unit


def weigh_rows(upstream: Tensor, problem: Problem, unit: Tensor | None) -> Weights:
    """What each anchor brings into the weights of its pairs."""
    own, saved = problem.own, problem.saved
    gradients, coefficients = torch.empty_like(saved.bases), torch.empty_like(saved.bases)
    launch(
        _kernels_rows.weigh_rows,
        (own.num_padded // ANCHORS_AT_ONCE,),
        upstream,
        own.order,
        saved.normalisers,
        unit,
        gradients,
        coefficients,
        own.num_rows,
        upstream.stride(0),
        BLOCK=ANCHORS_AT_ONCE,
    )
    return Weights(gradients, coefficients, unit)


def put_back(
    gradient: Tensor,
    parts: Tensor,
    units: Units,
    rows: Sorted,
    problem: Problem,
    weights: Weights,
    anchor_sums: Tensor | None,
    *,
    row_unit: float,
    is_anchor: bool,
    is_reference: bool,
) -> None:
    """Fill the gradient at the caller's rows from its parts at sorted unit rows."""
    splits, padded, width = parts.shape
    launch(
        _kernels_rows.finish_gradient,
        (padded // WHOLE_ROWS_AT_ONCE,),
        parts,
        units.rows,
        units.inverse,
        rows.order,
        rows.labels,
        weights.gradients,
        *problem.others.segments,
        problem.saved.class_sums,
        anchor_sums,
        problem.saved.tables,
        weights.unit,
        gradient,
        splits,
        units.rows.shape[0],
        padded,
        problem.saved.num_classes,
        units.rows.shape[1],
        row_unit=row_unit,
        OWN=is_anchor,
        OTHER=is_reference,
        SELF=problem.is_self,
        WIDTH=width,
        BLOCK=WHOLE_ROWS_AT_ONCE,
        BLOCK_D=min(width, 128 if width % 128 == 0 else DIMS_AT_ONCE),
    )
