"""Embeddings in two dimensions."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from labeldist.training.output.pictures.drawing import GRID, INK, add_font_note, new_figure, save, set_title
from labeldist.training.output.pictures.names import display_names, text_width
from labeldist.training.output.projection import TwoDimensions

__all__ = ["plot_embeddings"]

CLASS_COLORS = (
    "#2f6690", "#d1663a", "#4b8b5d", "#b5394a", "#7d5a94", "#8a6642", "#d98fb5",
    "#5b5b5b", "#a3a134", "#3aa6b0", "#e0a83c", "#8fb0e0", "#1d3b2f",
)  # fmt: skip
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<")
# More classes than pairs of a color and a marker cannot be told apart.
MAX_LEGEND = len(CLASS_COLORS) * len(CLASS_MARKERS)


def plot_embeddings(projection: TwoDimensions, labels: ArrayLike, class_names: Sequence[str], path: Path) -> None:
    """Embeddings in two dimensions, one color and marker for each class; without a legend above 104 classes.

    Args:
        projection: of the embeddings: see `two_dimensions`.
        labels: class index of each row, `(N,)`, those without a point included.
        class_names: name of each class.
        path: where the figure goes; the suffix says the format.
    """
    kept, points, method = projection
    classes = np.asarray(labels)
    num_rows = len(classes)
    if kept[-1] >= num_rows:
        raise ValueError(f"labels must have one entry for each row of the embeddings, got {num_rows}.")
    classes = classes[kept]
    present = np.unique(classes).tolist()
    names = display_names(class_names)
    has_legend = len(present) <= MAX_LEGEND
    num_columns = math.ceil(len(present) / 27) if has_legend else 0
    width = 0.085 * max(text_width(names[c]) for c in present) + 0.4
    figure = new_figure(7.2 + num_columns * width, 6.4)
    axes = figure.add_subplot()
    size = 26 if len(points) <= 500 else 15
    for c in present:
        x, y = points[classes == c].T
        axes.scatter(x, y, s=size, marker=_marker(c), color=_color(c), alpha=0.8, linewidths=0.3, edgecolors="white")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(GRID)
    axes.set_aspect("equal", adjustable="datalim")
    shown = f"{len(points):,} of {num_rows:,} rows" if len(points) < num_rows else f"{num_rows:,} rows"
    kinds = (
        "rows that lie close are similar to the model" if has_legend else f"{len(present):,} classes, without legend"
    )
    set_title(axes, "Embeddings in two dimensions", f"{method} of {shown}; {kinds}")
    if not has_legend:
        save(figure, path)
        return
    handles = [Line2D([], [], linestyle="", marker=_marker(c), color=_color(c), markersize=6) for c in present]
    # matplotlib drops legend entries whose label starts with an underscore: set the names afterwards.
    legend = axes.legend(
        handles,
        ["class"] * len(present),
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        ncols=num_columns,
        labelcolor=INK,
        fontsize=9 if len(present) <= 30 else 8,
        handletextpad=0.2,
        columnspacing=1.0,
    )
    for text, c in zip(legend.get_texts(), present, strict=True):
        text.set_text(names[c])
    add_font_note(figure, class_names)
    save(figure, path)


def _color(class_index: int) -> str:
    return CLASS_COLORS[class_index % len(CLASS_COLORS)]


def _marker(class_index: int) -> str:
    return CLASS_MARKERS[class_index // len(CLASS_COLORS) % len(CLASS_MARKERS)]
