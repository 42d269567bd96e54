"""Several objectives over several seeds on the same splits: paired runs, a table, and one plain sentence."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from labeldist.training.config import Objective, RunSettings, to_json
from labeldist.training.data.readers import data_suffix
from labeldist.training.data.sources import file_name
from labeldist.training.errors import UserError
from labeldist.training.files import read_json, write_json, writing_to
from labeldist.training.machine import describe_machine, versions
from labeldist.training.matrices import needs_counting
from labeldist.training.output import pictures
from labeldist.training.output.words import percent
from labeldist.training.records import write_record
from labeldist.training.run import (
    CONFIG,
    HISTORY,
    MATRIX,
    RunOptions,
    RunSpec,
    check_new_folder,
    check_run,
    confusions,
    fingerprint,
    load_run_corpus,
    resume_run,
    start_run,
)
from labeldist.training.study.comparison import build_comparison
from labeldist.training.study.results import Comparison, FinishedRun, Provenance

Say = Callable[[str], None]

COMPARE_CONFIG = "compare.json"
COMPARISON = "comparison.json"
FIGURE = "comparison.png"


@dataclass(frozen=True)
class CompareSpec:
    """What decides a comparison.

    Attributes:
        settings: shared by all runs.
        objectives: compared with each other.
        seeds: each decides a split, the drawn shots, initial weights and the order of rows, for every objective alike.
        margin: smallest gain of accuracy worth having, as a fraction.
    """

    settings: RunSettings
    objectives: tuple[Objective, ...]
    seeds: tuple[int, ...]
    margin: float = 0.005

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "objectives": list(self.objectives),
            "seeds": list(self.seeds),
            "margin": self.margin,
            **to_json(self.settings),
        }


def compare(
    spec: CompareSpec, folder: Path, *, jobs: int = 1, show_progress: bool = False, say: Say = lambda sentence: None
) -> Comparison:
    """Carry out every run that `folder` does not hold yet, then compare them.

    Called again with the same settings it goes on where it stopped; objectives and seeds may be added.

    Args:
        spec: what is compared.
        folder: receives the runs, `comparison.json` and `comparison.png`.
        jobs: processes that share the runs, each with its part of the cores.
        show_progress: whether a progress bar is drawn.
        say: receives a sentence for each finished run.

    Returns:
        The comparison, as in `comparison.json`.

    Raises:
        UserError: for any mistake in settings or data, or if `folder` holds something else.
    """
    _check(spec)
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}.")
    with writing_to(folder):
        _check_folder(spec, folder)
    for objective in spec.objectives:
        check_run(RunSpec(spec.settings, objective, spec.seeds[0]))
    _check_data(spec, folder)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / COMPARE_CONFIG, spec.to_json())
    runs = []
    with tqdm(total=len(spec.seeds) * len(spec.objectives), unit="run", disable=not show_progress, leave=False) as bar:
        for run in _finished(spec, folder, jobs):
            runs.append(run)
            time_taken = "" if run.seconds is None else f" in {run.seconds:.0f} s"
            sentence = f"{run.objective}, seed {run.seed}: accuracy {percent(run.metrics.accuracy)} %{time_taken}"
            bar.set_postfix_str(sentence)
            bar.update()
            say(f"{sentence}; label distances: {run.matrix_source}")
    # In the order of the command line, not of completion.
    runs.sort(key=lambda run: (spec.objectives.index(run.objective), run.seed))
    name = data_name(spec.settings.data.data)
    encoder = Path(spec.settings.model.encoder).name
    provenance = Provenance(
        matrices={f"{run.objective}-seed{run.seed}": run.matrix_source for run in runs},
        settings=spec.to_json(),
        machine=describe_machine(),
        versions=versions(),
    )
    comparison = replace(build_comparison(runs, data=name, encoder=encoder, margin=spec.margin), provenance=provenance)
    with writing_to(folder):
        write_record(folder / COMPARISON, comparison)
        pictures.plot_comparison(comparison, folder / FIGURE)
    return comparison


def _finished(spec: CompareSpec, folder: Path, jobs: int) -> Iterator[FinishedRun]:
    """Yield each run as it finishes, by seed; with several jobs, in the order of completion."""
    todo: list[tuple[int, Objective]] = [(seed, objective) for seed in spec.seeds for objective in spec.objectives]
    if jobs == 1:
        for seed, objective in todo:
            yield _carry_out(spec.settings, folder, seed, objective)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    # spawn: a forked child of a process that has used OpenMP or CUDA may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(threads,)) as pool:
        try:
            yield from _as_finished(spec, folder, pool, todo)
        except BrokenProcessPool as error:
            raise UserError(
                "A process of the comparison was killed, most often for want of memory. The same command goes on where "
                "it stopped; a smaller --jobs needs less."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _as_finished(
    spec: CompareSpec, folder: Path, pool: ProcessPoolExecutor, todo: list[tuple[int, Objective]]
) -> Iterator[FinishedRun]:
    """Share the runs among processes; those that wait for counted confusions start when their seed's are counted."""
    counting = {objective for objective in spec.objectives if needs_counting(objective, spec.settings)}
    counts = {pool.submit(_count, spec.settings, folder, seed): seed for seed in spec.seeds} if counting else {}
    unfinished: set[Future] = set(counts)
    for seed, objective in todo:
        if objective not in counting:
            unfinished.add(pool.submit(_carry_out, spec.settings, folder, seed, objective))
    while unfinished:
        done, unfinished = wait(unfinished, return_when=FIRST_COMPLETED)
        for future in done:
            result = future.result()
            if future not in counts:
                yield result
                continue
            for seed, objective in todo:
                if objective in counting and seed == counts[future]:
                    unfinished.add(pool.submit(_carry_out, spec.settings, folder, seed, objective))


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    # Ctrl-C reaches every process of the terminal; the parent alone speaks of it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")


def _end_with_parent() -> None:
    """A worker must not outlive a killed parent: it would train on beside the command that goes on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _count(settings: RunSettings, folder: Path, seed: int) -> None:
    """Count one seed's confusions for the runs that share them."""
    spec = RunSpec(settings, "static", seed)
    with writing_to(folder):
        confusions(spec, load_run_corpus(spec), _confusion_file(folder, seed))


def _carry_out(settings: RunSettings, folder: Path, seed: int, objective: Objective) -> FinishedRun:
    """Carry out, go on with, or just read one run."""
    run_folder = _run_folder(folder, seed, objective)
    options = RunOptions(
        pictures=False, confusion_file=_confusion_file(folder, seed), again="give the same command again"
    )
    if (run_folder / CONFIG).exists():
        metrics = resume_run(run_folder, options)
    else:
        metrics = start_run(RunSpec(settings, objective, seed), run_folder, options)
    matrix = read_json(run_folder / MATRIX)["matrix"] if (run_folder / MATRIX).exists() else None
    assert metrics is not None
    seconds = read_json(run_folder / HISTORY)["seconds"]
    return FinishedRun(objective, seed, metrics.test, seconds, matrix, metrics.matrix_source)


def _confusion_file(folder: Path, seed: int) -> Path:
    return folder / f"confusion-seed{seed}.json"


def data_name(data: Sequence[str]) -> str:
    """A short name for data: its folder's or its first file's; the folder's where the file is just called `train`.

    Examples:
        >>> data_name(["corpora/trec"]), data_name(["tickets.train.csv", "tickets.test.csv"])
        ('trec', 'tickets.train')
    """
    if not data:
        raise UserError("--data takes 'demo', a folder, files or a hub id; got nothing.")
    path = Path(data[0])
    if path.is_dir():
        return path.resolve().name
    # A hub id (owner/name) goes by its name, as does a file that is absent: reading it will tell.
    return file_name(path) if data_suffix(path) else path.name


def _check(spec: CompareSpec) -> None:
    if len(set(spec.objectives)) < 2 or len(set(spec.objectives)) != len(spec.objectives):
        raise UserError(f"--objectives must name at least two different objectives, got {' '.join(spec.objectives)}.")
    if not spec.seeds or len(set(spec.seeds)) != len(spec.seeds) or not 0 <= min(spec.seeds) <= max(spec.seeds) < 2**32:
        raise UserError(
            f"--seeds must be different whole numbers from 0 to 2**32 - 1, got {' '.join(map(str, spec.seeds))}."
        )
    matrix = spec.settings.matrix
    if (matrix.confusable or matrix.matrix_file) and not {"static", "uniform"} & set(spec.objectives):
        raise UserError("--confusable and --matrix-file belong to the objectives static and uniform; name one of them.")
    if not 0 < spec.margin < 1:
        raise UserError(f"--margin must lie between 0 and 1 (0.005 is half a point of accuracy), got {spec.margin}.")


def _check_data(spec: CompareSpec, folder: Path) -> None:
    """Refuse to pair runs whose data changed between them."""
    for seed in spec.seeds:
        begun = [run for o in spec.objectives if ((run := _run_folder(folder, seed, o)) / CONFIG).exists()]
        if not begun:
            continue
        first = RunSpec(spec.settings, spec.objectives[0], seed)
        now = fingerprint(first, load_run_corpus(first))
        for run in begun:
            if read_json(run / CONFIG)["fingerprint"] != now:
                raise UserError(f"The data or the matrix file changed since {run} was begun. Choose another --output.")


def _run_folder(folder: Path, seed: int, objective: Objective) -> Path:
    return folder / "runs" / f"{objective}-seed{seed}"


def _check_folder(spec: CompareSpec, folder: Path) -> None:
    if not (folder / COMPARE_CONFIG).exists():
        check_new_folder(folder)
        return
    stored = read_json(folder / COMPARE_CONFIG)
    wanted = spec.to_json()
    for section in ("data", "model", "loss", "matrix", "optim"):
        for name, value in wanted[section].items():
            if stored.get(section, {}).get(name) != value:
                option = "--" + name.replace("_", "-")
                there = stored.get(section, {}).get(name)
                raise UserError(
                    f"{folder} holds a comparison with {option} {there}, not {value}. Choose another --output, or the "
                    "same settings to go on with it."
                )
