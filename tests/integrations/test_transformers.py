"""The objective inside the Hugging Face Trainer: a plain model, its own Trainer, no other part of this project's
trainer."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from labeldist import AdaptiveLDM, CrossBatchMemory, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.integrations import transformers as integration
from labeldist.integrations._shared.trainer_callback import STATE_FILE
from labeldist.integrations.transformers import TrainerObjective
from labeldist.models import TextCNN
from labeldist.models.classifier import ContrastiveClassifier
from tiny_bert import NUM_CLASSES, SMALL, Rows, bert

pytestmark = pytest.mark.usefixtures("as_it_was")

TRAIN, DEV = Rows(48), Rows(30, seed=1)


def adaptive(**options) -> AdaptiveLDM:
    return AdaptiveLDM(NUM_CLASSES, **{"warmup_fraction": 0.0, **options})


def arguments(folder: Path, **options) -> TrainingArguments:
    defaults = {
        "num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 1e-2, "use_cpu": True, "seed": 0,
        "eval_strategy": "epoch", "logging_strategy": "epoch", "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**defaults, **options})


def trainer_of(model, objective: TrainerObjective, folder: Path, *, dev: Rows | None = DEV, **options) -> Trainer:
    if dev is None:
        options["eval_strategy"] = "no"
    return Trainer(
        model,
        arguments(folder, **options),
        train_dataset=TRAIN,
        eval_dataset=dev,
        compute_loss_func=objective,
        callbacks=[objective.callback],
    )


def test_three_lines_train_a_plain_model(tmp_path):
    model = bert(dropout=0.1)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model)
    trainer = trainer_of(model, objective, tmp_path, num_train_epochs=8)
    trainer.train()
    log = trainer.state.log_history
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < losses[0]
    predicted = np.asarray(trainer.predict(DEV).predictions).argmax(axis=1)
    assert np.mean(predicted == DEV.labels.numpy()) > 0.8


def test_both_parts_of_the_loss_are_in_the_log_and_make_it_up(tmp_path):
    model = bert(dropout=0.1)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model, ce_weight=0.3)
    trainer = trainer_of(model, objective, tmp_path)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["loss"] == pytest.approx(0.3 * row["cross_entropy"] + 0.7 * row["contrastive"], rel=1e-5)


def test_cross_entropy_alone_logs_itself(tmp_path):
    model = bert(dropout=0.1)
    trainer = trainer_of(model, TrainerObjective(None, model), tmp_path)
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["loss"] == pytest.approx(row["cross_entropy"], rel=1e-5)
    assert "contrastive" not in row


def test_embeddings_are_what_the_class_layer_receives():
    model = bert().eval()
    loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(2.0, num_classes=NUM_CLASSES))
    objective = TrainerObjective(loss, model, views=1)
    outputs = model(**DEV.batch())
    pooled = model.bert(**DEV.batch()).pooler_output
    expected = 0.5 * cross_entropy(outputs.logits, DEV.labels) + 0.5 * loss(pooled, DEV.labels)
    torch.testing.assert_close(objective(outputs, DEV.labels), expected)
    with pytest.raises(RuntimeError, match="class layer was not called"):
        objective(outputs, DEV.labels)


def test_training_sees_each_text_as_often_as_there_are_views():
    model = bert(dropout=0.1)
    TrainerObjective(None, model, views=3)
    model.train()
    logits = model(**DEV.batch()).logits
    assert len(logits) == 3 * len(DEV)
    # The views differ by dropout, and whole views stand one after another.
    assert not torch.equal(logits[:30], logits[30:60])
    assert len(model.eval()(**DEV.batch()).logits) == len(DEV)


def test_views_stand_one_after_another():
    model = bert()
    TrainerObjective(None, model, views=2)
    logits = model.train()(**DEV.batch()).logits
    torch.testing.assert_close(logits[:30], logits[30:])
    torch.testing.assert_close(logits[:30], model.eval()(**DEV.batch()).logits)


def test_one_view_repeats_nothing():
    model = bert(dropout=0.1)
    TrainerObjective(None, model, views=1)
    assert len(model.train()(**DEV.batch()).logits) == len(DEV)


def test_ce_views_limits_the_cross_entropy_to_the_first_views():
    logits = torch.randn(8, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0])
    whole, first = (TrainerObjective(None, bert(dropout=0.1), views=2, ce_views=views) for views in (None, 1))
    torch.testing.assert_close(first({"logits": logits}, labels), cross_entropy(logits[:4], labels))
    torch.testing.assert_close(whole({"logits": logits}, labels), cross_entropy(logits, labels.repeat(2)))


def gradients(tmp_path: Path, batch_size: int, steps: int, contrastive=None) -> tuple[list[torch.Tensor], float]:
    """The model's first step of plain gradient descent with learning rate 1 and no clipping is its gradient."""
    model = bert()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = trainer_of(
        model,
        TrainerObjective(contrastive, model, views=2),
        tmp_path,
        dev=None,
        max_steps=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=steps,
        learning_rate=1.0,
        optim="sgd",
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
    )
    loss = trainer.train().training_loss
    return [old - new.detach() for old, new in zip(before, model.parameters(), strict=True)], loss


def test_accumulated_batches_give_the_gradient_of_one_large_batch(tmp_path):
    (whole, loss), (parts, parts_loss) = (gradients(tmp_path, size, 32 // size) for size in (32, 8))
    assert any(gradient.abs().max() > 1e-3 for gradient in whole)
    for left, right in zip(whole, parts, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-4)
    assert loss == pytest.approx(parts_loss, rel=1e-5)


def test_a_last_smaller_batch_counts_for_its_rows(tmp_path):
    # 48 rows in batches of 20: the third has 8.
    model = bert()
    before = cross_entropy(model.eval()(**TRAIN.batch()).logits, TRAIN.labels).item()
    trainer = trainer_of(
        model, TrainerObjective(None, model, views=1), tmp_path, dev=None, num_train_epochs=1,
        per_device_train_batch_size=20, gradient_accumulation_steps=3, learning_rate=1e-9,
    )  # fmt: skip
    assert trainer.train().training_loss == pytest.approx(before, rel=1e-4)


def test_the_adaptive_matrix_is_refreshed_from_evaluations_in_training_only(tmp_path):
    model = bert(dropout=0.1)
    ldm = adaptive()
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
    trainer = trainer_of(model, objective, tmp_path, num_train_epochs=4)
    trainer.evaluate()
    assert ldm.num_evaluations == 0
    trainer.train()
    assert ldm.num_evaluations == 4
    assert [progress for progress, _ in ldm.history] == [0.25, 0.5, 0.75, 1.0]
    after = ldm.matrix.clone()
    trainer.evaluate()
    trainer.predict(DEV)
    assert ldm.num_evaluations == 4
    assert torch.equal(ldm.matrix, after)
    refreshed = [row for row in trainer.state.log_history if "ldm_epsilon" in row]
    assert [row["ldm_epsilon"] for row in refreshed] == [0.75, 0.5, 0.25, 0.0]
    assert all(row["ldm_mean"] >= 1 for row in refreshed)


def test_the_matrix_comes_from_the_evaluations_confusions(tmp_path):
    model = bert(dropout=0.1)
    ldm = adaptive()
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
    seen = []
    update = ldm.update

    def spy(counts, **options):
        seen.append(counts.clone())
        return update(counts, **options)

    ldm.update = spy  # type: ignore[method-assign]
    trainer = trainer_of(model, objective, tmp_path, num_train_epochs=1, per_device_eval_batch_size=7)
    trainer.train()
    predicted = torch.as_tensor(trainer.predict(DEV).predictions).argmax(dim=1)
    expected = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64)
    for true, guess in zip(DEV.labels, predicted, strict=True):
        expected[true, guess] += 1
    assert len(seen) == 1
    assert torch.equal(seen[0], expected)


def test_fixed_confusions_take_the_place_of_the_evaluations(tmp_path):
    counts = torch.tensor([[5, 5, 0], [0, 10, 0], [0, 0, 10]])
    ldm, twin = adaptive(), adaptive()
    model = bert(dropout=0.1)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model, confusion=counts)
    trainer_of(model, objective, tmp_path).train()
    for progress in (0.5, 1.0):
        twin.update(counts, progress=progress)
    assert torch.equal(ldm.matrix, twin.matrix)


def test_a_static_matrix_stays(tmp_path):
    ldm = StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES)
    before = ldm.matrix.clone()
    model = bert(dropout=0.1)
    trainer_of(model, TrainerObjective(LabelDistanceContrastiveLoss(ldm), model), tmp_path).train()
    assert torch.equal(ldm.matrix, before)


def checkpointed(folder: Path, *, resume: Path | None = None) -> tuple[AdaptiveLDM, torch.nn.Module]:
    model, ldm = bert(dropout=0.1), adaptive()
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
    trainer = trainer_of(model, objective, folder, num_train_epochs=4, save_strategy="epoch")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return ldm, model


def test_a_resumed_training_takes_the_matrix_from_the_checkpoint(tmp_path):
    ldm, model = checkpointed(tmp_path / "whole")
    middle = tmp_path / "other" / "checkpoint-6"
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", middle)
    assert (middle / STATE_FILE).is_file()
    again, resumed = checkpointed(tmp_path / "other", resume=middle)
    assert torch.equal(again.matrix, ldm.matrix)
    assert [progress for progress, _ in again.history] == [progress for progress, _ in ldm.history]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(again.history, ldm.history, strict=True))
    for left, right in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_model_that_returns_embeddings_needs_no_hook(tmp_path):
    torch.manual_seed(0)
    model = ContrastiveClassifier(TextCNN(20, embedding_dim=4, num_maps=3), NUM_CLASSES, projection_dim=5)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model)
    trainer = trainer_of(model, objective, tmp_path, label_names=["labels"], remove_unused_columns=False)
    trainer.train()
    assert {"cross_entropy", "contrastive"} <= trainer.state.log_history[0].keys()


def test_a_model_without_a_class_layer_is_refused():
    model = BertModel(BertConfig(**{**SMALL, "num_labels": 5}))
    with pytest.raises(ValueError, match=r"BertModel has no nn\.Linear with config\.num_labels = 5 outputs"):
        TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model)
    # Cross-entropy alone reads no embeddings.
    TrainerObjective(None, model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"ce_views": 0}, "ce_views must lie between 1 and views = 2, got 0"),
        ({"views": 2, "ce_views": 3}, "ce_views must lie between 1 and views = 2, got 3"),
        ({"ce_weight": 1.5}, "got 1.5"),
        ({"ce_weight": float("nan")}, "got nan"),
    ],
)
def test_arguments_outside_their_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainerObjective(None, bert(dropout=0.1), **options)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 3]), torch.tensor([0, -1, 2])])
def test_labels_out_of_range_are_refused(labels):
    model = bert(dropout=0.1).eval()
    objective = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model, views=1)
    with pytest.raises((ValueError, IndexError)):
        objective(model(input_ids=TRAIN.input_ids[:3]), labels)


def test_labels_that_are_not_integers_are_refused():
    loss = LabelDistanceContrastiveLoss(adaptive())
    with pytest.raises((TypeError, ValueError), match="labels"):
        loss(torch.randn(3, 4), torch.tensor([0.0, 1.0, 2.0]))


# Hooks on a model, attached and detached


def test_a_later_objective_takes_the_model_over():
    model = bert(dropout=0.1)
    first = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model)
    second = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model, views=3)
    outputs = model.train()(**DEV.batch())
    assert len(outputs.logits) == 3 * len(DEV)
    assert torch.isfinite(second(outputs, DEV.labels))
    with pytest.raises(RuntimeError, match="was detached from its model"):
        first(outputs, DEV.labels)


@pytest.mark.parametrize("kind", ["plain", "two heads"])
def test_a_detached_objective_leaves_the_model_as_it_was(kind):
    model = bert(dropout=0.1) if kind == "plain" else two_heads()
    objective = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model)
    assert len(model.train()(**DEV.batch()).logits) == 2 * len(DEV)
    objective.detach()
    objective.detach()
    assert len(model(**DEV.batch()).logits) == len(DEV)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_detaching_the_earlier_objective_leaves_the_later_one_alone():
    model = two_heads()
    first, second = (TrainerObjective(None, model, views=views) for views in (2, 3))
    first.detach()
    outputs = model.train()(**DEV.batch())
    assert torch.isfinite(second(outputs, DEV.labels))


def two_heads() -> ContrastiveClassifier:
    torch.manual_seed(0)
    return ContrastiveClassifier(TextCNN(20, embedding_dim=4, num_maps=3), NUM_CLASSES, projection_dim=5)


def test_inputs_by_position_are_repeated_and_what_has_no_row_a_text_is_not():
    model = bert()
    TrainerObjective(None, model, views=2)
    logits = model.train()(TRAIN.input_ids[:4], position_ids=torch.arange(6)[None]).logits
    torch.testing.assert_close(logits, model.eval()(TRAIN.input_ids[:4]).logits.repeat(2, 1))


def test_views_may_come_from_the_collator(tmp_path):
    def twice(rows: list[dict]) -> dict[str, torch.Tensor]:
        return {name: torch.stack([row[name] for row in rows]).repeat_interleave(2, dim=0) for name in rows[0]}

    model = bert(dropout=0.1)
    objective = TrainerObjective(
        LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=NUM_CLASSES)), model, views=1
    )
    trainer = Trainer(
        model,
        arguments(tmp_path, eval_strategy="no", num_train_epochs=1),
        train_dataset=TRAIN,
        data_collator=twice,
        compute_loss_func=objective,
        callbacks=[objective.callback],
    )
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["loss"] == pytest.approx(0.5 * row["cross_entropy"] + 0.5 * row["contrastive"], rel=1e-5)


# The log, and who reads it


class Tracker(TrainerCallback):
    def __init__(self):
        self.rows: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append(dict(logs or {}))


def test_an_attached_objective_is_reported_by_trackers(tmp_path):
    model, tracker = bert(dropout=0.1), Tracker()
    objective = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model)
    trainer = Trainer(
        model,
        arguments(tmp_path),
        train_dataset=TRAIN,
        eval_dataset=DEV,
        compute_loss_func=objective,
        callbacks=[tracker, objective.callback],
    )
    objective.attach(trainer)
    assert trainer.callback_handler.callbacks.count(objective.callback) == 1
    trainer.train()
    for names in ({"loss", "cross_entropy", "contrastive"}, {"ldm_epsilon", "ldm_mean"}):
        assert sum(names <= row.keys() for row in tracker.rows) == 2
    refreshed = [row for row in trainer.state.log_history if "ldm_epsilon" in row]
    assert [(row["epoch"], row["step"]) for row in refreshed] == [(1.0, 3), (2.0, 6)]


def test_the_parts_make_up_the_loss_when_batches_are_accumulated_and_uneven(tmp_path):
    # 48 rows in batches of 20: an accumulated batch of 40, and one of 8.
    model = bert(dropout=0.1)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model, ce_weight=0.3)
    trainer = trainer_of(model, objective, tmp_path, per_device_train_batch_size=20, gradient_accumulation_steps=2)
    trainer.train()
    for row in (row for row in trainer.state.log_history if "loss" in row):
        assert row["loss"] == pytest.approx(0.3 * row["cross_entropy"] + 0.7 * row["contrastive"], rel=1e-5)


# Mistakes


def test_an_adaptive_matrix_without_the_callback_is_refused(tmp_path):
    model = bert(dropout=0.1)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model)
    trainer = Trainer(model, arguments(tmp_path), train_dataset=TRAIN, eval_dataset=DEV, compute_loss_func=objective)
    with pytest.raises(RuntimeError, match=r"the Trainer has none: pass callbacks=\[objective\.callback\]"):
        trainer.train()


def test_an_adaptive_matrix_in_a_memory_is_refreshed(tmp_path):
    model, ldm = bert(dropout=0.1), adaptive()
    memory = CrossBatchMemory(LabelDistanceContrastiveLoss(ldm), embedding_size=8, memory_size=64)
    trainer_of(model, TrainerObjective(memory, model), tmp_path).train()
    assert ldm.num_evaluations == 2


def test_a_trainer_without_the_callback_is_refused_whatever_the_loss(tmp_path):
    # Its arguments would go unseen, label_smoothing_factor among them.
    model = bert(dropout=0.1)
    objective = TrainerObjective(None, model)
    trainer = Trainer(model, arguments(tmp_path), train_dataset=TRAIN, eval_dataset=DEV, compute_loss_func=objective)
    with pytest.raises(RuntimeError, match=r"the Trainer has none: pass callbacks=\[objective\.callback\]"):
        trainer.train()


@pytest.mark.parametrize("kind", ["plain", "two heads"])
def test_a_matrix_for_other_classes_is_refused(kind):
    model = bert(dropout=0.1) if kind == "plain" else two_heads()
    loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=5))
    with pytest.raises(ValueError, match=r"one output per class of the LDM, 5, got 3\. Load it with num_labels=5"):
        TrainerObjective(loss, model)


def test_a_model_without_a_configuration_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no nn\.Linear with config\.num_labels = None outputs"):
        TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), torch.nn.Linear(2, 2))


def test_several_gpus_in_one_process_are_refused(tmp_path):
    model = bert(dropout=0.1)
    objective = TrainerObjective(None, model)
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(RuntimeError, match="needs one process per GPU, got DataParallel over 2"):
        objective.callback.on_train_begin(args, TrainerState(), TrainerControl())


def test_an_adaptive_matrix_without_evaluations_is_refused(tmp_path):
    model = bert(dropout=0.1)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(adaptive()), model)
    with pytest.raises(ValueError, match="eval_strategy is 'no'"):
        trainer_of(model, objective, tmp_path, dev=None).train()


def test_rows_without_labels_are_refused():
    model = bert(dropout=0.1).eval()
    with pytest.raises(ValueError, match="labels are required"):
        TrainerObjective(None, model)(model(**DEV.batch()), None)  # type: ignore[arg-type]


def test_labels_that_are_scores_are_refused():
    model = bert(dropout=0.1).eval()
    with pytest.raises(TypeError, match="labels must be integers"):
        TrainerObjective(None, model)(model(**DEV.batch()), torch.rand(len(DEV)))


def test_a_model_that_scores_tokens_is_refused():
    model = BertForTokenClassification(BertConfig(**SMALL))
    objective = TrainerObjective(LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=NUM_CLASSES)), model)
    with pytest.raises(ValueError, match=r"one row of class scores per text, \(B, C\), got logits of shape"):
        objective(model.train()(**TRAIN.batch()), TRAIN.labels)


def test_a_tuple_of_outputs_is_refused():
    model = bert(dropout=0.1).eval()
    with pytest.raises(TypeError, match="must return a dictionary with logits, got tuple"):
        TrainerObjective(None, model)(model(**DEV.batch(), return_dict=False), DEV.labels)


def test_resuming_from_a_checkpoint_without_the_matrix_is_told(tmp_path):
    checkpointed(tmp_path)
    (tmp_path / "checkpoint-6" / STATE_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="Resume from a checkpoint in output_dir"):
        checkpointed(tmp_path, resume=tmp_path / "checkpoint-6")


def imported_anew() -> None:
    spec = importlib.util.spec_from_file_location("anew", integration.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("package", ["accelerate", "transformers"])
def test_without_the_library_the_error_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'labeldist\[train\]'"):
        imported_anew()


def test_an_old_version_of_the_library_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: "4.57.1")
    with pytest.raises(ImportError, match=r"needs transformers >= 5\.17, got 4\.57\.1"):
        imported_anew()
