import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeldist.training.data.dialects import Dialect, find_dialect
from labeldist.training.data.readers import read_rows
from labeldist.training.errors import UserError
from strategies import brief


def read(path, content, **options):
    """All rows of a file, and what was said."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    notes: list[str] = []
    rows = [row for _, row in read_rows(path, note=notes.append, **options)]
    return rows, [note.removeprefix(f"{path}: ") for note in notes]


def test_bare_quotes_of_a_tab_separated_file_lose_no_row(tmp_path):
    lines = [f'"Where is order {i}?\tasks\n{i} "is late\tcomplains\nhe said {i}"\ttells' for i in range(11)]
    content = "text\tlabel\n" + "\n".join(lines) + '\nnot "slow"\tpraises\n'
    rows, notes = read(tmp_path / "a.tsv", content)
    assert len(rows) == 34
    assert rows[0] == {"text": '"Where is order 0?', "label": "asks"}
    assert rows[2] == {"text": 'he said 0"', "label": "tells"}
    assert notes == ["quotes are read as part of the text, each line as one row"]


def test_an_unquoted_corpus_is_read_without_a_parsers_sentence(tmp_path):
    rows, _ = read(tmp_path / "a.csv", 'text,label\n"no" is no answer,x\n"why,y\n')
    assert rows == [{"text": '"no" is no answer', "label": "x"}, {"text": '"why', "label": "y"}]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_another_delimiter_than_the_suffix_says_is_found_and_said(tmp_path, delimiter, suffix):
    content = f"id{delimiter}text\n1{delimiter}where is it?\n2{delimiter}late\n"
    rows, notes = read(tmp_path / f"a.{suffix}", content)
    assert rows == [{"id": "1", "text": "where is it?"}, {"id": "2", "text": "late"}]
    is_usual = delimiter == {"csv": ",", "tsv": "\t"}[suffix]
    names = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
    assert notes == ([] if is_usual else [f"fields are separated by {names[delimiter]}"])


def test_commas_in_texts_are_no_delimiter_where_the_header_has_another(tmp_path):
    rows, _ = read(tmp_path / "a.csv", "id;text\n1;yes, please\n2;no, thanks, not now\n")
    assert [row["text"] for row in rows] == ["yes, please", "no, thanks, not now"]


def test_excels_line_about_the_delimiter_is_followed_and_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\ntext;label\na;b\n\n")
    assert list(read_rows(path)) == [(3, {"text": "a", "label": "b"})]


def test_backslashes_before_quotes_and_spaces_before_them_are_understood(tmp_path):
    rows, notes = read(tmp_path / "a.csv", 'text,label\n"she said \\"no, thanks\\"",x\n')
    assert rows == [{"text": 'she said "no, thanks"', "label": "x"}]
    assert notes == ["quotes inside a field are written after a backslash"]
    rows, _ = read(tmp_path / "b.csv", 'text, label\n"yes, it is", x\n"no", "y, z"\n')
    assert rows == [{"text": "yes, it is", "label": "x"}, {"text": "no", "label": "y, z"}]


def test_texts_of_several_lines_stay_whole(tmp_path):
    texts = ["Dear team,\nwhere is it?\nYours, A", "a\nb", 'one, "two"\n\nthree,', "Hello,\nmy order, late\nBye, B"] * 9
    path = tmp_path / "a.csv"
    for order in (("text", "label"), ("label", "text")):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, order)
            writer.writeheader()
            writer.writerows({"text": text, "label": "x"} for text in texts)
        notes: list[str] = []
        assert [row["text"] for _, row in read_rows(path, note=notes.append)] == texts
        assert notes == []


def test_lines_that_a_quote_joins_though_they_may_be_rows_are_said(tmp_path):
    rows, notes = read(tmp_path / "a.csv", 'label,text\npraise,"Dear Sir\nthanks, bye"\nasks,"where, now"\n')
    assert len(rows) == 2
    assert notes == [
        "1 row of several lines that could be rows in themselves, joined by quotes; the first starts in line 2"
    ]


def test_rows_that_a_quote_swallows_far_down_are_refused(tmp_path):
    ordinary = "".join(f'"text, {i}" is no quoted field\tx\n'.replace('"', "") for i in range(60_000))
    content = "text\tlabel\n" + ordinary + '"a\tx\nb\tx\nc"\tx\n'
    assert len(content) > 2**20
    with pytest.raises(UserError, match=r"line 60002: a quote that is opened here is closed 2 lines below, but these"):
        read(tmp_path / "a.tsv", content)


def test_a_quoted_file_with_one_ragged_row_is_told_by_its_line(tmp_path):
    content = "text;label\n" + '"a;b";x\n' * 20 + "c;d;x\n" + '"e";y\n'
    with pytest.raises(UserError, match=r"a.csv, line 22: 3 fields where the header has 2. Quote fields that contain"):
        read(tmp_path / "a.csv", content)
    content = "text\tlabel\n" + '"a\tx\nb"\tx\n' * 20 + "c\td\tx\n"
    with pytest.raises(UserError, match=r"a.tsv, line 42: 3 fields where the header has 2. Quotes are read as part"):
        read(tmp_path / "a.tsv", content)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv"])
def test_lines_may_end_in_a_carriage_return_alone(tmp_path, name):
    lines = ['{"text": "a"}', '{"text": "b"}'] if name == "a.jsonl" else ["text", "a", '"b"']
    rows, _ = read(tmp_path / name, "\r".join(lines) + "\r")
    assert rows == [{"text": "a"}, {"text": "b"}]


FIELDS = st.lists(st.lists(st.text(max_size=8), min_size=2, max_size=2), min_size=1, max_size=8)


@brief
@given(FIELDS)
def test_what_csv_writes_is_read_as_it_was(tmp_path_factory, rows):
    rows = [[field.replace("\r", "") for field in row] for row in rows]
    rows = [
        row for row in rows if all(character.isprintable() or character == "\n" for field in row for character in field)
    ]
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["a", "b"], ["first", "row"], *rows])
    assert [list(row.values()) for _, row in read_rows(path)] == [["first", "row"], *rows]


def test_a_quote_that_is_open_where_the_head_ends_may_be_closed_below():
    head = ["text,label\n", "a,x\n", '"several\n', "lines\n"]
    assert find_dialect(head, ",", is_whole=False) == Dialect(",")
    tabs = ["text\tlabel\n", "a\tx\n", '"several\ty\n', "lines\ty\n"]
    assert find_dialect(tabs, "\t", is_whole=False) == Dialect("\t", "none")
