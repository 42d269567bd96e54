"""The data of a run: read, drawn and fingerprinted as its settings say."""

import hashlib

from labeldist.training.config import DataSettings, RunSettings
from labeldist.training.data.coarse import CoarseOptions
from labeldist.training.data.corpus import Corpus, RawCorpus, read_source
from labeldist.training.data.label_texts import with_label_texts
from labeldist.training.data.sources import Source, find_source
from labeldist.training.errors import UserError

__all__ = ["draw_splits", "fingerprint", "read_rows", "read_run_corpus"]


def read_rows(source: Source, data: DataSettings) -> RawCorpus:
    """Read a source by the columns, formats and coarse labels of the settings.

    Raises:
        UserError: for any defect of the data.
    """
    return read_source(
        source,
        text_column=data.text_column,
        label_column=data.label_column,
        table_format=data.table_format,
        coarse=CoarseOptions.of(data),
    )


def draw_splits(raw: RawCorpus, data: DataSettings, seed: int) -> Corpus:
    """Draw the splits of one seed.

    Raises:
        UserError: if there are too few rows to draw from.
    """
    return raw.draw(seed=seed, validation_fraction=data.validation_fraction, shots=data.shots)


def read_run_corpus(settings: RunSettings, seed: int) -> Corpus:
    """Read the data that settings name, with their label texts, and draw the splits of one seed.

    Raises:
        UserError: for any defect of the data; if they were given in memory, and so are nowhere to be read.
    """
    data = settings.data
    if not data.data:
        raise UserError("The texts of this run were given in Python. Go on with it there, with the same texts.")
    return draw_splits(with_label_texts(read_rows(find_source(data.data), data), data), data, seed)


def fingerprint(settings: RunSettings, corpus: Corpus) -> str:
    """A digest of everything that a run reads from files: its rows, its matrix, relation, hierarchy and costs.

    Raises:
        UserError: if a file cannot be read.
    """
    digest = corpus.fingerprint
    files = (
        settings.matrix.matrix_file,
        settings.data.hierarchy_file,
        settings.data.costs_file,
        settings.matrix.relation_file,
    )
    for path in filter(None, files):
        try:
            digest = hashlib.sha256(digest.encode() + path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest
