"""Every objective with few labels per class, by the recipe: a `labeldist compare` for each corpus and number of labels.

python -m benchmarks.few_labels.objectives                                     # every cell
python -m benchmarks.few_labels.objectives --corpora trec --shots 5 10 --jobs 2 --output trial
python -m benchmarks.few_labels.objectives --shown trial                       # the tables of records

Classes whose names are a hierarchy have the objectives of a relation, too. Confusions for `static` and `uniform` are
counted by cross-validation on the training rows. `adaptive` learns from validation rows, of which the recipe has none:
it has comparisons of its own, with plain contrast, where as many more rows are held out for validation. Corpora stand
in $LABELDIST_DATA. A finished comparison is only recorded again, and one that was stopped goes on where the folder
`--work` has its runs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cells import DATA, at_a_time, environment, run_commands
from benchmarks.few_labels.label_texts import label_texts
from benchmarks.few_labels.rows import MAX_LENGTH, read
from benchmarks.machine import current_commit, write_record
from benchmarks.paper.record import RESULTS, record_of
from benchmarks.paper.tables import load
from benchmarks.relations.report import differences_table

__all__ = ["CORPORA", "FOLDER", "SHOTS", "Cell", "missing", "objectives_tables", "recorded"]

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
OF_ALL = ("ce-two-views", "contrastive", "uniform", "static")
OF_RELATIONS = ("near", "far", "graded")
OF_VALIDATION = ("contrastive", "adaptive")


@dataclass(frozen=True)
class Cell:
    """One comparison.

    Attributes:
        corpus: one of `CORPORA`.
        shots: labels per class.
        has_validation: whether as many more rows are held out for validation.

    Examples:
        >>> str(Cell("trec", 5)), str(Cell("trec", 5, has_validation=True))
        ('trec-5', 'trec-5-validation')
        >>> Cell("trec50", 5).objectives
        ('ce-two-views', 'contrastive', 'uniform', 'static', 'near', 'far', 'graded')
    """

    corpus: str
    shots: int
    has_validation: bool = False

    def __str__(self) -> str:
        return f"{self.corpus}-{self.shots}{'-validation' if self.has_validation else ''}"

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is compared."""
        if self.has_validation:
            return OF_VALIDATION
        return OF_ALL + (OF_RELATIONS if CORPORA[self.corpus] else ())

    def flags(self, work: Path) -> tuple[str, ...]:
        """Data and settings, as flags of `labeldist compare`; writes the label texts, of which every cell has the same.

        Args:
            work: folder that receives the label texts.
        """
        path, raw = work / f"{self.corpus}-texts.json", read(self.corpus)
        names = raw.class_names
        if not path.exists():
            texts = dict(zip(names, label_texts(self.corpus, names), strict=True))
            path.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
        # The recipe is the default with up to 20 labels only.
        data = ("--data", str(DATA / self.corpus), "--shots", str(self.shots), "--recipe", "few-labels")
        own = CORPORA[self.corpus]
        if self.has_validation:
            own = ("--validation-fraction", str(round(self.shots * len(names) / len(raw.tables["train"]), 6)))
        return (*data, "--label-texts", str(path), *own, "--encoder", "minilm", "--max-length", str(MAX_LENGTH))


def main() -> None:
    """Read the command line, compare, record."""
    options = _options()
    if options.shown:
        print(objectives_tables(options.corpora, options.shown))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    # Objectives that are named are compared without validation rows.
    cells = [
        Cell(corpus, shots, has_validation)
        for corpus in options.corpora
        for shots in options.shots
        for has_validation in ((False, True) if options.objectives is None else (False,))
    ]
    if failed := [str(cell) for cell in cells if not _carry_out(cell, options)]:
        sys.exit(f"failed: {', '.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), choices=CORPORA)
    parser.add_argument("--shots", type=int, nargs="+", default=list(SHOTS), choices=SHOTS, help="labels per class")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--objectives", nargs="+", help="without validation rows; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; the GPUs share them")
    parser.add_argument("--work", type=Path, default=Path("runs/few-labels"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the records")
    parser.add_argument("--options", default="", help="more flags of `labeldist compare`, in one string")
    parser.add_argument("--commit", help="that is measured, where there is no git")
    parser.add_argument("--shown", type=Path, help="folder of records to print; nothing is run")
    return parser.parse_args()


def recorded(corpus: str, folder: Path = FOLDER) -> list[Cell]:
    """The cells of a corpus that have a record; those with validation rows last."""
    cells = [Cell(corpus, shots, has_validation) for has_validation in (False, True) for shots in SHOTS]
    return [cell for cell in cells if (folder / f"{cell}.json").exists()]


def missing(folder: Path = FOLDER) -> str:
    """A sentence that names what has no record; empty if there is nothing."""
    found = []
    for corpus in CORPORA:
        there = recorded(corpus, folder)
        if not there:
            found.append(corpus)
            continue
        for has_validation, what in ((False, "labels"), (True, "labels and validation rows")):
            shots = [str(number) for number in SHOTS if Cell(corpus, number, has_validation) not in there]
            if shots:
                found.append(f"{corpus} with {', '.join(shots)} {what}")
    return f"Not run yet: {'; '.join(found)}." if found else ""


def objectives_tables(corpora: Sequence[str] = tuple(CORPORA), folder: Path = FOLDER) -> str:
    """Markdown: accuracy of plain contrast, and the others' differences to it, a column for each number of labels.

    Args:
        corpora: whose records are shown, a table each, and one more where there are validation rows.
        folder: of the records.
    """
    found, made = [], {}
    for corpus in corpora:
        results = {cell: load(str(folder.resolve() / str(cell))) for cell in recorded(corpus, folder)}
        for title, has_validation in ((corpus, False), (f"{corpus}, with validation rows", True)):
            columns = [
                (f"{cell.shots} labels", result.comparison.objectives, "accuracy")
                for cell, result in results.items()
                if cell.has_validation == has_validation
            ]
            found += [differences_table(title, columns)] if columns else []
        for result in results.values():
            versions = result.provenance.versions
            made[f"{result.provenance.machine}; torch {versions['torch']}; commit {result.commit}."] = None
    return "\n\n".join([*found, " ".join(made)])


def _carry_out(cell: Cell, options: argparse.Namespace) -> bool:
    """One cell, from its command to its record; whether there is one."""
    folder, log, begun = (options.work / f"{cell}{ending}" for ending in ("", ".log", ".commit"))
    if not begun.exists():
        begun.write_text(options.commit or current_commit())
    command = [sys.executable, "-m", "labeldist", "compare", *cell.flags(options.work)]
    command += ["--objectives", *(options.objectives or cell.objectives), "--seeds", *map(str, options.seeds)]
    command += ["--jobs", str(options.jobs), "--output", str(folder), *options.options.split()]
    if not run_commands(str(cell), [command], log, environment(0)):
        return False
    note = f"The packaged all-MiniLM-L6-v2, by the recipe of few labels with label texts; {at_a_time(options.jobs)}."
    path = options.output / f"{cell}.json"
    write_record(record_of(folder, note=note, commit=begun.read_text()), path)
    print(f"{cell}: {path}", flush=True)
    return True


if __name__ == "__main__":
    main()
