"""Two processes with a GPU each, over NCCL, against one process on the concatenated batch and float64.

    pytest -m gpu tests/test_distributed_gpu.py

One start of one and of two processes by torchrun runs every check and leaves its numbers; the tests read them.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

from labeldist import AdaptiveLDM, CachedGradients, DistributedLossWrapper, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.backends import Backend
from labeldist.distributed import gather_rows, num_processes, process_index
from labeldist.integrations.transformers import CachedTrainer, TrainerObjective
from processes import leave, started
from tiny_bert import NUM_CLASSES, Rows, bert

WORLD = 2
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        torch.cuda.device_count() < WORLD, reason=f"needs {WORLD} CUDA devices, found {torch.cuda.device_count()}"
    ),
]

# Of the largest entry. The kernels are held to 1e-5 of it on a GPU (tests/backends/test_fused.py); what the encoder and
# the exchange round in float32 comes on top.
ROUNDING = 3e-5
# The same for rows of bfloat16, whose numbers have 8 bits.
BFLOAT16_ROUNDING = 1e-2
DISTANCES = torch.tensor([[1, 5, 2], [3, 1, 0.5], [2, 1, 1]], dtype=torch.float64)
EVEN, UNEVEN, FEW, EMPTY = [256, 256], [257, 130], [5, 8], [9, 0]
EVEN_MEDIUM, MANY = [1024, 1024], [2048, 2049]


def device() -> torch.device:
    """This process's own GPU. A CPU where there is none, to try the checks over gloo."""
    return torch.device("cuda", process_index()) if torch.cuda.is_available() else torch.device("cpu")


# The loss and its gradient


@dataclass(frozen=True)
class Case:
    """One step of training."""

    lengths: list[int]
    backend: Backend = "auto"
    dim: int = 96
    is_learned: bool = False
    is_symmetric: bool = False
    efficient: bool = False
    chunk_size: int | None = None
    in_bfloat16: bool = False


# Kernels for few rows, for rows of up to 256 dimensions, and for longer ones.
CASES: dict[str, Case] = {
    "auto": Case(EVEN),
    "auto, uneven": Case(UNEVEN),
    "auto, symmetric": Case(UNEVEN, is_symmetric=True),
    "auto, few rows": Case(FEW),
    "auto, no rows on one": Case(EMPTY),
    "auto, long rows": Case(UNEVEN, dim=384),
    # Enough rows for the processes to divide the pairs of the kernels.
    "auto, many rows": Case(MANY, dim=256),
    "auto, many rows, symmetric": Case(MANY, dim=256, is_symmetric=True),
    "auto, many long rows": Case(MANY, dim=384),
    "auto, many long rows, symmetric": Case(MANY, dim=384, is_symmetric=True),
    "auto, learned": Case(UNEVEN, is_learned=True),
    "auto, learned, long rows": Case(UNEVEN, dim=384, is_learned=True),
    "auto, own anchors": Case(UNEVEN, efficient=True),
    "auto, in chunks": Case(UNEVEN, chunk_size=50),
    # 16 bits: all pairs on each process up to 4096 rows, and divided above.
    "bfloat16": Case(UNEVEN, in_bfloat16=True),
    "bfloat16, long rows": Case(UNEVEN, dim=768, in_bfloat16=True),
    "bfloat16, medium": Case(EVEN_MEDIUM, dim=384, in_bfloat16=True),
    "bfloat16, medium, symmetric": Case(EVEN_MEDIUM, dim=384, is_symmetric=True, in_bfloat16=True),
    "bfloat16, many rows": Case(MANY, dim=384, in_bfloat16=True),
    "triton": Case(UNEVEN, "triton"),
    "eager": Case(UNEVEN, "eager"),
    "eager, learned": Case(UNEVEN, "eager", is_learned=True),
    "blockwise": Case(UNEVEN, "blockwise"),
    "blockwise, learned": Case(UNEVEN, "blockwise", is_learned=True),
}


def batch(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """All rows, ordered by rank, and their classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(len(DISTANCES), (sum(lengths),), generator=generator)
    return torch.randn(sum(lengths), 32, generator=generator, dtype=torch.float64), labels


def own(rows: Tensor, lengths: list[int]) -> Tensor:
    return rows if num_processes() == 1 else rows.split(lengths)[process_index()]


def replicated(module: nn.Module) -> nn.Module:
    learns = any(parameter.requires_grad for parameter in module.parameters())
    return DistributedDataParallel(module) if learns and num_processes() > 1 else module


def step(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Loss and gradients of this process's part of a step; in float64 by the equations alone."""
    is_exact = dtype == torch.float64
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, case.dim)).double().to(device(), dtype)
    matrix = (DISTANCES + DISTANCES.T if case.is_symmetric else DISTANCES).to(device(), dtype)
    ldm = StaticLDM(nn.Parameter(matrix) if case.is_learned else matrix)
    backend: Backend = "eager" if is_exact else case.backend
    loss = LabelDistanceContrastiveLoss(ldm, temperature=0.3, backend=backend).to(device())
    objective: nn.Module = DistributedLossWrapper(loss, efficient=case.efficient and not is_exact)
    rows, labels = (own(part, case.lengths).to(device()) for part in batch(case.lengths))
    model: Any = replicated(encoder)
    if case.chunk_size is not None and not is_exact:
        model = CachedGradients(model, chunk_size=case.chunk_size)
    embeddings = model(rows.to(dtype))
    value = replicated(objective)(embeddings.bfloat16() if case.in_bfloat16 and not is_exact else embeddings, labels)
    value.backward()
    gradients = {"encoder": encoder.parameters(), "matrix": loss.parameters()}
    return {
        "loss": value.detach().cpu(),
        **{
            name: torch.cat([torch.zeros(0), *(part.grad.flatten().cpu() for part in parts if part.grad is not None)])
            for name, parts in gradients.items()
        },
    }


# Rows and labels, gathered


def gathered() -> dict[str, Tensor]:
    """What comes back to this process's rows where process r asks each gathered row for r + 1 times its number."""
    rows, labels = (own(part, UNEVEN).to(device()) for part in batch(UNEVEN))
    rows = rows.float().requires_grad_()
    every = gather_rows(rows)
    numbers = torch.arange(len(every), device=device())[:, None]
    ((process_index() + 1) * numbers * every).sum().backward()
    assert rows.grad is not None
    return {"rows": every.detach().cpu(), "labels": gather_rows(labels).cpu(), "gradient": rows.grad.cpu()}


# Disagreement between processes


def refusals() -> list[str]:
    """The error of this process if the last one has a different matrix."""
    other = DISTANCES.clone()
    other[0, 1] += process_index()
    loss = LabelDistanceContrastiveLoss(StaticLDM(other)).to(device())
    model = bert().to(device()).train()
    ldm = StaticLDM.from_pairs([(0, 1 + process_index())], num_classes=NUM_CLASSES)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
    rows, labels = batch(FEW)
    texts = Rows(8)

    def own_loss() -> None:
        DistributedLossWrapper(loss)(own(rows, FEW).to(device()), own(labels, FEW).to(device()))

    def own_objective() -> None:
        objective(model(input_ids=texts.input_ids.to(device())), texts.labels.to(device()))

    said = []
    for attempt in (own_loss, own_objective):
        try:
            attempt()
        except ValueError as error:
            said.append(str(error))
    return said


# The Hugging Face Trainer


@dataclass(frozen=True)
class Training:
    """A training run of two epochs: its matrix, its chunks, and the Trainer's arguments."""

    is_adaptive: bool = False
    chunk_size: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


TRAININGS: dict[str, Training] = {
    "contrast": Training(),
    "accumulated": Training(options={"gradient_accumulation_steps": 3}),
    "in chunks": Training(chunk_size=3),
    "adaptive": Training(is_adaptive=True),
}


def trained(training: Training, folder: Path) -> dict[str, Any]:
    model = bert()
    ldm = (
        AdaptiveLDM(NUM_CLASSES, warmup_fraction=0.0)
        if training.is_adaptive
        else StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES)
    )
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm, temperature=0.3), model)
    options = {
        "num_train_epochs": 2, "per_device_train_batch_size": 16 // num_processes(),
        "per_device_eval_batch_size": 16 // num_processes(), "learning_rate": 0.05, "optim": "sgd",
        "lr_scheduler_type": "constant", "seed": 0, "eval_strategy": "epoch" if training.is_adaptive else "no",
        "logging_strategy": "steps", "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "log_level": "error", "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip
    chunks: dict[str, Any] = {} if training.chunk_size is None else {"chunk_size": training.chunk_size}
    trainer = (CachedTrainer if chunks else Trainer)(
        model,
        TrainingArguments(str(folder), **{**options, **training.options}),
        train_dataset=Rows(48),
        eval_dataset=Rows(30, seed=1) if training.is_adaptive else None,
        compute_loss_func=objective,
        callbacks=[objective.callback],
        **chunks,
    )
    trainer.train()
    names = ("loss", "cross_entropy", "contrastive", "ldm_epsilon", "ldm_mean")
    return {
        "log": [{name: row[name] for name in names if name in row} for row in trainer.state.log_history],
        "weights": torch.cat([weight.detach().flatten().cpu() for weight in model.parameters()]),
        "matrix": ldm.matrix.detach().cpu(),
    }


# The processes


def main(folder: Path) -> None:
    is_on_gpu = torch.cuda.is_available()
    if is_on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if is_on_gpu else "gloo")
    results: dict[str, Any] = {"backend": dist.get_backend(), "gathered": gathered()}
    results["steps"] = {name: step(case) for name, case in CASES.items()}
    if num_processes() == 1:
        results["exact"] = {name: step(case, torch.float64) for name, case in CASES.items()}
    else:
        results["refusals"] = refusals()
    results["trainings"] = {name: trained(training, folder / "run") for name, training in TRAININGS.items()}
    leave(results, folder)


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict[str, Any]]:
    return started(__file__, world=WORLD, folder=tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, Any]:
    return started(__file__, world=1, folder=tmp_path_factory.mktemp("alone"))[0]


def assert_near(found: Tensor, expected: Tensor, name: str) -> None:
    expected = expected.double()
    largest = expected.abs().max().item() if expected.numel() else 0.0
    rounding = BFLOAT16_ROUNDING if CASES[name].in_bfloat16 else ROUNDING
    assert_close(found.double(), expected, rtol=0, atol=rounding * largest)


def test_the_processes_use_nccl(processes):
    assert [result["backend"] for result in processes] == ["nccl"] * WORLD


def test_rows_and_labels_are_gathered_in_the_order_of_the_ranks(processes, alone):
    for result in processes:
        assert torch.equal(result["gathered"]["rows"], alone["gathered"]["rows"])
        assert torch.equal(result["gathered"]["labels"], alone["gathered"]["labels"])


def test_a_row_gets_the_gradients_of_all_processes(processes):
    # Process r asks row i for (r + 1) i: together 3 i.
    found = torch.cat([result["gathered"]["gradient"] for result in processes])
    assert torch.equal(found, (3.0 * torch.arange(len(found)))[:, None].expand_as(found))


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_one_process(processes, alone, name):
    for result in processes:
        for part, expected in alone["steps"][name].items():
            assert_near(result["steps"][name][part], expected, name)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_float64(processes, alone, name):
    for result in processes:
        for part, expected in alone["exact"][name].items():
            assert_near(result["steps"][name][part], expected, name)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_learned])
def test_a_learned_matrix_has_the_same_gradient_on_all_processes(processes, name):
    gradients = [result["steps"][name]["matrix"] for result in processes]
    assert gradients[0].shape == (DISTANCES.numel(),)
    assert gradients[0].abs().max() > 0
    assert torch.equal(gradients[0], gradients[1])


def test_different_matrices_are_one_error_on_all_processes(processes):
    for result in processes:
        assert result["refusals"] == processes[0]["refusals"]
        assert len(result["refusals"]) == 2
        for sentence in result["refusals"]:
            assert sentence.startswith("All processes must have the same label-distance matrix, got one with checksum")


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_that_of_one_process_with_all_batches(processes, alone, name):
    expected = alone["trainings"][name]
    assert any("loss" in row for row in expected["log"])
    for result in processes:
        found = result["trainings"][name]
        assert len(found["log"]) == len(expected["log"])
        for row, expected_row in zip(found["log"], expected["log"], strict=True):
            assert row == pytest.approx(expected_row, rel=1e-4)
        assert_close(found["weights"], expected["weights"], rtol=1e-4, atol=1e-5)
        assert torch.equal(found["matrix"], processes[0]["trainings"][name]["matrix"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
