"""Process groups of threads, for tests in one process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Any

import torch
from torch import Tensor


class ThreadOfGroup:
    """One rank of a group of threads, which synchronize for each sum and otherwise run one at a time."""

    def __init__(self, rank: int, tensors: list[Tensor], meeting: Barrier, turn: Lock):
        self.rank, self.size = rank, len(tensors)
        self.tensors, self.meeting, self.turn = tensors, meeting, turn

    def _of_all(self, tensor: Tensor) -> Tensor:
        self.tensors[self.rank] = tensor
        self.turn.release()
        self.meeting.wait()
        tensors = torch.stack(self.tensors)
        self.meeting.wait()
        self.turn.acquire()
        return tensors

    def sum(self, tensor: Tensor) -> Tensor:
        return self._of_all(tensor).sum(dim=0)

    def max(self, tensor: Tensor) -> Tensor:
        return self._of_all(tensor).amax(dim=0)


def results_of_group(size: int, call: Callable[[ThreadOfGroup], Any]) -> list[Any]:
    """The result of `call` on each rank."""
    tensors, meeting, turn = [torch.zeros(0)] * size, Barrier(size, timeout=600), Lock()

    def work(rank: int) -> Any:
        # On a GPU the backward passes of all threads run in one other thread, where they would deadlock.
        with turn, torch.autograd.set_multithreading_enabled(False):
            try:
                return call(ThreadOfGroup(rank, tensors, meeting, turn))
            except BaseException:
                # The other threads would wait for this one.
                meeting.abort()
                raise

    with ThreadPoolExecutor(size) as pool:
        return [member.result() for member in [pool.submit(work, rank) for rank in range(size)]]
