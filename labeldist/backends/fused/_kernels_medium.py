r"""Triton kernels for batches of some thousand rows: three launches forward, two backward.

With so few rows the host's launches take longer than the device's work, so each kernel does everything that one pass
over its data allows. `prepare_rows` normalizes the rows *and* sorts them by class: a row's rank is the number of rows
before it, counted directly, which is cheap for thousands of rows and saves the launches of a sort. Positives are
subtracted pair by pair instead of through class sums, which would need two more launches.

Logits are in base 2 and measured from dot products (see `_kernels_tables.py`). No kernel uses atomics.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportArgumentType=false, reportOperatorIssue=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import LN_2, SIZES
from labeldist.backends.fused._kernels_rows import inverse_norm, unit_values
from labeldist.backends.fused._kernels_tables import (
    DROPPED,
    largest_scale,
    loss_scale_for,
    pack_table_rows,
    table_entries,
)
from labeldist.backends.fused._kernels_tiles import load_tile
from labeldist.backends.fused._kernels_wide import keep_pairs, tile_logits

__all__ = [
    "finish_tile_losses",
    "gradient_from_weights",
    "prepare_rows",
    "store_tile_weights",
    "sum_tile_exponentials",
]


@triton.jit
def sort_positions(row_labels, row_ids, labels, num_rows, BLOCK: tl.constexpr, BLOCK_LABELS: tl.constexpr):
    """Where the rows stand when sorted by class, where their classes start and end, and the last class.

    The sort is stable: rows of one class keep their order.
    """
    position = tl.zeros([BLOCK], tl.int32)
    start = tl.zeros([BLOCK], tl.int32)
    end = tl.zeros([BLOCK], tl.int32)
    last_label = 0
    for first in range(0, num_rows, BLOCK_LABELS):
        ids = first + tl.arange(0, BLOCK_LABELS)
        others = tl.load(labels + ids, mask=ids < num_rows, other=-1).to(tl.int32)
        is_row = (ids < num_rows)[None, :]
        is_before = is_row & (others[None, :] < row_labels[:, None])
        is_same = is_row & (others[None, :] == row_labels[:, None])
        start += tl.sum(is_before.to(tl.int32), axis=1)
        end += tl.sum((is_before | is_same).to(tl.int32), axis=1)
        position += tl.sum((is_same & (ids[None, :] < row_ids[:, None])).to(tl.int32), axis=1)
        last_label = tl.maximum(last_label, tl.max(others, axis=0))
    return start + position, start, end, last_label


@triton.jit(do_not_specialize=SIZES)
def prepare_rows(
    source,  # (N, D), of any length, in the caller's order, like the next
    source_labels,  # (N,)
    other_labels,  # (M,), of the references; None: the rows themselves
    similarity_scale,  # (C, C), or None to leave the tables alone
    similarity_bias,
    rows,  # out, (padded N, padded D): unit rows sorted by class, 0 beyond N and D; everything below is sorted too
    labels,  # out, (padded N,), int32; beyond N the last class, so that the last tile may be of one class
    order,  # out, (padded N,), int32: the caller's index of each row
    class_ends,  # out, (C,), where each class that occurs ends
    inverse_norms,  # out, (padded N,)
    num_positives,  # out, (padded N,): references of a row's class, itself left out
    tables,  # out, see `_kernels_tables.py`, like the next
    summaries,
    num_rows,
    num_others,
    dim,
    padded_rows,
    padded_dim,
    num_classes,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_LABELS: tl.constexpr,
):
    """Normalize the rows and sort them by class; with tables, more programs at the end pack these."""
    program = tl.program_id(0)
    num_row_programs = padded_rows // BLOCK
    if program >= num_row_programs:
        if similarity_scale is not None:
            pack_table_rows(
                program - num_row_programs, similarity_scale, similarity_bias, tables, summaries, num_classes, 0, 0, 128
            )
    else:
        row_ids = program * BLOCK + tl.arange(0, BLOCK)
        is_row = row_ids < num_rows
        row_labels = tl.load(source_labels + row_ids, mask=is_row, other=0).to(tl.int32)
        position, start, end, last_label = sort_positions(
            row_labels, row_ids, source_labels, num_rows, BLOCK, BLOCK_LABELS
        )
        # Padding stays behind all rows.
        position = tl.where(is_row, position, row_ids)
        if other_labels is None:
            positives = end - start - 1
        else:
            positives = tl.zeros([BLOCK], tl.int32)
            for first in range(0, num_others, BLOCK_LABELS):
                ids = first + tl.arange(0, BLOCK_LABELS)
                others = tl.load(other_labels + ids, mask=ids < num_others, other=-1).to(tl.int32)
                positives += tl.sum((others[None, :] == row_labels[:, None]).to(tl.int32), axis=1)
        largest, divisor, inverse = inverse_norm(source, row_ids, num_rows, dim, BLOCK, BLOCK_D)
        tl.store(labels + position, tl.where(is_row, row_labels, last_label))
        tl.store(order + position, row_ids)
        tl.store(inverse_norms + position, inverse)
        tl.store(num_positives + position, tl.where(is_row, positives, 0))
        # All rows of a class store the same number.
        tl.store(class_ends + row_labels, end, mask=is_row)
        for first_dim in range(0, padded_dim, BLOCK_D):
            dims = first_dim + tl.arange(0, BLOCK_D)
            values = unit_values(source, row_ids, dims, num_rows, dim, largest, divisor)
            target = rows + position.to(tl.int64)[:, None] * padded_dim + dims[None, :]
            tl.store(target, values.to(rows.dtype.element_ty), mask=(dims < padded_dim)[None, :])


@triton.jit
def tile_dots(
    rows, columns, first_row, first_column, WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Dot products of a tile of rows with a tile of columns, `(BLOCK_ROWS, BLOCK_COLUMNS)`."""
    dots = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        left = load_tile(rows, first_row, start, WIDTH, BLOCK_ROWS, BLOCK_D)
        right = load_tile(columns, first_column, start, WIDTH, BLOCK_COLUMNS, BLOCK_D)
        dots = tl.dot(left, tl.trans(right), dots)
    return dots


@triton.jit
def same_class(
    row_labels, column_labels, first_row, first_column, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    """Whether the rows of each pair of a tile are of one class, `(BLOCK_ROWS, BLOCK_COLUMNS)`."""
    of_rows = tl.load(row_labels + first_row + tl.arange(0, BLOCK_ROWS))
    of_columns = tl.load(column_labels + first_column + tl.arange(0, BLOCK_COLUMNS))
    return of_rows[:, None] == of_columns[None, :]


@triton.jit(do_not_specialize=SIZES)
def sum_tile_exponentials(
    rows,  # (padded N, WIDTH), anchors
    row_labels,  # (padded N,)
    columns,  # (padded M, WIDTH), references
    column_labels,
    column_ends,  # (C,)
    tables,
    partials,  # out, (3, column tiles, padded N): largest logit, sum of exp2(logit - it), sum of the positives' logits
    num_rows,
    num_columns,
    padded_rows,
    num_classes,
    IS_SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What one tile of pairs adds to its anchors' softmax denominators and to their positives."""
    row_tile, column_tile = tl.program_id(0), tl.program_id(1)
    first_row, first_column = row_tile * BLOCK_ROWS, column_tile * BLOCK_COLUMNS
    dots = tile_dots(rows, columns, first_row, first_column, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D)
    logits = tile_logits(
        dots, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
        num_columns, 0.0, None, False, 1.0, BLOCK_ROWS, BLOCK_COLUMNS,
    )  # fmt: skip
    logits = keep_pairs(
        logits, -float("inf"), first_row, first_column, num_rows, num_columns, False,
        IS_SELF, BLOCK_ROWS, BLOCK_COLUMNS,
    )  # fmt: skip
    is_positive = same_class(row_labels, column_labels, first_row, first_column, BLOCK_ROWS, BLOCK_COLUMNS)
    positives = tl.sum(tl.where(is_positive & (logits != -float("inf")), logits, 0.0), axis=1)
    maximum = tl.max(logits, axis=1)
    # -inf - -inf would be NaN.
    shift = tl.where(maximum == -float("inf"), 0.0, maximum)
    total = tl.sum(tl.exp2(logits - shift[:, None]), axis=1)
    part_size = tl.num_programs(1) * padded_rows
    target = partials + column_tile * padded_rows + first_row + tl.arange(0, BLOCK_ROWS)
    tl.store(target, maximum)
    tl.store(target + part_size, total)
    tl.store(target + 2 * part_size, positives)


@triton.jit(do_not_specialize=SIZES)
def finish_tile_losses(
    partials,  # (3, num_tiles, padded N), from sum_tile_exponentials
    order,  # (padded N,)
    labels,
    num_positives,
    tables,
    losses,  # out, (N,), in the caller's order
    is_valid,  # out, (N,)
    shifts,  # out, (padded N,), sorted: the largest logit; +inf for an anchor without a loss
    normalizers,  # out, (padded N,), sorted: the softmax is exp2(logit - shift) times it; 0 without a loss
    num_rows,
    padded_rows,
    num_tiles,
    num_classes,
    BLOCK: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
):
    """Loss of each anchor from the sums of its tiles."""
    row_ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part_size = num_tiles * padded_rows
    maximum = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    positives = tl.zeros([BLOCK], tl.float32)
    for first in range(0, num_tiles, BLOCK_TILES):
        tiles = first + tl.arange(0, BLOCK_TILES)
        at = partials + tiles[:, None] * padded_rows + row_ids[None, :]
        is_tile = (tiles < num_tiles)[:, None]
        tops = tl.load(at, mask=is_tile, other=-float("inf"))
        new = tl.maximum(maximum, tl.max(tops, axis=0))
        # -inf - -inf would be NaN.
        shift = tl.where(new == -float("inf"), 0.0, new)
        sums = tl.load(at + part_size, mask=is_tile, other=0.0) * tl.exp2(tops - shift[None, :])
        total = total * tl.exp2(maximum - shift) + tl.sum(sums, axis=0)
        positives += tl.sum(tl.load(at + 2 * part_size, mask=is_tile, other=0.0), axis=0)
        maximum = new
    count = tl.load(num_positives + row_ids)
    label = tl.load(labels + row_ids)
    _, bias = table_entries(tables, label * num_classes + label)
    valid = (row_ids < num_rows) & (count > 0) & (bias != DROPPED)
    divisor = tl.maximum(count, 1).to(tl.float32)
    loss = (maximum + tl.log2(total) - positives / divisor - tl.log2(divisor)) * LN_2
    source_ids = tl.load(order + row_ids)
    tl.store(losses + source_ids, tl.where(valid, loss, 0.0), mask=row_ids < num_rows)
    tl.store(is_valid + source_ids, valid, mask=row_ids < num_rows)
    # Not the log-sum-exp: its rounding would be in every weight of the row.
    tl.store(shifts + row_ids, tl.where(valid, maximum, float("inf")))
    tl.store(normalizers + row_ids, tl.where(valid, 1 / total, 0.0))


@triton.jit
def anchor_terms(
    first, labels, order, num_positives, normalizers, upstream, stride, loss_scale, tables, num_classes,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """What the softmax of each anchor is multiplied by, and what each of its positives is pulled with."""
    ids = first + tl.arange(0, BLOCK)
    normalizer = tl.load(normalizers + ids)
    gradient = tl.load(upstream + tl.load(order + ids) * stride, mask=normalizer != 0, other=0.0) * loss_scale
    label = tl.load(labels + ids)
    scale, _ = table_entries(tables, label * num_classes + label)
    return gradient * normalizer, gradient * scale / tl.maximum(tl.load(num_positives + ids), 1).to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def store_tile_weights(
    rows,  # (padded N, WIDTH), anchors; the arguments below are sorted like them
    row_labels,
    row_order,
    row_positives,
    row_shifts,  # from finish_tile_losses, like the next
    row_normalizers,
    columns,  # (padded M, WIDTH), references
    column_labels,
    column_ends,  # (C,)
    upstream,  # (N,), gradient of the losses, in the caller's order; from element to element `stride`
    tables,
    summaries,
    weights,  # out, (padded N, padded M), float16, times the loss scale
    loss_scale,  # out, (1,)
    row_radials,  # out, (column tiles, padded N): sums of weight * dot over the columns of a tile, times the loss scale
    column_radials,  # out, (row tiles, padded M): likewise over the rows; not written if IS_SELF
    num_rows,
    num_columns,
    padded_rows,
    padded_columns,
    num_classes,
    stride,
    IS_SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_UPSTREAM: tl.constexpr,
):
    """The pair weights A of one tile: how much of each column goes into the gradient of each row, and the reverse.

    `A_ij = scale_ab (q_ij - t_ij / n_i) g_i`, for softmax q, positives t and upstream gradient g; with IS_SELF also the
    same with i and j exchanged, so that A is symmetric.
    """
    first_row, first_column = tl.program_id(0) * BLOCK_ROWS, tl.program_id(1) * BLOCK_COLUMNS
    factor = loss_scale_for(upstream, num_rows, stride, largest_scale(summaries), BLOCK_UPSTREAM)
    if (first_row == 0) & (first_column == 0):
        tl.store(loss_scale, factor)
    dots = tile_dots(rows, columns, first_row, first_column, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D)
    coefficient, pull = anchor_terms(
        first_row, row_labels, row_order, row_positives, row_normalizers, upstream, stride, factor, tables,
        num_classes, BLOCK_ROWS,
    )  # fmt: skip
    weights_tile = tl.exp2(tile_logits(
        dots, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
        num_columns, tl.load(row_shifts + first_row + tl.arange(0, BLOCK_ROWS)), None, True, 1.0,
        BLOCK_ROWS, BLOCK_COLUMNS,
    )) * coefficient[:, None]  # fmt: skip
    pulls = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32) + pull[:, None]
    if IS_SELF:
        coefficient, pull = anchor_terms(
            first_column, row_labels, row_order, row_positives, row_normalizers, upstream, stride, factor, tables,
            num_classes, BLOCK_COLUMNS,
        )  # fmt: skip
        logits = tile_logits(
            dots, tables, 1, num_classes, row_labels, first_row, column_labels, column_ends, first_column,
            num_columns, 0.0, row_shifts, True, 1.0, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
        weights_tile += tl.exp2(logits) * coefficient[None, :]
        pulls += pull[None, :]
    is_positive = same_class(row_labels, column_labels, first_row, first_column, BLOCK_ROWS, BLOCK_COLUMNS)
    weights_tile -= tl.where(is_positive, pulls, 0.0)
    weights_tile = keep_pairs(
        weights_tile, 0.0, first_row, first_column, num_rows, num_columns, False, IS_SELF, BLOCK_ROWS, BLOCK_COLUMNS
    )
    row_ids, column_ids = first_row + tl.arange(0, BLOCK_ROWS), first_column + tl.arange(0, BLOCK_COLUMNS)
    radial = weights_tile * dots
    tl.store(row_radials + tl.program_id(1) * padded_rows + row_ids, tl.sum(radial, axis=1))
    if not IS_SELF:
        tl.store(column_radials + tl.program_id(0) * padded_columns + column_ids, tl.sum(radial, axis=0))
    within = tl.arange(0, BLOCK_ROWS)[:, None] * padded_columns + tl.arange(0, BLOCK_COLUMNS)[None, :]
    target = weights + (tl.cast(first_row, tl.int64) * padded_columns + first_column) + within
    tl.store(target, weights_tile.to(tl.float16))


@triton.jit(do_not_specialize=SIZES)
def gradient_from_weights(
    weights,  # (padded N, padded M), from store_tile_weights; (padded M, padded N) if TRANSPOSED
    columns,  # (padded M, WIDTH), unit rows
    radials,  # (num_tiles, padded N), from store_tile_weights
    loss_scale,  # (1,)
    source,  # (N, D), the rows whose gradient is computed, as the caller gave them
    inverse_norms,  # (padded N,), sorted
    order,  # (padded N,)
    gradient,  # out, (N, D), in the caller's order
    num_rows,
    padded_rows,
    padded_columns,
    num_tiles,
    dim,
    TRANSPOSED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_TERMS: tl.constexpr,
):
    """Gradient at the caller's rows: weights times columns, through the normalization, in the caller's order."""
    first_row, first_dim = tl.program_id(0) * BLOCK_ROWS, tl.program_id(1) * BLOCK_D
    row_ids, dims = first_row + tl.arange(0, BLOCK_ROWS), first_dim + tl.arange(0, BLOCK_D)
    terms = tl.arange(0, BLOCK_TERMS)
    total = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    for start in range(0, padded_columns, BLOCK_TERMS):
        # Rows are at most some thousand, so that offsets fit 32 bits.
        if TRANSPOSED:
            of_pairs = tl.trans(tl.load(weights + (start + terms)[:, None] * padded_rows + row_ids[None, :]))
        else:
            of_pairs = tl.load(weights + row_ids[:, None] * padded_columns + (start + terms)[None, :])
        of_columns = tl.load(columns + (start + terms)[:, None] * WIDTH + dims[None, :])
        total = tl.dot(of_pairs, of_columns, total)
    # The component along the row itself, u . dL/du, is the sum of weight * dot.
    radial = tl.zeros([BLOCK_ROWS], tl.float32)
    for tile in range(num_tiles):
        radial += tl.load(radials + tile * padded_rows + row_ids)
    inverse = tl.load(inverse_norms + row_ids)
    # A negative inverse marks a row below the norm's floor: it is scaled, not normalized.
    radial = tl.where(inverse > 0, radial, 0.0)
    inside = (row_ids < num_rows)[:, None] & (dims < dim)[None, :]
    at = tl.load(order + row_ids).to(tl.int64)[:, None] * dim + dims[None, :]
    unit_row = tl.load(source + at, mask=inside, other=0.0).to(tl.float32) * tl.abs(inverse)[:, None]
    result = (total - unit_row * radial[:, None]) * (tl.abs(inverse) * (LN_2 / tl.load(loss_scale)))[:, None]
    tl.store(gradient + at, result.to(gradient.dtype.element_ty), mask=inside)
