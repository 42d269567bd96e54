"""The miner, compared with plain loops and pytorch-metric-learning's miners, and used with its losses."""

import copy
import inspect
import itertools
import math
import pickle
from typing import Any

import pytest
import pytorch_metric_learning.losses as pml_losses
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
from pytorch_metric_learning.miners import BatchHardMiner, MultiSimilarityMiner, TripletMarginMiner
from pytorch_metric_learning.trainers import MetricLossOnly
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import reference
from labeldist import (
    AdaptiveLDM,
    CrossBatchMemory,
    LabelDistanceContrastiveLoss,
    LabelDistanceMiner,
    Relation,
    StaticLDM,
)
from strategies import brief, gradient_of, normal, problems, problems_with_references, refusal_of, seeds, thorough

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 2, 3, 1, 2])
LDM = torch.tensor([[1, 5, 2, 1], [3, 1, 1, 0.5], [2, 1, 1, 4], [1, 1, 6, 1]], dtype=torch.float64)
ONES = torch.ones(4, 4, dtype=torch.float64)
NONE = torch.zeros(0, dtype=torch.int64)

outputs = pytest.mark.parametrize("output", ["pairs", "triplets"])


def rows(seed=0, dtype=torch.float64) -> Tensor:
    return normal(len(LABELS), 5, seed=seed, dtype=dtype).requires_grad_()


def references() -> dict[str, Tensor]:
    return {"ref_emb": normal(13, 5, seed=1), "ref_labels": torch.arange(13) % 4}


def as_sets(mined) -> list[set[tuple[int, ...]]]:
    """Triplets as one set; pairs as a set of positive and a set of negative pairs."""
    together = [mined] if len(mined) == 3 else [mined[:2], mined[2:]]
    sets = [set(zip(*(indices.tolist() for indices in part), strict=True)) for part in together]
    assert [len(found) for found in sets] == [len(part[0]) for part in together], "mined twice"
    return sets


def same_mined(first, second) -> bool:
    return all(torch.equal(*both) for both in zip(first, second, strict=True))


# Comparison with plain loops


class Loops:
    """The miner's definition over lists of floats."""

    def __init__(self, problem, *, num_negatives, num_positives, margin):
        (self.embeddings, self.labels, self.ldm), options = problem.plain()
        self.weighting = options["weighting"]
        self.own = "ref_emb" not in options
        self.ref_emb, self.ref_labels = options.get("ref_emb", self.embeddings), options.get("ref_labels", self.labels)
        self.num_negatives, self.num_positives, self.margin = num_negatives, num_positives, margin

    def hardness(self, i, j):
        distance = self.ldm[self.labels[i]][self.ref_labels[j]]
        return reference.logit(self.embeddings[i], self.ref_emb[j], distance, 1.0, self.weighting)

    def candidates(self, i, *, positive):
        """Hardness of each pair of anchor i that may be mined."""
        found = []
        for j in range(len(self.ref_labels)):
            is_itself = self.own and i == j
            if not is_itself and (self.labels[i] == self.ref_labels[j]) == positive:
                hardness = self.hardness(i, j)
                if hardness is not None:
                    found.append(hardness)
        return found

    def pairs(self):
        positives, negatives = [], []
        for i in range(len(self.labels)):
            easy_first, hard_first = self.candidates(i, positive=True), self.candidates(i, positive=False)
            floor, ceiling = min(easy_first, default=math.inf), max(hard_first, default=-math.inf)
            if self.margin is not None:
                easy_first = [hardness for hardness in easy_first if hardness < ceiling + self.margin]
                hard_first = [hardness for hardness in hard_first if hardness > floor - self.margin]
            positives += [(i, hardness) for hardness in sorted(easy_first)[: self.num_positives]]
            negatives += [(i, hardness) for hardness in sorted(hard_first, reverse=True)[: self.num_negatives]]
        return positives, negatives

    def triplets(self):
        found = []
        for i in range(len(self.labels)):
            positives = sorted(self.candidates(i, positive=True))[: self.num_positives]
            negatives = sorted(self.candidates(i, positive=False), reverse=True)[: self.num_negatives]
            for positive, negative in itertools.product(positives, negatives):
                if self.margin is None or positive - negative <= self.margin:
                    found.append((i, positive, negative))
        return found


def rounded(found):
    """Sorted and rounded, because any of several equally hard pairs may be mined."""
    return sorted(tuple(round(number, 9) + 0.0 for number in entry) for entry in found)


def mine(problem, **options):
    given_options = {name: problem.options[name] for name in ("ref_emb", "ref_labels") if name in problem.options}
    miner = LabelDistanceMiner(problem.ldm, weighting=problem.options["weighting"], **options)
    return miner(problem.embeddings, problem.labels, **given_options)


numbers = st.sampled_from([None, 1, 2, 5])
# Margins that no difference of simple numbers equals: there, rounding would decide.
margins = st.sampled_from([None, -0.03717, 0.12343, 1.7173])
any_problems = st.one_of(problems(), problems_with_references())


@thorough
@given(any_problems, numbers, numbers, margins)
def test_pairs_are_those_of_the_plain_loops(problem, num_negatives, num_positives, margin):
    options = {"num_negatives": num_negatives, "num_positives": num_positives, "margin": margin}
    mined = mine(problem, **options)
    loops = Loops(problem, **options)
    positives, negatives = as_sets(mined)
    assert_valid(loops, positives, negatives)
    for found, expected in zip((positives, negatives), loops.pairs(), strict=True):
        assert rounded((i, loops.hardness(i, j)) for i, j in found) == rounded(expected)


@thorough
@given(any_problems, numbers, numbers, margins)
def test_triplets_are_those_of_the_plain_loops(problem, num_negatives, num_positives, margin):
    options = {"num_negatives": num_negatives, "num_positives": num_positives, "margin": margin}
    mined = mine(problem, output="triplets", **options)
    loops = Loops(problem, **options)
    (triplets,) = as_sets(mined)
    assert_valid(loops, {(a, p) for a, p, _ in triplets}, {(a, n) for a, _, n in triplets})
    found = [(a, loops.hardness(a, p), loops.hardness(a, n)) for a, p, n in triplets]
    assert rounded(found) == rounded(loops.triplets())


def assert_valid(loops, positives, negatives):
    assert all(loops.labels[a] == loops.ref_labels[p] and not (loops.own and a == p) for a, p in positives)
    assert all(loops.labels[a] != loops.ref_labels[n] for a, n in negatives)
    assert all(loops.hardness(i, j) is not None for i, j in positives | negatives)


def test_the_hardest_negative_is_the_confusable_one_computed_by_hand():
    # Anchor (1, 0) of class 0: S = 1 with row 1, 0.8 with row 2 (cos 0.6) and 0.5 with row 3 (cos 0).
    # LDM[0, 1] = 1 and LDM[0, 2] = 2: g = 0.8 for row 2 and 1.0 for row 3. This reverses their order.
    # Asymmetric: of anchor 2 (class 1), g = 3 * 0.8 for rows 0 and 1 and 1 * 0.9 (cos 0.8) for row 3.
    embeddings = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.6, 0.8], [0.0, 3.0]], dtype=torch.float64)
    ldm = torch.tensor([[1, 1, 2], [3, 1, 1], [1, 1, 1]], dtype=torch.float64)
    positives, negatives = as_sets(LabelDistanceMiner(ldm, num_negatives=1)(embeddings, torch.tensor([0, 0, 1, 2])))
    assert positives == {(0, 1), (1, 0)}
    assert {n for a, n in negatives if a in (0, 1)} == {3}
    assert {n for a, n in negatives if a == 2} <= {0, 1}
    # Anchor 3: S = 0.5 with rows 0 and 1, 0.9 with row 2.
    assert {n for a, n in negatives if a == 3} == {2}


@pytest.mark.parametrize("seed", range(3))
def test_a_distance_d_gives_similarity_1_over_1_plus_d(seed):
    embeddings = rows(seed).detach()
    for distance in (LpDistance(), LpDistance(p=1, normalize_embeddings=False), LpDistance(power=2), SNRDistance()):
        hardness = LDM[LABELS][:, LABELS] / (1 + distance(embeddings))
        different = LABELS[:, None] != LABELS[None, :]
        expected = hardness.masked_fill(~different, -1).argmax(dim=1)
        _, _, anchors, negatives = LabelDistanceMiner(LDM, num_negatives=1, distance=distance)(embeddings, LABELS)
        assert anchors.tolist() == list(range(len(LABELS)))
        assert torch.equal(negatives, expected)


# Comparison with the miners of pytorch-metric-learning


def batch_of(seed) -> tuple[Tensor, Tensor]:
    """Eleven rows of up to four classes, sometimes with one class only or with classes of one row."""
    generator = torch.Generator().manual_seed(seed)
    num_classes = int(torch.randint(1, 5, (1,), generator=generator))
    return normal(11, 5, seed=seed), torch.randint(num_classes, (11,), generator=generator)


@pytest.mark.parametrize("options", [{}, references()], ids=["the batch itself", "references"])
@pytest.mark.parametrize("distance", [CosineSimilarity, LpDistance, SNRDistance])
@brief
@given(seed=seeds)
def test_with_a_matrix_of_ones_one_of_each_is_batch_hard_mining(distance, options, seed):
    embeddings, labels = batch_of(seed)
    miner = LabelDistanceMiner(ONES, num_negatives=1, num_positives=1, output="triplets", distance=distance())
    hard = BatchHardMiner(distance=distance())
    assert as_sets(miner(embeddings, labels, **options)) == as_sets(hard(embeddings, labels, **options))


@pytest.mark.parametrize("options", [{}, references()], ids=["the batch itself", "references"])
@pytest.mark.parametrize("epsilon", [-0.1, 0.1, 0.4])
@brief
@given(seed=seeds)
def test_with_a_matrix_of_ones_the_margin_alone_is_multi_similarity_mining(epsilon, options, seed):
    embeddings, labels = batch_of(seed)
    miner = LabelDistanceMiner(ONES, num_negatives=None, margin=epsilon / 2)
    theirs = MultiSimilarityMiner(epsilon=epsilon, distance=CosineSimilarity())
    assert as_sets(miner(embeddings, labels, **options)) == as_sets(theirs(embeddings, labels, **options))


@pytest.mark.parametrize("options", [{}, references()], ids=["the batch itself", "references"])
@pytest.mark.parametrize("margin", [-0.1, 0.0, 0.2])
@brief
@given(seed=seeds)
def test_with_a_matrix_of_ones_the_margin_alone_is_triplet_margin_mining(margin, options, seed):
    embeddings, labels = batch_of(seed)
    miner = LabelDistanceMiner(ONES, num_negatives=None, margin=margin / 2, output="triplets")
    theirs = TripletMarginMiner(margin=margin, distance=CosineSimilarity())
    assert as_sets(miner(embeddings, labels, **options)) == as_sets(theirs(embeddings, labels, **options))


def test_the_boundary_of_the_margin_is_that_of_pytorch_metric_learning():
    # Orthogonal rows, so that nothing is rounded: every positive and every negative of anchor 0 has a cosine of 0.
    # A pair must be strictly harder than the margin; a triplet may be equally hard.
    embeddings = torch.eye(3, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    theirs = MultiSimilarityMiner(epsilon=0.0, distance=CosineSimilarity())(embeddings, labels)
    ours = LabelDistanceMiner(ONES, num_negatives=None, margin=0.0)(embeddings, labels)
    assert as_sets(ours) == as_sets(theirs) == [set(), set()]
    theirs = TripletMarginMiner(margin=0.0, distance=CosineSimilarity())(embeddings, labels)
    ours = LabelDistanceMiner(ONES, num_negatives=None, margin=0.0, output="triplets")(embeddings, labels)
    assert as_sets(ours) == as_sets(theirs) == [{(0, 1, 2), (1, 0, 2)}]


def test_without_limits_and_margin_all_pairs_are_mined():
    for options in ({}, references()):
        mined = LabelDistanceMiner(LDM, num_negatives=None)(rows(), LABELS, **options)
        assert as_sets(mined) == as_sets(lmu.get_all_pairs_indices(LABELS, options.get("ref_labels")))
        mined = LabelDistanceMiner(LDM, num_negatives=None, output="triplets")(rows(), LABELS, **options)
        assert as_sets(mined) == as_sets(lmu.get_all_triplets_indices(LABELS, options.get("ref_labels")))


# Properties


@outputs
@brief
@given(seed=seeds)
def test_reordering_the_batch_reorders_what_is_mined(output, seed):
    embeddings, labels = batch_of(seed)
    miner = LabelDistanceMiner(LDM, num_negatives=2, num_positives=1, margin=0.5, output=output)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    permuted = [order[indices] for indices in miner(embeddings[order], labels[order])]
    assert as_sets(permuted) == as_sets(miner(embeddings, labels))


@outputs
def test_renaming_the_classes_changes_nothing(output):
    names = torch.tensor([2, 0, 3, 1])
    renamed = torch.empty_like(LDM)
    renamed[names[:, None], names[None, :]] = LDM
    first = LabelDistanceMiner(LDM, num_negatives=2, output=output)(rows(), LABELS)
    assert same_mined(first, LabelDistanceMiner(renamed, num_negatives=2, output=output)(rows(), names[LABELS]))


def test_a_removed_pair_is_never_mined():
    ldm = LDM.clone()
    ldm[0, 1] = ldm[2, 2] = 0
    positives, negatives = as_sets(LabelDistanceMiner(ldm, num_negatives=None, weighting="log")(rows(), LABELS))
    for i, anchor in enumerate(LABELS.tolist()):
        others = {LABELS[n].item() for a, n in negatives if a == i}
        assert others == {0, 1, 2, 3} - {anchor} - ({1} if anchor == 0 else set())
        assert ((i in {a for a, _ in positives}) is False) == (anchor == 2)


def test_a_second_view_with_the_same_labels_counts_as_references():
    # As in the loss, row i of the second view is a different row, and therefore a positive of row i.
    second = {"ref_emb": rows(1).detach(), "ref_labels": LABELS}
    miner = LabelDistanceMiner(LDM)
    mined = miner(rows(), LABELS, **second)
    assert (3, 3) in as_sets(mined)[0]
    assert same_mined(mined, miner(rows(), LABELS, ref_emb=second["ref_emb"], ref_labels=LABELS.clone()))


@outputs
@pytest.mark.parametrize("margin", [None, 0.1])
@pytest.mark.parametrize("num_negatives", [None, 1])
def test_a_row_with_nan_is_mined_and_gives_a_nan_loss(num_negatives, margin, output):
    embeddings = rows().detach()
    embeddings[4] = math.nan
    miner = LabelDistanceMiner(LDM, num_negatives=num_negatives, margin=margin, output=output)
    mined = miner(embeddings, LABELS)
    assert all(4 in indices for indices in mined)
    # The reducer must average all losses: an average over losses above 0 would ignore a NaN.
    assert torch.isnan(pml_losses.MultiSimilarityLoss()(embeddings, LABELS, mined))


def test_arguments_are_not_modified():
    embeddings, labels, ldm = rows().detach(), LABELS.clone(), LDM.clone()
    for distance in (CosineSimilarity(), LpDistance(normalize_embeddings=False)):
        LabelDistanceMiner(ldm, num_negatives=1, margin=0.1, distance=distance)(embeddings, labels)
    assert torch.equal(embeddings, rows())
    assert torch.equal(labels, LABELS)
    assert torch.equal(ldm, LDM)


# Edge cases


@outputs
@pytest.mark.parametrize("options", [{}, {"margin": 0.1}, {"num_negatives": None}, {"num_positives": 1}], ids=str)
@pytest.mark.parametrize("distance", [CosineSimilarity(), LpDistance(), SNRDistance()], ids=lambda d: type(d).__name__)
@pytest.mark.filterwarnings("ignore:var")  # SNRDistance takes the variance of nothing
@pytest.mark.parametrize("case", ["no rows", "one row", "no positives", "no negatives", "no references"])
def test_with_nothing_to_mine_the_result_is_empty_index_tensors(case, distance, options, output):
    labels = {"no rows": [], "one row": [0], "no positives": [0, 1, 2]}.get(case, [0, 0, 0])
    labels = torch.tensor(labels, dtype=torch.int64)
    others = {"ref_emb": torch.zeros(0, 3), "ref_labels": NONE} if case == "no references" else {}
    miner = LabelDistanceMiner(torch.ones(3, 3), output=output, distance=distance, **options)
    mined = miner(normal(len(labels), 3, dtype=torch.float32), labels, **others)
    assert isinstance(mined, tuple)
    assert [indices.dtype for indices in mined] == [torch.int64] * (4 if output == "pairs" else 3)
    assert [indices.ndim for indices in mined] == [1] * len(mined)
    has_positives = case == "no negatives" and "margin" not in options
    has_negatives = case == "no positives" and "margin" not in options
    filled = [has_positives, has_positives, has_negatives, has_negatives] if output == "pairs" else [False] * 3
    assert [len(indices) > 0 for indices in mined] == filled


def test_an_empty_selection_gives_a_loss_of_0_with_a_gradient():
    embeddings = rows()
    labels = torch.zeros(len(embeddings), dtype=torch.int64)
    mined = LabelDistanceMiner(LDM, output="triplets")(embeddings, labels)
    pml_losses.TripletMarginLoss()(embeddings, labels, mined).backward()
    assert (gradient_of(embeddings) == 0).all()


@outputs
@pytest.mark.parametrize("options", [{}, references()], ids=["the batch itself", "references"])
def test_no_tensor_is_larger_than_the_number_of_pairs(options, output):
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return result

    many = {name: value.repeat(9, *[1] * (value.ndim - 1)) for name, value in options.items()}
    embeddings, labels = normal(99, 5), LABELS.repeat(9)
    num_references = len(many.get("ref_labels", labels))
    with Largest() as largest:
        LabelDistanceMiner(LDM, num_negatives=3, num_positives=2, output=output)(embeddings, labels, **many)
    assert 99 * num_references <= largest.elements <= 2 * 99 * num_references


# Precision and dtypes


@outputs
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rows_are_mined_in_float32(dtype, output):
    miner = LabelDistanceMiner(LDM, num_negatives=2, num_positives=1, output=output)
    for options in (
        {},
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in references().items()},
    ):
        exact = {name: value.float() if value.is_floating_point() else value for name, value in options.items()}
        halves = rows(dtype=dtype).detach()
        assert same_mined(miner(halves, LABELS, **options), miner(halves.float(), LABELS, **exact))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("distance", [CosineSimilarity(), LpDistance()], ids=lambda d: type(d).__name__)
def test_autocast_changes_nothing(distance, dtype):
    miner = LabelDistanceMiner(LDM, num_negatives=2, margin=0.05, distance=distance)
    embeddings, labels = normal(99, 5, dtype=dtype), LABELS.repeat(9)
    plain = miner(embeddings, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_mined(miner(embeddings, labels), plain)


def test_float64_rows_are_compared_in_float64():
    # Row 2 is nearer to row 0 than row 3, by less than the resolution of float32.
    embeddings = torch.tensor([[1, 0], [1, 0], [1, 1], [1, 1 + 1e-12]], dtype=torch.float64)
    *_, negatives = LabelDistanceMiner(torch.ones(2, 2), num_negatives=1)(embeddings, torch.tensor([0, 0, 1, 1]))
    assert negatives[:2].tolist() == [2, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32], ids=str)
def test_labels_may_have_any_integer_dtype(dtype):
    miner = LabelDistanceMiner(LDM, collect_stats=True)
    assert same_mined(miner(rows(), LABELS.to(dtype)), miner(rows(), LABELS))


# With the losses of pytorch-metric-learning

# Losses of pairs or triplets.
OF_ROWS = [
    "AngularLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "DynamicSoftMarginLoss",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NPairsLoss",
    "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SupConLoss",
    "ThresholdConsistentMarginLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
]
# Losses with one vector per class: the mined pairs determine the weights of the rows.
OF_CLASSES = [
    "ArcFaceLoss",
    "CosFaceLoss",
    "LargeMarginSoftmaxLoss",
    "NormalizedSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SoftTripleLoss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
]
LOSSES: dict[str, dict[str, Any]] = {
    **{name: {} for name in OF_ROWS},
    "HistogramLoss": {"n_bins": 5},
    **{name: {"num_classes": 4, "embedding_size": 5} for name in OF_CLASSES},
}
# Losses that do not accept an indices_tuple.
UNMINED = {"InstanceLoss", "ManifoldLoss", "PNPLoss", "P2SGradLoss", "RankedListLoss", "SmoothAPLoss", "VICRegLoss"}


def test_every_loss_of_pml_is_tested():
    losses = {
        name
        for name, value in vars(pml_losses).items()
        if inspect.isclass(value) and issubclass(value, pml_losses.BaseMetricLossFunction)
    }
    assert losses - LOSSES.keys() - UNMINED == {"BaseMetricLossFunction", "GenericPairLoss"}


@outputs
@pytest.mark.parametrize("name", LOSSES)
# Warnings of pytorch-metric-learning with newer releases of NumPy and torch.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional indexing")
def test_every_loss_trains_on_the_mined_pairs(name, output):
    torch.manual_seed(0)
    embeddings = rows(dtype=torch.float32)
    loss = getattr(pml_losses, name)(**LOSSES[name])
    value = loss(embeddings, LABELS, LabelDistanceMiner(LDM, num_negatives=2, output=output)(embeddings, LABELS))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(gradient_of(embeddings)).all()
    assert (gradient_of(embeddings) != 0).any()


@outputs
def test_several_losses_share_a_miner(output):
    miner = LabelDistanceMiner(LDM, num_negatives=2, output=output)
    losses = [pml_losses.TripletMarginLoss(), pml_losses.ContrastiveLoss()]
    several = pml_losses.MultipleLosses(losses, miners=[miner, miner])
    mined = miner(rows(), LABELS)
    assert_close(several(rows(), LABELS), sum(loss(rows(), LABELS, mined) for loss in losses))


def batches():
    for seed in range(5):
        yield rows(seed), LABELS.roll(seed)


@outputs
@pytest.mark.parametrize("memory_class", [pml_losses.CrossBatchMemory, CrossBatchMemory], ids=["theirs", "ours"])
def test_a_memory_mines_its_queue(memory_class, output):
    miner = LabelDistanceMiner(LDM, num_negatives=4, num_positives=3, output=output)
    loss = pml_losses.ContrastiveLoss()
    memory = memory_class(loss, embedding_size=5, memory_size=29, miner=miner).double()
    queue, classes = torch.zeros(0, 5, dtype=torch.float64), NONE
    for embeddings, labels in batches():
        queue = torch.cat([queue, embeddings.detach()])[-29:]
        classes = torch.cat([classes, labels])[-29:]
        mined = miner(embeddings, labels, queue, classes)
        own = torch.arange(len(queue) - len(labels), len(queue))
        keep = own[mined[0]] != mined[1]
        mined = (
            *(part[keep] for part in mined[:2]),
            *(part[keep] if output == "triplets" else part for part in mined[2:]),
        )
        expected = loss(embeddings, labels, mined, queue, classes)
        value = memory(embeddings, labels)
        assert_close(value, expected)
        value.backward()
        assert torch.isfinite(gradient_of(embeddings)).all()


@pytest.mark.parametrize("memory_class", [pml_losses.CrossBatchMemory, CrossBatchMemory], ids=["theirs", "ours"])
@pytest.mark.parametrize("name", sorted(set(pml_losses.CrossBatchMemory.supported_losses()) & LOSSES.keys()))
def test_every_loss_of_a_memory_trains_on_the_mined_pairs(name, memory_class):
    loss = getattr(pml_losses, name)()
    memory = memory_class(loss, embedding_size=5, memory_size=29, miner=LabelDistanceMiner(LDM, num_negatives=4))
    for embeddings, labels in batches():
        embeddings = embeddings.detach().float().requires_grad_()
        memory(embeddings, labels).backward()
        assert torch.isfinite(gradient_of(embeddings)).all()
        assert (gradient_of(embeddings) != 0).any()


@outputs
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
def test_a_trainer_learns_digits_with_the_miner(output):
    data = pytest.importorskip("sklearn.datasets").load_digits()
    inputs, labels = torch.tensor(data.data[:600] / 16, dtype=torch.float32), torch.tensor(data.target[:600])
    miner = LabelDistanceMiner(StaticLDM.from_pairs([(3, 8), (1, 7)], num_classes=10), num_negatives=5, output=output)
    torch.manual_seed(0)
    model, loss, history = nn.Linear(64, 16), pml_losses.TripletMarginLoss(margin=0.2), []
    trainer = MetricLossOnly(
        {"trunk": model},
        {"trunk_optimizer": torch.optim.Adam(model.parameters(), lr=0.01)},
        64,
        {"metric_loss": loss},
        torch.utils.data.TensorDataset(inputs, labels),
        mining_funcs={"tuple_miner": miner},
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
        end_of_iteration_hook=lambda trainer: history.append(float(trainer.losses["total_loss"])),
    )

    def whole_loss():
        with torch.no_grad():
            embeddings = model(inputs)
            return loss(embeddings, labels, miner(embeddings, labels)).item()

    before = whole_loss()
    trainer.train(num_epochs=3)
    assert len(history) == 3 * 9
    assert all(math.isfinite(value) for value in history)
    assert whole_loss() < before - 0.01


# The shared matrix, copies, records

# Classes 0 and 3 are.
CONFUSED = torch.tensor([[9, 0, 0, 9], [0, 9, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9]])


@outputs
def test_an_update_of_the_shared_matrix_changes_the_mined_pairs(output):
    ldm = AdaptiveLDM(4)
    miner, loss = LabelDistanceMiner(ldm, num_negatives=1, output=output), LabelDistanceContrastiveLoss(ldm)
    assert miner.ldm is loss.ldm is ldm
    before = miner(rows(), LABELS), loss(rows(), LABELS)
    assert ldm.update(CONFUSED, progress=0.3)
    after = miner(rows(), LABELS), loss(rows(), LABELS)
    assert before[1] != after[1]
    assert not same_mined(before[0], after[0])
    anchors, negatives = after[0][0 if output == "triplets" else 2], after[0][-1]
    assert (LABELS[negatives][LABELS[anchors] == 0] == 3).all()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda miner: pickle.loads(pickle.dumps(miner))], ids=["deepcopy", "pickle"]
)
def test_a_copy_has_its_own_matrix(copied):
    miner = LabelDistanceMiner(AdaptiveLDM(4), num_negatives=1)
    other = copied(miner)
    before = miner(rows(), LABELS)
    assert same_mined(other(rows(), LABELS), before)
    assert isinstance(miner.ldm, AdaptiveLDM)
    miner.ldm.update(CONFUSED, progress=0.3)
    assert not same_mined(miner(rows(), LABELS), before)
    assert same_mined(other(rows(), LABELS), before)


def test_a_learned_matrix_is_read_without_a_graph():
    matrix = nn.Parameter(LDM.clone())
    mined = LabelDistanceMiner(StaticLDM(matrix), num_negatives=2)(rows(), LABELS)
    assert same_mined(mined, LabelDistanceMiner(LDM, num_negatives=2)(rows(), LABELS))
    assert matrix.grad is None


@outputs
def test_the_mean_entry_of_the_mined_pairs_is_recorded(output):
    miner = LabelDistanceMiner(LDM, num_negatives=2, output=output, collect_stats=True)
    mined = miner(rows(), LABELS)
    anchors, negatives = mined[0 if output == "triplets" else 2], mined[-1]
    distances = [LDM[LABELS[a], LABELS[n]].item() for a, n in zip(anchors.tolist(), negatives.tolist(), strict=True)]
    assert miner.mean_mined_distance == pytest.approx(math.fsum(distances) / len(distances))
    if output == "triplets":
        assert miner.num_triplets == len(mined[0])
    else:
        assert (miner.num_pos_pairs, miner.num_neg_pairs) == (len(mined[0]), len(mined[2]))
    miner(rows()[:1], LABELS[:1])
    assert miner.mean_mined_distance == 0


# Errors


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, or None for all, got 0."),
        ({"num_positives": -1}, "num_positives must be at least 1, or None for all, got -1."),
        ({"margin": math.nan}, "margin must be a finite number, or None for none, got nan."),
        ({"margin": math.inf}, "margin must be a finite number, or None for none, got inf."),
        ({"output": "quadruplets"}, "output must be 'pairs' or 'triplets', got 'quadruplets'."),
        ({"weighting": "exp"}, "weighting must be 'scale' or 'log', got 'exp'."),
    ],
    ids=str,
)
def test_a_bad_option_raises_a_clear_error(options, sentence):
    assert refusal_of(ValueError, LabelDistanceMiner, LDM, **options) == sentence


@pytest.mark.parametrize(
    "distance",
    [
        DotProductSimilarity(),
        DotProductSimilarity(normalize_embeddings=False),
        CosineSimilarity(p=1),
        CosineSimilarity(power=2),
        BatchedDistance(CosineSimilarity()),
        BatchedDistance(LpDistance()),
    ],
    ids=["dot product", "plain dot product", "p=1", "power=2", "batched cosine", "batched distance"],
)
def test_a_similarity_other_than_cosine_is_refused(distance):
    assert refusal_of(ValueError, LabelDistanceMiner, LDM, distance=distance) == (
        "distance must be CosineSimilarity() with p=2 and power=1, or a distance such as LpDistance(), got "
        f"{type(distance).__name__}: a similarity without bounds cannot be multiplied by a label distance."
    )


MISSING = "ref_labels are required with ref_emb: label distance is defined between classes."
OUT_OF_RANGE = (
    "labels must lie in [0, 4) for an LDM of 4 classes, got values from 0 to 10. Pass class indices counted from 0, "
    "not ids of rows, or build the LDM for all classes."
)


@pytest.mark.parametrize(
    ("labels", "options", "error", "sentence"),
    [
        (LABELS, {"ref_emb": normal(3, 5)}, ValueError, MISSING),
        (torch.arange(11), {}, ValueError, OUT_OF_RANGE),
        (LABELS, {"ref_emb": normal(11, 5), "ref_labels": torch.arange(11)}, ValueError, "ref_" + OUT_OF_RANGE),
        (
            LABELS,
            {"ref_emb": normal(11, 4), "ref_labels": LABELS},
            ValueError,
            "ref_emb must have shape (R, 5), got (11, 4).",
        ),
        (
            LABELS.double(),
            {},
            TypeError,
            "labels must be integers (class indices), got torch.float64. Convert them with .long().",
        ),
    ],
    ids=["none of references", "row numbers", "row numbers of references", "other columns", "floats"],
)
def test_bad_labels_raise_a_clear_error(labels, options, error, sentence):
    assert refusal_of(error, LabelDistanceMiner(LDM), rows(), labels, **options) == sentence


# Relations


@outputs
def test_a_relation_mines_as_its_near_matrix(output):
    relation = Relation.from_pairs([(0, 1), (2, 3, 0.5)], num_classes=4)
    by_relation, by_matrix = (
        LabelDistanceMiner(ldm, num_negatives=2, output=output)(rows(), LABELS) for ldm in (relation, relation.near())
    )
    assert same_mined(by_relation, by_matrix)
    assert not same_mined(by_relation, LabelDistanceMiner(ONES, num_negatives=2, output=output)(rows(), LABELS))
