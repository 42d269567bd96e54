"""The Triton backend against the equations in float64: on a GPU if there is one, else in Triton's interpreter."""

import copy
import math
import os
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from labeldist import LabelDistanceContrastiveLoss, functional
from process_groups import results_of_group
from strategies import normal, pairwise, refusal_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    # Read where the kernels are defined, so before their import.
    os.environ["TRITON_INTERPRET"] = "1"
tl = pytest.importorskip("triton.language")

from labeldist.backends import fused  # noqa: E402  (after the switch above)
from labeldist.backends.fused import (  # noqa: E402
    _kernels_common,
    _kernels_tables,
    medium,
    narrow,
    rows,
    small,
    state,
    tilings,
    wide,
)
from labeldist.pairs import Batch, ClassPairTables  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        DEVICE == "cpu" and not _kernels_common.IS_INTERPRETED,
        reason="the kernels were defined before this file was read",
    ),
    # The interpreter computes in numpy, which warns of log2(0) and inf - inf where a GPU does not.
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
    # Triton 3.9 announces another default of its compiler.
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]

# Bounded by 118 and far from it: temperature 0.01 with entries of 5.
MILD, STEEP = 4.0, 500.0
# Of float32 sums and exponentials, against the largest number; a GPU's exponential is good to 2 of the last places.
ROUNDING = 3e-6 if DEVICE == "cpu" else 1e-5


def limit_small_batches(monkeypatch, most_work):
    """Batches of at most so many multiply-adds take the path for small ones."""
    for dtype in small.MAX_WORK:
        monkeypatch.setitem(small.MAX_WORK, dtype, most_work)


def forget_layouts():
    """Layouts and options that were made under other constants."""
    for cached in (
        state._cached_workspace,
        medium._cached_workspace,
        medium._pair_options,
        medium._backward_workspace,
        small._cached_workspace,
        small._options,
    ):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, splits and super-blocks in a batch that the interpreter can bear, by the path for large ones."""
    limit_small_batches(monkeypatch, -1)
    monkeypatch.setattr(medium, "MAX_ROWS", 0)
    forget_layouts()
    if DEVICE == "cpu":
        for (kernel, size, bound), tiling in [*tilings.TILINGS.items()]:
            # For products it is a part of the sums, which may stick out of the row.
            block_d = 16 if bound == tilings.WIDE and "products" not in kernel else tiling.block_d
            tiling = tiling._replace(block_rows=16, block_columns=16, block_d=block_d)
            monkeypatch.setitem(tilings.TILINGS, (kernel, size, bound), tiling)
            # It multiplies no bfloat16: kernels for narrow rows of 16 bits are run, and judged, in float32.
            monkeypatch.setitem(tilings.TILINGS, (kernel, 4, bound), tiling)
        for dtype in tilings.MAX_NARROW_DIM:
            monkeypatch.setitem(tilings.MAX_NARROW_DIM, dtype, 16)
        monkeypatch.setattr(tilings, "ROW_ALIGNMENT", 32)
        monkeypatch.setattr(tilings, "NUM_PROGRAMS", 6)
        monkeypatch.setattr(narrow, "MAX_SUPER_BLOCKS", 2)
        monkeypatch.setattr(rows, "CLASS_ROWS_PER_STEP", 16)
        monkeypatch.setattr(rows, "MAX_UNSPLIT_ROWS", 40)
        monkeypatch.setattr(medium, "LABELS_PER_STEP", 16)
        monkeypatch.setattr(medium, "TILES_PER_STEP", 2)
        monkeypatch.setattr(medium, "UPSTREAM_PER_STEP", 16)
        for name, size in {
            "FORWARD_BLOCK_ROWS": 64,
            "SMALL_BACKWARD_BLOCK_ROWS": 32,
            "ROWS_PER_PROGRAM": 32,
            "GROUP": 3,
        }.items():
            monkeypatch.setattr(wide, name, size)
        monkeypatch.setattr(_kernels_tables, "NUM_SUMMARIES", tl.constexpr(4))
    yield
    forget_layouts()


@pytest.fixture
def as_small(small_tiles, monkeypatch):
    """Batches take the path for small ones, whatever their size."""
    limit_small_batches(monkeypatch, 10**12)


@pytest.fixture
def as_medium(small_tiles, monkeypatch):
    """Batches of 16 bits take the path for medium ones."""
    monkeypatch.setattr(medium, "MAX_ROWS", 8192)


@pytest.fixture(autouse=True)
def dirty_memory(monkeypatch):
    """Fresh buffers hold NaN, or integers that no index survives."""
    new_empty, empty_like = torch.Tensor.new_empty, torch.empty_like

    def dirtied(tensor):
        if tensor.dtype == torch.bool:
            return tensor
        return tensor.fill_(math.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)

    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **options: dirtied(new_empty(*args, **options)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **options: dirtied(empty_like(*args, **options)))


@dataclass(frozen=True)
class Case:
    """Arguments of a backend in float64, with an upstream gradient."""

    anchors: torch.Tensor
    labels: torch.Tensor
    references: torch.Tensor | None
    ref_labels: torch.Tensor | None
    scale: torch.Tensor
    bias: torch.Tensor
    upstream: torch.Tensor
    relevance: torch.Tensor | None = None

    def leaves(self, dtype, device, *, tables_learn=True) -> list[Any]:
        """All arguments on `device`, floating ones in `dtype` and asking for a gradient; the tables stay float32."""

        def leaf(tensor, kind):
            if tensor is None or not tensor.is_floating_point():
                return tensor if tensor is None else tensor.to(device)
            return tensor.to(device, kind).requires_grad_()

        table = dtype if dtype == torch.float64 else torch.float32
        rows = (self.anchors, self.labels, self.references, self.ref_labels)
        tables = [self.scale, self.bias] + ([] if self.relevance is None else [self.relevance])
        return [leaf(tensor, dtype) for tensor in rows] + [
            leaf(tensor, table).requires_grad_(tables_learn) for tensor in tables
        ]


def case_of(
    num_rows, *, num_refs=None, num_classes=4, dim=7, steepness=MILD, symmetric=True, labels=None, seed=0, dropped=()
):
    """A random case; `dropped` holds the class pairs of bias -inf."""
    generator = torch.Generator().manual_seed(seed)

    def classes(count):
        return torch.randint(num_classes, (count,), generator=generator)

    def rows(count, seed):
        # Of lengths near 1: gradients go with their inverse.
        return functional.unit_rows(normal(count, dim, seed=seed)) * normal(count, 1, seed=seed).sigmoid() * 2

    scale, bias = normal(num_classes, num_classes, seed=seed + 1).abs(), normal(num_classes, num_classes, seed=seed + 2)
    scale = scale / scale.max() * steepness
    scale[num_classes // 2, 0] = 0
    if symmetric:
        scale, bias = (scale + scale.T) / 2, (bias + bias.T) / 2
    for a, b in dropped:
        bias[a, b] = -torch.inf
    return Case(
        anchors=rows(num_rows, seed + 3),
        labels=classes(num_rows) if labels is None else labels,
        references=None if num_refs is None else rows(num_refs, seed + 4),
        ref_labels=None if num_refs is None else classes(num_refs),
        scale=scale,
        bias=bias,
        upstream=normal(num_rows, seed=seed + 5),
    )


def eager_losses(anchors, labels, references, ref_labels, scale, bias, relevance=None):
    """The specification with tables of one's own."""
    if relevance is not None:
        batch, tables = (
            Batch(anchors, labels, references, ref_labels),
            ClassPairTables(scale, bias, relevance=relevance),
        )
        return functional.anchor_losses(batch, tables)
    similarity = functional.cosine_similarity(anchors, references)
    logits = functional.pair_logits(
        similarity, labels, labels if ref_labels is None else ref_labels, ClassPairTables(scale, bias)
    )
    candidates = functional.other_rows(labels) if references is None else torch.ones_like(logits, dtype=torch.bool)
    pairs = functional.positive_pairs(labels, ref_labels), candidates
    return functional.AnchorLosses(
        functional.contrastive_loss(logits, *pairs), functional.valid_anchors(logits, *pairs)
    )


def fused_losses(
    anchors, labels, references, ref_labels, scale, bias, relevance=None, *, is_symmetric=None, span=None, group=None
):
    """The backend with its arguments one by one, as a case has them."""
    batch = Batch(anchors, labels, references, ref_labels)
    return fused.anchor_losses(batch, ClassPairTables(scale, bias, is_symmetric, span, relevance), group=group)


def results_of(function, leaves, upstream, **options):
    """Losses, validity, and the gradients of all leaves."""
    losses, is_valid = function(*leaves, **options)
    asking = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    gradients = torch.autograd.grad(losses, asking, upstream.to(losses))
    return losses.detach(), is_valid, gradients


def assert_agrees(case, *, tolerance=ROUNDING, tables_learn=True, dtype=torch.float32, **options):
    """Loss, validity and every gradient, relative to the largest number of each in float64, for rows of a dtype."""
    upstream = case.upstream.to(DEVICE)
    references = None if case.references is None else case.references.to(dtype).double()
    case = replace(case, anchors=case.anchors.to(dtype).double(), references=references)
    leaves = [case.leaves(kind, DEVICE, tables_learn=tables_learn) for kind in (torch.float64, dtype)]
    truth = results_of(eager_losses, leaves[0], upstream)
    actual = results_of(fused_losses, leaves[1], upstream, **options)
    assert torch.equal(actual[1], truth[1])
    # The gradient of an only reference is a sum over the anchors whose terms cancel: its rounding is that of the terms.
    least = 0.5 if references is not None and len(references) == 1 else 0.25
    for value, expected in zip([actual[0], *actual[2]], [truth[0], *truth[2]], strict=True):
        assert value.shape == expected.shape
        if expected.numel():
            size = expected.abs().max().clamp_min(least)
            assert (value.double() - expected).abs().max() <= tolerance * size


def step_sizes():
    """Cases by name: (rows, references, options of `case_of`)."""
    return {
        "no rows": (0, None, {}),
        "one row": (1, None, {}),
        "two rows": (2, None, {"num_classes": 1}),
        "a prime": (37, None, {}),
        "one below a block": (31, None, {}),
        "one above a block": (33, None, {}),
        "classes of one row": (5, None, {"num_classes": 5, "labels": torch.tensor([3, 1, 4, 0, 2])}),
        "one class only": (35, None, {"num_classes": 1}),
        "two large classes": (67, None, {"num_classes": 2}),
        "more classes than rows": (11, None, {"num_classes": 17}),
        "one dimension": (21, None, {"dim": 1}),
        "seventeen dimensions": (21, None, {"dim": 17}),
        "no references": (7, 0, {}),
        "no anchors": (0, 7, {}),
        "one reference": (18, 1, {"num_classes": 2}),
        "more references than anchors": (5, 41, {}),
        "fewer references than anchors": (41, 17, {}),
        "references of other classes": (5, 5, {"num_classes": 9}),
    }


@pytest.mark.parametrize("name", step_sizes())
def test_losses_and_gradients_are_those_of_the_equations(name):
    num_rows, num_refs, options = step_sizes()[name]
    assert_agrees(case_of(num_rows, num_refs=num_refs, **options))


@pytest.mark.parametrize("name", step_sizes())
def test_small_batches_have_losses_and_gradients_of_the_equations(name, as_small):
    num_rows, num_refs, options = step_sizes()[name]
    assert_agrees(case_of(num_rows, num_refs=num_refs, **options), tables_learn=False)


@pytest.mark.parametrize("num_refs", [None, 29], ids=["itself", "references"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("steepness", [MILD, STEEP], ids=["mild", "steep"])
def test_small_batches_agree_for_tables_of_all_kinds(steepness, symmetric, num_refs, as_small):
    case = case_of(41, num_refs=num_refs, steepness=steepness, symmetric=symmetric, dropped=[(1, 2), (2, 1), (3, 3)])
    assert_agrees(case, tolerance=ROUNDING if steepness == MILD else 1e-4, tables_learn=False)


@pytest.mark.parametrize("name", [name for name, (rows_, refs, _) in step_sizes().items() if rows_ and refs != 0])
def test_medium_batches_have_losses_and_gradients_of_the_equations(name, as_medium):
    num_rows, num_refs, options = step_sizes()[name]
    case = case_of(num_rows, num_refs=num_refs, **options)
    assert_agrees(case, tolerance=2e-3, tables_learn=False, dtype=torch.float16)


@pytest.mark.parametrize("num_refs", [None, 29], ids=["itself", "references"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("steepness", [MILD, STEEP], ids=["mild", "steep"])
def test_medium_batches_agree_for_tables_of_all_kinds(steepness, symmetric, num_refs, as_medium):
    case = case_of(41, num_refs=num_refs, steepness=steepness, symmetric=symmetric, dropped=[(1, 2), (2, 1), (3, 3)])
    tolerance = 2e-3 if steepness == MILD else 0.1
    assert_agrees(case, tolerance=tolerance, tables_learn=False, dtype=torch.float16)


def test_each_process_of_a_group_computes_all_pairs_of_a_medium_batch(as_medium, monkeypatch):
    case = case_of(41)
    leaves, upstream = case.leaves(torch.float16, DEVICE, tables_learn=False), case.upstream.to(DEVICE)
    monkeypatch.setattr(fused, "large_losses", None)
    alone = results_of(fused_losses, leaves, upstream)
    for found in results_of_group(2, lambda group: results_of(fused_losses, leaves, upstream, group=group)):
        for actual, expected in zip([found[0], *found[2]], [alone[0], *alone[2]], strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("path", ["small", "narrow", "wide"])
def test_rows_of_any_length_have_gradients_through_their_normalization(path, monkeypatch):
    limit_small_batches(monkeypatch, 10**12 if path == "small" else -1)
    case = case_of(23, dim={"wide": 20 if DEVICE == "cpu" else 300}.get(path, 7))
    # The last two lie below the norm's floor, where a row is scaled and not normalized.
    lengths = torch.tensor([1e-3, 1.0, 1e15, 1e-9, 0.0]).repeat(5)[:23, None].to(case.anchors)
    case = replace(case, anchors=case.anchors * lengths)
    truth = results_of(eager_losses, case.leaves(torch.float64, DEVICE, tables_learn=False), case.upstream.to(DEVICE))
    actual = results_of(fused_losses, case.leaves(torch.float32, DEVICE, tables_learn=False), case.upstream.to(DEVICE))
    assert_close(actual[0].double(), truth[0], rtol=1e-5, atol=1e-5)
    # Gradients go with 1 / length: each row against its own.
    for value, expected in zip(actual[2][0].double(), truth[2][0], strict=True):
        assert (value - expected).norm() <= 2e-5 * expected.norm()


@pytest.mark.parametrize("num_refs", [None, 29], ids=["itself", "references"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("steepness", [MILD, STEEP], ids=["mild", "steep"])
def test_tables_of_all_kinds_agree_with_the_equations(steepness, symmetric, num_refs):
    # Logits of hundreds leave exponents of few digits after the point.
    tolerance = ROUNDING if steepness == MILD else 1e-4
    case = case_of(41, num_refs=num_refs, steepness=steepness, symmetric=symmetric, dropped=[(1, 2), (2, 1), (3, 3)])
    assert_agrees(case, tolerance=tolerance)


@pairwise(
    dim={"narrow": 7, "wide": 20 if DEVICE == "cpu" else 300},
    symmetric={"symmetric": True, "asymmetric": False},
    num_refs={"itself": None, "references": 50},
)
def test_a_process_group_has_the_losses_and_gradients_of_one_process(dim, symmetric, num_refs):
    size = 3
    case = case_of(100, num_refs=num_refs, dim=dim, symmetric=symmetric)
    truth = results_of(eager_losses, case.leaves(torch.float64, DEVICE), case.upstream.to(DEVICE))
    leaves = case.leaves(torch.float32, DEVICE)

    def process(group):
        # The upstream gradient differs from process to process, and adds up.
        upstream = case.upstream.to(DEVICE) * (group.rank + 1) / (size * (size + 1) / 2)
        options = {"is_symmetric": symmetric, "span": 100.0, "group": group}
        return results_of(fused_losses, leaves, upstream, **options)

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


@pairwise(
    num_classes={"1": 1, "2": 2, "12": 12},
    dim={"narrow": 7, "wide": 20 if DEVICE == "cpu" else 300},
    symmetric={"symmetric": True, "asymmetric": False},
    num_refs={"itself": None, "references": 50},
)
def test_tiles_may_be_of_one_class_of_two_or_of_many(num_classes, dim, symmetric, num_refs, monkeypatch):
    monkeypatch.setattr(narrow, "MAX_COLUMNS_IN_ONE_LAUNCH", 0)
    assert_agrees(case_of(45, num_refs=num_refs, dim=dim, num_classes=num_classes, symmetric=symmetric))


@pytest.mark.parametrize("num_refs", [None, 50], ids=["itself", "references"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_rows_too_wide_for_the_registers_agree_with_the_equations(symmetric, num_refs, monkeypatch):
    dim = 20 if DEVICE == "cpu" else 300
    assert_agrees(case_of(70, num_refs=num_refs, dim=dim, symmetric=symmetric))


@pytest.mark.parametrize(("num_rows", "num_refs"), [(0, None), (1, None), (0, 7), (7, 0)])
def test_wide_rows_may_be_none(num_rows, num_refs, monkeypatch):
    assert_agrees(case_of(num_rows, num_refs=num_refs, dim=20 if DEVICE == "cpu" else 300))


@pytest.mark.parametrize("num_refs", [None, 75], ids=["itself", "references"])
@pytest.mark.parametrize("steepness", [MILD, STEEP], ids=["mild", "steep"])
def test_wide_rows_may_be_rounded_to_sixteen_bits(steepness, num_refs, monkeypatch):
    dim = 20 if DEVICE == "cpu" else 300
    case = case_of(70, num_refs=num_refs, dim=dim, steepness=steepness)
    assert_agrees(case, tolerance=2e-3 if steepness == MILD else 0.1, tables_learn=False, dtype=torch.float16)


@pytest.mark.parametrize("is_symmetric", [True, False, None])
@pytest.mark.parametrize("span", [100.0, 1000.0, None])
def test_what_the_caller_knows_of_the_tables_changes_nothing(is_symmetric, span):
    assert_agrees(case_of(19), is_symmetric=is_symmetric, span=span)


@pytest.mark.parametrize("steepness", [75.0, 110.0])
def test_one_shift_serves_logits_that_span_as_much_as_it_may(steepness):
    case = case_of(19, steepness=steepness)
    assert_agrees(case, tolerance=3e-5, is_symmetric=True, span=118.0)


@pytest.mark.parametrize("entry", [1e-40, 1e-30])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_classes_may_be_next_to_equally_far_from_all_rows(symmetric, entry):
    case = case_of(40, dim=20, symmetric=symmetric)
    case.scale[0, 1] = case.scale[1, 0] = entry
    assert_agrees(case, tolerance=1e-5)


def test_steep_classes_take_no_digits_from_others():
    case = case_of(90, dim=20, num_classes=3, symmetric=False)
    case.scale.uniform_(2, 3, generator=torch.Generator().manual_seed(0))[0] = 200
    # The anchors of the steep class have no upstream gradient, but they are in the same tiles.
    upstream = (case.labels > 0).double().to(DEVICE) / 90
    exact, eager, actual = (
        results_of(function, case.leaves(dtype, DEVICE, tables_learn=False), upstream)[2][0].double()
        for function, dtype in (
            (eager_losses, torch.float64),
            (eager_losses, torch.float32),
            (fused_losses, torch.float32),
        )
    )
    assert (actual - exact).norm() <= 3 * (eager - exact).norm()


def test_a_gradient_is_made_only_where_one_is_asked_for():
    case = case_of(23, num_refs=19)
    for asked in range(4):
        leaves: list[Any] = [
            None if tensor is None else tensor.detach() for tensor in case.leaves(torch.float32, DEVICE)
        ]
        leaf = leaves[[0, 2, 4, 5][asked]].requires_grad_()
        losses = fused_losses(*leaves).losses
        truth = results_of(eager_losses, case.leaves(torch.float64, "cpu"), case.upstream)
        (gradient,) = torch.autograd.grad(losses, leaf, case.upstream.to(losses))
        assert_close(gradient.cpu().double(), truth[2][asked], rtol=1e-4, atol=1e-5)


def test_zero_rows_have_similarity_one_half_with_everything():
    case = case_of(19)
    case.anchors[::3] = 0
    assert_agrees(case)


def test_an_upstream_gradient_that_is_one_number_for_all_is_taken():
    case = case_of(11)
    leaves = case.leaves(torch.float32, DEVICE)
    truth = results_of(eager_losses, case.leaves(torch.float64, "cpu"), torch.full((11,), 1 / 11))
    (gradient,) = torch.autograd.grad(fused_losses(*leaves).losses.mean(), leaves[0])
    assert_close(gradient.cpu().double(), truth[2][0], rtol=1e-4, atol=1e-6)


def test_a_row_that_is_not_finite_shows_in_the_losses():
    case = case_of(9, num_classes=1)
    case.anchors[4] = math.nan
    assert fused_losses(*case.leaves(torch.float32, DEVICE)).losses.isnan().all()


@pytest.mark.parametrize("num_refs", [None, 29], ids=["itself", "references"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_two_runs_give_the_same_bits(symmetric, num_refs):
    case = case_of(37 if DEVICE == "cpu" else 5000, num_refs=num_refs, symmetric=symmetric)
    runs = [results_of(fused_losses, case.leaves(torch.float32, DEVICE), case.upstream.to(DEVICE)) for _ in range(2)]
    for first, second in zip([runs[0][0], *runs[0][2]], [runs[1][0], *runs[1][2]], strict=True):
        assert torch.equal(first, second)


def test_the_order_of_the_rows_moves_the_losses_along():
    case = case_of(29)
    order = torch.randperm(29, generator=torch.Generator().manual_seed(0))
    leaves = case.leaves(torch.float32, DEVICE)
    moved = [leaves[0][order.to(DEVICE)], leaves[1][order.to(DEVICE)], *leaves[2:]]
    assert_close(fused_losses(*moved).losses, fused_losses(*leaves).losses[order.to(DEVICE)])


def test_half_precision_rows_give_gradients_of_their_dtype():
    case = case_of(13)
    leaves = case.leaves(torch.float16, DEVICE)
    losses, _ = fused_losses(*leaves)
    assert losses.dtype == torch.float32
    (gradient,) = torch.autograd.grad(losses.sum(), leaves[0])
    assert gradient.dtype == torch.float16


# As an operator


def arguments_of(case, **options):
    known = {"is_symmetric": None, "span": None, "relevance": None} | options
    return (*case.leaves(torch.float32, DEVICE), *known.values())


@pytest.mark.parametrize("num_refs", [None, 6], ids=["itself", "references"])
def test_the_operators_keep_the_rules_of_operators(num_refs):
    case = case_of(9, num_refs=num_refs)
    torch.library.opcheck(torch.ops.labeldist.large_losses.default, arguments_of(case))
    leaves = case.leaves(torch.float32, DEVICE, tables_learn=False)
    torch.library.opcheck(torch.ops.labeldist.small_losses.default, (*leaves, None, None, None))
    leaves = case.leaves(torch.float16, DEVICE, tables_learn=False)
    torch.library.opcheck(torch.ops.labeldist.medium_losses.default, (*leaves, None, None, None))


@pytest.mark.parametrize("num_refs", [None, 6], ids=["itself", "references"])
@pytest.mark.parametrize("dim", [5, 300])
def test_shapes_are_known_without_running(num_refs, dim):
    from torch._subclasses.fake_tensor import FakeTensorMode

    case = case_of(9, num_refs=num_refs, dim=dim)
    real = torch.ops.labeldist.large_losses(*arguments_of(case))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(value) if torch.is_tensor(value) else value for value in arguments_of(case)]
        shapes = torch.ops.labeldist.large_losses(*fakes)
    for fake, value in zip(shapes, real, strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (value.shape, value.dtype, value.stride())


def test_a_step_compiles_into_one_graph():
    assert_compiles(torch.float32)


def test_a_step_of_a_medium_batch_compiles_into_one_graph(as_medium):
    assert_compiles(torch.float16)


def assert_compiles(dtype):
    """A compiled step has the numbers of an eager one."""
    leaves = [case_of(9).leaves(dtype, DEVICE, tables_learn=dtype == torch.float32) for _ in range(2)]
    compiled = torch.compile(fused_losses, fullgraph=True, backend="aot_eager")
    actual = results_of(compiled, leaves[0], case_of(9).upstream.to(DEVICE))
    expected = results_of(fused_losses, leaves[1], case_of(9).upstream.to(DEVICE))
    for value, wanted in zip([actual[0], *actual[2]], [expected[0], *expected[2]], strict=True):
        assert torch.equal(value, wanted)


@pytest.mark.parametrize("most_work", [-1, 10**6], ids=["large", "small"])
def test_a_checkpointed_step_has_the_same_gradients(most_work, monkeypatch):
    limit_small_batches(monkeypatch, most_work)
    leaves = case_of(9).leaves(torch.float32, DEVICE, tables_learn=False)
    expected = torch.autograd.grad(fused_losses(*leaves).losses.sum(), leaves[0])[0]
    losses = checkpoint(lambda: fused_losses(*leaves).losses, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(losses.sum(), leaves[0])[0], expected)


@pytest.mark.parametrize("most_work", [-1, 10**6], ids=["large", "small"])
def test_a_second_derivative_is_refused(most_work, monkeypatch):
    limit_small_batches(monkeypatch, most_work)
    leaves = case_of(5).leaves(torch.float32, DEVICE, tables_learn=False)
    losses, _ = fused_losses(*leaves)
    (gradient,) = torch.autograd.grad(losses.sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once, got a second derivative"):
        gradient.sum().backward()


# Refusals


def test_float64_rows_are_refused():
    message = refusal_of(TypeError, fused_losses, *case_of(3).leaves(torch.float64, DEVICE))
    assert "float64" in message


def test_tensors_on_a_cpu_are_refused_outside_the_interpreter(monkeypatch):
    monkeypatch.setattr(fused, "IS_INTERPRETED", False)
    message = refusal_of(RuntimeError, fused_losses, *case_of(3).leaves(torch.float32, "cpu"))
    assert message.startswith("the triton backend needs tensors on a CUDA device, got cpu.")


def test_labels_on_another_device_than_the_rows_are_refused():
    anchors, labels, *others = case_of(3).leaves(torch.float32, DEVICE)
    message = refusal_of(ValueError, fused_losses, anchors, labels.to("meta"), *others)
    assert message.startswith(f"labels must be on the device of the embeddings, {anchors.device}, got meta.")


def test_more_classes_than_an_index_has_room_for_are_refused():
    many = torch.zeros(1, 1).expand(40000, 40000)
    leaves = case_of(3).leaves(torch.float32, DEVICE)
    assert "32767" in refusal_of(ValueError, fused_losses, *leaves[:4], many, many)


# On a GPU

gpu = pytest.mark.gpu
# Rounding of the pairs' weights and of the gradient, against the largest number.
TOLERANCES: dict[torch.dtype, float] = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}
SIZES = [(1000, 64, 5), (2311, 128, 20), (4097, 256, 7), (3001, 768, 3), (2500, 100, 900)]
# Largest batch of the medium path: none, so that all of these sizes take the path for large ones, or its own limit.
PATHS = {"large": 0, "medium": 8192}


@gpu
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("num_rows", "dim", "num_classes"), SIZES)
def test_every_dtype_is_as_exact_as_it_says(num_rows, dim, num_classes, symmetric, dtype, path, monkeypatch):
    monkeypatch.setattr(medium, "MAX_ROWS", PATHS[path])
    case = case_of(num_rows, dim=dim, num_classes=num_classes, symmetric=symmetric)
    assert_agrees(case, tolerance=TOLERANCES[dtype], dtype=dtype, tables_learn=path == "large")


@gpu
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("num_rows", "dim", "num_classes"), SIZES)
def test_every_dtype_is_exact_with_references(num_rows, dim, num_classes, dtype, path, monkeypatch):
    monkeypatch.setattr(medium, "MAX_ROWS", PATHS[path])
    case = case_of(num_rows, num_refs=1777, dim=dim, num_classes=num_classes)
    assert_agrees(case, tolerance=TOLERANCES[dtype], dtype=dtype, tables_learn=path == "large")


@pytest.mark.parametrize(
    ("num_rows", "dim"), [(129, 24), *(pytest.param(6143, dim, marks=gpu) for dim in (128, 384, 768))]
)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_large_batches_of_float32_are_as_exact_as_eager(symmetric, num_rows, dim):
    # Logits as steep as those of temperature 0.1 under distances of 5: the rounding of a large number shows.
    case = case_of(num_rows, dim=dim, num_classes=20, steepness=50.0, symmetric=symmetric)
    upstream = torch.full((num_rows,), 1 / num_rows, device=DEVICE)
    exact, eager, actual = (
        results_of(function, case.leaves(dtype, DEVICE, tables_learn=False), upstream, **options)[2][0].double()
        for function, dtype, options in (
            (eager_losses, torch.float64, {}),
            (eager_losses, torch.float32, {}),
            (fused_losses, torch.float32, {"is_symmetric": symmetric, "span": 100.0}),
        )
    )
    # Chance decides a part of both; sums that round to one side are several times eager's error off.
    assert (actual - exact).norm() <= 1.2 * (eager - exact).norm()


@gpu
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_half_precision_lose_no_more_than_eager_loses(dtype, path, monkeypatch):
    monkeypatch.setattr(medium, "MAX_ROWS", PATHS[path])
    # Eager computes rows of half precision in float32, so its error is that of the rows.
    case = case_of(3000, dim=128, num_classes=10)
    tables_learn = path == "large"
    truth = results_of(eager_losses, case.leaves(torch.float64, "cpu", tables_learn=tables_learn), case.upstream)
    rounded = case.leaves(dtype, "cpu", tables_learn=tables_learn)
    eager = results_of(eager_losses, [t.detach().double().requires_grad_(t.requires_grad)
                                      if t is not None and t.is_floating_point() else t for t in rounded],
                       case.upstream)  # fmt: skip
    actual = results_of(fused_losses, case.leaves(dtype, DEVICE, tables_learn=tables_learn), case.upstream.to(DEVICE))

    def error(values, expected):
        return ((values.cpu().double() - expected).norm() / expected.norm()).item()

    pairs = zip([actual[0], *actual[2]], [eager[0], *eager[2]], [truth[0], *truth[2]], strict=True)
    for value, eager_value, expected in pairs:
        # The weights of the pairs are rounded too, which eager does not do, and so is the gradient.
        assert error(value, expected) <= error(eager_value, expected) + TOLERANCES[dtype]


@gpu
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_large_upstream_gradient_overflows_no_weight(dtype, path, monkeypatch):
    monkeypatch.setattr(medium, "MAX_ROWS", PATHS[path])
    case = case_of(2000, dim=64, steepness=STEEP)
    leaves = case.leaves(dtype, DEVICE, tables_learn=False)
    losses, _ = fused_losses(*leaves)
    # A gradient of float16 would itself overflow above some thousands.
    for factor in (1e-12, 1.0, 65536.0) if dtype == torch.bfloat16 else (1e-2, 1.0, 8.0):
        (gradient,) = torch.autograd.grad(losses, leaves[0], torch.full_like(losses, factor), retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0


@gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("dim", [128, 768])
@pytest.mark.parametrize("num_rows", [5000, 20000])
def test_batches_of_some_thousand_rows_give_the_same_bits_twice(num_rows, dim, dtype, monkeypatch):
    monkeypatch.setattr(medium, "MAX_ROWS", 8192)
    case = case_of(num_rows, dim=dim, num_classes=30)
    tables_learn = num_rows > 8192
    runs = [
        results_of(fused_losses, case.leaves(dtype, DEVICE, tables_learn=tables_learn), case.upstream.to(DEVICE))
        for _ in range(2)
    ]
    for first, second in zip([runs[0][0], *runs[0][2]], [runs[1][0], *runs[1][2]], strict=True):
        assert torch.equal(first, second)


@gpu
def test_memory_grows_with_the_rows_not_with_the_pairs():
    case = case_of(60000, dim=128, num_classes=30)
    leaves = case.leaves(torch.bfloat16, DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fused_losses(*leaves).losses.sum().backward()
    # One float32 matrix of all pairs would be 13.4 GiB.
    assert torch.cuda.max_memory_allocated() - before < 1 << 30


@gpu
@pytest.mark.parametrize("path", ["small", "medium", "large"])
@pytest.mark.parametrize("dim", [64, 300])
def test_a_cuda_graph_captures_forward_and_backward(dim, path, monkeypatch):
    limit_small_batches(monkeypatch, 10**12 if path == "small" else -1)
    monkeypatch.setattr(medium, "MAX_ROWS", 8192 if path == "medium" else 0)

    def leaves_of(case):
        dtype = torch.float32 if path == "large" else torch.bfloat16
        return case.leaves(dtype, DEVICE, tables_learn=path == "large")

    case = case_of(700, dim=dim)
    leaves, upstream = leaves_of(case), case.upstream.to(DEVICE, torch.float32)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results_of(fused_losses, leaves, upstream)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results_of(fused_losses, leaves, upstream)
    other = case_of(700, dim=dim, seed=10)
    for leaf, tensor in zip(leaves, leaves_of(other), strict=True):
        if leaf is not None:
            leaf.data.copy_(tensor.data)
    upstream.copy_(other.upstream)
    graph.replay()
    expected = results_of(fused_losses, leaves_of(other), upstream)
    for value, wanted in zip([captured[0], *captured[2]], [expected[0], *expected[2]], strict=True):
        assert torch.equal(value, wanted)


@gpu
@pytest.mark.parametrize("num_refs", [None, 300], ids=["itself", "references"])
def test_the_operator_passes_every_check(num_refs):
    torch.library.opcheck(torch.ops.labeldist.large_losses.default, arguments_of(case_of(500, num_refs=num_refs)))


@gpu
def test_what_an_evaluation_reads_of_the_matrix_serves_training():
    loss = LabelDistanceContrastiveLoss(torch.full((3, 3), 2.0), backend="triton")
    embeddings = torch.randn(64, 8, device=DEVICE, requires_grad=True)
    labels = torch.arange(64, device=DEVICE) % 3
    with torch.inference_mode():
        before = loss(embeddings, labels)
    after = copy.deepcopy(loss)(embeddings, labels)
    loss(embeddings, labels).backward()
    assert torch.equal(before, after)
    loss.ldm.matrix.fill_(1.0)
    assert not torch.equal(loss(embeddings, labels), after)


@gpu
# Of torch's own, when its compiler is imported.
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
@pytest.mark.parametrize("num_refs", [None, 300], ids=["itself", "references"])
def test_the_default_compiler_gives_the_same_numbers(num_refs):
    case = case_of(500, num_refs=num_refs)
    compiled = torch.compile(fused_losses, fullgraph=True)
    actual = results_of(compiled, case.leaves(torch.float32, DEVICE), case.upstream.to(DEVICE))
    expected = results_of(fused_losses, case.leaves(torch.float32, DEVICE), case.upstream.to(DEVICE))
    for value, wanted in zip([actual[0], *actual[2]], [expected[0], *expected[2]], strict=True):
        assert_close(value, wanted)
