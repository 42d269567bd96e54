"""What the Triton kernels over the pairs of narrow rows do with one tile: load it, logits, and pair weights.

Rows are sorted by class, so the columns of most tiles are of one class, where scale and bias are values of a row, not
of a pair. Logits are in base 2.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportArgumentType=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import IS_INTERPRETED
from labeldist.backends.fused._kernels_tables import table_entries

__all__ = ["load_tile", "pair_weights", "tile_logits"]

# Classes of a mixed tile's rows that are taken at a time, and the dtype of the products that spread their entries.
# The interpreter multiplies no bfloat16.
NUM_CLASSES = tl.constexpr(16)
PART_DTYPE = tl.constexpr(tl.float32 if IS_INTERPRETED else tl.bfloat16)


@triton.jit
def load_tile(rows, first, column, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """`(BLOCK, BLOCK_D)` out of `(N, WIDTH)`; no mask, as rows are padded. N * WIDTH may pass 2^31."""
    within = tl.arange(0, BLOCK)[:, None] * WIDTH + tl.arange(0, BLOCK_D)[None, :]
    return tl.load(rows + (tl.cast(first, tl.int64) * WIDTH + column) + within)


@triton.jit
def spread(is_class, values, total):
    """`total + is_class @ values`, exact in float32: a value is the sum of three bfloat16."""
    high = values.to(PART_DTYPE)
    rest = values - high.to(tl.float32)
    middle = rest.to(PART_DTYPE)
    low = (rest - middle.to(tl.float32)).to(PART_DTYPE)
    total = tl.dot(is_class, high, total, input_precision="ieee")
    total = tl.dot(is_class, middle, total, input_precision="ieee")
    return tl.dot(is_class, low, total, input_precision="ieee")


@triton.jit
def mixed_entries(
    tables,
    row_step,
    column_step,
    row_classes,
    first_class,
    last_class,
    column_classes,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Scale and bias of each pair of a tile with several classes on both sides.

    A load for each pair would take several times as long as its exponential, and have another layout than the products.
    So entries are loaded for `NUM_CLASSES` classes and each column, and a product with the rows' one-hot classes
    spreads them over the rows.
    """
    scales = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    biases = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for start in range(first_class, last_class + 1, NUM_CLASSES):
        classes = start + tl.arange(0, NUM_CLASSES)
        is_class = (row_classes[:, None] == classes[None, :]).to(PART_DTYPE)
        # A step may reach beyond the last class.
        existing = tl.minimum(classes, last_class)
        entries = (existing * row_step)[:, None] + (column_classes * column_step)[None, :]
        scale, bias = table_entries(tables, entries)
        scales = spread(is_class, scale, scales)
        biases = spread(is_class, bias, biases)
    return scales, biases


@triton.jit
def pair_entries(
    tables,
    row_step,  # the entry of rows' class a and columns' class b is `row_step * a + column_step * b`
    column_step,
    row_labels,
    first_row,
    column_labels,
    first_column,
    IS_MIXED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Scale and bias of a tile's pairs: `(BLOCK_ROWS, 1)`, values of a row, where its columns are of one class."""
    row_classes = tl.load(row_labels + first_row + tl.arange(0, BLOCK_ROWS))
    if IS_MIXED:
        first_class, last_class = tl.load(row_labels + first_row), tl.load(row_labels + first_row + BLOCK_ROWS - 1)
        column_classes = tl.load(column_labels + first_column + tl.arange(0, BLOCK_COLUMNS))
        scale, bias = mixed_entries(
            tables,
            row_step,
            column_step,
            row_classes,
            first_class,
            last_class,
            column_classes,
            BLOCK_ROWS,
            BLOCK_COLUMNS,
        )
    else:
        column_class = tl.load(column_labels + first_column)
        scale, bias = table_entries(tables, row_classes * row_step + column_class * column_step)
        scale, bias = scale[:, None], bias[:, None]
    return scale, bias


@triton.jit
def tile_logits(
    dots,
    tables,
    num_classes,
    row_labels,
    first_row,
    column_labels,
    first_column,
    IS_MIXED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Logits `(BLOCK_ROWS, BLOCK_COLUMNS)`, the rows being the anchors."""
    scale, bias = pair_entries(
        tables, num_classes, 1, row_labels, first_row, column_labels, first_column, IS_MIXED, BLOCK_ROWS, BLOCK_COLUMNS
    )
    return dots * scale + bias


@triton.jit
def tile_weights(
    dots,
    tables,
    row_step,  # as in pair_entries, like the next
    column_step,
    row_labels,
    first_row,
    column_labels,
    first_column,
    shift,  # one value for each row, for each column, or for all; likewise the next
    coefficient,
    IS_MIXED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """`scale * exp2(logit - shift) * coefficient`, `(BLOCK_ROWS, BLOCK_COLUMNS)`."""
    scale, bias = pair_entries(
        tables, row_step, column_step, row_labels, first_row, column_labels, first_column,
        IS_MIXED, BLOCK_ROWS, BLOCK_COLUMNS,
    )  # fmt: skip
    return tl.exp2(dots * scale + (bias - shift)) * (scale * coefficient)


@triton.jit
def pair_weights(
    dots,
    tables,
    num_classes,
    shift,
    row_labels,
    row_shifts,
    row_coefficients,
    first_row,
    column_labels,
    column_shifts,
    column_coefficients,
    first_column,
    num_rows,
    num_columns,
    ROWS_ARE_ANCHORS: tl.constexpr,  # whether the rows are anchors with the columns as their references,
    COLUMNS_ARE_ANCHORS: tl.constexpr,  # and whether the columns are anchors with the rows as theirs
    IS_SELF: tl.constexpr,
    MIRRORED: tl.constexpr,
    IS_MIXED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """The pair weights A of a tile: how much of each column goes into the gradient of each row.

    `A_ij = scale_ab q_ij g_i + scale_ba q_ji g_j`: one exponential a pair if MIRRORED, two otherwise. Symmetric where
    the batch is its own reference. The softmax's part only: `scatter_gradient` subtracts that of the positives.
    """
    row_ids = first_row + tl.arange(0, BLOCK_ROWS)
    column_ids = first_column + tl.arange(0, BLOCK_COLUMNS)
    if MIRRORED:
        both = tl.load(row_coefficients + row_ids)[:, None] + tl.load(column_coefficients + column_ids)[None, :]
        weights = tile_weights(
            dots, tables, num_classes, 1, row_labels, first_row, column_labels, first_column,
            shift, both, IS_MIXED, BLOCK_ROWS, BLOCK_COLUMNS,
        )  # fmt: skip
    else:
        weights = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
        if ROWS_ARE_ANCHORS:
            weights += tile_weights(
                dots, tables, num_classes, 1, row_labels, first_row, column_labels, first_column,
                tl.load(row_shifts + row_ids)[:, None], tl.load(row_coefficients + row_ids)[:, None],
                IS_MIXED, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
        if COLUMNS_ARE_ANCHORS:
            weights += tile_weights(
                dots, tables, 1, num_classes, row_labels, first_row, column_labels, first_column,
                tl.load(column_shifts + column_ids)[None, :], tl.load(column_coefficients + column_ids)[None, :],
                IS_MIXED, BLOCK_ROWS, BLOCK_COLUMNS,
            )  # fmt: skip
    # A weight of padding is multiplied by a zero row, but it may be inf.
    is_edge = (first_row + BLOCK_ROWS > num_rows) | (first_column + BLOCK_COLUMNS > num_columns)
    if IS_SELF:
        is_edge |= (first_row < first_column + BLOCK_COLUMNS) & (first_column < first_row + BLOCK_ROWS)
    if is_edge:
        keep = (row_ids < num_rows)[:, None] & (column_ids < num_columns)[None, :]
        if IS_SELF:
            keep &= row_ids[:, None] != column_ids[None, :]
        weights = tl.where(keep, weights, 0.0)
    return weights
