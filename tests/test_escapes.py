"""Text from data cannot steer a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeldist.messages import escape_controls
from strategies import thorough


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\b\b\bxyz", r"abc\x08\x08\x08xyz"),
        ("one\ntwo\r\tthree\x00\x7f", r"one\ntwo\r\tthree\x00\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066a\u2069\u200f\u061c", r"\u2066a\u2069\u200f\u061c"),
        ("half \ud83d", r"half \ud83d"),
        ("a\u2028b\u2029c\x85", r"a\u2028b\u2029c\x85"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_its_code(text, shown):
    assert escape_controls(text) == shown


@pytest.mark.parametrize(
    "text", ["plain", "naïve Ökonom", "提问/取消", "می‌خواهم", "क्‍ष", "👩‍🔬", "C:\\new", "עברית", ""]
)
def test_text_of_every_language_stays_as_it_is(text):
    assert escape_controls(text) == text


@thorough
@given(st.text())
def test_no_control_and_no_mark_of_direction_is_left(text):
    shown = escape_controls(text)
    assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in shown)
    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not any(unicodedata.bidirectional(character) in directions for character in shown)
    assert escape_controls(shown) == shown
