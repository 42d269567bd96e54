"""Graded targets in the blockwise loss, compared with the equations: losses, gradients, memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from batches import INFINITY, arguments_of, batch, mirrored
from labeldist import functional
from labeldist.backends import _targets, blockwise
from labeldist.functional import AnchorLosses
from labeldist.pairs import Batch, ClassPairTables
from process_groups import results_of_group
from strategies import LargestTensor, brief, graded, normal, problems_with_references, thorough

tile_sizes = st.sampled_from([1, 3, 100])


def relevance_of(num_classes, *, seed=7, dtype=torch.float64):
    """An asymmetric table with zeros, small and large entries."""
    values = normal(num_classes, num_classes, seed=seed, dtype=dtype)
    return values.exp().masked_fill(values < 0, 0).fill_diagonal_(1.5)


def eager(anchors, labels, references, ref_labels, scale, bias, relevance):
    tables = ClassPairTables(scale, bias, relevance=relevance)
    return functional.anchor_losses(Batch(anchors, labels, references, ref_labels), tables)


def tiled(anchors, labels, references, ref_labels, scale, bias, relevance, **options) -> AnchorLosses:
    tables = ClassPairTables(scale, bias, relevance=relevance)
    return blockwise.anchor_losses(Batch(anchors, labels, references, ref_labels), tables, **options)


def results_of(function, arguments, **options):
    """Losses, validity, and the gradient of each differentiable argument."""
    learned = [
        argument.detach().clone().requires_grad_()
        if torch.is_tensor(argument) and argument.is_floating_point()
        else argument
        for argument in arguments
    ]
    losses, is_valid = function(*learned, **options)
    inputs = [argument for argument in learned if torch.is_tensor(argument) and argument.requires_grad]
    upstream = normal(len(losses), seed=5, dtype=losses.dtype)
    return losses.detach(), is_valid, *torch.autograd.grad(losses, inputs, upstream)


def assert_as_eager(arguments, **options):
    expected = results_of(eager, arguments)
    for actual, wanted in zip(results_of(tiled, arguments, **options), expected, strict=True):
        assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


@thorough
@given(graded(), tile_sizes)
def test_losses_and_gradients_are_those_of_the_equations(case, tile_rows):
    problem, relevance = case
    assert_as_eager((*arguments_of(problem), relevance), tile_rows=tile_rows)


@thorough
@given(graded(problems_with_references()), tile_sizes)
def test_references_give_the_losses_and_gradients_of_the_equations(case, tile_rows):
    problem, relevance = case
    assert_as_eager((*arguments_of(problem), relevance), tile_rows=tile_rows)


@pytest.mark.parametrize("most_classes", [0, 1000], ids=["selected", "all"])
@pytest.mark.parametrize("is_mirrored", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("num_classes", [1, 3, 60])
@pytest.mark.parametrize(("num_rows", "dim"), [(0, 3), (1, 3), (2, 1), (17, 5)])
def test_every_size_agrees_with_the_equations(num_rows, dim, num_classes, is_mirrored, most_classes, monkeypatch):
    monkeypatch.setattr(blockwise, "MAX_CLASSES_UNSELECTED", most_classes)
    arguments = batch(num_rows, num_classes, dim)
    arguments = mirrored(arguments) if is_mirrored else arguments
    assert_as_eager((*arguments, relevance_of(num_classes)), tile_rows=8)


@thorough
@given(st.one_of(graded(), graded(problems_with_references())), st.sampled_from([1, 7, 1000]))
def test_listed_entries_give_the_losses_and_gradients_of_the_equations(case, most_numbers):
    problem, relevance = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "MAX_CLASSES_UNSELECTED", 0)
        patch.setattr(blockwise, "ENTRY_COST", 0)
        patch.setattr(_targets, "MAX_ENTRY_NUMBERS", most_numbers)
        assert_as_eager((*arguments_of(problem), relevance))


def test_few_entries_are_listed_and_many_are_not():
    sparse = torch.eye(200) + torch.eye(200).roll(1, 0)
    assert blockwise._few_entries(ClassPairTables(sparse, sparse, relevance=sparse)) is not None
    assert blockwise._few_entries(ClassPairTables(sparse, sparse, relevance=torch.ones(200, 200))) is None
    assert_as_eager((*batch(150, 200, 5), sparse.double()))


@pytest.mark.parametrize("num_classes", [4, 40])
@pytest.mark.parametrize("num_references", [0, 1, 31])
@pytest.mark.parametrize("num_rows", [0, 17])
def test_every_number_of_references_agrees_with_the_equations(num_rows, num_references, num_classes, monkeypatch):
    monkeypatch.setattr(blockwise, "MAX_CLASSES_UNSELECTED", 8)
    arguments = batch(num_rows, num_classes, 5, num_references=num_references)
    assert_as_eager((*arguments, relevance_of(num_classes)), tile_rows=8)


@brief
@given(st.sampled_from([1e-12, 1e-4, 0.3]), st.sampled_from([None, 11]))
def test_the_identity_and_faint_siblings_keep_every_digit(faint, num_references):
    # Classes of one row: the anchor must cancel exactly in the sum of its class, or its rounding is divided by `faint`.
    rows, _, references, ref_labels, scale, bias = batch(11, 11, 6, num_references=num_references)
    arguments = rows, torch.arange(11), references, ref_labels, scale, bias.clamp_min(-3)
    relevance = torch.eye(11).double() + faint * relevance_of(11).fill_diagonal_(0)
    expected = results_of(eager, (*arguments, relevance))[0]
    single = [value.float() if torch.is_tensor(value) and value.is_floating_point() else value for value in arguments]
    actual = tiled(*single, relevance=relevance.float()).losses
    assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def test_excluded_class_pairs_are_no_targets():
    rows, labels, _, _, scale, _ = batch(9, 2, 3)
    relevance = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    for excluded in ([[0, 0]], [[0, 1]], [[0, 0], [0, 1]]):
        bias = torch.zeros(2, 2, dtype=torch.float64)
        for a, b in excluded:
            bias[a, b] = -INFINITY
        assert_as_eager((rows, labels, None, None, scale, bias, relevance), tile_rows=4)


def test_the_identity_gives_the_losses_of_no_relevance():
    arguments = batch(41, 5, 6)
    tables = ClassPairTables(*arguments[-2:])
    plain = blockwise.anchor_losses(Batch(*arguments[:2]), tables)
    graded_ = tiled(*arguments, relevance=torch.eye(5, dtype=torch.float64))
    assert torch.equal(plain.is_valid, graded_.is_valid)
    assert_close(graded_.losses, plain.losses, rtol=1e-12, atol=1e-12)


def test_a_table_that_is_not_learned_needs_no_gradient():
    arguments = [*batch(21, 4, 5), relevance_of(4)]
    wanted = results_of(eager, arguments)[2]
    rows = arguments[0].clone().requires_grad_()
    losses = tiled(rows, *arguments[1:]).losses
    assert_close(torch.autograd.grad(losses, rows, normal(21, seed=5))[0], wanted, rtol=1e-9, atol=1e-9)


def test_no_tensor_is_of_the_size_of_the_pairs_or_of_the_classes_times_the_dimensions_squared():
    num_rows, num_classes, dim = 1500, 300, 32
    arguments = batch(num_rows, num_classes, dim, dtype=torch.float32)
    arguments[0].requires_grad_()
    relevance = relevance_of(num_classes, dtype=torch.float32).requires_grad_()
    with LargestTensor() as largest:
        tiled(*arguments, relevance=relevance, tile_rows=64).losses.sum().backward()
    assert largest.num_elements <= max(2 * num_classes**2, 2 * num_rows * dim)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("num_references", [None, 23])
def test_a_process_group_has_the_losses_of_one_process_and_the_sum_of_its_gradients(num_references, size):
    arguments = [*batch(29, 4, 5, num_references=num_references), relevance_of(4)]
    expected = results_of(eager, arguments)

    def one(group):
        return results_of(tiled, arguments, tile_rows=4, group=group)

    everywhere = results_of_group(size, one)
    for losses, is_valid, *_ in everywhere:
        assert_close(losses, expected[0], rtol=1e-9, atol=1e-9)
        assert torch.equal(is_valid, expected[1])
    num_row_gradients = 1 if num_references is None else 2
    for position in range(2, 2 + num_row_gradients):
        # Each process had the upstream gradient of the whole batch.
        total = sum(results[position] for results in everywhere) / size
        assert_close(total, expected[position], rtol=1e-9, atol=1e-9)
    for position in range(2 + num_row_gradients, len(expected)):
        mean = sum(results[position] for results in everywhere) / size
        assert_close(mean, expected[position], rtol=1e-9, atol=1e-9)


def test_a_second_derivative_is_refused():
    arguments = [*batch(9, 3, 4), relevance_of(3)]
    rows = arguments[0].requires_grad_()
    losses = tiled(rows, *arguments[1:]).losses
    (gradient,) = torch.autograd.grad(losses.sum(), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        gradient.sum().backward()
