from typing import Any

import pytest
import torch

from labeldist.models import TextCNN
from strategies import gradient_of


def encoder(**options) -> Any:
    torch.manual_seed(0)
    return TextCNN(30, **{"embedding_dim": 4, "num_maps": 5, **options}).eval()


def ids(*rows: list[int]) -> torch.Tensor:
    length = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])


def test_a_text_by_hand():
    # One map of width 2 over one-dimensional vectors: ReLU of the largest window sum, plus the bias.
    model: Any = TextCNN(4, embedding_dim=1, widths=[2], num_maps=1).eval()
    with torch.no_grad():
        model.embedding.weight[:] = torch.tensor([[0.0], [1.0], [-3.0], [5.0]])
        model.convolutions[0].weight[:] = 1.0
        model.convolutions[0].bias[:] = 0.5
    # Windows of 1 2 3: (1, -3), (-3, 5), (5, padding): the largest sum is 5.
    assert model(ids([1, 2, 3])).tolist() == [[5.5]]
    # Of 2 alone: (-3, padding), and ReLU makes it 0.
    assert model(ids([2])).tolist() == [[0.0]]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 16])
def test_the_output_does_not_depend_on_padding(length):
    model = encoder()
    text = torch.randint(1, 30, (1, length), generator=torch.Generator().manual_seed(length))
    alone = model(text)
    for extra in (1, 2, 5, 40):
        padded = torch.nn.functional.pad(text, (0, extra))
        torch.testing.assert_close(model(padded), alone)
        mask = (torch.arange(length + extra) < length)[None]
        torch.testing.assert_close(model(padded, mask.long()), alone)
        beside = torch.cat([padded, torch.randint(1, 30, (1, length + extra))])
        torch.testing.assert_close(model(beside)[:1], alone)


def test_a_large_bias_does_not_let_padding_win():
    model = encoder()
    with torch.no_grad():
        for convolution in model.convolutions:
            convolution.weight[:] = -1.0
            convolution.bias[:] = 10.0
        model.embedding.weight[1:] = 1.0
    short = model(ids([3, 4, 5, 6, 7]))
    torch.testing.assert_close(model(torch.nn.functional.pad(ids([3, 4, 5, 6, 7]), (0, 20))), short)


def test_a_text_without_tokens_gives_finite_numbers_beside_others():
    model = encoder()
    batch = ids([3, 4, 5], [])
    output = model(batch, torch.tensor([[1, 1, 1], [0, 0, 0]]))
    assert torch.isfinite(output).all()
    torch.testing.assert_close(output[:1], model(ids([3, 4, 5])))


def test_unknown_padding_index():
    model = encoder(padding_idx=7)
    text = torch.tensor([[3, 4]])
    torch.testing.assert_close(model(torch.tensor([[3, 4, 7, 7, 7]])), model(text))


@pytest.mark.parametrize(("widths", "num_maps"), [((3, 4, 5), 100), ((2,), 7), ((1, 2), 3)])
def test_sizes(widths, num_maps):
    model: Any = TextCNN(50, embedding_dim=6, widths=widths, num_maps=num_maps)
    assert model.hidden_size == len(widths) * num_maps
    assert model(ids([1, 2, 3], [4])).shape == (2, model.hidden_size)
    expected = 50 * 6 + sum(width * 6 * num_maps + num_maps for width in widths)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_the_published_sizes_are_the_default():
    model: Any = TextCNN(10)
    assert model.options == {
        "vocab_size": 10, "embedding_dim": 300, "widths": [3, 4, 5], "num_maps": 100, "dropout": 0.5, "padding_idx": 0
    }  # fmt: skip


def test_two_passes_in_training_are_two_views_and_in_evaluation_one():
    model, batch = encoder(), ids([1, 2, 3, 4])
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_every_parameter_but_the_padding_vector_gets_a_gradient():
    model = encoder()
    model(ids([1, 2, 3, 4, 5, 0, 0])).sum().backward()
    gradient = gradient_of(model.embedding.weight)
    assert not gradient[0].any()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_options_rebuild_it():
    model = encoder(widths=(2, 3))
    again = TextCNN(**model.options).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(ids([1, 2])), model(ids([1, 2])))


@pytest.mark.parametrize("shape", [(1, 9), (2, 14), (7, 1)])
def test_an_exported_encoder_takes_batches_of_any_size(shape):
    model = encoder()
    example = ids([1, 2, 3, 4], [5, 6], [7])
    free = {0: torch.export.Dim("B"), 1: torch.export.Dim("L")}
    exported = torch.export.export(model, (example, (example != 0).long()), dynamic_shapes=(free, free))
    batch = torch.randint(1, 30, shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(batch)
    batch[-1, 3:] = mask[-1, 3:] = 0
    torch.testing.assert_close(exported.module()(batch, mask), model(batch, mask))


def test_rows_that_are_padded_give_what_texts_end_to_end_give():
    model, batch = encoder(), ids([1, 2, 3, 4, 5, 6, 7], [5, 6], [7], [])
    is_token = torch.arange(7) < torch.tensor([7, 2, 1, 1])[:, None]
    torch.testing.assert_close(model._maximum_over_rows(batch, is_token), model._maximum_over_time(batch, is_token))


def test_a_hook_on_the_embedding_sees_rows_of_tokens():
    torch.manual_seed(0)
    model, ids = TextCNN(vocab_size=50, embedding_dim=8).eval(), torch.tensor([[7, 8, 9, 4], [7, 8, 0, 0]])
    expected, shapes = model(ids), []
    handle = model.embedding.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    assert torch.allclose(model(ids), expected, atol=1e-6)
    assert len(shapes) == 1
    batch, length, size = shapes[0]
    assert batch == 2
    assert length >= 4
    assert size == 8
    handle.remove()
