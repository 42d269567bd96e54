"""One folder, one owner."""

import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from labeldist.training import folder_lock
from labeldist.training.errors import UserError
from labeldist.training.folder_lock import owning
from runs import ROOT

HOLDER = """
import sys
from pathlib import Path
from labeldist.training.folder_lock import owning
with owning(Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_owner(folder: Path):
    """A process that owns the folder until its standard input closes or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "owned\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(folder_lock, "_PATIENCE_SECONDS", 0.2)


def test_a_second_owner_is_told_and_the_first_ones_end_frees_the_folder(tmp_path):
    folder = tmp_path / "run"
    with another_owner(folder):
        with pytest.raises(UserError, match=f"Another process is writing to {folder}"), owning(folder):
            pass
        assert folder.is_dir()
    with owning(folder):
        (folder / "config.json").write_text("{}")
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_kill_leaves_nothing_that_locks(tmp_path):
    folder = tmp_path / "run"
    with another_owner(folder) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        with owning(folder):
            assert not list(folder.iterdir())


def test_a_folder_that_was_made_for_nothing_is_taken_away(tmp_path):
    with pytest.raises(RuntimeError, match="mistake"), owning(tmp_path / "run"):
        raise RuntimeError("mistake")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", tmp_path / ("n" * 300), Path("/proc/nothing/run")):
        with pytest.raises(UserError, match="Choose another --output"), owning(folder):
            pass


def test_where_folders_cannot_be_locked_a_file_is(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    folder = tmp_path / "run"
    with owning(folder):
        assert (folder / folder_lock.LOCK_FILE).exists()
        with pytest.raises(UserError, match="Another process is writing"), owning(folder):
            pass
