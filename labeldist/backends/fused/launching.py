"""What all launches share: precisions, tilings by kernel and width, sizes of grids."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake
from triton.tools.tensor_descriptor import TensorDescriptor

from labeldist.backends.fused import _kernels_tiles
from labeldist.backends.fused._kernels_rows import SIZES

__all__ = [
    "MAX_NARROW_WIDTH",
    "PRECISIONS",
    "ROW_ALIGNMENT",
    "TILINGS",
    "WIDE",
    "Precision",
    "Tiling",
    "define_operator",
    "divide_up",
    "is_wide",
    "launch",
    "num_multiprocessors",
    "num_splits",
    "padded_rows",
    "padded_width",
    "product_dtype",
    "product_mode",
    "refuse_second_derivative",
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

# Dtype of rows in products inside kernels, and how `tl.dot` multiplies float32 ones.
PRODUCTS: dict[str, tuple[torch.dtype, str]] = {
    "bf16": (torch.bfloat16, "tf32"),
    "fp16": (torch.float16, "tf32"),
    "tf32": (torch.float32, "tf32"),
    "float32": (torch.float32, _kernels_tiles.FLOAT32_PRODUCTS),
}


class Tiling(NamedTuple):
    """How a kernel cuts its pairs.

    Attributes:
        block_rows: rows of a tile, a power of two from 16 to `ROW_ALIGNMENT`.
        block_columns: columns of a tile, likewise.
        block_d: dimensions multiplied at a time; all of them, held in fast memory, where there are no more.
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
    ("dense", 2, 256): Tiling(128, 128, 256, 8, 2),
    ("dense", 4, 256): Tiling(128, 128, 32, 8, 3),
    ("mirrored", 2, 128): Tiling(128, 64, 128, 4, 3),
    ("mirrored", 2, 256): Tiling(128, 128, 256, 8, 2),
    ("mirrored", 4, 256): Tiling(128, 64, 32, 4, 3),
    ("gradient", 2, 64): Tiling(128, 64, 64, 4, 2),
    ("gradient", 2, 128): Tiling(128, 64, 128, 4, 2),
    ("gradient", 2, 256): Tiling(128, 64, 256, 8, 2),
    ("gradient", 4, 64): Tiling(64, 64, 64, 4, 2),
    ("gradient", 4, 128): Tiling(64, 32, 128, 4, 2),
    ("gradient", 4, 256): Tiling(64, 32, 256, 8, 2),
    # Of rows wider than the registers. Sums of either kind go by the same blocks of columns.
    ("mirrored sums", 2, WIDE): Tiling(256, 128, 64, 8, 3),
    ("dense sums", 2, WIDE): Tiling(128, 128, 64, 8, 3),
    ("mirrored weights", 2, WIDE): Tiling(256, 128, 64, 8, 3),
    ("dense weights", 2, WIDE): Tiling(128, 128, 64, 8, 4),
    ("tables", 2, WIDE): Tiling(64, 64, 64, 4, 3),
    ("tables", 4, WIDE): Tiling(64, 64, 32, 4, 3),
    ("small", 2, WIDE): Tiling(16, 128, 128, 4, 3),
    ("small", 4, WIDE): Tiling(16, 64, 64, 4, 3),
}

# Rows are padded to a multiple of it, so that no tile of any tiling reads outside.
ROW_ALIGNMENT = 256
# Up to this width the gradient of a tile of rows fits the registers; above it products are the library's.
MAX_NARROW_WIDTH = 256
# Long loops are split until there are about so many programs: a few for each multiprocessor.
NUM_PROGRAMS = 512
# Dimensions at a time in the kernels over rows; wide rows are padded to a multiple of it.
DIMS_AT_ONCE = 64


def product_dtype(precision: Precision) -> torch.dtype:
    """Dtype of rows in products inside kernels."""
    return PRODUCTS[precision][0]


def product_mode(precision: Precision) -> str:
    """`input_precision` of `tl.dot`; it means something for float32 rows alone."""
    return PRODUCTS[precision][1]


def padded_rows(num_rows: int) -> int:
    """Rows of a padded tensor."""
    return round_up(num_rows, ROW_ALIGNMENT)


def is_wide(dim: int) -> bool:
    """Whether products of rows are the library's."""
    return padded_width(dim) > MAX_NARROW_WIDTH


def padded_width(dim: int) -> int:
    """Columns of padded rows: a power of two up to `MAX_NARROW_WIDTH`, a multiple of 64 above."""
    for width in (16, 32, 64, 128, 256):
        if dim <= width <= MAX_NARROW_WIDTH:
            return width
    return round_up(dim, DIMS_AT_ONCE)


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
    if _kernels_tiles.IS_INTERPRETED:
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def tiling_for(kernel: str, size: int, width: int) -> Tiling:
    """The tiling of a kernel for rows of `width` elements of `size` bytes."""
    bound = min(bound for name, bytes_, bound in TILINGS if (name, bytes_) == (kernel, size) and width <= bound)
    return TILINGS[kernel, size, bound]


Argument = Tensor | TensorDescriptor | int | None

# Compiled kernels by what they were compiled for. Triton finds them too, in several times as long as a launch takes,
# and a batch of some thousand rows needs a dozen launches.
_COMPILED: dict[tuple, Any] = {}


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
    if _kernels_tiles.IS_INTERPRETED:
        names = [name for name, value in zip(kernel.arg_names, arguments, strict=False) if isinstance(value, int)]
        assert set(names) <= set(SIZES), f"{sorted(set(names) - set(SIZES))} must be in SIZES"
        kernel[grid](*arguments, **options)
        return
    key = (kernel, torch.cuda.current_device(), *options.values(), *_specialisation(arguments))
    compiled = _COMPILED.get(key)
    if compiled is None:
        _COMPILED[key] = kernel[grid](*arguments, **options)
        return
    constants = [options[name] for name in kernel.arg_names[len(arguments) :]]
    compiled[(*grid, 1, 1)[:3]](*arguments, *constants)


def _specialisation(arguments: tuple[Argument, ...]) -> list[Any]:
    """What Triton compiles another kernel for. Of numbers, which are all in `SIZES`, it is the width alone."""
    found: list[Any] = []
    # One loop, without a call for each: it is run for every launch.
    for argument in arguments:
        if isinstance(argument, int):
            found.append(argument < 2**31)
        elif isinstance(argument, Tensor):
            found += argument.dtype, argument.data_ptr() % 16 == 0
        elif isinstance(argument, TensorDescriptor):
            found += argument.base.dtype, *argument.block_shape
        else:
            found.append(None)
    return found


# Operators are defined here and not with `custom_op`, whose wrapper takes as long as all of a forward pass's launches.
_LIBRARY = Library("labeldist", "FRAGMENT")


def define_operator(schema: str, function: Callable, fake: Callable, backward: Callable, setup: Callable | None = None):
    """Make an operator of the namespace `labeldist`, and return it.

    Args:
        schema: name, arguments and results.
        function: the operator itself; returns new tensors and changes no argument.
        fake: the same arguments to empty results of the same shapes.
        backward: its derivative, as `torch.library.register_autograd` takes it.
        setup: keeps what `backward` needs.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    register_fake(f"labeldist::{name}", fake, lib=_LIBRARY)
    register_autograd(f"labeldist::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return getattr(torch.ops.labeldist, name).default


def refuse_second_derivative(ctx, *grads: Tensor) -> None:
    """The backward of both operators' backward."""
    raise RuntimeError("The triton loss can be differentiated once, got a second derivative. Take that from eager.")
