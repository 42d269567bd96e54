from typing import Any

import pytest
import torch

from labeldist.models import ProjectionHead


@pytest.mark.parametrize(
    ("kind", "out_dim", "num_parameters"), [("mlp", 4, 36 + 6 + 24 + 4), ("linear", 4, 24 + 4), ("none", 6, 0)]
)
def test_sizes_of_each_kind(kind, out_dim, num_parameters):
    head = ProjectionHead(6, 4, kind=kind)
    assert head.out_dim == out_dim
    assert head(torch.zeros(3, 6)).shape == (3, out_dim)
    assert sum(parameter.numel() for parameter in head.parameters()) == num_parameters


def test_none_is_the_vector_itself():
    vectors = torch.randn(3, 6)
    assert ProjectionHead(6, 4, kind="none")(vectors) is vectors


def test_mlp_bends_and_linear_does_not():
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 6)
    kinds: list[tuple[Any, bool]] = [("mlp", False), ("linear", True)]
    for kind, is_linear in kinds:
        head = ProjectionHead(6, 4, kind=kind)
        bend = head(a + b) - head(a) - head(b) + head(torch.zeros(1, 6))
        assert (bend.abs().max() < 1e-5).item() is is_linear


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind must be 'mlp', 'linear' or 'none', got 'deep'"):
        ProjectionHead(6, 4, kind="deep")  # type: ignore[arg-type]
