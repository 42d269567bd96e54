"""Rows and counts of several processes, brought together. Without `torch.distributed` each function is the identity."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["gather_rows", "num_processes", "of_first_process", "process_index", "sum_over_processes"]


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
    total = tensor.detach().clone()
    if num_processes() > 1:
        dist.all_reduce(total)
    return total


def of_first_process(tensor: Tensor) -> Tensor:
    """The first process's tensor, on all of them; no gradient.

    Args:
        tensor: any shape, the same on every process.

    Returns:
        A new tensor of the same shape.

    Examples:
        >>> of_first_process(torch.tensor([1, 2]))
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

    Examples:
        >>> gather_rows(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """
    if num_processes() == 1:
        return rows
    lengths = [0] * num_processes()
    dist.all_gather_object(lengths, len(rows))
    parts = list(_GatherRows.apply(rows, lengths).split(lengths))  # type: ignore[union-attr]
    if own_first:
        parts.insert(0, parts.pop(process_index()))
    return torch.cat(parts)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, lengths: list[int]) -> Tensor:
        ctx.lengths = lengths
        # all_gather takes equal shapes: pad to the longest.
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.lengths)[process_index()], None
