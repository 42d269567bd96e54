"""Which unit is next: in their order, but none before the runs that choose its temperature."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from benchmarks.paper.runs import Unit

__all__ = ["Schedule"]


class Schedule:
    """Units that several workers take in turn.

    Args:
        units: in the order in which they are wanted.
        temperature_of: the temperature of a corpus's contrast as its development runs chose it, of a unit that has none
            yet; `None` while they are not all there.

    Examples:
        >>> first, second = Unit("textcnn", "mr", "tuned", 0, None), Unit("textcnn", "trec", "paper", 0)
        >>> chosen = iter([None, 0.1])
        >>> schedule = Schedule([first, second], lambda unit: next(chosen))
        >>> str(schedule.take()), str(schedule.take()), schedule.take()
        ('textcnn-trec-paper-seed0', 'textcnn-mr-tuned-seed0', None)
    """

    def __init__(self, units: Iterable[Unit], temperature_of: Callable[[Unit], float | None]):
        self._waiting = list(units)
        self._running: set[Unit] = set()
        self._temperature_of = temperature_of
        self._changed = threading.Condition()

    def take(self) -> Unit | None:
        """The next unit; waits for one that waits for others. `None` when there will be none."""
        with self._changed:
            while self._waiting:
                for unit in self._waiting:
                    temperature = self._temperature_of(unit) if unit.temperature is None else unit.temperature
                    if temperature is not None:
                        self._waiting.remove(unit)
                        self._running.add(taken := replace(unit, temperature=temperature))
                        return taken
                if not self._running:
                    # What they wait for failed.
                    return None
                self._changed.wait()
        return None

    def done(self, unit: Unit) -> None:
        """Tell those who wait that a taken unit came to its end."""
        with self._changed:
            self._running.discard(unit)
            self._changed.notify_all()

    def drop(self) -> list[Unit]:
        """Forget the units that wait, and return them."""
        with self._changed:
            dropped, self._waiting = self._waiting, []
            self._changed.notify_all()
            return dropped
