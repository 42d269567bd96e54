"""Embeddings in two dimensions: the coordinates of a map, without its drawing."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

__all__ = ["MAX_EMBEDDINGS", "TwoDimensions", "two_dimensions"]

MAX_EMBEDDINGS = 2000
"""Rows that a map shows at most."""

MIN_TSNE_ROWS = 10
# Rows that differ by less are equal: t-SNE starts from principal components and fails there.
MIN_RANGE = 1e-9


class TwoDimensions(NamedTuple):
    """Rows of a matrix of embeddings as points of a plane.

    Attributes:
        kept: indices of the N rows that became points, in ascending order, `(N,)`.
        points: coordinates, `(N, 2)`.
        method: how they were found: `"t-SNE"` or `"principal components"`.
    """

    kept: NDArray[np.int64]
    points: NDArray[np.floating]
    method: str


def two_dimensions(embeddings: ArrayLike) -> TwoDimensions:
    """Project embeddings to a plane, so that rows which are similar to the model lie close.

    Rows are scaled to unit length, as the loss sees them. t-SNE of at most 2000 rows, drawn by a fixed seed; principal
    components where there are fewer than 10 rows, one dimension, or rows that are all equal.

    Args:
        embeddings: `(N, D)`, finite, N >= 1.

    Returns:
        The points. The same embeddings give the same points.

    Raises:
        ValueError: if there is no row, or a value is not finite.

    Examples:
        >>> kept, points, method = two_dimensions([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
        >>> kept.tolist(), points.shape, method
        ([0, 1, 2], (3, 2), 'principal components')
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"embeddings must have shape (N, D), N >= 1, got {rows.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError("embeddings must be finite, got NaN or infinity.")
    num_rows = len(rows)
    kept = np.arange(num_rows)
    if num_rows > MAX_EMBEDDINGS:
        kept = np.sort(np.random.default_rng(0).choice(num_rows, MAX_EMBEDDINGS, replace=False))
        rows = rows[kept]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    differ = np.ptp(rows, axis=0).max(initial=0.0) > MIN_RANGE
    if len(rows) >= MIN_TSNE_ROWS and rows.shape[1] >= 2 and differ:
        perplexity = min(30.0, (len(rows) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=0)
        return TwoDimensions(kept, tsne.fit_transform(rows), "t-SNE")
    points = np.zeros((len(rows), 2))
    if differ:
        num_components = min(2, *rows.shape)
        points[:, :num_components] = PCA(num_components, random_state=0).fit_transform(rows)
    return TwoDimensions(kept, points, "principal components")
