"""What several runs at a time save: one `labeldist compare` by several numbers of `--jobs`.

python -m benchmarks.jobs                                       # the built-in demo, TextCNN, one and two runs at a time
python -m benchmarks.jobs --device cuda --encoder minilm --jobs 1 4 12 --output benchmarks/results/jobs/cuda.json

Each number gets a comparison of its own, from the start of the command to its end: imports, every run, tables and
pictures. The runs are short, so that start and end count as much as they do for a user who tries something.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import provenance, write_record

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "jobs"
PACKAGES = ("torch", "transformers", "accelerate")
OBJECTIVES = ("ce-two-views", "contrastive", "graded")


def main() -> None:
    """Measure and write."""
    options = _options()
    cases = [_case(jobs, options) for jobs in options.jobs]
    record: dict[str, Any] = {
        **provenance("benchmarks.jobs", PACKAGES, options.commit),
        "device": options.device,
        "encoder": options.encoder,
        "runs": len(OBJECTIVES) * options.seeds,
        "steps": options.steps,
        "cases": cases,
    }
    write_record(record, options.output)
    print(table(record), f"\nwritten: {options.output}")


def table(record: dict[str, Any]) -> str:
    """Markdown: the time of each number of jobs, and how many times as fast as with the first.

    Examples:
        >>> cases = [{"jobs": 1, "seconds": 60.0}, {"jobs": 4, "seconds": 20.0}]
        >>> print(table({"runs": 12, "cases": cases}))
        | runs at a time | seconds for 12 runs | times as fast |
        |--:|--:|--:|
        | 1 | 60 | 1.0 |
        | 4 | 20 | 3.0 |
    """
    lines = [f"| runs at a time | seconds for {record['runs']} runs | times as fast |", "|--:|--:|--:|"]
    first = record["cases"][0]["seconds"]
    for case in record["cases"]:
        lines.append(f"| {case['jobs']} | {case['seconds']:.0f} | {first / case['seconds']:.1f} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--encoder", default="textcnn", help="textcnn, minilm, or a folder")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2], help="runs at a time")
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds of each of the three objectives")
    parser.add_argument("--steps", type=int, default=150, help="of each run")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.json", help="the JSON file")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


def _case(jobs: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data", "demo", "--encoder", options.encoder, "--recipe", "standard", "--device", options.device]
        flags += ["--validation-fraction", "0", "--steps", str(options.steps), "--batch-size", "64"]
        flags += ["--hierarchy-separator", "_", "--objectives", *OBJECTIVES]
        flags += ["--seeds", *map(str, range(options.seeds)), "--jobs", str(jobs), "--output", f"{folder}/compared"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        start = time.perf_counter()
        command = [sys.executable, "-m", "labeldist", "compare", *flags]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"--jobs {jobs} failed:\n{done.stderr[-2000:]}")
    print(f"{jobs} runs at a time: {seconds:.1f} s", flush=True)
    return {"jobs": jobs, "seconds": round(seconds, 2)}


if __name__ == "__main__":
    main()
