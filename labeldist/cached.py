r"""Large contrastive batches in little memory: the gradient is cached at the embeddings.

A contrastive loss cannot be accumulated over small batches, because each row is compared with every other. Most of the
memory holds the activations of the encoder; the embeddings are small. So the batch is first encoded in chunks without a
graph. The loss of all rows gives the gradient of the embeddings. Then each chunk is encoded again with a graph, to
propagate its part of that gradient (Gao et al. 2021).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from labeldist.checks import can_read_values, check_count
from labeldist.precision import at_least_float32

__all__ = ["CachedGradients"]

# The largest difference of a second encoding, relative to the rows' norm: kernels may round differently, dropout masks
# may not differ. In a dtype of low precision it is this many roundings instead.
REPLAY_TOLERANCE = 0.01
REPLAY_ROUNDINGS = 8

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class CachedGradients:
    r"""Encode a large batch in the memory of a small one: call it instead of the model.

    With rows $h_i = f_\theta(x_i)$ and chunks $K$ of the batch,
    $\frac{dL}{d\theta} = \sum_K \sum_{i \in K} \frac{\partial L}{\partial h_i} \frac{\partial h_i}{\partial \theta}$.
    The call encodes one chunk after the other without a graph and returns the embeddings of the whole batch, for any
    loss. When `backward()` reaches them, each chunk is encoded again, and its term of the sum is added to the gradients
    of the parameters. Memory is needed for the activations of one chunk at a time, the outputs of all rows, and the
    loss. The cost is a second forward pass.

    The second encoding uses the same random numbers (dropout) and autocast settings as the first. Afterwards the random
    state is the same as after one pass. If gradients are disabled, the batch is encoded only once, in chunks.

    Under `DistributedDataParallel` gradients are exchanged once, with the last chunk. Processes may have different
    numbers of rows, but each needs at least one. A `DistributedLossWrapper` compares the rows of all processes.

    Other state that a forward pass changes (a counter, a buffer) changes twice. BatchNorm in training mode raises an
    error, because it would normalize over a chunk, not over the batch.

    Args:
        model: the encoder; with several processes, the `DistributedDataParallel` module that contains it.
        chunk_size: number of rows that are encoded together, >= 1.
        views: dropout views of each row, >= 1, each in a separate pass: a batch of M rows gives `views * M` rows, first
            all rows of the first view, then all rows of the second. Repeat the labels: `labels.repeat(views)`.
        encode: called as `encode(model, ...)` instead of `model(...)`, to prepare inputs and choose outputs.
        validate: check that the second encoding equals the first; on a GPU this synchronizes with the device for each
            chunk.

    Raises:
        TypeError: if `model` is not an `nn.Module`, or `chunk_size` or `views` is not an integer.
        ValueError: if `chunk_size` or `views` is below 1.

    Examples:
        >>> from labeldist import LabelDistanceContrastiveLoss, StaticLDM
        >>> model, loss = nn.Linear(5, 8), LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=3))
        >>> encoder = CachedGradients(model, chunk_size=4)
        >>> embeddings = encoder(torch.randn(10, 5))
        >>> loss(embeddings, torch.arange(10) % 3).backward()
        >>> embeddings.shape, model.weight.grad.shape
        (torch.Size([10, 8]), torch.Size([8, 5]))

    References:
        Gao et al. 2021, *Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup*,
        https://arxiv.org/abs/2101.06983
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        chunk_size: int = 128,
        views: int = 1,
        encode: Callable[..., Any] | None = None,
        validate: bool = True,
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be an nn.Module, got {type(model).__name__}. Pass the module whose parameters learn, and "
                "a function as encode, called as encode(model, ...)."
            )
        check_count("chunk_size", chunk_size)
        check_count("views", views)
        self.model = model
        self.chunk_size = chunk_size
        self.views = views
        self.encode = encode
        self.validate = validate

    def __call__(self, *inputs: Any, **named_inputs: Any) -> Any:
        """Encode the whole batch.

        Args:
            *inputs: inputs of the model, for M rows. Tensors `(M, ...)` and lists of M items (texts) are divided into
                chunks, also inside tuples and mappings; other inputs are passed to every chunk unchanged. A tensor that
                requires a gradient must be a leaf.
            **named_inputs: more inputs by name, as in `encoder(**tokenized)`.

        Returns:
            The output of the model for `views * M` rows, which is a tensor, or a tuple or mapping of tensors.

        Raises:
            ValueError: if there are no rows, inputs or outputs have different numbers of rows, or the model has
                BatchNorm in training mode.
            TypeError: if the model returns anything but tensors.
            RuntimeError: in the backward pass, if the second encoding gives different rows.
        """
        if torch.compiler.is_compiling():
            # A compiler cannot trace a backward pass that runs the model again. The model itself may be compiled.
            return torch.compiler.disable(_rows_of)(self, inputs, named_inputs)  # pyright: ignore[reportCallIssue]
        return _rows_of(self, inputs, named_inputs)


def _rows_of(cached: CachedGradients, inputs: tuple, named_inputs: dict[str, Any]) -> Any:
    _refuse_batch_norm(cached.model)
    chunks = _chunks(_num_rows((inputs, named_inputs)), cached.chunk_size, cached.views)
    batch = _Batch(cached, inputs, named_inputs, chunks)
    # Autograd calls `backward` only if an input requires a gradient, and the parameters are not inputs.
    trigger = torch.zeros((), requires_grad=torch.is_grad_enabled())
    rows = _Encode.apply(trigger, batch)
    return batch.rebuild(rows)


class _Chunk(NamedTuple):
    """Rows that are encoded together, and the positions of their outputs among the rows of all views."""

    rows: slice
    positions: slice


def _chunks(num_rows: int, size: int, views: int) -> list[_Chunk]:
    """Chunks of the first view, then of the second."""
    rows = [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
    return [
        _Chunk(part, slice(view * num_rows + part.start, view * num_rows + part.stop))
        for view in range(views)
        for part in rows
    ]


class _Encode(torch.autograd.Function):
    """Encodes a batch; its backward encodes the batch again."""

    @staticmethod
    def forward(ctx, trigger: Tensor, batch: "_Batch") -> tuple[Tensor, ...]:
        rows = batch.encode(is_recorded=ctx.needs_input_grad[0])
        ctx.batch = batch
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*rows)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None) -> tuple[None, None]:  # type: ignore[override]
        ctx.batch.propagate(gradients, ctx.saved_tensors)
        return None, None


class _Batch:
    """One call's inputs, with the random state and the settings that the second encoding has to repeat."""

    def __init__(self, cached: CachedGradients, inputs: tuple, named_inputs: dict[str, Any], chunks: list[_Chunk]):
        self.model, self.function, self.validate = cached.model, cached.encode, cached.validate
        self.inputs, self.named_inputs = inputs, named_inputs
        self.chunks = chunks
        self.devices = {parameter.device for parameter in self.model.parameters()}
        self.random: list[_RandomState] = []
        self.autocast = _autocast_settings(self.devices)

    def encode(self, *, is_recorded: bool) -> tuple[Tensor, ...]:
        """The rows of all chunks, without a graph; if recorded, they can be encoded again."""
        parts = []
        for chunk in self.chunks:
            if is_recorded:
                self.random.append(_RandomState(self.devices))
            parts.append(self._encoded(chunk))
            _check_alike(parts[0], parts[-1])
        self.rebuild = parts[0].rebuild
        return tuple(torch.cat(rows) for rows in zip(*(part.tensors for part in parts), strict=True))

    @torch.enable_grad()
    def propagate(self, gradients: tuple[Tensor | None, ...], rows: tuple[Tensor, ...]) -> None:
        """Encode each chunk again and propagate its part of the rows' gradients to the parameters."""
        now = _RandomState(self.devices)
        try:
            for number, (chunk, random) in enumerate(zip(self.chunks, self.random, strict=True), start=1):
                random.restore()
                with ExitStack() as until_backward:
                    if number < len(self.chunks):
                        _skip_synchronization(self.model, until_backward)
                    with ExitStack() as as_before:
                        for settings in self.autocast:
                            as_before.enter_context(torch.autocast(**settings))
                        outputs = self._encoded(chunk)
                    if self.validate:
                        _check_replayed(outputs, [row[chunk.positions] for row in rows])
                    learning = [
                        (output, gradient[chunk.positions])
                        for output, gradient in zip(outputs.tensors, gradients, strict=True)
                        if output.requires_grad and gradient is not None
                    ]
                    if learning:
                        tensors, parts = zip(*learning, strict=True)
                        torch.autograd.backward(tensors, parts)
        finally:
            now.restore()

    def _encoded(self, chunk: _Chunk) -> "_Outputs":
        inputs = [_cut(value, chunk.rows) for value in self.inputs]
        named_inputs = {name: _cut(value, chunk.rows) for name, value in self.named_inputs.items()}
        if self.function is None:
            outputs = _flat(self.model(*inputs, **named_inputs))
        else:
            outputs = _flat(self.function(self.model, *inputs, **named_inputs))
        _check_rows(outputs, chunk.rows.stop - chunk.rows.start)
        return outputs


def _has_rows(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0)


def _cut(value: Any, rows: slice) -> Any:
    """The chunk's rows of an input."""
    if _has_rows(value):
        return value[rows]
    if isinstance(value, tuple):
        return tuple(_cut(part, rows) for part in value)
    if isinstance(value, Mapping):
        return {name: _cut(part, rows) for name, part in value.items()}
    return value


def _with_rows(value: Any) -> Iterator[Any]:
    """The parts of an input that are cut into chunks."""
    if _has_rows(value):
        yield value
    elif isinstance(value, tuple | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _with_rows(part)


def _num_rows(inputs: Any) -> int:
    """`M`; raises if inputs have no rows, different numbers of rows, or a graph."""
    parts = list(_with_rows(inputs))
    lengths = [len(part) for part in parts]
    if not any(lengths):
        raise ValueError("inputs must have at least one row, got none. Skip empty batches, on all processes alike.")
    if len(set(lengths)) > 1:
        raise ValueError(f"all tensors and lists of inputs must have the same number of rows, got {lengths}.")
    if any(isinstance(part, Tensor) and part.requires_grad and not part.is_leaf for part in parts):
        raise ValueError(
            "inputs must not depend on parameters, got a tensor with a graph. Compute that tensor inside the model, "
            "or in encode."
        )
    return lengths[0]


class _Outputs(NamedTuple):
    """What a model returned, as a list, and a function that restores its structure."""

    names: list[Any]
    tensors: list[Tensor]
    rebuild: Callable[[tuple[Tensor, ...]], Any]


def _flat(outputs: Any) -> _Outputs:
    kind = type(outputs)
    if isinstance(outputs, Mapping):
        names = [name for name, value in outputs.items() if value is not None]
        return _Outputs(
            names, [outputs[name] for name in names], lambda rows: kind(**dict(zip(names, rows, strict=True)))
        )
    if isinstance(outputs, tuple):
        return _Outputs(list(range(len(outputs))), list(outputs), getattr(kind, "_make", tuple))
    return _Outputs([0], [outputs], lambda rows: rows[0])


def _check_rows(outputs: _Outputs, num_rows: int) -> None:
    """Raise unless a chunk's outputs are tensors with its rows."""
    for name, output in zip(outputs.names, outputs.tensors, strict=True):
        if not isinstance(output, Tensor):
            raise TypeError(
                f"The model must return tensors, its output {name!r} is {type(output).__name__}. Choose with encode "
                "what the loss needs."
            )
        if output.shape[:1] != (num_rows,):
            raise ValueError(
                f"The model must return one row for each of a chunk's {num_rows} rows, its output {name!r} has shape "
                f"{tuple(output.shape)}. Choose outputs with encode, and repeat inputs with views only."
            )


def _check_alike(first: _Outputs, other: _Outputs) -> None:
    """Raise unless the outputs of two chunks can be stacked."""
    shapes = [
        {name: (*output.shape[1:],) for name, output in zip(outputs.names, outputs.tensors, strict=True)}
        for outputs in (first, other)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The model must return rows of the same shape for every chunk, got {shapes[0]} and {shapes[1]}. Pool over "
            "tokens, or choose outputs with encode."
        )


def _check_replayed(outputs: _Outputs, rows: list[Tensor]) -> None:
    """Raise unless a second encoding gave the rows of the first."""
    for name, second, first in zip(outputs.names, outputs.tensors, rows, strict=True):
        if not first.is_floating_point() or not can_read_values(first):
            continue
        tolerance = max(REPLAY_TOLERANCE, REPLAY_ROUNDINGS * torch.finfo(first.dtype).eps)
        first, second = at_least_float32(first), at_least_float32(second.detach())
        # NaN compares false: it was in the first rows as well, and the loss shows it.
        if (second - first).norm() > tolerance * first.norm():
            raise RuntimeError(
                f"The second encoding must give the same rows as the first, output {name!r} differs by more than "
                f"{tolerance:.0%}: the gradient would be wrong. Use only torch's own random number generators, do not "
                "change the model's mode or weights between forward and backward, and keep no state that forward reads."
            )


def _refuse_batch_norm(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BATCH_NORMS) and (module.training or module.running_mean is None):
            raise ValueError(
                f"The model must not normalize over the batch, which is encoded in chunks; its layer {name!r} is a "
                f"{type(module).__name__} in training mode. Call eval() on such layers, or use LayerNorm or GroupNorm."
            )


def _skip_synchronization(model: nn.Module, contexts: ExitStack) -> None:
    """Do not exchange gradients between processes while `contexts` is open."""
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            contexts.enter_context(module.no_sync())


class _RandomState:
    """The state of the random number generators of the CPU and of other devices."""

    def __init__(self, devices: set[torch.device]):
        self._cpu = torch.get_rng_state()
        self._others = [
            (device, torch.get_device_module(device).get_rng_state(device))
            for device in devices
            if device.type not in ("cpu", "meta")
        ]

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._others:
            torch.get_device_module(device).set_rng_state(state, device)


def _autocast_settings(devices: set[torch.device]) -> list[dict[str, Any]]:
    """Arguments with which `torch.autocast` restores the settings in effect here."""
    kinds = sorted({"cpu", *(device.type for device in devices if device.type != "meta")})
    return [
        {
            "device_type": kind,
            "dtype": torch.get_autocast_dtype(kind),
            "enabled": torch.is_autocast_enabled(kind),
            "cache_enabled": torch.is_autocast_cache_enabled(),
        }
        for kind in kinds
    ]
