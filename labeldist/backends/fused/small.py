"""Small batches as an operator: two launches forward, one backward. Sorting would cost more launches than it saves."""

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_small
from labeldist.backends.fused.launching import (
    Precision,
    define_operator,
    divide_up,
    launch,
    padded_width,
    product_dtype,
    product_mode,
    refuse_second_derivative,
    round_up,
    tiling_for,
)
from labeldist.backends.fused.rows import normalise

__all__ = ["is_small", "small_losses"]

# Most multiply-adds of all pairs: beyond it, a small tile and a look-up for every pair take more time than launches.
MAX_WORK = 2048 * 2048 * 768
# Rows are padded to a multiple of it: of any tile's side.
ALIGNMENT = 128


def is_small(num_rows: int, num_references: int, dim: int) -> bool:
    """Whether a batch is small enough."""
    return num_rows * num_references * dim <= MAX_WORK


def _own_precision(precision: Precision) -> Precision:
    # float16 weights of pairs would want a unit found in a launch of its own: tf32 has as many digits.
    return "tf32" if precision == "fp16" else precision


def _small_losses(anchors, labels, references, ref_labels, scale, bias, precision):
    """Losses `(B,)`, validity `(B,)`, and what the backward needs."""
    with torch.cuda.device_of(anchors), torch.autocast(anchors.device.type, enabled=False):
        results = _empty_results(anchors, references, precision)
        losses, is_valid, lse, counts, own, own_inverse, others, others_inverse = results
        normalise(anchors.contiguous(), own, own_inverse)
        columns, column_labels = own, labels
        if references is not None:
            normalise(references.contiguous(), others, others_inverse)
            columns, column_labels = others, ref_labels
        options = _options(own, precision)
        launch(
            _kernels_small.losses_of_small_batch,
            (divide_up(labels.shape[0], options["BLOCK_ROWS"]),),
            own,
            labels.contiguous(),
            columns,
            column_labels.contiguous(),
            scale.contiguous(),
            bias.contiguous(),
            losses,
            is_valid,
            lse,
            counts,
            labels.shape[0],
            column_labels.shape[0],
            scale.shape[0],
            SELF=references is None,
            **options,
        )
        return results


def _fake_losses(anchors, labels, references, ref_labels, scale, bias, precision):
    return _empty_results(anchors, references, precision)


def _empty_results(anchors: Tensor, references: Tensor | None, precision: Precision) -> tuple[Tensor, ...]:
    # `shape[0]`: `len` would fix the size of a traced tensor.
    num_rows = anchors.shape[0]

    def rows_of(source: Tensor | None) -> tuple[Tensor, Tensor]:
        if source is None:
            return anchors.new_empty(0), anchors.new_empty(0)
        shape = round_up(source.shape[0], ALIGNMENT), padded_width(source.shape[1])
        units = source.new_empty(*shape, dtype=product_dtype(_own_precision(precision)))
        return units, source.new_empty(source.shape[0], dtype=torch.float32)

    return (
        anchors.new_empty(num_rows, dtype=torch.float32),
        anchors.new_empty(num_rows, dtype=torch.bool),
        anchors.new_empty(num_rows, dtype=torch.float32),
        anchors.new_empty(num_rows, dtype=torch.float32),
        *rows_of(anchors),
        *rows_of(references),
    )


def _options(rows: Tensor, precision: Precision) -> dict:
    width = rows.shape[1]
    tiling = tiling_for("small", rows.element_size(), width)
    # Both divide the width: it is a power of two, or a multiple of 64.
    block_d = tiling.block_d if width % tiling.block_d == 0 else min(width, 64)
    return {
        "WIDTH": width,
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLUMNS": tiling.block_columns,
        "BLOCK_D": block_d,
        "PRECISION": product_mode(_own_precision(precision)),
        "num_warps": tiling.num_warps,
        "num_stages": tiling.num_stages,
    }


def _small_losses_backward(upstream, anchors, labels, references, ref_labels, scale, bias, saved, precision, needed):
    with torch.cuda.device_of(anchors), torch.autocast(anchors.device.type, enabled=False):
        lse, counts, own, own_inverse, others, others_inverse = saved
        gradients = _empty_gradients(anchors, references, needed)
        is_self = references is None
        mine = anchors, own_inverse, own, labels
        theirs = mine if is_self else (references, others_inverse, others, ref_labels)
        for role, gradient in enumerate(gradients):
            if not needed[role]:
                continue
            source, inverse, rows, row_labels = mine if role == 0 else theirs
            _, _, columns, column_labels = theirs if role == 0 else mine
            options = _options(rows, precision)
            launch(
                _kernels_small.gradient_of_small_batch,
                (divide_up(source.shape[0], options["BLOCK_ROWS"]), rows.shape[1] // options["BLOCK_D"]),
                source.contiguous(),
                inverse,
                rows,
                row_labels.contiguous(),
                columns,
                column_labels.contiguous(),
                scale.contiguous(),
                bias.contiguous(),
                lse,
                counts,
                upstream.contiguous(),
                gradient,
                source.shape[0],
                column_labels.shape[0],
                scale.shape[0],
                source.shape[1],
                OWN=role == 0,
                OTHER=is_self or role == 1,
                SELF=is_self,
                BLOCK_OUT=options["BLOCK_D"],
                **options,
            )
        return gradients


def _fake_gradients(upstream, anchors, labels, references, ref_labels, scale, bias, saved, precision, needed):
    return _empty_gradients(anchors, references, needed)


def _empty_gradients(anchors: Tensor, references: Tensor | None, needed: list[bool]) -> tuple[Tensor, ...]:
    """One tensor for each that wants a gradient, an empty one for the others."""
    return tuple(
        anchors.new_empty(0)
        if tensor is None or not is_needed
        else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, is_needed in zip((anchors, references), needed, strict=True)
    )


def _setup_context(ctx, inputs, output):
    anchors, labels, references, ref_labels, scale, bias, ctx.precision = inputs
    _, is_valid, *saved = output
    ctx.mark_non_differentiable(is_valid, *saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(anchors, labels, references, ref_labels, scale, bias, *saved)


def _backward(ctx, upstream, *_):
    if upstream is None:
        return (None,) * 7
    anchors, labels, references, ref_labels, scale, bias, *saved = ctx.saved_tensors
    needed = [ctx.needs_input_grad[place] for place in (0, 2)]
    rows, ref_rows = small_losses_backward(
        upstream, anchors, labels, references, ref_labels, scale, bias, saved, ctx.precision, needed
    )
    return rows if needed[0] else None, None, ref_rows if needed[1] else None, None, None, None, None


small_losses_backward = define_operator(
    "small_losses_backward(Tensor upstream, Tensor anchors, Tensor labels, Tensor? references, Tensor? ref_labels, "
    "Tensor scale, Tensor bias, Tensor[] saved, str precision, bool[] needed) -> (Tensor, Tensor)",
    _small_losses_backward,
    _fake_gradients,
    refuse_second_derivative,
)
small_losses = define_operator(
    "small_losses(Tensor anchors, Tensor labels, Tensor? references, Tensor? ref_labels, Tensor scale, Tensor bias, "
    f"str precision) -> ({', '.join(['Tensor'] * 8)})",
    _small_losses,
    _fake_losses,
    _backward,
    _setup_context,
)
