"""The command line: `labeldist train | compare | evaluate | predict`.

Nothing here, nor in `labeldist.cli.commands`, imports PyTorch: `--version` and `--help` answer at once.
"""

from labeldist.cli.entry import main

__all__ = ["main"]
