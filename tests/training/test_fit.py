import json
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from labeldist import AdaptiveLDM, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.integrations.transformers import TrainerObjective
from labeldist.integrations.transformers.callback import STATE_FILE
from labeldist.training.checkpoints import newest_checkpoint
from labeldist.training.config import ModelSettings, OptimSettings
from labeldist.training.data.corpus import Split
from labeldist.training.encoders import build_classifier
from labeldist.training.errors import UserError
from labeldist.training.fit import (
    DivergedError,
    FitOptions,
    check_trackers,
    fit,
    predict_batches,
    resolve_device,
    training_arguments,
    validation_metrics,
)
from labeldist.training.output.progress import Progress
from labeldist.training.tokenized import EncodedSplit, encode
from runs import messages, settings_of

pytestmark = pytest.mark.usefixtures("as_it_was")

ROWS = messages(60)
NAMES = sorted({row["label"] for row in ROWS})
SPLIT = Split([row["text"] for row in ROWS], np.array([NAMES.index(row["label"]) for row in ROWS]))


def test_probabilities_come_in_the_order_of_the_texts():
    torch.manual_seed(0)
    model, tokenizer = build_classifier(settings_of("demo").model, SPLIT.texts, 4)
    texts = SPLIT.texts * 6
    predictions = predict_batches(model, tokenizer, texts, 128)
    assert {output.dtype for output in predictions} == {torch.float32}
    for i in range(0, 360, 61):
        alone = predict_batches(model, tokenizer, [texts[i]], 128)
        for together, single in zip(predictions, alone, strict=True):
            torch.testing.assert_close(together[i : i + 1], single)
    assert not model.training


def test_vectors_are_what_both_heads_read():
    torch.manual_seed(0)
    model, tokenizer = build_classifier(settings_of("demo").model, SPLIT.texts, 4)
    predictions = predict_batches(model, tokenizer, SPLIT.texts, 128)
    with torch.no_grad():
        torch.testing.assert_close(model.projection(predictions.vectors), predictions.embeddings)
        logits = model.classifier(predictions.vectors)
    torch.testing.assert_close(logits.softmax(dim=1), predictions.probabilities)
    # Nothing listens to the model afterwards.
    assert not model.projection._forward_pre_hooks


def fitted(folder, epochs: int, *, dropout: float = 0.5, dtype: torch.dtype = torch.float32, **options):
    torch.manual_seed(0)
    settings = settings_of(
        "demo",
        model=ModelSettings(embedding_dim=8, projection_dim=8, dropout=dropout),
        optim=OptimSettings(epochs=epochs, batch_size=16, **options),
    )
    model, tokenizer = build_classifier(settings.model, SPLIT.texts, 4)
    model.type(dtype)
    loss = LabelDistanceContrastiveLoss(AdaptiveLDM(4))
    split = EncodedSplit(SPLIT, encode(SPLIT.texts, tokenizer, 128))
    fitted = fit(
        model, TrainerObjective(loss, model), (split, split), tokenizer, settings, FitOptions(folder, 0, epochs)
    )
    return model, tokenizer, fitted.log_history


def test_the_model_ends_with_its_best_epoch(tmp_path):
    model, tokenizer, history = fitted(tmp_path, 6, learning_rate=0.05)
    accuracies = [row["eval_accuracy"] for row in history if "eval_accuracy" in row]
    assert len(accuracies) == 6
    probabilities = predict_batches(model, tokenizer, SPLIT.texts, 128).probabilities
    assert np.mean(probabilities.argmax(dim=1).numpy() == SPLIT.labels) == pytest.approx(max(accuracies))
    assert max(accuracies) > 0.6


class Counted(TrainerObjective):
    """Notes how many rows each step of the training has."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sizes: list[int] = []

    def __call__(self, outputs, labels, *args, **kwargs):
        if self.model.training:
            self.sizes.append(len(labels))
        return super().__call__(outputs, labels, *args, **kwargs)


@pytest.mark.parametrize(
    ("batch_size", "steps", "sizes"),
    [
        # 60 rows are 3 batches of 17 and 9 rows over.
        (17, 7, [17] * 7),
        (20, 4, [20] * 4),
        # Fewer rows than a batch are a batch.
        (64, 3, [60] * 3),
        (17, None, [17, 17, 17, 9] * 2),
    ],
)
def test_a_training_by_steps_has_full_batches(tmp_path, batch_size, steps, sizes):
    settings = settings_of("demo", optim=OptimSettings(recipe="standard", steps=steps, batch_size=batch_size))
    model, tokenizer = build_classifier(settings.model, SPLIT.texts, 4)
    split = EncodedSplit(SPLIT, encode(SPLIT.texts, tokenizer, 128))
    objective = Counted(None, model, views=1)
    fitted = fit(model, objective, (split, split), tokenizer, settings, FitOptions(tmp_path, 0, 2, steps))
    assert objective.sizes == sizes
    # Evaluations have all rows.
    assert any("eval_accuracy" in row for row in fitted.log_history)


def test_training_tells_how_far_it_is(tmp_path):
    told = []
    torch.manual_seed(0)
    settings = settings_of("demo", optim=OptimSettings(recipe="standard", batch_size=16))
    model, tokenizer = build_classifier(settings.model, SPLIT.texts, 4)
    split = EncodedSplit(SPLIT, encode(SPLIT.texts, tokenizer, 128))
    options = FitOptions(tmp_path, 0, 2, progress=Progress(tell=told.append), title="counting")
    objective = TrainerObjective(None, model, views=1)
    fit(model, objective, (split, split), tokenizer, settings, options)
    # 60 rows in batches of 16, twice; the newest accuracy is known after the first epoch.
    assert [line.split(",")[0] for line in told] == [f"counting: step {step} of 8" for step in range(1, 9)]
    assert ["validation accuracy" in line for line in told] == [False] * 4 + [True] * 4
    told.clear()
    texts = SPLIT.texts * 5
    predict_batches(model, tokenizer, texts, 128, progress=Progress(tell=told.append))
    assert told == ["predicting: 256 of 300 rows", "predicting: 300 of 300 rows"]


def test_a_batch_in_chunks_trains_as_the_whole(tmp_path):
    # Adam makes a whole step of a gradient that is all rounding, and float32's is another on every machine.
    (plain, _, expected), (chunked, _, found) = (
        fitted(tmp_path / str(size), 3, dropout=0.0, dtype=torch.float64, learning_rate=0.01, chunk_size=size)
        for size in (None, 5)
    )
    names = ("loss", "cross_entropy", "contrastive", "grad_norm", "eval_accuracy", "ldm_mean")
    left, right = ([{name: row[name] for name in names if name in row} for row in log] for log in (found, expected))
    for row, other in zip(left, right, strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    for left, right in zip(chunked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left, right)


def test_with_dropout_a_batch_in_chunks_trains_too(tmp_path):
    _, _, history = fitted(tmp_path, 6, learning_rate=0.05, chunk_size=5)
    assert max(row["eval_accuracy"] for row in history if "eval_accuracy" in row) > 0.6


class Poisoned(TrainerObjective):
    """An objective whose loss is NaN from some step on."""

    first_bad_step = 1
    step = 0

    def __call__(self, outputs, labels, num_items_in_batch=None):
        loss = super().__call__(outputs, labels, num_items_in_batch)
        if not self.model.training:
            return loss
        self.step += 1
        return loss * float("nan") if self.step >= self.first_bad_step else loss


def diverged(folder, monkeypatch, first_bad_step: int, **options):
    monkeypatch.setattr(Poisoned, "first_bad_step", first_bad_step)
    monkeypatch.setattr("test_fit.TrainerObjective", Poisoned)
    return fitted(folder, 6, learning_rate=0.05, **options)


def test_training_that_diverges_stops_at_once_with_its_best_weights(tmp_path, monkeypatch):
    # 60 rows in batches of 16 are 4 steps an epoch: the loss is NaN in the middle of the third.
    model, tokenizer, history = diverged(tmp_path, monkeypatch, 10)
    accuracies = [row["eval_accuracy"] for row in history if "eval_accuracy" in row]
    assert len(accuracies) == 2
    probabilities = predict_batches(model, tokenizer, SPLIT.texts, 128).probabilities
    assert probabilities.isfinite().all()
    assert np.mean(probabilities.argmax(dim=1).numpy() == SPLIT.labels) == pytest.approx(max(accuracies))


# The loss of step 4 is the last one before an evaluation.
@pytest.mark.parametrize(("step", "chunk_size"), [(3, None), (3, 5), (4, None)])
def test_training_that_diverges_in_its_first_epoch_has_no_weights_to_keep(tmp_path, monkeypatch, step, chunk_size):
    with pytest.raises(DivergedError, match=rf"^Training diverged at step {step}, .* Try a smaller --learning-rate"):
        diverged(tmp_path, monkeypatch, step, chunk_size=chunk_size)


class WithoutGradient(Poisoned):
    """The same, but the gradients are finite: only the loss tells."""

    def __call__(self, outputs, labels, num_items_in_batch=None):
        loss = TrainerObjective.__call__(self, outputs, labels, num_items_in_batch)
        self.step += self.model.training
        return loss + float("nan") if self.model.training and self.step >= self.first_bad_step else loss


def without_validation(folder, objective_class, steps: int, **options):
    settings = settings_of(
        "demo", model=ModelSettings(embedding_dim=8), optim=OptimSettings(steps=steps, batch_size=16)
    )
    model, tokenizer = build_classifier(settings.model, SPLIT.texts, 4)
    splits = EncodedSplit(SPLIT, encode(SPLIT.texts, tokenizer, 128)), EncodedSplit(Split([], SPLIT.labels[:0]), {})
    return fit(
        model,
        objective_class(None, model, views=1),
        splits,
        tokenizer,
        settings,
        FitOptions(folder, 0, 1, steps, **options),
    )


@pytest.mark.parametrize("bad_step", [6, 7, 8])
@pytest.mark.parametrize("bar", [True, False])
@pytest.mark.parametrize("objective", [Poisoned, WithoutGradient])
def test_a_loss_that_is_not_finite_near_the_end_is_no_success(tmp_path, monkeypatch, objective, bar, bad_step):
    monkeypatch.setattr(objective, "first_bad_step", bad_step)
    with pytest.raises(DivergedError, match=rf"^Training diverged at step {bad_step}, and no weights are kept"):
        without_validation(tmp_path, objective, 8, progress=Progress(bar=bar))


@pytest.mark.parametrize("bad_step", [3, 4, 5])
def test_no_checkpoint_has_weights_that_a_bad_loss_made(tmp_path, monkeypatch, bad_step):
    monkeypatch.setattr(Poisoned, "first_bad_step", bad_step)
    monkeypatch.setattr("labeldist.training.trainers.CHECKPOINT_EVERY_S", 0.0)
    with pytest.raises(DivergedError):
        without_validation(tmp_path, Poisoned, 8)
    checkpoints = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    # The two newest are kept.
    assert checkpoints == [f"checkpoint-{step}" for step in range(max(1, bad_step - 2), bad_step)]


def test_nothing_that_is_not_finite_is_logged(tmp_path, monkeypatch):
    _, _, history = diverged(tmp_path, monkeypatch, 12)
    assert len([row for row in history if "loss" in row]) == 2
    assert all(np.isfinite(value) for row in history for value in row.values() if isinstance(value, float))


def test_operations_are_counted_as_the_trainer_counts_them(tmp_path):
    fitted(tmp_path, 3)
    newest = newest_checkpoint(tmp_path, needs_matrix=True)
    assert newest is not None
    state = json.loads((newest / "trainer_state.json").read_text())
    model, tokenizer = build_classifier(settings_of("demo").model, SPLIT.texts, 4)
    lengths = [len(tokens) for tokens in encode(SPLIT.texts, tokenizer, 128)["input_ids"]]
    weights = model.num_parameters(exclude_embeddings=True)
    # Three epochs of padded batches.
    assert 3 * 6 * sum(lengths) * weights <= state["total_flos"] <= 3 * 6 * len(lengths) * max(lengths) * weights
    assert state["total_flos"] % (6 * weights) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("encoder", ["textcnn", "bert"])
def test_no_step_waits_for_the_gpu(tiny_bert_folder, tmp_path, encoder):
    class Waiting(TrainerObjective):
        def __call__(self, *args, **kwargs):
            loss = super().__call__(*args, **kwargs)
            loss.item()
            return loss

    def waits(objective, steps):
        chosen = encoder if encoder == "textcnn" else str(tiny_bert_folder)
        model_settings = ModelSettings(encoder=chosen, projection_dim=8, max_length=64)
        settings = settings_of("demo", model=model_settings, optim=OptimSettings(steps=steps, batch_size=16))
        model, tokenizer = build_classifier(settings.model, SPLIT.texts, 4)
        loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(2.0, num_classes=4), validate=False)
        splits = EncodedSplit(SPLIT, encode(SPLIT.texts, tokenizer, 64)), EncodedSplit(Split([], SPLIT.labels[:0]), {})
        options = FitOptions(tmp_path / f"{objective.__name__}{steps}", 0, 1, steps)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                fit(model, objective(loss, model), splits, tokenizer, settings, options)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        # Those of the backward pass come with the line that starts it.
        return Counter(
            f"{warning.filename}:{warning.lineno}"
            for warning in found
            if "synchronizing CUDA operation" in str(warning.message)
        )

    waits(TrainerObjective, 40)
    # Both numbers of steps are logged equally often. transformers itself looks whether a batch has padding.
    added = waits(TrainerObjective, 80) - waits(TrainerObjective, 40)
    added = Counter({line: number for line, number in added.items() if "masking_utils.py" not in line})
    assert added.total() < 10, "\n".join(
        f"{number} more in 80 steps than in 40: {line}" for line, number in added.items()
    )
    assert (waits(Waiting, 80) - waits(Waiting, 40)).total() >= 40


def test_training_stops_when_patience_ends(tmp_path):
    _, _, history = fitted(tmp_path, 30, patience=2, learning_rate=1e-12)
    assert len([row for row in history if "eval_accuracy" in row]) == 3


def test_the_newest_whole_checkpoint_is_found_wherever_the_folder_stands(tmp_path):
    fitted(tmp_path / "old", 3)
    folder = shutil.move(tmp_path / "old", tmp_path / "new")
    newest = newest_checkpoint(Path(folder), needs_matrix=True)
    assert newest is not None
    # 60 rows in batches of 16 are 4 steps an epoch.
    assert newest.name == "checkpoint-12"
    state = json.loads((newest / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"].startswith(str(folder))
    (newest / STATE_FILE).unlink()
    assert newest_checkpoint(Path(folder), needs_matrix=False) == newest
    earlier = newest_checkpoint(Path(folder), needs_matrix=True)
    assert earlier is not None
    assert earlier.name != "checkpoint-12"
    assert newest_checkpoint(tmp_path / "nowhere", needs_matrix=True) is None


def test_validation_metrics_by_hand():
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0], [1.0, 0.0]])
    labels = np.array([0, 1, 1, 0])
    outputs: Any = (logits, np.zeros((4, 2)))
    # Class 0: precision 2/3, recall 1, F1 0.8; class 1: precision 1, recall 1/2, F1 2/3.
    expected = {"accuracy": 0.75, "macro_f1": pytest.approx((0.8 + 2 / 3) / 2)}
    assert validation_metrics(EvalPrediction(logits, labels)) == expected
    assert validation_metrics(EvalPrediction(outputs, labels)) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_everything_is_on_the_cpu(tmp_path):
    assert resolve_device(OptimSettings()) == resolve_device(OptimSettings(device="cpu")) == "cpu"
    with pytest.raises(UserError, match="--device cuda needs a CUDA GPU"):
        resolve_device(OptimSettings(device="cuda"))
    with pytest.raises(UserError, match="--precision fp16 needs a GPU"):
        resolve_device(OptimSettings(precision="fp16"))
    arguments: Any = training_arguments(settings_of("demo"), FitOptions(tmp_path, 0, 1))
    assert not arguments.bf16
    assert not arguments.fp16


def test_the_papers_optimizer_is_set(tmp_path):
    arguments: Any = training_arguments(settings_of("demo", optim=OptimSettings()), FitOptions(tmp_path, 3, 7))
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.weight_decay) == (0.9, 0.999, 0.1)
    assert str(arguments.optim.value).startswith("adamw")
    assert arguments.per_device_train_batch_size == 128
    assert (arguments.num_train_epochs, arguments.seed, arguments.learning_rate) == (7, 3, 1e-3)


def test_bf16_runs_on_a_cpu_too(tmp_path):
    model, _, history = fitted(tmp_path, 1, precision="bf16")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert np.isfinite(history[0]["loss"])


def test_unknown_and_missing_trackers_are_told():
    check_trackers(())
    with pytest.raises(UserError, match=r"--report-to knows .*tensorboard.*, not nosuch"):
        check_trackers(("nosuch",))
    with pytest.raises(UserError, match="--report-to clearml needs a package that is not installed"):
        check_trackers(("clearml",))
