"""Writing a run's files so that a kill or a full disk never leaves half of one under its name."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labeldist.training.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
# Less than this free after a failed write means that the disk is full.
_NO_ROOM_BYTES = 1 << 20


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as a whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, readable in any language."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        UserError: if the file is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


@contextmanager
def writing_to(folder: Path, *, again: str = "give the same command again") -> Iterator[None]:
    """Turn a failed write below `folder` into one clear sentence, whichever library failed.

    Args:
        folder: what is written.
        again: how to go on once there is room.

    Raises:
        UserError: if the disk is full or the folder may not be written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in _REFUSED:
            raise UserError(f"{folder} cannot be written: {os.strerror(number)}. Choose another --output.") from error
        if number in _FULL or _no_room(folder):
            raise UserError(f"The disk that holds {folder} is full. Free some room, then {again}.") from error
        raise


def _no_room(folder: Path) -> bool:
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    return shutil.disk_usage(existing).free < _NO_ROOM_BYTES
