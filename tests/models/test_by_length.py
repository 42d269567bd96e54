"""On a CPU, rows of similar length are encoded together: the same outputs from fewer tokens."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel

import tiny_bert
from labeldist.models import two_heads
from labeldist.models._by_length import MIN_TOKENS_SAVED, groups_by_length
from labeldist.models.classifier import ContrastiveClassifier

SMALL: dict[str, Any] = {
    **tiny_bert.SMALL,
    "vocab_size": 40,
    "num_hidden_layers": 2,
    "max_position_embeddings": 70,
    "pad_token_id": 1,
}
LENGTHS = torch.tensor([3, 60, 5, 58, 60, 4, 30, 3])
MASK = (torch.arange(60) < LENGTHS[:, None]).long()


def encoder_of(name: str) -> Any:
    # DistilBERT has other names for its sizes, ALBERT smaller embeddings.
    named = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8} if name == "distilbert" else {}
    config = AutoConfig.for_model(name, **SMALL, **named, embedding_size=8)
    return AutoModel.from_config(config)


def batch_of(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 40, mask.shape, generator=generator)
    return {"input_ids": tokens.where(mask != 0, torch.ones(())).long(), "attention_mask": mask}


def model_of(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return ContrastiveClassifier(encoder_of(name), 3, projection_dim=6, dropout=0.0, **options).double().eval()


def widths_of(model: Any) -> list[tuple[int, int]]:
    """The shapes of the batches that the encoder is called with, filled as it is called."""
    shapes: list[tuple[int, int]] = []
    model.encoder.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


@given(st.lists(st.integers(0, 80), min_size=1, max_size=40))
def test_each_row_is_in_one_group_that_is_long_enough(lengths):
    mask = torch.arange(max(*lengths, 1)) < torch.tensor(lengths)[:, None]
    groups = groups_by_length(mask)
    if groups is None:
        return
    assert sorted(int(row) for rows, _ in groups for row in rows) == list(range(len(lengths)))
    for rows, length in groups:
        assert max(lengths[int(row)] for row in rows) == length
    computed = sum(len(rows) * length for rows, length in groups)
    assert mask.numel() - computed >= max(MIN_TOKENS_SAVED, 0.1 * mask.numel())


@pytest.mark.parametrize("mask", [MASK.flip(1), MASK * 0, torch.ones(8, 60), MASK[:, :4], torch.zeros(0, 5)])
def test_rows_stay_together_where_padding_stands_before_them_or_little_is_saved(mask):
    assert groups_by_length(mask) is None


@pytest.mark.parametrize("name", two_heads.ANY_PADDING)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_outputs_and_gradients_are_those_of_all_rows_together(name, pooling, monkeypatch):
    results = []
    for is_grouped in (True, False):
        model = model_of(name, pooling=pooling)
        with monkeypatch.context() as patch:
            if not is_grouped:
                patch.setattr(two_heads, "groups_by_length", lambda mask: None)
            shapes = widths_of(model)
            output = model(**batch_of(MASK), labels=torch.arange(8) % 3)
        output.loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        results.append((output.logits, output.embeddings, *gradients))
        assert (len(shapes) > 1) == is_grouped
    assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


def test_views_stay_in_their_order():
    model = model_of("bert")
    plain = model(**batch_of(MASK)).logits
    model.views = 2
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    shapes = widths_of(model)
    assert_close(model.train()(**batch_of(MASK)).logits, torch.cat([plain, plain]))
    assert sum(rows for rows, _ in shapes) == 16
    assert sum(rows * width for rows, width in shapes) < 2 * LENGTHS.sum() + 16 * 10


def test_a_compiled_model_encodes_all_rows_together():
    model = model_of("bert")
    expected, shapes = model(**batch_of(MASK)).logits, []
    compiled = torch.compile(model, backend=lambda graph, inputs: shapes.append(len(inputs)) or graph.forward)
    assert_close(compiled(**batch_of(MASK)).logits, expected)
    assert len(shapes) == 1


@pytest.mark.parametrize("case", ["processes", "type", "option"])
def test_all_rows_stay_together_where_groups_could_do_harm(case, monkeypatch):
    model, more = model_of("bert"), {}
    expected = model(**batch_of(MASK)).logits
    if case == "processes":
        monkeypatch.setattr(two_heads, "num_processes", lambda: 2)
    elif case == "type":
        # Its attention depends on the length of the whole batch.
        model.encoder.config.model_type = "big_bird"
    else:
        more = {"output_attentions": True}
    shapes = widths_of(model)
    assert_close(model(**batch_of(MASK), **more).logits, expected)
    assert shapes == [(8, 60)]
