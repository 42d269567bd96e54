"""The contrast of rows with a fine label: every loss around it and in it sees those rows alone."""

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, ProxyAnchorLoss, SupConLoss, TripletMarginLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from torch import nn
from torch.testing import assert_close

from labeldist import (
    CrossBatchMemory,
    DistributedLossWrapper,
    FineLabelsOnly,
    JointLoss,
    LabelDistanceContrastiveLoss,
    MarginalCrossEntropy,
    StaticLDM,
    TwoViewLoss,
)
from labeldist.coarse import takes_coarse_labels
from strategies import gradient_of, normal, refusal_of

LABELS = torch.tensor([0, 3, 1, 1, 4, 0, 2, 3, 1])
FINE = LABELS < 3


def label_distance(**options):
    return LabelDistanceContrastiveLoss(StaticLDM.from_pairs([(0, 1)], num_classes=3), temperature=0.2, **options)


def rows(seed: int = 0) -> torch.Tensor:
    return normal(len(LABELS), 4, seed=seed).requires_grad_()


def of_fine_rows(loss, embeddings, **options):
    return loss(embeddings[FINE], LABELS[FINE], **options)


LOSSES = [
    label_distance,
    lambda: label_distance(weighting="log", backend="blockwise"),
    SupConLoss,
    ContrastiveLoss,
    lambda: ProxyAnchorLoss(3, 4).double(),
]


@pytest.mark.parametrize("make", LOSSES)
def test_value_and_gradient_are_those_of_the_fine_rows(make):
    loss, embeddings = make(), rows()
    value = FineLabelsOnly(loss, 3)(embeddings, LABELS)
    value.backward()
    expected_rows = rows()
    expected = of_fine_rows(loss, expected_rows)
    expected.backward()
    assert_close(value, expected)
    assert_close(gradient_of(embeddings), gradient_of(expected_rows))
    assert (gradient_of(embeddings)[~FINE] == 0).all()


@pytest.mark.parametrize("is_own_reference", [True, False])
def test_coarse_references_are_left_out(is_own_reference):
    loss, embeddings, others = label_distance(), rows(), rows(1)
    if is_own_reference:
        # By identity, as losses tell it: no row is paired with itself.
        value = FineLabelsOnly(loss)(embeddings, LABELS, ref_emb=embeddings, ref_labels=LABELS)
        assert_close(value, of_fine_rows(loss, embeddings))
    else:
        value = FineLabelsOnly(loss)(embeddings, LABELS, ref_emb=others, ref_labels=LABELS.flip(0))
        references = {"ref_emb": others[FINE.flip(0)], "ref_labels": LABELS.flip(0)[FINE.flip(0)]}
        assert_close(value, of_fine_rows(loss, embeddings, **references))


@pytest.mark.parametrize("miner", [MultiSimilarityMiner(epsilon=0.5), TripletMarginMiner(margin=2.0)])
@pytest.mark.parametrize("has_references", [False, True])
def test_listed_pairs_are_those_of_the_fine_rows(miner, has_references):
    loss, embeddings, others = TripletMarginLoss(), rows().detach(), rows(1).detach()
    # A copy: PML takes the very same labels for those of the anchors themselves.
    references = {"ref_emb": others, "ref_labels": LABELS.clone()} if has_references else {}
    fine = {"ref_emb": others[FINE], "ref_labels": LABELS[FINE]} if has_references else {}
    mined = miner(embeddings, LABELS, **references)
    value = FineLabelsOnly(loss, 3)(embeddings, LABELS, mined, **references)
    kept = miner(embeddings[FINE], LABELS[FINE], **fine)
    if len(mined) == 3:
        assert len(kept[0]) < len(mined[0])
        assert_close(value, of_fine_rows(loss, embeddings, indices_tuple=kept, **fine))
    # The miner weighs pairs against each other, so that fine rows alone are mined differently: compare by hand.
    position = FINE.long().cumsum(0) - 1
    keeps = [FINE[one] & FINE[other] for one, other in ((mined[0], mined[1]), (mined[-2], mined[-1]))]
    if len(mined) == 4:
        by_hand = (
            *(position[indices[keeps[0]]] for indices in mined[:2]),
            *(position[indices[keeps[1]]] for indices in mined[2:]),
        )
        assert_close(value, of_fine_rows(loss, embeddings, indices_tuple=by_hand, **fine))


def test_indices_may_be_empty_and_of_any_integer_dtype():
    empty = torch.zeros(0, dtype=torch.int64)
    pairs = (torch.tensor([2, 0], dtype=torch.int16), torch.tensor([3, 1], dtype=torch.uint8), empty, empty)
    value = FineLabelsOnly(label_distance())(rows(), LABELS, pairs)
    # Rows 2 and 3 are the second and third fine ones; the pair of rows 0 and 1 has a coarse one.
    expected = (torch.tensor([1]), torch.tensor([2]), empty, empty)
    assert_close(value, of_fine_rows(label_distance(), rows(), indices_tuple=expected))


def test_pairs_out_of_range_are_refused():
    pairs = (torch.tensor([9]), torch.tensor([0]), torch.tensor([0]))
    message = refusal_of(ValueError, FineLabelsOnly(label_distance()), rows(), LABELS, pairs)
    assert message.startswith("anchors of indices_tuple must lie in [0, 9), got values from 9 to 9.")


@pytest.mark.parametrize("make", [label_distance, SupConLoss, lambda: CrossBatchMemory(SupConLoss(), 4, 8)])
@pytest.mark.parametrize("labels", [LABELS + 3, LABELS[:0]])
def test_without_a_fine_row_the_loss_is_0_and_connected(make, labels):
    embeddings = rows()
    value = FineLabelsOnly(make(), 3)(embeddings[: len(labels)], labels)
    value.backward()
    assert value.item() == 0
    assert (gradient_of(embeddings) == 0).all()


def test_coarse_rows_never_enter_a_queue():
    queue, expected = (CrossBatchMemory(label_distance(), 4, memory_size=16) for _ in range(2))
    mask = torch.arange(len(LABELS)) % 2 == 0
    for seed in range(3):
        assert_close(FineLabelsOnly(queue)(rows(seed), LABELS), of_fine_rows(expected, rows(seed)))
    masked = FineLabelsOnly(queue)(rows(), LABELS, enqueue_mask=mask)
    assert_close(masked, of_fine_rows(expected, rows(), enqueue_mask=mask[FINE]))
    assert torch.equal(queue.label_memory, expected.label_memory)
    assert queue.queue_idx == expected.queue_idx


def test_two_views_a_memory_and_processes_may_be_around_it():
    inner, fine = label_distance(), FineLabelsOnly(label_distance())
    both = torch.cat([rows()[FINE], rows(1)[FINE]])
    assert_close(TwoViewLoss(fine)(rows(), rows(1), LABELS), inner(both, LABELS[FINE].repeat(2)))
    memory, expected = CrossBatchMemory(fine, 4, memory_size=20), CrossBatchMemory(inner, 4, memory_size=20)
    for seed in range(2):
        assert_close(memory(rows(seed), LABELS), of_fine_rows(expected, rows(seed)))
    assert_close(DistributedLossWrapper(fine)(rows(), LABELS), of_fine_rows(inner, rows()))


def test_a_queue_of_several_processes_needs_the_other_order():
    assert refusal_of(TypeError, DistributedLossWrapper, FineLabelsOnly(CrossBatchMemory(label_distance(), 4))) == (
        "DistributedLossWrapper keeps the queues of all processes equal, for a CrossBatchMemory that it holds itself. "
        "Swap the wrappers: FineLabelsOnly(DistributedLossWrapper(CrossBatchMemory(...)))."
    )
    queue = FineLabelsOnly(DistributedLossWrapper(CrossBatchMemory(label_distance(), 4)))
    assert_close(queue(rows(), LABELS), of_fine_rows(CrossBatchMemory(label_distance(), 4), rows()))


def test_classes_are_those_of_the_matrix_or_given():
    assert FineLabelsOnly(CrossBatchMemory(label_distance(), 4)).num_classes == 3
    assert refusal_of(ValueError, FineLabelsOnly, SupConLoss()) == (
        "num_classes is required: SupConLoss has no label-distance matrix to take it from."
    )
    assert refusal_of(ValueError, FineLabelsOnly, label_distance(), 4) == (
        "num_classes must be that of the LDM, 3, got 4."
    )
    assert refusal_of(TypeError, FineLabelsOnly, StaticLDM.uniform(num_classes=3)) == (
        "loss must be a loss of embeddings and labels, got StaticLDM."
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((rows(), None), "labels are required, and ref_labels with ref_emb: they tell fine labels from coarse ones."),
        (
            (rows(), LABELS, None, rows()),
            "labels are required, and ref_labels with ref_emb: they tell fine labels from coarse ones.",
        ),
        (
            (rows(), LABELS[1:]),
            "labels must have shape (9,), got (8,). Pass one label for each row of embeddings.",
        ),
    ],
)
def test_a_bad_call_raises_a_clear_error(arguments, sentence):
    assert refusal_of(ValueError, FineLabelsOnly(label_distance()), *arguments) == sentence


def test_a_module_is_searched_for_the_loss_of_coarse_labels():
    joint = JointLoss(FineLabelsOnly(label_distance()), MarginalCrossEntropy([[0, 1]], num_classes=3))
    assert takes_coarse_labels(nn.Sequential(joint))
    assert not takes_coarse_labels(label_distance())
    assert not takes_coarse_labels(None)
