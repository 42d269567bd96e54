"""The number of threads by the load of the machine: how it is chosen, and what it changes. No test measures time."""

import math
import os
import sys
import threading

import pytest
import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from batches import batch, mirrored
from labeldist import functional
from labeldist.backends import _threads, blockwise
from labeldist.backends._threads import CPUTimes, LoadMeter, read_cpu_times, threads_by_load
from labeldist.pairs import Batch, ClassPairTables
from process_groups import results_of_group
from strategies import refusal_of

NUM_ROWS = 520  # more than 2^18 pairs
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Fixed(LoadMeter):
    """A meter that has found so many free CPUs, and does not read again."""

    def __init__(self, free: float):
        super().__init__(lambda: None)
        self._free = free


@pytest.fixture
def busy(monkeypatch):
    """Another process is busy on one of two CPUs."""
    monkeypatch.setattr(_threads, "_meter", Fixed(1.0))


# The choice, from readings of the clocks


def meter_of(*readings: CPUTimes | None) -> LoadMeter:
    """A meter that gets these readings one after another; its clock is that of the next one."""
    waiting = list(readings)

    def read():
        return waiting.pop(0)

    def clock():
        if not waiting:
            return -math.inf
        return math.inf if waiting[0] is None else waiting[0].now

    return LoadMeter(read, clock)


@pytest.mark.parametrize(
    ("idle", "own", "expected"),
    [
        (2.0, 0.0, 2),  # this process waited; the others, too
        (0.0, 2.0, 2),  # this process used both CPUs
        (1.0, 1.0, 2),
        (0.6, 1.0, 2),  # a process that works now and then
        (0.0, 1.0, 1),  # this process had one thread, another process had the other CPU
        (0.0, 1.4, 1),  # this process had two threads, and another process one
        (1.0, 0.0, 1),
        (0.0, 0.3, 1),  # several others
        (0.0, 0.0, 1),
    ],
)
def test_one_thread_for_each_cpu_that_the_others_leave_free(idle, own, expected):
    seconds = 4.0
    meter = meter_of(CPUTimes(10.0, 100.0, 7.0), CPUTimes(14.0, 100.0 + seconds * idle, 7.0 + seconds * own))
    assert meter.num_threads(2) == expected


def test_of_many_cpus_all_free_ones_are_used():
    meter = meter_of(CPUTimes(0.0, 0.0, 0.0), CPUTimes(1.0, 10.0, 3.0))
    assert [meter.num_threads(most) for most in (1, 2, 12, 16)] == [1, 2, 12, 13]


def test_nothing_is_read_again_within_the_shortest_time():
    times = [CPUTimes(0.0, 0.0, 0.0), CPUTimes(1.0, 0.0, 1.0)]
    numbers_read = 0

    def read():
        nonlocal numbers_read
        numbers_read += 1
        return times[numbers_read - 1]

    now = 0.0
    meter = LoadMeter(read, lambda: now)
    assert [meter.num_threads(2) for _ in range(3)] == [2, 2, 2]
    assert numbers_read == 1
    now = 1.0
    assert meter.num_threads(2) == 1
    now = 1.0 + _threads.MIN_SECONDS / 2
    assert meter.num_threads(2) == 1
    assert numbers_read == 2


def test_the_number_rises_again_when_the_others_are_done():
    readings = [CPUTimes(0.0, 0.0, 0.0), CPUTimes(1.0, 0.0, 1.0), CPUTimes(2.0, 1.0, 2.0)]
    meter = meter_of(*readings)
    assert [meter.num_threads(2) for _ in readings[1:]] == [1, 2]


@pytest.mark.parametrize("readings", [[None], [CPUTimes(0.0, 0.0, 0.0), None]])
def test_all_threads_are_used_where_the_system_reports_no_times(readings):
    meter = meter_of(*readings)
    assert [meter.num_threads(2) for _ in range(3)] == [2, 2, 2]


# The readings


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux reports the CPUs of a process")
def test_idle_waiting_and_stolen_time_of_the_own_cpus_are_read(tmp_path, monkeypatch):
    lines = ["cpu  9 9 9 9 9 9 9 9 9 9", "cpu0 1 2 3 100 10 6 7 1 0 0", "cpu1 1 2 3 5000 9 9 9 9 0 0"]
    lines += ["cpu2 1 2 3 200 20 6 7 2 0 0", "intr 5 6", "ctxt 7"]
    path = tmp_path / "stat"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    times = read_cpu_times(path)
    assert times is not None
    assert times.idle == pytest.approx(333 / TICKS)


@pytest.mark.parametrize(
    "text", ["", "cpu 1 2 3 4\n", "cpu0 1 2 3\n", "cpu0 a b c d e f g h\n", "cpu0 0 0 0 0 0 0 0 0\n"]
)
def test_a_report_without_idle_times_is_no_reading(text, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    path = tmp_path / "stat"
    path.write_text(text, encoding="utf-8")
    assert read_cpu_times(path) is None
    assert read_cpu_times(tmp_path / "missing") is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/stat")
def test_the_times_of_this_machine_do_not_run_backwards():
    first, second = read_cpu_times(), read_cpu_times()
    if first is None or second is None:
        pytest.skip("a sandbox without CPU times")
    assert all(earlier <= later for earlier, later in zip(first, second, strict=True))


# The scope


@pytest.mark.usefixtures("busy")
def test_the_caller_gets_its_number_of_threads_back():
    with threads_by_load():
        assert torch.get_num_threads() == 1
        with threads_by_load():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("busy")
def test_an_error_gives_the_number_of_threads_back():
    def fail():
        with threads_by_load():
            raise KeyError("inside")

    refusal_of(KeyError, fail)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("busy")
def test_other_threads_keep_their_number():
    started, entered, seen = (threading.Event() for _ in range(3))
    numbers = []

    def other():
        numbers.append(torch.get_num_threads())
        started.set()
        assert entered.wait(10)
        numbers.append(torch.get_num_threads())
        _threads.adjust_threads()
        numbers.append(torch.get_num_threads())
        seen.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert started.wait(10)
    with threads_by_load():
        entered.set()
        assert seen.wait(10)
    thread.join()
    assert numbers == [2, 2, 2]


def test_a_load_that_begins_or_ends_meanwhile_is_followed(monkeypatch):
    with threads_by_load():
        for free, expected in [(1.0, 1), (2.0, 2), (0.0, 1), (8.0, 2)]:
            monkeypatch.setattr(_threads, "_meter", Fixed(free))
            _threads.adjust_threads()
            assert torch.get_num_threads() == expected


# The loss


def losses_of(rows, labels, references, ref_labels, scale, bias, relevance=None, **options):
    tables = ClassPairTables(scale, bias, relevance=relevance)
    return blockwise.anchor_losses(Batch(rows, labels, references, ref_labels), tables, **options)


def gradients_of(function, arguments, **options):
    """Losses, mask, and the gradients of rows, references and tables."""
    arguments = [
        argument.clone().requires_grad_() if torch.is_tensor(argument) and argument.is_floating_point() else argument
        for argument in arguments
    ]
    losses, is_valid = function(*arguments, **options)
    learned = [argument for argument in arguments if torch.is_tensor(argument) and argument.requires_grad]
    upstream = torch.linspace(-1, 2, len(losses), dtype=losses.dtype)
    return losses.detach(), is_valid, *torch.autograd.grad(losses, learned, upstream)


@pytest.fixture
def numbers_of_threads(monkeypatch):
    """The numbers of threads with which the tiles are computed."""
    numbers = set()
    mm = torch.mm

    def recorded(*args, **kwargs):
        numbers.add(torch.get_num_threads())
        return mm(*args, **kwargs)

    monkeypatch.setattr(torch, "mm", recorded)
    return numbers


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("kind", ["asymmetric", "symmetric", "references", "graded"])
def test_losses_and_gradients_are_those_of_the_equations_beside_a_busy_process(kind, numbers_of_threads):
    arguments = batch(NUM_ROWS, 4, 6, num_references=531 if kind == "references" else None)
    arguments = mirrored(arguments) if kind == "symmetric" else arguments
    arguments = [*arguments, torch.eye(4, dtype=torch.float64) + 0.1] if kind == "graded" else arguments

    def eager(rows, labels, references, ref_labels, scale, bias, relevance=None):
        tables = ClassPairTables(scale, bias, relevance=relevance)
        return functional.anchor_losses(Batch(rows, labels, references, ref_labels), tables)

    expected = gradients_of(eager, arguments)
    found = gradients_of(losses_of, arguments, tile_rows=300)
    assert numbers_of_threads == {1}
    assert torch.get_num_threads() == 2
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("busy")
def test_every_operation_of_the_backward_pass_has_one_thread_beside_a_busy_process(monkeypatch):
    rows, *others = mirrored(batch(NUM_ROWS, 4, 6))
    numbers = []
    sums = blockwise.ClassRows.backward

    def recorded(ctx, grad):
        numbers.append(torch.get_num_threads())
        return sums(ctx, grad)

    monkeypatch.setattr(blockwise.ClassRows, "backward", staticmethod(recorded))
    losses_of(rows.requires_grad_(), *others).losses.sum().backward()
    assert set(numbers) == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("busy")
def test_only_what_needs_a_gradient_gets_one_beside_a_busy_process():
    rows, labels, _, _, scale, bias = mirrored(batch(NUM_ROWS, 4, 6))
    losses = losses_of(rows, labels, None, None, scale.requires_grad_(), bias).losses
    losses.sum().backward()
    assert scale.grad is not None
    assert rows.grad is None
    assert bias.grad is None
    with torch.no_grad():
        assert not losses_of(rows.requires_grad_(), labels, None, None, scale, bias).losses.requires_grad
    with torch.inference_mode():
        assert losses_of(rows, labels, None, None, scale, bias).losses.is_inference()


@pytest.mark.usefixtures("busy")
def test_a_second_pass_gives_the_same_and_a_second_derivative_is_refused_beside_a_busy_process():
    rows, *others = mirrored(batch(NUM_ROWS, 4, 6))
    loss = losses_of(rows.requires_grad_(), *others).losses.sum()
    (first,) = torch.autograd.grad(loss, rows, retain_graph=True)
    (second,) = torch.autograd.grad(loss, rows, create_graph=True)
    assert torch.equal(first, second)
    assert "can be differentiated once" in refusal_of(RuntimeError, second.sum().backward)


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradients_are_the_same_under_checkpointing_beside_a_busy_process(use_reentrant):
    rows, *others = mirrored(batch(NUM_ROWS, 4, 6))
    plain, checkpointed = rows.clone().requires_grad_(), rows.clone().requires_grad_()

    def function(rows):
        return losses_of(rows, *others).losses.square().sum()

    function(plain).backward()
    loss = checkpoint(function, checkpointed, use_reentrant=use_reentrant)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert plain.grad is not None
    assert checkpointed.grad is not None
    assert torch.equal(plain.grad, checkpointed.grad)


# torch.compile asks tensors for their gradient where it resumes after a break.
@pytest.mark.usefixtures("busy")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_caller_gets_the_same_result_beside_a_busy_process():
    rows, *others = mirrored(batch(NUM_ROWS, 4, 6))
    plain, compiled = rows.clone().requires_grad_(), rows.clone().requires_grad_()

    def function(rows):
        losses, is_valid = losses_of(functional.unit_rows(rows * 2), *others)
        return losses.sum() / is_valid.sum()

    function(plain).backward()
    torch.compile(function, backend="eager")(compiled).backward()
    assert plain.grad is not None
    assert compiled.grad is not None
    assert_close(compiled.grad, plain.grad)


@pytest.mark.usefixtures("busy")
def test_one_thread_stays_one(numbers_of_threads, monkeypatch):
    monkeypatch.setattr(_threads, "_meter", Fixed(64.0))
    torch.set_num_threads(1)
    gradients_of(losses_of, batch(NUM_ROWS, 4, 6))
    assert numbers_of_threads == {1}


@pytest.mark.usefixtures("busy")
def test_the_number_of_threads_is_fixed_with_deterministic_algorithms(numbers_of_threads):
    torch.use_deterministic_algorithms(True)
    try:
        gradients_of(losses_of, batch(NUM_ROWS, 4, 6))
    finally:
        torch.use_deterministic_algorithms(False)
    assert numbers_of_threads == {2}


@pytest.mark.usefixtures("busy")
def test_the_number_of_threads_is_fixed_for_few_pairs_and_for_several_processes(numbers_of_threads):
    gradients_of(losses_of, batch(500, 4, 6))
    assert numbers_of_threads == {2}
    numbers_of_threads.clear()

    def of_group(group):
        torch.set_num_threads(2)
        return gradients_of(losses_of, batch(NUM_ROWS, 4, 6), group=group)

    results_of_group(2, of_group)
    assert numbers_of_threads == {2}
