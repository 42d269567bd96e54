"""Teams of threads, who share the pairs of a batch as processes do."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Any

import torch
from torch import Tensor


class Colleague:
    """A member of a team of threads that meet for each sum, and between the meetings work one at a time."""

    def __init__(self, index: int, tensors: list[Tensor], meeting: Barrier, turn: Lock):
        self.index, self.size = index, len(tensors)
        self.tensors, self.meeting, self.turn = tensors, meeting, turn

    def _of_all(self, tensor: Tensor) -> Tensor:
        self.tensors[self.index] = tensor
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


def results_of_team(size: int, call: Callable[[Colleague], Any]) -> list[Any]:
    """What `call` returns to each member."""
    tensors, meeting, turn = [torch.zeros(0)] * size, Barrier(size, timeout=60), Lock()

    def work(index: int) -> Any:
        # On a GPU the backward passes of all threads would share one more thread, and wait there for each other.
        with turn, torch.autograd.set_multithreading_enabled(False):
            try:
                return call(Colleague(index, tensors, meeting, turn))
            except BaseException:
                # The others would wait for this one.
                meeting.abort()
                raise

    with ThreadPoolExecutor(size) as pool:
        return [member.result() for member in [pool.submit(work, index) for index in range(size)]]
