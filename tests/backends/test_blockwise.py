"""The blockwise loss, compared with the equations: losses, gradients, accuracy, memory."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from batches import INFINITY, arguments_of, batch, mirrored
from labeldist import functional
from labeldist.backends import blockwise
from labeldist.distributed import SingleProcess
from labeldist.functional import AnchorLosses
from labeldist.pairs import Batch, ClassPairTables
from process_groups import results_of_group
from strategies import LargestTensor, brief, normal, problems, problems_with_references, refusal_of, thorough

tile_sizes = st.sampled_from([1, 2, 3, 5, 100])


def eager(anchors, labels, references, ref_labels, scale, bias):
    """The specification."""
    tables = ClassPairTables(scale, bias)
    return functional.anchor_losses(Batch(anchors, labels, references, ref_labels), tables)


def tiled(
    anchors, labels, references, ref_labels, scale, bias, *, is_symmetric=None, span=None, **options
) -> AnchorLosses:
    """The blockwise losses of the same arguments, with the properties of the tables."""
    tables = ClassPairTables(scale, bias, is_symmetric, span)
    return blockwise.anchor_losses(Batch(anchors, labels, references, ref_labels), tables, **options)


def converted(arguments, dtype) -> list[Any]:
    return [
        argument.to(dtype) if torch.is_tensor(argument) and argument.is_floating_point() else argument
        for argument in arguments
    ]


def results_of(function, arguments, *, learn_tables=True, **options):
    """Losses, validity, and the gradient of each differentiable argument for an upstream gradient of any signs."""
    rows, labels, references, ref_labels, *tables = (
        argument.detach().clone() if torch.is_tensor(argument) else argument for argument in arguments
    )
    learned = [rows] + [references] * (references is not None) + tables * learn_tables
    for tensor in learned:
        tensor.requires_grad_()
    losses, is_valid = function(rows, labels, references, ref_labels, *tables, **options)
    upstream = normal(len(labels), seed=5, dtype=rows.dtype)
    return losses.detach(), is_valid, *torch.autograd.grad(losses, learned, upstream)


def assert_as_eager(arguments, **options):
    expected = results_of(eager, arguments)
    for learn_tables in (True, False):
        results = results_of(tiled, arguments, learn_tables=learn_tables, **options)
        for actual, wanted in zip(results, expected, strict=learn_tables):
            assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


# Comparison with the specification


@thorough
@given(problems(), tile_sizes)
def test_losses_and_gradients_are_those_of_the_equations(problem, tile_rows):
    assert_as_eager(arguments_of(problem), tile_rows=tile_rows)


@brief
@given(problems(), tile_sizes)
def test_symmetric_tables_give_the_same_with_one_exponential_per_pair(problem, tile_rows):
    assert_as_eager(mirrored(arguments_of(problem)), tile_rows=tile_rows)


@thorough
@given(problems_with_references(), tile_sizes)
def test_references_give_the_losses_and_gradients_of_the_equations(problem, tile_rows):
    assert_as_eager(arguments_of(problem), tile_rows=tile_rows)


@pytest.mark.parametrize("is_mirrored", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("num_classes", [1, 3, 60])
@pytest.mark.parametrize(("num_rows", "dim"), [(0, 3), (1, 3), (2, 1), (15, 7), (16, 16), (17, 5), (37, 1)])
def test_every_size_agrees_with_the_equations(num_rows, dim, num_classes, is_mirrored):
    arguments = batch(num_rows, num_classes, dim)
    assert_as_eager(mirrored(arguments) if is_mirrored else arguments, tile_rows=8)


@pytest.mark.parametrize("num_references", [0, 1, 2, 16, 31])
@pytest.mark.parametrize("num_rows", [0, 1, 17])
def test_every_number_of_references_agrees_with_the_equations(num_rows, num_references):
    assert_as_eager(batch(num_rows, 4, 5, num_references=num_references), tile_rows=8)


def test_classes_of_one_row_agree_with_the_equations():
    rows, _, *others = batch(19, 19, 4)
    assert_as_eager((rows, torch.arange(19), *others), tile_rows=4)
    labels = torch.arange(19).clamp_min(2)
    assert_as_eager((rows, labels, *others), tile_rows=4)


def test_no_rows_and_no_classes_give_no_losses():
    rows, labels = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    losses, is_valid = tiled(rows, labels, None, None, torch.zeros(0, 0), torch.zeros(0, 0))
    assert losses.shape == is_valid.shape == (0,)


def test_a_class_with_removed_positives_has_no_loss_and_no_gradient():
    rows, labels, _, _, scale, _ = batch(9, 2, 3)
    bias = torch.tensor([[-INFINITY, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert_as_eager((rows, labels, None, None, scale, bias), tile_rows=4)
    assert_as_eager((rows, labels, None, None, scale, torch.full_like(bias, -INFINITY)), tile_rows=4)
    *_, of_bias = results_of(tiled, (rows, labels, None, None, scale, bias), tile_rows=4)
    assert of_bias[0, 0] == 0


@pytest.mark.parametrize("span", [None, math.inf])
@pytest.mark.parametrize("is_symmetric", [None, False])
def test_the_general_path_gives_the_same(is_symmetric, span):
    assert_as_eager(mirrored(batch(21, 3, 4)), is_symmetric=is_symmetric, span=span, tile_rows=8)


def test_tables_with_known_properties_are_not_read_again():
    assert_as_eager(mirrored(batch(21, 3, 4)), is_symmetric=True, span=40.0, tile_rows=8)


@pytest.mark.parametrize("is_mirrored", [False, True], ids=["asymmetric", "symmetric"])
def test_gradients_are_those_of_finite_differences(is_mirrored):
    rows, labels, _, _, scale, bias = mirrored(batch(7, 3, 3)) if is_mirrored else batch(7, 3, 3)
    learned = [tensor.requires_grad_() for tensor in (rows, scale + 1, bias.clamp_min(-2))]

    def function(rows, scale, bias):
        return tiled(rows, labels, None, None, scale, bias, tile_rows=3).losses

    assert torch.autograd.gradcheck(function, learned)
    assert torch.autograd.gradcheck(lambda rows: function(rows, *learned[1:]), learned[:1])


def test_only_inputs_that_need_a_gradient_get_one():
    arguments = batch(9, 3, 4, num_references=7)
    wanted = results_of(eager, arguments)[2:]
    for position, expected in zip((0, 2, 4, 5), wanted, strict=True):
        learned = arguments[position].clone().requires_grad_()
        changed = [learned if index == position else argument for index, argument in enumerate(arguments)]
        losses = tiled(*changed, tile_rows=4).losses
        (gradient,) = torch.autograd.grad(losses, learned, normal(9, seed=5))
        assert_close(gradient, expected)


# Numerical accuracy


def eager_of_unit_rows(anchors, labels, references, ref_labels, scale, bias):
    """The specification without the division by the norms."""
    logits = functional.pair_logits((anchors @ anchors.T + 1) / 2, labels, labels, ClassPairTables(scale, bias))
    pairs = functional.positive_pairs(labels), functional.other_rows(labels)
    return AnchorLosses(functional.contrastive_loss(logits, *pairs), functional.valid_anchors(logits, *pairs))


def tiled_unit_rows(anchors, labels, references, ref_labels, scale, bias):
    """The blockwise losses without that division, whose rounding errors are common to both."""
    options = blockwise.TileOptions(tile_rows=256, group=SingleProcess())
    return blockwise.unit_row_losses(Batch(anchors, labels), ClassPairTables(scale, bias), options)


LIKE_ROWS = functional.unit_rows(normal(1, 16) + 0.01 * normal(700, 16, seed=1))


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("is_mirrored", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize(
    ("rows", "num_classes"),
    [
        pytest.param(functional.unit_rows(normal(700, 16)), 5, id="spread rows"),
        pytest.param(functional.unit_rows(normal(700, 16)), 1, id="one class"),
        pytest.param(LIKE_ROWS, 5, id="like rows"),
        pytest.param(LIKE_ROWS[:1].expand(700, -1), 1, id="one row repeated"),
    ],
)
def test_float32_is_as_accurate_as_the_equations_in_float32(rows, num_classes, is_mirrored, temperature):
    scale = (1 + 4 * normal(num_classes, num_classes, seed=3).abs().clamp_max(1)) / temperature
    scale = torch.maximum(scale, scale.T) if is_mirrored else scale
    arguments = rows, torch.arange(700) * 7 % num_classes, None, None, scale, torch.zeros_like(scale)
    single = converted(arguments, torch.float32)
    # The rounding of the inputs is not an error of either implementation.
    truth = results_of(eager_of_unit_rows, converted(single, torch.float64))
    # Terms as large as the scale make up a loss and, times the gradient from above, the gradient of a row; that of a
    # table adds the gradients from above of all rows.
    upstream = normal(700, seed=5).abs()
    sizes = [scale.max(), 1, scale.max() * upstream.max(), upstream.sum(), upstream.sum()]
    bounds = [
        (eager_result - true).abs().max() + 4 * torch.finfo(torch.float32).eps * size
        for eager_result, true, size in zip(results_of(eager_of_unit_rows, single), truth, sizes, strict=True)
        if true.is_floating_point()
    ]
    for learn_tables in (True, False):
        results = results_of(tiled_unit_rows, single, learn_tables=learn_tables)
        errors = [
            (result - true).abs().max()
            for result, true in zip(results, truth, strict=learn_tables)
            if true.is_floating_point()
        ]
        assert all(error <= bound for error, bound in zip(errors, bounds, strict=learn_tables))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_mirrored", [False, True], ids=["asymmetric", "symmetric"])
def test_logits_far_beyond_the_range_of_exp_give_correct_losses(is_mirrored, dtype):
    arguments = batch(40, 3, 4, largest_scale=2000.0, dtype=dtype)
    arguments = mirrored(arguments) if is_mirrored else arguments
    expected = results_of(eager, arguments)
    for actual, wanted in zip(results_of(tiled, arguments, tile_rows=16), expected, strict=True):
        assert_close(actual, wanted, rtol=2e-3 if dtype == torch.float32 else 1e-9, atol=1e-3)


@pytest.mark.parametrize("largest", [66.0, 67.0, 80.0], ids=["bounded", "just not bounded", "not bounded"])
def test_a_scaled_gradient_does_not_overflow_where_all_logits_are_far_below_the_largest_possible(largest):
    # Two opposite rows: their one logit is 0.
    rows, labels = torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0])
    tables = torch.full((1, 1), largest), torch.zeros(1, 1)
    expected = 2.0**20 * results_of(eager, (rows, labels, None, None, *tables))[2]
    rows.requires_grad_()
    losses = tiled(rows, labels, None, None, *tables).losses
    (gradient,) = torch.autograd.grad(losses, rows, 2.0**20 * normal(2, seed=5, dtype=torch.float32))
    assert_close(gradient, expected, rtol=0, atol=2.0**20 * largest * 1e-6)


@pytest.mark.parametrize("offset", [-1000.0, 1000.0])
def test_a_bias_common_to_all_pairs_changes_nothing(offset):
    arguments = mirrored(batch(12, 3, 4))
    raised: tuple[Any, ...] = (*arguments[:5], arguments[5] + offset)
    plain = tiled(*arguments, tile_rows=5).losses
    assert_close(tiled(*raised, tile_rows=5).losses, plain)


@pytest.mark.parametrize("is_symmetric", [None, False])
def test_a_non_finite_embedding_gives_a_non_finite_loss(is_symmetric):
    rows, labels = normal(6, 3), torch.arange(6) % 2
    rows[0, 0] = math.nan
    tables = torch.ones(2, 2).double(), torch.zeros(2, 2).double()
    options = {"is_symmetric": is_symmetric, "tile_rows": 2}
    assert tiled(rows, labels, None, None, *tables, **options).losses.isnan().all()


@brief
@given(problems(min_rows=1))
def test_arguments_are_not_modified(problem):
    arguments = arguments_of(problem)
    copies = [argument.clone() if torch.is_tensor(argument) else argument for argument in arguments]
    tiled(*arguments, tile_rows=2)
    for copy, argument in zip(copies, arguments, strict=True):
        assert argument is None if copy is None else torch.equal(copy, argument)


@pytest.mark.parametrize("is_mirrored", [False, True], ids=["asymmetric", "symmetric"])
def test_two_runs_give_bitwise_equal_results(is_mirrored):
    arguments = batch(300, 4, 16, dtype=torch.float32)
    arguments = mirrored(arguments) if is_mirrored else arguments
    first, second = (results_of(tiled, arguments, tile_rows=64) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def nan_in_new_memory():
    """Let `new_empty` return NaN, so that reading uninitialized memory is visible."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("nan_in_new_memory")
@pytest.mark.parametrize("num_references", [None, 13])
def test_no_memory_is_read_before_it_is_written(num_references):
    assert torch.empty(3).isnan().all()
    arguments = batch(21, 3, 4, num_references=num_references)
    assert_as_eager(arguments, tile_rows=8)
    if num_references is None:
        assert_as_eager(mirrored(arguments), tile_rows=8)


# A process group


def results_of_process_group(size, arguments, **options) -> list[tuple[Tensor, ...]]:
    return results_of_group(size, lambda group: results_of(tiled, arguments, group=group, **options))


def assert_group_as_eager(arguments, size, **options):
    has_references = arguments[2] is not None
    losses, is_valid, *gradients = results_of(eager, arguments)
    of_rows, of_tables = gradients[: 1 + has_references], gradients[1 + has_references :]
    for learn_tables in (True, False):
        found = results_of_process_group(size, arguments, learn_tables=learn_tables, **options)
        for process in found:
            assert_close(process[0], losses, rtol=1e-9, atol=1e-9)
            assert torch.equal(process[1], is_valid)
            for actual, wanted in zip(process[2 + len(of_rows) :], of_tables, strict=learn_tables):
                assert_close(actual, wanted, rtol=1e-9, atol=1e-9)
        for position, wanted in enumerate(of_rows, start=2):
            # The gradients of the processes add up to the gradient of the sum of their losses.
            whole = sum(process[position] for process in found) / size
            assert_close(whole, wanted, rtol=1e-9, atol=1e-9)


@thorough
@given(problems(), st.sampled_from([2, 3, 5]))
def test_a_process_group_has_the_losses_and_gradients_of_one_process(problem, size):
    assert_group_as_eager(arguments_of(problem), size)


@brief
@given(problems(), st.sampled_from([2, 3, 5]))
def test_a_process_group_with_symmetric_tables_has_the_losses_and_gradients_of_one_process(problem, size):
    assert_group_as_eager(mirrored(arguments_of(problem)), size)


@brief
@given(problems_with_references(), st.sampled_from([2, 3, 5]))
def test_a_process_group_with_references_has_the_losses_and_gradients_of_one_process(problem, size):
    assert_group_as_eager(arguments_of(problem), size)


@pytest.mark.parametrize("is_mirrored", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("tile_rows", [3, 100])
def test_a_process_group_supports_tiles_of_any_size(tile_rows, is_mirrored):
    arguments = batch(37, 4, 5)
    assert_group_as_eager(mirrored(arguments) if is_mirrored else arguments, 4, tile_rows=tile_rows)


@pytest.mark.parametrize("is_mirrored", [False, True], ids=["asymmetric", "symmetric"])
def test_all_processes_of_a_group_have_bitwise_equal_results(is_mirrored):
    arguments = batch(200, 4, 16, dtype=torch.float32)
    arguments = mirrored(arguments) if is_mirrored else arguments
    first, *others = results_of_process_group(3, arguments)
    again = results_of_process_group(3, arguments)[0]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in others:
        assert all(torch.equal(first[position], other[position]) for position in (0, 1, 3, 4))


def test_logits_far_beyond_the_range_of_exp_give_correct_losses_in_a_process_group():
    assert_group_as_eager(batch(40, 3, 4, largest_scale=2000.0), 3)
    assert_group_as_eager(mirrored(batch(40, 3, 4, largest_scale=2000.0)), 3)


def test_a_non_finite_embedding_gives_non_finite_losses_on_all_processes():
    rows, *others = batch(9, 3, 4)
    rows[0, 0] = math.nan
    for process in results_of_process_group(3, (rows, *others)):
        assert process[0][process[1]].isnan().all()


# Memory


@pytest.mark.parametrize("num_references", [None, 600])
@pytest.mark.parametrize("learn_tables", [False, True])
def test_no_tensor_has_the_size_of_all_pairs(learn_tables, num_references):
    arguments = batch(600, 5, 8, num_references=num_references)
    with LargestTensor() as largest:
        results_of(tiled, arguments, learn_tables=learn_tables, tile_rows=32)
        if num_references is None:
            results_of(tiled, mirrored(arguments), learn_tables=learn_tables, tile_rows=32)
    # 600 x 8 rows, or four tiles of 32 x 32; all pairs are 360000.
    assert largest.num_elements <= 600 * 8


# With other features of torch


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradients_are_the_same_under_checkpointing(use_reentrant):
    rows, *others = mirrored(batch(17, 3, 4))
    plain, checkpointed = rows.clone().requires_grad_(), rows.clone().requires_grad_()

    def function(rows):
        return tiled(functional.unit_rows(rows), *others, tile_rows=8).losses.square().sum()

    function(plain).backward()
    loss = checkpoint(function, checkpointed, use_reentrant=use_reentrant)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert plain.grad is not None
    assert checkpointed.grad is not None
    assert torch.equal(plain.grad, checkpointed.grad)


def test_a_second_derivative_is_refused():
    rows, *others = batch(6, 2, 3)
    rows.requires_grad_()
    loss = tiled(rows, *others).losses.sum()
    (gradient,) = torch.autograd.grad(loss, rows, create_graph=True)
    message = refusal_of(RuntimeError, gradient.sum().backward)
    assert message == (
        "The blockwise loss can be differentiated once, got a second derivative. Use backend='eager' for that."
    )


def test_autocast_changes_nothing():
    arguments = mirrored(batch(12, 3, 4, dtype=torch.float32))
    expected = results_of(tiled, arguments, tile_rows=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = results_of(tiled, arguments, tile_rows=5)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


# torch.compile asks tensors for their gradient where it resumes after a break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_caller_gets_the_same_result():
    rows, *others = mirrored(batch(17, 3, 4))
    plain, compiled = rows.clone().requires_grad_(), rows.clone().requires_grad_()

    def function(rows):
        losses, is_valid = tiled(functional.unit_rows(rows * 2), *others, tile_rows=8)
        return losses.sum() / is_valid.sum()

    function(plain).backward()
    torch.compile(function, backend="eager")(compiled).backward()
    assert plain.grad is not None
    assert compiled.grad is not None
    assert_close(compiled.grad, plain.grad)


def test_a_tile_without_rows_is_refused():
    message = refusal_of(ValueError, tiled, *batch(3, 2, 2), tile_rows=0)
    assert message == "tile_rows must be at least 1, got 0."
