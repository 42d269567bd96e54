import json
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel

from labeldist.models import TextCNN
from labeldist.models.classifier import ClassifierOutput, ContrastiveClassifier

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


def test_the_way_tokens_are_pooled_is_stored(tmp_path):
    model: Any = ContrastiveClassifier(encoder_of("bert"), 3, pooling="cls").eval()
    model.save(tmp_path)
    assert torch.equal(ContrastiveClassifier.load(tmp_path)(**BATCH).logits, model(**BATCH).logits)
    assert json.loads((tmp_path / "classifier.json").read_text())["pooling"] == "cls"


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
