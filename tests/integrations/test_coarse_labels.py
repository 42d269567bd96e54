"""Batches with coarse labels in each framework: trained on, left out of the contrast, not counted as confusions."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, TrainingArguments

from labeldist import (
    AdaptiveLDM,
    CrossBatchMemory,
    DistributedLossWrapper,
    FineLabelsOnly,
    JointLoss,
    LabelDistanceContrastiveLoss,
    MarginalCrossEntropy,
    StaticLDM,
)
from labeldist.integrations.transformers import TrainerObjective
from strategies import normal, refusal_of
from tiny_bert import NUM_CLASSES, Rows, bert

pytestmark = [
    pytest.mark.usefixtures("as_it_was"),
    # What Lightning 2.6 says about itself under a newer torch, and its advice on speed for 30 rows.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

GROUPS = [[0, 1], [1, 2]]


class MixedRows(Rows):
    """Every third row has a coarse label."""

    def __init__(self, num_rows: int, seed: int = 0):
        super().__init__(num_rows, seed)
        self.classes = self.labels
        self.labels = torch.where(
            torch.arange(num_rows) % 5 < 2, NUM_CLASSES + (self.classes == 2).long(), self.classes
        )


def marginal(**options: Any) -> MarginalCrossEntropy:
    return MarginalCrossEntropy(GROUPS, num_classes=NUM_CLASSES, **options)


def adaptive() -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(AdaptiveLDM(NUM_CLASSES, warmup_fraction=0.0))


def test_the_trainers_objective_is_the_joint_objective_of_mixed_batches():
    model, rows = bert().train(), MixedRows(30)
    contrastive = LabelDistanceContrastiveLoss(StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES))
    objective = TrainerObjective(FineLabelsOnly(contrastive), model, classification=marginal(), ce_weight=0.3)
    outputs = model(input_ids=rows.input_ids)
    loss = objective(outputs, rows.labels)
    embeddings = model.bert(input_ids=rows.input_ids.repeat(2, 1)).pooler_output
    expected = JointLoss(FineLabelsOnly(contrastive), marginal(), ce_weight=0.3)
    assert_close(loss, expected(outputs.logits, embeddings, rows.labels.repeat(2)))


@pytest.mark.parametrize("wrap", [lambda loss: loss, lambda loss: CrossBatchMemory(loss, 8, memory_size=64)])
def test_a_trainer_learns_from_mixed_batches_and_counts_classes(tmp_path, wrap):
    model, dev = bert(dropout=0.1), MixedRows(30, seed=1)
    objective = TrainerObjective(FineLabelsOnly(wrap(adaptive())), model, classification=marginal())
    counts: list[torch.Tensor] = []
    ldm: Any = objective.ldm
    update = ldm.update
    ldm.update = lambda found, **options: (counts.append(found.clone()), update(found, **options))[1]
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=6, per_device_train_batch_size=16, learning_rate=1e-2, use_cpu=True, seed=0,
        eval_strategy="epoch", save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, train_dataset=MixedRows(60), eval_dataset=dev, compute_loss_func=objective,
        callbacks=[objective.callback],
    )  # fmt: skip
    trainer.train()
    assert len(counts) == 6
    assert all(found.sum() == (dev.labels < NUM_CLASSES).sum() for found in counts)
    predicted = torch.as_tensor(trainer.predict(dev).predictions).argmax(dim=1)  # type: ignore[arg-type]
    assert (predicted == dev.classes).float().mean() > 0.8


def test_the_trainers_objective_refuses_labels_beyond_the_groups_and_a_bare_contrast():
    model, rows = bert().train(), MixedRows(6)
    objective = TrainerObjective(FineLabelsOnly(adaptive()), model, classification=marginal())
    outputs = model(input_ids=rows.input_ids)
    assert refusal_of(ValueError, objective, outputs, rows.labels + 2) == (
        "labels must lie in [0, 5), 3 classes and then 2 groups, got values from 2 to 6."
    )
    assert refusal_of(ValueError, TrainerObjective, adaptive(), model, classification=marginal()) == (
        "contrastive would take coarse labels for classes: give FineLabelsOnly(LabelDistanceContrastiveLoss(...))."
    )
    assert refusal_of(TypeError, TrainerObjective, FineLabelsOnly(DistributedLossWrapper(adaptive())), model) == (
        "contrastive must be the loss itself, got a DistributedLossWrapper: TrainerObjective gathers the rows."
    )


def test_lightning_counts_classes_only(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from labeldist.integrations.lightning import LabelDistanceCallback

    rows = MixedRows(30)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(NUM_CLASSES, NUM_CLASSES)
            self.criterion = JointLoss(FineLabelsOnly(adaptive()), marginal())

        def training_step(self, batch, batch_idx):
            inputs, labels = batch
            logits = self.head(inputs)
            return self.criterion(logits, logits, labels)

        def validation_step(self, batch, batch_idx):
            return {"logits": self.head(batch[0]), "labels": batch[1]}

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1)

    module = Module()
    counts: list[torch.Tensor] = []
    (ldm,) = (part for part in module.modules() if isinstance(part, AdaptiveLDM))
    update = ldm.update
    ldm.update = lambda found, **options: (counts.append(found.clone()), update(found, **options))[1]  # type: ignore[method-assign]
    inputs = nn.functional.one_hot(rows.classes, NUM_CLASSES).float()
    data = DataLoader(TensorDataset(inputs, rows.labels), batch_size=10)
    trainer = lightning.Trainer(
        default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[LabelDistanceCallback()],
    )  # fmt: skip
    trainer.fit(module, data, data)
    assert [int(found.sum()) for found in counts] == [int((rows.labels < NUM_CLASSES).sum())] * 2


def test_sentence_transformers_take_mixed_batches():
    library = pytest.importorskip("sentence_transformers")
    from labeldist.integrations.sentence_transformers import SentenceLabelDistanceLoss

    model = library.SentenceTransformer(modules=[nn.Identity()], device="cpu")
    contrastive, classifier = LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=3)), nn.Linear(4, 3)
    labels = torch.tensor([0, 3, 1, 0, 4])
    loss = SentenceLabelDistanceLoss(
        model, FineLabelsOnly(contrastive), classifier=classifier, classification=marginal()
    )
    rows = normal(5, 4, dtype=torch.float32)
    parts: Any = loss.compute_loss_from_embeddings([rows], labels)
    assert_close(parts["cross_entropy"], 0.5 * marginal()(classifier(rows), labels))
    assert_close(parts["contrastive"], 0.5 * contrastive(rows[labels < 3], labels[labels < 3]))
    arguments = {"classifier": classifier, "classification": marginal()}
    assert refusal_of(ValueError, SentenceLabelDistanceLoss, model, contrastive, **arguments) == (
        "contrastive would take coarse labels for classes: give FineLabelsOnly(LabelDistanceContrastiveLoss(...))."
    )
