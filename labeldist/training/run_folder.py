"""A run's folder: the names of its files, what is written into them, and what makes it whole."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeldist.training.atomic import make_readable_like_others, read_json, write_json, writing_to
from labeldist.training.config import RunSettings, check_settings, flag_of
from labeldist.training.errors import UserError
from labeldist.training.folder_lock import LOCK_FILE
from labeldist.training.matrix_json import matrix_from_json
from labeldist.training.objectives import Objective
from labeldist.training.record_json import from_json, to_json
from labeldist.training.records import RunMetrics, read_record, write_record

__all__ = ["FORMAT_VERSION", "MAX_SEED", "RunConfig", "RunFolder", "RunSpec", "check_new_folder", "check_seed"]

FORMAT_VERSION = 1
"""Of a run folder; another number is refused rather than misread."""

MAX_SEED = 2**32 - 1
_SECTIONS = ("data", "model", "loss", "matrix", "optim")


@dataclass(frozen=True)
class RunSpec:
    """What decides a run: settings, objective, seed."""

    settings: RunSettings
    objective: Objective
    seed: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"objective": self.objective, "seed": self.seed, **to_json(self.settings)}

    def check(self) -> None:
        """Raise `UserError` for a value outside its range."""
        check_settings(self.settings)
        check_seed(self.seed)


def check_same_settings(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], holds: str, *, but: Sequence[str] = ("data",)
) -> None:
    """Raise `UserError` unless settings are those that a folder was begun with.

    Args:
        stored: settings of the folder, as JSON: options, or sections of them.
        wanted: those asked for, likewise.
        holds: what the folder holds, for the message.
        but: options that may differ: where the data lie, since their fingerprint tells whether they are the same.

    Examples:
        >>> check_same_settings({"model": {"dropout": 0.5}}, {"model": {"dropout": 0.1}}, "a holds a run")
        Traceback (most recent call last):
        ...
        labeldist.training.errors.UserError: a holds a run with --dropout 0.5, not 0.1. ...
    """
    for name, value in wanted.items():
        there = stored.get(name)
        if isinstance(value, dict) and isinstance(there, dict) and name in _SECTIONS:
            check_same_settings(there, value, holds, but=but)
        elif name not in but and there != value:
            asked = f"not {value}" if value is not None else "which this call does not give"
            raise UserError(
                f"{holds} with {flag_of(name)} {there}, {asked}. Choose another --output, or the same "
                "settings to go on with it."
            )


def check_seed(seed: int) -> None:
    """Raise `UserError` for a seed that no generator takes."""
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed must be a whole number from 0 to 2**32 - 1, got {seed}.")


@dataclass(frozen=True)
class RunConfig:
    """What `config.json` holds: everything that a run was begun with.

    Attributes:
        spec: settings, objective and seed; files by their whole paths, so that any working directory will do.
        data_name: a short name of the data.
        class_names: the class of each index.
        num_rows: of each split.
        notes: what was decided about the data.
        fingerprint: of everything that was read from files.
        num_processes: that share the run.
        machine: that it began on.
        versions: of packages.
    """

    spec: RunSpec
    data_name: str
    class_names: tuple[str, ...]
    num_rows: dict[str, int]
    notes: tuple[str, ...]
    fingerprint: str
    num_processes: int
    machine: str
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        rest = {name: value for name, value in to_json(self).items() if name != "spec"}
        return {"format_version": FORMAT_VERSION, **self.spec.to_json(), **rest}

    def trusting(self, trust_remote_code: bool) -> "RunConfig":
        """The same, with another `trust_remote_code`."""
        settings = self.spec.settings
        settings = replace(settings, model=replace(settings.model, trust_remote_code=trust_remote_code))
        return replace(self, spec=replace(self.spec, settings=settings))

    @classmethod
    def from_json(cls, stored: Any) -> "RunConfig":
        """The inverse of `to_json`; every value is checked as if it came from the command line.

        Raises:
            ValueError: if a field is missing, unknown or of another type.
            UserError: if a setting lies outside its range.
        """
        if not isinstance(stored, dict):
            raise ValueError("it is no JSON object")
        if (version := stored.get("format_version")) != FORMAT_VERSION:
            raise ValueError(f"its format_version is {version}, and this version reads {FORMAT_VERSION}")
        rest = {name: value for name, value in stored.items() if name != "format_version"}
        settings = {name: rest.pop(name) for name in _SECTIONS if name in rest}
        spec = {"settings": settings, **{name: rest.pop(name) for name in ("objective", "seed") if name in rest}}
        config = from_json(cls, {**rest, "spec": spec})
        # Never trust a folder's `trust_remote_code`.
        config = config.trusting(False)
        config.spec.check()
        if len(config.class_names) < 2:
            raise ValueError(f"class_names must name at least two classes, got {len(config.class_names)}")
        return config


@dataclass(frozen=True)
class RunFolder:
    """One run on disk.

    The files are written in the order `config.json`, checkpoints, results, `metrics.json`: a folder with a config is
    begun, one with metrics is finished.

    Args:
        path: of the folder.

    Examples:
        >>> RunFolder(Path("runs/new")).is_begun
        False
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        """Everything that the run was begun with: `RunConfig`."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """What the run found out; its presence says that the run is whole."""
        return self.path / "metrics.json"

    @property
    def history(self) -> Path:
        """Losses and validation accuracy by epoch, seconds."""
        return self.path / "history.json"

    @property
    def matrix(self) -> Path:
        """The label distances, where they came from, and how they moved."""
        return self.path / "ldm.json"

    @property
    def confusion(self) -> Path:
        """Confusion counts of short runs, where some were counted."""
        return self.path / "confusion.json"

    @property
    def predictions(self) -> Path:
        """Each test text with its label, the prediction and probabilities."""
        return self.path / "predictions.jsonl"

    @property
    def map(self) -> Path:
        """Places of test rows on a map of the embeddings, where one was made."""
        return self.path / "map.json"

    @property
    def nearest(self) -> Path:
        """The training text that is most similar to each test text, where that was found."""
        return self.path / "nearest.jsonl"

    @property
    def model(self) -> Path:
        """The folder of weights, tokenizer and options."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; there while the run is not finished."""
        return self.path / "checkpoints"

    @property
    def failure(self) -> Path:
        """Why the run cannot go on, where it cannot."""
        return self.path / "failure.json"

    @property
    def is_begun(self) -> bool:
        """Whether there is a run here, finished or not."""
        return self.config.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run is whole."""
        return self.is_begun and self.metrics.is_file()

    def begin(self, config: RunConfig) -> None:
        """Write the first file."""
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.config, config.to_json())

    def read_config(self, *, trust_remote_code: bool | None = None) -> RunConfig:
        """What the run was begun with.

        Args:
            trust_remote_code: whether the user asks, now, for code that comes with the run's encoder. What the folder
                says of it is only compared with this. With `None` the settings are for reading: they trust nothing.

        Raises:
            UserError: if this is no run folder, or its config is not one that this version wrote; if the run was begun
                with trust and there is none now, or the reverse.
        """
        if not self.is_begun:
            raise UserError(f"{self} is no run folder of labeldist: it has no {self.config.name}.")
        stored = read_json(self.config)
        try:
            config = RunConfig.from_json(stored)
        except (ValueError, UserError) as error:
            reason = str(error).rstrip(".")
            raise UserError(f"{self.config} was not written by this version of labeldist: {reason}.") from error
        if trust_remote_code is None or not config.spec.settings.model.is_pretrained:
            return config
        was_trusted = bool(stored["model"]["trust_remote_code"])
        if was_trusted and not trust_remote_code:
            raise UserError(
                f"{self} was begun with --trust-remote-code, and the code of its encoder "
                f"{config.spec.settings.model.encoder} never runs unasked. If you trust that code, give "
                "--trust-remote-code here, too."
            )
        if trust_remote_code and not was_trusted:
            raise UserError(f"{self} was begun without --trust-remote-code. Leave it out here, too.")
        return config.trusting(trust_remote_code)

    def read_finished(self, *, trust_remote_code: bool | None = None) -> RunConfig:
        """As `read_config`, of a run that is whole.

        Raises:
            UserError: if the run is not finished, too.
        """
        config = self.read_config(trust_remote_code=trust_remote_code)
        if not self.is_finished:
            raise UserError(f"The run in {self} is not finished. Go on with it: labeldist train --resume {self}")
        return config

    def read_metrics(self) -> RunMetrics:
        """What the run found out.

        Raises:
            UserError: if the file is missing or broken, or has another format.
        """
        return read_record(self.metrics, RunMetrics)

    def read_history(self) -> dict[str, Any]:
        """Losses and validation accuracy by epoch, seconds.

        Raises:
            UserError: if the file is missing or broken.
        """
        return _object(self.history, {"log": list, "seconds": object})

    def read_matrix(self) -> NDArray[np.float64] | None:
        """The label distances, `(C, C)`; `None` where the run has none.

        Raises:
            UserError: if the file is broken.
        """
        return self._read_table("matrix") if self.matrix.exists() else None

    def read_relevance(self) -> NDArray[np.float64] | None:
        """The graded targets, `(C, C)`; `None` where the run has none.

        Raises:
            UserError: if the file is broken.
        """
        has_any = self.matrix.exists() and "relevance" in _object(self.matrix, {})
        return self._read_table("relevance") if has_any else None

    def read_levels(self) -> list[NDArray[np.float64]]:
        """The graded targets of each level, `(C, C)`; empty where the run has none.

        Raises:
            UserError: if the file is broken.
        """
        if not self.matrix.exists() or "levels" not in _object(self.matrix, {}):
            return []
        stored = _object(self.matrix, {"levels": list})
        return [self._table(stored, level, "levels") for level in stored["levels"]]

    def _read_table(self, key: str) -> NDArray[np.float64]:
        stored = _object(self.matrix, {key: list | dict})
        return self._table(stored, stored[key], key)

    def _table(self, stored: Mapping[str, Any], entries: Any, key: str) -> NDArray[np.float64]:
        names = stored.get("class_names")
        table = matrix_from_json(entries, len(names) if isinstance(names, list) else None)
        if table is None:
            raise UserError(f"{self.matrix} cannot be read: the {key} must be a square array of numbers.")
        return table

    def fail(self, sentence: str) -> None:
        """Note why the run cannot go on, so that no attempt to resume it trains as long as this one did."""
        write_json(self.failure, {"reason": sentence})

    def check_can_go_on(self) -> None:
        """Raise `UserError`, with the reason, if the run came to an end that would come again."""
        if self.failure.exists():
            raise UserError(str(_object(self.failure, {"reason": str})["reason"]))

    def finish(self, metrics: RunMetrics) -> None:
        """Write the last file, and remove what only an unfinished run needs."""
        make_readable_like_others(self.model)
        write_record(self.metrics, metrics)
        self.remove_checkpoints()

    def remove_checkpoints(self) -> None:
        """Delete the checkpoints of a finished run."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def _object(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    stored = read_json(path)
    for name, kind in fields.items():
        if not isinstance(stored, dict) or name not in stored or not isinstance(stored[name], kind):
            raise UserError(f"{path} cannot be read: it has no {name!r} as this version of labeldist writes it.")
    return stored


def check_new_folder(folder: Path, cure: str | None = None) -> None:
    """Raise `UserError` if `folder` exists with anything in it; the cure is another `--output`, or what is given."""
    with writing_to(folder):
        # Ignore a partial first file left by a killed run, and this process's own lock.
        free = (".json.partial", LOCK_FILE)
        is_taken = folder.exists() and (
            not folder.is_dir() or any(not path.name.endswith(free) for path in folder.iterdir())
        )
    if is_taken:
        hint = f" To go on with it: --resume {folder}." if RunFolder(folder).is_begun else ""
        cure = cure or f"Choose another --output.{hint}"
        raise UserError(f"{folder} exists already and is never overwritten. {cure}")
