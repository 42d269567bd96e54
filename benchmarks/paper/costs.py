"""What the runs of the paper's tables cost on a GPU, before they start: by one table, or by the runs on record."""

from collections.abc import Iterable
from statistics import mean
from typing import Any

__all__ = ["RUNS_AT_ONCE", "SECONDS_PER_RUN", "gpu_seconds", "measured_seconds"]

SECONDS_PER_RUN = {
    "textcnn": {"20ng": 70, "trec": 25, "r8": 30, "r52": 40, "mr": 35},
    "minilm": {"20ng": 190, "trec": 65, "r8": 75, "r52": 90, "mr": 90},
    "mpnet": {"20ng": 500, "trec": 200, "r8": 275, "r52": 310, "mr": 230},
    "bert-base-cased": {"20ng": 500, "trec": 200, "r8": 275, "r52": 310, "mr": 230},
    "albert": {"20ng": 450, "trec": 180, "r8": 250, "r52": 280, "mr": 200},
}
"""Wall time of a run to its early stop, alone on an H100 or H200. Measured: minilm on trec (`results/minilm-trec.json`,
50 to 104 s). The others are that, scaled by steps an epoch, tokens a step and the encoder's size: guesses until a
record has runs of the cell."""

RUNS_AT_ONCE = {"textcnn": 4.0, "minilm": 3.0, "mpnet": 1.3, "bert-base-cased": 1.3, "albert": 1.3}
"""How much more several runs beside one another get done on one GPU than one run after the other: guesses."""


def measured_seconds(runs: Iterable[dict[str, Any]], encoder: str) -> dict[str, float]:
    """Mean GPU time of the recorded runs of each corpus, in seconds: their wall time over the runs that shared a GPU.

    Args:
        runs: of the record of an encoder.
        encoder: its name.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        if run.get("seconds") is not None and run["runs_per_gpu"]:
            # A run that had its GPU to itself would leave room for others.
            shared = max(run["runs_per_gpu"], RUNS_AT_ONCE[encoder])
            found.setdefault(run["corpus"], []).append(run["seconds"] / shared)
    return {corpus: mean(seconds) for corpus, seconds in found.items()}


def gpu_seconds(corpus: str, encoder: str, measured: dict[str, float]) -> float:
    """GPU time of one run, in seconds: as recorded, or by the table.

    Examples:
        >>> gpu_seconds("trec", "textcnn", {}), gpu_seconds("trec", "textcnn", {"trec": 5.0})
        (6.25, 5.0)
    """
    return measured.get(corpus, SECONDS_PER_RUN[encoder][corpus] / RUNS_AT_ONCE[encoder])
