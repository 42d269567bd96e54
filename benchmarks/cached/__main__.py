"""Memory and time of cached gradients beside the plain pass over the whole batch.

python -m benchmarks.cached                     # on this machine's GPU, or else its CPU
python -m benchmarks.cached --rows 128 512 --tokens 16

One case is one training step of an encoder with the shape of all-MiniLM-L6-v2 (random weights: neither time nor memory
depends on them) in a process of its own. Writes a JSON record with machine, versions and commit. The gradient of both
ways is compared in the same run, and the run ends where they differ.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.cached.measure import MIXED, gate
from benchmarks.cached.table import RESULTS, settings, table
from benchmarks.machine import current_commit
from labeldist.training.machine import describe_machine, versions

ROWS = (128, 512, 1024, 4096)


def main() -> None:
    """Read the command line, measure, write."""
    options = _options()
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "device": options.device,
        "is_mixed": options.device in MIXED,
        "threads": options.threads,
        "tokens": options.tokens,
        "chunk_size": options.chunk_size,
        "steps": options.steps,
        "gradient_error": gate(),
        "versions": {**versions(), "python": platform.python_version()},
        "commit": options.commit or current_commit(),
        "command": " ".join(["python -m benchmarks.cached", *sys.argv[1:]]),
        "cases": [],
    }
    path = options.output or RESULTS / f"{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for num_rows in options.rows:
        for way in ("plain", "cached"):
            numbers = _measured(way, num_rows, options)
            record["cases"].append(numbers)
            print(_line(numbers), flush=True)
            # After each case: a run that is stopped keeps what it has measured.
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{settings(record)}\n\n{table(record)}\n\nwritten: {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="B")
    parser.add_argument("--tokens", type=int, default=16, help="of each text")
    parser.add_argument(
        "--chunk-size", type=int, default=128, help="rows of cached gradients that are encoded together"
    )
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each case")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU; 1 on a busy machine")
    parser.add_argument("--output", type=Path, help="the JSON file; default: benchmarks/results/cached/DEVICE.json")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


def _measured(way: str, num_rows: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cached.measure", way, str(num_rows), "--device", options.device]
    for name in ("tokens", "chunk_size", "steps", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode < 0 or "out of memory" in done.stderr or "can't allocate memory" in done.stderr:
        return {"way": way, "num_rows": num_rows, "skipped": "does not fit"}
    if done.returncode:
        sys.exit(f"{way} with {num_rows} rows failed:\n{done.stderr}")
    return json.loads(done.stdout)


def _line(numbers: dict[str, Any]) -> str:
    start = f"{numbers['num_rows']:>6} rows, {numbers['way']:6s}"
    if "skipped" in numbers:
        return f"{start} {numbers['skipped']}"
    seconds = f"{numbers['step_s']:8.2f} s a step ({numbers['processor_s']:.2f} of the processor)"
    return f"{start} {seconds}, {numbers['peak_mib']:9.1f} MiB more than before the step"


if __name__ == "__main__":
    main()
