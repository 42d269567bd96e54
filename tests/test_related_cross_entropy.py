"""Soft labels and a margin by the relation of the classes, against the cross-entropy and loops in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from labeldist import JointLoss, LabelDistanceContrastiveLoss, RelatedCrossEntropy, Relation, StaticLDM
from strategies import thorough

SIZES = st.integers(2, 6)
AMOUNTS = st.floats(0.05, 3.0)


def drawn(num_classes: int, seed: int, num_rows: int = 7):
    generator = torch.Generator().manual_seed(seed)
    closeness = torch.rand(num_classes, num_classes, generator=generator, dtype=torch.float64).fill_diagonal_(1)
    logits = 3 * torch.randn(num_rows, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (num_rows,), generator=generator)
    return Relation(closeness), logits, labels


def by_loops(relation, logits, labels, softness, margin, weight=None) -> float:
    """The equation of the docstring, term by term."""
    total, divisor = 0.0, 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        distances = [1 - value for value in relation.closeness[label].tolist()]
        parts = [math.exp(-distance / softness) if softness else float(distance == 0) for distance in distances]
        raised = [value + margin * distance for value, distance in zip(row, distances, strict=True)]
        log_sum = math.log(sum(math.exp(value) for value in raised))
        for other, part in enumerate(parts):
            of_class = 1.0 if weight is None else float(weight[other])
            total -= of_class * part / sum(parts) * (raised[other] - log_sum)
        divisor += 1.0 if weight is None else float(weight[label])
    return total / divisor


@thorough
@given(SIZES, AMOUNTS, AMOUNTS, st.booleans(), st.integers(0, 10**6))
def test_it_is_the_equation(num_classes, softness, margin, has_weight, seed):
    relation, logits, labels = drawn(num_classes, seed)
    weight = torch.rand(num_classes, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    loss = RelatedCrossEntropy(relation, softness=softness, margin=margin, weight=weight if has_weight else None)
    expected = by_loops(relation, logits, labels, softness, margin, weight if has_weight else None)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-9)


@thorough
@given(SIZES, st.floats(0, 0.5), st.booleans(), st.integers(0, 10**6))
def test_without_softness_and_margin_it_is_the_cross_entropy(num_classes, smoothing, has_weight, seed):
    relation, logits, labels = drawn(num_classes, seed)
    weight = (
        torch.rand(num_classes, generator=torch.Generator().manual_seed(seed)).double() + 0.1 if has_weight else None
    )
    loss = RelatedCrossEntropy(relation, label_smoothing=smoothing, weight=weight)
    expected = cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, labels), expected)


@thorough
@given(SIZES, AMOUNTS, AMOUNTS, st.integers(0, 10**6))
def test_the_order_of_the_classes_does_not_matter(num_classes, softness, margin, seed):
    relation, logits, labels = drawn(num_classes, seed)
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed))
    moved = Relation(relation.closeness[order][:, order])
    options = {"softness": softness, "margin": margin}
    again = RelatedCrossEntropy(moved, **options)(logits[:, order], order.argsort()[labels])
    torch.testing.assert_close(RelatedCrossEntropy(relation, **options)(logits, labels), again)


def test_equally_related_classes_make_it_label_smoothing():
    relation = Relation.from_groups([], class_names=["a", "b", "c", "d"])
    _, logits, labels = drawn(4, 0)
    softness = 0.5
    share = 4 * math.exp(-1 / softness) / (1 + 3 * math.exp(-1 / softness))
    expected = cross_entropy(logits, labels, label_smoothing=share)
    torch.testing.assert_close(RelatedCrossEntropy(relation, softness=softness)(logits, labels), expected)


def test_the_margin_asks_for_more_the_less_two_classes_are_related():
    loss = RelatedCrossEntropy(Relation.from_order(num_classes=3), margin=2.0)
    logits = torch.zeros(1, 3, requires_grad=True)
    loss(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    own, next_to_it, far_end = logits.grad[0].tolist()
    assert own < 0 < next_to_it < far_end


def test_gradients_are_those_of_the_equation():
    relation, logits, labels = drawn(4, 1)
    loss = RelatedCrossEntropy(relation, softness=0.3, margin=1.5)
    assert torch.autograd.gradcheck(lambda values: loss(values, labels), logits.requires_grad_())


def test_half_precision_is_computed_in_float32():
    relation, logits, labels = drawn(4, 2)
    loss = RelatedCrossEntropy(relation, softness=0.3, margin=1.0)
    half = logits.bfloat16()
    assert loss(half, labels).dtype == torch.float32
    torch.testing.assert_close(loss(half, labels), loss(half.float(), labels))


def test_it_is_the_classification_of_a_joint_loss():
    relation, logits, labels = drawn(4, 3)
    related = RelatedCrossEntropy(relation, softness=0.3)
    contrastive = LabelDistanceContrastiveLoss(StaticLDM.uniform(1.0, num_classes=4))
    joint = JointLoss(contrastive, ce_weight=1.0, classification=related)
    embeddings = torch.randn(len(labels), 8, dtype=torch.float64)
    torch.testing.assert_close(joint(logits, embeddings, labels), related(logits, labels))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"softness": -1.0}, "softness must be 0 or more and finite, got -1.0."),
        ({"softness": math.nan}, "softness must be 0 or more and finite, got nan."),
        ({"margin": math.inf}, "margin must be 0 or more and finite, got inf."),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, got 1.0."),
        ({"weight": torch.ones(2)}, r"weight must be one number for each of 3 classes, got \(2,\)."),
    ],
)
def test_bad_settings_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        RelatedCrossEntropy(Relation.from_order(num_classes=3), **options)


def test_bad_rows_are_refused():
    loss = RelatedCrossEntropy(Relation.from_order(num_classes=3), margin=1.0)
    with pytest.raises(ValueError, match=r"logits must have shape \(B, 3\)"):
        loss(torch.zeros(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
        loss(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(TypeError, match="labels must be integers"):
        loss(torch.zeros(2, 3), torch.tensor([0.0, 1.0]))
