"""The classification loss of Eq. 9: plain cross-entropy, or with smoothed labels, weights, a focus or a relation."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labeldist.coarse import MarginalCrossEntropy
from labeldist.relation import RelatedCrossEntropy, Relation
from labeldist.training.config import LossSettings
from labeldist.training.data.corpus import Corpus
from labeldist.training.objectives import OBJECTIVES, Objective

__all__ = ["FocalLoss", "balanced_weights", "classification_loss", "related_loss", "with_coarse_labels"]


def classification_loss(settings: LossSettings, labels: Tensor, num_classes: int) -> nn.Module | None:
    """The loss that the settings ask for; `None` for plain cross-entropy.

    Args:
        settings: of the run.
        labels: class index of each training row, `(N,)`, integer, for balanced weights.
        num_classes: `C`.

    Returns:
        A module on `(logits, labels)`, of shapes `(B, C)` and `(B,)`, that returns a scalar.

    Examples:
        >>> classification_loss(LossSettings(label_smoothing=0.1), torch.tensor([0, 1]), 2)
        CrossEntropyLoss()
        >>> classification_loss(LossSettings(), torch.tensor([0, 1]), 2)
    """
    weight = balanced_weights(labels, num_classes) if settings.class_weights == "balanced" else None
    if settings.focal_gamma:
        return FocalLoss(settings.focal_gamma, weight=weight)
    if weight is None and not settings.label_smoothing:
        return None
    return nn.CrossEntropyLoss(weight, label_smoothing=settings.label_smoothing)


def related_loss(
    objective: Objective, relation: Relation, settings: LossSettings, labels: Tensor
) -> RelatedCrossEntropy:
    """The cross-entropy of an objective in whose classification loss the relation of the classes has a part.

    Args:
        objective: `"soft-labels"` or `"margin"`.
        relation: of the classes.
        settings: of the run.
        labels: as in `classification_loss`.

    Examples:
        >>> related_loss("margin", Relation.from_order(num_classes=5), LossSettings(), torch.tensor([0, 1]))
        RelatedCrossEntropy(num_classes=5, softness=0, margin=2)
    """
    is_soft = OBJECTIVES[objective].classification == "soft-labels"
    balanced = settings.class_weights == "balanced"
    return RelatedCrossEntropy(
        relation,
        softness=settings.softness if is_soft else 0.0,
        margin=0.0 if is_soft else settings.class_margin,
        label_smoothing=settings.label_smoothing,
        weight=balanced_weights(labels, relation.num_classes) if balanced else None,
        validate=False,
    )


def with_coarse_labels(loss: nn.Module | None, corpus: Corpus) -> nn.Module | None:
    """The loss for all training rows of a corpus: rows with a coarse label have the marginal cross-entropy.

    Args:
        loss: of the rows with a class; `None` for cross-entropy.
        corpus: gives the groups.

    Returns:
        `loss` itself where there are no coarse rows.

    Examples:
        >>> from labeldist.training.data.corpus import load_corpus
        >>> with_coarse_labels(None, load_corpus(["demo"], shots=2))
    """
    if not corpus.groups:
        return loss
    return MarginalCrossEntropy(corpus.groups, loss, class_names=corpus.class_names)


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    r"""A weight per class, inverse to its rows: $w_c = N / (C' n_c)$, as scikit-learn's `"balanced"`.

    Args:
        labels: class index of each row, `(N,)`, integer, N >= 1.
        num_classes: `C`.

    Returns:
        `(C,)`, float32; $C'$ is the number of classes that have rows. A class without a row gets 1: nothing is trained
        with it.

    Examples:
        >>> balanced_weights(torch.tensor([0, 0, 0, 1]), 2)
        tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(labels, minlength=num_classes)
    return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp_min(1)), 1.0)


class FocalLoss(nn.Module):
    r"""Focal loss: $-(1 - p_y)^\gamma \log p_y$, mean over rows, weighted by class.

    Lin et al., *Focal Loss for Dense Object Detection*, Eq. 5.

    Args:
        gamma: $\gamma$, >= 0; 0 is cross-entropy.
        weight: of each class, `(C,)`; all equal if `None`.

    Examples:
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> torch.equal(FocalLoss(0.0)(logits, labels), cross_entropy(logits, labels))
        True
    """

    weight: Tensor | None

    def __init__(self, gamma: float, *, weight: Tensor | None = None):
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            logits: class scores, `(B, C)`.
            labels: `(B,)`, integer.

        Returns:
            Scalar, in nats; with class weights divided by their sum over the rows, as in `cross_entropy`.
        """
        losses = cross_entropy(logits, labels, reduction="none")
        # Clamped: where a row is certain, the power's derivative is infinite for gamma < 1.
        errors = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).eps)
        losses = errors**self.gamma * losses
        if self.weight is None:
            return losses.mean()
        weights = self.weight.to(losses.dtype)[labels]
        return (weights * losses).sum() / weights.sum()
