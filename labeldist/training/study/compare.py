"""Several objectives over several seeds on the same splits: paired runs, a table, and one plain sentence."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from labeldist.training.atomic import read_json, write_json, writing_to
from labeldist.training.config import RunSettings, check_settings
from labeldist.training.data.corpus import Corpus, RawCorpus
from labeldist.training.data.notes import matters
from labeldist.training.errors import UserError
from labeldist.training.folder_lock import owning
from labeldist.training.frozen import note_on_class_layer
from labeldist.training.label_distances import check_matrix, load_or_count_confusions, needs_counting
from labeldist.training.machine import describe_machine, versions
from labeldist.training.measures import Measure, measure_of
from labeldist.training.objectives import Objective, takes_given_matrix
from labeldist.training.output import pictures
from labeldist.training.output.progress import SILENT, NowAndThen, Progress, Tell
from labeldist.training.output.words import count, percent
from labeldist.training.record_json import to_json
from labeldist.training.records import write_record
from labeldist.training.relations import check_measure_is_given, check_relation_is_given, measure_tables
from labeldist.training.reporting import REPORT
from labeldist.training.reporting.comparisons import comparison_report
from labeldist.training.reporting.saving import save_report
from labeldist.training.run import (
    RunOptions,
    begin_processes,
    check_encoder,
    check_frozen,
    resume_run,
    start_run,
)
from labeldist.training.run_data import draw_splits, fingerprint
from labeldist.training.run_folder import MAX_SEED, RunFolder, RunSpec, check_new_folder, check_same_settings
from labeldist.training.study.comparison import build_comparison
from labeldist.training.study.confusion_maps import draw_confusions
from labeldist.training.study.results import Comparison, FinishedRun, Provenance
from labeldist.training.study.workers import Workers
from labeldist.training.tokenized import TokenCache

Say = Callable[[str], None]

COMPARE_CONFIG = "compare.json"
COMPARISON = "comparison.json"
FIGURE = "comparison.png"
TELL_EVERY_S = 1.0


@dataclass(frozen=True)
class CompareSpec:
    """What decides a comparison.

    Attributes:
        settings: shared by all runs.
        objectives: compared with each other.
        seeds: each decides a split, the drawn shots, initial weights and the order of rows, for every objective alike.
        margin: smallest gain worth having, as a fraction or in the unit of the measure.
        measure: that the verdict is about.
    """

    settings: RunSettings
    objectives: tuple[Objective, ...]
    seeds: tuple[int, ...]
    margin: float = 0.005
    measure: Measure = "accuracy"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "objectives": list(self.objectives),
            "seeds": list(self.seeds),
            "margin": self.margin,
            "measure": self.measure,
            **to_json(self.settings),
        }


@dataclass(frozen=True)
class _Study:
    """What every process of a comparison holds: the data were read once, and are the same for all runs.

    Attributes:
        settings: shared by all runs.
        folder: of the comparison.
        corpora: the splits of each seed.
        fingerprints: of each seed's corpus and the matrix file, when the comparison was started.
        tokens: of the newest corpus's texts.
    """

    settings: RunSettings
    folder: Path
    corpora: Mapping[int, Corpus]
    fingerprints: Mapping[int, str]
    tokens: TokenCache = field(default_factory=TokenCache)

    def run(self, seed: int, objective: Objective) -> RunFolder:
        return RunFolder(self.folder / "runs" / f"{objective}-seed{seed}")

    def has_map(self, seed: int) -> bool:
        """Whether the runs of a seed get a map of their embeddings: those of the first one do, for the report."""
        return seed == next(iter(self.corpora))

    def confusion_file(self, seed: int) -> Path:
        return self.folder / f"confusion-seed{seed}.json"


def compare(
    spec: CompareSpec,
    data: RawCorpus,
    folder: Path,
    *,
    name: str | None = None,
    jobs: int = 1,
    show_progress: bool = False,
    say: Say = lambda sentence: None,
) -> Comparison:
    """Carry out every run that `folder` does not hold yet, then compare them.

    Called again with the same settings it goes on where it stopped; objectives and seeds may be added.

    Args:
        spec: what is compared.
        data: what all runs draw their splits from.
        folder: receives the runs, `comparison.json` and its pictures; owned by this process meanwhile.
        name: of the data, in the comparison; its own if `None`.
        jobs: processes that share the runs, each with its part of the cores.
        show_progress: whether a progress bar is drawn.
        say: receives a sentence for each finished run.

    Returns:
        The comparison: see `labeldist.training.study.comparison`.

    Raises:
        UserError: for any mistake in settings or data, if `folder` holds something else, or another process writes to
            it.
    """
    check_spec(spec, jobs=jobs)
    spec = replace(spec, settings=spec.settings.with_absolute_paths())
    with writing_to(folder):
        check_folder(spec, folder)
    study = _Study(spec.settings, folder, corpora := _draw(spec, data), _fingerprints(spec, corpora))
    for note in corpora[spec.seeds[0]].notes:
        # Which rows are drawn depends on the seed.
        if matters(note) and " drawn from " not in note:
            say(note)
    for note in filter(None, (note_on_class_layer(name, corpora[spec.seeds[0]]) for name in spec.objectives)):
        say(note)
    for objective in spec.objectives:
        check_matrix(objective, spec.settings, corpora[spec.seeds[0]], spec.seeds[0])
        check_frozen(objective, spec.settings, corpora[spec.seeds[0]])
    check_measure_is_given(spec.measure, spec.settings, corpora[spec.seeds[0]].class_names)
    measure_tables(spec.settings, corpora[spec.seeds[0]].class_names)
    check_encoder(spec.settings, corpora[spec.seeds[0]])
    _check_begun_runs(spec, study)
    with owning(folder):
        with writing_to(folder):
            # Again: another process may have begun one here since.
            check_folder(spec, folder)
            write_json(folder / COMPARE_CONFIG, spec.to_json())
        runs = _carry_out_all(spec, study, jobs, show_progress=show_progress, say=say)
        provenance = Provenance(
            matrices={f"{run.objective}-seed{run.seed}": run.matrix_source for run in runs},
            settings=spec.to_json(),
            machine=describe_machine(),
            versions=versions(),
        )
        encoder = Path(spec.settings.model.encoder).name
        comparison = replace(
            build_comparison(runs, data=name or data.name, encoder=encoder, margin=spec.margin, measure=spec.measure),
            provenance=provenance,
        )
        progress = Progress(bar=show_progress, tell=NowAndThen(say))
        with writing_to(folder):
            write_record(folder / COMPARISON, comparison)
            with progress.step(f"drawing {FIGURE}"):
                pictures.plot_comparison(comparison, folder / FIGURE)
            draw_confusions(runs, comparison, folder, progress=progress)
            with progress.step(f"writing {REPORT}"):
                save_report(comparison_report(folder), folder / REPORT, folder)
        if sentence := pictures.font_sentence(runs[0].metrics.class_names):
            say(sentence)
    return comparison


def check_spec(spec: CompareSpec, *, jobs: int = 1) -> None:
    """Find every mistake in settings that shows without data.

    Raises:
        UserError: for the first mistake found.
    """
    if len(set(spec.objectives)) < 2 or len(set(spec.objectives)) != len(spec.objectives):
        raise UserError(f"--objectives must name at least two different objectives, got {' '.join(spec.objectives)}.")
    in_range = all(0 <= seed <= MAX_SEED for seed in spec.seeds)
    if not spec.seeds or len(set(spec.seeds)) != len(spec.seeds) or not in_range:
        raise UserError(
            f"--seeds must be different whole numbers from 0 to 2**32 - 1, got {' '.join(map(str, spec.seeds))}."
        )
    check_settings(spec.settings)
    matrix = spec.settings.matrix
    if (matrix.confusable or matrix.matrix_file) and not any(map(takes_given_matrix, spec.objectives)):
        raise UserError("--confusable and --matrix-file belong to the objectives static and uniform; name one of them.")
    for objective in spec.objectives:
        check_relation_is_given(objective, spec.settings)
    measure = measure_of(spec.measure)
    if measure.is_fraction and not 0 < spec.margin < 1:
        raise UserError(f"--margin must lie between 0 and 1 (0.005 is half a point of accuracy), got {spec.margin}.")
    if not 0 < spec.margin < float("inf"):
        raise UserError(f"--margin must be a number above 0, got {spec.margin}.")
    check_measure_is_given(spec.measure, spec.settings)
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}.")
    begin_processes(RunSpec(spec.settings, spec.objectives[0], spec.seeds[0]))


def check_folder(spec: CompareSpec, folder: Path) -> None:
    """Raise `UserError` unless `folder` is new, or holds a comparison with the same settings."""
    with writing_to(folder):
        is_begun = (folder / COMPARE_CONFIG).exists()
    if not is_begun:
        check_new_folder(folder)
        return
    stored, wanted = read_json(folder / COMPARE_CONFIG), to_json(spec.settings.with_absolute_paths())
    if not isinstance(stored, dict) or not all(isinstance(stored.get(section), dict) for section in wanted):
        raise UserError(
            f"{folder / COMPARE_CONFIG} was not written by this version of labeldist. Choose another --output."
        )
    check_same_settings(stored, wanted, f"{folder} holds a comparison")


def _draw(spec: CompareSpec, data: RawCorpus) -> dict[int, Corpus]:
    return {seed: draw_splits(data, spec.settings.data, seed) for seed in spec.seeds}


def _fingerprints(spec: CompareSpec, corpora: Mapping[int, Corpus]) -> dict[int, str]:
    return {seed: fingerprint(spec.settings, corpus) for seed, corpus in corpora.items()}


def _check_begun_runs(spec: CompareSpec, study: _Study) -> None:
    """Refuse to go on beside runs of other data, before anything is trained."""
    for seed in spec.seeds:
        for objective in spec.objectives:
            if study.run(seed, objective).is_begun:
                _check_is_of_study(study, seed, objective)


def _check_is_of_study(study: _Study, seed: int, objective: Objective) -> None:
    """Refuse to pair a run whose data or settings are not those of the comparison."""
    run = study.run(seed, objective)
    config = run.read_config(trust_remote_code=study.settings.model.trust_remote_code)
    if config.fingerprint != study.fingerprints[seed]:
        raise UserError(
            f"The data, or a file that the settings name, changed since {run} was begun. Choose another --output."
        )
    stored = replace(config.spec.settings, data=replace(config.spec.settings.data, data=study.settings.data.data))
    if (stored, config.spec.objective, config.spec.seed) != (study.settings, objective, seed):
        raise UserError(f"{run} was begun with other settings than this comparison. Choose another --output.")


def _carry_out_all(spec: CompareSpec, study: _Study, jobs: int, *, show_progress: bool, say: Say) -> list[FinishedRun]:
    """Every run's results, in the order of the objectives and then the seeds."""
    runs = []
    num_runs = len(spec.seeds) * len(spec.objectives)
    # In place of a bar, what the current run is at: a line has no room for both.
    parts = "{n_fmt}/{total_fmt} runs [{elapsed}{postfix}]"
    with tqdm(total=num_runs, disable=not show_progress, leave=False, dynamic_ncols=True, bar_format=parts) as bar:
        # A second apart on the bar: it is written over.
        tell = NowAndThen(bar.set_postfix_str, first_s=1, longest_s=1) if show_progress else NowAndThen(say)
        for run in _finished(spec, study, jobs, tell):
            runs.append(run)
            time_taken = "" if run.seconds is None else f" in {run.seconds:.0f} s"
            sentence = f"{run.objective}, seed {run.seed}: accuracy {percent(run.metrics.accuracy)} %{time_taken}"
            bar.set_postfix_str(sentence)
            bar.update()
            say(sentence)
    return sorted(runs, key=lambda run: (spec.objectives.index(run.objective), run.seed))


def _finished(spec: CompareSpec, study: _Study, jobs: int, tell: Tell) -> Iterator[FinishedRun]:
    """Yield each run as it finishes, by seed; with several jobs, in the order of completion."""
    todo: list[tuple[int, Objective]] = [(seed, objective) for seed in spec.seeds for objective in spec.objectives]
    if jobs == 1:
        for seed, objective in todo:
            yield _carry_out(study, seed, objective, tell)
        return
    with Workers(jobs, study) as workers:
        try:
            yield from _as_finished(spec, workers, jobs, todo, tell)
        except BrokenProcessPool as error:
            raise UserError(
                "A process of the comparison was killed, most often for want of memory. The same command goes on where "
                "it stopped; a smaller --jobs needs less."
            ) from error


def _as_finished(
    spec: CompareSpec, workers: Workers, jobs: int, todo: list[tuple[int, Objective]], tell: Tell
) -> Iterator[FinishedRun]:
    """Give each free process the next run, seed after seed; those that need counted confusions wait for them."""
    counting = {objective for objective in spec.objectives if needs_counting(objective, spec.settings)}
    uncounted = set(spec.seeds) if counting else set()
    # `None` stands for the counting itself, ahead of its seed's runs.
    waiting: list[tuple[int, Objective | None]] = []
    for seed in spec.seeds:
        waiting += [(seed, None)] if counting else []
        waiting += [task for task in todo if task[0] == seed]
    running: dict[Future, tuple[int, Objective | None]] = {}
    while waiting or running:
        ready = [task for task in waiting if task[1] not in counting or task[0] not in uncounted]
        for task in ready[: jobs - len(running)]:
            waiting.remove(task)
            seed, objective = task
            future = workers.submit(_count, seed) if objective is None else workers.submit(_carry_out, *task)
            running[future] = task
        done = wait(running, timeout=TELL_EVERY_S, return_when=FIRST_COMPLETED).done
        tell(f"{count(len(running), 'run')} under way, {len(waiting)} waiting")
        for future in done:
            seed, objective = running.pop(future)
            if objective is None:
                future.result()
                uncounted.discard(seed)
            else:
                yield future.result()


def _count(study: _Study, seed: int) -> None:
    """Count one seed's confusions for the runs that share them."""
    with writing_to(study.folder):
        load_or_count_confusions(study.settings, study.corpora[seed], seed, study.confusion_file(seed), study.tokens)


def _carry_out(study: _Study, seed: int, objective: Objective, tell: Tell | None = None) -> FinishedRun:
    """Carry out, go on with, or just read one run."""
    run, corpus = study.run(seed, objective), study.corpora[seed]
    title = f"{objective}, seed {seed}"
    options = RunOptions(
        report=False,
        map=study.has_map(seed),
        progress=SILENT if tell is None else Progress(tell=lambda step: tell(f"{title}: {step}")),
        confusion_file=study.confusion_file(seed),
        tokens=study.tokens,
        resume_hint="give the same command again",
    )
    if run.is_begun:
        metrics = resume_run(run.path, options, corpus, trust_remote_code=study.settings.model.trust_remote_code)
    else:
        metrics = start_run(RunSpec(study.settings, objective, seed), corpus, run.path, options)
    # With every run, whoever began it: a matrix file may change meanwhile.
    _check_is_of_study(study, seed, objective)
    assert metrics is not None
    seconds = run.read_history()["seconds"]
    return FinishedRun(
        objective=objective,
        seed=seed,
        metrics=metrics.test,
        seconds=seconds,
        matrix=run.read_matrix(),
        matrix_source=metrics.matrix_source,
        relevance=run.read_relevance(),
        levels=run.read_levels(),
        validation_accuracy=metrics.best_validation_accuracy,
    )
