r"""The number of CPU threads of a computation, by the load of the machine.

Every operation of torch divides its work among all threads and waits for the last of them. On a CPU without an idle
core, one of the threads waits for another process, and all operations wait for it. On two cores, beside one process
that is always busy, forward and backward of 4,096 x 128 rows take 3.7 s with two threads and 0.12 s with one; alone,
they take 0.06 s with two (`benchmarks/results/loss/cpu-beside-busy.json`).

So `threads_by_load` takes one thread for each CPU that other processes leave free: the idle CPU time since the last
reading and the CPU time of this process, divided by the time that has passed, and rounded. On two cores, of which
another process uses one for half of the time, two threads that wait for it are as fast as one. The number of free CPUs
does not depend on how many threads this process ran.

Readings are at least `MIN_SECONDS` apart, because the system counts in steps of 10 ms, so most calls read nothing. They
come from `/proc/stat`: on systems without it, the number of threads never changes.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

__all__ = ["CPUTimes", "LoadMeter", "adjust_threads", "read_cpu_times", "threads_by_load"]

MIN_SECONDS = 0.5


class CPUTimes(NamedTuple):
    """A reading of clocks, in seconds.

    Attributes:
        now: time that has passed, since any moment.
        idle: idle time of the CPUs that this process may use, in sum.
        own: CPU time of this process.
    """

    now: float
    idle: float
    own: float


def read_cpu_times(path: Path = Path("/proc/stat")) -> CPUTimes | None:
    """The CPU times until now; `None` if the system does not report the idle time of this process's CPUs."""
    try:
        cpus = os.sched_getaffinity(0)
        lines = [line.split() for line in path.read_text().splitlines() if line.startswith("cpu")]
        fields = {line[0]: line[1:] for line in lines}
        # Fields 4, 5 and 8: idle, waiting for a disk, and stolen by the host of a virtual machine. A virtual CPU that
        # its host takes away for a moment is not busy with another process.
        ticks = sum(int(fields[f"cpu{cpu}"][place]) for cpu in cpus for place in (3, 4, 7))
        seconds = ticks / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, LookupError, ValueError):
        return None
    # Sandboxes report zeros.
    return CPUTimes(time.monotonic(), seconds, time.process_time()) if ticks else None


class LoadMeter:
    """How many CPUs the other processes leave free, from readings at least `MIN_SECONDS` apart.

    Args:
        read: reads the clocks; a reading of `None` ends all readings.
        clock: seconds that have passed, asked in each call.
    """

    def __init__(
        self, read: Callable[[], CPUTimes | None] = read_cpu_times, clock: Callable[[], float] = time.monotonic
    ):
        self._read, self._clock = read, clock
        self._latest = read()
        self._free = math.inf

    def num_threads(self, most: int) -> int:
        """The number of free CPUs, rounded, from 1 to `most`; `most` as long as nothing is known."""
        earlier = self._latest
        if earlier is not None and self._clock() - earlier.now >= MIN_SECONDS:
            self._latest = later = self._read()
            if later is None:
                self._free = math.inf
            elif later.now > earlier.now:
                self._free = (later.idle - earlier.idle + later.own - earlier.own) / (later.now - earlier.now)
        return int(max(1, min(most, self._free + 0.5)))


class _Scope(threading.local):
    """The number of threads that the caller has set, within `threads_by_load`. torch keeps one for each thread."""

    most: int | None = None


_scope = _Scope()
_meter = LoadMeter()


@contextmanager
def threads_by_load() -> Iterator[None]:
    """Within it, the calling thread uses one thread for each free CPU, at most as many as are set.

    With `torch.use_deterministic_algorithms`, it uses as many as are set, because the rounding of a matrix product
    depends on the number of threads. torch keeps this number for each thread, but a thread that runs its first
    operation of torch meanwhile starts with the fewer ones, as after torch's own `DataLoader(pin_memory=True)`.

    Examples:
        >>> before = torch.get_num_threads()
        >>> with threads_by_load():
        ...     within = torch.get_num_threads()
        >>> 1 <= within <= before == torch.get_num_threads()
        True
    """
    most = torch.get_num_threads()
    if most == 1 or _scope.most is not None or torch.are_deterministic_algorithms_enabled():
        yield
        return
    _scope.most = most
    try:
        adjust_threads()
        yield
    finally:
        _scope.most = None
        if torch.get_num_threads() != most:
            torch.set_num_threads(most)


def adjust_threads() -> None:
    """Follow the load in the middle of a computation; nothing outside of `threads_by_load`."""
    if _scope.most is not None:
        num_threads = _meter.num_threads(_scope.most)
        if num_threads != torch.get_num_threads():
            torch.set_num_threads(num_threads)
