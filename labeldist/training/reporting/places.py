"""What a folder holds beside predictions: places on a map, and the most similar training texts."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from labeldist.reports.predictions import Nearest, Predictions
from labeldist.training.atomic import read_json
from labeldist.training.data.lines import file_lines
from labeldist.training.errors import UserError

__all__ = ["with_map", "with_nearest"]


def with_map(predictions: Predictions, path: Path) -> tuple[Predictions, str]:
    """The predictions with their places on a map, and how the map was made; as they are where there is none.

    Raises:
        UserError: if the file is broken.
    """
    if not path.exists():
        return predictions, ""
    stored = read_json(path)
    points = np.full((len(predictions), 2), math.nan)
    try:
        rows = [_whole(row) for row in stored["rows"]]
        places = np.asarray(stored["points"], dtype=np.float64)
        if places.shape != (len(rows), 2) or not np.isfinite(places).all() or min(rows, default=0) < 0:
            raise ValueError("each of its rows must have a place")
        points[rows] = places
        method = str(stored["method"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is no map of these predictions: {error}.") from error
    shown = f"{method} of {len(rows):,} rows, drawn" if len(rows) < len(predictions) else method
    return replace(predictions, points=points), shown


def with_nearest(predictions: Predictions, path: Path) -> Predictions:
    """The predictions with the most similar training texts; as they are where there are none.

    Raises:
        UserError: if the file is broken.
    """
    if not path.exists():
        return predictions
    found = []
    for number, line in file_lines(path):
        try:
            stored = json.loads(line)
            found.append(Nearest(_text(stored["text"]), _text(stored["label"]), stored["is_same"] is True))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: it must be an object with text, label and is_same.") from error
    if len(found) != len(predictions):
        raise UserError(f"{path} must have {len(predictions):,} lines, one for each prediction, got {len(found):,}.")
    return replace(predictions, nearest=tuple(found))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("rows must be whole numbers")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text and label must be strings")
    return value
