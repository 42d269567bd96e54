"""Triton kernels and functions for the class-pair tables, in the form that the other kernels read.

`ClassPairTables` are functions of the similarity S. The kernels multiply unit rows, so they read the tables as
functions of the dot product (`ClassPairTables.for_dot_products`) and in base 2: `logit = scale * dot + bias`. The two
float32 of a class pair are packed into one 8-byte entry, so that one load brings both.
"""
# ruff: noqa: N803  (upper case marks what is known at compile time, as everywhere in Triton)
# pyright: reportOperatorIssue=false, reportArgumentType=false
# (in a kernel a value is not what its Python type says)

import triton
import triton.language as tl

from labeldist.backends.fused._kernels_common import LOG2_E, SIZES

__all__ = [
    "DROPPED",
    "MAX_SPAN",
    "NUM_SUMMARIES",
    "find_loss_scale",
    "largest_scale",
    "loss_scale_for",
    "pack_table_rows",
    "pack_tables",
    "table_entries",
    "table_summary",
]

# Programs that pack the tables; each writes one column of the summaries.
NUM_SUMMARIES = tl.constexpr(64)

# One shift for all pairs keeps exp2(logit - shift) within float32's exponent as long as the logits span at most
# MAX_SPAN: at most 2^58 for one pair, so that a sum of 2^69 of them is finite, and at least 2^-113, above the
# subnormals. Where the logits span less, the shift is in their middle: small exponents are accurate ones.
HEADROOM = tl.constexpr(58.0)
MAX_SPAN = tl.constexpr(171.0)

# The bias of class pairs that are left out: exp2 of it is 0, and unlike -inf it gives no NaN when multiplied by 0.
DROPPED = tl.constexpr(-1e30)

# Pair weights are scaled to at most 2^14: float16 overflows at 2^16 and reaches 38 powers of two further down.
LARGEST_WEIGHT = tl.constexpr(16384.0)


@triton.jit
def table_entries(tables, index):
    """Scale and bias of class pairs: the two halves of one 8-byte load."""
    packed = tl.load(tables + index)
    scale = packed.to(tl.int32).to(tl.float32, bitcast=True)
    bias = (packed >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return scale, bias


@triton.jit
def table_summary(summaries):
    """Whether pairs may be mirrored (symmetric tables, and one shift fits all logits), and that shift."""
    lanes = tl.arange(0, NUM_SUMMARIES)
    highest = tl.max(tl.load(summaries + lanes), axis=0)
    lowest = tl.min(tl.load(summaries + NUM_SUMMARIES + lanes), axis=0)
    is_asymmetric = tl.max(tl.load(summaries + 2 * NUM_SUMMARIES + lanes), axis=0)
    is_mirrored = (is_asymmetric == 0) & (highest - lowest <= MAX_SPAN)
    # If all class pairs are left out, -inf would turn the logits into NaN.
    shift = tl.where(highest == -float("inf"), 0.0, highest - tl.minimum(HEADROOM, (highest - lowest) / 2))
    return is_mirrored, shift


@triton.jit
def largest_scale(summaries):
    """The largest scale of the tables."""
    return tl.max(tl.load(summaries + 3 * NUM_SUMMARIES + tl.arange(0, NUM_SUMMARIES)), axis=0)


@triton.jit
def pack_table_rows(
    program,  # which rows: every NUM_SUMMARIES-th from this one on
    similarity_scale,
    similarity_bias,
    tables,
    summaries,
    num_classes,
    is_symmetric,
    fits_one_shift,
    BLOCK: tl.constexpr,
):
    """One program's part of `pack_tables`."""
    highest = tl.full([BLOCK], -float("inf"), tl.float32)
    lowest = tl.full([BLOCK], float("inf"), tl.float32)
    is_asymmetric = tl.zeros([BLOCK], tl.float32)
    steepest = tl.zeros([BLOCK], tl.float32)
    for row in range(program, num_classes, NUM_SUMMARIES):
        for start in range(0, num_classes, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < num_classes
            entry, mirror = row * num_classes + columns, columns * num_classes + row
            given_scale = tl.load(similarity_scale + entry, mask=inside, other=0.0)
            given_bias = tl.load(similarity_bias + entry, mask=inside, other=-float("inf"))
            scale = given_scale * (0.5 * LOG2_E)
            bias = scale + given_bias * LOG2_E
            tl.store(tables + 2 * entry, scale, mask=inside)
            tl.store(tables + 2 * entry + 1, tl.where(bias == -float("inf"), DROPPED, bias), mask=inside)
            steepest = tl.maximum(steepest, scale)
            # A dot product of unit rows lies in [-1, 1], and a scale is not negative.
            highest = tl.maximum(highest, bias + scale)
            lowest = tl.minimum(lowest, tl.where(bias == -float("inf"), float("inf"), bias - scale))
            if is_symmetric < 0:
                mirror_scale = tl.load(similarity_scale + mirror, mask=inside, other=0.0)
                mirror_bias = tl.load(similarity_bias + mirror, mask=inside, other=-float("inf"))
                differs = (given_scale != mirror_scale) | (given_bias != mirror_bias)
                is_asymmetric = tl.maximum(is_asymmetric, differs.to(tl.float32))
    highest, lowest, is_asymmetric = tl.max(highest, axis=0), tl.min(lowest, axis=0), tl.max(is_asymmetric, axis=0)
    lowest = tl.where(fits_one_shift == 1, tl.maximum(lowest, highest - MAX_SPAN), lowest)
    # Either answer "no" rules mirroring out.
    is_asymmetric = tl.where((is_symmetric == 0) | (fits_one_shift == 0), 1.0, is_asymmetric)
    tl.store(summaries + program, highest)
    tl.store(summaries + NUM_SUMMARIES + program, lowest)
    tl.store(summaries + 2 * NUM_SUMMARIES + program, is_asymmetric)
    tl.store(summaries + 3 * NUM_SUMMARIES + program, tl.max(steepest, axis=0))


@triton.jit(do_not_specialize=SIZES)
def pack_tables(
    similarity_scale,  # (C, C), as in `ClassPairTables`
    similarity_bias,  # (C, C)
    tables,  # out, (C, C, 2), float32: scale and bias of the dot product, in base 2
    summaries,  # out, (4, NUM_SUMMARIES): highest logit, lowest finite one, whether an entry differs from its mirror
    # image, largest scale
    num_classes,
    is_symmetric,  # what the caller knows: 1, 0, or -1 for nothing
    fits_one_shift,  # whether the logits span at most MAX_SPAN; likewise
    BLOCK: tl.constexpr,
):
    """Tables in the form that the other kernels read, and what `table_summary` and `largest_scale` read of them."""
    pack_table_rows(
        tl.program_id(0), similarity_scale, similarity_bias, tables, summaries, num_classes, is_symmetric,
        fits_one_shift, BLOCK,
    )  # fmt: skip


@triton.jit
def loss_scale_for(
    upstream,  # (N,), from element to element `stride`: 0 where all are one number, as below a mean
    num_rows,
    stride,
    steepest,  # from largest_scale
    BLOCK: tl.constexpr,
):
    """What brings the pair weights into the range of float16: LARGEST_WEIGHT over their bound."""
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_rows, BLOCK):
        row_ids = start + tl.arange(0, BLOCK)
        values = tl.load(upstream + row_ids * stride, mask=row_ids < num_rows, other=0.0)
        largest = tl.maximum(largest, tl.abs(values))
    # A weight is at most 2 * scale * g. At least log2(e), for the mirrored coefficients, which span 2^113.
    bound = tl.max(largest, axis=0) * tl.maximum(2 * steepest, LOG2_E)
    return tl.where(bound > 0, LARGEST_WEIGHT / bound, 1.0)


@triton.jit(do_not_specialize=SIZES)
def find_loss_scale(
    upstream,  # (N,), gradient of the losses; from element to element `stride`
    summaries,
    loss_scale,  # out, (1,)
    num_rows,
    stride,
    BLOCK: tl.constexpr,
):
    """`loss_scale_for`, once for all programs of a large batch."""
    tl.store(loss_scale, loss_scale_for(upstream, num_rows, stride, largest_scale(summaries), BLOCK))
