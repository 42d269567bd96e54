"""What data and file names may do to a terminal: nothing."""

import unicodedata

import pytest

from labeldist.training.terminal_text import bounded, escape_controls, escape_values

ATTACKS = {
    "window title": "\x1b]0;owned\x07",
    "clear screen": "\x1b[2J",
    "backspace": "safe\b\b\b\bevil",
    "carriage return": "safe\revil",
    "C1 control": "\x9b2J",
    "right to left": "abc\u202egnp.exe",
    "isolate": "\u2066abc\u2069",
    "line separator": "one\u2028two",
    "half a pair": "\ud800",
    "null": "a\0b",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_no_control_character_is_left(text):
    shown = escape_controls(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
    assert "\\" in shown


@pytest.mark.parametrize("text", ["发货快不快", "naïve café", "नमस्ते", "שלום", "👩‍👩‍👧", "می‌خواهم", "a b"])
def test_text_of_any_language_stays_as_it_is(text):
    assert escape_controls(text) == text


def test_nested_values_are_escaped_with_their_keys():
    value = {"pairs": [{"a\x1b": ("b\x07", 3, None, 0.5)}]}
    assert escape_values(value) == {"pairs": [{"a\\x1b": ["b\\x07", 3, None, 0.5]}]}


def test_a_sentence_is_one_line_and_bounded_and_keeps_its_cure():
    sentence = bounded(f"line\nline {'x' * 100_000} \x1b[2J. Choose another --output.")
    assert len(sentence) <= 2000
    assert sentence.startswith("line line xxx")
    assert sentence.endswith("\\x1b[2J. Choose another --output.")
    assert bounded("short.") == "short."
