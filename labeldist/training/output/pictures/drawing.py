"""What all pictures share: figures without matplotlib's global state, titles, axes, and saving."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from labeldist.training.output.pictures.names import font_families, font_note
from labeldist.training.output.pictures.themes import Theme

DPI = 150


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """A figure of so many inches that belongs to no window."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor=theme.page)
    FigureCanvasAgg(figure)
    return figure


def set_title(axes: Axes, title: str, subtitle: str, theme: Theme, *, scale: float = 1.0) -> None:
    """A bold title at the left, and a muted line, or several, below it."""
    room = "\n" * (1 + subtitle.count("\n"))
    axes.set_title(f"{title}{room}", loc="left", fontsize=12 * scale, fontweight="bold", color=theme.ink)
    axes.annotate(
        subtitle,
        (0, 1),
        (0, 6 * scale),
        xycoords="axes fraction",
        textcoords="offset points",
        color=theme.muted,
        fontsize=9 * scale,
    )


def lighten(axes: Axes, theme: Theme) -> None:
    """A pale grid and no frame."""
    axes.set_facecolor(theme.page)
    axes.grid(True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.frame)
    axes.tick_params(colors=theme.muted, labelcolor=theme.ink, length=0)
    axes.xaxis.label.set_color(theme.muted)
    axes.yaxis.label.set_color(theme.muted)


def add_font_note(figure: Figure, class_names: Sequence[str], theme: Theme, *, scale: float = 1.0) -> None:
    """Say at the bottom of a figure why classes have numbers for names, where no installed font shows the names."""
    if note := font_note(class_names):
        figure.supxlabel(note, fontsize=8 * scale, color=theme.muted)


def save(figure: Figure, path: Path) -> None:
    """Write a figure with fonts that have its characters; a character that no font has becomes a box."""
    for text in figure.findobj(Text):
        if not isinstance(text, Text) or not (shown := text.get_text()):
            continue
        families, missing = font_families(frozenset(shown))
        text.set_fontfamily(families)
        # A name may hold dollar signs: it is no formula.
        text.set_parse_math(False)
        text.set_text("".join("□" if character in missing else character for character in shown))
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)
