"""Processes that share work: each with its part of the cores, gone with their parent, deaf to Ctrl-C."""

import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.queues import Queue, SimpleQueue
from typing import Any

import torch

__all__ = ["Workers", "end_with_parent", "visible_gpus"]

# Each worker's own value, such as the data of the comparison: handed over once, not with every call.
_shared: Any = None


class Workers:
    """A pool of processes that hold one value in common. Use as a context manager.

    The processes take the GPUs in turns, one each, and see no other. Leaving by an exception ends the workers at once,
    whatever they are doing.

    Args:
        num_workers: how many, >= 1.
        shared: pickled once, and sent to each of them; the first argument of every call.
    """

    def __init__(self, num_workers: int, shared: Any):
        threads = max(1, torch.get_num_threads() // num_workers)
        # spawn: a forked child of a process that has used OpenMP or CUDA may hang.
        context = multiprocessing.get_context("spawn")
        self._others = set(multiprocessing.active_children())
        gpus = context.SimpleQueue()
        for gpu in itertools.islice(itertools.cycle(visible_gpus() or [None]), num_workers):
            gpus.put(gpu)
        # Not among the arguments of the processes: while one imports before it reads them, the next would not start.
        self._handed = context.Queue()
        pickled = pickle.dumps(shared, protocol=pickle.HIGHEST_PROTOCOL)
        for _ in range(num_workers):
            self._handed.put(pickled)
        arguments = (threads, gpus, self._handed)
        self._pool = ProcessPoolExecutor(num_workers, context, initializer=_start, initargs=arguments)

    def submit(self, action: Callable[..., Any], *arguments: Any) -> Future:
        """Have `action(shared, *arguments)` done by one of them."""
        with _interrupts_held_back():
            return self._pool.submit(_do, action, arguments)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        # What is left in it, for processes that never started, is not waited for.
        self._handed.cancel_join_thread()
        if kind is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - self._others:
                child.terminate()
        self._pool.shutdown(wait=True)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes that start meanwhile are born deaf to Ctrl-C; here it is held back until the end of the block.

    A worker that Ctrl-C reaches while it imports would end in a traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def visible_gpus() -> list[str]:
    """The GPUs of this process, as `CUDA_VISIBLE_DEVICES` names them.

    Examples:
        >>> len(visible_gpus()) == torch.cuda.device_count()
        True
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = torch.cuda.device_count()
    return visible.split(",")[:number] if visible else [str(index) for index in range(number)]


def end_with_parent() -> None:
    """End this process when its parent ends: it must not train on beside the command that goes on."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None, "only a process that another one started"
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _start(threads: int, gpus: "SimpleQueue[str | None]", handed: "Queue[bytes]") -> None:
    global _shared
    if gpu := gpus.get():
        # In time: PyTorch is imported, and has not looked for GPUs.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    _shared = pickle.loads(handed.get())
    # Ctrl-C reaches every process of the terminal; the parent alone speaks of it, and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    end_with_parent()
    warnings.simplefilter("ignore")


def _do(action: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return action(_shared, *arguments)
