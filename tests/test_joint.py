"""The joint objective, Eq. 9: its parts, its classification loss, and its errors."""

import math

import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import reference
from labeldist import JointLoss, LabelDistanceContrastiveLoss, StaticLDM
from labeldist.joint import classification_loss
from strategies import gradient_of, normal, refusal_of

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3])  # classes 2 and 3 have one row: 5 of 7 anchors have a positive
LDM = torch.tensor([[1, 5, 2, 1], [3, 1, 1, 0.5], [2, 1, 1, 4], [1, 1, 6, 1]], dtype=torch.float64)
LONELY = torch.tensor([0, 1, 2, 3])


def embeddings_of(labels=LABELS):
    return normal(len(labels), 5).requires_grad_()


def assert_same(actual, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def anchor_losses():
    losses = reference.anchor_losses(embeddings_of().tolist(), LABELS.tolist(), LDM.tolist())
    return torch.tensor(losses, dtype=torch.float64)


def joint(weight=0.5):
    return JointLoss(LabelDistanceContrastiveLoss(LDM), ce_weight=weight)


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_the_joint_objective_is_equation_9(weight):
    logits = normal(7, 4, seed=3)
    expected = weight * cross_entropy(logits, LABELS) + (1 - weight) * anchor_losses().sum() / 5
    assert_same(joint(weight)(logits, embeddings_of(), LABELS), expected)


def test_the_default_weight_is_that_of_the_paper():
    assert JointLoss(LabelDistanceContrastiveLoss(LDM)).ce_weight == 0.5


def test_terms_returns_the_total_and_both_parts():
    logits = normal(7, 4, seed=3)
    total, classification, contrastive = joint(0.25).terms(logits, embeddings_of(), LABELS)
    assert_same(classification, cross_entropy(logits, LABELS))
    assert_same(contrastive, anchor_losses().sum() / 5)
    assert_same(total, 0.25 * classification + 0.75 * contrastive)
    assert_same(total, joint(0.25)(logits, embeddings_of(), LABELS))


def test_logits_of_the_first_view_alone_are_equation_10_literally():
    logits, embeddings, labels = normal(7, 4, seed=3), normal(14, 5), torch.cat([LABELS, LABELS])
    terms = joint().terms(logits, embeddings, labels)
    assert_same(terms.classification, cross_entropy(logits, LABELS))
    assert_same(terms.contrastive, LabelDistanceContrastiveLoss(LDM)(embeddings, labels))


@pytest.mark.parametrize("num_rows", [0, 8])
def test_logits_that_do_not_match_the_labels_are_refused(num_rows):
    message = refusal_of(ValueError, joint(), normal(num_rows, 4), embeddings_of(), LABELS)
    assert message == f"logits must have between 1 and 7 rows (one per label), got {num_rows}."


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_the_joint_weight_lies_between_0_and_1(weight):
    sentence = f"ce_weight (lambda of Eq. 9) must lie in [0, 1], got {weight}."
    assert refusal_of(ValueError, joint, weight) == sentence


@pytest.mark.parametrize("labels", [LABELS + 1, LABELS - 1])
def test_labels_out_of_range_raise_a_clear_error_before_the_cross_entropy(labels):
    message = refusal_of(ValueError, joint(), normal(7, 4), embeddings_of(), labels)
    assert message.startswith("labels must lie in [0, 4) for an LDM of 4 classes")


@pytest.mark.parametrize("other", [StaticLDM.uniform(num_classes=4), torch.ones(4, 4), joint(), None])
def test_the_joint_objective_accepts_only_a_loss(other):
    with pytest.raises(TypeError, match=rf"must be a loss of embeddings and labels, .* got {type(other).__name__}\."):
        JointLoss(other)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_the_joint_objective_may_have_any_integer_dtype(dtype):
    logits = normal(7, 4, seed=3)
    assert_same(joint()(logits, embeddings_of(), LABELS.to(dtype)), joint()(logits, embeddings_of(), LABELS))


def test_gradients_flow_to_logits_and_embeddings():
    logits, embeddings = normal(7, 4, seed=3).requires_grad_(), embeddings_of()
    assert torch.autograd.gradcheck(lambda *tensors: joint()(*tensors, LABELS), (logits, embeddings))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float64_is_kept_and_half_precision_gives_float32(dtype):
    total = joint()(normal(7, 4, seed=3, dtype=dtype), normal(7, 5, dtype=dtype), LABELS)
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = joint()(normal(7, 4, seed=3, dtype=dtype).double(), normal(7, 5, dtype=dtype).double(), LABELS)
    assert_close(total.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_joint_objective_is_the_same_under_autocast():
    logits, embeddings = normal(7, 4, seed=3, dtype=torch.bfloat16), normal(7, 5, dtype=torch.bfloat16)
    plain = joint()(logits, embeddings, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(joint()(logits, embeddings, LABELS), plain)


def test_another_contrastive_loss_works():
    logits = normal(7, 4, seed=3)
    total = JointLoss(SupConLoss())(logits, embeddings_of(), LABELS)
    assert_same(total, (cross_entropy(logits, LABELS) + SupConLoss()(embeddings_of(), LABELS)) / 2)


def test_a_batch_without_positives_trains_the_classifier_alone():
    logits, embeddings = normal(4, 4, seed=3).requires_grad_(), embeddings_of(LONELY)
    with pytest.warns(UserWarning, match="No row of this batch has a positive"):
        joint()(logits, embeddings, LONELY).backward()
    assert torch.equal(gradient_of(embeddings), torch.zeros_like(embeddings))
    assert (gradient_of(logits) != 0).any()


# The classification loss


def test_any_classification_loss_takes_the_place_of_cross_entropy():
    logits = normal(7, 4, seed=3)
    smoothed = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.0, 3.0]).double(), label_smoothing=0.2)
    terms = JointLoss(LabelDistanceContrastiveLoss(LDM), smoothed, ce_weight=0.25).terms(
        logits, embeddings_of(), LABELS
    )
    assert_same(terms.classification, smoothed(logits, LABELS))
    assert_same(terms.total, 0.25 * terms.classification + 0.75 * terms.contrastive)


def test_a_function_of_logits_and_labels_is_a_classification_loss():
    def focal(logits, labels):
        log_p = logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
        return (-((1 - log_p.exp()) ** 2) * log_p).mean()

    logits = normal(7, 4, seed=3)
    objective = JointLoss(LabelDistanceContrastiveLoss(LDM), focal)
    assert_same(objective.terms(logits, embeddings_of(), LABELS).classification, focal(logits, LABELS))


def test_the_classification_loss_is_saved_and_moved_with_the_objective():
    objective = JointLoss(LabelDistanceContrastiveLoss(LDM), nn.CrossEntropyLoss(weight=torch.ones(4)))
    assert "classification.weight" in objective.state_dict()
    assert objective.double().state_dict()["classification.weight"].dtype == torch.float64


def test_an_unreduced_classification_loss_is_refused():
    message = refusal_of(ValueError, classification_loss, nn.CrossEntropyLoss(reduction="none"), normal(7, 4), LABELS)
    assert message == ("the classification loss must be reduced to a scalar, got shape (7,). Use reduction='mean'.")


def test_a_classification_loss_must_be_callable():
    message = refusal_of(TypeError, JointLoss, LabelDistanceContrastiveLoss(LDM), 0.5)
    assert message == ("classification must be a loss of logits and labels, such as nn.CrossEntropyLoss(), got float.")
