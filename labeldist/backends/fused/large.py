"""Large batches as one operator: rows are sorted by class, and pairs are met a tile at a time."""

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_pairs, _kernels_tables, narrow, rows, wide
from labeldist.backends.fused.launching import (
    PRODUCT_DTYPES,
    Precision,
    divide_up,
    is_wide,
    launch,
    num_splits,
    padded_rows,
    padded_width,
    tiling_for,
)
from labeldist.backends.fused.operators import define_loss
from labeldist.backends.fused.state import WHOLE, PartialSums, Problem, Saved, Share, Sorted, Units, Weights
from labeldist.distributed import ProcessGroup

__all__ = ["large_losses"]


# Forward


def _large_losses(
    anchors,
    labels,
    references,
    ref_labels,
    scale,
    bias,
    is_symmetric,
    is_bounded,
    precision,
    group: ProcessGroup | None = None,
):
    """Losses `(B,)`, validity `(B,)`, and what the backward needs."""
    with torch.cuda.device_of(anchors), torch.autocast(anchors.device.type, enabled=False):
        is_self = references is None
        saved = _empty_saved(anchors, scale.shape[0], precision)
        rows.pack_tables(scale, bias, is_symmetric if is_self else False, is_bounded, saved)
        units, own = _sorted(anchors, labels, scale.shape[0], precision)
        other_units, others = (units, own) if is_self else _sorted(references, ref_labels, scale.shape[0], precision)
        modes = _possible_modes(is_self, is_symmetric, is_bounded)
        share = _share_of(group)
        # The pairs as early as can be: while they take their time, the host prepares the rest.
        parts = _pairs(anchors, precision).partition_sums(own, others, saved, modes, share, is_self=is_self)
        saved = saved._replace(class_sums=rows.sum_classes(other_units, others, saved.class_sums.shape[1]))
        if group is not None:
            parts = _summed(parts, group, is_mirrored=modes[0])
        losses, is_valid = _empty_losses(anchors)
        rows.finish_losses(units, own, others, saved, parts, losses, is_valid, is_self=is_self)
        second = () if is_self else (*other_units, *others)
        return losses, is_valid, *saved, *units, *own, *second


def _fake_losses(anchors, labels, references, ref_labels, scale, bias, is_symmetric, is_bounded, precision):
    num_classes = scale.shape[0]

    def empty(source: Tensor) -> tuple[Tensor, ...]:
        return *_empty_units(source, precision), *_empty_sorted(source, num_classes, precision)

    second = () if references is None else empty(references)
    return *_empty_losses(anchors), *_empty_saved(anchors, num_classes, precision), *empty(anchors), *second


def _share_of(group: ProcessGroup | None) -> Share:
    return WHOLE if group is None else Share(group.rank, group.size)


def _summed(parts: PartialSums, group: ProcessGroup, *, is_mirrored: bool) -> PartialSums:
    """Sums over all pairs, from those over the members' shares of them."""
    if is_mirrored:
        return PartialSums(parts.maxima, group.sum(parts.sums.sum(dim=0))[None], parts.num_dense, 1)
    highest = group.max(parts.maxima.amax(dim=0))
    # An anchor may have nothing to be compared with, here or anywhere: -inf - -inf would be NaN.
    factors = (parts.maxima - highest).exp2().masked_fill(parts.maxima == -torch.inf, 0)
    return PartialSums(highest[None], group.sum((parts.sums * factors).sum(dim=0))[None], 1, 1)


def _pairs(source: Tensor, precision: Precision):
    """The module with the passes over pairs of such rows."""
    return wide if is_wide(source.shape[1], precision) else narrow


def _sorted(source: Tensor, labels: Tensor, num_classes: int, precision: Precision) -> tuple[Units, Sorted]:
    units, into = _empty_units(source, precision), _empty_sorted(source, num_classes, precision)
    rows.normalise(source.contiguous(), *units)
    return units, rows.sort_rows(units, labels, into, _width(source, precision))


def _possible_modes(is_self: bool, is_symmetric: bool | None, is_bounded: bool | None) -> list[bool]:
    """Whether pairs are mirrored; both where only the device knows."""
    if not is_self or is_symmetric is False or is_bounded is False:
        return [False]
    return [True] if is_symmetric and is_bounded else [True, False]


# `shape[0]`, here and below: `len` would fix the size of a traced tensor.


def _empty_losses(anchors: Tensor) -> tuple[Tensor, Tensor]:
    num_rows = anchors.shape[0]
    return anchors.new_empty(num_rows, dtype=torch.float32), anchors.new_empty(num_rows, dtype=torch.bool)


def _width(source: Tensor, precision: Precision) -> int:
    return padded_width(source.shape[1], is_wide=is_wide(source.shape[1], precision))


def _empty_saved(anchors: Tensor, num_classes: int, precision: Precision) -> Saved:
    padded = padded_rows(anchors.shape[0])
    return Saved(
        bases=anchors.new_empty(padded, dtype=torch.float32),
        normalisers=anchors.new_empty(padded, dtype=torch.float32),
        positives=anchors.new_empty(padded, dtype=torch.float32),
        class_sums=anchors.new_empty(num_classes, _width(anchors, precision), dtype=torch.float32),
        tables=anchors.new_empty(num_classes, num_classes, dtype=torch.int64),
        summaries=anchors.new_empty(4, int(_kernels_tables.NUM_SUMMARIES), dtype=torch.float32),
    )


def _empty_units(source: Tensor, precision: Precision) -> Units:
    # Their products round wide rows to float16 anyway, unless float32 is wanted.
    is_half = is_wide(source.shape[1], precision) and precision != "float32"
    return Units(
        rows=source.new_empty(source.shape, dtype=torch.float16 if is_half else torch.float32),
        inverse=source.new_empty(source.shape[0], dtype=torch.float32),
    )


def _empty_sorted(source: Tensor, num_classes: int, precision: Precision) -> Sorted:
    padded, width = padded_rows(source.shape[0]), _width(source, precision)
    dtype = PRODUCT_DTYPES[precision]
    if is_wide(source.shape[1], precision):
        dtype = torch.float16
        # Two planes, see `wide.py`.
        width *= 2 if precision == "float32" else 1
    return Sorted(
        rows=source.new_empty(padded, width, dtype=dtype),
        labels=source.new_empty(padded, dtype=torch.int32),
        order=source.new_empty(source.shape[0], dtype=torch.int64),
        segments=source.new_empty(2, num_classes, dtype=torch.int32),
    )


# Backward


def _large_losses_backward(
    upstream,
    saved,
    anchors,
    labels,
    references,
    ref_labels,
    scale,
    bias,
    is_symmetric,
    is_bounded,
    precision,
    needed,
    group: ProcessGroup | None = None,
):
    with torch.cuda.device_of(anchors), torch.autocast(anchors.device.type, enabled=False):
        is_self = references is None
        units, own = Units(*saved[6:8]), Sorted(*saved[8:12])
        problem = Problem(
            anchors=units,
            references=units if is_self else Units(*saved[12:14]),
            own=own,
            others=own if is_self else Sorted(*saved[14:]),
            saved=Saved(*saved[:6]),
            modes=_possible_modes(is_self, is_symmetric, is_bounded),
            is_self=is_self,
            precision=precision,
            share=_share_of(group),
        )
        upstream = upstream.to(torch.float32)
        # Pair weights of float16, which those of wide rows are always, need a unit.
        is_half = precision == "fp16" or is_wide(anchors.shape[1], precision)
        whole = upstream if group is None else group.sum(upstream.contiguous())
        weights = rows.weigh_rows(whole, problem, rows.find_unit(whole, problem.saved) if is_half else None)
        if group is not None:
            # Pairs are shared, positives are not.
            weights = weights._replace(gradients=rows.weigh_rows(upstream, problem, None).gradients)
        gradients = list(_empty_gradients(anchors, references, scale, bias, needed))
        if needed[0] or needed[1]:
            _row_gradients(problem, weights, gradients, needed)
        if needed[2] or needed[3]:
            of_tables = _table_gradient(problem, weights)
            if group is not None:
                of_tables = group.sum(of_tables) / group.size
            slopes, levels = of_tables.unbind(dim=-1)
            # factor = scale / 2 and offset = scale / 2 + bias
            if needed[2]:
                gradients[2] = ((slopes + levels) / 2).to(scale.dtype)
            if needed[3]:
                gradients[3] = levels.to(bias.dtype).contiguous()
        return gradients


def _fake_gradients(
    upstream, saved, anchors, labels, references, ref_labels, scale, bias, is_symmetric, is_bounded, precision, needed
):
    return _empty_gradients(anchors, references, scale, bias, needed)


def _empty_gradients(anchors, references, scale, bias, needed) -> tuple[Tensor | None, ...]:
    """One tensor for each that wants a gradient, in its dtype."""
    wanted = (anchors, references, scale, bias)
    return tuple(
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if is_needed else None
        for tensor, is_needed in zip(wanted, needed, strict=True)
    )


def _row_gradients(problem: Problem, weights: Weights, gradients: list[Tensor | None], needed: list[bool]) -> None:
    is_self = problem.is_self
    pairs = _pairs(problem.anchors.rows, problem.precision)
    anchor_sums = None
    if is_self or needed[1]:
        width = problem.saved.class_sums.shape[1]
        anchor_sums = rows.sum_classes(problem.anchors, problem.own, width, weights.gradients)
    parts = pairs.gradient_parts(problem, weights, needed[:2])
    row_unit = wide.row_unit(problem.own, problem.saved)
    sides = (problem.anchors, problem.own, True, is_self), (problem.references, problem.others, False, True)
    for gradient, part, (units, by_class, is_anchor, is_reference) in zip(gradients[:2], parts, sides, strict=True):
        if part is not None and gradient is not None:
            rows.put_back(
                gradient, part, units, by_class, problem, weights, anchor_sums,
                row_unit=row_unit, is_anchor=is_anchor, is_reference=is_reference,
            )  # fmt: skip


def _table_gradient(problem: Problem, weights: Weights) -> Tensor:
    """Gradients of factor and offset, `(C, C, 2)`."""
    own, others, saved = problem.own, problem.others, problem.saved
    num_classes, width = saved.num_classes, saved.class_sums.shape[1]
    tiling = tiling_for("tables", own.rows.element_size(), width)
    splits = num_splits(num_classes**2, divide_up(own.num_rows, tiling.block_rows))
    # Many classes mean small ones: several to a program.
    classes_per_program = max(1, num_classes**2 >> 20)
    parts = saved.bases.new_empty(splits, num_classes, num_classes, 2)
    launch(
        _kernels_pairs.sum_table_gradient,
        (num_classes, divide_up(num_classes, classes_per_program), splits),
        own.rows,
        *own.segments,
        saved.bases,
        saved.normalisers,
        weights.gradients,
        saved.positives,
        others.rows,
        *others.segments,
        saved.tables,
        parts,
        num_classes,
        classes_per_program,
        splits,
        unit=1 / wide.row_unit(own, saved) ** 2,
        IS_SPLIT=own.is_split(width),
        SELF=problem.is_self,
        WIDTH=width,
        BLOCK_ROWS=tiling.block_rows,
        BLOCK_COLUMNS=tiling.block_columns,
        BLOCK_D=min(tiling.block_d, width),
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return rows.sum_parts(parts)


large_losses = define_loss(
    "large_losses",
    "Tensor anchors, Tensor labels, Tensor? references, Tensor? ref_labels, Tensor scale, Tensor bias, "
    "bool? is_symmetric, bool? is_bounded, str precision",
    num_results=20,
    places=(0, 2, 4, 5),
    forward=_large_losses,
    fake_forward=_fake_losses,
    backward=_large_losses_backward,
    fake_backward=_fake_gradients,
)
