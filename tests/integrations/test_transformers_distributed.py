"""Several real processes of a real Trainer against one process with the batches of all of them.

One start by torchrun runs every case and leaves its numbers; the tests read them.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml
from torch import nn
from transformers import Trainer, TrainingArguments

from labeldist import (
    AdaptiveLDM,
    CrossBatchMemory,
    DistributedLossWrapper,
    FineLabelsOnly,
    LabelDistanceContrastiveLoss,
    MarginalCrossEntropy,
    StaticLDM,
    confusion_counts,
)
from labeldist.distributed import num_processes, process_index
from labeldist.integrations.transformers import CachedTrainer, TrainerObjective
from labeldist.models import TextCNN
from labeldist.models.classifier import ContrastiveClassifier
from processes import leave, started, tiles_noted
from tiny_bert import NUM_CLASSES, Rows, bert

WORLD = 2


def two_heads() -> Any:
    torch.manual_seed(0)
    encoder = TextCNN(20, embedding_dim=4, num_maps=3, dropout=0.0)
    return ContrastiveClassifier(encoder, NUM_CLASSES, projection_dim=5)


def static() -> nn.Module:
    return LabelDistanceContrastiveLoss(StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES), temperature=0.3)


def adaptive() -> nn.Module:
    return LabelDistanceContrastiveLoss(AdaptiveLDM(NUM_CLASSES, warmup_fraction=0.0), temperature=0.3)


def memory() -> nn.Module:
    return CrossBatchMemory(static(), embedding_size=8, memory_size=64)


def learned() -> nn.Module:
    """Distances that are learned; each process begins with others, of which the main process's are taken."""
    matrix = nn.Parameter(torch.ones(NUM_CLASSES, NUM_CLASSES) + process_index())
    return LabelDistanceContrastiveLoss(StaticLDM(matrix), temperature=0.3)


def proxies() -> nn.Module:
    torch.manual_seed(process_index())
    return pml.ProxyAnchorLoss(NUM_CLASSES, 8)


def fine_labels() -> nn.Module:
    return FineLabelsOnly(adaptive())


def groups() -> nn.Module:
    return MarginalCrossEntropy([[0, 1], [1, 2]], num_classes=NUM_CLASSES)


class MixedRows(Rows):
    """Some rows have a coarse label."""

    def __init__(self, num_rows: int, seed: int = 0):
        super().__init__(num_rows, seed)
        coarse = NUM_CLASSES + (self.labels == 2).long()
        self.labels = torch.where(torch.arange(num_rows) % 5 < 2, coarse, self.labels)


def nothing() -> None:
    return None


@dataclass(frozen=True)
class Case:
    """One training: its loss, its model, its rows, the chunks of several processes, and the Trainer's arguments."""

    loss: Callable[[], nn.Module | None] = static
    model: Callable[[], Any] = bert
    classification: Callable[[], nn.Module | None] = nothing
    rows: type[Rows] = Rows
    num_dev: int = 0
    chunk_size: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


# Each of these must be one process with the batches of all.
CASES: dict[str, Case] = {
    "contrast": Case(),
    "contrast of two heads": Case(model=two_heads),
    "cross-entropy": Case(nothing),
    "cross-entropy of two heads": Case(nothing, two_heads),
    "accumulated": Case(options={"gradient_accumulation_steps": 3}),
    "accumulated cross-entropy": Case(nothing, options={"gradient_accumulation_steps": 3}),
    "items of each process": Case(options={"average_tokens_across_devices": False}),
    "a memory": Case(memory),
    "a memory and evaluations": Case(memory, num_dev=30),
    "learned distances": Case(learned),
    "learned distances, accumulated": Case(learned, options={"gradient_accumulation_steps": 3}),
    "proxies": Case(proxies),
    "in chunks, learned distances": Case(learned, chunk_size=3),
    "adaptive": Case(adaptive, num_dev=30),
    "adaptive, few rows to evaluate": Case(adaptive, num_dev=3),
    "coarse labels": Case(fine_labels, classification=groups, rows=MixedRows, num_dev=30),
    "checkpointed": Case(options={"gradient_checkpointing": True}),
    "in chunks": Case(chunk_size=3),
    "in chunks, two heads": Case(model=two_heads, chunk_size=3),
    "in chunks, cross-entropy of two heads": Case(nothing, two_heads, chunk_size=3),
    "in chunks, accumulated": Case(chunk_size=3, options={"gradient_accumulation_steps": 3}),
    "in chunks, adaptive": Case(adaptive, num_dev=30, chunk_size=3),
}


class Counted:
    """Keeps the counts that refresh the matrix."""

    def __init__(self, ldm: Any):
        self.counts: list[torch.Tensor] = []
        update = ldm.update
        ldm.update = lambda counts, **options: (self.counts.append(counts.clone()), update(counts, **options))[1]


def run(case: Case, world: int, folder: Path) -> dict[str, Any]:
    model, loss = case.model(), case.loss()
    objective = TrainerObjective(loss, model, classification=case.classification())
    counted = Counted(objective.ldm) if isinstance(objective.ldm, AdaptiveLDM) else None
    options = {
        "num_train_epochs": 2, "per_device_train_batch_size": 16 // world, "per_device_eval_batch_size": 16 // world,
        "learning_rate": 0.05, "optim": "sgd", "lr_scheduler_type": "constant", "use_cpu": True, "seed": 0,
        "eval_strategy": "epoch" if case.num_dev else "no", "logging_strategy": "steps", "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False,
        "label_names": ["labels"], "remove_unused_columns": False, "log_level": "error",
    }  # fmt: skip
    # One process takes the batch as a whole: chunks of several are held against it.
    make = Trainer if case.chunk_size is None or world == 1 else partial(CachedTrainer, chunk_size=case.chunk_size)
    trainer = make(
        model,
        TrainingArguments(str(folder), **{**options, **case.options}),
        train_dataset=case.rows(48),
        eval_dataset=case.rows(case.num_dev, seed=1) if case.num_dev else None,
        compute_loss_func=objective,
    )
    objective.attach(trainer)
    trainer.train()
    if case.num_dev:
        trainer.evaluate()
    names = ("loss", "cross_entropy", "contrastive", "ldm_epsilon", "ldm_mean")
    found = {
        "log": [{name: row[name] for name in names if name in row} for row in trainer.state.log_history],
        "weights": torch.cat([weight.detach().flatten() for weight in model.parameters()]),
        # What the loss has learned or holds in a queue, of which there must be one on all processes.
        "loss": dict(objective.losses.state_dict()),
    }
    if counted is not None:
        dev = case.rows(case.num_dev, seed=1)
        predicted = torch.as_tensor(trainer.predict(dev).predictions).argmax(dim=1)
        is_fine = dev.labels < NUM_CLASSES
        final = confusion_counts(dev.labels[is_fine], predicted[is_fine], NUM_CLASSES)
        found |= {"matrix": objective.ldm.matrix, "counts": counted.counts, "final": final}  # type: ignore[union-attr]
    return found


def own_loop(world: int) -> dict[str, torch.Tensor]:
    """A loop without a Trainer, under DistributedDataParallel, with batches of different lengths."""
    model, rows = bert(), Rows(20)
    objective = TrainerObjective(static(), model)
    lengths = [13, 7]
    part = slice(None)
    wrapped = model.train()
    if world > 1:
        part = slice(0, 13) if process_index() == 0 else slice(13, 20)
        wrapped = nn.parallel.DistributedDataParallel(model)
    assert sum(lengths) == len(rows)
    loss = objective(wrapped(input_ids=rows.input_ids[part]), rows.labels[part])
    loss.backward()
    return {"gradient": torch.cat([weight.grad.flatten() for weight in model.parameters()]), "loss": loss.detach()}


def shared_corners() -> list[tuple[int, int]]:
    """Where the tiles lie that this process computes in one step."""
    model, rows = bert(), Rows(20)
    with tiles_noted() as corners, torch.no_grad():
        TrainerObjective(static(), model)(model.train()(input_ids=rows.input_ids), rows.labels)
    return corners


def refusal_of_another_matrix(*, gather: bool) -> str:
    model, rows = bert(), Rows(20)
    ldm = StaticLDM.from_pairs([(0, 1 + process_index())], num_classes=NUM_CLASSES)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model, gather=gather)
    with pytest.raises(ValueError, match="All processes") as caught:
        objective(model.train()(input_ids=rows.input_ids), rows.labels)
    return str(caught.value)


def refusal_of_another_objective(**options: Any) -> str:
    """What this process says where each has `options` of its own, by rank."""
    model, rows = bert(), Rows(20)
    own = {name: values[process_index()] for name, values in options.items()}
    objective = TrainerObjective(own.pop("loss", static)(), model, **own)
    with pytest.raises(ValueError, match="All processes") as caught:
        objective(model.train()(input_ids=rows.input_ids), rows.labels)
    return str(caught.value)


# What each process has, and what all of them say.
UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "a loss on one alone": (
        {"loss": (static, nothing)},
        "the same contrastive loss, got LabelDistanceContrastiveLoss on process 0 and None on process 1",
    ),
    "weights": ({"ce_weight": (0.5, 0.6)}, "the same ce_weight, got 0.5 on process 0 and 0.6 on process 1"),
    "queues": (
        {"loss": (memory, memory), "gather": (False, False)},
        "each of 2 processes would fill a CrossBatchMemory with its own rows. Leave gather=True.",
    ),
    "gathering": ({"gather": (True, False)}, "the same gather, got True on process 0 and False on process 1"),
}


def main(folder: Path) -> None:
    results: dict[str, Any] = {name: run(case, WORLD, folder / "run") for name, case in CASES.items()}
    assert num_processes() == WORLD
    results["own loop"] = own_loop(WORLD)
    results["corners"] = shared_corners()
    results["refusals"] = [refusal_of_another_matrix(gather=gather) for gather in (True, False)]
    results |= {name: refusal_of_another_objective(**options) for name, (options, _) in UNLIKE.items()}
    leave(results, folder)


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict[str, Any]]:
    """What each process found, by rank."""
    return started(__file__, world=WORLD, folder=tmp_path_factory.mktemp("processes"))


def in_order(key: str, value: torch.Tensor) -> torch.Tensor:
    """A queue's rows in an order of their own: processes enter view after view, one process all first views first."""
    if "memory" not in key:
        return value
    return value[value.reshape(len(value), -1)[:, 0].argsort()]


# The newer name is unknown to the oldest transformers that the tests run with.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("name", CASES)
def test_training_is_that_of_one_process_with_all_batches_for(processes, name, tmp_path):
    alone = run(CASES[name], 1, tmp_path)
    assert any("loss" in row for row in alone["log"])
    for result in processes:
        found = result[name]
        assert len(found["log"]) == len(alone["log"])
        for row, expected in zip(found["log"], alone["log"], strict=True):
            assert row == pytest.approx(expected, rel=1e-4)
        torch.testing.assert_close(found["weights"], alone["weights"], rtol=1e-4, atol=1e-6)
        for key, value in alone["loss"].items():
            torch.testing.assert_close(in_order(key, found["loss"][key]), in_order(key, value), rtol=1e-4, atol=1e-6)
        assert all(torch.equal(value, processes[0][name]["loss"][key]) for key, value in found["loss"].items())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.loss is adaptive])
def test_each_row_is_counted_once_and_all_processes_hold_one_matrix(processes, name):
    for result in processes:
        found = result[name]
        assert [counts.sum() for counts in found["counts"]] == [CASES[name].num_dev] * 2
        assert torch.equal(found["counts"][-1], found["final"])
        assert torch.equal(found["matrix"], processes[0][name]["matrix"])


def test_a_loop_of_ones_own_has_the_gradient_of_one_process(processes):
    alone = own_loop(1)
    for result in processes:
        torch.testing.assert_close(result["own loop"]["gradient"], alone["gradient"], rtol=1e-4, atol=1e-7)
    mean = sum(result["own loop"]["loss"] for result in processes) / WORLD
    torch.testing.assert_close(mean, alone["loss"])


def test_the_processes_share_the_pairs(processes):
    found = [corner for result in processes for corner in result["corners"]]
    starts = sorted({row for row, _ in found})
    assert len(starts) > 4
    assert sorted(found) == [(row, column) for row in starts for column in starts if row <= column]
    assert abs(len(processes[0]["corners"]) - len(processes[1]["corners"])) <= 1


def test_all_processes_say_that_their_matrices_differ(processes):
    for result in processes:
        assert result["refusals"] == processes[0]["refusals"]
        for message in result["refusals"]:
            assert "All processes must have the same label-distance matrix, got one with checksum" in message


@pytest.mark.parametrize("name", UNLIKE)
def test_all_processes_say_that_their_objectives_differ_in(processes, name):
    for result in processes:
        assert UNLIKE[name][1] in result[name]


def test_a_loss_that_gathers_itself_is_refused():
    with pytest.raises(TypeError, match="must be the loss itself, got a DistributedLossWrapper"):
        TrainerObjective(DistributedLossWrapper(static()), bert())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
