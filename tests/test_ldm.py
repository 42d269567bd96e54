"""Label-distance matrices: the builders, their common properties, and Algorithm 1."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close

import reference
from labeldist import AdaptiveLDM, ConfusedPair, StaticLDM, class_centroids
from labeldist.ldm import distances_from_confusion
from strategies import brief, confusion_matrices, gradient_of, matrices, refusal_of, seeds

NAMES = ["guns", "politics", "baseball", "hockey"]
COUNTS = torch.tensor([[6, 4, 0], [2, 8, 0], [0, 1, 9]])
NO_CONFUSION = torch.diag(torch.tensor([5, 5, 5]))

taus = st.sampled_from([0.5, 1.0, 2.0, 5.0, 20.0])


def assert_law_abiding(ldm, max_distance):
    """Diagonal 1, between 1 and max_distance, symmetric."""
    matrix = ldm.matrix.double()
    slack = 1e-6 * max(max_distance, 1.0)
    assert torch.equal(matrix.diagonal(), torch.ones(len(matrix), dtype=torch.float64))
    assert (matrix >= min(1.0, max_distance) - slack).all()
    assert (matrix <= max(1.0, max_distance) + slack).all()
    assert_close(matrix, matrix.T, rtol=0, atol=slack)


# The matrix itself


def test_a_matrix_is_stored_unchanged_even_if_asymmetric():
    ldm = StaticLDM([[1, 5], [2, 1]], class_names=["slow", "fast"])
    assert ldm.matrix.tolist() == [[1.0, 5.0], [2.0, 1.0]]
    assert ldm.matrix.dtype == torch.get_default_dtype()
    assert ldm().tolist() == ldm.matrix.tolist()
    assert (ldm.num_classes, ldm.class_names) == (2, ("slow", "fast"))


def test_distance_reads_row_anchor_and_column_other():
    ldm = StaticLDM([[1, 5], [2, 1]], class_names=["slow", "fast"])
    assert (ldm.distance("slow", "fast"), ldm.distance("fast", "slow"), ldm.distance(1, 0)) == (5.0, 2.0, 2.0)


def test_classes_are_numbered_unless_named():
    assert StaticLDM(torch.ones(3, 3)).class_names == ("0", "1", "2")
    assert AdaptiveLDM(2).class_names == ("0", "1")
    assert AdaptiveLDM(class_names=["a", "b", "c"]).matrix.tolist() == [[1.0] * 3] * 3


def test_the_given_tensor_is_copied_and_needs_no_gradient():
    given_matrix = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    ldm = StaticLDM(given_matrix)
    ldm.matrix[0, 1] = 3
    assert given_matrix.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert ldm.matrix.dtype == torch.float64
    assert not ldm.matrix.requires_grad


def test_the_matrix_is_a_buffer_that_moves_and_is_saved():
    ldm = StaticLDM([[1, 5], [2, 1]])
    assert list(ldm.state_dict()) == ["matrix"]
    assert ldm.to(torch.float64).matrix.dtype == torch.float64
    other = StaticLDM.uniform(num_classes=2)
    other.load_state_dict(ldm.state_dict())
    assert other.matrix.tolist() == [[1.0, 5.0], [2.0, 1.0]]


def test_the_mean_off_diagonal_leaves_the_diagonal_out():
    assert StaticLDM([[9, 5], [2, 9]]).mean_off_diagonal == pytest.approx(3.5)
    assert StaticLDM([[7]]).mean_off_diagonal == 1.0


def test_flattened_is_uniform_with_the_same_mean_and_names():
    ldm = StaticLDM.from_pairs([("guns", "politics")], max_distance=7.0, class_names=NAMES)
    flat = ldm.flattened()
    # Two of twelve entries are 7: (2 * 7 + 10 * 1) / 12 = 2.
    assert flat.matrix.tolist() == [[1.0 if a == b else 2.0 for b in range(4)] for a in range(4)]
    assert flat.class_names == ldm.class_names


def test_an_adaptive_matrix_is_flattened_through_a_static_one():
    ldm = AdaptiveLDM(3)
    ldm.update(COUNTS, progress=0.5)
    assert StaticLDM(ldm.matrix).flattened().mean_off_diagonal == pytest.approx(ldm.mean_off_diagonal)


def test_print_shows_classes_and_mean():
    assert repr(StaticLDM([[1, 5], [2, 1]])) == "StaticLDM(num_classes=2, mean_off_diagonal=3.5)"


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        ([[1, 2, 3], [1, 2, 3]], "A label-distance matrix must have shape (C, C) with C >= 1, got (2, 3)."),
        ([1.0, 2.0], "A label-distance matrix must have shape (C, C) with C >= 1, got (2,)."),
        (torch.ones(0, 0), "A label-distance matrix must have shape (C, C) with C >= 1, got (0, 0)."),
        ([[1, math.nan], [1, 1]], "Label distances must be finite and non-negative, got nan at row 0, column 1."),
        ([[1, 1], [-2, 1]], "Label distances must be finite and non-negative, got -2.0 at row 1, column 0."),
        ([[1, 1], [1, math.inf]], "Label distances must be finite and non-negative, got inf at row 1, column 1."),
    ],
)
def test_an_invalid_matrix_raises_a_clear_error(matrix, sentence):
    matrix = torch.as_tensor(matrix, dtype=torch.float32)
    assert refusal_of(ValueError, StaticLDM, matrix) == sentence


def test_a_wrong_number_of_names_is_refused():
    sentence = "class_names must have 2 entries, got 3."
    assert refusal_of(ValueError, StaticLDM, [[1, 1], [1, 1]], class_names=["a", "b", "c"]) == sentence


# Builders


def test_uniform_is_one_value_off_the_diagonal():
    assert StaticLDM.uniform(2.5, num_classes=2).matrix.tolist() == [[1.0, 2.5], [2.5, 1.0]]
    assert StaticLDM.uniform(class_names=["a", "b"]).matrix.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert StaticLDM.uniform(0.0, num_classes=1).matrix.tolist() == [[1.0]]


def test_listed_pairs_have_max_distance_or_their_own_entry():
    ldm = StaticLDM.from_pairs([("guns", "politics"), ("hockey", "baseball", 3)], max_distance=4.0, class_names=NAMES)
    assert ldm.matrix.tolist() == [[1, 4, 1, 1], [4, 1, 1, 1], [1, 1, 1, 3], [1, 1, 3, 1]]
    assert ldm.class_names == tuple(NAMES)


def test_the_default_max_distance_is_that_of_the_paper():
    assert StaticLDM.from_pairs([(0, 1)], num_classes=2).distance(0, 1) == 5.0


def test_pairs_of_one_direction_set_row_first_and_column_second():
    ldm = StaticLDM.from_pairs([("guns", "politics")], class_names=NAMES, symmetric=False)
    assert (ldm.distance("guns", "politics"), ldm.distance("politics", "guns")) == (5.0, 1.0)


def test_no_pairs_give_ones():
    assert StaticLDM.from_pairs([], num_classes=2).matrix.tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (
            [("gunz", "politics")],
            "There is no class 'gunz'; the classes are guns, politics, baseball, hockey. Did you mean 'guns'?",
        ),
        ([("guns", 4)], "A class index must lie in [0, 4), got 4."),
        ([("guns", 0)], "A pair must name two different classes, got 'guns' twice."),
        (
            [("guns", "hockey", -1.0)],
            "Label distances must be finite and non-negative, got -1.0 at row 0, column 3.",
        ),
    ],
)
def test_an_invalid_pair_raises_a_clear_error(pairs, sentence):
    assert refusal_of(ValueError, StaticLDM.from_pairs, pairs, class_names=NAMES) == sentence


@pytest.mark.parametrize("pair", [("guns",), ("guns", "hockey", 2.0, 3.0)])
def test_a_pair_of_wrong_length_raises_an_error_that_shows_it(pair):
    assert "pair" in refusal_of(ValueError, StaticLDM.from_pairs, [pair], class_names=NAMES)


def test_the_mistakes_of_a_confused_pair_are_not_used_as_its_entry():
    pair = ConfusedPair(first=0, second=1, num_mistakes=37, rate=0.2)
    try:
        ldm = StaticLDM.from_pairs([pair], max_distance=5.0, class_names=NAMES)
    except ValueError:
        return
    assert ldm.distance(0, 1) == 5.0


def test_groups_have_max_distance_inside_and_one_outside():
    ldm = StaticLDM.from_groups([["guns", "politics"], ["hockey", "baseball"]], max_distance=3.0, class_names=NAMES)
    assert ldm.matrix.tolist() == [[1, 3, 1, 1], [3, 1, 1, 1], [1, 1, 1, 3], [1, 1, 3, 1]]


def test_groups_may_overlap_and_omit_classes():
    ldm = StaticLDM.from_groups([[0, 1], [1, 2]], max_distance=3.0, num_classes=4)
    assert ldm.matrix.tolist() == [[1, 3, 1, 1], [3, 1, 3, 1], [1, 3, 1, 1], [1, 1, 1, 1]]


def test_an_unknown_class_in_a_group_gives_an_error_with_the_nearest_name():
    message = refusal_of(ValueError, StaticLDM.from_groups, [["guns", "hokey"]], class_names=NAMES)
    assert message.endswith("Did you mean 'hockey'?")


def test_confusion_rates_are_averaged_over_both_directions_and_scaled_to_max_distance():
    # Rates: 0 as 1 0.4, 1 as 0 0.2, 2 as 1 0.1. Averaged: (0,1) 0.3, (1,2) 0.05, (0,2) 0; the largest maps to 4.
    near = 1 + 3 * 0.05 / 0.3
    expected = torch.tensor([[1.0, 4.0, 1.0], [4.0, 1.0, near], [1.0, near, 1.0]])
    assert_close(StaticLDM.from_confusion(COUNTS, max_distance=4.0).matrix, expected)


def test_confusion_may_keep_its_direction_row_as_true_class():
    # The largest rate is 0.4 (0 as 1): 1 as 0 is half of it, 2 as 1 a quarter.
    expected = torch.tensor([[1.0, 5.0, 1.0], [3.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
    assert_close(StaticLDM.from_confusion(COUNTS, symmetric=False).matrix, expected)


def test_count_is_the_literal_form_of_the_paper():
    assert distances_from_confusion(COUNTS, normalization="count", symmetric=False).tolist() == COUNTS.tolist()
    expected = [[6.0, 3.0, 0.0], [3.0, 8.0, 0.5], [0.0, 0.5, 9.0]]
    assert distances_from_confusion(COUNTS, normalization="count").tolist() == expected


def test_no_confusion_gives_ones():
    assert distances_from_confusion(NO_CONFUSION).tolist() == [[1.0] * 3] * 3
    assert distances_from_confusion(torch.zeros(2, 2, dtype=torch.int64)).tolist() == [[1.0] * 2] * 2
    assert distances_from_confusion(torch.tensor([[4]])).tolist() == [[1.0]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("normalization", ["rate", "count"])
@given(counts=confusion_matrices(), max_distance=taus)
@brief
def test_confusion_distances_agree_with_the_plain_loops(counts, max_distance, normalization, symmetric):
    options = {"max_distance": max_distance, "normalization": normalization, "symmetric": symmetric}
    expected = torch.tensor(reference.confusion_distances(counts.tolist(), **options))
    assert_close(distances_from_confusion(counts, **options), expected)


@pytest.mark.parametrize(
    "counts",
    [torch.tensor([[1, -1], [0, 1]]), torch.ones(2, 3, dtype=torch.int64), torch.tensor([[1.0, math.nan], [0.0, 1.0]])],
    ids=["negative", "not square", "NaN"],
)
def test_invalid_counts_raise_an_error_that_names_them(counts):
    assert "counts" in refusal_of(ValueError, StaticLDM.from_confusion, counts)


def test_an_unknown_normalization_is_refused():
    message = refusal_of(ValueError, distances_from_confusion, COUNTS, normalization="rates")
    assert message == "normalization must be 'rate' or 'count', got 'rates'."


def test_entries_are_scaled_between_the_least_and_the_most_similar_pair():
    # Cosines 0 (0, 1), -1 (0, 2) and 0 (1, 2): least -1, most 0.
    ldm = StaticLDM.from_vectors([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]], max_distance=3.0)
    assert ldm.matrix.tolist() == [[1.0, 3.0, 1.0], [3.0, 1.0, 3.0], [1.0, 3.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_that_are_equally_similar_give_ones(dtype):
    # Three vectors 120 degrees apart: their cosines differ in the last bit only.
    angles = torch.tensor([0.1, 0.1 + 2 * math.pi / 3, 0.1 + 4 * math.pi / 3], dtype=torch.float64)
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1).to(dtype)
    assert_close(StaticLDM.from_vectors(vectors).matrix, torch.ones(3, 3, dtype=dtype))
    assert_close(StaticLDM.from_vectors(torch.eye(4, dtype=dtype)).matrix, torch.ones(4, 4, dtype=dtype))


@brief
@given(seeds, st.sampled_from([1e-6, 1e6]))
def test_only_the_direction_of_a_vector_counts(seed, factor):
    vectors = torch.randn(5, 16, generator=torch.Generator().manual_seed(seed))
    scaled = vectors.clone()
    scaled[0] *= factor
    assert_close(StaticLDM.from_vectors(scaled).matrix, StaticLDM.from_vectors(vectors).matrix)


@pytest.mark.parametrize(
    ("vectors", "sentence"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], "Each class needs a finite, nonzero vector, the vector of class 1 is not."),
        ([[1.0, math.nan], [0.0, 1.0]], "Each class needs a finite, nonzero vector, the vector of class 0 is not."),
        ([[1, 0], [0, 1]], "vectors must be floating point, (C, D), got torch.int64 (2, 2)."),
        ([1.0, 0.0], "vectors must be floating point, (C, D), got torch.float32 (2,)."),
    ],
)
def test_invalid_vectors_raise_a_clear_error(vectors, sentence):
    assert refusal_of(ValueError, StaticLDM.from_vectors, torch.tensor(vectors)) == sentence


def test_centroids_are_the_means_of_unit_rows():
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-5.0, 0.0]])
    centroids = class_centroids(embeddings, torch.tensor([0, 0, 1]), 2)
    assert centroids.tolist() == [[0.5, 0.5], [-1.0, 0.0]]


def test_a_class_without_rows_has_no_centroid_and_is_refused_as_a_vector():
    centroids = class_centroids(torch.ones(1, 2), torch.tensor([0]), 2)
    assert centroids[1].isnan().all()
    assert "class 1" in refusal_of(ValueError, StaticLDM.from_vectors, centroids)


@pytest.mark.parametrize(("labels", "error"), [([0, 2], ValueError), ([0], ValueError), ([0.0, 1.0], TypeError)])
def test_labels_that_do_not_match_the_embeddings_are_refused_for_centroids(labels, error):
    with pytest.raises(error, match="labels"):
        class_centroids(torch.ones(2, 2), torch.tensor(labels), 2)


@given(
    num_classes=st.integers(1, 6),
    max_distance=taus,
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=5),
)
@brief
def test_pairs_and_groups_give_valid_matrices(num_classes, max_distance, pairs):
    pairs = [(a % num_classes, b % num_classes) for a, b in pairs if a % num_classes != b % num_classes]
    assert_law_abiding(StaticLDM.from_pairs(pairs, max_distance=max_distance, num_classes=num_classes), max_distance)
    assert_law_abiding(StaticLDM.from_groups(pairs, max_distance=max_distance, num_classes=num_classes), max_distance)


@brief
@given(confusion_matrices(), taus)
def test_confusion_gives_a_valid_matrix_that_reaches_max_distance(counts, max_distance):
    ldm = StaticLDM.from_confusion(counts, max_distance=max_distance)
    assert_law_abiding(ldm, max_distance)
    if counts.fill_diagonal_(0).any():
        off_diagonal = ldm.matrix[~torch.eye(len(counts), dtype=torch.bool)]
        assert_close((off_diagonal - 1).abs().max().item(), abs(max_distance - 1), rtol=1e-5, atol=1e-6)


@brief
@given(matrices(5, 3, st.integers(-4, 4).map(float)), taus)
def test_vectors_give_a_valid_matrix(vectors, max_distance):
    assume((vectors != 0).any(dim=1).all())
    assert_law_abiding(StaticLDM.from_vectors(vectors, max_distance=max_distance), max_distance)


@pytest.mark.parametrize("max_distance", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    "build",
    [
        lambda max_distance: StaticLDM.from_pairs([(0, 1)], max_distance=max_distance, num_classes=2),
        lambda max_distance: StaticLDM.from_groups([[0, 1]], max_distance=max_distance, num_classes=2),
        lambda max_distance: StaticLDM.from_confusion(COUNTS, max_distance=max_distance),
        lambda max_distance: StaticLDM.from_vectors(torch.eye(2), max_distance=max_distance),
        lambda max_distance: AdaptiveLDM(2, max_distance=max_distance),
    ],
    ids=["pairs", "groups", "confusion", "vectors", "adaptive"],
)
def test_max_distance_must_be_finite_and_above_0(build, max_distance):
    assert (
        refusal_of(ValueError, build, max_distance)
        == f"max_distance must be a finite number above 0, got {max_distance}."
    )


@pytest.mark.parametrize("counts", [COUNTS, COUNTS.double()])
def test_builders_do_not_modify_their_arguments(counts):
    before = counts.clone()
    StaticLDM.from_confusion(counts)
    distances_from_confusion(counts, normalization="count", symmetric=False).add_(1)
    AdaptiveLDM(3).update(counts, progress=0.5)
    assert torch.equal(counts, before)


# Algorithm 1


def test_algorithm_1_gives_the_numbers_computed_by_hand():
    ldm = AdaptiveLDM(3, max_distance=5.0)
    # Rates averaged over both directions: (0,1) 0.3, (1,2) 0.05, (0,2) 0, so LDM' = 5, 1 + 4 / 6 and 1.
    # At progress 0.5 the matrix moves halfway from 1: 3, 1 + 1 / 3 and 1.
    assert ldm.update(COUNTS, progress=0.5) is True
    third = 1 / 3
    assert_close(ldm.matrix, torch.tensor([[1, 3, 1], [3, 1, 1 + third], [1, 1 + third, 1]]))
    # At progress 0.75 it moves a quarter of the way back to ones: 2.5, 1 + 1 / 4 and 1.
    assert ldm.update(NO_CONFUSION, progress=0.75) is True
    assert_close(ldm.matrix, torch.tensor([[1, 2.5, 1], [2.5, 1, 1.25], [1, 1.25, 1]]))


def test_count_moves_the_matrix_to_the_counts():
    ldm = AdaptiveLDM(3, normalization="count", symmetric=False)
    ldm.update(COUNTS, progress=0.5)
    # Halfway from 1 to the count: (1 + count) / 2, on the diagonal too.
    assert ldm.matrix.tolist() == [[3.5, 2.5, 0.5], [1.5, 4.5, 0.5], [0.5, 1.0, 5.0]]


def test_an_asymmetric_update_keeps_the_direction_of_confusion():
    ldm = AdaptiveLDM(3, symmetric=False)
    ldm.update(COUNTS, progress=0.5)
    # Rates 0.4, 0.2, 0.1 map to 5, 3, 2; halfway from 1 is 3, 2, 1.5.
    assert_close(ldm.matrix, torch.tensor([[1.0, 3.0, 1.0], [2.0, 1.0, 1.0], [1.0, 1.5, 1.0]]))


def test_the_matrix_starts_at_one_and_stays_without_confusion():
    ldm = AdaptiveLDM(3)
    assert ldm.matrix.tolist() == [[1.0] * 3] * 3
    assert ldm.update(NO_CONFUSION, progress=0.5) is True
    assert ldm.matrix.tolist() == [[1.0] * 3] * 3


def test_the_warm_up_is_over_strictly_after_its_fraction():
    ldm = AdaptiveLDM(3, warmup_fraction=0.2)
    assert ldm.update(COUNTS, progress=0.0) is False
    assert ldm.update(COUNTS, progress=0.2) is False
    assert ldm.matrix.tolist() == [[1.0] * 3] * 3
    assert ldm.update(COUNTS, progress=0.2000001) is True


def test_without_a_warm_up_the_first_step_moves_the_matrix():
    ldm = AdaptiveLDM(3, warmup_fraction=0.0)
    assert ldm.update(COUNTS, progress=0.0) is False
    assert ldm.update(COUNTS, progress=0.001) is True


def test_every_third_evaluation_moves_the_matrix_and_the_warm_up_counts_too():
    ldm = AdaptiveLDM(3, update_every=3, warmup_fraction=0.2)
    moved = [ldm.update(COUNTS, progress=progress / 10) for progress in range(1, 10)]
    # Evaluations 3, 6 and 9; Algorithm 1 counts steps from the start of training.
    assert moved == [False, False, True, False, False, True, False, False, True]


def test_an_update_that_is_due_in_the_warm_up_is_not_made_up_for():
    ldm = AdaptiveLDM(3, update_every=2, warmup_fraction=0.5)
    assert [ldm.update(COUNTS, progress=progress) for progress in (0.3, 0.4, 0.6, 0.7)] == [False, False, False, True]


def test_the_last_step_of_training_changes_nothing():
    ldm = AdaptiveLDM(3)
    ldm.update(COUNTS, progress=0.5)
    before = ldm.matrix.clone()
    ldm.update(NO_CONFUSION, progress=1.0)
    assert ldm.epsilon == 0.0
    assert torch.equal(ldm.matrix, before)


def test_epsilon_falls_linearly_with_progress():
    ldm = AdaptiveLDM(3)
    for progress in (0.25, 0.5, 0.875):
        ldm.update(COUNTS, progress=progress)
        assert ldm.epsilon == 1 - progress


def test_history_holds_every_update_and_nothing_else():
    ldm = AdaptiveLDM(3)
    assert ldm.history == []
    for progress in (0.1, 0.5, 0.75):
        ldm.update(COUNTS if progress == 0.5 else NO_CONFUSION, progress=progress)
    assert [progress for progress, _ in ldm.history] == [0.5, 0.75]
    assert ldm.history[0][1][0, 1].item() == pytest.approx(3.0)
    assert torch.equal(ldm.history[1][1], ldm.matrix)


@pytest.mark.parametrize("normalization", ["rate", "count"])
@given(
    counts=st.lists(matrices(3, 3, st.integers(0, 9).map(float)), max_size=6),
    update_every=st.integers(1, 3),
    warmup_fraction=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    symmetric=st.booleans(),
)
@brief
def test_algorithm_1_agrees_with_the_plain_loops(normalization, counts, update_every, warmup_fraction, symmetric):
    options = {
        "update_every": update_every,
        "warmup_fraction": warmup_fraction,
        "symmetric": symmetric,
        "max_distance": 5.0,
        "normalization": normalization,
    }
    ldm = AdaptiveLDM(3, **options)
    evaluations = [(table.long(), (step + 1) / len(counts)) for step, table in enumerate(counts)]
    for table, progress in evaluations:
        ldm.update(table, progress=progress)
    expected = reference.algorithm_1([(t.tolist(), p) for t, p in evaluations], num_classes=3, **options)
    assert_close(ldm.matrix, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@brief
@given(st.lists(matrices(3, 3, st.integers(0, 9).map(float)), max_size=6), st.booleans())
def test_far_mirrors_near_between_one_and_the_largest_entry(counts, symmetric):
    near, far = (AdaptiveLDM(3, max_distance=4.0, symmetric=symmetric, use=use) for use in ("near", "far"))
    for step, table in enumerate(counts):
        progress = (step + 1) / len(counts)
        assert near.update(table.long(), progress=progress) == far.update(table.long(), progress=progress)
    # What the updates have moved of the way from 1, of a sum of 1 + 4 off the diagonal.
    moved = 1.0
    for progress, _ in near.history:
        moved *= progress
    off = ~torch.eye(3, dtype=torch.bool)
    assert_close((near.matrix + far.matrix)[off], torch.full((6,), 2 + 3 * (1 - moved)), rtol=1e-5, atol=1e-5)
    assert torch.equal(far.matrix.diagonal(), torch.ones(3))


def test_far_lets_confused_classes_stay_close():
    ldm = AdaptiveLDM(3, warmup_fraction=0.0, use="far")
    ldm.update(COUNTS, progress=0.5)
    # Halfway from 1 to 5 for classes that are never confused; the most confused pair stays at 1.
    assert_close(ldm.matrix[0], torch.tensor([1.0, 1.0, 3.0]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"use": "graded"}, r"use must be 'near' or 'far', got 'graded'\. .*labeldist\.AdaptiveRelevance"),
        ({"use": "far", "normalization": "count"}, r"use='far' needs normalization='rate', .* got 'count'\."),
    ],
)
def test_uses_that_there_are_not_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        AdaptiveLDM(3, **options)


@brief
@given(st.lists(confusion_matrices(max_classes=1), min_size=1, max_size=3))
def test_a_matrix_of_one_class_stays_at_one(tables):
    ldm = AdaptiveLDM(1)
    for table in tables:
        ldm.update(table, progress=0.5)
    assert ldm.matrix.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"warmup_fraction": 1.5}, "warmup_fraction must lie in [0, 1], got 1.5."),
        ({"warmup_fraction": math.nan}, "warmup_fraction must lie in [0, 1], got nan."),
        ({"update_every": 0}, "update_every must be at least 1, got 0."),
        ({"normalization": "rates"}, "normalization must be 'rate' or 'count', got 'rates'."),
        ({"class_names": ["a", "b"]}, "class_names must have 3 entries, got 2."),
    ],
)
def test_an_invalid_option_raises_a_clear_error(options, sentence):
    assert refusal_of(ValueError, AdaptiveLDM, 3, **options) == sentence


@pytest.mark.parametrize(
    ("counts", "progress", "sentence"),
    [
        (COUNTS, 1.5, "progress must lie in [0, 1] (step / total_steps), got 1.5."),
        (COUNTS, math.nan, "progress must lie in [0, 1] (step / total_steps), got nan."),
        (torch.ones(2, 2), 0.5, "counts must have shape (3, 3), got (2, 2)."),
    ],
)
def test_an_invalid_update_is_refused_and_changes_nothing(counts, progress, sentence):
    ldm = AdaptiveLDM(3)
    before = copy.deepcopy(ldm.state_dict())
    assert refusal_of(ValueError, ldm.update, counts, progress=progress) == sentence
    assert all(torch.equal(before[name], value) for name, value in ldm.state_dict().items())


def test_negative_counts_are_refused_and_change_nothing():
    ldm = AdaptiveLDM(3)
    assert "counts" in refusal_of(ValueError, ldm.update, -COUNTS, progress=0.5)
    assert (ldm.num_evaluations, ldm.history) == (0, [])


def test_an_update_in_inference_mode_can_be_saved_and_continued():
    ldm, undisturbed = AdaptiveLDM(3, **OPTIONS), train(AdaptiveLDM(3, **OPTIONS), EVALUATIONS)
    with torch.inference_mode():
        train(ldm, EVALUATIONS[:5])
    ldm.load_state_dict(copy.deepcopy(ldm.state_dict()))
    assert_identical(train(ldm, EVALUATIONS[5:]), undisturbed)


# Checkpoints

EVALUATIONS = [(COUNTS.roll(step, dims=1), (step + 1) / 10) for step in range(9)]
OPTIONS = {"update_every": 2, "warmup_fraction": 0.2}


def train(ldm, evaluations):
    for counts, progress in evaluations:
        ldm.update(counts, progress=progress)
    return ldm


def assert_identical(ldm, other):
    assert torch.equal(ldm.matrix, other.matrix)
    assert ldm.num_evaluations == other.num_evaluations
    assert len(ldm.history) == len(other.history)
    for (progress, matrix), (other_progress, other_matrix) in zip(ldm.history, other.history, strict=True):
        assert progress == other_progress
        assert torch.equal(matrix, other_matrix)


def by_torch(state, path):
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def by_safetensors(state, path):
    save_file(state, path)
    return load_file(path)


@pytest.mark.parametrize("round_trip", [by_torch, by_safetensors])
@pytest.mark.parametrize("stop", range(10))
def test_a_matrix_saved_in_mid_training_continues_identically(tmp_path, round_trip, stop):
    undisturbed = train(AdaptiveLDM(3, **OPTIONS), EVALUATIONS)
    saved = round_trip(train(AdaptiveLDM(3, **OPTIONS), EVALUATIONS[:stop]).state_dict(), tmp_path / "ldm")
    resumed = AdaptiveLDM(3, **OPTIONS)
    resumed.load_state_dict(saved)
    assert_identical(train(resumed, EVALUATIONS[stop:]), undisturbed)


def test_an_earlier_checkpoint_restores_an_earlier_history():
    ldm = train(AdaptiveLDM(3), EVALUATIONS[:4])
    checkpoint = copy.deepcopy(ldm.state_dict())
    train(ldm, EVALUATIONS[4:])
    ldm.load_state_dict(checkpoint)
    assert_identical(ldm, train(AdaptiveLDM(3), EVALUATIONS[:4]))


def test_a_checkpoint_with_another_number_of_classes_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        AdaptiveLDM(2).load_state_dict(train(AdaptiveLDM(3), EVALUATIONS).state_dict())


def test_a_loaded_checkpoint_is_not_changed_by_further_training():
    checkpoint = copy.deepcopy(train(AdaptiveLDM(3), EVALUATIONS[:4]).state_dict())
    before = copy.deepcopy(checkpoint)
    ldm = AdaptiveLDM(3)
    ldm.load_state_dict(checkpoint)
    train(ldm, EVALUATIONS[4:])
    assert all(torch.equal(before[name], checkpoint[name]) for name in before)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda ldm: pickle.loads(pickle.dumps(ldm))], ids=["deepcopy", "pickle"]
)
def test_a_copy_continues_identically_and_independently(copied):
    ldm = train(AdaptiveLDM(class_names=["a", "b", "c"], **OPTIONS), EVALUATIONS[:5])
    twin = copied(ldm)
    before = ldm.matrix.clone()
    train(twin, EVALUATIONS[5:])
    assert torch.equal(ldm.matrix, before)
    assert twin.class_names == ("a", "b", "c")
    assert_identical(train(ldm, EVALUATIONS[5:]), twin)


def test_a_static_matrix_survives_pickle_with_its_names():
    ldm = StaticLDM.from_pairs([("guns", "politics")], class_names=NAMES)
    twin = pickle.loads(pickle.dumps(ldm))
    assert torch.equal(twin.matrix, ldm.matrix)
    assert twin.class_names == ldm.class_names


def test_epsilon_is_recorded_for_pytorch_metric_learnings_loggers():
    assert "epsilon" in vars(AdaptiveLDM(2))["_record_these"]


def test_the_history_is_bounded():
    ldm = AdaptiveLDM(2, warmup_fraction=0.0)
    for step in range(1, 151):
        ldm.update(torch.tensor([[3, 1], [0, 4]]), progress=step / 150)
    assert ldm.num_updates == 150
    assert [progress for progress, _ in ldm.history] == [round(step / 150, 6) for step in range(51, 151)]
    # 64 MiB are 16 float32 matrices of 1,000 classes.
    large = AdaptiveLDM(1000, warmup_fraction=0.0)
    counts = torch.eye(1000).long().roll(1, dims=1)
    for step in range(1, 19):
        large.update(counts, progress=step / 20)
    assert (large.num_updates, len(large.history)) == (18, 16)


@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaging_the_weights_of_a_module_with_a_matrix_works_while_the_history_grows(use_buffers):
    ldm = AdaptiveLDM(2, warmup_fraction=0.0)
    module = nn.Sequential(nn.Linear(2, 2), ldm)
    averaged = AveragedModel(module, use_buffers=use_buffers, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(1, 4):
        ldm.update(torch.tensor([[3, 1], [0, 4]]), progress=step / 4)
        averaged.update_parameters(module)
    resumed = AveragedModel(nn.Sequential(nn.Linear(2, 2), AdaptiveLDM(2)), use_buffers=use_buffers)
    resumed.load_state_dict(averaged.state_dict())
    assert ldm.num_updates == 3


def test_real_dissimilarities_are_reversed():
    distances = torch.tensor([[0.0, 1.0, 9.0], [1.0, 0.0, 5.0], [9.0, 5.0, 0.0]])
    ldm = StaticLDM.from_distances(distances, max_distance=5.0, class_names=["a", "b", "c"])
    assert torch.equal(ldm.matrix, torch.tensor([[1.0, 5.0, 1.0], [5.0, 1.0, 3.0], [1.0, 3.0, 1.0]]))
    assert torch.equal(StaticLDM.from_distances(distances * 7).matrix, ldm.matrix)


@pytest.mark.parametrize(
    ("distances", "part"),
    [
        ([[0, 1], [2, 0]], "Distances must be symmetric, got 1.0 at row 0, column 1 and 2.0 the other way."),
        ([[1, 2], [2, 1]], "The distance of a class to itself must be 0, got 1.0."),
        ([[0, -1], [-1, 0]], "Distances must be finite and non-negative, got -1.0 at row 0, column 1."),
        ([[0, 1, 2]], "A matrix of distances must have shape (C, C)"),
    ],
)
def test_matrices_that_are_not_distances_are_refused(distances, part):
    assert part in refusal_of(ValueError, StaticLDM.from_distances, distances)


def test_tables_are_cached_until_the_matrix_changes():
    ldm, rows = StaticLDM([[1.0, 5.0], [5.0, 1.0]]), torch.zeros(3, 2)
    first = ldm.tables(rows, temperature=0.5)
    assert ldm.tables(rows, temperature=0.5) is first
    assert (first.is_symmetric, first.span) == (True, 10.0)
    assert ldm.tables(rows.double(), temperature=0.5).scale.dtype == torch.float64
    ldm.matrix[0, 1] = 2.0
    changed = ldm.tables(rows, temperature=0.5)
    assert changed.scale[0, 1] == 4.0
    assert changed.is_symmetric is False
    ldm.matrix = torch.ones(2, 2)
    assert torch.equal(ldm.tables(rows, temperature=0.5).scale, torch.full((2, 2), 2.0))


def test_tables_cached_in_an_evaluation_can_be_used_in_training():
    ldm = StaticLDM([[1.0, 5.0], [5.0, 1.0]])
    with torch.inference_mode():
        tables = ldm.tables(torch.zeros(3, 2))
    assert not tables.scale.is_inference()


def test_tables_of_a_learned_matrix_have_a_gradient():
    ldm = StaticLDM(nn.Parameter(torch.ones(2, 2)))
    ldm.tables(torch.zeros(3, 2), temperature=0.5).scale.sum().backward()
    assert torch.equal(gradient_of(ldm.matrix), torch.full((2, 2), 2.0))
