"""What few-label training is compared with: SetFit, and the encoder as it is with a head on its vectors."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from benchmarks.few_labels.ours import EVAL_BATCH_SIZE, Predict, logistic_head
from benchmarks.few_labels.rows import MAX_LENGTH
from labeldist.training.data.corpus import Split

SETFIT: dict[str, Any] = {"batch_size": 16, "num_epochs": 1, "num_iterations": 20, "body_learning_rate": 2e-5}
"""Its defaults, but for `num_iterations`: 40 pairs a row, as its paper trains. Without it SetFit takes every pair of
rows of different classes, and as many of one class: about a million pairs for 50 classes of 20 rows each."""


def train_setfit(
    rows: Split,
    label_texts: Sequence[str] | None,
    seed: int,
    *,
    num_classes: int,
    encoder: str,
    device: str = "cpu",
    texts: Literal["template", "plain"] = "template",
    changes: Mapping[str, Any] | None = None,
) -> Predict:
    """SetFit with its logistic head.

    Args:
        rows: the shots.
        label_texts: a text for each class, or `None`.
        seed: of its trainer.
        num_classes: `C`.
        encoder: folder of the encoder.
        device: to train and predict on.
        texts: how label texts become rows: by SetFit's own `get_templated_dataset` at its defaults ("This sentence is
            ...", twice), or once as they are.
        changes: training arguments in place of those in `SETFIT`.
    """
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments, get_templated_dataset

    train = Dataset.from_dict({"text": rows.texts, "label": rows.labels.tolist()})
    if label_texts is not None and texts == "template":
        train = get_templated_dataset(train, candidate_labels=list(label_texts))
    elif label_texts is not None:
        labels = [*rows.labels.tolist(), *range(num_classes)]
        train = Dataset.from_dict({"text": [*rows.texts, *label_texts], "label": labels})
    set_seed(seed)
    model = SetFitModel.from_pretrained(encoder, device=device, local_files_only=True)
    # Whatever precision the weights are stored in.
    model.model_body.float()
    model.model_body.max_seq_length = MAX_LENGTH
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder, seed=seed, max_length=MAX_LENGTH, report_to="none", save_strategy="no",
            logging_strategy="no", logging_first_step=False, show_progress_bar=False, **{**SETFIT, **(changes or {})},
        )  # fmt: skip
        trainer = Trainer(model=model, args=args, train_dataset=train)
        # In place of a progress bar it would print.
        trainer.st_trainer.remove_callback(PrinterCallback)
        trainer.train()
    return lambda new: np.asarray(model.predict(list(new), batch_size=EVAL_BATCH_SIZE, as_numpy=True))


def train_frozen(
    rows: Split,
    label_texts: Sequence[str] | None,
    seed: int,
    *,
    num_classes: int,
    encoder: str,
    device: str = "cpu",
    head: Literal["logistic", "centroid"] = "logistic",
) -> Predict:
    """The encoder as it is; a logistic regression on its unit vectors, or the nearest mean of each class.

    Args:
        rows: the shots.
        label_texts: a text for each class, a row more, or `None`.
        seed: without a part.
        num_classes: `C`.
        encoder: folder of the encoder.
        device: to encode on.
        head: what predicts.
    """
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(encoder, device=device, local_files_only=True).float()
    model.max_seq_length = MAX_LENGTH

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(model.encode(list(texts), batch_size=EVAL_BATCH_SIZE, show_progress_bar=False))

    texts, labels = list(rows.texts), rows.labels
    if label_texts is not None:
        texts, labels = [*texts, *label_texts], np.concatenate([labels, np.arange(num_classes)])
    vectors = encode(texts)
    if head == "logistic":
        logistic = logistic_head(vectors, labels)
        return lambda new: logistic(encode(new))
    centroids = np.stack([vectors[labels == label].mean(axis=0) for label in range(num_classes)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return lambda new: (encode(new) @ centroids.T).argmax(axis=1)
