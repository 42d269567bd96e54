"""Writing files so that a kill or a full disk never leaves half of one under its name."""

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from labeldist.training.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG,
)  # fmt: skip
# What writers in other languages say of a full disk, without an error number. The last two are those of torch.save.
_FULL_SIGNS = (
    "no space left on device", "disk quota exceeded", "file write failed", "failed writing file", "iostream error",
    "unexpected pos ",
)  # fmt: skip
# Less than this free after a failed write means that the disk is full.
_NO_ROOM_BYTES = 1 << 20


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as a whole or not at all."""
    with new_text(path) as file:
        file.write(text)


@contextmanager
def new_text(path: Path) -> Iterator[IO[str]]:
    """Open a file beside `path` that takes its place, at the end, if nothing failed."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
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
    except RecursionError as error:
        raise UserError(f"{path} cannot be read: it is nested too deeply.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


@contextmanager
def new_file(path: Path) -> Iterator[IO[str]]:
    """Open a file of its own beside `path`, which becomes `path` at the end if nothing failed.

    Several processes may do so at once: each writes a file of its own, and only the first one gets the name.

    Args:
        path: of the file to be, in a folder that exists.

    Raises:
        UserError: if `path` exists, at the start or at the end.

    Examples:
        >>> path = Path(tempfile.mkdtemp()) / "labels.txt"
        >>> with new_file(path) as file:
        ...     _ = file.write("question")
        >>> path.read_text()
        'question'
    """
    check_absent(path)
    try:
        # Short, so that a name of the longest length is still one.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    except OSError as error:
        raise cannot_be_written(path.parent, error) from error
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        try:
            # Unlike a rename, a link never takes the place of another file.
            path.hardlink_to(partial)
        except FileExistsError:
            check_absent(path)
            raise
        except OSError:
            # A file system without hard links.
            check_absent(path)
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def cannot_be_written(path: Path, error: OSError) -> UserError:
    """The sentence for a place where nothing can be made, or for a full disk."""
    if error.errno in _FULL:
        return UserError(f"The disk that holds {path} is full. Free some room, then give the same command again.")
    return UserError(f"{path} cannot be written: {error.strerror or error}. Choose another --output.")


def check_absent(path: Path) -> None:
    """Raise `UserError` if there is something at `path`."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists already and is never overwritten. Choose another --output.")


def make_readable_like_others(folder: Path) -> None:
    """Give every file below `folder` the mode that new files have here; some libraries write for the owner alone."""
    mode = 0o666 & ~_umask()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _umask() -> int:
    # It can only be read by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def writing_to(folder: Path, *, resume_hint: str = "give the same command again") -> Iterator[None]:
    """Turn a failed write below `folder` into one clear sentence, whichever library failed.

    Args:
        folder: what is written.
        resume_hint: how to go on once there is room.

    Raises:
        UserError: if the disk is full or the folder may not be written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _number_of(error)
        if number in _REFUSED:
            assert number is not None
            raise UserError(f"{folder} cannot be written: {os.strerror(number)}. Choose another --output.") from error
        if number in _FULL or _tells_of_full_disk(error) or _no_room(folder):
            raise UserError(f"The disk that holds {folder} is full. Free some room, then {resume_hint}.") from error
        raise


def _number_of(error: BaseException) -> int | None:
    """The number of the operating system's error; libraries in Rust write it into their sentence."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error ([0-9]{1,4})\)", str(error))
    return int(told[1]) if told else None


def _tells_of_full_disk(error: BaseException) -> bool:
    """Whether an error, or one that it came from, was caused by a full disk."""
    seen: BaseException | None = error
    while seen is not None:
        if _number_of(seen) in _FULL or any(sign in str(seen).lower() for sign in _FULL_SIGNS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _no_room(folder: Path) -> bool:
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    usage = shutil.disk_usage(existing)
    # What is no disk, such as /proc, has no size at all.
    return usage.total > 0 and usage.free < _NO_ROOM_BYTES
