"""A record of `benchmarks.few_labels`: runs with machine, versions and commit; a line a run."""

from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.records import load

__all__ = ["ORDER", "RESULTS", "key_of", "load", "name_of", "names_of", "save"]

RESULTS = Path(__file__).parent.parent / "results" / "few-labels"

Key = tuple[str, str, str, int, int]


def save(record: dict[str, Any], path: Path) -> None:
    """Write a record whole or not at all: what is stopped keeps every run that ended."""
    records.save(record, path, key_of)


def key_of(run: dict[str, Any]) -> Key:
    """What tells a run from the others of its record."""
    return run["method"], run.get("variant", ""), run["corpus"], run["shots"], run["seed"]


ORDER = ("labeldist", "bare", "trainer", "r-drop", "supcon", "setfit", "frozen")
"""Of the methods, by how their names begin."""


def names_of(record: dict[str, Any]) -> list[str]:
    """The methods of a record, with their variants, in the order of a table."""
    names = {name_of(run) for run in record["runs"]}
    return sorted(names, key=lambda name: (ORDER.index(name.split()[0]), name))


def name_of(run: dict[str, Any]) -> str:
    """The method, with its variant."""
    return f"{run['method']} [{run['variant']}]" if run.get("variant") else run["method"]
