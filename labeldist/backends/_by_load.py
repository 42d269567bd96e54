"""Losses whose both passes use one CPU thread for each free CPU, see `_threads`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function

from labeldist.backends._threads import threads_by_load
from labeldist.functional import AnchorLosses
from labeldist.pairs import Batch, ClassPairTables

__all__ = ["SECOND_DERIVATIVE", "losses_by_load"]

SECOND_DERIVATIVE = (
    "The blockwise loss can be differentiated once, got a second derivative. Use backend='eager' for that."
)

Compute = Callable[[Batch, ClassPairTables], AnchorLosses]


def losses_by_load(compute: Compute, batch: Batch, tables: ClassPairTables) -> AnchorLosses:
    """`compute(batch, tables)`, forward and backward with the number of threads that the load allows.

    Args:
        compute: computes the losses on a CPU; differentiable once.
        batch: anchors and references.
        tables: of the class pairs.
    """
    if torch.is_grad_enabled():
        tensors = batch.embeddings, batch.ref_emb, tables.scale, tables.bias, tables.relevance
        return AnchorLosses(*_LossesByLoad.apply(compute, batch, tables, *tensors))
    with threads_by_load():
        return compute(batch, tables)


class _LossesByLoad(Function):
    """The losses, `(B,)`, and the mask of valid anchors.

    Autograd runs the backward pass of each operation with the caller's number of threads. Beside a busy process, the
    few operations on all rows would then take longer than the tiles. So the forward pass records a graph of its own,
    and the backward pass runs it.
    """

    @staticmethod
    def forward(
        ctx,
        compute: Compute,
        batch: Batch,
        tables: ClassPairTables,
        embeddings: Tensor,
        ref_emb: Tensor | None,
        scale: Tensor,
        bias: Tensor,
        relevance: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        tensors = embeddings, ref_emb, scale, bias, relevance
        needed = ctx.needs_input_grad[3:]
        leaves = [
            None if tensor is None else tensor.detach().requires_grad_(is_needed)
            for tensor, is_needed in zip(tensors, needed, strict=True)
        ]
        batch = batch._replace(embeddings=leaves[0], ref_emb=leaves[1])
        tables = tables._replace(scale=leaves[2], bias=leaves[3], relevance=leaves[4])
        with torch.enable_grad(), threads_by_load():
            losses, is_valid = compute(batch, tables)
        ctx.save_for_backward(*tensors)
        ctx.graph = losses, [leaf for leaf, is_needed in zip(leaves, needed, strict=True) if is_needed]
        ctx.mark_non_differentiable(is_valid)
        return losses.detach(), is_valid

    @staticmethod
    def backward(ctx, grad: Tensor, _):  # pyright: ignore[reportIncompatibleMethodOverride] # torch declares *grads
        found = iter(_GradientByLoad.apply(grad, ctx.graph, *ctx.saved_tensors))
        return None, None, None, *(next(found) if is_needed else None for is_needed in ctx.needs_input_grad[3:])


class _GradientByLoad(Function):
    """The backward pass of `_LossesByLoad`, as a function whose own backward pass raises a clear error."""

    @staticmethod
    def forward(ctx, grad: Tensor, graph: tuple[Tensor, list[Tensor]], *_: Tensor) -> tuple[Tensor, ...]:
        losses, leaves = graph
        with threads_by_load():
            # The caller may want a second pass.
            return torch.autograd.grad(losses, leaves, grad, retain_graph=True, materialize_grads=True)

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(SECOND_DERIVATIVE)
