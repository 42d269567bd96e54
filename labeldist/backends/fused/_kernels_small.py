"""Triton kernels for small batches: unsorted rows, every pair looked up by itself, one launch forward and one backward.

There the time is that of launches, not of pairs. Logits are in base 2. No kernel uses atomics.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportArgumentType=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import LN_2, LOG2_E, SIZES

__all__ = ["gradient_of_small_batch", "losses_of_small_batch"]


@triton.jit
def dots_of(
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
    own = rows + (first_row + tl.arange(0, BLOCK_ROWS))[:, None] * WIDTH + dims
    others = columns + (first_column + tl.arange(0, BLOCK_COLUMNS))[:, None] * WIDTH + dims
    for start in range(0, WIDTH, BLOCK_D):
        dots = tl.dot(tl.load(own + start), tl.trans(tl.load(others + start)), dots, input_precision=PRECISION)
    return dots


@triton.jit
def pairs_of(dots, row_classes, column_classes, taken, scale, bias, row_step, column_step):
    """Logits, steepness, and whether a pair is positive; the table's entry is `row_step * a + column_step * b`."""
    entry = (row_classes * row_step)[:, None] + (column_classes * column_step)[None, :]
    steepness = tl.load(scale + entry, mask=taken, other=0.0).to(tl.float32)
    level = tl.load(bias + entry, mask=taken, other=-float("inf")).to(tl.float32)
    logits = (steepness * (dots + 1) * 0.5 + level) * LOG2_E
    is_positive = taken & (row_classes[:, None] == column_classes[None, :]) & (level != -float("inf"))
    return logits, steepness, is_positive


@triton.jit(do_not_specialize=SIZES)
def losses_of_small_batch(
    rows,  # (padded N, WIDTH), unit rows, zero beyond N and D
    row_labels,  # (N,)
    columns,  # (padded M, WIDTH)
    column_labels,
    scale,  # (C, C)
    bias,
    losses,  # out, (N,)
    is_valid,  # out, (N,)
    kept,  # out, (3, N): what `anchors_of` reads
    num_rows,
    num_columns,
    num_classes,
    SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Losses of a tile of anchors, with a running maximum."""
    first_row = tl.program_id(0) * BLOCK_ROWS
    own = first_row + tl.arange(0, BLOCK_ROWS)
    row_classes = tl.load(row_labels + own, mask=own < num_rows, other=0).to(tl.int32)
    maximum = tl.full([BLOCK_ROWS], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    positive = tl.zeros([BLOCK_ROWS], tl.float32)
    count = tl.zeros([BLOCK_ROWS], tl.float32)
    for first_column in range(0, num_columns, BLOCK_COLUMNS):
        others = first_column + tl.arange(0, BLOCK_COLUMNS)
        column_classes = tl.load(column_labels + others, mask=others < num_columns, other=0).to(tl.int32)
        taken = (own < num_rows)[:, None] & (others < num_columns)[None, :]
        if SELF:
            taken &= own[:, None] != others[None, :]
        dots = dots_of(
            rows, columns, first_row, first_column, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D, PRECISION
        )  # fmt: skip
        logits, _, is_positive = pairs_of(dots, row_classes, column_classes, taken, scale, bias, num_classes, 1)
        logits = tl.where(taken, logits, -float("inf"))
        new = tl.maximum(maximum, tl.max(logits, axis=1))
        # -inf - -inf would be NaN.
        base = tl.where(new == -float("inf"), 0.0, new)
        total = total * tl.exp2(maximum - base) + tl.sum(tl.exp2(logits - base[:, None]), axis=1)
        maximum = new
        positive += tl.sum(tl.where(is_positive, logits, 0.0), axis=1)
        count += tl.sum(is_positive.to(tl.float32), axis=1)
    partition = maximum + tl.log2(total)
    divisor = tl.maximum(count, 1.0)
    valid = count > 0
    loss = (partition - positive / divisor - tl.log2(divisor)) * LN_2
    real = own < num_rows
    tl.store(losses + own, tl.where(valid, loss, 0.0), mask=real)
    tl.store(is_valid + own, valid, mask=real)
    # Not their logarithm: its rounding would be in every weight of the row. An anchor without a loss has softmax 0.
    tl.store(kept + own, tl.where(valid, maximum, float("inf")), mask=real)
    tl.store(kept + num_rows + own, tl.where(valid, 1 / total, 0.0), mask=real)
    tl.store(kept + 2 * num_rows + own, count, mask=real)


@triton.jit
def role_weights(logits, steepness, is_positive, maximum, normaliser, count, upstream):
    """`dL / d dot` in one role: `scale / 2 * g * (q - t / n)`; the last four are values of the anchors."""
    softmax = tl.exp2(logits - maximum) * normaliser
    return 0.5 * steepness * upstream * (softmax - is_positive.to(tl.float32) / tl.maximum(count, 1.0))


@triton.jit
def anchors_of(kept, upstream, stride, places, number):
    """Largest logit, 1 / sum of exponentials, positives and upstream gradient of anchors; of no effect beyond them."""
    real = places < number
    maximum = tl.load(kept + places, mask=real, other=float("inf"))
    normaliser = tl.load(kept + number + places, mask=real, other=0.0)
    count = tl.load(kept + 2 * number + places, mask=real, other=0.0)
    gradient = tl.load(upstream + places * stride, mask=real & (count > 0), other=0.0).to(tl.float32)
    return maximum, normaliser, count, gradient


@triton.jit(do_not_specialize=SIZES)
def gradient_of_small_batch(
    source,  # (N, D), whose gradient is sought, as the caller gave it
    inverse,  # (N,), from normalise_rows
    rows,  # (padded N, WIDTH), unit rows
    row_labels,
    columns,  # (padded M, WIDTH)
    column_labels,
    scale,
    bias,
    kept,  # (3, number of anchors): of the rows if OWN, else of the columns, like the next
    upstream,  # from element to element `stride`: 0 where a mean gives all the same
    gradient,  # out, (N, D)
    num_rows,
    num_columns,
    num_classes,
    dim,
    stride,
    OWN: tl.constexpr,  # whether the rows are anchors with the columns as their references,
    OTHER: tl.constexpr,  # and whether the columns are anchors with the rows as theirs
    SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of a tile of rows in some dimensions, through the normalisation of the rows."""
    first_row, first_dim = tl.program_id(0) * BLOCK_ROWS, tl.program_id(1) * BLOCK_OUT
    own = first_row + tl.arange(0, BLOCK_ROWS)
    dims = first_dim + tl.arange(0, BLOCK_OUT)
    row_classes = tl.load(row_labels + own, mask=own < num_rows, other=0).to(tl.int32)
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    # The part along a row itself, u . dL/du = sum of weight * dot, comes without the other dimensions.
    radial = tl.zeros([BLOCK_ROWS], tl.float32)
    for first_column in range(0, num_columns, BLOCK_COLUMNS):
        others = first_column + tl.arange(0, BLOCK_COLUMNS)
        column_classes = tl.load(column_labels + others, mask=others < num_columns, other=0).to(tl.int32)
        taken = (own < num_rows)[:, None] & (others < num_columns)[None, :]
        if SELF:
            taken &= own[:, None] != others[None, :]
        dots = dots_of(
            rows, columns, first_row, first_column, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D, PRECISION
        )  # fmt: skip
        weights = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
        if OWN:
            logits, steepness, is_positive = pairs_of(
                dots, row_classes, column_classes, taken, scale, bias, num_classes, 1
            )
            top, normaliser, count, arriving = anchors_of(kept, upstream, stride, own, num_rows)
            weights += role_weights(
                logits, steepness, is_positive, top[:, None], normaliser[:, None], count[:, None], arriving[:, None]
            )
        if OTHER:
            logits, steepness, is_positive = pairs_of(
                dots, row_classes, column_classes, taken, scale, bias, 1, num_classes
            )
            top, normaliser, count, arriving = anchors_of(kept, upstream, stride, others, num_columns)
            weights += role_weights(
                logits, steepness, is_positive, top[None, :], normaliser[None, :], count[None, :], arriving[None, :]
            )
        weights = tl.where(taken, weights, 0.0)
        radial += tl.sum(weights * dots, axis=1)
        column_part = tl.load(columns + others[:, None] * WIDTH + dims[None, :])
        total = tl.dot(weights.to(columns.dtype.element_ty), column_part, total, input_precision=PRECISION)
    inside = (own < num_rows)[:, None] & (dims < dim)[None, :]
    factor = tl.load(inverse + own, mask=own < num_rows, other=0.0)
    at = own[:, None] * dim + dims[None, :]
    unit = tl.load(source + at, mask=inside, other=0.0).to(tl.float32) * tl.abs(factor)[:, None]
    # A negative inverse marks a row below the norm's floor: it is scaled, not normalised.
    radial = tl.where(factor > 0, radial, 0.0)
    result = (total - unit * radial[:, None]) * tl.abs(factor)[:, None]
    tl.store(gradient + at, result.to(gradient.dtype.element_ty), mask=inside)
