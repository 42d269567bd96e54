"""What a user must know of the data, one sentence each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labeldist.class_names import look_alikes
from labeldist.messages import listed, shown

if TYPE_CHECKING:
    # A table of predictions is read without PyTorch.
    from labeldist.training.data.coarse import CoarseRows
    from labeldist.training.data.columns import Table

__all__ = ["absence_notes", "column_notes", "look_alike_notes", "matters", "overlap_notes", "words_of"]

_LOOK_ALIKE, _ABSENT = "labels that look alike", "validation: no row"


def column_notes(tables: "dict[str, Table]") -> list[str]:
    """Say which columns were found; once where all parts agree."""
    found = {part: f"text {table.columns[0]!r}, label {table.columns[1]!r}" for part, table in tables.items()}
    if len(set(found.values())) == 1:
        return [f"columns: {found['train']}"]
    return [f"columns of {part}: {columns}" for part, columns in found.items()]


def matters(note: str) -> bool:
    """Whether a note says what the numbers mean, or what was trained, so that it is shown to everybody.

    A test set that was drawn or shares texts with train, classes that look alike or lack rows, label texts, rows that
    only a group is known of, and rows that were left out.

    Examples:
        >>> matters("test: 3 of 20 texts also stand in train"), matters("train.csv: 14 blank lines skipped")
        (True, False)
    """
    return note.startswith(("test:", "label texts:", "coarse:", "shots:", _LOOK_ALIKE, _ABSENT))


def look_alike_notes(class_names: Sequence[str]) -> list[str]:
    """Say once which classes look the same: they are trained and counted as different ones."""
    pairs = [f"{shown(first)} and {shown(second)} ({kind})" for first, second, kind in look_alikes(class_names)]
    if not pairs:
        return []
    more = "; ..." if len(pairs) > 5 else ""
    return [f"{_LOOK_ALIKE} are different classes: {'; '.join(pairs[:5])}{more}"]


def overlap_notes(tables: "dict[str, Table]", coarse: "CoarseRows | None") -> list[str]:
    """Count test texts that a model has seen in training: the test flatters it there."""
    train = {words_of(text) for text in tables["train"].texts + (coarse.table.texts if coarse else [])}
    shared = sum(words_of(text) in train for text in tables["test"].texts)
    return (
        [f"test: {shared} of {len(tables['test'])} texts also stand in train, case and spacing aside"] if shared else []
    )


def absence_notes(validation: "Table", class_names: Sequence[str]) -> list[str]:
    """Say which classes have no validation row: their confusions cannot be counted there."""
    present = set(validation.labels)
    absent = [name for name in class_names if name not in present]
    if not absent:
        return []
    return [f"{_ABSENT} of {len(absent)} of {len(class_names)} classes ({listed(absent, 5)})"]


def words_of(text: str) -> str:
    """A text as it is compared with others: case and spacing aside."""
    return " ".join(text.casefold().split())
