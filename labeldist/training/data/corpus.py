"""A corpus: read and checked once, then divided into the three splits of a run by each seed."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labeldist.class_names import nearest_name
from labeldist.messages import listed, shown
from labeldist.training.data.coarse import CoarseOptions, CoarseRows, check_no_group, separate
from labeldist.training.data.columns import Table
from labeldist.training.data.dialects import TableFormat
from labeldist.training.data.notes import absence_notes, column_notes, look_alike_notes, overlap_notes, words_of
from labeldist.training.data.readers import Note
from labeldist.training.data.sources import DEMO, Source, find_source
from labeldist.training.data.splits import draw_shots, stratified_split
from labeldist.training.errors import UserError

__all__ = [
    "NO_ROWS",
    "TEST_FRACTION",
    "Corpus",
    "RawCorpus",
    "Split",
    "joined",
    "load_corpus",
    "natural_order",
    "read_corpus",
    "read_source",
    "read_split",
    "split_of_table",
    "training_rows",
    "without_texts_of",
]

TEST_FRACTION = 0.2
"""Share of the rows that becomes the test set where none is given."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labeled texts.

    Attributes:
        texts: one text per row.
        labels: class index of each row, `(N,)`, int64.
    """

    texts: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


NO_ROWS = Split([], np.zeros(0, dtype=np.int64))
"""A split without rows."""


def joined(*splits: Split) -> Split:
    """All rows of some splits, one split after the other.

    Examples:
        >>> joined(Split(["a"], np.array([1])), NO_ROWS, Split(["b"], np.array([0]))).texts
        ['a', 'b']
    """
    texts = [text for split in splits for text in split.texts]
    return Split(texts, np.concatenate([split.labels for split in splits]))


@dataclass(frozen=True, eq=False)
class Corpus:
    """The data of a run.

    Attributes:
        name: a short name.
        class_names: the class names, in the order of the class indices: numbers by value, other names alphabetically.
        train: training rows.
        validation: rows for early stopping and confusion counts; may be empty.
        test: test rows.
        fingerprint: SHA-256 of the class names, the three splits, the label texts, and the coarse rows and their
            groups.
        notes: decisions that were made while reading, one sentence each.
        coarse: additional training rows of which only a group is known: label C + g is group g.
        groups: the classes of each group, by name.
        label_texts: additional training rows that say what each class is.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    notes: tuple[str, ...]
    coarse: Split = NO_ROWS
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label_texts: Split = NO_ROWS


def training_rows(corpus: Corpus, fine: Split | None = None) -> Split:
    """All training rows: first the rows with a class, then the label texts, then the coarse rows.

    Args:
        corpus: the corpus of the run.
        fine: rows to use instead of `corpus.train`, such as a fold of it.

    Examples:
        >>> corpus = load_corpus(["demo"], shots=2)
        >>> len(training_rows(corpus)) == len(corpus.train) + len(corpus.label_texts) + len(corpus.coarse)
        True
    """
    return joined(corpus.train if fine is None else fine, corpus.label_texts, corpus.coarse)


@dataclass(frozen=True, eq=False)
class RawCorpus:
    """A corpus that was read and checked, but not yet divided into splits.

    Attributes:
        name: a short name.
        class_names: the class names of the training table, in the order of the class indices.
        tables: the training table, and the test and validation tables if the data have them.
        notes: notes about the data, one sentence each.
        label_texts: additional training rows that say what each class is.
        coarse: the training rows of which only a group is known, if coarse labels were requested.
    """

    name: str
    class_names: tuple[str, ...]
    tables: Mapping[str, Table]
    notes: tuple[str, ...]
    coarse: CoarseRows | None = None
    label_texts: Split = NO_ROWS

    def labels_per_class(self, shots: int | None = None) -> float:
        """Mean number of training labels per class, at most `shots` of each, before any split is drawn."""
        counts = Counter(self.tables["train"].labels).values()
        return sum(min(count, shots or count) for count in counts) / len(self.class_names)

    def draw(self, *, seed: int = 0, validation_fraction: float = 0.1, shots: int | None = None) -> Corpus:
        """Draw the splits that the data do not contain.

        First a stratified test set is drawn if there is none, then a stratified validation set, then the shots from
        the remaining training rows. The draws depend only on labels, sizes and `seed`. Coarse rows are never drawn:
        all of them are training rows.

        Args:
            seed: seed of the draws, >= 0.
            validation_fraction: fraction of the training rows that becomes the validation set if there is none, in
                [0, 1); 0 draws none.
            shots: number of training rows per class; a smaller class keeps all of its rows. `None` keeps all rows.

        Raises:
            UserError: if an option is out of range, or there are too few rows.

        Examples:
            >>> raw = read_corpus(["demo"])
            >>> [len(raw.draw(seed=seed, shots=2).train) for seed in (0, 1)] == [2 * len(raw.class_names)] * 2
            True
        """
        _check_options(validation_fraction, seed, shots)
        tables, notes = dict(self.tables), list(self.notes)
        if "test" not in tables:
            notes += _draw(tables, "test", TEST_FRACTION, seed, self.class_names)
            notes += overlap_notes(tables, self.coarse)
        if "validation" not in tables and validation_fraction:
            notes += _draw(tables, "validation", validation_fraction, seed, self.class_names)
        if "validation" in tables:
            notes += absence_notes(tables["validation"], self.class_names)
        if shots is not None:
            notes += _draw_shots(tables, shots, seed, self.class_names)
        splits = {part: split_of_table(table, self.class_names) for part, table in tables.items()}
        train, test, validation = splits["train"], splits["test"], splits.get("validation", NO_ROWS)
        label_texts, left_out = without_texts_of(self.label_texts, (test, validation))
        notes += left_out
        parts = (train, validation, test, label_texts) if len(label_texts) else (train, validation, test)
        digest = _fingerprint(self.class_names, parts)
        coarse: dict[str, Any] = {}
        if self.coarse is not None and len(self.coarse.table):
            groups = self.coarse.groups
            rows = Split(self.coarse.table.texts, _indices(self.coarse.table, [*self.class_names, *groups]))
            coarse = {"coarse": rows, "groups": groups}
            members = [part for name, classes in groups.items() for part in (name, str(len(classes)), *classes)]
            digest = hashlib.sha256(f"{digest} {_fingerprint(members, (rows,))}".encode()).hexdigest()
        return Corpus(
            name=self.name,
            class_names=self.class_names,
            train=train,
            validation=validation,
            test=test,
            label_texts=label_texts,
            fingerprint=digest,
            notes=tuple(notes),
            **coarse,
        )


def read_corpus(
    data: Sequence[str],
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    table_format: TableFormat | None = None,
    coarse: CoarseOptions | None = None,
) -> RawCorpus:
    """Read a corpus and check it.

    Args:
        data: `("demo",)`, `(folder,)`, `(train_file, test_file)`, the same with `validation_file`, `(file,)`, or
            `(hub_id,)`.
        text_column: the column with the text; `None` finds it by its name.
        label_column: the column with the label; `None` finds it by its name.
        table_format: format of CSV and TSV files; `None` detects it.
        coarse: source of the coarse labels of training rows; `None` for no coarse labels.

    Raises:
        UserError: if the data cannot be used.

    Examples:
        >>> sorted(read_corpus(["demo"]).tables)
        ['test', 'train']
    """
    return read_source(
        find_source(data),
        text_column=text_column,
        label_column=label_column,
        table_format=table_format,
        coarse=coarse,
    )


def read_source(
    source: Source,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    table_format: TableFormat | None = None,
    coarse: CoarseOptions | None = None,
) -> RawCorpus:
    """Read a corpus from a source that was already found. Otherwise like `read_corpus`.

    Raises:
        UserError: if the data cannot be used.
    """
    # Train first: a folder without it is told so before anything is read.
    present = ["train", *(part for part in ("validation", "test") if part in source.parts)]
    coarse = coarse or CoarseOptions()
    tables = {
        part: source.table(
            part,
            text_column=text_column,
            label_column=label_column,
            table_format=table_format,
            coarse_column=coarse.column,
            may_lack_label=coarse.is_given and part == "train",
        )
        for part in present
    }
    coarse_rows, groups = None, {}
    if coarse.is_given:
        tables["train"], coarse_rows, groups = separate(tables["train"], coarse)
    class_names = natural_order(set(tables["train"].labels))
    if len(class_names) < 2:
        raise UserError(
            f"{tables['train'].place.name} holds one class only, {shown(min(class_names))}. "
            "A classifier needs at least two."
        )
    for part in present[1:]:
        check_no_group(tables[part], part, groups, class_names)
        name = tables["train"].place.name
        _check_labels(tables[part], class_names, f"does not stand in {name}", "add rows of these classes to train")
    notes = [] if source.name == DEMO or (text_column and label_column) else column_notes(tables)
    notes += [note for table in tables.values() for note in table.notes] + look_alike_notes(class_names)
    if "test" in tables:
        notes += overlap_notes(tables, coarse_rows)
    return RawCorpus(source.name, class_names, tables, tuple(notes), coarse_rows)


def load_corpus(
    data: Sequence[str],
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    shots: int | None = None,
) -> Corpus:
    """Read a corpus and draw its splits.

    Args:
        data: `("demo",)`, `(folder,)`, `(train_file, test_file)`, `(train_file, test_file, validation_file)`,
            `(file,)`, or `(hub_id,)`.
        text_column: the column with the text; `None` finds it by its name.
        label_column: the column with the label; `None` finds it by its name.
        validation_fraction: fraction of the training rows that becomes the validation set if the data have none, in
            [0, 1); 0 draws none.
        seed: seed of the draws, >= 0.
        shots: number of training rows per class; a smaller class keeps all of its rows. `None` keeps all rows.

    Raises:
        UserError: if an option is out of range or the data cannot be used.

    Examples:
        >>> corpus = load_corpus(["demo"], shots=2)
        >>> len(corpus.train) == 2 * len(corpus.class_names)
        True
    """
    _check_options(validation_fraction, seed, shots)
    raw = read_corpus(data, text_column=text_column, label_column=label_column)
    return raw.draw(seed=seed, validation_fraction=validation_fraction, shots=shots)


def read_split(
    path: str | Path,
    class_names: Sequence[str],
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    table_format: TableFormat | None = None,
    note: Note = lambda note: None,
) -> Split:
    """Read labeled rows for a trained model.

    Args:
        path: a file, or anything else that `load_corpus` accepts, of which the test set is read.
        class_names: the model's classes, in its order.
        text_column: the column with the text; `None` finds it by its name.
        label_column: the column with the label; `None` finds it by its name.
        table_format: format of a CSV or TSV file; `None` detects it.
        note: called with each decision that was made while reading.

    Raises:
        UserError: if the data cannot be used, or a label is not one of the classes.

    Examples:
        >>> from labeldist.demo import CLASS_NAMES
        >>> len(read_split("demo", CLASS_NAMES))
        1000
    """
    source = find_source([str(path)])
    part = "train" if Path(path).is_file() and "test" not in source.parts else "test"
    table = source.table(part, text_column=text_column, label_column=label_column, table_format=table_format)
    for clause in table.notes:
        note(clause)
    return split_of_table(table, class_names)


def split_of_table(table: Table, class_names: Sequence[str]) -> Split:
    """The rows of a table, with class indices instead of class names.

    Raises:
        UserError: if a label is not one of the classes.
    """
    _check_labels(table, class_names, "is no class of the model", "train with rows of these classes")
    return Split(table.texts, _indices(table, class_names))


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: integers by value, other names alphabetically with the numbers in them by value.

    Examples:
        >>> natural_order(["10", "9", "-1"]), natural_order(["level 10", "level 9"])
        (('-1', '9', '10'), ('level 9', 'level 10'))
    """
    names = sorted(names)
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names, key=_natural_key))


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    pieces = re.findall(r"[0-9]{1,18}|[^0-9]+", name.casefold())
    return [(0, int(piece), "") if piece[0] in "0123456789" else (1, 0, piece) for piece in pieces]


def _check_options(validation_fraction: float, seed: int, shots: int | None) -> None:
    if not 0 <= validation_fraction < 1:
        raise UserError(f"--validation-fraction must be at least 0 and below 1, got {validation_fraction}.")
    if seed < 0:
        raise UserError(f"A seed must not be negative, got {seed}.")
    if shots is not None and shots < 1:
        raise UserError(f"--shots must be at least 1, got {shots}.")


def _check_labels(table: Table, class_names: Sequence[str], complaint: str, remedy: str) -> None:
    known = set(class_names)
    unknown = natural_order(set(table.labels) - known)
    if not unknown:
        return
    number, label = next(row for row in zip(table.numbers, table.labels, strict=True) if row[1] not in known)
    others = f", like {len(unknown) - 1} more ({listed(unknown, 5)})" if len(unknown) > 1 else ""
    hint = nearest_name(label, class_names)
    cure = hint or f" Leave such rows out, or {remedy}; the classes are {listed(class_names, 10)}."
    raise UserError(f"{table.place.at(number)}: the label {shown(label)} {complaint}{others}.{cure}")


def _draw(tables: dict[str, Table], part: str, fraction: float, seed: int, class_names: Sequence[str]) -> list[str]:
    """Move a stratified share of train to a part of its own."""
    train = tables["train"]
    keep, drawn = stratified_split(_indices(train, class_names), fraction, seed)
    if not len(drawn):
        raise UserError(
            f"{train.place.name} has too few rows to draw a {part} set: {len(train)}, and no class has two left. "
            f"Give more rows or a {part} file{', or --validation-fraction 0' if part == 'validation' else ''}."
        )
    tables["train"], tables[part] = train.take(keep), train.take(drawn)
    return [f"{part}: {len(drawn)} of {len(train)} rows drawn from {train.place.name} by seed {seed}"]


def without_texts_of(label_texts: Split, held_out: Iterable[Split]) -> tuple[Split, list[str]]:
    """Leave out label texts that also occur in a held-out row: the model would have seen that row in training."""
    seen = {words_of(text) for split in held_out for text in split.texts}
    kept = [row for row, text in enumerate(label_texts.texts) if words_of(text) not in seen]
    left_out = len(label_texts) - len(kept)
    if not left_out:
        return label_texts, []
    rows = Split([label_texts.texts[row] for row in kept], label_texts.labels[kept])
    return rows, [f"test: {left_out} label texts also stand in test or validation and were left out of training"]


def _draw_shots(tables: dict[str, Table], shots: int, seed: int, class_names: Sequence[str]) -> list[str]:
    train = tables["train"]
    tables["train"] = train.take(draw_shots(_indices(train, class_names), shots, seed))
    counts = Counter(tables["train"].labels)
    fewer = [f"{name} {counts[name]}" for name in class_names if counts[name] < shots]
    notes = [f"train: {len(tables['train'])} of {len(train)} rows, {shots} a class, drawn by seed {seed}"]
    if fewer:
        notes.append(f"shots: {len(fewer)} of {len(class_names)} classes have fewer rows ({listed(fewer, 5)})")
    return notes


def _indices(table: Table, class_names: Sequence[str]) -> np.ndarray:
    index = {name: i for i, name in enumerate(class_names)}
    return np.array([index[label] for label in table.labels], dtype=np.int64)


def _fingerprint(class_names: Sequence[str], splits: Iterable[Split]) -> str:
    """Lengths go in before strings, so that no two corpora write the same bytes."""
    digest = hashlib.sha256()

    def add(text: str, label: int) -> None:
        encoded = text.encode("utf-8")
        digest.update(f"{label} {len(encoded)} ".encode())
        digest.update(encoded)

    for index, name in enumerate(class_names):
        add(name, index)
    for split in splits:
        digest.update(f"split {len(split)} ".encode())
        for text, label in zip(split.texts, split.labels.tolist(), strict=True):
            add(text, label)
    return digest.hexdigest()
