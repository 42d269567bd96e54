"""Passes over pairs whose rows, and the gradient of a tile of rows, fit the registers: the kernels do all the work."""

from typing import NamedTuple

from torch import Tensor

from labeldist.backends.fused import _kernels_pairs, _kernels_rows
from labeldist.backends.fused.launching import (
    Tiling,
    divide_up,
    generation_of,
    launch,
    num_splits,
    round_up,
    tiling_for,
)
from labeldist.backends.fused.state import PartialSums, Problem, Saved, Share, Sorted, Weights

__all__ = ["gradient_parts", "partition_sums"]

# Super-blocks of rows, and so partial sums of a row, of the mirrored kernel: 64 give 2080 programs of equal size.
MAX_SUPER_BLOCKS = 64
# Up to so many columns one launch for all tiles takes less time than two.
MAX_UNSPLIT_COLUMNS = 2048


class _Pass(NamedTuple):
    """One launch over pairs: tiles with columns of one class, or mixed ones, or, where not split, all as if mixed."""

    is_mixed: bool
    is_first: bool
    is_split: bool


def _passes(num_columns: int) -> list[_Pass]:
    if num_columns <= MAX_UNSPLIT_COLUMNS:
        return [_Pass(is_mixed=True, is_first=True, is_split=False)]
    return [_Pass(is_mixed=mixed, is_first=not mixed, is_split=True) for mixed in (False, True)]


def _tiling(kernel: str, rows: Tensor) -> Tiling:
    return tiling_for(kernel, rows.element_size(), rows.shape[1])


def num_warps(tiling: Tiling, generation: int, *, is_mixed: bool) -> int:
    """Warps of a program. A mixed tile holds the entries of its pairs besides, and needs the registers of more."""
    if not is_mixed:
        return tiling.num_warps
    # Blackwell's servers: their compiler finds no place for so large a tile in the registers of 8 warps.
    is_crowded = generation == 10 and tiling.block_rows * tiling.block_columns >= 128**2
    return 16 if is_crowded else max(tiling.num_warps, 8)


def _options(tiling: Tiling, rows: Tensor, *, is_mixed: bool) -> dict:
    """Compile-time arguments that the kernels over pairs share."""
    return {
        "WIDTH": rows.shape[1],
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLUMNS": tiling.block_columns,
        "num_warps": num_warps(tiling, generation_of(rows.device), is_mixed=is_mixed),
        "num_stages": tiling.num_stages,
    }


def _list_tiles(columns: Sorted, side: int) -> tuple[Tensor, Tensor]:
    """Numbers of the tiles of `side` columns, those of one class first, and how many these are."""
    num_columns = columns.num_rows
    num_tiles = divide_up(num_columns, side)
    tiles, num_uniform = columns.labels.new_empty(num_tiles), columns.labels.new_empty(1)
    launch(
        _kernels_rows.list_tiles,
        (1,),
        columns.labels,
        tiles,
        num_uniform,
        num_tiles,
        IS_SPLIT=num_columns > MAX_UNSPLIT_COLUMNS,
        SIDE=side,
        BLOCK=1024,
    )
    return tiles, num_uniform


def partition_sums(
    own: Sorted,
    others: Sorted,
    saved: Saved,
    modes: list[bool],
    share: Share,
    *,
    is_self: bool,
) -> PartialSums:
    """Sums over a share of the pairs of each row, in parts."""
    num_rows, padded = own.num_rows, own.num_padded
    dense, mirrored = _tiling("dense", own.rows), _tiling("mirrored", own.rows)
    block_span = round_up(
        divide_up(max(num_rows, 1), MAX_SUPER_BLOCKS), max(mirrored.block_rows, mirrored.block_columns)
    )
    num_mirrored = divide_up(num_rows, block_span) if True in modes else 0
    num_tiles = divide_up(others.num_rows, dense.block_columns)
    num_dense = 0
    if False in modes:
        num_dense = num_splits(divide_up(num_rows, dense.block_rows), divide_up(num_tiles, share.num_parts))
    parts = PartialSums(
        maxima=saved.bases.new_empty(num_dense, padded),
        sums=saved.bases.new_empty(max(num_dense, num_mirrored), padded),
        num_dense=num_dense,
        num_mirrored=num_mirrored,
    )
    if num_mirrored:
        _sum_mirrored(own, saved, parts, block_span, share)
    if num_dense:
        _sum_dense(own, others, saved, parts, share, is_self=is_self)
    return parts


def _sum_mirrored(own: Sorted, saved: Saved, parts: PartialSums, block_span: int, share: Share) -> None:
    tiling = _tiling("mirrored", own.rows)
    for part in _passes(own.num_rows):
        launch(
            _kernels_pairs.sum_mirrored_pairs,
            (parts.num_mirrored, parts.num_mirrored),
            own.rows,
            own.labels,
            saved.tables,
            saved.summaries,
            parts.sums,
            own.num_rows,
            own.num_padded,
            saved.num_classes,
            block_span,
            *share,
            IS_MIXED=part.is_mixed,
            IS_FIRST=part.is_first,
            IS_SPLIT=part.is_split,
            **_options(tiling, own.rows, is_mixed=part.is_mixed),
        )


def _sum_dense(
    own: Sorted,
    others: Sorted,
    saved: Saved,
    parts: PartialSums,
    share: Share,
    *,
    is_self: bool,
) -> None:
    tiling = _tiling("dense", own.rows)
    tiles, num_uniform = _list_tiles(others, tiling.block_columns)
    for part in _passes(others.num_rows):
        launch(
            _kernels_pairs.sum_dense_pairs,
            (divide_up(own.num_rows, tiling.block_rows), parts.num_dense),
            own.rows,
            own.labels,
            others.rows,
            others.labels,
            saved.tables,
            saved.summaries,
            tiles,
            num_uniform,
            parts.maxima,
            parts.sums,
            others.num_rows,
            own.num_padded,
            saved.num_classes,
            tiles.shape[0],
            share.part * parts.num_dense,
            share.num_parts * parts.num_dense,
            SELF=is_self,
            IS_MIXED=part.is_mixed,
            IS_FIRST=part.is_first,
            **_options(tiling, own.rows, is_mixed=part.is_mixed),
        )


def gradient_parts(problem: Problem, weights: Weights, needed: list[bool]) -> list[Tensor | None]:
    """Gradients at the unit rows of anchors and references, in parts: `(splits, padded N, width)`, sorted."""
    return [
        _side_parts(problem, weights, is_anchor=is_anchor) if is_needed else None
        for is_anchor, is_needed in zip((True, False), needed, strict=True)
    ]


def _side_parts(problem: Problem, weights: Weights, *, is_anchor: bool) -> Tensor:
    anchors = (problem.own.rows, problem.own.labels, problem.saved.bases, weights.coefficients)
    references = (problem.others.rows, problem.others.labels, problem.saved.bases, weights.coefficients)
    rows, columns = (problem.own, problem.others) if is_anchor else (problem.others, problem.own)
    tiling = _tiling("gradient", rows.rows)
    num_rows, num_columns, (padded, width) = rows.num_rows, columns.num_rows, rows.rows.shape
    tiles, num_uniform = _list_tiles(columns, tiling.block_columns)
    num_row_tiles = divide_up(num_rows, tiling.block_rows)
    splits = num_splits(num_row_tiles, divide_up(tiles.shape[0], problem.share.num_parts))
    parts = problem.saved.bases.new_empty(splits, padded, width)
    for mode in problem.modes:
        for part in _passes(num_columns):
            launch(
                _kernels_pairs.accumulate_gradient,
                (num_row_tiles, splits),
                *(anchors if is_anchor else references),
                *(references if is_anchor else anchors),
                problem.saved.tables,
                problem.saved.summaries,
                tiles,
                num_uniform,
                parts,
                num_rows,
                num_columns,
                padded,
                problem.saved.num_classes,
                tiles.shape[0],
                problem.share.part * splits,
                problem.share.num_parts * splits,
                OWN=is_anchor,
                OTHER=problem.is_self or not is_anchor,
                SELF=problem.is_self,
                MIRRORED=mode,
                IS_MIXED=part.is_mixed,
                IS_FIRST=part.is_first,
                **_options(tiling, rows.rows, is_mixed=part.is_mixed),
            )
    return parts
