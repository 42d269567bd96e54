"""How each kernel cuts its work: tile sizes by kernel, element size and width, padding, and sizes of grids."""

from functools import lru_cache
from typing import NamedTuple

import torch

from labeldist.backends.fused._kernels_common import IS_INTERPRETED

__all__ = [
    "DIMS_PER_STEP",
    "FULL_SHARED_MEMORY",
    "MAX_NARROW_DIM",
    "ROW_ALIGNMENT",
    "TILINGS",
    "WIDE",
    "Tiling",
    "divide_up",
    "generation_of",
    "has_full_shared_memory",
    "is_wide",
    "num_multiprocessors",
    "num_splits",
    "padded_rows",
    "padded_width",
    "round_up",
    "tiling_for",
]


class Tiling(NamedTuple):
    """How a kernel cuts its pairs.

    Attributes:
        block_rows: rows of a tile, a power of two from 16 to `ROW_ALIGNMENT`.
        block_columns: columns of a tile, likewise; for products of weights with rows, terms of a sum that are
            multiplied at a time.
        block_d: dimensions multiplied at a time; for products of weights with rows, dimensions of a tile; unused by
            kernels that hold whole rows.
        num_warps: warps of a program.
        num_stages: depth of the loads' pipeline.
    """

    block_rows: int
    block_columns: int
    block_d: int
    num_warps: int
    num_stages: int


# By kernel, bytes of an element, and greatest width that the entry serves; WIDE is any width. The fastest of those
# tried with `benchmarks.loss.tune` on an H100; those of "medium" are a first choice.
WIDE = 1 << 30
TILINGS: dict[tuple[str, int, int], Tiling] = {
    ("dense", 2, 128): Tiling(128, 128, 128, 8, 3),
    ("mirrored", 2, 128): Tiling(128, 64, 128, 4, 3),
    ("gradient", 2, 64): Tiling(128, 64, 64, 4, 2),
    ("gradient", 2, 128): Tiling(128, 64, 128, 4, 2),
    # Wide rows. "mirrored" and "dense" sums must agree in block_columns. "any" is for GPUs with less shared memory.
    ("mirrored sums", 2, WIDE): Tiling(256, 128, 64, 8, 3),
    ("dense sums", 2, WIDE): Tiling(128, 128, 64, 8, 3),
    ("mirrored weights", 2, WIDE): Tiling(256, 128, 64, 8, 3),
    ("dense weights", 2, WIDE): Tiling(128, 128, 64, 8, 4),
    ("any weights", 2, WIDE): Tiling(128, 128, 64, 8, 3),
    # float32: two planes of 2 bytes. "products" multiplies a tile of weights by rows.
    ("mirrored sums", 4, WIDE): Tiling(128, 128, 64, 8, 3),
    ("dense sums", 4, WIDE): Tiling(128, 128, 64, 8, 3),
    ("any sums", 4, WIDE): Tiling(128, 128, 32, 8, 3),
    ("mirrored weights", 4, WIDE): Tiling(128, 128, 64, 8, 3),
    ("dense weights", 4, WIDE): Tiling(128, 128, 64, 8, 3),
    ("any weights", 4, WIDE): Tiling(128, 128, 32, 8, 2),
    ("dense products", 4, WIDE): Tiling(64, 64, 128, 4, 3),
    ("any products", 4, WIDE): Tiling(64, 32, 128, 4, 3),
    ("tables", 2, WIDE): Tiling(64, 64, 64, 4, 3),
    ("small", 2, WIDE): Tiling(16, 128, 128, 4, 3),
    ("small", 4, WIDE): Tiling(16, 64, 64, 4, 3),
    ("medium", 2, WIDE): Tiling(128, 128, 64, 8, 3),
    # A product, of weights with rows.
    ("medium gradient", 2, WIDE): Tiling(64, 64, 128, 4, 4),
}

# Bytes of shared memory that the largest tilings need.
FULL_SHARED_MEMORY = 229_432
# Rows are padded to a multiple of it, so that no tile of any tiling reads outside.
ROW_ALIGNMENT = 256
# Up to so many dimensions the narrow kernels do all of it: a tile's gradient fits the registers. float32 would take six
# products there, in place of the three of the wide kernels.
MAX_NARROW_DIM: dict[torch.dtype, int] = {torch.bfloat16: 128, torch.float16: 128, torch.float32: 0}
# Rows that are not wide are padded to a power of two as far as here.
MAX_POWER_WIDTH = 128
# Longer loops over pairs are split until there are about so many programs: a few for each multiprocessor.
NUM_PROGRAMS, MAX_SPLITS = 512, 64
# Dimensions per step of the kernels over rows. Wide rows are padded to a multiple of it.
DIMS_PER_STEP = 64
# Other rows are padded to a power of two from here on: tensor cores multiply no fewer dimensions.
MIN_WIDTH = 16


def padded_rows(num_rows: int) -> int:
    """Rows of a padded tensor."""
    return round_up(num_rows, ROW_ALIGNMENT)


def is_wide(dim: int, dtype: torch.dtype) -> bool:
    """Whether a large batch of such rows takes the wide kernels, whose pair weights go through memory."""
    return dim > MAX_NARROW_DIM[dtype]


def padded_width(dim: int, *, is_wide: bool = False) -> int:
    """Columns of padded rows."""
    if is_wide or dim > MAX_POWER_WIDTH:
        return round_up(dim, DIMS_PER_STEP)
    return max(MIN_WIDTH, 1 << (dim - 1).bit_length())


def divide_up(number: int, divisor: int) -> int:
    """`number / divisor`, rounded up."""
    return (number + divisor - 1) // divisor


def round_up(number: int, multiple: int) -> int:
    """The least multiple that is no smaller than `number`."""
    return divide_up(number, multiple) * multiple


def num_splits(num_programs: int, max_splits: int) -> int:
    """How many parts to cut each of `num_programs` loops into, to fill the device."""
    return max(1, min(NUM_PROGRAMS // max(num_programs, 1), max_splits, MAX_SPLITS))


@lru_cache
def num_multiprocessors(device: torch.device) -> int:
    """Programs that a device runs at a time, one on each multiprocessor; 2 in the interpreter."""
    if IS_INTERPRETED:
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


@lru_cache
def has_full_shared_memory(device: torch.device) -> bool:
    """Whether a program may have 229 KB, as on Hopper and on Blackwell's servers; some GPUs since Ampere have 99."""
    if IS_INTERPRETED:
        return True
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin >= FULL_SHARED_MEMORY


@lru_cache
def generation_of(device: torch.device) -> int:
    """The first number of the compute capability: 8 for Ampere and Ada, 9 for Hopper; 0 in the interpreter."""
    return 0 if IS_INTERPRETED else torch.cuda.get_device_capability(device)[0]


def tiling_for(kernel: str, size: int, width: int) -> Tiling:
    """The tiling of a kernel for rows of `width` elements of `size` bytes."""
    bound = min(bound for name, bytes_, bound in TILINGS if (name, bytes_) == (kernel, size) and width <= bound)
    return TILINGS[kernel, size, bound]
