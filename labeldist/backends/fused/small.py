"""Small batches as an operator: two launches forward, one backward. Sorting would cost more launches than it saves."""

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_small
from labeldist.backends.fused._kernels_common import IS_INTERPRETED
from labeldist.backends.fused.launching import (
    PRODUCT_DTYPES,
    Precision,
    divide_up,
    launch,
    padded_width,
    round_up,
    tiling_for,
)
from labeldist.backends.fused.operators import define_loss
from labeldist.backends.fused.rows import normalise
from labeldist.distributed import ProcessGroup

__all__ = ["is_small", "small_losses"]

# Most multiply-adds of all pairs: beyond it, a small tile and a look-up for every pair take more time than the launches
# that the other way has besides. float32 takes six products there, in place of one.
MAX_WORK: dict[Precision, int] = {
    "bf16": 2048 * 2048 * 768,
    "fp16": 2048 * 2048 * 768,
    "tf32": 2048 * 2048 * 768,
    "float32": 2048 * 2048 * 128,
}
# How `tl.dot` keeps float32's accuracy: by six products of bfloat16. It takes less fast memory than three of tf32.
FLOAT32_PRODUCTS = "ieee" if IS_INTERPRETED else "bf16x6"
# Rows are padded to a multiple of it: of any tile's side.
ALIGNMENT = 128


def is_small(num_rows: int, num_references: int, dim: int, *, precision: Precision) -> bool:
    """Whether a batch is small enough."""
    return num_rows * num_references * dim <= MAX_WORK[precision]


def _product_dtype(precision: Precision) -> torch.dtype:
    # float16 weights of pairs would want a unit found in a launch of its own: tf32 has as many digits.
    return torch.float32 if precision == "fp16" else PRODUCT_DTYPES[precision]


def _small_losses(anchors, labels, references, ref_labels, scale, bias, precision, group: ProcessGroup | None = None):
    """Losses `(B,)`, validity `(B,)`, and what the backward needs."""
    with torch.cuda.device_of(anchors), torch.autocast(anchors.device.type, enabled=False):
        results = _empty_results(anchors, references, precision)
        losses, is_valid, kept, own, own_inverse, *theirs = results
        normalise(anchors.contiguous(), own, own_inverse)
        columns, column_labels = own, labels
        if references is not None:
            normalise(references.contiguous(), *theirs)
            columns, column_labels = theirs[0], ref_labels
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
            kept,
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

    def rows_of(source: Tensor | None) -> tuple[Tensor, ...]:
        if source is None:
            return ()
        shape = round_up(source.shape[0], ALIGNMENT), padded_width(source.shape[1])
        units = source.new_empty(*shape, dtype=_product_dtype(precision))
        return units, source.new_empty(source.shape[0], dtype=torch.float32)

    return (
        anchors.new_empty(num_rows, dtype=torch.float32),
        anchors.new_empty(num_rows, dtype=torch.bool),
        anchors.new_empty(3, num_rows, dtype=torch.float32),
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
        # How `tl.dot` multiplies float32 rows; it means nothing for others.
        "PRECISION": FLOAT32_PRODUCTS if precision == "float32" else "tf32",
        "num_warps": tiling.num_warps,
        "num_stages": tiling.num_stages,
    }


def _small_losses_backward(
    upstream,
    saved,
    anchors,
    labels,
    references,
    ref_labels,
    scale,
    bias,
    precision,
    needed,
    group: ProcessGroup | None = None,
):
    with torch.cuda.device_of(anchors), torch.autocast(anchors.device.type, enabled=False):
        kept, own, own_inverse, others, others_inverse, *_ = *saved, None, None
        gradients = _empty_gradients(anchors, references, needed)
        is_self = references is None
        mine = anchors, own_inverse, own, labels
        theirs = mine if is_self else (references, others_inverse, others, ref_labels)
        for role, gradient in enumerate(gradients):
            if gradient is None:
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
                kept,
                upstream,
                gradient,
                source.shape[0],
                column_labels.shape[0],
                scale.shape[0],
                source.shape[1],
                upstream.stride(0),
                OWN=role == 0,
                OTHER=is_self or role == 1,
                SELF=is_self,
                BLOCK_OUT=options["BLOCK_D"],
                **options,
            )
        return gradients


def _fake_gradients(upstream, saved, anchors, labels, references, ref_labels, scale, bias, precision, needed):
    return _empty_gradients(anchors, references, needed)


def _empty_gradients(anchors: Tensor, references: Tensor | None, needed: list[bool]) -> tuple[Tensor | None, ...]:
    """One tensor for each that wants a gradient."""
    return tuple(
        None if tensor is None or not is_needed else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, is_needed in zip((anchors, references), needed, strict=True)
    )


small_losses = define_loss(
    "small_losses",
    "Tensor anchors, Tensor labels, Tensor? references, Tensor? ref_labels, Tensor scale, Tensor bias, str precision",
    num_results=7,
    places=(0, 2),
    forward=_small_losses,
    fake_forward=_fake_losses,
    backward=_small_losses_backward,
    fake_backward=_fake_gradients,
)
