"""One run on several processes, started by `torchrun` or `accelerate launch`; without a launcher nothing waits.

All processes read, train and decide alike; the main one (rank 0) alone writes files and speaks.
"""

import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import torch
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


def is_main() -> bool:
    """Whether this process writes files and speaks to the user.

    Examples:
        >>> is_main()
        True
    """
    return int(os.environ.get("RANK", "0")) == 0


def initialize(device: str) -> None:
    """Form the process group of a run, before anything that its processes must agree on. A second call does nothing.

    Args:
        device: `"cpu"` or `"cuda"`.
    """
    if num_started() == 1:
        return
    PartialState(cpu=device == "cpu")
    # A launcher stops the others when one has died: they say so, and how to go on.
    signal.signal(signal.SIGTERM, _stop)


def device(kind: str) -> torch.device:
    """The device of this process.

    Args:
        kind: `"cpu"` or `"cuda"`.

    Examples:
        >>> device("cpu")
        device(type='cpu')
    """
    if kind == "cpu" or num_started() == 1:
        return torch.device(kind)
    found = PartialState().device
    assert found is not None
    return found


def stop_listening() -> None:
    """Let a launcher's signal pass from here on: the run has ended, and what is left is to say so."""
    if num_processes() > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def barrier() -> None:
    """Wait until every process has come here."""
    if num_processes() > 1:
        dist.barrier()


def broadcast(value: _T) -> _T:
    """The main process's `value`, on every process."""
    if num_processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def on_all(action: Callable[[], _T]) -> _T:
    """Let every process do `action`, and return its own result; a `UserError` of any of them is raised on all.

    Raises:
        UserError: that of the lowest rank, where several raise one.
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


def on_main(action: Callable[[], Any]) -> None:
    """Let the main process alone do `action`, and the others wait for it. A `UserError` of it is raised on all."""
    on_all(lambda: action() if process_index() == 0 else None)


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
