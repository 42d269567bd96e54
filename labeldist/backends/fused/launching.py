"""Launching kernels with little of the host's time, and one allocation for all that a pass keeps.

A launch of four arguments by Triton's public call, `kernel[grid](...)`, took 17 us of the host's time, the same launch
of the compiled kernel 7 us, and an allocation 4 us (single trials on an H200's host). A batch of a few thousand rows
needs so many of both that they, and not the device, decide how long a step takes: `benchmarks/loss/host.py`.
"""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from labeldist.backends.fused._kernels_common import IS_INTERPRETED, SIZES
from labeldist.backends.fused.tilings import round_up

__all__ = ["Argument", "Slot", "Workspace", "launch", "on_device_of"]

# Versions of Triton whose `CompiledKernel.run` was tested on a GPU. Others are launched by the public call.
TESTED_TRITON = ("3.6",)
HAS_TESTED_TRITON = ".".join(triton.__version__.split(".")[:2]) in TESTED_TRITON

# Bytes: every slot of a workspace starts at a multiple, which is what the widest loads of a GPU need.
SLOT_ALIGNMENT = 128


class Slot(NamedTuple):
    """A tensor within a workspace, as an address: a view of the tensor would take as long to make as a launch."""

    workspace: Tensor
    first_byte: int
    address: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def view(self) -> Tensor:
        """The tensor itself."""
        strides, stride = [], 1
        for size in reversed(self.shape):
            strides.insert(0, stride)
            stride *= size
        return self.workspace.view(self.dtype).as_strided(self.shape, strides, self.first_byte // self.dtype.itemsize)

    def as_type(self, dtype: torch.dtype, shape: tuple[int, ...]) -> "Slot":
        """The same bytes read as another dtype and shape."""
        return self._replace(dtype=dtype, shape=shape)


class Workspace:
    """Slots by name in one tensor.

    Attributes:
        shapes: shape and dtype of each slot, by name.
        num_words: length of the tensor, int32.

    Examples:
        >>> workspace = Workspace(rows=((2, 3), torch.float16), labels=((2,), torch.int32))
        >>> workspace.slots(torch.zeros(workspace.num_words, dtype=torch.int32))[0].view().shape
        torch.Size([2, 3])
    """

    def __init__(self, **shapes: tuple[tuple[int, ...], torch.dtype]):
        self.shapes = shapes
        self._offsets, offset = [], 0
        for shape, dtype in shapes.values():
            self._offsets.append(offset)
            num_bytes = dtype.itemsize
            for size in shape:
                num_bytes *= size
            offset += round_up(num_bytes, SLOT_ALIGNMENT)
        self.num_words = offset // torch.int32.itemsize

    def slots(self, workspace: Tensor) -> list[Slot]:
        """The slots of a tensor that was made for this, in order."""
        base = workspace.data_ptr()
        return [
            Slot(workspace, offset, base + offset, dtype, shape)
            for (shape, dtype), offset in zip(self.shapes.values(), self._offsets, strict=True)
        ]


Argument = Tensor | Slot | TensorDescriptor | int | None

# Compiled kernels and their constants in order, by all that Triton compiles another kernel for.
_COMPILED: dict[tuple, tuple[Any, list[Any]]] = {}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Argument, **options: Any) -> None:
    """Start a kernel, unless its grid is empty.

    Args:
        kernel: a `triton.jit` function; its integer arguments are in `SIZES`.
        grid: number of programs, in up to three dimensions.
        *arguments: what is known at run time.
        **options: the kernel's constants, and `num_warps` and `num_stages`.
    """
    if 0 in grid:
        return
    if IS_INTERPRETED:
        names = [name for name, value in zip(kernel.arg_names, arguments, strict=False) if isinstance(value, int)]
        assert set(names) <= set(SIZES), f"{sorted(set(names) - set(SIZES))} must be in SIZES"
    # Of tested versions: a chain of hooks, which is empty unless a profiler wants to see every launch.
    if not HAS_TESTED_TRITON or IS_INTERPRETED or knobs.runtime.launch_enter_hook.calls:
        _launch_publicly(kernel, grid, arguments, options)
        return
    device = torch.cuda.current_device()
    key, values = _read(arguments)
    key = (kernel, device, *options.values(), *key)
    found = _COMPILED.get(key)
    if found is None:
        compiled = _launch_publicly(kernel, grid, arguments, options)
        _COMPILED[key] = compiled, [options[name] for name in kernel.arg_names[len(arguments) :]]
        return
    compiled, constants = found
    width, height, depth = (*grid, 1, 1)[:3]
    stream = driver.active.get_current_stream(device)  # pyright: ignore[reportAttributeAccessIssue] # of GPU drivers
    compiled.run(
        width, height, depth, stream, compiled.function, compiled.packed_metadata, None, None, None, *values, *constants
    )


def _launch_publicly(kernel: Any, grid: tuple[int, ...], arguments: tuple[Argument, ...], options: dict) -> Any:
    tensors = [argument.view() if isinstance(argument, Slot) else argument for argument in arguments]
    return kernel[grid](*tensors, **options)


def _read(arguments: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """What Triton compiles another kernel for, and the arguments with addresses in place of tensors.

    Integers specialize on their width only (see `SIZES`), tensors on their dtype and on whether their address is a
    multiple of 16. Triton asks the driver about a tensor, not about an address; `anchor_losses` has seen to it that all
    tensors are on the GPU.
    """
    key: list[Any] = []
    values: list[Any] = []
    # One loop without calls: it runs for every launch.
    for argument in arguments:
        kind = type(argument)
        if kind is int:
            key.append(argument < 2**31)
            values.append(argument)
        elif kind is Slot:
            key.append(argument.dtype)
            values.append(argument.address)
        elif argument is None:
            key.append(None)
            values.append(None)
        elif kind is TensorDescriptor:
            key += argument.base.dtype, *argument.block_shape
            values.append(argument)
        else:
            address = argument.data_ptr()
            key += argument.dtype, address % 16 == 0
            values.append(address)
    return key, values


def on_device_of(tensor: Tensor) -> AbstractContextManager:
    """Run on the device of a tensor, without autocast, which would change the dtype of matrix products.

    Entering both contexts takes as long as a launch; where neither changes anything, this enters none.
    """
    device = tensor.device
    contexts: list[AbstractContextManager] = []
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        contexts.append(torch.cuda.device(device))
    if torch.is_autocast_enabled(device.type):
        contexts.append(torch.autocast(device.type, enabled=False))
    if not contexts:
        return nullcontext()
    stack = ExitStack()
    for context in contexts:
        stack.enter_context(context)
    return stack
