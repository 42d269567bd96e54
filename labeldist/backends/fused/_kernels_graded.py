"""Triton kernels of graded targets: what `_kernels_rows.py` does at the end of a pass, for targets of many classes.

The pairs are computed as without graded targets. Sums over class pairs, which do not depend on the rows' number, are in
nats; the rest of the logits is in base 2 (see `_kernels_common.py`).
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportOperatorIssue=false, reportArgumentType=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import LN_2, LOG2_E, SIZES
from labeldist.backends.fused._kernels_rows import gradient_at_unit_rows, log_sum_of_partials

__all__ = ["finish_graded_losses", "pull_anchors", "pull_references", "scatter_graded_gradient", "weigh_targets"]


@triton.jit
def target_entries(relevance, similarity_scale, similarity_bias, at, inside):
    """Relevance, and scale and bias of dot products, of some class pairs: 0 for those that are excluded or outside."""
    weight = tl.load(relevance + at, mask=inside, other=0.0)
    scale = tl.load(similarity_scale + at, mask=inside, other=0.0) / 2
    bias = tl.load(similarity_bias + at, mask=inside, other=0.0)
    is_out = (weight == 0) | (bias == float("-inf"))
    # Replace the entries before any product: 0 * inf is NaN.
    scale = tl.where(is_out, 0.0, scale)
    return tl.where(is_out, 0.0, weight), scale, tl.where(is_out, 0.0, scale + bias)


@triton.jit
def target_numbers(weight, scale, bias, starts, ends, columns, inside, row, IS_SELF: tl.constexpr):
    """What references of some classes add to the `numbers` of a class of anchors, from `target_entries`."""
    is_own = columns == row
    sizes = tl.load(ends + columns, mask=inside, other=0) - tl.load(starts + columns, mask=inside, other=0)
    if IS_SELF:
        sizes = tl.where(is_own, tl.maximum(sizes - 1, 0), sizes)
    sizes = sizes.to(tl.float32)
    constant = bias - tl.log(tl.where(weight == 0, 1.0, weight))
    # Of a class of one row nothing remains but rounding, which a faint relevance of others would make large.
    own_scale = tl.where(is_own & (sizes > 0), weight * scale, 0.0)
    return tl.sum(weight * sizes, axis=0), tl.sum(weight * constant * sizes, axis=0), tl.sum(own_scale, axis=0)


@triton.jit(do_not_specialize=SIZES)
def pull_anchors(
    relevance,  # (C, C)
    similarity_scale,  # (C, C), as in `ClassPairTables`
    similarity_bias,  # (C, C)
    starts,  # (C,), of the references, like the next
    ends,  # (C,)
    class_sums,  # (C, WIDTH), of the references
    pulls,  # out, (C, WIDTH), see `_targets.ClassTargets`
    numbers,  # out, (3, C), as in `finish_graded_losses`
    num_classes,
    IS_SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`_targets.target_tables` and `class_targets` of few classes in one launch: a class and some dimensions a program.

    In place of `weigh_targets` and a product of the library.
    """
    row = tl.program_id(0)
    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_first = tl.program_id(1) == 0
    total, constant, own_scale = 0.0, 0.0, 0.0
    pull = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, num_classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < num_classes
        sums = tl.load(class_sums + columns[:, None] * WIDTH + dims[None, :], mask=inside[:, None], other=0.0)
        weight, scale, bias = target_entries(
            relevance, similarity_scale, similarity_bias, row * num_classes + columns, inside
        )
        pull += tl.sum(tl.where(columns == row, 0.0, weight * scale)[:, None] * sums, axis=0)
        if is_first:
            of_total, of_constant, of_own_scale = target_numbers(
                weight, scale, bias, starts, ends, columns, inside, row, IS_SELF
            )
            total += of_total
            constant += of_constant
            own_scale += of_own_scale
    tl.store(pulls + row * WIDTH + dims, pull)
    if is_first:
        tl.store(numbers + row, total)
        tl.store(numbers + num_classes + row, constant)
        tl.store(numbers + 2 * num_classes + row, own_scale)


@triton.jit(do_not_specialize=SIZES)
def pull_references(
    relevance,  # (C, C)
    similarity_scale,  # (C, C), as in `ClassPairTables`
    similarity_bias,  # (C, C)
    numbers,  # (3, C), as in `finish_graded_losses`
    anchor_sums,  # (C, WIDTH), of anchors times their upstream gradients
    ref_pulls,  # out, (C, WIDTH), on the references of a class by the anchors of others
    num_classes,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The transpose of `pull_anchors`, for anchors whose relevances are divided by their sum."""
    column = tl.program_id(0)
    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    pull = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, num_classes, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        inside = rows < num_classes
        sums = tl.load(anchor_sums + rows[:, None] * WIDTH + dims[None, :], mask=inside[:, None], other=0.0)
        weight, scale, _ = target_entries(
            relevance, similarity_scale, similarity_bias, rows * num_classes + column, inside
        )
        total = tl.load(numbers + rows, mask=inside, other=0.0)
        factor = tl.where(total != 0, 1 / total, 0.0)
        pull += tl.sum((tl.where(rows == column, 0.0, weight * scale) * factor)[:, None] * sums, axis=0)
    tl.store(ref_pulls + column * WIDTH + dims, pull)


@triton.jit(do_not_specialize=SIZES)
def weigh_targets(
    relevance,  # (C, C)
    similarity_scale,  # (C, C), as in `ClassPairTables`
    similarity_bias,  # (C, C)
    starts,  # (C,), of the references, like the next
    ends,  # (C,)
    weighted,  # out, (C, C): relevance times the scale of dot products; 0 on the diagonal and for excluded class pairs
    numbers,  # (3, C), as in `finish_graded_losses`: read if BY_TOTAL, else out
    num_classes,
    IS_SELF: tl.constexpr,
    BY_TOTAL: tl.constexpr,  # whether a row of `weighted` is divided by the sum of its relevances
    BLOCK: tl.constexpr,
):
    """The tables of dot products weighted by relevance, one row a program: `_targets.target_tables` in one launch."""
    row = tl.program_id(0)
    total, constant, own_scale = 0.0, 0.0, 0.0
    factor = 1.0
    if BY_TOTAL:
        row_total = tl.load(numbers + row)
        factor = tl.where(row_total != 0, 1 / row_total, 0.0)
    for start in range(0, num_classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < num_classes
        at = row.to(tl.int64) * num_classes + columns
        weight, scale, bias = target_entries(relevance, similarity_scale, similarity_bias, at, inside)
        if not BY_TOTAL:
            of_total, of_constant, of_own_scale = target_numbers(
                weight, scale, bias, starts, ends, columns, inside, row, IS_SELF
            )
            total += of_total
            constant += of_constant
            own_scale += of_own_scale
        tl.store(weighted + at, tl.where(columns == row, 0.0, weight * scale) * factor, mask=inside)
    if not BY_TOTAL:
        tl.store(numbers + row, total)
        tl.store(numbers + num_classes + row, constant)
        tl.store(numbers + 2 * num_classes + row, own_scale)


@triton.jit(do_not_specialize=SIZES)
def finish_graded_losses(
    unit_rows,  # (N, D), anchors
    order,  # (N,)
    labels,  # (padded N,)
    class_sums,  # (C, WIDTH), of the references
    pulls,  # (C, WIDTH), see `_targets.ClassTargets`
    numbers,  # (3, C): sums of the relevances, constants, and the scale of the own class times its relevance
    summaries,
    partial_maxima,  # (dense slots, padded N), unused where pairs are mirrored
    partial_sums,  # (slots, padded N)
    num_dense_slots,
    num_mirrored_slots,
    losses,  # out, (N,), in the caller's order
    is_valid,  # out, (N,), likewise
    shifts,  # out, (padded N,), as in `_kernels_rows.finish_losses`, like the next
    normalizers,  # out, (padded N,)
    means,  # out, (padded N,), sorted: mean of `logit - log relevance` under the targets, in nats
    num_rows,
    padded_rows,
    num_classes,
    dim,
    IS_SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Loss of each anchor: the log-sum-exp from partial sums over the pairs, less the mean logit of the targets."""
    row_ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = row_ids < num_rows
    source_ids = tl.load(order + row_ids, mask=is_row, other=0)
    label = tl.load(labels + row_ids)
    is_mirrored, shift, highest, total = log_sum_of_partials(
        summaries, partial_maxima, partial_sums, row_ids, padded_rows, num_dense_slots, num_mirrored_slots, BLOCK
    )
    log_sum = highest + tl.log2(total)

    own_scale = tl.load(numbers + 2 * num_classes + label)
    dot = tl.zeros([BLOCK], tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        inside = is_row[:, None] & (dims < dim)[None, :]
        at = label.to(tl.int64)[:, None] * WIDTH + dims[None, :]
        row = tl.load(unit_rows + source_ids[:, None] * dim + dims[None, :], mask=inside, other=0.0).to(tl.float32)
        # Subtract the row itself first: in a class of one row nothing may remain.
        own = tl.load(class_sums + at, mask=inside, other=0.0)
        if IS_SELF:
            own -= row
        dot += tl.sum(row * (tl.load(pulls + at, mask=inside, other=0.0) + own_scale[:, None] * own), axis=1)
    weight = tl.load(numbers + label)
    # Not `weight > 0`, which would hide a NaN.
    valid = is_row & (weight != 0)
    divisor = tl.where(valid, weight, 1.0)
    mean = (dot + tl.load(numbers + num_classes + label)) / divisor
    loss = (log_sum - tl.log2(divisor)) * LN_2 - mean
    tl.store(losses + source_ids, tl.where(valid, loss, 0.0), mask=is_row)
    tl.store(is_valid + source_ids, valid, mask=is_row)
    shift = tl.where(is_mirrored, shift, log_sum)
    tl.store(shifts + row_ids, tl.where(valid, shift, float("inf")))
    tl.store(normalizers + row_ids, tl.where(valid, 1 / (total * tl.exp2(highest - shift)), 0.0))
    tl.store(means + row_ids, tl.where(valid, mean, 0.0))


@triton.jit
def graded_gradient_at_unit_rows(
    partials, unit_rows, source_ids, row_ids, label, dims, inside, inverse_weight, own_scale, gradient, partials_scale,
    ref_sums, pulls, anchor_sums, ref_pulls, num_splits, padded_rows, dim,
    ROWS_ARE_ANCHORS: tl.constexpr, COLUMNS_ARE_ANCHORS: tl.constexpr, IS_SELF: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Some dimensions of the gradient at the unit rows, and these dimensions of the unit rows."""
    # The own class as without graded targets: one positive, with the scale that its relevance gives.
    at_unit, row = gradient_at_unit_rows(
        partials, unit_rows, source_ids, row_ids, label, dims, inside, tl.full([BLOCK], 1, tl.int32),
        own_scale * inverse_weight * LOG2_E, gradient, partials_scale, ref_sums, anchor_sums, num_splits, padded_rows,
        dim, ROWS_ARE_ANCHORS, COLUMNS_ARE_ANCHORS, IS_SELF, WIDTH, BLOCK, BLOCK_D,
    )  # fmt: skip
    at = label.to(tl.int64)[:, None] * WIDTH + dims[None, :]
    if ROWS_ARE_ANCHORS:
        at_unit -= (gradient * inverse_weight)[:, None] * tl.load(pulls + at, mask=inside, other=0.0)
    if COLUMNS_ARE_ANCHORS:
        at_unit -= tl.load(ref_pulls + at, mask=inside, other=0.0)
    return at_unit, row


@triton.jit(do_not_specialize=SIZES)
def scatter_graded_gradient(
    partials,  # (splits, padded N, WIDTH): sums of pair weights times rows
    unit_rows,  # (N, D)
    inverse_norms,  # (N,), from normalize_rows
    order,  # (N,)
    labels,  # (padded N,)
    anchor_gradients,  # (padded N,), from softmax_coefficients; read if ROWS_ARE_ANCHORS
    ref_sums,  # (C, WIDTH), of the references; read if ROWS_ARE_ANCHORS, like the next
    pulls,  # (C, WIDTH), on the anchors of a class by the references of others
    anchor_sums,  # (C, WIDTH), of anchors times their upstream gradients; read if COLUMNS_ARE_ANCHORS, like the next
    ref_pulls,  # (C, WIDTH), on the references of a class by the anchors of others
    numbers,  # (3, C), as in `finish_graded_losses`
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
    """`_kernels_rows.scatter_gradient` with the term of graded targets in place of the positives'."""
    row_ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = row_ids < num_rows
    source_ids = tl.load(order + row_ids, mask=is_row, other=0)
    label = tl.load(labels + row_ids)
    arriving = tl.load(anchor_gradients + row_ids) if ROWS_ARE_ANCHORS else tl.zeros([BLOCK], tl.float32)
    weight = tl.load(numbers + label)
    # The classes of anchors without a relevant reference have no gradient.
    inverse_weight = tl.where(weight != 0, 1 / weight, 0.0)
    own_scale = tl.load(numbers + 2 * num_classes + label)
    partials_scale = plane_scale * 1.0
    if loss_scale is not None:
        partials_scale *= tl.load(loss_scale)
    radial = tl.zeros([BLOCK], tl.float32)
    for start in range(0, dim, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        inside = is_row[:, None] & (dims < dim)[None, :]
        at_unit, row = graded_gradient_at_unit_rows(
            partials, unit_rows, source_ids, row_ids, label, dims, inside, inverse_weight, own_scale, arriving,
            partials_scale, ref_sums, pulls, anchor_sums, ref_pulls, num_splits, padded_rows, dim,
            ROWS_ARE_ANCHORS, COLUMNS_ARE_ANCHORS, IS_SELF, WIDTH, BLOCK, BLOCK_D,
        )  # fmt: skip
        radial += tl.sum(at_unit * row, axis=1)
    inverse = tl.load(inverse_norms + source_ids, mask=is_row, other=0.0)
    # A negative inverse marks a row below the norm's floor: it is scaled, not normalized.
    radial = tl.where(inverse > 0, radial, 0.0)
    for start in range(0, dim, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        inside = is_row[:, None] & (dims < dim)[None, :]
        at_unit, row = graded_gradient_at_unit_rows(
            partials, unit_rows, source_ids, row_ids, label, dims, inside, inverse_weight, own_scale, arriving,
            partials_scale, ref_sums, pulls, anchor_sums, ref_pulls, num_splits, padded_rows, dim,
            ROWS_ARE_ANCHORS, COLUMNS_ARE_ANCHORS, IS_SELF, WIDTH, BLOCK, BLOCK_D,
        )  # fmt: skip
        result = (at_unit - row * radial[:, None]) * tl.abs(inverse)[:, None]
        target = gradient + source_ids[:, None] * dim + dims[None, :]
        tl.store(target, result.to(gradient.dtype.element_ty), mask=inside)
