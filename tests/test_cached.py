"""Cached gradients, compared with a plain pass over the whole batch in float64."""

import random
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SupConLoss, TripletMarginLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from labeldist import (
    CachedGradients,
    CrossBatchMemory,
    DistributedLossWrapper,
    JointLoss,
    LabelDistanceContrastiveLoss,
    StaticLDM,
)
from processes import leave
from strategies import brief, gradient_of, normal, refusal_of

NUM_ROWS, NUM_CLASSES = 13, 3
INPUTS, LABELS = normal(NUM_ROWS, 6), torch.arange(NUM_ROWS) % NUM_CLASSES
DISTANCES = torch.tensor([[1, 5, 2], [3, 1, 0.5], [2, 4, 1]], dtype=torch.float64)
# Chunk sizes that divide the batch or not, single rows, and more rows than the batch has.
SIZES = [1, 4, NUM_ROWS, 50]


class Encoder(nn.Module):
    """Two layers with dropout between them, in float64; `form` selects the output structure."""

    def __init__(self, *, dropout: float = 0.0, form: str = "tensor", is_checkpointed: bool = False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)
            if form != "tensor":
                self.classifier = nn.Linear(8, NUM_CLASSES)
        self.dropout = nn.Dropout(dropout)
        self.form, self.is_checkpointed = form, is_checkpointed
        self.double()

    def hidden(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.first(inputs).tanh())

    def forward(self, inputs: Tensor, *, shift: Tensor | float = 0.0) -> Any:
        hidden = checkpoint(self.hidden, inputs, use_reentrant=False) if self.is_checkpointed else self.hidden(inputs)
        embeddings = self.second(hidden) + shift
        if self.form == "tensor":
            return embeddings
        if self.form == "tuple":
            return self.classifier(hidden), embeddings
        return {"logits": self.classifier(hidden), "embeddings": embeddings, "unused": None}


def contrastive(**options) -> LabelDistanceContrastiveLoss:
    return LabelDistanceContrastiveLoss(StaticLDM(DISTANCES), temperature=0.3, **options)


def learned() -> LabelDistanceContrastiveLoss:
    """The loss with a learned matrix."""
    return LabelDistanceContrastiveLoss(StaticLDM(nn.Parameter(DISTANCES.clone())), temperature=0.3)


def error_of(found: Tensor | None, expected: Tensor) -> float:
    assert found is not None
    return ((found - expected).norm() / expected.norm()).item()


def gradients(*modules: nn.Module) -> dict[str, Tensor | None]:
    return {
        f"{number}.{name}": parameter.grad
        for number, module in enumerate(modules)
        for name, parameter in module.named_parameters()
    }


def assert_same_gradients(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    assert found.keys() == expected.keys()
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def step(make: Callable[[], nn.Module], loss: nn.Module, objective: Callable, chunk_size: int | None, *inputs, **named):
    """Value and gradients of one step; plain for `chunk_size=None`."""
    model = make()
    encoder = model if chunk_size is None else CachedGradients(model, chunk_size=chunk_size)
    value = objective(loss, encoder(*inputs, **named))
    value.backward()
    return value.detach(), gradients(model, loss)


# The gradient


def of_embeddings(loss, embeddings):
    return loss(embeddings, LABELS)


def with_a_miner(loss, embeddings):
    return loss(embeddings, LABELS, MultiSimilarityMiner(epsilon=0.3)(embeddings, LABELS))


def by_position(loss, outputs):
    return loss(*outputs, LABELS)


def by_name(loss, outputs):
    return loss(logits=outputs["logits"], embeddings=outputs["embeddings"], labels=LABELS)


OBJECTIVES: dict[str, tuple[str, Callable[[], nn.Module], Callable]] = {
    "the loss": ("tensor", contrastive, of_embeddings),
    "a learned matrix": ("tensor", learned, of_embeddings),
    "a mined loss": ("tensor", contrastive, with_a_miner),
    "SupConLoss": ("tensor", SupConLoss, of_embeddings),
    "mined triplets": ("tensor", TripletMarginLoss, with_a_miner),
    "a memory": ("tensor", lambda: CrossBatchMemory(contrastive(), 5, memory_size=20), of_embeddings),
    "the joint objective": ("tuple", lambda: JointLoss(learned()), by_position),
    "the joint objective by name": ("mapping", lambda: JointLoss(learned()), by_name),
    "logits alone": ("tuple", contrastive, lambda loss, outputs: loss(outputs[0], LABELS)),
}


@pytest.mark.parametrize("chunk_size", SIZES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_that_of_the_whole_batch_for(name, chunk_size):
    form, make_loss, objective = OBJECTIVES[name]
    expected = step(lambda: Encoder(form=form), make_loss(), objective, None, INPUTS)
    found = step(lambda: Encoder(form=form), make_loss(), objective, chunk_size, INPUTS)
    assert_close(found[0], expected[0], rtol=1e-12, atol=0)
    assert_same_gradients(found[1], expected[1])


@brief
@given(num_rows=st.integers(2, 40), chunk_size=st.integers(1, 45), seed=st.integers(0, 99))
def test_the_gradient_does_not_depend_on_the_chunks(num_rows, chunk_size, seed):
    inputs, labels = normal(num_rows, 6, seed=seed), torch.arange(num_rows) // 2 % NUM_CLASSES

    def objective(loss, embeddings):
        return loss(embeddings, labels) + embeddings.square().mean()

    expected = step(Encoder, contrastive(), objective, None, inputs)
    assert_same_gradients(step(Encoder, contrastive(), objective, chunk_size, inputs)[1], expected[1])


def test_a_memory_is_filled_once_per_step():
    memory = CrossBatchMemory(contrastive(), 5, memory_size=40)
    step(Encoder, memory, of_embeddings, 4, INPUTS)
    assert memory.queue_idx == NUM_ROWS


def test_frozen_parameters_receive_no_gradient():
    def make():
        model = Encoder()
        model.first.requires_grad_(False)
        return model

    found = step(make, contrastive(), of_embeddings, 4, INPUTS)
    assert_same_gradients(found[1], step(make, contrastive(), of_embeddings, None, INPUTS)[1])
    assert found[1]["0.first.weight"] is None


def test_the_objective_of_a_frozen_model_receives_its_gradient():
    def make():
        return Encoder().requires_grad_(False)

    found = step(make, learned(), of_embeddings, 4, INPUTS)
    assert_same_gradients(found[1], step(make, learned(), of_embeddings, None, INPUTS)[1])


def test_parameters_that_model_and_objective_share_get_both_parts():
    def shared(loss, outputs, model):
        # The rows of the classification layer represent the classes.
        rows = torch.cat([outputs[1], model.classifier.weight[:, :5]])
        return loss(rows, torch.cat([LABELS, torch.arange(NUM_CLASSES)]))

    found, expected = Encoder(form="tuple"), Encoder(form="tuple")
    shared(contrastive(), expected(INPUTS), expected).backward()
    shared(contrastive(), CachedGradients(found, chunk_size=4)(INPUTS), found).backward()
    assert_same_gradients(gradients(found), gradients(expected))


def test_gradients_of_several_steps_add_up():
    other, found, expected = normal(7, 6, seed=1), Encoder(), Encoder()
    encoder = CachedGradients(found, chunk_size=4)
    for rows in (INPUTS, other):
        (contrastive()(expected(rows), LABELS[: len(rows)]) / 2).backward()
        (contrastive()(encoder(rows), LABELS[: len(rows)]) / 2).backward()
    assert_same_gradients(gradients(found), gradients(expected))


def test_one_loss_may_use_two_batches():
    # Anchors and references are encoded by the same model.
    other, found, expected = normal(7, 6, seed=1), Encoder(), Encoder()
    for model, encoder in ((found, CachedGradients(found, chunk_size=4)), (expected, expected)):
        options = {"ref_emb": encoder(other), "ref_labels": LABELS[:7]}
        contrastive()(encoder(INPUTS), LABELS, **options).backward()
        assert model.first.weight.grad is not None
    assert_same_gradients(gradients(found), gradients(expected))


def test_inputs_may_require_a_gradient():
    found, expected = INPUTS.clone().requires_grad_(), INPUTS.clone().requires_grad_()
    contrastive()(CachedGradients(Encoder(), chunk_size=4)(found), LABELS).backward()
    contrastive()(Encoder()(expected), LABELS).backward()
    assert_close(gradient_of(found), gradient_of(expected), rtol=1e-10, atol=1e-12)


def test_a_loss_scaled_by_a_factor_has_a_gradient_scaled_by_it():
    plain, scaled = Encoder(), Encoder()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    contrastive()(plain(INPUTS), LABELS).backward()
    scaler.scale(contrastive()(CachedGradients(scaled, chunk_size=4)(INPUTS), LABELS)).backward()
    scaler.unscale_(torch.optim.SGD(scaled.parameters()))
    assert_same_gradients(gradients(scaled), gradients(plain))


# Structure of inputs and outputs


FORMS: dict[str, tuple[tuple, dict[str, Any]]] = {
    "by name": ((), {"inputs": INPUTS, "shift": INPUTS[:, :1]}),
    "a number beside rows": ((INPUTS,), {"shift": 0.5}),
    "a scalar tensor beside rows": ((INPUTS,), {"shift": torch.tensor(0.5)}),
}


@pytest.mark.parametrize("name", FORMS)
def test_inputs_are_passed_to_the_model_unchanged(name):
    inputs, named = FORMS[name]
    expected = step(Encoder, contrastive(), of_embeddings, None, *inputs, **named)
    assert_same_gradients(step(Encoder, contrastive(), of_embeddings, 4, *inputs, **named)[1], expected[1])


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_encode_may_prepare_the_inputs(kind):
    texts = {list: INPUTS.tolist(), tuple: (INPUTS, "meta"), dict: {"features": INPUTS, "name": "meta"}}[kind]

    def encode(model, batch):
        assert type(batch) is kind
        rows = {list: lambda: torch.tensor(batch, dtype=torch.float64), tuple: lambda: batch[0]}
        return model(rows.get(kind, lambda: batch["features"])())

    found, expected = Encoder(), Encoder()
    contrastive()(CachedGradients(found, chunk_size=4, encode=encode)(texts), LABELS).backward()
    contrastive()(expected(INPUTS), LABELS).backward()
    assert_same_gradients(gradients(found), gradients(expected))


def test_outputs_keep_their_structure():
    assert torch.is_tensor(CachedGradients(Encoder(), chunk_size=4)(INPUTS))
    assert type(CachedGradients(Encoder(form="tuple"), chunk_size=4)(INPUTS)) is tuple
    mapping = CachedGradients(Encoder(form="mapping"), chunk_size=4)(INPUTS)
    assert {name: rows.shape for name, rows in mapping.items()} == {"logits": (13, 3), "embeddings": (13, 5)}


def test_integer_outputs_have_no_gradient():
    def encode(model, inputs):
        embeddings = model(inputs)
        return embeddings, embeddings.argmax(dim=1)

    model = Encoder()
    embeddings, largest = CachedGradients(model, chunk_size=4, encode=encode)(INPUTS)
    assert embeddings.requires_grad
    assert not largest.requires_grad
    assert torch.equal(largest, model(INPUTS).argmax(dim=1))
    embeddings.sum().backward()


def test_without_gradients_rows_are_encoded_in_chunks():
    encoder = CachedGradients(Encoder(), chunk_size=4)
    with torch.no_grad():
        rows = encoder(INPUTS)
    assert not rows.requires_grad
    assert_close(rows, encoder(INPUTS).detach())


# Random numbers


def chunked(model, inputs, size, views=1):
    """Plain passes over the chunks, which use the same random numbers."""
    return torch.cat([model(part) for _ in range(views) for part in inputs.split(size)])


@pytest.mark.parametrize("views", [1, 2, 3])
def test_dropout_draws_the_same_masks_in_both_encodings(views):
    found, expected = Encoder(dropout=0.5), Encoder(dropout=0.5)
    labels = LABELS.repeat(views)
    torch.manual_seed(5)
    contrastive()(chunked(expected, INPUTS, 4, views), labels).backward()
    after = torch.rand(3)
    torch.manual_seed(5)
    rows = CachedGradients(found, chunk_size=4, views=views)(INPUTS)
    contrastive()(rows, labels).backward()
    assert_same_gradients(gradients(found), gradients(expected))
    assert torch.equal(torch.rand(3), after)
    assert len({tuple(row.tolist()) for row in rows[::NUM_ROWS]}) == views


def test_random_numbers_drawn_between_the_passes_are_not_repeated():
    torch.manual_seed(5)
    rows = CachedGradients(Encoder(dropout=0.5), chunk_size=4)(INPUTS)
    between = torch.rand(1)
    rows.sum().backward()
    assert torch.rand(1) != between


def noisy(model, inputs):
    return model(inputs) + random.random()


def test_random_numbers_from_other_generators_are_detected():
    rows = CachedGradients(Encoder(), chunk_size=4, encode=noisy)(INPUTS)
    assert "The second encoding must give the same rows as the first, output 0 differs by more than 1%" in refusal_of(
        RuntimeError, rows.sum().backward
    )
    unchecked = CachedGradients(Encoder(), chunk_size=4, encode=noisy, validate=False)(INPUTS)
    unchecked.sum().backward()


def test_weights_that_change_before_the_backward_pass_are_detected():
    model = Encoder()
    rows = CachedGradients(model, chunk_size=4)(INPUTS)
    torch.random.manual_seed(0)
    with torch.no_grad():
        model.second.weight.mul_(1.5)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="do not change the model's mode or weights between"):
        rows.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


# With other features of torch


@pytest.mark.parametrize("place", ["around both passes", "around the forward pass"])
@pytest.mark.parametrize("with_head", [False, True], ids=["encoder alone", "weights used again outside"])
def test_both_encodings_use_the_same_autocast_settings(place, with_head):
    def run(is_cached):
        model = Encoder().float()
        encoder = CachedGradients(model, chunk_size=4) if is_cached else model
        with torch.autocast("cpu", torch.bfloat16):
            rows = encoder(INPUTS.float())
            assert rows.dtype == torch.bfloat16
            # Autocast caches cast weights; those of the first encoding have no graph.
            rows = nn.functional.linear(rows, model.second.weight.T) if with_head else rows
            loss = contrastive()(rows, LABELS)
            if place == "around both passes":
                loss.backward()
        if place == "around the forward pass":
            loss.backward()
        return gradients(model)

    found, expected = run(is_cached=True), run(is_cached=False)
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None
            continue
        # bfloat16 has 8 bits of precision; the plain pass sums in another order.
        assert error_of(found[name], gradient) < 0.02, name


def test_the_second_encoding_computes_in_the_dtype_of_the_first():
    dtypes = []

    def encode(model, inputs):
        dtypes.append(model.first(inputs).dtype)
        return model(inputs)

    with torch.autocast("cpu", torch.bfloat16):
        rows = CachedGradients(Encoder().float(), chunk_size=7, encode=encode)(INPUTS.float())
    rows.float().sum().backward()
    assert dtypes == [torch.bfloat16] * 4


def test_backward_inside_an_autocast_that_the_forward_did_not_have():
    found, expected = Encoder().float(), Encoder().float()
    for encoder in (CachedGradients(found, chunk_size=4), expected):
        rows = encoder(INPUTS.float())
        assert rows.dtype == torch.float32
        loss = contrastive()(rows, LABELS)
        with torch.autocast("cpu", torch.bfloat16):
            loss.backward()
    for name, gradient in gradients(expected).items():
        if gradient is not None:
            assert error_of(gradients(found)[name], gradient) < 0.02, name


def test_activations_may_be_checkpointed():
    found, expected = Encoder(dropout=0.3, is_checkpointed=True), Encoder(dropout=0.3)
    torch.manual_seed(5)
    contrastive()(chunked(expected, INPUTS, 4), LABELS).backward()
    torch.manual_seed(5)
    contrastive()(CachedGradients(found, chunk_size=4)(INPUTS), LABELS).backward()
    assert_same_gradients(gradients(found), gradients(expected))


def test_the_model_may_be_compiled():
    model, expected = Encoder(dropout=0.3), Encoder(dropout=0.3)
    torch.manual_seed(5)
    contrastive()(chunked(expected, INPUTS, 4), LABELS).backward()
    torch.manual_seed(5)
    model.compile(backend="aot_eager")
    contrastive()(CachedGradients(model, chunk_size=4)(INPUTS), LABELS).backward()
    assert_same_gradients(gradients(model), gradients(expected))


# Dynamo reads the gradient of the returned rows.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_step_does_not_trace_the_two_passes():
    found, expected = Encoder(), Encoder()
    encoder = CachedGradients(found, chunk_size=4)

    @torch.compile(backend="aot_eager")
    def loss(inputs):
        return encoder(inputs).square().mean()

    loss(INPUTS).backward()
    expected(INPUTS).square().mean().backward()
    assert_same_gradients(gradients(found), gradients(expected))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
def test_both_encodings_use_the_same_random_numbers_and_autocast_settings_of_a_gpu(dtype, is_compiled):
    device = torch.device("cuda")

    def run(is_cached):
        model = Encoder(dropout=0.5).float().to(device)
        if is_compiled:
            model.compile()
        rows = INPUTS.float().to(device)
        torch.manual_seed(5)
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            embeddings = CachedGradients(model, chunk_size=4)(rows) if is_cached else chunked(model, rows, 4)
            value = contrastive()(embeddings, LABELS.to(device))
        after = torch.rand(3, device=device)
        torch.amp.GradScaler("cuda", init_scale=64.0).scale(value).backward()
        return gradients(model), after

    (found, after), (expected, expected_after) = run(is_cached=True), run(is_cached=False)
    assert torch.equal(after, expected_after)
    for name, gradient in expected.items():
        assert gradient is not None
        assert error_of(found[name], gradient) < (1e-5 if dtype is None else 0.02), name


def test_memory_holds_the_activations_of_one_chunk():
    held: list[int] = []

    class Counted(torch.autograd.Function):
        alive = 0

        @staticmethod
        def forward(ctx, rows):
            if rows.requires_grad:
                Counted.alive += len(rows)
            held.append(Counted.alive)
            return rows.clone()

        @staticmethod
        def backward(ctx, *gradients):
            Counted.alive -= len(gradients[0])
            return gradients

    rows = CachedGradients(Encoder(), chunk_size=4, encode=lambda model, x: Counted.apply(model(x)))(INPUTS)
    rows.sum().backward()
    assert max(held) == 4


# Errors


def test_batch_normalization_over_chunks_is_refused():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
    encoder = CachedGradients(model, chunk_size=4)
    assert "its layer '1' is a BatchNorm1d in training mode" in refusal_of(ValueError, encoder, INPUTS)
    model.eval()
    assert encoder(INPUTS).shape == (13, 4)
    untracked = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False)).double().eval()
    refusal_of(ValueError, CachedGradients(untracked), INPUTS)


@pytest.mark.parametrize("name", ["chunk_size", "views"])
def test_values_below_one_are_refused(name):
    said = refusal_of(ValueError, CachedGradients, Encoder(), **{name: 0})
    assert said == f"{name} must be at least 1, got 0."


@pytest.mark.parametrize("value", [2.5, "32", None])
@pytest.mark.parametrize("name", ["chunk_size", "views"])
def test_values_that_are_not_integers_are_refused(name, value):
    said = refusal_of(TypeError, CachedGradients, Encoder(), **{name: value})
    assert said == f"{name} must be a whole number, got {value!r}."


def test_a_function_is_refused_as_model():
    said = refusal_of(TypeError, CachedGradients, Encoder().forward)
    assert said.startswith("model must be an nn.Module, got method.")


def several_sizes(model, inputs):
    return model(inputs)[:, : len(inputs)]


REFUSED: dict[str, tuple[type[Exception], Callable | None, tuple, str]] = {
    "no rows": (ValueError, None, (INPUTS[:0],), "inputs must have at least one row, got none."),
    "no tensors": (ValueError, None, (3,), "inputs must have at least one row, got none."),
    "different numbers of rows": (
        ValueError,
        None,
        (INPUTS, LABELS[:5]),
        "must have the same number of rows, got [13, 5].",
    ),
    "inputs with a graph": (ValueError, None, (INPUTS.clone().requires_grad_() * 2,), "must not depend on parameters"),
    "too many rows": (ValueError, lambda m, x: m(x).repeat(2, 1), (INPUTS,), "output 0 has shape (8, 5)."),
    "a scalar": (ValueError, lambda m, x: {"loss": m(x).sum()}, (INPUTS,), "its output 'loss' has shape ()."),
    "no tensor": (TypeError, lambda m, x: (m(x), [m(x)]), (INPUTS,), "its output 1 is list."),
    "rows of two sizes": (ValueError, several_sizes, (INPUTS,), "got {0: (4,)} and {0: (1,)}."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_are(name):
    error, encode, inputs, said = REFUSED[name]
    assert said in refusal_of(error, CachedGradients(Encoder(), chunk_size=4, encode=encode), *inputs)


def test_wrong_labels_are_refused_by_the_loss():
    rows = CachedGradients(Encoder(), chunk_size=4, views=2)(INPUTS)
    assert refusal_of(ValueError, contrastive(), rows, LABELS) == "Number of embeddings must equal number of labels"


def test_autograd_grad_of_a_parameter_is_not_supported():
    model = Encoder()
    loss = contrastive()(CachedGradients(model, chunk_size=4)(INPUTS), LABELS)
    with pytest.raises(RuntimeError, match="to not have been used in the graph"):
        torch.autograd.grad(loss, model.first.weight)


# Several processes

WORLD = 2
LENGTHS = {"even rows": [6, 6], "uneven rows, and chunks": [9, 4], "unused parameters": [8, 5]}


def distributed_step(name: str, *, efficient: bool, rank: int | None) -> dict[str, Any]:
    """Two accumulated steps of one rank, or of one process with all rows and without chunks."""
    lengths, has_unused = LENGTHS[name], name == "unused parameters"
    model, loss = Encoder(), learned()
    if has_unused:
        model.register_parameter("unused", nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    reductions = []
    if rank is None:
        encoder, objective = model, loss
    else:
        replica = DistributedDataParallel(model, find_unused_parameters=has_unused)
        replica.register_comm_hook(None, counting(reductions))
        encoder = CachedGradients(replica, chunk_size=3, encode=lambda inner, rows: inner(rows))
        objective = DistributedDataParallel(DistributedLossWrapper(loss, efficient=efficient))
    values = []
    for seed in range(2):
        rows, labels = normal(sum(lengths), 6, seed=seed), torch.arange(sum(lengths)) % NUM_CLASSES
        if rank is not None:
            rows, labels = rows.split(lengths)[rank], labels.split(lengths)[rank]
        value = objective(encoder(rows), labels)
        value.backward()
        values.append(value.detach())
    return {"losses": torch.stack(values), "gradients": gradients(model, loss), "num_reductions": len(reductions)}


def counting(reductions: list) -> Callable:
    """A hook that averages gradients as DDP does, and counts its calls."""

    def reduce(state: object, bucket) -> torch.futures.Future[Tensor]:
        reductions.append(bucket.index())
        work = dist.all_reduce(bucket.buffer().div_(WORLD), async_op=True)
        assert work is not None
        return work.get_future().then(lambda future: future.value()[0])

    return reduce


def run_steps(rank: int, folder: str) -> None:
    """The work of each process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Use a file instead of a port, which another program may use.
    meeting = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD, timeout=timedelta(seconds=300))
    results = {
        (name, efficient): distributed_step(name, efficient=efficient, rank=rank)
        for name in LENGTHS
        for efficient in (False, True)
    }
    leave(results, Path(folder))


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict]:
    """The results of each process, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as environment:
        # The hostname of this machine may not resolve.
        environment.setenv("GLOO_SOCKET_IFNAME", "lo")
        spawn(run_steps, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("efficient", [False, True], ids=["all anchors", "own anchors"])
@pytest.mark.parametrize("name", LENGTHS)
def test_several_processes_have_the_gradient_of_one_process(processes, name, efficient):
    expected = distributed_step(name, efficient=efficient, rank=None)
    for result in processes:
        found = result[name, efficient]
        assert_close(found["losses"], expected["losses"], rtol=1e-9, atol=1e-11)
        assert_same_gradients(found["gradients"], expected["gradients"])


def test_processes_exchange_gradients_once_per_step(processes):
    for result in processes:
        # Two steps, and all parameters fit into one bucket.
        assert {found["num_reductions"] for found in result.values()} == {2}
