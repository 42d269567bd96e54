"""The marginal cross-entropy: the classification loss of rows of which only a group of classes is known."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from labeldist.checks import can_read_values, check_labels
from labeldist.coarse.groups import Groups, group_masks
from labeldist.precision import at_least_float32

__all__ = ["MarginalCrossEntropy", "allowed_classes", "marginal_cross_entropy"]


def marginal_cross_entropy(
    logits: Tensor,
    allowed: Tensor,
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
    validate: bool = True,
) -> Tensor:
    r"""Cross-entropy of rows of which only a set of allowed classes is known.

    With $p_i = \mathrm{softmax}(\mathrm{logits}_i)$ and the allowed classes $A_i$:

    $$\ell_i = -\log \sum_{c \in A_i} p_{ic} = \mathrm{lse}_{c}\, \mathrm{logits}_{ic}
    - \mathrm{lse}_{c \in A_i}\, \mathrm{logits}_{ic} .$$

    This is the negative log-likelihood of what is known (Cour et al. 2011, Jin and Ghahramani 2002). With one allowed
    class it is the cross-entropy. If all classes are allowed, loss and gradient are exactly 0.

    Args:
        logits: class scores, `(B, C)`, C >= 1, floating point, finite. Half precision is computed in float32.
        allowed: boolean `(B, C)`, at least one class per row.
        reduction: mean over the rows (0 for no rows), sum, or the loss of each row.
        validate: check that each row allows a class; on a GPU this synchronizes with the device. Without the check, a
            row that allows no class has an infinite loss.

    Returns:
        Scalar, or `(B,)` for `"none"`; in nats, non-negative, float32 (float64 for float64 logits).

    Raises:
        ValueError: if shapes disagree, a row allows no class, or `reduction` is unknown.
        TypeError: if `allowed` is not boolean or `logits` not floating point.

    Examples:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
        >>> marginal_cross_entropy(logits, torch.tensor([[True, True, False]]))
        tensor(0.0943)
        >>> marginal_cross_entropy(logits, torch.tensor([[True, True, True]]))
        tensor(0.)

    References:
        Jin and Ghahramani 2002, *Learning with Multiple Labels*; Cour, Sapp and Taskar 2011, *Learning from Partial
        Labels*
    """
    _check_logits(logits)
    if allowed.shape != logits.shape:
        raise ValueError(
            f"allowed must have the shape of logits, {tuple(logits.shape)}, got {tuple(allowed.shape)}: one boolean "
            "for each row and class."
        )
    if allowed.dtype != torch.bool:
        raise TypeError(f"allowed must be boolean, got {allowed.dtype}.")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
    if can_read_values(allowed, validate) and not bool(allowed.any(dim=1).all()):
        row = int((~allowed.any(dim=1)).nonzero()[0])
        raise ValueError(f"Each row must allow at least one class, row {row} allows none.")
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        # Subtract the maximum: of two large sums of nearly equal size the difference loses its digits.
        logits = logits - logits.detach().amax(dim=1, keepdim=True)
        # The same two operations where all classes are allowed, so that loss and gradient cancel exactly.
        losses = logits.logsumexp(dim=1) - logits.masked_fill(~allowed, -torch.inf).logsumexp(dim=1)
        losses = losses.clamp_min(0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / max(len(losses), 1)


def allowed_classes(labels: Tensor, groups: Tensor) -> Tensor:
    """Return the classes that each label allows: the class itself, or all classes of the group.

    Args:
        labels: `(B,)`, integer, in [0, C + G): a class, or C + g for group g.
        groups: boolean `(G, C)`, the classes of each group.

    Returns:
        Boolean `(B, C)`.

    Examples:
        >>> allowed_classes(torch.tensor([1, 3]), torch.tensor([[True, False, True]])).int()
        tensor([[0, 1, 0],
                [1, 0, 1]], dtype=torch.int32)
    """
    num_groups, num_classes = groups.shape
    labels = labels.long()
    allowed = labels[:, None] == torch.arange(num_classes, device=labels.device)
    if not num_groups:
        return allowed
    members = groups.to(labels.device)[(labels - num_classes).clamp_min(0)]  # (B, C)
    return torch.where((labels >= num_classes)[:, None], members, allowed)


class MarginalCrossEntropy(nn.Module):
    r"""Classification loss of batches in which some rows have a fine label and others a coarse one.

    With labels $y_i$, in [0, C) a class and C + g group g, and the classes $A_i$ that $y_i$ allows:

    $$L_c = \frac{1}{B} \sum_{i=1}^{B} -\log \sum_{c \in A_i} p_{ic} .$$

    Use it as the `classification` argument of `JointLoss`, `TrainerObjective` or `SentenceLabelDistanceLoss`. If all
    labels are fine, it is the cross-entropy.

    With a loss `fine` for the $B'$ rows with a fine label, $B' L_{\mathrm{fine}}$ replaces their terms in the sum.
    Class weights, label smoothing and the focal loss then affect fine labels only, and all rows have the same weight.

    Args:
        groups: the classes of each group: `{"number": ["count", "date"]}`, a list of lists of members (names or
            indices), or a boolean `(G, C)`. Group g, in this order, has the label C + g.
        fine: loss of the rows with a fine label, such as `nn.CrossEntropyLoss(label_smoothing=0.1)`: called as
            `fine(logits, labels)`, returns their mean. On a GPU each call then synchronizes with the device. `None`
            uses the cross-entropy.
        class_names: one name per class.
        num_classes: `C`, instead of names. If `groups` is a tensor, neither is needed.
        validate: check the values of the labels; on a GPU each call then synchronizes with the device.

    Attributes:
        groups: boolean `(G, C)`; not part of `state_dict`.

    Raises:
        ValueError: if a group is empty or has an unknown class (the message suggests the nearest name).
        TypeError: if `fine` is not callable.

    Examples:
        >>> loss = MarginalCrossEntropy({"number": ["count", "date"]}, class_names=["count", "date", "place"])
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
        >>> loss(logits, torch.tensor([0, 3]))  # a count, and a number of either kind
        tensor(0.2510)
    """

    groups: Tensor

    def __init__(
        self,
        groups: Tensor | Groups,
        fine: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        validate: bool = True,
    ):
        super().__init__()
        if fine is not None and not callable(fine):
            raise TypeError(
                f"fine must be a loss of logits and labels, such as nn.CrossEntropyLoss(), got {type(fine).__name__}."
            )
        masks = group_masks(groups, class_names=class_names, num_classes=num_classes)
        self.register_buffer("groups", masks, persistent=False)
        self.fine = fine
        self.validate = validate

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return self.groups.shape[1]

    @property
    def num_labels(self) -> int:
        """Number of labels, C + G."""
        return sum(self.groups.shape)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the rows.

        Args:
            logits: class scores, `(B, C)`, floating point, finite.
            labels: `(B,)`, integer, in [0, C + G).

        Returns:
            Scalar, in nats; 0 for no rows.
        """
        self._check(logits, labels)
        labels = labels.to(logits.device).long()
        allowed = allowed_classes(labels, self.groups)
        if self.fine is None:
            return marginal_cross_entropy(logits, allowed, validate=False)
        is_fine = labels < self.num_classes
        losses = marginal_cross_entropy(logits, allowed, reduction="none", validate=False)
        total = losses.masked_fill(is_fine, 0).sum()
        rows = is_fine.nonzero()[:, 0]
        if len(rows):
            mean = self.fine(at_least_float32(logits)[rows], labels[rows])
            if not isinstance(mean, Tensor) or mean.ndim:
                got = f"shape {tuple(mean.shape)}" if isinstance(mean, Tensor) else type(mean).__name__
                raise ValueError(f"the loss of fine labels must be a scalar, got {got}. Use reduction='mean'.")
            total = total + mean * len(rows)
        return total / max(len(labels), 1)

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        _check_logits(logits)
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits must have shape (B, {self.num_classes}), one column for each class of the groups, got "
                f"{tuple(logits.shape)}."
            )
        check_labels(labels, len(logits), self.num_labels, rows="logits", validate=False)
        if not len(labels) or not can_read_values(labels, self.validate):
            return
        smallest, largest = (int(value) for value in labels.aminmax())
        if smallest < 0 or largest >= self.num_labels:
            raise ValueError(
                f"labels must lie in [0, {self.num_labels}), {self.num_classes} classes and then {len(self.groups)} "
                f"groups, got values from {smallest} to {largest}."
            )


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"logits must have shape (B, C) with C >= 1, got {tuple(logits.shape)}.")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}.")
