import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from labeldist.training.atomic import new_file, read_json, write_json, write_text, writing_to
from labeldist.training.errors import UserError


def test_json_comes_back_in_any_language(tmp_path):
    value = {"发货": [1, 2.5, None], "b": {"ü": "é"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "发货" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_writing_replaces_the_file_before(tmp_path):
    write_text(tmp_path / "a.txt", "first")
    write_text(tmp_path / "a.txt", "second")
    assert (tmp_path / "a.txt").read_text() == "second"


def test_a_failed_write_leaves_the_file_before_and_nothing_beside_it(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "first")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a.txt", "second")
    assert (tmp_path / "a.txt").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_the_file_before(tiny_disk):
    disk = tiny_disk(64)
    write_text(disk / "a.txt", "first")
    with pytest.raises(UserError, match=f"The disk that holds {disk} is full"), writing_to(disk):
        write_text(disk / "a.txt", "x" * 100_000)
    assert (disk / "a.txt").read_text() == "first"
    assert [path.name for path in disk.iterdir()] == ["a.txt"]


def test_missing_and_broken_files_are_told(tmp_path):
    with pytest.raises(UserError, match=r"a\.json is missing"):
        read_json(tmp_path / "a.json")
    for content in (b'{"a": ', b"\xff\xfe", b""):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.json cannot be read"):
            read_json(tmp_path / "a.json")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence(tmp_path, number):
    with pytest.raises(UserError, match="is full") as caught, writing_to(tmp_path / "new" / "run"):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EFBIG])
def test_a_folder_that_may_not_be_written_is_one_sentence(tmp_path, number):
    with (
        pytest.raises(UserError, match=rf"cannot be written: {os.strerror(number)}\. Choose another"),
        writing_to(tmp_path),
    ):
        raise OSError(number, os.strerror(number))


def test_a_read_only_disk_is_not_called_full(tiny_disk):
    disk = tiny_disk(100, read_only=True)
    with pytest.raises(UserError, match="cannot be written"), writing_to(disk):
        write_text(disk / "a.txt", "text")


def test_what_is_no_disk_is_not_called_full():
    with pytest.raises(UserError, match=r"^/proc cannot be written: "), new_file(Path("/proc/labels.json")):
        pass


def test_a_library_that_names_the_number_in_its_sentence_is_understood(tmp_path):
    limit = (
        "import resource, torch, safetensors.torch, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path; from labeldist.training.atomic import writing_to\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); folder = Path({folder!r})\n"
        "with writing_to(folder): safetensors.torch.save_file(dict(a=torch.zeros(1000)), folder / 'a.safetensors')\n"
    )
    process = subprocess.run([sys.executable, "-c", limit.format(folder=str(tmp_path))], capture_output=True, text=True)
    assert f"{tmp_path} cannot be written: File too large." in process.stderr.splitlines()[-1]


def test_a_full_disk_behind_torch_save_is_understood_when_the_file_is_gone(tiny_disk):
    disk = tiny_disk(3000)

    def save() -> None:
        try:
            torch.save(torch.zeros(1_000_000), disk / "a.pt")
        finally:
            (disk / "a.pt").unlink()
            assert shutil.disk_usage(disk).free > 2_000_000

    with pytest.raises(UserError, match=r"is full\. Free some room"), writing_to(disk):
        save()


def test_a_library_that_names_no_error_number_is_understood(tmp_path):
    error = ValueError("cannot be saved")
    error.__cause__ = RuntimeError("PytorchStreamWriter failed writing file data/7: file write failed")
    with pytest.raises(UserError, match="is full"), writing_to(tmp_path):
        raise error


def write_new(path: Path, text: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    with new_file(path) as file:
        file.write(text)
        meanwhile()


def test_two_that_write_one_new_file_do_not_mix(tmp_path):
    path = tmp_path / "out.jsonl"
    with pytest.raises(UserError, match=r"out\.jsonl exists already"):
        write_new(path, "first", meanwhile=lambda: write_new(path, "second"))
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [UserError("mine."), ValueError("a bug"), OSError(errno.EBADF, "a bug")])
def test_other_errors_pass(tmp_path, error):
    with pytest.raises(type(error), match=str(error).replace("[", r"\[")), writing_to(tmp_path):
        raise error
