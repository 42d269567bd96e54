"""Triton kernels whose work grows with the number of rows, not of pairs: sorting in, class sums, and writing out.

Rows are sorted by class, so a class is a segment `[starts[c], ends[c])`. Logits are kept in base 2 (`logit * log2(e)`),
where the exponential is one instruction. No kernel uses atomics: every sum has one order.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportOperatorIssue=false, reportArgumentType=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import LN_2, SIZES
from labeldist.backends.fused._kernels_planes import PLANE_SCALE, split_planes
from labeldist.backends.fused._kernels_tables import DROPPED, table_entries, table_summary

__all__ = [
    "finish_gradient",
    "finish_losses",
    "gather_rows",
    "list_tiles",
    "normalise_rows",
    "sum_classes",
    "weigh_rows",
]

# The paper's xi, `functional.NORM_FLOOR`.
NORM_FLOOR = tl.constexpr(1e-8)


@triton.jit(do_not_specialize=SIZES)
def normalise_rows(
    source,  # (N, D), any length
    units,  # out, (padded N, padded D): rows of length 1, 0 beyond N and D
    inverse,  # out, (N,): 1 / length; negative below the norm's floor, 0 for a zero row
    num_rows,
    dim,
    padded_rows,
    padded_dim,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`functional.unit_rows`: entries of at most 1 first, since squares of entries above 1e19 overflow float32."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = places < num_rows
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, dim, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        inside = real[:, None] & (columns < dim)[None, :]
        values = tl.load(source + places[:, None] * dim + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.abs(values), axis=1))
    is_tiny = largest < NORM_FLOOR
    largest = tl.maximum(largest, NORM_FLOOR)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, dim, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        inside = real[:, None] & (columns < dim)[None, :]
        values = tl.load(source + places[:, None] * dim + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        values /= largest[:, None]
        squares += tl.sum(values * values, axis=1)
    length = tl.sqrt(squares)
    divisor = tl.maximum(length, 1.0)
    # A row that is not finite must show: it is no zero row, whatever the maximum made of it.
    factor = tl.where(squares == 0, 0.0, 1 / (largest * divisor))
    # A row with an entry above the floor has a length of 1 or more there, if not for rounding.
    tl.store(inverse + places, tl.where(is_tiny & (length < 1), -factor, factor), mask=real)
    for start in range(0, padded_dim, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        inside = real[:, None] & (columns < dim)[None, :]
        values = tl.load(source + places[:, None] * dim + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        values = values / largest[:, None] / divisor[:, None]
        target = units + places[:, None] * padded_dim + columns[None, :]
        within = (places < padded_rows)[:, None] & (columns < padded_dim)[None, :]
        tl.store(target, values.to(units.dtype.element_ty), mask=within)


@triton.jit(do_not_specialize=SIZES)
def gather_rows(
    source,  # (N, D), unit rows
    order,  # (N,): row `order[k]` of the source is the k-th by class
    classes,  # (N,), sorted
    rows,  # out, (padded N, WIDTH) in the dtype of the products, 0 beyond N and D; (padded N, 2 WIDTH) if IS_SPLIT
    labels,  # out, (padded N,), int32; beyond N the last class, so that the last tile may be of one class
    starts,  # out, (C,)
    ends,  # out, (C,)
    num_rows,
    dim,
    num_classes,
    WIDTH: tl.constexpr,
    IS_SPLIT: tl.constexpr,  # whether a row is two planes of WIDTH, see `_kernels_planes.py`
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sort the rows by class, and mark where each class begins and ends."""
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    real = places < num_rows
    sources = tl.load(order + places, mask=real, other=0)
    inside = real[:, None] & (columns < dim)[None, :]
    values = tl.load(source + sources[:, None] * dim + columns[None, :], mask=inside, other=0.0)
    within = (columns < WIDTH)[None, :]
    if IS_SPLIT:
        target = rows + places.to(tl.int64)[:, None] * (2 * WIDTH) + columns[None, :]
        high, low = split_planes(values.to(tl.float32) * PLANE_SCALE)
        tl.store(target, high, mask=within)
        tl.store(target + WIDTH, low, mask=within)
    else:
        target = rows + places.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        tl.store(target, values.to(rows.dtype.element_ty), mask=within)
    if tl.program_id(1) == 0:
        own = tl.load(classes + tl.minimum(places, num_rows - 1)).to(tl.int32)
        before = tl.load(classes + places - 1, mask=real & (places > 0), other=-1).to(tl.int32)
        tl.store(labels + places, own)
        # Here the class before ends, the own one starts, and those between do both.
        for step in range(tl.max(tl.where(real, own - before, 0), axis=0)):
            label = before + 1 + step
            tl.store(starts + label, places, mask=real & (label <= own))
            tl.store(ends + label - 1, places, mask=real & (label <= own) & (label > 0))
        last = tl.max(tl.where(places == num_rows - 1, own, -1), axis=0)
        if last >= 0:
            for label in range(last, num_classes):
                tl.store(ends + label, num_rows)
                tl.store(starts + label, num_rows, mask=label > last)


@triton.jit(do_not_specialize=SIZES)
def list_tiles(
    labels,  # (padded N,)
    tiles,  # out, (num_tiles,): numbers of the tiles of one class in rising order, then the mixed ones in falling order
    num_uniform,  # out, (1,): how many are of one class
    num_tiles,
    IS_SPLIT: tl.constexpr,  # else all tiles count as mixed
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Which tiles of sorted rows meet one class only. One program."""
    uniform, mixed = 0, 0
    for start in range(0, num_tiles, BLOCK):
        numbers = start + tl.arange(0, BLOCK)
        real = numbers < num_tiles
        left = tl.load(labels + numbers * SIDE, mask=real, other=0)
        right = tl.load(labels + numbers * SIDE + (SIDE - 1), mask=real, other=0)
        # Sorted: equal ends mean one class.
        is_uniform = (real & (left == right)).to(tl.int32) if IS_SPLIT else tl.zeros([BLOCK], tl.int32)
        is_mixed = real.to(tl.int32) - is_uniform
        before, mixed_before = tl.cumsum(is_uniform, axis=0), tl.cumsum(is_mixed, axis=0)
        tl.store(tiles + uniform + before - 1, numbers, mask=is_uniform == 1)
        tl.store(tiles + num_tiles - mixed - mixed_before, numbers, mask=is_mixed == 1)
        uniform += tl.sum(is_uniform, axis=0)
        mixed += tl.sum(is_mixed, axis=0)
    tl.store(num_uniform, uniform)


@triton.jit(do_not_specialize=SIZES)
def sum_classes(
    source,  # (N, D)
    order,  # (N,)
    weights,  # (padded N,) by sorted row, or None for ones
    starts,  # (C,)
    ends,  # (C,)
    sums,  # out, (splits, C, WIDTH)
    num_classes,
    dim,
    num_splits,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Weighted sum of the rows of each class, in `num_splits` parts."""
    label, split = tl.program_id(0), tl.program_id(2)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    start, end = tl.load(starts + label), tl.load(ends + label)
    share = tl.cdiv(end - start, num_splits)
    first = start + split * share
    last = tl.minimum(first + share, end)
    total = tl.zeros([BLOCK_D], tl.float32)
    for place in range(first, last, BLOCK):
        places = place + tl.arange(0, BLOCK)
        real = places < last
        sources = tl.load(order + places, mask=real, other=0)
        inside = real[:, None] & (columns < dim)[None, :]
        values = tl.load(source + sources[:, None] * dim + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        if weights is not None:
            values *= tl.load(weights + places, mask=real, other=0.0)[:, None]
        total += tl.sum(values, axis=0)
    target = sums + (split.to(tl.int64) * num_classes + label) * WIDTH + columns
    tl.store(target, total, mask=columns < WIDTH)


@triton.jit(do_not_specialize=SIZES)
def finish_losses(
    source,  # (N, D), anchors
    order,  # (N,)
    labels,  # (padded N,)
    starts,  # (C,), of the references
    ends,  # (C,)
    class_sums,  # (C, WIDTH), of the references
    tables,
    summaries,
    partial_maxima,  # (dense slots, padded N), unused where mirrored
    partial_sums,  # (slots, padded N)
    num_dense_slots,
    num_mirrored_slots,
    losses,  # out, (N,), in the caller's order
    is_valid,  # out, (N,)
    bases,  # out, (padded N,), sorted: the shift where mirrored, else the log-sum-exp; +inf for a row without a loss
    normalisers,  # out, (padded N,), sorted: exp2(logit - base) times it is the softmax; 0 for a row without a loss
    positives,  # out, (padded N,), sorted: mean dot product with the positives
    num_rows,
    padded_rows,
    num_classes,
    dim,
    SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Loss of each anchor: merge the partial sums of the pairs, take off the mean of the positives."""
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = places < num_rows
    sources = tl.load(order + places, mask=real, other=0)
    own = tl.load(labels + places)

    is_mirrored, shift = table_summary(summaries)
    highest = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    if is_mirrored:
        highest = tl.zeros([BLOCK], tl.float32) + shift
        for slot in range(num_mirrored_slots):
            total += tl.load(partial_sums + tl.cast(slot, tl.int64) * padded_rows + places)
    else:
        for slot in range(num_dense_slots):
            at = tl.cast(slot, tl.int64) * padded_rows + places
            maximum, part = tl.load(partial_maxima + at), tl.load(partial_sums + at)
            new = tl.maximum(highest, maximum)
            # -inf - -inf would be NaN.
            base = tl.where(new == -float("inf"), 0.0, new)
            total = total * tl.exp2(highest - base) + part * tl.exp2(maximum - base)
            highest = new
    partition = highest + tl.log2(total)

    similarity = tl.zeros([BLOCK], tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        inside = real[:, None] & (columns < dim)[None, :]
        row = tl.load(source + sources[:, None] * dim + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        at = class_sums + own.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        others = tl.load(at, mask=inside, other=0.0)
        if SELF:
            others -= row
        similarity += tl.sum(row * others, axis=1)
    count = tl.load(ends + own) - tl.load(starts + own)
    if SELF:
        count -= 1
    divisor = tl.maximum(count, 1).to(tl.float32)
    similarity /= divisor

    factor, offset = table_entries(tables, own * num_classes + own)
    valid = real & (count > 0) & (offset != DROPPED)
    loss = (partition - (factor * similarity + offset) - tl.log2(divisor)) * LN_2
    tl.store(losses + sources, tl.where(valid, loss, 0.0), mask=real)
    tl.store(is_valid + sources, valid, mask=real)
    # Not the log-sum-exp alone: its rounding, and that of the logarithm, would be in every weight of the row.
    base = tl.where(is_mirrored, shift, partition)
    tl.store(bases + places, tl.where(valid, base, float("inf")))
    tl.store(normalisers + places, tl.where(valid, 1 / (total * tl.exp2(highest - base)), 0.0))
    tl.store(positives + places, tl.where(valid, similarity, 0.0))


@triton.jit(do_not_specialize=SIZES)
def weigh_rows(
    upstream,  # (N,), gradient of the losses, in the caller's order; from element to element `stride`
    order,  # (N,)
    normalisers,  # (padded N,)
    unit,  # (1,): factor that brings the pairs' weights into the range of their dtype; None for 1
    gradients,  # out, (padded N,): upstream by sorted row, 0 without a loss
    coefficients,  # out, (padded N,): what the pairs' weights are multiplied by
    num_rows,
    stride,
    BLOCK: tl.constexpr,
):
    """What each anchor brings into the weights of its pairs."""
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = places < num_rows
    normaliser = tl.load(normalisers + places)
    taken = real & (normaliser != 0)
    source = tl.load(order + places, mask=real, other=0)
    gradient = tl.load(upstream + source * stride, mask=taken, other=0.0)
    coefficient = gradient
    if unit is not None:
        coefficient *= tl.load(unit)
    tl.store(gradients + places, gradient)
    tl.store(coefficients + places, coefficient * normaliser)


@triton.jit
def part_of_gradient(
    partials, source, order_target, labels_at, count, factor, weight, unit_length,
    ref_sums, anchor_sums, places, columns, inside, num_splits, padded_rows,
    OWN: tl.constexpr, OTHER: tl.constexpr, SELF: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Some dimensions of the gradient at unit rows, and these dimensions of the unit rows."""
    row = tl.load(source + order_target, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for split in range(num_splits):
        at = (tl.cast(split, tl.int64) * padded_rows + places.to(tl.int64))[:, None] * WIDTH + columns[None, :]
        total += tl.load(partials + at, mask=inside, other=0.0)
    total /= unit_length
    pull = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    at = labels_at[:, None] * WIDTH + columns[None, :]
    if OWN:
        pull += weight[:, None] * tl.load(ref_sums + at, mask=inside, other=0.0)
        if SELF:
            pull -= 2 * weight[:, None] * row
    if OTHER:
        pull += tl.load(anchor_sums + at, mask=inside, other=0.0)
    pull *= (factor / tl.maximum(count, 1).to(tl.float32))[:, None]
    return (total - pull) * LN_2, row


@triton.jit(do_not_specialize=SIZES)
def finish_gradient(
    partials,  # (splits, padded N, WIDTH)
    source,  # (N, D), unit rows
    inverse,  # (N,), from normalise_rows
    order,  # (N,)
    labels,  # (padded N,)
    anchor_gradients,  # (padded N,); read if OWN
    ref_starts,  # (C,)
    ref_ends,  # (C,)
    ref_sums,  # (C, WIDTH), of the references; read if OWN
    anchor_sums,  # (C, WIDTH), of the anchors times their upstream gradients; read if OTHER
    tables,
    unit,  # (1,), or None for 1
    gradient,  # out, (N, D), in the caller's order
    num_splits,
    num_rows,
    padded_rows,
    num_classes,
    dim,
    row_unit: tl.constexpr,  # what the rows in the partials' products were multiplied by
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum the parts of a row's gradient, take off the positives' part, go through the normalisation."""
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = places < num_rows
    sources = tl.load(order + places, mask=real, other=0)
    own = tl.load(labels + places)
    weight = tl.load(anchor_gradients + places) if OWN else tl.zeros([BLOCK], tl.float32)
    count = tl.load(ref_ends + own) - tl.load(ref_starts + own)
    if SELF:
        count -= 1
    factor, _ = table_entries(tables, own * num_classes + own)
    unit_length = row_unit * 1.0
    if unit is not None:
        unit_length *= tl.load(unit)
    radial = tl.zeros([BLOCK], tl.float32)
    for start in range(0, dim, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        inside = real[:, None] & (columns < dim)[None, :]
        part, row = part_of_gradient(
            partials, source, sources[:, None] * dim + columns[None, :], own.to(tl.int64), count, factor, weight,
            unit_length, ref_sums, anchor_sums, places, columns, inside, num_splits, padded_rows,
            OWN, OTHER, SELF, WIDTH, BLOCK, BLOCK_D,
        )  # fmt: skip
        radial += tl.sum(part * row, axis=1)
    length = tl.load(inverse + sources, mask=real, other=0.0)
    # A negative inverse marks a row below the norm's floor: it is scaled, not normalised.
    radial = tl.where(length > 0, radial, 0.0)
    for start in range(0, dim, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        inside = real[:, None] & (columns < dim)[None, :]
        part, row = part_of_gradient(
            partials, source, sources[:, None] * dim + columns[None, :], own.to(tl.int64), count, factor, weight,
            unit_length, ref_sums, anchor_sums, places, columns, inside, num_splits, padded_rows,
            OWN, OTHER, SELF, WIDTH, BLOCK, BLOCK_D,
        )  # fmt: skip
        result = (part - row * radial[:, None]) * tl.abs(length)[:, None]
        target = gradient + sources[:, None] * dim + columns[None, :]
        tl.store(target, result.to(gradient.dtype.element_ty), mask=inside)
