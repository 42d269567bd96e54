"""One run: a corpus, an objective and a seed become a folder with model, matrix, metrics, predictions and pictures."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labeldist.distributed import num_processes
from labeldist.integrations.transformers import TrainerObjective
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix
from labeldist.losses import LabelDistanceContrastiveLoss
from labeldist.training import processes
from labeldist.training.config import Objective, RunSettings, check_settings, run_settings_from_json, to_json
from labeldist.training.data.corpus import Corpus, load_corpus
from labeldist.training.encoders import build_classifier, parameter_count
from labeldist.training.errors import LostProcessError, UserError
from labeldist.training.files import read_json, write_json, write_text, writing_to
from labeldist.training.fit import EncodedSplit, FitOptions, check_trackers, fit, predict_batches, resolve_device
from labeldist.training.machine import describe_machine, versions
from labeldist.training.matrices import MatrixChoice, choose_matrix, count_confusions, draw_folds, needs_counting
from labeldist.training.metrics import evaluate_predictions
from labeldist.training.output import pictures
from labeldist.training.records import RunMetrics, read_record, write_record
from labeldist.training.seeding import seed_everything

CONFIG = "config.json"
METRICS = "metrics.json"
HISTORY = "history.json"
MATRIX = "ldm.json"
CONFUSION = "confusion.json"
PREDICTIONS = "predictions.jsonl"
MODEL = "model"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RunSpec:
    """What decides a run: settings, objective, seed."""

    settings: RunSettings
    objective: Objective
    seed: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"objective": self.objective, "seed": self.seed, **to_json(self.settings)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "RunSpec":
        """The inverse of `to_json`."""
        return cls(run_settings_from_json(stored), stored["objective"], stored["seed"])


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out, beside what decides its outcome.

    Attributes:
        show_progress: whether a progress bar is drawn.
        pictures: whether pictures are drawn.
        confusion_file: where counted confusions are kept for other runs of the same split; in the run folder if `None`.
        say: receives each sentence that a user must know: which label distances were taken, what befell the test set.
        note: receives the rest of what was decided.
        again: how the user goes on after a full disk; by --resume if `None`.
    """

    show_progress: bool = False
    pictures: bool = True
    confusion_file: Path | None = None
    say: Callable[[str], None] = lambda sentence: None
    note: Callable[[str], None] = lambda sentence: None
    again: str | None = None


def load_run_corpus(spec: RunSpec) -> Corpus:
    """The corpus of a run, split by its seed."""
    data = spec.settings.data
    return load_corpus(
        data.data,
        text_column=data.text_column,
        label_column=data.label_column,
        validation_fraction=data.validation_fraction,
        seed=spec.seed,
        shots=data.shots,
    )


def fingerprint(spec: RunSpec, corpus: Corpus) -> str:
    """A digest of everything that a run reads from files: its rows, and its matrix file."""
    path = spec.settings.matrix.matrix_file
    if path is None:
        return corpus.fingerprint
    return hashlib.sha256(corpus.fingerprint.encode() + path.read_bytes()).hexdigest()


def start_run(spec: RunSpec, folder: Path, options: RunOptions) -> RunMetrics | None:
    """Carry out a run in a new folder.

    Started by `torchrun` or `accelerate launch`, every process calls this.

    Returns:
        The run's metrics, as in `metrics.json`; None on any process but the first.

    Raises:
        UserError: for any mistake in settings or data, before anything is written; if `folder` exists and is not empty.
    """
    processes.meet(resolve_device(spec.settings.optim))
    processes.first_does(lambda: check_new_folder(folder))
    corpus = processes.all_do(lambda: check_run(spec))
    processes.check_same({**spec.to_json(), "fingerprint": fingerprint(spec, corpus)}, "settings and data")
    processes.first_does(lambda: _begin(spec, corpus, folder))
    return _carry_out_or_say(spec, corpus, folder, options, resume=False)


def check_run(spec: RunSpec) -> Corpus:
    """Find every mistake in settings, data, matrix, device and encoder before anything is written or trained.

    Returns:
        The run's corpus.

    Raises:
        UserError: for the first mistake found.
    """
    check_settings(spec.settings)
    if not 0 <= spec.seed < 2**32:
        raise UserError(f"--seed must be a whole number from 0 to 2**32 - 1, got {spec.seed}.")
    resolve_device(spec.settings.optim)
    if spec.settings.optim.batch_size % num_processes():
        raise UserError(
            f"--batch-size must be a multiple of the {num_processes()} processes, which share each batch, got "
            f"{spec.settings.optim.batch_size}."
        )
    check_trackers(spec.settings.optim.report_to)
    corpus = load_run_corpus(spec)
    _check_matrix(spec, corpus)
    build_classifier(spec.settings.model, corpus.train.texts, len(corpus.class_names))
    return corpus


def resume_run(folder: Path, options: RunOptions) -> RunMetrics | None:
    """Go on with a run that was interrupted; a finished run's metrics are returned as they are.

    Raises:
        UserError: if `folder` holds no run, or its data changed since.
    """
    config = read_config(folder)
    if (folder / METRICS).exists():
        options.say(f"{folder} is finished already.")
        return read_record(folder / METRICS, RunMetrics)
    spec = RunSpec.from_json(config)
    if (stored := config.get("num_processes", 1)) != processes.num_started():
        raise UserError(
            f"{folder} was begun on {stored} process{'' if stored == 1 else 'es'}, and this is "
            f"{processes.num_started()}. Go on with as many: a launcher's --nproc-per-node decides."
        )
    processes.meet(resolve_device(spec.settings.optim))
    corpus = processes.all_do(lambda: load_run_corpus(spec))
    if fingerprint(spec, corpus) != config["fingerprint"]:
        raise UserError(
            f"The data or the matrix file of {folder} changed since the run began. Choose another --output."
        )
    return _carry_out_or_say(spec, corpus, folder, options, resume=True)


def _begin(spec: RunSpec, corpus: Corpus, folder: Path) -> None:
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, _config(spec, corpus))


def _carry_out_or_say(
    spec: RunSpec, corpus: Corpus, folder: Path, options: RunOptions, *, resume: bool
) -> RunMetrics | None:
    """Carry out a run, or say in one sentence why it cannot go on and how it can."""
    try:
        with writing_to(folder, again=options.again or f"go on with --resume {folder}"):
            metrics = _carry_out(spec, corpus, folder, options, resume=resume)
        processes.stop_listening()
        return metrics
    except Exception as error:
        processes.stop_listening()
        if isinstance(error, LostProcessError) or processes.lost_process(error):
            raise LostProcessError(
                f"the run needs all of its {num_processes()} processes, and one has ended or all were told to stop. "
                f"Start them again with --resume {folder}."
            ) from error
        raise


def check_new_folder(folder: Path) -> None:
    """Raise `UserError` if `folder` exists with anything in it."""
    with writing_to(folder):
        # What a kill left of the very first file is nobody's.
        is_taken = folder.exists() and (
            not folder.is_dir() or any(not path.name.endswith(".json.partial") for path in folder.iterdir())
        )
    if is_taken:
        hint = f" To go on with it: --resume {folder}." if (folder / CONFIG).exists() else ""
        raise UserError(f"{folder} exists already and is never overwritten. Choose another --output.{hint}")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run folder.

    Raises:
        UserError: if `folder` is no run folder.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no run folder of labeldist: it has no {CONFIG}.")
    return read_json(folder / CONFIG)


def _check_matrix(spec: RunSpec, corpus: Corpus) -> None:
    """Find a mistake in given pairs or a matrix file before any training."""
    if spec.objective in ("static", "uniform"):
        num_classes = len(corpus.class_names)
        choose_matrix(spec.objective, spec.settings, corpus, lambda: torch.zeros(num_classes, num_classes).long())
    if needs_counting(spec.objective, spec.settings) and spec.settings.matrix.confusion_from == "cross-validation":
        draw_folds(spec.settings, corpus, spec.seed)


def _carry_out(spec: RunSpec, corpus: Corpus, folder: Path, options: RunOptions, *, resume: bool) -> RunMetrics | None:
    for note in corpus.notes:
        # A test set that was drawn, or that shares texts with train, decides what the numbers mean.
        (options.say if note.startswith("test:") else options.note)(note)
    confusion_file = options.confusion_file or folder / CONFUSION
    if needs_counting(spec.objective, spec.settings) and not confusion_file.exists():
        options.note("Counting confusions by a short cross-entropy run ...")
    choice = choose_matrix(spec.objective, spec.settings, corpus, lambda: confusions(spec, corpus, confusion_file))
    if choice.ldm is not None:
        options.say(f"Label distances: {choice.source}.")

    # Counting is shared by several objectives, and so counts for none.
    started = time.perf_counter()
    settings, classes = spec.settings, corpus.class_names
    seed_everything(spec.seed)
    model, tokenizer = build_classifier(settings.model, corpus.train.texts, len(classes))
    objective = _objective(spec, choice, model)
    train, validation = (
        EncodedSplit(s, tokenizer, settings.model.max_length) for s in (corpus.train, corpus.validation)
    )
    fit_options = FitOptions(
        folder / CHECKPOINTS,
        spec.seed,
        settings.optim.epochs,
        show_progress=options.show_progress,
        resume=resume,
        report_to=settings.optim.report_to,
    )
    history = fit(model, objective, (train, validation), tokenizer, settings, fit_options)
    if not processes.is_first():
        return None

    predictions = predict_batches(model, tokenizer, corpus.test.texts, settings.model.max_length)
    matrix, num_updates = matrix_of_best_epoch(choice.ldm, history)
    distances = None if matrix is None else matrix.tolist()
    test = evaluate_predictions(
        corpus.test.labels,
        predictions.probabilities,
        classes,
        corpus.test.texts,
        vectors=predictions.vectors,
        matrix=distances,
    )
    best_accuracy = max((entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry), default=None)
    if spec.objective == "adaptive" and not num_updates:
        options.say("The label distances had not moved before the best epoch: the model is that of plain contrast.")
    metrics = RunMetrics(
        objective=spec.objective,
        seed=spec.seed,
        matrix_source=choice.source,
        num_ldm_updates=num_updates,
        best_validation_accuracy=best_accuracy,
        num_epochs=max((entry["epoch"] for entry in history if "eval_accuracy" in entry), default=0.0),
        num_parameters=parameter_count(model),
        test=test,
    )
    model.name_classes(classes)
    model.save(folder / MODEL)
    tokenizer.save_pretrained(folder / MODEL)
    if matrix is not None:
        _write_matrix(choice, matrix, folder / MATRIX)
    _write_predictions(corpus, predictions.probabilities, folder / PREDICTIONS)
    # The time before an interruption is not known.
    write_json(folder / HISTORY, {"seconds": None if resume else time.perf_counter() - started, "log": history})
    if options.pictures:
        draw_pictures(folder, corpus, metrics, history, matrix, predictions.embeddings)
    # Last: its presence says that the run is whole.
    write_record(folder / METRICS, metrics)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return metrics


def _objective(spec: RunSpec, choice: MatrixChoice, model: torch.nn.Module) -> TrainerObjective:
    if choice.ldm is None:
        return TrainerObjective(None, model, views=1 if spec.objective == "ce" else 2)
    loss = spec.settings.loss
    contrastive = LabelDistanceContrastiveLoss(choice.ldm, temperature=loss.temperature, weighting=loss.weighting)
    return TrainerObjective(contrastive, model, ce_weight=loss.ce_weight, confusion=choice.confusion)


def confusions(spec: RunSpec, corpus: Corpus, path: Path) -> torch.Tensor:
    """Confusion counts of short cross-entropy runs: from `path` where an earlier run of the same split left them."""
    if path.exists() and (stored := read_json(path)).get("fingerprint") == corpus.fingerprint:
        return torch.tensor(stored["counts"])
    # Every process trains for them; one set of them is taken.
    counts = processes.from_first(count_confusions(spec.settings, corpus, spec.seed))
    if not processes.is_first():
        return counts
    path.parent.mkdir(parents=True, exist_ok=True)
    counted = {"class_names": list(corpus.class_names), "counts": counts.tolist(), "fingerprint": corpus.fingerprint}
    write_json(path, counted)
    return counts


def _config(spec: RunSpec, corpus: Corpus) -> dict[str, Any]:
    return {
        **spec.to_json(),
        "class_names": list(corpus.class_names),
        "num_rows": {"train": len(corpus.train), "validation": len(corpus.validation), "test": len(corpus.test)},
        "notes": list(corpus.notes),
        "fingerprint": fingerprint(spec, corpus),
        "num_processes": num_processes(),
        "machine": describe_machine(),
        "versions": versions(),
    }


def matrix_of_best_epoch(
    ldm: LabelDistanceMatrix | None, history: list[dict[str, Any]]
) -> tuple[torch.Tensor | None, int]:
    """The matrix that the kept weights were trained with, and how often it had moved by then.

    The Trainer goes back to the weights of its best epoch; an adaptive matrix has moved on since.
    """
    if not isinstance(ldm, AdaptiveLDM):
        return (None if ldm is None else ldm.matrix), 0
    evaluations = [entry for entry in history if "eval_accuracy" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_accuracy"])
    num_updates = sum("ldm_epsilon" in entry and entry["step"] < best["step"] for entry in history)
    return (ldm.history[num_updates - 1][1] if num_updates else torch.ones_like(ldm.matrix)), num_updates


def _write_matrix(choice: MatrixChoice, matrix: torch.Tensor, path: Path) -> None:
    assert choice.ldm is not None
    history = choice.ldm.history if isinstance(choice.ldm, AdaptiveLDM) else []
    write_json(
        path,
        {
            "class_names": list(choice.ldm.class_names),
            "source": choice.source,
            "matrix": matrix.tolist(),
            "history": [{"progress": progress, "matrix": moved.tolist()} for progress, moved in history],
        },
    )


def _write_predictions(corpus: Corpus, probabilities: torch.Tensor, path: Path) -> None:
    best, predicted = probabilities.max(dim=1)
    rows = zip(corpus.test.texts, corpus.test.labels.tolist(), predicted.tolist(), best.tolist(), strict=True)
    names = corpus.class_names
    lines = (
        json.dumps(
            {"text": text, "label": names[label], "predicted": names[guess], "probability": round(probability, 6)},
            ensure_ascii=False,
        )
        for text, label, guess, probability in rows
    )
    write_text(path, "\n".join(lines) + "\n")


def draw_pictures(
    folder: Path,
    corpus: Corpus,
    metrics: RunMetrics,
    history: list[dict[str, Any]],
    matrix: torch.Tensor | None,
    embeddings: torch.Tensor,
) -> None:
    """Confusion matrix, label distances, training curves and test embeddings as PNG files in `folder`."""
    names = corpus.class_names
    pictures.plot_confusion(metrics.test.confusion_matrix(), names, folder / "confusion.png")
    pictures.plot_curves(history, folder / "curves.png")
    pictures.plot_embeddings(embeddings.numpy(), corpus.test.labels, names, folder / "embeddings.png")
    if matrix is not None:
        pictures.plot_ldm(matrix.tolist(), names, folder / "ldm.png")
