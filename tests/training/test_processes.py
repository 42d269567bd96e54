"""`labeldist train` on two real processes, started by torchrun."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from labeldist.cli import main
from labeldist.training.errors import UserError
from labeldist.training.processes import barrier, broadcast, check_same, on_all, on_main
from labeldist.training.run import RunOptions, resume_run
from runs import CLASSES, ROOT, SIZES, outcome, read

WORLD = 2
FOLDS = ["--confusion-from", "cross-validation", "--folds", "2", "--confusion-epochs", "1"]
LONGER = [*SIZES, "--epochs", "6", "--warmup-fraction", "0", *FOLDS]


def launch(*arguments: str | Path) -> Any:
    """The command line on two processes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORLD}"]
    command = [*torchrun, "-m", "labeldist", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def finished(*arguments: str | Path) -> tuple[int, str, str]:
    process = launch(*arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def sentences(err: str) -> list[str]:
    """What labeldist itself said, without the launcher's report."""
    return [line for line in err.splitlines() if line.startswith("labeldist: ")]


def process_of_rank(rank: int, launcher: int) -> int:
    """The process that torchrun started for `rank`."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_child = (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(launcher)
            if is_child and f"RANK={rank}" in (folder / "environ").read_text().split("\0"):
                return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.fixture(scope="module")
def undisturbed(tickets, tmp_path_factory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, out, err = finished("train", "--data", tickets, *LONGER, "--output", folder)
    assert code == 0, err
    return folder, out, err


def test_one_process_writes_and_speaks(undisturbed):
    folder, out, err = undisturbed
    assert out.count("Saved in") == 1
    assert err.count("Label distances:") == 1
    assert read(folder / "config.json")["num_processes"] == WORLD
    log = read(folder / "history.json")["log"]
    assert [row["step"] for row in log if "ldm_epsilon" in row] == [6, 12, 18, 24, 30, 36]
    # The cross-validation's counts are one for each training row, whoever trained for them.
    assert sum(map(sum, read(folder / "confusion.json")["counts"])) == read(folder / "config.json")["num_rows"]["train"]
    assert not (folder / "checkpoints").exists()
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 30


@pytest.mark.slow
def test_processes_train_on_levels_together(tickets, tmp_path):
    tree = tmp_path / "tree.json"
    tree.write_text(json.dumps({"verdict": CLASSES[:2], "news": CLASSES[2:]}))
    flags = ["--objective", "levels", "--hierarchy", tree, "--epochs", "1", "--chunk-size", "5"]
    code, _, err = finished("train", "--data", tickets, *SIZES, *flags, "--output", tmp_path / "run")
    assert code == 0, err
    assert len(read(tmp_path / "run" / "ldm.json")["levels"]) == 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a process by what Linux tells of it")
def test_a_killed_process_ends_the_run_with_a_sentence_and_it_resumes(undisturbed, tickets, tmp_path):
    folder = tmp_path / "killed"
    process = launch("train", "--data", tickets, *LONGER, "--output", folder)
    deadline = time.monotonic() + 300
    while not list(folder.glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process_of_rank(1, process.pid), signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert sentences(err) == [
        "labeldist: error: the run needs all of its 2 processes, and one has ended or all were told to stop. "
        f"Start them again with --resume {folder}."
    ]
    # The launcher reports, too; no traceback is of this project.
    assert "labeldist/training" not in err
    assert not (folder / "metrics.json").exists()

    code, _, err = finished("train", "--resume", folder)
    assert code == 0, err
    assert outcome(folder) == outcome(undisturbed[0])


def test_a_mistake_is_told_once(tickets, tmp_path):
    code, out, err = finished("train", "--data", tickets, "--batch-size", "15", "--output", tmp_path / "new")
    assert code != 0
    assert out == ""
    assert sentences(err) == [
        "labeldist: error: --batch-size must be a multiple of the 2 processes, which share each batch, got 15."
    ]
    assert not (tmp_path / "new").exists()


# One process


def test_a_run_goes_on_with_as_many_processes_as_it_began(finished_run, tmp_path, monkeypatch):
    shutil.copy(finished_run / "config.json", tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="was begun on 1 process, and this is 2"):
        resume_run(tmp_path, RunOptions())


def test_a_comparison_is_no_run_of_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare", "--data", "demo"]) == 2
    assert "labeldist compare starts processes of its own" in capsys.readouterr().err


def test_one_process_agrees_with_itself():
    done = []
    on_main(lambda: done.append(1))
    barrier()
    check_same({"a": 1}, "settings")
    assert broadcast("value") == "value"
    assert on_all(lambda: 3) == 3
    assert done == [1]


def test_a_mistake_of_one_process_is_raised_as_it_is():
    def mistaken() -> None:
        raise UserError("the text is empty.")

    with pytest.raises(UserError, match=r"^the text is empty\.$"):
        on_all(mistaken)
