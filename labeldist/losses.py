"""The label-distance contrastive loss as a pytorch-metric-learning (PML) loss."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor, nn

from labeldist import backends, functional
from labeldist.checks import can_read_values, check_class_pairs, check_indices_tuple, check_relevance
from labeldist.distributed import ProcessGroup, WorldGroup, checksum, num_processes
from labeldist.ldm import LabelDistanceMatrix, StaticLDM
from labeldist.options import Backend, Weighting
from labeldist.pairs import Batch, ClassPairTables
from labeldist.reducers import ValidAnchorMeanReducer

__all__ = ["LabelDistanceContrastiveLoss", "sharded_pairs"]


class LabelDistanceContrastiveLoss(BaseMetricLossFunction):
    r"""Supervised contrastive loss with a weight for each pair of classes.

    Eq. 4-8 and 11-13 of CLLD, `labeldist.functional.label_distance_contrastive`, averaged over the anchors $V$ that
    have a positive: $L_s = \frac{1}{|V|} \sum_{i \in V} \mathrm{KL}(z_i \Vert q_i)$.

    Call it like any pytorch-metric-learning loss: `loss(embeddings, labels)`, optionally with `indices_tuple` from a
    miner, or with `ref_emb` and `ref_labels`. With `indices_tuple` the loss uses the listed pairs. Otherwise it uses
    all pairs; if the batch is its own reference, no row is paired with itself. A batch without positives gives a loss
    of 0 that is still connected to the graph, and the first such batch raises a warning.

    With `relevance` the targets are graded (`labeldist.functional.graded_contrastive_loss`): a reference of class `b`
    is a positive of weight `relevance[a, b]` for an anchor of class `a`, so that rows of related classes are weak
    positives. An `indices_tuple` then selects the pairs of the softmax, and the table alone says how relevant each of
    them is, whether the tuple lists it as positive or as negative.

    With `collect_stats=True` each call records `num_valid_anchors`, `mean_positive_similarity` and
    `mean_negative_similarity` for PML's loggers. The similarities (Eq. 4) are averaged over the pairs in the loss and
    are 0 if there are none; positives are those of the same class (or listed as positive), graded targets or not.

    Args:
        ldm: the label-distance matrix: a `StaticLDM`, an `AdaptiveLDM`, or a `(C, C)` tensor (converted to a
            `StaticLDM`). An entry is a weight, not a dissimilarity: easily confused classes have large entries. The
            matrix is shared, not copied: an update of an adaptive matrix takes effect in the next call. It moves to the
            device of the embeddings.
        temperature: softmax temperature, > 0; 1 in the paper.
        weighting: `"scale"` multiplies the similarity (the paper); `"log"` multiplies the pair's term in the softmax
            sum.
        relevance: graded targets, `(C, C)`, non-negative and finite, positive on the diagonal; row = anchor's class.
            `None` makes positives of the rows of the same class only, as the identity does. A tensor is copied and
            becomes a buffer. An `nn.Parameter` is learned. An `nn.Module` is called without arguments in each call and
            returns the table, with its gradient; use one to keep a learned table positive. An entry of 0 has no
            gradient.
        backend: implementation of the pairwise computation, see `labeldist.backends`. `"auto"` selects the fastest one
            for the batch. Under `DistributedLossWrapper` the processes divide the pairs among themselves, except with
            `"eager"`, or with too few rows for the kernels: then each process computes all pairs.
        validate: check the values of the labels and of `indices_tuple`, and warn about batches without positives. On a
            GPU each call then synchronizes with the device. `False` checks shapes and dtypes only; an index out of
            range on a GPU then makes CUDA unusable in this process. Values are never read inside `torch.compile` or
            during CUDA graph capture.
        **kwargs: `reducer`, `embedding_regularizer`, ... of pytorch-metric-learning. `distance` must be
            `CosineSimilarity()`, because Eq. 4 is defined on cosines.

    Raises:
        ValueError: if `temperature` is not positive, `weighting` is unknown, `distance` is not cosine similarity, or
            `relevance` has another shape or an invalid entry.
        TypeError: if `relevance` is neither a table nor a module that returns one.

    Examples:
        >>> from labeldist import LabelDistanceContrastiveLoss, StaticLDM
        >>> ldm = StaticLDM.from_pairs([("fast", "not slow")], class_names=["fast", "not slow", "question"])
        >>> loss = LabelDistanceContrastiveLoss(ldm)
        >>> embeddings = torch.randn(8, 16, requires_grad=True)
        >>> loss(embeddings, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])).backward()
        >>> embeddings.grad.shape
        torch.Size([8, 16])
        >>> relevance = torch.eye(3)
        >>> relevance[0, 1] = relevance[1, 0] = 0.05  # "fast" and "not slow" are related
        >>> LabelDistanceContrastiveLoss(ldm, relevance=relevance)(embeddings, torch.arange(8) % 3).shape
        torch.Size([])
    """

    def __init__(
        self,
        ldm: LabelDistanceMatrix | Tensor,
        *,
        temperature: float = 1.0,
        weighting: Weighting = "scale",
        relevance: Tensor | Sequence[Sequence[float]] | nn.Module | None = None,
        backend: Backend = "auto",
        validate: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # With another p, PML's class divides by another norm, and the result is not a cosine.
        if type(self.distance) is not CosineSimilarity or (self.distance.p, self.distance.power) != (2, 1):
            raise ValueError(
                "LabelDistanceContrastiveLoss is defined on cosines (Eq. 4): distance must be CosineSimilarity(), got "
                f"{type(self.distance).__name__} with p={self.distance.p} and power={self.distance.power}."
            )
        self.ldm = ldm if isinstance(ldm, LabelDistanceMatrix) else StaticLDM(ldm)
        check_class_pairs(self.ldm.matrix, temperature, weighting)
        backends.check_backend(backend)
        if isinstance(relevance, nn.Parameter | nn.Module):
            self.relevance = relevance
        else:
            # Without graded targets the buffer is None, which `state_dict` leaves out.
            self.register_buffer("relevance", None if relevance is None else _copied_table(relevance))
        table = self.relevance_table()
        if table is not None:
            check_relevance(table, self.ldm.num_classes)
        self.temperature = temperature
        self.weighting: Weighting = weighting
        self.backend: Backend = backend
        self.validate = validate
        self.num_valid_anchors = 0
        self.mean_positive_similarity = 0.0
        self.mean_negative_similarity = 0.0
        self._has_warned = False
        self._group: ProcessGroup | None = None
        self._cached_positions: Tensor | None = None
        self.add_to_recordable_attributes(list_of_names=["temperature"], is_stat=False)
        self.add_to_recordable_attributes(
            list_of_names=["num_valid_anchors", "mean_positive_similarity", "mean_negative_similarity"], is_stat=True
        )

    # PML annotates the return types of its own defaults, which are narrower.
    def get_default_distance(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Cosine similarity, Eq. 4."""
        return CosineSimilarity()

    def get_default_reducer(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """The mean over the anchors that have a positive."""
        return ValidAnchorMeanReducer()

    def agreement(self) -> dict[str, object]:
        """Settings that must be equal on all processes, by name: see `labeldist.distributed.check_agreement`."""
        table = self.relevance_table()
        return {
            "temperature": self.temperature,
            "weighting": self.weighting,
            "backend": self.backend,
            "relevance": "none" if table is None else f"one with checksum {checksum(table)}",
        }

    def relevance_table(self) -> Tensor | None:
        """The current table of graded targets, `(C, C)`, with its gradient; `None` without graded targets."""
        if not isinstance(self.relevance, nn.Module):
            return self.relevance
        table = self.relevance()
        if not isinstance(table, Tensor):
            raise TypeError(
                "relevance must be a (C, C) table or a module that returns one as a tensor, got "
                f"{type(self.relevance).__name__}, which returns {type(table).__name__}."
            )
        return table

    def _tables(self, rows: Tensor) -> ClassPairTables:
        """The class-pair tables on the device of the rows."""
        tables = self.ldm.tables(rows, temperature=self.temperature, weighting=self.weighting)
        table = self.relevance_table()
        if table is None:
            return tables
        if isinstance(self.relevance, nn.Module | nn.Parameter):
            check_relevance(table, self.ldm.num_classes, validate=self.validate)
        elif table.device != rows.device:
            # Users move the model, but rarely the loss. Outside inference mode, so that training can use the buffer.
            with torch.inference_mode(False):
                self.relevance = table = table.to(rows.device)
        # Not _replace: torch.compile of 2.11 cannot pass what that returns on to uncompiled code.
        return ClassPairTables(*tables[:4], relevance=table.to(tables.scale))

    @contextmanager
    def sharded_over(self, group: ProcessGroup) -> Iterator[None]:
        """Context manager in which the processes of a group divide the pairs of each call among themselves.

        All processes pass the same rows and get the loss of all rows. The gradient of a row is the sum of the gradients
        on all processes; `labeldist.distributed.gather_rows` computes this sum in its backward pass.
        `labeldist.DistributedLossWrapper` gathers the rows and enters this context.

        Args:
            group: a process group, such as `labeldist.distributed.WorldGroup()`.
        """
        previous, self._group = self._group, group
        try:
            yield
        finally:
            self._group = previous

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """Return the loss of each anchor in the format of pytorch-metric-learning's reducers."""
        if labels is None or ref_labels is None:
            raise ValueError(
                "labels are required (and ref_labels with ref_emb): label distance is defined between classes."
            )
        # Without references, PML passes the batch itself. A second view, which has other rows and the same labels,
        # counts as references.
        is_self = ref_emb is embeddings and ref_labels is labels
        batch = Batch(embeddings, labels) if is_self else Batch(embeddings, labels, ref_emb, ref_labels)
        pairs = _listed_pairs(batch, indices_tuple, validate=self.validate)
        losses, is_valid = backends.anchor_losses(
            batch,
            self._tables(embeddings),
            pairs=pairs,
            backend=self.backend,
            validate=self.validate,
            group=self._group,
        )
        num_valid = is_valid.sum()
        self._warn_without_positives(num_valid)
        if not len(losses):
            return self.zero_losses()
        if self.collect_stats:
            self._record(num_valid, batch, pairs)
        return {
            "loss": {
                "losses": losses,
                "indices": self._positions(losses),
                "reduction_type": "element",
                "divisor": num_valid.clamp_min(1),
            }
        }

    def _positions(self, losses: Tensor) -> Tensor:
        """The row number of each loss, `(B,)`: made once for batches of one size, which saves a launch."""
        cached = self._cached_positions
        if (
            not can_read_values(losses)
            or cached is None
            or cached.device != losses.device
            or len(cached) != len(losses)
        ):
            # Outside inference mode, so that training can reuse it.
            with torch.inference_mode(False):
                cached = torch.arange(len(losses), device=losses.device)
            if can_read_values(losses):
                self._cached_positions = cached
        return cached

    def _warn_without_positives(self, num_valid: Tensor) -> None:
        """Warn once, at the first training batch without a positive: its gradient is zero."""
        # Only in training: users rarely control the composition of evaluation batches.
        if self._has_warned or not torch.is_grad_enabled() or not can_read_values(num_valid, self.validate):
            return
        if num_valid:
            return
        self._has_warned = True
        kind = "of its class" if self.relevance is None else "of a relevant class"
        warnings.warn(
            f"No row of this batch has a positive (another row {kind}), so its contrastive loss is 0. Draw "
            "several rows per class into each batch, for example with LabelDistanceBatchSampler. This warning is shown "
            "once.",
            # The line that called the loss: above compute_loss, PML's forward and Module.__call__.
            stacklevel=6,
        )

    @torch.no_grad()
    def _record(self, num_valid: Tensor, batch: Batch, pairs: tuple[Tensor, Tensor] | None) -> None:
        self.num_valid_anchors = int(num_valid)
        if pairs is None:
            means = _mean_similarities(batch, self.ldm.num_classes)
        else:
            similarity = functional.cosine_similarity(batch.embeddings, batch.ref_emb)
            masks = pairs[0], pairs[1] & ~pairs[0]
            means = [(similarity * mask).sum() / mask.sum().clamp_min(1) for mask in masks]
        self.mean_positive_similarity, self.mean_negative_similarity = (mean.item() for mean in means)


def _copied_table(relevance: Tensor | Sequence[Sequence[float]]) -> Tensor:
    """A copy of a table of relevance, floating point."""
    try:
        table = torch.as_tensor(relevance).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        # A Relation is described in a part that this one does not know.
        cure = " Give the table that its relevance() returns." if hasattr(relevance, "relevance") else ""
        raise TypeError(
            f"relevance must be a (C, C) table or a module that returns one, got {type(relevance).__name__}.{cure}"
        ) from None
    return table if table.is_floating_point() else table.to(torch.get_default_dtype())


def _mean_similarities(batch: Batch, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean similarity of the positive and the negative pairs, from sums over classes in O(B + R) time."""

    def with_ones(rows: Tensor) -> Tensor:
        units = functional.unit_rows(rows)
        # (B, D + 1): the sum of the last column counts rows.
        return torch.cat([units, units.new_ones(len(rows), 1)], dim=1)

    def class_sums(rows: Tensor, classes: Tensor) -> Tensor:
        rows = with_ones(rows)
        sums = rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, classes.long(), rows)
        # Large sums are subtracted below, which needs float64; not every device has it, so use the CPU.
        return sums.cpu().double()  # (C, D + 1)

    anchor_sums = class_sums(batch.embeddings, batch.labels)
    reference_sums = anchor_sums if batch.is_self else class_sums(*batch.references)
    # (D + 1,): terms of the sum of cosines, then the number of pairs.
    positives = (anchor_sums * reference_sums).sum(dim=0)
    all_pairs = anchor_sums.sum(dim=0) * reference_sums.sum(dim=0)
    negatives = all_pairs - positives
    if batch.is_self:
        positives = positives - with_ones(batch.embeddings).square().sum(dim=0).cpu()

    def mean(sums: Tensor) -> Tensor:
        number = sums[-1]
        return torch.where(number > 0, (sums[:-1].sum() / number.clamp_min(1) + 1) / 2, 0)

    return mean(positives), mean(negatives)


def _listed_pairs(batch: Batch, indices_tuple, *, validate: bool = True) -> tuple[Tensor, Tensor] | None:
    """Masks `(B, R)` of the listed positives and of all listed pairs; `None`, meaning all pairs, without a list."""
    if indices_tuple is None:
        return None
    labels, ref_labels = batch.labels, batch.references[1]
    check_indices_tuple(indices_tuple, len(labels), len(ref_labels), validate=validate)
    # int64, because a uint8 tensor would be read as a mask.
    indices_tuple = tuple(indices.to(labels.device, torch.int64) for indices in indices_tuple)
    # PML compares labels and ref_labels by identity to find out whether the anchors are their own references.
    anchors, positive, negative_anchors, negative = lmu.convert_to_pairs(indices_tuple, labels, ref_labels)
    positives = torch.zeros(len(labels), len(ref_labels), dtype=torch.bool, device=labels.device)
    candidates = positives.clone()
    positives[anchors, positive] = True
    candidates[negative_anchors, negative] = True
    return positives, candidates | positives


def sharded_pairs(loss: nn.Module) -> AbstractContextManager[None]:
    """Context manager in which all processes divide the pairs of a `LabelDistanceContrastiveLoss` among themselves.

    Every process must call the loss with the same rows in the same order, as returned by `gather_rows`. The context has
    no effect on other losses.

    Args:
        loss: any loss. There is no effect on a `LabelDistanceContrastiveLoss` inside another module, because that
            module may change the rows; except in `FineLabelsOnly`, which takes the same rows on all processes.

    Examples:
        >>> from labeldist import StaticLDM
        >>> loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=2))
        >>> with sharded_pairs(loss):
        ...     loss(torch.randn(4, 8), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([])
    """
    shard = getattr(loss, "sharded_over", None)
    return nullcontext() if shard is None or num_processes() == 1 else shard(WorldGroup())
