"""One training by the Hugging Face Trainer: a classifier, a corpus, an objective."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedTokenizerBase,
    TrainingArguments,
)
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from labeldist.distributed import num_processes
from labeldist.integrations.transformers import TrainerObjective
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.serving.batches import BATCH_SIZE, Predictions, pad_as, predict_encoded
from labeldist.training import processes
from labeldist.training.checkpoints import newest_checkpoint, remove_later
from labeldist.training.config import OptimSettings, RunSettings
from labeldist.training.errors import UserError
from labeldist.training.output.progress import SILENT, Progress
from labeldist.training.tokenized import Collator, EncodedSplit, Encodings, encode
from labeldist.training.trainers import (
    CheckpointsByTime,
    LossCheck,
    LossNotFiniteError,
    QuietProgress,
    StoppingCachedTrainer,
    StoppingTrainer,
    ToldProgress,
)

EVAL_BATCH_SIZE = BATCH_SIZE
# Of a training by steps: how often validation rows are looked at, and losses logged.
EVALUATIONS_OF_STEPS, LOGS_OF_STEPS = 5, 10


@dataclass(frozen=True)
class FitOptions:
    """How one training runs, beside the settings that decide its outcome.

    Attributes:
        folder: receives the checkpoints.
        seed: of shuffling and dropout.
        epochs: most epochs.
        steps: optimizer steps in place of epochs.
        progress: where it shows how far it is.
        title: what is trained, in a word.
        resume: whether to go on from the newest whole checkpoint in `folder`.
        report_to: experiment trackers of the Trainer.
    """

    folder: Path
    seed: int
    epochs: int
    steps: int | None = None
    progress: Progress = SILENT
    title: str = "training"
    resume: bool = False
    report_to: tuple[str, ...] = ()


def check_trackers(report_to: Sequence[str]) -> None:
    """Raise `UserError` for an experiment tracker that the Trainer does not know or that is not installed."""
    for name in report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise UserError(f"--report-to knows {known}, not {name}.")
        if name not in get_available_reporting_integrations():
            raise UserError(f"--report-to {name} needs a package that is not installed: pip install {name}")


def resolve_device(optim: OptimSettings) -> str:
    """`"cuda"` or `"cpu"`.

    Raises:
        UserError: if a GPU is asked for where there is none, or half precision on a CPU.
    """
    available = torch.cuda.is_available()
    if optim.device == "cuda" and not available:
        raise UserError("--device cuda needs a CUDA GPU, and PyTorch sees none here. Use --device cpu or auto.")
    device = "cuda" if available and optim.device != "cpu" else "cpu"
    if device == "cpu" and optim.precision == "fp16":
        raise UserError("--precision fp16 needs a GPU. Use fp32 or auto on a CPU.")
    return device


class DivergedError(UserError):
    """Training came to a loss or to weights that are no finite numbers, and no good weights were kept before."""


@dataclass(frozen=True)
class Fitted:
    """What one training left beside the model's weights.

    Attributes:
        log_history: that of the Trainer.
        diverged_at: the step whose loss was no finite number, where training stopped for it; `None` if it never was.
    """

    log_history: list[dict[str, Any]]
    diverged_at: int | None = None


def fit(
    model: ContrastiveClassifier,
    objective: TrainerObjective,
    splits: tuple[EncodedSplit, EncodedSplit],
    tokenizer: PreTrainedTokenizerBase,
    settings: RunSettings,
    options: FitOptions,
) -> Fitted:
    """Train `model` in place, to its best validation accuracy; to the end where there are no validation rows.

    Training whose loss becomes NaN or infinite stops there, and the model ends with its best weights until then.

    Args:
        model: trained in place; ends with the weights of its best evaluation, or its last ones.
        objective: the loss, with its callback.
        splits: train and validation; the latter may be empty.
        tokenizer: pads the batches.
        settings: of the run.
        options: of this training.

    Raises:
        DivergedError: if there are no such weights.
    """
    has_validation = len(splits[1]) > 0
    size = settings.optim.chunk_size
    make = StoppingTrainer if size is None else partial(StoppingCachedTrainer, chunk_size=size)
    with _tensorboard_logs_in(options.folder.with_name("tensorboard")):
        trainer = make(
            model=model,
            args=training_arguments(settings, options, has_validation=has_validation),
            train_dataset=splits[0],
            eval_dataset=splits[1] if has_validation else None,
            data_collator=Collator(tokenizer),
            compute_loss_func=objective,
            compute_metrics=validation_metrics,
            callbacks=[EarlyStoppingCallback(early_stopping_patience=settings.optim.patience)]
            if has_validation
            else [CheckpointsByTime()],
        )
    trainer.head_learning_rate = settings.optim.head_learning_rate
    objective.attach(trainer)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if options.progress.bar:
        trainer.add_callback(QuietProgress(options.title))
    elif options.progress.tell is not None:
        trainer.add_callback(ToldProgress(options.progress.tell, options.title))
    trainer.add_callback(LossCheck(trainer))
    checkpoint = None
    if options.resume and processes.is_main():
        checkpoint = newest_checkpoint(options.folder, needs_matrix=objective.ldm is not None)
        remove_later(options.folder, checkpoint)
    checkpoint = processes.broadcast(checkpoint)
    diverged_at, has_good_weights = None, True
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except LossNotFiniteError as error:
        diverged_at = error.step
        # Trackers and bars end as after any training.
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
        best = trainer.state.best_model_checkpoint
        # Without it no epoch ended well, or there are no validation rows: there are no good weights to restore.
        has_good_weights = best is not None
        if best is not None:
            model.load_state_dict(load_file(Path(best) / "model.safetensors"))
    # The main process may delete the checkpoints next, and others still read the best one.
    processes.barrier()
    if not has_good_weights or not all(parameter.isfinite().all() for parameter in model.parameters()):
        when = (
            "before any evaluation went well" if has_validation else "and no weights are kept without validation rows"
        )
        raise DivergedError(
            f"Training diverged at step {diverged_at or trainer.state.global_step}, {when}: its loss or weights are "
            "NaN or infinite. Try a smaller --learning-rate, a larger --temperature, or --precision fp32."
        )
    return Fitted(trainer.state.log_history, diverged_at)


def fastest_precision(device: str, *, is_pretrained: bool) -> Literal["fp32", "bf16", "fp16"]:
    """The precision of `--precision auto`. The weights are float32; half precision is that of the products.

    Args:
        device: `"cuda"` or `"cpu"`.
        is_pretrained: whether the encoder is a pretrained transformer; others are trained in float32 on a CPU.

    Examples:
        >>> fastest_precision("cpu", is_pretrained=False)
        'fp32'
    """
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if is_pretrained and _multiplies_bfloat16() else "fp32"


def _multiplies_bfloat16() -> bool:
    """Whether the CPU has matrix instructions for bfloat16 (AMX). An older torch does not tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


@contextmanager
def _tensorboard_logs_in(folder: Path) -> Iterator[None]:
    """The Trainer's own place for them is among the checkpoints, which a finished run deletes."""
    variable = "TENSORBOARD_LOGGING_DIR"
    if variable in os.environ:
        yield
        return
    os.environ[variable] = str(folder)
    try:
        yield
    finally:
        del os.environ[variable]


def training_arguments(settings: RunSettings, options: FitOptions, *, has_validation: bool = True) -> TrainingArguments:
    """The Trainer's arguments for a run.

    With validation rows they are evaluated each epoch, or five times in a number of steps, with a checkpoint each time.
    Without them `CheckpointsByTime` keeps checkpoints for going on after an interruption.
    """
    optim = settings.optim
    device = resolve_device(optim)
    precision = optim.precision
    if precision == "auto":
        precision = fastest_precision(device, is_pretrained=settings.model.is_pretrained)
    unit = "epoch" if options.steps is None else "steps"
    interval = max(1, math.ceil(options.steps / EVALUATIONS_OF_STEPS)) if options.steps else 500
    arguments = TrainingArguments(
        output_dir=str(options.folder),
        num_train_epochs=options.epochs,
        max_steps=options.steps or -1,
        # Processes share a batch: a run's settings mean the same on any number of them.
        per_device_train_batch_size=settings.batch_size // num_processes(),
        per_device_eval_batch_size=EVAL_BATCH_SIZE,
        learning_rate=settings.learning_rate,
        weight_decay=optim.weight_decay,
        eval_strategy=unit if has_validation else "no",
        save_strategy=unit if has_validation else "no",
        logging_strategy=unit,
        eval_steps=interval,
        save_steps=interval,
        logging_steps=max(1, (options.steps or 500) // LOGS_OF_STEPS),
        # The newest and the best, and one more should a kill fall into a save.
        save_total_limit=2,
        load_best_model_at_end=has_validation,
        metric_for_best_model="accuracy" if has_validation else None,
        greater_is_better=True if has_validation else None,
        restore_callback_states_from_checkpoint=options.resume,
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=device == "cpu",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        dataloader_pin_memory=device == "cuda",
        # Here nothing waits for the GPU to end the step before, except in fp16 and with several processes: batches are
        # copied while it computes, and `StoppingTrainer` looks at the loss in place of the filter. A transformer may
        # wait: it looks whether a batch has padding.
        accelerator_config={"non_blocking": device == "cuda"},
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        # A pretrained encoder may have weights that its output does not hang on; a TextCNN has none.
        ddp_find_unused_parameters=settings.model.encoder != "textcnn",
        label_names=["labels"],
        report_to=list(options.report_to) or "none",
        disable_tqdm=True,
        log_level="error",
    )
    # One process, one GPU: the Trainer would wrap the model in DataParallel where it sees several.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro-F1 of one evaluation, for early stopping and the curves."""
    outputs = prediction.predictions
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    predicted = np.asarray(logits).argmax(axis=1)
    labels = np.asarray(prediction.label_ids)
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(
            f1_score(
                labels,
                predicted,
                # As in the test metrics: over the classes that are there.
                labels=np.unique(labels),
                average="macro",
                zero_division=0,  # pyright: ignore[reportArgumentType]
            )
        ),
    }


def predict_batches(
    model: ContrastiveClassifier,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    *,
    encodings: Encodings | None = None,
    progress: Progress = SILENT,
) -> Predictions:
    """Run the classifier on texts of any number, one batch at a time.

    Args:
        model: is put into evaluation mode.
        tokenizer: its own.
        texts: to classify.
        max_length: tokens a text is cut to.
        encodings: of the texts, if they are tokenized already.
        progress: where it shows how far it is.
    """
    encodings = encode(texts, tokenizer, max_length) if encodings is None else encodings
    with progress.counted("predicting", len(texts), "row") as advance:
        return predict_encoded(model, encodings, pad_as(tokenizer), advance=advance)
