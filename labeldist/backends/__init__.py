"""Faster implementations of `labeldist.functional`, and the functions that check the inputs and select one.

| backend | implementation | memory | runs on |
|---|---|---|---|
| `"eager"` | `labeldist.functional` itself | several `(B, R)` tensors | all devices; listed pairs, second derivatives |
| `"blockwise"` | tiles of pairs, analytic gradient | `O((B + R) D)` | all devices |
| `"triton"` | fused kernels | `O((B + R) D)` | NVIDIA GPUs, with the package triton |
| `"auto"` | the fastest one for the batch, according to benchmarks | | |

An explicit backend raises an error if it cannot be used; only `"auto"` falls back to another one.
"""

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from labeldist import functional
from labeldist.backends import _limits
from labeldist.checks import check_batch, check_relevance
from labeldist.distributed import ProcessGroup
from labeldist.functional import AnchorLosses
from labeldist.options import Backend, Weighting
from labeldist.pairs import Batch, ClassPairTables
from labeldist.precision import at_least_float32

__all__ = ["Backend", "anchor_losses", "label_distance_contrastive"]

# "blockwise" is faster than "eager" from about this many pairs, see `benchmarks/results/loss/cpu-float32.json`.
MIN_PAIRS_BLOCKWISE = 2**18
# Other devices without fused kernels were not measured. Use tiles where "eager" would need tens of GiB.
MIN_PAIRS_BLOCKWISE_ELSEWHERE = 2**30
# Ampere is the first generation with matrix products in bfloat16 and tf32.
MIN_CAPABILITY_TRITON = (8, 0)


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
    backend: Backend = "auto",
    validate: bool = True,
) -> Tensor:
    """Compute `labeldist.functional.label_distance_contrastive` with the fastest backend for the batch.

    Arguments, result and errors are those of the function in `functional`. `backend` is explained in `anchor_losses`.

    Examples:
        >>> embeddings, labels, ldm = torch.randn(4, 8), torch.tensor([0, 1, 0, 1]), torch.ones(2, 2)
        >>> fast = label_distance_contrastive(embeddings, labels, ldm, backend="blockwise")
        >>> fast.allclose(functional.label_distance_contrastive(embeddings, labels, ldm), atol=1e-6)
        True
    """
    batch = Batch(embeddings, labels, ref_emb, ref_labels)
    check_batch(batch, len(ldm), validate=validate)
    dtype = at_least_float32(embeddings).dtype
    ldm = ldm.to(embeddings.device, dtype)
    tables = functional.class_pair_tables(ldm, temperature=temperature, weighting=weighting)
    if relevance is not None:
        check_relevance(relevance, len(ldm), validate=validate)
        tables = tables._replace(relevance=relevance.to(embeddings.device, dtype))
    return anchor_losses(batch, tables, backend=backend, validate=False).losses


def anchor_losses(
    batch: Batch,
    tables: ClassPairTables,
    *,
    pairs: tuple[Tensor, Tensor] | None = None,
    backend: Backend = "auto",
    validate: bool = True,
    group: ProcessGroup | None = None,
) -> AnchorLosses:
    """Compute `labeldist.functional.anchor_losses` with the selected backend.

    Args:
        batch: anchors and references.
        tables: scale, bias and, for graded targets, relevance of each class pair, `(C, C)`: float32, or float64 for
            float64 embeddings. If
            `is_symmetric` or `span` is `None`, the backend computes it: `"triton"` on the device, `"blockwise"` with a
            synchronization.
        pairs: masks `(B, R)` of the listed positives and of all listed pairs; supported by `"eager"` only.
        backend: `"auto"` selects the fastest backend for the batch; any other raises an error if it cannot be used.
        validate: check the range of the labels; on a GPU this synchronizes with the device.
        group: processes that divide the pairs among themselves, as in `blockwise.anchor_losses`. `"auto"` then selects
            `"triton"` if it can be used, and `"blockwise"` otherwise. With `"eager"`, with listed pairs, and with too
            few rows for `"triton"`, each process computes all pairs. In all cases the gradient of a row is the sum of
            the processes' gradients.

    Returns:
        Losses and the mask of valid anchors, each `(B,)`.

    Raises:
        ValueError: if `backend` is unknown or does not support `pairs`, shapes differ, or a label is out of range.
        TypeError: if labels are not integers or embeddings not floating point.
        RuntimeError: if `backend="triton"` and the embeddings are not on an NVIDIA GPU.
        ImportError: if `backend="triton"` and triton is not installed.

    Examples:
        >>> batch = Batch(torch.randn(3, 8), torch.tensor([0, 0, 1]))
        >>> tables = functional.class_pair_tables(torch.ones(2, 2))
        >>> anchor_losses(batch, tables, backend="blockwise").is_valid
        tensor([ True,  True, False])
    """
    chosen = choose_backend(
        backend, batch, num_classes=tables.num_classes, is_listed=pairs is not None, is_sharded=group is not None
    )
    check_batch(batch, tables.num_classes, validate=validate)
    if chosen == "eager":
        return functional.anchor_losses(batch, tables, pairs=pairs)
    if chosen == "triton":
        from labeldist.backends import fused

        return fused.anchor_losses(batch, tables, group=group)
    from labeldist.backends import blockwise

    return blockwise.anchor_losses(batch, tables, group=group)


def check_backend(backend: str) -> None:
    """Raise `ValueError` unless `backend` is the name of a backend."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}.")


def choose_backend(
    backend: Backend, batch: Batch, *, num_classes: int, is_listed: bool = False, is_sharded: bool = False
) -> Literal["eager", "blockwise", "triton"]:
    """The backend that a call uses. Arguments and errors as in `anchor_losses`."""
    check_backend(backend)
    if backend == "eager":
        return backend
    if is_listed:
        if backend == "auto":
            return "eager"
        raise ValueError(
            f"backend={backend!r} compares all pairs, got listed ones (an indices_tuple). Use 'auto' or 'eager'."
        )
    if backend == "triton":
        _check_triton(batch.embeddings)
        return backend
    if backend == "blockwise":
        return backend
    if _is_for_triton(batch, num_classes):
        return "triton"
    if is_sharded:
        return "blockwise"
    num_pairs = len(batch.embeddings) * len(batch.references[0])
    most_eager = MIN_PAIRS_BLOCKWISE if batch.embeddings.device.type == "cpu" else MIN_PAIRS_BLOCKWISE_ELSEWHERE
    # torch.compile fuses eager into a few kernels; the tiles would break the graph.
    is_eager = torch.compiler.is_compiling() or num_pairs < most_eager
    return "eager" if is_eager else "blockwise"


def _check_triton(embeddings: Tensor) -> None:
    if embeddings.device.type != "cuda":
        raise RuntimeError(
            f"backend='triton' needs embeddings on an NVIDIA GPU, got {embeddings.device}. Use 'auto' elsewhere."
        )
    if find_spec("triton") is None:
        raise ImportError("backend='triton' needs the package triton. Install it with: pip install triton")


def _is_for_triton(batch: Batch, num_classes: int) -> bool:
    """Whether the fused kernels support the device, the dtypes and the number of classes."""
    device = batch.embeddings.device
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    rows = (batch.embeddings, batch.references[0])
    if any(tensor.dtype not in _limits.ROW_DTYPES for tensor in rows) or num_classes > _limits.MAX_CLASSES:
        return False
    return torch.cuda.get_device_capability(device) >= MIN_CAPABILITY_TRITON
