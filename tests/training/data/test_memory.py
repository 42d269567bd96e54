"""Texts in memory are read as files are."""

from typing import Any

import numpy as np
import pytest

from labeldist.training.data.corpus import read_source
from labeldist.training.data.memory import memory_source
from labeldist.training.errors import UserError

TEXTS = ["is it fast?", "it is fast", "is it slow?", "it is slow"] * 5
LABELS = ["ask", "tell"] * 10


def table(value: Any, **columns: Any):
    return memory_source({"train": value}).table("train", **columns)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (LABELS, ["ask", "tell"]),
        ([0, 1] * 10, ["0", "1"]),
        (np.array([0, 1] * 10), ["0", "1"]),
        ([True, False] * 10, ["True", "False"]),
    ],
    ids=["strings", "integers", "array", "booleans"],
)
def test_a_list_of_texts_with_labels(labels, names):
    found = table((TEXTS, labels))
    assert found.texts == TEXTS
    assert found.labels[:2] == names
    assert found.place.at(3) == "texts (train), row 3"


def test_a_data_frame_with_its_columns_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": range(20), "Sentence": TEXTS, "intent": LABELS})
    assert table(frame).columns == ("Sentence", "intent")
    assert table(frame, text_column="Sentence", label_column="id").labels[:3] == ["0", "1", "2"]
    frame.loc[2, "intent"] = None
    with pytest.raises(UserError, match=r"texts \(train\), row 3: the label is missing"):
        table(frame)
    frame.loc[2, "intent"] = float("nan")
    with pytest.raises(UserError, match="row 3: the label is missing"):
        table(frame)


def test_a_data_set_with_the_names_of_its_classes():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 10}, features=features)
    assert table(rows).labels[:2] == ["no", "yes"]
    parts = datasets.DatasetDict(train=rows, dev=rows.select(range(4)), test=rows.select(range(6)))
    corpus = read_source(memory_source(parts))
    assert {part: len(rows) for part, rows in corpus.tables.items()} == {"train": 20, "validation": 4, "test": 6}
    assert corpus.class_names == ("no", "yes")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((TEXTS, LABELS[:-1]), "train: texts and labels must be equally many, got 20 texts and 19 labels"),
        (TEXTS, r"train must be a pair \(texts, labels\), a pandas DataFrame or a datasets.Dataset, got list"),
        (3, r"train must be a pair"),
        ((TEXTS, 3), "train: texts and labels must be lists, got int"),
        (("one text", "a label"), "train must be a pair"),
    ],
)
def test_what_is_no_table_is_told(value, message):
    with pytest.raises(UserError, match=message):
        table(value)


def test_a_defect_is_told_with_its_row():
    with pytest.raises(UserError, match=r"texts \(train\), row 2: the text is empty"):
        table((["a", " "], ["x", "y"]))
    with pytest.raises(UserError, match=r"row 1: the text .* must be a string, got 3"):
        table(([3, "a"], ["x", "y"]))


def test_a_mapping_without_a_part_to_train_on_is_told():
    with pytest.raises(UserError, match="need a part 'train' to train on, got 'tran'"):
        memory_source({"tran": (TEXTS, LABELS)})
