"""One run on several processes, started by `torchrun` or `accelerate launch`. On one process each function is simple.

All processes read, train and decide alike; the first one alone writes and speaks.
"""

import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import PartialState

from labeldist.distributed import gather_objects, num_processes, process_index
from labeldist.training.errors import LostProcessError, UserError

_T = TypeVar("_T")


def num_started() -> int:
    """How many processes a launcher started; 1 without a launcher.

    Examples:
        >>> num_started()
        1
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes files and speaks to the user.

    Examples:
        >>> is_first()
        True
    """
    return int(os.environ.get("RANK", "0")) == 0


def meet(device: str) -> None:
    """Bring the processes of a run together, before anything that they must agree on.

    Args:
        device: `"cpu"` or `"cuda"`.
    """
    if num_started() == 1:
        return
    PartialState(cpu=device == "cpu")
    # A launcher stops the others when one has died: they say so, and how to go on.
    signal.signal(signal.SIGTERM, _stop)


def stop_listening() -> None:
    """Let a launcher's signal pass from here on: the run has ended, and what is left is to say so."""
    if num_processes() > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def wait() -> None:
    """Go on when every process has come here."""
    if num_processes() > 1:
        dist.barrier()


def from_first(value: _T) -> _T:
    """The first process's `value`, on every process."""
    if num_processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def all_do(action: Callable[[], _T]) -> _T:
    """What `action` returns here; a mistake that any process finds is raised on all of them.

    Raises:
        UserError: the first process's, where several find one.
    """
    if num_processes() == 1:
        return action()
    result, mistake = None, None
    try:
        result = action()
    except UserError as error:
        mistake = str(error)
    mistakes = gather_objects(mistake)
    for rank, found in enumerate(mistakes):
        if found is not None:
            raise UserError(found if rank == 0 else f"process {rank}: {found}")
    return result  # type: ignore[return-value]


def first_does(action: Callable[[], Any]) -> None:
    """Let the first process alone do it, and all wait for it. A mistake that it finds is raised on all."""
    all_do(lambda: action() if process_index() == 0 else None)


def check_same(value: Any, name: str) -> None:
    """Raise `UserError` on all processes unless they hold the same."""
    values = gather_objects(value)
    differing = [rank for rank, other in enumerate(values) if other != values[0]]
    if differing:
        raise UserError(
            f"All processes must have the same {name}, and process {differing[0]} has others than process 0. Give each "
            "the same command and the same files."
        )


def lost_process(error: Exception) -> bool:
    """Whether `error` says that another process of the run has gone."""
    if num_processes() == 1:
        return False
    signs = ("closed by peer", "reset by peer", "broken pipe", "gloo", "nccl", "timed out", "tcpstore")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    )


def _stop(number: int, frame: Any) -> None:
    # Once: a second signal must not break into the message.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise LostProcessError("this process was told to stop")
