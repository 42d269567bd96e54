"""Runs of a benchmark in worker processes, several at a time, spread over the GPUs."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

from benchmarks.cells import gpus

__all__ = ["Pool", "gpus_of", "run_all"]

Task = TypeVar("Task")


@dataclass(frozen=True)
class Pool:
    """Worker processes.

    Attributes:
        jobs: runs at a time.
        device: cpu or cuda.
        threads: of each worker.
        prepare: called by each worker when it starts.
        arguments: of `prepare`.
        limit_seconds: no run is started after this time.
    """

    jobs: int
    device: str
    threads: int
    prepare: Callable[..., None]
    arguments: tuple[Any, ...]
    limit_seconds: float = float("inf")


def run_all(
    tasks: Sequence[Task],
    start: Callable[..., dict[str, Any]],
    pool: Pool,
    *,
    options: dict[str, Any],
    finished: Callable[[dict[str, Any]], str],
) -> None:
    """Run the tasks in their order, as many at a time as there are jobs, until none is left or time is up.

    Args:
        tasks: each is given to `start` with `options`, in a worker.
        start: carries out a task.
        pool: the workers.
        options: keyword arguments of every call.
        finished: receives each result in this process, and returns what is printed of it.
    """
    began, num_done = time.monotonic(), 0
    waiting = iter(tasks)
    running: dict[Future[dict[str, Any]], tuple[Task, ProcessPoolExecutor]] = {}
    with ExitStack() as stack:
        # Those that have nothing to do.
        free = _workers(pool, stack) if tasks else []
        while True:
            while free and time.monotonic() - began < pool.limit_seconds:
                task = next(waiting, None)
                if task is None:
                    break
                worker = free.pop(0)
                running[worker.submit(start, task, **options)] = task, worker
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, worker = running.pop(future)
                num_done += 1
                # A worker whose process died takes no more.
                if not isinstance(future.exception(), BrokenProcessPool):
                    free.append(worker)
                error = future.exception()
                line = f"{task} failed: {error!r}" if error else finished(future.result())
                print(f"{time.monotonic() - began:6.0f} s  {num_done}/{len(tasks)}  {line}", flush=True)


def _workers(pool: Pool, stack: ExitStack) -> list[ProcessPoolExecutor]:
    """Worker processes, each a pool of its own, on the GPUs in turns.

    A worker sees its own GPU only: some trainers would spread over all that they see.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(pool.threads)}
    found, workers = gpus_of(pool.device), []
    for number in range(pool.jobs):
        # Read by the process when it starts, which is at the first submission.
        if found:
            os.environ["CUDA_VISIBLE_DEVICES"] = found[number % len(found)]
        context = get_context("spawn")
        worker = ProcessPoolExecutor(1, mp_context=context, initializer=pool.prepare, initargs=pool.arguments)
        stack.enter_context(worker).submit(int)
        workers.append(worker)
    return workers


def gpus_of(device: str) -> list[str]:
    """The GPUs that runs on a device share, as `CUDA_VISIBLE_DEVICES` names them."""
    return [] if device == "cpu" else gpus()
