"""Triton kernels over a matrix of products that the library's matrix multiplication has written.

Rows wider than the registers can hold the gradient of are multiplied by the library, a tile of thousands of rows at a
time, into a workspace. These kernels turn the products into partition sums, or into the pairs' weights: they read and
write memory, and take exponentials. Rows are sorted by class, so the columns of most tiles are of one. Logits are in
base 2. No kernel uses atomics.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportArgumentType=false, reportOperatorIssue=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_rows import SIZES, table_entries, table_summary

__all__ = ["add_sums", "sum_products", "weigh_products"]


@triton.jit
def keep_pairs(
    values, other, own, others, num_rows, num_columns,
    SELF: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """`values`, and `other` for pairs that do not exist or are a row with itself. Few tiles have such pairs."""
    first_row, first_column = tl.min(own, axis=0), tl.min(others, axis=0)
    is_edge = (first_row + BLOCK_ROWS > num_rows) | (first_column + BLOCK_COLUMNS > num_columns)
    if SELF:
        is_edge |= (first_row < first_column + BLOCK_COLUMNS) & (first_column < first_row + BLOCK_ROWS)
    if is_edge:
        taken = (own < num_rows)[:, None] & (others < num_columns)[None, :]
        if SELF:
            taken &= own[:, None] != others[None, :]
        values = tl.where(taken, values, other)
    return values


@triton.jit
def products_of(products, first, end, columns, stride, BLOCK_ROWS: tl.constexpr):
    """The products of some rows, as they are stored; of the last before `end` where there are none.

    Read one step ahead of their use: a tile's arithmetic takes less time than its way from memory.
    """
    rows = tl.minimum(first, end - BLOCK_ROWS) + tl.arange(0, BLOCK_ROWS)
    return tl.load(products + rows[:, None] * stride + columns[None, :])


@triton.jit
def pair_entries(tables, row_classes, column_classes, column_class, row_step, column_step, IS_UNIFORM: tl.constexpr):
    """Factor and offset of a tile's pairs, of anchors' class a and references' class b at `row_step a + column_step b`.

    Where all columns are of one class, they are values of a row: a look-up for each pair would cost several times its
    exponential.
    """
    if IS_UNIFORM:
        entry = (row_classes * row_step + column_class * column_step)[:, None]
    else:
        entry = (row_classes * row_step)[:, None] + (column_classes * column_step)[None, :]
    return table_entries(tables, entry)


@triton.jit
def sum_mirrored_strip(
    products, row_labels, column_labels, tables, shift, row_sums, column_sums,
    begin, end, begin_row, begin_column, columns, column_class, num_rows, num_columns, num_classes, stride,
    unit: tl.constexpr, IS_UNIFORM: tl.constexpr, SELF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """One exponential for a row's sum and a column's."""
    column_classes = tl.load(column_labels + columns)
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    ahead = products_of(products, begin, end, columns, stride, BLOCK_ROWS)
    for first in range(begin, end, BLOCK_ROWS):
        rows = first + tl.arange(0, BLOCK_ROWS)
        dots = ahead.to(tl.float32) * unit
        ahead = products_of(products, first + BLOCK_ROWS, end, columns, stride, BLOCK_ROWS)
        factor, offset = pair_entries(
            tables, tl.load(row_labels + rows), column_classes, column_class, num_classes, 1, IS_UNIFORM
        )
        terms = tl.exp2(dots * factor + (offset - shift))
        terms = keep_pairs(
            terms, 0.0, begin_row + rows, begin_column + columns, num_rows, num_columns, SELF, BLOCK_ROWS, BLOCK_COLUMNS
        )
        sums += terms
        tl.store(row_sums + rows, tl.sum(terms, axis=1))
    tl.store(column_sums + columns, tl.sum(sums, axis=0))


@triton.jit
def sum_dense_strip(
    products, row_labels, column_labels, tables, row_maxima, row_sums, column_maxima, column_sums,
    begin, end, begin_row, begin_column, columns, column_class, num_rows, num_columns, num_classes, stride,
    unit: tl.constexpr, IS_UNIFORM: tl.constexpr, SELF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Each sum with a maximum of its own; columns are anchors too if SELF."""
    column_classes = tl.load(column_labels + columns)
    highest = tl.full([BLOCK_COLUMNS], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_COLUMNS], tl.float32)
    ahead = products_of(products, begin, end, columns, stride, BLOCK_ROWS)
    for first in range(begin, end, BLOCK_ROWS):
        rows = first + tl.arange(0, BLOCK_ROWS)
        dots = ahead.to(tl.float32) * unit
        ahead = products_of(products, first + BLOCK_ROWS, end, columns, stride, BLOCK_ROWS)
        row_classes = tl.load(row_labels + rows)
        factor, offset = pair_entries(tables, row_classes, column_classes, column_class, num_classes, 1, IS_UNIFORM)
        logits = keep_pairs(
            dots * factor + offset, -float("inf"), begin_row + rows, begin_column + columns, num_rows, num_columns,
            SELF, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
        maximum = tl.max(logits, axis=1)
        # -inf - -inf would be NaN.
        base = tl.where(maximum == -float("inf"), 0.0, maximum)
        tl.store(row_maxima + rows, maximum)
        tl.store(row_sums + rows, tl.sum(tl.exp2(logits - base[:, None]), axis=1))
        if SELF:
            factor, offset = pair_entries(tables, row_classes, column_classes, column_class, 1, num_classes, IS_UNIFORM)
            logits = keep_pairs(
                dots * factor + offset, -float("inf"), begin_row + rows, begin_column + columns, num_rows, num_columns,
                SELF, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
            new = tl.maximum(highest, tl.max(logits, axis=0))
            base = tl.where(new == -float("inf"), 0.0, new)
            total = total * tl.exp2(highest - base) + tl.sum(tl.exp2(logits - base[None, :]), axis=0)
            highest = new
    tl.store(column_maxima + columns, highest)
    tl.store(column_sums + columns, total)


@triton.jit(do_not_specialize=SIZES)
def sum_products(
    products,  # (rows of the tile, columns of the tile): dot products over `unit`
    row_labels,  # (padded N,), from the tile's first row on, like the next
    column_labels,
    tables,
    summaries,
    row_maxima,  # out, (tile columns / BLOCK_COLUMNS, rows): not written where pairs are mirrored, like the next maxima
    row_sums,  # out: sum of exp2(logit - maximum, or - shift)
    column_maxima,  # out, (tile rows / STRIP, columns); of columns as anchors, of no meaning unless SELF
    column_sums,
    begin_row,
    begin_column,
    num_rows,
    num_columns,
    num_classes,
    tile_rows,
    stride,
    part_stride,
    unit: tl.constexpr,
    MODE: tl.constexpr,  # 1 where pairs are mirrored, 0 where not, -1 where the summaries say
    SELF: tl.constexpr,
    STRIP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Partition sums of the rows over some columns, and of the columns over some rows."""
    is_mirrored, shift = table_summary(summaries)
    if MODE >= 0:
        is_mirrored = MODE == 1
    block, strip = tl.program_id(0), tl.program_id(1)
    columns = block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    begin, end = strip * STRIP, tl.minimum(strip * STRIP + STRIP, tile_rows)
    column_class = tl.load(column_labels + block * BLOCK_COLUMNS)
    # Sorted: equal ends mean one class.
    is_uniform = column_class == tl.load(column_labels + block * BLOCK_COLUMNS + BLOCK_COLUMNS - 1)
    row_maxima += block * part_stride
    row_sums += block * part_stride
    column_maxima += strip * part_stride
    column_sums += strip * part_stride
    if is_mirrored:
        if is_uniform:
            sum_mirrored_strip(
                products, row_labels, column_labels, tables, shift, row_sums, column_sums,
                begin, end, begin_row, begin_column, columns, column_class, num_rows, num_columns, num_classes, stride,
                unit, True, SELF, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
        else:
            sum_mirrored_strip(
                products, row_labels, column_labels, tables, shift, row_sums, column_sums,
                begin, end, begin_row, begin_column, columns, column_class, num_rows, num_columns, num_classes, stride,
                unit, False, SELF, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
    else:
        if is_uniform:
            sum_dense_strip(
                products, row_labels, column_labels, tables, row_maxima, row_sums, column_maxima, column_sums,
                begin, end, begin_row, begin_column, columns, column_class, num_rows, num_columns, num_classes, stride,
                unit, True, SELF, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
        else:
            sum_dense_strip(
                products, row_labels, column_labels, tables, row_maxima, row_sums, column_maxima, column_sums,
                begin, end, begin_row, begin_column, columns, column_class, num_rows, num_columns, num_classes, stride,
                unit, False, SELF, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip


@triton.jit
def add_parts(part_maxima, part_sums, maxima, sums, places, num_parts, part_stride, is_mirrored, BLOCK: tl.constexpr):
    """Add the parts of some rows' sums to what earlier tiles gave."""
    total = tl.load(sums + places)
    if is_mirrored:
        for part in range(num_parts):
            total += tl.load(part_sums + part * part_stride + places)
    else:
        highest = tl.load(maxima + places)
        for part in range(num_parts):
            maximum = tl.load(part_maxima + part * part_stride + places)
            new = tl.maximum(highest, maximum)
            # -inf - -inf would be NaN.
            base = tl.where(new == -float("inf"), 0.0, new)
            more = tl.load(part_sums + part * part_stride + places) * tl.exp2(maximum - base)
            total = total * tl.exp2(highest - base) + more
            highest = new
        tl.store(maxima + places, highest)
    tl.store(sums + places, total)


@triton.jit(do_not_specialize=SIZES)
def add_sums(
    row_maxima,  # from sum_products, like the next three
    row_sums,
    column_maxima,
    column_sums,
    maxima,  # in and out, (padded N,)
    sums,  # in and out
    summaries,
    begin_row,
    begin_column,
    num_row_parts,
    num_column_parts,
    num_row_blocks,  # of the tile
    part_stride,
    MODE: tl.constexpr,  # as in sum_products
    BLOCK: tl.constexpr,
):
    """Add the sums of one tile to what earlier tiles gave: the rows' by the first programs, the columns' by others."""
    is_mirrored, _ = table_summary(summaries)
    if MODE >= 0:
        is_mirrored = MODE == 1
    block = tl.program_id(0)
    if block < num_row_blocks:
        add_parts(
            row_maxima, row_sums, maxima + begin_row, sums + begin_row, block * BLOCK + tl.arange(0, BLOCK),
            num_row_parts, part_stride, is_mirrored, BLOCK,
        )  # fmt: skip
    else:
        add_parts(
            column_maxima, column_sums, maxima + begin_column, sums + begin_column,
            (block - num_row_blocks) * BLOCK + tl.arange(0, BLOCK), num_column_parts, part_stride, is_mirrored, BLOCK,
        )  # fmt: skip


@triton.jit
def tile_weights(
    dots, tables, row_labels, column_labels, row_lse, column_lse, row_coefficients, column_coefficients,
    is_mirrored, shift, rows, columns, column_class, num_classes,
    IS_UNIFORM: tl.constexpr, SELF: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """`factor_ab q_ij g_i + factor_ba q_ji g_j`: one exponential where mirrored, else two, or one if not SELF."""
    row_classes, column_classes = tl.load(row_labels + rows), tl.load(column_labels + columns)
    own = tl.load(row_coefficients + rows)[:, None]
    others = tl.load(column_coefficients + columns)[None, :] if SELF else tl.zeros([1, BLOCK_COLUMNS], tl.float32)
    factor, offset = pair_entries(tables, row_classes, column_classes, column_class, num_classes, 1, IS_UNIFORM)
    if is_mirrored:
        weights = tl.exp2(dots * factor + (offset - shift)) * (factor * (own + others))
    else:
        weights = tl.exp2(dots * factor + (offset - tl.load(row_lse + rows)[:, None])) * (factor * own)
        if SELF:
            factor, offset = pair_entries(tables, row_classes, column_classes, column_class, 1, num_classes, IS_UNIFORM)
            weights += tl.exp2(dots * factor + (offset - tl.load(column_lse + columns)[None, :])) * (factor * others)
    return weights


@triton.jit
def weigh_strip(
    products, high, low, row_labels, column_labels, tables, row_lse, column_lse,
    row_coefficients, column_coefficients, is_mirrored, shift, begin, end, begin_row, begin_column,
    first_column, column_class, num_rows, num_columns, num_classes, stride,
    unit: tl.constexpr, IS_UNIFORM: tl.constexpr, SELF: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """The weights of some rows with a tile's columns."""
    columns = first_column + tl.arange(0, BLOCK_COLUMNS)
    ahead = products_of(products, begin, end, columns, stride, BLOCK_ROWS)
    for first in range(begin, end, BLOCK_ROWS):
        rows = first + tl.arange(0, BLOCK_ROWS)
        at = rows[:, None] * stride + columns[None, :]
        dots = ahead.to(tl.float32) * unit
        # Not past the end: the weights may take the place of the products.
        ahead = products_of(products, first + BLOCK_ROWS, end, columns, stride, BLOCK_ROWS)
        weights = tile_weights(
            dots, tables, row_labels, column_labels, row_lse, column_lse, row_coefficients, column_coefficients,
            is_mirrored, shift, rows, columns, column_class, num_classes, IS_UNIFORM, SELF, BLOCK_COLUMNS,
        )  # fmt: skip
        weights = keep_pairs(
            weights, 0.0, begin_row + rows, begin_column + columns, num_rows, num_columns,
            SELF, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
        rounded = weights.to(tl.float16)
        tl.store(high + at, rounded)
        if low is not None:
            tl.store(low + at, (weights - rounded.to(tl.float32)).to(tl.float16))


@triton.jit(do_not_specialize=SIZES)
def weigh_products(
    products,  # (rows of the tile, columns of the tile): dot products over `unit`
    high,  # out, the weights rounded to float16: the same memory as products, or other
    low,  # out, what that rounds off; None to leave it
    row_labels,  # (padded N,), from the tile's first row on, like all that follow
    row_lse,
    row_coefficients,
    column_labels,
    column_lse,  # read if SELF, like the next
    column_coefficients,
    tables,
    summaries,
    begin_row,
    begin_column,
    num_rows,
    num_columns,
    num_classes,
    tile_rows,
    stride,
    unit: tl.constexpr,
    MODE: tl.constexpr,  # as in sum_products
    SELF: tl.constexpr,
    STRIP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """A: how much of each column's row goes into the gradient of each row's; in the self-reference case symmetric."""
    is_mirrored, shift = table_summary(summaries)
    if MODE >= 0:
        is_mirrored = MODE == 1
    first_column, begin = tl.program_id(0) * BLOCK_COLUMNS, tl.program_id(1) * STRIP
    end = tl.minimum(begin + STRIP, tile_rows)
    column_class = tl.load(column_labels + first_column)
    # Sorted: equal ends mean one class.
    if column_class == tl.load(column_labels + first_column + BLOCK_COLUMNS - 1):
        weigh_strip(
            products, high, low, row_labels, column_labels, tables, row_lse, column_lse,
            row_coefficients, column_coefficients, is_mirrored, shift, begin, end, begin_row, begin_column,
            first_column, column_class, num_rows, num_columns, num_classes, stride,
            unit, True, SELF, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
    else:
        weigh_strip(
            products, high, low, row_labels, column_labels, tables, row_lse, column_lse,
            row_coefficients, column_coefficients, is_mirrored, shift, begin, end, begin_row, begin_column,
            first_column, column_class, num_rows, num_columns, num_classes, stride,
            unit, False, SELF, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
