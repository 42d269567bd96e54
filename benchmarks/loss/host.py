"""What a step costs as it is called, and what of that is the device: the kernels beside eager and compiled eager.

python -m benchmarks.loss.host                                # the sizes at which the host is what takes the time
python -m benchmarks.loss.host --rows 4096 --dims 384 --methods triton
python -m benchmarks.loss.host --dtype float32 --output host-float32.json

One line a size: for each method the median of forward and backward as called, and replayed as a CUDA graph. The methods
of a size take turns, so that a change of the machine's speed affects all of them. Compiled eager is compiled anew for
each size.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.loss.measure import DTYPES, captured, step_of, timed
from benchmarks.loss.methods import METHODS, Problem
from benchmarks.machine import versions_of
from labeldist.training.machine import describe_machine

ROWS, DIMS = (256, 1024, 2048, 4096, 8192, 16384), (128, 384, 768)
COMPILED = "eager, torch.compile"
# Above it eager takes ten times as long as the kernels, and compiling it costs more than it tells.
MAX_EAGER_ROWS = 8192


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
        record = {"machine": describe_machine(), "versions": versions_of("torch", "triton"), "dtype": options.dtype}
        options.output.write_text(json.dumps({**record, "cases": cases}, indent=1) + "\n", encoding="utf-8")


def _measured(num_rows: int, dim: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    problem = Problem.draw(num_rows, dim, device=torch.device("cuda"), dtype=DTYPES[options.dtype])
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for name in options.methods:
        if name.startswith("eager") and num_rows > MAX_EAGER_ROWS:
            continue
        if name == COMPILED:
            torch.compiler.reset()
        step = step_of(METHODS[name].prepare(problem), problem)
        for _ in range(3):
            step()
        calls[name, "called_ms"] = step
        if METHODS[name].captures:
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
    parser.add_argument("--methods", nargs="+", default=["triton", "eager", COMPILED], choices=METHODS)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--repeats", type=int, default=60, help="timed steps of each kind")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
