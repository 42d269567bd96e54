"""Time and memory of the loss against batch size, compared with its peers.

python -m benchmarks.loss                        # every method and size on this machine's GPU, or else its CPU
python -m benchmarks.loss --rows 1024 8192 --dims 128 --methods eager blockwise
python -m benchmarks.loss --methods "blockwise, graded" --classes 1000 --output graded.json   # graded targets

Writes a JSON record with machine, versions and commit, then the table and the figure made from it. Each method passes a
correctness gate in the same run, or the run ends. A case that does not fit says so.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.loss.figures import draw, table
from benchmarks.loss.measure import DTYPES, measure
from benchmarks.loss.methods import METHODS, NUM_CLASSES, TEMPERATURE
from benchmarks.machine import command_of, current_commit, versions_of
from labeldist.training.machine import describe_machine

ROWS = (256, 1024, 4096, 16384, 65536, 262144, 1048576)
DIMS = (128, 384, 768)
RESULTS = Path(__file__).parent.parent / "results" / "loss"
PACKAGES = ("torch", "triton", "pytorch-metric-learning", "inf-cl", "cut-cross-entropy", "liger-kernel", "pykeops")


def main() -> None:
    """Read the command line, measure, write."""
    options = _options()
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "device": options.device,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "num_classes": options.classes,
        "temperature": TEMPERATURE,
        "versions": versions_of(*PACKAGES),
        "commit": options.commit or current_commit(),
        "commands": [command_of("benchmarks.loss")],
        "cases": [],
    }
    path = options.output or RESULTS / f"{options.device}-{options.dtype}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.resume:
        _go_on(path, record)
    done = {(case["method"], case["num_rows"], case["dim"]): case for case in record["cases"]}
    for dim in options.dims:
        latest: dict[str, tuple[int, float]] = {}
        for num_rows in options.rows:
            for name in options.methods:
                case = {"method": name, "task": METHODS[name].task, "num_rows": num_rows, "dim": dim}
                earlier_rows, earlier_ms = latest.get(name, (num_rows, 0.0))
                if (name, num_rows, dim) in done:
                    numbers = done[name, num_rows, dim]
                elif earlier_ms * (num_rows / earlier_rows) ** 2 > 1e3 * options.limit:
                    numbers = {**case, "skipped": f"would take over {options.limit:g} s"}
                else:
                    numbers = _measured(case, options)
                if "forward_ms" in numbers:
                    latest[name] = num_rows, numbers.get("both_ms", numbers["forward_ms"])
                if (name, num_rows, dim) in done:
                    continue
                record["cases"].append(numbers)
                print(_line(numbers), flush=True)
                # After each case: a run that is stopped keeps what it has measured.
                path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(record)}\n\nwritten: {path}, {draw(record, path.with_suffix('.png'))}")


def _go_on(path: Path, record: dict[str, Any]) -> None:
    """Continue a run that was stopped; ends the program if that run was of another kind."""
    if not path.exists():
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    for key in ("machine", "device", "dtype", "num_classes", "versions", "commit"):
        if earlier[key] != record[key]:
            sys.exit(f"{path} cannot be resumed: its {key} is {earlier[key]}, this run's is {record[key]}.")
    record["cases"] = earlier["cases"]
    record["commands"] = [*earlier["commands"], *record["commands"]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="B")
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS, help="D")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--classes", type=int, default=NUM_CLASSES, help="C")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if has_gpu else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16" if has_gpu else "float32")
    parser.add_argument("--seconds", type=float, default=0.5 if has_gpu else 2.0, help="spent on each timing, about")
    parser.add_argument(
        "--limit", type=float, default=60.0, help="longest time of one pass, in s, by that of fewer rows"
    )
    parser.add_argument("--output", type=Path, help="the JSON file; default: benchmarks/results/loss/DEVICE-DTYPE.json")
    parser.add_argument("--resume", action="store_true", help="continue the JSON file of a run that was stopped")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


def _measured(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    name, num_rows, dim = case["method"], case["num_rows"], case["dim"]
    if options.device == "cuda":
        torch.cuda.empty_cache()
        return measure(
            METHODS[name],
            num_rows,
            dim,
            device=torch.device("cuda"),
            dtype=options.dtype,
            seconds=options.seconds,
            num_classes=options.classes,
        )
    # A process of its own: resident memory is not given back.
    command = [sys.executable, "-m", "benchmarks.loss.measure", name, str(num_rows), str(dim)]
    command += ["--device", options.device, "--dtype", options.dtype, "--seconds", str(options.seconds)]
    command += ["--classes", str(options.classes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20 * options.limit)
    except subprocess.TimeoutExpired:
        return {**case, "skipped": f"over {20 * options.limit:.0f} s in all"}
    if done.returncode < 0:
        return {**case, "skipped": "does not fit"}
    if done.returncode:
        sys.exit(f"{name} at {num_rows} x {dim} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def _line(numbers: dict[str, Any]) -> str:
    start = f"{numbers['num_rows']:>8} x {numbers['dim']:<4} {numbers['method']:22s}"
    if "skipped" in numbers:
        return f"{start} {numbers['skipped']}"
    both = f"{numbers['both_ms']:11.2f} ms, {numbers['both_mib']:9.1f} MiB" if "both_ms" in numbers else " " * 29
    line = f"{start} forward {numbers['forward_ms']:10.2f} ms, forward+backward {both}"
    if "compared_both_ms" in numbers:
        line += f", {numbers['both_ms'] / numbers['compared_both_ms']:.3f} of {METHODS[numbers['method']].compared}"
    return line


if __name__ == "__main__":
    main()
