r"""Rows of more dimensions than the registers can hold a gradient of: the library multiplies, kernels do the rest.

One tile of thousands of rows and columns at a time: the library's product of rows goes to a workspace of a fixed size,
a kernel turns it into partition sums or, in place, into the pairs' weights A, and the library multiplies A with rows.
Where the batch is its own reference a tile off the diagonal serves both its rows and its columns: $3 B^2 D$
multiply-adds for forward and backward, all at the library's speed.

Products are of float16, whatever the dtype of the rows: unit rows lie well inside its range, and it has three bits more
than bfloat16. `"float32"` takes two planes of it, $x = (h + l) / 256$, and leaves $l l'$ out, which is $2^{-22}$ of
the result. A row then is stored as $(h, h, l, h)$, so that one product of its first three planes with another row's
last three is $h h' + h l' + l h'$.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.backends.fused import _kernels_products, _kernels_rows
from labeldist.backends.fused.launching import Precision, divide_up, launch
from labeldist.backends.fused.state import PartialSums, Problem, Saved, Sorted, Weights

__all__ = ["gradient_parts", "partition_sums", "row_unit"]

# Side of a tile, by planes: a workspace of 128 MiB.
TILE_ROWS = {1: 8192, 2: 4096}
# How the kernels cut a tile; each divides `launching.ROW_ALIGNMENT`, but for the strips, which it divides.
BLOCK_ROWS, BLOCK_COLUMNS, STRIP_ROWS, WEIGHED_ROWS = 16, 128, 1024, 64
NUM_WARPS = 4


class _Planes(NamedTuple):
    """Sorted rows as the products take them."""

    left: Tensor
    right: Tensor
    high: Tensor
    low: Tensor | None
    # Products of left and right, times it, are the rows' dot products.
    unit: float

    @classmethod
    def of(cls, rows: Tensor, precision: Precision) -> "_Planes":
        if precision != "float32":
            return cls(rows, rows, rows, None, 1.0)
        width = rows.shape[1] // 4
        unit = 1 / _kernels_rows.PLANE_SCALE.value**2
        return cls(rows[:, : 3 * width], rows[:, width:], rows[:, :width], rows[:, 2 * width : 3 * width], unit)


def row_unit(precision: Precision) -> float:
    """What rows are multiplied by in the products of `gradient_parts`."""
    return _kernels_rows.PLANE_SCALE.value if precision == "float32" else 1.0


def _mode(modes: list[bool]) -> int:
    """1 where pairs are mirrored, 0 where they are not, -1 where only the device knows."""
    return -1 if len(modes) > 1 else int(modes[0])


class _Workspace:
    """Memory for one tile: products, and the weights made from them."""

    def __init__(self, own: Tensor, others: Tensor, precision: Precision):
        self.planes = 2 if precision == "float32" else 1
        self.side = TILE_ROWS[self.planes]
        shape = min(self.side, len(own)), min(self.side, len(others))
        self.products = own.new_empty(shape, dtype=torch.float32 if self.planes == 2 else torch.float16)
        # Weights of one plane take the place of the products.
        self.high, self.low = self.products, None
        if self.planes == 2:
            self.high, self.low = own.new_empty(2, *shape)

    def tiles(self, own: Tensor, others: Tensor, *, is_self: bool):
        """First row and column, and their numbers, of each tile; on and above the diagonal for a batch with itself."""
        for row in range(0, len(own), self.side):
            for column in range(row if is_self else 0, len(others), self.side):
                yield row, column, min(self.side, len(own) - row), min(self.side, len(others) - column)


def partition_sums(
    own: Sorted, others: Sorted, saved: Saved, modes: list[bool], precision: Precision, *, is_self: bool
) -> PartialSums:
    """Sums over all pairs of each row."""
    left, right = _Planes.of(own.rows, precision), _Planes.of(others.rows, precision)
    memory = _Workspace(own.rows, others.rows, precision)
    maxima = torch.full_like(saved.lse, -torch.inf)
    sums = torch.zeros_like(saved.lse)
    part_stride = max(memory.products.shape)
    row_parts = sums.new_empty(2, divide_up(memory.products.shape[1], BLOCK_COLUMNS), part_stride)
    column_parts = sums.new_empty(2, divide_up(memory.products.shape[0], STRIP_ROWS), part_stride)
    for row, column, num_rows, num_columns in memory.tiles(own.rows, others.rows, is_self=is_self):
        products = memory.products[:num_rows, :num_columns]
        _multiply(left.left[row : row + num_rows], right.right[column : column + num_columns].T, products)
        launch(
            _kernels_products.sum_products,
            (num_columns // BLOCK_COLUMNS, divide_up(num_rows, STRIP_ROWS)),
            products,
            own.labels[row:],
            others.labels[column:],
            saved.tables,
            saved.summaries,
            *row_parts,
            *column_parts,
            row,
            column,
            len(own.order),
            len(others.order),
            len(saved.tables),
            num_rows,
            products.stride(0),
            part_stride,
            unit=left.unit,
            MODE=_mode(modes),
            SELF=is_self,
            STRIP=STRIP_ROWS,
            BLOCK_ROWS=BLOCK_ROWS,
            BLOCK_COLUMNS=BLOCK_COLUMNS,
            num_warps=NUM_WARPS,
        )
        num_row_blocks, num_column_blocks = num_rows // BLOCK_COLUMNS, num_columns // BLOCK_COLUMNS
        # A tile on the diagonal holds both orders of its pairs, and columns may be no anchors at all.
        has_both = is_self and row != column
        launch(
            _kernels_products.add_sums,
            (num_row_blocks + (num_column_blocks if has_both else 0),),
            *row_parts,
            *column_parts,
            maxima,
            sums,
            saved.summaries,
            row,
            column,
            num_column_blocks,
            divide_up(num_rows, STRIP_ROWS),
            num_row_blocks,
            part_stride,
            MODE=_mode(modes),
            BLOCK=BLOCK_COLUMNS,
        )
    return PartialSums(maxima[None], sums[None], 1, 1)


def gradient_parts(problem: Problem, weights: Weights, needed: list[bool]) -> list[Tensor | None]:
    """Gradients at the unit rows of anchors and references, sorted: `(1, padded N, width)`, in units of `row_unit`."""
    own, others, is_self, precision = problem.own, problem.others, problem.is_self, problem.precision
    left, right = _Planes.of(own.rows, precision), _Planes.of(others.rows, precision)
    memory = _Workspace(own.rows, others.rows, precision)
    own_total = torch.zeros_like(left.high, dtype=torch.float32) if needed[0] else None
    others_total = torch.zeros_like(right.high, dtype=torch.float32) if needed[1] else None
    if is_self:
        others_total = own_total
    for row, column, num_rows, num_columns in memory.tiles(own.rows, others.rows, is_self=is_self):
        products = memory.products[:num_rows, :num_columns]
        rows, columns = slice(row, row + num_rows), slice(column, column + num_columns)
        _multiply(left.left[rows], right.right[columns].T, products)
        high = memory.high[:num_rows, :num_columns]
        low = None if memory.low is None else memory.low[:num_rows, :num_columns]
        _weigh(problem, weights, products, high, low, left.unit, row, column)
        if own_total is not None:
            _accumulate(own_total[rows], high, low, right, columns)
        # A is symmetric where the batch is its own reference, so the transpose is the part below the diagonal.
        if others_total is not None and not (is_self and row == column):
            _accumulate(others_total[columns], high.T, None if low is None else low.T, left, rows)
    return [
        total[None] if is_needed and total is not None else None
        for total, is_needed in zip((own_total, others_total), needed, strict=True)
    ]


def _weigh(
    problem: Problem,
    weights: Weights,
    products: Tensor,
    high: Tensor,
    low: Tensor | None,
    unit: float,
    row: int,
    column: int,
) -> None:
    own, others, saved = problem.own, problem.others, problem.saved
    launch(
        _kernels_products.weigh_products,
        (products.shape[1] // BLOCK_COLUMNS, divide_up(products.shape[0], WEIGHED_ROWS)),
        products,
        high,
        low,
        own.labels[row:],
        saved.lse[row:],
        weights.coefficients[row:],
        others.labels[column:],
        # Read only where the columns are anchors too.
        saved.lse[column:],
        weights.coefficients[column:],
        saved.tables,
        saved.summaries,
        row,
        column,
        len(own.order),
        len(others.order),
        len(saved.tables),
        products.shape[0],
        products.stride(0),
        unit=unit,
        MODE=_mode(problem.modes),
        SELF=problem.is_self,
        STRIP=WEIGHED_ROWS,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_COLUMNS=BLOCK_COLUMNS,
        num_warps=NUM_WARPS,
    )


def _accumulate(total: Tensor, high: Tensor, low: Tensor | None, planes: _Planes, rows: slice) -> None:
    """`total += weights @ rows`, in float32."""
    _add_product(total, high, planes.high[rows])
    if low is not None and planes.low is not None:
        _add_product(total, high, planes.low[rows])
        _add_product(total, low, planes.high[rows])


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    if left.device.type == "cpu":  # in Triton's interpreter: a CPU has no products of float16 into float32
        out.copy_(left.float() @ right.float())
    elif out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        torch.mm(left, right, out_dtype=out.dtype, out=out)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.device.type == "cpu":
        total += left.float() @ right.float()
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
