"""One run: a method, a corpus, a number of labels per class, a seed; trained, judged and timed in one call."""

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.few_labels.label_texts import label_texts
from benchmarks.few_labels.ours import Predict, train_in_bare_loop, train_with_recipe
from benchmarks.few_labels.peers import train_frozen, train_setfit
from benchmarks.few_labels.rows import Evaluated, draw_rows

METHODS: dict[str, Callable[..., Predict]] = {
    "setfit": train_setfit,
    "setfit + label texts": train_setfit,
    "setfit + plain label texts": partial(train_setfit, texts="plain"),
    "labeldist": train_with_recipe,
    "labeldist + label texts": train_with_recipe,
    "bare loop": train_in_bare_loop,
    "bare loop + label texts": train_in_bare_loop,
    "frozen logistic": train_frozen,
    "frozen logistic + label texts": train_frozen,
    "frozen centroid": partial(train_frozen, head="centroid"),
    "frozen centroid + label texts": partial(train_frozen, head="centroid"),
}


@dataclass(frozen=True)
class Task:
    """What one run does.

    Attributes:
        method: one of `METHODS`.
        corpus: see `draw_rows`.
        shots: labels per class.
        seed: of the rows and the training.
        evaluated: validation or test rows.
        variant: name of the options, of the bare loop only; empty for the defaults.
        options: of the bare loop.
    """

    method: str
    corpus: str
    shots: int
    seed: int
    evaluated: Evaluated = "test"
    variant: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What tells a run from the others of a record."""
        return self.method, self.variant, self.corpus, self.shots, self.seed


def run(task: Task, *, encoder: str, device: str) -> dict[str, Any]:
    """Train, predict, count.

    Time to train is wall time from rows to a classifier: the encoder is read, tuned, and a head fitted. Imports and the
    start of CUDA are no part of it. The processor's time beside it tells more where others use the machine.
    """
    rows = draw_rows(task.corpus, task.shots, task.seed, task.evaluated)
    texts = label_texts(task.corpus, rows.class_names) if task.method.endswith("label texts") else None
    start, processor_start = time.perf_counter(), time.process_time()
    predict = METHODS[task.method](
        rows.train,
        texts,
        task.seed,
        num_classes=len(rows.class_names),
        encoder=encoder,
        device=device,
        **task.options,
    )
    trained, processor = time.perf_counter(), time.process_time() - processor_start
    predicted = predict(rows.evaluated.texts)
    done = time.perf_counter()
    return {
        "method": task.method,
        **({"variant": task.variant} if task.variant else {}),
        "corpus": task.corpus,
        "shots": task.shots,
        "seed": task.seed,
        **_scores(rows.evaluated.labels, predicted),
        "train_seconds": round(trained - start, 3),
        "train_processor_seconds": round(processor, 3),
        "predict_seconds": round(done - trained, 3),
        "num_rows": len(rows.train),
        "num_label_texts": len(texts or ()),
        "num_evaluated": len(predicted),
    }


def prepare(encoder: str, device: str, num_threads: int, methods: tuple[str, ...]) -> None:
    """Make a worker ready: silent, with its share of the cores, and with all imports and the device behind it."""
    quiet(num_threads, needs_setfit=any(method.startswith("setfit") for method in methods))
    for train in dict.fromkeys(getattr(METHODS[method], "func", METHODS[method]) for method in methods):
        _warm_up(train, encoder, device)


def quiet(num_threads: int, *, needs_setfit: bool) -> None:
    """Give a worker its share of the cores, fast float32 products, and libraries that print nothing."""
    warnings.simplefilter("ignore")
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(num_threads)
    # float32 products of a GPU in TF32, for every method: several times as fast.
    torch.set_float32_matmul_precision("high")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if needs_setfit:
        import datasets
        import setfit  # noqa: F401

        datasets.disable_progress_bars()
        # It sets levels of its own when it is imported.
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("setfit")]:
            logging.getLogger(name).setLevel(logging.ERROR)


def _warm_up(train: Callable[..., Predict], encoder: str, device: str) -> None:
    """Two steps or so, that are not timed: imports, kernels, memory."""
    from labeldist.training.data.corpus import Split

    options = {"steps": 2} if train in (train_in_bare_loop, train_with_recipe) else {}
    rows = Split(["a good film", "a bad film"], np.array([1, 0]))
    train(rows, None, 0, num_classes=2, encoder=encoder, device=device, **options)(["a film"])


def _scores(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import f1_score

    return {
        "accuracy": round(float(np.mean(labels == predicted)), 6),
        "macro_f1": round(float(f1_score(labels, predicted, average="macro", zero_division=0)), 6),
    }
