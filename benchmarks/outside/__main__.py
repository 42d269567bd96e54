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
import sys
from pathlib import Path
from typing import Any

from benchmarks.few_labels.record import key_of, save
from benchmarks.outside.methods import METHODS, Task, prepare, run
from benchmarks.outside.rows import ALL, MAX_LENGTH
from benchmarks.outside.table import report
from benchmarks.pool import Pool, add_options, facts, run_all, settle
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
        same = ("device", "gpus", "jobs", "versions", "encoder_sha256", "steps")
        record = resumed(record, path, same=same, joined=("machines", "commit"))
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
    parser.add_argument("--shots", type=_shots, nargs="+", default=list(SHOTS), help="labels per class, or all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, help="most optimizer steps of a run, to try the command")
    parser.add_argument("--output", type=Path, required=True, help="the record")
    add_options(parser)
    options = parser.parse_args()
    settle(options)
    return options


def _shots(word: str) -> int:
    return ALL if word == "all" else int(word)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    return {
        **facts(options, "benchmarks.outside", PACKAGES),
        "encoder": options.encoder_name,
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
