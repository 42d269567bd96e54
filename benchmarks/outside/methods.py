"""The methods, each from the rows of a run to a classifier, and one run of them: trained, judged and timed."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import labeldist
from benchmarks.few_labels.peers import SETFIT, train_frozen, train_setfit
from benchmarks.outside.rows import MAX_LENGTH, draw
from benchmarks.outside.trainers import LOSSES, Predict, train_with_trainer
from labeldist.training.data.corpus import Corpus, Split

__all__ = ["METHODS", "Task", "prepare", "run"]

SETFIT_PAIRS = 40_000
"""Pairs of texts that SetFit sees at most: 40 a row, as its paper trains, as long as that is not more; at least 2."""


def train_labeldist(corpus: Corpus, seed: int, *, encoder: str, device: str, **settings: Any) -> Predict:
    """`labeldist.train` with its defaults, as a user calls it.

    Args:
        corpus: gives training and validation rows.
        seed: of everything.
        encoder: folder of a Hugging Face encoder.
        device: to train and predict on.
        **settings: of `labeldist.train`.
    """
    num_classes = len(corpus.class_names)
    validation = corpus.validation
    held_out = (list(validation.texts), validation.labels.tolist()) if len(validation) else None
    run = labeldist.train(
        list(corpus.train.texts),
        corpus.train.labels.tolist(),
        # Figures of the run itself are of no use here: one row for each class, so that they cost nothing.
        test=([f"text {label}" for label in range(num_classes)], list(range(num_classes))),
        validation=held_out,
        encoder=encoder,
        label_texts="none",
        seed=seed,
        device=device,
        progress=False,
        **{"max_length": MAX_LENGTH, **settings},
    )
    return lambda new: np.array([int(one["label"]) for one in run.predict(new)])


def _setfit(corpus: Corpus, seed: int, *, encoder: str, device: str, steps: int | None = None) -> Predict:
    iterations = max(1, min(SETFIT["num_iterations"], SETFIT_PAIRS // (2 * len(corpus.train))))
    return train_setfit(
        corpus.train,
        None,
        seed,
        num_classes=len(corpus.class_names),
        encoder=encoder,
        device=device,
        changes={"num_iterations": iterations, **({} if steps is None else {"max_steps": steps})},
    )


def _frozen(corpus: Corpus, seed: int, *, encoder: str, device: str, steps: int | None = None) -> Predict:
    return train_frozen(corpus.train, None, seed, num_classes=len(corpus.class_names), encoder=encoder, device=device)


METHODS: dict[str, Callable[..., Predict]] = {
    "labeldist": train_labeldist,
    **{name: partial(train_with_trainer, loss=name) for name in LOSSES},
    "setfit": _setfit,
    "frozen logistic": _frozen,
}


@dataclass(frozen=True)
class Task:
    """What one run does.

    Attributes:
        method: one of `METHODS`.
        corpus: see `draw`.
        shots: labels per class, or `ALL`.
        seed: of the rows and the training.
        steps: most optimizer steps; as many as the method takes if `None`.
    """

    method: str
    corpus: str
    shots: int
    seed: int
    steps: int | None = None

    def __str__(self) -> str:
        return f"{self.corpus}, {self.shots or 'all'} labels per class, seed {self.seed}: {self.method}"

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What tells a run from the others of a record; see `benchmarks.few_labels.record.key_of`."""
        return self.method, "", self.corpus, self.shots, self.seed


def run(task: Task, *, encoder: str, device: str) -> dict[str, Any]:
    """Train, predict, count.

    Time to train is wall time from rows to a classifier: the encoder is read, tuned, and a head fitted.
    """
    corpus = draw(task.corpus, task.shots, task.seed)
    limit = {} if task.steps is None else {"steps": task.steps}
    start = time.perf_counter()
    predict = METHODS[task.method](corpus, task.seed, encoder=encoder, device=device, **limit)
    trained = time.perf_counter()
    predicted = predict(corpus.test.texts)
    done = time.perf_counter()
    from sklearn.metrics import f1_score

    labels = corpus.test.labels
    # As `labeldist` counts it: over the classes that have rows.
    f1 = f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    return {
        "method": task.method,
        "corpus": task.corpus,
        "shots": task.shots,
        "seed": task.seed,
        "accuracy": round(float(np.mean(labels == predicted)), 6),
        "macro_f1": round(float(f1), 6),
        "train_seconds": round(trained - start, 3),
        "predict_seconds": round(done - trained, 3),
        "num_rows": len(corpus.train),
        "num_validation_rows": len(corpus.validation),
        "num_evaluated": len(predicted),
    }


def prepare(encoder: str, device: str, num_threads: int, methods: tuple[str, ...]) -> None:
    """Make a worker ready: silent, with its share of the cores, and with imports and the device behind it."""
    from benchmarks.few_labels.runs import quiet

    quiet(num_threads, needs_setfit="setfit" in methods)
    rows = Split(["a good film", "a bad film"], np.array([1, 0]))
    two = Corpus("two", ("bad", "good"), rows, Split([], np.zeros(0, dtype=np.int64)), rows, "", ())
    for method in methods:
        # One step or so that is not timed: kernels, memory.
        warnings.simplefilter("ignore")
        METHODS[method](two, 0, encoder=encoder, device=device, steps=1)(["a film"])
