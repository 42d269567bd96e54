"""What a run leaves beside its model: the matrix of its best epoch, and predictions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labeldist.ldm import AdaptiveLDM
from labeldist.relation import AdaptiveRelevance
from labeldist.reports.predictions import Nearest
from labeldist.training.atomic import new_text, write_json
from labeldist.training.data.corpus import Split
from labeldist.training.label_distances import MatrixChoice
from labeldist.training.matrix_json import matrix_to_json
from labeldist.training.output.projection import TwoDimensions

# Of all updates in `ldm.json`: a number takes some 20 bytes there.
MAX_HISTORY_ENTRIES = 1_000_000
MAX_ALL_PROBABILITIES = 20
NUM_FIRST_PROBABILITIES = 5

__all__ = [
    "KeptTables",
    "tables_of_best_epoch",
    "write_map",
    "write_matrix",
    "write_nearest",
    "write_predictions",
]


@dataclass(frozen=True)
class KeptTables:
    """The tables that the loss used at the epoch whose weights are kept.

    Attributes:
        matrix: the label distances, `(C, C)`.
        relevance: graded targets, `(C, C)`; `None` without any.
        num_updates: how often a learned table had changed by then.
        levels: graded targets of each level, `(C, C)`; empty without any.
    """

    matrix: Tensor
    relevance: Tensor | None = None
    num_updates: int = 0
    levels: tuple[Tensor, ...] = ()


def tables_of_best_epoch(choice: MatrixChoice, history: list[dict[str, Any]]) -> KeptTables | None:
    """The tables that the kept weights were trained with; `None` for cross-entropy alone.

    The Trainer goes back to the weights of its best epoch; an adaptive matrix has moved on since. Where its history no
    longer holds that matrix (it is bounded, see `AdaptiveLDM.history`), the oldest one that it holds is nearest.
    """
    if choice.ldm is None:
        return None
    matrix, num_updates = choice.ldm.matrix, 0
    if isinstance(choice.ldm, AdaptiveLDM):
        matrix, num_updates = _at_best_epoch(choice.ldm, history)
    if isinstance(choice.relevance, AdaptiveRelevance):
        return KeptTables(torch.ones_like(matrix), choice.relevance.table_of(matrix), num_updates)
    return KeptTables(matrix, choice.relevance, num_updates, choice.levels)


def _at_best_epoch(ldm: AdaptiveLDM, history: list[dict[str, Any]]) -> tuple[Tensor, int]:
    evaluations = [entry for entry in history if "eval_accuracy" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_accuracy"])
    num_updates = sum("ldm_epsilon" in entry and entry["step"] < best["step"] for entry in history)
    if not num_updates:
        return torch.ones_like(ldm.matrix), 0
    num_dropped = ldm.num_updates - len(ldm.history)
    kept = [matrix for _, matrix in ldm.history] or [ldm.matrix]
    return kept[max(num_updates - 1 - num_dropped, 0)], num_updates


def write_matrix(choice: MatrixChoice, tables: KeptTables, path: Path) -> None:
    """Write the tables of the best epoch, where they came from, and the latest updates, in bounded size."""
    assert choice.ldm is not None
    history = choice.ldm.history if isinstance(choice.ldm, AdaptiveLDM) else []
    history = history[max(len(history) - MAX_HISTORY_ENTRIES // tables.matrix.numel(), 0) :]
    learned = "matrix"
    if isinstance(choice.relevance, AdaptiveRelevance):
        learned, table_of = "relevance", choice.relevance.table_of
        history = [(progress, table_of(moved)) for progress, moved in history]
    write_json(
        path,
        {
            "class_names": list(choice.ldm.class_names),
            "source": choice.source,
            "matrix": matrix_to_json(tables.matrix),
            **({} if tables.relevance is None else {"relevance": matrix_to_json(tables.relevance)}),
            **({"levels": [matrix_to_json(level) for level in tables.levels]} if tables.levels else {}),
            "history": [{"progress": progress, learned: matrix_to_json(moved)} for progress, moved in history],
        },
    )


def write_predictions(split: Split, class_names: Sequence[str], probabilities: Tensor, path: Path) -> None:
    """Write each text with its label, the prediction and the probabilities of the most probable classes.

    Args:
        split: the rows.
        class_names: name of each class, C of them.
        probabilities: `(N, C)`. All are written for up to 20 classes, else the five largest of a row.
        path: of the file, in JSON Lines.
    """
    kept = len(class_names) if len(class_names) <= MAX_ALL_PROBABILITIES else NUM_FIRST_PROBABILITIES
    best, predicted = (values.tolist() for values in probabilities.max(dim=1))
    values, classes = (column.tolist() for column in probabilities.topk(kept, dim=1))
    with new_text(path) as file:
        for row, (text, label) in enumerate(zip(split.texts, split.labels.tolist(), strict=True)):
            found = {
                "text": text,
                "label": class_names[label],
                "predicted": class_names[predicted[row]],
                "probability": round(best[row], 6),
                "probabilities": {
                    class_names[c]: round(value, 6) for c, value in zip(classes[row], values[row], strict=True)
                },
            }
            file.write(json.dumps(found, ensure_ascii=False) + "\n")


def write_map(projection: TwoDimensions, path: Path) -> None:
    """Write the places of test rows on a map, and how it was made."""
    points = [[round(value, 3) for value in point] for point in projection.points.tolist()]
    write_json(path, {"method": projection.method, "rows": projection.kept.tolist(), "points": points})


def write_nearest(nearest: Sequence[Nearest], path: Path) -> None:
    """Write the training text that is most similar to each test row, in JSON Lines."""
    with new_text(path) as file:
        file.writelines(json.dumps(vars(one), ensure_ascii=False) + "\n" for one in nearest)
