"""What a relation of the classes does: comparisons of every objective that uses one, with all controls.

python -m benchmarks.relations --output benchmarks/results/relations          # every cell; a GPU or several
python -m benchmarks.relations --cells sst5-20 trec50-10 --seeds 0 1 --jobs 4 --output trial
python -m benchmarks.relations --cells unseen-trec50 --output trial

A cell is one `labeldist compare` on a corpus in $LABELDIST_DATA and a number of labels per class. Its command is in its
record. Cells run beside one another and share the jobs; the GPUs are taken in turns. The folder `--work` keeps the
runs: the same command goes on where it was stopped, and a finished cell is only recorded again. `--development` judges
by held-out training rows: options are chosen so, before any test row is seen.

Cells `unseen-...` train on some of the classes and judge the embeddings of rows of the others, which training never
saw: graded nDCG@50 and group MAP among their training and test rows, at most 4,000. Their record has a line for each
run; `logistic` leaves the encoder as it came.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.cells import at_a_time, environment, run_commands
from benchmarks.machine import current_commit, write_record
from benchmarks.paper.record import record_of
from benchmarks.relations.protocol import (
    CELLS,
    HIERARCHIES,
    OBJECTIVES,
    SEEDS,
    UNSEEN,
    UNSEEN_OBJECTIVES,
    corpus_of,
    flags_of,
    near_file,
)


def main() -> None:
    """Read the command line, compare, record."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    jobs = [max(1, (options.jobs + place) // len(options.cells)) for place in range(len(options.cells))]
    with ThreadPoolExecutor(len(options.cells)) as together:
        done = [
            together.submit(_carry_out, cell, place, number, options)
            for place, (cell, number) in enumerate(zip(options.cells, jobs, strict=True))
        ]
    if failed := [cell for cell, one in zip(options.cells, done, strict=True) if not one.result()]:
        sys.exit(f"failed: {', '.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--objectives", nargs="+", help="default: all that a cell compares")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of all cells together")
    parser.add_argument("--work", type=Path, default=Path("runs/relations"), help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True, help="folder of the records")
    parser.add_argument("--development", action="store_true", help="judge by held-out training rows")
    parser.add_argument("--options", default="", help="more flags of `labeldist compare`, in one string")
    parser.add_argument("--suffix", default="", help="of the names of folders and records, for other options")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    options = parser.parse_args()
    if options.development and (unseen := [cell for cell in options.cells if cell in UNSEEN]):
        parser.error(f"--development has no rows for {', '.join(unseen)}: name other --cells")
    return options


def _carry_out(cell: str, place: int, jobs: int, options: argparse.Namespace) -> bool:
    """One cell, from its command to its record; whether there is one."""
    folder = options.work / f"{cell}{options.suffix}"
    flags = flags_of(cell, options.work, is_development=options.development) + tuple(options.options.split())
    objectives = options.objectives or (UNSEEN_OBJECTIVES if cell in UNSEEN else OBJECTIVES)
    if "uniform" in objectives:
        flags += ("--matrix-file", str(near_file(corpus_of(cell), options.work)))
    # For the measures, too: the folder may hold other runs, of an earlier command.
    runs = ["--objectives", *objectives, "--seeds", *map(str, options.seeds), "--jobs", str(jobs)]
    python, measured = [sys.executable, "-m"], folder / "measured.json"
    commands = [[*python, "labeldist", "compare", *flags, *runs, "--output", str(folder)]]
    is_hierarchy = corpus_of(cell) in HIERARCHIES
    if is_hierarchy:
        commands.append([*python, "benchmarks.relations.measures", cell, str(folder), *runs, "--output", str(measured)])
    if not run_commands(cell, commands, options.work / f"{cell}{options.suffix}.log", environment(place)):
        return False
    note = f"The packaged all-MiniLM-L6-v2, all of its weights trained; {at_a_time(options.jobs)}."
    record: dict[str, Any] = record_of(folder, note=note, commit=options.commit or current_commit())
    if is_hierarchy:
        found = json.loads(measured.read_text(encoding="utf-8"))
        if cell in UNSEEN:
            record["unseen"] = found
        else:
            record["by_probabilities"] = {"commit": record["commit"], "runs": found}
    path = options.output / f"{cell}{options.suffix}.json"
    write_record(record, path)
    print(f"{cell}: {path}", flush=True)
    return True


if __name__ == "__main__":
    main()
