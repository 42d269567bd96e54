"""Which text is most similar to another one, and which words the two differ in."""

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["Piece", "TextIndex", "differing_words", "same_text_key"]

# A word, one character of a script that is written without spaces, a run of spaces, or any other character.
_TOKENS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    r"|[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
    r"|\s+|[^\w\s]"
)
# The similarity of longer texts is decided by then; comparing them word by word takes quadratic time.
MAX_COMPARED = 2_000
QUERIES_AT_ONCE = 256
# Of the words of two texts, so that marks show what differs and not that everything does.
MIN_SHARED = 0.5


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        text: of the part.
        differs: whether the other text has something else here.
    """

    text: str
    differs: bool


def same_text_key(text: str) -> str:
    """What two texts share that are the same apart from case and spaces.

    Examples:
        >>> same_text_key("Where  is it?") == same_text_key("where is it? ")
        True
    """
    return " ".join(text.casefold().split())


def differing_words(first: str, second: str) -> tuple[list[Piece], list[Piece]]:
    """Two texts, each in pieces that say whether the other one has the same words there.

    Words are compared without case; texts of scripts without spaces are compared character by character. Only the first
    2,000 characters are compared. In a text of 200 words and more (spaces are words here), a word that is more than a
    hundredth of it is matched only next to a rarer one. Where the texts share fewer than half of their words, nothing
    is marked: nearly every word would be.

    Args:
        first: a text.
        second: another one.

    Returns:
        The pieces of each text, whose texts joined are the text.

    Examples:
        >>> for pieces in differing_words("is delivery fast", "the delivery was fast"):
        ...     print([(piece.text, piece.differs) for piece in pieces])
        [('is', True), (' delivery ', False), ('fast', False)]
        [('the', True), (' delivery ', False), ('was ', True), ('fast', False)]
    """
    words = [_TOKENS.findall(text[:MAX_COMPARED]) for text in (first, second)]
    keys = [[word.casefold() if not word.isspace() else " " for word in side] for side in words]
    # Matches that start at every space of a long text would take cubic time.
    matcher = difflib.SequenceMatcher(None, *keys, autojunk=True)
    is_similar = matcher.ratio() >= MIN_SHARED
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, *ends in matcher.get_opcodes():
        for side, (start, stop) in enumerate((ends[:2], ends[2:])):
            text = "".join(words[side][start:stop])
            if text:
                pieces[side].append(Piece(text, is_similar and kind != "equal" and not text.isspace()))
    for side, text in enumerate((first, second)):
        if len(text) > MAX_COMPARED:
            pieces[side].append(Piece(text[MAX_COMPARED:], False))
    return pieces


class TextIndex:
    """Finds the most similar text by the words that two texts share.

    Similarity is the cosine of TF-IDF vectors of words and pairs of words, or of characters and pairs of characters
    where a text has no spaces. A model's own vectors say more of what the model sees, but a table of predictions brings
    none.

    Args:
        texts: to be found, at least one.

    Examples:
        >>> index = TextIndex(["where is my parcel", "cancel the order"])
        >>> index.nearest(["cancel my order"], [None]).tolist()
        [1]
    """

    def __init__(self, texts: Sequence[str]):
        # scikit-learn's annotations know neither an analyzer that is a function nor this type.
        options: dict[str, Any] = {"analyzer": _terms, "dtype": np.float32}
        self._vectorizer = TfidfVectorizer(sublinear_tf=True, **options)
        try:
            self._vectors = self._vectorizer.fit_transform([text[:MAX_COMPARED] for text in texts])
        # No text has a word.
        except ValueError:
            self._vectors = None
        self._num_texts = len(texts)

    def nearest(self, queries: Sequence[str], candidates: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64]:
        """The index of the text that is most similar to each query.

        Args:
            queries: Q texts.
            candidates: for each query the indices that it may find; all if `None`.

        Returns:
            `(Q,)`; -1 for a query that shares no word with any candidate.
        """
        found = np.full(len(queries), -1, dtype=np.int64)
        if self._vectors is None or not len(queries):
            return found
        vectors = self._vectorizer.transform([text[:MAX_COMPARED] for text in queries])
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            block = (vectors[start : start + QUERIES_AT_ONCE] @ self._vectors.T).tocsr()
            for i in range(block.shape[0]):
                row = block[i]
                indices, values = row.indices, row.data
                allowed = candidates[start + i]
                if allowed is not None:
                    kept = np.isin(indices, allowed)
                    indices, values = indices[kept], values[kept]
                if len(values):
                    # The first of equals, whatever the order that the product stores them in.
                    best = values.max()
                    found[start + i] = indices[values >= best - 1e-6].min()
        return found


def _terms(text: str) -> list[str]:
    words = [word.casefold() for word in _TOKENS.findall(text) if not word.isspace()]
    return words + [f"{first} {second}" for first, second in itertools.pairwise(words)]
