"""Heat maps of class pairs: the confusion matrix and the label distances."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from labeldist.training.output.pictures.drawing import GRID, INK, MUTED, add_font_note, new_figure, save, set_title
from labeldist.training.output.pictures.names import display_names, text_width
from labeldist.training.records import Confusion

__all__ = ["plot_confusion", "plot_ldm"]

CONFUSION_COLORS = LinearSegmentedColormap.from_list(
    "confusion", ["#ffffff", "#c9dcea", "#6fa0c4", "#2f6690", "#123a5a"]
)
# Darker = larger distance, as in the paper's Fig. 2; the darkest gray stops short of black.
LDM_COLORS = LinearSegmentedColormap.from_list("ldm", ["#fbfbfb", "#bdbdbd", "#737373", "#252525"])
LDM_DIAGONAL = "#f1e7da"
MAX_CELL_NUMBERS = 15
# A map of more is larger than any screen, and takes minutes and gigabytes.
MAX_DRAWN_CLASSES = 150


def plot_confusion(counts: ArrayLike | Confusion, class_names: Sequence[str], path: Path) -> None:
    """Confusion matrix as a heat map: counts in the cells (up to 15 classes), color = share of the true class's rows.

    The color scale follows the square root of the share, so that rare confusions remain visible. Of more than 150
    classes, the 150 with the most mistakes are drawn.

    Args:
        counts: `(C, C)`, row = true class, column = predicted class, or its cells.
        class_names: name of each class, C of them.
        path: where the figure goes; the suffix says the format.
    """
    true, predicted, num_rows = _cells(counts, class_names)
    support, wrong = np.bincount(true, num_rows, len(class_names)), num_rows * (true != predicted)
    total, right = int(num_rows.sum()), int(num_rows.sum() - wrong.sum())
    mistakes = sum(np.bincount(classes, wrong, len(class_names)) for classes in (true, predicted))
    drawn, which = _drawn(np.asarray(mistakes), "the most mistakes")
    place = np.full(len(class_names), -1)
    place[drawn] = range(len(drawn))
    is_drawn = (place[true] >= 0) & (place[predicted] >= 0)
    matrix = np.zeros((len(drawn), len(drawn)))
    matrix[place[true[is_drawn]], place[predicted[is_drawn]]] = num_rows[is_drawn]
    shares = matrix / np.maximum(support[drawn][:, None], 1)
    names = [class_names[int(c)] for c in drawn]
    norm = PowerNorm(0.5, 0, 1)
    figure, axes, bar = _heat_map(shares, names, CONFUSION_COLORS, norm, "share of the true class")
    bar.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    if len(names) <= MAX_CELL_NUMBERS:
        _cell_numbers(axes, matrix, shares > 0.3, lambda count: f"{count:.0f}" if count else "")
    axes.set(xlabel="predicted class", ylabel="true class")
    set_title(axes, "Confusion matrix", f"{right:,} of {total:,} rows lie on the diagonal{which}")
    save(figure, path)


def plot_ldm(matrix: ArrayLike, class_names: Sequence[str], path: Path, title: str | None = None) -> None:
    """Label-distance matrix as a heat map, as in the paper's Fig. 2: the darker a pair, the larger its label distance.

    White is the neutral distance 1, or the smallest entry where that is below 1. The diagonal is no pair of two classes
    and is left out of the scale. Of more than 150 classes, the 150 with the largest distances are drawn.

    Args:
        matrix: `(C, C)`, row = the anchor's class, column = the other class.
        class_names: name of each class, C of them.
        path: where the figure goes; the suffix says the format.
        title: heading; None takes "Label distance".
    """
    entries = _square(matrix, class_names, "matrix")
    sums = entries.sum(axis=0, dtype=np.float64) + entries.sum(axis=1, dtype=np.float64) - 2 * entries.diagonal()
    drawn, which = _drawn(sums, "the largest distances")
    distances = entries[np.ix_(drawn, drawn)].astype(np.float64)
    names = [class_names[int(c)] for c in drawn]
    is_pair = ~np.eye(len(names), dtype=bool)
    low = min(1.0, float(distances[is_pair].min(initial=1.0)))
    high = float(distances[is_pair].max(initial=low))
    norm = Normalize(low, high if high > low else low + 1)
    masked = np.ma.array(distances, mask=~is_pair)
    figure, axes, _ = _heat_map(masked, names, LDM_COLORS, norm, "label distance")
    if len(names) <= MAX_CELL_NUMBERS:
        is_dark = (norm(distances) > 0.55) & is_pair
        _cell_numbers(axes, distances, is_dark, lambda distance: f"{distance:.3g}", muted=~is_pair)
    axes.set(xlabel="other class", ylabel="class of the anchor")
    set_title(axes, title or "Label distance", f"darker = pushed further apart{which}")
    save(figure, path)


def _cells(
    counts: ArrayLike | Confusion, class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """True class, predicted class and number of rows of each cell that is not zero."""
    if isinstance(counts, Confusion):
        true, predicted, num_rows = (
            np.array(column, dtype=np.int64) for column in (counts.true, counts.predicted, counts.num_rows)
        )
        return true, predicted, num_rows
    matrix = _square(counts, class_names, "counts")
    true, predicted = matrix.nonzero()
    return true, predicted, matrix[true, predicted].astype(np.int64)


def _drawn(scores: NDArray[np.float64], reason: str) -> tuple[NDArray[np.int64], str]:
    """The classes that are drawn, in their order, and a clause that says which, where it is not all of them."""
    if len(scores) <= MAX_DRAWN_CLASSES:
        return np.arange(len(scores)), ""
    first = np.argsort(-scores, kind="stable")[:MAX_DRAWN_CLASSES]
    return np.sort(first), f"; drawn: {len(first)} of {len(scores):,} classes, those with {reason}"


def _square(values: ArrayLike, class_names: Sequence[str], name: str) -> NDArray:
    matrix = np.asarray(values)
    size = len(class_names)
    if matrix.shape != (size, size):
        raise ValueError(f"{name} must have shape (C, C) = ({size}, {size}), as class_names says, got {matrix.shape}.")
    return matrix


def _heat_map(
    values: NDArray[np.float64],
    class_names: Sequence[str],
    colors: LinearSegmentedColormap,
    norm: Normalize,
    scale_label: str,
) -> tuple[Figure, Axes, Axes]:
    size = len(class_names)
    # Inches: roomy cells for few classes, then small ones, so that the page grows slowly.
    cell = 0.85 if size <= 4 else 0.55 if size <= MAX_CELL_NUMBERS else 0.3 if size <= 30 else 0.19
    cell = min(cell, 20 / size)
    names = display_names(class_names)
    side = max(size * cell, 2.4)
    font_size = max(1.5, min(10.0, 0.62 * 72 * cell))
    margin = 0.8 * font_size / 72 * max(map(text_width, names)) + 0.5
    figure = new_figure(side + margin + 1.2, side + margin + 0.9)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap=colors.with_extremes(bad=LDM_DIAGONAL), norm=norm, aspect="equal")
    is_wide = max(map(text_width, names)) * font_size * 0.62 / 72 > 0.95 * side / size
    axes.set_xticks(range(size), names, fontsize=font_size, rotation=90 if is_wide else 0)
    axes.set_yticks(range(size), names, fontsize=font_size)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(False)
    axes.grid(which="minor", color=GRID, linewidth=0.6 if size <= 30 else 0.3)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_color(GRID)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    # An inset keeps the height of the map; a color bar beside the axes would stretch beyond a square.
    inset = axes.inset_axes((1 + 0.2 / side, 0, 0.15 / side, 1))
    bar = figure.colorbar(image, cax=inset)
    bar.set_label(scale_label, color=MUTED)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] (matplotlib types the spine as a callable)
    bar.ax.tick_params(length=0, labelcolor=MUTED)
    add_font_note(figure, class_names)
    return figure, axes, bar.ax


def _cell_numbers(
    axes: Axes,
    values: NDArray[np.float64],
    is_dark: NDArray[np.bool_],
    number: Callable[[float], str],
    muted: NDArray[np.bool_] | None = None,
) -> None:
    for row, column in np.ndindex(*values.shape):
        color = "white" if is_dark[row, column] else INK
        if muted is not None and muted[row, column]:
            color = "#b5a48d"
        axes.text(column, row, number(float(values[row, column])), ha="center", va="center", fontsize=8.5, color=color)
