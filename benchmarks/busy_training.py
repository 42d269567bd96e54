"""`labeldist train` on a CPU that another process uses: the steps' wall time, alone and beside it.

python -m benchmarks.busy_training                    # the built-in demo, TextCNN; beside one busy process
python -m benchmarks.busy_training --encoder minilm --steps 20

Three ways, in turns: as the command is (threads that wait for others soon sleep), with threads that spin as long as GNU
OpenMP has them by default, and with one thread. The record has every time of each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.loss.busy import busy_processes
from benchmarks.machine import provenance, write_record
from labeldist.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "training"
PACKAGES = ("torch", "transformers")
OF_THREADS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
WAYS = {
    "as it is": {},
    # The default of GNU OpenMP.
    "spinning threads": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def main() -> None:
    """Measure and write."""
    options = _options()
    times: dict[str, dict[str, list[float]]] = {}
    for condition, number in {"alone": 0, f"beside {options.beside_busy} busy": options.beside_busy}.items():
        found = times.setdefault(condition, {way: [] for way in WAYS})
        with busy_processes(number) if number else nullcontext():
            for _ in range(options.repeats):
                for way, variables in WAYS.items():
                    found[way].append(_seconds(variables, options))
                    print(f"{condition}, {way}: {found[way][-1]:.1f} s", flush=True)
    record: dict[str, Any] = {
        **provenance("benchmarks.busy_training", PACKAGES, options.commit),
        "encoder": options.encoder,
        "steps": options.steps,
        "seconds": times,
    }
    write_record(record, options.output)
    print(f"{table(record)}\n\nwritten: {options.output}")


def table(record: dict[str, Any]) -> str:
    """Markdown: median seconds of the steps, a line for each condition.

    Examples:
        >>> alone = {"as it is": [2.0], "spinning threads": [2.0], "one thread": [3.0]}
        >>> print(table({"seconds": {"alone": alone}}))
        | | as it is | spinning threads | one thread |
        |---|--:|--:|--:|
        | alone | 2.0 s | 2.0 s | 3.0 s |
    """
    lines = [f"| | {' | '.join(WAYS)} |", f"|---|{'--:|' * len(WAYS)}"]
    for condition, found in record["seconds"].items():
        lines.append(f"| {condition} | {' | '.join(f'{median(found[way]):.1f} s' for way in WAYS)} |")
    return "\n".join(lines)


def _seconds(variables: dict[str, str], options: argparse.Namespace) -> float:
    """Wall time of a run's steps; the start of the program and its end are no part of it."""
    others = {name: value for name, value in os.environ.items() if name not in OF_THREADS}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data", "demo", "--encoder", options.encoder, "--objective", "contrastive", "--recipe", "standard"]
        flags += ["--validation-fraction", "0", "--steps", str(options.steps), "--batch-size", str(options.batch_size)]
        flags += ["--device", "cpu", "--output", f"{folder}/run"]
        done = subprocess.run(
            [sys.executable, "-m", "labeldist", "train", *flags],
            env={**others, "PYTHONPATH": path, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"labeldist train failed:\n{done.stderr[-2000:]}")
        return round(RunFolder(Path(folder) / "run").read_history()["seconds"], 2)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="textcnn", help="textcnn, minilm, or a folder")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--batch-size", type=int, default=64, help="texts of a step")
    parser.add_argument("--beside-busy", type=int, default=1, help="busy processes")
    parser.add_argument("--repeats", type=int, default=3, help="turns in each condition")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu-beside-busy.json", help="the JSON file")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    return parser.parse_args()


if __name__ == "__main__":
    main()
