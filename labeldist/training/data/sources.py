"""What `--data` names: the demo, a folder, files or a hub id, each as up to three parts to read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labeldist.class_names import nearest_name
from labeldist.messages import listed, shown
from labeldist.training.data.columns import Place, Table, labeled_table
from labeldist.training.data.dialects import TableFormat
from labeldist.training.data.hub import hub_splits, is_hub_id
from labeldist.training.data.lines import path_kind
from labeldist.training.data.readers import SUFFIXES, Note, Rows, data_suffix, no_table, place_of, read_rows
from labeldist.training.errors import UserError

__all__ = ["DEMO", "PART_NAMES", "Source", "file_name", "find_source"]

DEMO = "demo"

PART_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "test": ("test",),
    "validation": ("validation", "valid", "val", "dev"),
}
"""How a folder's files, or a hub data set's splits, may call each part."""

_RECOGNIZED = "train.*, test.* and validation.* (or valid.*, val.*, dev.*)"
_KINDS = ", ".join(suffix for suffix in SUFFIXES if not suffix.endswith(".gz")) + ", all but the last also .gz"


@dataclass(frozen=True)
class Part:
    """One part of a source, not read yet.

    Attributes:
        place: the name of the file or split.
        rows: reads it, and gives what was decided in doing so to its argument.
        file: that it is in, if it is one.
    """

    place: Place
    rows: Callable[[Note], Rows]
    file: Path | None = None


@dataclass(frozen=True)
class Source:
    """Where a corpus comes from.

    Attributes:
        name: a short name for it.
        parts: some of `"train"`, `"test"` and `"validation"`; one file alone is `"train"`.
    """

    name: str
    parts: Mapping[str, Part]

    def table(
        self,
        part: str,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        table_format: TableFormat | None = None,
        coarse_column: str | None = None,
        may_lack_label: bool = False,
    ) -> Table:
        """Read one part; the other arguments are those of `labeled_table`.

        Raises:
            UserError: for any defect of it, or if there is no such part.
        """
        if part not in self.parts:
            raise UserError(
                f"{self.name} has no {part} part. A folder's files are to be called {_RECOGNIZED}: {_KINDS}."
            )
        found = self.parts[part]
        notes: list[str] = []
        rows = found.rows(notes.append)
        if table_format:
            if found.file is None:
                raise no_table(found.place.name)
            rows = read_rows(found.file, note=notes.append, table_format=table_format)
        table = labeled_table(
            rows,
            found.place,
            text_column=text_column,
            label_column=label_column,
            coarse_column=coarse_column,
            may_lack_label=may_lack_label,
        )
        if not len(table):
            raise UserError(f"{found.place.name} holds no rows.")
        return replace(table, notes=(*notes, *table.notes))


def find_source(data: Sequence[str]) -> Source:
    """Find what the user named, without reading it (a hub data set is downloaded).

    Args:
        data: `("demo",)`, `(folder,)`, `(train_file, test_file)`, the same with `validation_file`, `(file,)`, or
            `(hub_id,)`.

    Raises:
        UserError: if there is no such thing.

    Examples:
        >>> sorted(find_source(["demo"]).parts)
        ['test', 'train']
    """
    if not 1 <= len(data) <= 3:
        raise UserError(
            "--data takes 'demo', a folder, one file, a train and a test file, these with a validation file, or a hub "
            f"id; got {len(data)} names."
        )
    paths = [Path(name) for name in data]
    if len(data) > 1:
        parts = zip(("train", "test", "validation"), paths, strict=False)
        return Source(file_name(paths[0]), {part: _file_part(path) for part, path in parts})
    if data[0] == DEMO:
        return Source(DEMO, _demo_parts())
    kind = path_kind(paths[0])
    if kind == "folder":
        return Source(paths[0].resolve().name, _folder_parts(paths[0]))
    if kind is None:
        if is_hub_id(data[0]):
            return Source(data[0], _hub_parts(data[0]))
        raise UserError(f"There is no file or folder {shown(data[0])}.{_nearest_path(paths[0])}")
    return Source(file_name(paths[0]), {"train": _file_part(paths[0])})


def _file_part(path: Path) -> Part:
    return Part(place_of(path), lambda note: read_rows(path, note=note), path)


def file_name(path: Path) -> str:
    """A file's name without its suffix; its folder's name where the file is just called `train`."""
    stem = path.name[: len(path.name) - len(data_suffix(path) or path.suffix)]
    if stem.lower() not in PART_NAMES["train"]:
        return stem
    try:
        return path.resolve().parent.name
    # A loop of links: an OSError in newer Pythons.
    except (OSError, RuntimeError):
        return path.absolute().parent.name


def _demo_parts() -> dict[str, Part]:
    # Imported here: the grammar is of use only to those who ask for it.
    from labeldist import demo

    train, test = demo.load()
    return {
        part: Part(
            Place(f"demo ({part})", "row"), lambda note, rows=rows: ((i, dict(row)) for i, row in enumerate(rows, 1))
        )
        for part, rows in (("train", train), ("test", test))
    }


def _folder_parts(folder: Path) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    try:
        files = sorted(entry for entry in folder.iterdir() if data_suffix(entry) and entry.is_file())
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}.") from error
    for part, names in PART_NAMES.items():
        found = [path for path in files if path.name.lower().removesuffix(data_suffix(path) or "") in names]
        if len(found) > 1:
            these = listed(path.name for path in found)
            raise UserError(f"{folder} has more than one {part} file: {these}. Keep one, or name the files one by one.")
        if found:
            parts[part] = _file_part(found[0])
    if not parts:
        there = listed(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise UserError(
            f"{folder} has no train file. The names recognized are {_RECOGNIZED}: {_KINDS}; it has {there}."
        )
    return parts


def _hub_parts(name: str) -> dict[str, Part]:
    splits = hub_splits(name)
    parts: dict[str, Part] = {}
    for part, names in PART_NAMES.items():
        for split in names:
            if split in splits and part not in parts:
                parts[part] = Part(Place(f"{name} ({split})", "row"), lambda note, rows=splits[split]: rows())
    if not parts:
        raise UserError(f"The hub data set {name} has no labeled train split; its splits are {listed(splits)}.")
    return parts


def _nearest_path(path: Path) -> str:
    folder = path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return ""
    return nearest_name(path.name, names)
