"""Records of benchmarks that grow run by run: written whole or not at all, with a line for each run."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["load", "resumed", "save"]

Record = dict[str, Any]


def load(path: Path) -> Record:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


def save(record: Record, path: Path, key: Callable[[Record], Any]) -> None:
    """Write a record whole or not at all: what is stopped keeps every run that ended.

    Args:
        record: facts, and under `"runs"` a list of runs.
        path: of the file.
        key: that runs are sorted by.
    """
    head = json.dumps({name: value for name, value in record.items() if name != "runs"}, indent=1, ensure_ascii=False)
    runs = ",\n".join(f"  {json.dumps(run, ensure_ascii=False)}" for run in sorted(record["runs"], key=key))
    text = f'{head.removesuffix("}").rstrip()},\n "runs": [\n{runs}\n ]\n}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def resumed(new: Record, path: Path, *, same: Sequence[str], joined: Sequence[str] = ("commit",)) -> Record:
    """The record in a file, to be added to by another command; ends the program where they do not belong together.

    Args:
        new: the facts of this command.
        path: of the record there is.
        same: facts that must be equal.
        joined: facts that may differ, lists or words between commas; all of them are kept.
    """
    old = load(path)
    for name in same:
        if old[name] != new[name]:
            sys.exit(f"{path} was made with {name} {old[name]}, not {new[name]}. Give another --output.")
    return {**old, **{name: _joined(old[name], new[name]) for name in ("commands", *joined)}}


def _joined(old: Any, new: Any) -> Any:
    if isinstance(old, str):
        return ", ".join(_joined(old.split(", "), [new]))
    return list(dict.fromkeys([*old, *new]))
