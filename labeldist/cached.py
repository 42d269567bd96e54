r"""Large contrastive batches in little memory, by caching the gradient of the embeddings (GradCache).

Gradient accumulation does not work for a contrastive loss, because each row is compared with every other row of the
batch. Most of the memory is used by the activations of the encoder, not by the embeddings. So the batch is encoded in
chunks without a graph, the loss of all rows gives the gradient of the embeddings, and each chunk is encoded again, with
a graph, to propagate its rows' gradient to the parameters (Gao et al. 2021).
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

# Largest allowed difference between both encodings, relative to the norm of the rows: it allows for kernels that round
# differently, but not for a different dropout mask. The second limit is in units of the dtype's machine epsilon; the
# larger of the two applies.
REPLAY_TOLERANCE = 0.01
REPLAY_ROUNDINGS = 8

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class CachedGradients:
    r"""Encode a large batch in chunks, with the memory of one chunk. Call it instead of the model.

    With rows $h_i = f_\theta(x_i)$ and chunks $K$ of the batch,
    $\frac{dL}{d\theta} = \sum_K \sum_{i \in K} \frac{\partial L}{\partial h_i} \frac{\partial h_i}{\partial \theta}$.
    The call encodes the chunks one after the other without a graph and returns the rows of the whole batch, for any
    loss. The backward pass encodes each chunk again and adds the chunk's term of the sum to the gradients of the
    parameters. Memory holds the activations of one chunk, the outputs of all rows, and whatever the loss needs. The
    price is a second forward pass.

    The parameters receive the gradient of the whole batch, which is added to `.grad` as usual. The second encoding
    repeats the random numbers (dropout) and the autocast settings of the first; afterwards the random state is as after
    a single pass. With gradients disabled, each chunk is encoded once.

    Under `DistributedDataParallel` the gradients are synchronized once, with the last chunk. Processes may have
    different numbers of rows, but each needs at least one. Use a `DistributedLossWrapper` to compare the rows of all
    processes.

    Other side effects of a forward pass, such as updates of counters and buffers, happen twice. BatchNorm in training
    mode raises an error, because it would normalize over a chunk instead of the batch.

    Args:
        model: the encoder; with several processes, wrapped in `DistributedDataParallel`.
        chunk_size: rows that are encoded together, >= 1.
        views: number of dropout views of each row, >= 1, each computed in a separate pass. A batch of M rows gives
            `views * M` rows: all rows of the first view, then all rows of the second, and so on. Repeat the labels with
            `labels.repeat(views)`.
        encode: called as `encode(model, ...)` instead of `model(...)`, to prepare inputs or select outputs.
        validate: check that the second encoding gives the same rows as the first; on a GPU this synchronizes with the
            device once per chunk.

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
            *inputs: inputs of the model for M rows. Tensors `(M, ...)` and lists of M items (texts) are split into
                chunks, also inside tuples and mappings; every chunk receives all other inputs unchanged. A tensor that
                requires a gradient must be a leaf.
            **named_inputs: keyword arguments of the model, treated alike, as in `encoder(**tokenized)`.

        Returns:
            The output of the model, a tensor or a tuple or mapping of tensors, with `views * M` rows.

        Raises:
            ValueError: if there are no rows, the inputs have different numbers of rows, an output does not have one row
                per input row, or the model has BatchNorm in training mode.
            TypeError: if the model returns anything but tensors.
            RuntimeError: in the backward pass, if the second encoding gives different rows.
        """
        if torch.compiler.is_compiling():
            # The compiler cannot trace the forward passes inside backward. The model itself may be compiled.
            return torch.compiler.disable(_rows_of)(self, inputs, named_inputs)  # pyright: ignore[reportCallIssue]
        return _rows_of(self, inputs, named_inputs)


def _rows_of(cached: CachedGradients, inputs: tuple, named_inputs: dict[str, Any]) -> Any:
    _refuse_batch_norm(cached.model)
    chunks = _chunks(_num_rows((inputs, named_inputs)), cached.chunk_size, cached.views)
    batch = _Batch(cached, inputs, named_inputs, chunks)
    # Autograd only calls backward if an argument requires a gradient, and the parameters are not arguments.
    trigger = torch.zeros((), requires_grad=torch.is_grad_enabled())
    rows = _Encode.apply(trigger, batch)
    return batch.rebuild(rows)


class _Chunk(NamedTuple):
    """Rows that are encoded together, and the slice of the output that they fill."""

    rows: slice
    places: slice


def _chunks(num_rows: int, size: int, views: int) -> list[_Chunk]:
    """All chunks of the first view, then all chunks of the second, and so on."""
    rows = [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
    return [
        _Chunk(part, slice(view * num_rows + part.start, view * num_rows + part.stop))
        for view in range(views)
        for part in rows
    ]


class _Encode(torch.autograd.Function):
    """Encode a batch; the backward pass encodes it again."""

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
    """The inputs of one call, and the random states and autocast settings that the second encoding must repeat."""

    def __init__(self, cached: CachedGradients, inputs: tuple, named_inputs: dict[str, Any], chunks: list[_Chunk]):
        self.model, self.function, self.validate = cached.model, cached.encode, cached.validate
        self.inputs, self.named_inputs = inputs, named_inputs
        self.chunks = chunks
        self.devices = {parameter.device for parameter in self.model.parameters()}
        self.random: list[_RandomState] = []
        self.autocast = _autocast_settings(self.devices)

    def encode(self, *, is_recorded: bool) -> tuple[Tensor, ...]:
        """Encode all chunks without a graph; with `is_recorded`, save the random states for the second encoding."""
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
        """Encode each chunk again and propagate the gradient of its rows to the parameters."""
        current = _RandomState(self.devices)
        try:
            for number, (chunk, random) in enumerate(zip(self.chunks, self.random, strict=True), start=1):
                random.restore()
                with ExitStack() as synchronization:
                    if number < len(self.chunks):
                        _disable_synchronization(self.model, synchronization)
                    with ExitStack() as autocast:
                        for settings in self.autocast:
                            autocast.enter_context(torch.autocast(**settings))
                        outputs = self._encoded(chunk)
                    if self.validate:
                        _check_replayed(outputs, [row[chunk.places] for row in rows])
                    differentiable = [
                        (output, gradient[chunk.places])
                        for output, gradient in zip(outputs.tensors, gradients, strict=True)
                        if output.requires_grad and gradient is not None
                    ]
                    if differentiable:
                        tensors, parts = zip(*differentiable, strict=True)
                        torch.autograd.backward(tensors, parts)
        finally:
            current.restore()

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
    """The rows of a chunk, for one input."""
    if _has_rows(value):
        return value[rows]
    if isinstance(value, tuple):
        return tuple(_cut(part, rows) for part in value)
    if isinstance(value, Mapping):
        return {name: _cut(part, rows) for name, part in value.items()}
    return value


def _with_rows(value: Any) -> Iterator[Any]:
    """The parts of an input that are split into chunks."""
    if _has_rows(value):
        yield value
    elif isinstance(value, tuple | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _with_rows(part)


def _num_rows(inputs: Any) -> int:
    """The number of rows M; raises `ValueError` if it is 0, if inputs disagree about it, or if an input has a graph."""
    parts = list(_with_rows(inputs))
    lengths = [len(part) for part in parts]
    if not any(lengths):
        raise ValueError("inputs must have at least one row, got none. Skip empty batches, on all processes.")
    if len(set(lengths)) > 1:
        raise ValueError(f"all tensors and lists of inputs must have the same number of rows, got {lengths}.")
    if any(isinstance(part, Tensor) and part.requires_grad and not part.is_leaf for part in parts):
        raise ValueError(
            "inputs must not depend on parameters, got a tensor with a graph. Move the computation of this tensor into "
            "the model or into encode."
        )
    return lengths[0]


class _Outputs(NamedTuple):
    """The output of a model as a flat list, with a function that restores the original structure."""

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
    """Raise unless all outputs of a chunk are tensors with one row per input row."""
    for name, output in zip(outputs.names, outputs.tensors, strict=True):
        if not isinstance(output, Tensor):
            raise TypeError(
                f"The model must return tensors, its output {name!r} is {type(output).__name__}. Use encode "
                "to select the outputs that the loss needs."
            )
        if output.shape[:1] != (num_rows,):
            raise ValueError(
                f"The model must return one row for each of a chunk's {num_rows} rows, its output {name!r} has shape "
                f"{tuple(output.shape)}. Use encode to select outputs, and views instead of repeated inputs."
            )


def _check_alike(first: _Outputs, other: _Outputs) -> None:
    """Raise unless the outputs of two chunks can be concatenated."""
    shapes = [
        {name: (*output.shape[1:],) for name, output in zip(outputs.names, outputs.tensors, strict=True)}
        for outputs in (first, other)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The model must return rows of the same shape for every chunk, got {shapes[0]} and {shapes[1]}. Pool over "
            "tokens, or use encode to select outputs."
        )


def _check_replayed(outputs: _Outputs, rows: list[Tensor]) -> None:
    """Raise unless the second encoding gives the same rows as the first."""
    for name, second, first in zip(outputs.names, outputs.tensors, rows, strict=True):
        if not first.is_floating_point() or not can_read_values(first):
            continue
        tolerance = max(REPLAY_TOLERANCE, REPLAY_ROUNDINGS * torch.finfo(first.dtype).eps)
        first, second = at_least_float32(first), at_least_float32(second.detach())
        # A comparison with NaN is false: a NaN of the first encoding is reported by the loss, not here.
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


def _disable_synchronization(model: nn.Module, contexts: ExitStack) -> None:
    """Disable the gradient synchronization of `DistributedDataParallel` while `contexts` is open."""
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            contexts.enter_context(module.no_sync())


class _RandomState:
    """The states of the random number generators of the CPU and of other devices."""

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
    """Arguments of `torch.autocast` that reproduce the current autocast settings."""
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
