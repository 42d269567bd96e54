"""The runs of the paper's tables: which are missing, the commands that make them, and the record of those that ended.

A unit is one seed of a cell: a `labeldist compare` of the objectives that its record lacks, on one GPU. Its runs are
recorded as they end, whatever becomes of the command. One objective that is missing alone is a `labeldist train`: the
same run, and `compare` takes two.
"""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import records
from benchmarks.cells import environment
from benchmarks.paper.protocol import SETTINGS, Setting, flags_of, objectives_of
from labeldist.training.atomic import read_json
from labeldist.training.objectives import Objective
from labeldist.training.run_folder import RunFolder

__all__ = ["CASE_STUDY", "Record", "Unit", "carry_out", "chosen_temperature", "key_of", "unit_commands"]

CASE_STUDY = ("20ng", 0)
"""Corpus and seed whose runs are recorded with label distances and mistakes, for pictures and examples."""
LOOK_EVERY_S, END_WITHIN_S = 2.0, 30.0

Run = dict[str, Any]


def key_of(run: Run) -> tuple[Any, ...]:
    """What tells a run from the others of its record."""
    place = SETTINGS.index(run["setting"])
    return run["corpus"], place, run["temperature"], run["objective"], run["seed"]


@dataclass(frozen=True)
class Unit:
    """One seed of a cell.

    Attributes:
        encoder: one of the protocol's encoders.
        corpus: one of its corpora.
        setting: one of its settings.
        seed: of the runs.
        temperature: of the contrast; `None` for the one that development runs choose.
    """

    encoder: str
    corpus: str
    setting: Setting
    seed: int
    temperature: float | None = 1.0

    def __str__(self) -> str:
        at = "" if self.temperature is None or self.setting != "development" else f"-at-{self.temperature:g}"
        return f"{self.encoder}-{self.corpus}-{self.setting}{at}-seed{self.seed}"


@dataclass
class Record:
    """The record of one encoder, shared by threads; each new run is written at once.

    Attributes:
        path: of the file.
        facts: the record: `runs` and what a reader must know of them.
    """

    path: Path
    facts: dict[str, Any]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, runs: Sequence[Run]) -> list[Run]:
        """Add those that are new, and return them."""
        with self._lock:
            known = {key_of(run) for run in self.facts["runs"]}
            new = [run for run in runs if key_of(run) not in known]
            if new:
                self.facts["runs"] += new
                records.save(self.facts, self.path, key_of)
            return new

    def missing(self, unit: Unit, wanted: Sequence[Objective] | None = None) -> list[Objective]:
        """Objectives that a unit still has to run; a run that failed would fail again."""
        with self._lock:
            done = {
                run["objective"]
                for run in self.facts["runs"]
                if (run["corpus"], run["setting"], run["seed"]) == (unit.corpus, unit.setting, unit.seed)
                and (unit.temperature is None or run["temperature"] == unit.temperature)
            }
        compared = objectives_of(unit.corpus, unit.setting)
        return [name for name in compared if name not in done and (wanted is None or name in wanted)]

    def temperature(self, corpus: str, temperatures: Sequence[float], seeds: Sequence[int]) -> float | None:
        """The temperature that the development runs of a corpus choose; `None` until all of them are there."""
        with self._lock:
            runs = [run for run in self.facts["runs"] if run["corpus"] == corpus and run["setting"] == "development"]
        return chosen_temperature(runs, temperatures, len(objectives_of(corpus, "development")) * len(seeds))


def chosen_temperature(runs: Sequence[Run], temperatures: Sequence[float], runs_each: int) -> float | None:
    """The temperature of the highest mean accuracy on development rows; of equals the one closest to the paper's 1.

    A temperature at which a run failed is not taken. None is taken before all runs are there.

    Args:
        runs: the development runs of a cell.
        temperatures: to choose from.
        runs_each: number of runs at each of them.

    Examples:
        >>> runs = [{"temperature": at, "accuracy": found} for at, found in ((1.0, 0.8), (0.1, 0.9), (0.1, None))]
        >>> chosen_temperature([*runs, runs[0]], (1.0, 0.1), 2), chosen_temperature(runs[:2], (1.0, 0.1), 1)
        (1.0, 0.1)
        >>> chosen_temperature(runs, (1.0, 0.1), 2)
    """
    there = Counter(run["temperature"] for run in runs)
    if any(there[temperature] < runs_each for temperature in temperatures):
        return None
    by_temperature: dict[float, list[float | None]] = {}
    for run in runs:
        by_temperature.setdefault(run["temperature"], []).append(run.get("accuracy"))
    means = {
        temperature: mean(value for value in found if value is not None)
        for temperature, found in by_temperature.items()
        if None not in found
    }
    return max(means, key=lambda temperature: (means[temperature], temperature), default=None)


def unit_commands(
    unit: Unit, objectives: Sequence[Objective], folder: Path, flags: Sequence[str]
) -> tuple[list[str], Path]:
    """The command of a unit and the folder that it writes to.

    Args:
        unit: that is carried out.
        objectives: that its record lacks.
        folder: of the unit.
        flags: of `labeldist compare`.
    """
    compared = folder / "compare"
    # What an earlier call finished there is read again, and makes a comparison of a single run.
    finished = [run.name.rpartition("-seed")[0] for run in _run_folders(compared) if RunFolder(run).is_finished]
    names = list(dict.fromkeys([*objectives, *finished]))
    start = [sys.executable, "-m", "labeldist"]
    if len(names) > 1:
        more = ["--objectives", *names, "--seeds", str(unit.seed), "--output", str(compared)]
        return [*start, "compare", *flags, *more], compared
    alone = folder / names[0]
    if RunFolder(alone).is_begun:
        return [*start, "train", "--resume", str(alone)], alone
    return [*start, "train", *flags, "--objective", names[0], "--seed", str(unit.seed), "--output", str(alone)], alone


def carry_out(
    unit: Unit,
    record: Record,
    work: Path,
    *,
    encoder_folder: str,
    place: int,
    threads: int | None = None,
    stop: threading.Event,
    objectives: Sequence[Objective] | None = None,
    more_flags: Sequence[str] = (),
    facts: Mapping[str, Any],
    say: Callable[[str], None],
) -> bool:
    """Run what a unit lacks, and record it as it comes.

    Args:
        unit: with a temperature.
        record: of its encoder.
        work: folder of the runs; a finished unit's is deleted.
        encoder_folder: of the encoder, or its name.
        place: number of the worker, which decides the GPU.
        threads: of the command.
        stop: set when the command is to end.
        objectives: that are wanted; all of the cell if `None`.
        more_flags: of `labeldist compare`, after all others.
        facts: that each run is recorded with.
        say: receives a line for each run.

    Returns:
        Whether nothing is missing.
    """
    assert unit.temperature is not None
    development_in = work if unit.setting == "development" else None
    flags = flags_of(
        unit.corpus, unit.encoder, folder=encoder_folder, temperature=unit.temperature, development_in=development_in
    )
    flags = (*flags, *more_flags)
    folder = work / str(unit)
    is_local = encoder_folder in ("textcnn", "minilm") or Path(encoder_folder).exists()

    def collect() -> int:
        new = record.add(_finished(unit, folder, facts))
        for run in new:
            say(f"{unit}  {run['objective']}: {_outcome(run)}")
        return len(new)

    collect()
    while (missing := record.missing(unit, objectives)) and not stop.is_set():
        command, output = unit_commands(unit, missing, folder, flags)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        with log.open("w") as lines:
            process = subprocess.Popen(
                command, stdout=lines, stderr=lines, env=environment(place, is_offline=is_local, threads=threads)
            )
            num_new = _wait(process, collect, stop)
        num_new += collect()
        if process.returncode and not num_new and not stop.is_set():
            say(f"{unit}: failed, see {log}\n{log.read_text(errors='replace')[-1500:]}")
            return False
        if not process.returncode and not num_new and record.missing(unit, objectives):
            say(f"{unit}: {output} has no new run, see {log}")
            return False
    if missing:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".log").unlink(missing_ok=True)
    return True


def _wait(process: subprocess.Popen, collect: Callable[[], int], stop: threading.Event) -> int:
    """Collect runs until the command ends; asked to stop, it is interrupted, and killed if it does not heed that."""
    num_new = 0
    while process.poll() is None:
        if stop.wait(LOOK_EVERY_S):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        num_new += collect()
    return num_new


def _run_folders(compared: Path) -> list[Path]:
    runs = compared / "runs"
    return sorted(path for path in runs.iterdir() if RunFolder(path).is_begun) if runs.is_dir() else []


def _finished(unit: Unit, folder: Path, facts: Mapping[str, Any]) -> list[Run]:
    """What a unit's folder holds, as it is recorded; with the runs that cannot go on."""
    compared = _run_folders(folder / "compare")
    alone = [path for path in folder.iterdir() if RunFolder(path).is_begun] if folder.is_dir() else []
    runs = []
    for path in [*compared, *alone]:
        run = RunFolder(path)
        objective = path.name.rpartition("-seed")[0] if path in compared else path.name
        about = {
            "corpus": unit.corpus,
            "setting": unit.setting,
            "temperature": unit.temperature,
            "objective": objective,
            "seed": unit.seed,
        }
        if run.is_finished:
            runs.append({**about, **_measured(unit, run), **facts})
        elif run.failure.exists():
            runs.append({**about, "failed": read_json(run.failure)["reason"], **facts})
    return runs


def _measured(unit: Unit, run: RunFolder) -> Run:
    metrics = run.read_metrics()
    seconds, validation = run.read_history()["seconds"], metrics.best_validation_accuracy
    found: Run = {
        "accuracy": round(metrics.test.accuracy, 6),
        "macro_f1": round(metrics.test.macro_f1, 6),
        "validation_accuracy": None if validation is None else round(validation, 6),
        # None where the run was interrupted: the time before is not known.
        "seconds": None if seconds is None else round(seconds, 1),
        "epochs": metrics.num_epochs,
        "updates": metrics.num_ldm_updates,
        "num_test_rows": metrics.test.num_rows,
    }
    if (unit.corpus, unit.seed) == CASE_STUDY and unit.setting != "development":
        matrix = run.read_matrix()
        if matrix is not None:
            found["matrix"] = matrix.round(3).tolist()
            found["class_names"] = list(metrics.test.class_names)
        found["mistakes"] = _mistakes(run, metrics.test.class_names)
    return found


def _mistakes(run: RunFolder, class_names: Sequence[str]) -> list[tuple[int, int]]:
    """Each wrong test row with the class that it was taken for, as indices."""
    with run.predictions.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    index = {name: place for place, name in enumerate(class_names)}
    return [(place, index[row["predicted"]]) for place, row in enumerate(rows) if row["predicted"] != row["label"]]


def _outcome(run: Run) -> str:
    if "failed" in run:
        return f"failed: {run['failed']}"
    seconds = "" if run["seconds"] is None else f" in {run['seconds']:.0f} s"
    return f"{100 * run['accuracy']:.1f} %{seconds}"
