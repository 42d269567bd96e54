r"""The loss of each anchor in Triton kernels: a tile of pairs at a time.

For CUDA devices. No `(B, R)` tensor exists at any time: memory is $O((B + R) D + C^2)$ and a bounded workspace. Two
runs give the same bits, nothing waits for the device, and a CUDA graph can capture forward and backward.
`labeldist.functional` is the specification.

| module | what it does |
|---|---|
| `small` | few rows (2,048 of 768 dimensions, of float32 800): one launch for all pairs, unsorted |
| `large` | more rows, as an operator: normalised, sorted by class, cast to the dtype of the products |
| `narrow` | up to 128 dimensions of 16 bits: products, exponentials and the gradient of a tile in registers |
| `wide` | others: sums in one kernel, weights in another, into a bounded workspace, and products of these with rows |
| `rows` | what is done once a row |
| `operators` | how both become calls that autograd and `torch.compile` know |

How the large ones go, with $f = \mathrm{scale} / 2$, $o = f + \mathrm{bias}$, $\mathrm{logit}_{ij} = f_{ab}\, u_i^\top
v_j + o_{ab}$:

1. The positives of an anchor share its class: their mean logit comes from class sums in float32.
2. $\mathrm{lse}_i$ comes from all pairs. Where the batch is its own reference, the tables are symmetric and the logits
   span little enough for one shift, each unordered pair is met once. Otherwise a running maximum keeps any span right.
3. The gradient is $A V$ with $A_{ij} = f_{ab} q_{ij} g_i + f_{ba} q_{ji} g_j$ for $g$ from above, $q$ the softmax: one
   product, since that $A$ is symmetric whatever the tables.
"""

import torch
from torch import Tensor

from labeldist.backends._limits import MAX_CLASSES, ROW_DTYPES
from labeldist.backends.fused import small
from labeldist.backends.fused._kernels_common import IS_INTERPRETED
from labeldist.backends.fused.large import large_losses
from labeldist.backends.fused.launching import PRECISIONS, PRODUCT_DTYPES, Precision
from labeldist.distributed import ProcessGroup
from labeldist.functional import AnchorLosses

__all__ = ["LARGEST_SPAN", "PRECISIONS", "Precision", "anchor_losses"]

# Nats that logits may span under one shift: `_kernels_tables.SPAN` is of base 2.
LARGEST_SPAN = 118.0


def anchor_losses(
    anchors: Tensor,
    labels: Tensor,
    references: Tensor | None,
    ref_labels: Tensor | None,
    scale: Tensor,
    bias: Tensor,
    *,
    is_symmetric: bool | None = None,
    is_bounded: bool | None = None,
    precision: Precision = "float32",
    group: ProcessGroup | None = None,
) -> AnchorLosses:
    r"""Loss of each anchor, $\mathrm{lse}_i - \frac{1}{n_i} \sum_{j \in P(i)} \mathrm{logit}_{ij} - \log n_i$.

    $\mathrm{logit}_{ij} = \mathrm{scale}[y_i, y_j]\,(u_i^\top v_j + 1) / 2 + \mathrm{bias}[y_i, y_j]$ for rows divided
    by their length, the numbers of `functional.contrastive_loss`. Differentiable once, in `anchors`, `references`,
    `scale` and `bias`.

    Args:
        anchors: `(B, D)`, float32, bfloat16 or float16, of any length (normalised here), on a CUDA device.
        labels: class of each anchor, `(B,)`, integer, in [0, C).
        references: `(R, D)`, likewise. If `None`, the anchors, where no row is compared with itself.
        ref_labels: class of each reference, `(R,)`, integer; goes with `references`.
        scale: `(C, C)`, non-negative, row = anchor's class; C at most 32767.
        bias: `(C, C)`; `-inf` leaves the pairs of two classes out.
        is_symmetric: whether both tables equal their transposes. `None` lets the device find out, at the price of some
            launches. Only read where the anchors are their own references; `False` is always right, and slower.
        is_bounded: whether the logits that the tables allow span at most 118. `None` and `False` likewise.
        precision: of products of rows. `"float32"` is as exact as eager where the logits span at most 118; beyond, its
            error is up to twice eager's. The others are at least as exact as they say: `"bf16"` and `"fp16"` round rows
            and pair weights to 16 bits, `"tf32"` to 10 bits of mantissa. Sums, exponentials and results are float32
            always.
        group: those who share the pairs of a large batch, as in `blockwise.anchor_losses`; of a small one each member
            computes all. The gradient of the tables is never shared, but a mean over the members all the same.

    Returns:
        Losses in nats, float32 `(B,)`, 0 for an anchor without a positive, and which anchors have one, boolean `(B,)`.

    Raises:
        TypeError: if rows are of another dtype.
        ValueError: if `precision` is unknown, there are more than 32767 classes, or tensors are on several devices.
        RuntimeError: if the rows are not on a CUDA device, or the gradient is differentiated again.

    Examples:
        >>> rows = torch.eye(3, device="cuda")[[0, 0, 1, 2]]  # doctest: +SKIP
        >>> tables = torch.ones(2, 2, device="cuda"), torch.zeros(2, 2, device="cuda")  # doctest: +SKIP
        >>> labels = torch.tensor([0, 0, 0, 1], device="cuda")  # doctest: +SKIP
        >>> anchor_losses(rows, labels, None, None, *tables).is_valid  # doctest: +SKIP
        tensor([ True,  True,  True, False], device='cuda:0')
    """
    _check(anchors, precision, labels=labels, references=references, ref_labels=ref_labels, scale=scale, bias=bias)
    others = anchors if references is None else references
    # The gradient of the tables wants rows sorted by class.
    tables_learn = torch.is_grad_enabled() and (scale.requires_grad or bias.requires_grad)
    arguments = anchors, labels, references, ref_labels, scale, bias
    if small.is_small(len(anchors), *others.shape, precision=precision) and not tables_learn:
        return AnchorLosses(*small.small_losses(*arguments, precision))
    # Unit rows of float16 have tf32's digits, and take half the memory.
    own_precision = "fp16" if precision == "tf32" else precision
    if group is not None:
        # Members add up sums of one kind: what nobody knows beforehand of the tables is taken for false.
        is_symmetric, is_bounded = bool(is_symmetric), bool(is_bounded)
    return AnchorLosses(*large_losses(*arguments, is_symmetric, is_bounded, own_precision, group=group))


def _check(
    anchors: Tensor, precision: str, *, references: Tensor | None, scale: Tensor, **others: Tensor | None
) -> None:
    if precision not in PRODUCT_DTYPES:
        raise ValueError(f"precision must be one of {', '.join(map(repr, PRODUCT_DTYPES))}, got {precision!r}.")
    if scale.shape[0] > MAX_CLASSES:
        raise ValueError(
            f"the triton backend takes at most {MAX_CLASSES} classes, got {scale.shape[0]}. Use the blockwise backend."
        )
    for rows in (anchors, references):
        if rows is not None and rows.dtype not in ROW_DTYPES:
            raise TypeError(
                f"embeddings must be float32, bfloat16 or float16, got {rows.dtype}. Use the blockwise backend."
            )
    if anchors.device.type != "cuda" and not IS_INTERPRETED:
        raise RuntimeError(
            f"the triton backend needs tensors on a CUDA device, got {anchors.device}. Use the blockwise backend."
        )
    for name, tensor in {"references": references, "scale": scale, **others}.items():
        if tensor is not None and tensor.device != anchors.device:
            raise ValueError(
                f"{name} must be on the device of the anchors, {anchors.device}, got {tensor.device}. Move it there."
            )
