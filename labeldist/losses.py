"""The label-distance contrastive loss as a pytorch-metric-learning loss, and the joint objective."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import BaseReducer
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labeldist import backends, functional
from labeldist.backends import Backend, TableTraits
from labeldist.distributed import ProcessGroup
from labeldist.functional import Weighting
from labeldist.indices import check_indices_tuple
from labeldist.ldm import LabelDistanceMatrix, StaticLDM

__all__ = ["JointLoss", "JointTerms", "LabelDistanceContrastiveLoss", "ValidAnchorMeanReducer"]


# Tables of more classes, 8 MiB and above, are made anew for each call.
MAX_KEPT_CLASSES = 1024


class ValidAnchorMeanReducer(BaseReducer):
    """Mean over the anchors that have a positive, without a data-dependent branch.

    The sum of the losses over `divisor`, the number of valid anchors that the loss reports. Unlike PML's
    `AvgNonZeroReducer` it compiles without a graph break and counts a valid anchor whose loss happens to be 0.

    Examples:
        >>> from labeldist import LabelDistanceContrastiveLoss, StaticLDM
        >>> LabelDistanceContrastiveLoss(StaticLDM.uniform(1.0, num_classes=2)).reducer
        ValidAnchorMeanReducer()
    """

    def unpack_loss_info(self, loss_info):
        """Pass the divisor on to the reduction, where the loss reports one."""
        losses, indices, reduction_type, kwargs = super().unpack_loss_info(loss_info)
        if reduction_type != "already_reduced" and "divisor" in loss_info:
            kwargs = {"divisor": loss_info["divisor"]}
        return losses, indices, reduction_type, kwargs

    def element_reduction(self, losses, loss_indices, embeddings, labels, divisor=None):
        """Sum over `divisor`; over the number of losses where the loss reports no divisor."""
        if divisor is None:
            return losses.sum() / max(len(losses), 1)
        return losses.sum() / divisor

    pos_pair_reduction = neg_pair_reduction = triplet_reduction = element_reduction


class _Known(NamedTuple):
    """What a matrix is known to be, in the words of `backends.anchor_losses`."""

    traits: TableTraits
    tables: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, matrix: Tensor, *, temperature: float, weighting: Weighting) -> "_Known":
        traits = backends.table_traits(matrix, temperature=temperature, weighting=weighting)
        if len(matrix) > MAX_KEPT_CLASSES:
            return cls(traits, None)
        # Kept from an evaluation, they must do for a training step.
        with torch.inference_mode(False), torch.no_grad():
            return cls(
                traits, functional.class_pair_tables(matrix.float(), temperature=temperature, weighting=weighting)
            )


class LabelDistanceContrastiveLoss(BaseMetricLossFunction):
    r"""Supervised contrastive loss whose pairs are weighted by a label-distance matrix.

    Eq. 4-8 and 11-13 of CLLD, `labeldist.functional.label_distance_contrastive`, reduced over the anchors that have
    a positive: $L_s = \frac{1}{|V|} \sum_{i \in V} \mathrm{KL}(z_i \Vert q_i)$.

    Called as any pytorch-metric-learning loss: `loss(embeddings, labels)`, or with `indices_tuple` from a miner, or
    with `ref_emb` and `ref_labels`. Only pairs that `indices_tuple` lists take part; without it all pairs do, except a
    row with itself where the batch is its own reference. A batch without any positive gives 0 with the graph attached,
    and a warning the first time.

    With `collect_stats=True` each call records `num_valid_anchors`, `mean_positive_similarity` and
    `mean_negative_similarity` (Eq. 4, over the pairs that take part; 0 where there are none) for PML's loggers.

    Args:
        ldm: the label distances: a `StaticLDM`, an `AdaptiveLDM`, or a `(C, C)` tensor (made a `StaticLDM`).
            Shared, not copied: an adaptive matrix that is updated elsewhere is the one that the next call uses. It
            follows the embeddings to their device.
        temperature: softmax temperature, > 0; 1 in the paper.
        weighting: `"scale"` multiplies the similarity (the paper), `"log"` the pair's weight in the softmax's sum.
        backend: how the pairs are computed: see `labeldist.backends`. `"auto"` takes what is fastest for the batch.
            Several processes share the pairs of all rows; with `"eager"`, or few rows for the kernels, each process
            computes all of them.
        validate: check the values of labels and of `indices_tuple`, and look for batches without positives; on a GPU
            each call then waits for the device. `False` leaves shapes and types only, and a wrong index on a GPU ends
            the process's use of it. Values are never read inside `torch.compile` or while a CUDA graph is captured.
        **kwargs: `reducer`, `embedding_regularizer`, ... of pytorch-metric-learning. `distance` may only be
            `CosineSimilarity()`: Eq. 4 is defined on cosines.

    Raises:
        ValueError: if `temperature` is not positive, `weighting` unknown, or `distance` not cosine.

    Examples:
        >>> from labeldist import LabelDistanceContrastiveLoss, StaticLDM
        >>> ldm = StaticLDM.from_pairs([("fast", "not slow")], class_names=["fast", "not slow", "question"])
        >>> loss = LabelDistanceContrastiveLoss(ldm)
        >>> embeddings = torch.randn(8, 16, requires_grad=True)
        >>> loss(embeddings, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])).backward()
        >>> embeddings.grad.shape
        torch.Size([8, 16])
    """

    def __init__(
        self,
        ldm: LabelDistanceMatrix | Tensor,
        *,
        temperature: float = 1.0,
        weighting: Weighting = "scale",
        backend: Backend = "auto",
        validate: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # With another p, PML's class divides by another norm: no cosine.
        if type(self.distance) is not CosineSimilarity or (self.distance.p, self.distance.power) != (2, 1):
            raise ValueError(
                "LabelDistanceContrastiveLoss is defined on cosines (Eq. 4): distance must be CosineSimilarity(), got "
                f"{type(self.distance).__name__} with p={self.distance.p} and power={self.distance.power}."
            )
        self.ldm = ldm if isinstance(ldm, LabelDistanceMatrix) else StaticLDM(ldm)
        functional.class_pair_tables(self.ldm.matrix, temperature=temperature, weighting=weighting)
        backends.check_backend(backend)
        self.temperature = temperature
        self.weighting: Weighting = weighting
        self.backend: Backend = backend
        self.validate = validate
        self.num_valid_anchors = 0
        self.mean_positive_similarity = 0.0
        self.mean_negative_similarity = 0.0
        self._has_warned = False
        self._known: tuple[Tensor, tuple, _Known] | None = None
        self._group: ProcessGroup | None = None
        self.add_to_recordable_attributes(list_of_names=["temperature"], is_stat=False)
        self.add_to_recordable_attributes(
            list_of_names=["num_valid_anchors", "mean_positive_similarity", "mean_negative_similarity"], is_stat=True
        )

    def __getstate__(self):
        """What is known of the matrix is read again by a copy."""
        return {**self.__dict__, "_known": None}

    # PML annotates the narrower types of its own defaults.
    def get_default_distance(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Cosine similarity, Eq. 4."""
        return CosineSimilarity()

    def get_default_reducer(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """The mean over anchors that have a positive."""
        return ValidAnchorMeanReducer()

    @contextmanager
    def sharded_over(self, group: ProcessGroup) -> Iterator[None]:
        """While it holds, the members of a group share the pairs of each call: all of them call with the same rows.

        All members get the loss of all rows. A row's gradient is the sum of the members' gradients, as of rows from
        `labeldist.distributed.gather_rows`. `labeldist.DistributedLossWrapper` does both.

        Args:
            group: such as `labeldist.distributed.WorldGroup()`.
        """
        earlier, self._group = self._group, group
        try:
            yield
        finally:
            self._group = earlier

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """Return one loss an anchor in the form that pytorch-metric-learning's reducers take."""
        if labels is None or ref_labels is None:
            raise ValueError(
                "labels are required (and ref_labels with ref_emb): label distance is defined between classes."
            )
        if self.ldm.matrix.device != embeddings.device:
            # Moved by an evaluation, it can still be updated after it.
            with torch.inference_mode(False):
                self.ldm.to(embeddings.device)
        # PML passes the batch itself where no references are given. Other rows under the same labels, a second view,
        # are references like any.
        same = ref_emb is embeddings and ref_labels is labels
        references = {} if same else {"ref_emb": ref_emb, "ref_labels": ref_labels}
        pairs = _listed_pairs(labels, ref_labels, indices_tuple, validate=self.validate)
        losses, is_valid = backends.anchor_losses(
            embeddings,
            labels,
            self.ldm.matrix,
            **references,
            pairs=pairs,
            temperature=self.temperature,
            weighting=self.weighting,
            backend=self.backend,
            validate=self.validate,
            **self._what_is_known(),
            group=self._group,
        )
        num_valid = is_valid.sum()
        self._watch(num_valid)
        if not len(losses):
            return self.zero_losses()
        if self.collect_stats:
            self._record(num_valid, embeddings, labels, references, pairs)
        return {
            "loss": {
                "losses": losses,
                "indices": torch.arange(len(losses), device=losses.device),
                "reduction_type": "element",
                "divisor": num_valid.clamp_min(1),
            }
        }

    def _what_is_known(self) -> dict[str, Any]:
        """Of the matrix on a GPU: read, and made into tables, once for each change. A CPU does both at no cost."""
        matrix = self.ldm.matrix
        # What is recorded now may run when the matrix has other entries.
        if not matrix.is_cuda or matrix.requires_grad or matrix.is_inference() or not functional.may_read(matrix):
            return {}
        state = matrix.data_ptr(), matrix._version, self.temperature, self.weighting
        # The matrix itself too: another's entries may come to lie where those of one that is gone lay.
        if self._known is None or self._known[0] is not matrix or self._known[1] != state:
            self._known = matrix, state, _Known.of(matrix, temperature=self.temperature, weighting=self.weighting)
        return self._known[2]._asdict()

    def _watch(self, num_valid: Tensor) -> None:
        """Warn of a batch that teaches nothing, once."""
        # An evaluation's batches are as they come.
        if self._has_warned or not torch.is_grad_enabled() or not functional.may_read(num_valid, self.validate):
            return
        if num_valid:
            return
        self._has_warned = True
        warnings.warn(
            "No row of this batch has a positive (another row of its class), so its contrastive loss is 0. Draw "
            "several rows of a class into each batch, for example with LabelDistanceBatchSampler. This is said once.",
            stacklevel=6,  # past compute_loss, PML's forward and Module's call: the line that called the loss
        )

    @torch.no_grad()
    def _record(self, num_valid: Tensor, embeddings: Tensor, labels: Tensor, references: dict, pairs) -> None:
        self.num_valid_anchors = int(num_valid)
        if pairs is None:
            means = _mean_similarities(embeddings, labels, self.ldm.num_classes, **references)
        else:
            similarity = functional.cosine_similarity(embeddings, references.get("ref_emb"))
            masks = pairs[0], pairs[1] & ~pairs[0]
            means = [(similarity * mask).sum() / mask.sum().clamp_min(1) for mask in masks]
        self.mean_positive_similarity, self.mean_negative_similarity = (mean.item() for mean in means)


def _mean_similarities(
    embeddings: Tensor,
    labels: Tensor,
    num_classes: int,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean similarity of the pairs of one class, and of those of two classes; from class sums, without any pair."""

    def with_ones(rows: Tensor) -> Tensor:
        units = functional.unit_rows(rows)
        return torch.cat([units, units.new_ones(len(rows), 1)], dim=1)  # (B, D + 1): the ones count the rows

    def class_sums(rows: Tensor, classes: Tensor) -> Tensor:
        rows = with_ones(rows)
        sums = rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, classes.long(), rows)
        # On the CPU: not every device has float64, in which large sums are taken from each other.
        return sums.cpu().double()  # (C, D + 1)

    of_anchors = class_sums(embeddings, labels)
    of_references = of_anchors if ref_emb is None or ref_labels is None else class_sums(ref_emb, ref_labels)
    positives = (of_anchors * of_references).sum(dim=0)  # (D + 1,): of cosines, and how many
    everything = of_anchors.sum(dim=0) * of_references.sum(dim=0)
    negatives = everything - positives
    if ref_emb is None:
        positives = positives - with_ones(embeddings).square().sum(dim=0).cpu()

    def mean(sums: Tensor) -> Tensor:
        number = sums[-1]
        return torch.where(number > 0, (sums[:-1].sum() / number.clamp_min(1) + 1) / 2, 0)

    return mean(positives), mean(negatives)


def _listed_pairs(
    labels: Tensor, ref_labels: Tensor, indices_tuple, *, validate: bool = True
) -> tuple[Tensor, Tensor] | None:
    """Masks `(B, R)` of the listed positives and of all listed pairs; `None` where nothing is listed: all pairs."""
    if indices_tuple is None:
        return None
    check_indices_tuple(indices_tuple, len(labels), len(ref_labels), validate=validate)
    # Only int64 indexes as an index in every case: uint8 would select as a mask.
    indices_tuple = tuple(indices.to(labels.device, torch.int64) for indices in indices_tuple)
    anchors, positive, negative_anchors, negative = lmu.convert_to_pairs(indices_tuple, labels, ref_labels)
    positives = torch.zeros(len(labels), len(ref_labels), dtype=torch.bool, device=labels.device)
    candidates = positives.clone()
    positives[anchors, positive] = True
    candidates[negative_anchors, negative] = True
    return positives, candidates | positives


class JointTerms(NamedTuple):
    """The parts of one joint objective, each a scalar in nats.

    Attributes:
        total: Eq. 9, what is minimised.
        cross_entropy: Eq. 10.
        contrastive: Eq. 11.
    """

    total: Tensor
    cross_entropy: Tensor
    contrastive: Tensor


class JointLoss(nn.Module):
    r"""Cross-entropy and a contrastive loss together. Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$.

    With several views a text, stack them: all rows of the first view, then all of the second. Choice: the cross-entropy
    is over every row of `logits`; pass the first view's logits alone for the letter of Eq. 10.

    Args:
        contrastive: $L_s$, called as `contrastive(embeddings, labels)`; any pytorch-metric-learning loss fits.
        ce_weight: $\lambda$ in [0, 1], the cross-entropy's share; 0.5 in the paper.

    Raises:
        ValueError: if `ce_weight` lies outside [0, 1].
        TypeError: if `contrastive` is no loss of embeddings and labels.

    Examples:
        >>> from labeldist import JointLoss, LabelDistanceContrastiveLoss, StaticLDM
        >>> objective = JointLoss(LabelDistanceContrastiveLoss(StaticLDM.uniform(1.0, num_classes=3)))
        >>> objective(torch.randn(4, 3), torch.randn(4, 8), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([])
    """

    def __init__(self, contrastive: nn.Module, *, ce_weight: float = 0.5):
        super().__init__()
        functional.check_ce_weight(ce_weight)
        if not isinstance(contrastive, nn.Module) or isinstance(contrastive, LabelDistanceMatrix | JointLoss):
            raise TypeError(
                "contrastive must be a loss of embeddings and labels, such as LabelDistanceContrastiveLoss(ldm), got "
                f"{type(contrastive).__name__}."
            )
        self.contrastive = contrastive
        self.ce_weight = ce_weight

    def terms(self, logits: Tensor, embeddings: Tensor, labels: Tensor, **pairs) -> JointTerms:
        """The total and both parts. Arguments as in `forward`."""
        if not 0 < len(logits) <= len(labels):
            raise ValueError(f"logits must have between 1 and {len(labels)} rows (one a label), got {len(logits)}.")
        ldm = _matrix_of(self.contrastive)
        if isinstance(ldm, LabelDistanceMatrix) and logits.shape[1:] != (ldm.num_classes,):
            raise ValueError(
                f"logits must have shape (B, {ldm.num_classes}), one column a class of the LDM, "
                f"got {tuple(logits.shape)}."
            )
        # The contrastive loss first: it checks the labels.
        contrastive = self.contrastive(embeddings, labels, **pairs)
        classification = cross_entropy(functional.at_least_float32(logits), labels[: len(logits)].long())
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
            **pairs: handed on to the contrastive loss: `indices_tuple`, `ref_emb` and `ref_labels`.

        Returns:
            Scalar, in nats.
        """
        return self.terms(logits, embeddings, labels, **pairs).total


def _matrix_of(loss: nn.Module) -> object:
    """The LDM of a loss, through any wrappers around it."""
    while not hasattr(loss, "ldm") and isinstance(getattr(loss, "loss", None), nn.Module):
        loss = loss.loss  # type: ignore[assignment]
    return getattr(loss, "ldm", None)
