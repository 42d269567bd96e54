"""Names and values inside an error sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeldist.messages import cut, escape_controls, listed, shown, shown_json
from strategies import brief

NESTED: list = []
for _ in range(5000):
    NESTED = [NESTED]


@brief
@given(st.text(max_size=20))
def test_no_control_character_or_mark_of_direction_is_left(text):
    for sentence in (escape_controls(text), shown(text), shown_json([text]), listed([text])):
        assert not set(sentence) & {*map(chr, range(32)), *map(chr, range(127, 160)), "\u200f", "\u202e", "\u2066"}


def test_letters_of_every_script_stay():
    assert escape_controls("né 发货快 नमस्ते ไทย 🙂") == "né 发货快 नमस्ते ไทย 🙂"


@pytest.mark.parametrize(
    "value",
    ["a" * 10**6, [["a" * 10**6] * 9] * 9, NESTED, 10**5000, {"a": NESTED}, -(10.0**300)],
    ids=range(6),
)
def test_any_value_is_shown_in_a_few_characters(value):
    assert 0 < len(shown(value)) < 100
    assert 0 < len(shown_json(value)) < 100


def test_a_short_text_is_not_cut():
    assert cut("a" * 80) == "a" * 80
    assert len(cut("a" * 81)) == 80
    assert cut("ab" * 100, 21) == "abababab ... babababab"[:8] + " ... " + ("ab" * 100)[-8:]
