r"""A control of graded retrieval that needs no relation in training: rank rows by the gain that a classifier expects.

The expected gain of row j for query i is $p_i^\top G p_j$, with the class probabilities $p$ of both and the gains $G$
of each pair of classes. It needs a classifier that knows the classes, and probabilities of every row that is searched.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labeldist import Relation

__all__ = ["measures_by_probabilities", "ranked_by_expected_gain"]

NUM_NEIGHBORS = 50
NUM_QUERIES = 512
"""That are ranked at a time."""


def ranked_by_expected_gain(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], closeness: NDArray[np.float64]
) -> dict[str, float]:
    """Graded nDCG@50 and group MAP of every row's ranking of all others, on a GPU if there is one.

    Rows of the same expected gain are ranked in their order.

    Args:
        probabilities: of the classes, `(N, C)`.
        labels: class of each row, `(N,)`.
        closeness: of the classes, `(C, C)`: a gain is `4**closeness - 1`, and classes with a closeness above 0 are of
            one group.

    Examples:
        >>> found = ranked_by_expected_gain(np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]), np.eye(2))
        >>> found["graded_ndcg"], found["group_mean_average_precision"]
        (1.0, 1.0)
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, classes, table = (torch.from_numpy(given).to(device) for given in (probabilities, labels, closeness))
    ndcg, precision = [], []
    for gains in _ranked_gains(rows, classes, 4**table - 1):
        ranks = torch.arange(1, gains.shape[1] + 1, device=device, dtype=gains.dtype)
        discounts = torch.where(ranks <= NUM_NEIGHBORS, 1 / (ranks + 1).log2(), 0)
        ndcg.append((gains @ discounts) / (gains.sort(dim=1, descending=True).values @ discounts))
        is_related = (gains > 0).double()
        precision.append((is_related * is_related.cumsum(dim=1) / ranks).sum(dim=1) / is_related.sum(dim=1))
    return {
        "graded_ndcg": round(torch.cat(ndcg).mean().item(), 6),
        "group_mean_average_precision": round(torch.cat(precision).mean().item(), 6),
    }


def _ranked_gains(rows: Tensor, classes: Tensor, gains: Tensor) -> Iterator[Tensor]:
    """The gains of all other rows, by decreasing expected gain, of each query that has a related row."""
    for start in range(0, len(rows), NUM_QUERIES):
        queries = torch.arange(start, min(start + NUM_QUERIES, len(rows)), device=rows.device)
        expected = rows[queries] @ gains @ rows.T
        # A row is not searched for itself: it comes last, and goes.
        expected[torch.arange(len(queries)), queries] = -torch.inf
        order = expected.sort(dim=1, descending=True, stable=True).indices[:, :-1]
        found = gains[classes[queries, None], classes[order]]
        yield found[(found > 0).any(dim=1)]


def measures_by_probabilities(run: Path, relation: Relation) -> dict[str, float]:
    """The measures of a run, from its predictions: these have the five most probable classes of each row.

    Args:
        run: its folder.
        relation: of its classes.
    """
    index = {name: place for place, name in enumerate(relation.class_names)}
    with (run / "predictions.jsonl").open(encoding="utf-8") as lines:
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    labels = np.array([index[row["label"]] for row in rows])
    probabilities = np.zeros((len(rows), len(index)))
    for place, row in enumerate(rows):
        for name, probability in row["probabilities"].items():
            probabilities[place, index[name]] = probability
    return ranked_by_expected_gain(probabilities, labels, relation.closeness.double().numpy())
