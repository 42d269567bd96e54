"""Triton kernels over the pairs of narrow rows: softmax denominators and gradients. And the gradient of the tables.

Rows are sorted by class and padded with zero rows to whole tiles. So the columns of most tiles are of one class, where
scale and bias are values of a row, not of a pair, and only tiles on the diagonal or at the end need a mask. Tiles whose
columns are of several classes (`IS_MIXED`) need more registers, so they have a launch of their own, which adds to the
results of the first (`IS_FIRST`). Logits are in base 2. No kernel uses atomics: two runs give the same bits.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportArgumentType=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import SIZES
from labeldist.backends.fused._kernels_planes import multiply_planes
from labeldist.backends.fused._kernels_tables import table_entries, table_summary
from labeldist.backends.fused._kernels_tiles import load_tile, pair_weights, tile_logits

__all__ = [
    "accumulate_gradient",
    "sum_dense_pairs",
    "sum_mirrored_pairs",
    "sum_table_gradient",
]


@triton.jit
def tile_range(num_uniform, num_tiles, split, num_splits, IS_MIXED: tl.constexpr):
    """Where in the list of tiles split number `split` of the one-class tiles, or of the mixed ones, begins and ends."""
    begin, end = 0, tl.load(num_uniform)
    if IS_MIXED:
        begin, end = end, num_tiles
    tiles_per_split = tl.cdiv(end - begin, num_splits)
    begin += split * tiles_per_split
    return begin, tl.minimum(begin + tiles_per_split, end)


@triton.jit(do_not_specialize=SIZES)
def sum_dense_pairs(
    rows,  # (padded N, WIDTH), anchors
    row_labels,
    columns,  # (padded M, WIDTH), references
    column_labels,
    tables,
    summaries,
    tiles,  # from list_tiles, of the columns
    num_uniform,
    maxima,  # out, (splits, padded N)
    sums,  # out, (splits, padded N): sum of exp2(logit - maximum)
    num_columns,
    padded_rows,
    num_classes,
    num_tiles,
    first_split,  # split number of the first program: where a shard begins
    num_splits,  # of all shards
    IS_SELF: tl.constexpr,
    IS_MIXED: tl.constexpr,
    IS_FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Softmax denominators of a tile of anchors over one split of the references, with a running maximum.

    The maximum is of the logits themselves, which may span hundreds.
    """
    is_mirrored, _ = table_summary(summaries)
    if is_mirrored:
        return
    first_row, split = tl.program_id(0) * BLOCK_ROWS, tl.program_id(1)
    row_ids = first_row + tl.arange(0, BLOCK_ROWS)
    at = tl.cast(split, tl.int64) * padded_rows + row_ids
    if IS_FIRST:
        maximum = tl.full([BLOCK_ROWS], -float("inf"), tl.float32)
        total = tl.zeros([BLOCK_ROWS], tl.float32)
    else:
        maximum, total = tl.load(maxima + at), tl.load(sums + at)
    row_tile = load_tile(rows, first_row, 0, WIDTH, BLOCK_ROWS, WIDTH)
    begin, end = tile_range(num_uniform, num_tiles, first_split + split, num_splits, IS_MIXED)
    for listed in range(begin, end):
        first_column = tl.load(tiles + listed) * BLOCK_COLUMNS
        column_tile = load_tile(columns, first_column, 0, WIDTH, BLOCK_COLUMNS, WIDTH)
        dots = tl.dot(row_tile, tl.trans(column_tile))
        logits = tile_logits(
            dots, tables, num_classes, row_labels, first_row, column_labels, first_column,
            IS_MIXED, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
        is_edge = first_column + BLOCK_COLUMNS > num_columns
        if IS_SELF:
            is_edge |= (first_row < first_column + BLOCK_COLUMNS) & (first_column < first_row + BLOCK_ROWS)
        if is_edge:
            column_ids = first_column + tl.arange(0, BLOCK_COLUMNS)
            keep = (column_ids < num_columns)[None, :]
            if IS_SELF:
                keep &= row_ids[:, None] != column_ids[None, :]
            logits = tl.where(keep, logits, -float("inf"))
        new = tl.maximum(maximum, tl.max(logits, axis=1))
        # -inf - -inf would be NaN.
        safe = tl.where(new == -float("inf"), 0.0, new)
        total = total * tl.exp2(maximum - safe) + tl.sum(tl.exp2(logits - safe[:, None]), axis=1)
        maximum = new
    tl.store(maxima + at, maximum)
    tl.store(sums + at, total)


@triton.jit(do_not_specialize=SIZES)
def sum_mirrored_pairs(
    rows,  # (padded N, WIDTH)
    labels,
    tables,
    summaries,
    sums,  # out, (super-blocks, padded N): slot s of a row has its pairs with super-block s
    num_rows,
    padded_rows,
    num_classes,
    super_block_rows,  # rows of a super-block, a multiple of both tile sides
    shard_index,  # which of the pairs of super-blocks to compute: every num_shards-th, from this one on
    num_shards,
    IS_MIXED: tl.constexpr,
    IS_FIRST: tl.constexpr,
    BY_KIND: tl.constexpr,  # whether this launch takes one kind of tiles; else it takes all
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Softmax denominators from pairs i < j alone: each exponential counts for row i and for row j.

    A program computes one pair of super-blocks and is the only one to write their two slots, so it may add to them step
    by step.
    """
    is_mirrored, shift = table_summary(summaries)
    column_block, row_block = tl.program_id(0), tl.program_id(1)
    if (row_block > column_block) | (is_mirrored == 0):
        return
    begin_rows, begin_columns = row_block * super_block_rows, column_block * super_block_rows
    end_columns = tl.minimum(begin_columns + super_block_rows, num_rows)
    row_slot = sums + tl.cast(column_block, tl.int64) * padded_rows
    column_slot = sums + tl.cast(row_block, tl.int64) * padded_rows
    if IS_FIRST:
        for first in range(0, super_block_rows, BLOCK_ROWS):
            zeros, within = tl.zeros([BLOCK_ROWS], tl.float32), first + tl.arange(0, BLOCK_ROWS)
            # The last super-block may reach beyond the padding.
            tl.store(row_slot + begin_rows + within, zeros, mask=begin_rows + within < padded_rows)
            tl.store(column_slot + begin_columns + within, zeros, mask=begin_columns + within < padded_rows)
        # Other threads add to what a thread has stored: here and below.
        tl.debug_barrier()

    # Pairs of super-blocks are numbered column by column. Those of other shards stay zero here.
    if (column_block * (column_block + 1) // 2 + row_block) % num_shards != shard_index:
        return
    for first_column in range(begin_columns, end_columns, BLOCK_COLUMNS):
        is_mixed = tl.load(labels + first_column) != tl.load(labels + first_column + BLOCK_COLUMNS - 1)
        if (not BY_KIND) | (is_mixed == IS_MIXED):
            column_ids = first_column + tl.arange(0, BLOCK_COLUMNS)
            column_tile = load_tile(rows, first_column, 0, WIDTH, BLOCK_COLUMNS, WIDTH)
            # Summed over its rows once, after the last tile.
            column_sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
            end_rows = tl.minimum(begin_rows + super_block_rows, first_column + BLOCK_COLUMNS)
            for first_row in range(begin_rows, end_rows, BLOCK_ROWS):
                row_ids = first_row + tl.arange(0, BLOCK_ROWS)
                row_tile = load_tile(rows, first_row, 0, WIDTH, BLOCK_ROWS, WIDTH)
                dots = tl.dot(row_tile, tl.trans(column_tile))
                logits = tile_logits(
                    dots, tables, num_classes, labels, first_row, labels, first_column,
                    IS_MIXED, BLOCK_ROWS, BLOCK_COLUMNS,
                )  # fmt: skip
                terms = tl.exp2(logits - shift)
                if (first_row + BLOCK_ROWS > first_column) | (first_column + BLOCK_COLUMNS > num_rows):
                    keep = (row_ids[:, None] < column_ids[None, :]) & (column_ids < num_rows)[None, :]
                    terms = tl.where(keep, terms, 0.0)
                column_sums += terms
                tl.store(row_slot + row_ids, tl.load(row_slot + row_ids) + tl.sum(terms, axis=1))
            tl.debug_barrier()
            tl.store(column_slot + column_ids, tl.load(column_slot + column_ids) + tl.sum(column_sums, axis=0))
            tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def accumulate_gradient(
    rows,  # (padded N, WIDTH), whose gradient is computed
    row_labels,
    row_shifts,  # (padded N,), read if ROWS_ARE_ANCHORS
    row_coefficients,  # (padded N,), from softmax_coefficients; likewise
    columns,  # (padded M, WIDTH)
    column_labels,
    column_shifts,  # read if COLUMNS_ARE_ANCHORS
    column_coefficients,
    tables,
    summaries,
    tiles,  # from list_tiles, of the columns
    num_uniform,
    partials,  # out, (splits, padded N, WIDTH)
    num_rows,
    num_columns,
    padded_rows,
    num_classes,
    num_tiles,
    first_split,  # split number of the first program: where a shard begins
    num_splits,  # of all shards
    ROWS_ARE_ANCHORS: tl.constexpr,
    COLUMNS_ARE_ANCHORS: tl.constexpr,
    IS_SELF: tl.constexpr,
    MIRRORED: tl.constexpr,
    IS_MIXED: tl.constexpr,
    IS_FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Gradient of a tile of rows from one split of the columns: A V, with the pair weights A made tile by tile."""
    is_mirrored, shift = table_summary(summaries)
    if is_mirrored != MIRRORED:
        return
    first_row, split = tl.program_id(0) * BLOCK_ROWS, tl.program_id(1)
    start = (tl.cast(split, tl.int64) * padded_rows + first_row) * WIDTH
    within = tl.arange(0, BLOCK_ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    target = partials + start + within
    total = tl.zeros([BLOCK_ROWS, WIDTH], tl.float32) if IS_FIRST else tl.load(target)
    row_tile = load_tile(rows, first_row, 0, WIDTH, BLOCK_ROWS, WIDTH)
    begin, end = tile_range(num_uniform, num_tiles, first_split + split, num_splits, IS_MIXED)
    for listed in range(begin, end):
        first_column = tl.load(tiles + listed) * BLOCK_COLUMNS
        column_tile = load_tile(columns, first_column, 0, WIDTH, BLOCK_COLUMNS, WIDTH)
        dots = tl.dot(row_tile, tl.trans(column_tile))
        weights = pair_weights(
            dots, tables, num_classes, shift,
            row_labels, row_shifts, row_coefficients, first_row,
            column_labels, column_shifts, column_coefficients, first_column, num_rows, num_columns,
            ROWS_ARE_ANCHORS, COLUMNS_ARE_ANCHORS, IS_SELF, MIRRORED, IS_MIXED, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
        total = tl.dot(weights.to(columns.dtype.element_ty), column_tile, total)
    tl.store(target, total)


@triton.jit(do_not_specialize=SIZES)
def sum_table_gradient(
    rows,  # (padded N, WIDTH), anchors; (padded N, 2 WIDTH) if TWO_PLANES
    row_starts,  # (C,)
    row_ends,
    row_shifts,  # (padded N,), from finish_losses, like the next
    row_normalizers,
    row_gradients,  # (padded N,)
    positives,  # (padded N,)
    columns,  # (padded M, WIDTH), references; likewise
    column_starts,
    column_ends,
    tables,
    partials,  # out, (splits, C, C, 2): sums of g q dot and of g q over the pairs of two classes, minus the positives'
    num_classes,
    classes_per_program,
    num_splits,
    product_scale: tl.constexpr,  # products times it are dot products
    TWO_PLANES: tl.constexpr,  # whether a row is two planes, see `_kernels_planes.py`
    IS_SELF: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradient of table entries: one class of anchors, some classes of references, one split of the anchors."""
    stride: tl.constexpr = 2 * WIDTH if TWO_PLANES else WIDTH
    label, split = tl.program_id(0), tl.program_id(2)
    begin_class = tl.program_id(1) * classes_per_program
    end_class = tl.minimum(begin_class + classes_per_program, num_classes)
    row_start, row_end = tl.load(row_starts + label), tl.load(row_ends + label)
    rows_per_split = tl.cdiv(row_end - row_start, num_splits)
    begin_row = row_start + split * rows_per_split
    end_row = tl.minimum(begin_row + rows_per_split, row_end)
    for other_label in range(begin_class, end_class):
        begin_column, end_column = tl.load(column_starts + other_label), tl.load(column_ends + other_label)
        scale, bias = table_entries(tables, label * num_classes + other_label)
        grad_scale = tl.zeros([BLOCK_ROWS], tl.float32)
        grad_bias = tl.zeros([BLOCK_ROWS], tl.float32)
        # Tiles start at multiples of their side: one that started at the class's first row could leave the padding.
        for first_row in range(begin_row // BLOCK_ROWS * BLOCK_ROWS, end_row, BLOCK_ROWS):
            row_ids = first_row + tl.arange(0, BLOCK_ROWS)
            is_row = (row_ids >= begin_row) & (row_ids < end_row)
            gradient = tl.load(row_gradients + row_ids, mask=is_row, other=0.0)
            shift, normalizer = tl.load(row_shifts + row_ids), tl.load(row_normalizers + row_ids)
            for first_column in range(begin_column // BLOCK_COLUMNS * BLOCK_COLUMNS, end_column, BLOCK_COLUMNS):
                column_ids = first_column + tl.arange(0, BLOCK_COLUMNS)
                dots = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
                for start in range(0, WIDTH, BLOCK_D):
                    left = load_tile(rows, first_row, start, stride, BLOCK_ROWS, BLOCK_D)
                    right = load_tile(columns, first_column, start, stride, BLOCK_COLUMNS, BLOCK_D)
                    if TWO_PLANES:
                        left_low = load_tile(rows, first_row, WIDTH + start, stride, BLOCK_ROWS, BLOCK_D)
                        right_low = load_tile(columns, first_column, WIDTH + start, stride, BLOCK_COLUMNS, BLOCK_D)
                        dots += multiply_planes(left, left_low, tl.trans(right), tl.trans(right_low))
                    else:
                        dots = tl.dot(left, tl.trans(right), dots)
                dots *= product_scale
                keep = is_row[:, None] & ((column_ids >= begin_column) & (column_ids < end_column))[None, :]
                if IS_SELF:
                    keep &= row_ids[:, None] != column_ids[None, :]
                # In this order: a normalizer may be 2^113.
                terms = tl.exp2(dots * scale + (bias - shift[:, None])) * normalizer[:, None] * gradient[:, None]
                terms = tl.where(keep, terms, 0.0)
                grad_scale += tl.sum(terms * dots, axis=1)
                grad_bias += tl.sum(terms, axis=1)
            if label == other_label:
                grad_scale -= gradient * tl.load(positives + row_ids)
                grad_bias -= gradient
        pair = (tl.cast(split, tl.int64) * num_classes + label) * num_classes + other_label
        tl.store(partials + 2 * pair, tl.sum(grad_scale, axis=0))
        tl.store(partials + 2 * pair + 1, tl.sum(grad_bias, axis=0))
