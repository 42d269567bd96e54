"""Passes over the pairs of narrow rows: bfloat16 or float16, up to 128 dimensions.

What it gains over the kernels for wide rows, bfloat16 on an H200 (one run, docs/kernels.md): at 64 dimensions 1.3 to
1.9 times from 65,536 rows on; at 128 dimensions 1.2 to 1.4 times; at 16,384 rows 1.5 to 1.9 times as called, by
fewer launches (Triton's public ones), and nothing on the device alone.

Rows, products, exponentials and the gradient of a tile of rows all fit the registers, so nothing of the size of the
pairs goes through memory. Most tiles have columns of one class, where a table entry is a value of a row, not of a pair.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_pairs, _kernels_rows
from labeldist.backends.fused.launching import Slot, launch
from labeldist.backends.fused.state import AnchorTerms, PartialSums, Problem, SortedRows
from labeldist.backends.fused.tilings import (
    Tiling,
    divide_up,
    generation_of,
    num_splits,
    round_up,
    tiling_for,
)

__all__ = ["gradient_parts", "num_warps", "partition_sums"]

# Super-blocks of rows, and so partial sums of a row, of the mirrored kernel: 64 give 2080 programs of equal size.
MAX_SUPER_BLOCKS = 64
# Up to so many columns one launch for all tiles takes less time than one for each kind of tile.
MAX_COLUMNS_IN_ONE_LAUNCH = 2048


class _Launch(NamedTuple):
    """One launch over tiles: those with columns of one class, those of several, or all tiles, treated as mixed."""

    is_mixed: bool
    is_first: bool
    by_kind: bool


def _launches(num_columns: int) -> list[_Launch]:
    if num_columns <= MAX_COLUMNS_IN_ONE_LAUNCH:
        return [_Launch(is_mixed=True, is_first=True, by_kind=False)]
    return [_Launch(is_mixed=mixed, is_first=not mixed, by_kind=True) for mixed in (False, True)]


def _tiling(kernel: str, rows: Slot) -> Tiling:
    return tiling_for(kernel, rows.dtype.itemsize, rows.shape[1])


def num_warps(tiling: Tiling, generation: int, *, is_mixed: bool) -> int:
    """Warps of a program. A mixed tile also holds the table entries of its pairs, and needs the registers of more."""
    if not is_mixed:
        return tiling.num_warps
    # Blackwell's servers: their compiler finds no place for so large a tile in the registers of 8 warps.
    is_crowded = generation == 10 and tiling.block_rows * tiling.block_columns >= 128**2
    return 16 if is_crowded else max(tiling.num_warps, 8)


def _options(tiling: Tiling, rows: Slot, *, is_mixed: bool) -> dict:
    """Compile-time arguments that the kernels over pairs share."""
    return {
        "WIDTH": rows.shape[1],
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLUMNS": tiling.block_columns,
        "num_warps": num_warps(tiling, generation_of(rows.workspace.device), is_mixed=is_mixed),
        "num_stages": tiling.num_stages,
    }


def _list_tiles(columns: SortedRows, side: int) -> tuple[Tensor, Tensor]:
    """Numbers of the tiles of `side` columns, those of one class first, and how many these are."""
    num_tiles = divide_up(columns.num_rows, side)
    empty = columns.rows.workspace.new_empty
    tiles, num_uniform = empty(num_tiles), empty(1)
    launch(
        _kernels_rows.list_tiles,
        (1,),
        columns.labels,
        tiles,
        num_uniform,
        num_tiles,
        BY_KIND=columns.num_rows > MAX_COLUMNS_IN_ONE_LAUNCH,
        SIDE=side,
        BLOCK=1024,
    )
    return tiles, num_uniform


def partition_sums(problem: Problem) -> PartialSums:
    """Softmax denominators of each anchor over a shard of its pairs, in parts."""
    anchors, references, shard = problem.anchors, problem.references, problem.shard
    num_rows = anchors.num_rows
    dense, mirrored = _tiling("dense", anchors.rows), _tiling("mirrored", anchors.rows)
    super_block_rows = round_up(
        divide_up(max(num_rows, 1), MAX_SUPER_BLOCKS), max(mirrored.block_rows, mirrored.block_columns)
    )
    num_mirrored = divide_up(num_rows, super_block_rows) if "mirrored" in problem.modes else 0
    num_tiles = divide_up(references.num_rows, dense.block_columns)
    num_dense = 0
    if "dense" in problem.modes:
        num_dense = num_splits(divide_up(num_rows, dense.block_rows), divide_up(num_tiles, shard.num_shards))
    empty = problem.batch.embeddings.new_empty
    partial = PartialSums(
        maxima=empty(num_dense, anchors.num_padded, dtype=torch.float32),
        sums=empty(max(num_dense, num_mirrored), anchors.num_padded, dtype=torch.float32),
        num_dense=num_dense,
        num_mirrored=num_mirrored,
    )
    if num_mirrored:
        _sum_mirrored(problem, partial, super_block_rows)
    if num_dense:
        _sum_dense(problem, partial)
    return partial


def _sum_mirrored(problem: Problem, partial: PartialSums, super_block_rows: int) -> None:
    anchors = problem.anchors
    tiling = _tiling("mirrored", anchors.rows)
    for tiles in _launches(anchors.num_rows):
        launch(
            _kernels_pairs.sum_mirrored_pairs,
            (partial.num_mirrored, partial.num_mirrored),
            anchors.rows,
            anchors.labels,
            problem.state.tables,
            problem.state.summaries,
            partial.sums,
            anchors.num_rows,
            anchors.num_padded,
            problem.num_classes,
            super_block_rows,
            problem.shard.index,
            problem.shard.num_shards,
            IS_MIXED=tiles.is_mixed,
            IS_FIRST=tiles.is_first,
            BY_KIND=tiles.by_kind,
            **_options(tiling, anchors.rows, is_mixed=tiles.is_mixed),
        )


def _sum_dense(problem: Problem, partial: PartialSums) -> None:
    anchors, references, shard = problem.anchors, problem.references, problem.shard
    tiling = _tiling("dense", anchors.rows)
    tile_numbers, num_uniform = _list_tiles(references, tiling.block_columns)
    for tiles in _launches(references.num_rows):
        launch(
            _kernels_pairs.sum_dense_pairs,
            (divide_up(anchors.num_rows, tiling.block_rows), partial.num_dense),
            anchors.rows,
            anchors.labels,
            references.rows,
            references.labels,
            problem.state.tables,
            problem.state.summaries,
            tile_numbers,
            num_uniform,
            partial.maxima,
            partial.sums,
            references.num_rows,
            anchors.num_padded,
            problem.num_classes,
            tile_numbers.shape[0],
            shard.index * partial.num_dense,
            shard.num_shards * partial.num_dense,
            IS_SELF=problem.is_self,
            IS_MIXED=tiles.is_mixed,
            IS_FIRST=tiles.is_first,
            **_options(tiling, anchors.rows, is_mixed=tiles.is_mixed),
        )


def gradient_parts(
    problem: Problem, terms: AnchorTerms, *, of_anchors: bool, of_references: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients at the sorted unit rows of anchors and references, in parts: `(splits, padded N, width)`."""
    return (
        _parts_of(problem, terms, is_anchor=True) if of_anchors else None,
        _parts_of(problem, terms, is_anchor=False) if of_references else None,
    )


def _parts_of(problem: Problem, terms: AnchorTerms, *, is_anchor: bool) -> Tensor:
    rows, columns = problem.anchors, problem.references
    if not is_anchor:
        rows, columns = columns, rows
    # Pass the anchors' shifts and coefficients for both sides; the kernel reads only the anchors' side.
    of_anchors = problem.state.shifts, terms.coefficients
    shard, (padded, width) = problem.shard, rows.rows.shape
    tiling = _tiling("gradient", rows.rows)
    tile_numbers, num_uniform = _list_tiles(columns, tiling.block_columns)
    num_row_tiles = divide_up(rows.num_rows, tiling.block_rows)
    splits = num_splits(num_row_tiles, divide_up(tile_numbers.shape[0], shard.num_shards))
    parts = terms.gradients.new_empty(splits, padded, width)
    for mode in problem.modes:
        for tiles in _launches(columns.num_rows):
            launch(
                _kernels_pairs.accumulate_gradient,
                (num_row_tiles, splits),
                rows.rows,
                rows.labels,
                *of_anchors,
                columns.rows,
                columns.labels,
                *of_anchors,
                problem.state.tables,
                problem.state.summaries,
                tile_numbers,
                num_uniform,
                parts,
                rows.num_rows,
                columns.num_rows,
                padded,
                problem.num_classes,
                tile_numbers.shape[0],
                shard.index * splits,
                shard.num_shards * splits,
                ROWS_ARE_ANCHORS=is_anchor,
                COLUMNS_ARE_ANCHORS=problem.is_self or not is_anchor,
                IS_SELF=problem.is_self,
                MIRRORED=mode == "mirrored",
                IS_MIXED=tiles.is_mixed,
                IS_FIRST=tiles.is_first,
                **_options(tiling, rows.rows, is_mixed=tiles.is_mixed),
            )
    return parts
