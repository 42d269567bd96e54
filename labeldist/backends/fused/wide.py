r"""Passes over the pairs of wide rows (more than 128 dimensions), and of all float32 rows.

What it gains: 65,536 x 768 in bfloat16 take 26.7 ms forward and backward on an H200, where compiled eager takes 449 ms
and three plain matrix products 31.1 ms (`benchmarks/results/loss/cuda-bfloat16.json`).

The gradient of a tile of such rows does not fit the registers. Forward, a kernel multiplies rows tile by tile and adds
up exponentials before a product leaves the registers. Backward, it makes of the products the pair weights A of some
thousand rows and columns at a time, in a workspace of fixed size, and the library multiplies A by the rows. Where the
batch is its own reference a tile above the diagonal serves its rows and its columns: $3 B^2 D$ multiply-adds in all.

Products are of float16, whatever the dtype of the rows: unit rows lie well inside its range, and it has three bits more
than bfloat16. float32 rows are two planes of it, $x = (h + l) / 256$, side by side in a row of twice the width, and so
is A: three products, which a kernel of our own adds up more exactly than the library does (see `_kernels_planes.py`).
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from labeldist.backends._tiles import tile_rows_for
from labeldist.backends.fused import _kernels_planes, _kernels_wide, tilings
from labeldist.backends.fused.launching import launch
from labeldist.backends.fused.state import AnchorTerms, PairMode, PartialSums, Problem, Shard, SortedRows
from labeldist.backends.fused.tilings import (
    Tiling,
    divide_up,
    has_full_shared_memory,
    num_multiprocessors,
    round_up,
    tiling_for,
)

__all__ = ["gradient_parts", "partition_sums", "plane_scale"]

# Side of a block of pairs. Forward it bounds the partial sums: 36 MiB, or 72 with maxima. Backward it bounds the pair
# weights: 128 MiB a plane, or 32 for up to SMALL_BATCH_ROWS, where they are what takes most of the memory.
FORWARD_BLOCK_ROWS = 32768
BACKWARD_BLOCK_ROWS, SMALL_BACKWARD_BLOCK_ROWS, SMALL_BATCH_ROWS = 8192, 4096, 16384
# Rows that a program of the forward goes through, a multiple of any tiling's.
ROWS_PER_PROGRAM = 1024
# Row tiles that the programs of the backward take side by side.
GROUP = 8


class _Operand(NamedTuple):
    """Sorted rows as one side of the products."""

    rows: Tensor
    width: int
    # Products of rows, times it, are their dot products.
    product_scale: float

    @classmethod
    def of(cls, problem: Problem, rows: SortedRows) -> "_Operand":
        return cls(rows.rows.view(), problem.width, 1 / plane_scale(problem) ** 2)

    @property
    def num_planes(self) -> int:
        """Planes of float16 that a row has."""
        return self.rows.shape[1] // self.width

    @property
    def is_two_planes(self) -> bool:
        """Whether there are two."""
        return self.num_planes > 1


class _Block(NamedTuple):
    """A block of pairs: its first row and column, and its size, which is smaller at the end of the rows."""

    row: int
    column: int
    num_rows: int
    num_columns: int


def plane_scale(problem: Problem) -> float:
    """What the rows in the products of `gradient_parts` are multiplied by."""
    return _kernels_planes.PLANE_SCALE.value if problem.is_two_planes else 1.0


def _block_side(num_rows: int, num_columns: int, shard: Shard, *, is_self: bool, at_most: int) -> int:
    """Side of the blocks: less than `at_most` where a shard would have too few of them, or where the rows end."""
    side = tile_rows_for(num_rows, None if is_self else num_columns, shard.num_shards, at_most=at_most)
    return min(round_up(side, tilings.ROW_ALIGNMENT), max(num_rows, num_columns))


def _blocks(num_rows: int, num_columns: int, side: int, shard: Shard, *, is_self: bool) -> Iterator[_Block]:
    """A shard of all pairs; of a batch that is its own reference, of those on and above the diagonal."""
    corners = (
        (row, column) for row in range(0, num_rows, side) for column in range(row if is_self else 0, num_columns, side)
    )
    for row, column in islice(corners, shard.index, None, shard.num_shards):
        yield _Block(row, column, min(side, num_rows - row), min(side, num_columns - column))


def _tiling(kernel: str, operand: _Operand, mode: PairMode = "dense") -> Tiling:
    needs_full = kernel == "weights" or operand.is_two_planes
    kind = "any" if needs_full and not has_full_shared_memory(operand.rows.device) else mode
    return tiling_for(f"{kind} {kernel}", 4 if operand.is_two_planes else 2, operand.width)


def _options(tiling: Tiling, operand: _Operand, mode: PairMode, *, is_self: bool) -> dict:
    """Compile-time arguments that the kernels over pairs share."""
    return {
        "product_scale": operand.product_scale,
        "TWO_PLANES": operand.is_two_planes,
        "IS_SELF": is_self,
        "MIRRORED": mode == "mirrored",
        "WIDTH": operand.width,
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLUMNS": tiling.block_columns,
        "BLOCK_D": tiling.block_d,
        "num_warps": tiling.num_warps,
        "num_stages": tiling.num_stages,
    }


def _descriptors(left: _Operand, right: _Operand, tiling: Tiling) -> tuple[TensorDescriptor, TensorDescriptor]:
    """Both sides of the products, for loads by the copy engine."""
    return (
        TensorDescriptor.from_tensor(left.rows, [tiling.block_rows, tiling.block_d]),
        TensorDescriptor.from_tensor(right.rows, [tiling.block_columns, tiling.block_d]),
    )


def partition_sums(problem: Problem) -> PartialSums:
    """Softmax denominators of each anchor over a shard of its pairs."""
    anchors, references, state, is_self = problem.anchors, problem.references, problem.state, problem.is_self
    empty = problem.batch.embeddings.new_empty
    maxima = empty(anchors.num_padded, dtype=torch.float32).fill_(-torch.inf)
    sums = torch.zeros_like(maxima)
    if not anchors.num_padded or not references.num_padded:
        return PartialSums(maxima[None], sums[None], 1, 1)
    left, right = _Operand.of(problem, anchors), _Operand.of(problem, references)
    kinds = {mode: _tiling("sums", left, mode) for mode in problem.modes}
    descriptors = {mode: _descriptors(left, right, tiling) for mode, tiling in kinds.items()}
    block = kinds[problem.modes[0]].block_columns
    side = _block_side(
        anchors.num_padded, references.num_padded, problem.shard, is_self=is_self, at_most=FORWARD_BLOCK_ROWS
    )  # fmt: skip
    # Sums, and maxima beside them unless one shift serves all.
    num_kinds = 2 if "dense" in problem.modes else 1
    row_parts = empty(num_kinds, divide_up(side, block), side, dtype=torch.float32)
    column_parts = empty(num_kinds, divide_up(side, ROWS_PER_PROGRAM), side, dtype=torch.float32)
    parts = row_parts[0], row_parts[-1], column_parts[0], column_parts[-1]
    for pairs in _blocks(anchors.num_padded, references.num_padded, side, problem.shard, is_self=is_self):
        for mode in problem.modes:
            launch(
                _kernels_wide.sum_exponentials,
                (pairs.num_columns // block, divide_up(pairs.num_rows, ROWS_PER_PROGRAM)),
                *descriptors[mode],
                anchors.labels,
                references.labels,
                references.ends,
                state.tables,
                state.summaries,
                *parts,
                pairs.row,
                pairs.column,
                anchors.num_rows,
                references.num_rows,
                problem.num_classes,
                pairs.num_rows,
                side,
                ROWS_PER_PROGRAM=ROWS_PER_PROGRAM,
                **_options(kinds[mode], left, mode, is_self=is_self),
            )
        # Columns are anchors too in a batch that is its own reference; on the diagonal they are the rows.
        num_added = pairs.num_rows + (pairs.num_columns if is_self and pairs.row != pairs.column else 0)
        launch(
            _kernels_wide.merge_partial_sums,
            (num_added // block,),
            *parts,
            maxima,
            sums,
            state.summaries,
            *pairs,
            side,
            IS_SELF=is_self,
            ROWS_PER_PROGRAM=ROWS_PER_PROGRAM,
            BLOCK=block,
        )
    return PartialSums(maxima[None], sums[None], 1, 1)


def gradient_parts(
    problem: Problem, terms: AnchorTerms, *, of_anchors: bool, of_references: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients at the sorted unit rows of anchors and references: `(1, padded N, width)`, times `plane_scale`."""
    anchors, references, is_self = problem.anchors, problem.references, problem.is_self
    left, right = _Operand.of(problem, anchors), _Operand.of(problem, references)

    def zeros(operand: _Operand) -> Tensor:
        return operand.rows.new_zeros(operand.rows.shape[0], operand.width, dtype=torch.float32)

    anchor_total = zeros(left) if of_anchors else None
    ref_total = zeros(right) if of_references else None
    if anchors.num_padded and references.num_padded:
        _accumulate_blocks(problem, terms, left, right, anchor_total, anchor_total if is_self else ref_total)
    return (
        None if anchor_total is None else anchor_total[None],
        None if ref_total is None else ref_total[None],
    )


def _accumulate_blocks(
    problem: Problem,
    terms: AnchorTerms,
    left: _Operand,
    right: _Operand,
    anchor_total: Tensor | None,
    ref_total: Tensor | None,
) -> None:
    """Add what each block of pairs gives to the gradients."""
    num_rows, num_columns, is_self = problem.anchors.num_padded, problem.references.num_padded, problem.is_self
    at_most = BACKWARD_BLOCK_ROWS if max(num_rows, num_columns) > SMALL_BATCH_ROWS else SMALL_BACKWARD_BLOCK_ROWS
    side = _block_side(num_rows, num_columns, problem.shard, is_self=is_self, at_most=at_most)
    weights = left.rows.new_empty(left.num_planes, min(side, num_rows), min(side, num_columns))
    launches = [_WeightsLaunch.of(problem, terms, left, right, weights, mode) for mode in problem.modes]
    for pairs in _blocks(num_rows, num_columns, side, problem.shard, is_self=is_self):
        for each in launches:
            each.run(pairs)
        if anchor_total is not None:
            _accumulate(anchor_total, weights, right, pairs, is_transposed=False)
        # A is symmetric where the batch is its own reference, so the transpose is the part below the diagonal.
        if ref_total is not None and not (is_self and pairs.row == pairs.column):
            _accumulate(ref_total, weights, left, pairs, is_transposed=True)


class _WeightsLaunch(NamedTuple):
    """A launch of `store_pair_weights` but for the block: what all blocks share is made once."""

    arguments: tuple
    sizes: tuple[int, int, int]
    tile: tuple[int, int]
    num_programs: int
    options: dict

    @classmethod
    def of(
        cls, problem: Problem, terms: AnchorTerms, left: _Operand, right: _Operand, weights: Tensor, mode: PairMode
    ) -> "_WeightsLaunch":
        anchors, references, state = problem.anchors, problem.references, problem.state
        tiling = _tiling("weights", left, mode)
        tile = tiling.block_rows, tiling.block_columns
        high, *low = (TensorDescriptor.from_tensor(plane, list(tile)) for plane in weights)
        return cls(
            arguments=(
                *_descriptors(left, right, tiling),
                high,
                low[0] if low else None,
                anchors.labels,
                state.shifts,
                terms.coefficients,
                references.labels,
                references.ends,
                # Read only where the columns are anchors too.
                state.shifts,
                terms.coefficients,
                state.tables,
                state.summaries,
            ),
            sizes=(anchors.num_rows, references.num_rows, problem.num_classes),
            tile=tile,
            num_programs=num_multiprocessors(weights.device),
            options=_options(tiling, left, mode, is_self=problem.is_self),
        )

    def run(self, pairs: _Block) -> None:
        num_tiles = pairs.num_rows // self.tile[0], pairs.num_columns // self.tile[1]
        launch(
            _kernels_wide.store_pair_weights,
            (min(self.num_programs, num_tiles[0] * num_tiles[1]),),
            *self.arguments,
            pairs.row,
            pairs.column,
            *self.sizes,
            *num_tiles,
            GROUP=GROUP,
            **self.options,
        )


def _accumulate(total: Tensor, weights: Tensor, operand: _Operand, pairs: _Block, *, is_transposed: bool) -> None:
    """`total += weights @ rows` for the rows of a block or, transposed, for its columns; in float32."""
    if operand.is_two_planes:
        _accumulate_planes(total, weights, operand, pairs, is_transposed=is_transposed)
        return
    rows = slice(pairs.row, pairs.row + pairs.num_rows)
    columns = slice(pairs.column, pairs.column + pairs.num_columns)
    matrix = weights[0, : pairs.num_rows, : pairs.num_columns]
    if is_transposed:
        rows, columns, matrix = columns, rows, matrix.T
    _add_product(total[rows], matrix, operand.rows[columns])


def _accumulate_planes(
    total: Tensor, weights: Tensor, operand: _Operand, pairs: _Block, *, is_transposed: bool
) -> None:
    rows, columns = (pairs.row, pairs.num_rows), (pairs.column, pairs.num_columns)
    tiling = _tiling("products", operand)
    tile = [tiling.block_rows, tiling.block_columns]
    if is_transposed:
        rows, columns, tile = columns, rows, tile[::-1]
    launch(
        _kernels_planes.add_products,
        (divide_up(operand.width, tiling.block_d), rows[1] // tiling.block_rows),
        *(TensorDescriptor.from_tensor(plane, tile) for plane in weights),
        TensorDescriptor.from_tensor(operand.rows, [tiling.block_columns, tiling.block_d]),
        total,
        rows[0],
        *columns,
        TRANSPOSED=is_transposed,
        WIDTH=operand.width,
        BLOCK_ROWS=tiling.block_rows,
        BLOCK_D=tiling.block_d,
        BLOCK_TERMS=tiling.block_columns,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.device.type == "cpu":  # in Triton's interpreter: a CPU has no products of float16 into float32
        total += left.float() @ right.float()
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
