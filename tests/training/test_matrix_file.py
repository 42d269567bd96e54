import json
import os
import time

import pytest
import torch

from labeldist import Relation
from labeldist.ldm import StaticLDM
from labeldist.training.data import lines
from labeldist.training.errors import UserError
from labeldist.training.matrix_file import parse_pair, read_matrix_file

NAMES = ("guns", "politics", "baseball", "hockey")


def read(path, content, *, names=NAMES, **options):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_matrix_file(path, names, **options)


def test_pairs_take_tau_or_their_own_distance(tmp_path):
    content = {"pairs": [["guns", "politics"], ["baseball", "hockey", 3]]}
    ldm = read(tmp_path / "a.json", content, max_distance=4.0)
    assert isinstance(ldm, StaticLDM)
    assert ldm.class_names == NAMES
    assert ldm.matrix.tolist() == [[1, 4, 1, 1], [4, 1, 1, 1], [1, 1, 1, 3], [1, 1, 3, 1]]


def test_tau_of_the_file_wins(tmp_path):
    ldm = read(tmp_path / "a.json", {"pairs": [["guns", "politics"]], "max_distance": 2}, max_distance=9.0)
    assert ldm.distance("guns", "politics") == 2


@pytest.mark.parametrize("groups", [{"sport": ["baseball", "hockey"]}, [["baseball", "hockey"]]])
def test_groups_with_and_without_names(tmp_path, groups):
    ldm = read(tmp_path / "a.json", {"groups": groups})
    assert torch.equal(ldm.matrix, StaticLDM.from_groups([["baseball", "hockey"]], class_names=NAMES).matrix)


def test_hierarchy_of_objects_and_arrays(tmp_path):
    tree = {"sport": {"ball": ["baseball"], "ice": "hockey"}, "talk": ["guns", "politics"]}
    ldm = read(tmp_path / "a.json", {"hierarchy": tree}, max_distance=3.0)
    # The only common ancestor below the root is that of guns and politics, and that of baseball and hockey.
    assert torch.equal(ldm.matrix, Relation.from_hierarchy(tree, class_names=NAMES).scaled().near(3.0).matrix)
    assert ldm.distance("guns", "politics") == 3
    assert ldm.distance("guns", "baseball") == 1


def test_matrix_is_put_in_the_corpus_order(tmp_path):
    content = {"matrix": [[1, 2], [3, 4]], "class_names": ["b", "a"]}
    assert read(tmp_path / "a.json", content, names=["a", "b"]).matrix.tolist() == [[4, 3], [2, 1]]


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_tables_may_order_rows_and_columns_differently(tmp_path, suffix, separator):
    rows = [["", "a", "b, or c"], ["b, or c", "2", "1"], ["a", "1", "0.5"]]
    content = "\ufeff" + "\r\n".join(separator.join(f'"{field}"' for field in row) for row in rows) + "\r\n\r\n"
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content.encode())
    # Row = anchor's class: from "a" to "b, or c" the distance is 0.5, the other way 2.
    assert read_matrix_file(path, ["a", "b, or c"]).matrix.tolist() == [[1, 0.5], [2, 1]]


def test_numeric_class_names_are_names_not_indices(tmp_path):
    ldm = read(tmp_path / "a.json", {"pairs": [[1, 2]]}, names=["2", "3", "1"])
    assert ldm.distance("1", "2") == 5
    assert read(tmp_path / "a.json", {"hierarchy": [[1, 2], 3]}, names=["2", "3", "1"]).distance("1", "2") == 5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "a.json is empty"),
        ('{"pairs": [', "line 1: not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ([1], "one JSON object with exactly one of pairs, groups, hierarchy, matrix, got none of them"),
        ({}, "got none of them"),
        ({"sport": ["guns"]}, 'got none of them. Put a hierarchy under the key "hierarchy".'),
        ({"pairs": [], "groups": []}, "got pairs and groups"),
        ({"pairs": [], "taus": 3}, "beside 'pairs' there is 'taus'"),
        ({"pairs": [], "max_distance": "5"}, "max_distance must be a number above 0, got '5'"),
        ({"pairs": [], "max_distance": 0}, "max_distance must be a finite number above 0, got 0"),
        ({"pairs": [], "max_distance": float("nan")}, "max_distance must be a finite number above 0, got nan"),
        ({"pairs": {}}, '"pairs" must be an array'),
        ({"pairs": [["guns"]]}, r'each of "pairs" must be .* got \["guns"\]'),
        ({"pairs": [["guns", None]]}, r'"pairs" must hold class names, got \["guns", null\]'),
        ({"pairs": [["guns", "gnus"]]}, "There is no class 'gnus'; the classes are guns, .* Did you mean 'guns'?"),
        ({"pairs": [["guns", "guns"]]}, "two different classes, got 'guns' twice"),
        ({"pairs": [["guns", "hockey"], ["hockey", "guns", 2]]}, "the pair 'hockey' and 'guns' stands more than once"),
        ({"pairs": [["guns", "hockey", "3"]]}, "distance of a pair must be a finite number"),
        ({"pairs": [["guns", "hockey", -1]]}, "distance of a pair must be a finite number >= 0"),
        ({"pairs": [["guns", "hockey", float("nan")]]}, "distance of a pair must be a finite number"),
        ({"groups": ["guns"]}, '"groups" must be'),
        ({"groups": [["gnus"]]}, "There is no class 'gnus'"),
        ({"groups": {"a": ["guns", "politics"], "b": ["gnus"]}}, "There is no class 'gnus'"),
        ({"pairs": [], "max_distance": 10**400}, "max_distance must be a finite number above 0, got inf"),
        ({"pairs": [], "max_distance": -(10**400)}, "max_distance must be a finite number above 0, got -inf"),
        ({"pairs": [["guns", "hockey", 10**400]]}, "distance of a pair must be a finite number >= 0"),
        ({"pairs": [["guns", "hockey", 1e300]]}, "distance of a pair must be a finite number >= 0"),
        ('{"pairs": [["guns", "hockey", ' + "1" * 5000 + "]]}", "Exceeds the limit"),
        ({"matrix": [[10**400]], "class_names": ["guns"]}, "'politics' is missing"),
        ({"groups": [["guns", "gnus"]]}, "no class 'gnus'"),
        ({"groups": [["guns", "guns"]]}, "a group names the class 'guns' more than once"),
        ('{"groups": {"a": ["guns"], "a": ["hockey"]}}', "the key 'a' stands twice in one JSON object"),
        ({"hierarchy": ["guns", "politics", "baseball"]}, "'hockey' is missing"),
        ({"hierarchy": [*NAMES, "guns"]}, "'guns' stands more than once"),
        ({"hierarchy": [*NAMES, "gnus"]}, "no class 'gnus'"),
        ({"hierarchy": [*NAMES, None]}, '"hierarchy" must hold class names'),
        ({"matrix": [[1]]}, 'needs "class_names" beside it'),
        ({"matrix": 3, "class_names": ["guns"]}, '"matrix" must be an array of rows'),
        ({"matrix": [[1]], "class_names": list(NAMES)}, "the matrix has 1 rows for 4 class names"),
        ({"matrix": [[1], [1, 1]], "class_names": ["guns", "hockey"]}, "row 'guns' of the matrix has 1 entries for 2"),
        ({"matrix": [[True]], "class_names": ["guns"]}, "has the entry true, which is no number"),
        ({"matrix": [["1"]], "class_names": ["guns"]}, 'has the entry "1", which is no number'),
        ({"matrix": [[1]], "class_names": ["guns"]}, "for each of the 4 classes, it has 1 and 'politics' is missing"),
    ],
)
def test_defects_of_json_files_are_told(tmp_path, content, expected):
    with pytest.raises(UserError, match=expected) as caught:
        read(tmp_path / "a.json", content)
    assert str(caught.value).startswith(str(tmp_path / "a.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (",a,b\na,1,x\nb,1,1\n", "row 'a', column 'b': 'x' is no number"),
        (",a,b\na,1,nan\nb,1,1\n", "row 'a', column 'b': a distance must be finite and >= 0, got nan"),
        (",a,b\na,1,inf\nb,1,1\n", "must be finite and >= 0, got inf"),
        (",a,b\na,1,1\nb,-2,1\n", "row 'b', column 'a': a distance must be finite and >= 0, got -2.0"),
        (",a,b\na,1\nb,1,1\n", "row 'a' has 1 entries where the header names 2 classes"),
        (",a,b\na,1,1\n", "a row for each of the 2 classes, it has 1 and 'b' is missing"),
        (",a\na,1\nb,1\n", "a column for each of the 2 classes, it has 1 and 'b' is missing"),
        (",a,b\na,1,1\na,1,1\n", "the class 'a' has more than one row"),
        (",a,c\na,1,1\nb,1,1\n", "There is no class 'c'"),
        (',a,b\n"a,1,1\n', "There is no class '\"a'"),
        (',a,b\n"a\n', "a quote is opened in this row and never closed"),
        (",a,b\na,1,1\nb,1e300,1\n", "row 'b', column 'a': a distance must be finite and >= 0, got 1e\\+300"),
        (",a\x1b[2J,b\na,1,1\nb,1,1\n", r"There is no class 'a\\x1b\[2J'"),
    ],
)
def test_defects_of_tables_are_told(tmp_path, content, expected):
    with pytest.raises(UserError, match=expected):
        read(tmp_path / "a.csv", content, names=["a", "b"])


def test_numbers_beyond_the_range_of_floats_are_told(tmp_path):
    for number in (10**400, 1e300, -(10**400)):
        content = {"matrix": [[1, 1], [number, 1]], "class_names": ["a", "b"]}
        with pytest.raises(UserError, match=r"row 'b', column 'a': a distance must be finite and >= 0, got "):
            read(tmp_path / "a.json", content, names=["a", "b"])


def test_the_matrix_that_a_run_wrote_is_read(tmp_path):
    content = {
        "class_names": ["b", "a"],
        "source": "the confusions of the validation set",
        "matrix": [[1, 2], [3, 4]],
        "history": [{"progress": 0.5, "matrix": [[1, 1], [1, 1]]}],
    }
    assert read(tmp_path / "ldm.json", content, names=["a", "b"]).matrix.tolist() == [[4, 3], [2, 1]]
    del content["source"]
    with pytest.raises(UserError, match="beside 'matrix' there is 'history', which has no meaning here"):
        read(tmp_path / "ldm.json", content, names=["a", "b"])


def test_hierarchies_may_be_nested_deeply(tmp_path):
    tree = "guns"
    for _ in range(400):
        tree = {"inner": [tree]}
    content = {"hierarchy": [tree, "politics", ["baseball", "hockey"]]}
    assert read(tmp_path / "a.json", content).distance("baseball", "hockey") == 5
    # Deeper than Python's stack: where `json` gives up is its own matter, but it is one sentence.
    text = json.dumps(content).replace("[{", "[" * 50_000 + "{", 1)
    with pytest.raises(UserError, match=r"nested too deeply|not valid JSON"):
        read(tmp_path / "b.json", text)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_tables_of_any_separator_and_line_end_are_read(tmp_path, separator, end):
    rows = [["", "a", "b"], ["a", "1", "2"], ["b", "3", "4"]]
    content = end.join(separator.join(row) for row in rows) + end
    (tmp_path / "a.csv").write_bytes(content.encode())
    assert read_matrix_file(tmp_path / "a.csv", ["a", "b"]).matrix.tolist() == [[1, 2], [3, 4]]


def test_many_classes_are_read_in_time_that_grows_with_the_matrix(tmp_path):
    names = [f"class {i}" for i in range(1500)]
    half = len(names) // 2
    start = time.perf_counter()
    groups = read(tmp_path / "a.json", {"groups": [names[:half], names[half:]]}, names=names)
    tree = read(tmp_path / "b.json", {"hierarchy": [names[:half], names[half:]]}, names=names)
    assert torch.equal(groups.matrix, tree.matrix)
    assert time.perf_counter() - start < 20


def test_files_that_cannot_be_read_are_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"There is no matrix file .*b.json"):
        read_matrix_file(tmp_path / "b.json", NAMES)
    with pytest.raises(UserError, match=r"is read from a .json, .csv or .tsv file"):
        read_matrix_file(tmp_path / "b.xlsx", NAMES)
    (tmp_path / "c.csv").mkdir()
    with pytest.raises(UserError, match=r"c.csv is a folder where a file is expected"):
        read_matrix_file(tmp_path / "c.csv", NAMES)
    for name in ("x" * 300 + ".json", "loop.json"):
        (tmp_path / "loop.json").unlink(missing_ok=True)
        (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
        with pytest.raises(UserError, match=r"cannot be read: "):
            read_matrix_file(tmp_path / name, NAMES)
    monkeypatch.setattr(lines, "_PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match=r"pipe.json is a pipe that nothing was written to"):
        read_matrix_file(tmp_path / "pipe.json", NAMES)
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"d.csv: byte 1 is not UTF-8"):
        read_matrix_file(tmp_path / "d.csv", NAMES)


def test_parse_pair_splits_at_the_comma_that_gives_two_classes():
    assert parse_pair("guns,hockey", NAMES) == ("guns", "hockey")
    assert parse_pair(" guns , hockey ", NAMES) == ("guns", "hockey")
    assert parse_pair("a,b,c", ["a,b", "c"]) == ("a,b", "c")
    assert parse_pair("a,b,c", ["a", "b,c"]) == ("a", "b,c")


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("guns", NAMES, "A confusable pair is written first,second, got 'guns'"),
        ("guns,hocky", NAMES, "'guns,hocky': There is no class 'hocky'; .* Did you mean 'hockey'?"),
        ("hocky,guns", NAMES, "There is no class 'hocky'"),
        ("gnus,hocky", NAMES, "There is no class 'gnus'; .* Did you mean 'guns'?"),
        ("a,b,d", ["a,b", "c"], "There is no class 'd'"),
        ("guns,guns", NAMES, "must name two different classes, got 'guns' twice"),
        ("a,b,c", ["a", "a,b", "c", "b,c"], "can be read as 'a' and 'b,c' or 'a,b' and 'c'"),
    ],
)
def test_parse_pair_tells_what_is_wrong(text, names, expected):
    with pytest.raises(UserError, match=expected):
        parse_pair(text, names)


def test_the_matrix_of_a_run_is_a_matrix_file(finished_run):
    stored = json.loads((finished_run / "ldm.json").read_text(encoding="utf-8"))
    ldm = read_matrix_file(finished_run / "ldm.json", stored["class_names"])
    assert ldm.matrix.tolist() == stored["matrix"]
