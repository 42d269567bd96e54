"""What every record of a benchmark says of the code that it measured."""

import subprocess


def current_commit() -> str:
    """The short hash of the commit that is checked out."""
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return answer.stdout.strip()
