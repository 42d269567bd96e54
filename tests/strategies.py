"""Hypothesis strategies for the arguments of the loss, and helper functions for tests."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# torch's first call of a kind may take seconds on a busy machine: no deadline.
thorough = settings(deadline=None, max_examples=60)
brief = settings(deadline=None, max_examples=25)


def pairwise(**axes: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrize a test by all combinations of three axes or more, each a mapping from names to values.

    Half of them, in which every two values of different axes still meet, run always; the other half is slow.
    """
    cases = []
    for places in itertools.product(*(range(len(axis)) for axis in axes.values())):
        chosen = [list(axis.items())[place] for axis, place in zip(axes.values(), places, strict=True)]
        marks = [pytest.mark.slow] if sum(places) % 2 else []
        cases.append(
            pytest.param(*(value for _, value in chosen), id="-".join(name for name, _ in chosen), marks=marks)
        )
    return pytest.mark.parametrize(list(axes), cases)


weightings = st.sampled_from(["scale", "log"])
temperatures = st.sampled_from([0.05, 0.5, 1.0, 3.0])
seeds = st.integers(0, 2**31 - 1)

# Quarters: every row is zero or of a length that no floor touches, repeated rows are common, and examples shrink well.
quarters = st.integers(-8, 8).map(lambda quarter: quarter / 4)
distances = st.sampled_from([0.0, 0.25, 1.0, 2.0, 5.0])
relevances = st.sampled_from([0.0, 0.0, 0.05, 0.3, 1.0, 4.0])


@dataclass(frozen=True)
class Problem:
    """Arguments of the loss, float64."""

    embeddings: Tensor
    labels: Tensor
    ldm: Tensor
    options: dict[str, Any]

    @property
    def num_classes(self) -> int:
        return len(self.ldm)

    def plain(self) -> tuple[tuple[list, list, list], dict[str, Any]]:
        """Arguments and options as lists of floats, for `reference`."""
        options = {name: value.tolist() if torch.is_tensor(value) else value for name, value in self.options.items()}
        return (self.embeddings.tolist(), self.labels.tolist(), self.ldm.tolist()), options


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normally distributed numbers, the same ones for the same seed in every dtype, up to rounding."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradient_of(tensor: Tensor) -> Tensor:
    """The gradient after `backward`."""
    assert tensor.grad is not None
    return tensor.grad


def refusal_of(error: type[Exception], function: Callable, *arguments, **options) -> str:
    """The message of the error that `function` raises."""
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    return str(caught.value)


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements of any tensor that an operation returned."""

    num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.num_elements = max(self.num_elements, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return result


def matrices(num_rows, num_columns, elements) -> st.SearchStrategy[Tensor]:
    """float64 tensors `(num_rows, num_columns)`, either may be 0."""
    rows = st.lists(elements, min_size=num_columns, max_size=num_columns)
    return st.lists(rows, min_size=num_rows, max_size=num_rows).map(
        lambda values: torch.tensor(values, dtype=torch.float64).reshape(num_rows, num_columns)
    )


def label_vectors(num_rows, num_classes) -> st.SearchStrategy[Tensor]:
    """int64 tensors `(num_rows,)` with values in [0, num_classes)."""
    return st.lists(st.integers(0, num_classes - 1), min_size=num_rows, max_size=num_rows).map(
        lambda values: torch.tensor(values, dtype=torch.int64)
    )


@st.composite
def problems(draw, *, min_rows=0, max_rows=8, entries=distances, rows=quarters):
    """Batches of 0 to 8 rows in 1 to 4 classes; asymmetric matrices with zeros anywhere."""
    num_rows, num_classes = draw(st.integers(min_rows, max_rows)), draw(st.integers(1, 4))
    return Problem(
        embeddings=draw(matrices(num_rows, draw(st.integers(1, 3)), rows)),
        labels=draw(label_vectors(num_rows, num_classes)),
        ldm=draw(matrices(num_classes, num_classes, entries)),
        options={"temperature": draw(temperatures), "weighting": draw(weightings)},
    )


@st.composite
def problems_with_references(draw):
    """A problem whose options hold `ref_emb` and `ref_labels` of 0 to 6 rows."""
    problem = draw(problems(max_rows=6))
    num_references = draw(st.integers(0, 6))
    references = {
        "ref_emb": draw(matrices(num_references, problem.embeddings.shape[1], quarters)),
        "ref_labels": draw(label_vectors(num_references, problem.num_classes)),
    }
    return Problem(problem.embeddings, problem.labels, problem.ldm, problem.options | references)


@st.composite
def relevance_tables(draw, num_classes, *, entries=relevances):
    """float64 tables of relevance, asymmetric, with zeros off the diagonal and any positive diagonal."""
    table = draw(matrices(num_classes, num_classes, entries))
    diagonal = draw(st.lists(st.sampled_from([0.25, 1.0, 2.0]), min_size=num_classes, max_size=num_classes))
    table.diagonal().copy_(torch.tensor(diagonal, dtype=torch.float64))
    return table


@st.composite
def graded(draw, batches=None, **options) -> tuple[Problem, Tensor]:
    """A problem and a table of relevance for its classes."""
    problem = draw(problems(**options) if batches is None else batches)
    return problem, draw(relevance_tables(problem.num_classes))


@st.composite
def confusion_matrices(draw, *, max_classes=4):
    """int64 `(C, C)` counts, C from 1; rows without any count are common."""
    num_classes = draw(st.integers(1, max_classes))
    return draw(matrices(num_classes, num_classes, st.sampled_from([0, 0, 1, 2, 7, 40]))).long()
