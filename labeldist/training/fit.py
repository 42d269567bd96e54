"""One training by the Hugging Face Trainer: a classifier, a corpus, an objective."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from labeldist.distributed import num_processes
from labeldist.integrations.transformers import CachedTrainer, TrainerObjective
from labeldist.integrations.transformers.callback import STATE_FILE
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.serving.batches import BATCH_SIZE, Predictions, predict_encoded
from labeldist.training import processes
from labeldist.training.config import OptimSettings, RunSettings
from labeldist.training.data.corpus import Split
from labeldist.training.errors import UserError

EVAL_BATCH_SIZE = BATCH_SIZE
_CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt")


class EncodedSplit(torch.utils.data.Dataset):
    """Tokenised texts with their labels, as the Trainer's collator takes them."""

    def __init__(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.labels = split.labels
        self.encodings = encode(split.texts, tokenizer, max_length)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = {name: values[index] for name, values in self.encodings.items()}
        return {**row, "labels": int(self.labels[index])}


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list[list[int]]]:
    """Token ids of `texts`, cut to `max_length` tokens, not padded."""
    if not texts:
        return {"input_ids": []}
    encodings = dict(tokenizer(list(texts), truncation=True, max_length=max_length))
    for i, tokens in enumerate(encodings["input_ids"]):
        # A text of nothing but invisible characters has no token: an unknown word stands for it.
        if not tokens:
            tokens.append(tokenizer.unk_token_id)
            encodings["attention_mask"][i].append(1)
    return encodings


@dataclass(frozen=True)
class FitOptions:
    """How one training runs, beside the settings that decide its outcome.

    Attributes:
        folder: receives the checkpoints.
        seed: of shuffling and dropout.
        epochs: most epochs.
        show_progress: whether a progress bar is drawn.
        resume: whether to go on from the newest whole checkpoint in `folder`.
        report_to: experiment trackers of the Trainer.
    """

    folder: Path
    seed: int
    epochs: int
    show_progress: bool = False
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


def fit(
    model: ContrastiveClassifier,
    objective: TrainerObjective,
    splits: tuple[EncodedSplit, EncodedSplit],
    tokenizer: PreTrainedTokenizerBase,
    settings: RunSettings,
    options: FitOptions,
) -> list[dict[str, Any]]:
    """Train `model` in place, to its best validation accuracy.

    Args:
        model: trained in place; ends with the weights of its best epoch.
        objective: the loss, with its callback.
        splits: train and validation.
        tokenizer: pads the batches.
        settings: of the run.
        options: of this training.

    Returns:
        The Trainer's log history.
    """
    size = settings.optim.chunk_size
    make = Trainer if size is None else partial(CachedTrainer, chunk_size=size)
    with _tensorboard_logs_in(options.folder.with_name("tensorboard")):
        trainer = make(
            model=model,
            args=training_arguments(settings, options),
            train_dataset=splits[0],
            eval_dataset=splits[1],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_loss_func=objective,
            compute_metrics=validation_metrics,
            callbacks=[EarlyStoppingCallback(early_stopping_patience=settings.optim.patience)],
        )
    objective.attach(trainer)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if options.show_progress:
        trainer.add_callback(QuietProgress())
    checkpoint = None
    if options.resume and processes.is_first():
        checkpoint = newest_checkpoint(options.folder, needs_matrix=objective.ldm is not None)
    checkpoint = processes.from_first(checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # The first process may delete the checkpoints next, and others still read the best one.
    processes.wait()
    return trainer.state.log_history


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


def training_arguments(settings: RunSettings, options: FitOptions) -> TrainingArguments:
    """The Trainer's arguments for a run."""
    optim = settings.optim
    device = resolve_device(optim)
    half = optim.precision
    if half == "auto":
        half = "fp32" if device == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    arguments = TrainingArguments(
        output_dir=str(options.folder),
        num_train_epochs=options.epochs,
        # Processes share a batch: a run's settings mean the same on any number of them.
        per_device_train_batch_size=optim.batch_size // num_processes(),
        per_device_eval_batch_size=EVAL_BATCH_SIZE,
        learning_rate=settings.learning_rate,
        weight_decay=optim.weight_decay,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        # The newest and the best, and one more should a kill fall into a save.
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=options.resume,
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=device == "cpu",
        bf16=half == "bf16",
        fp16=half == "fp16",
        dataloader_pin_memory=device == "cuda",
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
    model: ContrastiveClassifier, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> Predictions:
    """Run the classifier on texts of any number, one batch at a time."""
    return predict_encoded(
        model, encode(texts, tokenizer, max_length), lambda rows: tokenizer.pad(rows, return_tensors="pt")
    )


def newest_checkpoint(folder: Path, *, needs_matrix: bool) -> Path | None:
    """The newest checkpoint that was written to its end, or `None`.

    A kill in the middle of a save leaves a checkpoint without its last files; the one before is taken then.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        state_file = checkpoint / "trainer_state.json"
        try:
            state = json.loads(state_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not all((checkpoint / name).exists() for name in (*_CHECKPOINT_FILES, *_random_states())):
            continue
        if needs_matrix and not _is_whole(checkpoint / STATE_FILE):
            continue
        if state.get("best_model_checkpoint"):
            # The folder may have moved since.
            state["best_model_checkpoint"] = str(folder / Path(state["best_model_checkpoint"]).name)
            state_file.write_text(json.dumps(state, indent=2), encoding="utf-8")
        return checkpoint
    return None


def _random_states() -> list[str]:
    """What the Trainer calls the files that hold the random state of each process."""
    if num_processes() == 1:
        return ["rng_state.pth"]
    return [f"rng_state_{rank}.pth" for rank in range(num_processes())]


def _is_whole(tensors: Path) -> bool:
    try:
        load_file(tensors)
    except (OSError, SafetensorError):
        return False
    return True


class QuietProgress(ProgressCallback):
    """The Trainer's progress bar, with the newest accuracy beside it in place of printed dictionaries."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print nothing."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Show the newest validation accuracy at the end of the bar."""
        super().on_evaluate(args, state, control, **kwargs)
        accuracy = (metrics or {}).get("eval_accuracy", math.nan)
        if self.training_bar is not None and not math.isnan(accuracy):
            self.training_bar.set_postfix_str(f"epoch {state.epoch:.0f}, validation accuracy {100 * accuracy:.1f}")
