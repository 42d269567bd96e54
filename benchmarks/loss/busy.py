"""The loss on a CPU that other processes use: alone, beside busy processes, and beside the workers of a DataLoader.

python -m benchmarks.loss.busy                            # 4,096 x 128, beside one process
python -m benchmarks.loss.busy --beside-busy 2 --threads 4

Times forward and backward of eager, of blockwise, of blockwise with all threads whatever the load (as it is with
`torch.use_deterministic_algorithms`), of blockwise with one thread, and of three matrix products, in turns, so that a
change of the machine's speed affects all of them. A busy process has a session of its own, as one that was
started in another terminal; Linux gives it as much time as all threads of this one together. Workers of a DataLoader
are in the session of this process. Each row of the record also says how many CPUs other processes used meanwhile.
Each way starts without knowledge of the load and is timed after `WARM_UP_S`.
Where the use by others is more than `MAX_OTHERS` while several threads run alone, that time is measured again.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.loss.measure import floor, step_of
from benchmarks.loss.methods import METHODS, NUM_CLASSES, TEMPERATURE, Problem
from benchmarks.machine import command_of, current_commit, versions_of
from labeldist.backends import _threads
from labeldist.backends._threads import CPUTimes, read_cpu_times
from labeldist.training.machine import describe_machine

RESULTS = Path(__file__).parent.parent / "results" / "loss"
WAYS = ("three matrix products", "eager", "blockwise", "blockwise, all threads", "blockwise, one thread")
MAX_OTHERS = 0.1  # CPUs
MAX_TRIES = 20
# So long after another way, a pass is like those of a training, and the number of threads is chosen.
WARM_UP_S = 1.0
GROUP = Path("/proc/self/autogroup")


def main() -> None:
    """Read the command line, measure, write."""
    options = _options()
    torch.set_num_threads(options.threads)
    problem = Problem.draw(options.rows, options.dim, device=torch.device("cpu"), dtype=torch.float32)
    calls = _calls(problem, options.threads)
    conditions = {"alone": _alone, "beside busy processes": busy_processes, "beside DataLoader workers": _workers}
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": options.threads,
        "num_rows": options.rows,
        "dim": options.dim,
        "num_classes": NUM_CLASSES,
        "temperature": TEMPERATURE,
        "beside_busy": options.beside_busy,
        "priority": _priority(),
        "versions": versions_of("torch"),
        "commit": options.commit or current_commit(),
        "command": command_of("benchmarks.loss.busy"),
        "conditions": {},
    }
    for name, condition in conditions.items():
        with condition(options.beside_busy):
            record["conditions"][name] = _measured(calls, options.repeats, is_alone=name == "alone")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{table(record)}\n\nwritten: {options.output}")


def table(record: dict[str, Any]) -> str:
    """Markdown: median time of each way in each condition, and its multiple of the products alone.

    Examples:
        >>> times = {way: {"median_ms": 10.0} for way in WAYS}
        >>> print(table({"conditions": {"alone": {"ways": times}}}))
        | | three matrix products | eager | blockwise | blockwise, all threads | blockwise, one thread |
        |---|--:|--:|--:|--:|--:|
        | alone | 10 ms | 10 ms (1.0) | 10 ms (1.0) | 10 ms (1.0) | 10 ms (1.0) |
    """
    lines = [f"| | {' | '.join(WAYS)} |", "|---|" + "--:|" * len(WAYS)]
    for name, found in record["conditions"].items():
        floor_ms, *others = (found["ways"][way]["median_ms"] for way in WAYS)
        cells = [f"{floor_ms:,.0f} ms", *(f"{time_ms:,.0f} ms ({time_ms / floor_ms:.1f})" for time_ms in others)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _calls(problem: Problem, num_threads: int) -> dict[str, tuple[int, Callable[[], None]]]:
    """The number of threads and the function of each way."""
    eager, blockwise = (step_of(METHODS[name].prepare(problem), problem) for name in ("eager", "blockwise"))

    def deterministic() -> None:
        torch.use_deterministic_algorithms(True)
        blockwise()
        torch.use_deterministic_algorithms(False)

    # Filling new memory with NaN takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue] # a property
    functions = (floor(problem, 3), eager, blockwise, deterministic, blockwise)
    return {
        way: (1 if way.endswith("one thread") else num_threads, function)
        for way, function in zip(WAYS, functions, strict=True)
    }


def _measured(calls: dict[str, tuple[int, Callable[[], None]]], num_repeats: int, *, is_alone: bool) -> dict[str, Any]:
    """Median, 20 % and 80 % percentile of each way, and the CPUs that other processes used on average."""
    samples: dict[str, list[tuple[float, float]]] = {way: [] for way in calls}
    for _ in range(num_repeats):
        for way, (num_threads, function) in calls.items():
            torch.set_num_threads(num_threads)
            for _ in range(MAX_TRIES):
                sample = _timed(function)
                if not is_alone or num_threads == 1 or sample[1] <= MAX_OTHERS:
                    break
            else:
                sys.exit(f"Other processes use more than {MAX_OTHERS} CPUs: the loss is not alone.")
            samples[way].append(sample)
    return {
        "num_samples": num_repeats,
        "load_average": round(os.getloadavg()[0], 2),
        "ways": {way: _summary(found) for way, found in samples.items()},
    }


def _timed(function: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds of a pass, after others that take `WARM_UP_S` at least, and the CPUs that other processes used."""
    # What the loss knows of the load is from the passes of another way.
    _threads._meter = _threads.LoadMeter()
    start, begun = _read(), time.monotonic()
    while time.monotonic() < begun + WARM_UP_S:
        function()
    last = time.perf_counter()
    function()
    time_ms = 1e3 * (time.perf_counter() - last)
    end = _read()
    free = (end.idle - start.idle + end.own - start.own) / (end.now - start.now)
    return time_ms, max(0.0, len(os.sched_getaffinity(0)) - free)


def _read() -> CPUTimes:
    times = read_cpu_times()
    if times is None:
        sys.exit("This benchmark needs the idle time of each CPU in /proc/stat.")
    return times


def _summary(samples: list[tuple[float, float]]) -> dict[str, float]:
    ordered = sorted(time_ms for time_ms, _ in samples)
    return {
        "median_ms": statistics.median(ordered),
        "ms_20": ordered[int(0.2 * (len(ordered) - 1))],
        "ms_80": ordered[round(0.8 * (len(ordered) - 1))],
        "others_cpus": round(statistics.mean(others for _, others in samples), 2),
    }


@contextmanager
def _alone(_: int) -> Iterator[None]:
    yield


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Processes that use a CPU each, with the priority of this one, until the end of the block."""
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(number + 1)
    processes = [
        context.Process(target=_spin_in_own_session, args=(_priority(), started), daemon=True) for _ in range(number)
    ]
    for process in processes:
        process.start()
    started.wait()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _priority() -> str | None:
    """The priority of this session, if Linux groups processes by session.

    Some sandboxes have the file, but nothing in it.
    """
    words = GROUP.read_text().split() if GROUP.exists() else []
    return words[-1] if words else None


def _spin_in_own_session(priority: str | None, started: Barrier) -> None:
    os.setsid()
    if priority is not None:
        try:
            GROUP.write_text(priority)
        except OSError as error:
            print(f"The busy process keeps its own priority: {error}", file=sys.stderr)
    started.wait()
    while True:
        pass


@contextmanager
def _workers(number: int) -> Iterator[None]:
    batches = iter(DataLoader(_SlowRows(), batch_size=1, num_workers=number, prefetch_factor=1000))
    next(batches)
    yield


class _SlowRows(Dataset):
    """Rows whose preparation takes a worker all its time."""

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> int:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            pass
        return index


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096, help="B")
    parser.add_argument("--dim", type=int, default=128, help="D")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--beside-busy", type=int, default=1, help="busy processes, and workers of the DataLoader")
    parser.add_argument("--repeats", type=int, default=7, help="turns in each condition")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu-beside-busy.json", help="the JSON file")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


if __name__ == "__main__":
    main()
