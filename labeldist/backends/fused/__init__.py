r"""The loss of each anchor in Triton kernels, one tile of pairs at a time.

For CUDA devices. Pair buffers have a bounded size: at most 128 MiB (256 for float32). Other memory is
$O((B + R) D + C^2)$. Two runs give the same bits, nothing waits for the device, and a CUDA graph can capture forward
and backward. `labeldist.functional` is the specification.

| module | what it does |
|---|---|
| `small` | few rows: two launches forward, one backward |
| `medium` | up to 4,096 bfloat16 or float16 rows: three launches forward, two backward |
| `large` | more rows, float32, learnable tables and graded targets: sorted by class, pairs by one of the next two |
| `narrow` | bfloat16 or float16 rows of up to 128 dimensions: all of a tile in registers |
| `wide` | others: pair weights go through memory, and the library multiplies them by the rows |
| `graded` | what `large` does for graded targets: sums over class pairs, on the host |
| `rows`, `state` | what `large` does once a row, and what passes between its steps |
| `operators` | how the paths become calls that autograd and `torch.compile` know |
| `launching`, `tilings` | launches and memory with little of the host's time; sizes of tiles and grids |
"""

import torch
from torch import Tensor

from labeldist.backends._limits import MAX_CLASSES, ROW_DTYPES
from labeldist.backends.fused._kernels_common import IS_INTERPRETED
from labeldist.backends.fused.large import large_losses
from labeldist.backends.fused.medium import is_medium, medium_losses
from labeldist.backends.fused.small import is_small, small_losses
from labeldist.distributed import ProcessGroup
from labeldist.functional import AnchorLosses
from labeldist.pairs import Batch, ClassPairTables

__all__ = ["anchor_losses"]


def anchor_losses(batch: Batch, tables: ClassPairTables, *, group: ProcessGroup | None = None) -> AnchorLosses:
    r"""Loss of each anchor, $\mathrm{lse}_i - \frac{1}{n_i} \sum_{j \in P(i)} \mathrm{logit}_{ij} - \log n_i$.

    The numbers of `functional.contrastive_loss`, for rows divided by their length. Differentiable once, in the rows and
    the tables.

    The dtype of `batch.embeddings` decides on the products: float32 is as exact as eager where the logits span at most
    118 nats, and has up to twice eager's error beyond. bfloat16 and float16 round rows and pair weights to 16 bits.
    Sums, exponentials and results are always float32.

    Graded targets (`tables.relevance`) take the path of large batches at every size. Pairs are computed as without
    them, and the targets come from sums over classes. Their product of (C, C) by (C, D) is in float32. With more than
    128 classes it is torch's, and rounded to tf32 only if `torch.backends.cuda.matmul.allow_tf32` is set.

    Args:
        batch: rows float32, bfloat16 or float16, of any length (normalized here), on a CUDA device; integer labels.
        tables: scale, bias and relevance of class pairs, float32, on the same device; C at most 32767. With
            `is_symmetric` or `span` unknown (`None`) the device finds out, at the price of some launches. They matter
            only where the anchors are their own references.
        group: processes that share the pairs of a large batch, as in `blockwise.anchor_losses`; of a small or medium
            one each process computes all pairs. The tables' gradient is the same on all processes, 1 / P of the whole.

    Returns:
        Losses in nats, float32 `(B,)`, 0 for an anchor without a positive, and which anchors have one, boolean `(B,)`.

    Raises:
        TypeError: if rows are of another dtype.
        ValueError: if there are more than 32767 classes, or tensors are on several devices.
        RuntimeError: if the rows are not on a CUDA device, or the gradient is differentiated again.

    Examples:
        >>> rows = torch.eye(3, device="cuda")[[0, 0, 1, 2]]  # doctest: +SKIP
        >>> batch = Batch(rows, torch.tensor([0, 0, 0, 1], device="cuda"))  # doctest: +SKIP
        >>> ones, zeros = torch.ones(2, 2, device="cuda"), torch.zeros(2, 2, device="cuda")  # doctest: +SKIP
        >>> tables = ClassPairTables(ones, zeros)  # doctest: +SKIP
        >>> anchor_losses(batch, tables).is_valid  # doctest: +SKIP
        tensor([ True,  True,  True, False], device='cuda:0')
    """
    _check(batch, tables)
    # Gradients of the tables and graded targets are computed from rows sorted by class.
    tables_learn = torch.is_grad_enabled() and (tables.scale.requires_grad or tables.bias.requires_grad)
    is_sorted = tables_learn or tables.relevance is not None
    if not is_sorted and is_small(batch):
        return AnchorLosses(*small_losses(batch, tables))
    if not is_sorted and is_medium(batch):
        return AnchorLosses(*medium_losses(batch, tables))
    if group is not None:
        # All processes must use the same mode, so treat unknown `is_symmetric` as false and unknown `span` as infinite.
        span = torch.inf if tables.span is None else tables.span
        tables = tables._replace(is_symmetric=bool(tables.is_symmetric), span=span)
    return AnchorLosses(*large_losses(batch, tables, group=group))


def _check(batch: Batch, tables: ClassPairTables) -> None:
    if tables.num_classes > MAX_CLASSES:
        raise ValueError(
            f"the triton backend takes at most {MAX_CLASSES} classes, got {tables.num_classes}. Use the blockwise "
            "backend."
        )
    for rows in (batch.embeddings, batch.ref_emb):
        if rows is not None and rows.dtype not in ROW_DTYPES:
            raise TypeError(
                f"embeddings must be float32, bfloat16 or float16, got {rows.dtype}. Use the blockwise backend."
            )
    device = batch.embeddings.device
    if device.type != "cuda" and not IS_INTERPRETED:
        raise RuntimeError(
            f"the triton backend needs tensors on a CUDA device, got {device}. Use the blockwise backend."
        )
    others: dict[str, Tensor | None] = {
        "labels": batch.labels,
        "ref_emb": batch.ref_emb,
        "ref_labels": batch.ref_labels,
        "scale": tables.scale,
        "bias": tables.bias,
        "relevance": tables.relevance,
    }
    for name, tensor in others.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{name} must be on the device of the embeddings, {device}, got {tensor.device}. Move it.")
