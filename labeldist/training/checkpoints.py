"""The Trainer's checkpoints: which one is whole, so that training can go on from it."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from labeldist.distributed import num_processes
from labeldist.integrations.transformers.callback import STATE_FILE

__all__ = ["newest_checkpoint", "remove_later"]

_WEIGHTS = "model.safetensors"
_STATE = "trainer_state.json"


def newest_checkpoint(folder: Path, *, needs_matrix: bool) -> Path | None:
    """The newest checkpoint from which training goes on to the same result, or `None`; its best path is repaired.

    A kill in the middle of a save or a removal leaves a checkpoint without some of its files, and a disk may lose a
    part of one; then the one before is taken. A checkpoint is also skipped if its best checkpoint is missing, because
    the run ends with those weights.

    Args:
        folder: that holds the checkpoints.
        needs_matrix: whether a label-distance matrix belongs to each.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step_of, reverse=True):
        state = _read_state(checkpoint)
        if state is None or not _is_whole(checkpoint, needs_matrix=needs_matrix):
            continue
        best = _best_checkpoint(folder, state)
        if best is None or _are_tensors(best / _WEIGHTS):
            _repair_best_path(checkpoint, state, best)
            return checkpoint
    return None


def remove_later(folder: Path, checkpoint: Path | None) -> None:
    """Delete the checkpoints that training passes over and would write again; all of them if `checkpoint` is `None`.

    The Trainer deletes the oldest checkpoints, by the times of their folders or by their steps. Beside checkpoints of
    later steps it would take a new one for an old one, and delete it.

    Args:
        folder: that holds the checkpoints.
        checkpoint: from which training goes on.
    """
    last = -1 if checkpoint is None else _step_of(checkpoint)
    for other in folder.glob("checkpoint-*"):
        if _step_of(other) > last:
            shutil.rmtree(other)


def _best_checkpoint(folder: Path, state: dict[str, Any]) -> Path | None:
    """Where the best checkpoint until then is now: the folder may have moved since."""
    best = state.get("best_model_checkpoint")
    return folder / Path(str(best)).name if best else None


def _repair_best_path(checkpoint: Path, state: dict[str, Any], best: Path | None) -> None:
    """Write into the state of a checkpoint where its best checkpoint is now."""
    if best is not None:
        repaired = {**state, "best_model_checkpoint": str(best)}
        (checkpoint / _STATE).write_text(json.dumps(repaired, indent=2), encoding="utf-8")


def _step_of(checkpoint: Path) -> int:
    step = checkpoint.name.removeprefix("checkpoint-")
    return int(step) if step.isdecimal() else -1


def _read_state(checkpoint: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_state = isinstance(state, dict) and isinstance(state.get("log_history"), list) and "global_step" in state
    return state if is_state else None


def _is_whole(checkpoint: Path, *, needs_matrix: bool) -> bool:
    tensors = [_WEIGHTS, *([STATE_FILE] if needs_matrix else [])]
    archives = ["optimizer.pt", "scheduler.pt", *_random_states()]
    return all(_are_tensors(checkpoint / name) for name in tensors) and all(
        _is_sound_archive(checkpoint / name) for name in archives
    )


def _random_states() -> list[str]:
    """What the Trainer calls the files that hold the random state of each process."""
    if num_processes() == 1:
        return ["rng_state.pth"]
    return [f"rng_state_{rank}.pth" for rank in range(num_processes())]


def _are_tensors(path: Path) -> bool:
    try:
        load_file(path)
    except (OSError, SafetensorError):
        return False
    return True


def _is_sound_archive(path: Path) -> bool:
    """Whether a file of `torch.save` is whole: it is a ZIP archive with a checksum of every part. Nothing is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        return False
