r"""The equations of label-distance contrastive learning, one function an equation.

This module is the specification: plain eager PyTorch that a reader can hold against the paper. Anything faster
in this library must agree with it. `B` anchors, `R` references (the batch itself unless given), `C` classes,
`D` embedding dimensions.

Half-precision inputs are computed in float32 and autocast is switched off inside; float64 stays float64.
Gradients flow to the embeddings and to the label-distance matrix (LDM).

The equation numbers are those of *Contrastive Learning with Label Distance for Text Classification* (CLLD).
A line headed `Departure` or `Choice` says where and why the code leaves the paper or settles what it left open.
"""

from numbers import Integral
from typing import Literal, NamedTuple

import torch
from torch import Tensor

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

Weighting = Literal["scale", "log"]

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


def class_pair_tables(
    ldm: Tensor, *, temperature: float = 1.0, weighting: Weighting = "scale"
) -> tuple[Tensor, Tensor]:
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
        `scale` and `bias`, each `(C, C)`; `bias` is `-inf` for a dropped pair.

    Raises:
        ValueError: if `ldm` is not square or has a negative or NaN entry, `temperature` is not positive, or `weighting`
            is unknown.

    Examples:
        >>> scale, bias = class_pair_tables(torch.tensor([[1.0, 5.0], [5.0, 1.0]]), temperature=0.5)
        >>> scale
        tensor([[ 2., 10.],
                [10.,  2.]])
        >>> bool((bias == 0).all())
        True
    """
    if ldm.ndim != 2 or ldm.shape[0] != ldm.shape[1]:
        raise ValueError(f"ldm must have shape (C, C), got {tuple(ldm.shape)}.")
    check_temperature(temperature)
    if ldm.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((ldm >= 0).all()):
        raise ValueError("ldm must be non-negative, got a negative or NaN entry.")
    ldm = at_least_float32(ldm) if ldm.is_floating_point() else ldm.to(torch.get_default_dtype())
    if weighting == "scale":
        return ldm / temperature, torch.zeros_like(ldm)
    if weighting == "log":
        # log at 0 has no gradient to give: replace the entry before the log, not after.
        log_ldm = torch.where(ldm == 0, torch.ones_like(ldm), ldm).log()
        return torch.full_like(ldm, 1 / temperature), log_ldm.masked_fill(ldm == 0, -torch.inf)
    raise ValueError(f"weighting must be 'scale' or 'log', got {weighting!r}.")


def pair_logits(similarity: Tensor, labels: Tensor, ref_labels: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    r"""Give every pair the logit of its class pair.

    Eq. 7 and 8 in the general form: $\ell_{ij} = \mathrm{scale}[y_i, y_j]\, S_{ij} + \mathrm{bias}[y_i, y_j]$.
    The gather `table[y_i, y_j]` is Eq. 7's $Y\,\mathrm{LDM}\,Y^\top$ with one-hot $Y$.

    Args:
        similarity: `(B, R)`, in [0, 1].
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        ref_labels: class of each reference, `(R,)`, integer, in [0, C).
        scale: `(C, C)`, from `class_pair_tables`.
        bias: `(C, C)`, from `class_pair_tables`.

    Returns:
        `(B, R)`; `-inf` where `bias` is.

    Examples:
        >>> scale, bias = class_pair_tables(torch.tensor([[1.0, 5.0], [2.0, 1.0]]))
        >>> pair_logits(torch.full((2, 2), 0.5), torch.tensor([0, 1]), torch.tensor([0, 1]), scale, bias)
        tensor([[0.5000, 2.5000],
                [1.0000, 0.5000]])
    """
    # Two row selections, not one pair gather: their backward is an index_add, with no (B, R) index tensors.
    # uint8 would select as a mask, not as an index.
    labels, ref_labels = labels.long(), ref_labels.long()
    return scale[labels][:, ref_labels] * similarity + bias[labels][:, ref_labels]


def positive_pairs(labels: Tensor, ref_labels: Tensor | None = None) -> Tensor:
    r"""Which pairs share a class. Eq. 6: $t_{ij} = [\,i \ne j\,]\,[\,y_i = y_j\,]$.

    Args:
        labels: `(B,)`, integer.
        ref_labels: `(R,)`, integer. If `None` the references are the anchors, and a row is no positive of itself.

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
    """Boolean `(B, B)`, true off the diagonal: every pair but a row with itself (Eq. 5)."""
    return ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def contrastive_loss(logits: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
    r"""Divergence of each anchor's softmax from the uniform distribution over its positives.

    Eq. 11-13: $\ell_i = \mathrm{KL}(z_i \,\Vert\, q_i)$ with $q_i = \mathrm{softmax}_j(\mathrm{logit}_{ij})$ and
    $z_{ij} = t_{ij} / n_i$, which for $n_i$ positives $P(i)$ is

    $$\ell_i = \mathrm{lse}_i - \tfrac{1}{n_i} \sum_{j \in P(i)} \mathrm{logit}_{ij} - \log n_i .$$

    Departure: the paper writes $-10^6$ on the diagonal of the similarity *before* it multiplies by the LDM, so that
    `LDM[a, a] = 0` would let a row compare itself with itself, and float16 overflows. Here a pair that is no
    candidate is left out of the softmax.

    Choice: an anchor without a positive has no target; its loss is 0. Average over `num_valid` anchors, not over `B`.

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
    return anchor_losses(
        embeddings,
        labels,
        ldm,
        ref_emb=ref_emb,
        ref_labels=ref_labels,
        temperature=temperature,
        weighting=weighting,
        validate=validate,
    ).losses


class AnchorLosses(NamedTuple):
    """The loss of each anchor, and which anchors have one.

    Attributes:
        losses: `(B,)`, in nats; 0 where `is_valid` is false.
        is_valid: boolean `(B,)`, true for anchors with a positive: the mean is over these.
    """

    losses: Tensor
    is_valid: Tensor


def anchor_losses(
    embeddings: Tensor,
    labels: Tensor,
    ldm: Tensor,
    *,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    pairs: tuple[Tensor, Tensor] | None = None,
    temperature: float = 1.0,
    weighting: Weighting = "scale",
    validate: bool = True,
) -> AnchorLosses:
    """`label_distance_contrastive` for chosen pairs, with the valid anchors beside the losses.

    Args:
        embeddings: as in `label_distance_contrastive`, like every argument but `pairs`.
        labels: `(B,)`.
        ldm: `(C, C)`.
        ref_emb: `(R, D)`, or `None`.
        ref_labels: `(R,)`, or `None`.
        pairs: boolean masks `(B, R)` of the positives and of all pairs that take part. `None` takes all pairs, but for
            a row with itself where the batch is its own reference.
        temperature: softmax temperature, > 0.
        weighting: `"scale"` or `"log"`.
        validate: check the labels' range.

    Returns:
        Losses and validity, each `(B,)`.

    Examples:
        >>> anchor_losses(torch.randn(3, 8), torch.tensor([0, 0, 1]), torch.ones(2, 2)).is_valid
        tensor([ True,  True, False])
    """
    check_problem(embeddings, labels, len(ldm), ref_emb, ref_labels, validate=validate)
    similarity = cosine_similarity(embeddings, ref_emb)
    with torch.autocast(embeddings.device.type, enabled=False):
        scale, bias = class_pair_tables(ldm.to(similarity), temperature=temperature, weighting=weighting)
        logits = pair_logits(similarity, labels, labels if ref_labels is None else ref_labels, scale, bias)
        if pairs is None:
            candidates = other_rows(labels) if ref_emb is None else torch.ones_like(logits, dtype=torch.bool)
            pairs = positive_pairs(labels, ref_labels), candidates
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


def check_temperature(temperature: float) -> None:
    """Raise `ValueError` unless `temperature` is a finite number above 0."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}.")


def check_ce_weight(ce_weight: float) -> None:
    """Raise `ValueError` unless `ce_weight` lies in [0, 1]."""
    if not 0 <= ce_weight <= 1:
        raise ValueError(f"ce_weight (lambda of Eq. 9) must lie in [0, 1], got {ce_weight}.")


def check_count(name: str, value: int) -> None:
    """Raise unless `value` is a whole number of at least 1."""
    if not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def check_problem(
    embeddings: Tensor,
    labels: Tensor,
    num_classes: int,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
    *,
    validate: bool = True,
) -> None:
    """Raise unless anchors, references and their labels fit together and to an LDM of `num_classes` classes."""
    check_batch(embeddings, labels, num_classes, validate=validate)
    if (ref_emb is None) != (ref_labels is None):
        raise ValueError("ref_emb and ref_labels go together: pass both or neither.")
    if ref_emb is not None and ref_labels is not None:
        check_batch(ref_emb, ref_labels, num_classes, prefix="ref_", dim=embeddings.shape[1], validate=validate)


def check_batch(
    embeddings: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    prefix: str = "",
    dim: int | None = None,
    validate: bool = True,
) -> None:
    """Raise unless rows and labels fit together and to an LDM of `num_classes` classes."""
    rows, classes = f"{prefix}emb" if prefix else "embeddings", f"{prefix}labels"
    if embeddings.ndim != 2 or (dim is not None and embeddings.shape[1] != dim):
        wanted = "(B, D)" if dim is None else f"(R, {dim})"
        raise ValueError(f"{rows} must have shape {wanted}, got {tuple(embeddings.shape)}.")
    if not embeddings.is_floating_point():
        raise TypeError(f"{rows} must be floating point, got {embeddings.dtype}.")
    check_labels(labels, len(embeddings), num_classes, name=classes, rows=rows, validate=validate)


def check_labels(
    labels: Tensor,
    num_rows: int,
    num_classes: int,
    *,
    name: str = "labels",
    rows: str = "embeddings",
    validate: bool = True,
) -> None:
    """Raise unless `labels` is one integer class in [0, `num_classes`) for each of `num_rows` rows.

    With `validate=False` the range is not read, only shape and type.
    """
    if labels.shape != (num_rows,):
        raise ValueError(
            f"{name} must have shape ({num_rows},), got {tuple(labels.shape)}. Pass one label for each row of {rows}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must be integers (class indices), got {labels.dtype}. Convert them with .long().")
    if not num_rows or not may_read(labels, validate):
        return
    smallest, largest = (int(value) for value in labels.aminmax())
    if smallest < 0 or largest >= num_classes:
        raise ValueError(
            f"{name} must lie in [0, {num_classes}) for an LDM of {num_classes} classes, got values from {smallest} "
            f"to {largest}. Pass class indices counted from 0, not ids of rows, or build the LDM for all classes."
        )


def may_read(tensor: Tensor, validate: bool = True) -> bool:
    """Whether a check may look at the values of `tensor`: not while its work is only being recorded."""
    if not validate or torch.compiler.is_compiling() or tensor.is_meta:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def at_least_float32(tensor: Tensor) -> Tensor:
    """float32 for half precision; other dtypes as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
