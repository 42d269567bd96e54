"""The marginal cross-entropy by its laws, against float64 loops, and as the classification loss of mixed batches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import reference
from labeldist import JointLoss, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.coarse import (
    FineLabelsOnly,
    MarginalCrossEntropy,
    allowed_classes,
    check_coarse_contrast,
    marginal_cross_entropy,
)
from strategies import brief, gradient_of, normal, refusal_of, seeds, thorough

GROUPS = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
LABELS = torch.tensor([0, 4, 3, 5, 6, 1])


@st.composite
def cases(draw, *, min_rows=0):
    """float64 logits, as large as 200, and allowed classes, at least one per row."""
    num_rows, num_classes, seed = draw(st.integers(min_rows, 6)), draw(st.integers(1, 6)), draw(seeds)
    logits = normal(num_rows, num_classes, seed=seed) * draw(st.sampled_from([0.1, 3.0, 50.0]))
    allowed = normal(num_rows, num_classes, seed=seed + 1) > draw(st.sampled_from([-1.0, 0.0, 1.0]))
    return logits, allowed | torch.eye(num_rows, num_classes, dtype=torch.bool).roll(1, 0) | (allowed.sum(1) == 0)[
        :, None
    ]


def of_rows(logits, allowed, **options):
    return marginal_cross_entropy(logits, allowed, reduction="none", **options)


def gradient(logits, allowed):
    logits = logits.clone().requires_grad_()
    marginal_cross_entropy(logits, allowed, reduction="sum").backward()
    return gradient_of(logits)


@thorough
@given(cases())
def test_the_loss_is_that_of_naive_loops(case):
    logits, allowed = case
    expected = torch.tensor(reference.marginal_cross_entropy(logits.tolist(), allowed.tolist()), dtype=torch.float64)
    losses = of_rows(logits, allowed)
    assert_close(losses, expected, rtol=1e-9, atol=1e-12)
    assert (losses >= 0).all()
    assert_close(marginal_cross_entropy(logits, allowed, reduction="sum"), expected.sum(), rtol=1e-9, atol=1e-11)


@thorough
@given(cases(min_rows=1))
def test_one_allowed_class_is_the_cross_entropy(case):
    logits, allowed = case
    labels = allowed.int().argmax(dim=1)
    fine = nn.functional.one_hot(labels, logits.shape[1]).bool()
    assert_close(marginal_cross_entropy(logits, fine), cross_entropy(logits, labels), rtol=1e-12, atol=1e-12)
    single = logits.float()
    assert_close(marginal_cross_entropy(single, fine), cross_entropy(single, labels), rtol=1e-6, atol=1e-6)


@thorough
@given(cases())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_all_classes_allowed_gives_exactly_no_loss_and_no_gradient(dtype, case):
    logits = case[0].to(dtype)
    allowed = torch.ones_like(logits, dtype=torch.bool)
    assert (of_rows(logits, allowed) == 0).all()
    assert (gradient(logits, allowed) == 0).all()


@thorough
@given(cases())
def test_allowing_more_never_raises_the_loss(case):
    logits, allowed = case
    more = allowed | (normal(*logits.shape, seed=9) > 0)
    assert (of_rows(logits, more) <= of_rows(logits, allowed) + 1e-12).all()


@thorough
@given(cases())
def test_the_order_of_classes_and_a_common_shift_do_not_matter(case):
    logits, allowed = case
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(0))
    shift = normal(len(logits), 1, seed=5) * 100
    expected = of_rows(logits, allowed)
    assert_close(of_rows(logits[:, order], allowed[:, order]), expected, rtol=1e-9, atol=1e-11)
    assert_close(of_rows(logits + shift, allowed), expected, rtol=1e-9, atol=1e-11)


@brief
@given(cases(min_rows=1))
def test_a_batch_is_the_mean_of_its_parts_by_numbers_of_rows(case):
    logits, allowed = case
    cut = len(logits) // 2
    parts = [(logits[:cut], allowed[:cut]), (logits[cut:], allowed[cut:])]
    mean = sum(marginal_cross_entropy(*part) * len(part[0]) for part in parts) / len(logits)
    assert_close(marginal_cross_entropy(logits, allowed), mean, rtol=1e-12, atol=1e-12)


@brief
@given(cases(min_rows=1))
def test_the_gradient_is_softmax_less_softmax_over_the_allowed(case):
    logits, allowed = case
    expected = logits.softmax(dim=1) - logits.masked_fill(~allowed, -torch.inf).softmax(dim=1)
    assert_close(gradient(logits, allowed), expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    logits = normal(4, 5).requires_grad_()
    allowed = normal(4, 5, seed=1) > -0.3
    assert torch.autograd.gradcheck(lambda rows: marginal_cross_entropy(rows, allowed), logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, allowed = normal(64, 50, dtype=dtype) * 20, normal(64, 50, seed=1) > 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = of_rows(logits, allowed)
    assert losses.dtype == torch.float32
    # The error against the truth for these very logits is that of float32.
    assert_close(losses.double(), of_rows(logits.double(), allowed), rtol=1e-6, atol=1e-5)


def test_the_largest_logits_neither_overflow_nor_lose_small_losses():
    large = torch.tensor([[1e30, -1e30], [60000.0, 60001.0]])
    assert of_rows(large, torch.tensor([[True, False], [False, True]])).tolist() == [
        0.0,
        pytest.approx(math.log1p(math.exp(-1)), rel=1e-6),
    ]


def test_no_rows_give_0_that_is_connected():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = marginal_cross_entropy(logits, torch.zeros(0, 3, dtype=torch.bool))
    loss.backward()
    assert (loss.item(), gradient_of(logits).shape) == (0.0, (0, 3))


def test_the_function_and_the_loss_compile_whole():
    loss = MarginalCrossEntropy(GROUPS)
    logits = normal(6, 4, dtype=torch.float32)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(compiled(logits, LABELS), loss(logits, LABELS))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (
            (torch.zeros(2, 3), torch.tensor([[True, False, False], [False] * 3])),
            ValueError,
            "Each row must allow at least one class, row 1 allows none.",
        ),
        (
            (torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool)),
            ValueError,
            "allowed must have the shape of logits, (2, 3), got (2, 4): one boolean for each row and class.",
        ),
        ((torch.zeros(2, 3), torch.ones(2, 3)), TypeError, "allowed must be boolean, got torch.float32."),
        (
            (torch.zeros(2, 3).long(), torch.ones(2, 3, dtype=torch.bool)),
            TypeError,
            "logits must be floating point, got torch.int64.",
        ),
        (
            (torch.zeros(2, 0), torch.ones(2, 0, dtype=torch.bool)),
            ValueError,
            "logits must have shape (B, C) with C >= 1, got (2, 0).",
        ),
    ],
)
def test_a_bad_call_of_the_function_raises_a_clear_error(arguments, error, sentence):
    assert refusal_of(error, marginal_cross_entropy, *arguments) == sentence


def test_an_unknown_reduction_is_refused():
    arguments = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    assert refusal_of(ValueError, marginal_cross_entropy, *arguments, reduction="average") == (
        "reduction must be 'mean', 'sum' or 'none', got 'average'."
    )


# The loss of labels


def test_labels_beyond_the_classes_allow_their_group():
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1], [0, 1, 0, 0]]
    assert allowed_classes(LABELS, GROUPS).int().tolist() == expected
    assert allowed_classes(LABELS.to(torch.uint8), GROUPS).int().tolist() == expected
    assert allowed_classes(torch.tensor([2]), torch.zeros(0, 3, dtype=torch.bool)).int().tolist() == [[0, 0, 1]]


def test_the_loss_is_the_function_on_the_allowed_classes():
    logits = normal(6, 4)
    expected = marginal_cross_entropy(logits, allowed_classes(LABELS, GROUPS))
    assert torch.equal(MarginalCrossEntropy(GROUPS)(logits, LABELS), expected)


def test_fine_labels_alone_are_the_cross_entropy():
    logits, labels = normal(6, 4), LABELS % 4
    assert_close(MarginalCrossEntropy(GROUPS)(logits, labels), cross_entropy(logits, labels), rtol=1e-12, atol=0)


@pytest.mark.parametrize("labels", [LABELS, LABELS % 4, torch.tensor([4, 5, 6, 4, 4, 5])])
def test_a_loss_of_fine_labels_counts_for_its_rows(labels):
    fine = nn.CrossEntropyLoss(torch.tensor([1.0, 4.0, 0.5, 2.0]).double(), label_smoothing=0.1)
    logits = normal(6, 4)
    is_fine = labels < 4
    total = of_rows(logits, allowed_classes(labels, GROUPS))[~is_fine].sum()
    if is_fine.any():
        total = total + is_fine.sum() * fine(logits[is_fine], labels[is_fine])
    assert_close(MarginalCrossEntropy(GROUPS, fine)(logits, labels), total / 6)


def test_the_loss_is_stateless():
    loss = MarginalCrossEntropy(GROUPS)
    assert (dict(loss.state_dict()), loss.num_classes, loss.num_labels) == ({}, 4, 7)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "sentence"),
    [
        (
            torch.zeros(1, 4),
            torch.tensor([7]),
            ValueError,
            "labels must lie in [0, 7), 4 classes and then 3 groups, got values from 7 to 7.",
        ),
        (
            torch.zeros(1, 4),
            torch.tensor([-1]),
            ValueError,
            "labels must lie in [0, 7), 4 classes and then 3 groups, got values from -1 to -1.",
        ),
        (
            torch.zeros(1, 3),
            torch.tensor([0]),
            ValueError,
            "logits must have shape (B, 4), one column for each class of the groups, got (1, 3).",
        ),
        (
            torch.zeros(2, 4),
            torch.tensor([0]),
            ValueError,
            "labels must have shape (2,), got (1,). Pass one label for each row of logits.",
        ),
    ],
)
def test_a_bad_call_of_the_loss_raises_a_clear_error(logits, labels, error, sentence):
    assert refusal_of(error, MarginalCrossEntropy(GROUPS), logits, labels) == sentence


def test_a_loss_of_fine_labels_must_be_callable_and_a_mean():
    assert refusal_of(TypeError, MarginalCrossEntropy, GROUPS, 0.1) == (
        "fine must be a loss of logits and labels, such as nn.CrossEntropyLoss(), got float."
    )
    loss = MarginalCrossEntropy(GROUPS, nn.CrossEntropyLoss(reduction="none"))
    assert refusal_of(ValueError, loss, normal(6, 4), LABELS) == (
        "the loss of fine labels must be a scalar, got shape (3,). Use reduction='mean'."
    )


# In the joint objective


def test_the_joint_objective_takes_mixed_batches():
    contrast = LabelDistanceContrastiveLoss(StaticLDM.from_pairs([(0, 1)], num_classes=4))
    logits, embeddings = normal(12, 4), normal(12, 5, seed=1)
    labels = torch.cat([LABELS, LABELS])
    terms = JointLoss(FineLabelsOnly(contrast), MarginalCrossEntropy(GROUPS)).terms(logits, embeddings, labels)
    assert_close(terms.classification, MarginalCrossEntropy(GROUPS)(logits, labels))
    assert_close(terms.contrastive, contrast(embeddings[labels < 4], labels[labels < 4]))


def test_a_contrast_that_would_take_groups_for_classes_is_refused():
    contrast = LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=4))
    sentence = (
        "contrastive would take coarse labels for classes: give FineLabelsOnly(LabelDistanceContrastiveLoss(...))."
    )
    assert refusal_of(ValueError, JointLoss, contrast, MarginalCrossEntropy(GROUPS)) == sentence
    check_coarse_contrast(contrast, nn.CrossEntropyLoss())
    check_coarse_contrast(FineLabelsOnly(contrast), MarginalCrossEntropy(GROUPS))
