"""Coarse labels of a training table: rows of which only a group of classes is known are told from the others."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from labeldist.class_names import nearest_name
from labeldist.coarse import hierarchy_groups, prefix_groups
from labeldist.messages import listed, shown
from labeldist.training.config import DataSettings
from labeldist.training.data.columns import Table
from labeldist.training.errors import UserError
from labeldist.training.matrix_file import read_hierarchy

__all__ = ["CoarseOptions", "CoarseRows", "check_no_group", "separate"]

_SHOWN = 8


@dataclass(frozen=True)
class CoarseOptions:
    """Where coarse labels come from; see `DataSettings`.

    Attributes:
        column: the column with the coarse label of rows whose label is missing.
        hierarchy: a JSON file, or JSON itself: its inner nodes are groups.
        separator: between the parts of class names: their prefixes are groups.
    """

    column: str | None = None
    hierarchy: str | None = None
    separator: str | None = None

    @classmethod
    def of(cls, data: DataSettings) -> "CoarseOptions":
        """Those of a run's settings."""
        return cls(data.coarse_column, data.hierarchy, data.hierarchy_separator)

    @property
    def is_given(self) -> bool:
        """Whether there may be coarse labels."""
        return self != CoarseOptions()


@dataclass(frozen=True, eq=False)
class CoarseRows:
    """Rows of which only a group is known.

    Attributes:
        table: the rows; a label is the name of a group.
        groups: the classes of each group that has a row, by name.
    """

    table: Table
    groups: Mapping[str, tuple[str, ...]]


def separate(train: Table, options: CoarseOptions) -> tuple[Table, CoarseRows, Mapping[str, list[str]]]:
    """Tell rows with a class from rows with a group.

    A row's label is a class or the name of a group; if it is missing, the row's coarse label is taken. A group of one
    class is that class. Rows that allow every class are left out: they have no gradient.

    Args:
        train: as `labeled_table` reads it with missing labels allowed.
        options: at least one is given.

    Returns:
        The rows with a class, those with a group, and all groups, named or not by a row.

    Raises:
        UserError: if a group has no class or the name of one, a class of the hierarchy has no row, or a row's class is
            not in the group of its coarse label.
    """
    groups = _named_groups(train, options)
    # A group of the same name and that class alone is no other thing than the class.
    classes = sorted({label for label in train.labels if label and set(groups.get(label, [label])) == {label}})
    if not classes:
        raise UserError(
            f"{train.place.name} has no row with a class as its label. Give at least one row of each class."
        )
    _check_leaves(train, options, groups, classes)
    coarse = train.coarse or [""] * len(train)
    if options.column is not None and options.hierarchy is None and options.separator is None:
        groups = _groups_of_column(train, coarse, classes)
    else:
        _check_contradictions(train, coarse, groups)
    known = set(classes)
    fine_rows: list[tuple[int, str]] = []
    coarse_rows: list[tuple[int, str]] = []
    num_without = num_with_all = 0
    for row, (label, group) in enumerate(zip(train.labels, coarse, strict=True)):
        name = label or group
        if not name:
            num_without += 1
            continue
        allowed = {name} if name in known else set(groups.get(name, ()))
        if not allowed:
            raise UserError(_without_classes(train, row, name, options, list(groups)))
        if len(allowed) == 1:
            fine_rows.append((row, next(iter(allowed))))
        elif allowed == known:
            num_with_all += 1
        else:
            coarse_rows.append((row, name))
    used = dict.fromkeys(name for _, name in coarse_rows)
    kept = {name: tuple(dict.fromkeys(groups[name])) for name in groups if name in used}
    notes = _notes(Counter(name for _, name in coarse_rows), kept, groups, classes, num_without, num_with_all)
    fine, rest = train.relabeled(fine_rows), train.relabeled(coarse_rows)
    return fine.with_notes(notes), CoarseRows(rest, kept), groups


def check_no_group(table: Table, part: str, groups: Mapping[str, list[str]], class_names: tuple[str, ...]) -> None:
    """Raise `UserError` for a row of a test or validation set whose label is a group."""
    known = set(class_names)
    for number, label in zip(table.numbers, table.labels, strict=True):
        if label in groups and label not in known:
            raise UserError(
                f"{table.place.at(number)}: the label {shown(label)} is a group of {len(set(groups[label]))} classes, "
                f"and each row of a {part} set needs a class. Give the row its class or drop it."
            )


def _named_groups(train: Table, options: CoarseOptions) -> dict[str, list[str]]:
    """The groups that the hierarchy or the class names give."""
    try:
        if options.hierarchy is not None:
            return hierarchy_groups(read_hierarchy(options.hierarchy))
        if options.separator is not None:
            labels = {label for label in train.labels if label}
            prefixes = _prefixes(labels, options.separator)
            return prefix_groups(sorted(labels - prefixes), options.separator)
    except ValueError as error:
        raise UserError(f"{_hierarchy_name(options)}: {error}") from error
    return {}


def _prefixes(labels: set[str], separator: str) -> set[str]:
    """All proper prefixes of these labels: a label among them is the name of a group."""
    parts = [label.split(separator) for label in labels]
    return {separator.join(part[:end]) for part in parts for end in range(1, len(part))}


def _hierarchy_name(options: CoarseOptions) -> str:
    if options.hierarchy is None:
        return "--hierarchy-separator"
    return "--hierarchy" if options.hierarchy.lstrip().startswith(("{", "[")) else options.hierarchy


def _check_leaves(train: Table, options: CoarseOptions, groups: Mapping[str, list[str]], classes: list[str]) -> None:
    """Raise unless each class of the hierarchy has a row: a group without one of its classes would say too much."""
    if options.hierarchy is None:
        return
    known = set(classes)
    unknown = next((name for members in groups.values() for name in members if name not in known), None)
    if unknown is not None:
        raise UserError(
            f"{_hierarchy_name(options)}: the class {shown(unknown)} is the label of no row of {train.place.name}. "
            f"Give it a row, or take it out of the hierarchy.{nearest_name(unknown, classes)}"
        )


def _groups_of_column(train: Table, coarse: list[str], classes: list[str]) -> dict[str, list[str]]:
    """Each coarse label with the classes that it stands with in a row."""
    found: dict[str, dict[str, None]] = {}
    for label, group in zip(train.labels, coarse, strict=True):
        if group:
            found.setdefault(group, {}).update({label: None} if label else {})
    known = set(classes)
    for row, group in enumerate(coarse):
        if group in known and set(found[group]) != {group}:
            raise UserError(
                f"{train.place.at(train.numbers[row])}: {shown(group)} is both a coarse label and a class. Give one of "
                "them another name."
            )
    return {group: sorted(members) for group, members in found.items()}


def _check_contradictions(train: Table, coarse: list[str], groups: Mapping[str, list[str]]) -> None:
    for number, label, group in zip(train.numbers, train.labels, coarse, strict=True):
        if label and label not in groups and group in groups and label not in groups[group]:
            raise UserError(
                f"{train.place.at(number)}: the class {shown(label)} does not belong to the coarse label "
                f"{shown(group)} of its row. Correct one of them."
            )


def _without_classes(train: Table, row: int, name: str, options: CoarseOptions, groups: list[str]) -> str:
    where = train.place.at(train.numbers[row])
    if options.hierarchy is None and options.separator is None:
        return (
            f"{where}: the coarse label {shown(name)} stands with no class in any row, so it allows none. Give a "
            "row that has both labels, or --hierarchy."
        )
    return f"{where}: the coarse label {shown(name)} is no group and no class.{nearest_name(name, groups)}"


def _notes(
    counts: Counter[str],
    kept: Mapping[str, tuple[str, ...]],
    groups: Mapping[str, list[str]],
    classes: list[str],
    num_without: int,
    num_with_all: int,
) -> list[str]:
    notes: list[str] = []
    if counts:
        named = [f"{name} {counts[name]} ({len(members)} classes)" for name, members in kept.items()]
        notes.append(f"coarse: {counts.total()} rows of train have a coarse label, by group: {listed(named, _SHOWN)}")
    else:
        notes.append("groups: every row of train has a class, none a group alone")
    if num_with_all:
        notes.append(
            f"coarse: {num_with_all} rows whose coarse label allows every class were left out: they have no gradient"
        )
    if num_without:
        notes.append(f"coarse: {num_without} rows without any label were left out: they have no gradient")
    outside = set(classes).difference(*groups.values())
    if counts and outside:
        notes.append(f"coarse: no group holds {len(outside)} of {len(classes)} classes ({listed(sorted(outside), 5)})")
    return notes
