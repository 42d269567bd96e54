"""Small batches of unsorted rows: two launches forward, one backward (one more each with separate references).

What it gains: 256 x 384 in bfloat16 takes 0.061 ms of the device, where the path of medium batches takes 0.108 ms and
that of large ones 0.136 ms; as called 0.90, 0.99 and 1.67 ms. From 2,048 x 384 on its small tiles cost more than the
other paths' launches (one run on an H200, docs/kernels.md).
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_small
from labeldist.backends.fused._kernels_common import IS_INTERPRETED
from labeldist.backends.fused.launching import Slot, Workspace, launch, on_device_of
from labeldist.backends.fused.operators import Gradients, Results, define_loss
from labeldist.backends.fused.rows import normalize
from labeldist.backends.fused.tilings import divide_up, padded_width, round_up, tiling_for
from labeldist.distributed import ProcessGroup
from labeldist.pairs import Batch, ClassPairTables

__all__ = ["is_small", "small_losses"]

# Most multiply-adds of all pairs, by dtype: beyond it, small tiles and a table look-up for every pair take more time
# than the other paths' launches. float32 takes six products where the others take one, and has no medium path.
MAX_WORK: dict[torch.dtype, int] = {
    torch.bfloat16: 2048 * 2048 * 128,
    torch.float16: 2048 * 2048 * 128,
    torch.float32: 2048 * 2048 * 128,
}
# How `tl.dot` keeps float32's accuracy: by six products of bfloat16. It takes less shared memory than three of tf32.
FLOAT32_PRODUCTS = "ieee" if IS_INTERPRETED else "bf16x6"
# Rows are padded to a multiple of it: of any tile's side.
ALIGNMENT = 128


class _Side(NamedTuple):
    """Unit rows of the anchors or the references: `(padded N, width)`, and 1 / norm of each, `(N,)`."""

    unit_rows: Slot
    inverse_norms: Slot


class _Slots(NamedTuple):
    """What the backward needs of the forward; the references are the anchors where the batch has no others."""

    statistics: Slot
    anchors: _Side
    references: _Side


def is_small(batch: Batch) -> bool:
    """Whether a batch is small enough."""
    num_rows, dim = batch.embeddings.shape
    return num_rows * batch.references[0].shape[0] * dim <= MAX_WORK[batch.embeddings.dtype]


def _workspace(anchors: tuple[int, ...], references: tuple[int, ...] | None, dtype: torch.dtype) -> Workspace:
    # float16 weights of pairs would need a loss scale, and so one launch more: tf32 has as many digits.
    product_dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32

    def side(name: str, shape: tuple[int, ...]) -> dict:
        padded = round_up(shape[0], ALIGNMENT), padded_width(shape[1])
        return {f"{name}_rows": (padded, product_dtype), f"{name}_norms": (shape[:1], torch.float32)}

    return Workspace(
        statistics=((3, anchors[0]), torch.float32),
        **side("anchor", anchors),
        **({} if references is None else side("ref", references)),
    )


# For shapes that are numbers; those of a traced batch are symbols.
_cached_workspace = lru_cache(_workspace)


def _shapes(batch: Batch) -> tuple[tuple[int, ...], tuple[int, ...] | None, torch.dtype]:
    return batch.embeddings.shape, None if batch.ref_emb is None else batch.ref_emb.shape, batch.embeddings.dtype


def _num_words(batch: Batch, tables: ClassPairTables) -> int:
    return _workspace(*_shapes(batch)).num_words


def _slots(batch: Batch, workspace: Tensor) -> _Slots:
    statistics, *sides = _cached_workspace(*_shapes(batch)).slots(workspace)
    return _Slots(statistics, _Side(*sides[:2]), _Side(*sides[-2:]))


def _forward(batch: Batch, tables: ClassPairTables, results: Results, group: ProcessGroup | None) -> None:
    with on_device_of(batch.embeddings):
        slots = _slots(batch, results.workspace)
        references, ref_labels = batch.references
        normalize(batch.embeddings.contiguous(), *slots.anchors)
        if not batch.is_self:
            normalize(references.contiguous(), *slots.references)
        options = _options(slots.anchors.unit_rows.shape[1], batch.embeddings.dtype)
        num_rows = batch.embeddings.shape[0]
        launch(
            _kernels_small.losses_of_small_batch,
            (divide_up(num_rows, options["BLOCK_ROWS"]),),
            slots.anchors.unit_rows,
            batch.labels.contiguous(),
            slots.references.unit_rows,
            ref_labels.contiguous(),
            tables.scale.contiguous(),
            tables.bias.contiguous(),
            results.losses,
            results.is_valid,
            slots.statistics,
            num_rows,
            references.shape[0],
            tables.num_classes,
            IS_SELF=batch.is_self,
            **options,
        )


@lru_cache
def _options(width: int, dtype: torch.dtype) -> dict:
    """Compile-time arguments of both kernels."""
    tiling = tiling_for("small", 2 if dtype == torch.bfloat16 else 4, width)
    # Both divide the width: it is a power of two, or a multiple of 64.
    block_d = tiling.block_d if width % tiling.block_d == 0 else min(width, 64)
    return {
        "WIDTH": width,
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLUMNS": tiling.block_columns,
        "BLOCK_D": block_d,
        # How `tl.dot` multiplies float32 rows; it means nothing for others.
        "PRECISION": FLOAT32_PRODUCTS if dtype == torch.float32 else "tf32",
        "num_warps": tiling.num_warps,
        "num_stages": tiling.num_stages,
    }


def _backward(
    upstream: Tensor,
    workspace: Tensor,
    batch: Batch,
    tables: ClassPairTables,
    gradients: Gradients,
    group: ProcessGroup | None,
) -> None:
    with on_device_of(batch.embeddings):
        slots = _slots(batch, workspace)
        references, ref_labels = batch.references
        anchor_side = slots.anchors, batch.embeddings, batch.labels.contiguous()
        ref_side = slots.references, references, ref_labels.contiguous()
        options = _options(slots.anchors.unit_rows.shape[1], batch.embeddings.dtype)
        for is_anchor, gradient in ((True, gradients.embeddings), (False, gradients.ref_emb)):
            if gradient is None:
                continue
            (side, source, labels), (others, _, other_labels) = (
                (anchor_side, ref_side) if is_anchor else (ref_side, anchor_side)
            )
            launch(
                _kernels_small.gradient_of_small_batch,
                (divide_up(source.shape[0], options["BLOCK_ROWS"]), options["WIDTH"] // options["BLOCK_D"]),
                source.contiguous(),
                side.inverse_norms,
                side.unit_rows,
                labels,
                others.unit_rows,
                other_labels,
                tables.scale.contiguous(),
                tables.bias.contiguous(),
                slots.statistics,
                upstream,
                gradient,
                source.shape[0],
                other_labels.shape[0],
                tables.num_classes,
                source.shape[1],
                upstream.stride(0),
                ROWS_ARE_ANCHORS=is_anchor,
                COLUMNS_ARE_ANCHORS=batch.is_self or not is_anchor,
                IS_SELF=batch.is_self,
                BLOCK_OUT=options["BLOCK_D"],
                **options,
            )


small_losses = define_loss("small_losses", num_words=_num_words, forward=_forward, backward=_backward)
