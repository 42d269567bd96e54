import json
import logging
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from labeldist.training.data import hub
from labeldist.training.data.corpus import load_corpus, natural_order, read_split
from labeldist.training.data.sources import find_source
from labeldist.training.errors import UserError


def rows_of(*counts: int, prefix: str = "", **named: int) -> list[dict]:
    """So many rows of classes "0", "1", ... and of named ones, each text its own."""
    sizes = {**{str(i): count for i, count in enumerate(counts)}, **named}
    return [{"text": f"{prefix}{label} text {i}", "label": label} for label, size in sizes.items() for i in range(size)]


def write(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def folder_of(path: Path, **parts: list[dict]) -> str:
    for part, rows in parts.items():
        write(path / f"{part}.jsonl", rows)
    return str(path)


def pairs_of(split) -> set:
    return set(zip(split.texts, split.labels.tolist(), strict=True))


def test_folder_with_three_parts_is_taken_as_it_is(tmp_path):
    parts = {"train": rows_of(4, 5), "test": rows_of(2, 1, prefix="t"), "dev": rows_of(1, 1, prefix="v")}
    corpus = load_corpus([folder_of(tmp_path / "mail", **parts)])
    assert corpus.name == "mail"
    assert corpus.class_names == ("0", "1")
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (9, 2, 3)
    assert corpus.train.texts == [row["text"] for row in parts["train"]]
    assert corpus.train.labels.dtype == np.int64
    assert corpus.notes == ("columns: text 'text', label 'label'",)


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_folder_may_call_its_validation_part_so(tmp_path, name):
    parts = {"train": rows_of(4, 4), "test": rows_of(1, 1), name: rows_of(1, 2)}
    assert len(load_corpus([folder_of(tmp_path, **parts)]).validation) == 3


def test_files_are_train_test_validation(tmp_path):
    names = ["x.jsonl", "y.jsonl", "z.jsonl"]
    files = [write(tmp_path / name, rows_of(20, i + 1)) for i, name in enumerate(names)]
    corpus = load_corpus(files)
    assert (len(corpus.train), len(corpus.test), len(corpus.validation)) == (21, 22, 23)
    corpus = load_corpus(files[:2])
    assert (len(corpus.train), len(corpus.test), len(corpus.validation)) == (19, 22, 2)
    assert corpus.name == "x"


def test_one_file_gives_a_test_set_too_and_says_so(tmp_path):
    path = write(tmp_path / "all.jsonl", rows_of(60, 40))
    corpus = load_corpus([path], seed=3, text_column="text", label_column="label")
    assert [len(split) for split in (corpus.train, corpus.validation, corpus.test)] == [72, 8, 20]
    assert not pairs_of(corpus.train) & pairs_of(corpus.test) | pairs_of(corpus.validation) & pairs_of(corpus.test)
    assert corpus.notes == (
        f"test: 20 of 100 rows drawn from {path} by seed 3",
        f"validation: 8 of 80 rows drawn from {path} by seed 3",
    )


def test_folder_with_train_alone_gives_a_test_set_too(tmp_path):
    corpus = load_corpus([folder_of(tmp_path, train=rows_of(60, 40))])
    assert len(corpus.test) == 20


def test_demo_is_at_hand():
    corpus = load_corpus(["demo"])
    assert corpus.name == "demo"
    assert len(corpus.train) + len(corpus.validation) == 4000
    assert len(corpus.class_names) >= 8
    assert len(read_split("demo", corpus.class_names)) == len(corpus.test)


def test_validation_draw_depends_on_labels_and_seed_only(tmp_path):
    first = [folder_of(tmp_path / "a", train=rows_of(30, 20), test=rows_of(1, 1))]
    second = [folder_of(tmp_path / "b", train=rows_of(30, 20, prefix="other "), test=rows_of(2, 3))]
    drawn = [
        [text.removeprefix("other ") for text in load_corpus(data, seed=5).validation.texts] for data in (first, second)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != load_corpus(first, seed=6).validation.texts


def test_shots_are_drawn_after_validation_and_leave_it_alone(tmp_path):
    data = [folder_of(tmp_path, train=rows_of(30, 20, rare=1), test=rows_of(1, 1))]
    full, few = load_corpus(data), load_corpus(data, shots=4)
    assert pairs_of(few.validation) == pairs_of(full.validation)
    assert pairs_of(few.train) < pairs_of(full.train)
    assert np.bincount(few.train.labels).tolist() == [4, 4, 1]
    assert few.notes[-2:] == (
        "train: 9 of 46 rows, 4 a class, drawn by seed 0",
        "shots: 1 of 3 classes have fewer rows (rare 1)",
    )
    assert few.fingerprint != full.fingerprint


def test_single_row_classes_stay_in_train_and_are_noted_absent(tmp_path):
    corpus = load_corpus([folder_of(tmp_path, train=rows_of(30, 20, rare=1), test=rows_of(1, 1))])
    assert corpus.class_names[2] == "rare"
    assert 2 in corpus.train.labels
    assert "validation: no row of 1 of 3 classes (rare)" in corpus.notes


def test_texts_in_train_and_test_are_kept_and_counted(tmp_path):
    corpus = load_corpus(
        [
            folder_of(
                tmp_path,
                train=rows_of(30, 20),
                test=[*rows_of(2), {"text": "1  Text 0", "label": "1"}, {"text": "new", "label": "0"}],
            )
        ]
    )
    assert len(corpus.test) == 4
    assert "test: 3 of 4 texts also stand in train, case and spacing aside" in corpus.notes


def test_columns_that_differ_between_parts_are_noted(tmp_path):
    write(tmp_path / "train.jsonl", rows_of(5, 5))
    (tmp_path / "test.csv").write_text("Sentence,intent\na,0\n")
    notes = load_corpus([str(tmp_path)]).notes
    assert notes[:2] == (
        "columns of train: text 'text', label 'label'",
        "columns of test: text 'Sentence', label 'intent'",
    )


def test_fingerprint_tells_texts_labels_and_order_apart(tmp_path):
    rows = rows_of(3, 3)
    variants = [rows, rows[::-1], [{**rows[0], "text": "x"}, *rows[1:]], [{**rows[0], "label": "1"}, *rows[1:]]]
    prints = [
        load_corpus([folder_of(tmp_path / str(i), train=variant, test=rows, dev=rows)]).fingerprint
        for i, variant in enumerate([*variants, rows])
    ]
    assert len(set(prints)) == 4
    assert prints[0] == prints[-1]
    assert len(prints[0]) == 64


def test_class_names_are_in_natural_order():
    assert natural_order({"10", "2", "-3"}) == ("-3", "2", "10")
    assert natural_order({"rec.sport", "alt", "Comp"}) == ("alt", "Comp", "rec.sport")
    assert natural_order({"level 10", "level 9", "7", "a"}) == ("7", "a", "level 9", "level 10")
    assert natural_order({"1", "01"}) == ("01", "1")


def test_integer_and_boolean_labels_name_their_classes(tmp_path):
    rows = [{"text": f"text {i}", "label": i % 11} for i in range(44)]
    assert load_corpus([write(tmp_path / "a.jsonl", rows)]).class_names == tuple(str(i) for i in range(11))
    rows = [{"text": f"text {i}", "label": i % 2 == 0} for i in range(44)]
    assert load_corpus([write(tmp_path / "b.jsonl", rows)]).class_names == ("False", "True")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            {"train": rows_of(5), "test": rows_of(1)},
            r"train.jsonl holds one class only, '0'. A classifier needs at least two",
        ),
        (
            {"train": rows_of(5, 5), "test": rows_of(1, wheather=2)},
            r"test.jsonl, line 2: the label 'wheather' does not stand",
        ),
        ({"train": rows_of(5, weather=5), "test": rows_of(1, wheather=2)}, r"stand in .*Did you mean 'weather'\?$"),
        (
            {"train": rows_of(5, 5), "test": rows_of(1, x=1, y=1)},
            r"train.jsonl, like 1 more \(x, y\)\. Leave such rows out, or add rows .*; the classes are 0, 1\.$",
        ),
        (
            {"train": rows_of(5, 5), "test": rows_of(1), "dev": rows_of(x=1)},
            r"dev.jsonl, line 1: the label 'x' does not",
        ),
        (
            {"train": rows_of(1, 1, 1), "test": rows_of(1)},
            r"too few rows to draw a validation set: 3, and no class has two",
        ),
        ({"train": rows_of(1, 1, 1)}, r"too few rows to draw a test set: 3"),
        (
            {"test": rows_of(1, 1)},
            r"has no train part. A folder's files are to be called train\.\*, test\.\* and validation\.\*",
        ),
        ({"trian": rows_of(1, 1)}, r"has no train file. The names recognized are train\.\*, .*; it has trian.jsonl\.$"),
    ],
)
def test_corpora_that_cannot_be_used_are_told(tmp_path, parts, expected):
    with pytest.raises(UserError, match=expected):
        load_corpus([folder_of(tmp_path, **parts)])


def test_two_train_files_in_one_folder_are_told(tmp_path):
    folder = folder_of(tmp_path, train=rows_of(5, 5), test=rows_of(1))
    (tmp_path / "train.csv").write_text("text,label\na,0\n")
    with pytest.raises(UserError, match=r"has more than one train file: train.csv, train.jsonl. Keep one"):
        load_corpus([folder])


def test_empty_folder_and_wrong_names_are_told(tmp_path):
    with pytest.raises(UserError, match=r"it has nothing\.$"):
        load_corpus([str(tmp_path)])
    (tmp_path / "corpus").mkdir()
    with pytest.raises(UserError, match=r"There is no file or folder '.*corpsu'. Did you mean 'corpus'\?"):
        load_corpus([str(tmp_path / "corpsu")])
    with pytest.raises(UserError, match=r"There is no file or folder 'missing.csv'"):
        load_corpus(["missing.csv"])
    with pytest.raises(UserError, match=r"There is no file .*test.csv"):
        load_corpus([write(tmp_path / "a.jsonl", rows_of(5, 5)), str(tmp_path / "test.csv")])
    with pytest.raises(UserError, match=r"corpus is of no kind|is a folder where a file is expected"):
        load_corpus([str(tmp_path / "corpus"), str(tmp_path / "a.jsonl")])
    for data in ([], ["a"] * 4):
        with pytest.raises(UserError, match=f"got {len(data)} names"):
            load_corpus(data)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"shots": 0}, "--shots must be at least 1, got 0"),
        ({"validation_fraction": 1.0}, "--validation-fraction must be at least 0 and below 1, got 1.0"),
        ({"validation_fraction": float("nan")}, "--validation-fraction must be at least 0"),
        ({"seed": -1}, "A seed must not be negative, got -1"),
    ],
)
def test_options_outside_their_range_are_told(option, expected):
    with pytest.raises(UserError, match=expected):
        load_corpus(["demo"], **option)


def test_read_split_takes_a_file_or_the_test_part_of_a_folder(tmp_path):
    folder = folder_of(tmp_path, test=rows_of(2, 3))
    for path in (folder, tmp_path / "test.jsonl"):
        split = read_split(path, ["1", "0", "2"])
        assert split.labels.tolist() == [1, 1, 0, 0, 0]
    with pytest.raises(UserError, match=r"test.jsonl, line 3: the label '1' is no class of the model"):
        read_split(folder, ["0", "2"])
    with pytest.raises(UserError, match=r"has no test part"):
        read_split(folder_of(tmp_path / "b", train=rows_of(1)), ["0"])


def test_unreachable_hub_is_one_fast_sentence(monkeypatch, capfd, caplog):
    from huggingface_hub import constants

    # A name that no resolver knows (RFC 2606): the test says the same with and without a connection.
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        load_corpus(["owner/no-such-data"])
    assert time.perf_counter() - start < 30
    message = str(caught.value)
    assert message.startswith(
        "There is no file or folder 'owner/no-such-data' here, and the hub (hub.invalid) cannot be"
    )
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_hub_data_set_that_does_not_load_is_one_sentence(monkeypatch):
    from huggingface_hub import constants

    # Offline, `datasets` looks in its cache alone.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"'no-such-data' here, and as a hub data set it cannot be loaded: .*Give an existing"
    ):
        load_corpus(["no-such-data"])


def test_hub_splits_carry_class_names_and_lose_hidden_labels(monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )

    def part(labels):
        rows = {"sentence": [f"text {i}" for i in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(rows, features=features)

    loaded = datasets.DatasetDict(train=part([0, 1] * 20), validation=part([1, 0, 1]), test=part([-1, -1]))
    monkeypatch.setattr(hub, "_check_reachable", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration: loaded)
    corpus = load_corpus(["owner/reviews"])
    assert corpus.class_names == ("bad", "good")
    assert corpus.validation.labels.tolist() == [1, 0, 1]
    # The hidden test labels are of no use, so a test set is drawn.
    assert (len(corpus.train), len(corpus.test)) == (32, 8)
    assert set(find_source(["owner/reviews"]).parts) == {"train", "validation"}
    loaded["validation"] = part([1, -1])
    with pytest.raises(UserError, match=r"owner/reviews \(validation\), row 2: the label is missing"):
        load_corpus(["owner/reviews"])


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A data set of two configurations under the name `reviews`, where `datasets` looks for it before the hub."""
    datasets = pytest.importorskip("datasets")
    configs = []
    for config, labels in (("short", "ab"), ("long", "xyz")):
        folder = tmp_path / "reviews" / config
        folder.mkdir(parents=True)
        rows = "".join(f"text {i} of {label},{label}\n" for label in labels for i in range(9))
        (folder / "train.csv").write_text("text,label\n" + rows)
        configs.append(f"- config_name: {config}\n  data_files:\n  - split: train\n    path: {config}/train.csv\n")
    (tmp_path / "reviews" / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "_check_reachable", lambda name: None)
    datasets.disable_progress_bars()
    yield tmp_path / "reviews"
    datasets.enable_progress_bars()


def test_a_hub_data_set_of_several_configurations_is_chosen_by_name(hub_folder):
    assert find_source(["reviews:long"]).name == "reviews:long"
    assert load_corpus(["reviews:long"]).class_names == ("x", "y", "z")
    assert load_corpus(["reviews:short"]).class_names == ("a", "b")


def test_configurations_to_choose_from_are_named(hub_folder):
    with pytest.raises(UserError) as caught:
        hub.hub_splits("reviews")
    assert str(caught.value) == (
        "The hub data set reviews has 2 configurations (short, long). Choose one: reviews:short"
    )
    with pytest.raises(UserError, match=r"no configuration 'lnog'; it has 2 .*\(short, long\). Did you mean 'long'\?"):
        hub.hub_splits("reviews:lnog")


def test_hub_columns_that_hold_neither_texts_nor_labels_are_not_read(monkeypatch):
    datasets = pytest.importorskip("datasets")
    # No date of Python's is 2**30 days from 1970.
    days = pa.array([2**30] * 9, pa.int32()).cast(pa.date32())
    rows = {"text": [f"t{i}" for i in range(9)], "label": list("aab" * 3), "day": days, "pictures": [[b"x"]] * 9}
    loaded = datasets.DatasetDict(train=datasets.Dataset(pa.table(rows)))
    monkeypatch.setattr(hub, "_check_reachable", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration: loaded)
    assert load_corpus(["owner/reviews"]).class_names == ("a", "b")
    with pytest.raises(UserError, match=r"the text \(column 'day'\) must be a string, got a value of type date32"):
        load_corpus(["owner/reviews"], text_column="day")


COMPOSED, DECOMPOSED = "r\u00e9clamation", "re\u0301clamation"


def test_classes_that_look_alike_are_said_once(tmp_path):
    labels = [COMPOSED, "merci"] * 9 + [DECOMPOSED, "merci\u200b", "Merci", "other", " other"] * 9
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    corpus = load_corpus([write(tmp_path / "a.jsonl", rows)])
    assert len(corpus.class_names) == 6
    alike = [note for note in corpus.notes if "labels that look alike" in note]
    assert alike == [
        f"labels that look alike are different classes: 'Merci' and 'merci' (case); 'Merci' and 'merci\\u200b' "
        f"(case and invisible characters (U+200B)); '{DECOMPOSED}' and '{COMPOSED}' "
        "(Unicode form (decomposed and composed accents))"
    ]
    assert "labels: 'other' also with spaces around, which do not count" in corpus.notes


def test_a_test_label_that_looks_like_a_class_is_told_apart_from_it(tmp_path):
    rows = [{"text": f"text {i}", "label": label} for i in range(9) for label in (COMPOSED, "merci")]
    folder = folder_of(tmp_path, train=rows, test=[{"text": "a", "label": DECOMPOSED}])
    with pytest.raises(UserError, match=r"They differ only in Unicode form \(decomposed and composed accents\)"):
        load_corpus([folder])


def test_labels_that_differ_in_nothing_else_are_not_noted(tmp_path):
    assert not any("alike" in note for note in load_corpus([write(tmp_path / "a.jsonl", rows_of(9, 9, a=9))]).notes)


def test_an_unusual_dialect_is_noted_and_no_row_is_lost(tmp_path):
    rows = "".join(f'"say {i}\tx\n{i} he said"\ty\n' for i in range(17))
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + rows)
    corpus = load_corpus([str(tmp_path / "a.tsv")])
    assert len(corpus.train) + len(corpus.validation) + len(corpus.test) == 34
    assert f"{tmp_path}/a.tsv: quotes are read as part of the text, each line as one row" in corpus.notes


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "num_train", "num_test", "num_classes"),
    [
        ("20ng", 11314, 7532, 20),
        ("r8", 5485, 2189, 8),
        ("r52", 6532, 2568, 52),
        ("mr", 7108, 3554, 2),
        ("trec", 5452, 500, 6),
    ],
)
def test_real_corpora_have_the_published_shapes(corpora, name, num_train, num_test, num_classes):
    corpus = load_corpus([str(corpora / name)])
    assert corpus.name == name
    assert len(corpus.train) + len(corpus.validation) == num_train
    assert len(corpus.validation) == round(0.1 * num_train)
    assert len(corpus.test) == num_test
    assert len(corpus.class_names) == num_classes
    assert set(corpus.train.labels.tolist()) == set(range(num_classes))


@pytest.mark.data
def test_real_corpora_are_noted_where_they_are_awkward(corpora):
    assert (
        "test: 11 of 500 texts also stand in train, case and spacing aside"
        in load_corpus([str(corpora / "trec")]).notes
    )
    r52 = load_corpus([str(corpora / "r52")], shots=5)
    platinum = r52.class_names.index("platinum")
    assert (r52.train.labels == platinum).sum() == 1
    assert "classes have fewer rows" in r52.notes[-1]
