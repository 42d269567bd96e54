"""Texts in memory as a source: lists, pandas data frames, and data sets of the `datasets` library."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from labeldist.training.data.columns import Place
from labeldist.training.data.sources import PART_NAMES, Part, Source
from labeldist.training.errors import UserError

__all__ = ["MEMORY", "memory_source", "rows_of"]

MEMORY = "texts"
"""Short name of a corpus that was given in memory."""

Rows = Iterator[tuple[int, dict[str, Any]]]


def memory_source(parts: Mapping[str, Any], name: str = MEMORY) -> Source:
    """A source of tables in memory.

    Args:
        parts: `"train"` and perhaps `"test"` and `"validation"` (or valid, val, dev), each a pair of texts and labels,
            a data frame or a data set; `None` where there is none.
        name: a short name for it.

    Raises:
        UserError: if a part is none of these, or its texts and labels are not equally many.

    Examples:
        >>> source = memory_source({"train": (["is it fast?", "it is fast"], ["question", "praise"])})
        >>> source.table("train").labels
        ['question', 'praise']
    """
    found: dict[str, Part] = {}
    for part, names in PART_NAMES.items():
        for key in names:
            if parts.get(key) is not None and part not in found:
                rows = rows_of(parts[key], key)
                # Data in memory have no dialect to note.
                found[part] = Part(Place(f"{name} ({key})", "row"), lambda note, rows=rows: rows())
    if "train" not in found:
        known = ", ".join(map(repr, parts)) or "nothing"
        raise UserError(f"The texts need a part 'train' to train on, got {known}.")
    return Source(name, found)


def rows_of(table: Any, part: str) -> Callable[[], Rows]:
    """A function that yields the numbered rows of a table in memory, by column.

    Args:
        table: a pair of texts and labels, a pandas data frame, or a `datasets.Dataset`.
        part: its name, for messages.

    Raises:
        UserError: if it is none of these, or texts and labels are not equally many.
    """
    if hasattr(table, "features") and hasattr(table, "column_names"):
        return lambda: _dataset_rows(table)
    if hasattr(table, "columns") and hasattr(table, "itertuples"):
        return lambda: _frame_rows(table)
    if isinstance(table, tuple) and len(table) == 2 and not any(isinstance(one, str) for one in table):
        texts, labels = (_listed(values, part) for values in table)
        if len(texts) != len(labels):
            raise UserError(
                f"{part}: texts and labels must be equally many, got {len(texts)} texts and {len(labels)} labels."
            )
        return lambda: (
            (number, {"text": _plain(text), "label": _plain(label)})
            for number, (text, label) in enumerate(zip(texts, labels, strict=True), 1)
        )
    raise UserError(
        f"{part} must be a pair (texts, labels), a pandas DataFrame or a datasets.Dataset, got {type(table).__name__}."
    )


def _listed(values: Any, part: str) -> list[Any]:
    if not isinstance(values, Iterable):
        raise UserError(f"{part}: texts and labels must be lists, got {type(values).__name__}.")
    return list(values)


def _frame_rows(frame: Any) -> Rows:
    columns = [str(column) for column in frame.columns]
    for number, row in enumerate(frame.itertuples(index=False, name=None), 1):
        yield number, {column: _plain(value) for column, value in zip(columns, row, strict=True)}


def _dataset_rows(dataset: Any) -> Rows:
    # Columns of class indices know the names of the classes.
    classes = {column: feature.names for column, feature in dataset.features.items() if hasattr(feature, "names")}
    for number, row in enumerate(dataset, 1):
        for column, names in classes.items():
            index = row[column]
            row[column] = names[index] if index is not None and index >= 0 else None
        yield number, row


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's; a missing value (NaN, NaT, pandas.NA) as `None`."""
    if isinstance(value, str):
        return value
    value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
    # Nothing else differs from itself; pandas.NA answers neither way.
    try:
        return None if value != value else value
    except (TypeError, ValueError):
        return None
