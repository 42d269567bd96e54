r"""A control of graded retrieval that needs no relation in training: rank rows by the gain that a classifier expects.

The expected gain of row j for query i is $p_i^\top G p_j$, with the class probabilities $p$ of both and the gains $G$
of each pair of classes. It needs a classifier that knows the classes, and probabilities of every row that is searched.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from labeldist import Relation

__all__ = ["measures_by_probabilities", "ranked_by_expected_gain"]

NUM_NEIGHBORS = 50


def ranked_by_expected_gain(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], closeness: NDArray[np.float64]
) -> dict[str, float]:
    """Graded nDCG@50 and group MAP of every row's ranking of all others.

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
    gains = 4**closeness - 1
    others = ~np.eye(len(labels), dtype=bool)

    def of_others(table: NDArray[np.float64]) -> NDArray[np.float64]:
        return table[others].reshape(len(labels), -1)

    scores = of_others(probabilities @ gains @ probabilities.T)
    found = of_others(gains[labels[:, None], labels])
    # A row without a related one has nothing to find.
    has_any = found.any(axis=1)
    scores, found = scores[has_any], found[has_any]
    return {
        "graded_ndcg": round(float(ndcg_score(found, scores, k=NUM_NEIGHBORS)), 6),
        "group_mean_average_precision": round(float(label_ranking_average_precision_score(found > 0, scores)), 6),
    }


def measures_by_probabilities(
    folder: Path, relation: Relation, runs: Collection[tuple[str, int]]
) -> list[dict[str, Any]]:
    """The measures of each run of a comparison, from its predictions: these have the five most probable classes.

    Args:
        folder: of the comparison.
        relation: of its classes.
        runs: objective and seed of each.
    """
    index = {name: place for place, name in enumerate(relation.class_names)}
    results = []
    for objective, seed in runs:
        with (folder / "runs" / f"{objective}-seed{seed}" / "predictions.jsonl").open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        labels = np.array([index[row["label"]] for row in rows])
        probabilities = np.zeros((len(rows), len(index)))
        for place, row in enumerate(rows):
            for name, probability in row["probabilities"].items():
                probabilities[place, index[name]] = probability
        measured = ranked_by_expected_gain(probabilities, labels, relation.closeness.double().numpy())
        results.append({"objective": objective, "seed": seed, **measured})
    return results
