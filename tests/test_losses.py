"""The loss with pytorch-metric-learning's reducers, miners and wrappers."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.distances import (
    BatchedDistance,
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
    SNRDistance,
)
from pytorch_metric_learning.losses import MultipleLosses, SupConLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import (
    AvgNonZeroReducer,
    ClassWeightedReducer,
    DivisorReducer,
    DoNothingReducer,
    MeanReducer,
    PerAnchorReducer,
)
from pytorch_metric_learning.regularizers import LpRegularizer
from torch.testing import assert_close

import reference
from labeldist import (
    AdaptiveLDM,
    LabelDistanceContrastiveLoss,
    StaticLDM,
    ValidAnchorMeanReducer,
    label_distance_contrastive,
)
from strategies import Problem, brief, gradient_of, normal, problems, problems_with_references, refusal_of, thorough

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3])  # classes 2 and 3 have one row: 5 of 7 anchors have a positive
LDM = torch.tensor([[1, 5, 2, 1], [3, 1, 1, 0.5], [2, 1, 1, 4], [1, 1, 6, 1]], dtype=torch.float64)
LONELY = torch.tensor([0, 1, 2, 3])

# The warning about a batch without positives, which hypothesis may draw.
NO_POSITIVES = "No row of this batch has a positive"
drawn_batches = pytest.mark.filterwarnings(f"ignore:{NO_POSITIVES}")


def embeddings_of(labels=LABELS):
    return normal(len(labels), 5).requires_grad_()


def reduced_by(reducer, labels=LABELS):
    return LabelDistanceContrastiveLoss(LDM, reducer=reducer)(embeddings_of(labels), labels)


def assert_same(actual, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def expected_mean(problem, pairs=None):
    """The losses of the plain loops, averaged over the anchors with a positive."""
    arguments, options = problem.plain()
    losses = reference.anchor_losses(*arguments, **options, pairs=pairs)
    counted = {name: value for name, value in options.items() if name in ("ref_labels", "weighting")}
    return math.fsum(losses) / max(reference.num_valid_anchors(*arguments, **counted, pairs=pairs), 1)


def loss_of(problem, *, indices_tuple=None, **changes):
    options = dict(problem.options) | changes
    references = {name: options.pop(name) for name in ("ref_emb", "ref_labels") if name in options}
    loss = LabelDistanceContrastiveLoss(problem.ldm, **options)
    return loss(problem.embeddings, problem.labels, indices_tuple, **references)


def as_index_tensors(pairs):
    table = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


# The value


def test_the_loss_is_the_mean_of_the_losses_computed_by_hand():
    # Orthogonal rows: S is 0.5 between neighbors, 0 between opposite rows. A pair with entry d counts d times.
    # Anchors 0 and 1: log(e^0.5 + 2 e^0 + 2 e^0.5) - 0.5 = log(2 + 3 * 1.648721) - 0.5 = 1.438190.
    # Anchors 2 and 3: log(e^0.5 + 4 e^0 + 4 e^0.5) - 0.5 = log(4 + 5 * 1.648721) - 0.5 = 2.005004.
    # Row 4 has entry 0 with all others and is alone in its class, so it does not count:
    # (1.438190 + 2.005004) / 2 = 1.721597.
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, -4.0], [1.0, 1.0]], dtype=torch.float64)
    ldm = torch.tensor([[1, 2, 0], [4, 1, 0], [1, 1, 1]], dtype=torch.float64)
    loss = LabelDistanceContrastiveLoss(ldm, weighting="log")(embeddings, torch.tensor([0, 0, 1, 1, 2]))
    expected = (math.log(2 + 3 * math.exp(0.5)) + math.log(4 + 5 * math.exp(0.5))) / 2 - 0.5
    assert round(expected, 6) == 1.721597
    assert_same(loss, expected)


@drawn_batches
@thorough
@given(problems())
def test_the_loss_agrees_with_the_plain_loops(problem):
    assert_same(loss_of(problem), expected_mean(problem))


@drawn_batches
@thorough
@given(problems_with_references())
def test_the_loss_with_references_agrees_with_the_plain_loops(problem):
    assert_same(loss_of(problem), expected_mean(problem))


@drawn_batches
@thorough
@given(problems(min_rows=1, max_rows=6), st.data())
def test_the_loss_over_listed_pairs_agrees_with_the_plain_loops(problem, data):
    positives, candidates = reference.all_pairs(problem.labels.tolist())
    negatives = candidates - positives
    listed_positives = {pair for pair in sorted(positives) if data.draw(st.booleans())}
    listed_negatives = {pair for pair in sorted(negatives) if data.draw(st.booleans())}
    indices_tuple = (*as_index_tensors(listed_positives), *as_index_tensors(listed_negatives))
    pairs = listed_positives, listed_positives | listed_negatives
    assert_same(loss_of(problem, indices_tuple=indices_tuple), expected_mean(problem, pairs))


@drawn_batches
@thorough
@given(problems(min_rows=1, max_rows=5), st.data())
def test_the_loss_over_listed_triplets_agrees_with_the_plain_loops(problem, data):
    labels = problem.labels.tolist()
    positives, candidates = reference.all_pairs(labels)
    triplets = [(a, p, n) for a, p in sorted(positives) for b, n in sorted(candidates - positives) if a == b]
    listed = [triplet for triplet in triplets if data.draw(st.booleans())]
    table = torch.tensor(listed, dtype=torch.int64).reshape(-1, 3)
    chosen = {(a, p) for a, p, _ in listed}
    pairs = chosen, chosen | {(a, n) for a, _, n in listed}
    assert_same(loss_of(problem, indices_tuple=tuple(table.T)), expected_mean(problem, pairs))


def test_listed_pairs_with_references_index_the_references():
    problem = Problem(
        normal(2, 3), torch.tensor([0, 1]), LDM, {"ref_emb": normal(4, 3, seed=1), "ref_labels": LABELS[:4]}
    )
    indices_tuple = tuple(torch.tensor(values) for values in ([0, 0], [0, 2], [0, 1], [3, 3]))
    pairs = {(0, 0), (0, 2)}, {(0, 0), (0, 2), (0, 3), (1, 3)}
    assert_same(loss_of(problem, indices_tuple=indices_tuple), expected_mean(problem, pairs))


def test_a_pair_listed_twice_counts_once():
    problem = Problem(embeddings_of(), LABELS, LDM, {})
    once = tuple(torch.tensor(values) for values in ([0], [2], [0, 0], [1, 3]))
    twice = tuple(torch.cat([values, values]) for values in once)
    assert torch.equal(loss_of(problem, indices_tuple=twice), loss_of(problem, indices_tuple=once))


def test_rows_outside_the_listed_pairs_get_no_gradient():
    embeddings = embeddings_of()
    indices_tuple = tuple(torch.tensor(values) for values in ([0], [2], [0], [3]))
    LabelDistanceContrastiveLoss(LDM)(embeddings, LABELS, indices_tuple).backward()
    touched = gradient_of(embeddings).abs().sum(dim=1) > 0
    assert touched.tolist() == [True, False, True, True, False, False, False]


@drawn_batches
@brief
@given(problems())
def test_listing_all_pairs_is_the_same_as_listing_none(problem):
    positives, candidates = reference.all_pairs(problem.labels.tolist())
    indices_tuple = (*as_index_tensors(positives), *as_index_tensors(candidates - positives))
    assert_same(loss_of(problem, indices_tuple=indices_tuple), loss_of(problem))


@pytest.mark.parametrize("miner", [MultiSimilarityMiner(), TripletMarginMiner(margin=0.2)], ids=["pairs", "triplets"])
def test_a_miner_chooses_the_pairs(miner):
    labels = torch.arange(12) % 3
    embeddings = normal(12, 4).requires_grad_()
    loss = LabelDistanceContrastiveLoss(LDM)(embeddings, labels, miner(embeddings, labels))
    loss.backward()
    assert loss > 0
    assert torch.isfinite(gradient_of(embeddings)).all()


def test_an_empty_selection_gives_0_with_the_graph_attached():
    embeddings = embeddings_of()
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.warns(UserWarning, match=NO_POSITIVES):
        loss = LabelDistanceContrastiveLoss(LDM)(embeddings, LABELS, (nothing, nothing, nothing, nothing))
    loss.backward()
    assert loss == 0
    assert torch.equal(gradient_of(embeddings), torch.zeros_like(embeddings))


def test_two_views_that_share_their_labels_have_each_other_as_positives():
    # Views of different rows: the pair (i, i) is an ordinary positive, whether or not the labels are one tensor.
    first, second = normal(7, 5), normal(7, 5, seed=1)
    expected = label_distance_contrastive(first, LABELS, LDM, ref_emb=second, ref_labels=LABELS).mean()
    loss = LabelDistanceContrastiveLoss(LDM)
    assert_same(loss(first, LABELS, ref_emb=second, ref_labels=LABELS.clone()), expected)
    assert_same(loss(first, LABELS, ref_emb=second, ref_labels=LABELS), expected)


@pytest.mark.parametrize("weighting", ["scale", "log"])
def test_gradients_are_those_of_finite_differences(weighting):
    loss = LabelDistanceContrastiveLoss(LDM, temperature=0.3, weighting=weighting)
    assert torch.autograd.gradcheck(lambda embeddings: loss(embeddings, LABELS), embeddings_of())


# No positives, no rows


@pytest.mark.parametrize(
    "reducer",
    [
        None,
        MeanReducer(),
        AvgNonZeroReducer(),
        DivisorReducer(),
        ClassWeightedReducer(torch.ones(4, dtype=torch.float64)),
        PerAnchorReducer(),
    ],
    ids=lambda reducer: type(reducer).__name__,
)
@pytest.mark.parametrize("labels", [LONELY, LONELY[:1], LONELY[:0]], ids=["no positives", "one row", "no rows"])
def test_a_batch_without_a_positive_gives_0_with_the_graph_attached_under(reducer, labels):
    embeddings = embeddings_of(labels)
    with pytest.warns(UserWarning, match=NO_POSITIVES):
        loss = LabelDistanceContrastiveLoss(LDM, reducer=reducer)(embeddings, labels)
    assert loss.shape == ()
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(gradient_of(embeddings), torch.zeros_like(embeddings))


def test_each_loss_warns_once_about_a_batch_without_a_positive():
    for loss in (LabelDistanceContrastiveLoss(LDM), LabelDistanceContrastiveLoss(LDM)):
        loss(embeddings_of(), LABELS)
        with pytest.warns(UserWarning, match=NO_POSITIVES):
            loss(embeddings_of(LONELY), LONELY)
        # A second warning would be an error here.
        for labels in (LONELY, LONELY[:1], LONELY[:0]):
            loss(embeddings_of(labels), labels)


def test_without_validation_a_batch_without_a_positive_raises_no_warning():
    assert LabelDistanceContrastiveLoss(LDM, validate=False)(embeddings_of(LONELY), LONELY) == 0


# Reducers


def anchor_losses():
    return label_distance_contrastive(embeddings_of(), LABELS, LDM)


def test_the_default_reducer_averages_the_anchors_that_have_a_positive():
    assert_same(LabelDistanceContrastiveLoss(LDM)(embeddings_of(), LABELS), anchor_losses().sum() / 5)


def test_a_valid_anchor_whose_loss_is_0_is_counted():
    # One class of two rows: each anchor has only its positive, so its loss is 0; the two anchors of class 1 have a
    # larger loss.
    labels, ldm = torch.tensor([0, 0, 1, 1]), torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    losses = label_distance_contrastive(normal(4, 3), labels, ldm, weighting="log")
    assert_same(losses[:2], [0.0, 0.0])
    loss = LabelDistanceContrastiveLoss(ldm, weighting="log")(normal(4, 3), labels)
    assert_same(loss, losses.sum() / 4)


def test_the_mean_reducer_averages_all_rows():
    assert_same(reduced_by(MeanReducer()), anchor_losses().mean())


def test_the_divisor_reducer_divides_by_the_valid_anchors():
    assert_same(reduced_by(DivisorReducer()), anchor_losses().sum() / 5)


def test_the_average_of_nonzero_losses_is_that_of_the_valid_anchors():
    assert_same(reduced_by(AvgNonZeroReducer()), anchor_losses().sum() / 5)


def test_class_weights_are_those_of_the_anchors():
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    assert_same(reduced_by(ClassWeightedReducer(weights)), (anchor_losses() * weights[LABELS]).mean())


def test_one_loss_per_anchor_works_with_the_per_anchor_reducer():
    assert_same(reduced_by(PerAnchorReducer()), anchor_losses().mean())


def test_the_raw_losses_include_anchor_indices_and_a_divisor():
    terms = reduced_by(DoNothingReducer())["loss"]
    assert terms["reduction_type"] == "element"
    assert torch.equal(terms["indices"], torch.arange(7))
    assert terms["divisor"] == 5
    assert_same(terms["losses"], anchor_losses())


def test_reducers_work_with_more_references_than_anchors():
    for reducer in (None, MeanReducer(), DivisorReducer(), PerAnchorReducer()):
        loss = LabelDistanceContrastiveLoss(LDM, reducer=reducer)
        value = loss(normal(2, 5), LABELS[:2], ref_emb=normal(7, 5, seed=1), ref_labels=LABELS)
        assert torch.isfinite(value)


def test_the_default_reducer_averages_losses_that_report_no_divisor():
    supcon = SupConLoss(reducer=ValidAnchorMeanReducer())
    raw = SupConLoss(reducer=DoNothingReducer())(normal(7, 5), LABELS)["loss"]["losses"]
    assert_same(supcon(normal(7, 5), LABELS), raw.mean())


# With other components of pytorch-metric-learning


def test_an_embedding_regularizer_is_added():
    plain = LabelDistanceContrastiveLoss(LDM)(embeddings_of(), LABELS)
    loss = LabelDistanceContrastiveLoss(LDM, embedding_regularizer=LpRegularizer(), embedding_reg_weight=0.5)
    expected = plain + 0.5 * embeddings_of().norm(dim=1).mean()
    assert_same(loss(embeddings_of(), LABELS), expected)
    assert_same(loss(embeddings_of(), LABELS), expected)


def test_losses_can_be_combined():
    loss = LabelDistanceContrastiveLoss(LDM)
    both = MultipleLosses([loss, SupConLoss()], weights=[1.0, 2.0])
    expected = loss(embeddings_of(), LABELS) + 2 * SupConLoss()(embeddings_of(), LABELS)
    assert_same(both(embeddings_of(), LABELS), expected)


def test_temperature_and_the_number_of_valid_anchors_are_recorded():
    loss = LabelDistanceContrastiveLoss(LDM, temperature=0.5, collect_stats=True)
    loss(embeddings_of(), LABELS)
    assert "temperature" in vars(loss)["_record_these"]
    assert "num_valid_anchors" in vars(loss)["_record_these_stats"]
    assert (loss.temperature, loss.num_valid_anchors) == (0.5, 5)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))], ids=["deepcopy", "pickle"]
)
def test_a_copy_gives_the_same_loss(copied):
    loss = LabelDistanceContrastiveLoss(LDM, temperature=0.3, weighting="log")
    loss(embeddings_of(), LABELS)
    assert torch.equal(copied(loss)(embeddings_of(), LABELS), loss(embeddings_of(), LABELS))


def test_the_loss_is_the_same_without_gradients_and_in_evaluation():
    loss = LabelDistanceContrastiveLoss(LDM)
    expected = loss(embeddings_of(), LABELS).detach()
    with torch.no_grad():
        assert torch.equal(loss.eval()(embeddings_of(), LABELS), expected)


# The matrix


def test_the_matrix_is_shared_so_the_next_call_uses_an_update():
    ldm = AdaptiveLDM(4, max_distance=9.0)
    loss = LabelDistanceContrastiveLoss(ldm)
    assert loss.ldm is ldm
    before = loss(embeddings_of(), LABELS)
    counts = torch.full((4, 4), 3)
    counts[0, 1] = 20
    ldm.update(counts, progress=0.5)
    assert loss(embeddings_of(), LABELS) != before
    assert_same(loss(embeddings_of(), LABELS), expected_mean(Problem(embeddings_of(), LABELS, ldm.matrix.double(), {})))


def test_an_update_between_forward_and_backward_does_not_change_the_gradient():
    ldm = AdaptiveLDM(4)
    embeddings, untouched = embeddings_of(), embeddings_of()
    loss = LabelDistanceContrastiveLoss(ldm)
    value = loss(embeddings, LABELS)
    loss(untouched, LABELS).backward()
    ldm.update(torch.arange(16).reshape(4, 4), progress=0.5)
    value.backward()
    assert torch.equal(gradient_of(embeddings), gradient_of(untouched))


def test_a_plain_tensor_is_copied_into_a_static_matrix():
    matrix = LDM.clone()
    loss = LabelDistanceContrastiveLoss(matrix)
    matrix.zero_()
    assert isinstance(loss.ldm, StaticLDM)
    assert torch.equal(loss.ldm.matrix, LDM)
    assert list(loss.state_dict()) == ["ldm.matrix"]


def test_a_tensor_that_is_not_a_valid_matrix_is_refused():
    message = refusal_of(ValueError, LabelDistanceContrastiveLoss, torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    assert message == "Label distances must be finite and non-negative, got -1.0 at row 0, column 1."


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_matrix_of_any_precision_works_with_embeddings_of_any_precision(dtype, rows):
    loss = LabelDistanceContrastiveLoss(StaticLDM(LDM.to(dtype)))(normal(7, 5, dtype=rows), LABELS)
    assert loss.dtype == (torch.float64 if rows == torch.float64 else torch.float32)
    # All entries of LDM are exact in half precision: only the rows are rounded.
    expected = label_distance_contrastive(normal(7, 5, dtype=rows).double(), LABELS, LDM).sum() / 5
    assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(dtype):
    loss, embeddings = LabelDistanceContrastiveLoss(LDM), normal(7, 5, dtype=dtype)
    plain = loss(embeddings, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss(embeddings, LABELS)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_may_have_any_integer_dtype(dtype):
    loss = LabelDistanceContrastiveLoss(LDM)
    assert torch.equal(loss(embeddings_of(), LABELS.to(dtype)), loss(embeddings_of(), LABELS))


# Errors


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    message = refusal_of(ValueError, LabelDistanceContrastiveLoss, LDM, temperature=temperature)
    assert message == f"temperature must be a finite number above 0, got {temperature}."


def test_an_unknown_weighting_is_refused():
    message = refusal_of(ValueError, LabelDistanceContrastiveLoss, LDM, weighting="exp")
    assert message == "weighting must be 'scale' or 'log', got 'exp'."


class Doubled(CosineSimilarity):
    """A custom similarity, which the loss would not call."""

    def compute_mat(self, query_emb, ref_emb):
        return 2 * super().compute_mat(query_emb, ref_emb)


@pytest.mark.parametrize(
    ("distance", "got"),
    [
        (LpDistance(), "LpDistance with p=2 and power=1."),
        (SNRDistance(), "SNRDistance with p=2 and power=1."),
        (DotProductSimilarity(), "DotProductSimilarity with p=2 and power=1."),
        (BatchedDistance(CosineSimilarity()), "BatchedDistance with p=2 and power=1."),
        (CosineSimilarity(power=2), "CosineSimilarity with p=2 and power=2."),
        (CosineSimilarity(p=1), "CosineSimilarity with p=1 and power=1."),
        (Doubled(), "Doubled with p=2 and power=1."),
    ],
    ids=["Lp", "SNR", "dot product", "batched", "another power", "another norm", "a subclass"],
)
def test_a_distance_other_than_cosine_similarity_is_refused(distance, got):
    message = refusal_of(ValueError, LabelDistanceContrastiveLoss, LDM, distance=distance)
    assert message == (
        "LabelDistanceContrastiveLoss is defined on cosines (Eq. 4): distance must be CosineSimilarity(), got " + got
    )


def test_cosine_similarity_may_be_passed():
    loss = LabelDistanceContrastiveLoss(LDM, distance=CosineSimilarity())
    assert_same(loss(embeddings_of(), LABELS), anchor_losses().sum() / 5)


@pytest.mark.parametrize(
    ("labels", "error", "sentence"),
    [
        (
            None,
            ValueError,
            "labels are required (and ref_labels with ref_emb): label distance is defined between classes.",
        ),
        (
            LABELS + 1,
            ValueError,
            "labels must lie in [0, 4) for an LDM of 4 classes, got values from 1 to 4. "
            "Pass class indices counted from 0, not ids of rows, or build the LDM for all classes.",
        ),
        (
            LABELS - 1,
            ValueError,
            "labels must lie in [0, 4) for an LDM of 4 classes, got values from -1 to 2. "
            "Pass class indices counted from 0, not ids of rows, or build the LDM for all classes.",
        ),
        (
            LABELS.float(),
            TypeError,
            "labels must be integers (class indices), got torch.float32. Convert them with .long().",
        ),
    ],
)
def test_bad_labels_raise_a_clear_error(labels, error, sentence):
    assert refusal_of(error, LabelDistanceContrastiveLoss(LDM), embeddings_of(), labels) == sentence


@pytest.mark.parametrize("labels", [LABELS[:3], LABELS[:, None]], ids=["too few", "a column"])
def test_labels_of_another_shape_are_refused(labels):
    assert "labels" in refusal_of(ValueError, LabelDistanceContrastiveLoss(LDM), embeddings_of(), labels)


def test_references_without_labels_are_refused():
    message = refusal_of(ValueError, LabelDistanceContrastiveLoss(LDM), embeddings_of(), LABELS, ref_emb=normal(2, 5))
    assert message == "labels are required (and ref_labels with ref_emb): label distance is defined between classes."


def test_bad_references_give_an_error_that_names_the_argument():
    loss = LabelDistanceContrastiveLoss(LDM)
    options = {"ref_emb": normal(2, 5), "ref_labels": torch.tensor([0, 4])}
    assert refusal_of(ValueError, loss, embeddings_of(), LABELS, **options).startswith("ref_labels must lie in [0, 4)")
    options = {"ref_emb": normal(7, 4), "ref_labels": LABELS}
    message = refusal_of(ValueError, loss, embeddings_of(), LABELS, **options)
    assert message == "ref_emb must have shape (R, 5), got (7, 4)."
