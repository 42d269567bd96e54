"""What every record of a benchmark says of the code that it measured."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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


def without_place(word: str) -> str:
    """A word of a command as it is recorded: where a folder stands on one machine is nobody's business.

    Examples:
        >>> without_place("mpnet=/home/me/mpnet"), without_place("trec")
        ('mpnet=mpnet', 'trec')
    """
    before, equals, path = word.rpartition("=")
    return f"{before}{equals}{Path(path).name}" if Path(path).is_absolute() else word
