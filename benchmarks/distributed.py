"""Time and memory of the loss on several processes, beside one process.

python -m benchmarks.distributed                      # 1 and 2 processes, a GPU each, over NCCL
python -m benchmarks.distributed --rows 512 --dim 64 --dtype float32 --repeats 5    # without a GPU: over gloo

A step is forward and backward of `DistributedLossWrapper` from rows that take gradients: no encoder. Beside P processes
stands one with the rows of all. Each case passes a gate in its own processes, or the run ends: its gradient against
float64, on fewer rows. Writes a JSON record with machine, versions and commit.
"""

import argparse
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from benchmarks.loss.measure import DTYPES, peak_mib, timed
from benchmarks.loss.methods import TEMPERATURE, Problem
from benchmarks.machine import current_commit, versions_of
from labeldist import DistributedLossWrapper, LabelDistanceContrastiveLoss, StaticLDM, functional
from labeldist.distributed import gather_rows, num_processes, process_index
from labeldist.training.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "distributed"
# Rows of all processes whose gradient is judged: float64 needs B x B there.
GATE_ROWS = 1022
# Gradients of several processes are rounded before they are added: twice eager's error at most, and float32's own.
LARGEST_RATIO, ROUNDING = 2.0, 1e-6


def main() -> None:
    """Read the command line, measure, write."""
    options = _options()
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "device": options.device,
        "communication": "nccl" if options.device == "cuda" else "gloo",
        "dim": options.dim,
        "dtype": options.dtype,
        "backend": options.backend,
        "versions": versions_of("torch", "triton"),
        "commit": options.commit or current_commit(),
        "num_samples": options.repeats,
        "cases": [],
    }
    sizes = {(number, options.rows) for number in options.processes}
    sizes |= {(1, number * options.rows) for number in options.processes}
    path = options.output or RESULTS / f"{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, rows in sorted(sizes, key=lambda size: (size[0] * size[1], size[0])):
        with tempfile.TemporaryDirectory() as folder:
            spawn(_process, args=(number, rows, options, Path(folder)), nprocs=number)
            found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(number)]
        # Each process waits for the slowest: the first one's times stand for all.
        case = {"processes": number, "rows_each": rows, **found[0]}
        if options.device == "cuda":
            case["peak_mib"] = max(one["peak_mib"] for one in found)
        record["cases"].append(case)
        print(json.dumps(case), flush=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--rows", type=int, default=8192, help="of each process")
    parser.add_argument("--dim", type=int, default=768, help="D")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--backend", default="auto", choices=("auto", "eager", "blockwise", "triton"))
    parser.add_argument("--repeats", type=int, default=30, help="timed steps of each case")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file; default: benchmarks/results/distributed/DEVICE.json")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


def _process(rank: int, world: int, rows: int, options: argparse.Namespace, folder: Path) -> None:
    device = torch.device(options.device, rank) if options.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    numbers = _measured(world * rows, options, device)
    (folder / f"{rank}.json").write_text(json.dumps(numbers))
    dist.barrier()
    dist.destroy_process_group()


def _measured(num_rows: int, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    draw = partial(Problem.draw, dim=options.dim, device=device, dtype=DTYPES[options.dtype])
    errors = _gate(draw(GATE_ROWS), options.backend)
    problem = draw(num_rows)
    loss = _loss(problem, options.backend)
    # Copies: views would hold the rows of all.
    rows, labels = _own(problem.rows).detach().clone().requires_grad_(), _own(problem.labels).clone()
    del problem

    def step() -> None:
        rows.grad = None
        loss(rows, labels).backward()

    def exchange() -> None:
        rows.grad = None
        gather_rows(rows).sum().backward()

    numbers: dict[str, Any] = dict(errors)
    step()
    if device.type == "cuda":
        numbers["peak_mib"] = peak_mib(step, device)
    for name, call in {"step": step, "exchange": exchange}.items():
        samples = []
        for repeat in range(options.repeats + 3):
            dist.barrier()
            time_ms = timed(call, device)
            # The first ones find caches and links cold.
            if repeat >= 3:
                samples.append(time_ms)
        samples.sort()
        numbers[f"{name}_ms"] = statistics.median(samples)
        numbers[f"{name}_ms_20"] = samples[int(0.2 * (len(samples) - 1))]
        numbers[f"{name}_ms_80"] = samples[round(0.8 * (len(samples) - 1))]
    return numbers


def _own(rows: Tensor) -> Tensor:
    """This process's part; the last one has what is left over."""
    return rows.tensor_split(num_processes())[process_index()]


def _loss(problem: Problem, backend: Any) -> DistributedLossWrapper:
    loss = LabelDistanceContrastiveLoss(StaticLDM(problem.ldm), temperature=TEMPERATURE, backend=backend)
    return DistributedLossWrapper(loss).to(problem.rows.device)


def _gate(problem: Problem, backend: str) -> dict[str, float]:
    """Error of the own rows' gradient, relative to float64's length; raises where it is not near eager's."""
    rows, labels = _own(problem.rows).detach().requires_grad_(), _own(problem.labels)
    _loss(problem, backend)(rows, labels).backward()
    assert rows.grad is not None
    exact, eager = (_gradient(problem, dtype) for dtype in (torch.float64, problem.rows.dtype))
    # The sum over processes, of which DistributedDataParallel would take the mean.
    error = _error(rows.grad / num_processes(), exact)
    eager_error = _error(eager, exact)
    # NaN compares false, and must not pass.
    if not error <= LARGEST_RATIO * eager_error + ROUNDING:
        raise RuntimeError(
            f"The gradient must be that of one process, got a relative error of {error:.1e}; eager's is "
            f"{eager_error:.1e}."
        )
    return {"gradient_error": error, "eager_error": eager_error}


def _gradient(problem: Problem, dtype: torch.dtype) -> Tensor:
    """The own rows' gradient of the loss of all rows, by the equations on this process."""
    rows = problem.rows.detach().to(dtype).requires_grad_()
    ldm = problem.ldm.to(torch.promote_types(dtype, torch.float32))
    functional.label_distance_contrastive(rows, problem.labels, ldm, temperature=TEMPERATURE).mean().backward()
    assert rows.grad is not None
    return _own(rows.grad)


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


if __name__ == "__main__":
    main()
