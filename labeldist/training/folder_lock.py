"""One folder, one owner: a second process that would write into a run folder is told, and writes nothing."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labeldist.training.atomic import cannot_be_written
from labeldist.training.errors import UserError

__all__ = ["LOCK_FILE", "owning"]

LOCK_FILE = ".lock"

# A process that was killed a moment ago may still be ending.
_PATIENCE_SECONDS = 2.0


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Own `folder`, which is made if absent, until the end of the block or of the process, by whatever it ends.

    The system holds the lock on the folder itself (`flock`), so nothing of it is ever left behind. Where folders cannot
    be locked (Windows, some network disks), `filelock` holds a file in it.

    Raises:
        UserError: if another process owns it, or the folder cannot be made.

    Examples:
        >>> import tempfile
        >>> with owning(Path(tempfile.mkdtemp()) / "run"):
        ...     pass
    """
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        release = _lock(folder)
    except OSError as error:
        raise cannot_be_written(folder, error) from error
    try:
        yield
    finally:
        release()
        # Nothing was written: nothing is left.
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _lock(folder: Path):
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, AttributeError):
        return _lock_by_file(folder)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(descriptor)
                return _lock_by_file(folder)
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise UserError(_taken(folder)) from error
            time.sleep(0.05)
        else:
            return lambda: os.close(descriptor)


def _lock_by_file(folder: Path):
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_FILE, timeout=_PATIENCE_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(_taken(folder)) from error
    return lock.release


def _taken(folder: Path) -> str:
    return f"Another process is writing to {folder}. Wait until it has ended, or choose another --output."
