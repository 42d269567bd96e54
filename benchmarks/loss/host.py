"""What a step costs as it is called, and what of that is the device: the kernels beside eager and compiled eager.

python -m benchmarks.loss.host                                # the sizes at which the host is what takes the time
python -m benchmarks.loss.host --rows 4096 --dims 384 --methods triton
python -m benchmarks.loss.host --dtype float32 --output host-float32.json
python -m benchmarks.loss.host --methods "triton, small" "triton, medium" "triton, large"   # each path, by force

One line a size: for each method the median of forward and backward as called, and replayed as a CUDA graph. The methods
of a size take turns, so that a change of the machine's speed affects all of them. Compiled eager is compiled anew for
each size.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.loss.measure import DTYPES, captured, step_of, timed
from benchmarks.loss.methods import METHODS, Method, Problem
from benchmarks.machine import command_of, current_commit, versions_of
from labeldist.backends.fused import medium, small
from labeldist.training.machine import describe_machine

ROWS, DIMS = (256, 1024, 2048, 4096, 8192, 16384), (128, 384, 768)
COMPILED = "eager, torch.compile"
# Above it eager takes ten times as long as the kernels, and compiling it costs more than it tells.
MAX_EAGER_ROWS = 8192
# Most multiply-adds of the small path and most rows of the medium path, so that all batches take one path.
LIMITS = {"small": (sys.maxsize, 0), "medium": (-1, sys.maxsize), "large": (-1, 0)}


def _forced(path: str) -> Method:
    """The kernels by one path, whatever the size. The backward pass takes the path of the forward pass."""
    max_work, max_rows = LIMITS[path]

    def prepare(problem: Problem) -> Callable[[], Tensor]:
        loss = METHODS["triton"].prepare(problem)

        def call() -> Tensor:
            limits = dict.fromkeys(small.MAX_WORK, max_work)
            with mock.patch.object(small, "MAX_WORK", limits), mock.patch.object(medium, "MAX_ROWS", max_rows):
                return loss()

        return call

    return replace(METHODS["triton"], name=f"triton, {path}", prepare=prepare)


CHOICES = {**METHODS, **{f"triton, {path}": _forced(path) for path in LIMITS}}


def main() -> None:
    """Read the command line, measure, print."""
    options = _options()
    print(describe_machine(), versions_of("torch", "triton"), options.dtype, flush=True)
    cases = []
    for dim in options.dims:
        for num_rows in options.rows:
            found = _measured(num_rows, dim, options)
            cases.append({"num_rows": num_rows, "dim": dim, "methods": found})
            cells = ", ".join(
                f"{name} {case['called_ms']:.3f} ({case['graph_ms']:.3f})"
                if "graph_ms" in case
                else f"{name} {case['called_ms']:.3f}"
                for name, case in found.items()
            )
            print(f"{num_rows:>6} x {dim:<4} ms called (captured): {cells}", flush=True)
    if options.output:
        record = {
            "machine": describe_machine(),
            "dtype": options.dtype,
            "versions": versions_of("torch", "triton"),
            "commit": current_commit(),
            "command": command_of("benchmarks.loss.host"),
        }
        options.output.write_text(json.dumps({**record, "cases": cases}, indent=1) + "\n", encoding="utf-8")


def _measured(num_rows: int, dim: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    problem = Problem.draw(num_rows, dim, device=torch.device("cuda"), dtype=DTYPES[options.dtype])
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for name in options.methods:
        if name.startswith("eager") and num_rows > MAX_EAGER_ROWS:
            continue
        if name == COMPILED:
            torch.compiler.reset()
        step = step_of(CHOICES[name].prepare(problem), problem)
        for _ in range(3):
            step()
        calls[name, "called_ms"] = step
        if CHOICES[name].captures:
            calls[name, "graph_ms"] = captured(step, problem)
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(options.repeats):
        for key, call in calls.items():
            samples[key].append(timed(call, problem.rows.device))
    found: dict[str, dict[str, float]] = {}
    for (name, kind), values in samples.items():
        found.setdefault(name, {})[kind] = statistics.median(values)
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="B")
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS, help="D")
    parser.add_argument("--methods", nargs="+", default=["triton", "eager", COMPILED], choices=CHOICES)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--repeats", type=int, default=60, help="timed steps of each kind")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
