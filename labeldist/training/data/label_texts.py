"""Label texts of a corpus: from its class names, a file, or a mapping."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from labeldist.label_texts import label_text_rows, names_without_meaning
from labeldist.messages import listed, shown
from labeldist.training.config import DataSettings
from labeldist.training.data.corpus import Corpus, RawCorpus, Split, without_texts_of
from labeldist.training.data.sources import find_source
from labeldist.training.errors import UserError

__all__ = ["LabelTexts", "names_as_rows", "with_label_texts"]

LabelTexts = Mapping[str, str | Sequence[str]]
"""One sentence or several for each class, by class name."""


def with_label_texts(raw: RawCorpus, data: DataSettings, given: LabelTexts | None = None) -> RawCorpus:
    """The corpus with label texts, which join the training rows of every seed.

    Args:
        raw: the corpus.
        data: which label texts are wanted, `"none"`, `"names"`, `"given"` or a file, and in which forms.
        given: the mapping of `"given"`.

    Raises:
        UserError: if the file cannot be read, or the texts do not fit the classes.
    """
    wanted, forms = data.label_texts, data.label_text_forms
    if wanted == "none":
        return raw
    if wanted == "given" and given is None:
        raise UserError(
            "label_texts 'given' stands for a mapping of label texts passed in Python, and there is none here. Pass it "
            "(the same one to go on with a run), or give a file."
        )
    if wanted not in ("names", "given"):
        given = _read(Path(wanted))
    source = {"names": "the class names", "given": "the mapping given"}.get(wanted, Path(wanted).name)
    try:
        texts, labels = label_text_rows(raw.class_names, None if wanted == "names" else given, forms=forms)
    except (TypeError, ValueError) as error:
        cure = ' Give sentences by a file or mapping (label_texts), or "none".' if wanted == "names" else ""
        raise UserError(f"{source}: {error}{cure}") from error
    in_forms = f", in {len(forms)} forms" if len(forms) > 1 else ""
    notes = [f"label texts: {len(texts)} training rows from {source}{in_forms}"]
    mute = names_without_meaning(raw.class_names) if wanted == "names" else []
    if mute:
        notes.append(
            f"label texts: {len(mute)} of {len(raw.class_names)} names say little ({listed(mute, 5)}); a sentence for "
            "each class helps more: --label-texts FILE"
        )
    return replace(raw, label_texts=Split(texts, np.asarray(labels, dtype=np.int64)), notes=(*raw.notes, *notes))


def names_as_rows(corpus: Corpus) -> Split:
    """The class names as label texts, but for those that stand in the test or validation set.

    Raises:
        UserError: if two names read alike.
    """
    try:
        texts, labels = label_text_rows(corpus.class_names)
    except ValueError as error:
        raise UserError(f"the class names: {error} Give sentences: --label-texts FILE.") from error
    return without_texts_of(Split(texts, np.asarray(labels, dtype=np.int64)), (corpus.test, corpus.validation))[0]


def _read(path: Path) -> dict[str, list[str]]:
    """A file's sentences by class name."""
    if not path.is_file():
        raise UserError(f"--label-texts must be names, none or a file, and there is no file {shown(str(path))}.")
    if path.suffix.lower() == ".json":
        return _mapping(path)
    table = find_source([str(path)]).table("train")
    texts: dict[str, list[str]] = {}
    for text, label in zip(table.texts, table.labels, strict=True):
        texts.setdefault(label, []).append(text)
    return texts


def _mapping(path: Path) -> Any:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(stored, dict) or not all(_is_texts(value) for value in stored.values()):
        raise UserError(f'{path} must hold one sentence or a list of sentences per class: {{"class name": "text"}}.')
    return stored


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
