"""The check of an indices_tuple."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labeldist.checks import check_indices_tuple
from strategies import brief, refusal_of

FITTING = torch.tensor([0, 1, 2])
NOTHING = torch.zeros(0, dtype=torch.int64)


@brief
@given(st.sampled_from([3, 4]), st.integers(1, 6), st.integers(1, 6), st.data())
def test_indices_of_existing_rows_pass(number, num_anchors, num_references, data):
    lengths = [data.draw(st.integers(0, 4))] * 2
    lengths += [lengths[0]] if number == 3 else [data.draw(st.integers(0, 4))] * 2
    rows = [num_anchors, num_references, num_references] if number == 3 else [num_anchors, num_references] * 2
    drawn = [
        data.draw(st.lists(st.integers(0, limit - 1), min_size=length, max_size=length))
        for length, limit in zip(lengths, rows, strict=True)
    ]
    check_indices_tuple([torch.tensor(indices, dtype=torch.int64) for indices in drawn], num_anchors, num_references)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_any_integer_dtype_passes(dtype):
    check_indices_tuple((FITTING.to(dtype),) * 3, 3, 3)


def test_empty_tensors_of_any_dtype_pass():
    # Some miners return torch.tensor([]), which is floating point.
    check_indices_tuple((torch.tensor([]),) * 4, 0, 0)


@pytest.mark.parametrize(
    ("indices_tuple", "error", "sentence"),
    [
        (
            (FITTING, FITTING),
            ValueError,
            "indices_tuple must hold 3 tensors (anchors, positives, negatives) or 4 (anchors, positives, anchors, "
            "negatives), got 2.",
        ),
        (
            FITTING,
            ValueError,
            "indices_tuple must hold 3 tensors (anchors, positives, negatives) or 4 (anchors, positives, anchors, "
            "negatives), got Tensor.",
        ),
        (
            (FITTING, [0, 1, 2], FITTING),
            ValueError,
            "positives of indices_tuple must be a tensor of shape (P,), got list.",
        ),
        (
            (FITTING, FITTING, FITTING[:, None]),
            ValueError,
            "negatives of indices_tuple must be a tensor of shape (P,), got shape (3, 1).",
        ),
        (
            (FITTING.float(), FITTING, FITTING),
            TypeError,
            "anchors of indices_tuple must be integers, got torch.float32.",
        ),
        (
            (FITTING, FITTING, FITTING > 0, FITTING),
            TypeError,
            "anchors of negatives of indices_tuple must be integers, got torch.bool.",
        ),
        (
            (FITTING, FITTING, FITTING[:2]),
            ValueError,
            "the tensors of indices_tuple must be equally long, got lengths [3, 3, 2].",
        ),
        (
            (FITTING, FITTING, FITTING[:2], FITTING[:1]),
            ValueError,
            "the tensors of indices_tuple must be equally long, got lengths [3, 3, 2, 1].",
        ),
        (
            (FITTING, FITTING, FITTING + 1),
            ValueError,
            "negatives of indices_tuple must lie in [0, 3), got values from 1 to 3. Mine the same rows that the loss "
            "receives.",
        ),
        (
            (FITTING - 1, FITTING, NOTHING, NOTHING),
            ValueError,
            "anchors of indices_tuple must lie in [0, 3), got values from -1 to 1. Mine the same rows that the loss "
            "receives.",
        ),
    ],
    ids=[
        "two tensors",
        "no tuple",
        "a list",
        "a column",
        "floats",
        "booleans",
        "triplets of other lengths",
        "pairs of other lengths",
        "too large",
        "negative",
    ],
)
def test_a_bad_tuple_raises_a_clear_error(indices_tuple, error, sentence):
    assert refusal_of(error, check_indices_tuple, indices_tuple, 3, 3) == sentence


def test_anchors_are_checked_against_the_batch_and_other_indices_against_the_references():
    check_indices_tuple((FITTING[:2], FITTING[1:], FITTING[:1], FITTING[2:]), 2, 3)
    message = refusal_of(ValueError, check_indices_tuple, (FITTING[2:], FITTING[:1], FITTING[:1]), 2, 3)
    assert message.startswith("anchors of indices_tuple must lie in [0, 2)")


def test_without_validation_values_are_not_read():
    check_indices_tuple((FITTING + 9,) * 3, 3, 3, validate=False)
    assert "integers" in refusal_of(TypeError, check_indices_tuple, (FITTING.float(),) * 3, 3, 3, validate=False)
