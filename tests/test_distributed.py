"""Several real processes, compared with one process on the concatenated batch.

One start of the processes runs every check, under `DistributedDataParallel` where a model learns, and leaves its
numbers; the tests read them.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import ClassWeightedReducer, PerAnchorReducer
from pytorch_metric_learning.regularizers import LpRegularizer
from pytorch_metric_learning.utils import distributed as pml_distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cosine_similarity
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from labeldist import (
    AdaptiveLDM,
    CrossBatchMemory,
    DistributedLossWrapper,
    DistributedMinerWrapper,
    FineLabelsOnly,
    LabelDistanceBatchSampler,
    LabelDistanceContrastiveLoss,
    LabelDistanceMiner,
    StaticLDM,
)
from labeldist.distributed import gather_rows, max_over_processes, num_processes, process_index, sum_over_processes
from processes import leave, tiles_noted
from strategies import LargestTensor, gradient_of, normal

WORLDS = [2, pytest.param(4, marks=pytest.mark.slow)]
EVEN, UNEVEN = [6, 6, 6, 6], [5, 8, 3, 6]
DISTANCES = torch.tensor([[1, 5, 2, 1], [3, 1, 1, 0.5], [2, 1, 1, 4], [1, 1, 6, 1]], dtype=torch.float64)
# With "log" an entry of 0 removes a pair: here the positives of class 1.
DROPPING = DISTANCES * torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])


@dataclass(frozen=True)
class Batch:
    """All rows of a step, ordered by rank, and the number of rows of each rank."""

    inputs: Tensor
    labels: Tensor
    ref_inputs: Tensor
    ref_labels: Tensor
    lengths: list[int]

    def part(self, rank: int | None) -> "Batch":
        """The rows of one rank, or all rows for `None`."""
        if rank is None:
            return self

        def own(tensor: Tensor) -> Tensor:
            return tensor.split(self.lengths)[rank]

        return Batch(own(self.inputs), own(self.labels), own(self.ref_inputs), own(self.ref_labels), self.lengths)


def batch(lengths: list[int], *, seed: int = 0, lonely_rank: int | None = None) -> Batch:
    """Rows of three classes in any order; a rank in `lonely` has at most one row, of class 3."""
    number = sum(lengths)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    labels = (torch.arange(number) % 3)[order]
    if lonely_rank is not None:
        labels.split(lengths)[lonely_rank].fill_(3)
    ref_labels = (torch.arange(number) % 3)[order.flip(0)]
    return Batch(normal(number, 6, seed=seed), labels, normal(number, 6, seed=seed + 100), ref_labels, lengths)


def learned(matrix: Tensor = DISTANCES, **options) -> LabelDistanceContrastiveLoss:
    """The loss with a learned matrix."""
    return LabelDistanceContrastiveLoss(StaticLDM(nn.Parameter(matrix.clone())), temperature=0.3, **options)


def fixed(**options) -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(StaticLDM(DISTANCES), temperature=0.3, **options)


@dataclass(frozen=True)
class Case:
    """One training step: the wrappers of loss and miner, and the rows."""

    loss: Callable[[], nn.Module] = learned
    wrapper: Callable[..., nn.Module] = DistributedLossWrapper
    efficient: bool = False
    miner: Callable[[], nn.Module] | None = None
    miner_wrapper: Callable[..., nn.Module] = DistributedMinerWrapper
    has_references: bool = False
    lengths: list[int] = field(default_factory=lambda: EVEN)
    lonely_rank: int | None = None
    is_coarse: bool = False
    dtype: torch.dtype = torch.float64


def multi_similarity():
    return MultiSimilarityMiner(epsilon=0.3)


def label_distance_miner():
    return LabelDistanceMiner(DISTANCES, num_negatives=3, num_positives=2)


def label_distance_triplets():
    return LabelDistanceMiner(DISTANCES, num_negatives=2, output="triplets")


def triplets():
    return TripletMarginMiner(margin=0.5)


def both_modes(name: str, **options) -> dict[str, Case]:
    return {
        f"{name}, all anchors": Case(efficient=False, **options),
        f"{name}, own anchors": Case(efficient=True, **options),
    }


def dropping():
    return learned(DROPPING, weighting="log")


def logarithmic():
    return learned(weighting="log")


SYMMETRIC = DISTANCES + DISTANCES.T


def symmetric(**options):
    return learned(SYMMETRIC, **options)


def fixed_symmetric():
    return LabelDistanceContrastiveLoss(StaticLDM(SYMMETRIC), temperature=0.3)


def unbounded():
    """Logits for which no common shift keeps every exponential in range."""
    return LabelDistanceContrastiveLoss(StaticLDM(SYMMETRIC), temperature=0.005)


def eager():
    return learned(backend="eager")


def by_blocks():
    return learned(backend="blockwise")


RELEVANCE = torch.tensor([[1, 0.3, 0, 0], [0.1, 1, 0, 0.2], [0, 0, 2, 0.5], [0, 0, 0.4, 1]], dtype=torch.float64)


def graded(matrix=DISTANCES, **options):
    """The loss with a learned matrix and learned graded targets."""
    return learned(matrix, relevance=nn.Parameter(RELEVANCE.clone()), **options)


def graded_dropping():
    return graded(DROPPING, weighting="log")


def graded_symmetric():
    return LabelDistanceContrastiveLoss(StaticLDM(SYMMETRIC), temperature=0.3, relevance=RELEVANCE)


def reduced():
    return fixed(reducer=PerAnchorReducer(), embedding_regularizer=LpRegularizer(), embedding_reg_weight=0.1)


def weighted():
    return fixed(reducer=ClassWeightedReducer(torch.tensor([1.0, 3.0, 0.5, 1.0]).double()), collect_stats=True)


def fine_labels():
    return FineLabelsOnly(fixed())


def learned_fine_labels():
    return FineLabelsOnly(learned())


def inside_out(loss, efficient):
    """Each process leaves out its coarse rows before the rest are gathered."""
    return FineLabelsOnly(DistributedLossWrapper(loss.loss, efficient=efficient))


# Each of these must equal one process on the concatenated batch.
EQUAL: dict[str, Case] = {
    **both_modes("the loss"),
    **both_modes("the loss with references", has_references=True),
    **both_modes("uneven batches", lengths=UNEVEN),
    **both_modes("uneven batches with references", lengths=UNEVEN, has_references=True),
    **both_modes("an empty batch", loss=fixed, lengths=[6, 0, 5, 7]),
    **both_modes("a rank without positives", lengths=[6, 1, 6, 6], lonely_rank=1),
    **both_modes("log weights", loss=logarithmic, lengths=UNEVEN),
    **both_modes("log weights that drop a class", loss=dropping, lengths=UNEVEN),
    **both_modes("pairs mined", miner=multi_similarity, lengths=UNEVEN),
    **both_modes("triplets mined", miner=triplets, lengths=UNEVEN),
    **both_modes("pairs mined among references", miner=multi_similarity, lengths=UNEVEN, has_references=True),
    **both_modes("pairs by label distance", miner=label_distance_miner, lengths=UNEVEN),
    **both_modes("triplets by label distance", miner=label_distance_triplets, lengths=UNEVEN),
    **both_modes(
        "the library's miner wrapper", miner=multi_similarity, miner_wrapper=pml_distributed.DistributedMinerWrapper
    ),
    **both_modes(
        "our miner in the library's wrapper",
        miner=label_distance_miner,
        miner_wrapper=pml_distributed.DistributedMinerWrapper,
    ),
    **both_modes("SupConLoss", loss=SupConLoss),
    **both_modes("SupConLoss with references", loss=SupConLoss, has_references=True),
    "SupConLoss, uneven batches, all anchors": Case(loss=SupConLoss, lengths=UNEVEN),
    "a symmetric matrix": Case(loss=symmetric, lengths=UNEVEN),
    "a fixed symmetric matrix": Case(loss=fixed_symmetric, lengths=UNEVEN),
    "a fixed symmetric matrix with references": Case(loss=fixed_symmetric, lengths=UNEVEN, has_references=True),
    "logits of any size": Case(loss=unbounded, lengths=UNEVEN),
    "an empty batch and a learned matrix": Case(lengths=[6, 0, 5, 7]),
    "an empty batch with references": Case(lengths=[6, 0, 5, 7], has_references=True),
    "a row or few a process": Case(loss=fixed, lengths=[3, 1, 1, 1]),
    "coarse labels": Case(loss=fine_labels, lengths=UNEVEN, is_coarse=True),
    "coarse labels and a learned matrix": Case(loss=learned_fine_labels, lengths=UNEVEN, is_coarse=True),
    "coarse labels with references": Case(loss=fine_labels, lengths=UNEVEN, is_coarse=True, has_references=True),
    "coarse labels, pairs mined": Case(loss=fine_labels, lengths=UNEVEN, is_coarse=True, miner=multi_similarity),
    "coarse labels left out by each": Case(loss=fine_labels, wrapper=inside_out, lengths=UNEVEN, is_coarse=True),
    "coarse labels left out by each, own anchors": Case(
        loss=fine_labels, wrapper=inside_out, lengths=UNEVEN, is_coarse=True, efficient=True
    ),
    "float32": Case(lengths=UNEVEN, dtype=torch.float32),
    "float32, a fixed symmetric matrix": Case(loss=fixed_symmetric, lengths=UNEVEN, dtype=torch.float32),
    "float32, with references": Case(lengths=UNEVEN, has_references=True, dtype=torch.float32),
    "eager": Case(loss=eager, lengths=UNEVEN),
    "blockwise": Case(loss=by_blocks, lengths=UNEVEN),
    **both_modes("graded targets", loss=graded, lengths=UNEVEN),
    **both_modes("graded targets with references", loss=graded, lengths=UNEVEN, has_references=True),
    **both_modes("graded targets and dropped pairs", loss=graded_dropping, lengths=UNEVEN),
    **both_modes("graded targets and a rank without positives", loss=graded, lengths=[6, 1, 6, 6], lonely_rank=1),
    **both_modes("graded targets, triplets mined", loss=graded, miner=triplets, lengths=UNEVEN),
    **both_modes("graded targets, pairs mined", loss=graded, miner=multi_similarity, lengths=UNEVEN),
    "graded targets and a fixed symmetric matrix": Case(loss=graded_symmetric, lengths=UNEVEN),
    "a reducer and a regulariser": Case(loss=reduced, lengths=UNEVEN),
    "a reducer of classes": Case(loss=weighted, lengths=UNEVEN),
}
# PML's wrapper.
THEIRS = {
    "ours, all anchors": Case(loss=fixed, wrapper=pml_distributed.DistributedLossWrapper),
    "SupConLoss, all anchors": Case(loss=SupConLoss, wrapper=pml_distributed.DistributedLossWrapper),
    "ours, own anchors": Case(loss=fixed, wrapper=pml_distributed.DistributedLossWrapper, efficient=True),
    "SupConLoss, own anchors": Case(loss=SupConLoss, wrapper=pml_distributed.DistributedLossWrapper, efficient=True),
}
# These must finish, with finite numbers.
ENDING = {
    "SupConLoss, a rank without positives": Case(loss=SupConLoss, efficient=True, lengths=[6, 1, 6, 6], lonely_rank=1),
    "a rank without mined pairs": Case(
        loss=SupConLoss, efficient=True, lengths=[6, 1, 6, 6], lonely_rank=1, miner=multi_similarity
    ),
}


def batch_of(case: Case, world: int) -> Batch:
    rows = batch(case.lengths[:world], lonely_rank=case.lonely_rank)
    if case.is_coarse:
        # Group 0 for class 2, and for all rows of rank 1.
        rows.labels[rows.labels == 2] = len(DISTANCES)
        rows.ref_labels[rows.ref_labels == 2] = len(DISTANCES)
        rows.labels.split(rows.lengths)[1].fill_(len(DISTANCES))
    return rows


def encoder() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def replicated(module: nn.Module) -> nn.Module:
    """The module in DDP, if it has parameters and there are several processes."""
    if num_processes() == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    return DistributedDataParallel(module)


def step(case: Case, world: int, rank: int | None) -> dict[str, Tensor]:
    """One forward and backward pass of one rank, or of one process with all rows and without a wrapper."""
    part = batch_of(case, world).part(rank)
    inner = encoder().to(case.dtype)
    loss = case.loss() if rank is None else case.wrapper(case.loss(), efficient=case.efficient)
    model, objective = replicated(inner), replicated(loss)
    rows, ref_rows = model(torch.cat([part.inputs, part.ref_inputs]).to(case.dtype)).tensor_split(2)
    references = {"ref_emb": ref_rows, "ref_labels": part.ref_labels} if case.has_references else {}
    mined = None
    if case.miner is not None:
        miner = case.miner() if rank is None else case.miner_wrapper(case.miner(), efficient=case.efficient)
        mined = miner(rows, part.labels, **references)
    value = objective(rows, part.labels, mined, **references)
    value.backward()
    gradients = [gradient_of(parameter).flatten() for parameter in inner.parameters()]
    of_matrix = [gradient_of(parameter).flatten() for parameter in loss.parameters()]
    return {"loss": value.detach(), "gradient": torch.cat(gradients), "matrix": torch.cat([*of_matrix, torch.zeros(0)])}


# Who computes what


@dataclass(frozen=True)
class Work:
    """One forward and backward pass with recorded operations."""

    loss: Callable[[], nn.Module] = learned
    has_references: bool = False


LARGE = [150, 110, 0, 140]
WORK = {
    "any matrix": Work(),
    "a symmetric matrix": Work(fixed_symmetric),
    "a symmetric matrix that learns": Work(symmetric),
    "references": Work(has_references=True),
    "statistics": Work(weighted),
    "blockwise": Work(by_blocks),
}


def work(case: Work, world: int, rank: int) -> dict[str, Any]:
    """The tiles that a process computes, forward and backward, and its largest tensor."""
    part = batch(LARGE[:world]).part(rank)
    rows, ref_rows = part.inputs.requires_grad_(), part.ref_inputs.requires_grad_()
    references = {"ref_emb": ref_rows, "ref_labels": part.ref_labels} if case.has_references else {}
    with LargestTensor() as largest, tiles_noted() as corners:
        loss = DistributedLossWrapper(case.loss())(rows, part.labels, **references)
        num_forward = len(corners)
        loss.backward()
    return {
        "forward": corners[:num_forward],
        "backward": corners[num_forward:],
        "largest": largest.num_elements,
        "all pairs": sum(LARGE[:world]) ** 2,
    }


def refusal_of_triton(rank: int, world: int) -> str:
    """The error of `backend="triton"` for rows on a CPU."""
    part = batch(UNEVEN[:world]).part(rank)
    with pytest.raises(RuntimeError) as caught:
        DistributedLossWrapper(fixed(backend="triton"))(part.inputs, part.labels)
    return str(caught.value)


def alone_with_matrix(rank: int, world: int) -> Tensor:
    """The gradient of a learned matrix outside DistributedDataParallel."""
    part, loss = batch(UNEVEN[:world]).part(rank), learned()
    DistributedLossWrapper(loss)(part.inputs, part.labels).backward()
    return gradient_of(loss.ldm.matrix)


# Disagreement between processes


def another(rank: int, world: int, *, matrix: Tensor = DISTANCES, **options) -> LabelDistanceContrastiveLoss:
    """A loss that differs on the last process."""
    is_last = rank == world - 1
    loss = LabelDistanceContrastiveLoss(StaticLDM(matrix if is_last else DISTANCES))
    for name, value in options.items() if is_last else ():
        setattr(loss, name, value)
    return loss


ALMOST = DISTANCES.clone()
ALMOST[2, 1] += 1e-9


# The beginning of the error on all processes, with the number of the last one.
REFUSED = {
    "another entry": "must have the same label-distance matrix, got one with checksum",
    "an entry that has changed": "must have the same label-distance matrix, got one with checksum",
    "fewer classes": "must have the same number of classes, got 4 on process 0 and 3 on process {last}",
    "own anchors": "must have the same number of classes, got 4 on process 0 and 3 on process {last}",
    "a memory": "must have the same number of classes, got 4 on process 0 and 3 on process {last}",
    "another temperature": "must have the same temperature, got 1.0 on process 0 and 0.5 on process {last}",
    "another backend": "must have the same backend, got auto on process 0 and eager on process {last}",
    "graded targets": "must have the same relevance, got none on process 0 and one with checksum",
    "a miner": "must have the same number of classes, got 4 on process 0 and 3 on process {last}",
    "counts of fewer classes": "must have the same number of classes, got 4 on process 0 and 3 on process {last}",
    "rows of another width": "must gather rows of one shape and type",
}


def refusals(rank: int, world: int) -> dict[str, str]:
    """The error of a process if another one has a different matrix, by case; empty without an error."""
    part = batch(UNEVEN[:world]).part(rank)
    smaller = another(rank, world, matrix=DISTANCES[:3, :3])
    changed = fixed()
    wrapped = DistributedLossWrapper(changed)
    wrapped(part.inputs, part.labels)
    if rank == world - 1:
        changed.ldm.matrix[0, 1] += 1
    attempts: dict[str, Callable[[], Any]] = {
        "graded targets": lambda: DistributedLossWrapper(another(rank, world, relevance=RELEVANCE))(
            part.inputs, part.labels
        ),
        "another entry": lambda: DistributedLossWrapper(another(rank, world, matrix=ALMOST))(part.inputs, part.labels),
        "an entry that has changed": lambda: wrapped(part.inputs, part.labels),
        "fewer classes": lambda: DistributedLossWrapper(smaller)(part.inputs, part.labels),
        "own anchors": lambda: DistributedLossWrapper(smaller, efficient=True)(part.inputs, part.labels),
        "a memory": lambda: DistributedLossWrapper(CrossBatchMemory(smaller, 6))(part.inputs, part.labels),
        "another temperature": lambda: DistributedLossWrapper(another(rank, world, temperature=0.5))(
            part.inputs, part.labels
        ),
        "another backend": lambda: DistributedLossWrapper(another(rank, world, backend="eager"))(
            part.inputs, part.labels
        ),
        "a miner": lambda: DistributedMinerWrapper(LabelDistanceMiner(smaller.ldm))(part.inputs, part.labels),
        "counts of fewer classes": lambda: AdaptiveLDM(smaller.ldm.num_classes).update(
            torch.ones_like(smaller.ldm.matrix), progress=0.5
        ),
        "rows of another width": lambda: DistributedLossWrapper(fixed())(
            part.inputs[:, : 5 if rank == world - 1 else 6], part.labels
        ),
    }
    said = dict.fromkeys(attempts, "")
    for name, attempt in attempts.items():
        try:
            attempt()
        except ValueError as error:
            said[name] = str(error)
    return said


# A memory over several steps


@dataclass(frozen=True)
class MemoryCase:
    """Training steps with a queue that wraps around within a batch."""

    loss: Callable[[], nn.Module] = fixed
    lengths: list[int] = field(default_factory=lambda: EVEN)
    is_masked: bool = False
    miner: Callable[[], nn.Module] | None = None
    memory_miner: Callable[[], nn.Module] | None = None


MEMORY: dict[str, MemoryCase] = {
    "even batches": MemoryCase(),
    "uneven batches": MemoryCase(lengths=UNEVEN),
    "rows that stay out of the queue": MemoryCase(lengths=UNEVEN, is_masked=True),
    "pairs mined in the batch": MemoryCase(lengths=UNEVEN, miner=multi_similarity, memory_miner=label_distance_miner),
    "triplets mined in the batch": MemoryCase(lengths=UNEVEN, miner=triplets),
    "SupConLoss": MemoryCase(loss=SupConLoss, lengths=UNEVEN),
    "graded targets": MemoryCase(loss=graded, lengths=UNEVEN),
}


def memory_steps(case: MemoryCase, world: int, rank: int | None) -> dict[str, Any]:
    lengths = case.lengths[:world]
    queue = CrossBatchMemory(
        case.loss(), 4, memory_size=sum(lengths) * 5 // 3, miner=case.memory_miner() if case.memory_miner else None
    )
    objective = queue if rank is None else DistributedLossWrapper(queue)
    inner = encoder()
    model = replicated(inner)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.5)
    losses = []
    for seed in range(4):
        part = batch(lengths, seed=seed).part(rank)
        rows = model(part.inputs)
        options: dict[str, Any] = {}
        if case.is_masked:
            options = {"enqueue_mask": part.ref_labels > 0}
        if case.miner is not None:
            miner = case.miner() if rank is None else DistributedMinerWrapper(case.miner())
            options = {"indices_tuple": miner(rows, part.labels)}
        optimizer.zero_grad()
        loss = objective(rows, part.labels, **options)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    weights = torch.cat([parameter.detach().flatten() for parameter in inner.parameters()])
    return {
        "losses": torch.stack(losses),
        "weights": weights,
        "rows": queue.embedding_memory,
        "labels": queue.label_memory,
        "slot": queue.queue_idx,
    }


# Other components


def counts_of(rank: int) -> Tensor:
    return torch.tensor([[9, 4, 0], [1, 7, 2], [0, 3, 5]]) * (rank + 1) + rank * torch.eye(3, dtype=torch.int64)


def adapt(counts: Tensor) -> AdaptiveLDM:
    ldm = AdaptiveLDM(3)
    ldm.update(counts, progress=0.5)
    return ldm


SAMPLED = torch.arange(96) % 4


def sampler(**options) -> LabelDistanceBatchSampler:
    return LabelDistanceBatchSampler(SAMPLED, DISTANCES, classes_per_batch=2, rows_per_class=3, **options)


def gathered(rank: int) -> dict[str, Any]:
    """The gather: order, dtypes, and the gradient, which is summed over all processes."""
    rows = normal(rank + 1, 2, seed=rank).requires_grad_()
    everything = gather_rows(rows)
    (everything * (rank + 1)).sum().backward()
    kinds = [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8, torch.bool]
    return {
        "rows": everything.detach(),
        "gradient": gradient_of(rows),
        "own first": gather_rows(torch.full((rank,), rank), own_first=True),
        "types": [gather_rows(torch.ones(rank, dtype=kind)).sum().item() for kind in kinds],
        "sum": sum_over_processes(torch.tensor([rank, 1])),
        "max": max_over_processes(torch.tensor([rank, -rank])),
    }


def run_checks(rank: int, world: int, folder: str, handed_over: LabelDistanceContrastiveLoss) -> None:
    """The work of each process; `handed_over` was pickled to it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Use a file instead of a port, which another program may use.
    meeting = f"file://{folder}/rendezvous"
    # Processes that wait for each other in vain end with an error.
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(seconds=300))
    part = batch(EVEN[:world]).part(None)
    results = {
        "place": (num_processes(), process_index()),
        "steps": {name: step(case, world, rank) for name, case in {**EQUAL, **ENDING}.items()},
        "theirs": {name: step(case, world, rank) for name, case in THEIRS.items()},
        "memory": {name: memory_steps(case, world, rank) for name, case in MEMORY.items()},
        "gathered": gathered(rank),
        "matrix": adapt(counts_of(rank)).matrix,
        "batches": list(sampler()),
        "handed over": handed_over(part.inputs, part.labels).detach(),
        "work": {name: work(case, world, rank) for name, case in WORK.items()},
        "eager": work(Work(eager), world, rank),
        "triton": refusal_of_triton(rank, world),
        "matrix alone": alone_with_matrix(rank, world),
        "refusals": refusals(rank, world),
    }
    leave(results, Path(folder))


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world} processes")
def processes(request, tmp_path_factory) -> list[dict[str, Any]]:
    """What each process found, by rank."""
    world = request.param
    folder = tmp_path_factory.mktemp(f"world{world}")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        spawn(run_checks, args=(world, str(folder), fixed()), nprocs=world)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def assert_near(actual, expected, dtype=torch.float64):
    rtol, atol = (1e-9, 1e-11) if dtype == torch.float64 else (1e-5, 1e-6)
    assert_close(actual, expected, rtol=rtol, atol=atol)


def error_of(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


# The loss


@pytest.mark.parametrize("name", EQUAL)
def test_loss_and_gradients_are_those_of_one_process_for(processes, name):
    alone = step(EQUAL[name], len(processes), None)
    assert alone["gradient"].abs().sum() > 0
    for result in processes:
        for part in ("loss", "gradient", "matrix"):
            assert_near(result["steps"][name][part], alone[part], EQUAL[name].dtype)


def test_the_cases_with_a_learned_matrix_have_a_gradient_for_it():
    case = EQUAL["uneven batches, own anchors"]
    assert (step(case, 2, None)["matrix"] != 0).sum() >= 9


@pytest.mark.parametrize("name", ENDING)
def test_a_process_without_pairs_does_not_block_the_others(processes, name):
    for result in processes:
        assert torch.isfinite(result["steps"][name]["gradient"]).all()
        assert_near(result["steps"][name]["gradient"], processes[0]["steps"][name]["gradient"])


@pytest.mark.parametrize("name", ["ours, all anchors", "SupConLoss, all anchors"])
def test_pmls_wrapper_multiplies_loss_and_gradient_by_the_number_of_processes(processes, name):
    alone = step(THEIRS[name], len(processes), None)
    for result in processes:
        assert_near(result["theirs"][name]["loss"], alone["loss"] * len(processes))
        assert_near(result["theirs"][name]["gradient"], alone["gradient"])


@pytest.mark.parametrize("name", ["ours, own anchors", "SupConLoss, own anchors"])
def test_with_efficient_pmls_wrapper_gives_a_different_gradient(processes, name):
    # The value is the same, times the processes. But rows get no gradient as references of other processes' anchors,
    # and what they get as anchors comes once too often for each process: neither direction nor length is right.
    alone = step(THEIRS[name], len(processes), None)
    mean = sum(result["theirs"][name]["loss"] for result in processes) / len(processes) ** 2
    assert_near(mean, alone["loss"])
    for result in processes:
        gradient = result["theirs"][name]["gradient"]
        assert error_of(gradient, alone["gradient"]) > 0.2
        assert cosine_similarity(gradient, alone["gradient"], dim=0) < 0.995


def test_a_loss_can_be_passed_to_a_started_process(processes):
    part = batch(EVEN[: len(processes)])
    for result in processes:
        assert_near(result["handed over"], fixed()(part.inputs, part.labels))


def test_a_learned_matrix_outside_ddp_has_the_gradient_of_one_process_on_all(processes):
    loss, everything = learned(), batch(UNEVEN[: len(processes)])
    loss(everything.inputs, everything.labels).backward()
    for result in processes:
        assert_near(result["matrix alone"], gradient_of(loss.ldm.matrix))
        assert torch.equal(result["matrix alone"], processes[0]["matrix alone"])


# The work


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_each_tile_of_pairs_is_computed_by_one_process(processes, name, way):
    of_each = [result["work"][name][way] for result in processes]
    found = [corner for corners in of_each for corner in corners]
    rows, columns = ({corner[part] for corner in found} for part in (0, 1))
    assert len(rows) >= 4
    if WORK[name].has_references:
        expected = {(row, column) for row in rows for column in columns}
    else:
        # One tile for an unordered pair of blocks.
        expected = {(row, column) for row in rows for column in rows if row <= column}
    assert sorted(found) == sorted(expected)
    numbers = [len(corners) for corners in of_each]
    assert max(numbers) - min(numbers) <= 1


@pytest.mark.parametrize("name", WORK)
def test_no_process_holds_a_tensor_of_all_pairs(processes, name):
    for result in processes:
        found = result["work"][name]
        # Four tiles of its own are the most that a process holds.
        assert found["largest"] < found["all pairs"] / 3


def test_an_explicit_backend_is_used_by_each_process(processes):
    for result in processes:
        assert result["eager"]["forward"] == result["eager"]["backward"] == []
        assert result["eager"]["largest"] >= result["eager"]["all pairs"]
        assert "backend='triton' needs embeddings on an NVIDIA GPU" in result["triton"]


# Disagreement between processes


@pytest.mark.parametrize("name", REFUSED)
def test_all_processes_raise_the_same_error_for(processes, name):
    said = {result["refusals"][name] for result in processes}
    (message,) = said
    assert REFUSED[name].format(last=len(processes) - 1) in message


def test_the_error_says_how_to_fix_it(processes):
    message = processes[0]["refusals"]["another temperature"]
    assert message == (
        f"All processes must have the same temperature, got 1.0 on process 0 and 0.5 on process {len(processes) - 1}. "
        "Build or load the same loss on every process, call AdaptiveLDM.update on every process, and put a loss with a "
        "learned matrix into DistributedDataParallel."
    )


# The memory


@pytest.mark.parametrize("name", MEMORY)
def test_training_with_a_memory_is_that_of_one_process_for(processes, name):
    alone = memory_steps(MEMORY[name], len(processes), None)
    for result in processes:
        found = result["memory"][name]
        assert found["slot"] == alone["slot"]
        assert torch.equal(found["labels"], alone["labels"])
        for part in ("losses", "weights", "rows"):
            assert_near(found[part], alone[part])


@pytest.mark.parametrize("name", MEMORY)
def test_all_processes_hold_the_same_queue(processes, name):
    for result in processes[1:]:
        assert torch.equal(result["memory"][name]["labels"], processes[0]["memory"][name]["labels"])
        assert_near(result["memory"][name]["rows"], processes[0]["memory"][name]["rows"])


# Other components


def test_each_process_knows_its_rank(processes):
    assert [result["place"] for result in processes] == [(len(processes), rank) for rank in range(len(processes))]


def test_rows_are_gathered_in_the_order_of_the_ranks(processes):
    world = len(processes)
    everything = torch.cat([normal(rank + 1, 2, seed=rank) for rank in range(world)])
    of_all = sum(range(1, world + 1))
    for rank, result in enumerate(processes):
        found = result["gathered"]
        assert torch.equal(found["rows"], everything)
        assert torch.equal(found["gradient"], torch.full((rank + 1, 2), float(of_all), dtype=torch.float64))
        others = [other for other in range(world) if other != rank]
        assert found["own first"].tolist() == [number for number in [rank, *others] for _ in range(number)]
        assert set(found["types"]) == {world * (world - 1) // 2}
        assert found["sum"].tolist() == [world * (world - 1) // 2, world]
        assert found["max"].tolist() == [world - 1, 0]


def test_the_adaptive_matrix_is_that_of_all_counts_on_every_process(processes):
    expected = adapt(torch.stack([counts_of(rank) for rank in range(len(processes))]).sum(dim=0)).matrix
    assert not torch.equal(expected, adapt(counts_of(0)).matrix)
    for result in processes:
        assert torch.equal(result["matrix"], expected)


def test_the_sampler_distributes_the_batches_of_an_epoch(processes):
    world = len(processes)
    for rank, result in enumerate(processes):
        assert result["batches"] == list(sampler(num_replicas=world, rank=rank))
    dealt = [row for result in processes for rows in result["batches"] for row in rows]
    assert sorted(dealt) == list(range(96))


# Without torch.distributed


@pytest.mark.parametrize("efficient", [False, True], ids=["all anchors", "own anchors"])
def test_on_one_process_the_wrappers_return_the_wrapped_result(efficient):
    part = batch([9])
    miner = DistributedMinerWrapper(label_distance_miner(), efficient=efficient)
    mined = miner(part.inputs, part.labels)
    for found, expected in zip(mined, label_distance_miner()(part.inputs, part.labels), strict=True):
        assert torch.equal(found, expected)
    wrapped, plain = DistributedLossWrapper(fixed(), efficient=efficient), fixed()
    assert torch.equal(wrapped(part.inputs, part.labels, mined), plain(part.inputs, part.labels, mined))
    references = {"ref_emb": part.ref_inputs, "ref_labels": part.ref_labels}
    value = wrapped(part.inputs, part.labels, **references)
    assert torch.equal(value, plain(part.inputs, part.labels, **references))


def test_a_memory_accepts_no_references():
    part = batch([9])
    wrapped = DistributedLossWrapper(CrossBatchMemory(fixed(), 6))
    with pytest.raises(ValueError, match="uses its queue as references"):
        wrapped(part.inputs, part.labels, ref_emb=part.inputs, ref_labels=part.labels)


def test_without_other_processes_rows_are_gathered_as_they_are():
    rows = normal(2, 3).requires_grad_()
    assert gather_rows(rows) is rows


@pytest.mark.parametrize("wrapped", [nn.Identity(), MultiSimilarityMiner()], ids=["a module", "a miner"])
def test_an_object_that_is_not_a_loss_is_refused(wrapped):
    with pytest.raises(TypeError, match="must extend BaseMetricLossFunction"):
        DistributedLossWrapper(wrapped)
