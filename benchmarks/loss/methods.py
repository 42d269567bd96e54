"""What is measured: each backend of the loss, the floor, and what others offer for the same rows.

A method turns rows `(B, D)` and their classes into a scalar. `TASKS` says how close its task is to that of the loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from labeldist import LabelDistanceContrastiveLoss, StaticLDM, functional
from labeldist.pairs import Batch

NUM_CLASSES = 50
TEMPERATURE = 0.1
# Graded targets: groups of so many classes, and the relevance of two classes of one group.
GROUP_SIZE, SIBLINGS = 5, 0.05

TASKS = {
    "same": "the loss itself",
    "graded": "the loss itself with graded targets",
    "unweighted": "supervised contrast without label distances",
    "one positive": "each row against its second view, without labels",
    "cross-entropy": "linear layer and cross-entropy with as many classes as rows: a cousin of the same shape",
    "forward": "the normalizer alone, without a backward pass",
    "floor": "matrix products alone",
}


@dataclass(frozen=True)
class Problem:
    """One batch.

    Attributes:
        rows: `(B, D)`, a leaf that takes gradients.
        labels: `(B,)`, int64, unsorted.
        ldm: `(C, C)`, symmetric, entries from 1 to 5.
    """

    rows: Tensor
    labels: Tensor
    ldm: Tensor

    @classmethod
    def draw(
        cls,
        num_rows: int,
        dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        seed: int = 0,
        num_classes: int = NUM_CLASSES,
    ) -> "Problem":
        """Random rows around random class centers, so that classes differ as they do in training."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(num_classes, (num_rows,), generator=generator)
        centers = torch.randn(num_classes, dim, generator=generator)
        rows = torch.randn(num_rows, dim, generator=generator).add_(centers[labels], alpha=0.5)
        ldm = 1 + 4 * torch.rand(num_classes, num_classes, generator=generator)
        ldm = ((ldm + ldm.T) / 2).fill_diagonal_(1)
        return cls(rows.to(device, dtype).requires_grad_(), labels.to(device), ldm.to(device))

    @property
    def relevance(self) -> Tensor:
        """`(C, C)`: 1 for a class itself, `SIBLINGS` for others of its group, 0 for the rest."""
        group = torch.arange(len(self.ldm), device=self.ldm.device) // GROUP_SIZE
        return (SIBLINGS * (group[:, None] == group)).to(self.ldm).fill_diagonal_(1)


@dataclass(frozen=True)
class Method:
    """A way to compute a loss of a problem.

    Attributes:
        name: in tables and figures.
        task: a key of `TASKS`.
        prepare: makes the function that is timed, from the problem.
        needs: a package that must be installed.
        cuda_only: whether it runs on NVIDIA GPUs alone.
        max_dim: largest `D` that it takes, if there is one.
        captures: whether a CUDA graph can capture it.
        compared: a method that is timed in turn with it, for a ratio that the machine's other work does not change.
    """

    name: str
    task: str
    prepare: Callable[[Problem], Callable[[], Tensor]]
    needs: str | None = None
    cuda_only: bool = False
    max_dim: int | None = None
    captures: bool = False
    compared: str | None = None

    def missing(self, device: torch.device, dim: int) -> str | None:
        """Why it cannot run here, or `None`."""
        if self.needs and find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        if self.cuda_only and device.type != "cuda":
            return "needs an NVIDIA GPU"
        if self.max_dim and dim > self.max_dim:
            return f"takes D up to {self.max_dim}"
        return None


def _ours(backend: str, *, is_graded: bool = False) -> Callable[[Problem], Callable[[], Tensor]]:
    def prepare(problem: Problem) -> Callable[[], Tensor]:
        loss = LabelDistanceContrastiveLoss(
            StaticLDM(problem.ldm),
            temperature=TEMPERATURE,
            relevance=problem.relevance if is_graded else None,
            backend=backend,
            validate=False,
        )
        return lambda: loss(problem.rows, problem.labels)

    return prepare


def _compiled_eager(problem: Problem) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        tables = functional.class_pair_tables(problem.ldm, temperature=TEMPERATURE)
        losses, is_valid = functional.anchor_losses(Batch(problem.rows, problem.labels), tables)
        return losses.sum() / is_valid.sum().clamp_min(1)

    return torch.compile(loss)


def _supcon(problem: Problem) -> Callable[[], Tensor]:
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(temperature=2 * TEMPERATURE)
    return lambda: loss(problem.rows, problem.labels)


def _second_view(problem: Problem) -> Tensor:
    generator = torch.Generator(problem.rows.device).manual_seed(1)
    noise = torch.randn(problem.rows.shape, generator=generator, device=problem.rows.device, dtype=torch.float32)
    return (problem.rows.detach() + 0.1 * noise.to(problem.rows.dtype)).requires_grad_()


def _inf_cl(problem: Problem) -> Callable[[], Tensor]:
    from inf_cl import cal_flash_loss

    second = _second_view(problem)
    scale = torch.tensor(1 / TEMPERATURE, device=problem.rows.device)
    normalize = torch.nn.functional.normalize
    # It multiplies so many dimensions at a time; they must divide the width.
    part = 256 if problem.rows.shape[1] % 256 == 0 else 128
    return lambda: cal_flash_loss(normalize(problem.rows), normalize(second), scale=scale, head_dim=part).mean()


def _cut_cross_entropy(problem: Problem) -> Callable[[], Tensor]:
    from cut_cross_entropy import linear_cross_entropy

    second, targets = _second_view(problem), torch.arange(len(problem.rows), device=problem.rows.device)
    # Its filter drops small gradients, which here are the true ones.
    return lambda: linear_cross_entropy(problem.rows, second, targets, filter_eps=None)


def _liger(problem: Problem) -> Callable[[], Tensor]:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()
    second, targets = _second_view(problem), torch.arange(len(problem.rows), device=problem.rows.device)
    return lambda: loss(second, problem.rows, targets)


def _flex_attention(problem: Problem) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    scale = problem.ldm / TEMPERATURE
    labels = problem.labels

    def weighted(score, batch, head, query, key):
        weight = scale[labels[query], labels[key]]
        return torch.where(query == key, -torch.inf, weight * (score + 1) / 2)

    attend = torch.compile(flex_attention)

    def normalizer() -> Tensor:
        with torch.no_grad():
            rows = torch.nn.functional.normalize(problem.rows)[None, None]
            return attend(rows, rows, rows, score_mod=weighted, scale=1.0, return_lse=True)[1].sum()

    return normalizer


def _keops(problem: Problem) -> Callable[[], Tensor]:
    from pykeops.torch import LazyTensor

    def loss() -> Tensor:
        rows = torch.nn.functional.normalize(problem.rows.float())
        similarity = (LazyTensor(rows[:, None]) | LazyTensor(rows[None])) / (2 * TEMPERATURE)
        return similarity.logsumexp(dim=1).mean()

    return loss


METHODS = {
    method.name: method
    for method in [
        Method("eager", "same", _ours("eager"), captures=True),
        Method("blockwise", "same", _ours("blockwise")),
        Method("triton", "same", _ours("triton"), needs="triton", cuda_only=True, captures=True),
        Method("auto", "same", _ours("auto")),
        *(
            Method(
                f"{backend}, graded",
                "graded",
                _ours(backend, is_graded=True),
                needs="triton" if backend == "triton" else None,
                cuda_only=backend == "triton",
                captures=backend != "blockwise",
                compared=backend,
            )
            for backend in ("eager", "blockwise", "triton")
        ),
        Method("eager, torch.compile", "same", _compiled_eager),
        Method("PML SupConLoss", "unweighted", _supcon),
        Method("KeOps", "unweighted", _keops, needs="pykeops"),
        Method("Inf-CL", "one positive", _inf_cl, needs="inf_cl", cuda_only=True),
        Method(
            "cut-cross-entropy",
            "cross-entropy",
            _cut_cross_entropy,
            needs="cut_cross_entropy",
            cuda_only=True,
        ),
        Method("Liger cross-entropy", "cross-entropy", _liger, needs="liger_kernel", cuda_only=True),
        Method("flex_attention", "forward", _flex_attention, cuda_only=True, max_dim=512),
    ]
}
