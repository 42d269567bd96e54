"""The joint objective: a classification loss and a contrastive loss together."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from labeldist import functional
from labeldist.checks import check_ce_weight
from labeldist.ldm import LabelDistanceMatrix
from labeldist.precision import at_least_float32

__all__ = ["Classification", "JointLoss", "JointTerms", "classification_loss"]

Classification = Callable[[Tensor, Tensor], Tensor]
"""A loss of logits `(B, C)` and labels `(B,)`, reduced to a scalar: `nn.CrossEntropyLoss(label_smoothing=0.1)`."""


class JointTerms(NamedTuple):
    """The parts of one joint objective, each a scalar in nats.

    Attributes:
        total: Eq. 9, what is minimized.
        classification: Eq. 10.
        contrastive: Eq. 11.
    """

    total: Tensor
    classification: Tensor
    contrastive: Tensor


class JointLoss(nn.Module):
    r"""A classification loss and a contrastive loss together. Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$.

    With several views of a text, stack them: all rows of the first view, then all of the second. Choice: $L_c$ is over
    every row of `logits`; for Eq. 10 literally, pass the first view's logits alone.

    Args:
        contrastive: $L_s$, called as `contrastive(embeddings, labels)`; any pytorch-metric-learning loss fits.
        classification: $L_c$, called as `classification(logits, labels)` and reduced to a scalar, such as
            `nn.CrossEntropyLoss(weight=..., label_smoothing=0.1)` or a focal loss. `None` is the paper's cross-entropy,
            Eq. 10. A module follows the logits to their device.
        ce_weight: $\lambda$ in [0, 1], the share of $L_c$; 0.5 in the paper.

    Raises:
        ValueError: if `ce_weight` lies outside [0, 1].
        TypeError: if `contrastive` is no loss of embeddings and labels, or `classification` cannot be called.

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
        self.contrastive = contrastive
        self.classification = classification
        self.ce_weight = ce_weight

    def terms(self, logits: Tensor, embeddings: Tensor, labels: Tensor, **pairs) -> JointTerms:
        """The total and both parts. Arguments as in `forward`."""
        if not 0 < len(logits) <= len(labels):
            raise ValueError(f"logits must have between 1 and {len(labels)} rows (one per label), got {len(logits)}.")
        ldm = _matrix_of(self.contrastive)
        if isinstance(ldm, LabelDistanceMatrix) and logits.shape[1:] != (ldm.num_classes,):
            raise ValueError(
                f"logits must have shape (B, {ldm.num_classes}), one column for each class of the LDM, "
                f"got {tuple(logits.shape)}."
            )
        # The contrastive loss first: it checks the labels.
        contrastive = self.contrastive(embeddings, labels, **pairs)
        classification = classification_loss(self.classification, logits, labels[: len(logits)])
        return JointTerms(
            functional.joint_objective(classification, contrastive, ce_weight=self.ce_weight),
            classification,
            contrastive,
        )

    def forward(self, logits: Tensor, embeddings: Tensor, labels: Tensor, **pairs) -> Tensor:
        """Return Eq. 9.

        Args:
            logits: class scores, `(B, C)`, or `(M, C)` of the first M rows.
            embeddings: `(B, D)`.
            labels: `(B,)`, integer, in [0, C).
            **pairs: passed on to the contrastive loss: `indices_tuple`, `ref_emb` and `ref_labels`.

        Returns:
            Scalar, in nats.
        """
        return self.terms(logits, embeddings, labels, **pairs).total


def classification_loss(loss: Classification | None, logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 10, or the loss given in its place, computed in float32 at least.

    Args:
        loss: called as `loss(logits, labels)`; `None` is cross-entropy.
        logits: class scores, `(B, C)`, floating point.
        labels: `(B,)`, integer, in [0, C).

    Returns:
        Scalar, in nats for cross-entropy.

    Raises:
        ValueError: if the result is no scalar.

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
    # Users do not move losses: class weights follow the logits.
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
    """The LDM of a loss, through any wrappers around it."""
    while not hasattr(loss, "ldm") and isinstance(getattr(loss, "loss", None), nn.Module):
        loss = loss.loss  # type: ignore[assignment]
    return getattr(loss, "ldm", None)
