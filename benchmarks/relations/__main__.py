"""What a relation of the classes does: comparisons of every objective that uses one, with all controls.

python -m benchmarks.relations --output benchmarks/results/relations          # every cell; a GPU or several
python -m benchmarks.relations --cells sst5-20 trec50-10 --seeds 0 1 --jobs 4 --output trial
python -m benchmarks.relations --cells unseen-trec50 --output trial

A cell is one `labeldist compare` on a corpus in $LABELDIST_DATA and a number of labels a class. Its command is in its
record. Cells run beside one another and share the jobs; the GPUs are taken in turns. The folder `--work` keeps the
runs: the same command goes on where it was stopped, and a finished cell is only recorded again. `--development` judges
by held-out training rows: options are chosen so, before any test row is seen.

Cells `unseen-...` train on some of the classes and judge the embeddings of test rows of the others, which training
never saw: graded nDCG@50 and group MAP, among these rows. Their record has a line for each run; `logistic` leaves the
encoder as it came.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.cells import DATA, development, environment, read_rows, write_rows
from benchmarks.machine import current_commit
from benchmarks.paper.record import record_of
from benchmarks.relations.by_probabilities import measures_by_probabilities
from labeldist import Relation

SEEDS = [0, 1, 2, 3, 4, 5, 6, 7]
OBJECTIVES = (
    "ce", "ce-two-views", "contrastive", "uniform", "near", "far", "graded", "levels", "soft-labels", "margin",
    "far-permuted", "graded-permuted",
)  # fmt: skip
UNSEEN_OBJECTIVES = ("logistic", "ce-two-views", "contrastive", "far", "graded", "levels", "graded-permuted")
MAX_UNSEEN_ROWS = 4000
ENCODER = ("--encoder", "minilm", "--recipe", "standard", "--projection", "none", "--dropout", "0.1")
LOSS = ("--temperature", "0.1", "--weighting", "log")
# Of few labels, one setting for all: near the best of those tried on held-out training rows, see
# results/relations/development. The other numbers of steps were not compared, and what objectives take beside these
# flags is at its default.
RATES = ("--learning-rate", "5e-5", "--head-learning-rate", "1e-2")
STARS = ("--order", "very negative", "negative", "neutral", "positive", "very positive")


# Of some labels a class, no row is held out: a choice among checkpoints by some ten rows would be noise.
FEW = ("--validation-fraction", "0", "--steps", "150")
ALL = ("--steps", "600")
OF_UNSEEN = ("--steps", "300")


@dataclass(frozen=True)
class Corpus:
    """How a corpus is compared.

    Attributes:
        relation: flags that describe how its classes are related.
        measure: what the verdict is about.
        shots: labels a class that are compared; `None` for all rows.
    """

    relation: tuple[str, ...]
    measure: str
    shots: tuple[int | None, ...]

    def of(self, class_names: Sequence[str]) -> Relation:
        """The same relation, of these classes."""
        flag, *values = self.relation
        if flag == "--order":
            return Relation.from_order(class_names=values)
        return Relation.from_names(class_names, separator=values[0])


CORPORA = {
    "sst5": Corpus(STARS, "mean-absolute-error", (20, 100, None)),
    "trec50": Corpus(("--hierarchy-separator", ":"), "graded-ndcg", (10, 50, None)),
    "20ng": Corpus(("--hierarchy-separator", "."), "graded-ndcg", (10, 50, None)),
}
HIERARCHIES = [name for name, corpus in CORPORA.items() if corpus.relation[0] != "--order"]
UNSEEN = {"unseen-trec50": "trec50", "unseen-20ng": "20ng"}
CELLS = [f"{name}-{shots or 'all'}" for name, corpus in CORPORA.items() for shots in corpus.shots] + list(UNSEEN)


def main() -> None:
    """Read the command line, compare, record."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    jobs = [max(1, (options.jobs + place) // len(options.cells)) for place in range(len(options.cells))]
    with ThreadPoolExecutor(len(options.cells)) as together:
        done = [
            together.submit(_carry_out, cell, place, number, options)
            for place, (cell, number) in enumerate(zip(options.cells, jobs, strict=True))
        ]
    if failed := [cell for cell, one in zip(options.cells, done, strict=True) if not one.result()]:
        sys.exit(f"failed: {', '.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--objectives", nargs="+", help="default: all that a cell compares")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of all cells together")
    parser.add_argument("--work", type=Path, default=Path("runs/relations"), help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True, help="folder of the records")
    parser.add_argument("--development", action="store_true", help="judge by held-out training rows")
    parser.add_argument("--options", default="", help="more flags of `labeldist compare`, in one string")
    parser.add_argument("--suffix", default="", help="of the names of folders and records, for other options")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    options = parser.parse_args()
    if options.development and (unseen := [cell for cell in options.cells if cell in UNSEEN]):
        parser.error(f"--development has no rows for {', '.join(unseen)}: name other --cells")
    return options


def _carry_out(cell: str, place: int, jobs: int, options: argparse.Namespace) -> bool:
    """One cell, from its command to its record; whether there is one."""
    folder = options.work / f"{cell}{options.suffix}"
    flags = flags_of(cell, options.work, is_development=options.development) + tuple(options.options.split())
    objectives = options.objectives or (UNSEEN_OBJECTIVES if cell in UNSEEN else OBJECTIVES)
    if "uniform" in objectives:
        flags += ("--matrix-file", str(_near_file(UNSEEN.get(cell, cell.rpartition("-")[0]), options.work)))
    flags += ("--objectives", *objectives, "--seeds", *map(str, options.seeds))
    command = [sys.executable, "-m", "labeldist", "compare", *flags, "--jobs", str(jobs), "--output", str(folder)]
    log = options.work / f"{cell}{options.suffix}.log"
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=output, env=environment(place), check=False)
    if done.returncode:
        print(f"{cell}: failed, see {log}\n{log.read_text()[-1500:]}", flush=True)
        return False
    together = "one run" if options.jobs == 1 else f"{options.jobs} runs"
    note = f"The packaged all-MiniLM-L6-v2, all of its weights trained; {together} at a time."
    record: dict[str, Any] = record_of(folder, note=note, commit=options.commit or current_commit())
    # Others may be left there from an earlier command.
    runs = [(objective, seed) for objective in objectives for seed in options.seeds]
    if cell in UNSEEN:
        record["unseen"] = _unseen_measures(cell, folder, runs)
    elif (name := cell.rpartition("-")[0]) in HIERARCHIES:
        measured = measures_by_probabilities(folder, _relation(name), runs)
        record["by_probabilities"] = {"commit": record["commit"], "runs": measured}
    path = options.output / f"{cell}{options.suffix}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{cell}: {path}", flush=True)
    return True


def flags_of(cell: str, work: Path, *, is_development: bool = False) -> tuple[str, ...]:
    """Data and settings of a cell, as flags of `labeldist compare`; writes data that no corpus folder holds.

    Examples:
        >>> flags_of("sst5-20", Path("runs"))[2:4]
        ('--shots', '20')
    """
    if cell in UNSEEN:
        name = UNSEEN[cell]
        data: tuple[str, ...] = ("--data", str(_without_unseen(name, work / f"{cell}-data")), *OF_UNSEEN)
    else:
        name, _, shots = cell.rpartition("-")
        folder = development(name, work / f"{name}-data") if is_development else DATA / name
        data = ("--data", str(folder), *(ALL if shots == "all" else ("--shots", shots, *FEW)))
        if name in HIERARCHIES:
            data += ("--costs", str(_cost_file(name, work)))
    corpus = CORPORA[name]
    return (*data, *corpus.relation, "--measure", corpus.measure, *ENCODER, *LOSS, *RATES)


def _near_file(name: str, work: Path) -> Path:
    """The distances of `near`, for `uniform`, which has their mean for every pair of classes."""
    relation = _relation(name)
    return _written(work / f"{name}-near.json", relation, relation.near().matrix)


def _cost_file(name: str, work: Path) -> Path:
    """What a mistake costs: 2 between unrelated classes, less the more related they are."""
    relation = _relation(name)
    return _written(work / f"{name}-costs.json", relation, 2 * (1 - relation.closeness))


def _relation(name: str) -> Relation:
    rows = [row for part in ("train", "test") for row in read_rows(DATA / name / f"{part}.jsonl.gz")]
    return CORPORA[name].of(sorted({row["label"] for row in rows}))


def _written(path: Path, relation: Relation, table: Tensor) -> Path:
    """A file of a table, whole whenever another command reads it."""
    if not path.exists():
        partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
        partial.write_text(
            json.dumps({"class_names": relation.class_names, "matrix": table.tolist()}), encoding="utf-8"
        )
        partial.replace(path)
    return path


def unseen_classes(class_names: Sequence[str], separator: str) -> list[str]:
    """Every other class of each group of at least four: siblings remain on both sides.

    Examples:
        >>> unseen_classes(["a:1", "a:2", "a:3", "a:4", "b:1", "b:2"], ":")
        ['a:2', 'a:4']
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(class_names):
        groups.setdefault(name.partition(separator)[0], []).append(name)
    return [name for members in groups.values() if len(members) >= 4 for name in members[1::2]]


def _unseen(name: str) -> set[str]:
    names = {row["label"] for row in read_rows(DATA / name / "train.jsonl.gz")}
    return set(unseen_classes(sorted(names), CORPORA[name].relation[1]))


def _without_unseen(name: str, folder: Path) -> Path:
    """The corpus without the rows of unseen classes."""
    unseen = _unseen(name)
    if not folder.exists():
        parts = {part: read_rows(DATA / name / f"{part}.jsonl.gz") for part in ("train", "test")}
        write_rows(folder, {part: [row for row in rows if row["label"] not in unseen] for part, rows in parts.items()})
    return folder


def _unseen_measures(cell: str, folder: Path, runs: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """Graded retrieval among rows of the classes that no run saw, of each run."""
    import torch

    import labeldist
    from labeldist import Relation
    from labeldist.evaluation import graded_ndcg, group_mean_average_precision

    name = UNSEEN[cell]
    separator, unseen = CORPORA[name].relation[1], _unseen(name)
    # Rows of train, too: most classes have few in test.
    rows = [row for part in ("train", "test") for row in read_rows(DATA / name / f"{part}.jsonl.gz")]
    rows = [row for row in rows if row["label"] in unseen]
    random.Random(0).shuffle(rows)
    rows = rows[:MAX_UNSEEN_ROWS]
    names = sorted({row["label"] for row in rows})
    relation = Relation.from_names(names, separator=separator)
    labels = torch.tensor([names.index(row["label"]) for row in rows])
    prefixes = [name.partition(separator)[0] for name in names]
    groups = [sorted(set(prefixes)).index(prefix) for prefix in prefixes]

    def measured(vectors: Any) -> dict[str, float]:
        return {
            "graded_ndcg": round(graded_ndcg(vectors, labels, 4**relation.closeness - 1), 6),
            "group_mean_average_precision": round(group_mean_average_precision(vectors, labels, groups), 6),
        }

    results = []
    for objective, seed in runs:
        run = labeldist.load(folder / "runs" / f"{objective}-seed{seed}")
        vectors = torch.from_numpy(run.embed([row["text"] for row in rows]))
        results.append({"objective": objective, "seed": seed, **measured(vectors)})
    return results


if __name__ == "__main__":
    main()
