"""The classification loss, and contrastive losses that keep a state of their own."""

import copy
from functools import partial
from typing import Any

import torch
from pytorch_metric_learning.losses import CrossBatchMemory
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labeldist import joint
from labeldist.distributed import num_processes
from labeldist.integrations._shared.gradients import call_with_mean_gradients
from labeldist.ldm import LabelDistanceMatrix
from labeldist.losses import LabelDistanceContrastiveLoss


def check_classification(classification: nn.Module | None) -> None:
    """Raise `TypeError` unless this is a module that can be called with logits and labels."""
    if classification is not None and (
        not isinstance(classification, nn.Module) or isinstance(classification, LabelDistanceMatrix)
    ):
        raise TypeError(
            "classification must be an nn.Module that is called as classification(logits, labels), such as "
            f"nn.CrossEntropyLoss(weight=...), got {type(classification).__name__}."
        )


def classification_loss(
    classification: nn.Module | None, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """The classification loss of a batch, a scalar.

    Args:
        classification: called as `classification(logits, labels)`; `None` for cross-entropy.
        logits: `(B, C)`, taken in float32 or wider.
        labels: `(B,)`, int64.
        label_smoothing: of the cross-entropy.

    Raises:
        ValueError: if `classification` does not return a scalar.

    Examples:
        >>> classification_loss(None, torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.6931)
    """
    loss = None
    if classification is not None:
        loss = partial(call_with_mean_gradients, classification)
    elif label_smoothing:
        loss = partial(cross_entropy, label_smoothing=label_smoothing)
    return joint.classification_loss(loss, logits, labels)


def call_without_change(loss: nn.Module, *inputs: Any) -> Tensor:
    """Call a loss without changing its state: rows of an evaluation stay out of a queue of training rows.

    Args:
        loss: any loss. Its matrices and weights are not copied, the rest of its state is.
        *inputs: of the loss.

    Examples:
        >>> from labeldist import CrossBatchMemory, StaticLDM
        >>> loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=2))
        >>> memory = CrossBatchMemory(loss, embedding_size=8, memory_size=64)
        >>> _ = call_without_change(memory, torch.randn(4, 8), torch.tensor([0, 1, 0, 1]))
        >>> memory.queue_idx
        0
    """
    if isinstance(loss, LabelDistanceContrastiveLoss):
        return loss(*inputs)
    kept = (LabelDistanceMatrix, LabelDistanceContrastiveLoss)
    shared = [part for part in loss.modules() if isinstance(part, kept)] + list(loss.parameters())
    return copy.deepcopy(loss, {id(part): part for part in shared})(*inputs)


class QueueSnapshot:
    """The queues in a module as they are now, to be put back after an evaluation that calls the loss by itself.

    Args:
        module: a module with a `CrossBatchMemory` somewhere in it, or with none.
    """

    def __init__(self, module: nn.Module):
        # An evaluation in inference mode would make tensors that training cannot write to.
        with torch.inference_mode(False):
            self._kept = [
                (part, part.embedding_memory.clone(), part.label_memory.clone(), part.queue_idx, part.has_been_filled)
                for part in module.modules()
                if isinstance(part, CrossBatchMemory)
            ]

    def restore(self) -> None:
        """Make the queues what they were."""
        for part, embeddings, labels, index, is_filled in self._kept:
            part.embedding_memory, part.label_memory = embeddings, labels
            part.queue_idx, part.has_been_filled = index, is_filled


def check_one_queue(loss: nn.Module | None, *, is_gathered: bool, hint: str) -> None:
    """Raise `ValueError` if each of several processes would fill a queue of its own, of which checkpoints hold one."""
    if num_processes() == 1 or is_gathered or loss is None:
        return
    for part in loss.modules():
        if isinstance(part, DistributedLossWrapper):
            return
        if isinstance(part, CrossBatchMemory):
            raise ValueError(
                f"All processes must have the same queue, which a checkpoint holds once, and each of "
                f"{num_processes()} processes would fill a CrossBatchMemory with its own rows. {hint}"
            )
