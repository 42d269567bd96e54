"""Several real processes of a real SentenceTransformerTrainer against one process with the batches of all of them.

One start by torchrun runs every case and leaves its numbers; the tests read them.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from torch.utils.data import BatchSampler, SequentialSampler

from labeldist import AdaptiveLDM, CrossBatchMemory, DistributedLossWrapper, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.distributed import num_processes, process_index
from labeldist.integrations.sentence_transformers import (
    LabelDistanceCallback,
    LabelDistanceEvaluator,
    SentenceLabelDistanceLoss,
)
from processes import leave, started
from runs import CLASSES, messages

pytestmark = pytest.mark.slow

WORLD = 2
NUM_CLASSES = len(CLASSES)
ROWS = messages(80)
TEXTS, LABELS = [row["text"] for row in ROWS], [CLASSES.index(row["label"]) for row in ROWS]


def static() -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES), temperature=0.3)


def of_all() -> nn.Module:
    return DistributedLossWrapper(static())


def own_anchors() -> nn.Module:
    return DistributedLossWrapper(static(), efficient=True)


def adaptive() -> nn.Module:
    ldm = AdaptiveLDM(NUM_CLASSES, warmup_fraction=0.0)
    return DistributedLossWrapper(LabelDistanceContrastiveLoss(ldm, temperature=0.3))


def memory() -> nn.Module:
    return DistributedLossWrapper(CrossBatchMemory(static(), embedding_size=16, memory_size=40))


def learned() -> nn.Module:
    matrix = nn.Parameter(torch.ones(NUM_CLASSES, NUM_CLASSES))
    return DistributedLossWrapper(LabelDistanceContrastiveLoss(StaticLDM(matrix), temperature=0.3))


@dataclass(frozen=True)
class Case:
    """One training: its loss, and the arguments of the loss and of the trainer."""

    contrastive: Callable[[], nn.Module] = of_all
    has_classifier: bool = False
    is_evaluated: bool = False
    views: int = 1
    options: dict[str, Any] = field(default_factory=dict)


# Each of these must be one process with the batches of all.
CASES: dict[str, Case] = {
    "contrast": Case(),
    "own anchors": Case(own_anchors),
    "two views": Case(views=2),
    "a classifier": Case(has_classifier=True),
    "accumulated": Case(has_classifier=True, options={"gradient_accumulation_steps": 2}),
    "learned distances": Case(learned, has_classifier=True),
    "a memory": Case(memory, has_classifier=True),
    "adaptive": Case(adaptive, has_classifier=True, is_evaluated=True, views=2),
}
# Without a wrapper each process contrasts its own rows: one process with the batches one after another.
OWN_ROWS = Case(static, has_classifier=True)


def sentence_model(folder: Path) -> SentenceTransformer:
    zero = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = Transformer(str(folder), config_kwargs=zero)
    return SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension())], device="cpu")


def in_order(dataset: Dataset, batch_size: int, **options: Any) -> BatchSampler:
    """Two batches in a row are one of twice the size."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last=False)  # type: ignore[arg-type]


def run(case: Case, world: int, encoder: Path, folder: Path) -> dict[str, Any]:
    model = sentence_model(encoder)
    # Nobody promises that the processes drew the same head.
    torch.manual_seed(process_index())
    classifier = nn.Linear(model.get_embedding_dimension() or 0, NUM_CLASSES) if case.has_classifier else None
    loss = SentenceLabelDistanceLoss(model, case.contrastive(), classifier=classifier, views=case.views)
    evaluator = LabelDistanceEvaluator(TEXTS[48:], LABELS[48:], NUM_CLASSES) if case.is_evaluated else None
    options = {
        "num_train_epochs": 2, "per_device_train_batch_size": 16 // world, "learning_rate": 0.05, "optim": "sgd",
        "lr_scheduler_type": "constant", "use_cpu": True, "seed": 0, "batch_sampler": in_order, "save_strategy": "no",
        "eval_strategy": "epoch" if evaluator else "no", "logging_strategy": "steps", "logging_steps": 1,
        "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, "log_level": "error",
    }  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(str(folder), **{**options, **case.options}),
        train_dataset=Dataset.from_dict({"sentence": TEXTS[:48], "label": LABELS[:48]}),
        loss=loss,
        evaluator=evaluator,
        callbacks=[LabelDistanceCallback(loss, evaluator)],
    )
    trainer.train()
    names = ("loss", "grad_norm", "cross_entropy", "contrastive", "ldm_epsilon", "ldm_mean", "eval_centroid_accuracy")
    rest = {name: value for name, value in loss.state_dict().items() if not name.startswith("model.")}
    return {
        "log": [{name: float(row[name]) for name in names if name in row} for row in trainer.state.log_history],
        "model": torch.cat([weight.detach().flatten() for weight in model.parameters()]),
        "rest": rest,
        "num_updates": len(loss.ldm.history) if isinstance(loss.ldm, AdaptiveLDM) else None,
    }


def refusal_of_another_matrix(encoder: Path) -> str:
    """Each process contrasts its own rows, so that nothing else would tell."""
    ldm = StaticLDM.from_pairs([(0, 1 + process_index())], num_classes=NUM_CLASSES)
    loss = SentenceLabelDistanceLoss(sentence_model(encoder), LabelDistanceContrastiveLoss(ldm))
    with pytest.raises(ValueError, match="All processes") as caught:
        loss.compute_loss_from_embeddings([torch.ones(4, 3)], torch.tensor([0, 0, 1, 1]))
    return str(caught.value)


def refusal_of_two_queues(encoder: Path) -> str:
    memory = CrossBatchMemory(static(), embedding_size=3, memory_size=8)
    loss = SentenceLabelDistanceLoss(sentence_model(encoder), memory)
    with pytest.raises(ValueError, match="All processes") as caught:
        loss.compute_loss_from_embeddings([torch.ones(4, 3)], torch.tensor([0, 0, 1, 1]))
    return str(caught.value)


def main(encoder: Path, folder: Path) -> None:
    results: dict[str, Any] = {name: run(case, WORLD, encoder, folder / "run") for name, case in CASES.items()}
    assert num_processes() == WORLD
    results["refusal"] = refusal_of_another_matrix(encoder)
    results["queues"] = refusal_of_two_queues(encoder)
    results["own rows"] = run(OWN_ROWS, WORLD, encoder, folder / "run")
    leave(results, folder)


@pytest.fixture(scope="module")
def processes(tiny_bert_folder, tmp_path_factory) -> list[dict[str, Any]]:
    """What each process found, by rank."""
    return started(__file__, tiny_bert_folder, world=WORLD, folder=tmp_path_factory.mktemp("processes"))


def assert_same_training(found: dict[str, Any], alone: dict[str, Any]) -> None:
    assert sum("loss" in row for row in alone["log"]) >= 2
    for row, expected in zip(found["log"], alone["log"], strict=True):
        # sentence-transformers rounds the parts to four places.
        assert row == pytest.approx(expected, rel=1e-4, abs=2e-4)
    torch.testing.assert_close(found["model"], alone["model"], rtol=1e-4, atol=1e-6)
    for name, value in alone["rest"].items():
        torch.testing.assert_close(found["rest"][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("name", CASES)
def test_training_is_that_of_one_process_with_all_batches_for(processes, tiny_bert_folder, name, tmp_path):
    alone = run(CASES[name], 1, tiny_bert_folder, tmp_path)
    for result in processes:
        assert_same_training(result[name], alone)


@pytest.mark.usefixtures("as_it_was")
def test_without_a_wrapper_each_process_contrasts_its_own_rows(processes, tiny_bert_folder, tmp_path):
    one_by_one = Case(
        OWN_ROWS.contrastive, has_classifier=True,
        options={"gradient_accumulation_steps": WORLD, "per_device_train_batch_size": 16 // WORLD},
    )  # fmt: skip
    alone = run(one_by_one, 1, tiny_bert_folder, tmp_path)
    for result in processes:
        assert_same_training(result["own rows"], alone)


def test_the_first_process_evaluates_and_all_hold_its_matrix(processes):
    first, second = (result["adaptive"] for result in processes)
    assert first["num_updates"] == second["num_updates"] == 2
    matrix = "joint.contrastive.loss.ldm.matrix"
    assert torch.equal(first["rest"][matrix], second["rest"][matrix])
    assert not torch.equal(first["rest"][matrix], torch.ones(NUM_CLASSES, NUM_CLASSES))


def test_all_processes_say_that_their_matrices_differ(processes):
    for result in processes:
        assert result["refusal"] == processes[0]["refusal"]
        assert "All processes must have the same label-distance matrix, got one with checksum" in result["refusal"]


def test_all_processes_say_that_each_would_have_a_queue_of_its_own(processes):
    for result in processes:
        assert "would fill a CrossBatchMemory with its own rows. Wrap it: DistributedLossWrapper" in result["queues"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
