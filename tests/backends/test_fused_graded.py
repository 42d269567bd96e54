"""Graded targets in the Triton backend against the equations in float64: as `test_fused.py`, whose cases they are."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from process_groups import results_of_group
from strategies import normal, pairwise

pytest.importorskip("triton.language")

from test_fused import (
    DEVICE,
    MILD,
    ROUNDING,
    STEEP,
    arguments_of,
    assert_agrees,
    dirty_memory,
    eager_losses,
    fused_losses,
    pytestmark,
    results_of,
    small_tiles,
    step_sizes,
)
from test_fused import case_of as plain_case_of

from labeldist.backends import fused
from labeldist.backends.fused import graded, large

__all__ = ["dirty_memory", "pytestmark", "small_tiles"]


def relevance_of(num_classes, *, seed=7):
    """An asymmetric table with zeros, small and large entries."""
    values = normal(num_classes, num_classes, seed=seed)
    return values.exp().masked_fill(values < 0, 0).fill_diagonal_(1.5)


def case_of(*args, relevance=None, **options):
    case = plain_case_of(*args, **options)
    return replace(case, relevance=relevance_of(len(case.scale)) if relevance is None else relevance)


@pytest.fixture(params=["kernel", "matmul"])
def product(request, monkeypatch):
    """What multiplies the tables by class sums: a kernel, in several steps, or torch, as if there were many classes."""
    if request.param == "kernel":
        monkeypatch.setattr(graded, "CLASS_SUMS_PER_STEP", 4)
    else:
        monkeypatch.setattr(graded, "MAX_CLASSES_IN_KERNEL", 0)
        monkeypatch.setattr(graded, "CLASSES_PER_STEP", 4)


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("name", step_sizes())
def test_losses_and_gradients_are_those_of_the_equations(name):
    num_rows, num_refs, options = step_sizes()[name]
    # With one reference the true gradient is 0: its terms cancel, except for their rounding.
    assert_agrees(case_of(num_rows, num_refs=num_refs, **options), tolerance=2 * ROUNDING)


@pytest.mark.usefixtures("product")
@pairwise(
    steepness={"mild": MILD, "steep": STEEP},
    symmetric={"symmetric": True, "asymmetric": False},
    num_refs={"itself": None, "references": 29},
)
def test_tables_of_all_kinds_agree_with_the_equations(steepness, symmetric, num_refs):
    tolerance = ROUNDING if steepness == MILD else 1e-4
    case = case_of(41, num_refs=num_refs, steepness=steepness, symmetric=symmetric, dropped=[(1, 2), (2, 1), (3, 3)])
    assert_agrees(case, tolerance=tolerance)


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("num_refs", [None, 50], ids=["itself", "references"])
@pytest.mark.parametrize("num_classes", [2, 12])
def test_wide_rows_agree_with_the_equations(num_classes, num_refs):
    dim = 20 if DEVICE == "cpu" else 300
    assert_agrees(case_of(45, num_refs=num_refs, dim=dim, num_classes=num_classes))


@pytest.mark.parametrize("num_refs", [None, 50], ids=["itself", "references"])
def test_a_process_group_has_the_losses_and_gradients_of_one_process(num_refs):
    size = 3
    case = case_of(70, num_refs=num_refs)
    truth = results_of(eager_losses, case.leaves(torch.float64, DEVICE), case.upstream.to(DEVICE))
    leaves = case.leaves(torch.float32, DEVICE)

    def process(group):
        # The upstream gradient differs from process to process, and adds up.
        upstream = case.upstream.to(DEVICE) * (group.rank + 1) / (size * (size + 1) / 2)
        return results_of(fused_losses, leaves, upstream, is_symmetric=True, span=100.0, group=group)

    found = results_of_group(size, process)
    num_row_leaves = 1 if num_refs is None else 2
    for losses, is_valid, gradients in found:
        assert torch.equal(is_valid, truth[1])
        assert_close(losses.double(), truth[0], rtol=1e-5, atol=1e-5)
        for actual, expected in zip(gradients[num_row_leaves:], truth[2][num_row_leaves:], strict=True):
            assert_close(actual.double() * size, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    for position, expected in enumerate(truth[2][:num_row_leaves]):
        whole = sum(gradients[position].double() for *_, gradients in found)
        assert_close(whole, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.usefixtures("product")
def test_transposed_tables_agree_with_the_equations():
    case = case_of(41, num_classes=6, symmetric=False, relevance=relevance_of(6).T)
    assert_agrees(replace(case, scale=case.scale.T, bias=case.bias.T))


def test_only_tables_of_many_classes_are_multiplied_by_torch(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a product of torch")

    monkeypatch.setattr(graded, "MAX_CLASSES_IN_KERNEL", 5)
    monkeypatch.setattr(graded, "_weigh_targets", refuse)
    for num_refs in (None, 11):
        assert_agrees(case_of(13, num_refs=num_refs, num_classes=5), tables_learn=False)
    with pytest.raises(AssertionError, match="a product of torch"):
        fused_losses(*case_of(13, num_classes=6).leaves(torch.float32, DEVICE))


def test_a_gradient_is_made_only_where_one_is_asked_for():
    case = case_of(23, num_refs=19)
    truth = results_of(eager_losses, case.leaves(torch.float64, "cpu"), case.upstream)
    for asked, place in enumerate([0, 2, 4, 5, 6]):
        leaves: list[Any] = [
            None if tensor is None else tensor.detach() for tensor in case.leaves(torch.float32, DEVICE)
        ]
        leaf = leaves[place].requires_grad_()
        losses = fused_losses(*leaves).losses
        (gradient,) = torch.autograd.grad(losses, leaf, case.upstream.to(losses))
        assert_close(gradient.cpu().double(), truth[2][asked], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("faint", [1e-12, 1e-4])
def test_faint_relatives_of_classes_of_one_row_keep_every_digit(faint):
    # The anchor must cancel exactly in the sum of its class, or its rounding is divided by `faint`.
    relevance = torch.eye(9).double() + faint * relevance_of(9).fill_diagonal_(0)
    case = case_of(9, num_classes=9, labels=torch.randperm(9), relevance=relevance)
    leaves = [case.leaves(kind, DEVICE, tables_learn=False) for kind in (torch.float64, torch.float32)]
    expected, actual = (
        results_of(function, given, case.upstream.to(DEVICE))
        for function, given in zip((eager_losses, fused_losses), leaves, strict=True)
    )
    assert_close(actual[0].double(), expected[0], rtol=1e-5, atol=1e-5)
    assert_close(actual[2][0].double(), expected[2][0], rtol=1e-4, atol=1e-5)


def test_zero_rows_and_rows_of_any_length_agree_with_the_equations():
    case = case_of(19)
    case.anchors[::3] = 0
    assert_agrees(case)
    case = case_of(19)
    case = replace(case, anchors=case.anchors * torch.logspace(-3, 3, 19, dtype=torch.float64)[:, None])
    leaves = [case.leaves(kind, DEVICE) for kind in (torch.float64, torch.float32)]
    expected = results_of(eager_losses, leaves[0], case.upstream.to(DEVICE))
    actual = results_of(fused_losses, leaves[1], case.upstream.to(DEVICE))
    assert_close(actual[2][0].double(), expected[2][0], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("num_refs", [None, 29], ids=["itself", "references"])
def test_two_runs_give_the_same_bits(num_refs):
    case = case_of(37 if DEVICE == "cpu" else 5000, num_refs=num_refs)
    runs = [results_of(fused_losses, case.leaves(torch.float32, DEVICE), case.upstream.to(DEVICE)) for _ in range(2)]
    for first, second in zip([runs[0][0], *runs[0][2]], [runs[1][0], *runs[1][2]], strict=True):
        assert torch.equal(first, second)


@pytest.mark.usefixtures("product")
def test_half_precision_rows_have_losses_of_eager_and_gradients_of_their_dtype():
    case = case_of(13)
    leaves = case.leaves(torch.float16, DEVICE)
    losses, _ = fused_losses(*leaves)
    (gradient,) = torch.autograd.grad(losses.sum(), leaves[0])
    assert (losses.dtype, gradient.dtype) == (torch.float32, torch.float16)
    assert_close(losses, eager_losses(*leaves).losses, rtol=2e-3, atol=2e-3)


def test_without_graded_targets_nothing_of_them_runs(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a step of graded targets")

    for name in graded.__all__:
        monkeypatch.setattr(graded, name, refuse)
    case = plain_case_of(9)
    results_of(fused_losses, case.leaves(torch.float32, DEVICE), case.upstream.to(DEVICE))
    with pytest.raises(AssertionError, match="a step of graded targets"):
        fused_losses(*case_of(9).leaves(torch.float32, DEVICE))


def test_every_size_takes_the_path_of_large_batches(monkeypatch):
    called = []
    monkeypatch.setattr(fused, "large_losses", lambda *args, **kw: called.append(1) or large.large_losses(*args, **kw))
    monkeypatch.setattr(fused, "is_small", lambda batch: True)
    monkeypatch.setattr(fused, "is_medium", lambda batch: True)
    fused_losses(*case_of(9).leaves(torch.float32, DEVICE, tables_learn=False))
    assert called == [1]


@pytest.mark.parametrize("num_refs", [None, 6], ids=["itself", "references"])
def test_the_operator_keeps_the_rules_of_operators(num_refs):
    case = plain_case_of(9, num_refs=num_refs)
    relevance = relevance_of(4).float().to(DEVICE).requires_grad_()
    torch.library.opcheck(torch.ops.labeldist.large_losses.default, arguments_of(case, relevance=relevance))


def test_a_step_compiles_into_one_graph():
    leaves = [case_of(9).leaves(torch.float32, DEVICE) for _ in range(2)]
    compiled = torch.compile(fused_losses, fullgraph=True, backend="aot_eager")
    actual = results_of(compiled, leaves[0], case_of(9).upstream.to(DEVICE))
    expected = results_of(fused_losses, leaves[1], case_of(9).upstream.to(DEVICE))
    for value, wanted in zip([actual[0], *actual[2]], [expected[0], *expected[2]], strict=True):
        assert torch.equal(value, wanted)


def test_a_relevance_on_another_device_than_the_rows_is_refused():
    case = case_of(5)
    leaves = case.leaves(torch.float32, DEVICE)
    with pytest.raises(ValueError, match="relevance must be on the device of the embeddings"):
        fused_losses(*leaves[:-1], relevance=torch.eye(4, device="meta"))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_rows", "dim", "num_classes"), [(257, 64, 5), (3001, 384, 40), (5000, 128, 300)])
def test_every_dtype_is_as_exact_as_it_says(num_rows, dim, num_classes, dtype):
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    case = case_of(num_rows, dim=dim, num_classes=num_classes)
    assert_agrees(case, tolerance=tolerance, dtype=dtype)
