"""All pairs of a batch as square tiles: which there are, whose they are, and the logits in one.

Where the anchors are their own references the tiles on and above the diagonal are all: one stands for its mirror image
too. Tiles are numbered, column after column. A group of P members that all have the same rows deals them out: member r
takes the numbers r, r + P, r + 2 P, ..., so that each tile is computed once.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.backends._class_sums import add_by_class
from labeldist.distributed import ProcessGroup

__all__ = ["Pairs", "RowGradients", "Side", "Tile", "sides_of", "tile_rows_for", "tiles"]

LN_2 = math.log(2)

# So many tiles a member, at least, where there are pairs enough: the last round, in which some members have none, then
# costs an eighth at most.
TILES_PER_MEMBER = 8


def tile_rows_for(num_rows: int, num_references: int | None, num_members: int, *, at_most: int) -> int:
    """Rows and columns of a tile: `at_most`, or as few as give each member of a group several tiles."""
    if num_members == 1:
        return at_most
    num_pairs = num_rows**2 // 2 if num_references is None else num_rows * num_references
    return max(1, min(at_most, math.isqrt(num_pairs // (TILES_PER_MEMBER * num_members))))


class Pairs:
    """All pairs of anchors and references, of which the group's member computes its tiles."""

    def __init__(
        self,
        anchors: Tensor,
        references: Tensor | None,
        labels: Tensor,
        ref_labels: Tensor,
        tile_rows: int,
        group: ProcessGroup,
    ):
        self.anchors, self.labels = anchors, labels
        self.are_same = references is None
        self.references, self.ref_labels = anchors if references is None else references, ref_labels
        self.tile_rows = tile_rows
        self.group = group


class Side:
    """One softmax that the pairs of a tile belong to: of its rows, or of its columns, which come from mirrored tables.

    Where the anchors are their own references, the products of the tile `(I, J)` are those of `(J, I)` too. With the
    tables transposed they give the logits of the anchors `J`, along dimension 0 of the tile.
    """

    def __init__(self, pairs: Pairs, factor: Tensor, offset: Tensor, *, is_mirrored: bool = False):
        self.pairs = pairs
        self.tables = (factor.T, offset.T) if is_mirrored else (factor, offset)
        self.is_mirrored = is_mirrored
        # The dimension of a tile along which the references of one anchor lie.
        self.dim = 0 if is_mirrored else 1

    def select_columns(self, columns: slice) -> None:
        """Spread the tables over the references of a column of tiles: each tile then copies whole rows."""
        self.columns = [table.index_select(1, self.pairs.ref_labels[columns]) for table in self.tables]  # (C, columns)

    def logits(self, tile: "Tile") -> Tensor:
        """`factor * products + offset`, in `tile.scratch`; leaves the factor of each pair in `tile.factors`."""
        for table, spread in zip(self.columns, (tile.factors, tile.scratch), strict=True):
            torch.index_select(table, 0, self.pairs.labels[tile.rows], out=spread)
        logits = tile.scratch.addcmul_(tile.factors, tile.products)
        return logits.fill_diagonal_(-torch.inf) if tile.is_diagonal else logits

    def anchors_of(self, tile: "Tile") -> slice:
        """The anchors whose softmax this is."""
        return tile.columns if self.is_mirrored else tile.rows

    def add_by_classes(self, table: Tensor, tile: "Tile", values: Tensor) -> None:
        """Add each pair's value to the entry of its two classes."""
        by_class = values.new_zeros(len(table), values.shape[1])  # (C, columns)
        add_by_class(by_class, self.pairs.labels[tile.rows], values)
        add_by_class(table if self.is_mirrored else table.T, self.pairs.ref_labels[tile.columns], by_class.T)


def sides_of(pairs: Pairs, factor: Tensor, offset: Tensor) -> list[Side]:
    """The softmaxes that a tile's pairs belong to: two where the anchors are their own references."""
    sides = [Side(pairs, factor, offset)]
    return [*sides, Side(pairs, factor, offset, is_mirrored=True)] if pairs.are_same else sides


class Tile(NamedTuple):
    """The pairs of `rows` (anchors) and `columns` (references), and memory of their shape."""

    rows: slice
    columns: slice
    # Whether these are the pairs of some anchors with themselves, in both orders.
    is_diagonal: bool
    products: Tensor
    factors: Tensor
    scratch: Tensor
    weights: Tensor


def tiles(pairs: Pairs, sides: Sequence[Side]) -> Iterator[Tile]:
    """The member's tiles, each with its products."""
    num_rows, num_columns = len(pairs.anchors), len(pairs.references)
    # The same memory for every tile: new memory costs more than most operations on it.
    memory = pairs.anchors.new_empty(4, min(num_rows, pairs.tile_rows) * min(num_columns, pairs.tile_rows))
    number = 0  # of the first tile of a column
    for columns in _slices(num_columns, pairs.tile_rows):
        in_column = _slices(columns.stop if pairs.are_same else num_rows, pairs.tile_rows)
        own = in_column[(pairs.group.rank - number) % pairs.group.size :: pairs.group.size]
        number += len(in_column)
        if own:
            for side in sides:
                side.select_columns(columns)
        references = pairs.references[columns]
        for rows in own:
            anchors = pairs.anchors[rows]
            shape = len(anchors), len(references)
            tile = Tile(
                rows,
                columns,
                pairs.are_same and rows == columns,
                *memory[:, : shape[0] * shape[1]].view(-1, *shape).unbind(),
            )
            torch.mm(anchors, references.T, out=tile.products)
            yield tile


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


class RowGradients:
    """What the member's tiles add up to for the rows: `weights @ references` and `weights.T @ anchors`."""

    def __init__(self, pairs: Pairs, needs_anchors: bool, needs_references: bool):
        self.pairs = pairs
        self.of_anchors = torch.zeros_like(pairs.anchors) if needs_anchors else None
        self.of_references = torch.zeros_like(pairs.references) if needs_references else None

    def add(self, tile: Tile, weights: Tensor, *, both: bool = True) -> None:
        """Add a tile's share; without `both` only that of its rows."""
        if self.of_anchors is not None:
            self.of_anchors[tile.rows].addmm_(weights, self.pairs.references[tile.columns], alpha=LN_2)
        of_columns = self.of_anchors if self.pairs.are_same else self.of_references
        if both and of_columns is not None:
            of_columns[tile.columns].addmm_(weights.T, self.pairs.anchors[tile.rows], alpha=LN_2)
