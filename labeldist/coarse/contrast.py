"""The contrastive loss of batches in which some rows have only a coarse label."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor, nn

from labeldist.checks import check_count, check_indices_tuple, check_labels
from labeldist.coarse.classification import MarginalCrossEntropy
from labeldist.distributed import ProcessGroup, num_processes
from labeldist.ldm import LabelDistanceMatrix

__all__ = ["FineLabelsOnly", "check_coarse_contrast", "takes_coarse_labels"]


class FineLabelsOnly(nn.Module):
    """Apply a contrastive loss to the rows with a fine label: those whose label is a class.

    If only the group of a row is known, the row may or may not have the class of an anchor. So it is left out: a row
    with a label of `num_classes` or more is neither an anchor nor a reference. If no row is left, the loss is 0 and
    still connected to the graph.

    The loss may be a `LabelDistanceContrastiveLoss`, any pytorch-metric-learning loss, a `CrossBatchMemory` (coarse
    rows never enter its queue), or a `DistributedLossWrapper` around one of these. Processes may have different numbers
    of fine rows, or none. `FineLabelsOnly` itself may be used inside `TwoViewLoss`, `CrossBatchMemory` and
    `DistributedLossWrapper`.

    Args:
        loss: the contrastive loss, called as `loss(embeddings, labels)`.
        num_classes: `C`; `None` uses that of the label-distance matrix in `loss`.

    Raises:
        ValueError: if `num_classes` is missing and `loss` has no matrix, or it differs from that of the matrix.
        TypeError: if `loss` is not a loss of embeddings and labels.

    Examples:
        >>> from labeldist import LabelDistanceContrastiveLoss, StaticLDM
        >>> loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=2))
        >>> embeddings, labels = torch.randn(5, 8), torch.tensor([0, 1, 0, 1, 2])
        >>> torch.equal(FineLabelsOnly(loss)(embeddings, labels), loss(embeddings[:4], labels[:4]))
        True
    """

    def __init__(self, loss: nn.Module, num_classes: int | None = None):
        super().__init__()
        if not isinstance(loss, nn.Module) or isinstance(loss, LabelDistanceMatrix):
            raise TypeError(f"loss must be a loss of embeddings and labels, got {type(loss).__name__}.")
        matrix = next((part for part in loss.modules() if isinstance(part, LabelDistanceMatrix)), None)
        if num_classes is None:
            if matrix is None:
                raise ValueError(
                    f"num_classes is required: {type(loss).__name__} has no label-distance matrix to take it from."
                )
            num_classes = matrix.num_classes
        check_count("num_classes", num_classes)
        if matrix is not None and matrix.num_classes != num_classes:
            raise ValueError(f"num_classes must be that of the LDM, {matrix.num_classes}, got {num_classes}.")
        self.loss = loss
        self.num_classes = num_classes

    def sharded_over(self, group: ProcessGroup) -> AbstractContextManager[None]:
        """Context manager in which the processes divide the pairs, if the loss supports it.

        See `LabelDistanceContrastiveLoss.sharded_over`. All processes leave out the same rows.
        """
        shard = getattr(self.loss, "sharded_over", None)
        return nullcontext() if shard is None else shard(group)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Sequence[Tensor] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the rows with a fine label.

        Args:
            embeddings: `(B, D)`.
            labels: `(B,)`, integer; a label below C is a class, any other a group.
            indices_tuple: pairs or triplets of these rows; those with a coarse row are left out.
            ref_emb: references, `(R, D)`; coarse rows are left out.
            ref_labels: labels of the references, `(R,)`.
            enqueue_mask: boolean `(B,)`, as in `CrossBatchMemory`.

        Returns:
            The result of the loss, usually a scalar.

        Raises:
            ValueError: if shapes disagree; on several processes, if an `indices_tuple` is passed and the loss gathers
                rows.
        """
        if labels is None or (ref_emb is None) != (ref_labels is None):
            raise ValueError(
                "labels are required, and ref_labels with ref_emb: they tell fine labels from coarse ones."
            )
        check_labels(labels, len(embeddings), self.num_classes, validate=False)
        options: dict[str, Any] = {}
        rows = ref_rows = (labels < self.num_classes).nonzero()[:, 0]
        num_references = len(labels)
        kept = embeddings[rows], labels[rows]
        if ref_emb is not None and ref_labels is not None:
            check_labels(ref_labels, len(ref_emb), self.num_classes, name="ref_labels", rows="ref_emb", validate=False)
            num_references = len(ref_labels)
            ref_rows = (ref_labels < self.num_classes).nonzero()[:, 0]
            # Losses tell by identity that the batch is its own reference.
            is_self = ref_emb is embeddings and ref_labels is labels
            references = kept if is_self else (ref_emb[ref_rows], ref_labels[ref_rows])
            options = {"ref_emb": references[0], "ref_labels": references[1]}
        gathers = num_processes() > 1 and any(isinstance(part, DistributedLossWrapper) for part in self.loss.modules())
        if indices_tuple is not None:
            if gathers:
                raise ValueError(
                    "An indices_tuple refers to the rows of all processes, and FineLabelsOnly sees those of one. Swap "
                    "the wrappers: DistributedLossWrapper(FineLabelsOnly(loss))."
                )
            check_indices_tuple(indices_tuple, len(labels), num_references)
            options["indices_tuple"] = _translated(indices_tuple, rows, len(labels), ref_rows, num_references)
        if enqueue_mask is not None:
            options["enqueue_mask"] = enqueue_mask[rows.to(enqueue_mask.device)]
        # A process without such rows takes part in the exchange: the others wait for it.
        if gathers or (len(rows) and len(ref_rows)):
            return self.loss(*kept, **options)
        return embeddings[:0].sum() + (0 if ref_emb is None else ref_emb[:0].sum())


def _translated(
    indices_tuple: Sequence[Tensor], rows: Tensor, num_rows: int, ref_rows: Tensor, num_references: int
) -> tuple[Tensor, ...]:
    """The pairs or triplets of fine rows, by their positions among the fine rows."""

    def positions(kept: Tensor, number: int) -> Tensor:
        new = torch.full((number,), -1, dtype=torch.int64, device=rows.device)
        return new.index_copy(0, kept.to(rows.device), torch.arange(len(kept), device=rows.device))

    anchors, references = positions(rows, num_rows), positions(ref_rows, num_references)
    is_triplets = len(indices_tuple) == 3
    tables = (anchors, references, references) if is_triplets else (anchors, references, anchors, references)
    found = [table[indices.to(rows.device).long()] for table, indices in zip(tables, indices_tuple, strict=True)]
    translated: list[Tensor] = []
    for together in [found] if is_triplets else [found[:2], found[2:]]:
        is_fine = torch.stack(together).min(dim=0).values >= 0 if len(together[0]) else together[0].bool()
        translated += [indices[is_fine] for indices in together]
    return tuple(translated)


def takes_coarse_labels(module: nn.Module | None) -> bool:
    """Whether a module contains a `MarginalCrossEntropy`, so that labels may be coarse.

    Examples:
        >>> takes_coarse_labels(MarginalCrossEntropy([[0, 1]], num_classes=3)), takes_coarse_labels(nn.Identity())
        (True, False)
    """
    return module is not None and any(isinstance(part, MarginalCrossEntropy) for part in module.modules())


def check_coarse_contrast(contrastive: nn.Module | None, classification: object) -> None:
    """Raise `ValueError` if `classification` accepts coarse labels, but `contrastive` would treat them as classes.

    Examples:
        >>> check_coarse_contrast(nn.Identity(), MarginalCrossEntropy([[0, 1]], num_classes=3))
        Traceback (most recent call last):
        ...
        ValueError: contrastive would take coarse labels for classes: give FineLabelsOnly(Identity(...)).
    """
    is_coarse = isinstance(classification, nn.Module) and takes_coarse_labels(classification)
    if is_coarse and contrastive is not None and not any(isinstance(p, FineLabelsOnly) for p in contrastive.modules()):
        raise ValueError(
            f"contrastive would take coarse labels for classes: give FineLabelsOnly({type(contrastive).__name__}(...))."
        )
