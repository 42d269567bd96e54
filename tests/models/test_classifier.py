import json
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    MPNetConfig,
    MPNetModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

from labeldist.models import TextCNN
from labeldist.models.classifier import ClassifierOutput, ContrastiveClassifier
from labeldist.models.heads import ProjectionHead
from labeldist.models.two_heads import TwoHeadedTextCNN, read_config
from labeldist.training.encoders import train_tokenizer
from tiny_bert import Rows

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
BATCH = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
}


def encoder_of(name: str) -> Any:
    torch.manual_seed(0)
    if name == "textcnn":
        return TextCNN(40, embedding_dim=8, num_maps=5, padding_idx=1)
    if name == "bert":
        return BertModel(BertConfig(**SMALL), add_pooling_layer=False)
    return MPNetModel(MPNetConfig(**SMALL), add_pooling_layer=False)


ENCODERS = ["textcnn", "bert", "mpnet"]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("projection", ["mlp", "linear", "none"])
def test_a_saved_classifier_loads_to_identical_outputs(tmp_path, name, projection):
    model: Any = ContrastiveClassifier(
        encoder_of(name), 3, projection=projection, projection_dim=6, pooling="mean"
    ).eval()
    model.save(tmp_path / "new" / "model")
    again = ContrastiveClassifier.load(tmp_path / "new" / "model")
    assert not again.training
    for left, right in zip(again(**BATCH).to_tuple(), model(**BATCH).to_tuple(), strict=True):
        assert torch.equal(left, right)
    assert again.options == model.options


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_it_is_a_hugging_face_model(tmp_path, name, num_classes):
    model: Any = ContrastiveClassifier(encoder_of(name), num_classes, projection_dim=6).eval()
    model.name_classes([f"class {i}" for i in range(num_classes)])
    model.save_pretrained(tmp_path)
    for again in (
        ContrastiveClassifier.from_pretrained(tmp_path),
        AutoModelForSequenceClassification.from_pretrained(tmp_path),
        ContrastiveClassifier.load(tmp_path),
    ):
        assert type(again) is ContrastiveClassifier
        assert again.config.id2label == {i: f"class {i}" for i in range(num_classes)}
        for left, right in zip(again(**BATCH).to_tuple(), model(**BATCH).to_tuple(), strict=True):
            assert torch.equal(left, right)


def test_making_it_draws_the_heads_weights_and_nothing_else():
    encoder = encoder_of("bert")
    stored = {name: value.clone() for name, value in encoder.state_dict().items()}
    torch.manual_seed(7)
    model: Any = ContrastiveClassifier(encoder, 3, projection_dim=6)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    classifier, projection = nn.Linear(16, 3), ProjectionHead(16, 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.classifier.weight, classifier.weight)
    assert all(map(torch.equal, model.projection.parameters(), projection.parameters()))
    assert all(torch.equal(value, stored[name]) for name, value in model.encoder.state_dict().items())


def test_a_textcnn_is_served_by_plain_layers_to_identical_outputs(tmp_path):
    model: Any = ContrastiveClassifier(encoder_of("textcnn"), 3, projection="linear", projection_dim=6).eval()
    model.save(tmp_path)
    served: Any = TwoHeadedTextCNN(read_config(tmp_path))
    served.load_state_dict(model.state_dict())
    for left, right in zip(served.eval()(**BATCH), model(**BATCH).to_tuple(), strict=True):
        assert torch.equal(left, right)


def test_labels_give_the_cross_entropy():
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3).eval()
    output = model(**BATCH, labels=torch.tensor([2, 0]))
    assert torch.equal(output.loss, nn.functional.cross_entropy(output.logits, torch.tensor([2, 0])))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_trainers_defaults_will_do(tmp_path, name):
    model: Any = ContrastiveClassifier(encoder_of(name), 3, projection_dim=6)
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=1, use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True
    )
    trainer = Trainer(model, arguments, train_dataset=Rows(16), eval_dataset=Rows(16))
    trainer.train()
    assert "eval_loss" in trainer.evaluate()
    trainer.save_model(str(tmp_path / "saved"))
    again: Any = ContrastiveClassifier.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(**BATCH).logits, model.eval()(**BATCH).logits)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_pipeline_takes_it(tmp_path, name):
    texts = ["is it fast?", "it is slow"]
    tokenizer: Any = train_tokenizer(texts)
    model: Any = ContrastiveClassifier(encoder_of(name), 2)
    model.name_classes(["question", "complaint"])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classify: Any = pipeline("text-classification", model=str(tmp_path), tokenizer=str(tmp_path), top_k=None)
    expected = model.eval()(**tokenizer(texts[:1], return_tensors="pt")).logits.softmax(dim=1)[0]
    scores = {row["label"]: row["score"] for row in classify(texts)[0]}
    assert scores == pytest.approx({"question": expected[0].item(), "complaint": expected[1].item()})


# PEFT asks by a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_are_put_on_and_come_back(tmp_path):
    peft = pytest.importorskip("peft")
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3)
    model.save_pretrained(tmp_path / "base")
    options = peft.LoraConfig(
        task_type="SEQ_CLS", target_modules=["query", "value"], modules_to_save=["classifier", "projection"], r=2
    )
    adapted = peft.get_peft_model(ContrastiveClassifier.load(tmp_path / "base"), options)
    adapted(**BATCH, labels=torch.tensor([0, 1])).loss.backward()
    torch.optim.SGD(adapted.parameters(), lr=1.0).step()
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(ContrastiveClassifier.load(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(again.eval()(**BATCH).logits, adapted.eval()(**BATCH).logits)
    assert not torch.equal(adapted(**BATCH).logits, model.eval()(**BATCH).logits)


def test_one_name_per_class():
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3)
    with pytest.raises(ValueError, match="names must be 3, one per class, got 2"):
        model.name_classes(["a", "b"])


def test_the_way_tokens_are_pooled_is_stored(tmp_path):
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3, pooling="cls").eval()
    model.save(tmp_path)
    assert torch.equal(ContrastiveClassifier.load(tmp_path)(**BATCH).logits, model(**BATCH).logits)
    assert json.loads((tmp_path / "config.json").read_text())["pooling"] == "cls"


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_output_does_not_depend_on_padding(name, pooling):
    model: Any = ContrastiveClassifier(encoder_of(name), 3, pooling=pooling).eval()
    longer = {
        "input_ids": torch.nn.functional.pad(BATCH["input_ids"], (0, 6), value=1),
        "attention_mask": torch.nn.functional.pad(BATCH["attention_mask"], (0, 6)),
    }
    for left, right in zip(model(**longer).to_tuple(), model(**BATCH).to_tuple(), strict=True):
        torch.testing.assert_close(left, right)


def test_mean_pooling_is_the_mean_of_the_tokens_that_are_there():
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3).eval()
    tokens = model.encoder(**BATCH).last_hidden_state
    expected = torch.stack([tokens[0].mean(dim=0), tokens[1, :2].mean(dim=0)])
    torch.testing.assert_close(model.encode(**BATCH), expected)
    without = model.encode(input_ids=BATCH["input_ids"])
    torch.testing.assert_close(without, model.encoder(input_ids=BATCH["input_ids"]).last_hidden_state.mean(dim=1))


def test_cls_pooling_is_the_first_token():
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3, pooling="cls").eval()
    torch.testing.assert_close(model.encode(**BATCH), model.encoder(**BATCH).last_hidden_state[:, 0])


def test_a_text_whose_mask_is_empty_gives_finite_numbers():
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3).eval()
    empty = {"input_ids": BATCH["input_ids"], "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])}
    assert torch.isfinite(model(**empty).logits).all()


def test_the_output_has_a_name_for_each_part():
    output: Any = ContrastiveClassifier(encoder_of("textcnn"), 3, projection_dim=6)(**BATCH)
    assert isinstance(output, ClassifierOutput)
    assert [tuple(part.shape) for part in output.to_tuple()] == [(2, 3), (2, 6)]
    assert list(output) == ["logits", "embeddings"]


def test_dropout_acts_before_the_class_layer_and_spares_the_projection():
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3, dropout=0.5)
    model.encoder.eval()
    model.dropout.train()
    first, second = model(**BATCH), model(**BATCH)
    assert not torch.equal(first.logits, second.logits)
    assert torch.equal(first.embeddings, second.embeddings)


def test_a_textcnn_keeps_its_own_dropout():
    model: Any = ContrastiveClassifier(encoder_of("textcnn"), 3, dropout=0.9)
    assert model.dropout.p == 0.0


def test_a_pretrained_encoder_keeps_its_weights_and_loses_its_pooler(tiny_bert_folder):
    model: Any = ContrastiveClassifier.from_pretrained_encoder(str(tiny_bert_folder), 3, projection="none")
    stored: Any = BertModel.from_pretrained(tiny_bert_folder)
    assert model.encoder.pooler is None
    assert torch.equal(model.encoder.embeddings.word_embeddings.weight, stored.embeddings.word_embeddings.weight)
    model(**BATCH).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling must be 'mean' or 'cls', got 'max'"):
        ContrastiveClassifier(encoder_of("textcnn"), 3, pooling="max")  # type: ignore[arg-type]


def test_loading_from_a_folder_without_a_classifier(tmp_path):
    with pytest.raises(FileNotFoundError):
        ContrastiveClassifier.load(tmp_path)


def test_activation_checkpointing_reaches_the_encoder():
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3)
    # What the Trainer calls.
    model.activation_checkpointing_enable()
    assert model.encoder.is_activation_checkpointing
