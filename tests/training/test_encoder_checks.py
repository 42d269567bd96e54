"""Encoders that cannot be used are told in one true sentence, before anything is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
)

from labeldist.cli import main
from labeldist.training.config import ModelSettings
from labeldist.training.encoder_checks import unknown_share
from labeldist.training.encoders import build_classifier
from labeldist.training.errors import UserError
from labeldist.training.fit import predict_batches
from labeldist.training.vocabulary import train_tokenizer
from runs import messages

pytestmark = pytest.mark.usefixtures("as_it_was")

TEXTS = [row["text"] for row in messages(100)]
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def build(folder: Path, *, texts: list[str] = TEXTS, max_length: int = 16) -> Any:
    return build_classifier(ModelSettings(encoder=str(folder), max_length=max_length), texts, 3)


def saved(folder: Path, model: Any, **tokenizer_options: Any) -> Path:
    """The model with a tokenizer of the fixture's kind."""
    tokenizer = train_tokenizer(TEXTS)
    for name, value in tokenizer_options.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def vocabulary() -> int:
    return len(train_tokenizer(TEXTS))


def tiny_vit() -> Any:
    return ViTModel(ViTConfig(**SMALL, image_size=8, patch_size=4))


def tiny_t5() -> Any:
    return T5Model(T5Config(vocab_size=vocabulary(), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def tiny_clip() -> Any:
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    return CLIPModel(CLIPConfig(text_config={**SMALL, "vocab_size": vocabulary()}, vision_config=vision))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tiny_vit, r"is no encoder of text: its architecture \(vit\) reads pixel_values"),
        (tiny_t5, r"is an encoder-decoder model \(t5\)"),
        (tiny_clip, r"its configuration \(clip\) has no hidden_size"),
    ],
)
def test_a_model_of_another_kind_is_told(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        build(saved(tmp_path, make()))


def unknown_architecture(folder: Path) -> None:
    change(folder / "config.json", model_type="newer")


def no_architecture(folder: Path) -> None:
    change(folder / "config.json", model_type=None)


def wider(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=24)


def deeper(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=2)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"] += float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def another_tokenizer(folder: Path) -> None:
    train_tokenizer([" ".join(f"w{i}" for i in range(1000))]).save_pretrained(folder)


def small_tokenizer(folder: Path) -> None:
    train_tokenizer(["is it fast?"]).save_pretrained(folder)


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unknown_architecture, r"has the architecture 'newer', which transformers [\d.]+ does not know"),
        (no_architecture, "names no model_type"),
        (wider, r"do not fit its config\.json: .* has another shape"),
        (deeper, r"do not fit its config\.json: 16 of 37 tensors are missing, among them"),
        (pickled, r"its weights only in pytorch_model\.bin, a pickle, which can hold code and is never read"),
        (cut, "The weights of .* are damaged"),
        (not_finite, "makes vectors that are not finite"),
        (another_tokenizer, r"The tokenizer of .* has 1002 tokens and the encoder vectors for \d+"),
        (small_tokenizer, r"The tokenizer of .* has 6 tokens and the encoder vectors for \d+"),
        (no_tokenizer, "The tokenizer of .*|holds no Hugging Face encoder"),
    ],
)
def test_a_folder_whose_parts_do_not_fit_is_told(tiny_bert_folder, tickets, tmp_path, capsys, spoil, message):
    folder = shutil.copytree(tiny_bert_folder, tmp_path / "bert")
    spoil(folder)
    with pytest.raises(UserError, match=message):
        build(folder)
    run = tmp_path / "run"
    command = ["train", "--data", str(tickets), "--encoder", str(folder), "--max-length", "16", "--output", str(run)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "weights_only" not in said
    assert not run.exists()


def test_texts_that_the_tokenizer_does_not_know_are_told(tiny_bert_folder):
    with pytest.raises(UserError, match="100 % of the training texts' tokens are unknown to the tokenizer"):
        build(tiny_bert_folder, texts=["ваш заказ", "где он"])


@pytest.mark.parametrize("max_length", [20, 21])
def test_roberta_has_positions_for_two_tokens_less_than_it_says(tmp_path, max_length):
    torch.manual_seed(0)
    config = RobertaConfig(**SMALL, vocab_size=vocabulary(), max_position_embeddings=22, pad_token_id=1)
    folder = saved(tmp_path, RobertaModel(config))
    if max_length == 21:
        with pytest.raises(UserError, match="--max-length must be at most 20, the longest text"):
            build(folder, max_length=max_length)
        return
    model, tokenizer = build(folder, max_length=max_length)
    assert torch.isfinite(predict_batches(model, tokenizer, ["is it fast " * 50], max_length).probabilities).all()


def test_an_encoder_that_fails_on_long_texts_is_told(tmp_path, monkeypatch):
    torch.manual_seed(0)
    folder = saved(tmp_path, BertModel(BertConfig(**SMALL, vocab_size=vocabulary())))
    whole = BertModel.forward

    def forward(self, input_ids=None, **inputs):
        if input_ids is not None and input_ids.shape[1] > 10:
            raise RuntimeError("too long.\nmore")
        return whole(self, input_ids=input_ids, **inputs)

    monkeypatch.setattr(BertModel, "forward", forward)
    with pytest.raises(UserError, match=r"cannot encode these texts in up to 16 tokens: too long\. Try"):
        build(folder)


def test_checking_leaves_model_and_random_numbers_as_they_are(tiny_bert_folder):
    torch.manual_seed(0)
    model, _ = build(tiny_bert_folder)
    after = torch.get_rng_state()
    again, _ = build(tiny_bert_folder, texts=TEXTS[:1])
    torch.manual_seed(0)
    build(tiny_bert_folder, texts=TEXTS[:50])
    assert torch.equal(torch.get_rng_state(), after)
    assert model.training == again.training


def test_special_tokens_do_not_count_as_known():
    tokenizer = train_tokenizer(["is it fast"])
    assert unknown_share(tokenizer, ["is it fast", "is it fast"], 8) == 0.0
    assert unknown_share(tokenizer, ["what else"], 8) == 1.0
    assert unknown_share(tokenizer, ["\u200b"], 8) == 1.0
    assert unknown_share(tokenizer, [], 8) == 0.0
