"""One case: is it correct, how long does it take, and how much memory does it need beside its inputs?

python -m benchmarks.loss.measure eager 1024 128    # prints one JSON object
"""

import argparse
import ctypes
import json
import math
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.loss.methods import METHODS, NUM_CLASSES, TEMPERATURE, Method, Problem
from labeldist import functional

# Gradients are judged at this size at most: float64 needs B x B there. A GPU's is beyond what the kernels take for few,
# and float32's as large as its table: eager's error grows with the batch.
CPU_GATE_ROWS, GPU_GATE_ROWS = 2048, {torch.float32: 16384, torch.bfloat16: 6144, torch.float16: 6144}
# At the size itself the loss is judged up to so many rows, losses of some anchors beyond.
MAX_LOSS_ROWS, GATE_ANCHORS = 4096, 64
# The floor's product goes through a buffer of at most so many elements.
FLOOR_ELEMENTS = 2**28
# Up to so many rows launches take much of the time: there a CUDA graph is timed besides.
MAX_GRAPH_ROWS = 16384

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def measure(
    method: Method,
    num_rows: int,
    dim: int,
    *,
    device: torch.device,
    dtype: str,
    seconds: float,
    num_classes: int = NUM_CLASSES,
) -> dict[str, Any]:
    """Check, then measure the time and memory of one method at one size.

    Args:
        method: what to measure.
        num_rows: `B`.
        dim: `D`.
        device: where.
        dtype: of the rows.
        seconds: about so long is spent on each of forward and forward+backward.
        num_classes: `C`.

    Returns:
        Medians and 20 % and 80 % percentiles in ms, medians of the floor and of the compared method in the same
        process, extra peak memory in MiB, and the errors that the gate saw; or `{"skipped": reason}`.
    """
    case = {"method": method.name, "task": method.task, "num_rows": num_rows, "dim": dim, "dtype": dtype}
    reason = method.missing(device, dim)
    if reason is not None:
        return {**case, "skipped": reason}
    try:
        _warm_up(method, dim, device, DTYPES[dtype])
        problem = Problem.draw(num_rows, dim, device=device, dtype=DTYPES[dtype], num_classes=num_classes)
        forward = method.prepare(problem)
        step = step_of(forward, problem)
        with_backward = method.task != "forward"
        numbers: dict[str, Any] = dict(case)
        # Memory first: what the gate frees would be reused without being counted.
        if with_backward:
            numbers["both_mib"] = peak_mib(step, device)
        numbers["forward_mib"] = peak_mib(lambda: forward().detach(), device)
        if method.task in ("same", "graded"):
            numbers |= _gate(method, num_rows, problem)
            numbers["loss_error"] = _loss_error(method, problem, forward)
        alternatives = {"forward": forward, "floor_forward": floor(problem, 1)}
        if with_backward:
            alternatives |= {"both": step, "floor_both": floor(problem, 3)}
        if method.compared is not None:
            compared = METHODS[method.compared].prepare(problem)
            alternatives |= {"compared_forward": compared, "compared_both": step_of(compared, problem)}
        numbers.update(_times(alternatives, device, seconds))
        if device.type == "cuda" and method.captures and num_rows <= MAX_GRAPH_ROWS:
            numbers["graph_ms"] = _graph_ms(step, problem, device, seconds)
        return numbers
    except (torch.OutOfMemoryError, MemoryError) as error:
        return {**case, "skipped": "does not fit", "detail": str(error).splitlines()[0][:200]}
    except RuntimeError as error:
        if "allocate" not in str(error) and "out of memory" not in str(error):
            raise
        return {**case, "skipped": "does not fit", "detail": str(error).splitlines()[0][:200]}


def step_of(call: Callable[[], Tensor], problem: Problem) -> Callable[[], None]:
    """Forward and backward of a method, as one call."""

    def step() -> None:
        problem.rows.grad = None
        call().backward()

    return step


def _warm_up(method: Method, dim: int, device: torch.device, dtype: torch.dtype) -> None:
    """Load libraries and start threads, which takes memory once."""
    problem = Problem.draw(64, dim, device=device, dtype=dtype)
    call = method.prepare(problem)
    if method.task == "forward":
        call()
    else:
        step_of(call, problem)()


def _gate(method: Method, num_rows: int, like: Problem) -> dict[str, float]:
    """Errors of loss and gradient against float64 on another, smaller problem; raises where they exceed eager's."""
    device, dtype, dim = like.rows.device, like.rows.dtype, like.rows.shape[1]
    most_rows = CPU_GATE_ROWS if device.type == "cpu" else GPU_GATE_ROWS[dtype]
    problem = Problem.draw(
        min(num_rows, most_rows) - 1, dim, device=device, dtype=dtype, seed=1, num_classes=len(like.ldm)
    )
    eager = METHODS["eager" if method.task == "same" else "eager, graded"]
    exact = _loss_and_gradient(
        eager, Problem(problem.rows.detach().double().requires_grad_(), problem.labels, problem.ldm.double())
    )
    errors = {}
    for name, candidate in (("eager", eager), ("own", method)):
        loss, gradient = _loss_and_gradient(candidate, problem)
        errors[name] = (
            abs(float(loss) - float(exact[0])) / abs(float(exact[0])),
            float((gradient.double() - exact[1]).norm() / exact[1].norm()),
        )
    limit = {torch.float32: (5e-7, 5e-7), torch.bfloat16: (1e-3, 1e-2), torch.float16: (2e-4, 2e-3)}[dtype]
    for own, eager, allowed, what in zip(errors["own"], errors["eager"], limit, ("loss", "gradient"), strict=True):
        if not own <= eager + allowed:
            raise AssertionError(
                f"{method.name}: relative error of the {what} is {own:.2e}, eager's {eager:.2e}; "
                f"{allowed:.0e} more is allowed."
            )
    return {
        "gate_rows": len(problem.rows),
        "gradient_error": errors["own"][1],
        "eager_gradient_error": errors["eager"][1],
    }


def _loss_and_gradient(method: Method, problem: Problem) -> tuple[Tensor, Tensor]:
    problem.rows.grad = None
    loss = method.prepare(problem)()
    loss.backward()
    gradient = problem.rows.grad
    assert gradient is not None
    return loss.detach(), gradient.detach().clone()


@torch.no_grad()
def _loss_error(method: Method, problem: Problem, call: Callable[[], Tensor]) -> float:
    """Relative error of the whole loss at this size against float64, by blocks of anchors; over a sample if large."""
    rows = functional.unit_rows(problem.rows.double())
    num_anchors = len(rows) if len(rows) <= MAX_LOSS_ROWS else GATE_ANCHORS
    tables = functional.class_pair_tables(problem.ldm.double(), temperature=TEMPERATURE)
    similarity = (rows[:num_anchors] @ rows.T + 1) / 2
    logits = functional.pair_logits(similarity, problem.labels[:num_anchors], problem.labels, tables)
    candidates = torch.ones_like(logits, dtype=torch.bool).fill_diagonal_(False)
    positives = problem.labels[:num_anchors, None] == problem.labels
    exact = functional.contrastive_loss(logits, positives, candidates)
    if method.task == "graded":
        weights = functional.pair_relevance(problem.labels[:num_anchors], problem.labels, problem.relevance.double())
        positives = weights > 0
        exact = functional.graded_contrastive_loss(logits, weights, candidates)
    if num_anchors < len(rows):
        return _sample_error(method, problem, exact)
    is_valid = functional.valid_anchors(logits, positives, candidates)
    mean = exact.sum() / is_valid.sum().clamp_min(1)
    error = abs(float(call().detach()) - float(mean)) / max(abs(float(mean)), 1e-12)
    return _checked(method, error, problem.rows.dtype)


def _sample_error(method: Method, problem: Problem, exact: Tensor) -> float:
    from labeldist.backends import label_distance_contrastive

    backend = method.name.removesuffix(", graded")
    backend = backend if backend in ("eager", "blockwise", "triton", "auto") else "eager"
    losses = label_distance_contrastive(
        problem.rows,
        problem.labels,
        problem.ldm,
        temperature=TEMPERATURE,
        relevance=problem.relevance if method.task == "graded" else None,
        backend=backend,
        validate=False,
    )
    error = float((losses[: len(exact)].double() - exact).norm() / exact.norm())
    return _checked(method, error, problem.rows.dtype)


def _checked(method: Method, error: float, dtype: torch.dtype) -> float:
    allowed = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}[dtype]
    if not error <= allowed:
        raise AssertionError(f"{method.name}: relative error of the loss is {error:.2e}, {allowed:.0e} is allowed.")
    return error


def floor(problem: Problem, num_products: int) -> Callable[[], None]:
    """`B x B x D` products of the rows, without keeping B x B numbers."""
    rows = problem.rows.detach()
    block = max(min(FLOOR_ELEMENTS // len(rows), len(rows)), 1)
    out = torch.empty(block, len(rows), dtype=rows.dtype, device=rows.device)

    def products() -> None:
        for _ in range(num_products):
            for start in range(0, len(rows), block):
                part = rows[start : start + block]
                torch.matmul(part, rows.T, out=out[: len(part)])

    return products


def _times(alternatives: dict[str, Callable[[], Any]], device: torch.device, seconds: float) -> dict[str, float]:
    """Time alternatives in turn, so that a change of the machine's speed affects all of them."""
    samples: dict[str, list[float]] = {name: [] for name in alternatives}
    # Warm-up: compilation, caches. What then takes long is not taken often.
    longest = max(timed(call, device) for call in alternatives.values())
    begun, least = time.perf_counter(), 1 if longest > 1e4 * seconds else 3
    while len(samples["forward"]) < least or (
        time.perf_counter() - begun < seconds * len(alternatives) and len(samples["forward"]) < 200
    ):
        for name, call in alternatives.items():
            samples[name].append(timed(call, device))
        if time.perf_counter() - begun > 8 * seconds * len(alternatives):
            break
    numbers: dict[str, float] = {}
    for name, values in samples.items():
        ordered = sorted(values)
        numbers[f"{name}_ms"] = ordered[len(ordered) // 2]
        if not name.startswith(("floor", "compared")):
            numbers[f"{name}_ms_20"] = ordered[math.floor(0.2 * (len(ordered) - 1))]
            numbers[f"{name}_ms_80"] = ordered[math.ceil(0.8 * (len(ordered) - 1))]
    return {**numbers, "num_samples": len(samples["forward"])}


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call, its launches included."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    begun = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begun)


def _graph_ms(step: Callable[[], None], problem: Problem, device: torch.device, seconds: float) -> float:
    """Forward and backward replayed as a CUDA graph: the time of the device alone, without that of launching."""
    return _times({"forward": captured(step, problem)}, device, seconds)["forward_ms"]


def captured(step: Callable[[], None], problem: Problem) -> Callable[[], None]:
    """A step as a CUDA graph; what it returns replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    problem.rows.grad = None
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def peak_mib(call: Callable[[], Any], device: torch.device) -> float:
    """Largest memory held during a call, beside what was held before."""
    if device.type == "cuda":
        call()  # workspaces of libraries
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # Return freed memory to the system, or it would be reused without being counted.
    ctypes.CDLL(None).malloc_trim(0)
    with _Watch() as watch:
        call()
    return watch.mib


class _Watch:
    """The process's largest resident memory while it is open, sampled every millisecond."""

    def __enter__(self) -> "_Watch":
        self.before = self.largest = _resident_mib()
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._open.wait(0.001):
            self.largest = max(self.largest, _resident_mib())

    def __exit__(self, *_: object) -> None:
        self.largest = max(self.largest, _resident_mib())
        self._open.set()
        self._thread.join()

    @property
    def mib(self) -> float:
        """MiB more than at the start."""
        return self.largest - self.before


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("num_rows", type=int)
    parser.add_argument("dim", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--classes", type=int, default=NUM_CLASSES)
    options = parser.parse_args()
    if options.device == "cpu":
        # Asking for more than the machine has is an error here, not the end of another process.
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
        resource.setrlimit(resource.RLIMIT_DATA, (available, available))
    numbers = measure(
        METHODS[options.method],
        options.num_rows,
        options.dim,
        device=torch.device(options.device),
        dtype=options.dtype,
        seconds=options.seconds,
        num_classes=options.classes,
    )
    json.dump(numbers, sys.stdout)


if __name__ == "__main__":
    main()
