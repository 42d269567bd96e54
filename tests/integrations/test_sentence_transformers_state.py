"""What a loss in sentence-transformers keeps from step to step, what checkpoints hold, and losses around it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses as their_losses
from test_sentence_transformers import (
    NUM_CLASSES,
    TRAIN,
    VALIDATION,
    adaptive,
    evaluator,
    features,
    head,
    sentence_model,
    trainer_of,
    uniform,
)
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from labeldist import AdaptiveLDM, CrossBatchMemory, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.integrations._shared.trainer_callback import STATE_FILE
from labeldist.integrations.sentence_transformers import (
    LabelDistanceCallback,
    LabelDistanceEvaluator,
    SentenceLabelDistanceLoss,
)

pytestmark = pytest.mark.usefixtures("as_it_was")


@pytest.fixture
def model(tiny_bert_folder) -> SentenceTransformer:
    return sentence_model(tiny_bert_folder)


def memory_of(model: SentenceTransformer) -> CrossBatchMemory:
    return CrossBatchMemory(uniform(), embedding_size=model.get_embedding_dimension() or 0, memory_size=40)


# A queue


def test_rows_of_an_evaluation_never_enter_the_queue(model, tmp_path):
    # The last class is in the evaluation alone.
    last = NUM_CLASSES - 1
    train = TRAIN.map(lambda row: {"label": row["label"] % last})
    dev = VALIDATION.map(lambda row: {"label": last})
    memory, seen = memory_of(model), []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.extend(memory.label_memory.tolist())

    loss = SentenceLabelDistanceLoss(model, memory)
    # Batches by label need two classes in every set.
    trainer = trainer_of(model, loss, tmp_path, eval_dataset=dev, batch_sampler="batch_sampler")
    trainer.train_dataset = train
    trainer.add_callback(Watch())
    trainer.train()
    trainer.evaluate()
    assert memory.has_been_filled
    assert last not in [*seen, *memory.label_memory.tolist()]


def test_a_resumed_training_goes_on_with_its_queue(tiny_bert_folder, tmp_path):
    def run(resume: str | None = None) -> SentenceLabelDistanceLoss:
        model = sentence_model(tiny_bert_folder)
        loss = SentenceLabelDistanceLoss(model, memory_of(model))
        trainer = trainer_of(model, loss, tmp_path, save_strategy="epoch", callbacks=[LabelDistanceCallback(loss)])
        trainer.train(resume_from_checkpoint=resume)
        return loss

    whole = run()
    resumed = run(str(tmp_path / "checkpoint-3"))
    for (name, left), right in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


# Evaluations


class Other(TrainerCallback):
    """Looks at other rows at the end of each epoch, and leaves the trainer's own evaluation due."""

    trainer: Any = None

    def on_epoch_end(self, args, state, control, **kwargs: Any) -> Any:
        due = copy.deepcopy(control)
        self.trainer.evaluate(TRAIN, metric_key_prefix="train")
        return due


@pytest.mark.parametrize("name", ["", "dev", "eval"])
@pytest.mark.parametrize("sets", [None, {"one": VALIDATION, "two": TRAIN}], ids=["an evaluator", "and two sets"])
def test_the_evaluator_updates_the_matrix_once_an_evaluation(model, tmp_path, sets, name):
    loss = SentenceLabelDistanceLoss(model, adaptive())
    watched = LabelDistanceEvaluator(VALIDATION["sentence"], VALIDATION["label"], NUM_CLASSES, name=name)
    other = Other()
    other.trainer = trainer_of(
        model, loss, tmp_path, evaluator=watched, eval_dataset=sets,
        callbacks=[LabelDistanceCallback(loss, watched), other],
    )  # fmt: skip
    other.trainer.train()
    ldm: Any = loss.ldm
    assert [progress for progress, _ in ldm.history] == [0.5, 1.0]


def test_an_evaluator_that_the_trainer_does_not_have_is_told(model, tmp_path):
    loss = SentenceLabelDistanceLoss(model, adaptive())
    callbacks = [LabelDistanceCallback(loss, evaluator())]
    with pytest.raises(RuntimeError, match="did not run in this evaluation: give it to the trainer, too"):
        trainer_of(model, loss, tmp_path, eval_dataset=VALIDATION, callbacks=callbacks).train()


# State that belongs to another


def two_losses(folder: Path, encoder: Path, resume: str | None = None) -> dict[str, SentenceLabelDistanceLoss]:
    """One model, two sets of labels, two losses whose heads and matrices differ."""
    torch.manual_seed(0)
    model = sentence_model(encoder)
    losses = {
        name: SentenceLabelDistanceLoss(
            model,
            LabelDistanceContrastiveLoss(StaticLDM.from_pairs([(0, 1, distance)], num_classes=NUM_CLASSES)),
            classifier=nn.Linear(model.get_embedding_dimension() or 0, NUM_CLASSES),
        )
        for name, distance in (("topic", 3.0), ("parity", 7.0))
    }
    parity = Dataset.from_dict({"sentence": TRAIN["sentence"], "label": [i % NUM_CLASSES for i in range(len(TRAIN))]})
    args = SentenceTransformerTrainingArguments(
        str(folder), num_train_epochs=2, per_device_train_batch_size=16, learning_rate=5e-3, use_cpu=True,
        save_strategy="epoch", logging_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model, args, train_dataset=DatasetDict({"topic": TRAIN, "parity": parity}), loss=losses,
        callbacks=[LabelDistanceCallback(loss) for loss in losses.values()],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return losses


def test_each_of_two_losses_gets_its_own_state_back(tiny_bert_folder, tmp_path):
    whole = two_losses(tmp_path, tiny_bert_folder)
    resumed = two_losses(
        tmp_path, tiny_bert_folder, str(min(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name[11:])))
    )
    for name, loss in whole.items():
        for (key, left), right in zip(loss.state_dict().items(), resumed[name].state_dict().values(), strict=True):
            assert torch.equal(left, right), (name, key)
    assert not torch.equal(whole["topic"].classifier.weight, whole["parity"].classifier.weight)  # type: ignore[union-attr]


def test_the_matrix_is_that_of_the_checkpoint_that_is_resumed(tiny_bert_folder, tmp_path):
    def run(folder: str, max_distance: float, resume: Path | None = None) -> AdaptiveLDM:
        model, watched = sentence_model(tiny_bert_folder), evaluator()
        loss = SentenceLabelDistanceLoss(model, adaptive(max_distance=max_distance))
        trainer = trainer_of(
            model, loss, tmp_path / folder, evaluator=watched, callbacks=[LabelDistanceCallback(loss, watched)],
            save_strategy="epoch",
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        assert isinstance(loss.ldm, AdaptiveLDM)
        return loss.ldm

    first, second = run("a", 5.0), run("b", 50.0)
    assert not torch.equal(first.matrix, second.matrix)
    resumed = run("b", 5.0, tmp_path / "a" / "checkpoint-3")
    assert torch.equal(resumed.matrix, first.matrix)


def test_a_training_that_starts_again_starts_with_a_fresh_matrix(model, tmp_path):
    loss, watched = SentenceLabelDistanceLoss(model, adaptive()), evaluator()
    trainer = trainer_of(model, loss, tmp_path, evaluator=watched, callbacks=[LabelDistanceCallback(loss, watched)])
    for _ in range(2):
        trainer.train()
        ldm: Any = loss.ldm
        assert [progress for progress, _ in ldm.history] == [0.5, 1.0]


def test_a_checkpoint_has_no_file_where_the_loss_has_no_state(model, tmp_path):
    from pytorch_metric_learning.losses import SupConLoss

    loss = SentenceLabelDistanceLoss(model, SupConLoss())
    trainer_of(model, loss, tmp_path, callbacks=[LabelDistanceCallback(loss)], save_strategy="epoch").train()
    assert (tmp_path / "checkpoint-6").is_dir()
    assert not (tmp_path / "checkpoint-6" / STATE_FILE).exists()


# The classification loss


def test_the_classification_loss_is_the_one_given(model):
    classifier, weights = head(model), torch.arange(1.0, NUM_CLASSES + 1)
    loss = SentenceLabelDistanceLoss(
        model, uniform(), classifier=classifier, ce_weight=0.3, classification=nn.CrossEntropyLoss(weight=weights)
    )
    rows, labels = torch.randn(8, classifier.in_features), torch.arange(8) % NUM_CLASSES
    parts: Any = loss.compute_loss_from_embeddings([rows], labels)
    expected = cross_entropy(classifier(rows), labels, weight=weights)
    torch.testing.assert_close(parts["cross_entropy"], 0.3 * expected)
    torch.testing.assert_close(parts["contrastive"], 0.7 * uniform()(rows, labels))


def test_a_classification_loss_without_a_classifier_is_refused(model):
    with pytest.raises(ValueError, match="there is no classifier to give them"):
        SentenceLabelDistanceLoss(model, uniform(), classification=nn.CrossEntropyLoss())


# Losses around it


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("has_classifier", [False, True], ids=["contrast", "joint"])
def test_each_layer_may_be_trained(model, tmp_path, views, has_classifier):
    inner = SentenceLabelDistanceLoss(model, uniform(), classifier=head(model) if has_classifier else None, views=views)
    trainer = trainer_of(model, their_losses.AdaptiveLayerLoss(model, inner), tmp_path, num_train_epochs=8)
    trainer.train()
    losses = [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]


def test_the_loss_of_a_layer_is_that_of_its_embeddings(model):
    inner = SentenceLabelDistanceLoss(model.eval(), uniform())
    outer = their_losses.AdaptiveLayerLoss(model, inner, kl_div_weight=0.0, kl_temperature=0.0)
    labels = torch.tensor(TRAIN["label"][:8])
    found = outer([features(model, TRAIN["sentence"][:8])], labels)
    layers = model[0].auto_model(**{  # type: ignore[operator]
        name: value for name, value in features(model, TRAIN["sentence"][:8]).items() if name != "modality"
        and isinstance(value, torch.Tensor)
    }, output_hidden_states=True).hidden_states  # fmt: skip
    mask = features(model, TRAIN["sentence"][:8])["attention_mask"][..., None]
    pooled = [(layer * mask).sum(dim=1) / mask.sum(dim=1) for layer in layers]
    expected = uniform()(pooled[-1], labels) + uniform()(pooled[0], labels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("views", [1, 2])
def test_embeddings_may_be_shortened(model, tmp_path, views):
    inner = SentenceLabelDistanceLoss(model, uniform(), views=views)
    outer = their_losses.MatryoshkaLoss(model, inner, matryoshka_dims=[16, 8])
    trainer = trainer_of(model, outer, tmp_path, num_train_epochs=8)
    trainer.train()
    losses = [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]


def test_a_classifier_of_shortened_embeddings_is_refused(model, tmp_path):
    inner = SentenceLabelDistanceLoss(model, uniform(), classifier=head(model))
    outer = their_losses.MatryoshkaLoss(model, inner, matryoshka_dims=[16, 8])
    with pytest.raises(ValueError, match="Inside MatryoshkaLoss, which shortens them, leave the classifier out"):
        trainer_of(model, outer, tmp_path).train()
