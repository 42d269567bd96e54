"""Short names of data, for folders and titles."""

from collections.abc import Sequence
from pathlib import Path

from labeldist.training.data.readers import data_suffix
from labeldist.training.data.sources import file_name
from labeldist.training.errors import UserError

__all__ = ["data_name"]


def data_name(data: Sequence[str]) -> str:
    """A short name for data: its folder's or its first file's; the folder's where the file is just called `train`.

    Raises:
        UserError: if there is no data.

    Examples:
        >>> data_name(["corpora/trec"]), data_name(["tickets.train.csv", "tickets.test.csv"])
        ('trec', 'tickets.train')
    """
    if not data:
        raise UserError("--data takes 'demo', a folder, files or a hub id; got nothing.")
    path = Path(data[0])
    if path.is_dir():
        return path.resolve().name
    # A hub id (owner/name) goes by its name, as does a file that is absent: reading it will tell.
    return file_name(path) if data_suffix(path) else path.name
