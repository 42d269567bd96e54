"""Data sets of the Hugging Face hub: their splits as rows with class names."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from labeldist.class_names import nearest_name
from labeldist.messages import listed, shown
from labeldist.training.data.columns import Unread
from labeldist.training.errors import UserError

__all__ = ["hub_answers", "hub_splits", "is_hub_id"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[^:/\\]+)?")
_FILE_SUFFIX = re.compile(
    r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow|feather|txt|xlsx?|pkl|gz|zip|bz2|xz|zst)$", re.IGNORECASE
)
_PROBE_SECONDS = 5
_CURE = "Give an existing folder or file, or a data set that the hub has and this machine can reach."

Rows = Iterator[tuple[int, dict[str, Any]]]


def is_hub_id(name: str) -> bool:
    """Whether `name` looks like `data-set` or `owner/data-set`, perhaps with `:configuration`, and not like a file.

    Examples:
        >>> is_hub_id("stanfordnlp/imdb"), is_hub_id("nyu-mll/glue:sst2")
        (True, True)
        >>> is_hub_id("data/train.csv"), is_hub_id("./imdb")
        (False, False)
    """
    return bool(_HUB_ID.fullmatch(name)) and not _FILE_SUFFIX.search(name)


def hub_splits(name: str) -> dict[str, Callable[[], Rows]]:
    """The labeled splits of a hub data set, by the hub's name of the split.

    Class indices become class names. A split whose labels are all hidden (-1) is left out. Columns that can hold
    neither texts nor labels, such as images, are not read.

    Args:
        name: the id, `data-set` or `owner/data-set`; with `:configuration` where the data set has several.

    Returns:
        For each split a function that yields its rows, numbered from 1.

    Raises:
        UserError: if `datasets` is not installed, the hub cannot be reached or has no such data set, or `name` does not
            name one of its several configurations.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            'Reading from the hub needs datasets. Install it with: pip install "labeldist[train]"'
        ) from error
    _check_reachable(name)
    data_set, _, configuration = name.partition(":")
    try:
        with _quiet():
            loaded = datasets.load_dataset(data_set, configuration or None)
    # The hub's client, its HTTP library and the file builders each raise errors of their own, without a common base.
    except Exception as error:
        _check_configuration(data_set, configuration)
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise UserError(f"{_absent(name)}, and as a hub data set it cannot be loaded: {reason}. {_CURE}") from error
    assert isinstance(loaded, datasets.DatasetDict)
    return {
        str(split): lambda rows=dataset: _named_rows(rows)
        for split, dataset in loaded.items()
        if not _is_unlabeled(dataset)
    }


def _check_configuration(data_set: str, configuration: str) -> None:
    """Raise `UserError` if the data set has configurations and `configuration` is none of them."""
    import datasets

    try:
        with _quiet():
            names = [str(name) for name in datasets.get_dataset_config_names(data_set)]
    # Whatever kept the data set from loading keeps its configurations from being listed.
    except Exception:
        return
    if configuration in names or (len(names) < 2 and not configuration):
        return
    known = f"{len(names)} configurations ({listed(names, 20)})" if len(names) > 1 else f"one configuration, {names[0]}"
    if configuration:
        raise UserError(
            f"The hub data set {data_set} has no configuration {shown(configuration)}; it has {known}."
            f"{nearest_name(configuration, names)}"
        )
    raise UserError(f"The hub data set {data_set} has {known}. Choose one: {data_set}:{names[0]}")


def _absent(name: str) -> str:
    return f"There is no file or folder {shown(name)} here"


def hub_answers() -> bool:
    """Ask the hub for a sign of life: its clients retry for 20 s and longer before they give up."""
    import huggingface_hub
    from huggingface_hub import constants

    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    # The HTTP library behind the session is the hub client's own matter, and so are its errors.
    except Exception:
        return False
    return True


def _check_reachable(name: str) -> None:
    from huggingface_hub import constants

    # Offline, `datasets` answers at once, and from its cache where it can.
    if not constants.is_offline_mode() and not hub_answers():
        host = constants.ENDPOINT.removeprefix("https://")
        raise UserError(
            f"{_absent(name)}, and the hub ({host}) cannot be reached to look for a data set of that name. {_CURE} "
            "HF_HUB_OFFLINE=1 reads one that was downloaded before."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines of the hub's client: what matters is in the error."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _class_labels(dataset: Any) -> dict[str, list[str]]:
    """The columns of class indices with their names."""
    from datasets import ClassLabel

    return {column: feature.names for column, feature in dataset.features.items() if isinstance(feature, ClassLabel)}


def _is_unlabeled(dataset: Any) -> bool:
    return any(dataset.unique(column) == [-1] for column in _class_labels(dataset))


def _named_rows(dataset: Any) -> Rows:
    classes = _class_labels(dataset)
    plain = [column for column, feature in dataset.features.items() if _is_plain(feature)]
    others = {
        column: Unread(getattr(feature, "dtype", None) or type(feature).__name__)
        for column, feature in dataset.features.items()
        if column not in plain
    }
    # Images and audio are decoded as they are read, with libraries that may not be here, and nobody asks for them.
    for number, row in enumerate(dataset.select_columns(plain) if others else dataset, start=1):
        for column, names in classes.items():
            index = row[column]
            row[column] = names[index] if index is not None and index >= 0 else None
        yield number, row | others


def _is_plain(feature: Any) -> bool:
    from datasets import ClassLabel, Value

    kinds = ("string", "large_string", "bool", "null", "int", "uint", "float")
    return isinstance(feature, ClassLabel) or (isinstance(feature, Value) and str(feature.dtype).startswith(kinds))
