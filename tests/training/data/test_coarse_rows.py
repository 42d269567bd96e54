"""Coarse labels of a training table: from a column, a hierarchy, or the prefixes of class names."""

import json
from pathlib import Path

import numpy as np
import pytest

from labeldist.training.data.coarse import CoarseOptions
from labeldist.training.data.corpus import RawCorpus, read_corpus, training_rows
from labeldist.training.errors import UserError

TREE = {"number": ["count", "date"], "place": ["city", "land"]}


def write(path: Path, lines: list[str], header: str = "text,label,group") -> str:
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def fine(*, rows: int = 4, with_group: bool = True) -> list[str]:
    groups = [(name, group if with_group else "") for group, names in TREE.items() for name in names]
    return [f"{name} text {i},{name},{group}" for i in range(rows) for name, group in groups]


def read(path: str, *others: str, **options: str) -> RawCorpus:
    return read_corpus([path, *others], coarse=CoarseOptions(**options))


def refusal(path: str, *others: str, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        read(path, *others, **options)
    return str(caught.value)


def labeled(corpus) -> list[tuple[str, str]]:
    """Text and name of each coarse row, by the label that stands for it."""
    names = [*corpus.class_names, *corpus.groups]
    return [(text, names[label]) for text, label in zip(corpus.coarse.texts, corpus.coarse.labels, strict=True)]


def test_a_column_groups_the_classes_it_stands_with(tmp_path):
    coarse = ["some number,,number", "some place,  ,place", "another number,,number"]
    corpus = read(write(tmp_path / "train.csv", [*fine(), *coarse]), column="group").draw()
    assert corpus.class_names == ("city", "count", "date", "land")
    assert corpus.groups == {"number": ("count", "date"), "place": ("city", "land")}
    assert labeled(corpus) == [("some number", "number"), ("some place", "place"), ("another number", "number")]
    assert corpus.coarse.labels.tolist() == [4, 5, 4]
    assert "coarse: 3 rows of train have a coarse label, by group: number 2 (2 classes), place 1 (2 classes)" in (
        corpus.notes
    )
    assert len(corpus.train) + len(corpus.validation) + len(corpus.test) == 16


def test_a_hierarchy_is_a_file_or_json_and_labels_may_be_its_inner_nodes(tmp_path):
    path = write(tmp_path / "train.csv", [*fine(with_group=False), "some number,number,", "some place,,place"])
    tree = tmp_path / "tree.json"
    tree.write_text(json.dumps({"hierarchy": TREE}))
    corpora = [read(path, hierarchy=source, column="group").draw() for source in (str(tree), json.dumps(TREE))]
    for corpus in corpora:
        assert labeled(corpus) == [("some number", "number"), ("some place", "place")]
    assert corpora[0].fingerprint == corpora[1].fingerprint


def test_a_prefix_of_class_names_is_a_coarse_label(tmp_path):
    names = ["NUM:date:year", "NUM:date:day", "NUM:count", "LOC:city"]
    lines = [f"{name} {i},{name}" for i in range(4) for name in names]
    coarse = ["a,NUM", "b,NUM:date", "c,LOC"]
    corpus = read(write(tmp_path / "train.csv", [*lines, *coarse], "text,label"), separator=":").draw()
    assert corpus.groups == {
        "NUM": ("NUM:count", "NUM:date:day", "NUM:date:year"),
        "NUM:date": ("NUM:date:day", "NUM:date:year"),
    }
    # A group of one class is that class.
    assert labeled(corpus) == [("a", "NUM"), ("b", "NUM:date")]
    assert sum(len(split) for split in (corpus.train, corpus.validation, corpus.test)) == 17


def test_a_coarse_label_that_is_a_class_of_the_hierarchy_is_that_class(tmp_path):
    path = write(tmp_path / "train.csv", [*fine(), "a city,,city"])
    corpus = read(path, hierarchy=json.dumps(TREE), column="group").draw()
    assert not len(corpus.coarse)
    assert corpus.groups == {}
    assert "groups: every row of train has a class, none a group alone" in corpus.notes


def test_rows_without_a_label_and_rows_that_allow_all_are_left_out_and_said(tmp_path):
    tree = json.dumps({"all": TREE})
    path = write(tmp_path / "train.csv", [*fine(), "nothing,,", "neither,,", "any,,all", "some,,number"])
    corpus = read(path, hierarchy=tree, column="group").draw()
    assert labeled(corpus) == [("some", "number")]
    assert "coarse: 2 rows without any label were left out: they have no gradient" in corpus.notes
    assert "coarse: 1 rows whose coarse label allows every class were left out: they have no gradient" in corpus.notes


def test_classes_that_no_group_holds_are_said(tmp_path):
    lines = [*fine(), *(f"other {i},other," for i in range(4)), "some,,number"]
    corpus = read(write(tmp_path / "train.csv", lines), column="group").draw()
    assert "coarse: no group holds 1 of 5 classes (other)" in corpus.notes


def test_draws_take_fine_rows_only_and_keep_all_coarse_ones(tmp_path):
    coarse = [f"some number {i},,number" for i in range(30)]
    raw = read(write(tmp_path / "train.csv", [*fine(rows=20), *coarse]), column="group")
    without = read(write(tmp_path / "fine.csv", fine(rows=20)), column="group")
    for seed in (0, 1):
        corpus, plain = raw.draw(seed=seed, shots=2), without.draw(seed=seed, shots=2)
        assert np.bincount(corpus.train.labels).tolist() == [2, 2, 2, 2]
        assert len(corpus.coarse) == 30
        for part in ("train", "validation", "test"):
            assert getattr(corpus, part).texts == getattr(plain, part).texts
        rows = training_rows(corpus)
        assert rows.texts == corpus.train.texts + corpus.coarse.texts
        assert rows.labels.tolist() == [*corpus.train.labels, *corpus.coarse.labels]
        assert corpus.fingerprint != plain.fingerprint


def test_the_fingerprint_covers_coarse_rows_and_their_groups(tmp_path):
    path = write(tmp_path / "train.csv", [*fine(), "some,,number", "other,,place"])
    swapped = write(tmp_path / "swapped.csv", [*fine(), "some,,place", "other,,number"])
    regrouped = json.dumps({"number": ["count", "city"], "place": ["date", "land"]})
    plain = write(
        tmp_path / "plain.csv", [line.rsplit(",", 1)[0] + "," for line in fine()] + ["some,,number", "other,,place"]
    )
    found = {
        read(path, column="group").draw().fingerprint,
        read(swapped, column="group").draw().fingerprint,
        read(plain, column="group", hierarchy=regrouped).draw().fingerprint,
    }
    assert len(found) == 3
    # Without a coarse row it is that of the rows alone.
    fine_only = write(tmp_path / "fine.csv", fine())
    assert read(fine_only, column="group").draw().fingerprint == read_corpus([fine_only]).draw().fingerprint


def test_test_texts_among_coarse_rows_are_said(tmp_path):
    train = write(tmp_path / "train.csv", [*fine(), "Seen before,,number"])
    test = write(tmp_path / "test.csv", ["seen  before,count,"])
    assert "test: 1 of 1 texts also stand in train, case and spacing aside" in read(train, test, column="group").notes


def test_integers_in_a_column_with_gaps_are_classes(tmp_path):
    rows = [
        {"text": f"{i}", "label": float(i % 3) if i < 12 else None, "group": None if i < 12 else 7} for i in range(14)
    ]
    for row in rows[:12]:
        row["group"] = 7 if row["label"] else 8
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = read(str(path), column="group").draw()
    assert corpus.class_names == ("0", "1", "2")
    assert corpus.groups == {"7": ("1", "2")}
    assert len(corpus.coarse) == 2


def test_the_coarse_column_is_not_taken_for_the_label(tmp_path):
    # `category` is a name of labels.
    lines = [f"text {i},{'number' if i % 2 else 'place'},{i % 4}" for i in range(16)]
    header = "text,category,tag"
    raw = read(write(tmp_path / "train.csv", [*lines, "some,number,"], header), column="category")
    assert raw.tables["train"].columns == ("text", "tag")
    assert raw.draw().groups == {"number": ("1", "3")}


SEEN = "some,,number"


@pytest.mark.parametrize(
    ("lines", "options", "sentence"),
    [
        (
            [*fine(), SEEN],
            {"column": "groups"},
            "train.csv: there is no column 'groups' (--coarse-column); the columns are 'text', 'label', "
            "'group'. Did you mean 'group'?",
        ),
        (
            [*fine(), SEEN],
            {"column": "label"},
            "train.csv: no column is known to hold the label (label, labels, intent, category, class, topic, "
            "target, ...); the columns are 'text', 'label', 'group'. Name it with --label-column. "
            "A csv or tsv file needs a header.",
        ),
        (
            [*fine(), SEEN],
            {"column": "text"},
            "--coarse-column must differ from the columns of text and label, got 'text'.",
        ),
        (
            [*fine(), "some,,numbr"],
            {"column": "group"},
            "train.csv, line 18: the coarse label 'numbr' stands with no class in any row, so it allows none. Give a "
            "row that has both labels, or --hierarchy.",
        ),
        (
            [*fine(), "some,,numbr"],
            {"column": "group", "hierarchy": json.dumps(TREE)},
            "train.csv, line 18: the coarse label 'numbr' is no group and no class. Did you mean 'number'?",
        ),
        (
            [*fine(), "a,count,count", "b,date,count"],
            {"column": "group"},
            "train.csv, line 18: 'count' is both a coarse label and a class. Give one of them another name.",
        ),
        (
            [*fine(), "some,number,"],
            {"hierarchy": json.dumps({"number": ["count", "dat"], "place": ["city", "land"]})},
            "--hierarchy: the class 'dat' is the label of no row of train.csv. Give it a row, or take it out of the "
            "hierarchy. Did you mean 'date'?",
        ),
        (
            fine(),
            {"hierarchy": json.dumps({"count": ["count", "date"]})},
            "--hierarchy: 'count' is both a class and a group of other classes. Give one of them another name.",
        ),
        (
            [*fine(), "a,count,place"],
            {"column": "group", "hierarchy": json.dumps(TREE)},
            "train.csv, line 18: the class 'count' does not belong to the coarse label 'place' of its row. Correct one "
            "of them.",
        ),
        (
            ["a,number,", "b,place,"],
            {"hierarchy": json.dumps(TREE)},
            "train.csv has no row with a class as its label. Give at least one row of each class.",
        ),
        (fine(), {"hierarchy": '{"number": ['}, "--hierarchy: line 1: not valid JSON: Expecting value at column 13."),
        (fine(), {"hierarchy": "nowhere.json"}, "There is no hierarchy file nowhere.json."),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, lines, options, sentence):
    monkeypatch.chdir(tmp_path)
    write(Path("train.csv"), lines)
    assert refusal("train.csv", **options) == sentence


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            "some,number,",
            "test.csv, line 2: the label 'number' is a group of 2 classes, and each row of a test set needs a class. "
            "Give the row its class or drop it.",
        ),
        ("some,,number", "test.csv, line 2: the label is missing. Give every row a label or drop it."),
    ],
)
def test_test_rows_need_a_class(tmp_path, monkeypatch, row, sentence):
    monkeypatch.chdir(tmp_path)
    write(Path("train.csv"), [*fine(), SEEN])
    write(Path("test.csv"), [row])
    assert refusal("train.csv", "test.csv", column="group", hierarchy=json.dumps(TREE)) == sentence


def test_without_an_option_a_missing_label_stays_an_error(tmp_path):
    path = write(tmp_path / "train.csv", [*fine(), SEEN])
    assert refusal(path).endswith("line 18: the label is missing. Give every row a label or drop it.")
