"""A miner that selects hard pairs or triplets by similarity and label distance."""

import math
from typing import Literal

import torch
from pytorch_metric_learning.distances import BaseDistance, CosineSimilarity
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor

from labeldist import functional
from labeldist.checks import check_batch, check_class_pairs
from labeldist.ldm import LabelDistanceMatrix
from labeldist.options import Weighting
from labeldist.pairs import Batch
from labeldist.precision import at_least_float32
from labeldist.relation import Relation
from labeldist.relation.description import matrix_of_candidates

__all__ = ["LabelDistanceMiner"]


class LabelDistanceMiner(BaseMiner):
    r"""Select the hardest negatives of each anchor, by similarity and label distance.

    The hardness of a pair is its logit (Eq. 8) at temperature 1: $g_{ij} = \mathrm{LDM}[y_i, y_j]\, S_{ij}$, or
    $S_{ij} + \log \mathrm{LDM}[y_i, y_j]$ with `weighting="log"`. Hard negatives have a large $g$, hard positives a
    small one. With `"log"`, an LDM entry of 0 removes the pair.

    The miner works with any pytorch-metric-learning loss: `loss(embeddings, labels, miner(embeddings, labels))`. Pass
    the same LDM object to miner and loss, so that an update of an adaptive matrix affects both.

    Special cases with an LDM of ones: one negative and one positive per anchor is batch-hard mining (`BatchHardMiner`).
    `margin` alone gives `MultiSimilarityMiner` for pairs and `TripletMarginMiner` for triplets; their margin is twice
    as large, because $S$ has half the scale of the cosine. Memory grows with the number of pairs and of selected
    triplets, not with the number of all triplets of the batch.

    Rows with a NaN are selected as the hardest, so that the loss shows the NaN. If there is nothing to mine, the result
    consists of empty tensors.

    With `collect_stats=True` each call records `mean_mined_distance`, the mean LDM entry of the mined negatives.

    Args:
        ldm: the label-distance matrix: a `LabelDistanceMatrix` (shared, not copied) or a `(C, C)` tensor. Easily
            confused classes have large entries. For a `Relation`, the miner uses `near()`: related classes are hard
            negatives, whatever the loss does with them.
        num_negatives: maximum number of negatives per anchor; `None` for all.
        num_positives: maximum number of positives per anchor; `None` for all.
        margin: excludes easy pairs. With $P$ and $N$ the anchor's positives and negatives: for pairs, a negative is
            kept if $g_{an} > \min_P g_{ap} - \mathrm{margin}$, a positive if
            $g_{ap} < \max_N g_{an} + \mathrm{margin}$. For triplets, a triplet is kept if
            $g_{ap} - g_{an} \le \mathrm{margin}$. May be negative. `None` excludes nothing.
        output: `"pairs"` for `(a1, p, a2, n)`, or `"triplets"` for `(a, p, n)`, which combine each positive of an
            anchor with each of its negatives.
        weighting: `"scale"` or `"log"`, as in the loss.
        validate: check the range of the labels; on a GPU this synchronizes with the device.
        **kwargs: `distance` and `collect_stats` of pytorch-metric-learning. $S$ is $(\cos + 1) / 2$ for
            `CosineSimilarity()`, the default, and $1 / (1 + d)$ for a distance $d$.

    Raises:
        ValueError: if a number is out of range, an option is unknown, or `distance` is a similarity other than cosine.

    Examples:
        >>> from pytorch_metric_learning.losses import TripletMarginLoss
        >>> from labeldist import LabelDistanceMiner, StaticLDM
        >>> ldm = StaticLDM.from_pairs([(0, 1)], num_classes=3)
        >>> miner = LabelDistanceMiner(ldm, num_negatives=1, output="triplets")
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.5, 0.9]])
        >>> labels = torch.tensor([0, 0, 1, 2])
        >>> miner(embeddings, labels)  # class 1 is less similar to class 0 than class 2 is, but easily confused with it
        (tensor([0, 1]), tensor([1, 0]), tensor([2, 2]))
        >>> TripletMarginLoss()(embeddings, labels, miner(embeddings, labels)).shape
        torch.Size([])
    """

    def __init__(
        self,
        ldm: LabelDistanceMatrix | Relation | Tensor,
        *,
        num_negatives: int | None = 5,
        num_positives: int | None = None,
        margin: float | None = None,
        output: Literal["pairs", "triplets"] = "pairs",
        weighting: Weighting = "scale",
        validate: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, number in (("num_negatives", num_negatives), ("num_positives", num_positives)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, or None for all, got {number}.")
        if output not in ("pairs", "triplets"):
            raise ValueError(f"output must be 'pairs' or 'triplets', got {output!r}.")
        if margin is not None and not math.isfinite(margin):
            raise ValueError(f"margin must be a finite number, or None for none, got {margin}.")
        _check_distance(self.distance)
        self.ldm = matrix_of_candidates(ldm)
        check_class_pairs(self.ldm.matrix, 1.0, weighting)
        self.num_negatives = num_negatives
        self.num_positives = num_positives
        self.margin = margin
        self.output = output
        self.weighting: Weighting = weighting
        self.validate = validate
        self.mean_mined_distance = 0.0
        self.add_to_recordable_attributes(list_of_names=["mean_mined_distance"], is_stat=True)

    def get_default_distance(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Cosine similarity, Eq. 4."""
        return CosineSimilarity()

    def mine(self, embeddings, labels, ref_emb, ref_labels):
        """Return the selected pairs or triplets. Anchors are indices of `embeddings`, the others of `ref_emb`."""
        if ref_labels is None:
            raise ValueError("ref_labels are required with ref_emb: label distance is defined between classes.")
        # Without references, PML passes the batch itself. A second view, which has other rows and the same labels,
        # counts as references, as in the loss.
        is_self = ref_emb is embeddings and ref_labels is labels
        batch = Batch(embeddings, labels) if is_self else Batch(embeddings, labels, ref_emb, ref_labels)
        check_batch(batch, self.ldm.num_classes, validate=self.validate)
        hardness = self._hardness(batch)
        # A pair that the LDM removes is not a candidate. Not `hardness > -inf`, which would exclude NaN: a NaN must
        # reach the loss.
        is_candidate = hardness != -torch.inf
        positives = functional.positive_pairs(labels, batch.ref_labels) & is_candidate
        negatives = (labels[:, None] != ref_labels[None, :]) & is_candidate
        mined = self._select(hardness, positives, negatives)
        if self.collect_stats:
            self._record(mined, labels, ref_labels)
        return mined

    def _hardness(self, batch: Batch) -> Tensor:
        with torch.autocast(batch.embeddings.device.type, enabled=False):
            rows = at_least_float32(batch.embeddings)
            references = rows if batch.ref_emb is None else at_least_float32(batch.ref_emb).to(rows.dtype)
            similarity = self.distance(rows, references)
            similarity = (similarity + 1) / 2 if self.distance.is_inverted else 1 / (1 + similarity)
            tables = self.ldm.tables(rows, weighting=self.weighting)
            return functional.pair_logits(similarity, batch.labels, batch.references[1], tables)

    def _select(self, hardness: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, ...]:
        """Indices of the mined pairs or triplets, from masks `(B, R)` of the candidates."""
        if self.margin is not None and self.output == "pairs":
            positives, negatives = _within_margin(hardness, positives, negatives, self.margin)
        positives = _hardest(-hardness, positives, self.num_positives)
        negatives = _hardest(hardness, negatives, self.num_negatives)
        if self.output == "pairs":
            return *positives.nonzero(as_tuple=True), *negatives.nonzero(as_tuple=True)
        anchors, positive, negative = _triplets(positives, negatives)
        if self.margin is None:
            return anchors, positive, negative
        keep = ~(hardness[anchors, positive] - hardness[anchors, negative] > self.margin)
        return anchors[keep], positive[keep], negative[keep]

    def _record(self, mined: tuple[Tensor, ...], labels: Tensor, ref_labels: Tensor) -> None:
        anchors, negatives = mined[0 if len(mined) == 3 else 2], mined[-1]
        if len(negatives):
            distances = self.ldm.matrix[labels[anchors].long(), ref_labels[negatives].long()]
            self.mean_mined_distance = distances.mean().item()


def _check_distance(distance: torch.nn.Module) -> None:
    """Raise `ValueError` unless `distance` is cosine similarity or a distance, which is 0 for equal rows."""
    if isinstance(distance, BaseDistance):
        # With another p, PML's class divides by another norm, and the result is not a cosine.
        is_cosine = isinstance(distance, CosineSimilarity) and (distance.p, distance.power) == (2, 1)
        if is_cosine or not distance.is_inverted:
            return
    raise ValueError(
        "distance must be CosineSimilarity() with p=2 and power=1, or a distance such as LpDistance(), got "
        f"{type(distance).__name__}: a similarity without bounds cannot be multiplied by a label distance."
    )


def _within_margin(hardness: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Masks of the pairs that are not easy, as in Wang et al. 2019, *Multi-Similarity Loss*, Eq. 10 and 11."""
    if not hardness.shape[1]:
        return positives, negatives
    hardest_positive = hardness.masked_fill(~positives, torch.inf).amin(dim=1, keepdim=True)
    hardest_negative = hardness.masked_fill(~negatives, -torch.inf).amax(dim=1, keepdim=True)
    # Exclude easy pairs instead of selecting hard ones: a comparison with NaN is false, so NaN pairs stay.
    positives = positives & ~(hardness >= hardest_negative + margin)
    return positives, negatives & ~(hardness <= hardest_positive - margin)


def _hardest(hardness: Tensor, candidates: Tensor, number: int | None) -> Tensor:
    """Mask of the `number` hardest candidates of each row, or of all candidates for `None`."""
    if number is None or number >= hardness.shape[1]:
        return candidates
    chosen = hardness.masked_fill(~candidates, -torch.inf).topk(number, dim=1).indices
    return torch.zeros_like(candidates).scatter_(1, chosen, True) & candidates


def _triplets(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All combinations of a positive and a negative of the same anchor, without a `(B, R, R)` tensor."""
    anchors, positive = positives.nonzero(as_tuple=True)
    num_negatives = negatives.sum(dim=1)
    repeats = num_negatives[anchors]
    negative = negatives.nonzero(as_tuple=True)[1]
    # Negatives are sorted by anchor, so the negatives of an anchor are contiguous: repeat them for each positive pair.
    starts = (num_negatives.cumsum(0) - num_negatives)[anchors].repeat_interleave(repeats)
    run_starts = (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
    within = torch.arange(len(starts), device=starts.device) - run_starts
    return anchors.repeat_interleave(repeats), positive.repeat_interleave(repeats), negative[starts + within]
