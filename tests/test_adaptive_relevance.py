"""Graded targets that are learned from confusion counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from labeldist import AdaptiveLDM, AdaptiveRelevance, LabelDistanceContrastiveLoss, Relation, StaticLDM
from labeldist.integrations._shared.matrices import main_matrix
from strategies import gradient_of, normal

COUNTS = torch.tensor([[6, 4, 0], [2, 7, 1], [0, 0, 10]])
LABELS = torch.arange(9) % 3
ONES = StaticLDM.uniform(1.0, num_classes=3)


@given(st.floats(0.01, 1), st.floats(0, 3), st.floats(0, 1), st.floats(1.5, 50))
def test_one_update_is_a_share_of_the_relevance_of_the_confusions(progress, weight, level, max_distance):
    learned = AdaptiveLDM(3, warmup_fraction=0.0, max_distance=max_distance)
    learned.update(COUNTS, progress=progress)
    table = AdaptiveRelevance(learned, weight=weight, level=level)()
    closeness = (1 - progress) * Relation.from_confusion(COUNTS).closeness.fill_diagonal_(0)
    expected = weight * closeness.where(closeness >= level, torch.zeros(()))
    # A closeness at the level itself may be rounded to either side.
    off = ~torch.eye(3, dtype=torch.bool) & ((closeness - level).abs() > 1e-4)
    assert_close(table[off], expected[off], rtol=1e-4, atol=1e-5)
    assert torch.equal(table.diagonal(), torch.ones(3))


def test_the_loss_is_plain_until_the_matrix_has_moved():
    rows, learned = normal(9, 5), AdaptiveLDM(3, warmup_fraction=0.0)
    plain = LabelDistanceContrastiveLoss(ONES)
    graded = LabelDistanceContrastiveLoss(ONES, relevance=AdaptiveRelevance(learned))
    assert_close(graded(rows, LABELS), plain(rows, LABELS))
    learned.update(COUNTS, progress=0.5)
    gradients = []
    for loss in (graded, LabelDistanceContrastiveLoss(ONES, relevance=AdaptiveRelevance(learned)()), plain):
        own = rows.clone().requires_grad_()
        loss(own, LABELS).backward()
        gradients.append(gradient_of(own))
    assert_close(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])


def test_integrations_find_the_matrix_that_learns_and_a_state_keeps_it():
    learned = AdaptiveLDM(3, warmup_fraction=0.0)
    loss = LabelDistanceContrastiveLoss(ONES, relevance=AdaptiveRelevance(learned))
    assert main_matrix(loss, "contrastive") is learned
    learned.update(COUNTS, progress=0.2)
    other = AdaptiveRelevance(AdaptiveLDM(3))
    LabelDistanceContrastiveLoss(ONES, relevance=other).load_state_dict(loss.state_dict())
    assert torch.equal(other(), AdaptiveRelevance(learned)())
    assert other()[0, 1] > 0


@pytest.mark.parametrize(
    ("matrix", "options", "sentence"),
    [
        ({"use": "far"}, {}, r"needs an AdaptiveLDM with use='near'.* got use='far'"),
        ({"normalization": "count"}, {}, r"got .*normalization='count'"),
        ({"max_distance": 1.0}, {}, r"got .*max_distance=1\.0\."),
        ({}, {"weight": -1.0}, r"weight must be a finite number of at least 0, got -1\.0\."),
        ({}, {"weight": float("nan")}, r"weight must be a finite number of at least 0, got nan\."),
        ({}, {"level": 1.5}, r"level must lie in \[0, 1\], got 1\.5\."),
    ],
)
def test_what_cannot_be_is_refused(matrix, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        AdaptiveRelevance(AdaptiveLDM(3, **matrix), **options)


def test_a_matrix_that_does_not_learn_is_refused():
    with pytest.raises(TypeError, match=r"ldm must be an AdaptiveLDM, .* got StaticLDM\. .*Relation\.relevance"):
        AdaptiveRelevance(ONES)  # type: ignore[arg-type]
