"""What a loss in the Trainer keeps from step to step, which evaluation may change it, and what checkpoints hold."""

import copy
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml
from test_transformers import DEV, TRAIN, adaptive, arguments, trainer_of
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from labeldist import (
    AdaptiveLDM,
    CrossBatchMemory,
    LabelDistanceBatchSampler,
    LabelDistanceContrastiveLoss,
    StaticLDM,
)
from labeldist.integrations._shared.state import read_state
from labeldist.integrations._shared.trainer_callback import STATE_FILE
from labeldist.integrations.transformers import TrainerObjective
from tiny_bert import NUM_CLASSES, Rows, bert

pytestmark = pytest.mark.usefixtures("as_it_was")


def static(distance: float = 2.0) -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(StaticLDM.from_pairs([(0, 1, distance)], num_classes=NUM_CLASSES))


def memory_of(loss: nn.Module) -> CrossBatchMemory:
    return CrossBatchMemory(loss, embedding_size=8, memory_size=64)


def learned() -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(StaticLDM(nn.Parameter(torch.ones(NUM_CLASSES, NUM_CLASSES))))


def parts_by_step(trainer: Trainer) -> dict[float, float]:
    return {row["step"]: row["contrastive"] for row in trainer.state.log_history if "contrastive" in row}


# A queue


class QueuesAtSteps(TrainerCallback):
    def __init__(self, memory: CrossBatchMemory):
        self.memory = memory
        self.labels: list[list[int]] = []

    def on_step_end(self, args, state, control, **kwargs):
        number = self.memory.memory_size if self.memory.has_been_filled else self.memory.queue_idx
        self.labels.append(self.memory.label_memory[:number].tolist())


def test_rows_of_an_evaluation_never_enter_the_queue(tmp_path):
    # Class 2 is in the evaluation alone.
    train, dev = Rows(48), Rows(24, seed=1)
    train.labels, dev.labels = train.labels % 2, torch.full((24,), 2)
    memory, model = memory_of(static()), bert(dropout=0.1)
    objective = TrainerObjective(memory, model)
    watch = QueuesAtSteps(memory)
    trainer = Trainer(
        model, arguments(tmp_path), train_dataset=train, eval_dataset=dev, compute_loss_func=objective,
        callbacks=[objective.callback, watch],
    )  # fmt: skip
    trainer.evaluate()
    assert memory.queue_idx == 0
    trainer.train()
    trainer.predict(dev)
    assert max(map(len, watch.labels)) == 64
    assert all(2 not in labels for labels in [*watch.labels, memory.label_memory.tolist()])


def test_an_evaluation_has_the_loss_of_its_rows_against_the_queue():
    memory, model = memory_of(static()), bert()
    objective = TrainerObjective(memory, model, views=1, ce_weight=0.0)
    objective(model.train()(**TRAIN.batch()), TRAIN.labels)
    twin = copy.deepcopy(memory)
    model.eval()
    expected = twin(model.bert(**DEV.batch()).pooler_output, DEV.labels)
    for _ in range(2):
        torch.testing.assert_close(objective(model(**DEV.batch()), DEV.labels), expected)


def test_a_resumed_training_goes_on_with_its_queue(tmp_path):
    def make() -> Trainer:
        model = bert(dropout=0.1)
        objective = TrainerObjective(memory_of(static()), model)
        return trainer_of(
            model, objective, tmp_path, dev=None, save_strategy="epoch", logging_strategy="steps", logging_steps=1
        )

    whole, resumed = make(), make()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(parts_by_step(whole)) == 6
    assert parts_by_step(resumed) == parts_by_step(whole)


# The evaluation that decides


class Other(TrainerCallback):
    """Looks at other rows at the end of each epoch, and leaves the Trainer's own evaluation due."""

    trainer: Trainer

    def __init__(self, look):
        self.look = look

    def on_epoch_end(self, args, state, control, **kwargs: Any) -> Any:
        due = copy.deepcopy(control)
        self.look(self.trainer)
        return due


def updates(folder: Path, *, look=None, dev: Any = DEV, attach: bool = True, **options) -> list[int]:
    """How many rows each update of the matrix saw."""
    model, ldm = bert(dropout=0.1), adaptive()
    seen: list[int] = []
    update = ldm.update
    ldm.update = lambda counts, **more: (seen.append(int(counts.sum())), update(counts, **more))[1]  # type: ignore[method-assign]
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model, **options)
    trainer = Trainer(
        model, arguments(folder, num_train_epochs=3), train_dataset=TRAIN, eval_dataset=dev,
        compute_loss_func=objective, callbacks=[objective.callback],
    )  # fmt: skip
    if attach:
        objective.attach(trainer)
    if look is not None:
        other = Other(look)
        other.trainer = trainer
        trainer.add_callback(other)
    trainer.train()
    return seen


SETS = {"validation": DEV, "test": Rows(60, seed=2)}


@pytest.mark.parametrize("attach", [False, True], ids=["in callbacks", "attached"])
def test_one_named_set_of_a_dictionary_updates_the_matrix(tmp_path, attach):
    assert updates(tmp_path, dev=SETS, update_from="eval_validation", attach=attach) == [30, 30, 30]


@pytest.mark.parametrize("attach", [False, True], ids=["in callbacks", "attached"])
@pytest.mark.parametrize(
    ("dev", "name"), [(SETS, "eval"), (SETS, "eval_dev"), (DEV, "eval_validation")], ids=["none", "other", "no sets"]
)
def test_an_evaluation_that_does_not_run_cannot_decide(tmp_path, attach, dev, name):
    with pytest.raises(ValueError, match=f"updated by the evaluation '{name}', and the evaluations here are .*eval"):
        updates(tmp_path, dev=dev, update_from=name, attach=attach)


@pytest.mark.parametrize(
    "look",
    [
        lambda trainer: trainer.evaluate(TRAIN, metric_key_prefix="train"),
        lambda trainer: trainer.evaluate({"train": TRAIN}),
        lambda trainer: trainer.predict(Rows(60, seed=2)),
        lambda trainer: trainer.predict(Rows(60, seed=2), metric_key_prefix="eval"),
    ],
    ids=["evaluate", "evaluate a dictionary", "predict", "predict under its name"],
)
def test_looking_at_other_rows_in_training_does_not_move_the_matrix(tmp_path, look):
    assert updates(tmp_path, look=look) == [30, 30, 30]


def test_two_evaluations_of_one_name_in_one_step_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got two named 'eval' at step 3"):
        updates(tmp_path, look=lambda trainer: trainer.evaluate(TRAIN))


def test_an_evaluation_without_labels_is_told(tmp_path):
    class Unlabeled(Rows):
        def __getitem__(self, index):
            return {"input_ids": self.input_ids[index]}

    with pytest.raises(ValueError, match=r"the evaluation 'eval' had none\. .*label_names=\['labels'\]"):
        updates(tmp_path, dev=Unlabeled(12))


def test_a_model_whose_evaluations_see_no_labels_is_told(tmp_path):
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = bert()

        def forward(self, input_ids):
            return self.inner(input_ids)

    model = Blind()
    objective = TrainerObjective(static(), model)
    trainer = trainer_of(model, objective, tmp_path, remove_unused_columns=False)
    with pytest.raises(ValueError, match=r"among the arguments of Blind\.forward, .*label_names=\['labels'\]"):
        trainer.train()


# Weights of the loss itself

WITH_WEIGHTS = {
    "learned distances": learned,
    "proxies": lambda: pml.ProxyAnchorLoss(NUM_CLASSES, 8),
    "class directions": lambda: pml.ArcFaceLoss(NUM_CLASSES, 8),
    "learned distances in a memory": lambda: memory_of(learned()),
}


def attached(loss: nn.Module, folder: Path, **options) -> tuple[Trainer, Any]:
    model = bert(dropout=0.1)
    objective = TrainerObjective(loss, model)
    trainer = trainer_of(model, objective, folder, dev=None, save_strategy="epoch", **options)
    objective.attach(trainer)
    return trainer, model


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_weights_of_the_loss_are_trained_saved_and_restored(tmp_path, kind):
    torch.manual_seed(1)
    loss = WITH_WEIGHTS[kind]()
    before = [weight.detach().clone() for weight in loss.parameters()]
    trainer, model = attached(loss, tmp_path)
    trainer.train()
    assert all(not torch.equal(weight, old) for weight, old in zip(loss.parameters(), before, strict=True))
    assert all(weight.grad is None for weight in loss.parameters())

    torch.manual_seed(2)  # other proxies, should they not be restored
    again = WITH_WEIGHTS[kind]()
    resumed, other = attached(again, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for left, right in zip(again.parameters(), loss.parameters(), strict=True):
        assert torch.equal(left, right)
    for left, right in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_gradients_of_the_loss_do_not_pile_up_over_steps(tmp_path):
    # With plain gradient descent a weight moves by the sum of its gradients, each taken once.
    loss = learned()
    steps: list[torch.Tensor] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            gradient = loss.ldm.matrix.grad
            assert gradient is not None
            steps.append(gradient.clone())

    trainer, _ = attached(loss, tmp_path, optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_steps=3)
    trainer.add_callback(Watch())
    trainer.train()
    assert len(steps) == 3
    torch.testing.assert_close(loss.ldm.matrix.detach(), torch.ones(NUM_CLASSES, NUM_CLASSES) - 0.1 * sum(steps))


def test_weights_of_the_loss_outside_of_the_optimizer_are_refused(tmp_path):
    model = bert()
    objective = TrainerObjective(learned(), model)
    with pytest.raises(RuntimeError, match=r"optimizer has no 'contrastive\.ldm\.matrix'\. Call objective\.attach"):
        trainer_of(model, objective, tmp_path, dev=None).train()


def test_the_best_models_weights_of_the_loss_come_back_with_it(tmp_path):
    class Worse(TrainerCallback):
        """The first evaluation is the best."""

        def on_evaluate(self, args, state, control, metrics: Any = None, **kwargs):
            metrics["eval_score"] = -state.global_step

    model, loss = bert(dropout=0.1), learned()
    objective = TrainerObjective(loss, model)
    trainer = trainer_of(
        model, objective, tmp_path, save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="score", greater_is_better=True,
    )  # fmt: skip
    objective.attach(trainer)
    trainer.add_callback(Worse())
    trainer.train()
    first, last = (read_state(tmp_path / f"checkpoint-{step}" / STATE_FILE)["loss"] for step in (3, 6))
    name = "contrastive.ldm.matrix"
    assert not torch.equal(first[name], last[name])
    assert torch.equal(loss.ldm.matrix, first[name])


# State that belongs to another training


def adaptive_run(folder: Path, max_distance: float, *, resume: Path | None = None, **options) -> AdaptiveLDM:
    model, ldm = bert(dropout=0.1), adaptive(max_distance=max_distance)
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
    trainer = trainer_of(model, objective, folder, save_strategy="epoch", num_train_epochs=3, **options)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return ldm


def same_history(left: AdaptiveLDM, right: AdaptiveLDM) -> bool:
    pairs = list(zip(left.history, right.history, strict=True))
    return bool(pairs) and all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def test_the_matrix_is_that_of_the_checkpoint_that_is_resumed(tmp_path):
    first = adaptive_run(tmp_path / "a", 5.0)
    second = adaptive_run(tmp_path / "b", 50.0)
    assert not torch.equal(first.matrix, second.matrix)
    # The folder of b has a checkpoint of the same step; c has none.
    for folder in ("b", "c"):
        resumed = adaptive_run(tmp_path / folder, 5.0, resume=tmp_path / "a" / "checkpoint-6")
        assert torch.equal(resumed.matrix, first.matrix)
        assert same_history(resumed, first)


def test_a_checkpoint_that_was_moved_is_found_by_the_trainers_argument_or_told(tmp_path):
    first = adaptive_run(tmp_path / "a", 5.0)
    adaptive_run(tmp_path / "b", 50.0)
    moved = tmp_path / "elsewhere" / "checkpoint-6"
    moved.parent.mkdir()
    shutil.move(tmp_path / "a" / "checkpoint-6", moved)
    with pytest.raises(ValueError, match=r"checkpoint-6.* is of another training\. Set output_dir to the folder"):
        adaptive_run(tmp_path / "b", 5.0, resume=moved)
    resumed = adaptive_run(tmp_path / "b", 5.0, resume=moved, resume_from_checkpoint=str(moved))
    assert torch.equal(resumed.matrix, first.matrix)


def test_a_checkpoint_that_the_trainer_deletes_at_once_is_said(tmp_path):
    whole = adaptive_run(tmp_path, 5.0, save_total_limit=2)
    in_an_hour = time.time() + 3600
    for step in (12, 15):
        later = shutil.copytree(tmp_path / "checkpoint-9", tmp_path / f"checkpoint-{step}")
        os.utime(later, (in_an_hour, in_an_hour))
    with pytest.warns(UserWarning, match=r"has deleted .*checkpoint-9, .* Delete the checkpoints of later steps"):
        resumed = adaptive_run(tmp_path, 5.0, resume=tmp_path / "checkpoint-6", save_total_limit=2)
    assert torch.equal(resumed.matrix, whole.matrix)


def test_a_training_that_starts_again_starts_with_a_fresh_matrix(tmp_path):
    model, ldm = bert(), adaptive()
    weights = copy.deepcopy(model.state_dict())
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
    trainer = trainer_of(model, objective, tmp_path)
    ends = []
    for _ in range(2):
        model.load_state_dict(weights)
        trainer.optimizer = None
        trainer.train()
        ends.append(ldm.matrix.clone())
        assert [progress for progress, _ in ldm.history] == [0.5, 1.0]
    assert torch.equal(*ends)


def test_a_batch_size_that_does_not_fit_leaves_nothing_behind(tmp_path):
    model, ldm = bert(), adaptive()
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)

    class OutOfMemory(TrainerCallback):
        """After an epoch, so that the matrix has moved, as on a device on which some batches are longer."""

        def on_step_begin(self, args, state, control, **kwargs):
            if state.train_batch_size == 16 and state.global_step == 4:
                assert ldm.num_evaluations == 1
                raise RuntimeError("CUDA out of memory.")

    trainer = trainer_of(model, objective, tmp_path, auto_find_batch_size=True)
    trainer.add_callback(OutOfMemory())
    trainer.train()
    assert trainer.state.train_batch_size in range(1, 16)
    assert [progress for progress, _ in ldm.history] == [0.5, 1.0]


def test_each_model_of_a_search_is_trained_with_a_matrix_of_its_own(tmp_path):
    models: list[Any] = []
    ldm = adaptive()
    objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), bert())
    trainer = Trainer(
        model_init=lambda: models.append(bert(dropout=0.1)) or models[-1],
        args=arguments(tmp_path),
        train_dataset=TRAIN,
        eval_dataset=DEV,
        compute_loss_func=objective,
        callbacks=[objective.callback],
    )
    matrices = []
    for _ in range(2):
        trainer.train()
        assert [progress for progress, _ in ldm.history] == [0.5, 1.0]
        matrices.append(ldm.matrix.clone())
    assert torch.equal(*matrices)
    untrained, first, second = (list(model.parameters()) for model in models)
    assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
    assert not all(torch.equal(left, right) for left, right in zip(untrained, first, strict=True))


class WithWeightsOfTheLoss(Trainer):
    """With `model_init`, the Trainer makes an optimizer for each model: the loss's weights join it here."""

    def create_optimizer(self, model: Any = None) -> Any:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:
            weights = self.compute_loss_func.losses.parameters()  # type: ignore[union-attr]
            optimizer.add_param_group({"params": list(weights), "weight_decay": 0.0})
        return optimizer


def test_each_model_of_a_search_is_trained_with_fresh_weights_of_the_loss(tmp_path):
    begun: list[torch.Tensor] = []

    class Begins(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if not state.global_step:
                begun.append(weights.detach().clone())

    loss = learned()
    (weights,) = loss.parameters()
    objective = TrainerObjective(loss, bert())
    trainer = WithWeightsOfTheLoss(
        model_init=lambda: bert(),
        args=arguments(tmp_path),
        train_dataset=TRAIN,
        eval_dataset=DEV,
        compute_loss_func=objective,
        callbacks=[objective.callback, Begins()],
    )
    for _ in range(2):
        trainer.train()
        assert not torch.equal(weights, begun[-1])
    assert torch.equal(*begun)


# Names of classes

NAMES = ["slow", "fast", "question"]


def named_bert(names: list[str]):
    model = bert()
    model.config.id2label = dict(enumerate(names))
    return model


def test_class_names_in_another_order_are_refused():
    ldm = StaticLDM.from_pairs([("fast", "slow")], class_names=sorted(NAMES))
    sentence = r"class 'fast' at index 1 in the model's config.id2label and at index 0 in the LDM\. .*=\['slow', 'fast'"
    with pytest.raises(ValueError, match=sentence):
        TrainerObjective(LabelDistanceContrastiveLoss(ldm), named_bert(NAMES))


@pytest.mark.parametrize(
    ("of_model", "of_ldm"),
    [(NAMES, NAMES), (NAMES, ["0", "1", "2"]), (["LABEL_0", "LABEL_1", "LABEL_2"], NAMES)],
    ids=["the same", "the matrix has none", "the model has none"],
)
def test_class_names_that_agree_or_are_not_there_are_taken(of_model, of_ldm):
    ldm = StaticLDM.from_pairs([(0, 1)], class_names=of_ldm)
    TrainerObjective(LabelDistanceContrastiveLoss(ldm), named_bert(of_model))


# The classification loss


class Focal(nn.Module):
    def forward(self, logits, labels):
        losses = cross_entropy(logits, labels, reduction="none")
        return ((1 - (-losses).exp()) ** 2 * losses).mean()


CLASSIFICATION = {
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
    "label smoothing": nn.CrossEntropyLoss(label_smoothing=0.2),
    "focal": Focal(),
}


@pytest.mark.parametrize("contrastive", [None, static], ids=["alone", "joint"])
@pytest.mark.parametrize("kind", CLASSIFICATION)
def test_the_classification_loss_is_the_one_given(kind, contrastive):
    classification, model = CLASSIFICATION[kind], bert().eval()
    loss = None if contrastive is None else contrastive()
    objective = TrainerObjective(loss, model, ce_weight=0.3, classification=classification, views=1)
    outputs = model(**DEV.batch())
    expected = classification(outputs.logits, DEV.labels)
    if loss is not None:
        expected = 0.3 * expected + 0.7 * loss(model.bert(**DEV.batch()).pooler_output, DEV.labels)
    torch.testing.assert_close(objective(outputs, DEV.labels), expected)


def test_accumulation_weights_each_classification_loss_by_its_rows():
    model = bert()
    objective = TrainerObjective(None, model, classification=Focal(), views=1)
    objective.callback._in_training = True
    model.train()
    whole = objective(model(**TRAIN.batch()), TRAIN.labels)
    parts = [
        objective(model(input_ids=TRAIN.input_ids[rows]), TRAIN.labels[rows], num_items_in_batch=48)
        for rows in (slice(0, 20), slice(20, 40), slice(40, 48))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("factor", [0.1, 0.9])
def test_the_trainers_label_smoothing_is_done_as_the_trainer_does_it(tmp_path, factor):
    def run(*, through_objective: bool) -> tuple[list[float], dict[str, float]]:
        model = bert()
        objective = TrainerObjective(None, model, views=1)
        if not through_objective:
            objective.detach()
        trainer = Trainer(
            model,
            arguments(tmp_path, label_smoothing_factor=factor, logging_strategy="steps", logging_steps=1),
            train_dataset=TRAIN,
            eval_dataset=DEV,
            compute_loss_func=objective if through_objective else None,
            callbacks=[objective.callback] if through_objective else [],
        )
        first = trainer.evaluate()
        trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row], first

    (losses, first), (expected, expected_first) = (run(through_objective=through) for through in (True, False))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert first["eval_loss"] == pytest.approx(expected_first["eval_loss"], rel=1e-5)


def test_label_smoothing_beside_a_classification_loss_is_refused(tmp_path):
    model = bert()
    objective = TrainerObjective(None, model, classification=Focal())
    with pytest.raises(ValueError, match=r"label_smoothing_factor = 0\.1 smooths the Trainer's cross-entropy.* Focal"):
        trainer_of(model, objective, tmp_path, label_smoothing_factor=0.1)


def test_a_classification_loss_that_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"must be an nn\.Module that is called as .* got function"):
        TrainerObjective(None, bert(), classification=cross_entropy)  # type: ignore[arg-type]


def test_a_classification_loss_of_each_row_is_refused():
    model = bert().eval()
    objective = TrainerObjective(None, model, classification=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ValueError, match=r"must be reduced to a scalar, got shape \(30,\)"):
        objective(model(**DEV.batch()), DEV.labels)


# Batches by label distance


class Sampled(Trainer):
    """What a user writes to have `LabelDistanceBatchSampler` in the Trainer."""

    ldm: AdaptiveLDM
    seen: list[list[int]]

    def get_train_dataloader(self) -> DataLoader:
        sampler = LabelDistanceBatchSampler(
            Numbered().labels, self.ldm, classes_per_batch=2, rows_per_class=4, num_replicas=1, rank=0
        )
        loader = DataLoader(Numbered(), batch_sampler=sampler, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)

    def compute_loss(self, model, inputs, *args, **kwargs):
        numbers = inputs.pop("number", None)
        if numbers is not None and model.training:
            self.seen.append(sorted(numbers.tolist()))
        return super().compute_loss(model, inputs, *args, **kwargs)


class Numbered(Rows):
    def __init__(self):
        super().__init__(96)

    def __getitem__(self, index):
        return {**super().__getitem__(index), "number": torch.tensor(index)}


def test_an_epoch_that_is_resumed_in_its_middle_shows_each_row_once(tmp_path):
    def run(resume: str | None = None) -> list[list[int]]:
        model, ldm = bert(dropout=0.1), adaptive(max_distance=500.0)
        objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
        options = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5}
        trainer = Sampled(
            model, arguments(tmp_path, **options), train_dataset=Numbered(), eval_dataset=DEV,
            compute_loss_func=objective, callbacks=[objective.callback],
        )  # fmt: skip
        trainer.ldm, trainer.seen = ldm, []
        trainer.train(resume_from_checkpoint=resume)
        return trainer.seen

    whole = run()
    assert len(whole) == 24
    # Twelve batches an epoch; steps 5 and 10 are in the first one's middle, step 15 in the second's.
    for step in (5, 10, 15):
        assert run(str(tmp_path / f"checkpoint-{step}")) == whole[step:]
    for epoch in (whole[:12], whole[12:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(96))
