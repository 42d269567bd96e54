"""Fine-tuning as people write it without this library: the Hugging Face Trainer, alone and with another loss.

All of them train `AutoModelForSequenceClassification` on the same rows, as the paper does; only the loss differs.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from benchmarks.outside.rows import MAX_LENGTH
from labeldist.models.pretrained import load_tokenizer
from labeldist.training.data.corpus import Corpus, Split

__all__ = ["LOSSES", "Predict", "r_drop", "supcon", "train_with_trainer"]

EVAL_BATCH_SIZE = 256
WEIGHT_DECAY = 0.1
# With validation rows: the paper's setting.
BATCH_SIZE, LEARNING_RATE, EPOCHS, PATIENCE = 128, 2e-5, 50, 10
# With a few labels and nothing to stop by: small batches, 20 epochs and a warm-up, as "On the Stability of Fine-tuning
# BERT" (Mosbach et al., 2021) advises, and a number of steps that the fewest labels still learn in.
FEW_BATCH_SIZE, FEW_LEARNING_RATE, FEW_EPOCHS, FEW_WARMUP, MIN_STEPS = 16, 5e-5, 20, 0.1, 200
SMOOTHING = 0.1
R_DROP_WEIGHT = 1.0
"""alpha of R-Drop's equation 4."""
SUPCON_TEMPERATURE, SUPCON_WEIGHT = 0.1, 0.5

Predict = Callable[[Sequence[str]], np.ndarray]
"""From texts to class indices, `(N,)`."""
Loss = Callable[[Any, dict[str, Tensor], Tensor], Tensor]
"""From the model, a batch and its labels to a loss."""


def plain(model: Any, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy."""
    return cross_entropy(model(**batch).logits.float(), labels)


def smoothed(model: Any, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy with smoothed labels, as the Trainer's `label_smoothing_factor` has it."""
    return cross_entropy(model(**batch).logits.float(), labels, label_smoothing=SMOOTHING)


def r_drop(model: Any, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    """R-Drop: cross-entropy of two dropout views, and the divergence of their predictions, both ways.

    Eq. 4 of *R-Drop: Regularized Dropout for Neural Networks* (Liang et al., 2021), a mean over rows; the sum of both
    cross-entropies is halved, so that the learning rate means the same as in the other methods.
    """
    logits = model(**_twice(batch)).logits.float()
    first, second = log_softmax(logits, dim=1).chunk(2)
    divergence = kl_div(first, second, reduction="batchmean", log_target=True)
    divergence = divergence + kl_div(second, first, reduction="batchmean", log_target=True)
    return cross_entropy(logits, labels.repeat(2)) + R_DROP_WEIGHT * divergence / 4


def supcon(model: Any, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy and pytorch-metric-learning's SupConLoss on the mean of the token vectors, two dropout views."""
    from pytorch_metric_learning.losses import SupConLoss

    both = _twice(batch)
    output = model(**both, output_hidden_states=True)
    mask = both["attention_mask"].unsqueeze(2).float()
    vectors = (output.hidden_states[-1].float() * mask).sum(dim=1) / mask.sum(dim=1)
    contrast = SupConLoss(temperature=SUPCON_TEMPERATURE)(vectors, labels.repeat(2))
    classification = cross_entropy(output.logits.float(), labels.repeat(2))
    return (1 - SUPCON_WEIGHT) * classification + SUPCON_WEIGHT * contrast


LOSSES: dict[str, Loss] = {
    "trainer": plain,
    "trainer + label smoothing": smoothed,
    "r-drop": r_drop,
    "supcon + ce": supcon,
}


def _twice(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each row two times, for two dropout masks."""
    return {name: torch.cat([values, values]) for name, values in batch.items()}


class _Trainer(Trainer):
    """The Trainer with a loss of its own while it trains; it evaluates as ever."""

    loss: Loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch."""
        if not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        tokens = {name: values for name, values in inputs.items() if name != "labels"}
        return self.loss(model, tokens, inputs["labels"])


class _Rows(torch.utils.data.Dataset):
    """Tokens of texts, with their labels."""

    def __init__(self, rows: Split, tokenizer: Any):
        self._tokens = tokenizer(list(rows.texts), truncation=True, max_length=MAX_LENGTH) if len(rows) else {}
        self._labels = rows.labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        tokens = {name: self._tokens[name][row] for name in ("input_ids", "attention_mask")}
        return {**tokens, "labels": self._labels[row]}


def train_with_trainer(
    corpus: Corpus, seed: int, *, encoder: str, device: str, loss: str, steps: int | None = None
) -> Predict:
    """Fine-tune a sequence classifier.

    Args:
        corpus: gives training rows, and validation rows for early stopping; without these training goes to its end.
        seed: of the head's weights, dropout and the order of the rows.
        encoder: folder of a Hugging Face encoder.
        device: cpu or cuda.
        loss: one of `LOSSES`.
        steps: most optimizer steps, for tests.
    """
    set_seed(seed)
    num_classes = len(corpus.class_names)
    tokenizer = load_tokenizer(encoder, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=num_classes, local_files_only=True, dtype=torch.float32
    )
    has_validation = len(corpus.validation) > 0
    if steps is None and not has_validation:
        steps = max(MIN_STEPS, FEW_EPOCHS * math.ceil(len(corpus.train) / FEW_BATCH_SIZE))
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(
            model=model,
            args=_arguments(folder, seed, device, steps=steps, has_validation=has_validation),
            train_dataset=_Rows(corpus.train, tokenizer),
            eval_dataset=_Rows(corpus.validation, tokenizer) if has_validation else None,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=_accuracy,
            callbacks=[EarlyStoppingCallback(PATIENCE)] if has_validation else None,
        )
        trainer.loss = LOSSES[loss]
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return partial(_predict, model.eval(), tokenizer)


def _arguments(folder: str, seed: int, device: str, *, steps: int | None, has_validation: bool) -> TrainingArguments:
    strategy = "epoch" if has_validation else "no"
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=EPOCHS,
        max_steps=steps or -1,
        per_device_train_batch_size=BATCH_SIZE if has_validation else FEW_BATCH_SIZE,
        per_device_eval_batch_size=EVAL_BATCH_SIZE,
        learning_rate=LEARNING_RATE if has_validation else FEW_LEARNING_RATE,
        warmup_steps=0 if has_validation else round(FEW_WARMUP * (steps or 0)),
        weight_decay=WEIGHT_DECAY,
        eval_strategy=strategy,
        save_strategy=strategy,
        save_total_limit=1,
        load_best_model_at_end=has_validation,
        metric_for_best_model="accuracy" if has_validation else None,
        seed=seed,
        use_cpu=device == "cpu",
        bf16=device == "cuda",
        dataloader_pin_memory=device == "cuda",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        log_level="error",
    )


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}


@torch.inference_mode()
def _predict(model: Any, tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    # Texts of one length in one batch: little padding.
    order = np.argsort([len(text) for text in texts], kind="stable")
    found = []
    for start in range(0, len(texts), EVAL_BATCH_SIZE):
        rows = [texts[row] for row in order[start : start + EVAL_BATCH_SIZE]]
        batch = tokenizer(rows, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        tokens = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        found.append(model(**tokens).logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(found)[np.argsort(order)]
