"""What benchmarks of `labeldist compare` share: the corpora, rows held out of train, and a GPU for each command."""

import gzip
import json
import os
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["DATA", "development", "environment", "gpus", "read_rows", "write_rows"]

DATA = Path(os.environ.get("LABELDIST_DATA", "../shared/data"))
"""One folder for each corpus, with `train.jsonl.gz` and `test.jsonl.gz`."""

MAX_DEVELOPMENT_ROWS = 1000
_WRITING = threading.Lock()

Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """The rows of a gzipped JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_rows(folder: Path, parts: Mapping[str, Sequence[Row]]) -> None:
    """Write a corpus folder: a JSON Lines file for each part."""
    folder.mkdir(parents=True)
    for part, rows in parts.items():
        with (folder / f"{part}.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def development(name: str, folder: Path) -> Path:
    """A corpus made of the training rows alone, some of them held out as its test rows.

    Options are chosen on these, before any test row is seen.

    Args:
        name: of the corpus in `DATA`.
        folder: that receives it; taken as it is if it exists.
    """
    with _WRITING:
        if not folder.exists():
            rows = read_rows(DATA / name / "train.jsonl.gz")
            random.Random(0).shuffle(rows)
            # Rename last: a killed call leaves no half of a corpus.
            partial = folder.with_name(f"{folder.name}.{os.getpid()}")
            number = min(MAX_DEVELOPMENT_ROWS, len(rows) // 5)
            write_rows(partial, {"test": rows[:number], "train": rows[number:]})
            partial.rename(folder)
    return folder


def gpus() -> list[str]:
    """The GPUs that are there, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    number = torch.cuda.device_count()
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(number)))).split(",")[:number]


def environment(place: int, *, is_offline: bool = True, threads: int | None = None) -> dict[str, str]:
    """The environment of a command: each place begins with another GPU.

    Args:
        place: number of the command among those that run at the same time.
        is_offline: whether no hub of models is asked for anything.
        threads: of its process, unless OMP_NUM_THREADS is set already.
    """
    found = gpus()
    begin = place % max(1, len(found))
    return {
        **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
        **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(found[begin:] + found[:begin]),
        "TOKENIZERS_PARALLELISM": "false",
        **({"HF_HUB_OFFLINE": "1"} if is_offline else {}),
    }
