"""Triton kernels over the pairs of wide rows: softmax denominators, and pair weights for a matrix product.

A program multiplies a tile of rows by a tile of columns, some dimensions at a time, and turns the products into partial
sums of exponentials, or into pair weights, before they leave the registers. Tiles are loaded through descriptors, by
Hopper's copy engine; on other GPUs Triton makes plain loads of them. Rows are sorted by class, so the columns of most
tiles are of one class. Logits are in base 2 (see `_kernels_tables.py`). No kernel uses atomics.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import LOG2_E, SIZES
from labeldist.backends.fused._kernels_planes import multiply_planes, split_planes
from labeldist.backends.fused._kernels_tables import table_entries, table_summary

__all__ = ["keep_pairs", "merge_partial_sums", "store_pair_weights", "sum_exponentials", "tile_logits"]

# Of float32.
SMALLEST_NORMAL = tl.constexpr(2.0**-126)


@triton.jit
def tile_products(
    rows, columns, first_row, first_column, TWO_PLANES: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Products of rows with columns as they are stored, `(BLOCK_ROWS, BLOCK_COLUMNS)`."""
    products = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        left, right = rows.load([first_row, start]), columns.load([first_column, start]).T
        if TWO_PLANES:
            left_low = rows.load([first_row, WIDTH + start])
            right_low = columns.load([first_column, WIDTH + start]).T
            products += multiply_planes(left, left_low, right, right_low)
        else:
            products = tl.dot(left, right, products)
    return products


@triton.jit
def keep_pairs(
    values, other, first_row, first_column, num_rows, num_columns, ABOVE_DIAGONAL: tl.constexpr,
    IS_SELF: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """`values`, but `other` for padding and for a row paired with itself; only tiles at an edge have such pairs.

    With `ABOVE_DIAGONAL`, `other` also for pairs whose row does not come before the column.
    """
    is_edge = (first_row + BLOCK_ROWS > num_rows) | (first_column + BLOCK_COLUMNS > num_columns)
    if IS_SELF:
        reaches_diagonal = first_row + BLOCK_ROWS > first_column
        is_edge |= reaches_diagonal if ABOVE_DIAGONAL else reaches_diagonal & (first_column + BLOCK_COLUMNS > first_row)
    if is_edge:
        row_ids, column_ids = first_row + tl.arange(0, BLOCK_ROWS), first_column + tl.arange(0, BLOCK_COLUMNS)
        keep = (row_ids < num_rows)[:, None] & (column_ids < num_columns)[None, :]
        if ABOVE_DIAGONAL:
            keep &= row_ids[:, None] < column_ids[None, :]
        elif IS_SELF:
            keep &= row_ids[:, None] != column_ids[None, :]
        values = tl.where(keep, values, other)
    return values


@triton.jit
def accurate_log2(values):
    """Base-2 logarithm of numbers from 0 on. A GPU's own has a relative error of 2^-22, which exp2 would magnify."""
    rough = tl.log2(values)
    # values = 2^rough (1 + rest). Subnormal numbers are left as they are: 2^-rough may overflow for them.
    rest = values * tl.exp2(-rough) - 1
    return tl.where(values >= SMALLEST_NORMAL, rough + rest * LOG2_E, rough)


@triton.jit
def one_class_logits(
    products, tables, row_step, column_step, row_classes, column_class, shift, column_shifts, first_column, column_ids,
    TIMES_SCALE: tl.constexpr, product_scale: tl.constexpr,
):  # fmt: skip
    """`scale * product * product_scale + bias - shift` for columns of one class b.

    The table entry of a row of class a is `row_step * a + column_step * b`. `shift` is a number or one value a row; if
    `column_shifts` is given, it is one value a column instead, and `first_column` is the first column of the class.
    With `TIMES_SCALE`, exp2 of the result is `scale * exp2(logit - shift)`.
    """
    scale, bias = table_entries(tables, row_classes * row_step + column_class * column_step)
    if column_shifts is not None:
        # The columns of a class have similar shifts: take one of them off first. Without a loss they are inf.
        shift = tl.load(column_shifts + first_column)
        shift = tl.where(shift == float("inf"), 0.0, shift)
    # Subtract the shift from the bias alone, before anything else is added: the rounding of a large number would
    # otherwise be in all pairs of these two classes.
    bias -= shift
    if TIMES_SCALE:
        bias += accurate_log2(scale)
    logits = products * (scale * product_scale)[:, None] + bias[:, None]
    if column_shifts is not None:
        logits -= (tl.load(column_shifts + column_ids) - shift)[None, :]
    return logits


@triton.jit
def tile_logits(
    products, tables, row_step, column_step, row_labels, first_row, column_labels, column_ends, first_column,
    num_columns, shift, column_shifts, TIMES_SCALE: tl.constexpr, product_scale: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Logits of a tile from its products; arguments as in `one_class_logits`.

    One class of columns after the other, in place: a second tile with the table entries of all pairs would not fit the
    registers, and loading an entry for each pair takes several times as long as its exponential.
    """
    row_classes = tl.load(row_labels + first_row + tl.arange(0, BLOCK_ROWS))
    column_ids = first_column + tl.arange(0, BLOCK_COLUMNS)
    column_class = tl.load(column_labels + first_column)
    end = tl.load(column_ends + column_class)
    # Padding has the class of the last row, so it needs no step of its own.
    last = tl.minimum(first_column + BLOCK_COLUMNS, num_columns)
    if end >= last:
        products = one_class_logits(
            products, tables, row_step, column_step, row_classes, column_class, shift, column_shifts, first_column,
            column_ids, TIMES_SCALE, product_scale,
        )  # fmt: skip
    else:
        begin = first_column
        while begin < last:
            column_class = tl.load(column_labels + begin)
            end = tl.load(column_ends + column_class)
            in_class = (column_ids >= begin) & (column_ids < end)
            logits = one_class_logits(
                products, tables, row_step, column_step, row_classes, column_class, shift, column_shifts, begin,
                column_ids, TIMES_SCALE, product_scale,
            )  # fmt: skip
            products = tl.where(in_class[None, :], logits, products)
            # At least one column further: an unchecked label out of range must not keep the GPU busy for ever.
            begin = tl.maximum(end, begin + 1)
    return products


@triton.jit(do_not_specialize=SIZES)
def sum_exponentials(
    rows,  # descriptor of (padded N, WIDTH), anchors; (padded N, 2 WIDTH) if TWO_PLANES
    columns,  # of (padded M, WIDTH), references; likewise
    row_labels,  # (padded N,)
    column_labels,
    column_ends,  # (C,), where each class ends
    tables,
    summaries,
    row_sums,  # out, (column tiles, part_stride): sum of exp2(logit - maximum), or of exp2(logit - shift) if MIRRORED
    row_maxima,  # out, not written if MIRRORED
    column_sums,  # out, (row chunks, part_stride): the same for the columns as anchors, written if IS_SELF
    column_maxima,
    first_row_of_block,
    first_column_of_block,
    num_rows,
    num_columns,
    num_classes,
    num_block_rows,
    part_stride,
    product_scale: tl.constexpr,  # products times it are dot products
    TWO_PLANES: tl.constexpr,
    IS_SELF: tl.constexpr,
    MIRRORED: tl.constexpr,
    ROWS_PER_PROGRAM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Partial softmax denominators of a chunk of rows over a tile of columns, and of the columns over the rows.

    If the batch is its own reference, an unordered pair gives both its orders, so only pairs above the diagonal are
    computed. If MIRRORED, one exponential serves both.
    """
    is_mirrored, shift = table_summary(summaries)
    if is_mirrored != MIRRORED:
        return
    column_tile, chunk = tl.program_id(0), tl.program_id(1)
    first_column = first_column_of_block + column_tile * BLOCK_COLUMNS
    begin = first_row_of_block + chunk * ROWS_PER_PROGRAM
    end = tl.minimum(begin + ROWS_PER_PROGRAM, first_row_of_block + num_block_rows)
    if IS_SELF:
        end = tl.minimum(end, first_column + BLOCK_COLUMNS)
    row_maxima += tl.cast(column_tile, tl.int64) * part_stride - first_row_of_block
    row_sums += tl.cast(column_tile, tl.int64) * part_stride - first_row_of_block
    highest = tl.full([BLOCK_COLUMNS], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_COLUMNS], tl.float32)
    # Flattened: one loop with that over the dimensions, so that the next tile loads during the exponentials.
    for first_row in tl.range(begin, end, BLOCK_ROWS, flatten=MIRRORED):
        row_ids = first_row + tl.arange(0, BLOCK_ROWS)
        products = tile_products(
            rows, columns, first_row, first_column, TWO_PLANES, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D
        )
        if MIRRORED:
            logits = tile_logits(
                products, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
                num_columns, shift, None, False, product_scale, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            terms = keep_pairs(
                tl.exp2(logits), 0.0, first_row, first_column, num_rows, num_columns,
                IS_SELF, IS_SELF, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            tl.store(row_sums + row_ids, tl.sum(terms, axis=1))
            total += tl.sum(terms, axis=0)
        else:
            logits = tile_logits(
                products, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
                num_columns, 0.0, None, False, product_scale, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            logits = keep_pairs(
                logits, -float("inf"), first_row, first_column, num_rows, num_columns,
                IS_SELF, IS_SELF, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            maximum = tl.max(logits, axis=1)
            # -inf - -inf would be NaN.
            safe = tl.where(maximum == -float("inf"), 0.0, maximum)
            tl.store(row_maxima + row_ids, maximum)
            tl.store(row_sums + row_ids, tl.sum(tl.exp2(logits - safe[:, None]), axis=1))
            if IS_SELF:
                logits = tile_logits(
                    products, tables, 1, num_classes, row_labels, first_row, column_labels, column_ends, first_column,
                    num_columns, 0.0, None, False, product_scale, BLOCK_ROWS, BLOCK_COLUMNS,
                )  # fmt: skip
                logits = keep_pairs(
                    logits, -float("inf"), first_row, first_column, num_rows, num_columns,
                    IS_SELF, IS_SELF, BLOCK_ROWS, BLOCK_COLUMNS,
                )  # fmt: skip
                new = tl.maximum(highest, tl.max(logits, axis=0))
                safe = tl.where(new == -float("inf"), 0.0, new)
                total = total * tl.exp2(highest - safe) + tl.sum(tl.exp2(logits - safe[None, :]), axis=0)
                highest = new
    if IS_SELF:
        target = chunk * tl.cast(part_stride, tl.int64) + column_tile * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        tl.store(column_sums + target, total)
        if not MIRRORED:
            tl.store(column_maxima + target, highest)


@triton.jit
def add_partial_sums(
    total, highest, partial_sums, partial_maxima, row_ids, begin, end, part_stride, is_mirrored, NUM_PARTS: tl.constexpr
):
    """Sums and maxima of some rows with the parts from `begin` to `end` added, `NUM_PARTS` at a time."""
    for first in range(begin, end, NUM_PARTS):
        parts = first + tl.arange(0, NUM_PARTS)
        at = parts.to(tl.int64)[:, None] * part_stride + row_ids[None, :]
        is_part = (parts < end)[:, None]
        values = tl.load(partial_sums + at, mask=is_part, other=0.0)
        if is_mirrored == 0:
            maxima = tl.load(partial_maxima + at, mask=is_part, other=-float("inf"))
            new = tl.maximum(highest, tl.max(maxima, axis=0))
            # -inf - -inf would be NaN.
            safe = tl.where(new == -float("inf"), 0.0, new)
            values *= tl.exp2(maxima - safe[None, :])
            total *= tl.exp2(highest - safe)
            highest = new
        total += tl.sum(values, axis=0)
    return total, highest


@triton.jit(do_not_specialize=SIZES)
def merge_partial_sums(
    row_sums,  # from sum_exponentials, like the next three
    row_maxima,
    column_sums,
    column_maxima,
    maxima,  # in and out, (padded N,)
    sums,  # in and out
    summaries,
    first_row_of_block,
    first_column_of_block,
    num_block_rows,  # a multiple of BLOCK, like the next
    num_block_columns,
    part_stride,
    IS_SELF: tl.constexpr,
    ROWS_PER_PROGRAM: tl.constexpr,
    BLOCK: tl.constexpr,  # BLOCK_COLUMNS of sum_exponentials
):
    """Add the sums of one block of pairs to those of earlier blocks.

    The first programs add the sums of its rows, the others those of its columns. In a block on the diagonal both are of
    the same rows, so one program adds both.
    """
    is_mirrored, _ = table_summary(summaries)
    is_diagonal = IS_SELF & (first_row_of_block == first_column_of_block)
    tile, num_row_tiles = tl.program_id(0), num_block_rows // BLOCK
    is_rows = tile < num_row_tiles
    tile -= tl.where(is_rows, 0, num_row_tiles)
    row_ids = tile * BLOCK + tl.arange(0, BLOCK)
    target = row_ids + tl.where(is_rows, first_row_of_block, first_column_of_block)
    total, highest = tl.load(sums + target), tl.load(maxima + target)
    if is_rows:
        # On the diagonal only tiles on and above it wrote a part.
        begin = tl.where(is_diagonal, tile, 0)
        total, highest = add_partial_sums(
            total, highest, row_sums, row_maxima, row_ids, begin, num_block_columns // BLOCK, part_stride, is_mirrored,
            8,
        )  # fmt: skip
    if is_diagonal | (is_rows == 0):
        end = tl.cdiv(num_block_rows, ROWS_PER_PROGRAM)
        end = tl.where(is_diagonal, tl.minimum(end, tl.cdiv((tile + 1) * BLOCK, ROWS_PER_PROGRAM)), end)
        total, highest = add_partial_sums(
            total, highest, column_sums, column_maxima, row_ids, 0, end, part_stride, is_mirrored, 8
        )
    tl.store(sums + target, total)
    tl.store(maxima + target, highest)


@triton.jit
def tile_weights(
    products, tables, row_labels, column_labels, column_ends, row_shifts, column_shifts,
    row_coefficients, column_coefficients, shift, first_row, first_column, num_columns, num_classes,
    product_scale: tl.constexpr, IS_SELF: tl.constexpr, MIRRORED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Pair weights of a tile, `scale_ab q_ij g_i + scale_ba q_ji g_j`; the second term only with IS_SELF.

    One exponential a pair if MIRRORED or not IS_SELF, else two.
    """
    row_ids, column_ids = first_row + tl.arange(0, BLOCK_ROWS), first_column + tl.arange(0, BLOCK_COLUMNS)
    of_rows = tl.load(row_coefficients + row_ids)[:, None]
    if MIRRORED:
        weights = tl.exp2(tile_logits(
            products, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
            num_columns, shift, None, True, product_scale, BLOCK_ROWS, BLOCK_COLUMNS,
        )) * (of_rows + tl.load(column_coefficients + column_ids)[None, :])  # fmt: skip
    else:
        weights = tl.exp2(tile_logits(
            products, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
            num_columns, tl.load(row_shifts + row_ids), None, True, product_scale, BLOCK_ROWS, BLOCK_COLUMNS,
        )) * of_rows  # fmt: skip
        if IS_SELF:
            logits = tile_logits(
                products, tables, 1, num_classes, row_labels, first_row, column_labels, column_ends, first_column,
                num_columns, 0.0, column_shifts, True, product_scale, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            weights += tl.exp2(logits) * tl.load(column_coefficients + column_ids)[None, :]
    return weights


@triton.jit(do_not_specialize=SIZES)
def store_pair_weights(
    rows,  # descriptor of (padded N, WIDTH); (padded N, 2 WIDTH) if TWO_PLANES
    columns,  # of (padded M, WIDTH); likewise
    high,  # out, descriptor of (rows, columns) of the block: the weights rounded to float16
    low,  # out, likewise, what that rounds off; written if TWO_PLANES
    row_labels,  # (padded N,)
    row_shifts,  # read unless MIRRORED
    row_coefficients,  # from softmax_coefficients
    column_labels,
    column_ends,  # (C,), where each class ends
    column_shifts,  # read if IS_SELF, unless MIRRORED
    column_coefficients,  # read if IS_SELF
    tables,
    summaries,
    first_row_of_block,
    first_column_of_block,
    num_rows,
    num_columns,
    num_classes,
    num_row_tiles,
    num_column_tiles,
    product_scale: tl.constexpr,  # products times it are dot products
    TWO_PLANES: tl.constexpr,  # whether rows and weights are two planes of float16
    IS_SELF: tl.constexpr,
    MIRRORED: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,  # row tiles that programs take side by side, so that what they share stays in the cache
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The pair weights A of a block: how much of each column goes into the gradient of each row.

    With IS_SELF, A is symmetric: it also says how much of each row goes into the gradient of each column.
    """
    is_mirrored, shift = table_summary(summaries)
    if is_mirrored != MIRRORED:
        return
    num_tiles = num_row_tiles * num_column_tiles
    # As in sum_exponentials. With two exponentials a pair there are no registers for the next tile.
    for tile in tl.range(tl.program_id(0), num_tiles, tl.num_programs(0), flatten=MIRRORED):
        group, within = tile // (GROUP * num_column_tiles), tile % (GROUP * num_column_tiles)
        height = tl.minimum(GROUP, num_row_tiles - group * GROUP)
        row_in_block = (group * GROUP + within % height) * BLOCK_ROWS
        column_in_block = within // height * BLOCK_COLUMNS
        first_row, first_column = first_row_of_block + row_in_block, first_column_of_block + column_in_block
        products = tile_products(
            rows, columns, first_row, first_column, TWO_PLANES, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D
        )
        weights = tile_weights(
            products, tables, row_labels, column_labels, column_ends, row_shifts, column_shifts,
            row_coefficients, column_coefficients, shift, first_row, first_column, num_columns, num_classes,
            product_scale, IS_SELF, MIRRORED, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
        weights = keep_pairs(
            weights, 0.0, first_row, first_column, num_rows, num_columns, False, IS_SELF, BLOCK_ROWS, BLOCK_COLUMNS
        )
        if TWO_PLANES:
            rounded, rest = split_planes(weights)
            high.store([row_in_block, column_in_block], rounded)
            low.store([row_in_block, column_in_block], rest)
        else:
            high.store([row_in_block, column_in_block], weights.to(tl.float16))
