"""What all Triton kernels share: the interpreter's switch, constants of the base-2 logits, and integer arguments.

Logits are kept in base 2, `logit * log2(e)`: their exponential is then one instruction of a GPU.
"""

import triton.language as tl
from triton import knobs

__all__ = ["IS_INTERPRETED", "LN_2", "LOG2_E", "SIZES"]

# TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests. Triton reads it when the kernels are defined.
IS_INTERPRETED = knobs.runtime.interpret

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

# All integer arguments of the kernels. Triton would compile again for a value of 1 or a multiple of 16, which gains
# nothing here, so `do_not_specialize` lists them: then only their width, 32 or 64 bits, matters.
SIZES = [
    "classes_per_program",
    "dim",
    "first_column_of_block",
    "first_row_of_block",
    "first_split",
    "fits_one_shift",
    "is_symmetric",
    "num_block_columns",
    "num_block_rows",
    "num_classes",
    "num_column_tiles",
    "num_columns",
    "num_dense_slots",
    "num_mirrored_slots",
    "num_others",
    "num_row_tiles",
    "num_rows",
    "num_shards",
    "num_splits",
    "num_tiles",
    "padded_columns",
    "padded_dim",
    "padded_rows",
    "part_stride",
    "shard_index",
    "stride",
    "super_block_rows",
]
