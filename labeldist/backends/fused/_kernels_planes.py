"""float32 as two planes of float16, which tensor cores multiply.

A number of a unit row is kept as `(high + low) / PLANE_SCALE`, good to 2^-22 of it. The product of two is `high high' +
high low' + low high'`; `low low'`, 2^-22 of it, is left out. Tensor cores round the sums of their products towards
zero, an error of one sign that grows with the number of terms. So the small products come first, and every few terms
the sum leaves the tensor cores, to be added where float32 rounds to nearest.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportArgumentType=false, reportOperatorIssue=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import SIZES

__all__ = ["PLANE_SCALE", "add_products", "multiply_planes", "split_planes"]

# Keeps the low planes of unit rows above float16's subnormals.
PLANE_SCALE = tl.constexpr(256.0)


@triton.jit
def split_planes(values):
    """Both planes of float32 values: rounded to float16, and what that rounds off."""
    high = values.to(tl.float16)
    return high, (values - high.to(tl.float32)).to(tl.float16)


@triton.jit
def multiply_planes(left, left_low, right, right_low):
    """Products of float32, `left @ right`, both in planes."""
    sums = tl.dot(left, right_low)
    sums = tl.dot(left_low, right, sums)
    return tl.dot(left, right, sums)


@triton.jit(do_not_specialize=SIZES)
def add_products(
    weights,  # descriptor of (M, K), or of (K, M) if TRANSPOSED: the high plane
    weights_low,  # the low plane
    rows,  # descriptor of (padded N, 2 WIDTH)
    total,  # in and out, (padded M', WIDTH), float32
    first_row_of_block,  # of the total
    first_column_of_block,  # of the rows
    num_columns,  # K, a multiple of BLOCK_TERMS
    TRANSPOSED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_TERMS: tl.constexpr,
):
    """`total[first_row_of_block:] += weights @ rows[first_column_of_block:]`, one tile of the total a program."""
    first_row, first_dim = tl.program_id(1) * BLOCK_ROWS, tl.program_id(0) * BLOCK_D
    sums = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    for start in range(0, num_columns, BLOCK_TERMS):
        if TRANSPOSED:
            high, low = weights.load([start, first_row]).T, weights_low.load([start, first_row]).T
        else:
            high, low = weights.load([first_row, start]), weights_low.load([first_row, start])
        # Where the width is no multiple of BLOCK_D, this reads on into the next plane or zeros: sums that are not
        # stored.
        right = rows.load([first_column_of_block + start, first_dim])
        right_low = rows.load([first_column_of_block + start, WIDTH + first_dim])
        sums += multiply_planes(high, low, right, right_low)
    row_ids = first_row_of_block + first_row + tl.arange(0, BLOCK_ROWS)
    dims = first_dim + tl.arange(0, BLOCK_D)
    target = total + row_ids.to(tl.int64)[:, None] * WIDTH + dims[None, :]
    inside = (dims < WIDTH)[None, :]
    tl.store(target, tl.load(target, mask=inside) + sums, mask=inside)
