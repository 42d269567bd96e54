"""The rows of one run: the same for every method."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from labeldist.training.data.corpus import RawCorpus, Split, read_corpus, split_of_table
from labeldist.training.data.splits import draw_shots

CORPORA = ("trec", "20ng", "r52", "mr", "sst5", "trec50")
DATA = Path(os.environ.get("LABELDIST_DATA", "../shared/data"))
MAX_VALIDATION_ROWS = 1000
MAX_LENGTH = 128
"""Tokens that every method reads of a text."""

Evaluated = Literal["validation", "test"]
# A stream of random numbers of its own, beside those of `labeldist.training.data.splits`.
_VALIDATION = 4


@dataclass(frozen=True, eq=False)
class Rows:
    """What one run trains on and is judged by.

    Attributes:
        class_names: the class of each index.
        train: the shots.
        evaluated: rows to predict.
    """

    class_names: tuple[str, ...]
    train: Split
    evaluated: Split


@lru_cache
def draw_rows(corpus: str, shots: int, seed: int, evaluated: Evaluated) -> Rows:
    """Draw the shots of one seed from all training rows.

    Args:
        corpus: a folder's name in `$LABELDIST_DATA`, or `"demo"`.
        shots: rows a class; a class with fewer gives all it has.
        seed: of the draws.
        evaluated: `"test"`, or `"validation"` for rows of train that are no shots, 1000 at most. Options are tuned on
            the latter.
    """
    raw = read(corpus)
    train = split_of_table(raw.tables["train"], raw.class_names)
    drawn = draw_shots(train.labels, shots, seed)
    if evaluated == "test":
        judged = split_of_table(raw.tables["test"], raw.class_names)
    else:
        others = np.setdiff1d(np.arange(len(train)), drawn)
        shuffled = np.random.default_rng([_VALIDATION, seed]).permutation(others)
        judged = _taken(train, np.sort(shuffled[:MAX_VALIDATION_ROWS]))
    return Rows(raw.class_names, _taken(train, drawn), judged)


@lru_cache
def read(corpus: str) -> RawCorpus:
    """A corpus, read once in a process."""
    return read_corpus([corpus if corpus == "demo" else str(DATA / corpus)])


def _taken(split: Split, positions: np.ndarray) -> Split:
    return Split([split.texts[position] for position in positions], split.labels[positions])
