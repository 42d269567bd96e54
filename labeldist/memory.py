"""A cross-batch memory for label-distance losses. It fixes five bugs of pytorch-metric-learning's (PML's) class."""

import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor, nn

from labeldist.checks import check_indices_tuple
from labeldist.coarse import FineLabelsOnly
from labeldist.losses import LabelDistanceContrastiveLoss

__all__ = ["CrossBatchMemory", "check_supported", "without_self_pairs"]


def check_supported(wrapper: type, loss: nn.Module, supported: list[str]) -> None:
    """Raise `TypeError` unless `loss` is a label-distance loss or on PML's own list, perhaps in `FineLabelsOnly`."""
    loss = loss.loss if isinstance(loss, FineLabelsOnly) else loss
    if not isinstance(loss, LabelDistanceContrastiveLoss) and type(loss).__name__ not in supported:
        raise TypeError(
            f"{wrapper.__name__} takes a LabelDistanceContrastiveLoss or one of PML's {', '.join(supported)}, got "
            f"{type(loss).__name__}."
        )


class CrossBatchMemory(pml_losses.CrossBatchMemory):
    """A loss that compares each batch with a queue of the last `memory_size` embeddings and their labels.

    Each batch is first added to the queue and then compared with the whole queue, except each row with itself (Wang et
    al. 2020). The embeddings of earlier batches were computed by an earlier state of the model, and no gradient flows
    to them.

    Five bugs of PML 2.9's class are fixed:

    - An `indices_tuple` passed to the call refers to rows of the batch. Here its references are translated to the slots
      of these rows in the queue. PML does not translate them, so from the second batch on its "positives" may be rows
      of any class.
    - A batch of one row is not compared with itself.
    - Several calls may precede one `backward()`.
    - A call that adds no row leaves the queue unchanged. PML treats the queue as full afterwards and compares with
      empty slots.
    - The position in the queue is part of `state_dict`, so that training can resume.

    Args:
        loss: a `LabelDistanceContrastiveLoss`, or any loss that PML's class supports.
        embedding_size: `D`.
        memory_size: rows in the queue, at least the number of rows in a batch.
        miner: called as `miner(embeddings, labels, ref_emb, ref_labels)` with the queue as references.

    Raises:
        TypeError: if the loss is not supported.
        ValueError: in a call, if labels are missing, the batch has more rows than the queue, or the embeddings do not
            have `D` columns.

    Examples:
        >>> from labeldist import CrossBatchMemory, LabelDistanceContrastiveLoss, StaticLDM
        >>> loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=2))
        >>> memory = CrossBatchMemory(loss, embedding_size=8, memory_size=64)
        >>> memory(torch.randn(4, 8), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([])

    References:
        Wang et al. 2020, *Cross-Batch Memory for Embedding Learning*, https://arxiv.org/abs/1912.06798
    """

    def __init__(self, loss: nn.Module, embedding_size: int, memory_size: int = 1024, miner=None, **kwargs):
        for name, size in (("embedding_size", embedding_size), ("memory_size", memory_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        check_supported(type(self), loss, pml_losses.CrossBatchMemory.supported_losses())
        super().__init__(loss, embedding_size, memory_size=memory_size, miner=miner, **kwargs)

    @classmethod
    def check_loss_support(cls, loss_name: str) -> None:
        """Do nothing: the constructor checks the loss's class, which PML checks by name."""

    def forward(self, embeddings, labels, indices_tuple=None, enqueue_mask=None):
        """Add the batch to the queue and return the loss of the batch against the queue.

        Args:
            embeddings: `(B, D)`, B at most `memory_size`.
            labels: `(B,)`, integer.
            indices_tuple: pairs or triplets of rows *of this batch*, used in addition to those of the queue.
            enqueue_mask: boolean `(B,)`. Rows where it is true are added to the queue; the other rows are anchors and
                are compared with the queue.

        Returns:
            Scalar.
        """
        if labels is None:
            raise ValueError("CrossBatchMemory needs labels: pass one class index for each row of embeddings.")
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_size or labels.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings must have shape (B, {self.embedding_size}) and labels (B,), got "
                f"{tuple(embeddings.shape)} and {tuple(labels.shape)}."
            )
        if enqueue_mask is not None and (enqueue_mask.dtype != torch.bool or enqueue_mask.shape != labels.shape):
            raise ValueError(
                f"enqueue_mask must be boolean with shape {tuple(labels.shape)}, got {enqueue_mask.dtype} "
                f"{tuple(enqueue_mask.shape)}."
            )
        num_enqueued = len(embeddings) if enqueue_mask is None else int(enqueue_mask.sum())
        if num_enqueued > self.memory_size:
            raise ValueError(
                f"the memory must hold a whole batch: memory_size is {self.memory_size}, the batch enqueues "
                f"{num_enqueued} rows. Make memory_size larger."
            )
        if not num_enqueued and enqueue_mask is None:
            return embeddings.sum()
        # Copy the queue in each call: the graph of an earlier call may hold it (with a learned LDM, also the labels),
        # and writing into it would break that graph's backward pass.
        self.embedding_memory = self.embedding_memory.clone()
        self.label_memory = self.label_memory.clone()
        return super().forward(embeddings, labels, indices_tuple, enqueue_mask)

    def add_to_memory(self, embeddings, labels, batch_size):
        """Write the rows into the next slots, if there are any rows."""
        # If the position does not change, PML assumes that the queue has wrapped around.
        if batch_size:
            super().add_to_memory(embeddings, labels, batch_size)

    def create_indices_tuple(self, embeddings, labels, E_mem, L_mem, input_indices_tuple, do_remove_self_comparisons):  # noqa: N803
        """Pairs or triplets between batch and queue, plus the passed ones translated to the queue's slots."""
        mined = self.miner(embeddings, labels, E_mem, L_mem) if self.miner else lmu.get_all_pairs_indices(labels, L_mem)
        if do_remove_self_comparisons:
            mined = without_self_pairs(mined, self.curr_batch_idx)
        if input_indices_tuple is None:
            return mined
        check_indices_tuple(input_indices_tuple, len(embeddings), len(embeddings))
        given = tuple(indices.to(labels.device, torch.int64) for indices in input_indices_tuple)
        if len(mined) == 4:
            given = lmu.convert_to_pairs(given, labels)
        elif len(given) == 4:
            given = lmu.convert_to_triplets(given, labels)
        is_reference = (False, True, True) if len(given) == 3 else (False, True, False, True)
        slots = [self.curr_batch_idx[i] if ref else i for i, ref in zip(given, is_reference, strict=True)]
        return tuple(torch.cat(parts) for parts in zip(mined, slots, strict=True))

    def get_extra_state(self) -> Tensor:
        """The next slot to write, and whether every slot is filled, for `state_dict`."""
        return torch.tensor([self.queue_idx, int(self.has_been_filled)])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the position in the queue from `state_dict`."""
        self.queue_idx, self.has_been_filled = int(state[0]), bool(state[1])


def without_self_pairs(indices_tuple: tuple[Tensor, ...], slots: Tensor) -> tuple[Tensor, ...]:
    """Remove the pairs of an anchor with itself; anchor `a` is the reference `slots[a]`."""
    anchors, positives, *rest = indices_tuple
    keep = slots[anchors] != positives
    if len(rest) == 1:
        return anchors[keep], positives[keep], rest[0][keep]
    return anchors[keep], positives[keep], *rest
