"""The batch sampler: every row occurs once, confusable classes share batches, processes divide the batches."""

import copy
import itertools
import math
import pickle
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from labeldist import (
    AdaptiveLDM,
    LabelDistanceBatchSampler,
    LabelDistanceContrastiveLoss,
    LabelDistanceMatrix,
    Relation,
    StaticLDM,
)
from strategies import normal, refusal_of, seeds, thorough

# 20 classes of 12 rows; 0 and 1, 2 and 3, ... are confusable.
BALANCED = torch.arange(20).repeat_interleave(12)
PARTNERS = StaticLDM.from_pairs([(c, c + 1) for c in range(0, 20, 2)], num_classes=20)


def sampler_of(
    labels: Sequence[int] | Tensor = BALANCED, ldm: LabelDistanceMatrix | Relation | Tensor = PARTNERS, **options
) -> LabelDistanceBatchSampler:
    return LabelDistanceBatchSampler(labels, ldm, **{"classes_per_batch": 4, "rows_per_class": 4, **options})


def all_ranks(labels, ldm, num_replicas, **options) -> list[list[list[int]]]:
    """The batches of each process."""
    return [list(sampler_of(labels, ldm, num_replicas=num_replicas, rank=r, **options)) for r in range(num_replicas)]


def partners_meeting(labels, ldm, num_epochs=1, **options) -> float:
    """Fraction of the confusable classes whose partner, c xor 1, is in the same batch."""
    sampler = sampler_of(labels, ldm, **options)
    confusable = {a for a, b in (ldm.matrix > 1).nonzero().tolist() if a != b}
    meetings = []
    for batch in itertools.chain.from_iterable(iter(sampler) for _ in range(num_epochs)):
        classes = set(labels[batch].tolist())
        meetings += [c ^ 1 in classes for c in classes & confusable]
    return sum(meetings) / len(meetings)


@st.composite
def data_sets(draw):
    """Labels in any order, with large classes, classes of one row and empty classes, and a matrix with zeros."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 5, 8, 40]), min_size=1, max_size=7))
    labels = draw(st.permutations([c for c, size in enumerate(sizes) for _ in range(size)]))
    entries = st.sampled_from([0.0, 0.5, 1.0, 5.0])
    matrix = [[draw(entries) for _ in sizes] for _ in sizes]
    return torch.tensor(labels, dtype=torch.int64), torch.tensor(matrix)


few = st.integers(1, 5)


def num_groups_of(labels, rows_per_class) -> int:
    return sum(math.ceil(size / rows_per_class) for size in Counter(labels.tolist()).values())


# An epoch


@thorough
@given(data_sets(), few, few, st.sampled_from([0.0, 2.0, 9.0]), st.integers(1, 4), seeds)
def test_every_row_occurs_once_per_epoch(data_set, classes_per_batch, rows_per_class, sharpness, num_replicas, seed):
    labels, ldm = data_set
    num_groups = num_groups_of(labels, rows_per_class)
    # One group a batch goes round only where the processes divide the groups.
    assume(num_groups >= num_replicas and (classes_per_batch > 1 or num_groups % num_replicas == 0))
    ranks = all_ranks(
        labels,
        ldm,
        num_replicas,
        classes_per_batch=classes_per_batch,
        rows_per_class=rows_per_class,
        sharpness=sharpness,
        seed=seed,
    )
    # Optimizer steps are synchronized, so all processes need the same number of batches.
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for batches in ranks for batch in batches]
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(labels)))
    # No class here lacks more than two rows of equal groups, and those are then of three: rows tell the groups.
    num_rows = Counter(labels.tolist())
    largest = {c: math.ceil(number / math.ceil(number / rows_per_class)) for c, number in num_rows.items()}
    numbers = [sum(math.ceil(n / largest[c]) for c, n in Counter(labels[batch].tolist()).items()) for batch in batches]
    assert max(numbers) <= classes_per_batch
    assert max(numbers) - min(numbers) <= 1
    assert len(batches) >= num_groups / classes_per_batch


@thorough
@given(data_sets(), few, few, st.integers(1, 4), seeds)
def test_with_drop_last_all_batches_consist_of_full_groups(data_set, classes_per_batch, rows_per_class, replicas, seed):
    labels, ldm = data_set
    num_groups = sum(size // rows_per_class for size in Counter(labels.tolist()).values())
    options = {"classes_per_batch": classes_per_batch, "rows_per_class": rows_per_class, "drop_last": True}
    num_batches = num_groups // (classes_per_batch * replicas)
    if not num_batches:
        assert "set drop_last=False" in refusal_of(ValueError, all_ranks, labels, ldm, replicas, **options)
        return
    ranks = all_ranks(labels, ldm, replicas, seed=seed, **options)
    assert [len(batches) for batches in ranks] == [num_batches] * replicas
    rows = list(itertools.chain.from_iterable(batch for batches in ranks for batch in batches))
    assert len(set(rows)) == len(rows)
    for batch in itertools.chain.from_iterable(ranks):
        assert len(batch) == classes_per_batch * rows_per_class
        assert all(number % rows_per_class == 0 for number in Counter(labels[batch].tolist()).values())


def test_with_full_groups_batches_differ_by_at_most_one_group():
    # 60 groups in batches of at most 7: 9 batches, 6 of 7 groups and 3 of 6.
    batches = list(sampler_of(classes_per_batch=7))
    assert Counter(len(batch) for batch in batches) == {28: 6, 24: 3}
    assert all(len(set(labels)) == len(labels) / 4 for labels in (BALANCED[batch].tolist() for batch in batches))


def test_the_groups_of_a_class_differ_by_at_most_one_row():
    # Ten rows are groups of four, three and three, not of four, four and two.
    labels = torch.arange(8).repeat_interleave(10)
    met = [Counter(labels[batch].tolist()) for batch in sampler_of(labels, torch.ones(8, 8), classes_per_batch=2)]
    for c in range(8):
        assert sorted(classes[c] for classes in met if c in classes) == [3, 3, 4]


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_class_too_large_for_one_group_per_batch_is_in_all_batches(drop_last):
    # 100 groups of class 0 and 5 each of classes 1 to 10: 38 batches, of which each must hold two or three of class 0.
    # With random draws, the last batches would contain only class 0, without a negative.
    labels = torch.cat([torch.zeros(400), torch.arange(1, 11).repeat_interleave(20)]).long()
    for batch in sampler_of(labels, torch.ones(11, 11), drop_last=drop_last):
        assert 2 <= (labels[batch] == 0).sum() / 4 <= 3


def test_each_epoch_drops_different_rows():
    labels = torch.arange(7).repeat_interleave(9)  # two groups of four and a row over, in each class
    sampler = sampler_of(labels, torch.ones(7, 7), drop_last=True)
    left_out = [set(range(63)) - set(itertools.chain.from_iterable(sampler)) for _ in range(30)]
    # 14 groups, of which 12 fill three batches of four; 15 rows of 63 are dropped, different ones in each epoch.
    assert {len(rows) for rows in left_out} == {15}
    assert set().union(*left_out) == set(range(63))


def test_each_epoch_groups_the_rows_of_a_class_differently():
    sampler = sampler_of()
    first, second = ({frozenset(batch) for batch in sampler} for _ in range(2))
    assert not first & second


# Which classes share a batch


@pytest.mark.parametrize("seed", range(3))
def test_confusable_classes_share_a_batch_more_often_with_larger_sharpness(seed):
    # Chance is 3 in 19: the partner is any of the other 19 classes, of which a batch holds three.
    shares = [partners_meeting(BALANCED, PARTNERS, 20, sharpness=s, seed=seed) for s in (0, 1, 2, 4, 30)]
    assert shares[0] == pytest.approx(3 / 19, abs=0.06)
    assert all(later > earlier + 0.05 for earlier, later in itertools.pairwise(shares[:4]))
    assert shares[-1] > 0.9


def test_a_sharpness_of_0_ignores_the_matrix():
    assert list(sampler_of(sharpness=0)) == list(sampler_of(ldm=torch.ones(20, 20), sharpness=0))
    assert list(sampler_of(sharpness=1)) != list(sampler_of(ldm=torch.ones(20, 20), sharpness=1))


@pytest.mark.parametrize("sharpness", [2.0, 60.0])
@pytest.mark.parametrize("exponent", [-200, 1, 200])
def test_the_scale_of_the_matrix_does_not_matter(exponent, sharpness):
    # Their 60th powers are outside the range of float64.
    scaled = PARTNERS.matrix.double() * 2.0**exponent
    assert list(sampler_of(ldm=scaled, sharpness=sharpness)) == list(sampler_of(sharpness=sharpness))


# The 462nd power of 1 / 5 is a small multiple of the smallest positive float64.
@pytest.mark.parametrize("sharpness", [100.0, 462.0, 1e6])
@pytest.mark.parametrize("entry", [0.0, 1e-300, 1.0, 1e300])
def test_with_extreme_entries_an_epoch_still_contains_every_row(sharpness, entry):
    ldm = PARTNERS.matrix.double().clone()
    ldm[5] = entry
    ldm[:, 5] = entry
    sampler = sampler_of(ldm=ldm, sharpness=sharpness)
    for _ in range(5):
        assert sorted(itertools.chain.from_iterable(sampler)) == list(range(len(BALANCED)))


def test_both_directions_of_an_asymmetric_matrix_count():
    one_way = torch.ones(20, 20)
    one_way[::2, 1::2].fill_diagonal_(9.0)
    assert partners_meeting(BALANCED, StaticLDM(one_way), 3) > 0.4  # by chance 3 / 19
    for matrix in (one_way.T, (one_way + one_way.T) / 2):
        assert list(sampler_of(ldm=matrix)) == list(sampler_of(ldm=one_way))


def test_classes_with_affinity_0_to_all_others_are_drawn_too():
    for batch in sampler_of(ldm=torch.eye(20)):
        assert len(set(BALANCED[batch].tolist())) == 4


def test_an_update_of_the_shared_matrix_affects_the_next_epoch():
    ldm = AdaptiveLDM(20)
    sampler, loss = sampler_of(ldm=ldm, sharpness=4), LabelDistanceContrastiveLoss(ldm)
    assert sampler.ldm is loss.ldm
    before = list(sampler)
    counts = torch.eye(20) * 9 + (PARTNERS.matrix > 1) * 9
    running = iter(sampler)
    begun = [next(running)]
    ldm.update(counts, progress=0.3)
    unmoved, moved = begun + list(running), list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) != before
    # An epoch that has started keeps its batches.
    meetings = [
        sum(c ^ 1 in set(BALANCED[batch].tolist()) for batch in batches for c in set(BALANCED[batch].tolist())) / 60
        for batches in (before, unmoved, moved)
    ]
    assert max(meetings[:2]) < 0.4 < 0.6 < meetings[2]


# Seeds and epochs


def test_an_epoch_depends_only_on_seed_and_number():
    epochs = {(seed, epoch): epoch_of(seed, epoch) for seed in range(3) for epoch in range(3)}
    for (seed, epoch), batches in epochs.items():
        assert epoch_of(seed, epoch) == batches
    assert len({str(batches) for batches in epochs.values()}) == 9


def epoch_of(seed, epoch):
    sampler = sampler_of(seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_each_iteration_is_the_next_epoch():
    sampler = sampler_of(seed=5)
    assert [list(sampler) for _ in range(3)] == [epoch_of(5, epoch) for epoch in range(3)]
    sampler.set_epoch(1)
    assert list(sampler) == epoch_of(5, 1)
    assert list(sampler) == epoch_of(5, 2)


def test_the_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    batches = list(sampler_of())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert list(sampler_of()) == batches


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda sampler: pickle.loads(pickle.dumps(sampler))], ids=["deepcopy", "pickle"]
)
def test_a_copy_continues_at_the_samplers_epoch(copied):
    sampler = sampler_of()
    list(sampler)
    other = copied(sampler)
    assert list(other) == list(sampler) == epoch_of(0, 1)


@pytest.mark.parametrize("convert", [list, np.asarray, Tensor.int, Tensor.byte], ids=["list", "numpy", "int", "uint8"])
def test_labels_may_be_a_list_an_array_or_any_integer_tensor(convert):
    labels = BALANCED.tolist() if convert is list else convert(BALANCED)
    assert list(sampler_of(labels)) == list(sampler_of())


# In loaders and trainers


@pytest.mark.parametrize(("num_workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_data_loader_reads_one_epoch_per_iteration(num_workers, persistent):
    sampler = sampler_of()
    loader = DataLoader(
        TensorDataset(torch.arange(240), BALANCED),
        batch_sampler=sampler,
        num_workers=num_workers,
        persistent_workers=persistent,
    )
    assert len(loader) == 15
    for epoch in (0, 1, 7, 8):
        if epoch == 7:
            sampler.set_epoch(7)
        seen = [(rows.tolist(), labels.tolist()) for rows, labels in loader]
        assert [rows for rows, _ in seen] == epoch_of(0, epoch)
        assert all(BALANCED[rows].tolist() == labels for rows, labels in seen)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
def test_a_trainer_of_pytorch_metric_learning_accepts_it_as_sampler():
    model, steps = nn.Linear(8, 4), []
    data_set = TensorDataset(normal(240, 8, dtype=torch.float32) + nn.functional.one_hot(BALANCED % 8, 8), BALANCED)
    sampler = sampler_of()
    trainer = MetricLossOnly(
        {"trunk": model},
        {"trunk_optimizer": torch.optim.SGD(model.parameters(), lr=0.1)},
        99,  # of no effect
        {"metric_loss": TripletMarginLoss()},
        data_set,
        sampler=sampler,
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
        end_of_iteration_hook=lambda trainer: steps.append(trainer.iteration),
    )
    trainer.train(num_epochs=3)
    assert len(steps) == 3 * 15
    assert math.isfinite(float(trainer.losses["total_loss"]))
    assert sampler.epoch == 3


def shards_of(num_processes, *, even_batches=True, **options) -> list[list[list[int]]]:
    """The batches of each process if accelerate distributes them."""
    shard = pytest.importorskip("accelerate.data_loader").BatchSamplerShard
    return [
        list(shard(sampler_of(num_replicas=1, rank=0, **options), num_processes, rank, even_batches=even_batches))
        for rank in range(num_processes)
    ]


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_accelerate_distributes_batches_of_equal_size(num_processes):
    shards = shards_of(num_processes, drop_last=True)
    batches = list(sampler_of(drop_last=True))
    kept = len(batches) // num_processes * num_processes
    assert [len(shard) for shard in shards] == [kept // num_processes] * num_processes
    assert [batch for turn in zip(*shards, strict=True) for batch in turn] == batches[:kept]


@pytest.mark.parametrize("even_batches", [True, False])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_accelerate_skips_no_batch_of_another_size(num_processes, even_batches):
    # 57 groups in batches of at most 7 are 3 batches of 28 rows and 6 of 24. With batch_size = 28, it would skip some
    # of the 6.
    labels = BALANCED[:228]
    shards = shards_of(num_processes, labels=labels, classes_per_batch=7, even_batches=even_batches)
    batches = list(itertools.chain.from_iterable(shards))
    assert {len(batch) for batch in batches} == {28, 24}
    assert set(itertools.chain.from_iterable(batches)) == set(range(len(labels)))
    if even_batches:
        assert {len(shard) for shard in shards} == {math.ceil(9 / num_processes)}


def test_accelerate_prepares_a_loader():
    accelerate = pytest.importorskip("accelerate")
    for drop_last in (False, True):
        batches = list(sampler_of(drop_last=drop_last, classes_per_batch=7))
        loader = accelerate.Accelerator(cpu=True).prepare(
            DataLoader(
                TensorDataset(torch.arange(240)),
                batch_sampler=sampler_of(drop_last=drop_last, classes_per_batch=7, num_replicas=1, rank=0),
            )
        )
        assert len(loader) == len(batches)
        assert [rows.tolist() for (rows,) in loader] == batches
        assert [rows.tolist() for (rows,) in loader] != batches  # the next epoch


def test_a_transformers_trainer_accepts_a_loader_with_it(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 4)
            self.loss = LabelDistanceContrastiveLoss(PARTNERS)
            self.seen: list[int] = []

        def forward(self, rows, inputs, labels):
            self.seen += rows.tolist()
            return {"loss": self.loss(self.linear(inputs), labels)}

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self):
            loader = DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)
            return self.accelerator.prepare(loader)

    inputs, sampler, model = normal(240, 8, dtype=torch.float32), sampler_of(num_replicas=1, rank=0), Model()
    rows = [{"rows": i, "inputs": inputs[i], "labels": BALANCED[i]} for i in range(240)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    assert model.seen == list(itertools.chain.from_iterable(epoch_of(0, 0) + epoch_of(0, 1)))


# Errors


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"classes_per_batch": 0}, ValueError, "classes_per_batch must be at least 1, got 0."),
        ({"rows_per_class": -1}, ValueError, "rows_per_class must be at least 1, got -1."),
        ({"sharpness": -0.5}, ValueError, "sharpness must be a finite number of at least 0, got -0.5."),
        ({"sharpness": math.nan}, ValueError, "sharpness must be a finite number of at least 0, got nan."),
        ({"sharpness": math.inf}, ValueError, "sharpness must be a finite number of at least 0, got inf."),
        ({"num_replicas": 0}, ValueError, "rank must lie in [0, num_replicas) = [0, 0), got 0."),
        ({"num_replicas": 2, "rank": 2}, ValueError, "rank must lie in [0, num_replicas) = [0, 2), got 2."),
        ({"rank": -1}, ValueError, "rank must lie in [0, num_replicas) = [0, 1), got -1."),
        (
            {"labels": torch.tensor([0, 20])},
            ValueError,
            "labels must lie in [0, 20) for an LDM of 20 classes, got values from 0 to 20. Pass class indices counted "
            "from 0, not ids of rows, or build the LDM for all classes.",
        ),
        (
            {"labels": torch.zeros(2, 2, dtype=torch.int64)},
            ValueError,
            "labels must have shape (4,), got (2, 2). Pass one label for each row of the data set.",
        ),
        (
            {"labels": [0.0, 1.0]},
            TypeError,
            "labels must be integers (class indices), got torch.float32. Convert them with .long().",
        ),
        (
            {"labels": torch.zeros(0, dtype=torch.int64)},
            ValueError,
            "an epoch needs at least 1 groups of 4 rows of a class for a batch on each of 1 processes, got 0 from 0 "
            "rows. Make groups and batches smaller.",
        ),
        (
            {"labels": [0, 0, 0, 1, 1, 1], "num_replicas": 3},
            ValueError,
            "an epoch needs at least 3 groups of 4 rows of a class for a batch on each of 3 processes, got 2 from 6 "
            "rows. Make groups and batches smaller.",
        ),
        (
            {"labels": [0, 1, 2, 3], "classes_per_batch": 1, "num_replicas": 3},
            ValueError,
            "an epoch needs at least 6 groups of 4 rows of a class for a batch on each of 3 processes, got 4 from 4 "
            "rows. Make groups and batches smaller.",
        ),
        (
            {"labels": [0, 1, 2, 3] * 3, "drop_last": True},
            ValueError,
            "an epoch needs at least 4 groups of 4 rows of a class for a batch on each of 1 processes, got 0 from 12 "
            "rows. Make groups and batches smaller, or set drop_last=False.",
        ),
    ],
    ids=[
        *["no classes", "no rows", "negative sharpness", "no sharpness", "endless sharpness"],
        *["no processes", "rank too large", "rank too small", "unknown class", "two columns", "floats"],
        *["an empty data set", "too few groups", "groups that go not round", "no whole group"],
    ],
)
def test_a_bad_argument_raises_a_clear_error(options, error, sentence):
    assert refusal_of(error, sampler_of, **options) == sentence


def test_a_negative_epoch_is_refused():
    assert refusal_of(ValueError, sampler_of().set_epoch, -1) == "epoch must be at least 0, got -1."


def test_an_invalid_matrix_is_refused_at_the_start_of_an_epoch():
    matrix = nn.Parameter(torch.ones(20, 20))
    sampler = sampler_of(ldm=StaticLDM(matrix))
    with torch.no_grad():
        matrix[1, 2] = -1
    message = refusal_of(ValueError, list, sampler)
    assert message == "Label distances must be finite and non-negative, got -1.0 at row 1, column 2."


def test_names_instead_of_class_indices_are_refused():
    ldm = StaticLDM.uniform(num_classes=2)
    assert refusal_of(TypeError, LabelDistanceBatchSampler, ["cat", "dog"], ldm) == (
        "labels must be class indices, one integer for each row of the data set. Look names up in the LDM's "
        "class_names first."
    )


# Relations


def test_a_relation_draws_related_classes_together():
    relation = Relation.from_pairs([(c, c + 1) for c in range(0, 20, 2)], num_classes=20)
    by_relation, by_matrix = list(sampler_of(ldm=relation)), list(sampler_of(ldm=relation.near()))
    assert by_relation == by_matrix
    sampler = sampler_of(ldm=relation)
    together = partners_meeting(BALANCED, sampler.ldm, num_epochs=3)
    assert together > partners_meeting(BALANCED, PARTNERS, num_epochs=3, sharpness=0) + 0.2
