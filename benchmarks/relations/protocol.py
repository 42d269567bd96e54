"""The cells of `benchmarks.relations`: corpora, relations, objectives, and the flags of `labeldist compare`."""

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmarks.cells import DATA, development, read_rows, write_rows
from labeldist import Relation

__all__ = [
    "CELLS",
    "CORPORA",
    "HIERARCHIES",
    "OBJECTIVES",
    "SEEDS",
    "UNSEEN",
    "UNSEEN_OBJECTIVES",
    "Corpus",
    "corpus_of",
    "flags_of",
    "near_file",
    "relation_of",
    "unseen_classes",
    "unseen_of",
]

SEEDS = [0, 1, 2, 3, 4, 5, 6, 7]
OBJECTIVES = (
    "ce", "ce-two-views", "contrastive", "uniform", "near", "far", "graded", "levels", "soft-labels", "margin",
    "far-permuted", "graded-permuted",
)  # fmt: skip
UNSEEN_OBJECTIVES = ("logistic", "ce-two-views", "contrastive", "far", "graded", "levels", "graded-permuted")
ENCODER = ("--encoder", "minilm", "--recipe", "standard", "--projection", "none", "--dropout", "0.1")
LOSS = ("--temperature", "0.1", "--weighting", "log")
# Of few labels, one setting for all: near the best of those tried on held-out training rows, see
# results/relations/development. The other numbers of steps were not compared, and what objectives take beside these
# flags is at its default.
RATES = ("--learning-rate", "5e-5", "--head-learning-rate", "1e-2")
STARS = ("--order", "very negative", "negative", "neutral", "positive", "very positive")


# Of some labels per class, no row is held out: a choice among checkpoints by some ten rows would be noise.
FEW = ("--validation-fraction", "0", "--steps", "150")
ALL = ("--steps", "600")
OF_UNSEEN = ("--steps", "300")


@dataclass(frozen=True)
class Corpus:
    """How a corpus is compared.

    Attributes:
        relation: flags that describe how its classes are related.
        measure: what the verdict is about.
        shots: labels per class that are compared; `None` for all rows.
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


def corpus_of(cell: str) -> str:
    """The corpus of a cell.

    Examples:
        >>> corpus_of("sst5-20"), corpus_of("unseen-trec50")
        ('sst5', 'trec50')
    """
    return UNSEEN[cell] if cell in UNSEEN else cell.rpartition("-")[0]


def flags_of(cell: str, work: Path, *, is_development: bool = False) -> tuple[str, ...]:
    """Data and settings of a cell, as flags of `labeldist compare`; writes data that no corpus folder holds.

    Examples:
        >>> flags_of("sst5-20", Path("runs"))[2:4]
        ('--shots', '20')
    """
    name = corpus_of(cell)
    if cell in UNSEEN:
        data: tuple[str, ...] = ("--data", str(_without_unseen(name, work / f"{cell}-data")), *OF_UNSEEN)
    else:
        shots = cell.rpartition("-")[2]
        folder = development(name, work / f"{name}-data") if is_development else DATA / name
        data = ("--data", str(folder), *(ALL if shots == "all" else ("--shots", shots, *FEW)))
        if name in HIERARCHIES:
            data += ("--costs", str(_cost_file(name, work)))
    corpus = CORPORA[name]
    return (*data, *corpus.relation, "--measure", corpus.measure, *ENCODER, *LOSS, *RATES)


def near_file(name: str, work: Path) -> Path:
    """The distances of `near`, for `uniform`, which has their mean for every pair of classes."""
    relation = relation_of(name)
    return _written(work / f"{name}-near.json", relation, relation.near().matrix)


def _cost_file(name: str, work: Path) -> Path:
    """What a mistake costs: 2 between unrelated classes, less the more related they are."""
    relation = relation_of(name)
    return _written(work / f"{name}-costs.json", relation, 2 * (1 - relation.closeness))


def relation_of(name: str) -> Relation:
    """How the classes of a corpus are related."""
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


def unseen_of(name: str) -> set[str]:
    """The classes of a corpus that training does not see, in a cell of unseen classes."""
    names = {row["label"] for row in read_rows(DATA / name / "train.jsonl.gz")}
    return set(unseen_classes(sorted(names), CORPORA[name].relation[1]))


def _without_unseen(name: str, folder: Path) -> Path:
    """The corpus without the rows of unseen classes."""
    unseen = unseen_of(name)
    if not folder.exists():
        parts = {part: read_rows(DATA / name / f"{part}.jsonl.gz") for part in ("train", "test")}
        write_rows(folder, {part: [row for row in rows if row["label"] not in unseen] for part, rows in parts.items()})
    return folder
