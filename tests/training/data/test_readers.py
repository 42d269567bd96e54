import gzip
import io
import json
import os
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeldist.training.data import columns
from labeldist.training.data.columns import LABEL_COLUMNS, TEXT_COLUMNS, Place, find_text_column, labeled_table
from labeldist.training.data.dialects import TableFormat
from labeldist.training.data.readers import read_rows, read_texts
from labeldist.training.errors import UserError

ROWS = [{"text": "where is it?", "label": "question"}, {"text": "发货不慢, 很好", "label": "praise"}]


def write_jsonl(path: Path, rows=ROWS) -> Path:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_table(path: Path, rows=ROWS, separator=",") -> Path:
    lines = [separator.join(rows[0]), *(separator.join(f'"{value}"' for value in row.values()) for row in rows)]
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_parquet(path: Path, rows=ROWS) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def defect(path: Path) -> str:
    """The one sentence that reading `path` to its end raises."""
    with pytest.raises(UserError) as caught:
        list(read_rows(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "write", "first"),
    [
        ("a.jsonl", write_jsonl, 1),
        ("a.jsonl.gz", write_jsonl, 1),
        ("A.CSV", write_table, 2),
        ("a.csv.gz", write_table, 2),
        ("a.tsv", lambda path: write_table(path, separator="\t"), 2),
        ("a.tsv.gz", lambda path: write_table(path, separator="\t"), 2),
        ("a.parquet", write_parquet, 1),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, write, first):
    assert list(read_rows(write(tmp_path / name))) == list(enumerate(ROWS, start=first))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_byte_order_mark_and_windows_line_ends_are_not_content(tmp_path, name):
    path = (write_jsonl if name == "a.jsonl" else write_table)(tmp_path / name)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [row for _, row in read_rows(path)] == ROWS


def test_blank_lines_are_skipped_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "a"}\n  \n\n{"text": "b"}')
    assert list(read_rows(path)) == [(2, {"text": "a"}), (5, {"text": "b"})]


def test_line_separators_inside_a_json_string_do_not_end_the_line(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one\u2028two\x85three"}])
    assert [row["text"] for _, row in read_rows(path)] == ["one\u2028two\x85three"]


def test_quoted_csv_fields_keep_line_breaks_and_rows_their_first_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,label\n"one\r\ntwo, ""three""",x\n\nfour,y\n')
    assert list(read_rows(path)) == [
        (2, {"text": 'one\r\ntwo, "three"', "label": "x"}),
        (5, {"text": "four", "label": "y"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b"", "a.jsonl is empty."),
        ("a.jsonl", b"\n \n", "a.jsonl holds no rows."),
        ("a.csv", b"text,label\n", "a.csv holds no rows: line 1 names the columns (text, label), and that is all."),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b"\n',
            "a.jsonl, line 2: not valid JSON: Expecting ',' delimiter at column",
        ),
        ("a.jsonl", b'{"a": 1}\n["text"]\n', 'a.jsonl, line 2: each line must be one JSON object such as {"text"'),
        ("a.jsonl", b"3\n", "got a number."),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: JSON that cannot be read: "),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "caf\xe9"}\n',
            "a.jsonl, line 2: byte 14 of the line (0xe9) is not UTF-8.",
        ),
        ("a.csv", "text\nä\n".encode("utf-16"), "a.csv, line 1: byte 1 of the line (0xff) is not UTF-8."),
        ("a.csv", b"text,label\na,x\nb\n", "a.csv, line 3: 1 field where the header has 2."),
        ("a.csv", b"text,label\na,b,x\n", "a.csv, line 2: 3 fields where the header has 2."),
        ("a.csv", b'text,label\n"a,x\nb\n', "a.csv, line 3: 1 field where the header has 2."),
        ("a.csv", b'text,label\n"a\nb,y\n', "a.csv, line 2: a quote is opened in this row and never closed."),
        ("a.csv", b'text,label\n"a,"b,x\n', "a.csv, line 2: text follows the closing quote of a field."),
        ("a.csv", b"text,label\na\rb,x\n", "a.csv, line 2: a carriage return stands in a field without quotes."),
        ("a.csv", b'text,label\n"' + b"a\n" * 80_000, "a.csv, line 2: a field is longer than 131072 characters."),
        ("a.csv", b"text,label,text\na,x,b\n", "a.csv, line 1: the header names the column 'text' more than once."),
        ("a.jsonl.gz", b'{"text": "a"}\n', "a.jsonl.gz is not a sound gzip file: "),
        (
            "a.csv.gz",
            gzip.compress(b"text\n" + b"a\n" * 999, mtime=0)[:-12],
            "a.csv.gz is a damaged or incomplete gzip file: ",
        ),
        ("a.parquet", b"PAR1 but not really PAR1", "a.parquet is not a sound Parquet file: "),
        ("a.docx", b"text", "a.docx is of no kind that can be read. Give a file whose name ends in .jsonl, "),
        ("a.json", b"[]", "a.json is of no kind that can be read."),
    ],
)
def test_each_defect_is_one_sentence_with_file_and_line(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    message = defect(path)
    assert message.startswith(str(tmp_path))
    assert expected in message
    assert "\n" not in message


def test_flipped_bytes_in_a_gzip_file_are_a_defect(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl.gz", [{"text": f"text {i * 7919}"} for i in range(500)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert "a.jsonl.gz" in defect(path)


def test_parquet_damaged_in_its_middle_is_a_defect(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"text": f"text {i * 7919}"} for i in range(5000)])
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    assert "a.parquet is not a sound Parquet file" in defect(path)


def test_parquet_columns_that_hold_neither_texts_nor_labels_are_not_read(tmp_path):
    # No date of Python's is 2**30 days from 1970.
    days = pa.array([2**30, 1], pa.int32()).cast(pa.date32())
    times = pa.array([2**62, 1], pa.int64()).cast(pa.timestamp("us"))
    rows = {"text": ["a", "b"], "label": pa.array(["x", "y"]).dictionary_encode(), "day": days, "time": times,
            "tags": [["p"], []], "score": [0.5, None]}  # fmt: skip
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    (_, first), _ = read_rows(tmp_path / "a.parquet")
    assert {name: first[name] for name in ("text", "label", "score")} == {"text": "a", "label": "x", "score": 0.5}
    assert labeled_table(read_rows(tmp_path / "a.parquet"), Place("here")).labels == ["x", "y"]
    with pytest.raises(
        UserError, match=r"row 1: the text \(column 'day'\) must be a string, got a value of type date32"
    ):
        list(read_texts(tmp_path / "a.parquet", "day"))
    pq.write_table(pa.table({"day": days}), tmp_path / "b.parquet")
    assert [number for number, _ in read_rows(tmp_path / "b.parquet")] == [1, 2]


def test_parquet_columns_of_one_name_are_told(tmp_path):
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet"
    )
    assert defect(tmp_path / "a.parquet").endswith("a.parquet has more than one column 'text'.")


def test_class_indices_of_a_parquet_file_become_the_names_that_datasets_keeps_there(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = {"text": ["a", "b"], "label": [1, 0]}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    datasets.enable_progress_bars()
    assert labeled_table(read_rows(tmp_path / "a.parquet"), Place("here")).labels == ["good", "bad"]
    pq.write_table(pa.table(rows), tmp_path / "b.parquet")
    assert labeled_table(read_rows(tmp_path / "b.parquet"), Place("here")).labels == ["1", "0"]


def test_a_json_key_that_stands_twice_is_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a: b", "label": "label"}\n{"text": "a", "label": 1, "text": "b"}\n')
    assert "a.jsonl, line 2: JSON that cannot be read: the key 'text' stands more than once" in defect(path)


def test_a_text_that_no_model_reads_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "MAX_TEXT", 1000)
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a" * 1000, "label": "x"}, {"text": "a" * 1001, "label": "x"}])
    for read in (lambda: list(read_texts(path)), lambda: labeled_table(read_rows(path), Place("here"))):
        with pytest.raises(
            UserError, match=r"line 2: the text has 1001 characters, more than 1000. Split it, or cut it"
        ):
            read()


def test_a_message_shows_what_stands_in_a_file_escaped_and_cut(tmp_path):
    name = "\x1b]0;title\x07\x9b\u202e"
    path = write_jsonl(tmp_path / f"a{name}.jsonl", [{name + "b" * 10**5: {"c" * 10**5: name}}])
    for column, part in ((name, "there is no column"), (name + "b" * 10**5, "must be a string, got {'c")):
        with pytest.raises(UserError) as caught:
            list(read_texts(path, column))
        assert part in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) <= 800


def test_missing_file_offers_the_nearest_name(tmp_path):
    write_jsonl(tmp_path / "train.jsonl")
    assert defect(tmp_path / "trian.jsonl").endswith("trian.jsonl. Did you mean 'train.jsonl'?")
    assert defect(tmp_path / "none" / "train.jsonl").startswith("There is no file ")


def test_folder_in_place_of_a_file_is_told(tmp_path):
    (tmp_path / "train.csv").mkdir()
    assert defect(tmp_path / "train.csv").endswith("is a folder where a file is expected.")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_file_without_permission_is_told(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl")
    path.chmod(0)
    assert defect(path).endswith("a.jsonl cannot be read: Permission denied.")


def test_rows_stream_in_constant_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as stream:
        stream.writelines(json.dumps({"text": f"{i} " + "word " * 100}) + "\n" for i in range(20_000))  # 10 MB
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_texts(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 2**20


def test_rows_before_a_defect_are_given_first(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": ')
    texts = read_texts(path)
    assert next(texts) == "a"
    with pytest.raises(UserError, match="line 2"):
        next(texts)


def test_texts_come_from_a_found_a_named_or_the_only_column(tmp_path):
    path = write_table(tmp_path / "a.csv", [{"id": "1", "Sentence": "a", "note": "b"}])
    assert list(read_texts(path)) == ["a"]
    assert list(read_texts(path, "note")) == ["b"]
    assert list(read_texts(write_jsonl(tmp_path / "b.jsonl", [{"whatever": "c"}, {"whatever": "d"}]))) == ["c", "d"]
    with pytest.raises(UserError, match=r"a.csv: there is no column 'nota' \(--text-column\); .* mean 'note'\?"):
        list(read_texts(path, "nota"))


def test_what_is_told_of_a_table_is_taken(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text^label\nis it "fast^ask\nsome, more^tell\n')
    told = TableFormat.of("^", "none")
    assert [row["text"] for _, row in read_rows(path, table_format=told)] == ['is it "fast', "some, more"]
    with pytest.raises(UserError, match=r"line 3: 2 fields .* found wrongly, give --delimiter or --quotes\."):
        list(read_rows(path))
    with pytest.raises(UserError, match=r"line 1: --delimiter ';' does not stand in the header, 'text\^label'\."):
        list(read_rows(path, table_format=TableFormat.of(";", None)))
    path.write_text('text,label\n"one\ntwo",x\n' + 7 * '"a,b\nc,d",y\n')
    assert len(list(read_rows(path, table_format=TableFormat.of(None, "standard")))) == 8
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_text('{"text": "a"}\n')
        with pytest.raises(UserError, match=r"--delimiter and --quotes belong to csv and tsv files, and .* is none"):
            list(read_texts(tmp_path / name, table_format=told))


@pytest.mark.parametrize("delimiter", ["", "ab", '"', "\n"])
def test_a_delimiter_is_one_character(delimiter):
    with pytest.raises(UserError, match=r"--delimiter must be one character, or tab"):
        TableFormat.of(delimiter, None)


@pytest.mark.parametrize(("name", "header"), [("a.jsonl", ""), ("a.csv", "text\n")])
def test_blank_lines_between_rows_are_noted(tmp_path, name, header):
    row = '{"text": "a"}' if name == "a.jsonl" else "a"
    path, notes = tmp_path / name, []
    path.write_text(f"{header}{row}\n\n\n{row}\n\n")
    assert list(read_texts(path, note=notes.append)) == ["a", "a"]
    first = 3 if header else 2
    assert notes == [f"{path}: 2 blank lines skipped, the first is line {first}"]


def test_plain_text_files_hold_one_text_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes('\ufeffone\r\n "two" \nthree'.encode())
    assert list(read_texts(path)) == ["one", ' "two" ', "three"]
    notes = []
    path.write_text("one\n\nthree\n \r\n")
    # Each line keeps its place, and the answers theirs.
    assert list(read_texts(path, note=notes.append)) == ["one", "", "three", " "]
    assert notes == [f"{path}: 2 blank lines have no label, the first is line 2"]
    with pytest.raises(UserError, match=r"There is no file .*b.txt. Did you mean 'a.txt'\?"):
        list(read_texts(tmp_path / "b.txt"))
    with pytest.raises(UserError, match=r"of no kind that can be read. Give '-' or a file"):
        list(read_texts(tmp_path / "a.docx"))


def test_standard_input_holds_one_text_a_line(monkeypatch):
    def feed(content: bytes):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return list(read_texts("-"))

    assert feed("eins\nzwei ß\n".encode()) == ["eins", "zwei ß"]
    with pytest.raises(UserError, match="standard input, line 2: byte 2 of the line"):
        feed(b"one\nt\xffo\n")
    with pytest.raises(UserError, match="standard input holds no texts"):
        feed(b"")


@pytest.mark.parametrize("name", TEXT_COLUMNS)
def test_known_text_columns_are_found_in_either_case(name):
    assert find_text_column({"id": 1, name.upper(): "a"}, "here") == name.upper()


@pytest.mark.parametrize("name", LABEL_COLUMNS)
def test_known_label_columns_are_found_in_either_case(name):
    table = labeled_table([(1, {name.title(): 1, "text": "a"})], Place("here"))
    assert table.columns == ("text", name.title())


def test_named_columns_win_over_known_ones():
    row = {"text": "a", "label": "b", "subject": "c", "topic": "d"}
    table = labeled_table([(1, row)], Place("here"), text_column="subject", label_column="topic")
    assert (table.texts, table.labels) == (["c"], ["d"])
    # `text` is the label here, so the text is looked for elsewhere.
    assert labeled_table([(1, {"text": "a", "body": "b"})], Place("here"), label_column="text").texts == ["b"]


@pytest.mark.parametrize(
    ("rows", "named", "expected"),
    [
        (
            [{"txt": "a", "label": "x"}],
            {},
            r"here, line 1: no column is known to hold the text .* columns are 'txt', 'label'",
        ),
        (
            [{"text": "a", "lbl": "x"}],
            {},
            r"hold the label \(label, .*the columns are 'text', 'lbl'. Name it with --label-col",
        ),
        ([{"text": "a"}], {}, r"hold the label"),
        ([{}], {}, r"the columns are none"),
        (
            [{"txt": "a", "label": "x"}],
            {"text_column": "tx"},
            r"no column 'tx' \(--text-column\); .* Did you mean 'txt'\?",
        ),
        ([{"text": "a", "label": "x"}], {"label_column": "label "}, r"\(--label-column\); .* Did you mean 'label'\?"),
        ([{"text": "a"}], {"text_column": "text", "label_column": "text"}, r"must differ, got 'text' for both"),
        ([{"text": "a", "label": "x"}, {"text": "b"}], {}, r"here, line 2: this row has no column 'label'"),
        ([{"text": " \t", "label": "x"}], {}, r"here, line 1: the text is empty"),
        ([{"text": None, "label": "x"}], {}, r"here, line 1: the text is empty"),
        ([{"text": 3, "label": "x"}], {}, r"here, line 1: the text \(column 'text'\) must be a string, got 3 \(int\)"),
        ([{"text": "a \ud800", "label": "x"}], {}, r"the text holds half of a surrogate pair"),
        ([{"text": "a", "label": "\udc00"}], {}, r"the label holds half of a surrogate pair"),
        ([{"text": "a", "label": None}], {}, r"here, line 1: the label is missing"),
        ([{"text": "a", "label": "  "}], {}, r"here, line 1: the label is missing"),
        ([{"text": "a", "label": 1.0}], {}, r"must be one string, integer or boolean, got 1.0 \(float\)"),
        ([{"text": "a", "label": ["x"]}], {}, r"must be one string, integer or boolean, got \['x'\] \(list\)"),
    ],
)
def test_unusable_columns_and_values_are_told_with_their_line(rows, named, expected):
    with pytest.raises(UserError, match=expected):
        labeled_table(enumerate(rows, start=1), Place("here"), **named)


def test_labels_become_stripped_strings():
    rows = [{"text": "a", "label": label} for label in (" x ", 3, True)]
    assert labeled_table(enumerate(rows), Place("here")).labels == ["x", "3", "True"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["20ng", "r8", "r52", "mr", "trec"])
def test_real_corpora_have_no_unreadable_row(corpora, name):
    rows = [row for _, row in read_rows(corpora / name / "test.jsonl.gz")]
    assert len(rows) == {"20ng": 7532, "r8": 2189, "r52": 2568, "mr": 3554, "trec": 500}[name]
    assert all(set(row) == {"text", "label"} for row in rows)
