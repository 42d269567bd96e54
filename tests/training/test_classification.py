import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from labeldist.training.classification import FocalLoss, balanced_weights, classification_loss
from labeldist.training.config import LossSettings

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 2, 1])


def test_plain_cross_entropy_needs_no_module_of_its_own():
    assert classification_loss(LossSettings(), LABELS, 3) is None


def test_balanced_weights_by_hand():
    # Four rows in two classes with rows: 4 / (2 * 3) and 4 / (2 * 1); the class without rows has 1.
    assert balanced_weights(torch.tensor([0, 0, 0, 2]), 3).tolist() == pytest.approx([2 / 3, 1.0, 2.0])


def test_smoothing_and_weights_are_those_of_pytorch():
    module = classification_loss(LossSettings(label_smoothing=0.2, class_weights="balanced"), LABELS, 3)
    assert isinstance(module, nn.Module)
    weight = torch.tensor([4 / 3, 2 / 3, 4 / 3])
    expected = cross_entropy(LOGITS, LABELS, weight, label_smoothing=0.2)
    torch.testing.assert_close(module(LOGITS, LABELS), expected)


def test_focal_loss_by_hand_and_without_focus_cross_entropy():
    p = LOGITS.softmax(dim=1)[torch.arange(4), LABELS]
    torch.testing.assert_close(FocalLoss(2.0)(LOGITS, LABELS), (-((1 - p) ** 2) * p.log()).mean())
    weight = torch.tensor([3.0, 1.0, 0.5])
    torch.testing.assert_close(FocalLoss(0.0, weight=weight)(LOGITS, LABELS), cross_entropy(LOGITS, LABELS, weight))
    module = classification_loss(LossSettings(focal_gamma=1.5, class_weights="balanced"), LABELS, 3)
    assert isinstance(module, FocalLoss)
    assert module.gamma == 1.5


def test_focal_loss_has_a_finite_gradient_where_a_row_is_certain():
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    FocalLoss(0.5)(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
