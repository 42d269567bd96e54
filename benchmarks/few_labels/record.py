"""A record of `benchmarks.few_labels`: runs with machine, versions and commit; a line a run."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results" / "few-labels"

Key = tuple[str, str, str, int, int]


def load(path: Path) -> dict[str, Any]:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


def save(record: dict[str, Any], path: Path) -> None:
    """Write a record whole or not at all: what is stopped keeps every run that ended."""
    head = json.dumps({name: value for name, value in record.items() if name != "runs"}, indent=1)
    runs = ",\n".join(f"  {json.dumps(run)}" for run in sorted(record["runs"], key=key_of))
    text = f'{head.removesuffix("}").rstrip()},\n "runs": [\n{runs}\n ]\n}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def key_of(run: dict[str, Any]) -> Key:
    """What tells a run from the others of its record."""
    return run["method"], run.get("variant", ""), run["corpus"], run["shots"], run["seed"]


ORDER = ("labeldist", "bare", "setfit", "frozen")
"""Of the methods, by how their names begin."""


def names_of(record: dict[str, Any]) -> list[str]:
    """The methods of a record, with their variants, in the order of a table."""
    names = {name_of(run) for run in record["runs"]}
    return sorted(names, key=lambda name: (ORDER.index(name.split()[0]), name))


def name_of(run: dict[str, Any]) -> str:
    """The method, with its variant."""
    return f"{run['method']} [{run['variant']}]" if run.get("variant") else run["method"]
