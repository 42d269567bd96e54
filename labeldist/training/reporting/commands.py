"""The command that a run or a comparison was begun with, from its settings."""

import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from labeldist.training.config import RunSettings, flag_of
from labeldist.training.recipes import RECIPES
from labeldist.training.run_folder import RunSpec

__all__ = ["compare_base", "compare_command", "train_command"]


def train_command(spec: RunSpec) -> str:
    """`labeldist train ...` with everything that is not a default; empty where the data were in memory.

    Examples:
        >>> from labeldist.training.config import OptimSettings
        >>> train_command(RunSpec(RunSettings(optim=OptimSettings(recipe="standard", epochs=5)), "static", 1))
        'labeldist train --data demo --objective static --seed 1 --recipe standard --epochs 5'
    """
    if not spec.settings.data.data:
        return ""
    options = ["--objective", spec.objective, "--seed", str(spec.seed), *_options(spec.settings)]
    return shlex.join(["labeldist", "train", "--data", *spec.settings.data.data, *options])


def compare_command(
    settings: RunSettings,
    objectives: tuple[str, ...],
    seeds: tuple[int, ...],
    margin: float,
    measure: str = "accuracy",
) -> str:
    """`labeldist compare ...`, likewise.

    Examples:
        >>> compare_command(RunSettings(), ("ce", "static"), (0, 1), 0.005)
        'labeldist compare --data demo --objectives ce static --seeds 0 1 --recipe auto'
    """
    if not settings.data.data:
        return ""
    options = ["--objectives", *objectives, "--seeds", *map(str, seeds)]
    options += [] if margin == 0.005 else ["--margin", f"{margin:g}"]
    options += [] if measure == "accuracy" else ["--measure", measure]
    return shlex.join(["labeldist", "compare", "--data", *settings.data.data, *options, *_options(settings)])


def compare_base(settings: RunSettings) -> tuple[str, ...]:
    """`labeldist compare` with some settings, but for their own static matrix; empty where the data were in memory.

    Examples:
        >>> compare_base(RunSettings())
        ('labeldist', 'compare', '--data', 'demo', '--recipe', 'auto')
    """
    if not settings.data.data:
        return ()
    plain = replace(settings, matrix=replace(settings.matrix, confusable=(), matrix_file=None))
    return ("labeldist", "compare", "--data", *settings.data.data, *_options(plain))


def _options(settings: RunSettings) -> Iterator[str]:
    recipe = settings.optim.recipe
    defaults = RECIPES["few-labels" if recipe == "few-labels" else "standard"].settings
    yield from ("--recipe", recipe)
    for section in fields(RunSettings):
        for field in fields(getattr(settings, section.name)):
            value = getattr(getattr(settings, section.name), field.name)
            default = getattr(getattr(defaults, section.name), field.name)
            if value != default and field.name not in ("data", "recipe"):
                yield from _option(field.name, value)


def _option(name: str, value: Any) -> Iterator[str]:
    option = flag_of(name)
    if isinstance(value, bool):
        yield option if value else f"--no-{option.removeprefix('--')}"
    elif isinstance(value, tuple):
        yield from (option, *map(str, value))
    elif value is not None:
        yield from (option, str(value))
