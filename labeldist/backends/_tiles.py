"""The pairs of a batch, divided into square tiles: the order of the tiles, their processes, and the logits of a tile.

If the anchors are their own references, a tile above the diagonal also covers its mirror image below it, so only the
tiles on and above the diagonal are computed. Tiles are numbered column by column. In a group of P processes, which all
hold the same rows, rank r computes the tiles r, r + P, r + 2 P, ..., so each tile is computed once.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.backends._class_sums import add_by_class
from labeldist.backends._threads import adjust_threads
from labeldist.distributed import ProcessGroup
from labeldist.pairs import Batch, ClassPairTables

__all__ = ["PairGrid", "RowGradients", "Softmax", "Tile", "softmaxes_of", "tile_rows_for", "tiles"]

LN_2 = math.log(2)

# Minimum number of tiles per process, if there are enough pairs. In the last round some processes have no tile left;
# with this minimum they are idle for at most an eighth of the time.
MIN_TILES_PER_PROCESS = 8


def tile_rows_for(num_rows: int, num_references: int | None, num_processes: int, *, at_most: int) -> int:
    """Rows and columns of a tile: `at_most`, or fewer if each process would otherwise get too few tiles."""
    if num_processes == 1:
        return at_most
    num_pairs = num_rows**2 // 2 if num_references is None else num_rows * num_references
    return max(1, min(at_most, math.isqrt(num_pairs // (MIN_TILES_PER_PROCESS * num_processes))))


class PairGrid:
    """All pairs of anchors and references, divided into tiles and among the processes of a group.

    Args:
        batch: normalized rows, with int64 labels.
        tile_rows: rows and columns of a tile.
        group: the processes that divide the tiles among themselves.
    """

    def __init__(self, batch: Batch, tile_rows: int, group: ProcessGroup):
        self.is_self = batch.is_self
        self.anchors, self.labels = batch.embeddings, batch.labels
        self.references, self.ref_labels = batch.references
        self.tile_rows = tile_rows
        self.group = group


class Softmax:
    """The softmax of the anchors of a tile. The anchors are its rows, or, if transposed, its columns.

    If the anchors are their own references, the dot products of tile `(I, J)` are also those of tile `(J, I)`. With
    transposed tables they give the logits of the anchors `J`, whose references lie along dimension 0 of the tile.

    Args:
        grid: the pairs.
        tables: scale and bias of dot products, in base 2.
        is_transposed: whether the columns of the tile are the anchors.
    """

    def __init__(self, grid: PairGrid, tables: ClassPairTables, *, is_transposed: bool = False):
        self.grid = grid
        self.scale, self.bias = (table.T if is_transposed else table for table in (tables.scale, tables.bias))
        self.is_transposed = is_transposed
        # The dimension of a tile that holds the references of one anchor.
        self.dim = 0 if is_transposed else 1

    def select_columns(self, columns: slice) -> None:
        """Gather the columns of the tables for one column of tiles, so that each tile only has to gather whole rows."""
        labels = self.grid.ref_labels[columns]
        # Each (C, columns).
        self.column_scale, self.column_bias = (table.index_select(1, labels) for table in (self.scale, self.bias))

    def logits(self, tile: "Tile") -> Tensor:
        """Write `scale * products + bias` to `tile.scratch`, and the scale of each pair to `tile.scale`."""
        labels = self.grid.labels[tile.rows]
        torch.index_select(self.column_scale, 0, labels, out=tile.scale)
        torch.index_select(self.column_bias, 0, labels, out=tile.scratch)
        logits = tile.scratch.addcmul_(tile.scale, tile.products)
        return logits.fill_diagonal_(-torch.inf) if tile.is_diagonal else logits

    def anchors_of(self, tile: "Tile") -> slice:
        """The anchors of this softmax in a tile."""
        return tile.columns if self.is_transposed else tile.rows

    def add_by_classes(self, table: Tensor, tile: "Tile", values: Tensor) -> None:
        """Add the value of each pair to the table entry of its two classes."""
        by_class = values.new_zeros(len(table), values.shape[1])  # (C, columns)
        add_by_class(by_class, self.grid.labels[tile.rows], values)
        add_by_class(table if self.is_transposed else table.T, self.grid.ref_labels[tile.columns], by_class.T)


def softmaxes_of(grid: PairGrid, tables: ClassPairTables) -> list[Softmax]:
    """The softmaxes to which the pairs of a tile contribute: two if the anchors are their own references, else one."""
    softmaxes = [Softmax(grid, tables)]
    return [*softmaxes, Softmax(grid, tables, is_transposed=True)] if grid.is_self else softmaxes


class Tile(NamedTuple):
    """The pairs of `rows` (anchors) and `columns` (references), and buffers of their shape.

    Attributes:
        rows: the anchors.
        columns: the references.
        is_diagonal: whether rows and columns are the same, so that the tile contains both orders of each pair.
        products: dot products of the normalized rows.
        scale: the scale of each pair.
        scratch: buffer for the logits and for values computed from them.
        weights: buffer for the coefficients of the gradient.
    """

    rows: slice
    columns: slice
    is_diagonal: bool
    products: Tensor
    scale: Tensor
    scratch: Tensor
    weights: Tensor


def tiles(grid: PairGrid, softmaxes: Sequence[Softmax]) -> Iterator[Tile]:
    """This process's tiles, each with its dot products."""
    num_rows, num_columns = len(grid.anchors), len(grid.references)
    # Reuse the buffers for every tile: allocating new ones takes longer than most operations on them.
    buffers = grid.anchors.new_empty(4, min(num_rows, grid.tile_rows) * min(num_columns, grid.tile_rows))
    first_number = 0  # number of the first tile in the column
    for columns in _slices(num_columns, grid.tile_rows):
        in_column = _slices(columns.stop if grid.is_self else num_rows, grid.tile_rows)
        of_this_process = in_column[(grid.group.rank - first_number) % grid.group.size :: grid.group.size]
        first_number += len(in_column)
        if of_this_process:
            for softmax in softmaxes:
                softmax.select_columns(columns)
        references = grid.references[columns]
        for rows in of_this_process:
            adjust_threads()
            anchors = grid.anchors[rows]
            shape = len(anchors), len(references)
            tile = Tile(
                rows,
                columns,
                grid.is_self and rows == columns,
                *buffers[:, : shape[0] * shape[1]].view(-1, *shape).unbind(),
            )
            torch.mm(anchors, references.T, out=tile.products)
            yield tile


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


class RowGradients:
    """Row gradients, summed over this process's tiles: `weights @ references` and `weights.T @ anchors`."""

    def __init__(self, grid: PairGrid, needs_anchors: bool, needs_references: bool):
        self.grid = grid
        self.grad_anchors = torch.zeros_like(grid.anchors) if needs_anchors else None
        self.grad_references = torch.zeros_like(grid.references) if needs_references else None

    def add(self, tile: Tile, weights: Tensor, *, both: bool = True) -> None:
        """Add the contribution of one tile to its rows and, with `both`, to its columns."""
        # `weights` use the base-2 scale; LN_2 converts back.
        if self.grad_anchors is not None:
            self.grad_anchors[tile.rows].addmm_(weights, self.grid.references[tile.columns], alpha=LN_2)
        grad_columns = self.grad_anchors if self.grid.is_self else self.grad_references
        if both and grad_columns is not None:
            grad_columns[tile.columns].addmm_(weights.T, self.grid.anchors[tile.rows], alpha=LN_2)
