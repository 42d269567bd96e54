"""The loss inside Lightning's Trainer: a user's own module, its own loaders, and the callback for the matrix."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from labeldist import (
    AdaptiveLDM,
    CrossBatchMemory,
    JointLoss,
    LabelDistanceBatchSampler,
    LabelDistanceContrastiveLoss,
    LabelDistanceMatrix,
    StaticLDM,
    confusion_counts,
)
from labeldist.integrations import lightning as integration
from labeldist.integrations.lightning import LabelDistanceCallback

pytestmark = [
    pytest.mark.usefixtures("as_it_was"),
    # What Lightning 2.6 says about itself under a newer torch, and its advice on speed for 48 rows.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
]

NUM_CLASSES = 3


def rows(number: int, seed: int = 0) -> TensorDataset:
    """Points around one centre a class; classes 0 and 1 overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % NUM_CLASSES
    centres = torch.tensor([[1.0, 0, 0, 0], [1.0, 0.5, 0, 0], [0, 0, 2.0, 0]])
    return TensorDataset(centres[labels] + 0.5 * torch.randn(number, 4, generator=generator), labels)


TRAIN, VALIDATION = rows(48), rows(30, seed=1)


class Classifier(LightningModule):
    """What a user writes."""

    def __init__(self, ldm: LabelDistanceMatrix):
        super().__init__()
        torch.manual_seed(0)
        self.encoder: Any = nn.Sequential(nn.Linear(4, 16), nn.ReLU())
        self.head: Any = nn.Linear(16, NUM_CLASSES)
        self.criterion: Any = JointLoss(LabelDistanceContrastiveLoss(ldm))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, labels = batch
        embeddings = self.encoder(inputs)
        return self.criterion(self.head(embeddings), embeddings, labels)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        inputs, labels = batch
        return {"logits": self.head(self.encoder(inputs)), "labels": labels}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def adaptive(**options) -> AdaptiveLDM:
    return AdaptiveLDM(NUM_CLASSES, **{"warmup_fraction": 0.0, **options})


def trainer_of(folder: Path, *callbacks: Callback, **options) -> Trainer:
    defaults = {
        "max_epochs": 4, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 2,
    }  # fmt: skip
    callbacks = callbacks or (LabelDistanceCallback(),)
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**defaults, **options})


def loader(data: Any, batch_size: int = 16) -> DataLoader:
    return DataLoader(data, batch_size=batch_size)


def fitted(folder: Path, module: LightningModule, *callbacks: Callback, **options) -> Trainer:
    trainer = trainer_of(folder, *callbacks, **options)
    trainer.fit(module, loader(TRAIN), loader(VALIDATION, 7))
    return trainer


def test_the_loss_needs_nothing_but_its_place_in_the_module(tmp_path):
    ldm = StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES)
    module, before = Classifier(ldm), ldm.matrix.clone()
    trainer = trainer_of(tmp_path, Callback(), max_epochs=20)
    trainer.fit(module, loader(TRAIN), loader(VALIDATION))
    with torch.no_grad():
        inputs, labels = VALIDATION.tensors
        predictions = module.head(module.encoder(inputs)).argmax(dim=1)
    assert (predictions == labels).float().mean() > 0.6
    assert torch.equal(ldm.matrix, before)
    assert "criterion.contrastive.ldm.matrix" in module.state_dict()


def test_each_validation_epoch_of_a_fit_moves_the_matrix(tmp_path):
    ldm = adaptive()
    trainer = fitted(tmp_path, Classifier(ldm))
    # Four epochs; the sanity check before them does not count.
    assert ldm.num_evaluations == 4
    assert [progress for progress, _ in ldm.history] == [0.25, 0.5, 0.75, 1.0]
    assert trainer.global_step == 12


def test_validation_outside_of_fit_does_not_move_it(tmp_path):
    ldm = adaptive()
    module = Classifier(ldm)
    trainer = trainer_of(tmp_path)
    trainer.validate(module, loader(VALIDATION), verbose=False)
    assert ldm.num_evaluations == 0
    trainer.fit(module, loader(TRAIN), loader(VALIDATION))
    after = ldm.matrix.clone()
    trainer.validate(module, loader(VALIDATION), verbose=False)
    assert ldm.num_evaluations == 4
    assert torch.equal(ldm.matrix, after)


class Predictions(Callback):
    """Confusion counts after each validation epoch, taken by hand."""

    def __init__(self):
        self.counts: list[torch.Tensor] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        inputs, labels = VALIDATION.tensors
        predictions = pl_module.head(pl_module.encoder(inputs)).argmax(dim=1)
        if not trainer.sanity_checking:
            self.counts.append(confusion_counts(labels, predictions, NUM_CLASSES))


def test_the_matrix_comes_from_the_confusions_of_all_batches(tmp_path):
    ldm, twin, by_hand = adaptive(), adaptive(), Predictions()
    fitted(tmp_path, Classifier(ldm), LabelDistanceCallback(), by_hand)
    for counts, progress in zip(by_hand.counts, (0.25, 0.5, 0.75, 1.0), strict=True):
        assert counts.sum() == 30
        twin.update(counts, progress=progress)
    assert torch.equal(ldm.matrix, twin.matrix)
    assert ldm.mean_off_diagonal > 1


def test_only_one_of_several_validation_loaders_counts(tmp_path):
    first, second = rows(12, seed=2), rows(30, seed=1)
    matrices = []
    for idx, loaders in ((0, [second, first]), (1, [first, second])):
        ldm = adaptive()
        trainer = trainer_of(tmp_path, LabelDistanceCallback(dataloader_idx=idx))
        trainer.fit(Classifier(ldm), loader(TRAIN), [loader(data, 7) for data in loaders])
        matrices.append(ldm.matrix)
    alone = adaptive()
    fitted(tmp_path, Classifier(alone))
    assert torch.equal(matrices[0], alone.matrix)
    assert torch.equal(matrices[1], alone.matrix)


def test_mean_and_step_size_are_logged_after_each_refresh(tmp_path):
    ldm = adaptive(warmup_fraction=0.5)
    logger = CSVLogger(tmp_path)
    trainer = fitted(tmp_path, Classifier(ldm), logger=logger, log_every_n_steps=1)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        logged = [entry for entry in csv.DictReader(file) if entry["ldm_epsilon"]]
    assert [float(entry["ldm_epsilon"]) for entry in logged] == [0.25, 0.0]
    assert float(logged[-1]["ldm_mean"]) == pytest.approx(ldm.mean_off_diagonal)
    assert trainer.callback_metrics["ldm_mean"].item() == pytest.approx(ldm.mean_off_diagonal)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 2, "val_check_interval": 1}, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0]),
        ({"max_epochs": -1, "max_steps": 6}, [0.5, 1.0]),
        # Whichever ends training first: 6 steps come before 4 epochs of 3.
        ({"max_epochs": 4, "max_steps": 6}, [0.5, 1.0]),
        ({"max_epochs": 2, "max_steps": 60}, [0.5, 1.0]),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, [0.5, 1.0]),
        ({"max_epochs": 2, "limit_train_batches": 2}, [0.5, 1.0]),
    ],
    ids=["within epochs", "steps", "steps first", "epochs first", "accumulation", "limited"],
)
def test_progress_is_the_share_of_training_that_is_done(tmp_path, options, expected):
    ldm = adaptive()
    fitted(tmp_path, Classifier(ldm), **options)
    assert [progress for progress, _ in ldm.history] == pytest.approx(expected, abs=1e-6)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(*TRAIN.tensors, strict=True))


def test_a_loader_of_unknown_length_counts_whole_epochs(tmp_path):
    ldm = adaptive()
    trainer = trainer_of(tmp_path, max_epochs=2)
    trainer.fit(Classifier(ldm), loader(Stream()), loader(VALIDATION))
    assert [progress for progress, _ in ldm.history] == [0.5, 1.0]


def test_the_matrix_can_be_written_to_after_validations_inference_mode(tmp_path):
    ldm = adaptive()
    fitted(tmp_path, Classifier(ldm))
    assert not any(buffer.is_inference() for buffer in ldm.buffers())


class Sampled(Classifier):
    """Batches by the matrix; a restart goes on with the epoch's own."""

    def train_dataloader(self) -> DataLoader:
        ldm: Any = self.criterion.contrastive.ldm
        sampler = LabelDistanceBatchSampler(TRAIN.tensors[1], ldm, classes_per_batch=2, rows_per_class=4)
        return DataLoader(TRAIN, batch_sampler=sampler)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("at_epoch_end", [False, True], ids=["after validation", "after the epoch"])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path, at_epoch_end):
    def run(folder: Path, resume: Path | None = None) -> tuple[Classifier, AdaptiveLDM]:
        ldm = adaptive()
        module = Sampled(ldm)
        saving = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=at_epoch_end)
        trainer = trainer_of(folder, LabelDistanceCallback(), saving, enable_checkpointing=True)
        trainer.fit(module, val_dataloaders=loader(VALIDATION), ckpt_path=resume)
        return module, ldm

    whole, ldm = run(tmp_path / "whole")
    again, resumed = run(tmp_path / "again", tmp_path / "whole" / "epoch=1.ckpt")
    assert torch.equal(resumed.matrix, ldm.matrix)
    assert [progress for progress, _ in resumed.history] == [0.25, 0.5, 0.75, 1.0]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(resumed.history, ldm.history, strict=True))
    for left, right in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(left, right)


class SeenMatrices(Callback):
    """The matrix at each training step."""

    def __init__(self):
        self.seen: list[torch.Tensor] = []

    def on_before_zero_grad(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(pl_module.criterion.contrastive.ldm.matrix.clone())


@pytest.mark.parametrize("is_last", [False, True], ids=["averaging first", "averaging last"])
@pytest.mark.parametrize("averaging", [WeightAveraging, EMAWeightAveraging])
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_averaging_weights_averages_no_matrix(tmp_path, averaging, is_last):
    def run(folder: Path, resume: Path | None = None) -> tuple[Classifier, AdaptiveLDM, list[torch.Tensor]]:
        ldm, seen = adaptive(), SeenMatrices()
        module = Classifier(ldm)
        callbacks = [averaging(), LabelDistanceCallback()]
        saving = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        trainer = trainer_of(folder, *callbacks[:: -1 if is_last else 1], seen, saving, enable_checkpointing=True)
        trainer.fit(module, loader(TRAIN), loader(VALIDATION), ckpt_path=resume)
        return module, ldm, seen.seen

    whole, ldm, seen = run(tmp_path / "whole")
    assert [progress for progress, _ in ldm.history] == [0.25, 0.5, 0.75, 1.0]
    assert torch.equal(ldm.matrix, ldm.history[-1][1])
    # Three steps an epoch: each sees the matrix of the validation before it.
    for epoch in (1, 2, 3):
        assert ldm.history[epoch - 1][1].unique().numel() > 1
        for matrix in seen[3 * epoch : 3 * epoch + 3]:
            assert torch.equal(matrix, ldm.history[epoch - 1][1])

    again, resumed, _ = run(tmp_path / "again", tmp_path / "whole" / "epoch=1.ckpt")
    assert [progress for progress, _ in resumed.history] == [0.25, 0.5, 0.75, 1.0]
    assert torch.allclose(resumed.matrix, ldm.matrix, atol=1e-6)
    for left, right in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-6)
    # What a checkpoint holds for others to load: the averaged weights, with this matrix.
    loaded = Classifier(adaptive())
    loaded.load_state_dict(torch.load(tmp_path / "whole" / "epoch=3.ckpt", weights_only=True)["state_dict"])
    assert torch.allclose(loaded.criterion.contrastive.ldm.matrix, ldm.matrix, atol=1e-6)
    assert len(loaded.criterion.contrastive.ldm.history) == 4


def test_a_static_matrix_and_the_callback_are_no_contradiction(tmp_path):
    ldm = StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES)
    before = ldm.matrix.clone()
    trainer = fitted(tmp_path, Classifier(ldm))
    assert torch.equal(ldm.matrix, before)
    assert "ldm_mean" not in trainer.callback_metrics


def test_a_module_without_a_matrix_is_refused(tmp_path):
    module = Classifier(adaptive())
    module.criterion = None
    with pytest.raises(ValueError, match=r"Classifier has no label-distance matrix .* self\.criterion = "):
        fitted(tmp_path, module)


def test_two_adaptive_matrices_are_refused(tmp_path):
    module = Classifier(adaptive())
    module.second = adaptive()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="must have one AdaptiveLDM, got 2"):
        fitted(tmp_path, module)


def test_one_matrix_shared_by_two_losses_is_one(tmp_path):
    ldm = adaptive()
    module = Classifier(ldm)
    module.second = LabelDistanceContrastiveLoss(ldm)  # type: ignore[assignment]
    fitted(tmp_path, module, max_epochs=1)
    assert ldm.num_evaluations == 1


def test_rows_of_a_validation_do_not_stay_in_the_queue(tmp_path):
    class Queued(Classifier):
        def __init__(self):
            super().__init__(StaticLDM.uniform(num_classes=NUM_CLASSES))
            memory = CrossBatchMemory(self.criterion.contrastive, embedding_size=16, memory_size=40)
            self.criterion = JointLoss(memory)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            # Labels that no training row has.
            loss = self.training_step([batch[0], 0 * batch[1] + 2], 0)
            return {**super().validation_step(batch, batch_idx), "loss": loss}

    class Watch(Callback):
        def __init__(self):
            self.labels: list[int] = []

        def on_train_batch_end(self, trainer, pl_module: Any, outputs, batch, batch_idx):
            self.labels += pl_module.criterion.contrastive.label_memory.tolist()

    train = TensorDataset(TRAIN.tensors[0], TRAIN.tensors[1] % 2)
    module, watch = Queued(), Watch()
    trainer = trainer_of(tmp_path, LabelDistanceCallback(), watch)
    trainer.fit(module, loader(train), loader(VALIDATION))
    assert set(watch.labels) == {0, 1}
    assert 2 not in module.criterion.contrastive.label_memory.tolist()


def test_class_names_in_another_order_than_those_of_a_model_are_refused(tmp_path):
    module = Classifier(AdaptiveLDM(class_names=["a", "b", "c"]))
    module.encoder.config = SimpleNamespace(id2label={0: "b", 1: "a", 2: "c"})
    with pytest.raises(ValueError, match=r"class 'a' at index 1 in the model's config\.id2label and at index 0"):
        fitted(tmp_path, module)


def test_training_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither max_epochs nor max_steps is set"):
        fitted(tmp_path, Classifier(adaptive()), max_epochs=-1, max_steps=-1)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (lambda logits, labels: logits.sum(), r"Classifier\.validation_step must return a mapping .* got Tensor"),
        (lambda logits, labels: None, "got NoneType"),
        (lambda logits, labels: {"loss": logits.sum(), "logits": logits}, r"got \['logits', 'loss'\]"),
        (
            lambda logits, labels: {"logits": logits[:, :2], "labels": labels},
            r"logits of shape \(B, 3\), one column per class of the LDM, got \(7, 2\)",
        ),
        (lambda logits, labels: {"logits": logits, "labels": labels + 1}, "labels must"),
    ],
    ids=["a tensor", "nothing", "no labels", "other classes", "labels out of range"],
)
def test_what_validation_step_must_return_is_told(tmp_path, monkeypatch, returned, sentence):
    step = Classifier.validation_step
    monkeypatch.setattr(
        Classifier, "validation_step", lambda self, batch, batch_idx: returned(**step(self, batch, batch_idx))
    )
    with pytest.raises(ValueError, match=sentence):
        fitted(tmp_path, Classifier(adaptive()), num_sanity_val_steps=0)


def imported_anew() -> None:
    spec = importlib.util.spec_from_file_location("anew", integration.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # type: ignore[union-attr,arg-type]


def test_without_lightning_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(ImportError, match=r"pip install 'labeldist\[lightning\]'"):
        imported_anew()


def test_an_old_lightning_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.4.1")
    with pytest.raises(ImportError, match=r"needs lightning >= 2\.5, got 2\.4\.1"):
        imported_anew()


TWO_PROCESSES = """
import json
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, DistributedSampler

from labeldist.integrations.lightning import LabelDistanceCallback
from test_lightning import VALIDATION, Predictions, Sampled, adaptive, trainer_of

FOLDER = Path(sys.argv[1])


class Halves(Sampled):
    def val_dataloader(self):
        return DataLoader(VALIDATION, batch_size=7, sampler=DistributedSampler(VALIDATION, shuffle=False))

    def on_fit_end(self):
        ldm = self.criterion.contrastive.ldm
        weights = torch.cat([parameter.detach().flatten() for parameter in self.parameters()])
        seen = {"matrix": ldm.matrix.tolist(), "updates": int(ldm.num_evaluations), "weights": weights.tolist()}
        (FOLDER / f"rank{self.global_rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    by_hand, twin = Predictions(), adaptive()
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    trainer = trainer_of(FOLDER, LabelDistanceCallback(), by_hand, **options)
    trainer.fit(Halves(adaptive()))
    for number, counts in enumerate(by_hand.counts, 1):
        twin.update(counts, progress=number / 4, is_local=False)
    if trainer.is_global_zero:
        (FOLDER / "expected.json").write_text(json.dumps(twin.matrix.tolist()))
"""


@pytest.mark.slow
def test_two_processes_hold_the_matrix_of_all_their_rows(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["updates"] == 4
    assert first["matrix"] == json.loads((tmp_path / "expected.json").read_text())
