"""Graded targets: worked examples, plain loops, and the laws of a loss with a table of relevance."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import labeldist
import reference
from labeldist import functional
from labeldist.functional import label_distance_contrastive
from strategies import (
    brief,
    graded,
    gradient_of,
    label_vectors,
    normal,
    problems,
    problems_with_references,
    refusal_of,
    seeds,
    thorough,
)


def losses_of(problem, relevance, **changes):
    arguments = {"embeddings": problem.embeddings, "labels": problem.labels, "ldm": problem.ldm} | changes
    return label_distance_contrastive(**arguments, relevance=relevance, **problem.options)


def assert_same(actual, expected):
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


# Worked examples


def test_two_relevances_give_the_number_computed_by_hand():
    # Anchor 0 with references of similarity 0.5 (its class, A = 1), 0 (A = 1/3) and 0.5 (A = 0), T = 1, ones:
    #   targets 3/4 and 1/4; lse = log(2 e^0.5 + 1) = 1.458020;
    #   loss = 1.458020 - (3/4 * 0.5 + 1/4 * 0) + 3/4 log 3/4 + 1/4 log 1/4 = 1.083020 - 0.562335 = 0.520685.
    rows = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, -4.0]], dtype=torch.float64)
    relevance = torch.eye(3, dtype=torch.float64)
    relevance[0, 1] = 1 / 3
    ones = torch.ones(3, 3, dtype=torch.float64)
    losses = label_distance_contrastive(
        rows[:1], torch.tensor([0]), ones, ref_emb=rows[1:], ref_labels=torch.tensor([0, 1, 2]), relevance=relevance
    )
    expected = math.log(2 * math.exp(0.5) + 1) - 0.375 + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert round(expected, 6) == 0.520685
    assert_same(losses, torch.tensor([expected], dtype=torch.float64))


def test_a_sibling_is_a_positive_of_an_anchor_that_is_alone_in_its_class():
    rows, labels = normal(3, 4), torch.tensor([0, 1, 2])
    relevance = torch.eye(3).double()
    relevance[0, 1] = 0.05
    _, is_valid = functional.anchor_losses(
        labeldist.pairs.Batch(rows, labels),
        functional.class_pair_tables(torch.ones(3, 3).double())._replace(relevance=relevance),
    )
    assert is_valid.tolist() == [True, False, False]


# Against plain loops


def expected_of(problem, relevance):
    arguments, options = problem.plain()
    losses = reference.graded_anchor_losses(*arguments, relevance=relevance.tolist(), **options)
    return torch.tensor(losses, dtype=torch.float64)


@thorough
@given(graded())
def test_losses_are_those_of_the_loops(case):
    assert_same(losses_of(*case), expected_of(*case))


@thorough
@given(graded(problems_with_references()))
def test_losses_with_references_are_those_of_the_loops(case):
    assert_same(losses_of(*case), expected_of(*case))


@thorough
@given(problems())
def test_the_loops_with_the_identity_are_those_of_the_paper(problem):
    arguments, options = problem.plain()
    identity = torch.eye(problem.num_classes).tolist()
    graded_losses = reference.graded_anchor_losses(*arguments, relevance=identity, **options)
    assert graded_losses == pytest.approx(reference.anchor_losses(*arguments, **options), abs=1e-12)


# Laws


@thorough
@given(st.one_of(problems(), problems_with_references()), st.booleans())
def test_the_identity_gives_the_same_bits_as_no_relevance(problem, in_single):
    if in_single:
        problem = type(problem)(problem.embeddings.float(), problem.labels, problem.ldm.float(), problem.options)
    results = []
    for relevance in (None, torch.eye(problem.num_classes)):
        rows = problem.embeddings.clone().requires_grad_()
        losses = losses_of(problem, relevance, embeddings=rows)
        losses.sum().backward()
        results.append((losses, rows.grad))
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@thorough
@given(st.one_of(graded(), graded(problems_with_references())))
def test_the_loss_is_not_negative(case):
    losses = losses_of(*case)
    assert bool((losses >= -1e-9).all())
    assert bool(losses.isfinite().all())


@brief
@given(st.integers(2, 5), seeds)
def test_the_loss_is_zero_where_the_softmax_is_the_target(num_classes, seed):
    # The "log" weighting with equal similarities has the softmax of the entries of the matrix: those of the relevance.
    relevance = normal(num_classes, num_classes, seed=seed).exp()
    rows, labels = torch.ones(2 * num_classes, 3, dtype=torch.float64), torch.arange(num_classes).repeat(2)
    losses = label_distance_contrastive(rows, labels, relevance, weighting="log", relevance=relevance)
    assert_close(losses, torch.zeros_like(losses), atol=1e-12, rtol=0)


@thorough
@given(graded(), st.randoms(use_true_random=False))
def test_relabelling_the_classes_changes_nothing(case, random):
    problem, relevance = case
    order = list(range(problem.num_classes))
    random.shuffle(order)
    new = torch.tensor(order)
    old = new.argsort()
    renamed = losses_of(problem, relevance[old][:, old], labels=new[problem.labels], ldm=problem.ldm[old][:, old])
    assert_same(renamed, losses_of(problem, relevance))


@thorough
@given(graded(), st.lists(st.sampled_from([0.01, 0.5, 3.0, 100.0]), min_size=4, max_size=4))
def test_scaling_a_row_of_the_relevance_changes_nothing(case, factors):
    problem, relevance = case
    scaled = relevance * torch.tensor(factors, dtype=torch.float64)[: problem.num_classes, None]
    assert_same(losses_of(problem, scaled), losses_of(problem, relevance))


@thorough
@given(problems(), st.data())
def test_ones_within_groups_are_plain_contrast_between_groups(problem, data):
    group_of = data.draw(label_vectors(problem.num_classes, 3))
    relevance = (group_of[:, None] == group_of).double()
    ones = torch.ones(problem.num_classes, problem.num_classes, dtype=torch.float64)
    plain = label_distance_contrastive(
        problem.embeddings, group_of[problem.labels], torch.ones(3, 3).double(), **problem.options
    )
    assert_same(losses_of(problem, relevance, ldm=ones), plain)


@brief
@given(graded(min_rows=2))
def test_small_relevances_approach_the_paper_where_each_anchor_has_a_positive(case):
    problem, relevance = case
    labels = torch.cat([problem.labels, problem.labels])
    rows = torch.cat([problem.embeddings, problem.embeddings])
    diagonal = torch.eye(problem.num_classes, dtype=torch.bool)
    faint = torch.where(diagonal, torch.ones_like(relevance), 1e-12 * relevance)
    arguments = {"embeddings": rows, "labels": labels, "ldm": problem.ldm.clamp_min(0.1)}
    assert_close(losses_of(problem, faint, **arguments), losses_of(problem, None, **arguments), atol=1e-8, rtol=1e-8)


@brief
@given(graded(min_rows=1), st.data())
def test_the_order_of_the_batch_changes_nothing(case, data):
    problem, relevance = case
    order = torch.tensor(data.draw(st.permutations(range(len(problem.labels)))))
    moved = losses_of(problem, relevance, embeddings=problem.embeddings[order], labels=problem.labels[order])
    assert_same(moved, losses_of(problem, relevance)[order])


# Gradients


@pytest.mark.parametrize("weighting", ["scale", "log"])
def test_gradients_are_those_of_finite_differences(weighting):
    rows, relevance, ldm = normal(7, 3), normal(3, 3, seed=1).exp(), normal(3, 3, seed=2).exp()
    relevance[0, 2] = 0
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    mask = relevance == 0

    def function(rows, ldm, relevance):
        table = relevance.masked_fill(mask, 0)
        return label_distance_contrastive(rows, labels, ldm, relevance=table, weighting=weighting, validate=False)

    assert torch.autograd.gradcheck(function, [tensor.requires_grad_() for tensor in (rows, ldm, relevance)])


def test_an_entry_of_zero_has_no_gradient_and_others_none_along_their_row():
    relevance = torch.tensor([[1.0, 0.3, 0.0], [0.0, 2.0, 0.1], [0.7, 0.2, 1.0]], dtype=torch.float64)
    relevance.requires_grad_()
    losses = label_distance_contrastive(
        normal(9, 4), torch.arange(9) % 3, torch.ones(3, 3).double(), relevance=relevance
    )
    losses.sum().backward()
    gradient = gradient_of(relevance)
    assert torch.equal(gradient == 0, relevance == 0)
    # Scaling a row changes nothing.
    assert_close((gradient * relevance).sum(dim=1), torch.zeros(3).double(), atol=1e-12, rtol=0)


# What is refused


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (torch.ones(2, 3), "relevance must have shape (C, C) = (2, 2), got (2, 3)."),
        (torch.eye(3), "relevance must have shape (C, C) = (2, 2), got (3, 3)."),
        (torch.tensor([[1.0, -0.5], [0.0, 1.0]]), "Entries of relevance must be finite and non-negative, got -0.5"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), "Entries of relevance must be finite and non-negative, got nan"),
        (torch.tensor([[1.0, math.inf], [0.0, 1.0]]), "Entries of relevance must be finite and non-negative, got inf"),
        (torch.tensor([[1.0, 0.5], [0.5, 0.0]]), "The relevance of a class to itself must be above 0, got 0.0 for"),
        (torch.zeros(2, 2), "The relevance of a class to itself must be above 0, got 0.0 for class 0."),
    ],
)
@pytest.mark.parametrize("function", [label_distance_contrastive, labeldist.label_distance_contrastive])
def test_a_table_that_is_no_relevance_is_refused(function, relevance, message):
    arguments = normal(4, 3), torch.tensor([0, 1, 0, 1]), torch.ones(2, 2)
    assert message in refusal_of(ValueError, function, *arguments, relevance=relevance)
