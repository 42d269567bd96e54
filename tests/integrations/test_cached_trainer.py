"""A large batch in chunks, inside the Hugging Face Trainer, beside the same batch as a whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from labeldist import AdaptiveLDM, CrossBatchMemory, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.integrations.transformers import CachedTrainer, TrainerObjective
from labeldist.models import TextCNN
from labeldist.models.classifier import ContrastiveClassifier
from tiny_bert import NUM_CLASSES, Rows, bert

pytestmark = [
    pytest.mark.usefixtures("as_it_was"),
    # PEFT 0.21 asks transformers by an older name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # The newer name is unknown to the oldest transformers that the tests run with.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]

# The last of three batches is smaller, and 7 divides neither.
TRAIN, DEV, CHUNK = Rows(40), Rows(30, seed=1), 7


def gpt2() -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2", vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8, num_labels=NUM_CLASSES, pad_token_id=0,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config)


def two_heads() -> ContrastiveClassifier:
    torch.manual_seed(0)
    return ContrastiveClassifier(TextCNN(20, embedding_dim=4, num_maps=3, dropout=0.0), NUM_CLASSES, projection_dim=5)


def two_heads_on_bert() -> ContrastiveClassifier:
    return ContrastiveClassifier(bert().base_model, NUM_CLASSES, projection_dim=5, dropout=0.0)


def adapted() -> Any:
    return get_peft_model(bert(), LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["query", "value"]))


MODELS: dict[str, Callable[[], Any]] = {
    "BERT": bert, "a decoder": gpt2, "two heads": two_heads, "two heads on BERT": two_heads_on_bert,
    "adapters": adapted,
}  # fmt: skip


def static() -> nn.Module:
    return LabelDistanceContrastiveLoss(StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES), temperature=0.3)


def adaptive() -> nn.Module:
    return LabelDistanceContrastiveLoss(AdaptiveLDM(NUM_CLASSES, warmup_fraction=0.0), temperature=0.3)


class Gradients(TrainerCallback):
    """Keeps each step's gradient, before it is clipped."""

    def __init__(self):
        self.steps: list[Tensor] = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        assert model is not None
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.steps.append(torch.cat([gradient.flatten().double() for gradient in gradients]))


def trained(
    folder: Path,
    chunk_size: int | None,
    *,
    model: nn.Module,
    loss: nn.Module | None,
    dtype: torch.dtype = torch.float64,
    views: int = 2,
    ce_views: int | None = None,
    **options: Any,
) -> tuple[Trainer, Gradients]:
    """Two epochs of three steps; `None` is the Trainer itself."""
    model.to(dtype)
    objective = TrainerObjective(loss, model, views=views, ce_views=ce_views)
    defaults = {
        "num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 0.05, "optim": "sgd", "seed": 0,
        "eval_strategy": "epoch", "logging_strategy": "steps", "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False,
        "label_names": ["labels"], "remove_unused_columns": False, "log_level": "error",
    }  # fmt: skip
    gradients = Gradients()
    parts: dict[str, Any] = {
        "model": model, "args": TrainingArguments(str(folder), **{**defaults, **options}), "train_dataset": TRAIN,
        "eval_dataset": DEV, "compute_loss_func": objective, "callbacks": [objective.callback, gradients],
    }  # fmt: skip
    trainer = Trainer(**parts) if chunk_size is None else CachedTrainer(**parts, chunk_size=chunk_size)
    trainer.train()
    return trainer, gradients


def log_of(trainer: Trainer) -> list[dict[str, float]]:
    names = ("loss", "cross_entropy", "contrastive", "eval_loss", "grad_norm", "ldm_epsilon", "ldm_mean")
    return [{name: row[name] for name in names if name in row} for row in trainer.state.log_history]


def assert_same_training(
    found: tuple[Trainer, Gradients], expected: tuple[Trainer, Gradients], *, rel: float = 1e-9
) -> None:
    for left, right in zip(found[1].steps, expected[1].steps, strict=True):
        assert (left - right).norm() <= rel * right.norm()
    for row, other in zip(log_of(found[0]), log_of(expected[0]), strict=True):
        # Logits and embeddings are float64, the log's sums float32.
        assert row == pytest.approx(other, rel=max(rel, 1e-6))
    pairs = zip(found[0].model.parameters(), expected[0].model.parameters(), strict=True)  # type: ignore[union-attr]
    for left, right in pairs:
        torch.testing.assert_close(left, right, rtol=rel, atol=rel)


@pytest.mark.parametrize("chunk_size", [1, CHUNK, 100])
@pytest.mark.parametrize("name", MODELS)
def test_training_is_that_of_the_whole_batch_for(tmp_path, name, chunk_size):
    expected = trained(tmp_path, None, model=MODELS[name](), loss=adaptive())
    assert expected[1].steps[0].norm() > 1e-3
    assert_same_training(trained(tmp_path, chunk_size, model=MODELS[name](), loss=adaptive()), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 2},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 5},
        {"max_grad_norm": 1e-3},
        {"max_grad_norm": 0.0},
        {"gradient_checkpointing": True},
        {"views": 1},
        {"views": 3, "ce_views": 2},
        {"average_tokens_across_devices": False},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
def test_training_is_that_of_the_whole_batch_with(tmp_path, options):
    expected = trained(tmp_path, None, model=bert(), loss=static(), **options)
    assert_same_training(trained(tmp_path, CHUNK, model=bert(), loss=static(), **options), expected)


@pytest.mark.parametrize("make", [bert, two_heads])
def test_cross_entropy_alone_is_that_of_the_whole_batch(tmp_path, make):
    expected = trained(tmp_path, None, model=make(), loss=None)
    assert_same_training(trained(tmp_path, CHUNK, model=make(), loss=None), expected)


def test_a_memory_is_filled_once_a_step(tmp_path):
    memories = [CrossBatchMemory(static(), embedding_size=8, memory_size=100).double() for _ in range(2)]
    plain, chunked = (
        trained(tmp_path, size, model=bert(), loss=memory) for size, memory in zip((None, CHUNK), memories, strict=True)
    )
    assert_same_training(chunked, plain)


def test_half_precision_gives_the_gradient_of_the_whole_batch_in_half_precision(tmp_path):
    settings = {"loss": static(), "dtype": torch.float32, "bf16": True}
    plain = trained(tmp_path, None, model=bert(), **settings)
    chunked = trained(tmp_path, CHUNK, model=bert(), **settings)
    whole = trained(tmp_path, None, model=bert(), loss=static(), dtype=torch.float32)
    error, rounding = ((a[1].steps[0] - b[1].steps[0]).norm() for a, b in ((chunked, plain), (plain, whole)))
    # Parts of a gradient are rounded one by one: no more than rounding moved the whole.
    assert rounding > 0
    assert error <= rounding
    assert log_of(chunked[0])[0]["loss"] == pytest.approx(log_of(plain[0])[0]["loss"], rel=1e-3)


def test_a_compiled_model_trains_as_the_plain_one(tmp_path):
    expected = trained(tmp_path, None, model=bert(), loss=static())
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    assert_same_training(trained(tmp_path, CHUNK, model=bert(), loss=static(), **options), expected, rel=1e-6)


class Watched(nn.Module):
    """Keeps the rows that it compares."""

    def __init__(self):
        super().__init__()
        self.embeddings: list[Tensor] = []

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        self.embeddings.append(embeddings.detach())
        return mse_loss(embeddings, torch.ones_like(embeddings))


@pytest.mark.parametrize("make", [lambda: bert(dropout=0.3), two_heads_on_bert], ids=["BERT", "two heads"])
def test_views_differ_by_dropout_which_the_second_encoding_repeats(tmp_path, make):
    model, watched = make(), Watched()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    # The second encoding is held against the first: other masks would raise.
    _, gradients = trained(tmp_path, CHUNK, model=model, loss=watched)
    first, second = watched.embeddings[0].chunk(2)
    assert len(first) == 16
    assert not torch.isclose(first, second).all(dim=1).any()
    assert all(torch.isfinite(gradient).all() for gradient in gradients.steps)


def test_the_model_never_sees_more_rows_than_a_chunk_while_it_trains(tmp_path):
    sizes: dict[bool, list[int]] = {True: [], False: []}
    model = bert()
    model.bert.register_forward_hook(lambda module, _, output: sizes[module.training].append(len(output[0])))
    trained(tmp_path, CHUNK, model=model, loss=static(), per_device_eval_batch_size=30)
    # 16 = 7 + 7 + 2 and 8 = 7 + 1 rows; two views, encoded twice, in two epochs.
    assert sorted(set(sizes[True])) == [1, 2, CHUNK]
    assert sum(sizes[True]) == 2 * 2 * 2 * len(TRAIN)
    # Evaluations are the Trainer's own.
    assert sizes[False] == [30, 30]


def test_predictions_and_a_saved_model_are_the_trainers_own(tmp_path):
    trainer, _ = trained(tmp_path / "run", CHUNK, model=bert(), loss=adaptive(), dtype=torch.float32)
    predictions = np.asarray(trainer.predict(DEV).predictions)  # type: ignore[arg-type]
    assert predictions.shape == (30, NUM_CLASSES)
    trainer.save_model(str(tmp_path / "model"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(input_ids=DEV.input_ids).logits.numpy(), predictions, atol=1e-5)


def test_a_loop_of_ones_own_takes_chunks_by_hand():
    model = bert().double().train()
    objective = TrainerObjective(static(), model)
    objective(model(input_ids=TRAIN.input_ids), TRAIN.labels).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    outputs = objective.in_chunks(model, CHUNK)(input_ids=TRAIN.input_ids)
    assert outputs["logits"].shape == (2 * len(TRAIN), NUM_CLASSES)
    objective(outputs, TRAIN.labels).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    # In evaluation mode each text is one row, and a plain call afterwards is as before.
    assert len(objective.in_chunks(model.eval(), CHUNK)(TRAIN.input_ids)["logits"]) == len(TRAIN)
    assert len(model.train()(input_ids=TRAIN.input_ids).logits) == 2 * len(TRAIN)


def made(compute_loss_func: Any, folder: Path, *, chunk_size: int = CHUNK, model: Any = None) -> CachedTrainer:
    arguments = TrainingArguments(str(folder), report_to="none", use_cpu=True, max_steps=1, disable_tqdm=True)
    return CachedTrainer(
        model or bert(), arguments, train_dataset=TRAIN, compute_loss_func=compute_loss_func, chunk_size=chunk_size
    )


@pytest.mark.parametrize("function", [None, lambda outputs, labels, num_items_in_batch: outputs.logits.mean()])
def test_another_objective_is_refused(tmp_path, function):
    with pytest.raises(TypeError, match="CachedTrainer needs a TrainerObjective, which knows the embeddings"):
        made(function, tmp_path)


def test_a_chunk_of_no_rows_is_refused(tmp_path):
    model = bert()
    with pytest.raises(ValueError, match=r"chunk_size must be at least 1, got 0\."):
        made(TrainerObjective(static(), model), tmp_path, model=model, chunk_size=0)


def test_an_objective_of_another_model_is_refused(tmp_path):
    trainer = made(TrainerObjective(static(), bert().train()), tmp_path)
    with pytest.raises(RuntimeError, match="Give TrainerObjective the very model that the Trainer trains"):
        trainer.train()


def test_a_detached_objective_is_refused(tmp_path):
    model = bert()
    objective = TrainerObjective(static(), model)
    objective.detach()
    with pytest.raises(RuntimeError, match="was detached from its model"):
        made(objective, tmp_path, model=model).train()


def test_batch_normalisation_is_refused(tmp_path):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = AutoConfig.for_model("bert", num_labels=NUM_CLASSES)
            self.words, self.norm, self.score = nn.Embedding(20, 4), nn.BatchNorm1d(4), nn.Linear(4, NUM_CLASSES)

        def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
            return {"logits": self.score(self.norm(self.words(input_ids).mean(dim=1)))}

    model = Normed()
    with pytest.raises(ValueError, match="must not normalize over the batch"):
        made(TrainerObjective(static(), model), tmp_path, model=model).train()


@pytest.mark.parametrize("kind", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_a_sharded_model_is_refused(tmp_path, monkeypatch, kind):
    make = Trainer.__init__

    def sharding(self: Trainer, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        setattr(self, kind, True)

    monkeypatch.setattr(Trainer, "__init__", sharding)
    model = bert()
    with pytest.raises(ValueError, match="which FSDP and DeepSpeed do not take part in"):
        made(TrainerObjective(static(), model), tmp_path, model=model)
