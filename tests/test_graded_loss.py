"""Graded targets in the loss class and in what is built around it: memory, views, chunks, compilers, precision."""

import copy
import pickle
import shutil
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import reducers
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import nn
from torch.testing import assert_close

import reference
from labeldist import (
    CachedGradients,
    CrossBatchMemory,
    JointLoss,
    LabelDistanceContrastiveLoss,
    StaticLDM,
    TwoViewLoss,
    label_distance_contrastive,
)
from strategies import brief, graded, gradient_of, normal, refusal_of

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 0, 3, 1, 0])
LDM = torch.tensor([[1, 5, 2, 1], [3, 1, 1, 0.5], [2, 1, 1, 4], [1, 1, 6, 1]], dtype=torch.float64)
RELEVANCE = torch.tensor([[1, 0.3, 0, 0], [0.1, 1, 0, 0.2], [0, 0, 2, 0.5], [0, 0, 0.4, 1]], dtype=torch.float64)


def loss_of(relevance: Any = RELEVANCE, **options):
    return LabelDistanceContrastiveLoss(LDM, temperature=0.3, relevance=relevance, **options)


def expected_losses(rows, labels=LABELS, **options):
    losses = reference.graded_anchor_losses(
        rows.tolist(), labels.tolist(), LDM.tolist(), RELEVANCE.tolist(), temperature=0.3, **options
    )
    return torch.tensor(losses, dtype=torch.float64)


class Learned(nn.Module):
    """A table of relevance that stays positive: the exponential of its parameter."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.logarithms = nn.Parameter(torch.zeros(num_classes, num_classes, dtype=torch.float64))

    def forward(self):
        return self.logarithms.exp()


@pytest.mark.parametrize("backend", ["eager", "blockwise", "auto"])
def test_the_loss_is_the_mean_over_the_anchors_with_a_relevant_reference(backend):
    labels = LABELS.clone()
    labels[labels == 2] = 3
    labels[2] = 2  # its relatives are of class 3
    rows = normal(11, 5)
    losses = expected_losses(rows, labels)
    assert_close(loss_of(backend=backend)(rows, labels), losses.mean())
    alone = torch.tensor([0, 2, 2])  # class 0 has no relative among these
    losses = expected_losses(rows[:3], alone)
    assert_close(loss_of(backend=backend)(rows[:3], alone), losses[1:].mean())


@brief
@given(graded(), st.sampled_from(["eager", "blockwise", "auto"]))
def test_the_function_has_the_losses_of_the_specification(case, backend):
    problem, relevance = case
    arguments = problem.embeddings, problem.labels, problem.ldm
    losses = label_distance_contrastive(*arguments, relevance=relevance, backend=backend, **problem.options)
    plain, options = problem.plain()
    expected = reference.graded_anchor_losses(*plain, relevance=relevance.tolist(), **options)
    assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_without_relevance_state_and_value_are_those_of_before():
    plain, graded_ = loss_of(None), loss_of(torch.eye(4))
    assert set(plain.state_dict()) == {"ldm.matrix"}
    assert set(graded_.state_dict()) == {"ldm.matrix", "relevance"}
    assert plain.relevance_table() is None
    rows = normal(11, 5)
    assert torch.equal(plain(rows, LABELS), graded_(rows, LABELS))


def test_the_table_is_copied_saved_and_restored():
    table = RELEVANCE.clone()
    loss = loss_of(table)
    table.fill_(7)
    assert torch.equal(loss.state_dict()["relevance"], RELEVANCE)
    other = loss_of(torch.ones(4, 4).double())
    other.load_state_dict(loss.state_dict())
    rows = normal(11, 5)
    for twin in (other, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin(rows, LABELS), loss(rows, LABELS))


def test_lists_and_whole_numbers_are_tables_too():
    rows = normal(4, 3)
    losses = [
        LabelDistanceContrastiveLoss(torch.ones(2, 2), relevance=relevance)(rows, torch.tensor([0, 1, 0, 1]))
        for relevance in ([[2, 1], [1, 2]], torch.tensor([[2, 1], [1, 2]]), [[2.0, 1.0], [1.0, 2.0]])
    ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("backend", ["eager", "blockwise"])
def test_a_parameter_and_a_module_learn(backend):
    parameter, module = nn.Parameter(torch.ones(4, 4).double()), Learned()
    losses = [loss_of(parameter, backend=backend), loss_of(module, backend=backend)]
    assert dict(losses[0].named_parameters()).keys() == {"relevance"}
    assert dict(losses[1].named_parameters()).keys() == {"relevance.logarithms"}
    for loss in losses:
        loss(normal(11, 5), LABELS).backward()
    # d exp(x) / dx = 1 at 0
    assert_close(gradient_of(module.logarithms), gradient_of(parameter))
    assert (gradient_of(parameter) != 0).all()


def test_a_learned_table_that_becomes_negative_is_refused_in_the_call():
    parameter = nn.Parameter(torch.eye(4))
    loss = loss_of(parameter)
    with torch.no_grad():
        parameter[0, 1] = -0.1
    assert "Entries of relevance must be finite and non-negative, got -0.1" in refusal_of(
        ValueError, loss, normal(11, 5), LABELS
    )


@pytest.mark.parametrize(
    ("relevance", "error", "message"),
    [
        (torch.eye(3), ValueError, "relevance must have shape (C, C) = (4, 4), got (3, 3)."),
        (-torch.eye(4), ValueError, "Entries of relevance must be finite and non-negative, got -1.0"),
        (torch.ones(4, 4).fill_diagonal_(0), ValueError, "The relevance of a class to itself must be above 0"),
        ("siblings", TypeError, "relevance must be a (C, C) table or a module that returns one, got str."),
    ],
)
def test_what_is_no_table_is_refused(relevance, error, message):
    assert message in refusal_of(error, loss_of, relevance)


def test_a_module_that_returns_no_table_is_refused():
    class Nothing(nn.Module):
        def forward(self):
            return None

    assert "got Nothing, which returns NoneType" in refusal_of(TypeError, loss_of, Nothing())


# The contract of pytorch-metric-learning


def test_references_and_a_second_view_are_those_of_the_loops():
    rows, others, ref_labels = normal(11, 5), normal(6, 5, seed=1), torch.tensor([3, 2, 1, 0, 0, 1])
    expected = expected_losses(rows, ref_emb=others.tolist(), ref_labels=ref_labels.tolist())
    assert_close(loss_of()(rows, LABELS, ref_emb=others, ref_labels=ref_labels), expected.mean())
    views = TwoViewLoss(loss_of())
    second = normal(11, 5, seed=2)
    assert_close(views(rows, second, LABELS), expected_losses(torch.cat([rows, second]), LABELS.repeat(2)).mean())


@pytest.mark.parametrize("num_tensors", [3, 4])
def test_a_list_chooses_the_pairs_and_the_table_says_how_relevant_they_are(num_tensors):
    rows = normal(11, 5)
    miner = TripletMarginMiner(margin=0.5) if num_tensors == 3 else MultiSimilarityMiner(epsilon=0.3)
    mined = miner(rows, LABELS)
    assert len(mined) == num_tensors
    a1, p, a2, n = lmu.convert_to_pairs(mined, LABELS)
    candidates = {*zip(a1.tolist(), p.tolist(), strict=True), *zip(a2.tolist(), n.tolist(), strict=True)}
    losses = expected_losses(rows, candidates=candidates)
    is_valid = torch.tensor([any(a == i and RELEVANCE[LABELS[a], LABELS[j]] for a, j in candidates) for i in range(11)])
    assert_close(loss_of()(rows, LABELS, mined), losses[is_valid].mean())


def test_listed_negatives_of_related_classes_are_weak_positives():
    rows, labels = normal(3, 4), torch.tensor([0, 1, 3])
    none = torch.tensor([], dtype=torch.int64)
    # Nothing is listed as positive. Class 1 is relevant to class 0, class 3 is not.
    listed = none, none, torch.tensor([0, 0]), torch.tensor([1, 2])
    with torch.no_grad():
        assert loss_of()(rows, labels, listed) > 0
        assert loss_of(torch.eye(4).double())(rows, labels, listed) == 0


@pytest.mark.parametrize(
    "reducer",
    [reducers.MeanReducer(), reducers.AvgNonZeroReducer(), reducers.PerAnchorReducer(), reducers.SumReducer()],
)
def test_reducers_take_one_loss_an_anchor(reducer):
    rows = normal(11, 5)
    value = loss_of(reducer=reducer)(rows, LABELS)
    losses = expected_losses(rows)
    assert_close(value, losses.sum() if isinstance(reducer, reducers.SumReducer) else losses.mean())


def test_statistics_are_those_of_the_classes():
    rows = normal(11, 5)
    plain, graded_ = loss_of(None, collect_stats=True), loss_of(collect_stats=True)
    for loss in (plain, graded_):
        loss(rows, LABELS)
    assert graded_.mean_positive_similarity == pytest.approx(plain.mean_positive_similarity)
    assert graded_.num_valid_anchors == 11


def test_a_batch_without_relatives_warns_once():
    loss = loss_of()
    with pytest.warns(UserWarning, match="another row of a relevant class"):
        loss(normal(2, 4).requires_grad_(), torch.tensor([0, 3]))


# What is built around it


def test_a_memory_compares_with_related_rows_of_earlier_batches():
    memory = CrossBatchMemory(loss_of(), embedding_size=5, memory_size=22)
    first, second = normal(11, 5).float(), normal(11, 5, seed=1).float()
    memory(first, LABELS)
    value = memory(second, LABELS.flip(0))
    queue, queue_labels = torch.cat([first, second]), torch.cat([LABELS, LABELS.flip(0)])
    candidates = {(i, j) for i in range(11) for j in range(22) if j != 11 + i}
    expected = reference.graded_anchor_losses(
        second.tolist(),
        LABELS.flip(0).tolist(),
        LDM.tolist(),
        RELEVANCE.tolist(),
        ref_emb=queue.tolist(),
        ref_labels=queue_labels.tolist(),
        temperature=0.3,
        candidates=candidates,
    )
    assert value.item() == pytest.approx(sum(expected) / 11, rel=1e-5)


def test_a_joint_loss_adds_cross_entropy():
    rows, logits = normal(11, 5), normal(11, 4, seed=1)
    terms = JointLoss(loss_of()).terms(logits, rows, LABELS)
    assert_close(terms.contrastive, loss_of()(rows, LABELS))


def test_chunks_have_the_gradient_of_the_whole_batch():
    whole, chunked = (nn.Linear(6, 5).double() for _ in range(2))
    chunked.load_state_dict(whole.state_dict())
    inputs = normal(11, 6)
    loss_of()(whole(inputs), LABELS).backward()
    loss_of()(CachedGradients(chunked, chunk_size=4)(inputs), LABELS).backward()
    assert_close(gradient_of(chunked.weight), gradient_of(whole.weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["eager", "blockwise"])
def test_half_precision_rows_are_computed_in_single_precision(dtype, backend):
    rows = normal(11, 5).to(dtype).requires_grad_()
    loss = LabelDistanceContrastiveLoss(LDM.float(), temperature=0.3, relevance=RELEVANCE.to(dtype), backend=backend)
    value = loss(rows, LABELS)
    assert value.dtype == torch.float32
    value.backward()
    assert gradient_of(rows).dtype == dtype
    exact = rows.detach().double().requires_grad_()
    losses = label_distance_contrastive(
        exact, LABELS, LDM.float().double(), temperature=0.3, relevance=RELEVANCE.to(dtype).double()
    )
    assert_close(value.double(), losses.mean(), rtol=1e-5, atol=1e-6)
    losses.mean().backward()
    assert_close(gradient_of(rows).double(), gradient_of(exact), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("backend", ["eager", "blockwise"])
def test_autocast_changes_nothing(backend):
    rows = normal(11, 5).float()
    loss = loss_of(RELEVANCE.float(), backend=backend)
    expected = loss(rows, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(rows, LABELS), expected)


# torch.compile


@pytest.fixture
def compiler():
    import torch._dynamo.testing

    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()


def assert_compiles(compiler, backend, relevance):
    counted = compiler.testing.CompileCounterWithBackend(backend)
    loss = LabelDistanceContrastiveLoss(LDM.float(), temperature=0.3, relevance=relevance)
    compiled = torch.compile(loss, fullgraph=True, backend=counted)
    for seed, labels in ((0, LABELS), (1, LABELS.flip(0))):
        plain, traced = (normal(11, 5, seed=seed, dtype=torch.float32).requires_grad_() for _ in range(2))
        values = loss(plain, labels), compiled(traced, labels)
        for value in values:
            value.backward()
        assert_close(*values)
        assert_close(gradient_of(traced), gradient_of(plain))
    assert counted.frame_count == 1


@pytest.mark.parametrize(
    "relevance",
    [RELEVANCE.float(), nn.Parameter(RELEVANCE.float()), Learned()],
    ids=["a table", "a parameter", "a module"],
)
def test_the_loss_is_one_graph_traced_once(compiler, relevance):
    assert_compiles(compiler, "aot_eager", relevance)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_loss_and_gradient(compiler):
    assert_compiles(compiler, "inductor", RELEVANCE.float())


def test_the_tiles_run_uncompiled(compiler):
    loss = loss_of(backend="blockwise")
    compiled = torch.compile(loss, backend="aot_eager")
    rows = normal(11, 5)
    assert_close(compiled(rows, LABELS), loss(rows, LABELS))


@pytest.mark.parametrize("classes_per_group", [2, 4])
def test_the_mean_over_levels_is_graded_targets_of_one_table(classes_per_group):
    num_classes, per_class = 2 * classes_per_group, 3
    labels = torch.arange(num_classes).repeat(per_class)
    groups = torch.arange(num_classes) // classes_per_group
    same = (groups[:, None] == groups).double()
    ldm = torch.ones(num_classes, num_classes, dtype=torch.float64)

    def gradient(*tables):
        rows = normal(len(labels), 5).requires_grad_()
        losses = [LabelDistanceContrastiveLoss(ldm, temperature=0.3, relevance=table)(rows, labels) for table in tables]
        torch.stack(losses).mean().backward()
        return gradient_of(rows)

    in_class, in_group = per_class - 1, classes_per_group * per_class - 1
    weight = in_class / (in_class + in_group)
    assert_close(gradient(None, same), gradient(weight * same.fill_diagonal_(0) + torch.eye(num_classes).double()))


def test_a_learned_matrix_and_learned_targets_learn_together():
    ldm, relevance = StaticLDM(nn.Parameter(LDM.clone())), nn.Parameter(RELEVANCE.clone())
    loss = LabelDistanceContrastiveLoss(ldm, temperature=0.3, relevance=relevance)
    loss(normal(11, 5), LABELS).backward()
    assert (gradient_of(ldm.matrix) != 0).any()
    assert (gradient_of(relevance)[RELEVANCE > 0] != 0).all()
