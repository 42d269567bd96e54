"""The training text that is most similar to each test text: the same text, or the nearest vector of the model."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labeldist.reports.predictions import Nearest
from labeldist.reports.similar_texts import same_text_key
from labeldist.training.data.corpus import Split

__all__ = ["MAX_NEAREST_ROWS", "nearest_training_texts"]

MAX_NEAREST_ROWS = 5_000
"""Training rows whose vectors are compared; the same text is found among all of them."""

ROWS_AT_ONCE = 1_024
MAX_TEXT = 400


def nearest_training_texts(
    texts: Sequence[str],
    vectors: Tensor,
    train: Split,
    vectors_of: Callable[[Sequence[str]], Tensor],
    class_names: Sequence[str],
) -> list[Nearest]:
    """For each text the training text that is the same but for case and spaces, or else the most similar one.

    Similarity is the cosine of the model's vectors. Of more than 5,000 training rows, 5,000 are drawn by a fixed seed.

    Args:
        texts: N texts.
        vectors: of these texts, `(N, D)`.
        train: the training rows, at least one.
        vectors_of: makes vectors of training texts, `(M, D)`.
        class_names: name of each class.
    """
    first = {}
    for row, text in enumerate(train.texts):
        first.setdefault(same_text_key(text), row)
    kept = np.arange(len(train.texts))
    if len(kept) > MAX_NEAREST_ROWS:
        kept = np.sort(np.random.default_rng(0).choice(len(kept), MAX_NEAREST_ROWS, replace=False))
    known = F.normalize(vectors_of([train.texts[int(i)] for i in kept]), dim=1)
    found: list[Nearest] = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        similarity = F.normalize(vectors[start : start + ROWS_AT_ONCE], dim=1) @ known.T
        for i, place in enumerate(torch.argmax(similarity, dim=1).tolist()):
            same = first.get(same_text_key(texts[start + i]))
            row = int(kept[place]) if same is None else same
            found.append(Nearest(train.texts[row][:MAX_TEXT], class_names[int(train.labels[row])], same is not None))
    return found
