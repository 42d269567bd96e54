import gzip
import io
import os
import threading
import tracemalloc

import pytest

from labeldist.training.data import lines
from labeldist.training.data.lines import check_file, decoded_lines, file_lines, path_kind
from labeldist.training.errors import UserError

# Longer than a block, with letters of several bytes across its ends.
LONG = "".join(f"{i} naïve 发货快\n" for i in range(20_000))


@pytest.mark.parametrize("end", ["\n", "\r"])
@pytest.mark.parametrize("text", ["", "a", "a\n", "\n", "a\n\nb", LONG])
def test_lines_are_those_of_the_text(text, end):
    found = list(decoded_lines(io.BytesIO(text.replace("\n", end).encode()), "a"))
    expected = text.removesuffix("\n").split("\n") if text else []
    assert found == list(enumerate(expected, 1))


def test_a_carriage_return_before_a_line_feed_stays():
    assert list(decoded_lines(io.BytesIO(b"a\r\nb\rc\n"), "a")) == [(1, "a\r"), (2, "b\rc")]


def test_bytes_that_are_not_utf8_are_told_after_the_lines_before_them():
    content = LONG.encode() + b"caf\xe9 au lait\n" + LONG.encode()
    read = []
    with pytest.raises(UserError, match=r"a, line 20001: byte 4 of the line \(0xe9\) is not UTF-8"):
        read.extend(decoded_lines(io.BytesIO(content), "a"))
    assert len(read) == 20_000


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl"])
def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2**21)
    path = tmp_path / name
    content = b"first\n" + b"a" * 2**26
    path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r", line 2: the line is longer than 2 MiB. Split its text, or cut it.$"):
            list(file_lines(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 2**20


def test_a_long_line_within_the_bound_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("é" * 10**6 + "\nb\n", encoding="utf-8")
    assert [len(line) for _, line in file_lines(tmp_path / "a.txt")] == [10**6, 1]


def test_what_a_path_is(tmp_path):
    (tmp_path / "a").touch()
    os.mkfifo(tmp_path / "pipe")
    assert path_kind(tmp_path) == "folder"
    assert path_kind(tmp_path / "a") == "file"
    assert path_kind(tmp_path / "pipe") == "other"
    assert path_kind(tmp_path / "b") is None
    assert path_kind(tmp_path / "a" / "b") is None


@pytest.mark.parametrize("name", ["loop", "x" * 300, "a\0b"])
def test_names_that_the_system_refuses_are_one_sentence(tmp_path, name):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for check in (path_kind, check_file):
        with pytest.raises(UserError, match=r"cannot be read: |is no name of a file: "):
            check(tmp_path / name)


def test_a_pipe_that_nobody_writes_to_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe.txt is a pipe that nothing was written to in 0.1 s"):
        list(file_lines(tmp_path / "pipe.txt"))


@pytest.mark.parametrize("name", ["pipe.txt", "pipe.txt.gz"])
def test_a_pipe_is_read_to_its_end(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    content = LONG.encode()
    writer = threading.Thread(
        target=lambda: path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    )
    writer.start()
    assert len(list(file_lines(path))) == 20_000
    writer.join()
