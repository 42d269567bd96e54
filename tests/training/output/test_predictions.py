"""What a terminal shows of a prediction."""

import io

import pytest

from labeldist.training.output.predictions import prediction_text
from labeldist.training.output.text_layout import display_width

FOUND = {"text": "is it?", "label": "ask", "probability": 0.75, "probabilities": {"ask": 0.75, "tell": 0.25}}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("ranked", [False, True])
def test_every_line_fits_and_no_control_character_is_left(monkeypatch, ranked):
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("NO_COLOR", "1")
    hostile = "提问 \x1b[2J" * 30
    found = {**FOUND, "text": hostile, "label": hostile, "probabilities": {hostile: 0.75, "tell": 0.25}}
    text = prediction_text(found, ranked=ranked, stream=Terminal())
    assert "\x1b" not in text
    assert max(map(display_width, text.splitlines())) <= 50
    assert len(text.splitlines()) == (3 if ranked else 1)


def test_the_label_stands_out_among_the_classes(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    decided = {**FOUND, "label": "tell", "probability": 0.25}
    assert prediction_text(decided, ranked=True, stream=Terminal()).splitlines() == [
        "is it?",
        "     75.0 %  ask",
        "\x1b[1m     25.0 %  tell\x1b[0m",
    ]


def test_a_blank_line_has_no_label():
    assert prediction_text({"text": " ", "label": None, "probability": None, "probabilities": {}}) == (
        "      -  (blank line)"
    )
