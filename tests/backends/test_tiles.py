"""The division of pairs into tiles, and of tiles among the processes of a group."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from labeldist.backends._tiles import PairGrid, tile_rows_for, tiles
from labeldist.pairs import Batch

# Rows and references; without references the rows themselves.
BATCHES = [(1, None), (7, None), (16, None), (17, None), (53, None), (9, 4), (4, 31), (16, 16)]


@dataclass
class SilentProcess:
    """A process group without collective operations."""

    size: int
    rank: int

    def sum(self, tensor: Tensor) -> Tensor:
        raise AssertionError

    max = sum


def dealt(num_rows: int, num_references: int | None, tile_rows: int, group) -> list[tuple[range, range]]:
    """Rows and columns of a process's tiles."""
    batch = Batch(torch.ones(num_rows, 2), torch.zeros(num_rows))
    if num_references is not None:
        batch = batch._replace(ref_emb=torch.ones(num_references, 2), ref_labels=torch.zeros(num_references))
    grid = PairGrid(batch, tile_rows, group)
    return [(range(rows.start, rows.stop), range(columns.start, columns.stop)) for rows, columns, *_ in tiles(grid, [])]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 100])
@pytest.mark.parametrize(("num_rows", "num_references"), BATCHES)
def test_each_pair_is_in_one_tile_of_one_process(num_rows, num_references, size):
    times = torch.zeros(num_rows, num_references or num_rows)
    for rank in range(size):
        for rows, columns in dealt(num_rows, num_references, 4, SilentProcess(size, rank)):
            times[rows.start : rows.stop, columns.start : columns.stop] += 1
            if num_references is None and rows != columns:
                times[columns.start : columns.stop, rows.start : rows.stop] += 1
    assert times.eq(1).all()


@pytest.mark.parametrize("size", [2, 3, 8, 64, 512])
@pytest.mark.parametrize(("num_rows", "num_references"), [(1024, None), (1021, None), (512, 700)])
def test_no_process_has_more_than_an_eighth_above_the_mean(num_rows, num_references, size):
    shape = num_rows, num_references
    tile_rows = tile_rows_for(*shape, size, at_most=768)
    numbers = [len(dealt(*shape, tile_rows, SilentProcess(size, rank))) for rank in range(size)]
    assert max(numbers) - min(numbers) <= 1
    assert max(numbers) <= 1.125 * sum(numbers) / size


def test_tiles_are_never_larger_than_requested_and_never_empty():
    assert tile_rows_for(10**6, None, 512, at_most=768) == 768
    assert tile_rows_for(10, None, 1, at_most=768) == 768
    assert [tile_rows_for(number, None, 64, at_most=768) for number in (0, 1, 10)] == [1, 1, 1]
