"""One run: a corpus, an objective and a seed become a folder with model, matrix, metrics, predictions and pictures."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from labeldist.distributed import num_processes
from labeldist.messages import listed
from labeldist.serving.batches import Predictions
from labeldist.training import processes
from labeldist.training.atomic import write_json, writing_to
from labeldist.training.calibration import calibration_of
from labeldist.training.config import RunSettings, flag_of
from labeldist.training.data.corpus import NO_ROWS, Corpus, training_rows
from labeldist.training.data.notes import matters
from labeldist.training.encoders import build_classifier, parameter_count
from labeldist.training.errors import LostProcessError, UserError
from labeldist.training.fit import (
    Fitted,
    check_trackers,
    resolve_device,
)
from labeldist.training.folder_lock import owning
from labeldist.training.frozen import note_on_class_layer, note_on_unused_rows, rows_of_class_layer
from labeldist.training.label_distances import (
    MatrixChoice,
    check_matrix,
    choose_matrix,
    load_or_count_confusions,
    needs_counting,
)
from labeldist.training.machine import describe_machine, versions
from labeldist.training.metrics import evaluate_predictions, with_relation
from labeldist.training.nearest import nearest_training_texts
from labeldist.training.objectives import OBJECTIVES, Objective
from labeldist.training.output import pictures
from labeldist.training.output.progress import SILENT, Progress
from labeldist.training.output.projection import TwoDimensions, two_dimensions
from labeldist.training.records import RunMetrics
from labeldist.training.relations import measure_tables
from labeldist.training.reporting import REPORT
from labeldist.training.reporting.cards import write_card
from labeldist.training.reporting.runs import run_report
from labeldist.training.reporting.saving import save_report
from labeldist.training.run_data import fingerprint, read_run_corpus
from labeldist.training.run_folder import RunConfig, RunFolder, RunSpec, check_new_folder
from labeldist.training.run_model import TrainedModel, train_model
from labeldist.training.run_results import (
    KeptTables,
    tables_of_best_epoch,
    write_map,
    write_matrix,
    write_nearest,
    write_predictions,
)
from labeldist.training.tokenized import TokenCache
from labeldist.training.unused import unused_settings

FROZEN_BY_PYTHON = 1000
"""Most objects that Python itself leaves out of garbage collection when it starts: 375 in Python 3.12."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out, beside what decides its outcome.

    Attributes:
        progress: where it shows how far it is.
        report: whether pictures are drawn, and predictions written with all that a report shows.
        map: whether the map of the embeddings is made, report or not.
        confusion_file: where counted confusions are kept for other runs of the same split; in the run folder if `None`.
        tokens: of the corpus's texts, shared with other runs of the same split.
        say: receives each sentence that a user must know: which label distances were taken, what happened to the
            test set.
        note: receives the rest of what was decided.
        resume_hint: how the user goes on after a full disk; by --resume if `None`.
    """

    progress: Progress = SILENT
    report: bool = True
    map: bool = False
    confusion_file: Path | None = None
    tokens: TokenCache | None = None
    say: Callable[[str], None] = lambda sentence: None
    note: Callable[[str], None] = lambda sentence: None
    resume_hint: str | None = None


def start_run(spec: RunSpec, corpus: Corpus, folder: Path, options: RunOptions) -> RunMetrics | None:
    """Carry out a run in a new folder.

    Started by `torchrun` or `accelerate launch`, every process calls this.

    Args:
        spec: of the run.
        corpus: drawn by the run's seed.
        folder: new or empty; owned by this process meanwhile.
        options: of this execution.

    Returns:
        The run's metrics, as in `metrics.json`; None on any process but the main one.

    Raises:
        UserError: for any mistake in settings or matrix, before anything is written; if `folder` exists and is not
            empty, or another process writes to it.
    """
    begin_processes(spec)
    processes.on_main(lambda: check_new_folder(folder))
    processes.on_all(lambda: check_run(spec, corpus))
    digest = processes.on_all(lambda: fingerprint(spec.settings, corpus))
    processes.check_same({**spec.to_json(), "fingerprint": digest}, "settings and data")
    spec = replace(spec, settings=spec.settings.with_absolute_paths())
    with _owned_by_main(folder):
        processes.on_main(lambda: check_new_folder(folder))
        processes.on_main(lambda: RunFolder(folder).begin(_config(spec, corpus, digest)))
        return _carry_out_or_say(spec, corpus, RunFolder(folder), options, resume=False)


def resume_run(
    folder: Path, options: RunOptions, corpus: Corpus | None = None, *, trust_remote_code: bool = False
) -> RunMetrics | None:
    """Go on with a run that was interrupted; a finished run's metrics are returned as they are.

    Args:
        folder: of the run.
        options: of this execution.
        corpus: of the run; read from the files that its config names if `None`.
        trust_remote_code: whether code that comes with the encoder may run, as when the run was begun.

    Raises:
        UserError: if `folder` holds no run, its data changed since, or another process writes to it.
    """
    run = RunFolder(folder)
    config = run.read_config(trust_remote_code=None if run.is_finished else trust_remote_code)
    spec = config.spec
    if run.is_finished:
        options.say(f"{folder} is finished already.")
        run.remove_checkpoints()
        return run.read_metrics()
    run.check_can_go_on()
    if config.num_processes != processes.num_started():
        raise UserError(
            f"{folder} was begun on {config.num_processes} process{'' if config.num_processes == 1 else 'es'}, and "
            f"this is {processes.num_started()}. Go on with as many: a launcher's --nproc-per-node decides."
        )
    begin_processes(spec)
    given = corpus
    corpus = processes.on_all(lambda: given or read_run_corpus(spec.settings, spec.seed))
    processes.on_all(lambda: check_fingerprint(folder, corpus))
    with _owned_by_main(folder):
        # Another process may have ended it while this one read the data.
        if processes.broadcast(run.is_finished):
            return run.read_metrics()
        processes.on_all(lambda: check_encoder(spec.settings, corpus))
        return _carry_out_or_say(spec, corpus, run, options, resume=True)


def check_fingerprint(folder: Path, corpus: Corpus) -> None:
    """Raise `UserError` if a corpus, or a file that settings name, is not what the run in a folder began with."""
    config = RunFolder(folder).read_config()
    if fingerprint(config.spec.settings, corpus) != config.fingerprint:
        raise UserError(
            f"The data of {folder}, or a file that its settings name, changed since the run began. "
            "Choose another --output."
        )


def begin_processes(spec: RunSpec) -> None:
    """Check a run's settings, and form its process group. A second call changes nothing.

    Raises:
        UserError: for a value outside its range, a device that is not there, or an unknown tracker.
    """
    spec.check()
    processes.initialize(resolve_device(spec.settings.optim))
    batch_size = spec.settings.optim.batch_size
    # A recipe decides on it after the data are read, unless one was given.
    if batch_size is not None and batch_size % num_processes():
        raise UserError(
            f"--batch-size must be a multiple of the {num_processes()} processes, which share each batch, got "
            f"{batch_size}."
        )
    check_trackers(spec.settings.optim.report_to)


def check_run(spec: RunSpec, corpus: Corpus) -> None:
    """Find every mistake in matrix and encoder before anything is written or trained.

    Raises:
        UserError: for the first mistake found.
    """
    check_matrix(spec.objective, spec.settings, corpus, spec.seed)
    measure_tables(spec.settings, corpus.class_names)
    check_frozen(spec.objective, spec.settings, corpus)
    check_encoder(spec.settings, corpus)


def check_frozen(objective: Objective, settings: RunSettings, corpus: Corpus) -> None:
    """Find a mistake in an objective on the frozen encoder.

    Raises:
        UserError: if the encoder is not pretrained, or class names that are needed as label texts read alike.
    """
    if OBJECTIVES[objective].frozen_head is None:
        return
    if not settings.model.is_pretrained:
        raise UserError(
            f"--objective {objective} needs a pretrained encoder, such as --encoder minilm: the weights of a textcnn "
            "are random until it is trained."
        )
    rows_of_class_layer(objective, corpus)


def check_encoder(settings: RunSettings, corpus: Corpus) -> None:
    """Load a pretrained encoder once; a TextCNN is made of sizes alone, which were checked.

    Raises:
        UserError: if the encoder is unknown, cannot be reached, or does not take such texts.
    """
    if settings.model.is_pretrained:
        build_classifier(settings.model, training_rows(corpus).texts, len(corpus.class_names))


@contextmanager
def _owned_by_main(folder: Path) -> Iterator[None]:
    """The main process owns the folder; a second owner's complaint is raised on all processes."""
    owner = owning(folder)
    processes.on_main(owner.__enter__)
    try:
        yield
    finally:
        if processes.is_main():
            owner.__exit__(None, None, None)


def _carry_out_or_say(
    spec: RunSpec, corpus: Corpus, run: RunFolder, options: RunOptions, *, resume: bool
) -> RunMetrics | None:
    """Carry out a run, or say in one sentence why it cannot go on and how it can."""
    try:
        hint = options.resume_hint or f"go on with --resume {run}"
        with writing_to(run.path, resume_hint=hint), _old_objects_left_alone():
            metrics = _carry_out(spec, corpus, run, options, resume=resume)
        processes.stop_listening()
        return metrics
    except Exception as error:
        processes.stop_listening()
        if isinstance(error, LostProcessError) or processes.lost_process(error):
            raise LostProcessError(
                f"the run needs all of its {num_processes()} processes, and one has ended or all were told to stop. "
                f"Start them again with --resume {run}."
            ) from error
        raise


@contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Let a collection of garbage look at the objects of this run only.

    The Trainer collects when it begins. That would search the objects of all imported modules, which takes longer than
    many steps of a small model.
    """
    if gc.get_freeze_count() > FROZEN_BY_PYTHON:
        # Others froze objects, and decide for how long.
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        # A trainer and its model hold each other: they must go before the next run begins.
        gc.collect()
        gc.unfreeze()


def _carry_out(
    spec: RunSpec, corpus: Corpus, run: RunFolder, options: RunOptions, *, resume: bool
) -> RunMetrics | None:
    for note in _notes(spec, corpus):
        (options.say if matters(note) else options.note)(note)
    if unused := unused_settings(spec):
        options.say(f"--objective {spec.objective} does not use {listed(map(flag_of, unused), 9)}.")
    tokens = options.tokens or TokenCache()
    choice = _chosen_matrix(spec, corpus, run, options, tokens)
    # Exclude confusion counting from the time: several objectives share it.
    started = time.perf_counter()
    trained = train_model(spec, corpus, run, choice, tokens, progress=options.progress, resume=resume)
    if not processes.is_main():
        return None
    trained.fit_class_layer()
    predictions = trained.predict(corpus.test.texts, progress=options.progress)
    tables = tables_of_best_epoch(choice, trained.fitted.log_history)
    metrics = _measured(trained, predictions, choice, tables)
    _say_what_happened(spec, trained.fitted, metrics.num_ldm_updates, options.say)
    trained.save(run.model)
    if tables is not None:
        write_matrix(choice, tables, run.matrix)
    write_predictions(corpus.test, corpus.class_names, predictions.probabilities, run.predictions)
    # What follows is looked at, and no part of the training. The time before an interruption is not known.
    seconds = None if resume else time.perf_counter() - started
    fitted = trained.fitted
    projection = _map(predictions, run, options)
    if options.report and len(corpus.train):
        with options.progress.step("finding the most similar training texts"):
            nearest = nearest_training_texts(
                corpus.test.texts,
                predictions.vectors,
                corpus.train,
                lambda texts: trained.predict(texts).vectors,
                corpus.class_names,
            )
        write_nearest(nearest, run.nearest)
    # JSON has no NaN: a gradient norm can be one, of a step that fp16 leaves out.
    log = [
        {name: value for name, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
        for row in fitted.log_history
    ]
    write_json(run.history, {"seconds": seconds, "diverged_at": fitted.diverged_at, "log": log})
    if options.report:
        pictures.draw_pictures(
            run.path,
            corpus.class_names,
            corpus.test.labels,
            metrics.test.confusion,
            projection=projection,
            matrix=None if tables is None else tables.matrix.numpy(force=True),
            history=fitted.log_history,
            progress=options.progress,
        )
        if sentence := pictures.font_sentence(corpus.class_names):
            options.say(sentence)
    run.finish(metrics)
    if options.report:
        # The run is whole by now, whatever comes: `labeldist report` makes the page again.
        with options.progress.step(f"writing {REPORT}"):
            report = run_report(run.path)
            save_report(report, run.path / REPORT, run.path)
            write_card(run, report)
    return metrics


def _chosen_matrix(
    spec: RunSpec, corpus: Corpus, run: RunFolder, options: RunOptions, tokens: TokenCache
) -> MatrixChoice:
    """The matrix of the run, from counted confusions where it needs them."""
    confusion_file = options.confusion_file or run.confusion
    if needs_counting(spec.objective, spec.settings) and not confusion_file.exists():
        options.note("Counting confusions by a short cross-entropy run ...")
    choice = choose_matrix(
        spec.objective,
        spec.settings,
        corpus,
        lambda: load_or_count_confusions(
            spec.settings, corpus, spec.seed, confusion_file, tokens, progress=options.progress
        ),
        seed=spec.seed,
    )
    if choice.ldm is not None:
        options.say(f"Label distances: {choice.in_short()}.")
    return choice


def _measured(
    trained: TrainedModel, predictions: Predictions, choice: MatrixChoice, tables: KeptTables | None
) -> RunMetrics:
    """The metrics of the run: on its test rows, and on its validation rows while it was trained."""
    spec, corpus, log = trained.spec, trained.corpus, trained.fitted.log_history
    evaluations = [entry for entry in log if "eval_accuracy" in entry]
    accuracies = [entry["eval_accuracy"] for entry in evaluations]
    calibration = None
    if len(corpus.validation):
        labels = corpus.validation.labels
        found = trained.predict(corpus.validation.texts).probabilities
        calibration = calibration_of(found, labels, predictions.probabilities, corpus.test.labels)
        if trained.frozen_head is not None:
            # The fitted layer has seen none of these rows.
            accuracies = [float((found.argmax(dim=1).numpy() == labels).mean())]
    results = evaluate_predictions(
        corpus.test.labels,
        predictions.probabilities,
        corpus.class_names,
        corpus.test.texts,
        vectors=predictions.vectors,
        matrix=None if tables is None else tables.matrix.numpy(force=True),
    )
    relation = measure_tables(spec.settings, corpus.class_names)
    return RunMetrics(
        objective=spec.objective,
        seed=spec.seed,
        matrix_source=choice.source,
        num_ldm_updates=0 if tables is None else tables.num_updates,
        best_validation_accuracy=max(accuracies, default=None),
        num_epochs=max((entry["epoch"] for entry in evaluations or log), default=0.0),
        num_parameters=parameter_count(trained.model),
        test=with_relation(
            results, corpus.test.labels, predictions.probabilities, relation, vectors=predictions.vectors
        ),
        calibration=calibration,
    )


def _map(predictions: Predictions, run: RunFolder, options: RunOptions) -> TwoDimensions | None:
    """The embeddings of the test rows in two dimensions, written where they are wanted."""
    if not options.report and not options.map:
        return None
    with options.progress.step("drawing the map of the embeddings"):
        projection = two_dimensions(predictions.embeddings.numpy())
    write_map(projection, run.map)
    return projection


def _say_what_happened(spec: RunSpec, fitted: Fitted, num_updates: int, say: Callable[[str], None]) -> None:
    if fitted.diverged_at is not None:
        say(
            f"Training stopped at step {fitted.diverged_at}: its loss was NaN or infinite. The weights are those of "
            "the best epoch before. A smaller --learning-rate may help."
        )
    if OBJECTIVES[spec.objective].matrix == "adaptive" and not num_updates:
        what = "graded targets" if spec.settings.matrix.adaptive_use == "graded" else "label distances"
        say(f"The {what} had not moved before the best epoch: the model is that of plain contrast.")


def _num_rows(spec: RunSpec, corpus: Corpus) -> dict[str, int]:
    """Of each split; of label texts and coarse rows where there are any that the objective takes."""
    rows = {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}
    objective = OBJECTIVES[spec.objective]
    is_frozen = objective.frozen_head is not None
    extra = {
        "label texts": NO_ROWS if is_frozen and not objective.label_texts else corpus.label_texts,
        "coarse": NO_ROWS if is_frozen else corpus.coarse,
    }
    return {name: len(split) for name, split in {**rows, **extra}.items() if name in rows or len(split)}


def _notes(spec: RunSpec, corpus: Corpus) -> tuple[str, ...]:
    """What was decided about the data, and about the rows of a class layer."""
    notes = (note_on_class_layer(spec.objective, corpus), note_on_unused_rows(spec.objective, corpus))
    return (*corpus.notes, *filter(None, notes))


def _config(spec: RunSpec, corpus: Corpus, digest: str) -> RunConfig:
    return RunConfig(
        spec=spec,
        data_name=corpus.name,
        class_names=corpus.class_names,
        num_rows=_num_rows(spec, corpus),
        notes=_notes(spec, corpus),
        fingerprint=digest,
        num_processes=num_processes(),
        machine=describe_machine(),
        versions=versions(),
    )
