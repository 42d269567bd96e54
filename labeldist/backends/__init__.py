"""Faster ways to the numbers of `labeldist.functional`, behind one door that checks and chooses.

| backend | what it is | memory | where |
|---|---|---|---|
| `"eager"` | `labeldist.functional` itself | several `(B, R)` tensors | everywhere; listed pairs, second derivatives |
| `"blockwise"` | tiles of pairs, gradient by hand | `O((B + R) D)` | everywhere |
| `"triton"` | fused kernels | `O((B + R) D)` | NVIDIA GPUs, with the package triton |
| `"auto"` | the fastest of them that was measured so | | |
"""

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from labeldist import functional
from labeldist.backends._tiles import Team
from labeldist.functional import AnchorLosses, Weighting

__all__ = ["Backend", "Team", "anchor_losses", "label_distance_contrastive"]

Backend = Literal["auto", "eager", "blockwise", "triton"]

# `benchmarks/results/loss/cpu-float32.json`: from about so many pairs on tiles pay.
MIN_PAIRS_BLOCKWISE = 2**18
# Other devices were not measured: there tiles are for what eager would need tens of GiB for.
MIN_PAIRS_BLOCKWISE_ELSEWHERE = 2**30


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
    team: Team | None = None,
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
        team: those who share the pairs, as in `blockwise.anchor_losses`. `"blockwise"` shares them, and so does
            `"auto"`, which then takes it for all pairs of any batch. With another backend or listed pairs each member
            computes all of them. Either way a row's gradient is the sum of the members' gradients.

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
    chosen = choose_backend(backend, embeddings, ref_emb, is_listed=pairs is not None, is_shared=team is not None)
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
    anchors = functional.unit_rows(embeddings)
    references = None if ref_emb is None else functional.unit_rows(ref_emb).to(anchors.dtype)
    scale, bias = functional.class_pair_tables(ldm.to(anchors), temperature=temperature, weighting=weighting)
    classes = labels.long(), None if ref_labels is None else ref_labels.long()
    if chosen == "triton":
        from labeldist.backends import fused

        precision = fused.PRECISIONS[embeddings.dtype]
        return fused.anchor_losses(anchors, classes[0], references, classes[1], scale, bias, precision=precision)
    from labeldist.backends import blockwise

    return blockwise.anchor_losses(anchors, classes[0], references, classes[1], scale, bias, team=team)


def check_backend(backend: str) -> None:
    """Raise `ValueError` unless `backend` is known."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}.")


def choose_backend(
    backend: Backend, embeddings: Tensor, ref_emb: Tensor | None, *, is_listed: bool, is_shared: bool = False
) -> Literal["eager", "blockwise", "triton"]:
    """The backend that a call takes. Arguments and errors as in `anchor_losses`."""
    check_backend(backend)
    if backend == "auto":
        num_pairs = len(embeddings) * len(embeddings if ref_emb is None else ref_emb)
        is_measured = embeddings.device.type == "cpu"
        most_eager = MIN_PAIRS_BLOCKWISE if is_measured else MIN_PAIRS_BLOCKWISE_ELSEWHERE
        if is_shared and not is_listed:
            return "blockwise"
        # Compiled, eager becomes a few kernels, and tiles would be a break in the graph.
        is_eager = is_listed or torch.compiler.is_compiling() or num_pairs < most_eager
        return "eager" if is_eager else "blockwise"
    if backend == "eager":
        return backend
    if is_listed:
        raise ValueError(
            f"backend={backend!r} compares all pairs, got listed ones (an indices_tuple). Use 'auto' or 'eager'."
        )
    if backend == "triton":
        if embeddings.device.type != "cuda":
            raise RuntimeError(
                f"backend='triton' needs embeddings on an NVIDIA GPU, got {embeddings.device}. Use 'auto' elsewhere."
            )
        if find_spec("triton") is None:
            raise ImportError("backend='triton' needs the package triton. Install it with: pip install triton")
    return backend
