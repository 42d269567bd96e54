r"""Rows of more dimensions than the registers can hold a gradient of, and rows of float32.

Forward: a kernel multiplies rows tile by tile and adds up exponentials before a product leaves the registers. Backward:
it makes of the products the pairs' weights A, thousands of rows and columns at a time, in a workspace of a fixed size,
and the library multiplies A with rows. Where the batch is its own reference a tile off the diagonal serves both its
rows and its columns: $3 B^2 D$ multiply-adds for forward and backward.

Products are of float16, whatever the dtype of the rows: unit rows lie well inside its range, and it has three bits more
than bfloat16. `"float32"` takes two planes of it, $x = (h + l) / 256$, one beside the other in a row of twice the
width, and so of A: three products, which a kernel of our own adds up, more exactly than the library: see
`_kernels_planes.py`.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from labeldist.backends._tiles import tile_rows_for
from labeldist.backends.fused import _kernels_planes, _kernels_wide, launching
from labeldist.backends.fused.launching import (
    Tiling,
    divide_up,
    has_much_fast_memory,
    launch,
    num_multiprocessors,
    round_up,
    tiling_for,
)
from labeldist.backends.fused.state import PartialSums, Problem, Saved, Share, Sorted, Weights

__all__ = ["gradient_parts", "partition_sums", "row_unit"]

# Side of a square of pairs. Forward it bounds the partial sums: 36 MiB, or 72 with maxima. Backward the workspace for
# each plane: 128 MiB, or 32 for up to `FEW_ROWS`, where it is what takes most of the memory.
SUMMED_ROWS = 32768
WEIGHED_ROWS, FEW_WEIGHED_ROWS, FEW_ROWS = 8192, 4096, 16384
# Rows that a program of the forward goes through, a multiple of any tiling's.
STRIP_ROWS = 1024
# Of the backward's programs, row blocks side by side.
GROUP = 8


class _Rows(NamedTuple):
    """Sorted rows as the products take them."""

    rows: Tensor
    width: int
    # Products of rows, times it, are their dot products.
    unit: float

    @classmethod
    def of(cls, by_class: Sorted, saved: Saved) -> "_Rows":
        return cls(by_class.rows, saved.class_sums.shape[1], 1 / row_unit(by_class, saved) ** 2)

    @property
    def num_planes(self) -> int:
        """Numbers of float16 that are kept for each of a row's."""
        return self.rows.shape[1] // self.width

    @property
    def is_split(self) -> bool:
        """Whether they are of two planes."""
        return self.num_planes > 1


class _Square(NamedTuple):
    """A square of pairs, or what is left of one at the end: its first row and column, and how many there are."""

    row: int
    column: int
    num_rows: int
    num_columns: int


def row_unit(by_class: Sorted, saved: Saved) -> float:
    """What rows are multiplied by in the products of `gradient_parts`."""
    return _kernels_planes.PLANE_SCALE.value if by_class.is_split(saved.class_sums.shape[1]) else 1.0


def _side(num_rows: int, num_columns: int, share: Share, *, is_self: bool, at_most: int) -> int:
    """Side of the squares: less than `at_most` where a share would have too few of them, or they would stick out."""
    side = tile_rows_for(num_rows, None if is_self else num_columns, share.num_parts, at_most=at_most)
    return min(round_up(side, launching.ROW_ALIGNMENT), max(num_rows, num_columns))


def _squares(num_rows: int, num_columns: int, side: int, share: Share, *, is_self: bool) -> Iterator[_Square]:
    """A share of all pairs, which are those on and above the diagonal for a batch with itself."""
    corners = (
        (row, column) for row in range(0, num_rows, side) for column in range(row if is_self else 0, num_columns, side)
    )
    for row, column in islice(corners, share.part, None, share.num_parts):
        yield _Square(row, column, min(side, num_rows - row), min(side, num_columns - column))


def _tiling(kernel: str, rows: _Rows, *, is_mirrored: bool = False) -> Tiling:
    kind = "mirrored" if is_mirrored else "dense"
    if (kernel == "weights" or rows.is_split) and not has_much_fast_memory(rows.rows.device):
        kind = "any"
    return tiling_for(f"{kind} {kernel}", 4 if rows.is_split else 2, rows.width)


def _options(tiling: Tiling, rows: _Rows, *, is_self: bool, is_mirrored: bool) -> dict:
    """Compile-time arguments that the kernels over pairs share."""
    return {
        "unit": rows.unit,
        "IS_SPLIT": rows.is_split,
        "SELF": is_self,
        "MIRRORED": is_mirrored,
        "WIDTH": rows.width,
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLUMNS": tiling.block_columns,
        "BLOCK_D": tiling.block_d,
        "num_warps": tiling.num_warps,
        "num_stages": tiling.num_stages,
    }


def _descriptors(left: _Rows, right: _Rows, tiling: Tiling) -> tuple[TensorDescriptor, TensorDescriptor]:
    """Both sides of the products, as the copy engine reads them."""
    return (
        TensorDescriptor.from_tensor(left.rows, [tiling.block_rows, tiling.block_d]),
        TensorDescriptor.from_tensor(right.rows, [tiling.block_columns, tiling.block_d]),
    )


def partition_sums(
    own: Sorted,
    others: Sorted,
    saved: Saved,
    modes: list[bool],
    share: Share,
    *,
    is_self: bool,
) -> PartialSums:
    """Sums over a share of the pairs of each row."""
    maxima = torch.full_like(saved.bases, -torch.inf)
    sums = torch.zeros_like(saved.bases)
    if not own.num_padded or not others.num_padded:
        return PartialSums(maxima[None], sums[None], 1, 1)
    left, right = _Rows.of(own, saved), _Rows.of(others, saved)
    tilings = {mode: _tiling("sums", left, is_mirrored=mode) for mode in modes}
    descriptors = {mode: _descriptors(left, right, tiling) for mode, tiling in tilings.items()}
    block = tilings[modes[0]].block_columns
    side = _side(own.num_padded, others.num_padded, share, is_self=is_self, at_most=SUMMED_ROWS)
    num_kinds = 2 if False in modes else 1
    # Sums, and maxima where those are not of one shift.
    row_parts = sums.new_empty(num_kinds, divide_up(side, block), side)
    column_parts = sums.new_empty(num_kinds, divide_up(side, STRIP_ROWS), side)
    parts = row_parts[0], row_parts[-1], column_parts[0], column_parts[-1]
    for square in _squares(own.num_padded, others.num_padded, side, share, is_self=is_self):
        for mode in modes:
            launch(
                _kernels_wide.sum_pairs,
                (square.num_columns // block, divide_up(square.num_rows, STRIP_ROWS)),
                *descriptors[mode],
                own.labels,
                others.labels,
                others.segments[1],
                saved.tables,
                saved.summaries,
                *parts,
                square.row,
                square.column,
                own.num_rows,
                others.num_rows,
                saved.num_classes,
                square.num_rows,
                side,
                STRIP=STRIP_ROWS,
                **_options(tilings[mode], left, is_self=is_self, is_mirrored=mode),
            )
        # Columns are anchors too in a batch with itself, and on the diagonal they are the rows.
        num_added = square.num_rows + (square.num_columns if is_self and square.row != square.column else 0)
        launch(
            _kernels_wide.add_sums,
            (num_added // block,),
            *parts,
            maxima,
            sums,
            saved.summaries,
            square.row,
            square.column,
            square.num_rows,
            square.num_columns,
            side,
            SELF=is_self,
            STRIP=STRIP_ROWS,
            BLOCK=block,
        )
    return PartialSums(maxima[None], sums[None], 1, 1)


def gradient_parts(problem: Problem, weights: Weights, needed: list[bool]) -> list[Tensor | None]:
    """Gradients at the unit rows of anchors and references, sorted: `(1, padded N, width)`, in units of `row_unit`."""
    own, others, saved, is_self = problem.own, problem.others, problem.saved, problem.is_self
    left, right = _Rows.of(own, saved), _Rows.of(others, saved)
    own_total, others_total = (
        rows.rows.new_zeros(len(rows.rows), rows.width, dtype=torch.float32) if is_needed else None
        for rows, is_needed in zip((left, right), needed, strict=True)
    )
    if is_self:
        others_total = own_total
    if own.num_padded and others.num_padded:
        _accumulate_squares(problem, weights, left, right, own_total, others_total)
    return [
        total[None] if is_needed and total is not None else None
        for total, is_needed in zip((own_total, others_total), needed, strict=True)
    ]


def _accumulate_squares(
    problem: Problem,
    weights: Weights,
    left: _Rows,
    right: _Rows,
    own_total: Tensor | None,
    others_total: Tensor | None,
) -> None:
    """Add what each square gives to the gradients."""
    num_rows, num_columns, is_self = problem.own.num_padded, problem.others.num_padded, problem.is_self
    at_most = WEIGHED_ROWS if max(num_rows, num_columns) > FEW_ROWS else FEW_WEIGHED_ROWS
    side = _side(num_rows, num_columns, problem.share, is_self=is_self, at_most=at_most)
    memory = left.rows.new_empty(left.num_planes, min(side, num_rows), min(side, num_columns))
    weighing = [_Weighing.of(problem, weights, left, right, memory, is_mirrored=mode) for mode in problem.modes]
    for square in _squares(num_rows, num_columns, side, problem.share, is_self=is_self):
        for each in weighing:
            each.run(square)
        if own_total is not None:
            _accumulate(own_total, memory, right, square, is_transposed=False)
        # A is symmetric where the batch is its own reference, so the transpose is the part below the diagonal.
        if others_total is not None and not (is_self and square.row == square.column):
            _accumulate(others_total, memory, left, square, is_transposed=True)


class _Weighing(NamedTuple):
    """A launch of `weigh_pairs` but for the square: what all squares share is made once."""

    arguments: tuple
    sizes: tuple[int, int, int]
    block: tuple[int, int]
    num_programs: int
    options: dict

    @classmethod
    def of(
        cls, problem: Problem, weights: Weights, left: _Rows, right: _Rows, memory: Tensor, *, is_mirrored: bool
    ) -> "_Weighing":
        own, others, saved = problem.own, problem.others, problem.saved
        tiling = _tiling("weights", left, is_mirrored=is_mirrored)
        block = tiling.block_rows, tiling.block_columns
        high, *low = (TensorDescriptor.from_tensor(plane, list(block)) for plane in memory)
        return cls(
            arguments=(
                *_descriptors(left, right, tiling),
                high,
                low[0] if low else None,
                own.labels,
                saved.bases,
                weights.coefficients,
                others.labels,
                others.segments[1],
                # Read only where the columns are anchors too.
                saved.bases,
                weights.coefficients,
                saved.tables,
                saved.summaries,
            ),
            sizes=(own.num_rows, others.num_rows, saved.num_classes),
            block=block,
            num_programs=num_multiprocessors(memory.device),
            options=_options(tiling, left, is_self=problem.is_self, is_mirrored=is_mirrored),
        )

    def run(self, square: _Square) -> None:
        num_blocks = square.num_rows // self.block[0], square.num_columns // self.block[1]
        launch(
            _kernels_wide.weigh_pairs,
            (min(self.num_programs, num_blocks[0] * num_blocks[1]),),
            *self.arguments,
            square.row,
            square.column,
            *self.sizes,
            *num_blocks,
            GROUP=GROUP,
            **self.options,
        )


def _accumulate(total: Tensor, memory: Tensor, rows: _Rows, square: _Square, *, is_transposed: bool) -> None:
    """`total += weights @ rows` for the rows of a square or, transposed, for its columns; in float32."""
    if rows.is_split:
        _accumulate_planes(total, memory, rows, square, is_transposed=is_transposed)
        return
    own = slice(square.row, square.row + square.num_rows)
    others = slice(square.column, square.column + square.num_columns)
    weights = memory[0, : square.num_rows, : square.num_columns]
    if is_transposed:
        own, others, weights = others, own, weights.T
    _add_product(total[own], weights, rows.rows[others])


def _accumulate_planes(total: Tensor, memory: Tensor, rows: _Rows, square: _Square, *, is_transposed: bool) -> None:
    own, others = (square.row, square.num_rows), (square.column, square.num_columns)
    tiling = _tiling("products", rows)
    block = [tiling.block_rows, tiling.block_columns]
    if is_transposed:
        own, others, block = others, own, block[::-1]
    launch(
        _kernels_planes.add_products,
        (divide_up(rows.width, tiling.block_d), own[1] // tiling.block_rows),
        *(TensorDescriptor.from_tensor(plane, block) for plane in memory),
        TensorDescriptor.from_tensor(rows.rows, [tiling.block_columns, tiling.block_d]),
        total,
        own[0],
        *others,
        TRANSPOSED=is_transposed,
        WIDTH=rows.width,
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
