"""Rows and counts of several processes, brought together. Without `torch.distributed` each function is the identity."""

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
    "broadcast_from_first",
    "check_agreement",
    "gather_objects",
    "gather_rows",
    "max_over_processes",
    "num_processes",
    "process_index",
    "require_same",
    "sum_over_processes",
]


def num_processes() -> int:
    """Processes that train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """This process's rank; 0 without `torch.distributed`."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of one tensor of each process, the same on all of them; no gradient.

    Args:
        tensor: any shape, the same on every process.

    Returns:
        A new tensor of the same shape.

    Examples:
        >>> sum_over_processes(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    return _reduced(tensor, "SUM")


def max_over_processes(tensor: Tensor) -> Tensor:
    """The elementwise largest of one tensor of each process. Otherwise as `sum_over_processes`.

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
    """Processes that share the pairs of one batch. All hold the same rows and make the same calls in the same order.

    Attributes:
        size: number of processes, P.
        rank: this process's number, in [0, P).
    """

    size: int
    rank: int

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of one tensor of each process, the same bits on all of them."""
        ...

    def max(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum of one tensor of each process."""
        ...


class SingleProcess:
    """The process group of one process."""

    size, rank = 1, 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor


class WorldGroup:
    """All processes of `torch.distributed`, as a `ProcessGroup`.

    Attributes:
        size: number of processes.
        rank: this process's rank.

    Examples:
        >>> WorldGroup().size
        1
    """

    def __init__(self):
        self.size, self.rank = num_processes(), process_index()

    def sum(self, tensor: Tensor) -> Tensor:
        """`sum_over_processes`."""
        return sum_over_processes(tensor)

    def max(self, tensor: Tensor) -> Tensor:
        """`max_over_processes`."""
        return max_over_processes(tensor)


def require_same(values: Mapping[str, object], cure: str = "") -> None:
    """Raise on every process unless all of them hold the same values.

    Args:
        values: what must be the same, by name; goes through `pickle`.
        cure: a sentence for the end of the message.

    Raises:
        ValueError: on all processes, with the first name whose values differ.

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
    """A module with settings that must be the same on all processes."""

    def agreement(self) -> dict[str, object]:
        """The settings, by name; they go through `pickle`."""
        ...


def check_agreement(module: nn.Module) -> None:
    """Raise on every process unless all hold the same label-distance matrices, to the bit, and the same settings.

    Compares what every part of `module` with a method `agreement` returns: label-distance matrices and losses. Without
    any, nothing is exchanged. Every process calls this. It costs one exchange of some bytes, and a copy of the matrix
    to the CPU.

    Args:
        module: a loss, a miner, a matrix, or a module that contains one.

    Raises:
        ValueError: on all processes, with the first difference.

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
            "Build or load the same loss everywhere, call AdaptiveLDM.update on every process, and put a loss whose "
            "matrix learns into DistributedDataParallel.",
        )


def broadcast_from_first(tensor: Tensor) -> Tensor:
    """The first process's tensor, on all of them; no gradient.

    Args:
        tensor: any shape, the same on every process.

    Returns:
        A new tensor of the same shape.

    Examples:
        >>> broadcast_from_first(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    copy = tensor.detach().clone()
    if num_processes() > 1:
        dist.broadcast(copy, src=0)
    return copy


def gather_rows(rows: Tensor, *, own_first: bool = False) -> Tensor:
    r"""The rows of all processes, each process's part in the order of its rank. Gradients flow back to their owners.

    The gradient that reaches a row is the sum of what *every* process's loss says about it: if each process computes
    its share $L_r$ of $L = \sum_r L_r$, each row receives $\partial L / \partial h_i$.

    Args:
        rows: `(B, ...)`; `B` may differ from process to process.
        own_first: put the own part before the others', the order of pytorch-metric-learning's wrappers.

    Returns:
        `(sum of B, ...)`.

    Raises:
        ValueError: on all processes, if they have rows of different shapes or types.

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
    """The value of each process, by rank; every process calls this, with anything that pickles.

    Examples:
        >>> gather_objects("of the only process")
        ['of the only process']
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
        # all_gather takes equal shapes: pad to the longest.
        padded = _padded(rows.detach(), max(lengths))
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        # Each process receives the sum of its own rows' gradients only: half of the bytes of a sum of all.
        parts = [_padded(part, max(ctx.lengths)) for part in gradients[0].split(ctx.lengths)]
        own = torch.empty_like(parts[0])
        dist.reduce_scatter(own, parts)
        return own[: ctx.lengths[process_index()]], None


def _padded(rows: Tensor, length: int) -> Tensor:
    """A copy with rows of zeros behind, `length` in all."""
    return pad(rows, (0, 0) * (rows.ndim - 1) + (0, length - len(rows))).contiguous()
