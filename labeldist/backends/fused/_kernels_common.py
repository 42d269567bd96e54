"""What all Triton kernels share. Logits are kept in base 2 (`logit * log2(e)`): an exponential is one instruction."""

import triton.language as tl
from triton import knobs

__all__ = ["IS_INTERPRETED", "LN_2", "LOG2_E", "SIZES"]

# Set when Triton reads the kernels: TRITON_INTERPRET=1 runs them on the CPU, slowly, for tests.
IS_INTERPRETED = knobs.runtime.interpret

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

# All numbers that kernels take, by value: compiling again for a size of 1 or a multiple of 16 gains nothing here.
SIZES = [
    "begin_column",
    "begin_row",
    "block_span",
    "classes_per_program",
    "dim",
    "first_split",
    "is_bounded",
    "is_symmetric",
    "num_classes",
    "num_column_blocks",
    "num_columns",
    "num_dense_slots",
    "num_mirrored_slots",
    "num_row_blocks",
    "num_rows",
    "num_shares",
    "num_splits",
    "num_tiles",
    "padded_dim",
    "padded_rows",
    "part_stride",
    "share",
    "square_rows",
    "stride",
]
