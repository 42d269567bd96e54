r"""What every backend computes a loss from: the rows of a batch, and the logits' tables of its class pairs."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "ClassPairTables"]


class Batch(NamedTuple):
    """Anchors, and the references that each of them is compared with.

    Attributes:
        embeddings: anchors, `(B, D)`, floating point.
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        ref_emb: references, `(R, D)`. `None`: the anchors themselves, and no row is compared with itself.
        ref_labels: class of each reference, `(R,)`; given exactly where `ref_emb` is.

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
        """Rows and labels of the references, `(R, D)` and `(R,)`; those of the anchors where there are no others."""
        if self.ref_emb is None or self.ref_labels is None:
            return self.embeddings, self.labels
        return self.ref_emb, self.ref_labels


class ClassPairTables(NamedTuple):
    r"""The affine map from similarity to logit, one for each pair of classes, and what is known of it.

    $\mathrm{logit} = \mathrm{scale}_{ab} S + \mathrm{bias}_{ab}$ for an anchor of class $a$ and a reference of class
    $b$: Eq. 8 in its general form. `labeldist.functional.class_pair_tables` makes the tables of a label-distance
    matrix; `LabelDistanceMatrix.tables` also fills in what is known of them, and caches the result.

    Attributes:
        scale: `(C, C)`, non-negative, floating point; row = the anchor's class, column = the reference's.
        bias: `(C, C)`; `-inf` leaves the pairs of two classes out.
        is_symmetric: whether both tables equal their transposes; `None` if unknown. A wrong value gives wrong numbers.
        span: the largest logit that the tables allow minus the smallest, in nats; `None` if unknown. Likewise.
    """

    scale: Tensor
    bias: Tensor
    is_symmetric: bool | None = None
    span: float | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes, `C`."""
        return self.scale.shape[0]

    def to(self, rows: Tensor) -> "ClassPairTables":
        """The same tables on the device of `rows`, in its dtype."""
        return self._replace(scale=self.scale.to(rows), bias=self.bias.to(rows))

    def for_dot_products(self) -> "ClassPairTables":
        r"""The same map as a function of the dot product $u^\top v$ of unit rows, for which $S = (u^\top v + 1) / 2$.

        $\mathrm{logit} = \frac{\mathrm{scale}}{2} u^\top v + \left(\frac{\mathrm{scale}}{2} + \mathrm{bias}\right)$.
        """
        half = self.scale / 2
        return self._replace(scale=half, bias=half + self.bias)

    @torch.no_grad()
    def inspect(self) -> "ClassPairTables":
        """Fill in `is_symmetric` and `span` from the tables; waits for a GPU.

        Examples:
            >>> ClassPairTables(torch.tensor([[10.0, 50.0], [50.0, 10.0]]), torch.zeros(2, 2)).inspect()[2:]
            (True, 50.0)
        """
        is_symmetric = torch.equal(self.scale, self.scale.T) and torch.equal(self.bias, self.bias.T)
        # A similarity lies in [0, 1]; a pair that is left out has no logit.
        highest = (self.scale + self.bias).max() if self.num_classes else self.scale.new_zeros(())
        if highest == -torch.inf or not self.num_classes:
            return self._replace(is_symmetric=is_symmetric, span=0.0)
        lowest = self.bias.masked_fill(self.bias == -torch.inf, torch.inf).min()
        return self._replace(is_symmetric=is_symmetric, span=(highest - lowest).item())
