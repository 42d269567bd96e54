"""What all launches share: precisions, tilings by kernel and width, sizes of grids."""

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from labeldist.backends.fused._kernels_common import IS_INTERPRETED, SIZES

__all__ = [
    "MAX_NARROW_WIDTH",
    "PRECISIONS",
    "PRODUCT_DTYPES",
    "ROW_ALIGNMENT",
    "TILINGS",
    "WIDE",
    "Precision",
    "Tiling",
    "divide_up",
    "generation_of",
    "has_much_fast_memory",
    "is_wide",
    "launch",
    "num_multiprocessors",
    "num_splits",
    "padded_rows",
    "padded_width",
    "round_up",
    "tiling_for",
]

Precision = Literal["bf16", "fp16", "tf32", "float32"]

# The precision that loses nothing which the embeddings' dtype still has. float64 is refused further on.
PRECISIONS: dict[torch.dtype, Precision] = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "float32",
    torch.float64: "float32",
}

# Dtype of rows in the products of kernels that take them as they are. Unit rows of float16 have tf32's digits.
PRODUCT_DTYPES: dict[Precision, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "tf32": torch.float32,
    "float32": torch.float32,
}


class Tiling(NamedTuple):
    """How a kernel cuts its pairs.

    Attributes:
        block_rows: rows of a tile, a power of two from 16 to `ROW_ALIGNMENT`.
        block_columns: columns of a tile, likewise; terms of a sum that are multiplied at a time, for products.
        block_d: dimensions multiplied at a time; dimensions of a tile, for products; of no meaning for kernels that
            hold whole rows.
        num_warps: warps of a program.
        num_stages: depth of the loads' pipeline.
    """

    block_rows: int
    block_columns: int
    block_d: int
    num_warps: int
    num_stages: int


# By kernel, bytes of an element, and greatest width that the entry serves; WIDE is any width.
WIDE = 1 << 30
TILINGS: dict[tuple[str, int, int], Tiling] = {
    ("dense", 2, 128): Tiling(128, 128, 128, 8, 3),
    ("mirrored", 2, 128): Tiling(128, 64, 128, 4, 3),
    ("gradient", 2, 64): Tiling(128, 64, 64, 4, 2),
    ("gradient", 2, 128): Tiling(128, 64, 128, 4, 2),
    # Of rows wider than the registers. Sums of either kind go by the same blocks of columns. "any" is for GPUs with
    # less fast memory.
    ("mirrored sums", 2, WIDE): Tiling(256, 128, 64, 8, 3),
    ("dense sums", 2, WIDE): Tiling(128, 128, 64, 8, 3),
    ("mirrored weights", 2, WIDE): Tiling(256, 128, 64, 8, 3),
    ("dense weights", 2, WIDE): Tiling(128, 128, 64, 8, 4),
    ("any weights", 2, WIDE): Tiling(128, 128, 64, 8, 3),
    # Of float32, which is two planes of 2 bytes. Products are of a tile of weights with rows.
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
}

# Bytes that the largest tilings need.
MUCH_FAST_MEMORY = 229_432
# Rows are padded to a multiple of it, so that no tile of any tiling reads outside.
ROW_ALIGNMENT = 256
# Up to so many dimensions kernels do all of it: a tile's gradient fits the registers, and the weights of pairs, which
# would be most of what is written, are not. Rows of float32 would take six products there, in place of three.
MAX_NARROW_WIDTH: dict[Precision, int] = {"bf16": 128, "fp16": 128, "float32": 0}
# Rows that are not wide are padded to a power of two as far as here.
MAX_POWER_WIDTH = 128
# Long loops are split until there are about so many programs: a few for each multiprocessor.
NUM_PROGRAMS = 512
# Dimensions at a time in the kernels over rows; wide rows are padded to a multiple of it.
DIMS_AT_ONCE = 64


def padded_rows(num_rows: int) -> int:
    """Rows of a padded tensor."""
    return round_up(num_rows, ROW_ALIGNMENT)


def is_wide(dim: int, precision: Precision) -> bool:
    """Whether the weights of pairs go through a workspace."""
    return dim > MAX_NARROW_WIDTH[precision]


def padded_width(dim: int, *, is_wide: bool = False) -> int:
    """Columns of padded rows: a multiple of 64 for wide ones; a power of two for others, as far as 128."""
    if is_wide or dim > MAX_POWER_WIDTH:
        return round_up(dim, DIMS_AT_ONCE)
    return max(16, 1 << (dim - 1).bit_length())


def divide_up(number: int, divisor: int) -> int:
    """`number / divisor`, rounded up."""
    return (number + divisor - 1) // divisor


def round_up(number: int, multiple: int) -> int:
    """The least multiple that is no smaller than `number`."""
    return divide_up(number, multiple) * multiple


def num_splits(num_programs: int, max_splits: int) -> int:
    """Parts to cut each of `num_programs` loops into, for a full device."""
    return max(1, min(NUM_PROGRAMS // max(num_programs, 1), max_splits, 64))


@lru_cache
def num_multiprocessors(device: torch.device) -> int:
    """Programs that a device runs at a time, one on each multiprocessor; 2 in the interpreter."""
    if IS_INTERPRETED:
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


@lru_cache
def has_much_fast_memory(device: torch.device) -> bool:
    """Whether a program may have 229 KB, as on Hopper and on Blackwell's servers; some GPUs since Ampere have 99."""
    if IS_INTERPRETED:
        return True
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin >= MUCH_FAST_MEMORY


@lru_cache
def generation_of(device: torch.device) -> int:
    """The first number of the compute capability: 8 for Ampere and Ada, 9 for Hopper; 0 in the interpreter."""
    return 0 if IS_INTERPRETED else torch.cuda.get_device_capability(device)[0]


def tiling_for(kernel: str, size: int, width: int) -> Tiling:
    """The tiling of a kernel for rows of `width` elements of `size` bytes."""
    bound = min(bound for name, bytes_, bound in TILINGS if (name, bytes_) == (kernel, size) and width <= bound)
    return TILINGS[kernel, size, bound]


Argument = Tensor | TensorDescriptor | int | None

# Compiled kernels, and their constants in order, by what they were compiled for. Triton finds them too, in several
# times as long as a launch takes, and a batch of some thousand rows needs a dozen launches.
_COMPILED: dict[tuple, tuple[Any, list[Any]]] = {}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Argument, **options: Any) -> None:
    """Start a kernel, unless its grid is empty.

    Args:
        kernel: a `triton.jit` function.
        grid: number of programs, in up to three dimensions.
        *arguments: what is known at run time.
        **options: the kernel's constants, and `num_warps` and `num_stages`.
    """
    if not all(grid):
        return
    if IS_INTERPRETED:
        names = [name for name, value in zip(kernel.arg_names, arguments, strict=False) if isinstance(value, int)]
        assert set(names) <= set(SIZES), f"{sorted(set(names) - set(SIZES))} must be in SIZES"
        kernel[grid](*arguments, **options)
        return
    traits, values = _read(arguments)
    key = (kernel, torch.cuda.current_device(), *options.values(), *traits)
    found = _COMPILED.get(key)
    if found is None:
        compiled = kernel[grid](*arguments, **options)
        _COMPILED[key] = compiled, [options[name] for name in kernel.arg_names[len(arguments) :]]
        return
    compiled, constants = found
    compiled[(*grid, 1, 1)[:3]](*values, *constants)


def _read(arguments: tuple[Argument, ...]) -> tuple[list[Any], list[Any]]:
    """What Triton compiles another kernel for, and the arguments with addresses in place of tensors.

    Of numbers, which are all in `SIZES`, it is the width alone. Of each tensor Triton asks the driver, of an address it
    does not: that all tensors are the GPU's is seen to before.
    """
    traits: list[Any] = []
    values: list[Any] = []
    # One loop, without a call for each: it is run for every launch.
    for argument in arguments:
        value: Any = argument
        if isinstance(argument, int):
            traits.append(argument < 2**31)
        elif isinstance(argument, Tensor):
            value = argument.data_ptr()
            traits += argument.dtype, value % 16 == 0
        elif isinstance(argument, TensorDescriptor):
            traits += argument.base.dtype, *argument.block_shape
        else:
            traits.append(None)
        values.append(value)
    return traits, values
