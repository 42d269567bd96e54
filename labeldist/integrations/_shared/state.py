"""The state of a loss in files: tensors in safetensors, the rest as JSON beside them. Nothing is unpickled."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_LAYOUT = "layout"


def state_of(module: nn.Module, *, exclude: str | None = None) -> dict[str, Any]:
    """A copy of a module's state, tensors and extra state.

    Args:
        module: a loss.
        exclude: a part that has a file of its own, by name.

    Examples:
        >>> sorted(state_of(nn.Linear(2, 2), exclude="bias"))
        ['weight']
    """
    prefix = None if exclude is None else f"{exclude}."
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in module.state_dict().items()
        if prefix is None or not f"{name}.".startswith(prefix)
    }


def load_state(module: nn.Module, state: Mapping[str, Any], *, source: str, exclude: str | None = None) -> None:
    """Give a module the state that `state_of` took.

    Args:
        module: a loss like the one that the state was taken of.
        state: what `state_of` returned.
        source: where the state comes from, for the message.
        exclude: as in `state_of`.

    Raises:
        ValueError: if the state is not one of such a module.
    """
    expected = set(state_of(module, exclude=exclude))
    if different := sorted(expected ^ set(state)):
        raise ValueError(
            f"{source} must hold the state of this loss, and one of the two has no {different[0]!r}. Make the loss as "
            "it was when the state was saved."
        )
    try:
        module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"{source} must hold the state of this loss, and shapes differ: {' '.join(str(error).split())}. Make the "
            "loss as it was when the state was saved."
        ) from error


def write_state(path: Path, state: Mapping[str, Any], **notes: str) -> None:
    """Write a state to a file, all of it or nothing.

    Args:
        path: replaced if it exists.
        state: tensors, and values that are made of tensors, numbers, strings, lists and dictionaries.
        **notes: kept with it; `read_notes` returns them.

    Raises:
        TypeError: if a value is of another kind.
    """
    tensors: dict[str, Tensor] = {}
    layout = {name: _taken_apart(name, value, tensors) for name, value in state.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata={**notes, _LAYOUT: json.dumps(layout)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            layout = json.loads(file.metadata()[_LAYOUT])
        return {name: _put_together(value, tensors) for name, value in layout.items()}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged. Resume from an older checkpoint.") from error


def read_notes(path: Path) -> dict[str, str]:
    """The notes of a file that `write_state` wrote; none where there is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _taken_apart(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON of a value, whose tensors go into `tensors`."""
    if isinstance(value, Tensor):
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _taken_apart(f"{name}.{key}", entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_taken_apart(f"{name}.{number}", entry, tensors) for number, entry in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(
        f"The state of a loss must be made of tensors, numbers, strings, lists and dictionaries, got "
        f"{type(value).__name__} in {name!r}."
    )


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_together(entry, tensors) for key, entry in content}
    if kind == "list":
        return [_put_together(entry, tensors) for entry in content]
    return content
