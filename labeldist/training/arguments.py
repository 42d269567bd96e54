"""The arguments of `train` and `compare` as data to find and settings to follow, and errors in their names."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

from labeldist.class_names import nearest_name
from labeldist.training.config import RunSettings, option_names, section_of
from labeldist.training.data.memory import memory_source
from labeldist.training.data.sources import Source, find_source
from labeldist.training.errors import UserError
from labeldist.training.record_json import typed

__all__ = ["FindSource", "found", "in_python", "plain", "says_it_in_python", "settings_of"]

FindSource = Callable[[], Source]
_P = ParamSpec("_P")
_T = TypeVar("_T")


def says_it_in_python(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a `UserError` name arguments (`max_distance`) where the command line names flags (`--max-distance`)."""

    @functools.wraps(function)
    def wrapped(*arguments: _P.args, **named: _P.kwargs) -> _T:
        try:
            return function(*arguments, **named)
        except UserError as error:
            raise type(error)(in_python(str(error))) from error

    return wrapped


def in_python(sentence: str) -> str:
    r"""A sentence of the command line in the words of Python.

    Examples:
        >>> in_python("--max-distance must be above 0. To go on with it: --resume runs/a.")
        'max_distance must be above 0. To go on with it: resume=True.'
    """
    sentence = re.sub(r"--resume \S+(?=\.( |$)| )", "resume=True", sentence)
    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda found: found[1].replace("-", "_"), sentence)


def found(data: Any, labels: Any, test: Any, validation: Any) -> tuple[FindSource, tuple[str, ...]]:
    """How to find the data, and their names as on the command line: none for data in memory."""
    if labels is not None:
        if isinstance(data, str | Path | Mapping):
            raise UserError(f"labels belong to a list of texts, got {type(data).__name__}.")
        data = (data, labels)
    elif isinstance(data, str | Path):
        names = [str(one) for one in (data, test, validation) if one is not None]
        if not all(isinstance(one, str | Path) for one in (data, test, validation) if one is not None):
            raise UserError("Where the texts are in a file, test and validation must be files, too.")
        if test is None and validation is not None:
            raise UserError("A validation file needs a test file beside it.")
        return (lambda: find_source(names)), tuple(names)
    elif isinstance(data, list | tuple) and data and all(isinstance(one, str | Path) for one in data):
        if len(data) > 3:
            raise UserError("labels must be given with a list of texts: one label for each.")
        names = [str(one) for one in data]
        return (lambda: find_source(names)), tuple(names)
    if isinstance(data, Mapping):
        parts = dict(data)
        parts.update({name: given for name, given in (("test", test), ("validation", validation)) if given is not None})
    else:
        parts = {"train": data, "test": test, "validation": validation}
    source = memory_source(parts)
    return (lambda: source), ()


def settings_of(names: tuple[str, ...], options: Mapping[str, Any], defaults: RunSettings | None = None) -> RunSettings:
    """Flat options as settings; the rest has the defaults."""
    defaults = RunSettings() if defaults is None else defaults
    sections: dict[str, dict[str, Any]] = {}
    allowed = [name for name in option_names() if name != "data"]
    for name, value in options.items():
        section = section_of(name)
        if section is None or name == "data":
            raise TypeError(f"There is no setting {name!r}.{nearest_name(name, allowed)}")
        sections.setdefault(section, {})[name] = value
    sections.setdefault("data", {})["data"] = names
    hierarchy = sections["data"].get("hierarchy")
    if isinstance(hierarchy, Mapping | list | Path):
        sections["data"]["hierarchy"] = (
            str(hierarchy) if isinstance(hierarchy, Path) else _as_json(hierarchy, "hierarchy")
        )
    if isinstance(costs := sections["data"].get("costs"), Mapping | Path):
        sections["data"]["costs"] = str(costs) if isinstance(costs, Path) else _as_json(costs, "costs")
    if "confusable" in sections.get("matrix", {}):
        sections["matrix"]["confusable"] = _pairs(sections["matrix"]["confusable"])
    order = sections.get("matrix", {}).get("order")
    if isinstance(order, list | tuple):
        # Labels in memory may be numbers; classes are named by them.
        sections["matrix"]["order"] = [str(plain(name)) for name in order]
    made = {}
    for section in dataclasses.fields(RunSettings):
        hints = get_type_hints(section.default_factory)
        given = sections.get(section.name, {})
        values = {name: typed(hints[name], plain(value), name) for name, value in given.items()}
        made[section.name] = dataclasses.replace(getattr(defaults, section.name), **values)
    return RunSettings(**made)


def _pairs(pairs: Any) -> list[str]:
    """Pairs of class names as the command line writes them."""
    return [pair if isinstance(pair, str) else ",".join(map(str, pair)) for pair in pairs]


def _as_json(given: Any, name: str) -> str:
    """A hierarchy or costs as the setting holds them, so that the record of a run names what was given."""
    try:
        return json.dumps(given, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        leaves = "class names" if name == "hierarchy" else "numbers"
        raise UserError(f"{name} is made of mappings, lists and {leaves}: {error}.") from error


def plain(value: Any) -> Any:
    """NumPy's scalars as Python's."""
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
