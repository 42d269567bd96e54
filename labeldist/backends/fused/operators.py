"""Losses by kernels as differentiable calls: a plain function of autograd, and the same as an operator of torch.

What runs takes the first, what records (`torch.compile`, fake tensors) the second. An operator's way through the
dispatcher, with every tensor that the backward needs as a result, takes the host half a millisecond a step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.library import Library, register_autograd, register_fake
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from labeldist.distributed import ProcessGroup

__all__ = ["LossOperator", "define_loss"]

_LIBRARY = Library("labeldist", "FRAGMENT")


class LossOperator(NamedTuple):
    """A loss `(B,)` of each anchor, validity `(B,)`, and a gradient of the losses.

    Attributes:
        operator: the operator `inputs -> (losses, is_valid, *saved)`.
        backward_operator: the operator `(upstream, saved, *inputs, needed) -> gradients`.
        forward: what `operator` does, called with `group` besides.
        backward: what `backward_operator` does, called with `group` besides.
        num_tensors: the inputs before it are tensors or `None`, the others are not.
        places: of the inputs that have gradients.
    """

    operator: Callable
    backward_operator: Callable
    forward: Callable
    backward: Callable
    num_tensors: int
    places: tuple[int, ...]

    def __call__(self, *inputs, group: ProcessGroup | None = None) -> tuple[Tensor, Tensor]:
        """Losses and validity. With a group, which no operator can take, a graph of `torch.compile` breaks here."""
        if group is None and _is_recorded(inputs[0]):
            losses, is_valid, *_ = self.operator(*inputs)
            return losses, is_valid
        apply = torch.compiler.disable(_Losses.apply) if torch.compiler.is_compiling() else _Losses.apply
        return apply(*inputs, self, group)  # pyright: ignore[reportReturnType, reportCallIssue]

    def keep(self, ctx, inputs: tuple, saved: list[Tensor]) -> None:
        """Keep what the backward needs."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[: self.num_tensors], *saved)
        ctx.options = inputs[self.num_tensors :]

    def gradients(self, ctx, upstream: Tensor | None, backward: Callable, *extra) -> list[Tensor | None]:
        """Gradients of all inputs, by the function or the operator `backward`."""
        found: list[Tensor | None] = [None] * (self.num_tensors + len(ctx.options))
        if upstream is None:
            return found
        # Once: checkpointing computes them again for the first look, and refuses a second.
        kept = ctx.saved_tensors
        inputs, saved = kept[: self.num_tensors], kept[self.num_tensors :]
        needed = [ctx.needs_input_grad[place] for place in self.places]
        gradients = backward(upstream, list(saved), *inputs, *ctx.options, needed, *extra)
        for place, is_needed, gradient in zip(self.places, needed, gradients, strict=True):
            found[place] = gradient if is_needed else None
        return found


def define_loss(
    name: str,
    inputs: str,
    *,
    num_results: int,
    places: tuple[int, ...],
    forward: Callable,
    fake_forward: Callable,
    backward: Callable,
    fake_backward: Callable,
) -> LossOperator:
    """Make the operators `labeldist::name` and `labeldist::name_backward`.

    Args:
        name: of the forward operator.
        inputs: their types and names, as in a schema: tensors first.
        num_results: how many tensors `forward` returns at most.
        places: of the inputs that have gradients.
        forward: `(*inputs, group=None)` to losses, validity, and tensors that the backward needs. All are new.
        fake_forward: `inputs` to empty results of the same shapes.
        backward: `(upstream, saved, *inputs, needed, group=None)` to a gradient for each of `places`, or `None`.
        fake_backward: the same arguments without a group to empty results of the same shapes.
    """

    # An operator has as many results as its schema says.
    def results_of(function: Callable, number: int) -> Callable:
        def results(*inputs) -> tuple[Tensor, ...]:
            found = tuple(function(*inputs))
            found += (None,) * (number - len(found))
            return tuple(inputs[0].new_empty(0) if tensor is None else tensor for tensor in found)

        return results

    num_tensors = sum(kind.split()[0] in ("Tensor", "Tensor?") for kind in inputs.split(","))
    backward_operator = _define(
        f"{name}_backward(Tensor upstream, Tensor[] saved, {inputs}, bool[] needed) -> {_tensors(len(places))}",
        results_of(backward, len(places)),
        results_of(fake_backward, len(places)),
        _refuse_second_derivative,
    )

    def setup(ctx, inputs, output) -> None:
        _, *others = output
        ctx.mark_non_differentiable(*others)
        loss.keep(ctx, inputs, others[1:])

    def differentiate(ctx, upstream, *_):
        return tuple(loss.gradients(ctx, upstream, backward_operator))

    operator = _define(
        f"{name}({inputs}) -> {_tensors(num_results)}",
        results_of(forward, num_results),
        results_of(fake_forward, num_results),
        differentiate,
        setup,
    )
    loss = LossOperator(operator, backward_operator, forward, backward, num_tensors, places)
    return loss


def _tensors(number: int) -> str:
    return f"({', '.join(['Tensor'] * number)})"


def _define(schema: str, function: Callable, fake: Callable, backward: Callable, setup: Callable | None = None):
    # Not by `custom_op`, whose wrapper takes as long as all of a forward pass's launches.
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    register_fake(f"labeldist::{name}", fake, lib=_LIBRARY)
    register_autograd(f"labeldist::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return getattr(torch.ops.labeldist, name).default


def _is_recorded(rows: Tensor) -> bool:
    """Whether a call is only looked at now, or is run by something that wants to see operators."""
    return torch.compiler.is_compiling() or type(rows) not in (Tensor, nn.Parameter) or is_in_torch_dispatch_mode()


class _Losses(Function):
    @staticmethod
    def forward(ctx, *arguments: Any):
        *inputs, loss, group = arguments
        losses, is_valid, *saved = loss.forward(*inputs, group=group)
        ctx.mark_non_differentiable(is_valid)
        loss.keep(ctx, inputs, saved)
        ctx.loss, ctx.group = loss, group
        return losses, is_valid

    @staticmethod
    def backward(ctx, upstream, _):  # pyright: ignore[reportIncompatibleMethodOverride] # torch leaves it open
        # Only a gradient that may be differentiated again needs something that says why it cannot be.
        backward = _Gradient.apply if torch.is_grad_enabled() else _run_backward
        return *ctx.loss.gradients(ctx, upstream, backward, ctx.loss, ctx.group), None, None


def _run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    *inputs, loss, group = arguments
    return tuple(loss.backward(*inputs, group=group))


class _Gradient(Function):
    @staticmethod
    def forward(ctx, upstream, saved, *arguments: Any):
        return _run_backward(upstream, saved, *arguments)

    @staticmethod
    def backward(ctx, *grads):
        _refuse_second_derivative(ctx, *grads)


def _refuse_second_derivative(ctx, *grads: Tensor) -> None:
    raise RuntimeError("The triton loss can be differentiated once, got a second derivative. Take that from eager.")
