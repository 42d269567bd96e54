r"""The equations of label-distance contrastive learning, one function per equation.

This module is the specification: plain eager PyTorch that can be compared with the paper line by line. Every faster
implementation in this library must agree with it. Shapes use these letters: `B` anchors, `R` references (the batch
itself by default), `C` classes, `D` embedding dimensions.

Half-precision inputs are computed in float32, with autocast disabled; float64 inputs are computed in float64.
Gradients flow to the embeddings and to the label-distance matrix (LDM). `labeldist.checks` validates the inputs.

Equation numbers refer to *Contrastive Learning with Label Distance for Text Classification* (CLLD). A line that starts
with `Departure` explains where the code differs from the paper. A line that starts with `Choice` explains a decision
that the paper leaves open.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.checks import check_batch, check_ce_weight, check_class_pairs, check_relevance
from labeldist.options import Weighting
from labeldist.pairs import Batch, ClassPairTables
from labeldist.precision import at_least_float32

__all__ = [
    "AnchorLosses",
    "Weighting",
    "anchor_losses",
    "class_pair_tables",
    "contrastive_loss",
    "cosine_similarity",
    "graded_contrastive_loss",
    "joint_objective",
    "label_distance_contrastive",
    "pair_logits",
    "pair_relevance",
    "positive_pairs",
    "unit_rows",
    "valid_anchors",
]

# xi of Eq. 4: smaller norms are replaced by this value.
NORM_FLOOR = 1e-8


def unit_rows(embeddings: Tensor) -> Tensor:
    r"""Divide each row by its norm: $u_i = h_i / \max(\lVert h_i \rVert_2, \xi)$, $\xi = 10^{-8}$.

    Departure: the paper clamps the product of two norms (Eq. 4); here each norm is clamped, so that the similarity is a
    dot product of unit rows. The two differ only if the product of the norms is below $10^{-8}$. A zero row has no
    direction and receives no gradient; clamping alone would give it a gradient of about $10^8$.

    Args:
        embeddings: `(B, D)`, floating point, any finite values.

    Returns:
        `(B, D)`, rows of norm 1; (nearly) zero rows have a smaller norm. float32, or float64 for float64 input.

    Examples:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = at_least_float32(embeddings)
        if rows.shape[1] == 0:
            return rows
        # First scale the entries to at most 1: squares of entries above 1e19 overflow float32.
        # The unit row does not depend on this factor, so the factor needs no gradient.
        rows = rows / rows.detach().abs().amax(dim=1, keepdim=True).clamp_min(NORM_FLOOR)
        units = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1.0)
        return units.masked_fill((rows.detach() == 0).all(dim=1, keepdim=True), 0)


def cosine_similarity(embeddings: Tensor, ref_emb: Tensor | None = None) -> Tensor:
    r"""Similarity between every anchor and every reference, in [0, 1].

    Eq. 4: $S_{ij} = \tfrac12 \left( \frac{h_i^\top h_j}{\lVert h_i \rVert \lVert h_j \rVert} + 1 \right)$.

    Args:
        embeddings: anchors, `(B, D)`, floating point.
        ref_emb: references, `(R, D)`; `None` uses the anchors.

    Returns:
        `(B, R)`, float32 (float64 for float64 input). A zero row has similarity 0.5 to every row.

    Examples:
        >>> cosine_similarity(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
        tensor([[1.0000, 0.5000, 0.0000],
                [0.5000, 1.0000, 0.5000],
                [0.0000, 0.5000, 1.0000]])
    """
    anchors = unit_rows(embeddings)
    references = anchors if ref_emb is None else unit_rows(ref_emb).to(anchors.dtype)
    with torch.autocast(embeddings.device.type, enabled=False):
        return (anchors @ references.T + 1) / 2


def class_pair_tables(ldm: Tensor, *, temperature: float = 1.0, weighting: Weighting = "scale") -> ClassPairTables:
    r"""Turn an LDM into the scale and bias of each class pair: `logit = scale * S + bias`.

    With `d = LDM[a, b]` and temperature $T$:

    - `"scale"` (Eq. 8, the paper): $\mathrm{scale} = d / T$, $\mathrm{bias} = 0$. The entry multiplies the similarity;
      `LDM[a, a]` acts as the inverse temperature of the positives of class `a`.
    - `"log"` (Choice): $\mathrm{scale} = 1 / T$, $\mathrm{bias} = \log d$. The entry multiplies the pair's term in the
      softmax sum, as in other weighted InfoNCE losses; `d = 0` removes the pair.

    Args:
        ldm: the label-distance matrix, `(C, C)`, non-negative (checked on CPU tensors), row = anchor's class. An entry
            is a weight, not a dissimilarity: easily confused classes have large entries.
        temperature: $T > 0$. The paper uses none, which corresponds to `T = 1`.
        weighting: `"scale"` or `"log"`.

    Returns:
        `scale` and `bias`, each `(C, C)`; `bias` is `-inf` for a removed pair. `is_symmetric` and `span` are `None`.

    Raises:
        ValueError: if `ldm` is not square or has a negative or NaN entry, `temperature` is not positive, or `weighting`
            is unknown.

    Examples:
        >>> tables = class_pair_tables(torch.tensor([[1.0, 5.0], [5.0, 1.0]]), temperature=0.5)
        >>> tables.scale
        tensor([[ 2., 10.],
                [10.,  2.]])
        >>> bool((tables.bias == 0).all())
        True
    """
    check_class_pairs(ldm, temperature, weighting)
    ldm = at_least_float32(ldm) if ldm.is_floating_point() else ldm.to(torch.get_default_dtype())
    if weighting == "scale":
        return ClassPairTables(scale=ldm / temperature, bias=torch.zeros_like(ldm))
    # The gradient of log at 0 is infinite: replace the entry before the log, not after it.
    log_ldm = torch.where(ldm == 0, torch.ones_like(ldm), ldm).log()
    return ClassPairTables(scale=torch.full_like(ldm, 1 / temperature), bias=log_ldm.masked_fill(ldm == 0, -torch.inf))


def pair_logits(similarity: Tensor, labels: Tensor, ref_labels: Tensor, tables: ClassPairTables) -> Tensor:
    r"""Compute the logit of every pair from its similarity and its class pair.

    Eq. 7 and 8 in their general form: $\ell_{ij} = \mathrm{scale}[y_i, y_j]\, S_{ij} + \mathrm{bias}[y_i, y_j]$.
    Indexing `table[y_i, y_j]` is $Y\,\mathrm{LDM}\,Y^\top$ of Eq. 7 with one-hot $Y$.

    Args:
        similarity: `(B, R)`, in [0, 1].
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        ref_labels: class of each reference, `(R,)`, integer, in [0, C).
        tables: scale and bias of each class pair, `(C, C)`, from `class_pair_tables`.

    Returns:
        `(B, R)`; `-inf` where `bias` is `-inf`.

    Examples:
        >>> tables = class_pair_tables(torch.tensor([[1.0, 5.0], [2.0, 1.0]]))
        >>> pair_logits(torch.full((2, 2), 0.5), torch.tensor([0, 1]), torch.tensor([0, 1]), tables)
        tensor([[0.5000, 2.5000],
                [1.0000, 0.5000]])
    """
    # Index twice instead of once with index pairs: the backward pass is then an index_add without (B, R) index tensors.
    # Convert to int64, because a uint8 tensor would be read as a mask.
    labels, ref_labels = labels.long(), ref_labels.long()
    return tables.scale[labels][:, ref_labels] * similarity + tables.bias[labels][:, ref_labels]


def positive_pairs(labels: Tensor, ref_labels: Tensor | None = None) -> Tensor:
    r"""Mask of the pairs with equal labels. Eq. 6: $t_{ij} = [\,i \ne j\,]\,[\,y_i = y_j\,]$.

    Args:
        labels: `(B,)`, integer.
        ref_labels: `(R,)`, integer. `None` uses the anchors as references; a row is then not a positive of itself.

    Returns:
        Boolean `(B, R)`.

    Examples:
        >>> positive_pairs(torch.tensor([0, 1, 0])).int()
        tensor([[0, 0, 1],
                [0, 0, 0],
                [1, 0, 0]], dtype=torch.int32)
    """
    if ref_labels is not None:
        return labels[:, None] == ref_labels[None, :]
    return (labels[:, None] == labels[None, :]) & other_rows(labels)


def other_rows(labels: Tensor) -> Tensor:
    """Boolean `(B, B)` mask, true off the diagonal: all pairs of two different rows (Eq. 5)."""
    return ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def contrastive_loss(logits: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
    r"""KL divergence between the uniform distribution over each anchor's positives and its softmax.

    Eq. 11-13: $\ell_i = \mathrm{KL}(z_i \,\Vert\, q_i)$ with $q_i = \mathrm{softmax}_j(\mathrm{logit}_{ij})$ and
    $z_{ij} = t_{ij} / n_i$. For an anchor with $n_i$ positives $P(i)$ this is

    $$\ell_i = \mathrm{lse}_i - \tfrac{1}{n_i} \sum_{j \in P(i)} \mathrm{logit}_{ij} - \log n_i .$$

    Departure: the paper writes $-10^6$ on the diagonal of the similarity and multiplies by the LDM *afterwards*. If
    `LDM[a, a] = 0`, this compares a row with itself, and in float16 $-10^6$ overflows. Here the softmax excludes every
    pair that is not a candidate.

    Choice: an anchor without a positive has no target, so its loss is 0. Average over the valid anchors, not over `B`.

    Args:
        logits: `(B, R)`, floating point; an entry of `-inf` excludes its pair.
        positives: boolean `(B, R)`; used only where `candidates` is true.
        candidates: boolean `(B, R)`, the pairs in the softmax. Other pairs receive no gradient.

    Returns:
        `(B,)`, in nats, non-negative.

    Examples:
        >>> logits = torch.zeros(1, 4)  # one positive among four equal candidates: log 4
        >>> contrastive_loss(logits, torch.tensor([[True, False, False, False]]), torch.ones(1, 4, dtype=torch.bool))
        tensor([1.3863])
    """
    candidates = _valid_candidates(logits, candidates)
    positives = positives & candidates
    num_positives = positives.sum(dim=1)
    has_positive = num_positives > 0
    divisor = num_positives.clamp_min(1).to(logits.dtype)
    logits = logits.masked_fill(~candidates, -torch.inf)
    # The softmax of a row that holds only -inf is undefined, and its gradient would be NaN.
    partition = logits.masked_fill(~has_positive[:, None], 0).logsumexp(dim=1) if logits.shape[1] else divisor.log()
    mean_positive = logits.masked_fill(~positives, 0).sum(dim=1) / divisor
    return (partition - mean_positive - divisor.log()).masked_fill(~has_positive, 0)


def pair_relevance(labels: Tensor, ref_labels: Tensor, relevance: Tensor) -> Tensor:
    r"""The relevance of every pair, $A[y_i, y_j]$: graded targets instead of Eq. 6.

    Args:
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        ref_labels: class of each reference, `(R,)`, integer, in [0, C).
        relevance: $A$, `(C, C)`, non-negative; row = anchor's class.

    Returns:
        `(B, R)`, with the gradient of the table, except that an entry of 0 gets no gradient and stays 0. The derivative
        of the loss there is $-\infty$.

    Examples:
        >>> relevance = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
        >>> pair_relevance(torch.tensor([0, 1]), torch.tensor([0, 0, 1]), relevance)
        tensor([[1.0000, 1.0000, 0.2000],
                [0.0000, 0.0000, 1.0000]])
    """
    return relevance.masked_fill(relevance == 0, 0)[labels.long()][:, ref_labels.long()]


def graded_contrastive_loss(logits: Tensor, weights: Tensor, candidates: Tensor) -> Tensor:
    r"""KL divergence between graded targets and each anchor's softmax: `contrastive_loss` with weak positives.

    Eq. 11-13 with $z_{ij} = w_{ij} / Z_i$ and $Z_i = \sum_j w_{ij}$ over the candidates:

    $$\ell_i = \mathrm{KL}(z_i \,\Vert\, q_i)
      = \mathrm{lse}_i - \sum_j z_{ij}\, \mathrm{logit}_{ij} + \sum_j z_{ij} \log z_{ij} , \quad 0 \log 0 = 0 .$$

    The last term does not depend on the embeddings. It keeps the loss a divergence: at least 0, and 0 only where the
    softmax equals the targets. Weights of 1 and 0 give `contrastive_loss`. Scaling the weights of an anchor changes
    nothing.

    Choice: the paper uses only weights of 1 and 0. An anchor without a weight above 0 has no target, so its loss is 0.

    Args:
        logits: `(B, R)`, floating point; an entry of `-inf` excludes its pair.
        weights: `(B, R)`, non-negative, from `pair_relevance`; used only where `candidates` is true.
        candidates: boolean `(B, R)`, the pairs in the softmax.

    Returns:
        `(B,)`, in nats, non-negative.

    Examples:
        >>> weights = torch.tensor([[3.0, 1.0]])  # targets 3/4 and 1/4, which this softmax gives
        >>> graded_contrastive_loss(weights.log(), weights, weights > 0).abs().round(decimals=6)
        tensor([0.])
    """
    candidates = _valid_candidates(logits, candidates)
    weights = weights.masked_fill(~candidates, 0)
    # Not `weights > 0`, which would hide a NaN.
    has_target = (weights != 0).any(dim=1)
    total = weights.sum(dim=1).masked_fill(~has_target, 1)  # Z, (B,)
    logits = logits.masked_fill(~candidates, -torch.inf)
    # The softmax of a row that holds only -inf is undefined, and its gradient would be NaN.
    partition = logits.masked_fill(~has_target[:, None], 0).logsumexp(dim=1) if logits.shape[1] else total.log()
    mean_logit = (weights * logits.masked_fill(weights == 0, 0)).sum(dim=1) / total
    # sum_j z_ij log z_ij = sum_j w_ij log w_ij / Z_i - log Z_i
    log_weights = weights.masked_fill(weights == 0, 1).log()
    log_target = (weights * log_weights).sum(dim=1) / total - total.log()
    return (partition - mean_logit + log_target).masked_fill(~has_target, 0)


def valid_anchors(logits: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
    """Mask of the anchors that have a positive, and therefore a loss. Arguments as in `contrastive_loss`.

    With graded targets the positives are the pairs whose weight is above 0.

    Returns:
        Boolean `(B,)`.

    Examples:
        >>> logits = torch.zeros(2, 2)
        >>> valid_anchors(logits, torch.tensor([[False, True], [False, False]]), torch.ones(2, 2, dtype=torch.bool))
        tensor([ True, False])
    """
    return (positives & _valid_candidates(logits, candidates)).any(dim=1)


def _valid_candidates(logits: Tensor, candidates: Tensor) -> Tensor:
    # Not `logits > -inf`, which would exclude NaN: a NaN must reach the loss.
    return candidates & (logits != -torch.inf)


def label_distance_contrastive(
    embeddings: Tensor,
    labels: Tensor,
    ldm: Tensor,
    *,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    temperature: float = 1.0,
    weighting: Weighting = "scale",
    relevance: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Supervised contrastive loss of each anchor, with a weight for each pair of classes.

    Combines Eq. 4-8 and 11-13:
    $S = \tfrac12(\cos + 1)$, $\mathrm{logit} = \mathrm{scale}[y_i, y_j]\,S + \mathrm{bias}[y_i, y_j]$,
    $\ell_i = \mathrm{KL}(z_i \Vert \mathrm{softmax}(\mathrm{logit}_i))$.
    With an LDM of ones and `temperature` $T$ this equals the supervised contrastive loss at temperature $2T$, minus
    $\log n_i$.

    Args:
        embeddings: anchors, `(B, D)`, floating point; rows are normalized here.
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        ldm: the label-distance matrix, `(C, C)`, non-negative, dimensionless; row = anchor's class, column =
            reference's class. An entry is a weight, not a dissimilarity: a larger entry pushes the pairs of two classes
            apart harder.
        ref_emb: references, `(R, D)`. `None` uses the batch itself, without comparing a row with itself.
        ref_labels: class of each reference, `(R,)`; required if `ref_emb` is given.
        temperature: softmax temperature, > 0. 1 in the paper.
        weighting: `"scale"` multiplies the similarity (the paper); `"log"` multiplies the pair's term in the softmax
            sum.
        relevance: graded targets $A$, `(C, C)`, non-negative and finite, positive on the diagonal; row = anchor's
            class. A reference of class `b` is a positive of weight `A[a, b]` for an anchor of class `a`
            (`graded_contrastive_loss`). `None`, like the identity, makes positives of the rows of the same class only.
        validate: check the range of the labels and the entries of `relevance`. On a GPU this synchronizes with the
            device; without the check, a label out of range on a GPU makes CUDA unusable in this process. Values are
            never checked inside `torch.compile` or during CUDA graph capture.

    Returns:
        `(B,)`, in nats, float32 (float64 for float64 embeddings); 0 for an anchor without a positive.

    Raises:
        ValueError: if shapes disagree, a label lies outside [0, C), `relevance` is invalid, or an option is unknown.
        TypeError: if labels are not integers or embeddings not floating point.

    Examples:
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> uniform = label_distance_contrastive(embeddings, labels, torch.ones(2, 2))
        >>> stretched = label_distance_contrastive(embeddings, labels, torch.tensor([[1.0, 5.0], [5.0, 1.0]]))
        >>> bool((stretched > uniform).all())
        True
    """
    batch = Batch(embeddings, labels, ref_emb, ref_labels)
    check_batch(batch, len(ldm), validate=validate)
    dtype = at_least_float32(embeddings).dtype
    tables = class_pair_tables(ldm.to(embeddings.device, dtype), temperature=temperature, weighting=weighting)
    if relevance is not None:
        check_relevance(relevance, len(ldm), validate=validate)
        tables = tables._replace(relevance=relevance.to(embeddings.device, dtype))
    return anchor_losses(batch, tables).losses


class AnchorLosses(NamedTuple):
    """The loss of each anchor and the mask of valid anchors.

    Attributes:
        losses: `(B,)`, in nats; 0 where `is_valid` is false.
        is_valid: boolean `(B,)`, true for anchors that have a positive. Average over these.
    """

    losses: Tensor
    is_valid: Tensor


def anchor_losses(batch: Batch, tables: ClassPairTables, *, pairs: tuple[Tensor, Tensor] | None = None) -> AnchorLosses:
    """Compute `label_distance_contrastive` from a batch and class-pair tables, optionally for selected pairs.

    Args:
        batch: anchors and references; not checked here.
        tables: scale, bias and, for graded targets, relevance of each class pair, `(C, C)`, in the dtype of the losses.
        pairs: boolean masks `(B, R)` of the positives and of all pairs in the softmax. `None` selects all pairs; if the
            batch is its own reference, no row is paired with itself. With graded targets the first mask is not used:
            the table says how relevant each pair is.

    Returns:
        Losses and the mask of valid anchors, each `(B,)`.

    Examples:
        >>> batch = Batch(torch.randn(3, 8), torch.tensor([0, 0, 1]))
        >>> anchor_losses(batch, class_pair_tables(torch.ones(2, 2))).is_valid
        tensor([ True,  True, False])
    """
    similarity = cosine_similarity(batch.embeddings, batch.ref_emb)
    with torch.autocast(batch.embeddings.device.type, enabled=False):
        logits = pair_logits(similarity, batch.labels, batch.references[1], tables)
        if pairs is None:
            candidates = other_rows(batch.labels) if batch.is_self else torch.ones_like(logits, dtype=torch.bool)
            pairs = positive_pairs(batch.labels, batch.ref_labels), candidates
        if tables.relevance is None:
            return AnchorLosses(contrastive_loss(logits, *pairs), valid_anchors(logits, *pairs))
        weights = pair_relevance(batch.labels, batch.references[1], tables.relevance)
        losses = graded_contrastive_loss(logits, weights, pairs[1])
        return AnchorLosses(losses, valid_anchors(logits, weights != 0, pairs[1]))


def joint_objective(cross_entropy: Tensor, contrastive: Tensor, *, ce_weight: float = 0.5) -> Tensor:
    r"""Combine both losses. Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$.

    Args:
        cross_entropy: $L_c$ (Eq. 10), any shape.
        contrastive: $L_s$ (Eq. 11), broadcastable with `cross_entropy`.
        ce_weight: $\lambda$ in [0, 1], the weight of the cross-entropy; 0.5 in the paper.

    Returns:
        The weighted sum.

    Raises:
        ValueError: if `ce_weight` lies outside [0, 1].

    Examples:
        >>> joint_objective(torch.tensor(2.0), torch.tensor(1.0), ce_weight=0.75)
        tensor(1.7500)
    """
    check_ce_weight(ce_weight)
    return ce_weight * cross_entropy + (1 - ce_weight) * contrastive
