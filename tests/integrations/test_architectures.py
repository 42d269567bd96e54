"""Every architecture, unchanged, under a real Trainer with tiny random weights, and the ways to train a model."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainingArguments

from labeldist import AdaptiveLDM, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.integrations.transformers import CachedTrainer, TrainerObjective
from labeldist.models.classifier import ContrastiveClassifier

pytestmark = [
    pytest.mark.usefixtures("as_it_was"),
    # PEFT 0.21 asks transformers by an older name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # The newer name is unknown to the oldest transformers that the tests run with.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]

NUM_CLASSES = 3
PAD, NUM_TOKENS = 1, 30
SMALL: dict[str, Any] = {
    "vocab_size": NUM_TOKENS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 16, "num_labels": NUM_CLASSES, "pad_token_id": PAD,
    "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
# What an architecture needs beside it, or calls otherwise.
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "albert": {"embedding_size": 8},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    "roberta": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "modernbert": {"cls_token_id": 0, "sep_token_id": 2, "attn_implementation": "eager"},
    "electra": {"embedding_size": 8},
    "mpnet": {},
    "xlm-roberta": {},
}
# Their class layer scores every token, and the last one's scores are taken.
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16},
    "llama": {"num_key_value_heads": 2},
}
ARCHITECTURES = [*ENCODERS, *DECODERS]


class Rows(torch.utils.data.Dataset):
    """Two to six tokens a text, padded to six; the first is the class's own."""

    def __init__(self, num_rows: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(num_rows) % NUM_CLASSES
        self.input_ids = torch.randint(6, NUM_TOKENS, (num_rows, 6), generator=generator)
        self.input_ids[:, 0] = self.labels + 3
        self.lengths = torch.randint(2, 7, (num_rows,), generator=generator)
        self.attention_mask = (torch.arange(6) < self.lengths[:, None]).long()
        self.input_ids[self.attention_mask == 0] = PAD

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {name: values[index] for name, values in {**self.batch(), "labels": self.labels}.items()}

    def batch(self) -> dict[str, torch.Tensor]:
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


TRAIN, DEV = Rows(24), Rows(15, seed=1)


def model_of(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SMALL, **(ENCODERS | DECODERS)[name], **options})
    return AutoModelForSequenceClassification.from_config(config)


def loss() -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(StaticLDM.from_pairs([(0, 1)], num_classes=NUM_CLASSES))


def adaptive() -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(AdaptiveLDM(NUM_CLASSES, warmup_fraction=0.0))


def trainer_of(
    model: nn.Module, objective: TrainerObjective, folder: Path, *, chunk_size: int | None = None, **options: Any
) -> Trainer:
    defaults = {
        "num_train_epochs": 2, "per_device_train_batch_size": 12, "learning_rate": 1e-2, "use_cpu": True, "seed": 0,
        "eval_strategy": "epoch", "logging_strategy": "epoch", "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "dataloader_pin_memory": False, "label_names": ["labels"],
    }  # fmt: skip
    make = Trainer if chunk_size is None else partial(CachedTrainer, chunk_size=chunk_size)
    return make(
        model, TrainingArguments(str(folder), **{**defaults, **options}), train_dataset=TRAIN, eval_dataset=DEV,
        compute_loss_func=objective, callbacks=[objective.callback],
    )  # fmt: skip


def trained(model: nn.Module, folder: Path, **options: Any) -> tuple[Trainer, TrainerObjective]:
    objective = TrainerObjective(adaptive(), model)
    trainer = trainer_of(model, objective, folder, **options)
    trainer.train()
    return trainer, objective


def first_loss(trainer: Trainer) -> dict[str, float]:
    return next(row for row in trainer.state.log_history if "loss" in row)


def logits_of(trainer: Trainer) -> np.ndarray:
    predictions = trainer.predict(DEV).predictions
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_trains_saves_loads_and_predicts_the_same(tmp_path, name):
    model = model_of(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer, objective = trained(model, tmp_path / "run")
    assert objective.ldm is not None
    assert objective.ldm.num_evaluations == 2
    row = first_loss(trainer)
    assert row["loss"] == pytest.approx(0.5 * row["cross_entropy"] + 0.5 * row["contrastive"], rel=1e-5)
    # The loss is no part of the model: its checkpoint has the model's own keys.
    assert model.state_dict().keys() == before.keys()
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())

    trainer.save_model(str(tmp_path / "model"))
    again, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        logits = again.eval()(**DEV.batch()).logits
    np.testing.assert_allclose(logits_of(trainer), logits.numpy(), atol=1e-5)


class Watched(nn.Module):
    """A contrastive loss that keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    # Evaluations call a copy of the loss, so that its state stays as it is.
    def __deepcopy__(self, memo: dict) -> "Watched":
        return self

    @property
    def embeddings(self) -> torch.Tensor:
        return self.seen[-1][0]

    @property
    def labels(self) -> torch.Tensor:
        return self.seen[-1][1]

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.seen.append((embeddings, labels))
        return embeddings.square().mean()


CLASS_LAYERS = {"roberta": "out_proj", "electra": "out_proj", "mpnet": "out_proj", "xlm-roberta": "out_proj"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_embeddings_are_those_that_the_logits_come_from(name):
    model = model_of(name).eval()
    watched = Watched()
    objective = TrainerObjective(watched, model)
    outputs = model(**DEV.batch())
    objective(outputs, DEV.labels)
    head = model.score if name in DECODERS else model.classifier
    layer = getattr(head, CLASS_LAYERS.get(name, ""), head)
    assert watched.embeddings.shape == (len(DEV), 16)
    torch.testing.assert_close(layer(watched.embeddings), outputs.logits)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoders_embedding_is_its_last_tokens(name, side):
    model = model_of(name).eval()
    watched = Watched()
    objective = TrainerObjective(watched, model)
    batch = DEV.batch()
    if side == "left":
        batch = {key: torch.stack([torch.roll(row, int(6 - n)) for row, n in zip(values, DEV.lengths, strict=True)])
                 for key, values in batch.items()}  # fmt: skip
    objective(model(**batch), DEV.labels)
    hidden = model.base_model(**batch).last_hidden_state
    last = torch.full_like(DEV.lengths, 5) if side == "left" else DEV.lengths - 1
    torch.testing.assert_close(watched.embeddings, hidden[torch.arange(len(DEV)), last])


def test_a_class_layer_that_starts_at_zero_still_has_an_embedding():
    model = model_of("gpt2")
    nn.init.zeros_(model.score.weight)
    watched = Watched()
    objective = TrainerObjective(watched, model.eval())
    outputs = model(**DEV.batch())
    assert torch.isfinite(objective(outputs, DEV.labels))


def test_a_model_that_mixes_the_scores_of_tokens_is_refused():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = AutoConfig.for_model("gpt2", num_labels=NUM_CLASSES)
            self.words, self.score = nn.Embedding(NUM_TOKENS, 4), nn.Linear(4, NUM_CLASSES)

        def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.score(self.words(input_ids)).mean(dim=1)}

    model = Mixing()
    objective = TrainerObjective(loss(), model, views=1)
    with pytest.raises(RuntimeError, match="must return the class scores of one of its tokens"):
        objective(model(DEV.input_ids), DEV.labels)


# Ways to train


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_gradient_checkpointing_changes_nothing(tmp_path, name):
    plain, checkpointed = (trained(model_of(name), tmp_path, gradient_checkpointing=use)[0] for use in (False, True))
    assert checkpointed.model is not None
    assert checkpointed.model.is_activation_checkpointing
    assert first_loss(checkpointed)["loss"] == pytest.approx(first_loss(plain)["loss"], rel=1e-5)
    np.testing.assert_allclose(logits_of(checkpointed), logits_of(plain), atol=1e-4)


def without_dropout(name: str) -> Any:
    zero = ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop")
    return model_of(name, **dict.fromkeys(zero, 0.0))


# What each architecture calls its probabilities of dropout.
DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "dropout", "attention_dropout",
    "seq_classif_dropout", "embedding_dropout", "mlp_dropout", "classifier_dropout", "pooler_dropout", "resid_pdrop",
    "embd_pdrop", "attn_pdrop",
)  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_batch_in_chunks_trains_as_the_whole(tmp_path, name):
    plain, chunked = (
        trained(model_of(name, **dict.fromkeys(DROPOUTS, 0.0)).double(), tmp_path, chunk_size=size, optim="sgd")[0]
        for size in (None, 5)
    )
    left, right = ([row["loss"] for row in t.state.log_history if "loss" in row] for t in (chunked, plain))
    assert left == pytest.approx(right, rel=1e-6)
    for parameter, expected in zip(chunked.model.parameters(), plain.model.parameters(), strict=True):  # type: ignore[union-attr]
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_compiled_model_trains_as_the_plain_one(tmp_path, name):
    # The two draw other random numbers: no dropout.
    plain, compiled = (
        trained(without_dropout(name), tmp_path, torch_compile=use, torch_compile_backend="aot_eager" if use else None)[
            0
        ]
        for use in (False, True)
    )
    for part in ("loss", "cross_entropy", "contrastive"):
        assert first_loss(compiled)[part] == pytest.approx(first_loss(plain)[part], rel=1e-4)
    np.testing.assert_allclose(logits_of(compiled), logits_of(plain), atol=1e-3)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_half_precision_trains_near_the_whole(tmp_path, name):
    whole, half = (trained(without_dropout(name), tmp_path, bf16=use)[0] for use in (False, True))
    for part in ("loss", "cross_entropy", "contrastive"):
        # bfloat16 has eight bits: 2**-8 is 0.4 %.
        assert first_loss(half)[part] == pytest.approx(first_loss(whole)[part], rel=0.02)


# Adapters


def adapted(model: nn.Module, **options: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "targets"), [("bert", ["query", "value"]), ("roberta", ["query"]), ("gpt2", ["c_attn"])]
)
def test_adapters_train_save_and_load(tmp_path, name, targets):
    model = adapted(model_of(name), task_type="SEQ_CLS", target_modules=targets, fan_in_fan_out=name == "gpt2")
    trainer, _ = trained(model, tmp_path / "run")
    assert {"cross_entropy", "contrastive"} <= first_loss(trainer).keys()
    trainer.save_model(str(tmp_path / "adapter"))
    again = PeftModel.from_pretrained(model_of(name), str(tmp_path / "adapter"))
    with torch.no_grad():
        logits = again.eval()(**DEV.batch()).logits
    np.testing.assert_allclose(logits_of(trainer), logits.numpy(), atol=1e-5)


def test_a_class_layer_with_an_adapter_gives_what_it_receives():
    # Of four layers with three outputs, one is the class layer; the adapter's own receive `r` numbers.
    model: Any = get_peft_model(
        model_of("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        LoraConfig(r=NUM_CLASSES, target_modules=["query", "classifier"], init_lora_weights=False),
    )
    watched = Watched()
    objective = TrainerObjective(watched, model.eval())
    outputs = model(**DEV.batch())
    objective(outputs, DEV.labels)
    assert watched.embeddings.shape == (len(DEV), 16)
    torch.testing.assert_close(model.base_model.model.classifier(watched.embeddings), outputs.logits)


def test_a_classifier_of_two_heads_takes_adapters(tmp_path):
    torch.manual_seed(0)
    encoder = model_of("bert").base_model
    model = adapted(
        ContrastiveClassifier(encoder, NUM_CLASSES, projection_dim=5),
        target_modules=["query"],
        modules_to_save=["classifier", "projection"],
    )
    trainer, _ = trained(model, tmp_path, remove_unused_columns=False)
    assert {"cross_entropy", "contrastive"} <= first_loss(trainer).keys()
    assert len(model.train()(**DEV.batch()).logits) == 2 * len(DEV)


def test_adapters_put_on_after_the_objective_are_told():
    model = model_of("bert")
    objective = TrainerObjective(loss(), model)
    wrapped = adapted(model, task_type="SEQ_CLS", target_modules=["query"]).train()
    with pytest.raises(RuntimeError, match="after any adapters are put on it"):
        objective(wrapped(**DEV.batch()), DEV.labels)
