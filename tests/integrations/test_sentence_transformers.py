"""The loss inside sentence-transformers: their trainer, their samplers, their evaluators."""

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from torch.nn.functional import cross_entropy

from labeldist import AdaptiveLDM, JointLoss, LabelDistanceBatchSampler, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.integrations import sentence_transformers as integration
from labeldist.integrations._shared.state import state_of
from labeldist.integrations._shared.trainer_callback import STATE_FILE
from labeldist.integrations.sentence_transformers import (
    LabelDistanceCallback,
    LabelDistanceEvaluator,
    SentenceLabelDistanceLoss,
    centroid_confusion,
)
from runs import messages

pytestmark = pytest.mark.usefixtures("as_it_was")


def corpus(number: int, start: int = 0) -> tuple[Dataset, list[str]]:
    rows = messages(start + number)[start:]
    names = sorted({row["label"] for row in rows})
    texts, labels = [row["text"] for row in rows], [names.index(row["label"]) for row in rows]
    return Dataset.from_dict({"sentence": texts, "label": labels}), names


TRAIN, NAMES = corpus(48)
VALIDATION = corpus(32, start=48)[0]
NUM_CLASSES = len(NAMES)


def sentence_model(folder: Path) -> SentenceTransformer:
    encoder = Transformer(str(folder))
    return SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension())], device="cpu")


@pytest.fixture
def model(tiny_bert_folder) -> SentenceTransformer:
    return sentence_model(tiny_bert_folder)


def uniform() -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(StaticLDM.uniform(2.0, num_classes=NUM_CLASSES), temperature=0.1)


def adaptive(**options) -> LabelDistanceContrastiveLoss:
    ldm = AdaptiveLDM(NUM_CLASSES, **{"warmup_fraction": 0.0, **options})
    return LabelDistanceContrastiveLoss(ldm, temperature=0.1)


def head(model: SentenceTransformer) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(model.get_embedding_dimension() or 0, NUM_CLASSES)


def evaluator() -> LabelDistanceEvaluator:
    return LabelDistanceEvaluator(VALIDATION["sentence"], VALIDATION["label"], NUM_CLASSES)


def trainer_of(model: SentenceTransformer, loss: nn.Module, folder: Path, **options) -> SentenceTransformerTrainer:
    parts = {name: options.pop(name, None) for name in ("evaluator", "eval_dataset", "callbacks")}
    defaults = {
        "num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 5e-3, "use_cpu": True, "seed": 0,
        "eval_strategy": "epoch" if parts["evaluator"] or parts["eval_dataset"] else "no", "save_strategy": "no",
        "logging_strategy": "epoch", "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False,
        "batch_sampler": "group_by_label",
    }  # fmt: skip
    args = SentenceTransformerTrainingArguments(str(folder), **{**defaults, **options})
    return SentenceTransformerTrainer(model, args, train_dataset=TRAIN, loss=loss, **parts)


def features(model: SentenceTransformer, texts: list[str]) -> Any:
    return model.preprocess(texts)


def test_three_lines_train_an_embedding(model, tmp_path):
    before = evaluator()(model)["centroid_accuracy"]
    loss = SentenceLabelDistanceLoss(model, uniform())
    trainer = trainer_of(model, loss, tmp_path, num_train_epochs=30)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    assert evaluator()(model)["centroid_accuracy"] > before + 0.2


def test_the_loss_is_that_of_the_models_embeddings(model):
    contrastive = uniform()
    loss = SentenceLabelDistanceLoss(model.eval(), contrastive)
    labels = torch.tensor(TRAIN["label"][:8])
    expected = contrastive(model.encode(TRAIN["sentence"][:8], convert_to_tensor=True), labels)
    found = loss([features(model, TRAIN["sentence"][:8])], labels)
    torch.testing.assert_close(found, expected.clone(), atol=1e-5, rtol=1e-5)


def test_views_are_encoded_anew_while_the_model_trains(model):
    loss = SentenceLabelDistanceLoss(model.train(), uniform(), views=3)
    seen = []
    compute = loss.compute_loss_from_embeddings
    loss.compute_loss_from_embeddings = lambda rows, labels: seen.append(rows) or compute(rows, labels)  # type: ignore[method-assign]
    batch, labels = features(model, TRAIN["sentence"][:4]), torch.tensor(TRAIN["label"][:4])
    names = set(batch)
    loss([batch], labels)
    # No view was encoded from what the model wrote down of another.
    assert names <= set(batch) <= names | {"label_distance_views"}
    model.eval()
    loss([batch], labels)
    assert [len(rows) for rows in seen] == [3, 1]
    assert not torch.equal(seen[0][0], seen[0][1])


def test_several_columns_of_text_are_views_of_a_row(model):
    loss = SentenceLabelDistanceLoss(model.eval(), uniform())
    first, second, labels = (torch.randn(4, 8), torch.randn(4, 8), torch.tensor([0, 1, 0, 2]))
    expected = uniform()(torch.cat([first, second]), torch.cat([labels, labels]))
    torch.testing.assert_close(loss.compute_loss_from_embeddings([first, second], labels), expected)


def test_a_classifier_makes_it_the_joint_objective(model):
    classifier = head(model)
    loss = SentenceLabelDistanceLoss(model, uniform(), classifier=classifier, ce_weight=0.3)
    rows, labels = torch.randn(8, classifier.in_features), torch.arange(8) % NUM_CLASSES
    parts = loss.compute_loss_from_embeddings([rows], labels)
    assert isinstance(parts, dict)
    torch.testing.assert_close(parts["cross_entropy"], 0.3 * cross_entropy(classifier(rows), labels))
    total = JointLoss(uniform(), ce_weight=0.3)(classifier(rows), rows, labels)
    torch.testing.assert_close(parts["cross_entropy"] + parts["contrastive"], total)


def test_the_parts_are_logged_and_the_classifier_learns(model, tmp_path):
    classifier = head(model)
    before = classifier.weight.detach().clone()
    loss = SentenceLabelDistanceLoss(model, uniform(), classifier=classifier)
    trainer = trainer_of(model, loss, tmp_path, eval_dataset=VALIDATION)
    trainer.train()
    training = [row for row in trainer.state.log_history if "loss" in row]
    for row in training:
        assert float(row["loss"]) == pytest.approx(row["cross_entropy"] + row["contrastive"], abs=2e-3)
    assert any("eval_contrastive" in row for row in trainer.state.log_history)
    assert not torch.equal(classifier.weight, before)


def test_accumulated_batches_leave_the_loss_a_mean(model, tmp_path):
    def first_loss(**options) -> float:
        loss = SentenceLabelDistanceLoss(model, uniform(), classifier=head(model), ce_weight=1.0)
        trainer = trainer_of(model, loss, tmp_path, num_train_epochs=1, learning_rate=1e-9, **options)
        return trainer.train().training_loss

    whole = first_loss(per_device_train_batch_size=16)
    assert first_loss(per_device_train_batch_size=8, gradient_accumulation_steps=2) == pytest.approx(whole, rel=0.1)


def test_batches_of_confusable_classes(model, tmp_path):
    loss = SentenceLabelDistanceLoss(model, adaptive())
    ldm: Any = loss.ldm

    def batches(dataset, batch_size, seed, **options):
        return LabelDistanceBatchSampler(
            dataset["label"], ldm, classes_per_batch=2, rows_per_class=batch_size // 2, seed=seed,
            num_replicas=1, rank=0,
        )  # fmt: skip

    seen = []
    forward = loss.forward
    loss.forward = lambda sentence_features, labels: seen.append(labels) or forward(sentence_features, labels)  # type: ignore[method-assign]
    watched = evaluator()
    callbacks = [LabelDistanceCallback(loss, watched)]
    trainer_of(model, loss, tmp_path, batch_sampler=batches, evaluator=watched, callbacks=callbacks).train()
    assert all(len(labels.unique()) == 2 for labels in seen)
    assert sum(map(len, seen)) == 2 * len(TRAIN)


def test_the_nearest_other_centroid_is_predicted():
    # Class 0 stands at 0 and 90 degrees, class 1 at 6, twice. Without itself each row of class 0 is 90 degrees from its
    # own class, 6 and 84 from class 1; with itself it would be at 45. Rows of class 1 meet each other.
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.1]])
    labels = torch.tensor([0, 0, 1, 1])
    assert centroid_confusion(rows, labels, 2).tolist() == [[0, 2], [0, 2]]


def test_centroid_confusion_is_what_plain_loops_give():
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(40, 5, generator=generator), torch.arange(40) % 4
    rows += 1.5 * torch.eye(5)[labels]
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for i in range(40):
        similarity = []
        for c in range(4):
            others = [rows[j] / rows[j].norm() for j in range(40) if j != i and labels[j] == c]
            similarity.append(torch.cosine_similarity(rows[i], torch.stack(others).mean(dim=0), dim=0))
        expected[labels[i], int(torch.stack(similarity).argmax())] += 1
    assert torch.equal(centroid_confusion(rows, labels, 4), expected)
    assert 0 < expected.trace() < 40


def test_a_class_of_one_row_is_not_counted_and_an_empty_one_never_predicted():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]])
    counts = centroid_confusion(-rows, torch.tensor([0, 0, 1]), 3)
    assert counts.tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_centroid_confusion_takes_any_floating_type(dtype):
    rows = torch.eye(3).repeat(4, 1) + 0.1
    labels = torch.arange(3).repeat(4)
    assert torch.equal(centroid_confusion(rows.to(dtype), labels, 3), 4 * torch.eye(3, dtype=torch.int64))


def test_the_evaluator_reports_accuracy_under_its_name(model, tmp_path):
    alone = evaluator()
    found = alone(model)
    assert alone.counts is not None
    assert found == {"centroid_accuracy": pytest.approx(alone.counts.trace().item() / 32)}
    named = LabelDistanceEvaluator(VALIDATION["sentence"], VALIDATION["label"], NUM_CLASSES, name="dev", batch_size=5)
    assert named(model) == {"dev_centroid_accuracy": pytest.approx(found["centroid_accuracy"])}
    assert named.primary_metric == "dev_centroid_accuracy"


def trained(model, folder: Path, **options) -> tuple[SentenceLabelDistanceLoss, SentenceTransformerTrainer]:
    resume = options.pop("resume", None)
    loss = SentenceLabelDistanceLoss(model, adaptive(), classifier=head(model))
    watched = evaluator()
    trainer = trainer_of(
        model, loss, folder, num_train_epochs=4, evaluator=watched,
        callbacks=[LabelDistanceCallback(loss, watched)], **options,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return loss, trainer


def test_each_evaluation_in_training_moves_the_matrix(model, tmp_path):
    loss, trainer = trained(model, tmp_path)
    ldm: Any = loss.ldm
    assert [progress for progress, _ in ldm.history] == [0.25, 0.5, 0.75, 1.0]
    refreshed = [row for row in trainer.state.log_history if "ldm_epsilon" in row]
    assert [row["ldm_epsilon"] for row in refreshed] == [0.75, 0.5, 0.25, 0.0]
    assert any("eval_centroid_accuracy" in row for row in trainer.state.log_history)
    after = ldm.matrix.clone()
    trainer.evaluate()
    assert ldm.num_evaluations == 4
    assert torch.equal(ldm.matrix, after)


def test_the_matrix_comes_from_the_confusions_of_centroids(model, tmp_path):
    seen = []
    loss = SentenceLabelDistanceLoss(model, adaptive())
    twin = AdaptiveLDM(NUM_CLASSES, warmup_fraction=0.0)

    class Watching(LabelDistanceEvaluator):
        def __call__(self, *args, **kwargs):
            metrics = super().__call__(*args, **kwargs)
            seen.append(self.counts)
            return metrics

    watched = Watching(VALIDATION["sentence"], VALIDATION["label"], NUM_CLASSES)
    trainer_of(model, loss, tmp_path, evaluator=watched, callbacks=[LabelDistanceCallback(loss, watched)]).train()
    for counts, progress in zip(seen, (0.5, 1.0), strict=True):
        twin.update(counts, progress=progress)
    ldm: Any = loss.ldm
    assert torch.equal(ldm.matrix, twin.matrix)


def test_a_resumed_training_takes_matrix_and_classifier_from_the_checkpoint(tiny_bert_folder, model, tmp_path):
    loss, _ = trained(model, tmp_path / "whole", save_strategy="epoch")
    middle = tmp_path / "again" / "checkpoint-6"
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", middle)
    assert (middle / STATE_FILE).is_file()
    again, _ = trained(sentence_model(tiny_bert_folder), tmp_path / "again", save_strategy="epoch", resume=str(middle))
    for (name, left), right in zip(loss.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


def test_a_checkpoint_without_the_matrix_is_told(model, tmp_path):
    trained(model, tmp_path, save_strategy="epoch")
    (tmp_path / "checkpoint-6" / STATE_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"is missing\. Resume from a checkpoint in output_dir"):
        trained(model, tmp_path, resume=str(tmp_path / "checkpoint-6"))


def test_the_trainer_finds_the_model_under_its_name(model, tmp_path):
    loss = SentenceLabelDistanceLoss(model, uniform(), classifier=head(model))
    trainer = trainer_of(model, loss, tmp_path)

    class Wrapped(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    wrapped: Any = Wrapped(model)
    assert trainer.override_model_in_loss(loss, wrapped).model is wrapped
    parts = loss([features(model, TRAIN["sentence"][:4])], torch.tensor(TRAIN["label"][:4]))
    assert set(parts) == {"cross_entropy", "contrastive"}
    # The model stays out of what the callback stores, however it is wrapped.
    assert set(state_of(loss, exclude="model")) == {
        "joint.contrastive.ldm.matrix", "classifier.weight", "classifier.bias",
    }  # fmt: skip


def test_the_model_card_names_loss_and_paper(model, tmp_path):
    trainer = trainer_of(model, SentenceLabelDistanceLoss(model, uniform()), tmp_path)
    trainer.train()
    model.save(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "SentenceLabelDistanceLoss" in card
    assert "2110.13656" in card


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"ce_weight": 1.5}, "got 1.5"),
    ],
    ids=["views", "ce_weight"],
)
def test_arguments_outside_their_range_are_refused(model, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SentenceLabelDistanceLoss(model, uniform(), **options)


def test_missing_labels_are_told(model):
    loss = SentenceLabelDistanceLoss(model, uniform())
    with pytest.raises(ValueError, match="an integer column named 'label'"):
        loss.compute_loss_from_embeddings([torch.randn(4, 8)], None)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [[0, 9, 0], [0, -1, 0]], ids=["too large", "negative"])
def test_labels_out_of_range_are_refused(model, labels):
    with pytest.raises(ValueError, match="labels must"):
        SentenceLabelDistanceLoss(model, uniform()).compute_loss_from_embeddings(
            [torch.randn(3, 8)], torch.tensor(labels)
        )
    with pytest.raises(ValueError, match="labels must"):
        LabelDistanceEvaluator(["a", "b", "c"], labels, NUM_CLASSES)


def test_a_classifier_of_other_classes_is_refused(model):
    loss = SentenceLabelDistanceLoss(model, uniform(), classifier=nn.Linear(8, NUM_CLASSES + 1))
    with pytest.raises(ValueError, match=f"one output per class of the LDM, {NUM_CLASSES}, got {NUM_CLASSES + 1}"):
        loss.compute_loss_from_embeddings([torch.randn(4, 8)], torch.tensor([0, 0, 1, 1]))


def test_an_evaluator_needs_two_sentences_of_a_class():
    with pytest.raises(ValueError, match="At least one class must have two of the 3 sentences"):
        LabelDistanceEvaluator(["a", "b", "c"], [0, 1, 2], 3)


def test_an_adaptive_matrix_without_an_evaluator_is_refused(model):
    loss = SentenceLabelDistanceLoss(model, adaptive())
    with pytest.raises(ValueError, match="An AdaptiveLDM learns from evaluations: give LabelDistanceCallback"):
        LabelDistanceCallback(loss)
    # A static one has nothing to learn.
    LabelDistanceCallback(SentenceLabelDistanceLoss(model, uniform()))


def test_an_evaluator_of_other_classes_is_refused(model):
    loss = SentenceLabelDistanceLoss(model, adaptive())
    with pytest.raises(ValueError, match=f"the LDM's number of classes, {NUM_CLASSES}, got 2"):
        LabelDistanceCallback(loss, LabelDistanceEvaluator(["a", "b", "c"], [0, 0, 1], 2))


def test_a_trainer_that_never_evaluates_is_refused(model, tmp_path):
    loss, watched = SentenceLabelDistanceLoss(model, adaptive()), evaluator()
    trainer = trainer_of(model, loss, tmp_path, callbacks=[LabelDistanceCallback(loss, watched)])
    with pytest.raises(ValueError, match="eval_strategy is 'no'"):
        trainer.train()


def test_a_trainer_without_the_evaluator_is_refused(model, tmp_path):
    loss, watched = SentenceLabelDistanceLoss(model, adaptive()), evaluator()
    callbacks = [LabelDistanceCallback(loss, watched)]
    trainer = trainer_of(model, loss, tmp_path, eval_dataset=VALIDATION, callbacks=callbacks)
    with pytest.raises(RuntimeError, match="did not run in this evaluation"):
        trainer.train()


def imported_anew() -> None:
    spec = importlib.util.spec_from_file_location("anew", integration.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # type: ignore[union-attr,arg-type]


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'labeldist\[sentence-transformers\]'"):
        imported_anew()


def test_an_old_version_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: "5.3.0")
    with pytest.raises(ImportError, match=r"needs sentence-transformers >= 6\.2, got 5\.3\.0"):
        imported_anew()
