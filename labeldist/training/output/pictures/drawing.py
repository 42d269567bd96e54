"""What all pictures share: figures without matplotlib's global state, titles, axes, colors, and saving."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from labeldist.training.output.pictures.names import font_families, missing_characters

DPI = 150
INK, MUTED, GRID = "#222222", "#6b6b6b", "#e4e4e4"
BLUE, ORANGE, GREEN, PURPLE = "#2f6690", "#d1663a", "#4b8b5d", "#7d5a94"


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that belongs to no window."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def set_title(axes: Axes, title: str, subtitle: str) -> None:
    """A bold title at the left, and a muted line below it."""
    axes.set_title(f"{title}\n", loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.annotate(
        subtitle, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=MUTED, fontsize=9
    )


def lighten(axes: Axes) -> None:
    """A pale grid and no frame."""
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bdbdbd")
    axes.tick_params(colors=MUTED, labelcolor=INK, length=0)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)


def add_font_note(figure: Figure, class_names: Sequence[str]) -> None:
    """Say at the bottom of a figure why classes have numbers for names, where no installed font shows the names."""
    if missing_characters(class_names):
        note = "class N: no installed font shows this name.\nInstall one, such as Noto Sans CJK (fonts-noto-cjk)."
        figure.supxlabel(note, fontsize=8, color=MUTED)


def save(figure: Figure, path: Path) -> None:
    """Write a figure with fonts that have its characters; a character that no font has becomes a box."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
    families, missing = font_families(frozenset("".join(text.get_text() for text in texts)))
    for text in texts:
        text.set_fontfamily(families)
        # A name may hold dollar signs: it is no formula.
        text.set_parse_math(False)
        text.set_text("".join("□" if character in missing else character for character in text.get_text()))
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)
