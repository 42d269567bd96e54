"""How far a long step is: a bar on a terminal, a line now and then anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

from labeldist.messages import escape_controls

__all__ = ["SILENT", "NowAndThen", "Progress", "Tell"]

Tell = Callable[[str], None]
"""Receives how far a step is, as often as it moves."""

# A step that takes less needs no bar.
BAR_DELAY_S = 1.0


class NowAndThen:
    """Passes on what it is told, but seldom: the first pause is short, and each is twice as long as the one before.

    Args:
        say: receives a line.
        first_s: seconds before the first line.
        longest_s: seconds between two lines, at most.
        clock: seconds that only go up.

    Examples:
        >>> tell = NowAndThen(print, first_s=0)
        >>> tell("row 1 of 2")
        row 1 of 2
    """

    def __init__(
        self,
        say: Tell,
        *,
        first_s: float = 30.0,
        longest_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._say, self._pause, self._longest, self._clock = say, first_s, longest_s, clock
        self._next = clock() + first_s

    def __call__(self, sentence: str) -> None:
        """Pass a line on if it is time."""
        if self._clock() >= self._next:
            self._say(sentence)
            self._pause = min(2 * self._pause, self._longest)
            self._next = self._clock() + self._pause


@dataclass(frozen=True)
class Progress:
    """Where the progress of long steps is shown.

    Attributes:
        bar: whether bars are drawn on standard error.
        tell: receives lines where no bar is drawn; None for none.
    """

    bar: bool = False
    tell: Tell | None = None

    @contextmanager
    def counted(self, title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """Show how much of something is done, while the block runs.

        Args:
            title: what is done, such as `predicting`.
            total: how many there are; None where nobody knows.
            unit: what is counted, such as `row`.

        Yields:
            To be called with the number that is done, as it grows.

        Examples:
            >>> with Progress(tell=print).counted("predicting", 2000, "row") as advance:
            ...     advance(1000)
            predicting: 1,000 of 2,000 rows
        """
        if self.bar:
            with tqdm(
                total=total, desc=title, unit=f" {unit}", delay=BAR_DELAY_S, leave=False, dynamic_ncols=True
            ) as bar:
                yield lambda done: _move(bar, done)
            return
        whole = "" if total is None else f" of {total:,}"
        yield lambda done: self.tell(f"{title}: {done:,}{whole} {unit}s") if self.tell else None

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show what is done, while the block runs, where nothing can be counted.

        Args:
            title: what is done, such as `drawing confusion.png`.

        Examples:
            >>> with Progress(tell=print).step("drawing confusion.png"):
            ...     pass
            drawing confusion.png ...
        """
        # A title may hold the name of a file.
        title = escape_controls(title)
        if self.bar:
            with tqdm(desc=title, bar_format="{desc} ...", leave=False, dynamic_ncols=True):
                yield
            return
        if self.tell:
            self.tell(f"{title} ...")
        yield


def _move(bar: tqdm, done: int) -> None:
    bar.update(done - bar.n)


SILENT = Progress()
"""Shows nothing."""
