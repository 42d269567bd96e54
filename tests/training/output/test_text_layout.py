"""Styles, widths, wrapped lines and tables."""

import io
import itertools
import os
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeldist.training.output import text_layout
from labeldist.training.output.text_layout import (
    display_width,
    fit,
    fit_tables,
    format_table,
    output_width,
    style,
    wrap,
    wrap_for,
)
from strategies import thorough


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _color_allowed(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_color_needs_a_terminal_and_no_veto(monkeypatch):
    assert style("done", "green", io.StringIO()) == "done"
    assert style("done", "green", None) == "done"
    assert style("done", "green", Terminal()) == "\x1b[32mdone\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert style("done", "green", Terminal()) == "done"


@pytest.mark.parametrize(("columns", "width"), [(20, 40), (72, 72), (80, 80), (250, 100)])
def test_a_terminal_says_how_wide_it_is(monkeypatch, columns, width):
    monkeypatch.setattr(text_layout.shutil, "get_terminal_size", lambda fallback: os.terminal_size((columns, 24)))
    assert output_width(Terminal()) == width
    # A pipe has no width, whatever the terminal beside it has.
    assert output_width(io.StringIO()) == output_width(None) == 80


def test_width_counts_wide_characters_twice_and_colors_not_at_all():
    assert display_width("提问ab") == 6
    assert display_width("e\u0301") == 1
    assert display_width(style("done", "green", Terminal())) == 4


@thorough
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])), st.integers(1, 20))
def test_what_was_cut_fits(text, width):
    assert display_width(fit(text, width)) <= width
    if display_width(text) <= width:
        assert fit(text, width) == text


@thorough
@given(st.lists(st.text("ab提", min_size=1, max_size=8)), st.integers(20, 40))
def test_wrapped_lines_fit_and_lose_no_word(words, width):
    lines = wrap(" ".join(words), width, "  ")
    assert all(display_width(line) <= width for line in lines)
    assert " ".join(line.strip() for line in lines) == " ".join(words)
    # No word would have had room on the line before.
    for before, line in itertools.pairwise(lines):
        assert display_width(f"{before} {line.split()[0]}") > width
        assert line.startswith("  ")


def test_a_word_that_is_too_long_has_a_line_of_its_own():
    assert wrap("see /a/very/long/path for it", 10) == ["see", "/a/very/long/path", "for it"]
    assert wrap("", 10) == [""]


def test_a_percent_sign_stays_with_its_number():
    assert wrap("rows at 95 % interval", 11) == ["rows at", "95 %", "interval"]
    assert wrap("in 7 min 21 s, 3 seeds", 11) == ["in 7 min", "21 s, 3", "seeds"]


def test_columns_of_a_table_stand_below_each_other():
    table = format_table(["class", "rows"], [["提问", "1"], [style("tell", "bold", Terminal()), "23"]], "<>")
    assert [display_width(line) for line in table.splitlines()] == [11, 11, 11, 11]


def test_a_table_without_rows_shows_its_headers():
    assert format_table(["a", "b"], []).splitlines() == ["a  b", "-  -"]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 cells, one for each header, got 1"):
        format_table(["a", "b"], [["x"]])


def test_a_table_that_fits_is_one():
    headers, rows = ["class", "a", "b"], [["提问", "1", "2"]]
    assert fit_tables(headers, rows, "<>>", 80) == format_table(headers, rows, "<>>")


def test_a_table_that_is_too_wide_becomes_even_ones():
    headers = ["class", *(f"a column {c}" for c in range(5))]
    rows = [["ask", *map(str, range(5))], ["tell", *map(str, range(5))]]
    # 5 and 10 columns each, 2 between them: three fit into 41, so five are shared out as two and three.
    tables = fit_tables(headers, rows, "<>>>>>", 41).split("\n\n")
    assert [table.splitlines()[0].count("column") for table in tables] == [2, 3]
    assert all(table.splitlines()[2].startswith("ask") for table in tables)


@thorough
@given(st.lists(st.text("ab提", max_size=30), min_size=2, max_size=5), st.integers(12, 60))
def test_tables_fit_wherever_a_column_does(names, width):
    rows = [[name, "12.5", "3"] for name in names]
    lines = fit_tables(["class", "F1 %", "rows"], rows, "<>>", width).splitlines()
    assert max(map(display_width, lines)) <= width


def test_paragraphs_are_wrapped_to_the_stream(monkeypatch):
    monkeypatch.setenv("COLUMNS", "44")
    text = "a sentence of words that are many and more than a line holds\nanother one"
    assert wrap_for(Terminal(), text).splitlines() == [
        "a sentence of words that are many and more",
        "  than a line holds",
        "another one",
    ]


def test_each_stream_has_its_own_width(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    outer, inner = os.openpty()
    termios.tcsetwinsize(inner, (24, 57))
    with os.fdopen(inner, "w") as terminal:
        assert output_width(terminal) == 57
    os.close(outer)
