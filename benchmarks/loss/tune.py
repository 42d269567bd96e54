"""Checks and times labeldist.backends.fused on a GPU, against torch.matmul floors.

python -m benchmarks.loss.tune                       # the standard shapes, tilings as they stand
python -m benchmarks.loss.tune --sweep mirrored      # one kernel's tilings over one shape: --shape 65536,128,bfloat16
python -m benchmarks.loss.tune --shapes 16384,128,bfloat16 65536,768,bfloat16 --mode mirrored|dense|ask

Prints one line a case: correctness (error of loss and gradient rows against float64),
times in ms (median), ratio to the floor. A case that fails its check prints BAD and no time.
Floor: the rate of an 8192 x 8192 x D torch.matmul in the same dtype; forward B^2 D (mirrored) or 2 B^2 D (dense)
multiply-adds' flops, forward + backward 4 B^2 D (mirrored) or 6 B^2 D (dense).
"""

import argparse
import itertools
import time

import torch
import triton
from triton.testing import do_bench

from benchmarks.loss.measure import DTYPES
from labeldist import functional
from labeldist.backends import fused
from labeldist.backends.fused import tilings
from labeldist.pairs import Batch, ClassPairTables

TOLERANCE = {"bfloat16": 2e-2, "float16": 4e-3, "float32": 2e-5}
# What is known of the tables beforehand: whether they are symmetric, and their span.
KNOWN = {"mirrored": (True, 20.0), "dense": (False, None), "ask": (None, None)}
SHAPES = [
    "256,768,bfloat16", "4096,128,bfloat16", "16384,128,bfloat16", "65536,128,bfloat16", "16384,256,bfloat16",
    "16384,768,bfloat16", "65536,768,bfloat16", "16384,128,float32", "16384,768,float32",
]  # fmt: skip
# Kernel: candidate (block_rows, block_columns, block_d, num_warps, num_stages).
SWEEPS = {
    "mirrored": [(128, 64, 128, w, s) for w in (4, 8) for s in (2, 3, 4)]
    + [(128, 128, 128, 8, s) for s in (2, 3, 4)]
    + [(64, 64, 128, 4, s) for s in (2, 3, 4)],
    "dense": [(128, n, 128, 8, s) for n in (64, 128, 256) for s in (2, 3, 4)]
    + [(64, 128, 128, 4, s) for s in (2, 3, 4)],
    "gradient": [(128, n, 128, w, s) for n in (32, 64, 128) for w in (4, 8) for s in (2, 3, 4)]
    + [(64, n, 128, 4, s) for n in (32, 64, 128) for s in (2, 3, 4)],
}


def problem(shape, num_classes, mode):
    """Rows of about length 1 in random classes, and symmetric tables."""
    num_rows, dim, dtype = shape.split(",")
    num_rows, dim = int(num_rows), int(dim)
    generator = torch.Generator("cuda").manual_seed(0)
    rows = functional.unit_rows(torch.randn(num_rows, dim, device="cuda", generator=generator))
    labels = torch.randint(num_classes, (num_rows,), device="cuda", generator=generator)
    scale = torch.rand(num_classes, num_classes, device="cuda", generator=generator) * 8 + 2
    scale = (scale + scale.T) / 2
    tables = ClassPairTables(scale, torch.zeros_like(scale), *KNOWN[mode])
    return Batch(rows.to(DTYPES[dtype]).requires_grad_(), labels), tables


def truth(batch, tables, sample=128, chunk=2048):
    """Losses of all rows and the gradient of the mean for a few, in float64."""
    rows, labels = batch.embeddings.detach().double(), batch.labels
    u, scale, bias = functional.unit_rows(rows), tables.scale.double(), tables.bias.double()
    num_rows = len(u)
    lse = torch.empty(num_rows, device="cuda", dtype=torch.float64)
    losses = torch.empty_like(lse)
    count = torch.bincount(labels, minlength=len(scale))[labels] - 1
    for start in range(0, num_rows, chunk):
        block = slice(start, min(start + chunk, num_rows))
        logits = scale[labels[block]][:, labels] * (u[block] @ u.T + 1) / 2 + bias[labels[block]][:, labels]
        same = labels[block][:, None] == labels[None, :]
        places = torch.arange(block.start, block.stop, device="cuda")
        logits[places - block.start, places] = -torch.inf
        same[places - block.start, places] = False
        lse[block] = logits.logsumexp(1)
        mean = logits.masked_fill(~same, 0).sum(1) / count[block].clamp_min(1)
        losses[block] = torch.where(count[block] > 0, lse[block] - mean - count[block].clamp_min(1).log(), 0)
    few = torch.linspace(0, num_rows - 1, min(sample, num_rows), device="cuda").long().unique()
    valid = (count > 0).double() / num_rows
    dots = u[few] @ u.T
    f_ab, f_ba = scale[labels[few]][:, labels] / 2, scale[labels][:, labels[few]].T / 2
    o_ab, o_ba = f_ab + bias[labels[few]][:, labels], f_ba + bias[labels][:, labels[few]].T
    same = (labels[few][:, None] == labels[None, :]).double()
    here = (
        f_ab
        * valid[few][:, None]
        * ((f_ab * dots + o_ab - lse[few][:, None]).exp() - same / count[few].clamp_min(1)[:, None])
    )
    there = f_ba * valid[None, :] * ((f_ba * dots + o_ba - lse[None, :]).exp() - same / count.clamp_min(1)[None, :])
    weights = here + there
    weights[torch.arange(len(few)), few] = 0
    gradient = weights @ u
    # Through the normalization, which removes the component along the row.
    gradient -= u[few] * (u[few] * gradient).sum(dim=1, keepdim=True)
    return losses, few, gradient / rows[few].norm(dim=1, keepdim=True)


def error(value, expected):
    """Relative error, by norms."""
    return ((value.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def measure(shape, classes, mode, expected=None, backward=True):
    """Check one case, then time it."""
    batch, tables = problem(shape, classes, mode)

    def forward():
        return fused.anchor_losses(batch, tables).losses

    def both():
        return torch.autograd.grad(forward().mean(), batch.embeddings)[0]

    started = time.perf_counter()
    losses, gradient = forward().detach(), both() if backward else None
    torch.cuda.synchronize()
    compiled = time.perf_counter() - started
    wanted, few, rows_wanted = expected or truth(batch, tables)
    errors = error(losses, wanted), error(gradient[few], rows_wanted) if backward else 0.0
    good = max(errors) <= TOLERANCE[shape.split(",")[2]]
    torch.cuda.reset_peak_memory_stats()
    times = (0.0, 0.0)
    if good:
        fast = {"warmup": 20, "rep": 100, "return_mode": "median"}
        times = do_bench(forward, **fast), do_bench(both, **fast) if backward else 0.0
    peak = torch.cuda.max_memory_allocated() / 2**20
    return good, errors, times, peak, compiled, (wanted, few, rows_wanted)


def matmul_ms(dim, dtype):
    """Time of an 8192 x 8192 x D product."""
    left, right = (torch.randn(8192, dim, device="cuda").to(DTYPES[dtype]) for _ in range(2))
    return do_bench(lambda: left @ right.T, warmup=20, rep=100, return_mode="median")


def floors(shape, mode):
    """Forward and forward + backward at the rate of `torch.matmul`."""
    num_rows, dim, dtype = shape.split(",")
    # The 8192 x 8192 product writes its result: at small D use the rate of D = 768, which hides that.
    rate = 2 * 8192**2 * max(int(dim), 768) / matmul_ms(max(int(dim), 768), dtype)
    square = int(num_rows) ** 2 * int(dim)
    forward, total = (1, 4) if mode != "dense" else (2, 6)
    return forward * square / rate, total * square / rate


def line(name, result, floor):
    """One case for the terminal."""
    good, errors, times, peak, compiled, _ = result
    state = "ok " if good else "BAD"
    print(
        f"{name:44s} {state} err {errors[0]:.0e} {errors[1]:.0e} | fwd {times[0]:8.3f} ({times[0] / floor[0]:5.2f}x)"
        f" | f+b {times[1]:8.3f} ({times[1] / floor[1]:5.2f}x) | peak {peak:7.0f} MiB | first {compiled:5.1f} s",
        flush=True,
    )


def graph_ms(shape, classes, mode):
    """Forward + backward replayed as a CUDA graph: the device's time without the host's launches."""
    batch, tables = problem(shape, classes, mode)

    def step():
        losses = fused.anchor_losses(batch, tables).losses
        return torch.autograd.grad(losses.sum(), batch.embeddings)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(), step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return do_bench(graph.replay, warmup=20, rep=100, return_mode="median")


def sweep(kernel, shape, classes, mode):
    """Every candidate tiling of one kernel, the best last."""
    size = DTYPES[shape.split(",")[2]].itemsize
    width = tilings.padded_width(int(shape.split(",")[1]))
    bounds = [b for name, s, b in tilings.TILINGS if (name, s) == (kernel, size) and width <= b]
    if not bounds:
        raise SystemExit(f"--sweep takes shapes of up to 128 dimensions in bfloat16 or float16, got {shape}.")
    bound = min(bounds)
    before, expected, floor, found = tilings.TILINGS[kernel, size, bound], None, floors(shape, mode), []
    for candidate in SWEEPS[kernel]:
        tilings.TILINGS[kernel, size, bound] = tilings.Tiling(*candidate)
        try:
            result = measure(shape, classes, mode, expected, backward=kernel == "gradient")
        except Exception as problem_:
            print(candidate, "failed:", str(problem_).splitlines()[0][:100], flush=True)
            continue
        expected = result[-1]
        line(f"{kernel} {shape} {candidate}", result, floor)
        if result[0]:
            found.append((result[2][1] or result[2][0], candidate))
    tilings.TILINGS[kernel, size, bound] = before
    for ms, candidate in sorted(found)[:5]:
        print(f"best: {candidate} {ms:.3f} ms")


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--classes", type=int, nargs="*", default=[20])
    parser.add_argument("--mode", nargs="*", default=["mirrored"], choices=list(KNOWN))
    parser.add_argument("--sweep", choices=list(SWEEPS))
    parser.add_argument("--shape", default="65536,128,bfloat16")
    parser.add_argument("--graph", action="store_true")
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
    if arguments.sweep:
        sweep(arguments.sweep, arguments.shape, arguments.classes[0], arguments.mode[0])
        return
    for shape, classes, mode in itertools.product(arguments.shapes, arguments.classes, arguments.mode):
        line(f"{shape} C={classes} {mode}", measure(shape, classes, mode), floors(shape, mode))
        if arguments.graph:
            print(f"    as a CUDA graph: f+b {graph_ms(shape, classes, mode):.3f} ms")


if __name__ == "__main__":
    main()
