"""Loss and miner wrappers of pytorch-metric-learning (PML), with support for label-distance losses and bug fixes.

Each class is a subclass of the PML class with the same purpose and supports all losses of that class.
"""

import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.utils import distributed as pml_distributed
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor, nn

from labeldist.checks import check_indices_tuple
from labeldist.coarse import FineLabelsOnly
from labeldist.distributed import check_agreement, gather_rows, num_processes, process_index, sum_over_processes
from labeldist.losses import LabelDistanceContrastiveLoss, sharded_pairs
from labeldist.memory import check_supported, without_self_pairs
from labeldist.reducers import ValidAnchorMeanReducer

__all__ = ["DistributedLossWrapper", "DistributedMinerWrapper", "TwoViewLoss"]


class TwoViewLoss(pml_losses.SelfSupervisedLoss):
    """Apply a loss to two views of the same rows: `loss(embeddings, ref_emb, labels)`.

    PML's `SelfSupervisedLoss` uses row numbers as labels, so the only positive of a row is its other view. Label
    distance is defined between classes, so this class takes the real labels: all rows of a class are positives, within
    and across the views.

    Args:
        loss: a `LabelDistanceContrastiveLoss`, or any loss that PML's class supports.
        symmetric: stack the views and compare each row with every other row of both views (the paper's $2M$ rows).
            Otherwise the rows of the first view are anchors and the rows of the second view are references.

    Raises:
        TypeError: if the loss is not supported.
        ValueError: in a call, if labels are missing or shapes differ.

    Examples:
        >>> from labeldist import LabelDistanceContrastiveLoss, StaticLDM, TwoViewLoss
        >>> loss = TwoViewLoss(LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=3)))
        >>> first, second = torch.randn(4, 8), torch.randn(4, 8)
        >>> loss(first, second, torch.tensor([0, 1, 2, 0])).shape
        torch.Size([])
    """

    def __init__(self, loss: nn.Module, symmetric: bool = True, **kwargs):
        check_supported(type(self), loss, pml_losses.SelfSupervisedLoss.supported_losses())
        super().__init__(loss, symmetric=symmetric, **kwargs)

    @classmethod
    def check_loss_support(cls, loss_name: str) -> None:
        """Do nothing: the constructor checks the loss's class, which PML checks by name."""

    def forward(self, embeddings: Tensor, ref_emb: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the loss of both views.

        Args:
            embeddings: first view, `(M, D)`.
            ref_emb: second view of the same rows, `(M, D)`.
            labels: class of each row, `(M,)`, integer.

        Returns:
            Scalar.
        """
        if labels is None:
            raise ValueError(
                "TwoViewLoss needs labels: pass the class of each row, as in loss(embeddings, ref_emb, labels)."
            )
        if embeddings.shape != ref_emb.shape or labels.shape != embeddings.shape[:1]:
            raise ValueError(
                f"both views must have shape (M, D) and labels (M,), got {tuple(embeddings.shape)}, "
                f"{tuple(ref_emb.shape)} and {tuple(labels.shape)}."
            )
        if self.symmetric:
            return self.loss(torch.cat([embeddings, ref_emb]), torch.cat([labels, labels]))
        return self.loss(embeddings, labels, ref_emb=ref_emb, ref_labels=labels.clone())


class DistributedLossWrapper(pml_distributed.DistributedLossWrapper):
    r"""Compute a loss over the rows of all processes, with the exact gradient, for `DistributedDataParallel`.

    Every process returns the loss of the concatenated batch. `DistributedDataParallel` averages the gradients of the
    processes; this average equals the gradient that one process would compute from all rows.

    The rows are gathered on every process. The processes divide the pairs of a `LabelDistanceContrastiveLoss` among
    themselves, so that each tile of pairs is computed once. Each process computes all pairs if an `indices_tuple` lists
    them, with `backend="eager"`, with too few rows for the kernels, and for other losses.

    Each call checks that all processes have the same label-distance matrix and the same settings of the loss. To keep a
    learned matrix the same on all processes, put the wrapper into `DistributedDataParallel` as well.

    PML 2.9's class differs in three ways. It multiplies the returned value by the number of processes. With
    `efficient=True` a row receives no gradient as a reference of another process's anchors, so the gradient differs
    from that of one process. All processes must have the same number of rows.

    Args:
        loss: any of PML's losses, perhaps in `FineLabelsOnly`, or a `CrossBatchMemory`.
        efficient: use only this process's rows as anchors, and all rows as references. The result is the mean over the
            processes, weighted by their numbers of anchors that have a positive if `loss` is a
            `LabelDistanceContrastiveLoss` with its default reducer, and unweighted otherwise. Each process lists the
            pairs of its anchors.

    Raises:
        ValueError: in a call, on all processes, if their matrices or settings differ.

    Examples:
        >>> from labeldist import DistributedLossWrapper, LabelDistanceContrastiveLoss, StaticLDM
        >>> loss = DistributedLossWrapper(LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=2)))
        >>> loss(torch.randn(4, 8), torch.tensor([0, 1, 0, 1])).shape  # on one process, the loss itself
        torch.Size([])
    """

    def __init__(self, loss: nn.Module, efficient: bool = False):
        if isinstance(loss, FineLabelsOnly) and isinstance(loss.loss, pml_losses.CrossBatchMemory):
            raise TypeError(
                "DistributedLossWrapper keeps the queues of all processes equal, for a CrossBatchMemory that it holds "
                "itself. Swap the wrappers: FineLabelsOnly(DistributedLossWrapper(CrossBatchMemory(...)))."
            )
        super().__init__(loss.loss if isinstance(loss, FineLabelsOnly) else loss, efficient=efficient)
        self.loss = loss

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None, enqueue_mask=None):
        """Return the loss over the rows of all processes; each process passes its own rows.

        The arguments are those of the loss. `indices_tuple` refers to the gathered rows, with this process's rows
        first, as a `DistributedMinerWrapper` returns it.
        """
        check_agreement(self.loss)
        if isinstance(self.loss, pml_losses.CrossBatchMemory):
            if ref_emb is not None or ref_labels is not None:
                raise ValueError("CrossBatchMemory uses its queue as references: do not pass ref_emb or ref_labels.")
            return self._memory_loss(embeddings, _required(labels), indices_tuple, enqueue_mask)
        if num_processes() == 1:
            return self.loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        if self.efficient:
            return self._local_anchors_loss(embeddings, _required(labels), indices_tuple, ref_emb, ref_labels)
        # Processes that divide the pairs among themselves must hold the rows in the same order.
        own_first = indices_tuple is not None
        references = (None, None) if ref_emb is None else _gather(ref_emb, ref_labels, own_first=own_first)
        rows, classes = _gather(embeddings, labels, own_first=own_first)
        with sharded_pairs(self.loss):
            return self.loss(rows, classes, indices_tuple, *references)

    def _memory_loss(self, embeddings: Tensor, labels: Tensor, indices_tuple, enqueue_mask) -> Tensor:
        if num_processes() == 1:
            return self.loss(embeddings, labels, indices_tuple, enqueue_mask)
        rows, classes = _gather(embeddings, labels)
        mask = None if enqueue_mask is None else gather_rows(enqueue_mask.to(rows.device), own_first=True)
        # The queues of all processes must receive the rows in the same order: by rank.
        ranks = torch.full((len(embeddings),), process_index(), device=rows.device)
        order = gather_rows(ranks, own_first=True).argsort(stable=True)
        if indices_tuple is not None:
            check_indices_tuple(indices_tuple, len(rows), len(rows))
            indices_tuple = tuple(order.argsort()[indices.to(rows.device).long()] for indices in indices_tuple)
        return self.loss(rows[order], classes[order], indices_tuple, None if mask is None else mask[order])

    def _local_anchors_loss(self, embeddings: Tensor, labels: Tensor, indices_tuple, ref_emb, ref_labels) -> Tensor:
        labels = labels.to(embeddings.device)
        rows, classes = _gather(embeddings, labels) if ref_emb is None else _gather(ref_emb, ref_labels)
        if indices_tuple is None:
            indices_tuple = lmu.get_all_pairs_indices(labels, classes)
            if ref_emb is None:
                indices_tuple = without_self_pairs(indices_tuple, torch.arange(len(labels), device=labels.device))
        # A loss without pairs does not depend on the references, and this process would skip the collective in the
        # backward pass of gather_rows, for which the others wait. An empty slice keeps the gathered rows in the graph.
        loss = self.loss(embeddings, labels, indices_tuple, rows, classes)
        weighted_loss = (loss + rows[:0].sum().to(loss)) * self._weight(indices_tuple, labels, classes, loss.dtype)
        # The value is the mean over the processes; the gradient is that of this process's term.
        return weighted_loss + (sum_over_processes(weighted_loss) / num_processes() - weighted_loss).detach()

    def _weight(self, indices_tuple, labels: Tensor, ref_labels: Tensor, dtype: torch.dtype) -> Tensor | float:
        """Number of valid anchors on this process, divided by the mean over the processes."""
        loss = self.loss
        if not isinstance(loss, LabelDistanceContrastiveLoss) or not isinstance(loss.reducer, ValidAnchorMeanReducer):
            return 1.0
        listed = [indices.to(labels.device, torch.int64) for indices in indices_tuple]
        anchors, positives = listed[:2]
        relevance = loss.relevance_table()
        if relevance is not None:  # all listed pairs may be relevant; the last two tensors are the negatives' pairs
            anchors = torch.cat([anchors, listed[2] if len(listed) == 4 else listed[0]])
            positives = torch.cat([positives, listed[-1]])
            anchors, positives = _above_zero(relevance, labels, ref_labels, anchors, positives)
        if loss.weighting == "log":  # an entry of 0 removes the pair
            anchors, positives = _above_zero(loss.ldm.matrix, labels, ref_labels, anchors, positives)
        is_valid = torch.zeros(len(labels), dtype=torch.bool, device=labels.device).index_fill(0, anchors, True)
        num_valid = is_valid.sum()
        total = sum_over_processes(num_valid)
        return (num_valid * num_processes()).to(dtype) / total.clamp_min(1)


class DistributedMinerWrapper(pml_distributed.DistributedMinerWrapper):
    """Apply a miner to the rows of all processes. The processes may have different numbers of rows.

    Args:
        miner: any of PML's miners, or a `LabelDistanceMiner`.
        efficient: mine for this process's anchors only, for `DistributedLossWrapper(..., efficient=True)`.

    Raises:
        ValueError: in a call, on all processes, if their label-distance matrices differ.

    Examples:
        >>> from labeldist import DistributedMinerWrapper, LabelDistanceMiner, StaticLDM
        >>> miner = DistributedMinerWrapper(LabelDistanceMiner(StaticLDM.uniform(num_classes=2)))
        >>> len(miner(torch.randn(4, 8), torch.tensor([0, 1, 0, 1])))  # on one process, the miner itself
        4
    """

    def __init__(self, miner: nn.Module, efficient: bool = False):
        super().__init__(miner, efficient=efficient)

    def forward(self, emb, labels, ref_emb=None, ref_labels=None):
        """Return indices of the gathered rows, with this process's rows first."""
        if num_processes() == 1:
            return self.miner(emb, labels, ref_emb, ref_labels)
        check_agreement(self.miner)
        with torch.no_grad():
            references = (None, None) if ref_emb is None else _gather(ref_emb, ref_labels)
            if not self.efficient:
                return self.miner(*_gather(emb, labels), *references)
            labels = labels.to(emb.device)
            if ref_emb is not None:
                return self.miner(emb, labels, *references)
            mined = self.miner(emb, labels, *_gather(emb, labels))
            return without_self_pairs(mined, torch.arange(len(labels), device=labels.device))


def _above_zero(
    table: Tensor, labels: Tensor, ref_labels: Tensor, anchors: Tensor, references: Tensor
) -> tuple[Tensor, Tensor]:
    """The pairs whose classes have an entry above 0."""
    entries = table.detach().to(labels.device)[labels[anchors].long(), ref_labels[references].long()]
    return anchors[entries > 0], references[entries > 0]


def _gather(embeddings: Tensor, labels: Tensor | None, *, own_first: bool = True) -> tuple[Tensor, Tensor]:
    classes = _required(labels).to(embeddings.device)
    return gather_rows(embeddings, own_first=own_first), gather_rows(classes, own_first=own_first)


def _required(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("labels are required: pass one class index for each row of embeddings.")
    return labels
