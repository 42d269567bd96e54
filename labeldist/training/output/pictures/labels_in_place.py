"""Labels beside what they name, where they cover neither each other nor many points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray

from labeldist.training.output.pictures.names import font_families
from labeldist.training.output.pictures.themes import Theme

__all__ = ["Label", "place_labels"]

FONT_SIZE = 8.5
NUM_DIRECTIONS = 16
# Of the distance from a label's target to its middle, in pixels.
RADII = (60, 100, 150, 210, 280, 360)
# Of the frame and of half a mark.
PADDING = 12


@dataclass(frozen=True)
class Label:
    """A text of one line or more, the point that it names, in the coordinates of the axes' data, and its color."""

    text: str
    target: tuple[float, float]
    color: str


def place_labels(figure: Figure, axes: Axes, labels: Sequence[Label], points: ArrayLike, theme: Theme) -> None:
    """Draw each label near its target, with a line to it.

    Of the places around a target, the nearest one that covers fewest points is taken, inside the axes and beside the
    labels placed before.

    Args:
        figure: of the axes.
        axes: with all points drawn.
        labels: the most important first.
        points: that should stay visible, `(N, 2)`.
        theme: the page that the picture is for.
    """
    if not labels:
        return
    # Only then it is known where everything will stand.
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    obstacles = axes.transData.transform(np.asarray(points))
    taken: list[Bbox] = []
    for label in labels:
        text = axes.text(*label.target, label.text, fontsize=FONT_SIZE)
        text.set_fontfamily(font_families(frozenset(label.text))[0])
        text.set_parse_math(False)
        box = text.get_window_extent()
        text.remove()
        size = (box.width + 2 * PADDING, box.height + 2 * PADDING)
        target = axes.transData.transform(label.target)
        place = _best_place(target, size, frame, obstacles, taken)
        taken.append(_box(place, size))
        x, y = axes.transData.inverted().transform(place).tolist()
        axes.annotate(
            label.text,
            label.target,
            (x, y),
            ha="center",
            va="center",
            multialignment="left",
            fontsize=FONT_SIZE,
            color=theme.ink,
            bbox={
                "boxstyle": "round,pad=0.3",
                "facecolor": theme.page,
                "edgecolor": label.color,
                "linewidth": 1.4,
                "alpha": 0.9,
            },
            arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.9, "shrinkB": 0},
            zorder=5,
        )


def _best_place(
    target: NDArray[np.float64],
    size: tuple[float, float],
    frame: Bbox,
    obstacles: NDArray[np.float64],
    taken: Sequence[Bbox],
) -> NDArray[np.float64]:
    """The middle of a label: see `place_labels`."""

    def badness(place: NDArray[np.float64]) -> float:
        box = _box(place, size)
        overlap = sum(_common_area(box, other) for other in taken)
        outside = box.width * box.height - _common_area(box, frame)
        inside = (obstacles > box.min).all(axis=1) & (obstacles < box.max).all(axis=1)
        return 10 * (overlap + outside) + 60 * float(inside.sum()) + float(np.hypot(*(place - target)))

    angles = [2 * math.pi * step / NUM_DIRECTIONS for step in range(NUM_DIRECTIONS)]
    # A wide label is as far away at its side as a flat one above.
    reach = (1 + size[0] / 200, 1 + size[1] / 200)
    places = [
        target + radius * np.array([math.cos(angle) * reach[0], math.sin(angle) * reach[1]])
        for radius in RADII
        for angle in angles
    ]
    return min(places, key=badness)


def _box(middle: NDArray[np.float64], size: tuple[float, float]) -> Bbox:
    return Bbox.from_bounds(middle[0] - size[0] / 2, middle[1] - size[1] / 2, *size)


def _common_area(one: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)
