"""Triton kernels over pairs of rows that are wider than the registers can hold a gradient of.

A program multiplies a tile of rows with a tile of columns, a part of the dimensions at a time, and turns the products
into partition sums, or into the pairs' weights, before they leave the registers. Tiles come through Hopper's copy
engine, of which Triton makes plain loads on other GPUs. Rows are sorted by class, so the columns of most tiles are of
one. Logits are in base 2. No kernel uses atomics.
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

__all__ = ["add_sums", "sum_pairs", "weigh_pairs"]

# Of float32.
SMALLEST_NORMAL = tl.constexpr(2.0**-126)


@triton.jit
def tile_products(
    rows, columns, first_row, first_column, IS_SPLIT: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Dot products of rows as they are stored, `(BLOCK_ROWS, BLOCK_COLUMNS)`."""
    dots = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        left, right = rows.load([first_row, start]), columns.load([first_column, start]).T
        if IS_SPLIT:
            left_low = rows.load([first_row, WIDTH + start])
            right_low = columns.load([first_column, WIDTH + start]).T
            dots += multiply_planes(left, left_low, right, right_low)
        else:
            dots = tl.dot(left, right, dots)
    return dots


@triton.jit
def keep_pairs(
    values, other, first_row, first_column, num_rows, num_columns, is_ordered: tl.constexpr,
    SELF: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """`values`, and `other` for pairs that do not exist or are a row with itself. Few tiles have such pairs.

    With `is_ordered`, also for pairs whose row is not before the column.
    """
    is_edge = (first_row + BLOCK_ROWS > num_rows) | (first_column + BLOCK_COLUMNS > num_columns)
    if SELF:
        is_after = first_row + BLOCK_ROWS > first_column
        is_edge |= is_after if is_ordered else is_after & (first_column + BLOCK_COLUMNS > first_row)
    if is_edge:
        own, others = first_row + tl.arange(0, BLOCK_ROWS), first_column + tl.arange(0, BLOCK_COLUMNS)
        taken = (own < num_rows)[:, None] & (others < num_columns)[None, :]
        if is_ordered:
            taken &= own[:, None] < others[None, :]
        elif SELF:
            taken &= own[:, None] != others[None, :]
        values = tl.where(taken, values, other)
    return values


@triton.jit
def accurate_log2(values):
    """Base-2 logarithm of numbers from 0 on. A GPU's own is good to 2^-22 of it, which an exponential makes larger."""
    rough = tl.log2(values)
    # values = 2^rough (1 + rest). Not of subnormal numbers, whose 2^-rough may overflow.
    rest = values * tl.exp2(-rough) - 1
    return tl.where(values >= SMALLEST_NORMAL, rough + rest * LOG2_E, rough)


@triton.jit
def class_logits(
    values, tables, row_step, column_step, row_classes, column_class, shift, column_shifts, first, columns,
    WEIGHED: tl.constexpr, unit: tl.constexpr,
):  # fmt: skip
    """`factor * product + offset - shift` for columns of one class b: the entry `row_step a + column_step b`.

    `shift` is a number or a value of each row. With `column_shifts` it is one of each column instead; `first` is the
    first column of the class.
    """
    factor, offset = table_entries(tables, row_classes * row_step + column_class * column_step)
    if column_shifts is not None:
        # Those of one class are alike. Without a loss they are inf.
        shift = tl.load(column_shifts + first)
        shift = tl.where(shift == float("inf"), 0.0, shift)
    # Before anything is added: the rounding of a large number would be in all pairs of these classes.
    offset -= shift
    if WEIGHED:
        # The exponential of it then is the factor times that of the logit.
        offset += accurate_log2(factor)
    logits = values * (factor * unit)[:, None] + offset[:, None]
    if column_shifts is not None:
        logits -= (tl.load(column_shifts + columns) - shift)[None, :]
    return logits


@triton.jit
def tile_logits(
    values, tables, row_step, column_step, row_labels, first_row, column_labels, column_ends, first_column,
    num_columns, shift, column_shifts, WEIGHED: tl.constexpr, unit: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Logits of a tile, from its products; shifts as in `class_logits`.

    Class by class of its columns, in place: a tile of entries beside it would not fit the registers.
    """
    row_classes = tl.load(row_labels + first_row + tl.arange(0, BLOCK_ROWS))
    columns = first_column + tl.arange(0, BLOCK_COLUMNS)
    column_class = tl.load(column_labels + first_column)
    end = tl.load(column_ends + column_class)
    # The last rows, of which some are padding, are of one class too.
    last = tl.minimum(first_column + BLOCK_COLUMNS, num_columns)
    if end >= last:
        values = class_logits(
            values, tables, row_step, column_step, row_classes, column_class, shift, column_shifts, first_column,
            columns, WEIGHED, unit,
        )  # fmt: skip
    else:
        begin = first_column
        while begin < last:
            column_class = tl.load(column_labels + begin)
            end = tl.load(column_ends + column_class)
            inside = (columns >= begin) & (columns < end)
            logits = class_logits(
                values, tables, row_step, column_step, row_classes, column_class, shift, column_shifts, begin,
                columns, WEIGHED, unit,
            )  # fmt: skip
            values = tl.where(inside[None, :], logits, values)
            # A label out of range, which nobody was asked to check, must not keep a GPU for ever.
            begin = tl.maximum(end, begin + 1)
    return values


@triton.jit(do_not_specialize=SIZES)
def sum_pairs(
    rows,  # descriptor of (padded N, WIDTH), anchors; (padded N, 2 WIDTH) if IS_SPLIT
    columns,  # of (padded M, WIDTH), references; likewise
    row_labels,  # (padded N,)
    column_labels,
    column_ends,  # (C,), where each class ends
    tables,
    summaries,
    row_sums,  # out, (columns / BLOCK_COLUMNS, part_stride): sum of exp2(logit - maximum), or - shift where MIRRORED
    row_maxima,  # out, not written where MIRRORED
    column_sums,  # out, (rows / STRIP, part_stride): of columns as anchors, written if SELF
    column_maxima,
    begin_row,
    begin_column,
    num_rows,
    num_columns,
    num_classes,
    square_rows,
    part_stride,
    unit: tl.constexpr,  # what products are multiplied by
    IS_SPLIT: tl.constexpr,  # whether rows are of two planes
    SELF: tl.constexpr,
    MIRRORED: tl.constexpr,
    STRIP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Partition sums of a strip of rows over some columns, and of the columns over the rows.

    In a batch with itself a pair stands for both its orders, so that pairs with the row first are enough.
    """
    is_mirrored, shift = table_summary(summaries)
    if is_mirrored != MIRRORED:
        return
    block, strip = tl.program_id(0), tl.program_id(1)
    first_column = begin_column + block * BLOCK_COLUMNS
    begin = begin_row + strip * STRIP
    end = tl.minimum(begin + STRIP, begin_row + square_rows)
    if SELF:
        end = tl.minimum(end, first_column + BLOCK_COLUMNS)
    row_maxima += tl.cast(block, tl.int64) * part_stride - begin_row
    row_sums += tl.cast(block, tl.int64) * part_stride - begin_row
    highest = tl.full([BLOCK_COLUMNS], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_COLUMNS], tl.float32)
    for first_row in tl.range(begin, end, BLOCK_ROWS, flatten=MIRRORED):
        own = first_row + tl.arange(0, BLOCK_ROWS)
        dots = tile_products(
            rows, columns, first_row, first_column, IS_SPLIT, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D
        )
        if MIRRORED:
            logits = tile_logits(
                dots, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
                num_columns, shift, None, False, unit, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            # One exponential for a row's sum and a column's.
            terms = keep_pairs(
                tl.exp2(logits), 0.0, first_row, first_column, num_rows, num_columns,
                SELF, SELF, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            tl.store(row_sums + own, tl.sum(terms, axis=1))
            total += tl.sum(terms, axis=0)
        else:
            logits = tile_logits(
                dots, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
                num_columns, 0.0, None, False, unit, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            logits = keep_pairs(
                logits, -float("inf"), first_row, first_column, num_rows, num_columns,
                SELF, SELF, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            maximum = tl.max(logits, axis=1)
            # -inf - -inf would be NaN.
            base = tl.where(maximum == -float("inf"), 0.0, maximum)
            tl.store(row_maxima + own, maximum)
            tl.store(row_sums + own, tl.sum(tl.exp2(logits - base[:, None]), axis=1))
            if SELF:
                logits = tile_logits(
                    dots, tables, 1, num_classes, row_labels, first_row, column_labels, column_ends, first_column,
                    num_columns, 0.0, None, False, unit, BLOCK_ROWS, BLOCK_COLUMNS,
                )  # fmt: skip
                logits = keep_pairs(
                    logits, -float("inf"), first_row, first_column, num_rows, num_columns,
                    SELF, SELF, BLOCK_ROWS, BLOCK_COLUMNS,
                )  # fmt: skip
                new = tl.maximum(highest, tl.max(logits, axis=0))
                base = tl.where(new == -float("inf"), 0.0, new)
                total = total * tl.exp2(highest - base) + tl.sum(tl.exp2(logits - base[None, :]), axis=0)
                highest = new
    if SELF:
        others = strip * tl.cast(part_stride, tl.int64) + block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        tl.store(column_sums + others, total)
        if not MIRRORED:
            tl.store(column_maxima + others, highest)


@triton.jit
def add_parts(
    total, highest, part_sums, part_maxima, places, begin, end, part_stride, is_mirrored, PARTS: tl.constexpr
):
    """Sums and maxima of some rows with parts of them added, `PARTS` at a time."""
    for first in range(begin, end, PARTS):
        parts = first + tl.arange(0, PARTS)
        at = parts.to(tl.int64)[:, None] * part_stride + places[None, :]
        is_part = (parts < end)[:, None]
        values = tl.load(part_sums + at, mask=is_part, other=0.0)
        if is_mirrored == 0:
            tops = tl.load(part_maxima + at, mask=is_part, other=-float("inf"))
            new = tl.maximum(highest, tl.max(tops, axis=0))
            # -inf - -inf would be NaN.
            base = tl.where(new == -float("inf"), 0.0, new)
            values *= tl.exp2(tops - base[None, :])
            total *= tl.exp2(highest - base)
            highest = new
        total += tl.sum(values, axis=0)
    return total, highest


@triton.jit(do_not_specialize=SIZES)
def add_sums(
    row_sums,  # from sum_pairs, like the next three
    row_maxima,
    column_sums,
    column_maxima,
    maxima,  # in and out, (padded N,)
    sums,  # in and out
    summaries,
    begin_row,
    begin_column,
    num_rows,  # of the square, multiples of BLOCK
    num_columns,
    part_stride,
    SELF: tl.constexpr,
    STRIP: tl.constexpr,
    BLOCK: tl.constexpr,  # the columns' blocks in sum_pairs
):
    """Add the sums of one square to what earlier ones gave: the rows' by the first programs, the columns' by others.

    On the diagonal rows and columns are the same, so one program adds both.
    """
    is_mirrored, _ = table_summary(summaries)
    is_diagonal = SELF & (begin_row == begin_column)
    block, num_row_blocks = tl.program_id(0), num_rows // BLOCK
    is_rows = block < num_row_blocks
    block -= tl.where(is_rows, 0, num_row_blocks)
    places = block * BLOCK + tl.arange(0, BLOCK)
    at = places + tl.where(is_rows, begin_row, begin_column)
    total, highest = tl.load(sums + at), tl.load(maxima + at)
    if is_rows:
        # On the diagonal there are parts on and above it alone.
        begin = tl.where(is_diagonal, block, 0)
        total, highest = add_parts(
            total, highest, row_sums, row_maxima, places, begin, num_columns // BLOCK, part_stride, is_mirrored, 8
        )
    if is_diagonal | (is_rows == 0):
        end = tl.cdiv(num_rows, STRIP)
        end = tl.where(is_diagonal, tl.minimum(end, tl.cdiv((block + 1) * BLOCK, STRIP)), end)
        total, highest = add_parts(
            total, highest, column_sums, column_maxima, places, 0, end, part_stride, is_mirrored, 8
        )
    tl.store(sums + at, total)
    tl.store(maxima + at, highest)


@triton.jit
def tile_weights(
    dots, tables, row_labels, column_labels, column_ends, row_bases, column_bases,
    row_coefficients, column_coefficients, shift, first_row, first_column, num_columns, num_classes,
    unit: tl.constexpr, SELF: tl.constexpr, MIRRORED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """`factor_ab q_ij g_i + factor_ba q_ji g_j`: one exponential where mirrored, else two, or one if not SELF."""
    rows, columns = first_row + tl.arange(0, BLOCK_ROWS), first_column + tl.arange(0, BLOCK_COLUMNS)
    own = tl.load(row_coefficients + rows)[:, None]
    if MIRRORED:
        weights = tl.exp2(tile_logits(
            dots, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
            num_columns, shift, None, True, unit, BLOCK_ROWS, BLOCK_COLUMNS,
        )) * (own + tl.load(column_coefficients + columns)[None, :])  # fmt: skip
    else:
        weights = tl.exp2(tile_logits(
            dots, tables, num_classes, 1, row_labels, first_row, column_labels, column_ends, first_column,
            num_columns, tl.load(row_bases + rows), None, True, unit, BLOCK_ROWS, BLOCK_COLUMNS,
        )) * own  # fmt: skip
        if SELF:
            logits = tile_logits(
                dots, tables, 1, num_classes, row_labels, first_row, column_labels, column_ends, first_column,
                num_columns, 0.0, column_bases, True, unit, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            weights += tl.exp2(logits) * tl.load(column_coefficients + columns)[None, :]
    return weights


@triton.jit(do_not_specialize=SIZES)
def weigh_pairs(
    rows,  # descriptor of (padded N, WIDTH); (padded N, 2 WIDTH) if IS_SPLIT
    columns,  # of (padded M, WIDTH); likewise
    high,  # out, descriptor of (rows, columns) of the square: the weights rounded to float16
    low,  # out, likewise, what that rounds off; written if IS_SPLIT
    row_labels,  # (padded N,)
    row_bases,  # read unless MIRRORED
    row_coefficients,
    column_labels,
    column_ends,  # (C,), where each class ends
    column_bases,  # read if SELF, unless MIRRORED
    column_coefficients,  # read if SELF
    tables,
    summaries,
    begin_row,
    begin_column,
    num_rows,
    num_columns,
    num_classes,
    num_row_blocks,
    num_column_blocks,
    unit: tl.constexpr,  # what products are multiplied by
    IS_SPLIT: tl.constexpr,  # whether rows and weights are of two planes
    SELF: tl.constexpr,
    MIRRORED: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,  # row blocks that are met side by side: what they share stays in the cache
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A: how much of each column's row goes into the gradient of each row's; in the self-reference case symmetric."""
    is_mirrored, shift = table_summary(summaries)
    if is_mirrored != MIRRORED:
        return
    num_blocks = num_row_blocks * num_column_blocks
    # Flattened, the next tile comes in during a tile's exponentials. There are no registers for it with two of them.
    for place in tl.range(tl.program_id(0), num_blocks, tl.num_programs(0), flatten=MIRRORED):
        group, within = place // (GROUP * num_column_blocks), place % (GROUP * num_column_blocks)
        height = tl.minimum(GROUP, num_row_blocks - group * GROUP)
        at_row = (group * GROUP + within % height) * BLOCK_ROWS
        at_column = within // height * BLOCK_COLUMNS
        first_row, first_column = begin_row + at_row, begin_column + at_column
        dots = tile_products(
            rows, columns, first_row, first_column, IS_SPLIT, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_D
        )
        weights = tile_weights(
            dots, tables, row_labels, column_labels, column_ends, row_bases, column_bases,
            row_coefficients, column_coefficients, shift, first_row, first_column, num_columns, num_classes,
            unit, SELF, MIRRORED, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
        weights = keep_pairs(
            weights, 0.0, first_row, first_column, num_rows, num_columns, False, SELF, BLOCK_ROWS, BLOCK_COLUMNS
        )
        if IS_SPLIT:
            rounded, rest = split_planes(weights)
            high.store([at_row, at_column], rounded)
            low.store([at_row, at_column], rest)
        else:
            high.store([at_row, at_column], weights.to(tl.float16))
