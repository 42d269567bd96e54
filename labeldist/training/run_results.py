"""What a run leaves beside its model: the matrix of its best epoch, and predictions."""

import json
from pathlib import Path
from typing import Any

import torch

from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix
from labeldist.training.atomic import write_json, write_text
from labeldist.training.data.corpus import Corpus
from labeldist.training.label_distances import MatrixChoice
from labeldist.training.matrix_json import matrix_to_json

# Of all updates in `ldm.json`: a number takes some 20 bytes there.
MAX_HISTORY_ENTRIES = 1_000_000

__all__ = ["matrix_of_best_epoch", "write_matrix", "write_predictions"]


def matrix_of_best_epoch(
    ldm: LabelDistanceMatrix | None, history: list[dict[str, Any]]
) -> tuple[torch.Tensor | None, int]:
    """The matrix that the kept weights were trained with, and how often it had moved by then.

    The Trainer goes back to the weights of its best epoch; an adaptive matrix has moved on since. Where its history no
    longer holds that matrix (it is bounded, see `AdaptiveLDM.history`), the oldest one that it holds is nearest.
    """
    if not isinstance(ldm, AdaptiveLDM):
        return (None if ldm is None else ldm.matrix), 0
    evaluations = [entry for entry in history if "eval_accuracy" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_accuracy"])
    num_updates = sum("ldm_epsilon" in entry and entry["step"] < best["step"] for entry in history)
    if not num_updates:
        return torch.ones_like(ldm.matrix), 0
    num_dropped = ldm.num_updates - len(ldm.history)
    kept = [matrix for _, matrix in ldm.history] or [ldm.matrix]
    return kept[max(num_updates - 1 - num_dropped, 0)], num_updates


def write_matrix(choice: MatrixChoice, matrix: torch.Tensor, path: Path) -> None:
    """Write the matrix, where it came from, graded targets if any, and its latest updates, in bounded size."""
    assert choice.ldm is not None
    history = choice.ldm.history if isinstance(choice.ldm, AdaptiveLDM) else []
    history = history[max(len(history) - MAX_HISTORY_ENTRIES // matrix.numel(), 0) :]
    write_json(
        path,
        {
            "class_names": list(choice.ldm.class_names),
            "source": choice.source,
            "matrix": matrix_to_json(matrix),
            **({} if choice.relevance is None else {"relevance": matrix_to_json(choice.relevance)}),
            "history": [{"progress": progress, "matrix": matrix_to_json(moved)} for progress, moved in history],
        },
    )


def write_predictions(corpus: Corpus, probabilities: torch.Tensor, path: Path) -> None:
    """Write each test text with its label, the prediction and its probability."""
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
