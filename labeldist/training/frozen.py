"""Class layers that are fitted, not trained: logistic regression and class centroids on an encoder's vectors."""

from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from labeldist.label_texts import names_without_meaning
from labeldist.messages import listed
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.training.data.corpus import Corpus, Split, joined
from labeldist.training.data.label_texts import names_as_rows
from labeldist.training.objectives import OBJECTIVES, FrozenHead, Objective

__all__ = [
    "fit_class_layer",
    "note_on_class_layer",
    "note_on_unused_rows",
    "rows_of_class_layer",
    "threads_for_logistic",
]

MAX_ITERATIONS = 1000
# Cosines lie close together: this makes probabilities of them, as in the contrast.
TEMPERATURE = 0.1
PRODUCTS_OF_ONE_THREAD = 10**9
"""Most multiplications of all rows by all classes that one thread does alone. On two cores of an AMD EPYC, 6e8
took one thread 1.2 s and two threads 1.7 to 2.0 s."""


def rows_of_class_layer(objective: Objective, corpus: Corpus) -> Split:
    """The rows that a class layer is fitted on, where one is: those of train, and label texts.

    Of the objectives on the frozen encoder those named so take label texts, the class names where the corpus has none;
    the others never do.
    """
    spec = OBJECTIVES[objective]
    if spec.frozen_head is not None and not spec.label_texts:
        return corpus.train
    if len(corpus.label_texts) or spec.frozen_head is None:
        return joined(corpus.train, corpus.label_texts)
    return joined(corpus.train, names_as_rows(corpus))


def note_on_class_layer(objective: Objective, corpus: Corpus) -> str | None:
    """What a user must know of those rows: that class names stand in for label texts, where none were given."""
    spec = OBJECTIVES[objective]
    if spec.frozen_head is None or not spec.label_texts or len(corpus.label_texts):
        return None
    num_rows = len(names_as_rows(corpus))
    mute = names_without_meaning(corpus.class_names)
    little = f"; {len(mute)} of {len(corpus.class_names)} names say little ({listed(mute, 5)})" if mute else ""
    return f"label texts: {num_rows} rows from the class names for {objective}, as none were given{little}"


def note_on_unused_rows(objective: Objective, corpus: Corpus) -> str | None:
    """What a user must know of additional training rows: that an objective on the frozen encoder takes none of them."""
    spec = OBJECTIVES[objective]
    if spec.frozen_head is None:
        return None
    unused = {"label texts": () if spec.label_texts else corpus.label_texts, "coarse rows": corpus.coarse}
    names = [name for name, rows in unused.items() if len(rows)]
    return f"{objective}: fitted without the {' and '.join(names)}" if names else None


def threads_for_logistic(rows: NDArray[np.floating], num_classes: int) -> AbstractContextManager[object]:
    """Within it, a logistic regression of few rows is fitted by one thread.

    Each iteration has hundreds of small products, and to share them takes longer than to compute them. On two cores of
    an AMD EPYC, with scikit-learn 1.9.1, 570 rows of 384 random numbers in 47 classes took two threads 0.12 s, or 1 s
    beside two busy processes, and one thread 0.02 s, or 0.06 s.

    Args:
        rows: `(N, D)`.
        num_classes: `C`.
    """
    return threadpool_limits(1 if rows.size * num_classes <= PRODUCTS_OF_ONE_THREAD else None, user_api="blas")


def fit_class_layer(
    model: ContrastiveClassifier,
    vectors: Tensor,
    labels: NDArray[np.int64],
    kind: FrozenHead,
    *,
    balanced: bool = False,
) -> None:
    r"""Put a fitted class layer on a classifier, in place.

    `"logistic"`: scikit-learn's logistic regression on $x / m$, where m is the mean length of the vectors x.
    `"centroid"`: the logits are $x \cdot c_b / (m T)$ for the unit centroids c of the classes and T = 0.1; the largest
    is the nearest centroid by cosine.

    Args:
        model: its encoder made the vectors; its class layer is overwritten.
        vectors: `(N, hidden_size)`, of the training rows.
        labels: class index of each row, `(N,)`; every class has a row.
        kind: which layer.
        balanced: whether the logistic regression weighs each class inversely to its rows. Centroids do so anyway.

    Examples:
        >>> from labeldist.models.textcnn import TextCNN
        >>> model = ContrastiveClassifier(TextCNN(vocab_size=9), num_classes=2)
        >>> vectors = torch.eye(300)[[0, 1]]
        >>> fit_class_layer(model, vectors, np.array([0, 1]), "centroid")
        >>> model.classifier(vectors).argmax(dim=1).tolist()
        [0, 1]
    """
    rows = vectors.double().numpy()
    length = max(float(np.linalg.norm(rows, axis=1).mean()), 1e-12)
    rows = rows / length
    num_classes = model.classifier.out_features
    if kind == "logistic":
        regression = LogisticRegression(max_iter=MAX_ITERATIONS, class_weight="balanced" if balanced else None)
        with threads_for_logistic(rows, num_classes):
            fitted = regression.fit(rows, labels)
        weight, bias = np.asarray(fitted.coef_), np.asarray(fitted.intercept_)
        if num_classes == 2:
            # One score for two classes: half of it for the one, half against the other.
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    else:
        sums = np.zeros((num_classes, rows.shape[1]))
        np.add.at(sums, labels, rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12))
        weight = sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12) / TEMPERATURE
        bias = np.zeros(num_classes)
    with torch.no_grad():
        layer = model.classifier
        layer.weight.copy_(torch.as_tensor(weight / length))
        assert layer.bias is not None
        layer.bias.copy_(torch.as_tensor(bias))
