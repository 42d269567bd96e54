"""Batches of some thousand bfloat16 or float16 rows: three launches forward, two backward.

With separate references there is one launch more in each.

What it gains: 4,096 x 384 in bfloat16 takes 1.23 ms as called, where the path of large batches takes 1.98 ms and eager
under `torch.compile` 1.51 ms; 4,096 x 768 takes 1.40 instead of 2.13 and 2.37 ms. The device alone needs 0.44 instead
of 0.31 ms there. At 8,192 rows the gain as called is small, and the device needs twice as long. Measured on an H200
(docs/kernels.md).

Such a batch waits for the host's launches. Rows are normalized and sorted in one kernel. Pairs are not mirrored, and
positives are subtracted pair by pair: both save launches, for more work on the device. The pair weights of the whole
batch are one matrix: 32 MiB at 4,096 rows. Products are of float16, as in `wide.py`.

The choice of a path must not depend on whether a CUDA graph captures the call: the warm-up before a capture, which
compiles and loads the kernels, runs eagerly.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_medium, _kernels_tables
from labeldist.backends.fused.launching import Slot, Workspace, launch, on_device_of
from labeldist.backends.fused.operators import Gradients, Results, define_loss
from labeldist.backends.fused.tilings import padded_rows, padded_width, tiling_for
from labeldist.distributed import ProcessGroup
from labeldist.pairs import Batch, ClassPairTables

__all__ = ["is_medium", "medium_losses"]

# Most rows and references: beyond, the large path takes less device time, and the matrix of pair weights over 32 MiB.
MAX_ROWS = 4096
# Rows of a program that reads each whole; labels and dimensions that it takes at a time.
ROWS_PER_PROGRAM, LABELS_PER_STEP, DIMS_PER_STEP = 8, 512, 256
# Rows of a program that finishes losses, and tiles whose sums it adds at a time; upstream gradients at a time.
LOSSES_PER_PROGRAM, TILES_PER_STEP, UPSTREAM_PER_STEP = 32, 16, 1024


class _SortedSlots(NamedTuple):
    """Rows sorted by class, as `_kernels_medium.prepare_rows` writes them."""

    rows: Slot
    labels: Slot
    order: Slot
    class_ends: Slot
    inverse_norms: Slot
    num_positives: Slot


class _Slots(NamedTuple):
    """What the backward pass needs of the forward; the references are the anchors where the batch has no others."""

    anchors: _SortedSlots
    references: _SortedSlots
    tables: Slot
    summaries: Slot
    shifts: Slot
    normalizers: Slot


def is_medium(batch: Batch) -> bool:
    """Whether these kernels take such a batch."""
    sizes = batch.embeddings.shape[0], batch.references[0].shape[0]
    return batch.embeddings.dtype != torch.float32 and min(sizes) > 0 and max(sizes) <= MAX_ROWS


def _workspace(anchors: tuple[int, ...], references: tuple[int, ...] | None, num_classes: int) -> Workspace:
    def sorted_rows(shape: tuple[int, ...], prefix: str) -> dict:
        padded = padded_rows(shape[0])
        return {
            f"{prefix}rows": ((padded, padded_width(shape[1], is_wide=True)), torch.float16),
            f"{prefix}labels": ((padded,), torch.int32),
            f"{prefix}order": ((padded,), torch.int32),
            f"{prefix}class_ends": ((num_classes,), torch.int32),
            f"{prefix}inverse_norms": ((padded,), torch.float32),
            f"{prefix}num_positives": ((padded,), torch.int32),
        }

    # In the order of `_SortedSlots` and `_Slots`.
    padded = padded_rows(anchors[0])
    return Workspace(
        **sorted_rows(anchors, "anchor_"),
        **({} if references is None else sorted_rows(references, "ref_")),
        tables=((num_classes, num_classes), torch.int64),
        summaries=((4, int(_kernels_tables.NUM_SUMMARIES)), torch.float32),
        shifts=((padded,), torch.float32),
        normalizers=((padded,), torch.float32),
    )


# For shapes that are numbers; those of a traced batch are symbols.
_cached_workspace = lru_cache(_workspace)


def _num_words(batch: Batch, tables: ClassPairTables) -> int:
    references = None if batch.ref_emb is None else batch.ref_emb.shape
    return _workspace(batch.embeddings.shape, references, tables.num_classes).num_words


def _slots(batch: Batch, tables: ClassPairTables, workspace: Tensor) -> _Slots:
    references = None if batch.ref_emb is None else batch.ref_emb.shape
    layout = _cached_workspace(batch.embeddings.shape, references, tables.num_classes)
    *rows, class_pairs, summaries, shifts, normalizers = layout.slots(workspace)
    num_fields = len(_SortedSlots._fields)
    anchors = _SortedSlots(*rows[:num_fields])
    others = anchors if batch.is_self else _SortedSlots(*rows[num_fields:])
    return _Slots(anchors, others, class_pairs, summaries, shifts, normalizers)


def _forward(batch: Batch, tables: ClassPairTables, results: Results, group: ProcessGroup | None) -> None:
    with on_device_of(batch.embeddings):
        slots = _slots(batch, tables, results.workspace)
        anchors, references = slots.anchors, slots.references
        _prepare(batch.embeddings, batch.labels, batch.ref_labels, anchors, slots, tables)
        if batch.ref_emb is not None and batch.ref_labels is not None:
            _prepare(batch.ref_emb, batch.ref_labels, batch.labels, references, slots, None)
        num_rows, num_columns = batch.embeddings.shape[0], batch.references[0].shape[0]
        (padded, width), (padded_columns, _) = anchors.rows.shape, references.rows.shape
        tiling = tiling_for("medium", 2, width)
        num_tiles = padded_columns // tiling.block_columns
        partials = results.losses.new_empty(3 * num_tiles * padded)
        launch(
            _kernels_medium.sum_tile_exponentials,
            (padded // tiling.block_rows, num_tiles),
            anchors.rows,
            anchors.labels,
            references.rows,
            references.labels,
            references.class_ends,
            slots.tables,
            partials,
            num_rows,
            num_columns,
            padded,
            tables.num_classes,
            IS_SELF=batch.is_self,
            **_pair_options(width),
        )
        launch(
            _kernels_medium.finish_tile_losses,
            (padded // LOSSES_PER_PROGRAM,),
            partials,
            anchors.order,
            anchors.labels,
            anchors.num_positives,
            slots.tables,
            results.losses,
            results.is_valid,
            slots.shifts,
            slots.normalizers,
            num_rows,
            padded,
            num_tiles,
            tables.num_classes,
            BLOCK=LOSSES_PER_PROGRAM,
            BLOCK_TILES=TILES_PER_STEP,
        )


def _prepare(
    rows: Tensor,
    labels: Tensor,
    other_labels: Tensor | None,
    into: _SortedSlots,
    slots: _Slots,
    tables: ClassPairTables | None,
) -> None:
    padded, width = into.rows.shape
    num_table_programs = 0 if tables is None else int(_kernels_tables.NUM_SUMMARIES)
    launch(
        _kernels_medium.prepare_rows,
        (padded // ROWS_PER_PROGRAM + num_table_programs,),
        rows.contiguous(),
        labels.contiguous(),
        None if other_labels is None else other_labels.contiguous(),
        None if tables is None else tables.scale.contiguous(),
        None if tables is None else tables.bias.contiguous(),
        *into,
        slots.tables.as_type(torch.float32, (*slots.tables.shape, 2)),
        slots.summaries,
        rows.shape[0],
        0 if other_labels is None else other_labels.shape[0],
        rows.shape[1],
        padded,
        width,
        slots.tables.shape[0],
        BLOCK=ROWS_PER_PROGRAM,
        BLOCK_D=DIMS_PER_STEP,
        BLOCK_LABELS=LABELS_PER_STEP,
    )


@lru_cache
def _pair_options(width: int) -> dict:
    """Compile-time arguments that the kernels over pairs share."""
    tiling = tiling_for("medium", 2, width)
    return {
        "WIDTH": width,
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLUMNS": tiling.block_columns,
        "BLOCK_D": tiling.block_d,
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
        slots = _slots(batch, tables, workspace)
        anchors, references = slots.anchors, slots.references
        (padded, width), (padded_columns, _) = anchors.rows.shape, references.rows.shape
        tiling = tiling_for("medium", 2, width)
        num_row_tiles, num_column_tiles = padded // tiling.block_rows, padded_columns // tiling.block_columns
        layout = _backward_workspace(padded, padded_columns, num_row_tiles, num_column_tiles)
        weights, loss_scale, radials, ref_radials = layout.slots(workspace.new_empty(layout.num_words))
        launch(
            _kernels_medium.store_tile_weights,
            (num_row_tiles, num_column_tiles),
            anchors.rows,
            anchors.labels,
            anchors.order,
            anchors.num_positives,
            slots.shifts,
            slots.normalizers,
            references.rows,
            references.labels,
            references.class_ends,
            upstream,
            slots.tables,
            slots.summaries,
            weights,
            loss_scale,
            radials,
            ref_radials,
            batch.embeddings.shape[0],
            batch.references[0].shape[0],
            padded,
            padded_columns,
            tables.num_classes,
            upstream.stride(0),
            IS_SELF=batch.is_self,
            BLOCK_UPSTREAM=UPSTREAM_PER_STEP,
            **_pair_options(width),
        )
        if gradients.embeddings is not None:
            _gradient(batch.embeddings, anchors, references, weights, radials, loss_scale, gradients.embeddings)
        if gradients.ref_emb is not None and batch.ref_emb is not None:
            _gradient(
                batch.ref_emb, references, anchors, weights, ref_radials, loss_scale, gradients.ref_emb,
                is_transposed=True,
            )  # fmt: skip


@lru_cache
def _backward_workspace(padded: int, padded_columns: int, num_row_tiles: int, num_column_tiles: int) -> Workspace:
    return Workspace(
        weights=((padded, padded_columns), torch.float16),
        loss_scale=((1,), torch.float32),
        radials=((num_column_tiles, padded), torch.float32),
        ref_radials=((num_row_tiles, padded_columns), torch.float32),
    )


def _gradient(
    source: Tensor,
    rows: _SortedSlots,
    columns: _SortedSlots,
    weights: Slot,
    radials: Slot,
    loss_scale: Slot,
    gradient: Tensor,
    *,
    is_transposed: bool = False,
) -> None:
    (padded, width), (padded_columns, _) = rows.rows.shape, columns.rows.shape
    tiling = tiling_for("medium gradient", 2, width)
    # Both divide the width, which is a multiple of 64.
    block_d = tiling.block_d if width % tiling.block_d == 0 else min(width, 64)
    launch(
        _kernels_medium.gradient_from_weights,
        (padded // tiling.block_rows, width // block_d),
        weights,
        columns.rows,
        radials,
        loss_scale,
        source.contiguous(),
        rows.inverse_norms,
        rows.order,
        gradient,
        source.shape[0],
        padded,
        padded_columns,
        radials.shape[0],
        source.shape[1],
        TRANSPOSED=is_transposed,
        WIDTH=width,
        BLOCK_ROWS=tiling.block_rows,
        BLOCK_D=block_d,
        BLOCK_TERMS=tiling.block_columns,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )


medium_losses = define_loss("medium_losses", num_words=_num_words, forward=_forward, backward=_backward)
