"""A label-distance matrix that does not change during training, and functions that build one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from labeldist.checks import check_matrix
from labeldist.class_names import Class, checked_groups, checked_pairs, class_index, resolve_names
from labeldist.confusion import ArrayLike
from labeldist.functional import unit_rows
from labeldist.ldm.base import LabelDistanceMatrix
from labeldist.ldm.distances import check_max_distance, distances_from_confusion, stretch
from labeldist.options import Normalization


class StaticLDM(LabelDistanceMatrix):
    r"""A label-distance matrix that does not change during training.

    An entry is a weight, not a dissimilarity: a larger entry pushes the pairs of its two classes apart harder, so
    easily confused classes have large entries. Use `from_distances` to convert real dissimilarities.

    The constructor takes the matrix itself. The class methods build one from what is known about *confusable* classes:
    classes that are easy to tell apart get the entry 1, the most confusable classes get `max_distance`, and others lie
    in between. The diagonal is 1. For classes that are *related*, by an order or a hierarchy, describe the relation
    first and choose what to push: `labeldist.Relation`, with `near` and `far`.

    Choice: for the static matrix, the paper says only "tau = 5.0" and "manually selecting confusing classes".

    Args:
        matrix: `(C, C)`, non-negative and finite, row = anchor's class; may be asymmetric. The matrix is copied, unless
            it is an `nn.Parameter`, which is then learned. Integers are converted to the default floating-point dtype.
        class_names: one name per class.

    Raises:
        ValueError: if the matrix is not square, has a negative, NaN or infinite entry, or does not have one name per
            class.
        TypeError: if the matrix is not a table of numbers.

    Examples:
        >>> StaticLDM([[1, 5], [2, 1]], class_names=["slow", "fast"])
        StaticLDM(num_classes=2, mean_off_diagonal=3.5)
    """

    def __init__(self, matrix: Tensor | Sequence[Sequence[float]], *, class_names: Sequence[str] | None = None):
        if not isinstance(matrix, nn.Parameter):
            matrix = _copied(matrix)
        if not matrix.is_floating_point():
            matrix = matrix.to(torch.get_default_dtype())
        check_matrix(matrix)
        super().__init__(matrix, class_names=class_names)

    @classmethod
    def uniform(
        cls,
        value: float = 1.0,
        *,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> Self:
        """The same entry for all pairs of different classes; `value=1` gives plain supervised contrastive learning.

        Args:
            value: every off-diagonal entry, non-negative.
            class_names: one name per class; pass this or `num_classes`.
            num_classes: `C`.

        Returns:
            A matrix with `value` off the diagonal and 1 on the diagonal.

        Examples:
            >>> StaticLDM.uniform(2.0, num_classes=2).matrix
            tensor([[1., 2.],
                    [2., 1.]])
        """
        names = resolve_names(class_names, num_classes)
        return cls(torch.full((len(names), len(names)), float(value)).fill_diagonal_(1), class_names=names)

    @classmethod
    def from_pairs(
        cls,
        pairs: Iterable[Sequence[Any]],
        *,
        max_distance: float = 5.0,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        symmetric: bool = True,
    ) -> Self:
        """`max_distance` for listed pairs of confusable classes, 1 for all others: the paper's static matrix.

        Args:
            pairs: `(a, b)`, or `(a, b, entry)` to set a different entry; classes by name or index.
            max_distance: entry of a listed pair, > 0; 5 in the paper.
            class_names: one name per class; pass this or `num_classes`.
            num_classes: `C`.
            symmetric: set both `(a, b)` and `(b, a)`; otherwise only row `a`, column `b`.

        Raises:
            TypeError: if a pair is not a sequence.
            ValueError: if a class is unknown (the message suggests the nearest name) or paired with itself.

        Examples:
            >>> StaticLDM.from_pairs([(0, 1)], num_classes=3).matrix
            tensor([[1., 5., 1.],
                    [5., 1., 1.],
                    [1., 1., 1.]])
        """
        check_max_distance(max_distance)
        names = resolve_names(class_names, num_classes)
        matrix = torch.ones(len(names), len(names))
        for first, second, distance in checked_pairs(pairs, "distance"):
            a, b = class_index(first, names), class_index(second, names)
            if a == b:
                raise ValueError(f"A pair must name two different classes, got {names[a]!r} twice.")
            matrix[a, b] = distance[0] if distance else max_distance
            if symmetric:
                matrix[b, a] = matrix[a, b]
        return cls(matrix, class_names=names)

    @classmethod
    def from_groups(
        cls,
        groups: Iterable[Sequence[Class]] | Mapping[str, Sequence[Class]],
        *,
        max_distance: float = 5.0,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> Self:
        """`max_distance` between classes of the same group, 1 between all others.

        Args:
            groups: sequences of classes, by name or index, or a mapping from group names to them. They may overlap
                and need not cover all classes.
            max_distance: entry of two classes of the same group, > 0.
            class_names: one name per class; pass this or `num_classes`.
            num_classes: `C`.

        Raises:
            TypeError: if a group is not a list of classes.
            ValueError: if a class is unknown (the message suggests the nearest name) or occurs twice in one group.

        Examples:
            >>> names = ["guns", "politics", "baseball", "hockey"]
            >>> ldm = StaticLDM.from_groups([["guns", "politics"], ["baseball", "hockey"]], class_names=names)
            >>> ldm.distance("baseball", "hockey"), ldm.distance("guns", "hockey")
            (5.0, 1.0)
        """
        check_max_distance(max_distance)
        names = resolve_names(class_names, num_classes)
        matrix = torch.ones(len(names), len(names))
        for indices in checked_groups(groups, names):
            rows = torch.tensor(indices, dtype=torch.long)
            matrix[rows[:, None], rows] = float(max_distance)
        return cls(matrix.fill_diagonal_(1), class_names=names)

    @classmethod
    def from_confusion(
        cls,
        counts: ArrayLike,
        *,
        max_distance: float = 5.0,
        normalization: Normalization = "rate",
        symmetric: bool = True,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """Entries from a classifier's confusion counts: see `distances_from_confusion`.

        Use counts from rows that the classifier was not trained on. It makes few mistakes on its training rows.

        Args:
            counts: `(C, C)`, non-negative, row = true class, column = predicted class.
            max_distance: entry of the most confused pair, > 0.
            normalization: `"rate"` or `"count"`.
            symmetric: average both directions.
            class_names: one name per class.

        Examples:
            >>> StaticLDM.from_confusion([[8, 2, 0], [0, 9, 1], [0, 0, 10]], max_distance=5.0).matrix
            tensor([[1., 5., 1.],
                    [5., 1., 3.],
                    [1., 3., 1.]])
        """
        matrix = distances_from_confusion(
            counts, max_distance=max_distance, normalization=normalization, symmetric=symmetric
        )
        return cls(matrix, class_names=class_names)

    @classmethod
    def from_vectors(
        cls,
        vectors: Tensor | Sequence[Sequence[float]],
        *,
        max_distance: float = 5.0,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        r"""Entries from one vector per class, such as embeddings of the class names or `class_centroids`.

        $1 + (m - 1) \frac{\cos_{ab} - \min \cos}{\max \cos - \min \cos}$ with $m$ = `max_distance` and the extremes
        taken over different classes. The two most similar classes get `max_distance`, the two least similar 1. If all
        pairs are equally similar, all entries are 1.

        Args:
            vectors: `(C, D)`, floating point, finite.
            max_distance: entry of the most similar pair, > 0.
            class_names: one name per class.

        Raises:
            ValueError: if a vector has a NaN or infinite entry or is zero.

        Examples:
            >>> StaticLDM.from_vectors([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]).matrix
            tensor([[1., 5., 1.],
                    [5., 1., 1.],
                    [1., 1., 1.]])
        """
        check_max_distance(max_distance)
        vectors = torch.as_tensor(vectors)
        if vectors.ndim != 2 or not vectors.is_floating_point():
            raise ValueError(f"vectors must be floating point, (C, D), got {vectors.dtype} {tuple(vectors.shape)}.")
        unusable = ~torch.isfinite(vectors).all(dim=1) | (vectors == 0).all(dim=1)
        if unusable.any():
            row = int(unusable.nonzero()[0])
            raise ValueError(f"Each class needs a finite, nonzero vector, the vector of class {row} is not.")
        rows = unit_rows(vectors)
        return cls(stretch(rows @ rows.T, max_distance), class_names=class_names)

    @classmethod
    def from_distances(
        cls,
        distances: Tensor | Sequence[Sequence[float]],
        *,
        max_distance: float = 5.0,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        r"""Entries from real dissimilarities $d_{ab}$, which are *small* for easily confused classes.

        The entries of an LDM are *large* for easily confused classes, so the order is reversed:
        $1 + (m - 1) \frac{\max d - d_{ab}}{\max d - \min d}$ with $m$ = `max_distance` and the extremes taken over
        different classes. The two nearest classes get `max_distance`, the two farthest 1. If all pairs are equally far
        apart, all entries are 1.

        Args:
            distances: `(C, C)`, symmetric, finite, non-negative, 0 on the diagonal, in any unit.
            max_distance: entry of the nearest pair, > 0.
            class_names: one name per class.

        Raises:
            ValueError: if the matrix is not square or symmetric, has a negative, NaN or infinite entry, or a nonzero
                entry on the diagonal.

        Examples:
            >>> StaticLDM.from_distances([[0, 1, 9], [1, 0, 5], [9, 5, 0]]).matrix
            tensor([[1., 5., 1.],
                    [5., 1., 3.],
                    [1., 3., 1.]])
        """
        check_max_distance(max_distance)
        distances = torch.as_tensor(distances)
        if not distances.is_floating_point():
            distances = distances.to(torch.get_default_dtype())
        check_matrix(distances, whole="A matrix of distances", entries="Distances")
        if distances.diagonal().any():
            value = next(value for value in distances.diagonal().tolist() if value)
            raise ValueError(
                f"The distance of a class to itself must be 0, got {value}. Use StaticLDM.from_vectors for one vector "
                "per class, or StaticLDM(matrix) for the entries themselves."
            )
        if not torch.allclose(distances, distances.T):
            row, column = divmod(int((distances - distances.T).abs().argmax()), len(distances))
            raise ValueError(
                f"Distances must be symmetric, got {distances[row, column].item()} at row {row}, column {column} and "
                f"{distances[column, row].item()} the other way. Average both directions: (d + d.T) / 2."
            )
        return cls(stretch(-distances, max_distance), class_names=class_names)

    def flattened(self) -> "StaticLDM":
        """A control for this matrix: every off-diagonal entry is replaced by their mean. The diagonal is unchanged.

        Training with both separates the effect of *which* pairs have large entries from the effect of a larger weight
        on all negatives.

        Examples:
            >>> StaticLDM.from_pairs([(0, 1)], max_distance=4.0, num_classes=3).flattened().matrix[0]
            tensor([1., 2., 2.])
        """
        flat = torch.full_like(self.matrix, self.mean_off_diagonal)
        flat.diagonal().copy_(self.matrix.diagonal())
        return StaticLDM(flat, class_names=self.class_names)


def _copied(matrix: Tensor | Sequence[Sequence[float]]) -> Tensor:
    try:
        return torch.as_tensor(matrix).detach().clone()
    except (TypeError, RuntimeError):
        # A Relation is described in a part that this one does not know.
        cure = " Give the matrix that its near() or far() returns." if hasattr(matrix, "near") else ""
        raise TypeError(f"A label-distance matrix must be a (C, C) table, got {type(matrix).__name__}.{cure}") from None
