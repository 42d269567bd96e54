"""Label distances that stay as they are set, and their builders."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from labeldist.checks import check_matrix
from labeldist.class_names import Class, class_index, class_indices, resolve_names
from labeldist.confusion import ArrayLike
from labeldist.functional import unit_rows
from labeldist.ldm.base import LabelDistanceMatrix
from labeldist.ldm.distances import check_max_distance, distances_from_confusion, stretch
from labeldist.ldm.hierarchy import Hierarchy, common_ancestor_depths
from labeldist.options import Normalization

_StaticLDM = TypeVar("_StaticLDM", bound="StaticLDM")


class StaticLDM(LabelDistanceMatrix):
    r"""Label distances that stay as they are set.

    An entry is a weight, not a dissimilarity: the larger it is, the harder pairs of its two classes are pushed apart,
    so easily confused classes have large entries. Real dissimilarities go through `from_distances`.

    The constructor takes a matrix; the `from_...` builders make one from what is known about the classes. Builders map
    closeness to an entry between 1 and `max_distance`: 1 for classes that are easily told apart, `max_distance` for the
    most confusable ones. The diagonal is 1.

    Choice: the paper gives only "tau = 5.0" and "manually selecting confusing classes" for the static matrix.

    Args:
        matrix: `(C, C)`, non-negative and finite, row = anchor's class; may be asymmetric. Copied, unless it is an
            `nn.Parameter`: that is kept, to be learned. Integers become the default floating-point type.
        class_names: one name per class.

    Raises:
        ValueError: if the matrix is not square, has a negative, NaN or infinite entry, or the names do not fit it.

    Examples:
        >>> StaticLDM([[1, 5], [2, 1]], class_names=["slow", "fast"])
        StaticLDM(num_classes=2, mean_off_diagonal=3.5)
    """

    def __init__(self, matrix: Tensor | Sequence[Sequence[float]], *, class_names: Sequence[str] | None = None):
        if not isinstance(matrix, nn.Parameter):
            matrix = torch.as_tensor(matrix).detach().clone()
        if not matrix.is_floating_point():
            matrix = matrix.to(torch.get_default_dtype())
        check_matrix(matrix)
        super().__init__(matrix, class_names=class_names)

    @classmethod
    def uniform(
        cls: type[_StaticLDM],
        value: float = 1.0,
        *,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> _StaticLDM:
        """The same distance between all classes: plain supervised contrastive learning for `value = 1`.

        Args:
            value: every off-diagonal entry, non-negative.
            class_names: one name per class; this or `num_classes`.
            num_classes: `C`.

        Returns:
            `value` off the diagonal, 1 on it.

        Examples:
            >>> StaticLDM.uniform(2.0, num_classes=2).matrix
            tensor([[1., 2.],
                    [2., 1.]])
        """
        names = resolve_names(class_names, num_classes)
        return cls(torch.full((len(names), len(names)), float(value)).fill_diagonal_(1), class_names=names)

    @classmethod
    def from_pairs(
        cls: type[_StaticLDM],
        pairs: Iterable[Sequence[Any]],
        *,
        max_distance: float = 5.0,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        symmetric: bool = True,
    ) -> _StaticLDM:
        """`max_distance` between listed pairs of confusable classes, 1 elsewhere: the paper's static matrix.

        Args:
            pairs: `(a, b)`, or `(a, b, distance)` for a distance of its own; classes by name or index.
            max_distance: distance of a listed pair, > 0; 5 in the paper.
            class_names: one name per class; this or `num_classes`.
            num_classes: `C`.
            symmetric: set both `(a, b)` and `(b, a)`; otherwise only row `a`, column `b`.

        Raises:
            ValueError: for an unknown class (the nearest name is offered) or a class paired with itself.

        Examples:
            >>> StaticLDM.from_pairs([(0, 1)], num_classes=3).matrix
            tensor([[1., 5., 1.],
                    [5., 1., 1.],
                    [1., 1., 1.]])
        """
        check_max_distance(max_distance)
        names = resolve_names(class_names, num_classes)
        matrix = torch.ones(len(names), len(names))
        for pair in pairs:
            if len(pair) not in (2, 3):
                raise ValueError(f"A pair is (a, b) or (a, b, distance), got {len(pair)} entries: {tuple(pair)}.")
            first, second, *distance = pair
            a, b = class_index(first, names), class_index(second, names)
            if a == b:
                raise ValueError(f"A pair must name two different classes, got {names[a]!r} twice.")
            matrix[a, b] = distance[0] if distance else max_distance
            if symmetric:
                matrix[b, a] = matrix[a, b]
        return cls(matrix, class_names=names)

    @classmethod
    def from_groups(
        cls: type[_StaticLDM],
        groups: Iterable[Sequence[Class]],
        *,
        max_distance: float = 5.0,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> _StaticLDM:
        """`max_distance` between classes of the same group, 1 elsewhere.

        Args:
            groups: sequences of classes, by name or index. They may overlap and need not cover all classes.
            max_distance: distance within a group, > 0.
            class_names: one name per class; this or `num_classes`.
            num_classes: `C`.

        Raises:
            ValueError: for an unknown class (the nearest name is offered) or a class twice in one group.

        Examples:
            >>> names = ["guns", "politics", "baseball", "hockey"]
            >>> ldm = StaticLDM.from_groups([["guns", "politics"], ["baseball", "hockey"]], class_names=names)
            >>> ldm.distance("baseball", "hockey"), ldm.distance("guns", "hockey")
            (5.0, 1.0)
        """
        check_max_distance(max_distance)
        names = resolve_names(class_names, num_classes)
        matrix = torch.ones(len(names), len(names))
        for group in groups:
            indices = class_indices(group, names)
            doubled = (
                [index for index in indices if indices.count(index) > 1] if len(set(indices)) < len(indices) else []
            )
            if doubled:
                raise ValueError(f"A group must name different classes, got {names[doubled[0]]!r} twice.")
            rows = torch.tensor(indices, dtype=torch.long)
            matrix[rows[:, None], rows] = float(max_distance)
        return cls(matrix.fill_diagonal_(1), class_names=names)

    @classmethod
    def from_hierarchy(
        cls: type[_StaticLDM], tree: Hierarchy, *, max_distance: float = 5.0, class_names: Sequence[str]
    ) -> _StaticLDM:
        r"""Distances from the depth of the lowest common ancestor (LCA) in a tree of classes.

        $d_{ab} = 1 + (\tau - 1)\, l_{ab} / \max_{a \ne b} l_{ab}$ with $l_{ab}$ the depth of their LCA: classes that
        part at the root (depth 0) have 1, those that part deepest have `max_distance`.

        Args:
            tree: nested mappings and sequences whose leaves are the class names, each exactly once:
                `{"recreation": {"sport": ["baseball", "hockey"], "autos": "autos"}, "politics": ["guns", "mideast"]}`.
                The keys only name inner nodes.
            max_distance: distance of the classes that part deepest, > 0.
            class_names: one name per class.

        Raises:
            ValueError: if a leaf is no class, stands twice, or a class is missing.

        Examples:
            >>> tree = {"sport": {"ball": ["soccer", "rugby"], "water": ["rowing"]}, "other": ["chess"]}
            >>> ldm = StaticLDM.from_hierarchy(tree, class_names=["soccer", "rugby", "rowing", "chess"])
            >>> ldm.matrix[0]
            tensor([1., 5., 3., 1.])
        """
        check_max_distance(max_distance)
        depths = common_ancestor_depths(tree, class_names)
        return cls(stretch(depths, max_distance, lowest=0.0), class_names=class_names)

    @classmethod
    def from_confusion(
        cls: type[_StaticLDM],
        counts: ArrayLike,
        *,
        max_distance: float = 5.0,
        normalization: Normalization = "rate",
        symmetric: bool = True,
        class_names: Sequence[str] | None = None,
    ) -> _StaticLDM:
        """Distances from a classifier's confusion counts: see `distances_from_confusion`.

        Count on rows that the classifier was not trained on: on its own training rows it hardly errs.

        Args:
            counts: `(C, C)`, non-negative, row = true class, column = predicted.
            max_distance: distance of the most confused pair, > 0.
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
        cls: type[_StaticLDM],
        vectors: Tensor | Sequence[Sequence[float]],
        *,
        max_distance: float = 5.0,
        class_names: Sequence[str] | None = None,
    ) -> _StaticLDM:
        r"""Distances from one vector per class, such as the embedded label texts or `class_centroids`.

        $d_{ab} = 1 + (\tau - 1) \frac{\cos_{ab} - \min \cos}{\max \cos - \min \cos}$, extremes over different classes:
        the two most similar classes have `max_distance`, the two least similar 1. Where all are equally similar, 1.

        Args:
            vectors: `(C, D)`, finite.
            max_distance: distance of the most similar pair, > 0.
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
            raise ValueError(f"Each class needs a finite vector that is not zero, got another for class {row}.")
        rows = unit_rows(vectors)
        return cls(stretch(rows @ rows.T, max_distance), class_names=class_names)

    @classmethod
    def from_distances(
        cls: type[_StaticLDM],
        distances: Tensor | Sequence[Sequence[float]],
        *,
        max_distance: float = 5.0,
        class_names: Sequence[str] | None = None,
    ) -> _StaticLDM:
        r"""Entries from real dissimilarities $d_{ab}$ of the classes, which are small for easily confused ones.

        The opposite of an LDM's entries, which are *large* for easily confused classes:
        $1 + (m - 1) \frac{\max d - d_{ab}}{\max d - \min d}$ with $m$ = `max_distance` and the extremes taken over
        different classes. The nearest two classes get `max_distance`, the farthest 1; where all are equally far, all
        entries are 1.

        Args:
            distances: `(C, C)`, symmetric, finite, non-negative, 0 on the diagonal, in any unit.
            max_distance: entry of the nearest pair, > 0.
            class_names: one name per class.

        Raises:
            ValueError: if the matrix is not square or symmetric, has a negative, NaN or infinite entry, or an entry on
                the diagonal that is not 0.

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
                f"The distance of a class to itself must be 0, got {value}. Similarities go through "
                "StaticLDM.from_vectors, or StaticLDM takes the entries themselves."
            )
        if not torch.allclose(distances, distances.T):
            row, column = divmod(int((distances - distances.T).abs().argmax()), len(distances))
            raise ValueError(
                f"Distances must be symmetric, got {distances[row, column].item()} at row {row}, column {column} and "
                f"{distances[column, row].item()} the other way. Average both directions: (d + d.T) / 2."
            )
        return cls(stretch(-distances, max_distance), class_names=class_names)

    @classmethod
    def from_order(
        cls: type[_StaticLDM],
        *,
        max_distance: float = 5.0,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> _StaticLDM:
        """Distances for ordered classes (star ratings): `max_distance` for neighbors, linearly down to 1 at the ends.

        Args:
            max_distance: distance of neighbours, > 0.
            class_names: one name per class, in order; this or `num_classes`.
            num_classes: `C`.

        Examples:
            >>> StaticLDM.from_order(num_classes=4, max_distance=5.0).matrix[0]
            tensor([1., 5., 3., 1.])
        """
        check_max_distance(max_distance)
        names = resolve_names(class_names, num_classes)
        rank = torch.arange(len(names), dtype=torch.get_default_dtype())
        apart = (rank[:, None] - rank[None, :]).abs()
        return cls(stretch(-apart, max_distance, lowest=-max(len(names) - 1.0, 2.0)), class_names=names)

    def flattened(self) -> "StaticLDM":
        """This matrix with its off-diagonal distances replaced by their mean: the control for it. The diagonal stays.

        It separates what the distances between *particular* classes do from what a larger weight on all negatives does.

        Examples:
            >>> StaticLDM.from_pairs([(0, 1)], max_distance=4.0, num_classes=3).flattened().matrix[0]
            tensor([1., 2., 2.])
        """
        flat = torch.full_like(self.matrix, self.mean_off_diagonal)
        flat.diagonal().copy_(self.matrix.diagonal())
        return StaticLDM(flat, class_names=self.class_names)
