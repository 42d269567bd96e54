"""Files to numbered lines of text: plain or gzipped UTF-8, any line end, in bounded memory."""

import gzip
import io
import itertools
import os
import stat
import time
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from labeldist.class_names import nearest_name
from labeldist.training.errors import UserError

__all__ = ["MAX_LINE_BYTES", "check_file", "decoded_lines", "file_lines", "open_file", "path_kind"]

MAX_LINE_BYTES = 2**26
"""A longer line is refused: a small compressed file may hold one that no memory can."""

_BLOCK = 2**16
_PIPE_SECONDS = 5

Lines = Iterator[tuple[int, str]]


def path_kind(path: Path) -> str | None:
    """What stands at `path`: `"file"`, `"folder"`, `"other"` (a pipe, a device) or nothing.

    Raises:
        UserError: if the system cannot tell, as for a loop of links or a name that is too long.

    Examples:
        >>> path_kind(Path("."))
        'folder'
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    # A name with a null character.
    except ValueError as error:
        raise UserError(f"{path} is no name of a file: {error}.") from error
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def check_file(path: Path, noun: str = "file") -> None:
    """Raise `UserError` unless there is such a file with something in it.

    Args:
        path: the file.
        noun: what it is, for the message.
    """
    kind = path_kind(path)
    if kind == "folder":
        raise UserError(f"{path} is a folder where a file is expected.")
    try:
        if kind is None:
            folder = path.parent
            names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
            raise UserError(f"There is no {noun} {path}.{nearest_name(path.name, names)}")
        # Only a regular file tells its size: a pipe such as /dev/stdin says 0.
        if kind == "file" and not path.stat().st_size:
            raise UserError(f"{path} is empty.")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, a gzipped one decompressed; what goes wrong until it is closed is one sentence.

    Raises:
        UserError: for a file that cannot be read or a damaged archive, or a pipe that nobody writes to.
    """
    try:
        with _opened(path) as stream:
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile(fileobj=stream) as content:
                    yield content  # type: ignore[misc]
            else:
                yield stream
    except gzip.BadGzipFile as error:
        raise UserError(f"{path} is not a sound gzip file: {error}.") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is a damaged or incomplete gzip file: {error}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def file_lines(path: Path) -> Lines:
    """Numbered lines of a file, without their ends; see `decoded_lines`."""
    with open_file(path) as stream:
        yield from decoded_lines(stream, str(path))


def decoded_lines(stream: IO[bytes], name: str) -> Lines:
    r"""Numbered lines of a UTF-8 stream, without the line feed that ends them.

    A carriage return ends a line where the file has no line feed at its beginning; before a line feed it stays.

    Args:
        stream: open for reading.
        name: of the stream, for messages.

    Raises:
        UserError: for bytes that are not UTF-8, or a line of more than `MAX_LINE_BYTES`.

    Examples:
        >>> list(decoded_lines(io.BytesIO(b"one\rtwo\r"), "a.txt"))
        [(1, 'one'), (2, 'two')]
    """
    blocks = _blocks(stream)
    first = next(blocks, b"")
    line_end = b"\r" if b"\r" in first and b"\n" not in first else b"\n"
    number = 1
    # The pieces of a line whose end has not come yet.
    begun: list[bytes] = []
    # Some editors write a byte order mark at the start.
    for block in itertools.chain([first.removeprefix(b"\xef\xbb\xbf")], blocks):
        before, end, after = block.rpartition(line_end)
        if end:
            number = yield from _numbered(b"".join([*begun, before]), line_end, name, number)
            begun = [after]
        else:
            begun.append(block)
        if sum(map(len, begun)) > MAX_LINE_BYTES:
            size = f"{MAX_LINE_BYTES >> 20} MiB"
            raise UserError(f"{name}, line {number}: the line is longer than {size}. Split its text, or cut it.")
    last = b"".join(begun)
    if last:
        yield from _numbered(last, line_end, name, number)


def _numbered(content: bytes, line_end: bytes, name: str, number: int) -> Generator[tuple[int, str], None, int]:
    """Yield the lines of a piece of the file, which begins with line `number`; return the number after them."""
    try:
        lines, defect = content.decode("utf-8").split(line_end.decode()), None
    except UnicodeDecodeError as error:
        # The lines before the first that is not UTF-8 come before the error.
        start = content.rfind(line_end, 0, error.start) + 1
        lines = content[: start - 1].decode("utf-8").split(line_end.decode()) if start else []
        defect = UserError(
            f"{name}, line {number + len(lines)}: byte {error.start - start + 1} of the line "
            f"(0x{content[error.start]:02x}) is not UTF-8. Convert the file to UTF-8."
        )
    yield from enumerate(lines, number)
    if defect is not None:
        raise defect
    return number + len(lines)


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Pieces of the stream; the first is long enough to see how lines end."""
    # read1 gives what a pipe has; read would wait for a full block.
    read = stream.read1 if hasattr(stream, "read1") else stream.read  # type: ignore[attr-defined]
    first = b""
    while len(first) < _BLOCK and b"\n" not in first and (block := read(_BLOCK)):
        first += block
    yield first
    while block := read(_BLOCK):
        yield block


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if not stat.S_ISFIFO(path.stat().st_mode):
        with path.open("rb") as stream:
            yield stream
        return
    # To open a named pipe waits for somebody who writes to it, if need be for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        first = _await_writer(path, descriptor)
        os.set_blocking(descriptor, True)
        with io.BufferedReader(_Prefixed(first, pipe)) as stream:
            yield stream


def _await_writer(path: Path, descriptor: int) -> bytes:
    """Wait until somebody has opened the pipe for writing; return what was read to find out."""
    deadline = time.monotonic() + _PIPE_SECONDS
    for pause in itertools.chain((0.001, 0.01), itertools.repeat(0.05)):
        try:
            # Nothing: nobody writes. Not ready: somebody will.
            if first := os.read(descriptor, _BLOCK):
                return first
        except BlockingIOError:
            return b""
        if time.monotonic() > deadline:
            raise UserError(f"{path} is a pipe that nothing was written to in {_PIPE_SECONDS} s.")
        time.sleep(pause)
    raise AssertionError("repeat has no end")


class _Prefixed(io.RawIOBase):
    """A stream after bytes that were read from it already."""

    def __init__(self, first: bytes, rest: io.RawIOBase):
        self._first = first
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        if not self._first:
            return self._rest.readinto(buffer)
        piece, self._first = self._first[: len(buffer)], self._first[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)
