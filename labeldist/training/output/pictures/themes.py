"""Colors of pictures, on a light page and on a dark one."""

from dataclasses import dataclass
from typing import Literal

from matplotlib.colors import LinearSegmentedColormap

__all__ = ["THEMES", "Theme", "ThemeName"]

ThemeName = Literal["light", "dark"]
"""The page that a picture is for."""


@dataclass(frozen=True)
class Theme:
    """Colors of one kind of page.

    Attributes:
        page: the background.
        ink: text and lines that matter.
        muted: text and lines that explain.
        grid: lines behind the data.
        frame: edges of axes.
        blue: the first color of curves and marks, as are the next three.
        orange: the second.
        green: the third.
        purple: the fourth.
        classes: colors that tell classes apart.
        rest: points that are no part of the answer.
        diagonal: cells of a class with itself.
        diagonal_ink: numbers in such cells.
        confusion: of shares, from none to all.
        distances: of label distances, from the smallest to the largest.
        larger: how a larger label distance looks, in a word.
    """

    page: str
    ink: str
    muted: str
    grid: str
    frame: str
    blue: str
    orange: str
    green: str
    purple: str
    classes: tuple[str, ...]
    rest: str
    diagonal: str
    diagonal_ink: str
    confusion: LinearSegmentedColormap
    distances: LinearSegmentedColormap
    larger: str


def _colors(name: str, *stops: str) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list(name, stops)


THEMES: dict[ThemeName, Theme] = {
    "light": Theme(
        page="#ffffff",
        ink="#222222",
        muted="#6b6b6b",
        grid="#e4e4e4",
        frame="#bdbdbd",
        blue="#2f6690",
        orange="#d1663a",
        green="#4b8b5d",
        purple="#7d5a94",
        classes=(
            "#2f6690", "#d1663a", "#4b8b5d", "#b5394a", "#7d5a94", "#8a6642", "#d98fb5",
            "#5b5b5b", "#a3a134", "#3aa6b0", "#e0a83c", "#8fb0e0", "#1d3b2f",
        ),
        rest="#d2d2d2",
        diagonal="#f1e7da",
        diagonal_ink="#8f7c60",
        confusion=_colors("confusion", "#ffffff", "#c9dcea", "#6fa0c4", "#2f6690", "#123a5a"),
        # Darker = larger distance, as in the paper's Fig. 2; the darkest gray stops short of black.
        distances=_colors("distances", "#fbfbfb", "#bdbdbd", "#737373", "#252525"),
        larger="darker",
    ),
    # The page of Material for MkDocs, scheme slate.
    "dark": Theme(
        page="#1e2129",
        ink="#e6e8ee",
        muted="#a3a9b8",
        grid="#343946",
        frame="#5a6072",
        blue="#6fb1e4",
        orange="#f0925f",
        green="#7cc492",
        purple="#b994d3",
        classes=(
            "#6fb1e4", "#f0925f", "#7cc492", "#ee7385", "#b994d3", "#c79a6c", "#f0b3d2",
            "#c4c4c4", "#d0ce5c", "#5fd0da", "#f2c463", "#b9d0f4", "#5f9d83",
        ),
        rest="#4a5060",
        diagonal="#3a352e",
        diagonal_ink="#b9a88c",
        confusion=_colors("confusion-dark", "#1e2129", "#27435a", "#3f7ba6", "#7fbcea", "#dceefb"),
        distances=_colors("distances-dark", "#232630", "#5b6070", "#a0a5b3", "#f2f3f6"),
        larger="brighter",
    ),
}  # fmt: skip
