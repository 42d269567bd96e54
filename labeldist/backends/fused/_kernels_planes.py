"""Float32 as two planes of float16, which tensor cores multiply.

A number of a row is kept as `(high + low) / PLANE_SCALE`, good to 2^-22 of it. The product of two is `high high' + high
low' + low high'`; `low low'`, 2^-22 of it, is left out. Tensor cores round what they add up towards zero, an error that
grows with the number of terms and has one sign. So small products come first, and sums leave the tensor core every few
terms, to be added up where float32 is rounded to the nearest.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportArgumentType=false, reportOperatorIssue=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import SIZES

__all__ = ["PLANE_SCALE", "add_products", "multiply_planes", "split_planes"]

# Keeps the low planes of unit rows off float16's subnormals.
PLANE_SCALE = tl.constexpr(256.0)


@triton.jit
def split_planes(values):
    """Both planes of float32 values: rounded to float16, and what that rounds off."""
    high = values.to(tl.float16)
    return high, (values - high.to(tl.float32)).to(tl.float16)


@triton.jit
def multiply_planes(left, left_low, right, right_low):
    """Products of float32, `left @ right` with both in planes."""
    sums = tl.dot(left, right_low)
    sums = tl.dot(left_low, right, sums)
    return tl.dot(left, right, sums)


@triton.jit(do_not_specialize=SIZES)
def add_products(
    weights,  # descriptor of (M, K), or of (K, M) where TRANSPOSED: the high plane
    weights_low,  # the low plane
    rows,  # descriptor of (padded N, 2 WIDTH)
    total,  # in and out, (padded M', WIDTH), float32
    begin_row,  # of the total
    begin_column,  # of the rows
    num_columns,  # K, a multiple of BLOCK_TERMS
    TRANSPOSED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_TERMS: tl.constexpr,
):
    """`total[begin_row:] += weights @ rows[begin_column:]`, a tile of the total for each program."""
    at_row, at_dim = tl.program_id(1) * BLOCK_ROWS, tl.program_id(0) * BLOCK_D
    sums = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    for start in range(0, num_columns, BLOCK_TERMS):
        if TRANSPOSED:
            high, low = weights.load([start, at_row]).T, weights_low.load([start, at_row]).T
        else:
            high, low = weights.load([at_row, start]), weights_low.load([at_row, start])
        # At the end of a width that is no multiple of BLOCK_D this reads on, into sums that are not stored.
        right = rows.load([begin_column + start, at_dim])
        right_low = rows.load([begin_column + start, WIDTH + at_dim])
        sums += multiply_planes(high, low, right, right_low)
    own, dims = begin_row + at_row + tl.arange(0, BLOCK_ROWS), at_dim + tl.arange(0, BLOCK_D)
    target = total + own.to(tl.int64)[:, None] * WIDTH + dims[None, :]
    inside = (dims < WIDTH)[None, :]
    tl.store(target, tl.load(target, mask=inside) + sums, mask=inside)
