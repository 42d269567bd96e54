"""Weights of a loss on several processes: `DistributedDataParallel` looks after those of the model alone."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from labeldist.distributed import broadcast, num_processes, sum_over_processes


def learned_weights(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Name and value of each weight of a loss that takes a gradient.

    Examples:
        >>> learned_weights(nn.CrossEntropyLoss())
        []
    """
    return [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]


def call_with_mean_gradients(module: nn.Module, *inputs: Any) -> Tensor:
    """Call a module whose weights then get the mean of the gradients of all processes.

    `DistributedDataParallel` does this for the model, and the loss is no part of the model. Every process makes the
    same calls in the same order.

    Args:
        module: a loss or a classifier.
        *inputs: of the module.

    Returns:
        What the module returns, a tensor.
    """
    weights = learned_weights(module) if num_processes() > 1 and torch.is_grad_enabled() else []
    if not weights:
        return module(*inputs)
    names, values = zip(*weights, strict=True)
    stand_ins: tuple[Tensor, ...] = _MeanGradients.apply(*values)  # type: ignore[assignment]
    result = torch.func.functional_call(module, dict(zip(names, stand_ins, strict=True)), inputs)
    # A batch that does not use a weight takes part in the exchange as well: the other processes wait for it.
    return result + sum(weight.flatten()[:0].sum() for weight in stand_ins).to(result.dtype)  # type: ignore[union-attr]


class _MeanGradients(torch.autograd.Function):
    """The same tensors, whose gradients are averaged over the processes, all in one place: in the same order."""

    @staticmethod
    def forward(ctx, *weights: Tensor) -> tuple[Tensor, ...]:
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(sum_over_processes(gradient) / num_processes() for gradient in gradients)


def weights_from_main(weights: Iterable[nn.Parameter]) -> None:
    """Give all processes the main process's weights."""
    with torch.no_grad():
        for weight in weights:
            weight.copy_(broadcast(weight))
