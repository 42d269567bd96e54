"""Collective operations and process groups. Without `torch.distributed`, each operation returns its input."""

import zlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

__all__ = [
    "ProcessGroup",
    "SingleProcess",
    "WorldGroup",
    "broadcast",
    "check_agreement",
    "checksum",
    "gather_objects",
    "gather_rows",
    "max_over_processes",
    "num_processes",
    "process_index",
    "require_same",
    "sum_over_processes",
]


def num_processes() -> int:
    """Number of processes (the world size); 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """The rank of this process; 0 without `torch.distributed`."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, without gradient. Every process gets the result.

    Args:
        tensor: this process's term, of any shape that is the same on every process.

    Returns:
        A new tensor of the same shape.

    Examples:
        >>> sum_over_processes(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    return _reduced(tensor, "SUM")


def max_over_processes(tensor: Tensor) -> Tensor:
    """Elementwise maximum of a tensor over all processes, without gradient. Arguments as in `sum_over_processes`.

    Examples:
        >>> max_over_processes(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    return _reduced(tensor, "MAX")


def _reduced(tensor: Tensor, operation: str) -> Tensor:
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    if num_processes() > 1:
        dist.all_reduce(result, op=getattr(dist.ReduceOp, operation))
    return result


class ProcessGroup(Protocol):
    """Protocol of a group of processes that divide the pairs of a batch among themselves.

    All processes of the group hold the same rows and make the same calls in the same order. `WorldGroup` implements the
    protocol for `torch.distributed`, `SingleProcess` for one process.

    Attributes:
        size: number of processes, P.
        rank: index of this process, in [0, P).
    """

    size: int
    rank: int

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the group. All processes get bitwise the same result."""
        ...

    def max(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum of a tensor over the group."""
        ...


class SingleProcess:
    """The `ProcessGroup` of a single process: `size` is 1, `rank` is 0.

    Examples:
        >>> SingleProcess().sum(torch.tensor([1, 2]))
        tensor([1, 2])
    """

    size, rank = 1, 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor


class WorldGroup:
    """The `ProcessGroup` of all processes of `torch.distributed`.

    Attributes:
        size: the world size.
        rank: the rank of this process.

    Examples:
        >>> WorldGroup().size
        1
    """

    def __init__(self):
        self.size, self.rank = num_processes(), process_index()

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, see `sum_over_processes`."""
        return sum_over_processes(tensor)

    def max(self, tensor: Tensor) -> Tensor:
        """Maximum over all processes, see `max_over_processes`."""
        return max_over_processes(tensor)


def require_same(values: Mapping[str, object], cure: str = "") -> None:
    """Raise an error on every process unless all processes pass equal values.

    Args:
        values: the values to compare, by name; they must be picklable.
        cure: a sentence that says how to fix the error, appended to the message.

    Raises:
        ValueError: on all processes, for the first name whose values differ.

    Examples:
        >>> require_same({"temperature": 0.1})
    """
    found = gather_objects(dict(values))
    for rank, others in enumerate(found):
        for name, value in found[0].items():
            if others.get(name) != value:
                raise ValueError(
                    f"All processes must have the same {name}, got {value} on process 0 and {others.get(name)} on "
                    f"process {rank}. {cure}".rstrip()
                )


@runtime_checkable
class Agreeing(Protocol):
    """Protocol of a module with settings that must be equal on all processes."""

    def agreement(self) -> dict[str, object]:
        """The settings, by name; the values must be picklable."""
        ...


def check_agreement(module: nn.Module) -> None:
    """Raise an error on every process unless all have equal settings and bitwise equal label-distance matrices.

    Compares the results of `agreement()` of all submodules that have this method: label-distance matrices and losses.
    Every process must call this function. It copies the matrix to the CPU and exchanges a few bytes; if no submodule
    has the method, it exchanges nothing.

    Args:
        module: a loss, a miner, a matrix, or a module that contains one.

    Raises:
        ValueError: on all processes, for the first difference.

    Examples:
        >>> from labeldist import StaticLDM
        >>> check_agreement(StaticLDM.uniform(num_classes=2))
    """
    if num_processes() == 1:
        return
    found: dict[str, list[object]] = {}
    for part in module.modules():
        if isinstance(part, Agreeing):
            for name, value in part.agreement().items():
                found.setdefault(name, []).append(value)
    if found:
        values = {name: entries[0] if len(entries) == 1 else entries for name, entries in found.items()}
        require_same(
            values,
            "Build or load the same loss on every process, call AdaptiveLDM.update on every process, and put a loss "
            "with a learned matrix into DistributedDataParallel.",
        )


def checksum(tensor: Tensor) -> str:
    """A checksum of the entries of a tensor, to compare them between processes without exchanging them.

    Examples:
        >>> checksum(torch.zeros(2)) == checksum(torch.zeros(2)), checksum(torch.zeros(2)) == checksum(torch.ones(2))
        (True, False)
    """
    entries = tensor.detach().cpu().contiguous().view(torch.uint8)  # numpy has no bfloat16
    return f"{zlib.crc32(entries.numpy().tobytes()):08x}"


def broadcast(tensor: Tensor) -> Tensor:
    """Broadcast the tensor of rank 0 to all processes, without gradient.

    Args:
        tensor: of any shape that is the same on every process. Only the values of rank 0 are used.

    Returns:
        A new tensor of the same shape.

    Examples:
        >>> broadcast(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    copy = tensor.detach().clone()
    if num_processes() > 1:
        dist.broadcast(copy, src=0)
    return copy


def gather_rows(rows: Tensor, *, own_first: bool = False) -> Tensor:
    r"""Gather the rows of all processes, ordered by rank, with gradients.

    In the backward pass the gradient of a row is summed over *all* processes and returned to the process that passed
    the
    row: if each process computes a term $L_r$ of $L = \sum_r L_r$, the row $h_i$ receives $\partial L / \partial h_i$.

    Args:
        rows: `(B, ...)`; `B` may differ between processes.
        own_first: put this process's rows first, as pytorch-metric-learning's wrappers do.

    Returns:
        `(sum of B, ...)`.

    Raises:
        ValueError: on all processes, if the shapes or dtypes of their rows differ.

    Examples:
        >>> gather_rows(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """
    if num_processes() == 1:
        return rows
    found = gather_objects((len(rows), tuple(rows.shape[1:]), str(rows.dtype)))
    lengths = [length for length, *_ in found]
    for rank, (_, *kind) in enumerate(found):
        if kind != list(found[0][1:]):
            raise ValueError(
                f"All processes must gather rows of one shape and type, got {found[0][1:]} on process 0 and "
                f"{tuple(kind)} on process {rank}."
            )
    gathered: Tensor = _GatherRows.apply(rows, lengths)  # type: ignore[assignment]
    if not own_first:
        return gathered
    parts = list(gathered.split(lengths))
    parts.insert(0, parts.pop(process_index()))
    return torch.cat(parts)


def gather_objects(value: Any) -> list[Any]:
    """Gather a picklable value from each process, ordered by rank. Every process must call this function.

    Examples:
        >>> gather_objects("value of rank 0")
        ['value of rank 0']
    """
    if num_processes() == 1:
        return [value]
    values = [None] * num_processes()
    dist.all_gather_object(values, value)
    return values


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, lengths: list[int]) -> Tensor:
        ctx.lengths = lengths
        # all_gather needs equal shapes: pad to the longest.
        padded = _padded(rows.detach(), max(lengths))
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        # Each process receives only the summed gradients of its own rows: half of the traffic of an all_reduce.
        parts = [_padded(part, max(ctx.lengths)) for part in gradients[0].split(ctx.lengths)]
        own = torch.empty_like(parts[0])
        dist.reduce_scatter(own, parts)
        return own[: ctx.lengths[process_index()]], None


def _padded(rows: Tensor, length: int) -> Tensor:
    """Copy the rows and append rows of zeros up to `length` rows."""
    return pad(rows, (0, 0) * (rows.ndim - 1) + (0, length - len(rows))).contiguous()
