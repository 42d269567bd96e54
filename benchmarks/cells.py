"""What benchmarks of `labeldist compare` share: the corpora, rows held out of train, and how its commands are run."""

import gzip
import json
import os
import random
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from labeldist.training.study.workers import visible_gpus

__all__ = ["DATA", "at_a_time", "development", "environment", "read_rows", "run_commands", "write_rows"]

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
    """Write a corpus folder, a JSON Lines file for each part: whole or not at all, should the call be killed."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    for part, rows in parts.items():
        with (partial / f"{part}.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    partial.rename(folder)


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
            number = min(MAX_DEVELOPMENT_ROWS, len(rows) // 5)
            write_rows(folder, {"test": rows[:number], "train": rows[number:]})
    return folder


def environment(place: int, *, is_offline: bool = True, threads: int | None = None) -> dict[str, str]:
    """The environment of a command: each place begins with another GPU.

    Args:
        place: number of the command among those that run at the same time.
        is_offline: whether no hub of models is asked for anything.
        threads: of its process, unless OMP_NUM_THREADS is set already.
    """
    found = visible_gpus()
    begin = place % max(1, len(found))
    return {
        **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
        **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(found[begin:] + found[:begin]),
        "TOKENIZERS_PARALLELISM": "false",
        **({"HF_HUB_OFFLINE": "1"} if is_offline else {}),
    }


def run_commands(cell: str, commands: Sequence[Sequence[str]], log: Path, variables: Mapping[str, str]) -> bool:
    """Run the commands of a cell, one after the other; say so if one fails, and leave out the others.

    Args:
        cell: its name.
        commands: each with its arguments.
        log: receives all that they print.
        variables: their environment.

    Returns:
        Whether all went well.
    """
    with log.open("w") as output:
        for command in commands:
            done = subprocess.run(command, stdout=output, stderr=output, env=variables, check=False)
            if done.returncode:
                print(f"{cell}: failed, see {log}\n{log.read_text()[-1500:]}", flush=True)
                return False
    return True


def at_a_time(jobs: int) -> str:
    """How many runs shared the machine, in words.

    Examples:
        >>> at_a_time(1), at_a_time(4)
        ('one run at a time', '4 runs at a time')
    """
    return f"{'one run' if jobs == 1 else f'{jobs} runs'} at a time"
