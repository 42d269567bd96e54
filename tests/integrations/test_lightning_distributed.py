"""Several real processes of Lightning's Trainer against one process with the batches of all of them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from labeldist import (
    AdaptiveLDM,
    DistributedLossWrapper,
    JointLoss,
    LabelDistanceContrastiveLoss,
    LabelDistanceMatrix,
    StaticLDM,
)
from labeldist.distributed import num_processes, process_index
from labeldist.integrations.lightning import LabelDistanceCallback
from processes import leave, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("as_it_was"),
    # What Lightning 2.6 says about itself under a newer torch, and its advice on speed for 48 rows.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

WORLD, NUM_CLASSES, BATCH = 2, 3, 16


def rows(number: int, seed: int) -> TensorDataset:
    """Points around one centre a class; classes 0 and 1 overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % NUM_CLASSES
    centres = torch.tensor([[1.0, 0, 0, 0], [1.0, 0.5, 0, 0], [0, 0, 2.0, 0]])
    return TensorDataset(centres[labels] + 0.5 * torch.randn(number, 4, generator=generator), labels)


class Classifier(LightningModule):
    """What a user writes, with this process's part of every batch."""

    def __init__(self, ldm: LabelDistanceMatrix):
        super().__init__()
        # Lightning gives all processes the first one's weights. The module is made before they have met.
        torch.manual_seed(int(os.environ.get("RANK", "0")))
        self.encoder: Any = nn.Sequential(nn.Linear(4, 16), nn.ReLU())
        self.head: Any = nn.Linear(16, NUM_CLASSES)
        self.criterion: Any = JointLoss(DistributedLossWrapper(LabelDistanceContrastiveLoss(ldm, temperature=0.3)))
        self.losses: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = batch
        embeddings = self.encoder(inputs)
        loss = self.criterion(self.head(embeddings), embeddings, labels)
        self.losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        inputs, labels = batch
        return {"logits": self.head(self.encoder(inputs)), "labels": labels}

    def train_dataloader(self) -> DataLoader:
        data, rank, share = rows(48, 0), process_index(), BATCH // num_processes()
        own = [row for row in range(len(data)) if row % BATCH // share == rank]
        return DataLoader(Subset(data, own), batch_size=share)

    def val_dataloader(self) -> DataLoader:
        data = rows(30, 1)
        return DataLoader(Subset(data, range(process_index(), len(data), num_processes())), batch_size=7)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def static() -> LabelDistanceMatrix:
    return StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES)


def adaptive() -> LabelDistanceMatrix:
    return AdaptiveLDM(NUM_CLASSES, warmup_fraction=0.0)


CASES: dict[str, tuple[Callable[[], LabelDistanceMatrix], dict[str, Any]]] = {
    "static": (static, {}),
    "adaptive": (adaptive, {}),
    "accumulated": (static, {"accumulate_grad_batches": 3}),
    "clipped": (static, {"gradient_clip_val": 0.01}),
}


def run(name: str, world: int, folder: Path) -> dict[str, Any]:
    make, options = CASES[name]
    trainer = Trainer(
        default_root_dir=folder, max_epochs=3, accelerator="cpu", devices=world, logger=False,
        strategy="ddp" if world > 1 else "auto", use_distributed_sampler=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[LabelDistanceCallback()], **options,
    )  # fmt: skip
    module = Classifier(make())
    trainer.fit(module)
    weights = torch.cat([weight.detach().flatten() for weight in module.parameters()])
    matrix = module.criterion.contrastive.loss.ldm.matrix
    return {"weights": weights, "matrix": matrix, "losses": torch.stack(module.losses)}


def refusal_of_another_matrix(folder: Path) -> str:
    trainer = Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=WORLD, logger=False, strategy="ddp",
        enable_checkpointing=False, callbacks=[LabelDistanceCallback()],
    )  # fmt: skip
    with pytest.raises(ValueError, match="All processes") as caught:
        trainer.fit(Classifier(StaticLDM.from_pairs([(0, 1 + process_index())], num_classes=NUM_CLASSES)))
    return str(caught.value)


def main(folder: Path) -> None:
    results: dict[str, Any] = {name: run(name, WORLD, folder) for name in CASES}
    assert num_processes() == WORLD
    results["refusal"] = refusal_of_another_matrix(folder)
    leave(results, folder)


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict[str, Any]]:
    """What each process found, by rank."""
    return started(__file__, world=WORLD, folder=tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", CASES)
def test_training_is_that_of_one_process_with_all_batches_for(processes, name, tmp_path):
    alone = run(name, 1, tmp_path)
    for result in processes:
        torch.testing.assert_close(result[name]["weights"], alone["weights"], rtol=1e-4, atol=1e-6)
        assert torch.equal(result[name]["matrix"], alone["matrix"])
    # Each process has its own rows' cross-entropy, and the contrast of all rows.
    mean = torch.stack([result[name]["losses"] for result in processes]).mean(dim=0)
    torch.testing.assert_close(mean, alone["losses"], rtol=1e-4, atol=1e-6)


def test_an_adaptive_matrix_moved(processes):
    assert not torch.equal(processes[0]["adaptive"]["matrix"], torch.ones(NUM_CLASSES, NUM_CLASSES))


def test_all_processes_say_that_their_matrices_differ(processes):
    for result in processes:
        assert result["refusal"] == processes[0]["refusal"]
        assert "All processes must have the same label-distance matrix, got one with checksum" in result["refusal"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
