"""Embeddings in two dimensions, as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from labeldist.training.output.pictures.confused import Cells
from labeldist.training.output.pictures.drawing import add_font_note, new_figure, save, set_title
from labeldist.training.output.pictures.labels_in_place import Label, place_labels
from labeldist.training.output.pictures.names import display_names, text_width
from labeldist.training.output.pictures.themes import THEMES, Theme, ThemeName
from labeldist.training.output.projection import TwoDimensions
from labeldist.training.records import Confusion

__all__ = ["plot_embeddings"]

MARKERS = ("o", "^", "s", "D", "v", "P")
# The same as characters, for labels in place.
MARKER_SIGNS = ("●", "▲", "■", "◆", "▼", "✚")
MAX_LEGEND = 13
MAX_GROUPS = 8
NUM_PAIRS_WITHOUT_GROUPS = 3


def plot_embeddings(
    projection: TwoDimensions,
    labels: ArrayLike,
    class_names: Sequence[str],
    path: Path,
    *,
    confusion: ArrayLike | Confusion | None = None,
    theme: ThemeName = "light",
) -> None:
    """Plot embeddings in two dimensions: points that are close have similar embeddings.

    With up to 13 classes, each class has a color, and a legend names them. With more, each of the most confused groups
    of classes has a color and is named on the map, and all other classes are gray.

    Args:
        projection: projection of the embeddings: see `two_dimensions`.
        labels: class index of each row, `(N,)`, including rows without a point.
        class_names: name of each class, C of them.
        path: file of the figure; its suffix determines the format.
        confusion: confusion counts, `(C, C)`, row = true class, column = predicted class, or their cells. They show
            which classes are confused. Without them, more than 13 classes are all gray.
        theme: colors for a light or a dark page.
    """
    kept, points, method = projection
    classes = np.asarray(labels)
    num_rows = len(classes)
    if kept[-1] >= num_rows:
        raise ValueError(f"labels must have one entry for each row of the embeddings, got {num_rows}.")
    classes = classes[kept]
    present = np.unique(classes).tolist()
    names, colors = display_names(class_names), THEMES[theme]
    has_legend = len(present) <= MAX_LEGEND
    width = 0.085 * max(text_width(names[c]) for c in present) + 0.4 if has_legend else 1.8
    figure = new_figure(7.2 + width, 6.4 if has_legend else 7.4, colors)
    axes = figure.add_subplot()
    axes.set(xticks=[], yticks=[], facecolor=colors.page)
    axes.spines[:].set_color(colors.grid)
    axes.set_aspect("equal", adjustable="datalim")
    shown = f"{len(points):,} of {num_rows:,} rows" if len(points) < num_rows else f"{num_rows:,} rows"
    drawing = _Map(figure, axes, points, classes, names, colors)
    groups: list[list[int]] = []
    if has_legend:
        drawing.draw_all(present)
        what = "rows that lie close are similar to the model"
    else:
        if confusion is not None:
            groups = _groups(Cells.of(confusion, len(class_names)), set(present))
        what = drawing.draw_groups(groups, present)
    set_title(axes, "Embeddings in two dimensions", f"{method} of {shown}; {what}", colors)
    add_font_note(figure, class_names, colors)
    # Last: titles and notes move the points.
    drawing.name_groups(groups)
    save(figure, path)


def _groups(cells: Cells, present: set[int]) -> list[list[int]]:
    """The groups that are confused most; pairs where no classes are confused often enough to be a group."""
    worst = [[pair.first, pair.second] for pair in cells.worst_pairs(NUM_PAIRS_WITHOUT_GROUPS)]
    found: list[list[int]] = []
    for group in cells.groups() or worst:
        members = [c for c in group if c in present and not any(c in other for other in found)]
        if len(members) > 1:
            # Those with the most mistakes are named first.
            found.append(sorted(members, key=lambda c: -int(cells.mistakes[c])))
    return found[:MAX_GROUPS]


class _Map:
    """The points of one map."""

    def __init__(
        self,
        figure: Figure,
        axes: Axes,
        points: NDArray[np.floating],
        classes: NDArray[np.int64],
        names: Sequence[str],
        theme: Theme,
    ):
        self.figure, self.axes, self.points, self.classes = figure, axes, points, classes
        self.names, self.theme = names, theme
        self.size = 26 if len(points) <= 500 else 15

    def draw_all(self, present: Sequence[int]) -> None:
        """A color for each class, and a legend."""
        looks = {c: self.theme.classes[place] for place, c in enumerate(present)}
        for c in present:
            self._scatter(c, "o", looks[c])
        handles = [Line2D([], [], linestyle="", marker="o", color=looks[c], markersize=6) for c in present]
        # matplotlib drops legend entries whose label starts with an underscore: set the names afterwards.
        legend = self.axes.legend(
            handles,
            ["class"] * len(present),
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            labelcolor=self.theme.ink,
            fontsize=9,
            handletextpad=0.2,
        )
        for text, c in zip(legend.get_texts(), present, strict=True):
            text.set_text(self.names[c])

    def draw_groups(self, groups: Sequence[Sequence[int]], present: Sequence[int]) -> str:
        """A color for each group, a mark for each of its classes; all others gray. Returns what was drawn, in words."""
        num_others = len(set(present).difference(*groups))
        for c in set(present).difference(*groups):
            self._scatter(c, "o", self.theme.rest, size=0.7 * self.size)
        for group, color in zip(groups, self.theme.classes, strict=False):
            for place, c in enumerate(group):
                self._scatter(c, MARKERS[min(place, len(MARKERS) - 1)], color, size=1.2 * self.size)
        if not groups:
            return f"{len(present):,} classes"
        colored = "the group" if len(groups) == 1 else f"the {len(groups)} groups"
        return f"colored: {colored} of classes confused most; gray: {num_others:,} other classes"

    def name_groups(self, groups: Sequence[Sequence[int]]) -> None:
        """The marks of each group's classes with their names, beside its points."""
        labels = []
        for group, color in zip(groups, self.theme.classes, strict=False):
            lines = [f"{sign} {self.names[c]}" for sign, c in zip(MARKER_SIGNS, group, strict=False)]
            if len(group) > len(lines):
                # The last mark is for all others of a group.
                lines[-1] = f"{MARKER_SIGNS[-1]} {len(group) - len(lines) + 1} more"
            labels.append(Label("\n".join(lines), self._middle(group), color))
        in_groups = np.isin(self.classes, [c for group in groups for c in group])
        place_labels(self.figure, self.axes, labels, self.points[in_groups], self.theme)

    def _scatter(self, c: int, marker: str, color: str, *, size: float | None = None) -> None:
        x, y = self.points[self.classes == c].T
        self.axes.scatter(
            x, y, s=size or self.size, marker=marker, color=color, alpha=0.8, linewidths=0.3, edgecolors=self.theme.page
        )

    def _middle(self, group: Sequence[int]) -> tuple[float, float]:
        """The point of a group that is nearest to all others of it: the mean may lie where none is."""
        points = self.points[np.isin(self.classes, group)]
        distances = np.abs(points[:, None] - points[None]).sum(axis=(1, 2))
        x, y = points[distances.argmin()]
        return float(x), float(y)
