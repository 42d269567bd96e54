"""Small corpora, small runs and the command line, shared by the tests of the trainer."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from labeldist import demo
from labeldist.training import api
from labeldist.training.config import (
    DataSettings,
    LossSettings,
    MatrixSettings,
    ModelSettings,
    OptimSettings,
    RunSettings,
)
from labeldist.training.data.corpus import RawCorpus, read_corpus
from labeldist.training.objectives import Objective
from labeldist.training.run import RunOptions, start_run
from labeldist.training.run_data import read_run_corpus
from labeldist.training.run_folder import RunSpec

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ("delivery_complaint", "delivery_praise", "delivery_question", "delivery_status")
SIZES = ["--embedding-dim", "8", "--projection-dim", "8", "--batch-size", "16"]
QUICK = [*SIZES, "--epochs", "2", "--confusion-epochs", "1"]


def messages(num_rows: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Rows of the demo about delivery: four classes."""
    about_delivery = [row for row in demo.generate(5 * num_rows, seed=seed) if row.label in CLASSES]
    return [{"text": row.text, "label": row.label} for row in about_delivery[:num_rows]]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_corpus(folder: Path, *, num_train: int = 90, num_test: int = 30) -> Path:
    rows = messages(num_train + num_test)
    write_rows(folder / "train.jsonl", rows[:num_train])
    write_rows(folder / "test.jsonl", rows[num_train:])
    return folder


def settings_of(data: Path | str, *, epochs: int = 2, shots: int | None = None, **changes: Any) -> RunSettings:
    """What `QUICK` says on the command line; `changes` replace whole sections."""
    sections: dict[str, Any] = {
        "data": DataSettings((str(data),), shots=shots),
        "model": ModelSettings(embedding_dim=8, projection_dim=8),
        "loss": LossSettings(),
        "matrix": MatrixSettings(confusion_epochs=1),
        "optim": OptimSettings(recipe="standard", epochs=epochs, batch_size=16),
    }
    return RunSettings(**{**sections, **changes})


def train(folder: Path, settings: RunSettings, objective: Objective = "adaptive", *, seed: int = 0, **options: Any):
    """A run; without pictures unless `report=True`."""
    corpus = read_run_corpus(settings, seed)
    chosen = RunOptions(**{"report": False, **options})
    metrics = start_run(RunSpec(settings, objective, seed), corpus, folder, chosen)
    assert metrics is not None
    return metrics


# `labeldist.train` without pictures and report.
train_on_rows = partial(api.train, report=False)


def raw_corpus(settings: RunSettings) -> RawCorpus:
    """The data that settings name, read and not yet drawn."""
    return read_corpus(settings.data.data)


def labeldist(*arguments: str | Path, **options: Any) -> Any:
    """The command line in a process of its own, with as many threads as this one, and never on the hub."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        **options.pop("env", {}),
    }
    command = [sys.executable, "-m", "labeldist", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment, **{"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **options}
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def outcome(run: Path) -> dict[str, bytes]:
    """All that a run found out, but for how long it took."""
    files = contents(run)
    return {name: files[name] for name in ("metrics.json", "ldm.json", "predictions.jsonl", "model/model.safetensors")}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
