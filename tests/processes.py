"""Run a test file as several processes with torchrun."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import torch
import torch.distributed as dist

from labeldist.backends import blockwise

ROOT = Path(__file__).resolve().parent.parent


def started(file: str, *arguments: Path, world: int, folder: Path) -> list[dict[str, Any]]:
    """Run `file` with the arguments and the folder, and return the results of each process, by rank."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command = [*launch, file, *map(str, arguments), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def leave(results: dict[Any, Any], folder: Path) -> NoReturn:
    """Save the results of this process, and end it.

    At once, when all have come so far: in an orderly exit gloo's threads abort a process now and then, whose work is
    done.
    """
    torch.save(results, folder / f"{dist.get_rank()}.pt")
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def tiles_noted() -> Iterator[list[tuple[int, int]]]:
    """Record the tiles that this process computes: first row and first column of each."""
    corners: list[tuple[int, int]] = []
    tiles = blockwise.tiles

    def watched(*args):
        for tile in tiles(*args):
            corners.append((tile.rows.start, tile.columns.start))
            yield tile

    with patch.object(blockwise, "tiles", watched):
        yield corners
