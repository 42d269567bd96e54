"""Triton kernels whose work grows with the number of rows, not of pairs.

They normalize the rows, sort them by class, add up classes, finish the losses, and write gradients back in the caller's
order. Sorted by class, the rows of class c are those from `starts[c]` to `ends[c]`. Logits are in base 2 (see
`_kernels_common.py`). No kernel uses atomics: every sum has one order, so two runs give the same bits.
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
    "finish_losses",
    "gather_rows",
    "gradient_at_unit_rows",
    "inverse_norm",
    "list_tiles",
    "log_sum_of_partials",
    "normalize_rows",
    "scatter_gradient",
    "softmax_coefficients",
    "sum_classes",
    "unit_values",
]

# The paper's xi, `functional.NORM_FLOOR`.
NORM_FLOOR = tl.constexpr(1e-8)


@triton.jit
def load_values(source, row_ids, dims, num_rows, dim):
    """Some dimensions of some rows in float32; 0 beyond `(num_rows, dim)`."""
    inside = (row_ids < num_rows)[:, None] & (dims < dim)[None, :]
    return tl.load(source + row_ids.to(tl.int64)[:, None] * dim + dims[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def inverse_norm(source, row_ids, num_rows, dim, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Largest entry of each row, norm of the row divided by it (at least 1), and 1 / norm.

    1 / norm is negative for a row below the norm's floor, which is scaled and not normalized, and 0 for a zero row.
    """
    # Divide by the largest entry first: squares of entries above 1e19 overflow float32.
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, dim, BLOCK_D):
        values = load_values(source, row_ids, start + tl.arange(0, BLOCK_D), num_rows, dim)
        largest = tl.maximum(largest, tl.max(tl.abs(values), axis=1))
    is_tiny = largest < NORM_FLOOR
    largest = tl.maximum(largest, NORM_FLOOR)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, dim, BLOCK_D):
        values = load_values(source, row_ids, start + tl.arange(0, BLOCK_D), num_rows, dim) / largest[:, None]
        squares += tl.sum(values * values, axis=1)
    norm = tl.sqrt(squares)
    divisor = tl.maximum(norm, 1.0)
    # Not `largest == 0`: a row with a NaN must stay NaN, and tl.maximum may drop it.
    inverse = tl.where(squares == 0, 0.0, 1 / (largest * divisor))
    # Only a row without any entry above the floor can be shorter than 1 here; others only by rounding.
    return largest, divisor, tl.where(is_tiny & (norm < 1), -inverse, inverse)


@triton.jit
def unit_values(source, row_ids, dims, num_rows, dim, largest, divisor):
    """Some dimensions of the unit rows; the last two arguments come from `inverse_norm`."""
    return load_values(source, row_ids, dims, num_rows, dim) / largest[:, None] / divisor[:, None]


@triton.jit(do_not_specialize=SIZES)
def normalize_rows(
    source,  # (N, D), of any length
    unit_rows,  # out, (padded N, padded D): rows of length 1, 0 beyond N and D
    inverse_norms,  # out, (N,), from inverse_norm
    num_rows,
    dim,
    padded_rows,
    padded_dim,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`functional.unit_rows`."""
    row_ids = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    largest, divisor, inverse = inverse_norm(source, row_ids, num_rows, dim, BLOCK, BLOCK_D)
    tl.store(inverse_norms + row_ids, inverse, mask=row_ids < num_rows)
    for start in range(0, padded_dim, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        values = unit_values(source, row_ids, dims, num_rows, dim, largest, divisor)
        target = unit_rows + row_ids[:, None] * padded_dim + dims[None, :]
        inside = (row_ids < padded_rows)[:, None] & (dims < padded_dim)[None, :]
        tl.store(target, values.to(unit_rows.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def gather_rows(
    unit_rows,  # (N, D)
    order,  # (N,): row `order[k]` is the k-th by class
    classes,  # (N,), sorted
    rows,  # out, (padded N, WIDTH) in the dtype of the products, 0 beyond N and D; (padded N, 2 WIDTH) if TWO_PLANES
    labels,  # out, (padded N,), int32; beyond N the last class, so that the last tile may be of one class
    order_kept,  # out, (N,): `order` in the workspace
    starts,  # out, (C,)
    ends,  # out, (C,)
    num_rows,
    dim,
    num_classes,
    WIDTH: tl.constexpr,
    TWO_PLANES: tl.constexpr,  # whether a row is two planes of WIDTH, see `_kernels_planes.py`
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the rows sorted by class, and where each class starts and ends."""
    row_ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_row = row_ids < num_rows
    source_ids = tl.load(order + row_ids, mask=is_row, other=0)
    inside = is_row[:, None] & (dims < dim)[None, :]
    values = tl.load(unit_rows + source_ids[:, None] * dim + dims[None, :], mask=inside, other=0.0)
    inside = (dims < WIDTH)[None, :]
    if TWO_PLANES:
        target = rows + row_ids.to(tl.int64)[:, None] * (2 * WIDTH) + dims[None, :]
        high, low = split_planes(values.to(tl.float32) * PLANE_SCALE)
        tl.store(target, high, mask=inside)
        tl.store(target + WIDTH, low, mask=inside)
    else:
        target = rows + row_ids.to(tl.int64)[:, None] * WIDTH + dims[None, :]
        tl.store(target, values.to(rows.dtype.element_ty), mask=inside)
    if tl.program_id(1) == 0:
        label = tl.load(classes + tl.minimum(row_ids, num_rows - 1)).to(tl.int32)
        previous = tl.load(classes + row_ids - 1, mask=is_row & (row_ids > 0), other=-1).to(tl.int32)
        tl.store(labels + row_ids, label)
        tl.store(order_kept + row_ids, source_ids, mask=is_row)
        # At this row the previous class ends and its own starts; the empty classes between them do both.
        for step in range(tl.max(tl.where(is_row, label - previous, 0), axis=0)):
            starting = previous + 1 + step
            tl.store(starts + starting, row_ids, mask=is_row & (starting <= label))
            tl.store(ends + starting - 1, row_ids, mask=is_row & (starting <= label) & (starting > 0))
        last = tl.max(tl.where(row_ids == num_rows - 1, label, -1), axis=0)
        if last >= 0:
            for empty in range(last, num_classes):
                tl.store(ends + empty, num_rows)
                tl.store(starts + empty, num_rows, mask=empty > last)


@triton.jit(do_not_specialize=SIZES)
def list_tiles(
    labels,  # (padded N,), sorted
    tiles,  # out, (num_tiles,): numbers of the one-class tiles in rising order, then of the mixed ones in falling order
    num_uniform,  # out, (1,): how many tiles are of one class
    num_tiles,
    BY_KIND: tl.constexpr,  # else all tiles count as mixed
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sort tiles of rows into those of one class and those of several. One program."""
    uniform, mixed = 0, 0
    for start in range(0, num_tiles, BLOCK):
        numbers = start + tl.arange(0, BLOCK)
        is_tile = numbers < num_tiles
        first = tl.load(labels + numbers * SIDE, mask=is_tile, other=0)
        last = tl.load(labels + numbers * SIDE + (SIDE - 1), mask=is_tile, other=0)
        # The labels are sorted: equal ends mean one class.
        is_uniform = (is_tile & (first == last)).to(tl.int32) if BY_KIND else tl.zeros([BLOCK], tl.int32)
        is_mixed = is_tile.to(tl.int32) - is_uniform
        uniform_so_far, mixed_so_far = tl.cumsum(is_uniform, axis=0), tl.cumsum(is_mixed, axis=0)
        tl.store(tiles + uniform + uniform_so_far - 1, numbers, mask=is_uniform == 1)
        tl.store(tiles + num_tiles - mixed - mixed_so_far, numbers, mask=is_mixed == 1)
        uniform += tl.sum(is_uniform, axis=0)
        mixed += tl.sum(is_mixed, axis=0)
    tl.store(num_uniform, uniform)


@triton.jit(do_not_specialize=SIZES)
def sum_classes(
    unit_rows,  # (N, D)
    order,  # (N,)
    row_weights,  # (padded N,), sorted; None for ones
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
    """Weighted sum of the rows of each class, in `num_splits` partial sums."""
    label, split = tl.program_id(0), tl.program_id(2)
    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    start, end = tl.load(starts + label), tl.load(ends + label)
    rows_per_split = tl.cdiv(end - start, num_splits)
    first = start + split * rows_per_split
    last = tl.minimum(first + rows_per_split, end)
    total = tl.zeros([BLOCK_D], tl.float32)
    for begin in range(first, last, BLOCK):
        row_ids = begin + tl.arange(0, BLOCK)
        is_row = row_ids < last
        source_ids = tl.load(order + row_ids, mask=is_row, other=0)
        inside = is_row[:, None] & (dims < dim)[None, :]
        values = tl.load(unit_rows + source_ids[:, None] * dim + dims[None, :], mask=inside, other=0.0).to(tl.float32)
        if row_weights is not None:
            values *= tl.load(row_weights + row_ids, mask=is_row, other=0.0)[:, None]
        total += tl.sum(values, axis=0)
    target = sums + (split.to(tl.int64) * num_classes + label) * WIDTH + dims
    tl.store(target, total, mask=dims < WIDTH)


@triton.jit
def log_sum_of_partials(
    summaries, partial_maxima, partial_sums, row_ids, padded_rows, num_dense_slots, num_mirrored_slots,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Whether pairs are mirrored, their shift, and for each row a shift and its sum of exp2(logit - shift)."""
    is_mirrored, shift = table_summary(summaries)
    highest = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    if is_mirrored:
        highest = tl.zeros([BLOCK], tl.float32) + shift
        for slot in range(num_mirrored_slots):
            total += tl.load(partial_sums + tl.cast(slot, tl.int64) * padded_rows + row_ids)
    else:
        for slot in range(num_dense_slots):
            at = tl.cast(slot, tl.int64) * padded_rows + row_ids
            maximum, partial = tl.load(partial_maxima + at), tl.load(partial_sums + at)
            new = tl.maximum(highest, maximum)
            # -inf - -inf would be NaN.
            safe = tl.where(new == -float("inf"), 0.0, new)
            total = total * tl.exp2(highest - safe) + partial * tl.exp2(maximum - safe)
            highest = new
    return is_mirrored, shift, highest, total


@triton.jit(do_not_specialize=SIZES)
def finish_losses(
    unit_rows,  # (N, D), anchors
    order,  # (N,)
    labels,  # (padded N,)
    starts,  # (C,), of the references
    ends,  # (C,)
    class_sums,  # (C, WIDTH), of the references
    tables,
    summaries,
    partial_maxima,  # (dense slots, padded N), unused where pairs are mirrored
    partial_sums,  # (slots, padded N)
    num_dense_slots,
    num_mirrored_slots,
    losses,  # out, (N,), in the caller's order
    is_valid,  # out, (N,), likewise
    shifts,  # out, (padded N,), sorted: one shift for all where mirrored, else the log-sum-exp; +inf without a loss
    normalizers,  # out, (padded N,), sorted: the softmax is exp2(logit - shift) times it; 0 without a loss
    positives,  # out, (padded N,), sorted: mean dot product with the positives
    num_rows,
    padded_rows,
    num_classes,
    dim,
    IS_SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Loss of each anchor: the log-sum-exp from partial sums over the pairs, less the mean logit of the positives."""
    row_ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = row_ids < num_rows
    source_ids = tl.load(order + row_ids, mask=is_row, other=0)
    label = tl.load(labels + row_ids)

    is_mirrored, shift, highest, total = log_sum_of_partials(
        summaries, partial_maxima, partial_sums, row_ids, padded_rows, num_dense_slots, num_mirrored_slots, BLOCK
    )
    log_sum = highest + tl.log2(total)

    dot = tl.zeros([BLOCK], tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        inside = is_row[:, None] & (dims < dim)[None, :]
        row = tl.load(unit_rows + source_ids[:, None] * dim + dims[None, :], mask=inside, other=0.0).to(tl.float32)
        positive_sum = tl.load(
            class_sums + label.to(tl.int64)[:, None] * WIDTH + dims[None, :], mask=inside, other=0.0
        )  # fmt: skip
        if IS_SELF:
            positive_sum -= row
        dot += tl.sum(row * positive_sum, axis=1)
    count = tl.load(ends + label) - tl.load(starts + label)
    if IS_SELF:
        count -= 1
    divisor = tl.maximum(count, 1).to(tl.float32)
    dot /= divisor

    scale, bias = table_entries(tables, label * num_classes + label)
    valid = is_row & (count > 0) & (bias != DROPPED)
    loss = (log_sum - (scale * dot + bias) - tl.log2(divisor)) * LN_2
    tl.store(losses + source_ids, tl.where(valid, loss, 0.0), mask=is_row)
    tl.store(is_valid + source_ids, valid, mask=is_row)
    # Not the log-sum-exp alone: its rounding, and that of the logarithm, would be in every weight of the row.
    shift = tl.where(is_mirrored, shift, log_sum)
    tl.store(shifts + row_ids, tl.where(valid, shift, float("inf")))
    tl.store(normalizers + row_ids, tl.where(valid, 1 / (total * tl.exp2(highest - shift)), 0.0))
    tl.store(positives + row_ids, tl.where(valid, dot, 0.0))


@triton.jit(do_not_specialize=SIZES)
def softmax_coefficients(
    upstream,  # (N,), gradient of the losses, in the caller's order; from element to element `stride`
    order,  # (N,)
    normalizers,  # (padded N,)
    loss_scale,  # (1,), see `_kernels_tables.loss_scale_for`; None for 1
    gradients,  # out, (padded N,): upstream gradient, sorted, 0 without a loss
    coefficients,  # out, (padded N,): what exp2(logit - shift) is multiplied by in the pair weights
    num_rows,
    stride,
    BLOCK: tl.constexpr,
):
    """What each anchor contributes to the weights of its pairs."""
    row_ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = row_ids < num_rows
    normalizer = tl.load(normalizers + row_ids)
    source_ids = tl.load(order + row_ids, mask=is_row, other=0)
    gradient = tl.load(upstream + source_ids * stride, mask=is_row & (normalizer != 0), other=0.0)
    coefficient = gradient
    if loss_scale is not None:
        coefficient *= tl.load(loss_scale)
    tl.store(gradients + row_ids, gradient)
    tl.store(coefficients + row_ids, coefficient * normalizer)


@triton.jit
def gradient_at_unit_rows(
    partials, unit_rows, source_ids, row_ids, label, dims, inside, count, scale, gradient, partials_scale,
    ref_sums, anchor_sums, num_splits, padded_rows, dim,
    ROWS_ARE_ANCHORS: tl.constexpr, COLUMNS_ARE_ANCHORS: tl.constexpr, IS_SELF: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Some dimensions of the gradient at the unit rows, and these dimensions of the unit rows."""
    row = tl.load(unit_rows + source_ids[:, None] * dim + dims[None, :], mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for split in range(num_splits):
        at = (tl.cast(split, tl.int64) * padded_rows + row_ids.to(tl.int64))[:, None] * WIDTH + dims[None, :]
        total += tl.load(partials + at, mask=inside, other=0.0)
    # Plane scale times loss scale, divided out here.
    total /= partials_scale
    pull = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    at = label.to(tl.int64)[:, None] * WIDTH + dims[None, :]
    if ROWS_ARE_ANCHORS:
        pull += gradient[:, None] * tl.load(ref_sums + at, mask=inside, other=0.0)
        if IS_SELF:
            pull -= 2 * gradient[:, None] * row
    if COLUMNS_ARE_ANCHORS:
        pull += tl.load(anchor_sums + at, mask=inside, other=0.0)
    pull *= (scale / tl.maximum(count, 1).to(tl.float32))[:, None]
    return (total - pull) * LN_2, row


@triton.jit(do_not_specialize=SIZES)
def scatter_gradient(
    partials,  # (splits, padded N, WIDTH): sums of pair weights times rows
    unit_rows,  # (N, D)
    inverse_norms,  # (N,), from normalize_rows
    order,  # (N,)
    labels,  # (padded N,)
    anchor_gradients,  # (padded N,), from softmax_coefficients; read if ROWS_ARE_ANCHORS
    ref_starts,  # (C,)
    ref_ends,  # (C,)
    ref_sums,  # (C, WIDTH), of the references; read if ROWS_ARE_ANCHORS
    anchor_sums,  # (C, WIDTH), of the anchors times their upstream gradients; read if COLUMNS_ARE_ANCHORS
    tables,
    loss_scale,  # (1,), or None for 1
    gradient,  # out, (N, D), in the caller's order
    num_splits,
    num_rows,
    padded_rows,
    num_classes,
    dim,
    plane_scale: tl.constexpr,  # what the rows in the products were multiplied by
    ROWS_ARE_ANCHORS: tl.constexpr,
    COLUMNS_ARE_ANCHORS: tl.constexpr,
    IS_SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Add up a row's gradient, subtract the positives' term, go through the normalization, and put it in its place."""
    row_ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = row_ids < num_rows
    source_ids = tl.load(order + row_ids, mask=is_row, other=0)
    label = tl.load(labels + row_ids)
    arriving = tl.load(anchor_gradients + row_ids) if ROWS_ARE_ANCHORS else tl.zeros([BLOCK], tl.float32)
    count = tl.load(ref_ends + label) - tl.load(ref_starts + label)
    if IS_SELF:
        count -= 1
    scale, _ = table_entries(tables, label * num_classes + label)
    partials_scale = plane_scale * 1.0
    if loss_scale is not None:
        partials_scale *= tl.load(loss_scale)
    radial = tl.zeros([BLOCK], tl.float32)
    for start in range(0, dim, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        inside = is_row[:, None] & (dims < dim)[None, :]
        at_unit, row = gradient_at_unit_rows(
            partials, unit_rows, source_ids, row_ids, label, dims, inside, count, scale, arriving, partials_scale,
            ref_sums, anchor_sums, num_splits, padded_rows, dim,
            ROWS_ARE_ANCHORS, COLUMNS_ARE_ANCHORS, IS_SELF, WIDTH, BLOCK, BLOCK_D,
        )  # fmt: skip
        radial += tl.sum(at_unit * row, axis=1)
    inverse = tl.load(inverse_norms + source_ids, mask=is_row, other=0.0)
    # A negative inverse marks a row below the norm's floor: it is scaled, not normalized.
    radial = tl.where(inverse > 0, radial, 0.0)
    for start in range(0, dim, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        inside = is_row[:, None] & (dims < dim)[None, :]
        at_unit, row = gradient_at_unit_rows(
            partials, unit_rows, source_ids, row_ids, label, dims, inside, count, scale, arriving, partials_scale,
            ref_sums, anchor_sums, num_splits, padded_rows, dim,
            ROWS_ARE_ANCHORS, COLUMNS_ARE_ANCHORS, IS_SELF, WIDTH, BLOCK, BLOCK_D,
        )  # fmt: skip
        result = (at_unit - row * radial[:, None]) * tl.abs(inverse)[:, None]
        target = gradient + source_ids[:, None] * dim + dims[None, :]
        tl.store(target, result.to(gradient.dtype.element_ty), mask=inside)
