"""The joint objective: a weighted sum of a classification loss and a contrastive loss."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from labeldist import functional
from labeldist.checks import check_ce_weight
from labeldist.coarse import check_coarse_contrast
from labeldist.ldm import LabelDistanceMatrix
from labeldist.precision import at_least_float32

__all__ = ["Classification", "JointLoss", "JointTerms", "classification_loss"]

Classification = Callable[[Tensor, Tensor], Tensor]
"""A loss of logits `(B, C)` and labels `(B,)` that returns a scalar, such as `nn.CrossEntropyLoss()`."""


class JointTerms(NamedTuple):
    """The joint objective and its two parts, each a scalar in nats.

    Attributes:
        total: the objective to minimize, Eq. 9.
        classification: the classification loss, Eq. 10.
        contrastive: the contrastive loss, Eq. 11.
    """

    total: Tensor
    classification: Tensor
    contrastive: Tensor


class JointLoss(nn.Module):
    r"""Weighted sum of a classification loss and a contrastive loss. Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$.

    With several views of each text, stack them: all rows of the first view, then all rows of the second.

    Choice: $L_c$ covers all rows of `logits`. For Eq. 10 literally, pass the logits of the first view only.

    Args:
        contrastive: $L_s$, called as `contrastive(embeddings, labels)`: any pytorch-metric-learning loss.
        classification: $L_c$, called as `classification(logits, labels)`, must return a scalar:
            `nn.CrossEntropyLoss(weight=..., label_smoothing=0.1)`, a focal loss, ... `None` uses the cross-entropy of
            the paper, Eq. 10. A module moves to the device of the logits. With a `MarginalCrossEntropy` labels may be
            coarse, and `contrastive` must be in `FineLabelsOnly`.
        ce_weight: $\lambda$ in [0, 1], the weight of $L_c$; 0.5 in the paper.

    Raises:
        ValueError: if `ce_weight` lies outside [0, 1], or `contrastive` would treat coarse labels as classes.
        TypeError: if `contrastive` is not a loss of embeddings and labels, or `classification` is not callable.

    Examples:
        >>> import torch
        >>> from labeldist import JointLoss, LabelDistanceContrastiveLoss, StaticLDM
        >>> objective = JointLoss(LabelDistanceContrastiveLoss(StaticLDM.uniform(1.0, num_classes=3)))
        >>> objective(torch.randn(4, 3), torch.randn(4, 8), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([])
    """

    def __init__(self, contrastive: nn.Module, classification: Classification | None = None, *, ce_weight: float = 0.5):
        super().__init__()
        check_ce_weight(ce_weight)
        if not isinstance(contrastive, nn.Module) or isinstance(contrastive, LabelDistanceMatrix | JointLoss):
            raise TypeError(
                "contrastive must be a loss of embeddings and labels, such as LabelDistanceContrastiveLoss(ldm), got "
                f"{type(contrastive).__name__}."
            )
        if classification is not None and not callable(classification):
            raise TypeError(
                "classification must be a loss of logits and labels, such as nn.CrossEntropyLoss(), got "
                f"{type(classification).__name__}."
            )
        check_coarse_contrast(contrastive, classification)
        self.contrastive = contrastive
        self.classification = classification
        self.ce_weight = ce_weight

    def terms(self, logits: Tensor, embeddings: Tensor, labels: Tensor, **pairs) -> JointTerms:
        """Compute the objective and both of its parts. Arguments as in `forward`."""
        if not 0 < len(logits) <= len(labels):
            raise ValueError(f"logits must have between 1 and {len(labels)} rows (one per label), got {len(logits)}.")
        ldm = _matrix_of(self.contrastive)
        if isinstance(ldm, LabelDistanceMatrix) and logits.shape[1:] != (ldm.num_classes,):
            raise ValueError(
                f"logits must have shape (B, {ldm.num_classes}), one column for each class of the LDM, "
                f"got {tuple(logits.shape)}."
            )
        # Compute the contrastive loss first, because it checks the labels.
        contrastive = self.contrastive(embeddings, labels, **pairs)
        classification = classification_loss(self.classification, logits, labels[: len(logits)])
        return JointTerms(
            functional.joint_objective(classification, contrastive, ce_weight=self.ce_weight),
            classification,
            contrastive,
        )

    def forward(self, logits: Tensor, embeddings: Tensor, labels: Tensor, **pairs) -> Tensor:
        """Compute the objective, Eq. 9.

        Args:
            logits: class scores, `(B, C)`, or `(M, C)` for the first M rows only.
            embeddings: `(B, D)`.
            labels: `(B,)`, integer, in [0, C), or other labels that `classification` accepts.
            **pairs: passed to the contrastive loss: `indices_tuple`, `ref_emb` and `ref_labels`.

        Returns:
            Scalar, in nats.
        """
        return self.terms(logits, embeddings, labels, **pairs).total


def classification_loss(loss: Classification | None, logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the classification loss, by default the cross-entropy of Eq. 10, in at least float32.

    Args:
        loss: called as `loss(logits, labels)`; `None` uses cross-entropy.
        logits: class scores, `(B, C)`, floating point.
        labels: `(B,)`, integer, in [0, C).

    Returns:
        Scalar, in nats for cross-entropy.

    Raises:
        ValueError: if the result is not a scalar.

    Examples:
        >>> import torch
        >>> logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> classification_loss(None, logits, labels)
        tensor(0.1269)
        >>> classification_loss(nn.CrossEntropyLoss(label_smoothing=0.5), logits, labels)
        tensor(0.6269)
    """
    logits, labels = at_least_float32(logits), labels.long()
    if loss is None:
        return nn.functional.cross_entropy(logits, labels)
    # Users move the model, but rarely the loss: move its class weights to the logits' device.
    if isinstance(loss, nn.Module) and any(
        tensor.device != logits.device for tensor in (*loss.parameters(), *loss.buffers())
    ):
        loss.to(logits.device)
    value = loss(logits, labels)
    if not isinstance(value, Tensor) or value.ndim:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the classification loss must be reduced to a scalar, got {got}. Use reduction='mean'.")
    return value


def _matrix_of(loss: nn.Module) -> object:
    """The LDM of a loss, looked up through any wrappers around it."""
    while not hasattr(loss, "ldm") and isinstance(getattr(loss, "loss", None), nn.Module):
        loss = loss.loss  # type: ignore[assignment]
    return getattr(loss, "ldm", None)
