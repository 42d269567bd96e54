r"""The inputs of every backend: a batch of anchors and references, and the class-pair tables of logits and targets."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "ClassPairTables"]


class Batch(NamedTuple):
    """Anchors and the references that they are compared with.

    Attributes:
        embeddings: anchors, `(B, D)`, floating point.
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        ref_emb: references, `(R, D)`. `None` uses the anchors, without comparing a row with itself.
        ref_labels: class of each reference, `(R,)`; `None` if and only if `ref_emb` is `None`.

    Examples:
        >>> Batch(torch.randn(4, 8), torch.tensor([0, 1, 0, 1])).is_self
        True
    """

    embeddings: Tensor
    labels: Tensor
    ref_emb: Tensor | None = None
    ref_labels: Tensor | None = None

    @property
    def is_self(self) -> bool:
        """Whether the anchors are their own references."""
        return self.ref_emb is None

    @property
    def references(self) -> tuple[Tensor, Tensor]:
        """Embeddings and labels of the references, `(R, D)` and `(R,)`; those of the anchors if `ref_emb` is `None`."""
        if self.ref_emb is None or self.ref_labels is None:
            return self.embeddings, self.labels
        return self.ref_emb, self.ref_labels


class ClassPairTables(NamedTuple):
    r"""Scale and bias that turn a similarity into a logit, and the relevance in the targets, for each pair of classes.

    $\mathrm{logit} = \mathrm{scale}_{ab} S + \mathrm{bias}_{ab}$ for an anchor of class $a$ and a reference of class
    $b$: Eq. 8 in its general form. `labeldist.functional.class_pair_tables` builds the tables from a label-distance
    matrix. `LabelDistanceMatrix.tables` also fills in `is_symmetric` and `span` and caches the result.

    Attributes:
        scale: `(C, C)`, non-negative, floating point; row = anchor's class, column = reference's class.
        bias: `(C, C)`; `-inf` excludes all pairs of the two classes.
        is_symmetric: whether both tables equal their transposes; `None` if unknown. A wrong value gives wrong losses.
        span: the largest logit that the tables allow minus the smallest, in nats; `None` if unknown. A wrong value
            gives wrong losses.
        relevance: `(C, C)`, non-negative, diagonal positive: the weight of a pair in the anchor's target (Eq. 13);
            `None` for the paper's targets, which are 1 within a class and 0 between classes.

    Examples:
        >>> tables = ClassPairTables(scale=torch.ones(3, 3), bias=torch.zeros(3, 3))
        >>> tables.num_classes, tables.is_symmetric
        (3, None)
    """

    scale: Tensor
    bias: Tensor
    is_symmetric: bool | None = None
    span: float | None = None
    relevance: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes, `C`."""
        return self.scale.shape[0]

    def to(self, rows: Tensor) -> "ClassPairTables":
        """The same tables with the device and dtype of `rows`."""
        relevance = None if self.relevance is None else self.relevance.to(rows)
        return self._replace(scale=self.scale.to(rows), bias=self.bias.to(rows), relevance=relevance)

    def for_dot_products(self) -> "ClassPairTables":
        r"""Tables that give the same logits from the dot product $u^\top v$ of unit rows.

        With $S = (u^\top v + 1) / 2$,
        $\mathrm{logit} = \frac{\mathrm{scale}}{2} u^\top v + \left(\frac{\mathrm{scale}}{2} + \mathrm{bias}\right)$.
        """
        half = self.scale / 2
        return self._replace(scale=half, bias=half + self.bias)

    @torch.no_grad()
    def inspect(self) -> "ClassPairTables":
        """Compute `is_symmetric` and `span` from the tables. On a GPU this synchronizes with the device.

        Examples:
            >>> ClassPairTables(torch.tensor([[10.0, 50.0], [50.0, 10.0]]), torch.zeros(2, 2)).inspect()[2:4]
            (True, 50.0)
        """
        is_symmetric = torch.equal(self.scale, self.scale.T) and torch.equal(self.bias, self.bias.T)
        # A similarity lies in [0, 1]; an excluded pair has no logit.
        highest = (self.scale + self.bias).max() if self.num_classes else self.scale.new_zeros(())
        if highest == -torch.inf or not self.num_classes:
            return self._replace(is_symmetric=is_symmetric, span=0.0)
        lowest = self.bias.masked_fill(self.bias == -torch.inf, torch.inf).min()
        return self._replace(is_symmetric=is_symmetric, span=(highest - lowest).item())
