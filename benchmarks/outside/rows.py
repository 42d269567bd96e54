"""The rows of one run: those that `labeldist compare` draws for the same seed."""

from functools import lru_cache

from benchmarks.cells import DATA
from labeldist.training.data.corpus import Corpus, RawCorpus, read_corpus

__all__ = ["ALL", "MAX_LENGTH", "VALIDATION_FRACTION", "draw"]

ALL = 0
"""In place of a number of labels per class: all rows of train but the validation rows."""
MAX_LENGTH = 128
"""Tokens that every method reads of a text."""
VALIDATION_FRACTION = 0.1
"""Of train where all rows are used: for early stopping. A few labels leave none to hold out."""


@lru_cache(maxsize=2)
def draw(corpus: str, shots: int, seed: int) -> Corpus:
    """Draw the splits of one seed.

    Args:
        corpus: a folder's name in `$LABELDIST_DATA`, or `"demo"`.
        shots: labels per class, or `ALL`.
        seed: of the draws.
    """
    if shots == ALL:
        return _read(corpus).draw(seed=seed, validation_fraction=VALIDATION_FRACTION)
    return _read(corpus).draw(seed=seed, validation_fraction=0.0, shots=shots)


@lru_cache(maxsize=1)
def _read(corpus: str) -> RawCorpus:
    return read_corpus([corpus if corpus == "demo" else str(DATA / corpus)])
