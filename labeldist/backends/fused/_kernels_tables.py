"""Triton kernels and functions for the tables of class pairs, in the format that all kernels read.

Logits are kept in base 2 (`logit * log2(e)`), where the exponential is one instruction.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportOperatorIssue=false, reportArgumentType=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import LOG2_E, SIZES

__all__ = [
    "DROPPED",
    "NUM_SUMMARIES",
    "SPAN",
    "find_unit",
    "pack_tables",
    "table_entries",
    "table_summary",
]

# Programs of `pack_tables`, and so columns of its summary.
NUM_SUMMARIES = tl.constexpr(64)

# One shift for all pairs keeps exp(logit - shift) within float32's exponent as long as the logits span no more than
# SPAN: at most 2^58 for one pair, so that a sum over 2^69 of them is finite, and at least 2^-113, above the subnormals.
# Where they span less, the shift lies in the middle: a small exponent is an accurate one.
HEADROOM = tl.constexpr(58.0)
SPAN = tl.constexpr(171.0)

# The offset of pairs that take no part: exp2 gives 0 for it, and a product with 0 does not give NaN.
DROPPED = tl.constexpr(-1e30)


@triton.jit
def table_entries(tables, index):
    """Factor and offset of class pairs: the two halves of one 8-byte load."""
    packed = tl.load(tables + index)
    factor = packed.to(tl.int32).to(tl.float32, bitcast=True)
    offset = (packed >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return factor, offset


@triton.jit
def table_summary(summaries):
    """Whether a pair stands for its mirror image too (symmetric tables, a narrow range), and the shift for that."""
    lanes = tl.arange(0, NUM_SUMMARIES)
    highest = tl.max(tl.load(summaries + lanes), axis=0)
    lowest = tl.min(tl.load(summaries + NUM_SUMMARIES + lanes), axis=0)
    unequal = tl.max(tl.load(summaries + 2 * NUM_SUMMARIES + lanes), axis=0)
    is_mirrored = (unequal == 0) & (highest - lowest <= SPAN)
    # All pairs dropped: -inf would turn their logits into NaN.
    shift = tl.where(highest == -float("inf"), 0.0, highest - tl.minimum(HEADROOM, (highest - lowest) / 2))
    return is_mirrored, shift


@triton.jit(do_not_specialize=SIZES)
def pack_tables(
    scale,  # (C, C)
    bias,  # (C, C)
    tables,  # out, (C, C, 2): factor and offset, so that base-2 logit = factor * dot + offset
    summaries,  # out, (4, NUM_SUMMARIES): highest logit, lowest finite one, whether an entry differs from its mirror,
    # largest factor
    num_classes,
    is_symmetric,  # what the caller knows: 1, 0, or -1 for nothing
    is_bounded,  # likewise
    BLOCK: tl.constexpr,
):
    """Tables in the form that the other kernels read, and what `table_summary` makes of them."""
    program = tl.program_id(0)
    highest = tl.full([BLOCK], -float("inf"), tl.float32)
    lowest = tl.full([BLOCK], float("inf"), tl.float32)
    unequal = tl.zeros([BLOCK], tl.float32)
    steepest = tl.zeros([BLOCK], tl.float32)
    for row in range(program, num_classes, NUM_SUMMARIES):
        for start in range(0, num_classes, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < num_classes
            here, mirror = row * num_classes + columns, columns * num_classes + row
            steepness = tl.load(scale + here, mask=inside, other=0.0)
            level = tl.load(bias + here, mask=inside, other=-float("inf"))
            factor = steepness * (0.5 * LOG2_E)
            offset = factor + level * LOG2_E
            tl.store(tables + 2 * here, factor, mask=inside)
            tl.store(tables + 2 * here + 1, tl.where(offset == -float("inf"), DROPPED, offset), mask=inside)
            steepest = tl.maximum(steepest, factor)
            # Rows are of length 1 at most, and a factor is not negative.
            highest = tl.maximum(highest, offset + factor)
            lowest = tl.minimum(lowest, tl.where(offset == -float("inf"), float("inf"), offset - factor))
            if is_symmetric < 0:
                other_steepness = tl.load(scale + mirror, mask=inside, other=0.0)
                other_level = tl.load(bias + mirror, mask=inside, other=-float("inf"))
                differs = (steepness != other_steepness) | (level != other_level)
                unequal = tl.maximum(unequal, differs.to(tl.float32))
    highest, lowest, unequal = tl.max(highest, axis=0), tl.min(lowest, axis=0), tl.max(unequal, axis=0)
    lowest = tl.where(is_bounded == 1, tl.maximum(lowest, highest - SPAN), lowest)
    unequal = tl.where((is_symmetric == 0) | (is_bounded == 0), 1.0, unequal)
    tl.store(summaries + program, highest)
    tl.store(summaries + NUM_SUMMARIES + program, lowest)
    tl.store(summaries + 2 * NUM_SUMMARIES + program, unequal)
    tl.store(summaries + 3 * NUM_SUMMARIES + program, tl.max(steepest, axis=0))


@triton.jit(do_not_specialize=SIZES)
def find_unit(
    upstream,  # (N,), from element to element `stride`: 0 where a mean gives all the same
    summaries,
    unit,  # out, (1,)
    num_rows,
    stride,
    BLOCK: tl.constexpr,
):
    """Factor that puts pairs' weights below 2^14: float16 overflows at 2^16, and goes 38 powers of two down."""
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_rows, BLOCK):
        places = start + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.abs(tl.load(upstream + places * stride, mask=places < num_rows, other=0.0)))
    steepest = tl.max(tl.load(summaries + 3 * NUM_SUMMARIES + tl.arange(0, NUM_SUMMARIES)), axis=0)
    # A weight is at most factor * 2 g. At least log2(e), for the mirrored coefficients, which span 2^113.
    bound = tl.max(largest, axis=0) * tl.maximum(2 * steepest, LOG2_E)
    tl.store(unit, tl.where(bound > 0, 16384.0 / bound, 1.0))
