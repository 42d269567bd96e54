"""The cross-batch memory and the two-view loss, compared with plain computations."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import ContrastiveLoss, NTXentLoss, SupConLoss, TripletMarginLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor, nn
from torch.testing import assert_close

from labeldist import (
    AdaptiveLDM,
    CrossBatchMemory,
    LabelDistanceContrastiveLoss,
    LabelDistanceMiner,
    StaticLDM,
    TwoViewLoss,
    functional,
)
from labeldist.pairs import Batch
from strategies import brief, gradient_of, normal, refusal_of

LDM = torch.tensor([[1, 5, 2], [3, 1, 1], [2, 1, 1]], dtype=torch.float64)
NO_POSITIVES = "No row of this batch has a positive"
DIM = 3


def label_distance(**options) -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(LDM, temperature=0.5, **options)


def batch(number: int, seed: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(3, (number,), generator=torch.Generator().manual_seed(seed))
    return normal(number, DIM, seed=seed), labels


def memory(size=7, loss: nn.Module | None = None, **options) -> CrossBatchMemory:
    return CrossBatchMemory(loss or label_distance(), DIM, memory_size=size, **options)


class PlainQueue:
    """A memory as a plain list of rows, oldest first."""

    def __init__(self, size: int):
        self.size = size
        self.rows: list[Tensor] = []
        self.labels: list[int] = []

    def enter(self, embeddings: Tensor, labels: Tensor) -> None:
        self.rows = [*self.rows, *embeddings.detach()][-self.size :]
        self.labels = [*self.labels, *labels.tolist()][-self.size :]

    def loss(self, embeddings: Tensor, labels: Tensor, *, is_own: bool = True) -> Tensor:
        """The mean loss of the batch against the queue; with `is_own` the batch is the end of the queue."""
        is_candidate = torch.ones(len(labels), len(self.rows), dtype=torch.bool)
        if is_own:
            for row in range(len(labels)):
                is_candidate[row, len(self.rows) - len(labels) + row] = False
        references, ref_labels = torch.stack(self.rows), torch.tensor(self.labels)
        positives = (labels[:, None] == ref_labels[None, :]) & is_candidate
        losses, is_valid = functional.anchor_losses(
            Batch(embeddings, labels, references, ref_labels),
            functional.class_pair_tables(LDM, temperature=0.5),
            pairs=(positives, is_candidate),
        )
        return losses.sum() / max(int(is_valid.sum()), 1)


def assert_near(actual, expected):
    assert_close(actual, expected, rtol=1e-10, atol=1e-12)


# The memory


@pytest.mark.filterwarnings(f"ignore:{NO_POSITIVES}")
@brief
@given(st.integers(4, 9), st.lists(st.integers(1, 4), min_size=1, max_size=7), st.integers(0, 1000))
def test_the_memory_is_a_plain_queue_of_any_size_for_batches_of_any_size(size, lengths, seed):
    queue, plain = memory(size), PlainQueue(size)
    queue.to(torch.float64)
    for number, length in enumerate(lengths):
        embeddings, labels = batch(length, seed + number)
        ours, theirs = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
        loss = queue(ours, labels)
        plain.enter(embeddings, labels)
        expected = plain.loss(theirs, labels)
        assert_near(loss, expected)
        loss.backward()
        expected.backward()
        assert_near(gradient_of(ours), gradient_of(theirs))


def test_rows_that_enter_the_queue_are_references_of_those_that_do_not():
    queue, plain = memory(), PlainQueue(7)
    for seed in range(4):
        embeddings, labels = batch(6, seed)
        mask = torch.tensor([True, False, True, True, False, False]).roll(seed)
        plain.enter(embeddings[mask], labels[mask])
        expected = plain.loss(embeddings[~mask], labels[~mask], is_own=False)
        assert_near(queue(embeddings, labels, enqueue_mask=mask), expected)


def test_a_call_that_adds_no_row_does_not_change_the_queue():
    queue, plain = memory(), PlainQueue(7)
    embeddings, labels = batch(4, 0)
    queue(embeddings, labels)
    plain.enter(embeddings, labels)
    for seed in (1, 2):
        embeddings, labels = batch(3, seed)
        loss = queue(embeddings, labels, enqueue_mask=torch.zeros(3, dtype=torch.bool))
        assert_near(loss, plain.loss(embeddings, labels, is_own=False))
    assert (queue.queue_idx, queue.has_been_filled) == (4, False)


def test_pmls_memory_treats_the_queue_as_full_after_such_a_call():
    # The bug in PML: empty slots count as rows of zeros in class 0.
    queue = pml_losses.CrossBatchMemory(SupConLoss(), DIM, memory_size=7)
    embeddings, labels = batch(4, 0)
    queue(embeddings, labels)
    queue(embeddings, labels, enqueue_mask=torch.zeros(4, dtype=torch.bool))
    assert queue.has_been_filled


def test_an_empty_queue_gives_loss_0_and_gradient_0():
    queue = memory()
    embeddings, labels = batch(4, 0)
    with pytest.warns(UserWarning, match=NO_POSITIVES):
        loss = queue(embeddings.requires_grad_(), labels, enqueue_mask=torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not gradient_of(embeddings).any()


def test_a_batch_of_one_row_is_not_its_own_positive():
    queue = memory()
    embedding, label = normal(1, DIM), torch.tensor([1])
    with pytest.warns(UserWarning, match=NO_POSITIVES):
        assert queue(embedding, label) == 0
    other = normal(1, DIM, seed=1)
    # Two rows of one class: the only candidate is the positive.
    assert queue(other, label) == 0
    assert queue(normal(1, DIM, seed=2), torch.tensor([0])) == 0
    # Now there are two positives and a negative.
    assert queue(normal(1, DIM, seed=3), label) > 0


def test_an_empty_batch_gives_0_and_does_not_change_the_queue():
    queue = memory()
    queue(*batch(3, 0))
    embeddings = torch.zeros(0, DIM, dtype=torch.float64, requires_grad=True)
    loss = queue(embeddings, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert queue.queue_idx == 3


# A passed indices_tuple


def no_pairs(embeddings, labels, ref_emb, ref_labels):
    """A miner that returns no pairs, so that only the passed ones remain."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return nothing, nothing, nothing, nothing


def no_triplets(embeddings, labels, ref_emb, ref_labels):
    return no_pairs(embeddings, labels, ref_emb, ref_labels)[:3]


class Seen(ContrastiveLoss):
    """A loss that PML supports by name and that stores its arguments."""

    seen: tuple[tuple[Tensor, ...], Tensor, Tensor]

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        assert indices_tuple is not None
        assert ref_emb is not None
        assert ref_labels is not None
        # Copy the arguments, because PML writes into the queue that it passes.
        self.seen = indices_tuple, ref_emb.clone(), ref_labels.clone()
        return embeddings.sum()


Seen.__name__ = "ContrastiveLoss"


def handed_over(memory_type: Callable[..., Any], miner, mined_in_batch: Callable) -> list[tuple]:
    """The arguments of the loss in a memory of 7, for six batches of 3 with passed pairs: the queue wraps twice."""
    loss = Seen()
    queue = memory_type(loss, DIM, memory_size=7, miner=miner)
    calls = []
    for seed in range(6):
        embeddings, labels = batch(3, seed)[0], torch.tensor([0, 0, 1])
        mined = mined_in_batch(embeddings, labels)
        queue(embeddings, labels, mined)
        calls.append((embeddings, mined, *loss.seen[:2]))
    return calls


def in_pairs(embeddings, labels):
    return lmu.get_all_pairs_indices(labels)


def in_triplets(embeddings, labels):
    return lmu.get_all_triplets_indices(labels)


OUTSIDE = [(no_pairs, in_pairs), (no_triplets, in_triplets), (no_pairs, in_triplets)]
OUTSIDE_IDS = ["pairs", "triplets", "triplets among pairs"]


def rows_named(calls) -> list[bool]:
    """For each call, whether each index refers to the same row as in the batch."""
    named = []
    for embeddings, mined, listed, queue in calls:
        mined = lmu.convert_to_pairs(mined, None) if len(listed) == 4 else mined
        is_reference = (False, True, True) if len(listed) == 3 else (False, True, False, True)
        rights = [
            torch.equal((queue if moved else embeddings)[there].double(), embeddings[here])
            for here, there, moved in zip(mined, listed, is_reference, strict=True)
        ]
        named.append(all(rights))
    return named


@pytest.mark.parametrize(("miner", "mined_in_batch"), OUTSIDE, ids=OUTSIDE_IDS)
def test_a_passed_tuple_refers_to_the_same_rows_of_the_queue_in_every_batch(miner, mined_in_batch):
    assert rows_named(handed_over(CrossBatchMemory, miner, mined_in_batch)) == [True] * 6


@pytest.mark.parametrize(("miner", "mined_in_batch"), OUTSIDE, ids=OUTSIDE_IDS)
def test_in_pmls_memory_it_refers_to_other_rows_from_the_second_batch_on(miner, mined_in_batch):
    # The bug in PML. If this test fails, PML has fixed it.
    assert rows_named(handed_over(pml_losses.CrossBatchMemory, miner, mined_in_batch)) == [True] + [False] * 5


def test_passed_positives_have_the_anchors_class_unlike_in_pmls_memory():
    def wrong_positives(memory_type) -> list[int]:
        loss = Seen()
        queue = memory_type(loss, DIM, memory_size=9, miner=no_pairs)
        wrong = []
        for seed, labels in enumerate(([0, 0, 1], [2, 2, 1], [1, 1, 0])):
            labels = torch.tensor(labels)
            queue(batch(3, seed)[0], labels, lmu.get_all_pairs_indices(labels))
            (anchors, positives, *_), _, ref_labels = loss.seen
            wrong.append(int((labels[anchors] != ref_labels[positives]).sum()))
        return wrong

    assert wrong_positives(CrossBatchMemory) == [0, 0, 0]
    assert wrong_positives(pml_losses.CrossBatchMemory) == [0, 2, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32], ids=str)
def test_indices_may_have_any_integer_dtype(dtype):
    expected, found = memory(), memory()
    for seed in range(4):
        embeddings, labels = batch(5, seed)
        mined = lmu.get_all_pairs_indices(labels)
        value = expected(embeddings, labels, mined)
        assert torch.equal(found(embeddings, labels, tuple(part.to(dtype) for part in mined)), value)


def as_pairs(indices_tuple, slots: Tensor | None) -> tuple[set, set]:
    """Positive pairs and all pairs of a tuple, without pairs of a row with its own slot."""
    anchors, positives, *rest = (indices.tolist() for indices in indices_tuple)
    is_other = [slots is None or slots[a] != p for a, p in zip(anchors, positives, strict=True)]
    listed = {pair for pair, keep in zip(zip(anchors, positives, strict=True), is_other, strict=True) if keep}
    if len(rest) == 2:
        return listed, listed | set(zip(*rest, strict=True))
    kept = zip(anchors, rest[0], is_other, strict=True)
    return listed, listed | {(anchor, negative) for anchor, negative, keep in kept if keep}


@pytest.mark.parametrize("mined_in_batch", [in_pairs, in_triplets], ids=["pairs", "triplets"])
@pytest.mark.parametrize("output", ["pairs", "triplets"])
def test_passed_pairs_are_used_in_addition_to_those_of_the_memorys_miner(output, mined_in_batch):
    miner = LabelDistanceMiner(LDM, num_negatives=1, num_positives=1, output=output)
    queue, loss = memory(miner=miner), label_distance()
    for seed in range(4):
        embeddings, _ = batch(3, seed)
        labels = torch.tensor([0, 0, 1])
        value = queue(embeddings, labels, mined_in_batch(embeddings, labels))
        slots = (torch.arange(3) + 3 * seed) % 7
        end = 7 if seed > 1 else 3 * (seed + 1)
        references = {"ref_emb": queue.embedding_memory[:end], "ref_labels": queue.label_memory[:end]}
        positives, pairs = as_pairs(miner(embeddings, labels, **references), slots)
        given = mined_in_batch(embeddings, labels)
        given = lmu.convert_to_triplets(given, labels) if output == "triplets" else given
        given_positives, given_pairs = as_pairs(given, None)
        moved = {(anchor, int(slots[other])) for anchor, other in given_pairs}
        positives |= {(anchor, int(slots[other])) for anchor, other in given_positives}
        listed = [torch.tensor(sorted(part)).T for part in (positives, (pairs | moved) - positives)]
        assert_near(value, loss(embeddings, labels, (*listed[0], *listed[1]), **references))


# Gradients, state, copies


def with_a_learnt_matrix():
    return LabelDistanceContrastiveLoss(StaticLDM(nn.Parameter(LDM.clone())), temperature=0.5)


def with_dot_products():
    """A loss whose graph holds the queue itself."""
    return SupConLoss(distance=DotProductSimilarity(normalize_embeddings=False))


def gradients(queue, *, is_together: bool) -> list[Tensor]:
    """Gradients of four batches and of the loss, by one backward for all calls or one for each."""
    rows = [batch(4, seed)[0].requires_grad_() for seed in range(4)]
    losses = []
    for seed, row in enumerate(rows):
        losses.append(queue(row, batch(4, seed)[1]))
        if not is_together:
            losses[-1].backward()
    if is_together:
        torch.stack(losses).sum().backward()
    return [gradient_of(tensor) for tensor in (*rows, *queue.parameters())]


@pytest.mark.parametrize("loss", [label_distance, with_a_learnt_matrix, with_dot_products], ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [16, 5], ids=["before it is full", "after it has gone round"])
def test_several_calls_may_come_before_one_backward(size, loss):
    together = gradients(memory(size, loss()), is_together=True)
    for found, expected in zip(together, gradients(memory(size, loss()), is_together=False), strict=True):
        assert_near(found, expected)


def test_in_pmls_memory_a_second_call_breaks_the_backward_of_the_first():
    # What is mended.
    queue = pml_losses.CrossBatchMemory(with_dot_products(), DIM, memory_size=5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(queue, is_together=True)


def run_on(queue: CrossBatchMemory, seeds) -> list[Tensor]:
    return [queue(*batch(3, seed)) for seed in seeds]


def through_torch(queue, fresh, path):
    torch.save(queue.state_dict(), path)
    fresh.load_state_dict(torch.load(path, weights_only=True))


def through_safetensors(queue, fresh, path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(queue.state_dict(), path)
    fresh.load_state_dict(safetensors.load_file(path))


def through_a_saved_model(queue, fresh, path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_model(queue, str(path))
    safetensors.load_model(fresh, str(path))


@pytest.mark.parametrize("carry", [through_torch, through_safetensors, through_a_saved_model])
@pytest.mark.parametrize("num_batches", [1, 4], ids=["before it is full", "in mid-ring"])
def test_a_memory_resumes_from_a_checkpoint(tmp_path, num_batches, carry):
    queue = memory(loss=LabelDistanceContrastiveLoss(AdaptiveLDM(3))).to(torch.float64)
    run_on(queue, range(num_batches))
    fresh = memory(loss=LabelDistanceContrastiveLoss(AdaptiveLDM(3))).to(torch.float64)
    carry(queue, fresh, tmp_path / "state")
    assert fresh.queue_idx == queue.queue_idx
    assert fresh.has_been_filled == queue.has_been_filled
    for found, expected in zip(run_on(fresh, range(9, 13)), run_on(queue, range(9, 13)), strict=True):
        assert torch.equal(found, expected)


def test_pmls_memory_does_not_save_the_position_in_its_queue():
    # What is mended.
    queue, fresh = (pml_losses.CrossBatchMemory(SupConLoss(), DIM, memory_size=7) for _ in range(2))
    queue(*batch(3, 0))
    fresh.load_state_dict(queue.state_dict())
    assert (queue.queue_idx, fresh.queue_idx) == (3, 0)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda queue: pickle.loads(pickle.dumps(queue))], ids=["deepcopy", "pickle"]
)
def test_a_copy_has_its_own_queue(copied):
    queue = memory()
    run_on(queue, range(4))
    other = copied(queue)
    expected = run_on(queue, range(4, 8))
    assert [float(loss) for loss in run_on(other, range(4, 8))] == [float(loss) for loss in expected]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_queue_has_the_precision_of_the_rows(dtype):
    queue, plain = memory(), PlainQueue(7)
    for seed in range(4):
        embeddings, labels = batch(5, seed)
        plain.enter(embeddings.to(dtype).double(), labels)
        expected = plain.loss(embeddings.to(dtype).double(), labels)
        assert_close(queue(embeddings.to(dtype), labels).double(), expected, rtol=1e-5, atol=1e-5)
    assert queue.embedding_memory.dtype == dtype


def test_a_reset_memory_equals_a_new_one():
    queue = memory()
    expected = run_on(queue, range(3))
    queue.reset_queue()
    assert run_on(queue, range(3)) == expected


# Losses of PML


@pytest.mark.parametrize(
    "loss",
    [SupConLoss, NTXentLoss, ContrastiveLoss, TripletMarginLoss, pml_losses.MultiSimilarityLoss],
    ids=lambda loss: loss.__name__,
)
def test_a_loss_of_pml_gives_the_same_in_pmls_memory(loss):
    ours = memory(9, loss())
    theirs = pml_losses.CrossBatchMemory(loss(), DIM, memory_size=9)
    for seed in range(6):
        embeddings, labels = batch(5, seed)
        torch.manual_seed(seed)  # triplets may be drawn
        value = ours(embeddings, labels)
        torch.manual_seed(seed)
        assert_near(value, theirs(embeddings, labels))


@pytest.mark.parametrize("miner", [MultiSimilarityMiner(), TripletMarginMiner(margin=0.5)], ids=["pairs", "triplets"])
def test_a_miner_of_pml_mines_the_queue(miner):
    ours = memory(9, SupConLoss(), miner=miner)
    theirs = pml_losses.CrossBatchMemory(SupConLoss(), DIM, memory_size=9, miner=miner)
    for seed in range(6):
        embeddings, labels = batch(5, seed)
        assert_near(ours(embeddings, labels), theirs(embeddings, labels))


# Errors


@pytest.mark.parametrize("wrapper", [lambda loss: CrossBatchMemory(loss, DIM), TwoViewLoss], ids=["memory", "views"])
def test_a_loss_without_references_is_refused(wrapper):
    message = refusal_of(TypeError, wrapper, pml_losses.VICRegLoss())
    assert "takes a LabelDistanceContrastiveLoss or one of PML's AngularLoss, " in message
    assert message.endswith("got VICRegLoss.")


@pytest.mark.parametrize(
    ("arguments", "options", "start"),
    [
        ((normal(3, DIM), None), {}, "CrossBatchMemory needs labels"),
        ((normal(3, 4), torch.tensor([0, 1, 0])), {}, "embeddings must have shape (B, 3) and labels (B,), got (3, 4)"),
        ((normal(3), torch.tensor([0, 1, 0])), {}, "embeddings must have shape (B, 3) and labels (B,), got (3,)"),
        ((normal(3, DIM), torch.tensor([0, 1])), {}, "embeddings must have shape (B, 3) and labels (B,), got (3, 3)"),
        (
            batch(8, 0),
            {},
            "the memory must hold a whole batch: memory_size is 7, the batch enqueues 8 rows. Make memory_size larger.",
        ),
        (
            batch(9, 0),
            {"enqueue_mask": torch.arange(9) > 0},
            "the memory must hold a whole batch: memory_size is 7, the batch enqueues 8 rows.",
        ),
        (
            batch(3, 0),
            {"enqueue_mask": torch.tensor([0, 1, 1])},
            "enqueue_mask must be boolean with shape (3,), got torch.int64 (3,).",
        ),
        (
            batch(3, 0),
            {"enqueue_mask": torch.tensor([True])},
            "enqueue_mask must be boolean with shape (3,), got torch.bool (1,).",
        ),
        (
            batch(3, 0),
            {"indices_tuple": (torch.tensor([0]), torch.tensor([3]), torch.tensor([1]))},
            "positives of indices_tuple must lie in [0, 3), got values from 3 to 3.",
        ),
        (
            batch(3, 0),
            {"indices_tuple": (torch.tensor([0]),) * 3, "enqueue_mask": torch.ones(3, dtype=torch.bool)},
            "indices_tuple and enqueue_mask are mutually exclusive",
        ),
    ],
    ids=[
        "no labels",
        "other columns",
        "one axis",
        "too few labels",
        "a large batch",
        "many enqueued",
        "a mask of integers",
        "a short mask",
        "an index out of range",
        "pairs and a mask",
    ],
)
def test_a_bad_call_raises_a_clear_error(arguments, options, start):
    assert refusal_of(ValueError, memory(), *arguments, **options).startswith(start)


@pytest.mark.parametrize(("size", "name"), [((0, 7), "embedding_size"), ((DIM, 0), "memory_size")])
def test_a_memory_without_room_is_refused(size, name):
    assert refusal_of(ValueError, CrossBatchMemory, label_distance(), *size) == f"{name} must be at least 1, got 0."


# Two views


FIRST, SECOND = normal(5, DIM), normal(5, DIM, seed=1)
LABELS = torch.tensor([0, 1, 0, 2, 1])


def test_two_views_are_stacked():
    loss = label_distance()
    expected = loss(torch.cat([FIRST, SECOND]), LABELS.repeat(2))
    assert torch.equal(TwoViewLoss(loss)(FIRST, SECOND, LABELS), expected)
    # The paper's 2M rows: the positives of a row are its other view and the rows of its class in both views.
    assert_near(
        expected,
        functional.label_distance_contrastive(
            torch.cat([FIRST, SECOND]), LABELS.repeat(2), LDM, temperature=0.5
        ).mean(),
    )


def test_one_view_may_be_the_references_of_the_other():
    loss = label_distance()
    expected = functional.label_distance_contrastive(
        FIRST, LABELS, LDM, ref_emb=SECOND, ref_labels=LABELS, temperature=0.5
    )
    assert_near(TwoViewLoss(loss, symmetric=False)(FIRST, SECOND, LABELS), expected.mean())
    swapped = TwoViewLoss(loss, symmetric=False)(SECOND, FIRST, LABELS)
    assert not torch.isclose(swapped, expected.mean())


@pytest.mark.parametrize("symmetric", [True, False], ids=["stacked", "references"])
def test_both_views_receive_gradients(symmetric):
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    loss = TwoViewLoss(label_distance(), symmetric=symmetric)
    assert torch.autograd.gradcheck(lambda *views: loss(*views, LABELS), (first, second))
    loss(first, second, LABELS).backward()
    assert (gradient_of(first) != 0).any(dim=1).all()
    assert (gradient_of(second) != 0).any(dim=1).all()


@pytest.mark.parametrize("symmetric", [True, False], ids=["stacked", "references"])
@pytest.mark.parametrize("loss", [SupConLoss(), NTXentLoss(), ContrastiveLoss()], ids=lambda loss: type(loss).__name__)
def test_with_row_numbers_as_labels_a_loss_of_pml_gives_the_same_as_in_pml(loss, symmetric):
    ours = TwoViewLoss(loss, symmetric=symmetric)(FIRST, SECOND, torch.arange(5))
    assert_near(ours, pml_losses.SelfSupervisedLoss(loss, symmetric=symmetric)(FIRST, SECOND))


def test_views_without_labels_are_refused():
    message = refusal_of(ValueError, TwoViewLoss(label_distance()), FIRST, SECOND)
    assert message == "TwoViewLoss needs labels: pass the class of each row, as in loss(embeddings, ref_emb, labels)."


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ((FIRST, SECOND[:4], LABELS), "got (5, 3), (4, 3) and (5,)."),
        ((FIRST, SECOND[:, :2], LABELS), "got (5, 3), (5, 2) and (5,)."),
        ((FIRST, SECOND, LABELS[:4]), "got (5, 3), (5, 3) and (4,)."),
    ],
    ids=["rows", "columns", "labels"],
)
def test_views_with_different_shapes_are_refused(arguments, got):
    message = refusal_of(ValueError, TwoViewLoss(label_distance()), *arguments)
    assert message == f"both views must have shape (M, D) and labels (M,), {got}"


def test_row_numbers_are_refused_as_labels():
    with pytest.raises(ValueError, match="not ids of rows"):
        TwoViewLoss(label_distance())(FIRST, SECOND, torch.arange(5))
