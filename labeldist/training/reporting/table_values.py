"""Values of a table of predictions: classes and probabilities, as JSON, spreadsheets and data frames write them."""

import json
import math
import re
from typing import Any

from labeldist.messages import shown
from labeldist.training.errors import UserError

__all__ = [
    "by_number",
    "class_of",
    "is_missing",
    "is_probability",
    "maybe_number",
    "maybe_probability",
    "probabilities_by_class",
    "probability_of",
]

_SPREADSHEET_NUMBER = re.compile(r"(?P<number>\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?)\s*(?P<percent>%)?")


def class_of(value: Any, kind: str, where: str) -> str:
    """The name of a class, or a `UserError`."""
    if isinstance(value, float) and value.is_integer():
        # Integers become floats in a column that has gaps.
        value = int(value)
    if value is not None and not isinstance(value, str | int | float):
        raise UserError(f"{where}: the {kind} must be one string or number, got {shown(value)}.")
    name = "" if value is None or value != value else str(value).strip()
    if not name:
        raise UserError(f"{where}: the {kind} is missing. Give every row one or drop it.")
    return name


def is_missing(value: Any) -> bool:
    """Whether a cell is empty, or says that there is no number."""
    return value is None or (isinstance(value, str) and value.strip().casefold() in ("", "nan")) or value != value


def is_probability(number: float) -> bool:
    """Whether a number lies in [0, 1], up to rounding."""
    return -1e-6 <= number <= 1 + 1e-3


def probability_of(value: Any, kind: str, where: str) -> float:
    """A probability in [0, 1], or a `UserError`."""
    number = maybe_probability(value)
    if number is None or not is_probability(number):
        raise UserError(f"{where}: the {kind} must lie in [0, 1], got {shown(value)}.")
    return min(max(number, 0.0), 1.0)


def maybe_probability(value: Any) -> float | None:
    """A number as spreadsheets write it, too: 0,91 and 9,1E-01 with a decimal comma, 91 % and 91,0%."""
    number = maybe_number(value)
    if number is not None or not isinstance(value, str):
        return number
    found = _SPREADSHEET_NUMBER.fullmatch(value.strip())
    if found is None:
        return None
    return float(found["number"].replace(",", ".")) / (100 if found["percent"] else 1)


def maybe_number(value: Any) -> float | None:
    """A finite number, also where it is written as text; `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def probabilities_by_class(value: Any, column: str, where: str) -> dict[str, float] | None:
    """Probabilities by class from an object or its JSON; `None` where the cell is empty."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            value = "no JSON"
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: the probabilities (column {shown(column)}) must be an object {{class: probability}}, "
            f"got {shown(value)}."
        )
    kind = f"probabilities (column {shown(column)})"
    given = {str(name).strip(): number for name, number in value.items() if number is not None}
    return {name: probability_of(number, kind, where) for name, number in given.items()}


def by_number(name: str) -> tuple[bool, float, str]:
    """A key that sorts names which are numbers by their value, before all others."""
    number = maybe_number(name)
    return number is None, number or 0.0, name
