"""What every record of a benchmark says of the code that it measured."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def provenance(module: str, packages: Sequence[str], commit: str | None) -> dict[str, Any]:
    """Machine, versions, commit and command of a record. Call it after the timing, which it would disturb.

    Args:
        module: of the benchmark.
        packages: whose versions are recorded.
        commit: that is measured; the one that is checked out if `None`.
    """
    from labeldist.training.machine import describe_machine

    return {
        "machine": describe_machine(),
        "versions": versions_of(*packages),
        "commit": commit or current_commit(),
        "command": command_of(module),
    }


def write_record(record: dict[str, Any], path: Path) -> None:
    """Write a record as JSON, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def current_commit() -> str:
    """The short hash of the commit that is checked out."""
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command_of(module: str) -> str:
    """The command that runs, as it is recorded.

    Args:
        module: that it names, of the benchmark.
    """
    return shlex.join(["python", "-m", module, *map(_without_place, sys.argv[1:])])


def _without_place(word: str) -> str:
    """A word of a command as it is recorded: where a folder stands on one machine is nobody's business.

    Examples:
        >>> _without_place("mpnet=/home/me/mpnet"), _without_place("trec")
        ('mpnet=mpnet', 'trec')
    """
    before, equals, path = word.rpartition("=")
    return f"{before}{equals}{Path(path).name}" if Path(path).is_absolute() else word
