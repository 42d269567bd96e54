"""Predictions for people: what a terminal shows of them. Needs the standard library only, as predictions come soon."""

from collections.abc import Mapping
from typing import Any, TextIO

from labeldist.messages import escape_controls
from labeldist.training.output.text_layout import display_width, fit, output_width, style

__all__ = ["prediction_text"]

NAME_COLUMNS = 40


def prediction_text(prediction: Mapping[str, Any], *, ranked: bool = False, stream: TextIO | None = None) -> str:
    """A prediction for people: the probability, the label and the text, on one line.

    Args:
        prediction: as `labeldist.training.inference.Predictor.predictions` yields it.
        ranked: show the text, and below it a line for each class of `probabilities`; the label is bold.
        stream: where the text will be written: its width is kept.

    Examples:
        >>> found = {"text": "is it?", "label": "ask", "probability": 0.75}
        >>> found["probabilities"] = {"ask": 0.75, "tell": 0.25}
        >>> print(prediction_text(found))
         75.0 %  ask  is it?
        >>> print(prediction_text(found, ranked=True))
        is it?
             75.0 %  ask
             25.0 %  tell
    """
    width = output_width(stream)
    label = prediction["label"]
    if label is None:
        return style("      -  (blank line)", "dim", stream)
    if not ranked:
        start = f"{100 * prediction['probability']:5.1f} %  {_one_line(label, min(NAME_COLUMNS, width // 2))}  "
        return start + _one_line(prediction["text"], width - display_width(start))
    lines = [_one_line(prediction["text"], width)]
    for name, probability in prediction["probabilities"].items():
        line = f"    {100 * probability:5.1f} %  {_one_line(name, width - 13)}"
        lines.append(style(line, "bold", stream) if name == label else line)
    return "\n".join(lines)


def _one_line(text: str, width: int) -> str:
    """`text` from data on one line, safe to print, cut to `width` columns."""
    return fit(escape_controls(" ".join(text.split())), max(1, width))
