"""What a cell of `benchmarks.relations` measures of every run beside the comparison: in processes of its own, on GPUs.

python -m benchmarks.relations.measures unseen-trec50 runs/relations/unseen-trec50 --objectives contrastive graded \
    --seeds 0 1 --jobs 8 --output measured.json

Of unseen classes: graded retrieval among their rows, which needs the weights of each run. Of a hierarchy: a ranking by
the gain that the classifier expects, from the predictions.
"""

import argparse
import json
import random
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import labeldist
from benchmarks.cells import DATA, read_rows
from benchmarks.pool import Pool, run_all
from benchmarks.relations.by_probabilities import measures_by_probabilities
from benchmarks.relations.protocol import CELLS, CORPORA, UNSEEN, corpus_of, relation_of, unseen_of
from labeldist import Relation
from labeldist.evaluation import graded_ndcg, group_mean_average_precision

__all__ = ["Task", "measure"]

MAX_UNSEEN_ROWS = 4000


@dataclass(frozen=True)
class Task:
    """A run that is measured.

    Examples:
        >>> str(Task("unseen-trec50", Path("runs"), "graded", 3))
        'unseen-trec50: graded, seed 3'
    """

    cell: str
    folder: Path
    objective: str
    seed: int

    def __str__(self) -> str:
        return f"{self.cell}: {self.objective}, seed {self.seed}"


def main() -> None:
    """Measure the runs of a finished comparison, and write the results in the order of objectives and seeds."""
    options = _options()
    tasks = [
        Task(options.cell, options.folder, objective, seed)
        for objective in options.objectives
        for seed in options.seeds
    ]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = max(1, torch.get_num_threads() // options.jobs)
    pool = Pool(min(options.jobs, len(tasks)), device, threads, torch.set_num_threads, (threads,))
    found: list[dict[str, Any]] = []

    def finished(result: dict[str, Any]) -> str:
        found.append(result)
        return f"{options.cell}: {result['objective']}, seed {result['seed']}"

    run_all(tasks, measure, pool, options={}, finished=finished)
    if len(found) < len(tasks):
        sys.exit(f"{len(tasks) - len(found)} of {len(tasks)} runs could not be measured.")
    found.sort(key=lambda run: (options.objectives.index(run["objective"]), run["seed"]))
    options.output.write_text(json.dumps(found) + "\n", encoding="utf-8")


def measure(task: Task) -> dict[str, Any]:
    """The measures of one run, with its objective and seed."""
    run = task.folder / "runs" / f"{task.objective}-seed{task.seed}"
    name = corpus_of(task.cell)
    measured = _of_unseen_classes(run, name) if task.cell in UNSEEN else measures_by_probabilities(run, _relation(name))
    return {"objective": task.objective, "seed": task.seed, **measured}


def _of_unseen_classes(run: Path, name: str) -> dict[str, float]:
    texts, labels, relation, groups = _unseen_rows(name)
    vectors = torch.from_numpy(labeldist.load(run).embed(texts))
    return {
        "graded_ndcg": round(graded_ndcg(vectors, labels, 4**relation.closeness - 1), 6),
        "group_mean_average_precision": round(group_mean_average_precision(vectors, labels, groups), 6),
    }


_relation = lru_cache(relation_of)


@lru_cache
def _unseen_rows(name: str) -> tuple[list[str], Tensor, Relation, list[int]]:
    """Texts and classes of the rows that no run trained on, the relation of these classes, the group of each class."""
    unseen = unseen_of(name)
    # Rows of train, too: most classes have few in test.
    rows = [row for part in ("train", "test") for row in read_rows(DATA / name / f"{part}.jsonl.gz")]
    rows = [row for row in rows if row["label"] in unseen]
    random.Random(0).shuffle(rows)
    rows = rows[:MAX_UNSEEN_ROWS]
    names = sorted({row["label"] for row in rows})
    prefixes = [each.partition(CORPORA[name].relation[1])[0] for each in names]
    groups = [sorted(set(prefixes)).index(prefix) for prefix in prefixes]
    labels = torch.tensor([names.index(row["label"]) for row in rows])
    return [row["text"] for row in rows], labels, CORPORA[name].of(names), groups


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cell", choices=CELLS)
    parser.add_argument("folder", type=Path, help="of its comparison")
    parser.add_argument("--objectives", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; several GPUs share them")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
