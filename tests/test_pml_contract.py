"""The loss with every component of pytorch-metric-learning that uses a loss, compared with `SupConLoss`.

With distances of 1 between all classes the loss is supervised contrastive learning less the log of the number of
positives, so that gradients must be equal wherever a sum or a mean over all anchors is taken.
"""

import copy
import inspect
import math
import pickle
import shutil
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners as pml_miners
from pytorch_metric_learning import reducers as pml_reducers
from pytorch_metric_learning import regularizers as pml_regularizers
from pytorch_metric_learning import trainers as pml_trainers
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import MultipleLosses, SupConLoss
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from pytorch_metric_learning.utils.logging_presets import HookContainer
from torch import Tensor, nn
from torch.testing import assert_close

import reference
from labeldist import (
    AdaptiveLDM,
    LabelDistanceContrastiveLoss,
    LabelDistanceMiner,
    StaticLDM,
    label_distance_contrastive,
)
from strategies import gradient_of, normal

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1, 2, 0, 1])  # class 3 has one row: 10 of 11 anchors have a positive
REF_LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 0, 1, 0, 2, 1, 0, 1])  # class 3 has none
LDM = torch.tensor([[1, 5, 2, 1], [3, 1, 1, 0.5], [2, 1, 1, 4], [1, 1, 6, 1]], dtype=torch.float64)
ONES = torch.ones(4, 4, dtype=torch.float64)
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)


def rows(seed=0, labels=LABELS, dim=5):
    return normal(len(labels), dim, seed=seed).requires_grad_()


def references():
    return {"ref_emb": normal(len(REF_LABELS), 5, seed=1), "ref_labels": REF_LABELS}


def plain_losses(pairs=None, **options) -> Tensor:
    """The loss of each anchor, from plain loops."""
    plain = {name: value.tolist() for name, value in options.items()}
    losses = reference.anchor_losses(rows().tolist(), LABELS.tolist(), LDM.tolist(), **plain, pairs=pairs)
    return torch.tensor(losses, dtype=torch.float64)


def assert_same(actual, expected):
    assert_close(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


# Reducers, each compared with its explicit formula


def between(losses: Tensor, low=-math.inf, high=math.inf) -> float:
    chosen = [loss for loss in losses.tolist() if low < loss < high]
    return math.fsum(chosen) / len(chosen)


def over_valid(losses: Tensor) -> Tensor:
    """Here only anchors without a positive have loss 0."""
    return losses.sum() / int((losses != 0).sum())


REDUCERS: dict[str, tuple[Any, Any]] = {
    "default": (None, over_valid),
    "AvgNonZeroReducer": (pml_reducers.AvgNonZeroReducer(), over_valid),
    "ClassWeightedReducer": (
        pml_reducers.ClassWeightedReducer(CLASS_WEIGHTS),
        lambda losses: (losses * CLASS_WEIGHTS[LABELS]).sum() / len(losses),
    ),
    "DivisorReducer": (pml_reducers.DivisorReducer(), over_valid),
    "MeanReducer": (pml_reducers.MeanReducer(), lambda losses: losses.sum() / len(losses)),
    "MultipleReducers": (pml_reducers.MultipleReducers({"loss": pml_reducers.SumReducer()}), torch.sum),
    "PerAnchorReducer": (pml_reducers.PerAnchorReducer(), lambda losses: losses.sum() / len(losses)),
    "PerAnchorReducer of a sum": (pml_reducers.PerAnchorReducer(pml_reducers.SumReducer()), torch.sum),
    "SumReducer": (pml_reducers.SumReducer(), torch.sum),
    "ThresholdReducer": (pml_reducers.ThresholdReducer(low=1.3, high=2.2), lambda losses: between(losses, 1.3, 2.2)),
    "ThresholdReducer of small ones": (
        pml_reducers.ThresholdReducer(high=2.0),
        lambda losses: between(losses, high=2.0),
    ),
}


def test_every_reducer_of_pml_is_tested():
    public = {name for name, value in vars(pml_reducers).items() if inspect.isclass(value)} - {"BaseReducer"}
    assert public - {name.split(" of ")[0] for name in REDUCERS} == {"DoNothingReducer"}


@pytest.mark.parametrize("options", [{}, references()], ids=["the batch itself", "more references than rows"])
@pytest.mark.parametrize("name", REDUCERS)
def test_a_reducer_gives_its_reduction_of_the_plain_losses(name, options):
    reducer, expected = REDUCERS[name]
    embeddings = rows()
    loss = LabelDistanceContrastiveLoss(LDM, reducer=reducer)(embeddings, LABELS, **options)
    assert_same(loss, expected(plain_losses(**options)))
    loss.backward()
    assert (gradient_of(embeddings) != 0).any()


@pytest.mark.parametrize("options", [{}, references()], ids=["the batch itself", "more references than rows"])
def test_the_raw_losses_are_the_plain_ones(options):
    loss = LabelDistanceContrastiveLoss(LDM, reducer=pml_reducers.DoNothingReducer())
    terms = loss(rows(), LABELS, **options)
    assert list(terms) == ["loss"]
    assert_same(terms["loss"]["losses"], plain_losses(**options))
    assert terms["loss"]["divisor"] == 10


@pytest.mark.parametrize("options", [{}, references()], ids=["the batch itself", "more references than rows"])
@pytest.mark.parametrize("name", ["ClassWeightedReducer", "MeanReducer", "PerAnchorReducer", "SumReducer"])
def test_with_a_matrix_of_ones_a_reducer_gives_the_gradient_of_supcon(name, options):
    ours, theirs = rows(), rows()
    LabelDistanceContrastiveLoss(ONES, temperature=0.2, reducer=REDUCERS[name][0])(ours, LABELS, **options).backward()
    SupConLoss(temperature=0.4, reducer=REDUCERS[name][0])(theirs, LABELS, **options).backward()
    assert_close(gradient_of(ours), gradient_of(theirs), rtol=1e-9, atol=1e-12)


def test_references_that_contain_the_batch_include_the_self_pairs():
    # The wrappers pass such references and list the pairs; without a list, a row is a positive of its copy.
    embeddings, copied = rows(), rows().detach()
    loss = LabelDistanceContrastiveLoss(LDM)
    expected = plain_losses(ref_emb=copied, ref_labels=LABELS).mean()
    assert_same(loss(embeddings, LABELS, ref_emb=copied, ref_labels=LABELS.clone()), expected)
    listed = lmu.get_all_pairs_indices(LABELS)
    value = loss(embeddings, LABELS, listed, ref_emb=copied, ref_labels=LABELS.clone())
    assert_same(value, loss(rows(), LABELS))


def test_the_batch_passed_as_its_own_reference_is_the_batch():
    embeddings = rows()
    loss = LabelDistanceContrastiveLoss(LDM)
    assert torch.equal(loss(embeddings, LABELS, ref_emb=embeddings, ref_labels=LABELS), loss(embeddings, LABELS))


# Regularizers, several losses


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["LpRegularizer", "ZeroMeanRegularizer"])
def test_a_regularizer_of_the_embeddings_is_added_in_every_precision(name, dtype):
    # pytorch-metric-learning adds the two in the precision of the embeddings: float16 has a relative precision of
    # 2^-11.
    tolerance = {torch.float16: 2e-3, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    embeddings = rows().detach().to(dtype)
    exact = LabelDistanceContrastiveLoss(LDM)(embeddings.double(), LABELS)
    exact += (
        0.5
        * SupConLoss(reducer=pml_reducers.DoNothingReducer(), embedding_regularizer=regularizer(name))(
            embeddings.double(), LABELS
        )["embedding_reg_loss"]["losses"].mean()
    )
    loss = LabelDistanceContrastiveLoss(LDM, embedding_regularizer=regularizer(name), embedding_reg_weight=0.5)
    values = [loss(embeddings.requires_grad_(), LABELS) for _ in range(2)]
    for value in values:
        assert_close(value.double(), exact, rtol=tolerance, atol=tolerance)
    values[0].backward()
    assert torch.isfinite(gradient_of(embeddings)).all()


def regularizer(name):
    return getattr(pml_regularizers, name)()


def test_several_losses_and_their_miners_add_up():
    supcon, miner = SupConLoss(), LabelDistanceMiner(LDM, num_negatives=2)
    plain = LabelDistanceContrastiveLoss(LDM)
    several = MultipleLosses(
        {"ours": plain, "theirs": supcon}, miners={"ours": miner}, weights={"ours": 3, "theirs": 2}
    )
    expected = 3 * plain(rows(), LABELS, miner(rows(), LABELS)) + 2 * supcon(rows(), LABELS)
    assert_same(several(rows(), LABELS), expected)


# Miners

MINERS: dict[str, Any] = {
    "AngularMiner": pml_miners.AngularMiner(angle=30),
    "BatchEasyHardMiner": pml_miners.BatchEasyHardMiner(),
    "BatchHardMiner": pml_miners.BatchHardMiner(),
    "DistanceWeightedMiner": pml_miners.DistanceWeightedMiner(),
    "HDCMiner": pml_miners.HDCMiner(),
    "MultiSimilarityMiner": pml_miners.MultiSimilarityMiner(),
    "PairMarginMiner": pml_miners.PairMarginMiner(pos_margin=0.6, neg_margin=1.2),
    "TripletMarginMiner": pml_miners.TripletMarginMiner(margin=0.1),
    "UniformHistogramMiner": pml_miners.UniformHistogramMiner(num_bins=5, pos_per_bin=2, neg_per_bin=2),
    "LabelDistanceMiner": LabelDistanceMiner(LDM, num_negatives=2, num_positives=1),
}


def mined_by(name, embeddings, options) -> tuple[Tensor, ...]:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # some miners draw
        return MINERS[name](embeddings, LABELS, **options)


def as_pairs(indices_tuple) -> tuple[set, set]:
    """Listed positive pairs and all listed pairs."""
    anchors, positive, *rest = (indices.tolist() for indices in indices_tuple)
    negative_anchors, negative = rest if len(rest) == 2 else (anchors, *rest)
    positives = set(zip(anchors, positive, strict=True))
    return positives, positives | set(zip(negative_anchors, negative, strict=True))


def test_every_miner_of_pml_is_tested():
    public = {name for name, value in vars(pml_miners).items() if inspect.isclass(value)} - {"BaseMiner"}
    assert public - MINERS.keys() == {"EmbeddingsAlreadyPackagedAsTriplets"}


@pytest.mark.parametrize("options", [{}, references()], ids=["the batch itself", "more references than rows"])
@pytest.mark.parametrize("name", MINERS)
def test_the_loss_uses_only_mined_pairs(name, options):
    embeddings = rows()
    options = {"ref_emb": options["ref_emb"].clone().requires_grad_(), "ref_labels": REF_LABELS} if options else {}
    mined = mined_by(name, embeddings, options)
    positives, pairs = as_pairs(mined)
    assert positives
    loss = LabelDistanceContrastiveLoss(LDM, reducer=pml_reducers.SumReducer())(embeddings, LABELS, mined, **options)
    assert_same(loss, plain_losses((positives, pairs), **{k: v.detach() for k, v in options.items()}).sum())
    loss.backward()
    with_positive = {anchor for anchor, _ in positives}
    meeting = {(anchor, other) for anchor, other in pairs if anchor in with_positive}
    references_met = {other for _, other in meeting}
    assert touched(embeddings) <= with_positive | (set() if options else references_met)
    if options:
        assert touched(options["ref_emb"]) <= references_met


def touched(tensor) -> set[int]:
    """Rows with a gradient."""
    return set(gradient_of(tensor).abs().sum(dim=1).nonzero().flatten().tolist())


@pytest.mark.parametrize("name", MINERS)
def test_with_a_matrix_of_ones_a_miner_gives_the_gradient_of_supcon(name):
    ours, theirs = rows(), rows()
    mined = mined_by(name, ours, {})
    total = pml_reducers.SumReducer()
    LabelDistanceContrastiveLoss(ONES, temperature=0.2, reducer=total)(ours, LABELS, mined).backward()
    SupConLoss(temperature=0.4, reducer=total)(theirs, LABELS, mined).backward()
    assert_close(gradient_of(ours), gradient_of(theirs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_indices_may_have_any_integer_dtype(dtype):
    mined = mined_by("MultiSimilarityMiner", rows(), {})
    loss = LabelDistanceContrastiveLoss(LDM)
    assert torch.equal(loss(rows(), LABELS, [part.to(dtype) for part in mined]), loss(rows(), LABELS, mined))


# Precision


@pytest.mark.parametrize("weighting", ["scale", "log"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_low_precision_is_no_worse_than_float32_on_the_rounded_rows(dtype, weighting):
    rounded = normal(61, 13, dtype=dtype)
    labels = torch.arange(61) % 4
    loss = LabelDistanceContrastiveLoss(LDM, temperature=0.1, weighting=weighting)
    truth, single, low = (
        rounded.detach().clone().to(kind).requires_grad_() for kind in (torch.float64, torch.float32, dtype)
    )
    values = [loss(tensor, labels) for tensor in (truth, single, low)]
    for value in values:
        value.backward()
    error, allowed = (abs(value.item() - values[0].item()) for value in (values[2], values[1]))
    assert error <= allowed + 1e-7
    # The gradient is rounded once, to the precision of the rows.
    exact = gradient_of(truth)
    rounding = torch.finfo(dtype).eps * exact.abs() + torch.finfo(dtype).smallest_normal
    assert ((gradient_of(low).double() - exact).abs() <= rounding + (gradient_of(single) - exact).abs()).all()


def test_under_autocast_the_loss_accepts_the_rows_of_a_model():
    model, inputs = nn.Linear(6, 5), normal(11, 6, dtype=torch.float32)
    loss = LabelDistanceContrastiveLoss(LDM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = model(inputs)
        value = loss(embeddings, LABELS)
    assert embeddings.dtype == torch.bfloat16
    assert value.dtype == torch.float32
    exact = loss(embeddings.detach().double(), LABELS)
    assert abs(value.item() - exact.item()) < 1e-6
    value.backward()
    assert torch.isfinite(gradient_of(model.weight)).all()


# torch.compile


@pytest.fixture
def compiler():
    """torch's compiler, without its caches of other tests."""
    # Import it here, because this takes a second.
    import torch._dynamo.testing

    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()


def assert_compiles(compiler, backend, **options):
    counted = compiler.testing.CompileCounterWithBackend(backend)
    loss = LabelDistanceContrastiveLoss(LDM.float(), temperature=0.3)
    compiled = torch.compile(loss, fullgraph=True, backend=counted)
    for seed, labels in ((0, LABELS), (1, LABELS.flip(0))):
        plain, traced = (normal(11, 5, seed=seed, dtype=torch.float32).requires_grad_() for _ in range(2))
        values = loss(plain, labels, **options), compiled(traced, labels, **options)
        for value in values:
            value.backward()
        assert_close(*values)
        assert_close(gradient_of(traced), gradient_of(plain))
    assert counted.frame_count == 1


def single_precision():
    return {"ref_emb": normal(13, 5, seed=1, dtype=torch.float32), "ref_labels": REF_LABELS}


@pytest.mark.parametrize("options", [{}, single_precision()], ids=["the batch itself", "references"])
def test_the_loss_is_one_graph_traced_once(compiler, options):
    assert_compiles(compiler, "aot_eager", **options)


def test_listed_pairs_are_one_graph_too(compiler):
    loss = LabelDistanceContrastiveLoss(LDM)
    mined = mined_by("MultiSimilarityMiner", rows(), {})
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_same(compiled(rows(), LABELS, mined), loss(rows(), LABELS, mined))


# torch.compile uses deprecated parts of torch.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("options", [{}, single_precision()], ids=["the batch itself", "references"])
def test_inductor_gives_the_same_loss_and_gradient(compiler, options):
    assert_compiles(compiler, "inductor", **options)


# Copies and state


def adapted() -> AdaptiveLDM:
    ldm = AdaptiveLDM(4)
    ldm.update(torch.arange(16).reshape(4, 4), progress=0.5)
    return ldm


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))], ids=["deepcopy", "pickle"]
)
def test_a_copy_has_its_own_matrix(copied):
    ldm = adapted()
    loss = LabelDistanceContrastiveLoss(ldm, temperature=0.3)
    other = copied(loss)
    assert torch.equal(other(rows(), LABELS), loss(rows(), LABELS))
    ldm.update(torch.eye(4), progress=0.6)
    assert other(rows(), LABELS) != loss(rows(), LABELS)


def test_a_loss_loads_the_saved_matrix(tmp_path):
    loss, fresh = (LabelDistanceContrastiveLoss(ldm, temperature=0.3) for ldm in (adapted(), AdaptiveLDM(4)))
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    assert fresh(rows(), LABELS) != loss(rows(), LABELS)
    fresh.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    assert torch.equal(fresh(rows(), LABELS), loss(rows(), LABELS))


def test_a_learned_matrix_is_a_parameter_that_is_moved_saved_and_trained():
    matrix = nn.Parameter(LDM.clone())
    loss = LabelDistanceContrastiveLoss(StaticLDM(matrix))
    assert [name for name, _ in loss.named_parameters()] == ["ldm.matrix"]
    assert loss.ldm.matrix is matrix
    expected = loss(rows(), LABELS)
    loss(rows(), LABELS).backward()
    assert gradient_of(matrix).abs().sum() > 0
    torch.optim.SGD(loss.parameters(), lr=0.1).step()
    assert loss(rows(), LABELS) < expected
    assert torch.equal(loss.state_dict()["ldm.matrix"], matrix)
    assert isinstance(loss.to(torch.float32).ldm.matrix, nn.Parameter)
    assert isinstance(loss.to("meta").ldm.matrix, nn.Parameter)
    assert loss.ldm.matrix.is_meta


def test_the_gradient_of_a_learned_matrix_is_that_of_finite_differences():
    def value(embeddings, matrix):
        return label_distance_contrastive(embeddings, LABELS, matrix, temperature=0.5).sum()

    assert torch.autograd.gradcheck(value, (rows(), LDM.clone().requires_grad_()))
    matrix = nn.Parameter(LDM.clone())
    loss = LabelDistanceContrastiveLoss(StaticLDM(matrix), temperature=0.5, reducer=pml_reducers.SumReducer())
    loss(rows(), LABELS).backward()
    leaf = LDM.clone().requires_grad_()
    value(rows(), leaf).backward()
    assert_close(gradient_of(matrix), gradient_of(leaf))


# Trainers and records

# The trainers print a loss that is attached to its graph.
trains = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Half of scikit-learn's handwritten digits, `(N, 64)` in [0, 1]; ten classes."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    data = load_digits()
    return torch.tensor(data.data[:900] / 16, dtype=torch.float32), torch.tensor(data.target[:900])


class Recorder:
    """The record keeper that `HookContainer` needs: the last value of each `object/attribute`."""

    def __init__(self):
        self.records: dict[str, float] = {}

    def update_records(self, record_these, global_iteration, recursive_types=None, parent_name="", **_):
        for name, value in record_these.items():
            if isinstance(value, dict):
                self.update_records(value, global_iteration, recursive_types, name)
            elif isinstance(value, int | float):
                self.records[f"{parent_name}/{name}"] = value
            elif isinstance(value, nn.Module):
                kept = [getattr(value, names, []) for names in c_f.list_of_recordable_attributes_list_names()]
                of_module = {attribute: getattr(value, attribute) for names in kept for attribute in names}
                self.update_records(of_module, global_iteration, None, type(value).__name__)
                if recursive_types:
                    self.update_records(value._modules, global_iteration, recursive_types, name)


def trainer_of(kind, dataset, loss, *, hooks=None, **options):
    torch.manual_seed(0)
    models = {"trunk": nn.Sequential(nn.Linear(64, 32), nn.ReLU()), "embedder": nn.Linear(32, 16)}
    losses = {"metric_loss": loss}
    if kind is pml_trainers.TrainWithClassifier:
        models["classifier"], losses["classifier_loss"] = nn.Linear(16, 10), nn.CrossEntropyLoss()
    optimizers = {f"{name}_optimizer": torch.optim.Adam(model.parameters(), lr=5e-3) for name, model in models.items()}
    hooks = hooks or HookContainer(Recorder(), log_freq=1)
    return kind(
        models,
        optimizers,
        64,
        losses,
        dataset,
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
        end_of_iteration_hook=hooks.end_of_iteration_hook,
        **options,
    )


def neighbours_agree(trainer, digits) -> float:
    """Fraction of rows whose nearest other row has the same class."""
    inputs, labels = digits
    with torch.no_grad():
        embeddings = trainer.models["embedder"](trainer.models["trunk"](inputs))
    nearest = CosineSimilarity()(embeddings).fill_diagonal_(-1).argmax(dim=1)
    return (labels[nearest] == labels).float().mean().item()


def digit_loss():
    ldm = StaticLDM.from_pairs([(3, 8), (1, 7), (4, 9)], max_distance=2.0, num_classes=10)
    return LabelDistanceContrastiveLoss(ldm, temperature=0.2)


def learning_curve(trainer, digits) -> tuple[float, float]:
    before = neighbours_agree(trainer, digits)
    trainer.train(num_epochs=4)
    return before, neighbours_agree(trainer, digits)


def tuple_miner(name) -> dict[str, Any]:
    miners = {
        "LabelDistanceMiner": LabelDistanceMiner(StaticLDM.uniform(2.0, num_classes=10)),
        "MultiSimilarityMiner": pml_miners.MultiSimilarityMiner(),
    }
    return {"mining_funcs": {"tuple_miner": miners[name]}} if name else {}


@trains
@pytest.mark.parametrize("miner", [None, "LabelDistanceMiner", "MultiSimilarityMiner"])
def test_the_trainer_of_a_metric_loss_learns_digits(digits, miner):
    dataset = torch.utils.data.TensorDataset(*digits)
    trainer = trainer_of(pml_trainers.MetricLossOnly, dataset, digit_loss(), **tuple_miner(miner))
    before, after = learning_curve(trainer, digits)
    assert after > before + 0.04


@trains
@pytest.mark.parametrize("miner", [None, "LabelDistanceMiner", "MultiSimilarityMiner"])
def test_with_a_matrix_of_ones_the_trained_model_is_that_of_supcon(digits, miner):
    dataset = torch.utils.data.TensorDataset(*digits)
    ours = LabelDistanceContrastiveLoss(torch.ones(10, 10), temperature=0.1, reducer=pml_reducers.MeanReducer())
    theirs = SupConLoss(temperature=0.2, reducer=pml_reducers.MeanReducer())
    trainers = [trainer_of(pml_trainers.MetricLossOnly, dataset, loss, **tuple_miner(miner)) for loss in (ours, theirs)]
    curves = []
    for trainer in trainers:
        torch.manual_seed(1)  # the order of the rows
        curves.append(learning_curve(trainer, digits))
    assert curves[0] == pytest.approx(curves[1], abs=0.005)
    assert curves[0][1] > 0.97


@trains
def test_the_trainer_with_a_classifier_learns_digits_while_the_matrix_adapts(digits):
    ldm = AdaptiveLDM(10)
    loss = LabelDistanceContrastiveLoss(ldm, temperature=0.1, collect_stats=True)
    inputs, labels = digits

    def adapt(trainer):
        with torch.no_grad():
            rows = trainer.models["embedder"](trainer.models["trunk"](inputs))
            predicted = trainer.models["classifier"](rows).argmax(dim=1)
        counts = torch.zeros(10, 10).index_put_((labels, predicted), torch.ones(len(labels)), accumulate=True)
        ldm.update(counts, progress=trainer.epoch / 5)

    recorder = Recorder()
    trainer = trainer_of(
        pml_trainers.TrainWithClassifier,
        torch.utils.data.TensorDataset(*digits),
        loss,
        hooks=HookContainer(recorder, log_freq=1),
        end_of_epoch_hook=adapt,
    )
    before, after = learning_curve(trainer, digits)
    assert after > before + 0.04
    assert len(ldm.history) == 3
    records = recorder.records
    assert records["LabelDistanceContrastiveLoss/temperature"] == 0.1
    assert 0 < records["LabelDistanceContrastiveLoss/num_valid_anchors"] <= 64
    positive = records["LabelDistanceContrastiveLoss/mean_positive_similarity"]
    assert 1 >= positive > records["LabelDistanceContrastiveLoss/mean_negative_similarity"] >= 0
    # The last iteration used the matrix of the third epoch.
    matrix = ldm.history[-2][1]
    off_diagonal = matrix[~torch.eye(10, dtype=torch.bool)]
    assert records["AdaptiveLDM/mean_off_diagonal"] == pytest.approx(off_diagonal.mean().item())
    assert records["AdaptiveLDM/max_off_diagonal"] == pytest.approx(off_diagonal.max().item())
    assert records["AdaptiveLDM/epsilon"] == pytest.approx(1 - 3 / 5)


class TwoStreams(torch.utils.data.Dataset):
    """Each digit, paired with itself with noise."""

    def __init__(self, digits):
        self.inputs, self.labels = digits
        self.noisy = self.inputs + 0.1 * normal(*self.inputs.shape, dtype=torch.float32)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return self.inputs[row], self.noisy[row], self.labels[row]


@trains
@pytest.mark.parametrize("is_mined", [False, True], ids=["all triplets", "mined"])
def test_the_trainer_of_two_streams_learns_digits(digits, is_mined):
    miner = LabelDistanceMiner(StaticLDM.uniform(2.0, num_classes=10), output="triplets")
    options = {"mining_funcs": {"tuple_miner": miner}} if is_mined else {}
    trainer = trainer_of(pml_trainers.TwoStreamMetricLoss, TwoStreams(digits), digit_loss(), **options)
    before, after = learning_curve(trainer, digits)
    assert after > before + 0.04


def test_a_trainers_checkpoint_contains_the_matrix(digits, tmp_path):
    hooks = HookContainer(Recorder(), log_freq=1)
    dataset = torch.utils.data.TensorDataset(*digits)
    trainer = trainer_of(pml_trainers.MetricLossOnly, dataset, LabelDistanceContrastiveLoss(AdaptiveLDM(10)))
    counts = torch.arange(100).reshape(10, 10)
    trainer.loss_funcs["metric_loss"].ldm.update(counts, progress=0.4)
    hooks.save_models(trainer, str(tmp_path), 1)
    fresh = trainer_of(pml_trainers.MetricLossOnly, dataset, LabelDistanceContrastiveLoss(AdaptiveLDM(10)))
    assert hooks.load_latest_saved_models(fresh, str(tmp_path), device="cpu") == 2
    saved, loaded = (each.loss_funcs["metric_loss"].ldm for each in (trainer, fresh))
    assert torch.equal(loaded.matrix, saved.matrix)
    assert [progress for progress, _ in loaded.history] == [0.4]


@trains
@pytest.mark.parametrize("ldm", [StaticLDM.uniform(2.0, num_classes=10), AdaptiveLDM(10)], ids=["static", "adaptive"])
def test_pmls_record_keeper_saves_the_records(digits, tmp_path, ldm):
    record_keeper = pytest.importorskip("record_keeper")
    keeper = record_keeper.RecordKeeper(
        record_writer=record_keeper.RecordWriter(folder=str(tmp_path)),
        attributes_to_search_for=c_f.list_of_recordable_attributes_list_names(),
    )

    def adapt(trainer):
        if isinstance(ldm, AdaptiveLDM):
            ldm.update(torch.arange(100).reshape(10, 10), progress=trainer.epoch / 5)

    loss = LabelDistanceContrastiveLoss(ldm, collect_stats=True)
    hooks = HookContainer(keeper, log_freq=1)
    dataset = torch.utils.data.TensorDataset(*digits)
    options = {"iterations_per_epoch": 2, "end_of_epoch_hook": adapt}
    trainer_of(pml_trainers.MetricLossOnly, dataset, loss, hooks=hooks, **options).train(num_epochs=4)
    recorded = {name for table in keeper.record_writer.records.values() for name in table}
    keeper.save_records()
    names = {"temperature", "num_valid_anchors", "mean_positive_similarity", "mean_negative_similarity"}
    assert names | {"mean_off_diagonal", "max_off_diagonal"} <= recorded


def test_records_cover_the_pairs_in_the_loss():
    loss = LabelDistanceContrastiveLoss(LDM, collect_stats=True)
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 2])
    loss(embeddings, labels)
    # Positives (0, 1) and (1, 0): 0.5. Negatives, either way: (0, 2) 0, (0, 3) 1, (1, 2) 0.5, (1, 3) 0.5, (2, 3) 0.
    assert (loss.num_valid_anchors, loss.mean_positive_similarity) == (2, 0.5)
    assert loss.mean_negative_similarity == pytest.approx(0.4)
    loss(embeddings, labels, tuple(torch.tensor(part) for part in ([0], [1], [0, 1], [3, 2])))
    assert (loss.num_valid_anchors, loss.mean_positive_similarity, loss.mean_negative_similarity) == (1, 0.5, 0.75)


@pytest.mark.parametrize("num_references", [None, 5])
@pytest.mark.parametrize(
    "labels", [[0, 2, 0, 1, 2, 0, 0], [0, 0, 0, 0, 0, 0, 0], [0, 1, 2]], ids=["mixed", "one", "each"]
)
def test_records_of_all_pairs_equal_those_of_listing_every_pair(labels, num_references):
    loss = LabelDistanceContrastiveLoss(LDM, collect_stats=True)
    embeddings, labels = 3 * normal(len(labels), 4), torch.tensor(labels)
    references = {}
    if num_references is not None:
        references = {"ref_emb": normal(num_references, 4, seed=1), "ref_labels": torch.arange(num_references) % 3}
    with torch.no_grad():
        loss(embeddings, labels, **references)
    found = loss.num_valid_anchors, loss.mean_positive_similarity, loss.mean_negative_similarity
    listed = lmu.get_all_pairs_indices(labels, references.get("ref_labels"))
    with torch.no_grad():
        loss(embeddings, labels, listed, **references)
    expected = loss.num_valid_anchors, loss.mean_positive_similarity, loss.mean_negative_similarity
    assert found == pytest.approx(expected, abs=1e-12)


# Errors


@pytest.mark.parametrize(
    "wrapper",
    [lambda loss: pml_losses.SelfSupervisedLoss(loss), lambda loss: pml_losses.CrossBatchMemory(loss, 5)],
    ids=["SelfSupervisedLoss", "CrossBatchMemory"],
)
def test_pmls_wrappers_refuse_an_unknown_class(wrapper):
    with pytest.raises(Exception, match="not supported for LabelDistanceContrastiveLoss"):
        wrapper(LabelDistanceContrastiveLoss(LDM))


def test_row_numbers_are_refused_as_labels():
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\) .* not ids of rows"):
        LabelDistanceContrastiveLoss(LDM)(rows(), torch.arange(11))


def test_without_validation_labels_are_not_read_on_the_host():
    # On a CPU the gather operation still raises an error.
    with pytest.raises(IndexError):
        LabelDistanceContrastiveLoss(LDM, validate=False)(rows(), LABELS + 1)


@pytest.mark.parametrize(
    ("indices_tuple", "error", "start"),
    [
        (([0], [2]), ValueError, "indices_tuple must hold 3 tensors"),
        (([0], [11], [1]), ValueError, "positives of indices_tuple must lie in [0, 11)"),
        (([-1], [2], [1]), ValueError, "anchors of indices_tuple must lie in [0, 11)"),
        (([0.5], [2], [1]), TypeError, "anchors of indices_tuple must be integers"),
        (([0], [2], [1, 3]), ValueError, "the tensors of indices_tuple must be equally long"),
    ],
    ids=["size", "too large", "negative", "floats", "lengths"],
)
def test_a_bad_indices_tuple_raises_a_clear_error(indices_tuple, error, start):
    listed = tuple(torch.tensor(part) for part in indices_tuple)
    with pytest.raises(error) as caught:
        LabelDistanceContrastiveLoss(LDM)(rows(), LABELS, listed)
    assert str(caught.value).startswith(start)
