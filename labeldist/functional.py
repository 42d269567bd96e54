r"""The equations of label-distance contrastive learning, one function an equation.

This module is the specification: plain eager PyTorch that a reader can hold against the paper. Anything faster
in this library must agree with it. `B` anchors, `R` references (the batch itself unless given), `C` classes,
`D` embedding dimensions.

Half-precision inputs are computed in float32 and autocast is switched off inside; float64 stays float64.
Gradients flow to the embeddings and to the label-distance matrix (LDM). What inputs must be is checked in
`labeldist.checks`.

The equation numbers are those of *Contrastive Learning with Label Distance for Text Classification* (CLLD).
A line headed `Departure` or `Choice` says where and why the code leaves the paper or settles what it left open.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from labeldist.checks import check_batch, check_ce_weight, check_class_pairs
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
    "joint_objective",
    "label_distance_contrastive",
    "pair_logits",
    "positive_pairs",
    "unit_rows",
    "valid_anchors",
]

# The paper's xi (Eq. 4): norms below it count as it.
NORM_FLOOR = 1e-8


def unit_rows(embeddings: Tensor) -> Tensor:
    r"""Divide each row by its length: $u_i = h_i / \max(\lVert h_i \rVert_2, \xi)$, $\xi = 10^{-8}$.

    Departure: the paper clamps the product of two norms (Eq. 4). Clamping each row keeps the similarity a product
    of unit rows, and differs only where two norms multiply to less than $10^{-8}$. A zero row has no direction: it
    receives no gradient, where the floor alone would give one of $10^8$.

    Args:
        embeddings: `(B, D)`, floating point, any finite values.

    Returns:
        `(B, D)`, rows of length 1, or shorter where a row is (nearly) zero. float32, or float64 for float64 input.

    Examples:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = at_least_float32(embeddings)
        if rows.shape[1] == 0:
            return rows
        # Scale to entries of at most 1 first: the squares of entries above 1e19 overflow float32.
        # A unit row does not depend on this factor, so it carries no gradient.
        rows = rows / rows.detach().abs().amax(dim=1, keepdim=True).clamp_min(NORM_FLOOR)
        units = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1.0)
        return units.masked_fill((rows.detach() == 0).all(dim=1, keepdim=True), 0)


def cosine_similarity(embeddings: Tensor, ref_emb: Tensor | None = None) -> Tensor:
    r"""Similarity of every anchor with every reference, in [0, 1].

    Eq. 4: $S_{ij} = \tfrac12 \left( \frac{h_i^\top h_j}{\lVert h_i \rVert \lVert h_j \rVert} + 1 \right)$.

    Args:
        embeddings: anchors, `(B, D)`, floating point.
        ref_emb: references, `(R, D)`; the anchors themselves if `None`.

    Returns:
        `(B, R)`, float32 (float64 for float64 input). A zero row has similarity 0.5 with everything.

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
    r"""The affine map that an LDM applies to the similarity of each class pair: `logit = scale * S + bias`.

    With `d = LDM[a, b]` and temperature $T$:

    - `"scale"` (Eq. 8, the paper): $\mathrm{scale} = d / T$, $\mathrm{bias} = 0$. The similarity itself is
      stretched; `LDM[a, a]` acts as the inverse temperature of the positives of class `a`.
    - `"log"` (Choice): $\mathrm{scale} = 1 / T$, $\mathrm{bias} = \log d$. The pair counts `d` times in the softmax's
      sum, the form of other weighted InfoNCE losses; `d = 0` drops the pair.

    Args:
        ldm: label distances, `(C, C)`, non-negative (checked on CPU tensors), row = anchor's class.
        temperature: $T > 0$. The paper has none, which is `T = 1`.
        weighting: `"scale"` or `"log"`.

    Returns:
        `scale` and `bias`, each `(C, C)`; `bias` is `-inf` for a dropped pair. Symmetry and span are left unknown.

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
    # log at 0 has no gradient to give: replace the entry before the log, not after.
    log_ldm = torch.where(ldm == 0, torch.ones_like(ldm), ldm).log()
    return ClassPairTables(scale=torch.full_like(ldm, 1 / temperature), bias=log_ldm.masked_fill(ldm == 0, -torch.inf))


def pair_logits(similarity: Tensor, labels: Tensor, ref_labels: Tensor, tables: ClassPairTables) -> Tensor:
    r"""Give every pair the logit of its class pair.

    Eq. 7 and 8 in the general form: $\ell_{ij} = \mathrm{scale}[y_i, y_j]\, S_{ij} + \mathrm{bias}[y_i, y_j]$.
    The gather `table[y_i, y_j]` is Eq. 7's $Y\,\mathrm{LDM}\,Y^\top$ with one-hot $Y$.

    Args:
        similarity: `(B, R)`, in [0, 1].
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        ref_labels: class of each reference, `(R,)`, integer, in [0, C).
        tables: scale and bias of each class pair, `(C, C)`, from `class_pair_tables`.

    Returns:
        `(B, R)`; `-inf` where `bias` is.

    Examples:
        >>> tables = class_pair_tables(torch.tensor([[1.0, 5.0], [2.0, 1.0]]))
        >>> pair_logits(torch.full((2, 2), 0.5), torch.tensor([0, 1]), torch.tensor([0, 1]), tables)
        tensor([[0.5000, 2.5000],
                [1.0000, 0.5000]])
    """
    # Two row selections, not one pair gather: their backward is an index_add, with no (B, R) index tensors.
    # uint8 would select as a mask, not as an index.
    labels, ref_labels = labels.long(), ref_labels.long()
    return tables.scale[labels][:, ref_labels] * similarity + tables.bias[labels][:, ref_labels]


def positive_pairs(labels: Tensor, ref_labels: Tensor | None = None) -> Tensor:
    r"""Which pairs share a class. Eq. 6: $t_{ij} = [\,i \ne j\,]\,[\,y_i = y_j\,]$.

    Args:
        labels: `(B,)`, integer.
        ref_labels: `(R,)`, integer. If `None` the references are the anchors, and a row is not a positive of itself.

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
    """Boolean `(B, B)`, true off the diagonal: every pair except a row with itself (Eq. 5)."""
    return ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def contrastive_loss(logits: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
    r"""Divergence of each anchor's softmax from the uniform distribution over its positives.

    Eq. 11-13: $\ell_i = \mathrm{KL}(z_i \,\Vert\, q_i)$ with $q_i = \mathrm{softmax}_j(\mathrm{logit}_{ij})$ and
    $z_{ij} = t_{ij} / n_i$, which for $n_i$ positives $P(i)$ is

    $$\ell_i = \mathrm{lse}_i - \tfrac{1}{n_i} \sum_{j \in P(i)} \mathrm{logit}_{ij} - \log n_i .$$

    Departure: the paper writes $-10^6$ on the diagonal of the similarity *before* it multiplies by the LDM, so that
    `LDM[a, a] = 0` would let a row compare itself with itself, and float16 overflows. Here a pair that is no
    candidate is left out of the softmax.

    Choice: an anchor without a positive has no target, so its loss is 0. Average over the valid anchors, not over `B`.

    Args:
        logits: `(B, R)`, floating point; a `-inf` entry leaves its pair out.
        positives: boolean `(B, R)`; counted only where `candidates` is true.
        candidates: boolean `(B, R)`, the pairs that take part. No other pair receives a gradient.

    Returns:
        `(B,)`, in nats, non-negative.

    Examples:
        >>> logits = torch.zeros(1, 4)  # one positive among four equal candidates: log 4
        >>> contrastive_loss(logits, torch.tensor([[True, False, False, False]]), torch.ones(1, 4, dtype=torch.bool))
        tensor([1.3863])
    """
    candidates = _taking_part(logits, candidates)
    positives = positives & candidates
    num_positives = positives.sum(dim=1)
    has_positive = num_positives > 0
    divisor = num_positives.clamp_min(1).to(logits.dtype)
    logits = logits.masked_fill(~candidates, -torch.inf)
    # A row of -inf alone has no softmax: its backward would be NaN.
    partition = logits.masked_fill(~has_positive[:, None], 0).logsumexp(dim=1) if logits.shape[1] else divisor.log()
    mean_positive = logits.masked_fill(~positives, 0).sum(dim=1) / divisor
    return (partition - mean_positive - divisor.log()).masked_fill(~has_positive, 0)


def valid_anchors(logits: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
    """Which anchors have a positive, and so a loss. Arguments as in `contrastive_loss`.

    Returns:
        Boolean `(B,)`.

    Examples:
        >>> logits = torch.zeros(2, 2)
        >>> valid_anchors(logits, torch.tensor([[False, True], [False, False]]), torch.ones(2, 2, dtype=torch.bool))
        tensor([ True, False])
    """
    return (positives & _taking_part(logits, candidates)).any(dim=1)


def _taking_part(logits: Tensor, candidates: Tensor) -> Tensor:
    # Not `logits > -inf`: a NaN must stay and show.
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
    validate: bool = True,
) -> Tensor:
    r"""Supervised contrastive loss of each anchor, its pairs weighted by the distance of their classes.

    The composition of Eq. 4-8 and 11-13:
    $S = \tfrac12(\cos + 1)$, $\mathrm{logit} = \mathrm{scale}[y_i, y_j]\,S + \mathrm{bias}[y_i, y_j]$,
    $\ell_i = \mathrm{KL}(z_i \Vert \mathrm{softmax}(\mathrm{logit}_i))$.
    With an LDM of ones and `temperature` $T$ this is supervised contrastive learning at temperature $2T$,
    less $\log n_i$.

    Args:
        embeddings: anchors, `(B, D)`, floating point, of any length (rows are normalised here).
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        ldm: label distances, `(C, C)`, non-negative, dimensionless. Row = anchor's class, column = the other's.
            A larger entry between two classes pushes their pairs apart harder.
        ref_emb: references, `(R, D)`. If `None`, the batch itself, where no row is compared with itself.
        ref_labels: class of each reference, `(R,)`; goes with `ref_emb`.
        temperature: softmax temperature, > 0. 1 in the paper.
        weighting: `"scale"` multiplies the similarity (the paper), `"log"` the pair's weight in the softmax's sum.
        validate: check the labels' range, which on a GPU waits for the device. An index out of range on a GPU ends the
            process's use of it. Never checked inside `torch.compile` or while a CUDA graph is captured.

    Returns:
        `(B,)`, in nats, float32 (float64 for float64 embeddings); 0 for an anchor without a positive.

    Raises:
        ValueError: if shapes disagree, a label lies outside [0, C), or an option is unknown.
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
    return anchor_losses(batch, tables).losses


class AnchorLosses(NamedTuple):
    """The loss of each anchor, and which anchors have one.

    Attributes:
        losses: `(B,)`, in nats; 0 where `is_valid` is false.
        is_valid: boolean `(B,)`, true for anchors with a positive: the mean is over these.
    """

    losses: Tensor
    is_valid: Tensor


def anchor_losses(batch: Batch, tables: ClassPairTables, *, pairs: tuple[Tensor, Tensor] | None = None) -> AnchorLosses:
    """`label_distance_contrastive` of a batch and tables, for chosen pairs, with the valid anchors beside the losses.

    Args:
        batch: anchors and references; not checked here.
        tables: scale and bias of each class pair, `(C, C)`, in the dtype of the losses.
        pairs: boolean masks `(B, R)` of the positives and of all pairs that take part. `None` takes all pairs, except a
            row with itself where the batch is its own reference.

    Returns:
        Losses and validity, each `(B,)`.

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
        return AnchorLosses(contrastive_loss(logits, *pairs), valid_anchors(logits, *pairs))


def joint_objective(cross_entropy: Tensor, contrastive: Tensor, *, ce_weight: float = 0.5) -> Tensor:
    r"""Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$.

    Args:
        cross_entropy: $L_c$ (Eq. 10), any shape.
        contrastive: $L_s$ (Eq. 11), broadcastable to it.
        ce_weight: $\lambda$ in [0, 1], the cross-entropy's share; 0.5 in the paper.

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
