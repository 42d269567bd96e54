"""The class that describes how closely classes are related."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labeldist.checks import check_count, check_matrix
from labeldist.class_names import Class, checked_groups, checked_pairs, class_index, nearest_name, resolve_names
from labeldist.confusion import ArrayLike, as_counts, confusion_rates
from labeldist.label_texts import name_as_text
from labeldist.ldm import LabelDistanceMatrix, StaticLDM
from labeldist.ldm.distances import check_max_distance
from labeldist.ldm.hierarchy import Hierarchy, common_ancestor_depths, deepest_leaf
from labeldist.messages import listed, shown
from labeldist.relation.closeness import (
    check_relevance_options,
    checked_closeness,
    of_names,
    of_unlikeness,
    of_vectors,
    relevance_of,
)
from labeldist.relation.files import check_same_classes, parse_relation, read_text, text_of_table

__all__ = ["Relation", "matrix_of_candidates"]

_LEVEL_DECIMALS = 5
"""Decimals of the closeness that tell one level from the next."""


class Relation:
    """How closely the classes are related: `closeness` in [0, 1], 1 on the diagonal.

    Args:
        closeness: `(C, C)`, in [0, 1] and 1 on the diagonal, row = anchor's or true class; may be asymmetric. Copied.
        class_names: one name per class; `"0"`, `"1"`, ... by default.

    Attributes:
        closeness: `(C, C)`, floating point, on the CPU.
        class_names: one name per class.

    Raises:
        ValueError: if the table is not square, has an entry outside [0, 1] or a diagonal entry other than 1, or does
            not have one name per class.

    Examples:
        >>> stars = Relation.from_order(num_classes=3)
        >>> stars.far(max_distance=5.0).matrix
        tensor([[1., 3., 5.],
                [3., 1., 3.],
                [5., 3., 1.]])
    """

    def __init__(self, closeness: ArrayLike, *, class_names: Sequence[str] | None = None):
        table = torch.as_tensor(closeness).detach().cpu().clone()
        table = table if table.is_floating_point() else table.to(torch.get_default_dtype())
        check_matrix(table, whole="closeness", entries="Entries of closeness")
        if (table > 1).any():
            row, column = (int(i) for i in (table > 1).nonzero()[0])
            raise ValueError(
                f"Entries of closeness must lie in [0, 1], got {table[row, column].item()} at row {row}, column "
                f"{column}. Divide by the largest entry, or use from_costs or from_distances for unlikeness."
            )
        if not bool((table.diagonal() == 1).all()):
            label = int((table.diagonal() != 1).nonzero()[0])
            raise ValueError(
                f"The closeness of a class to itself must be 1, got {table[label, label].item()} for class {label}. "
                "For costs or distances, which are 0 there, use from_costs or from_distances."
            )
        self.closeness = table
        self.class_names = resolve_names(class_names, len(table))

    @property
    def num_classes(self) -> int:
        """Number of classes, `C`."""
        return len(self.closeness)

    def __repr__(self) -> str:
        names = f"({listed(self.class_names, 3)})"
        return f"Relation(num_classes={self.num_classes}, class_names={names})"

    def between(self, first: Class, second: Class) -> float:
        """Return the closeness of two classes, given by name or index.

        Examples:
            >>> Relation.from_groups([["baseball", "hockey"]], class_names=["baseball", "hockey", "guns"]).between(
            ...     "hockey", "guns"
            ... )
            0.0
        """
        return self.closeness[class_index(first, self.class_names), class_index(second, self.class_names)].item()

    # Files

    @classmethod
    def from_file(cls, path: Path | str, *, class_names: Sequence[str] | None = None) -> "Relation":
        """Read a relation from a file, by class name.

        A `.csv` or `.tsv` file contains a table of closeness, with class names in the first row and the first column,
        in any order. A `.json` file contains an object with one of these keys:

        - `"closeness"`, `"distances"` or `"costs"`: rows of numbers, in the order of `"class_names"`;
        - `"order"`: the classes from one end to the other;
        - `"groups"`: `{"sport": ["a", "b"]}` or `[["a", "b"]]`;
        - `"pairs"`: `[["a", "b"], ["a", "c", 0.5]]`; a third item sets the closeness of the pair;
        - `"hierarchy"`: nested objects and arrays whose leaves are the class names.

        The object may also be the hierarchy itself. Every form may also contain `"class_names"`. The methods
        `from_distances`, `from_order` and so on explain what each form means.

        Args:
            path: the file.
            class_names: the classes in the wanted order; the file must contain exactly these classes. `None` uses the
                classes of the file; groups, pairs and hierarchies then need `"class_names"`.

        Raises:
            ValueError: if the file cannot be read, has another form, or does not match the classes (the message
                suggests the nearest name). The message begins with the path.

        Examples:
            >>> import tempfile
            >>> path = Path(tempfile.mkdtemp()) / "relation.json"
            >>> Relation.from_order(class_names=["bad", "fair", "good"]).to_file(path)
            >>> Relation.from_file(path, class_names=["good", "bad", "fair"]).closeness[0]
            tensor([1.0000, 0.0000, 0.5000])
        """
        path = Path(path)
        text = read_text(path)
        try:
            return cls._from_described(*parse_relation(text, path.suffix.lower()), class_names)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _from_described(
        cls, key: str, value: Any, names: Sequence[str] | None, wanted: Sequence[str] | None
    ) -> "Relation":
        names = wanted if names is None else names
        if names is None:
            raise ValueError(f'{key!r} does not name every class: give "class_names" beside it, or class_names.')
        if key == "order":
            relation = cls.from_order(class_names=value)
        elif key == "closeness":
            relation = cls(value, class_names=names)
        else:
            build: Callable[..., Relation] = getattr(cls, f"from_{key}")
            relation = build(value, class_names=names)
        return relation.in_order(names if wanted is None else wanted)

    def to_file(self, path: Path | str) -> None:
        """Write the table of closeness with its class names, in the format that `from_file` reads.

        Args:
            path: a `.json`, `.csv` or `.tsv` file; an existing file is overwritten.

        Raises:
            ValueError: if the file has another suffix.
        """
        path = Path(path)
        suffix, table = path.suffix.lower(), self.closeness.tolist()
        if suffix == ".json":
            text = json.dumps({"class_names": list(self.class_names), "closeness": table}, ensure_ascii=False)
        elif suffix in (".csv", ".tsv"):
            text = text_of_table(table, self.class_names, "\t" if suffix == ".tsv" else ",")
        else:
            raise ValueError(f"{path}: a relation is written to a .json, .csv or .tsv file.")
        path.write_text(text, encoding="utf-8", newline="")

    def in_order(self, class_names: Sequence[str]) -> "Relation":
        """Return the same relation with its classes in another order.

        Args:
            class_names: all classes, in the new order.

        Raises:
            ValueError: if a class is missing, unknown (the message suggests the nearest name), or listed twice.

        Examples:
            >>> Relation.from_order(class_names=["bad", "fair", "good"]).in_order(["good", "bad", "fair"]).closeness[0]
            tensor([1.0000, 0.0000, 0.5000])
        """
        names = resolve_names(class_names, None)
        rows = torch.tensor(check_same_classes(self.class_names, names))
        return Relation(self.closeness[rows[:, None], rows], class_names=names)

    # Four uses

    def near(self, max_distance: float = 5.0) -> StaticLDM:
        r"""A matrix that pushes *related* classes apart harder: $1 + (m - 1)\, \mathrm{closeness}$, the paper's idea.

        Use it for easily confused classes that must be distinguished. It works against a hierarchy or an order: related
        classes move apart.

        Args:
            max_distance: $m$, the entry of two classes of closeness 1, > 0; an entry of 1 is neutral.

        Raises:
            ValueError: if `max_distance` is not a finite number above 0.

        Examples:
            >>> Relation.from_order(num_classes=3).near(5.0).matrix[0]
            tensor([1., 3., 1.])
        """
        check_max_distance(max_distance)
        return self._matrix(1 + (max_distance - 1) * self.closeness)

    def far(self, max_distance: float = 5.0) -> StaticLDM:
        r"""A matrix that pushes *unrelated* classes apart harder: $1 + (m - 1)\, (1 - \mathrm{closeness})$.

        Related classes may stay close. Use it for an order or a hierarchy in which a distant mistake is worse.

        Args:
            max_distance: $m$, the entry of two classes of closeness 0, > 0; an entry of 1 is neutral.

        Raises:
            ValueError: if `max_distance` is not a finite number above 0.

        Examples:
            >>> Relation.from_order(num_classes=3).far(5.0).matrix[0]
            tensor([1., 3., 5.])
        """
        check_max_distance(max_distance)
        return self._matrix(1 + (max_distance - 1) * (1 - self.closeness))

    def _matrix(self, entries: Tensor) -> StaticLDM:
        return StaticLDM(entries.fill_diagonal_(1), class_names=self.class_names)

    def relevance(self, *, weight: float = 0.1, level: float = 0.0) -> Tensor:
        r"""A table of graded targets for `LabelDistanceContrastiveLoss(relevance=...)`.

        $A_{ab} = w\, \mathrm{closeness}_{ab}$ where $\mathrm{closeness}_{ab} \ge$ `level`, else 0; $A_{aa} = 1$.

        Rows of related classes become weak positives: an anchor's neighbors are rows of its class first, then rows of
        related classes. In a hierarchy of two levels siblings have closeness 0.5: the default weight gives them 0.05.

        Args:
            weight: $w$, the relevance of another class of closeness 1, finite and >= 0. 0 gives the identity, the
                paper's targets.
            level: closeness from which classes count as related, in [0, 1].

        Returns:
            `(C, C)`, non-negative, 1 on the diagonal.

        Raises:
            ValueError: if an argument is out of range.

        Examples:
            >>> Relation.from_order(num_classes=3).relevance(weight=0.2, level=0.5)
            tensor([[1.0000, 0.1000, 0.0000],
                    [0.1000, 1.0000, 0.1000],
                    [0.0000, 0.1000, 1.0000]])
        """
        check_relevance_options(weight, level)
        return relevance_of(self.closeness, weight, level)

    def levels(self, *, max_levels: int = 8) -> list[Tensor]:
        r"""Tables of relevance, one for each level: average the contrastive losses that have these tables.

        $L = \frac{1}{K} \sum_k L(A^{(k)})$, where $A^{(1)} = I$. The next tables have $A_{ab} = 1$ where
        $\mathrm{closeness}_{ab} \ge c$, else 0, for each closeness $c$ of two different classes, the highest first. The
        lowest is left out: all rows would be positives.

        This is the contrast on a hierarchy of Zhang et al., with equal weights. In a hierarchy of two levels the first
        table has ones for the same class, the second within the groups.

        Args:
            max_levels: largest number of tables, >= 1: each costs a loss in each step.

        Returns:
            K tables `(C, C)` of zeros and ones, the identity first. Each has the ones of the one before.

        Raises:
            ValueError: if there are more than `max_levels`, or that is below 1.

        Examples:
            >>> for table in Relation.from_groups([[0, 1]], num_classes=3, closeness=0.5).levels():
            ...     print(table)
            tensor([[1., 0., 0.],
                    [0., 1., 0.],
                    [0., 0., 1.]])
            tensor([[1., 1., 0.],
                    [1., 1., 0.],
                    [0., 0., 1.]])

        References:
            Zhang et al. 2022, *Use All The Labels: A Hierarchical Multi-Label Contrastive Learning Framework*,
            https://arxiv.org/abs/2204.13207
        """
        check_count("max_levels", max_levels)
        identity = torch.eye(self.num_classes, dtype=self.closeness.dtype)
        # Equal distances differ in the last bits once they are divided: that makes no level.
        rounded = self.closeness.double().round(decimals=_LEVEL_DECIMALS)
        values = rounded[identity == 0].unique()[1:].flip(0)
        if len(values) >= max_levels:
            raise ValueError(
                f"A relation must have at most {max_levels} levels, with one contrastive loss for each, got "
                f"{len(values) + 1}. Round the closeness to fewer values, or use graded targets, which are one table."
            )
        return [identity, *((rounded >= value).to(identity) for value in values)]

    # The same relation, changed

    def scaled(self) -> "Relation":
        """Divide the closeness of different classes by its largest value, so that the closest classes have 1.

        `near` then gives the closest classes `max_distance` itself.

        Examples:
            >>> Relation.from_order(num_classes=3).scaled().near(5.0).matrix[0]
            tensor([1., 5., 1.])
        """
        table = self.closeness.clone().fill_diagonal_(0)
        largest = table.max()
        table = table / largest if largest > 0 else table
        return Relation(table.clamp_max(1).fill_diagonal_(1), class_names=self.class_names)

    def permuted(self, generator: torch.Generator | None = None) -> "Relation":
        """A control: the same closeness between randomly exchanged classes. A relation that helps must beat it.

        Examples:
            >>> relation = Relation.from_pairs([(0, 1)], num_classes=4)
            >>> bool(relation.permuted().closeness.sum() == relation.closeness.sum())
            True
        """
        order = torch.randperm(self.num_classes, generator=generator)
        return Relation(self.closeness[order][:, order], class_names=self.class_names)

    # Builders

    @classmethod
    def from_pairs(
        cls,
        pairs: Iterable[Sequence[Any]],
        *,
        closeness: float = 1.0,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        symmetric: bool = True,
    ) -> "Relation":
        """Listed pairs of related classes; all others have closeness 0.

        Args:
            pairs: `(a, b)`, or `(a, b, closeness)` for a different one; classes by name or index.
            closeness: closeness of a listed pair, in [0, 1].
            class_names: one name per class; pass this or `num_classes`.
            num_classes: `C`.
            symmetric: set both `(a, b)` and `(b, a)`; otherwise only row `a`, column `b`.

        Raises:
            TypeError: if a pair is not a sequence.
            ValueError: if a class is unknown (the message suggests the nearest name) or paired with itself, or a
                closeness lies outside [0, 1].

        Examples:
            >>> Relation.from_pairs([(0, 1), (1, 2, 0.5)], num_classes=3).closeness
            tensor([[1.0000, 1.0000, 0.0000],
                    [1.0000, 1.0000, 0.5000],
                    [0.0000, 0.5000, 1.0000]])
        """
        names = resolve_names(class_names, num_classes)
        table = torch.eye(len(names))
        for first, second, own in checked_pairs(pairs, "closeness"):
            a, b = class_index(first, names), class_index(second, names)
            if a == b:
                raise ValueError(f"A pair must name two different classes, got {shown(names[a])} twice.")
            table[a, b] = checked_closeness(own[0] if own else closeness)
            if symmetric:
                table[b, a] = table[a, b]
        return cls(table, class_names=names)

    @classmethod
    def from_groups(
        cls,
        groups: Iterable[Sequence[Class]] | Mapping[str, Sequence[Class]],
        *,
        closeness: float = 1.0,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> "Relation":
        """Classes of the same group are related; all others have closeness 0.

        Args:
            groups: sequences of classes, by name or index, or a mapping from group names to them. They may overlap
                and need not cover all classes.
            closeness: closeness of two classes in the same group, in [0, 1].
            class_names: one name per class; pass this or `num_classes`.
            num_classes: `C`.

        Raises:
            TypeError: if a group is not a list of classes.
            ValueError: if a class is unknown (the message suggests the nearest name) or occurs twice in one group, or
                `closeness` lies outside [0, 1].

        Examples:
            >>> Relation.from_groups([[0, 1]], num_classes=3, closeness=0.5).closeness[0]
            tensor([1.0000, 0.5000, 0.0000])
        """
        names = resolve_names(class_names, num_classes)
        table = torch.eye(len(names))
        for indices in checked_groups(groups, names):
            rows = torch.tensor(indices, dtype=torch.long)
            table[rows[:, None], rows] = checked_closeness(closeness)
        return cls(table.fill_diagonal_(1), class_names=names)

    @classmethod
    def from_hierarchy(cls, tree: Hierarchy, *, class_names: Sequence[str]) -> "Relation":
        r"""Closeness = depth of the lowest common ancestor of two classes / depth of the deepest class.

        Args:
            tree: nested mappings and sequences whose leaves are the class names, each exactly once:
                `{"recreation": {"sport": ["baseball", "hockey"], "autos": "autos"}, "politics": ["guns", "mideast"]}`.
                The keys only name inner nodes. The root has depth 0.
            class_names: one name per class.

        Raises:
            ValueError: if a leaf is not a class (the message suggests the nearest name), or a class is missing or
                appears twice.

        Examples:
            >>> tree = {"sport": ["soccer", "rugby"], "board": ["chess"]}
            >>> Relation.from_hierarchy(tree, class_names=["soccer", "rugby", "chess"]).closeness[0]
            tensor([1.0000, 0.5000, 0.0000])
        """
        depths = common_ancestor_depths(tree, class_names)
        return cls((depths / max(deepest_leaf(tree), 1)).fill_diagonal_(1), class_names=class_names)

    @classmethod
    def from_names(cls, class_names: Sequence[str], *, separator: str = ":") -> "Relation":
        """A hierarchy that is part of the class names, such as `"location:city"`.

        Closeness = number of leading parts that two names share / number of parts of the longest name.

        Args:
            class_names: one name per class.
            separator: the text between the parts of a name.

        Raises:
            ValueError: if the separator is empty or no name contains it.

        Examples:
            >>> Relation.from_names(["location:city", "location:state", "number:date"]).closeness[0]
            tensor([1.0000, 0.5000, 0.0000])
        """
        names = resolve_names(class_names, None)
        return cls(of_names(names, separator), class_names=names)

    @classmethod
    def from_order(cls, *, class_names: Sequence[str] | None = None, num_classes: int | None = None) -> "Relation":
        r"""Ordered classes, such as star ratings: $1 - |i - j| / (C - 1)$.

        Args:
            class_names: one name per class, in order; pass this or `num_classes`.
            num_classes: `C`.

        Examples:
            >>> Relation.from_order(num_classes=5).closeness[0]
            tensor([1.0000, 0.7500, 0.5000, 0.2500, 0.0000])
        """
        names = resolve_names(class_names, num_classes)
        rank = torch.arange(len(names), dtype=torch.get_default_dtype())
        return cls(1 - (rank[:, None] - rank).abs() / max(len(names) - 1, 1), class_names=names)

    @classmethod
    def from_vectors(cls, vectors: ArrayLike, *, class_names: Sequence[str] | None = None) -> "Relation":
        r"""One vector per class, such as `class_centroids`: $\frac{\cos_{ab} - \min \cos}{1 - \min \cos}$.

        The two least similar classes have closeness 0, parallel vectors 1.

        Args:
            vectors: `(C, D)`, floating point; each finite and not zero.
            class_names: one name per class.

        Raises:
            ValueError: if the shape is different, or a vector is zero or not finite.

        Examples:
            >>> Relation.from_vectors([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).closeness[0]
            tensor([1.0000, 0.5000, 0.0000])
        """
        vectors = torch.as_tensor(vectors).detach().cpu()
        if vectors.ndim != 2 or not vectors.is_floating_point():
            raise ValueError(f"vectors must be floating point, (C, D), got {vectors.dtype} {tuple(vectors.shape)}.")
        names = resolve_names(class_names, len(vectors))
        return cls(of_vectors(vectors, names), class_names=names)

    @classmethod
    def from_label_texts(
        cls,
        encode: Callable[[list[str]], ArrayLike],
        *,
        class_names: Sequence[str],
        texts: Mapping[str, str] | None = None,
    ) -> "Relation":
        """Closeness of the encoded class names, or of one encoded text per class: see `from_vectors`.

        Args:
            encode: maps a list of C texts to `(C, D)`, such as the `encode` method of a sentence encoder.
            class_names: one name per class.
            texts: one text per class, by class name. A class without a text is encoded by its name, as words: see
                `labeldist.label_texts.name_as_text`.

        Raises:
            ValueError: if `texts` has an unknown class (the message suggests the nearest name), or `encode` does not
                return one vector per text.

        Examples:
            >>> count = lambda texts: [[float(text.count(letter)) for letter in "abc"] for text in texts]
            >>> Relation.from_label_texts(count, class_names=["a_a", "a-b", "c"]).closeness[0]
            tensor([1.0000, 0.7071, 0.0000])
        """
        names = resolve_names(class_names, None)
        given = dict(texts or {})
        for name in given:
            if name not in names:
                raise ValueError(
                    f"texts must name classes, got {shown(name)}; the classes are {listed(names)}."
                    f"{nearest_name(name, names)}"
                )
        vectors = torch.as_tensor(encode([given.get(name, name_as_text(name)) for name in names]))
        if vectors.ndim != 2 or len(vectors) != len(names):
            raise ValueError(
                f"encode must return one vector for each of the {len(names)} texts, ({len(names)}, D), got "
                f"{tuple(vectors.shape)}."
            )
        return cls.from_vectors(vectors, class_names=names)

    @classmethod
    def from_confusion(
        cls, counts: ArrayLike, *, symmetric: bool = True, class_names: Sequence[str] | None = None
    ) -> "Relation":
        """Confusion rates of a classifier, divided by the largest one: the most confused pair has closeness 1.

        Use counts from rows that the classifier was not trained on.

        Args:
            counts: `(C, C)`, non-negative, row = true class, column = predicted class.
            symmetric: average both directions.
            class_names: one name per class.

        Raises:
            ValueError: if the counts are not square or not whole numbers.

        Examples:
            >>> Relation.from_confusion([[8, 2, 0], [0, 9, 1], [0, 0, 10]]).closeness[0]
            tensor([1., 1., 0.])
        """
        rates = confusion_rates(as_counts(counts).cpu(), symmetric=symmetric)
        return cls(rates.fill_diagonal_(1), class_names=class_names).scaled()

    @classmethod
    def from_costs(cls, costs: ArrayLike, *, class_names: Sequence[str] | None = None) -> "Relation":
        r"""A table of costs of a mistake: $1 - \mathrm{cost}_{ab} / \max \mathrm{cost}$. It may be asymmetric.

        Args:
            costs: `(C, C)`, non-negative and finite, 0 on the diagonal, row = true class, column = predicted class.
            class_names: one name per class.

        Raises:
            ValueError: if the table is not square, has an invalid entry, a nonzero diagonal, or no cost above 0.

        Examples:
            >>> Relation.from_costs([[0, 1], [4, 0]]).closeness
            tensor([[1.0000, 0.7500],
                    [0.0000, 1.0000]])
        """
        return cls(of_unlikeness(costs, "cost", "costs"), class_names=class_names)

    @classmethod
    def from_distances(cls, distances: ArrayLike, *, class_names: Sequence[str] | None = None) -> "Relation":
        r"""Real dissimilarities, which are *small* for related classes: $1 - d_{ab} / \max d$.

        Args:
            distances: `(C, C)`, symmetric, non-negative and finite, 0 on the diagonal, in any unit.
            class_names: one name per class.

        Raises:
            ValueError: if the table is not square or symmetric, has an invalid entry, a nonzero diagonal, or no
                distance above 0.

        Examples:
            >>> Relation.from_distances([[0, 1, 8], [1, 0, 4], [8, 4, 0]]).closeness[0]
            tensor([1.0000, 0.8750, 0.0000])
        """
        closeness = of_unlikeness(distances, "distance", "distances")
        if not torch.allclose(closeness, closeness.T):
            row, column = divmod(int((closeness - closeness.T).abs().argmax()), len(closeness))
            raise ValueError(
                f"distances must be symmetric, row {row}, column {column} differs from row {column}, column {row}. "
                "Average both directions, (d + d.T) / 2, or use from_costs for a table with a direction."
            )
        return cls(closeness, class_names=class_names)


def matrix_of_candidates(ldm: LabelDistanceMatrix | Relation | Tensor) -> LabelDistanceMatrix:
    """Return the matrix that a miner or a sampler uses. For a relation it is `near()`: related classes are hard.

    Args:
        ldm: a matrix, a `(C, C)` tensor, or a relation.

    Examples:
        >>> matrix_of_candidates(Relation.from_order(num_classes=3)).matrix[0]
        tensor([1., 3., 1.])
    """
    if isinstance(ldm, Relation):
        return ldm.near()
    return ldm if isinstance(ldm, LabelDistanceMatrix) else StaticLDM(ldm)
