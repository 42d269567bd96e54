"""Triton kernels for small batches: unsorted rows, a table entry looked up for each pair, one launch a pass.

The time of such a batch is that of its launches, not of its pairs. Logits are in base 2. No kernel uses atomics.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportArgumentType=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import LN_2, LOG2_E, SIZES

__all__ = ["gradient_of_small_batch", "losses_of_small_batch"]


@triton.jit
def tile_dots(
    rows,
    columns,
    first_row,
    first_column,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Dot products `(BLOCK_ROWS, BLOCK_COLUMNS)` of padded rows."""
    dots = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    dims = tl.arange(0, BLOCK_D)[None, :]
    left = rows + (first_row + tl.arange(0, BLOCK_ROWS))[:, None] * WIDTH + dims
    right = columns + (first_column + tl.arange(0, BLOCK_COLUMNS))[:, None] * WIDTH + dims
    for start in range(0, WIDTH, BLOCK_D):
        dots = tl.dot(tl.load(left + start), tl.trans(tl.load(right + start)), dots, input_precision=PRECISION)
    return dots


@triton.jit
def tile_pairs(dots, row_classes, column_classes, keep, similarity_scale, similarity_bias, row_step, column_step):
    """Logits, scales of the similarity, and whether a pair is positive.

    The table entry of classes a and b is `row_step * a + column_step * b`.
    """
    entry = (row_classes * row_step)[:, None] + (column_classes * column_step)[None, :]
    scale = tl.load(similarity_scale + entry, mask=keep, other=0.0).to(tl.float32)
    bias = tl.load(similarity_bias + entry, mask=keep, other=-float("inf")).to(tl.float32)
    logits = (scale * (dots + 1) * 0.5 + bias) * LOG2_E
    is_positive = keep & (row_classes[:, None] == column_classes[None, :]) & (bias != -float("inf"))
    return logits, scale, is_positive


@triton.jit(do_not_specialize=SIZES)
def losses_of_small_batch(
    rows,  # (padded N, WIDTH), unit rows, zero beyond N and D
    row_labels,  # (N,)
    columns,  # (padded M, WIDTH)
    column_labels,
    similarity_scale,  # (C, C)
    similarity_bias,
    losses,  # out, (N,)
    is_valid,  # out, (N,)
    statistics,  # out, (3, N): what `anchor_terms` reads
    num_rows,
    num_columns,
    num_classes,
    IS_SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Losses of a tile of anchors, with a running maximum."""
    first_row = tl.program_id(0) * BLOCK_ROWS
    row_ids = first_row + tl.arange(0, BLOCK_ROWS)
    is_row = row_ids < num_rows
    row_classes = tl.load(row_labels + row_ids, mask=is_row, other=0).to(tl.int32)
    maximum = tl.full([BLOCK_ROWS], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    positives = tl.zeros([BLOCK_ROWS], tl.float32)
    count = tl.zeros([BLOCK_ROWS], tl.float32)
    for first_column in range(0, num_columns, BLOCK_COLUMNS):
        column_ids = first_column + tl.arange(0, BLOCK_COLUMNS)
        column_classes = tl.load(column_labels + column_ids, mask=column_ids < num_columns, other=0).to(tl.int32)
        keep = is_row[:, None] & (column_ids < num_columns)[None, :]
        if IS_SELF:
            keep &= row_ids[:, None] != column_ids[None, :]
        dots = tile_dots(
            rows, columns, first_row, first_column, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D, PRECISION
        )  # fmt: skip
        logits, _, is_positive = tile_pairs(
            dots, row_classes, column_classes, keep, similarity_scale, similarity_bias, num_classes, 1
        )
        logits = tl.where(keep, logits, -float("inf"))
        new = tl.maximum(maximum, tl.max(logits, axis=1))
        # -inf - -inf would be NaN.
        shift = tl.where(new == -float("inf"), 0.0, new)
        total = total * tl.exp2(maximum - shift) + tl.sum(tl.exp2(logits - shift[:, None]), axis=1)
        maximum = new
        positives += tl.sum(tl.where(is_positive, logits, 0.0), axis=1)
        count += tl.sum(is_positive.to(tl.float32), axis=1)
    log_sum = maximum + tl.log2(total)
    divisor = tl.maximum(count, 1.0)
    valid = count > 0
    loss = (log_sum - positives / divisor - tl.log2(divisor)) * LN_2
    tl.store(losses + row_ids, tl.where(valid, loss, 0.0), mask=is_row)
    tl.store(is_valid + row_ids, valid, mask=is_row)
    # Not the log-sum-exp: its rounding would be in every weight of the row. Without a loss the softmax is 0.
    tl.store(statistics + row_ids, tl.where(valid, maximum, float("inf")), mask=is_row)
    tl.store(statistics + num_rows + row_ids, tl.where(valid, 1 / total, 0.0), mask=is_row)
    tl.store(statistics + 2 * num_rows + row_ids, count, mask=is_row)


@triton.jit
def anchor_terms(statistics, upstream, stride, row_ids, num_rows):
    """Largest logit, 1 / sum of exponentials, number of positives and upstream gradient of some anchors."""
    is_row = row_ids < num_rows
    maximum = tl.load(statistics + row_ids, mask=is_row, other=float("inf"))
    normalizer = tl.load(statistics + num_rows + row_ids, mask=is_row, other=0.0)
    count = tl.load(statistics + 2 * num_rows + row_ids, mask=is_row, other=0.0)
    gradient = tl.load(upstream + row_ids * stride, mask=is_row & (count > 0), other=0.0).to(tl.float32)
    return maximum, normalizer, count, gradient


@triton.jit
def pair_weights(logits, scale, is_positive, maximum, normalizer, count, gradient):
    """`dL / d dot` of pairs of an anchor and a reference: `scale / 2 * g * (q - t / n)`.

    This includes the positives' part, with t = 1 for a positive. The last four are values of the anchors.
    """
    softmax = tl.exp2(logits - maximum) * normalizer
    return 0.5 * scale * gradient * (softmax - is_positive.to(tl.float32) / tl.maximum(count, 1.0))


@triton.jit(do_not_specialize=SIZES)
def gradient_of_small_batch(
    source,  # (N, D), the rows whose gradient is computed, as the caller gave them
    inverse_norms,  # (N,), from normalize_rows
    rows,  # (padded N, WIDTH), their unit rows
    row_labels,
    columns,  # (padded M, WIDTH)
    column_labels,
    similarity_scale,
    similarity_bias,
    statistics,  # (3, number of anchors): of the rows if ROWS_ARE_ANCHORS, else of the columns, like the next
    upstream,  # from element to element `stride`: 0 where all are one number, as below a mean
    gradient,  # out, (N, D)
    num_rows,
    num_columns,
    num_classes,
    dim,
    stride,
    ROWS_ARE_ANCHORS: tl.constexpr,  # whether the rows are anchors with the columns as their references,
    COLUMNS_ARE_ANCHORS: tl.constexpr,  # and whether the columns are anchors with the rows as theirs
    IS_SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of a tile of rows in some dimensions, through the normalization of the rows."""
    first_row, first_dim = tl.program_id(0) * BLOCK_ROWS, tl.program_id(1) * BLOCK_OUT
    row_ids = first_row + tl.arange(0, BLOCK_ROWS)
    dims = first_dim + tl.arange(0, BLOCK_OUT)
    row_classes = tl.load(row_labels + row_ids, mask=row_ids < num_rows, other=0).to(tl.int32)
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    # The component along the row itself, u . dL/du, is sum of weight * dot: no other dimensions are needed for it.
    radial = tl.zeros([BLOCK_ROWS], tl.float32)
    for first_column in range(0, num_columns, BLOCK_COLUMNS):
        column_ids = first_column + tl.arange(0, BLOCK_COLUMNS)
        column_classes = tl.load(column_labels + column_ids, mask=column_ids < num_columns, other=0).to(tl.int32)
        keep = (row_ids < num_rows)[:, None] & (column_ids < num_columns)[None, :]
        if IS_SELF:
            keep &= row_ids[:, None] != column_ids[None, :]
        dots = tile_dots(
            rows, columns, first_row, first_column, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D, PRECISION
        )  # fmt: skip
        weights = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
        if ROWS_ARE_ANCHORS:
            logits, scale, is_positive = tile_pairs(
                dots, row_classes, column_classes, keep, similarity_scale, similarity_bias, num_classes, 1
            )
            maximum, normalizer, count, arriving = anchor_terms(statistics, upstream, stride, row_ids, num_rows)
            weights += pair_weights(
                logits, scale, is_positive,
                maximum[:, None], normalizer[:, None], count[:, None], arriving[:, None],
            )  # fmt: skip
        if COLUMNS_ARE_ANCHORS:
            logits, scale, is_positive = tile_pairs(
                dots, row_classes, column_classes, keep, similarity_scale, similarity_bias, 1, num_classes
            )
            maximum, normalizer, count, arriving = anchor_terms(statistics, upstream, stride, column_ids, num_columns)
            weights += pair_weights(
                logits, scale, is_positive,
                maximum[None, :], normalizer[None, :], count[None, :], arriving[None, :],
            )  # fmt: skip
        weights = tl.where(keep, weights, 0.0)
        radial += tl.sum(weights * dots, axis=1)
        column_values = tl.load(columns + column_ids[:, None] * WIDTH + dims[None, :])
        total = tl.dot(weights.to(columns.dtype.element_ty), column_values, total, input_precision=PRECISION)
    inside = (row_ids < num_rows)[:, None] & (dims < dim)[None, :]
    inverse = tl.load(inverse_norms + row_ids, mask=row_ids < num_rows, other=0.0)
    at = row_ids[:, None] * dim + dims[None, :]
    unit_row = tl.load(source + at, mask=inside, other=0.0).to(tl.float32) * tl.abs(inverse)[:, None]
    # A negative inverse marks a row below the norm's floor: it is scaled, not normalized.
    radial = tl.where(inverse > 0, radial, 0.0)
    result = (total - unit_row * radial[:, None]) * tl.abs(inverse)[:, None]
    tl.store(gradient + at, result.to(gradient.dtype.element_ty), mask=inside)
