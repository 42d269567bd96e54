"""Faster ways to the numbers of `labeldist.functional`, behind one door that checks and chooses.

| backend | what it is | memory | where |
|---|---|---|---|
| `"eager"` | `labeldist.functional` itself | several `(B, R)` tensors | everywhere; listed pairs, second derivatives |
| `"blockwise"` | tiles of pairs, gradient by hand | `O((B + R) D)` | everywhere |
| `"triton"` | fused kernels | `O((B + R) D)` | NVIDIA GPUs, with the package triton |
| `"auto"` | the fastest of them that was measured so | | |
"""

from importlib.util import find_spec
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from labeldist import functional
from labeldist.backends import _limits
from labeldist.distributed import ProcessGroup
from labeldist.functional import AnchorLosses, Weighting
from labeldist.pairs import Batch, ClassPairTables

__all__ = ["Backend", "TableTraits", "anchor_losses", "label_distance_contrastive", "table_traits"]

Backend = Literal["auto", "eager", "blockwise", "triton"]

# `benchmarks/results/loss/cpu-float32.json`: from about so many pairs on tiles pay.
MIN_PAIRS_BLOCKWISE = 2**18
# Devices without kernels were not measured: there tiles are for what eager would need tens of GiB for.
MIN_PAIRS_BLOCKWISE_ELSEWHERE = 2**30
# From Ampere on a GPU multiplies bfloat16 and tf32.
MIN_CAPABILITY_TRITON = (8, 0)


class TableTraits(NamedTuple):
    """What a backend may know of the class pairs' tables beforehand, which spares it a look or some launches.

    Attributes:
        is_symmetric: whether both tables equal their transposes.
        span: the largest logit that the tables allow less the smallest, in nats.
    """

    is_symmetric: bool
    span: float


@torch.no_grad()
def table_traits(ldm: Tensor, *, temperature: float = 1.0, weighting: Weighting = "scale") -> TableTraits:
    """Read the traits of the tables of an LDM; a GPU is waited for.

    Args:
        ldm: label distances, `(C, C)`, non-negative.
        temperature: softmax temperature, > 0.
        weighting: `"scale"` or `"log"`.

    Returns:
        Traits that hold for as long as the LDM is as it is.

    Examples:
        >>> table_traits(torch.tensor([[1.0, 5.0], [5.0, 1.0]]), temperature=0.1)
        TableTraits(is_symmetric=True, span=50.0)
    """
    scale, bias = functional.class_pair_tables(ldm.cpu().double(), temperature=temperature, weighting=weighting)
    is_symmetric = torch.equal(scale, scale.T) and torch.equal(bias, bias.T)
    # A similarity lies in [0, 1]; pairs that take no part have no logit.
    takes_part = bias != -torch.inf
    if not takes_part.any():
        return TableTraits(is_symmetric, 0.0)
    span = (scale + bias)[takes_part].max() - bias[takes_part].min()
    return TableTraits(is_symmetric, span.item())


def label_distance_contrastive(
    embeddings: Tensor,
    labels: Tensor,
    ldm: Tensor,
    *,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    temperature: float = 1.0,
    weighting: Weighting = "scale",
    backend: Backend = "auto",
    validate: bool = True,
) -> Tensor:
    """`labeldist.functional.label_distance_contrastive`, faster where the batch is large.

    Arguments, result and errors are those of the function in `functional`, and of `anchor_losses` here.

    Examples:
        >>> embeddings, labels, ldm = torch.randn(4, 8), torch.tensor([0, 1, 0, 1]), torch.ones(2, 2)
        >>> fast = label_distance_contrastive(embeddings, labels, ldm, backend="blockwise")
        >>> fast.allclose(functional.label_distance_contrastive(embeddings, labels, ldm), atol=1e-6)
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
        backend=backend,
        validate=validate,
    ).losses


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
    backend: Backend = "auto",
    validate: bool = True,
    traits: TableTraits | None = None,
    tables: tuple[Tensor, Tensor] | None = None,
    group: ProcessGroup | None = None,
) -> AnchorLosses:
    """`labeldist.functional.anchor_losses` by the backend of choice.

    Args:
        embeddings: `(B, D)`, like every argument but `backend` as in `functional.anchor_losses`.
        labels: `(B,)`.
        ldm: `(C, C)`.
        ref_emb: `(R, D)`, or `None`.
        ref_labels: `(R,)`, or `None`.
        pairs: masks `(B, R)` of listed pairs; only `"eager"` takes them.
        temperature: softmax temperature, > 0.
        weighting: `"scale"` or `"log"`.
        backend: `"auto"` takes what is fastest for the batch. Anything else is taken or raises.
        validate: check the labels' range.
        traits: what `table_traits` reads of `ldm`, where the caller knows; wrong traits give wrong numbers. `None`
            leaves it to the backend: `"triton"` finds out on the device, `"blockwise"` waits for it.
        tables: what `functional.class_pair_tables` makes of `ldm` in float32, where the caller has it already. Without
            a gradient for `ldm` they save `"triton"` two small operations a call.
        group: those who share the pairs, as in `blockwise.anchor_losses`. `"auto"` then takes `"triton"` where it can,
            and `"blockwise"` for any batch elsewhere. With `"eager"`, listed pairs, or few rows for `"triton"` each
            member computes all pairs. Either way a row's gradient is the sum of the members' gradients.

    Returns:
        Losses and validity, each `(B,)`.

    Raises:
        ValueError: if `backend` is unknown or cannot take `pairs`, and as in `functional.anchor_losses`.
        RuntimeError: if `backend="triton"` and the embeddings are not on an NVIDIA GPU.
        ImportError: if `backend="triton"` and triton is not installed.

    Examples:
        >>> embeddings, labels = torch.randn(3, 8), torch.tensor([0, 0, 1])
        >>> anchor_losses(embeddings, labels, torch.ones(2, 2), backend="blockwise").is_valid
        tensor([ True,  True, False])
    """
    chosen = choose_backend(
        backend,
        embeddings,
        ref_emb,
        num_classes=len(ldm),
        is_listed=pairs is not None,
        is_shared=group is not None,
    )
    if chosen == "eager":
        return functional.anchor_losses(
            embeddings,
            labels,
            ldm,
            ref_emb=ref_emb,
            ref_labels=ref_labels,
            pairs=pairs,
            temperature=temperature,
            weighting=weighting,
            validate=validate,
        )
    functional.check_problem(embeddings, labels, len(ldm), ref_emb, ref_labels, validate=validate)
    if chosen == "triton":
        from labeldist.backends import fused

        if tables is None:
            ldm = ldm.to(embeddings.device, torch.float32)
            tables = functional.class_pair_tables(ldm, temperature=temperature, weighting=weighting)
        return fused.anchor_losses(
            Batch(embeddings, labels, ref_emb, ref_labels),
            ClassPairTables(*tables, *((None, None) if traits is None else traits)),
            group=group,
        )
    from labeldist.backends import blockwise

    anchors = functional.unit_rows(embeddings)
    references = None if ref_emb is None else functional.unit_rows(ref_emb).to(anchors.dtype)
    scale, bias = functional.class_pair_tables(ldm.to(anchors), temperature=temperature, weighting=weighting)
    classes = labels.long(), None if ref_labels is None else ref_labels.long()
    return blockwise.anchor_losses(anchors, classes[0], references, classes[1], scale, bias, group=group)


def check_backend(backend: str) -> None:
    """Raise `ValueError` unless `backend` is known."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}.")


def choose_backend(
    backend: Backend,
    embeddings: Tensor,
    ref_emb: Tensor | None,
    *,
    num_classes: int,
    is_listed: bool,
    is_shared: bool = False,
) -> Literal["eager", "blockwise", "triton"]:
    """The backend that a call takes. Arguments and errors as in `anchor_losses`."""
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
        _check_triton(embeddings)
        return backend
    if backend == "blockwise":
        return backend
    if _is_for_triton(embeddings, ref_emb, num_classes):
        return "triton"
    if is_shared:
        return "blockwise"
    num_pairs = len(embeddings) * len(embeddings if ref_emb is None else ref_emb)
    most_eager = MIN_PAIRS_BLOCKWISE if embeddings.device.type == "cpu" else MIN_PAIRS_BLOCKWISE_ELSEWHERE
    # Compiled, eager becomes a few kernels, and tiles would be a break in the graph.
    is_eager = torch.compiler.is_compiling() or num_pairs < most_eager
    return "eager" if is_eager else "blockwise"


def _check_triton(embeddings: Tensor) -> None:
    if embeddings.device.type != "cuda":
        raise RuntimeError(
            f"backend='triton' needs embeddings on an NVIDIA GPU, got {embeddings.device}. Use 'auto' elsewhere."
        )
    if find_spec("triton") is None:
        raise ImportError("backend='triton' needs the package triton. Install it with: pip install triton")


def _is_for_triton(embeddings: Tensor, ref_emb: Tensor | None, num_classes: int) -> bool:
    """Whether the kernels take a call, on a GPU that has what they are written for."""
    if embeddings.device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    rows = [embeddings] if ref_emb is None else [embeddings, ref_emb]
    if any(tensor.dtype not in _limits.ROW_DTYPES for tensor in rows) or num_classes > _limits.MAX_CLASSES:
        return False
    return torch.cuda.get_device_capability(embeddings.device) >= MIN_CAPABILITY_TRITON
