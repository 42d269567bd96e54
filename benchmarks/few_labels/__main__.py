"""How well and how fast labeldist, SetFit and a frozen encoder learn from a few labels per class.

python -m benchmarks.few_labels --shots 1 3 10 20 --seeds 0 1 2 3 4 5 6 7 --jobs 8 --output accuracy.json
python -m benchmarks.few_labels --corpora trec --shots 3 --seeds 0 --device cpu --output cpu.json  # one at a time
python -m benchmarks.few_labels --methods "bare loop" --evaluate validation --variants V.json --output tuning.json

Every method gets the same encoder, rows, label texts and 128 tokens of a text. Corpora stand in $LABELDIST_DATA.
SetFit is an installation beside this one, and is needed for its methods only: `pip install setfit`. Runs are processes'
work, several at a time where `--jobs` says so: times of such a record are no times of a run alone. Each run is written
when it ends, and `--resume` does what a record lacks. `--variants` names a JSON file that maps names to options of
`benchmarks.few_labels.ours.Options`; each is trained wherever the bare loop is.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.few_labels.ours import Options
from benchmarks.few_labels.record import RESULTS, key_of, save
from benchmarks.few_labels.rows import CORPORA, MAX_LENGTH, draw_rows
from benchmarks.few_labels.runs import METHODS, Task, prepare, run
from benchmarks.few_labels.table import report
from benchmarks.pool import Pool, add_options, facts, run_all, settle
from benchmarks.records import resumed

PACKAGES = ("torch", "transformers", "sentence-transformers", "setfit", "scikit-learn", "pytorch-metric-learning")
SHOTS, SEEDS = [1, 3, 10, 20], [0, 1, 2, 3, 4, 5, 6, 7]


def main() -> None:
    """Read the command line, run what is missing, write."""
    options = _options()
    path: Path = options.output
    record = _record(options)
    if path.exists():
        if not options.resume:
            sys.exit(f"{path} exists. Give --resume to add what it lacks, or another --output.")
        record = _resumed(record, path)
    done = {key_of(run) for run in record["runs"]}
    tasks = sorted((task for task in _tasks(options) if task.key not in done), key=_cost, reverse=True)
    print(f"{len(tasks)} runs to do, {len(done)} done before", flush=True)
    pool = Pool(
        options.jobs,
        options.device,
        options.threads,
        prepare,
        (options.encoder, options.device, options.threads, tuple(options.methods)),
        options.limit_seconds,
    )

    def finished(done_run: dict[str, Any]) -> str:
        record["runs"].append(done_run)
        save(record, path)
        return _line(done_run)

    run_all(tasks, run, pool, options={"encoder": options.encoder, "device": options.device}, finished=finished)
    print(f"\n{report(record)}\n\nwritten: {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), help="folders in $LABELDIST_DATA, or demo")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS, help="labels per class")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--evaluate", choices=("test", "validation"), default="test")
    parser.add_argument("--variants", type=Path, help="JSON: names with options of the bare loop")
    parser.add_argument("--output", type=Path, default=RESULTS / "record.json")
    add_options(parser)
    options = parser.parse_args()
    settle(options)
    return options


def _variants(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    return json.loads(options.variants.read_text(encoding="utf-8")) if options.variants else {"": {}}


def _record(options: argparse.Namespace) -> dict[str, Any]:
    return {
        **facts(options, "benchmarks.few_labels", PACKAGES),
        "load_at_start": round(os.getloadavg()[0], 2),
        "max_length": MAX_LENGTH,
        "evaluated": options.evaluate,
        "options": _options_in_full(options),
        "runs": [],
    }


def _options_in_full(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All those of the bare loop, if it is to run, so that a later default does not change what a record says."""
    if not any(method.startswith("bare loop") for method in options.methods):
        return {}
    # Lists, as JSON has them.
    return json.loads(json.dumps({name: vars(Options(**own)) for name, own in _variants(options).items()}))


def _resumed(new: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record that is there, to be added to by the new one's command."""
    same = ("device", "versions", "encoder_sha256", "evaluated")
    old = resumed(new, path, same=same, joined=("machines", "commit"))
    # More GPUs with as many runs on each take the same time a run.
    if old["jobs"] * max(1, new["gpus"]) != new["jobs"] * max(1, old["gpus"]):
        sys.exit(f"{path} was made with jobs {old['jobs']} on {old['gpus']} GPUs. Give as many to each GPU.")
    for name, chosen in new["options"].items():
        if old["options"].setdefault(name, chosen) != chosen:
            sys.exit(f"{path} has other options of the bare loop by the name {name!r}. Give another --output.")
    return old


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    variants = _variants(options)
    for corpus in options.corpora:
        for shots in options.shots:
            for seed in options.seeds:
                for method in options.methods:
                    task = Task(method, corpus, shots, seed, options.evaluate)
                    if not method.startswith("bare loop"):
                        yield task
                        continue
                    for name, chosen in variants.items():
                        yield replace(task, variant=name, options=chosen)


def _cost(task: Task) -> float:
    """About how long a run takes, in tokens: the longest runs start first, so that none is waited for at the end."""
    rows = draw_rows(task.corpus, task.shots, task.seed, task.evaluated)
    length = min(MAX_LENGTH, 1.4 * sum(len(text.split()) for text in rows.train.texts) / len(rows.train))
    num_rows = len(rows.train) + len(rows.class_names) * task.method.endswith("label texts")
    passes = 0.0
    if task.method.startswith("setfit"):
        # 40 pairs a row, forward and backward.
        passes = 3 * 80 * num_rows
    elif task.method.startswith(("labeldist", "bare loop")):
        chosen = Options(**task.options)
        passes = 3 * chosen.num_steps(len(rows.class_names)) * chosen.views * chosen.num_rows(num_rows)
    return length * (passes + len(rows.evaluated))


def _line(done: dict[str, Any]) -> str:
    where = f"{done['corpus']:7s}{done['shots']:3d} shots  seed {done['seed']}"
    times = f"{done['train_seconds']:7.1f} s + {done['predict_seconds']:.1f} s"
    name = f"{done['method']} {done.get('variant', '')}"
    return f"{where}  {name:32s} {100 * done['accuracy']:5.1f} %  {times}"


if __name__ == "__main__":
    main()
