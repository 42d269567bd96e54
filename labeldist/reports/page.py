"""Findings to one HTML file: no server, no network, its data inside.

Texts and class names may be hostile. The template escapes them; the data are JSON with every `<`, `>` and `&` escaped;
the script writes text only; and the page's own policy allows no script and no style but its own, by their hashes.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from jinja2.utils import htmlsafe_json_dumps as _htmlsafe
from markupsafe import Markup
from numpy.typing import NDArray

from labeldist.messages import escape_controls
from labeldist.reports.comparison import ComparisonPart
from labeldist.reports.findings import Findings
from labeldist.reports.pairs import Pair
from labeldist.reports.predictions import Predictions
from labeldist.reports.similar_texts import Piece
from labeldist.reports.words import count, percent

__all__ = ["About", "render", "template"]

MAX_ROWS = 3_000
"""Mistakes whose texts the page holds."""

MAX_MAP_ROWS = 2_000
MAX_ROWS_OF_CELL = 30
MAX_DOUBTFUL = 100
MAX_CLASSES = 1_000
MAX_TEXT = 600
"""Characters of a text that the page shows."""

MAX_NAME = 120
MAX_DATA_BYTES = 3_500_000


@dataclass(frozen=True)
class About:
    """What a report says of where it comes from.

    Attributes:
        title: of the page.
        settings: what to show under Settings, by name, in order.
        notes: what was decided in reading the data, one clause each.
        command: the command that repeats it; empty if there is none.
        compare: the command that compares objectives on these data, to which the page adds a pair; empty if not known.
        map_method: how the map was made, such as t-SNE.
        source: what a file of the page was made from; empty where it is made from no file.
    """

    title: str = "Report"
    settings: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    command: str = ""
    compare: Sequence[str] = ()
    map_method: str = ""
    source: str = ""


def render(findings: Findings, about: About, comparison: ComparisonPart | None = None) -> str:
    """The page.

    Args:
        findings: of the predictions.
        about: where they come from.
        comparison: that the predictions are part of.

    Returns:
        HTML, of less than 5 MB.
    """
    script, style = (
        files("labeldist.reports").joinpath("templates", name).read_text(encoding="utf-8")
        for name in ("report.js", "report.css")
    )
    rows, num_left_out = _rows(findings)
    names = [_name(name) for name in findings.predictions.class_names]
    data = _data(findings, about, names, rows)
    context = {
        "about": about,
        "classes": findings.classes[:MAX_CLASSES],
        "comparison": comparison,
        "data": data,
        "doubtful": findings.doubtful[:MAX_DOUBTFUL],
        "f": findings,
        "map_size": sum(row[5] is not None for row in data["rows"]),
        "max_text": MAX_TEXT,
        "names": names,
        "num_left_out": num_left_out,
        "pair_commands": [_compare_command(pair, findings.predictions.class_names, about) for pair in findings.pairs],
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:",
        "script": Markup(script),
        "style": Markup(style),
        "version": _version(),
    }
    return template("report.html.j2").render(context)


def template(name: str, *, autoescape: bool = True) -> Template:
    """One of this package's templates, with the filters that all of them use.

    Args:
        name: of its file.
        autoescape: whether what it shows is escaped for HTML.
    """
    environment = Environment(
        loader=PackageLoader("labeldist.reports", "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "cut": _cut,
        "percent": percent,
        "pieces": _pieces,
        "show": _shown,
    }
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment.get_template(name)


def _version() -> str:
    from labeldist import __version__

    return __version__


def _hash(source: str) -> str:
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _shown(text: str) -> str:
    """A text that is safe to show, with line ends of one kind."""
    return escape_controls(text.replace("\r\n", "\n").replace("\r", "\n"), keep="\n\t")


def _name(name: str) -> str:
    """A class name that is safe to show, on one line."""
    return _cut(escape_controls(" ".join(name.split())), MAX_NAME)


def _cut(text: str, length: int = MAX_TEXT) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _pieces(pieces: Sequence[Piece], length: int = MAX_TEXT) -> list[Piece]:
    """The pieces of a text, cut to `length` characters, safe to show."""
    kept, left = [], length
    for piece in pieces:
        if left <= 0:
            kept.append(Piece("…", False))
            break
        text = piece.text[:left]
        left -= len(text)
        kept.append(Piece(_shown(text), piece.differs))
        if len(text) < len(piece.text):
            kept.append(Piece("…", False))
            break
    return kept


def _compare_command(pair: Pair, names: Sequence[str], about: About) -> str:
    """The command that measures whether pushing the two classes apart helps; empty where no command can name them."""
    first, second = (names[index] for index in (pair.forward.true, pair.forward.predicted))
    if "," in first + second or not about.compare or escape_controls(first + second) != first + second:
        return ""
    return shlex.join([*about.compare, f"--confusable={first},{second}"])


def _rows(findings: Findings) -> tuple[list[int], int]:
    """The rows that the page holds, mistakes first, and how many mistakes are left out."""
    predictions = findings.predictions
    kept: list[int] = []
    seen: set[tuple[int, str]] = set()
    if predictions.texts is not None:
        wrong = np.flatnonzero(predictions.is_wrong)
        confidence = predictions.confidence
        order = wrong if confidence is None else wrong[np.argsort(-confidence[wrong], kind="stable")]
        size = len(predictions.class_names)
        of_cell: dict[int, int] = {}
        texts = predictions.texts

        def cell_of(row: int) -> int:
            return int(predictions.labels[row]) * size + int(predictions.predicted[row])

        def key_of(row: int) -> tuple[int, str]:
            # Pooled runs bring the same mistake several times.
            return (cell_of(row), texts[row]) if predictions.num_runs > 1 else (row, "")

        on_map = {key_of(row): row for row in _map_rows(findings).tolist() if predictions.is_wrong[row]}
        for row in order.tolist():
            cell, key = cell_of(row), key_of(row)
            if key in seen:
                continue
            seen.add(key)
            if of_cell.get(cell, 0) < MAX_ROWS_OF_CELL and len(kept) < MAX_ROWS:
                of_cell[cell] = of_cell.get(cell, 0) + 1
                # Of equal mistakes the one that the map shows anyway.
                kept.append(on_map.get(key, row))
    left_out = len(seen) - len(kept)
    held = set(kept)
    return kept + [row for row in _map_rows(findings).tolist() if row not in held], left_out


def _map_rows(findings: Findings) -> NDArray[np.int64]:
    """The rows on the map: all that have a place, on that of a baseline as well, or 2,000, drawn by a fixed seed."""
    points = findings.predictions.points
    if points is None:
        return np.zeros(0, dtype=np.int64)
    has_place = np.isfinite(points).all(axis=1)
    if findings.baseline is not None and findings.baseline.points is not None:
        has_place &= np.isfinite(findings.baseline.points).all(axis=1)
    placed = np.flatnonzero(has_place)
    if len(placed) <= MAX_MAP_ROWS:
        return placed
    return np.sort(np.random.default_rng(0).choice(placed, MAX_MAP_ROWS, replace=False))


def _data(findings: Findings, about: About, names: Sequence[str], rows: Sequence[int]) -> dict[str, Any]:
    """What the script reads; texts are shortened until it is small enough."""
    kept = list(rows)
    map_rows = _map_rows(findings)
    places, base_places = (
        {} if side is None else _places(side, map_rows) for side in (findings.predictions, findings.baseline)
    )
    while True:
        for length in (MAX_TEXT, 300, 150, 60):
            data: dict[str, Any] = {
                "classes": names,
                "matrix": _matrix(findings),
                "groups": [list(group.classes) for group in findings.groups],
                "pairs": [[pair.forward.true, pair.forward.predicted] for pair in findings.pairs],
                "hasTexts": findings.predictions.texts is not None,
                "rows": [_row(findings, row, length, places.get(row), base_places.get(row)) for row in kept],
                "matrixFile": _matrix_file(findings),
            }
            # As the page will hold it: characters of HTML take six.
            if len(_htmlsafe(data, ensure_ascii=False).encode()) <= MAX_DATA_BYTES or not kept:
                return data
        # Of the mistakes and of the map, which come after each other, alike.
        kept = kept[1::2]


def _places(predictions: Predictions, rows: NDArray[np.int64]) -> dict[int, list[float]]:
    """The places of the rows on the map, in [0, 1]."""
    if predictions.points is None or not len(rows):
        return {}
    found = predictions.points[rows]
    low, span = found.min(axis=0), np.ptp(found, axis=0)
    scaled = (found - low) / np.where(span > 0, span, 1)
    return dict(zip(rows.tolist(), np.round(scaled, 4).tolist(), strict=True))


def _matrix(findings: Findings) -> dict[str, Any]:
    matrix = findings.matrix

    def cells(counts: np.ndarray) -> list[list[int]]:
        true, predicted = counts.nonzero()
        return [true.tolist(), predicted.tolist(), counts[true, predicted].tolist()]

    support = np.bincount(findings.predictions.labels, minlength=len(findings.predictions.class_names))
    return {
        "classes": matrix.classes.tolist(),
        "support": support[matrix.classes].tolist(),
        "cells": cells(matrix.counts),
        "baseline": None if matrix.baseline is None else cells(matrix.baseline),
    }


def _row(
    findings: Findings, row: int, length: int, place: list[float] | None, base_place: list[float] | None
) -> list[Any]:
    """`[text, true, predicted, probability, other classes, map, nearest, baseline]`, by place to save room.

    The last is `[map, predicted]`, and there only for rows on the map of a baseline.
    """
    predictions, baseline = findings.predictions, findings.baseline
    top = []
    if predictions.top is not None:
        found = zip(predictions.top.classes[row].tolist(), predictions.top.probabilities[row].tolist(), strict=True)
        top = [[c, round(probability, 3)] for c, probability in found if c >= 0 and probability >= 0.001]
    nearest = None if predictions.nearest is None else predictions.nearest[row]
    confidence = predictions.confidence_of(row)
    return [
        _cut(_shown(predictions.text(row)), length),
        int(predictions.labels[row]),
        int(predictions.predicted[row]),
        None if confidence is None else round(confidence, 3),
        top,
        place,
        None
        if nearest is None
        else [
            _cut(_shown(nearest.text), min(length, 300)),
            _name(nearest.label),
            nearest.is_same,
        ],
        *([] if base_place is None or baseline is None else [[base_place, int(baseline.predicted[row])]]),
    ]


def _matrix_file(findings: Findings) -> str:
    """A file for `--matrix-file`: the pairs that the page shows, as confusable ones."""
    names = findings.predictions.class_names
    pairs = [[names[pair.forward.true], names[pair.forward.predicted]] for pair in findings.pairs]
    return json.dumps({"pairs": pairs}, indent=2)
