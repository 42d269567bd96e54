"""Embeddings become points of a plane, the same ones each time."""

import numpy as np
import pytest

from labeldist.training.output.projection import MAX_EMBEDDINGS, two_dimensions


def two_clusters(num_rows):
    centers = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    return centers[np.arange(num_rows) % 2] + 0.05 * np.random.default_rng(0).normal(size=(num_rows, 4))


def test_rows_that_are_similar_become_points_that_lie_close():
    kept, points, method = two_dimensions(two_clusters(60))
    assert (kept.tolist(), method) == (list(range(60)), "t-SNE")
    first, second = points[::2], points[1::2]
    between = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert between > 2 * max(np.linalg.norm(side - side.mean(axis=0), axis=1).mean() for side in (first, second))


def test_the_same_rows_become_the_same_points():
    rows = two_clusters(30)
    before = rows.copy()
    assert np.array_equal(two_dimensions(rows).points, two_dimensions(rows).points)
    assert np.array_equal(rows, before)


def test_lengths_of_rows_do_not_matter():
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert np.allclose(two_dimensions(rows).points, two_dimensions(rows * [[1.0], [5.0], [0.1]]).points)


def test_of_many_rows_some_are_kept_in_their_order():
    rows = np.zeros((MAX_EMBEDDINGS + 5, 2))
    kept, points, _ = two_dimensions(rows)
    assert len(kept) == len(points) == MAX_EMBEDDINGS
    assert np.all(np.diff(kept) > 0)


@pytest.mark.parametrize(("num_rows", "width"), [(1, 3), (2, 1), (9, 4), (11, 1)])
def test_few_rows_or_dimensions_become_principal_components(num_rows, width):
    rows = np.random.default_rng(0).normal(size=(num_rows, width))
    kept, points, method = two_dimensions(rows)
    assert points.shape == (num_rows, 2)
    assert len(kept) == num_rows
    assert method == "principal components"


@pytest.mark.parametrize("embeddings", [np.ones(3), np.full((1, 2), np.nan), [[np.inf, 0.0]], []])
def test_embeddings_that_cannot_be_projected_are_refused(embeddings):
    with pytest.raises(ValueError, match="embeddings must"):
        two_dimensions(embeddings)
