"""Every objective with few labels per class, by the recipe: a `labeldist compare` for each corpus and number of labels.

python -m benchmarks.few_labels.objectives                                     # every cell
python -m benchmarks.few_labels.objectives --corpora trec --shots 5 10 --jobs 2 --output trial
python -m benchmarks.few_labels.objectives --shown trial                       # the tables of records

Classes whose names are a hierarchy have the objectives of a relation, too. Confusions for `static`, `uniform` and
`adaptive` are counted by cross-validation on the training rows. Corpora stand in $LABELDIST_DATA. A finished comparison
is only recorded again, and one that was stopped goes on where the folder `--work` still has its runs.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cells import DATA, environment
from benchmarks.few_labels.label_texts import label_texts
from benchmarks.few_labels.rows import read
from benchmarks.machine import current_commit
from benchmarks.paper.record import RESULTS, record_of
from benchmarks.paper.tables import load
from benchmarks.relations.report import differences_table

__all__ = ["CORPORA", "FOLDER", "SHOTS", "flags_of", "objectives_of", "objectives_table", "recorded"]

FOLDER = RESULTS / "few-labels" / "objectives"
CORPORA: dict[str, tuple[str, ...]] = {
    "trec": (),
    "trec50": ("--hierarchy-separator", ":"),
    "20ng": ("--hierarchy-separator", "."),
    "r52": (),
}
"""With the flags that say how the classes are related."""
SHOTS = (5, 10, 20, 50)
SEEDS = (0, 1, 2, 3, 4)
OF_ALL = ("ce-two-views", "contrastive", "uniform", "static", "adaptive")
OF_RELATIONS = ("near", "far", "graded")


def main() -> None:
    """Read the command line, compare, record."""
    options = _options()
    if options.shown:
        print("\n\n".join(objectives_table(corpus, options.shown) for corpus in options.corpora))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    failed = [
        f"{corpus}-{shots}"
        for corpus in options.corpora
        for shots in options.shots
        if not _carry_out(corpus, shots, options)
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), choices=CORPORA)
    parser.add_argument("--shots", type=int, nargs="+", default=list(SHOTS), help="labels per class")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--objectives", nargs="+", help="default: all of a corpus")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; the GPUs share them")
    parser.add_argument("--work", type=Path, default=Path("runs/few-labels"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the records")
    parser.add_argument("--options", default="", help="more flags of `labeldist compare`, in one string")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    parser.add_argument("--shown", type=Path, help="folder of records to print; nothing is run")
    return parser.parse_args()


def objectives_of(corpus: str) -> tuple[str, ...]:
    """What is compared.

    Examples:
        >>> objectives_of("trec50")
        ('ce-two-views', 'contrastive', 'uniform', 'static', 'adaptive', 'near', 'far', 'graded')
    """
    return OF_ALL + (OF_RELATIONS if CORPORA[corpus] else ())


def flags_of(corpus: str, shots: int, work: Path) -> tuple[str, ...]:
    """Data and settings, as flags of `labeldist compare`; writes the label texts, of which every method has the same.

    Args:
        corpus: one of `CORPORA`.
        shots: labels per class.
        work: folder that receives the label texts.
    """
    path = work / f"{corpus}-texts.json"
    if not path.exists():
        names = read(corpus).class_names
        texts = dict(zip(names, label_texts(corpus, names), strict=True))
        path.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    # The recipe is the default with up to 20 labels only.
    data = ("--data", str(DATA / corpus), "--shots", str(shots), "--recipe", "few-labels", "--label-texts", str(path))
    return (*data, *CORPORA[corpus], "--encoder", "minilm", "--max-length", "128")


def recorded(corpus: str, folder: Path = FOLDER) -> list[int]:
    """The numbers of labels that a corpus has a record of."""
    return [shots for shots in SHOTS if (folder / f"{corpus}-{shots}.json").exists()]


def objectives_table(corpus: str, folder: Path = FOLDER) -> str:
    """Markdown: accuracy of plain contrast, and the others' differences to it, a column for each number of labels."""
    results = {shots: load(str(folder.resolve() / f"{corpus}-{shots}")) for shots in recorded(corpus, folder)}
    columns = [(f"{shots} labels", result.comparison.objectives, "accuracy") for shots, result in results.items()]
    if not columns:
        return f"{corpus}: not run."
    made = dict.fromkeys(
        f"{result.provenance.machine}; torch {result.provenance.versions['torch']}; commit {result.commit}."
        for result in results.values()
    )
    return f"{differences_table(corpus, columns)}\n\n{' '.join(made)}"


def _carry_out(corpus: str, shots: int, options: argparse.Namespace) -> bool:
    """One cell, from its command to its record; whether there is one."""
    cell = f"{corpus}-{shots}"
    folder, log = options.work / cell, options.work / f"{cell}.log"
    objectives: Sequence[str] = options.objectives or objectives_of(corpus)
    command = [sys.executable, "-m", "labeldist", "compare", *flags_of(corpus, shots, options.work)]
    command += ["--objectives", *objectives, "--seeds", *map(str, options.seeds), "--jobs", str(options.jobs)]
    command += ["--output", str(folder), *options.options.split()]
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=output, env=environment(0), check=False)
    if done.returncode:
        print(f"{cell}: failed, see {log}\n{log.read_text()[-1500:]}", flush=True)
        return False
    together = "one run" if options.jobs == 1 else f"{options.jobs} runs"
    note = f"The packaged all-MiniLM-L6-v2, by the recipe of few labels with label texts; {together} at a time."
    record = record_of(folder, note=note, commit=options.commit or current_commit())
    path = options.output / f"{cell}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{cell}: {path}", flush=True)
    return True


if __name__ == "__main__":
    main()
