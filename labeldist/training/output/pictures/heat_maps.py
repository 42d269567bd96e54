"""Heat maps of class pairs: the confusion matrix and the label distances."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from labeldist.training.output.pictures.confused import (
    MAX_DRAWN_CLASSES,
    MAX_GIVEN_ORDER,
    NUM_DRAWN_OF_MORE,
    Cells,
    ClassPair,
    class_order,
    first_classes,
)
from labeldist.training.output.pictures.drawing import add_font_note, new_figure, save, set_title
from labeldist.training.output.pictures.names import display_names, text_width
from labeldist.training.output.pictures.themes import THEMES, Theme, ThemeName
from labeldist.training.records import Confusion

__all__ = ["largest_share", "plot_confusion", "plot_ldm"]

MAX_CELL_NUMBERS = 15
NUM_PAIRS_NAMED = 10
LIST_TITLE = "Most confused pairs"
NOTHING_TO_LIST = "No row was taken for another class."
LIST_FONT_SIZE = 8.5
# A color scale that ends below would make a handful of mistakes look like a catastrophe.
MIN_LARGEST_SHARE = 0.05
SHARE_TICKS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def plot_confusion(
    counts: ArrayLike | Confusion,
    class_names: Sequence[str],
    path: Path,
    *,
    title: str = "Confusion matrix",
    note: str = "",
    order: Sequence[int] | NDArray[np.int64] | None = None,
    top_share: float | None = None,
    theme: ThemeName = "light",
) -> None:
    """Plot a confusion matrix as a heat map: color = fraction of the true class's rows that got the predicted class.

    The diagonal is pale and left out of the scale, so that mistakes are visible. The scale is the square root of the
    fraction, so that rare confusions are visible, too. With up to 15 classes, the cells show counts. With more, the
    most confused pairs are numbered on the map and named beside it.

    Args:
        counts: confusion counts, `(C, C)`, row = true class, column = predicted class, or their cells.
        class_names: name of each class, C of them.
        path: file of the figure; its suffix determines the format.
        title: heading.
        note: says in a few words which rows were counted.
        order: indices of the classes to draw, in this order; `None` uses `class_order`.
        top_share: end of the color scale; `None` uses `largest_share`.
        theme: colors for a light or a dark page.
    """
    cells = Cells.of(counts, len(class_names))
    drawn = class_order(counts, len(class_names)) if order is None else np.asarray(order)
    matrix = cells.among(drawn)
    is_mistake = ~np.eye(len(drawn), dtype=bool)
    shares = matrix / np.maximum(cells.support[drawn][:, None], 1)
    top = largest_share(counts, len(class_names)) if top_share is None else top_share
    names = display_names(class_names)
    colors = THEMES[theme]
    has_list = len(drawn) > MAX_CELL_NUMBERS
    pairs = cells.worst_pairs(NUM_PAIRS_NAMED) if has_list else []
    listed = [f"{names[pair.first]} / {names[pair.second]}" for pair in pairs]
    drawing = _HeatMap([names[c] for c in drawn], colors, listed if has_list else None)
    drawing.draw(
        np.ma.array(shares, mask=~is_mistake),
        colors.confusion,
        PowerNorm(0.5, 0, top),
        "share of a class taken for another",
    )
    drawing.bar.yaxis.set_major_locator(FixedLocator([tick for tick in SHARE_TICKS if tick <= top]))
    drawing.bar.yaxis.set_minor_locator(NullLocator())
    drawing.bar.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    total, right = int(cells.num_rows.sum()), int(cells.num_rows[cells.true == cells.predicted].sum())
    facts = [f"{right:,} of {total:,} rows are right"]
    if which := _which(drawn, len(names), "that are confused most"):
        facts.append(f"{which}, with {100 * cells.share_of_mistakes(drawn):.0f} % of the mistakes between them")
    facts.append(note)
    is_strong = (shares > 0.3 * top) & is_mistake
    if has_list:
        drawing.list_pairs(pairs)
        drawing.number_pairs(pairs, drawn, matrix, is_strong)
    else:
        drawing.number_cells(matrix, is_strong, lambda count: f"{count:.0f}" if count else "", muted=~is_mistake)
    if len(drawn) > MAX_GIVEN_ORDER:
        frames = drawing.frame_groups(cells.groups(drawn), drawn)
        facts.append("confused classes stand side by side" + (", groups are framed" if frames else ""))
    drawing.axes.set(xlabel="predicted class", ylabel="true class")
    drawing.finish(title, "; ".join(filter(None, facts)), class_names, path)


def largest_share(counts: ArrayLike | Confusion, num_classes: int) -> float:
    """Largest share of a class's rows that were taken for one other class; at least 0.05.

    Args:
        counts: `(C, C)`, row = true class, column = predicted class, or its cells.
        num_classes: C.

    Examples:
        >>> largest_share([[8, 2], [0, 10]], 2)
        0.2
    """
    cells = Cells.of(counts, num_classes)
    wrong = cells.true != cells.predicted
    shares = cells.num_rows[wrong] / np.maximum(cells.support[cells.true[wrong]], 1)
    return max(MIN_LARGEST_SHARE, float(shares.max(initial=0.0)))


def plot_ldm(
    matrix: ArrayLike,
    class_names: Sequence[str],
    path: Path,
    title: str | None = None,
    *,
    order: Sequence[int] | NDArray[np.int64] | None = None,
    groups: Sequence[Sequence[int]] = (),
    theme: ThemeName = "light",
) -> None:
    """Plot a label-distance matrix as a heat map, as in the paper's Fig. 2: darker = larger label distance.

    White is the neutral distance 1, or the smallest entry if that is below 1. The diagonal is not a pair of two classes
    and is left out of the scale. With more than 80 classes, the 50 with the largest distances are drawn. With the dark
    theme, brighter = larger.

    Args:
        matrix: label distances, `(C, C)`, row = the anchor's class, column = the other class.
        class_names: name of each class, C of them.
        path: file of the figure; its suffix determines the format.
        title: heading; `None` uses "Label distance".
        order: indices of the classes to draw, in this order, for example the order of a confusion matrix.
        groups: indices of the classes of each group that gets a frame, where they stand side by side.
        theme: colors for a light or a dark page.
    """
    entries, size = np.asarray(matrix), len(class_names)
    if entries.shape != (size, size):
        raise ValueError(f"matrix must have shape (C, C) = ({size}, {size}), as class_names says, got {entries.shape}.")
    sums = entries.sum(axis=0, dtype=np.float64) + entries.sum(axis=1, dtype=np.float64) - 2 * entries.diagonal()
    limit = size if size <= MAX_DRAWN_CLASSES else NUM_DRAWN_OF_MORE
    drawn = first_classes(sums, limit) if order is None else np.asarray(order)
    distances = entries[np.ix_(drawn, drawn)].astype(np.float64)
    is_pair = ~np.eye(len(drawn), dtype=bool)
    low = min(1.0, float(distances[is_pair].min(initial=1.0)))
    high = float(distances[is_pair].max(initial=low))
    norm = Normalize(low, high if high > low else low + 1)
    names = display_names(class_names)
    colors = THEMES[theme]
    drawing = _HeatMap([names[c] for c in drawn], colors)
    drawing.draw(np.ma.array(distances, mask=~is_pair), colors.distances, norm, "label distance")
    if len(drawn) <= MAX_CELL_NUMBERS:
        is_strong = (norm(distances) > 0.55) & is_pair
        drawing.number_cells(distances, is_strong, lambda distance: f"{distance:.3g}", muted=~is_pair)
    drawing.axes.set(xlabel="other class", ylabel="class of the anchor")
    reason = "with the largest distances" if order is None else "that are confused most"
    facts = [f"{colors.larger} = pushed further apart", _which(drawn, size, reason)]
    if drawing.frame_groups(groups, drawn):
        facts.append("groups are framed")
    drawing.finish(title or "Label distance", "; ".join(filter(None, facts)), class_names, path)


def _which(drawn: NDArray[np.int64], num_classes: int, reason: str) -> str:
    """Which classes are drawn, where it is not all of them."""
    if len(drawn) == num_classes or num_classes <= MAX_DRAWN_CLASSES:
        return ""
    return f"drawn: the {len(drawn)} of {num_classes:,} classes {reason}"


class _HeatMap:
    """A square map with a name for each row and column, a scale beside it, and a list of pairs beside that.

    Args:
        names: of the rows, and of the columns.
        theme: the page that it is for.
        listed: names of the pairs of the list; None for no list.
    """

    def __init__(self, names: Sequence[str], theme: Theme, listed: Sequence[str] | None = None):
        self.names, self.theme, self.size = names, theme, len(names)
        self.listed = listed or []
        # Inches: roomy cells for few classes, then small ones, so that the page grows slowly.
        cell = 0.85 if self.size <= 4 else 0.55 if self.size <= MAX_CELL_NUMBERS else 0.3 if self.size <= 30 else 0.16
        cell = min(cell, 14 / self.size)
        self.side = max(self.size * cell, 2.4)
        # A large page is looked at as a whole: what is to be read there grows with it.
        self.scale = min(1.6, max(1.0, self.side / 8))
        self.font_size = max(1.5, min(10.0, 0.62 * 72 * cell))
        margin = 0.8 * self.font_size / 72 * max(map(text_width, names)) + 0.5
        width = self.side + margin + 1.2 * self.scale
        if listed is not None:
            # The layout would shrink the map for a list that it has no room for.
            letters = max(map(text_width, (*listed, LIST_TITLE, NOTHING_TO_LIST)))
            width += (0.5 + 0.55 * LIST_FONT_SIZE / 72 * letters) * self.scale
        self.figure: Figure = new_figure(width, self.side + margin + 0.9 * self.scale, theme)
        self.axes: Axes = self.figure.add_subplot()

    def draw(self, values: np.ma.MaskedArray, colors: Colormap, norm: Normalize, scale_label: str) -> None:
        """The map, its names and its scale."""
        axes, theme, side, size = self.axes, self.theme, self.side, self.size
        image = axes.imshow(values, cmap=colors.with_extremes(bad=theme.diagonal), norm=norm, aspect="equal")
        is_wide = max(map(text_width, self.names)) * self.font_size * 0.62 / 72 > 0.95 * side / size
        axes.set_xticks(range(size), self.names, fontsize=self.font_size, rotation=90 if is_wide else 0)
        axes.set_yticks(range(size), self.names, fontsize=self.font_size)
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(False)
        axes.grid(which="minor", color=theme.grid, linewidth=0.6 if size <= 30 else 0.3)
        axes.tick_params(which="both", length=0, labelcolor=theme.ink)
        axes.spines[:].set_color(theme.grid)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=theme.muted, fontsize=10 * self.scale)
        # An inset keeps the height of the map; a color bar beside the axes would stretch beyond a square.
        height = min(1.0, 6.5 / side)
        inset = axes.inset_axes((1 + 0.2 / side, 1 - height, 0.15 * self.scale / side, height))
        bar = self.figure.colorbar(image, cax=inset)
        bar.set_label(scale_label, color=theme.muted, fontsize=9 * self.scale)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] (matplotlib types the spine as a callable)
        bar.ax.tick_params(which="both", length=0, labelcolor=theme.muted, labelsize=9 * self.scale)
        self.bar = bar.ax

    def number_cells(
        self,
        values: NDArray,
        is_strong: NDArray[np.bool_],
        number: Callable[[float], str],
        *,
        muted: NDArray[np.bool_],
    ) -> None:
        """The value of each cell, readable on its color."""
        for row, column in np.ndindex(*values.shape):
            color = self.theme.page if is_strong[row, column] else self.theme.ink
            color = self.theme.diagonal_ink if muted[row, column] else color
            text = number(float(values[row, column]))
            self.axes.text(
                column, row, text, ha="center", va="center", fontsize=12 if self.size <= 4 else 8.5, color=color
            )

    def list_pairs(self, pairs: Sequence[ClassPair]) -> None:
        """The list: a number, the names and how many rows, for each pair."""
        theme, scale = self.theme, self.scale
        left = 1 + (0.2 + 0.95 * scale) / self.side
        inch = scale / self.side

        def line(text: str, right: float, below: float, color: str, **options: Any) -> None:
            place = (left + right * inch, 1 - below * inch)
            self.axes.text(*place, text, transform=self.axes.transAxes, va="top", color=color, **options)

        title = LIST_TITLE if pairs else NOTHING_TO_LIST
        line(title, 0, 0, theme.ink, fontsize=10 * scale, fontweight="bold")
        for rank, (pair, names) in enumerate(zip(pairs, self.listed, strict=True), 1):
            top = 0.38 * rank - 0.08
            line(str(rank), 0, top, theme.ink, fontsize=LIST_FONT_SIZE * scale)
            line(names, 0.24, top, theme.ink, fontsize=LIST_FONT_SIZE * scale)
            rows = "row" if pair.num_rows == 1 else "rows"
            share = f"{pair.num_rows:,} {rows}, {100 * pair.share:.0f} % of both classes"
            line(share, 0.24, top + 0.17, theme.muted, fontsize=7.5 * scale)

    def number_pairs(
        self, pairs: Sequence[ClassPair], drawn: NDArray[np.int64], counts: NDArray, is_strong: NDArray[np.bool_]
    ) -> None:
        """The number of each pair in its cells that are not empty."""
        place = {int(c): position for position, c in enumerate(drawn)}
        for rank, pair in enumerate(pairs, 1):
            ends = (place.get(pair.first), place.get(pair.second))
            for row, column in (ends, ends[::-1]):
                if row is not None and column is not None and counts[row, column]:
                    color = self.theme.page if is_strong[row, column] else self.theme.ink
                    size = min(8.0, 0.9 * self.font_size)
                    self.axes.text(column, row, str(rank), ha="center", va="center", fontsize=size, color=color)

    def frame_groups(self, groups: Sequence[Sequence[int]], drawn: NDArray[np.int64]) -> int:
        """A frame around each group of two drawn classes or more that stands together. Returns how many that are."""
        place = {int(c): position for position, c in enumerate(drawn)}
        num_frames = 0
        for group in groups:
            places = sorted(place[c] for c in group if c in place)
            if len(places) > 1 and places[-1] - places[0] == len(places) - 1:
                corner, side = (places[0] - 0.5, places[0] - 0.5), len(places)
                frame = Rectangle(corner, side, side, fill=False, edgecolor=self.theme.orange, linewidth=0.9)
                self.axes.add_patch(frame)
                num_frames += 1
        return num_frames

    def finish(self, title: str, subtitle: str, class_names: Sequence[str], path: Path) -> None:
        """Title, note on fonts, and the file."""
        columns = int((self.side + 1.0) * 72 / (5.2 * self.scale))
        set_title(self.axes, title, "\n".join(textwrap.wrap(subtitle, columns)), self.theme, scale=self.scale)
        add_font_note(self.figure, class_names, self.theme, scale=self.scale)
        save(self.figure, path)
