"""What a run ran on: recorded beside every result, so that no number stands without its machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from labeldist import __version__

PACKAGES = ("torch", "transformers", "pytorch-metric-learning")


def describe_machine() -> str:
    """Processor, cores and GPU in one line.

    Examples:
        >>> "cores" in describe_machine()
        True
    """
    parts = [f"{_processor()}, {os.cpu_count()} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def versions() -> dict[str, str]:
    """Versions of Python, of this library and of what decides its numbers."""
    return {
        "python": platform.python_version(),
        "labeldist": __version__,
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    """The processor's name; Linux tells it in a file, other systems through `platform`."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
