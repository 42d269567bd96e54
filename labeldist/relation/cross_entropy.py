"""Cross-entropy that knows how the classes are related: soft labels, and a margin to unrelated classes."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labeldist.checks import check_labels
from labeldist.precision import at_least_float32
from labeldist.relation.description import Relation

__all__ = ["RelatedCrossEntropy"]


class RelatedCrossEntropy(nn.Module):
    r"""Cross-entropy in which a mistake between related classes counts less.

    With $d_{ab} = 1 - \mathrm{closeness}_{ab}$, logits $z$ and the class $y_i$ of row i:

    $$L = -\frac{1}{B} \sum_{i=1}^{B} \sum_b q_{y_i b} \log \operatorname{softmax}_b(z_i + m\, d_{y_i}), \qquad
      q_{ab} = \frac{\exp(-d_{ab} / s)}{\sum_c \exp(-d_{ac} / s)} .$$

    - The **softness** $s$ gives related classes a part of each target: the soft labels of Bertinetto et al., *Making
      Better Mistakes* (2020), and for an order those of Díaz and Marathe, *Soft Labels for Ordinal Regression* (2019).
      At 0 the targets are one-hot.
    - The **margin** $m$ adds to the logits of other classes while training, the more so the less they are related: the
      class's own logit must exceed theirs by that much more (Gimpel and Smith, *Softmax-Margin CRFs*, 2010). At 0 there
      is none.

    With both at 0 it is the cross-entropy. Use it as the `classification` of `JointLoss`, `TrainerObjective` or
    `SentenceLabelDistanceLoss`, or in place of `nn.CrossEntropyLoss`.

    Args:
        relation: how the classes are related.
        softness: $s$, finite, >= 0. At $s$ = 0.1 a class of closeness 0.5 has $e^{-5}$ of the own class's target.
        margin: $m$, in nats, finite, >= 0.
        label_smoothing: share of each target that is spread over all classes, in [0, 1), as in `nn.CrossEntropyLoss`.
        weight: of each class, `(C,)`, > 0 somewhere; the mean is then divided by the weights of the rows' classes, as
            in `nn.CrossEntropyLoss`. All equal if `None`.
        validate: check the values of the labels; on a GPU each call then synchronizes.

    Attributes:
        targets: $q$, `(C, C)`, row = class; not part of `state_dict`, like the next.
        margins: $m d$, `(C, C)`.

    Raises:
        ValueError: if softness, margin or label smoothing is out of range, or `weight` is not one number a class.

    Examples:
        >>> stars = Relation.from_order(num_classes=3)
        >>> loss = RelatedCrossEntropy(stars, softness=0.5)
        >>> loss.targets
        tensor([[0.6652, 0.2447, 0.0900],
                [0.2119, 0.5761, 0.2119],
                [0.0900, 0.2447, 0.6652]])
        >>> logits, labels = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]), torch.tensor([0, 0])
        >>> loss(logits[:1], labels[:1]) < loss(logits[1:], labels[1:])  # one step off, and two
        tensor(True)
    """

    targets: Tensor
    margins: Tensor
    weight: Tensor | None

    def __init__(
        self,
        relation: Relation,
        *,
        softness: float = 0.0,
        margin: float = 0.0,
        label_smoothing: float = 0.0,
        weight: Tensor | None = None,
        validate: bool = True,
    ):
        super().__init__()
        for name, value in (("softness", softness), ("margin", margin)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more and finite, got {value}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}.")
        num_classes = relation.num_classes
        if weight is not None and weight.shape != (num_classes,):
            raise ValueError(f"weight must be one number for each of {num_classes} classes, got {tuple(weight.shape)}.")
        distances = at_least_float32(1 - relation.closeness)
        own = torch.eye(num_classes, dtype=distances.dtype)
        targets = own if softness == 0 else (-distances / softness).softmax(dim=1)
        targets = (1 - label_smoothing) * targets + label_smoothing / num_classes
        self.softness, self.margin, self.label_smoothing, self.validate = softness, margin, label_smoothing, validate
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("margins", margin * distances, persistent=False)
        self.register_buffer("weight", weight)

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.targets)

    def extra_repr(self) -> str:
        """What was set."""
        return f"num_classes={self.num_classes}, softness={self.softness:g}, margin={self.margin:g}"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the rows.

        Args:
            logits: class scores, `(B, C)`, floating point; half precision is converted to float32.
            labels: `(B,)`, integer, in [0, C).

        Returns:
            Scalar, in nats.

        Raises:
            ValueError: if a shape does not fit or a label is out of range.
            TypeError: if labels are not integers.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits must have shape (B, {self.num_classes}), one column for each class of the relation, got "
                f"{tuple(logits.shape)}."
            )
        check_labels(labels, len(logits), self.num_classes, rows="logits", validate=self.validate)
        labels = labels.to(logits.device).long()
        logits = at_least_float32(logits)
        margins, targets = (table.to(logits.dtype)[labels] for table in (self.margins, self.targets))
        # As `nn.CrossEntropyLoss` weighs them: each class's part of a target by the weight of that class.
        losses = cross_entropy(logits + margins, targets, weight=self.weight, reduction="none")
        divisor = len(labels) if self.weight is None else self.weight[labels].sum()
        return losses.sum() / divisor
