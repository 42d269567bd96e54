"""The equations, tested with worked examples, against plain loops, and by their mathematical properties."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.reducers import DoNothingReducer
from torch.testing import assert_close

import reference
from labeldist import functional
from labeldist.functional import label_distance_contrastive
from strategies import (
    Problem,
    brief,
    gradient_of,
    normal,
    problems,
    problems_with_references,
    refusal_of,
    seeds,
    temperatures,
    thorough,
    weightings,
)

WEIGHTINGS: list[functional.Weighting] = ["scale", "log"]
TEMPERATURES = [0.05, 1.0, 7.0]

# Orthogonal rows: the similarity of neighbors is 0.5, that of opposite rows 0.
SQUARE = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, -4.0]], dtype=torch.float64)
SQUARE_LABELS = torch.tensor([0, 0, 1, 1])
ASYMMETRIC = torch.tensor([[1.0, 2.0], [4.0, 1.0]], dtype=torch.float64)


def losses_of(problem: Problem, **changes):
    arguments = {"embeddings": problem.embeddings, "labels": problem.labels, "ldm": problem.ldm} | changes
    return label_distance_contrastive(**arguments, **problem.options)


def expected_of(problem: Problem):
    arguments, options = problem.plain()
    return torch.tensor(reference.anchor_losses(*arguments, **options), dtype=torch.float64)


def assert_same(actual, expected):
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# Worked examples


def test_the_scale_weighting_gives_the_numbers_computed_by_hand():
    # Anchor 0 of class 0: positive 1 has logit 1 * 0.5, negatives 2 and 3 have 2 * 0 and 2 * 0.5:
    #   log(e^0.5 + e^0 + e^1) - 0.5 = log(1.648721 + 1 + 2.718282) - 0.5 = 1.180270; anchor 1 mirrors it.
    # Anchor 2 of class 1: positive 3 has 1 * 0.5, negatives 0 and 1 have 4 * 0 and 4 * 0.5:
    #   log(e^0.5 + e^0 + e^2) - 0.5 = log(1.648721 + 1 + 7.389056) - 0.5 = 1.806356; anchor 3 mirrors it.
    first = math.log(math.exp(0.5) + 1 + math.exp(1)) - 0.5
    second = math.log(math.exp(0.5) + 1 + math.exp(2)) - 0.5
    assert (round(first, 6), round(second, 6)) == (1.180270, 1.806356)
    losses = label_distance_contrastive(SQUARE, SQUARE_LABELS, ASYMMETRIC)
    assert_same(losses, torch.tensor([first, first, second, second], dtype=torch.float64))


def test_the_log_weighting_gives_the_numbers_computed_by_hand():
    # A pair with entry d counts d times. Anchor 0: e^0.5 + 2 e^0 + 2 e^0.5 = 2 + 3 * 1.648721 = 6.946164,
    #   log 6.946164 - 0.5 = 1.438190. Anchor 2: e^0.5 + 4 e^0 + 4 e^0.5 = 12.243606, its log - 0.5 = 2.005004.
    losses = label_distance_contrastive(SQUARE, SQUARE_LABELS, ASYMMETRIC, weighting="log")
    expected = [math.log(2 + 3 * math.exp(0.5)) - 0.5] * 2 + [math.log(4 + 5 * math.exp(0.5)) - 0.5] * 2
    assert [round(value, 6) for value in expected] == [1.438190, 1.438190, 2.005004, 2.005004]
    assert_same(losses, torch.tensor(expected, dtype=torch.float64))


def test_the_temperature_divides_the_logits_computed_by_hand():
    # T = 0.5 doubles every logit: anchor 0 has log(e^1 + e^0 + e^2) - 1 = log 11.107338 - 1 = 1.407606.
    losses = label_distance_contrastive(SQUARE, SQUARE_LABELS, ASYMMETRIC, temperature=0.5)
    assert_same(losses[0], torch.tensor(math.log(math.exp(1) + 1 + math.exp(2)) - 1, dtype=torch.float64))


def test_two_positives_are_averaged_and_the_log_of_their_number_is_subtracted():
    # Anchor 0 = (2, 0), class 0 with rows 1 and 2 (S 0.5 and 0), row 3 of class 1 (S 0.5), ones everywhere:
    #   log(e^0.5 + e^0 + e^0.5) - (0.5 + 0) / 2 - log 2 = 1.458020 - 0.25 - 0.693147 = 0.514873.
    losses = label_distance_contrastive(SQUARE, torch.tensor([0, 0, 0, 1]), torch.ones(2, 2, dtype=torch.float64))
    expected = math.log(2 * math.exp(0.5) + 1) - 0.25 - math.log(2)
    assert round(expected, 6) == 0.514873
    assert_same(losses[0], torch.tensor(expected, dtype=torch.float64))


def test_unit_rows_divides_by_the_norm():
    rows = torch.tensor([[3.0, -4.0], [0.0, 3.0]], dtype=torch.float64)
    assert_same(functional.unit_rows(rows), torch.tensor([[0.6, -0.8], [0.0, 1.0]], dtype=torch.float64))


def test_a_row_shorter_than_the_floor_is_divided_by_the_floor():
    short = torch.tensor([[3e-9, 4e-9], [0.0, 0.0]], dtype=torch.float64)
    assert_same(functional.unit_rows(short), torch.tensor([[0.3, 0.4], [0.0, 0.0]], dtype=torch.float64))


def test_short_rows_above_the_floor_keep_their_direction():
    # The product of the norms, 1e-12, is below the paper's floor; each norm is not.
    rows = torch.tensor([[1e-6, 0.0], [0.0, -1e-6], [-1e-6, 0.0]], dtype=torch.float64)
    assert_same(functional.cosine_similarity(rows)[0], torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))


def test_a_zero_row_has_similarity_one_half_to_every_row():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert_close(functional.cosine_similarity(rows)[0], torch.tensor([0.5, 0.5]))


def test_opposite_rows_have_similarity_zero_and_parallel_ones_one():
    similarity = functional.cosine_similarity(SQUARE[:1], torch.tensor([[5.0, 0.0], [-5.0, 0.0]]).double())
    assert_same(similarity, torch.tensor([[1.0, 0.0]], dtype=torch.float64))


def test_positive_pairs_share_a_class_and_exclude_the_row_itself():
    expected = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]).bool()
    assert torch.equal(functional.positive_pairs(SQUARE_LABELS), expected)


def test_positive_pairs_with_references_include_equal_positions():
    positives = functional.positive_pairs(torch.tensor([0, 1]), torch.tensor([0, 1, 0]))
    assert torch.equal(positives, torch.tensor([[True, False, True], [False, True, False]]))


def test_class_pair_tables_implement_both_weightings():
    scale, bias, *_ = functional.class_pair_tables(ASYMMETRIC, temperature=0.5)
    assert torch.equal(scale, ASYMMETRIC * 2)
    assert torch.equal(bias, torch.zeros(2, 2).double())
    scale, bias, *_ = functional.class_pair_tables(ASYMMETRIC, temperature=0.5, weighting="log")
    assert torch.equal(scale, torch.full((2, 2), 2.0).double())
    assert_same(bias, ASYMMETRIC.log())


def test_class_pair_tables_of_an_integer_matrix_are_not_rounded():
    integers = torch.tensor([[1, 2], [4, 1]])
    for weighting in WEIGHTINGS:
        tables = functional.class_pair_tables(integers, temperature=4.0, weighting=weighting)
        wanted = functional.class_pair_tables(integers.float(), temperature=4.0, weighting=weighting)
        for table, expected in zip(tables[:2], wanted[:2], strict=True):
            assert_close(table, expected)


def test_the_joint_objective_is_the_weighted_sum():
    total = functional.joint_objective(torch.tensor(2.0), torch.tensor(1.0), ce_weight=0.25)
    assert total.item() == 0.25 * 2 + 0.75 * 1


# Comparison with plain loops


@thorough
@given(problems())
def test_losses_agree_with_the_plain_loops(problem):
    assert_same(losses_of(problem), expected_of(problem))


@thorough
@given(problems_with_references())
def test_losses_with_references_agree_with_the_plain_loops(problem):
    assert_same(losses_of(problem), expected_of(problem))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("labels", "ldm"),
    [
        pytest.param([0, 1, 2, 0, 1, 2, 2], [[1, 5, 2], [0.5, 1, 3], [7, 1, 1]], id="asymmetric"),
        pytest.param([0, 1, 2, 0, 1, 2, 2], [[0, 5, 2], [5, 0, 3], [2, 3, 0]], id="zero diagonal"),
        pytest.param([0, 1, 2, 0, 1, 2, 2], [[1, 0, 2], [0, 1, 0], [2, 0, 1]], id="zero entries"),
        pytest.param([0, 1, 2, 0, 1, 2, 2], [[0, 0, 0], [0, 0, 0], [0, 0, 0]], id="all zero"),
        pytest.param([0, 0, 0, 0, 1, 2, 0], [[1, 5, 2], [5, 1, 3], [2, 3, 1]], id="classes of one row"),
        pytest.param([1, 1, 1, 1, 1, 1, 1], [[1, 5], [5, 2]], id="one class in the batch"),
        pytest.param([0, 0, 0, 0, 0, 0, 0], [[3]], id="one class only"),
        pytest.param([0, 1, 2, 3, 4, 5, 6], [[1 + a + 2 * b for b in range(7)] for a in range(7)], id="no positives"),
        pytest.param([1], [[1, 5], [5, 1]], id="one row"),
        pytest.param([], [[1, 5], [5, 1]], id="no rows"),
    ],
)
def test_losses_agree_with_the_plain_loops_for(labels, ldm, temperature, weighting):
    embeddings = normal(len(labels), 5)
    problem = Problem(
        embeddings,
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(ldm, dtype=torch.float64),
        {"temperature": temperature, "weighting": weighting},
    )
    losses = losses_of(problem)
    assert losses.shape == (len(labels),)
    assert_same(losses, expected_of(problem))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_batch_of_a_prime_size_agrees_with_the_plain_loops(weighting):
    labels = torch.arange(37) * 7 % 5
    problem = Problem(
        normal(37, 11), labels, normal(5, 5, seed=1).abs() * 3, {"temperature": 0.1, "weighting": weighting}
    )
    assert_same(losses_of(problem), expected_of(problem))


# Gradients


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_gradients_of_embeddings_and_matrix_are_those_of_finite_differences(weighting, temperature):
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 3])
    embeddings = normal(7, 3).requires_grad_()
    ldm = (normal(4, 4, seed=1).abs() + 0.3).requires_grad_()

    def function(embeddings, ldm):
        return label_distance_contrastive(embeddings, labels, ldm, temperature=temperature, weighting=weighting)

    assert torch.autograd.gradcheck(function, (embeddings, ldm))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_gradients_of_references_are_those_of_finite_differences(weighting):
    labels, ref_labels = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1, 0, 3])
    embeddings, ref_emb = normal(3, 4).requires_grad_(), normal(5, 4, seed=2).requires_grad_()
    ldm = (normal(4, 4, seed=1).abs() + 0.3).requires_grad_()

    def function(embeddings, ref_emb, ldm):
        return label_distance_contrastive(
            embeddings, labels, ldm, ref_emb=ref_emb, ref_labels=ref_labels, weighting=weighting
        )

    assert torch.autograd.gradcheck(function, (embeddings, ref_emb, ldm))


def test_a_removed_pair_gives_no_gradient_to_its_entry_and_its_rows():
    # Row 3 is alone in class 1. The matrix removes its pairs with anchors of class 0, and it has no positive itself.
    embeddings = normal(4, 3).requires_grad_()
    ldm = torch.tensor([[1.0, 0.0], [2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    label_distance_contrastive(embeddings, torch.tensor([0, 0, 0, 1]), ldm, weighting="log").sum().backward()
    assert torch.equal(gradient_of(embeddings)[3], torch.zeros(3).double())
    assert gradient_of(ldm)[0, 1] == 0
    assert torch.isfinite(gradient_of(ldm)).all()


@brief
@given(problems(min_rows=1))
def test_anchors_without_a_positive_contribute_neither_loss_nor_gradient(problem):
    lonely = torch.tensor([(problem.labels == label).sum() == 1 for label in problem.labels])
    embeddings = problem.embeddings.clone().requires_grad_()
    ldm = problem.ldm.clone().requires_grad_()
    losses = losses_of(problem, embeddings=embeddings, ldm=ldm)
    assert (losses[lonely] == 0).all()
    gradients = torch.autograd.grad(losses[lonely].sum(), (embeddings, ldm))
    assert all((gradient == 0).all() for gradient in gradients)


def test_a_batch_without_positives_still_has_a_graph():
    embeddings = normal(3, 2).requires_grad_()
    label_distance_contrastive(embeddings, torch.arange(3), torch.ones(3, 3)).sum().backward()
    assert torch.equal(gradient_of(embeddings), torch.zeros(3, 2).double())


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_an_anchor_without_candidates_has_gradient_zero(weighting):
    # A batch of one row, and a row whose pairs are all removed by the matrix.
    for labels in (torch.tensor([0]), torch.tensor([0, 1, 1])):
        embeddings = normal(len(labels), 3).requires_grad_()
        ldm = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        losses = label_distance_contrastive(embeddings, labels, ldm, weighting=weighting)
        losses[0].backward()
        assert losses[0] == 0
        assert (gradient_of(embeddings) == 0).all()
        assert (gradient_of(ldm) == 0).all()


# Properties


@brief
@given(problems(min_rows=1), seeds)
def test_permuting_the_batch_permutes_the_losses(problem, seed):
    order = torch.randperm(len(problem.labels), generator=torch.Generator().manual_seed(seed))
    moved = losses_of(problem, embeddings=problem.embeddings[order], labels=problem.labels[order])
    assert_same(moved, losses_of(problem)[order])


@brief
@given(problems_with_references(), seeds)
def test_losses_do_not_depend_on_the_order_of_the_references(problem, seed):
    order = torch.randperm(len(problem.options["ref_labels"]), generator=torch.Generator().manual_seed(seed))
    moved = {name: problem.options[name][order] for name in ("ref_emb", "ref_labels")}
    permuted = Problem(problem.embeddings, problem.labels, problem.ldm, problem.options | moved)
    assert_same(losses_of(permuted), losses_of(problem))


@brief
@given(problems(), seeds)
def test_relabeling_the_classes_together_with_the_matrix_changes_nothing(problem, seed):
    new_name = torch.randperm(problem.num_classes, generator=torch.Generator().manual_seed(seed))
    renamed = torch.empty_like(problem.ldm)
    renamed[new_name[:, None], new_name[None, :]] = problem.ldm
    assert_same(losses_of(problem, labels=new_name[problem.labels], ldm=renamed), losses_of(problem))


@thorough
@given(problems(min_rows=2), temperatures)
def test_a_uniform_matrix_gives_supcon_at_twice_the_temperature_minus_the_log_of_positives(problem, temperature):
    labels = problem.labels
    num_positives = (labels[:, None] == labels[None, :]).sum(dim=1) - 1
    # SupConLoss returns 0 for a batch without positives or without negatives.
    assume(num_positives.any() and len(labels.unique()) > 1)
    supcon = SupConLoss(temperature=2 * temperature, reducer=DoNothingReducer())
    expected = supcon(problem.embeddings, labels)["loss"]["losses"]
    expected = torch.where(num_positives > 0, expected - num_positives.clamp_min(1).double().log(), 0)
    ones = torch.ones_like(problem.ldm)
    for weighting in WEIGHTINGS:
        losses = label_distance_contrastive(
            problem.embeddings, labels, ones, temperature=temperature, weighting=weighting
        )
        assert_same(losses, expected)


@brief
@given(problems(min_rows=1), st.lists(st.floats(-6, 6), min_size=8, max_size=8))
def test_losses_do_not_depend_on_the_norm_of_the_rows(problem, exponents):
    factors = 10 ** torch.tensor(exponents, dtype=torch.float64)[: len(problem.labels), None]
    assert_same(losses_of(problem, embeddings=problem.embeddings * factors), losses_of(problem))


@pytest.mark.parametrize("factor", [1e-6, 1e6, 1e19, 1e25, 1e37])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_losses_in_float32_do_not_depend_on_a_norm_as_extreme_as(factor, weighting):
    embeddings, labels, ldm = normal(9, 4, dtype=torch.float32), torch.arange(9) % 3, torch.full((3, 3), 2.0)
    scaled = label_distance_contrastive(embeddings * factor, labels, ldm, weighting=weighting)
    assert_close(scaled, label_distance_contrastive(embeddings, labels, ldm, weighting=weighting))


@brief
@given(problems())
def test_losses_are_finite_and_not_negative(problem):
    losses = losses_of(problem)
    assert torch.isfinite(losses).all()
    assert (losses >= -1e-12).all()


EXTREMES = st.sampled_from([0.0, 1.0, -1.0, 1e-45, -1e-38, 1e-30, 3e-9, -1e-8, 1e-4, 1e4, -1e19, 1e25, 3.4e38, -3.4e38])


@thorough
@given(problems(rows=EXTREMES))
def test_finite_float32_embeddings_give_finite_losses_and_gradients(problem):
    embeddings, ldm = problem.embeddings.float().requires_grad_(), problem.ldm.float().requires_grad_()
    losses = losses_of(problem, embeddings=embeddings, ldm=ldm)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    for values in (losses, gradient_of(embeddings), gradient_of(ldm)):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], ids=["zero rows", "repeated rows"])
@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
def test_a_batch_of_one_row_repeated_is_finite(row, temperature, weighting):
    embeddings = torch.tensor([row] * 6, requires_grad=True)
    losses = label_distance_contrastive(
        embeddings, torch.arange(6) % 2, torch.full((2, 2), 5.0), temperature=temperature, weighting=weighting
    )
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient_of(embeddings)).all()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_embedding_gives_a_non_finite_loss(bad, weighting):
    # A diverged model must be visible in the loss.
    embeddings = normal(4, 3)
    embeddings[0, 0] = bad
    losses = label_distance_contrastive(embeddings, SQUARE_LABELS, ASYMMETRIC, weighting=weighting)
    assert losses.isnan().all()


@brief
@given(problems(min_rows=2), weightings)
def test_row_of_the_matrix_is_the_class_of_the_anchor(problem, weighting):
    changed = problem.ldm.clone()
    changed[0] = torch.tensor([7.0, 3.0, 2.0, 6.0], dtype=torch.float64)[: problem.num_classes]
    other_anchors = problem.labels != 0
    assert torch.equal(losses_of(problem, ldm=changed)[other_anchors], losses_of(problem)[other_anchors])


def test_an_asymmetric_entry_affects_only_the_anchors_of_its_row():
    before = label_distance_contrastive(SQUARE, SQUARE_LABELS, torch.ones(2, 2).double())
    after = label_distance_contrastive(SQUARE, SQUARE_LABELS, torch.tensor([[1.0, 5.0], [1.0, 1.0]]).double())
    assert (after[SQUARE_LABELS == 0] > before[SQUARE_LABELS == 0]).all()
    assert torch.equal(after[SQUARE_LABELS == 1], before[SQUARE_LABELS == 1])


def test_a_zero_diagonal_does_not_include_the_self_pair():
    # Anchor 0: positive 1 with logit 0 * S = 0, negative 2 with S = 0, so log(1 + 1) - 0 = log 2.
    # If the pair (0, 0) were included with its logit 0 * S = 0, this would be log 3.
    zero_diagonal = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    losses = label_distance_contrastive(SQUARE[:3], torch.tensor([0, 0, 1]), zero_diagonal)
    assert_same(losses[0], torch.tensor(math.log(2), dtype=torch.float64))


def test_an_entry_of_zero_removes_the_pair_under_log_and_keeps_it_under_scale():
    drop = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    # With only its positive, an anchor has loss 0. If the negative is kept, it has logit 0 against 0.5.
    assert_same(label_distance_contrastive(SQUARE[:3], labels, drop, weighting="log")[0], torch.zeros(()).double())
    kept = torch.tensor(math.log(math.exp(0.5) + 1) - 0.5, dtype=torch.float64)
    assert_same(label_distance_contrastive(SQUARE[:3], labels, drop)[0], kept)


@brief
@given(problems(min_rows=1, entries=st.sampled_from([0.25, 1.0, 2.0, 5.0])), seeds)
def test_a_larger_distance_to_another_class_never_lowers_the_loss(problem, seed):
    a, b = torch.randint(problem.num_classes, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    assume(a != b)
    farther = problem.ldm.clone()
    farther[a, b] += 1
    assert (losses_of(problem, ldm=farther) >= losses_of(problem) - 1e-12).all()


@brief
@given(problems(min_rows=2), st.floats(0.1, 10), st.floats(1.01, 10))
def test_a_larger_temperature_makes_the_softmax_smoother(problem, temperature, factor):
    # The entropy of softmax(x / T) never decreases with T.
    similarity = functional.cosine_similarity(problem.embeddings)
    entropies = []
    for value in (temperature, temperature * factor):
        tables = functional.class_pair_tables(problem.ldm, temperature=value)
        logits = functional.pair_logits(similarity, problem.labels, problem.labels, tables)
        entropies.append(torch.distributions.Categorical(logits=logits).entropy())
    assert (entropies[1] >= entropies[0] - 1e-10).all()


@brief
@given(problems(min_rows=2), st.sampled_from([1.0, 10.0, 1e3, 1e6]))
def test_a_large_temperature_gives_the_loss_of_equal_logits(problem, temperature):
    # Logits lie in [0, max(LDM) / T]: the loss is within that of log(candidates / positives).
    labels = problem.labels
    num_positives = (labels[:, None] == labels[None, :]).sum(dim=1) - 1
    valid = num_positives > 0
    losses = label_distance_contrastive(problem.embeddings, labels, problem.ldm, temperature=temperature)
    equal = math.log(max(len(labels) - 1, 1)) - num_positives.clamp_min(1).double().log()
    assert ((losses - equal)[valid].abs() <= problem.ldm.max() / temperature + 1e-12).all()


@brief
@given(problems(), st.sampled_from([0.5, 2.0, 16.0]))
def test_scaling_the_matrix_is_the_same_as_lowering_the_temperature(problem, factor):
    def losses(ldm, temperature):
        return label_distance_contrastive(problem.embeddings, problem.labels, ldm, temperature=temperature)

    assert_same(losses(problem.ldm * factor, 1.0), losses(problem.ldm, 1 / factor))


@brief
@given(problems(min_rows=1))
def test_the_batch_given_as_references_too_adds_the_self_pairs(problem):
    references = {"ref_emb": problem.embeddings, "ref_labels": problem.labels}
    with_self = Problem(problem.embeddings, problem.labels, problem.ldm, problem.options | references)
    assert_same(losses_of(with_self), expected_of(with_self))


@brief
@given(problems())
def test_arguments_are_not_modified(problem):
    copies = [tensor.clone() for tensor in (problem.embeddings, problem.labels, problem.ldm)]
    losses_of(problem)
    for copy, tensor in zip(copies, (problem.embeddings, problem.labels, problem.ldm), strict=True):
        assert torch.equal(copy, tensor)


def test_a_pair_that_is_not_a_candidate_gives_its_logit_no_gradient():
    logits = normal(2, 3).requires_grad_()
    positives = torch.tensor([[True, False, False], [False, True, True]])
    candidates = torch.tensor([[True, True, False], [True, True, False]])
    functional.contrastive_loss(logits, positives, candidates).sum().backward()
    assert (gradient_of(logits)[~candidates] == 0).all()
    assert (gradient_of(logits)[candidates] != 0).all()


def test_a_positive_that_is_not_a_candidate_does_not_count():
    losses = functional.contrastive_loss(
        torch.zeros(1, 3), torch.tensor([[True, True, False]]), torch.tensor([[True, False, True]])
    )
    assert_close(losses, torch.tensor([math.log(2)]))


# Precision


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_half_precision_rows_are_computed_in_float32(dtype, temperature, weighting):
    embeddings, labels = normal(13, 8, dtype=dtype).requires_grad_(), torch.arange(13) % 4
    ldm = (normal(4, 4, seed=1).abs() * 3).float()
    truth = Problem(
        embeddings.detach().double(), labels, ldm.double(), {"temperature": temperature, "weighting": weighting}
    )
    losses = label_distance_contrastive(embeddings, labels, ldm, **truth.options)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert_close(losses.double(), expected_of(truth), rtol=1e-5, atol=1e-5)
    exact = truth.embeddings.clone().requires_grad_()
    losses_of(truth, embeddings=exact).sum().backward()
    # The gradient is rounded to the dtype of its rows once, at the end.
    tolerance = torch.finfo(dtype).eps
    assert gradient_of(embeddings).dtype == dtype
    assert_close(
        gradient_of(embeddings).double(),
        gradient_of(exact),
        rtol=tolerance,
        atol=tolerance * gradient_of(exact).abs().max().item(),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_zero_row_in_half_precision_has_a_finite_gradient(dtype):
    embeddings = normal(4, 3, dtype=dtype)
    embeddings[0] = 0
    embeddings.requires_grad_()
    label_distance_contrastive(embeddings, SQUARE_LABELS, torch.ones(2, 2)).sum().backward()
    assert torch.isfinite(gradient_of(embeddings)).all()


def test_the_largest_float16_rows_do_not_overflow():
    embeddings = torch.full((4, 8), 65504.0, dtype=torch.float16)
    losses = label_distance_contrastive(embeddings, SQUARE_LABELS, torch.ones(2, 2))
    assert_close(losses, torch.full((4,), math.log(3)))


def test_a_matrix_of_another_precision_is_converted_to_that_of_the_embeddings():
    for dtype in (torch.float16, torch.float64, torch.int64):
        losses = label_distance_contrastive(SQUARE.float(), SQUARE_LABELS, ASYMMETRIC.to(dtype))
        assert losses.dtype == torch.float32
        assert_close(losses, label_distance_contrastive(SQUARE.float(), SQUARE_LABELS, ASYMMETRIC.float()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_references_of_another_precision_are_compared_with_the_anchors(dtype):
    for anchors in (torch.float32, torch.float64):
        losses = label_distance_contrastive(
            SQUARE.to(anchors), SQUARE_LABELS, ASYMMETRIC, ref_emb=SQUARE.to(dtype), ref_labels=SQUARE_LABELS
        )
        assert losses.dtype == anchors


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype, weighting):
    embeddings, labels, ldm = normal(9, 6, dtype=dtype), torch.arange(9) % 3, torch.full((3, 3), 2.0)
    plain = label_distance_contrastive(embeddings, labels, ldm, weighting=weighting)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = label_distance_contrastive(embeddings, labels, ldm, weighting=weighting)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_may_have_any_integer_dtype(dtype):
    losses = label_distance_contrastive(SQUARE, SQUARE_LABELS.to(dtype), ASYMMETRIC)
    assert torch.equal(losses, label_distance_contrastive(SQUARE, SQUARE_LABELS, ASYMMETRIC))


# Errors


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be a finite number above 0, got 0.0."),
        ({"temperature": -1.0}, ValueError, "temperature must be a finite number above 0, got -1.0."),
        ({"temperature": math.nan}, ValueError, "temperature must be a finite number above 0, got nan."),
        ({"temperature": math.inf}, ValueError, "temperature must be a finite number above 0, got inf."),
        ({"weighting": "exp"}, ValueError, "weighting must be 'scale' or 'log', got 'exp'."),
        ({"ldm": torch.ones(2, 3)}, ValueError, "ldm must have shape (C, C), got (2, 3)."),
        ({"embeddings": torch.ones(4)}, ValueError, "embeddings must have shape (B, D), got (4,)."),
        (
            {"embeddings": torch.ones(4, 2, dtype=torch.int64)},
            TypeError,
            "embeddings must be floating point, got torch.int64.",
        ),
        (
            {"labels": torch.tensor([0, 1])},
            ValueError,
            "labels must have shape (4,), got (2,). Pass one label for each row of embeddings.",
        ),
        (
            {"labels": torch.zeros(4)},
            TypeError,
            "labels must be integers (class indices), got torch.float32. Convert them with .long().",
        ),
        (
            {"labels": torch.zeros(4, dtype=torch.bool)},
            TypeError,
            "labels must be integers (class indices), got torch.bool. Convert them with .long().",
        ),
        (
            {"labels": torch.tensor([0, 1, 2, 0])},
            ValueError,
            "labels must lie in [0, 2) for an LDM of 2 classes, got values from 0 to 2. "
            "Pass class indices counted from 0, not ids of rows, or build the LDM for all classes.",
        ),
        (
            {"labels": torch.tensor([0, -1, 1, 0])},
            ValueError,
            "labels must lie in [0, 2) for an LDM of 2 classes, got values from -1 to 1. "
            "Pass class indices counted from 0, not ids of rows, or build the LDM for all classes.",
        ),
        ({"ref_emb": torch.ones(1, 2)}, ValueError, "ref_emb and ref_labels go together: pass both or neither."),
        (
            {"ref_labels": torch.tensor([0])},
            ValueError,
            "ref_emb and ref_labels go together: pass both or neither.",
        ),
        (
            {"ref_emb": torch.ones(1, 3), "ref_labels": torch.tensor([0])},
            ValueError,
            "ref_emb must have shape (R, 2), got (1, 3).",
        ),
        (
            {"ref_emb": torch.ones(2, 2), "ref_labels": torch.tensor([0])},
            ValueError,
            "ref_labels must have shape (2,), got (1,). Pass one label for each row of ref_emb.",
        ),
    ],
)
def test_a_bad_argument_raises_a_clear_error(changes, error, sentence):
    arguments = {"embeddings": SQUARE, "labels": SQUARE_LABELS, "ldm": ASYMMETRIC} | changes
    assert refusal_of(error, label_distance_contrastive, **arguments) == sentence


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_the_joint_weight_lies_between_0_and_1(weight):
    message = refusal_of(ValueError, functional.joint_objective, torch.ones(()), torch.ones(()), ce_weight=weight)
    assert message == f"ce_weight (lambda of Eq. 9) must lie in [0, 1], got {weight}."
