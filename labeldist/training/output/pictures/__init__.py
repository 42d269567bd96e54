"""Figures of a run and of a comparison, saved as files; matplotlib's global state is not touched."""

from labeldist.training.output.pictures.all_pictures import draw_pictures, note_on_the_rest
from labeldist.training.output.pictures.comparison_chart import plot_comparison
from labeldist.training.output.pictures.confused import class_order
from labeldist.training.output.pictures.curves import plot_curves
from labeldist.training.output.pictures.embedding_map import plot_embeddings
from labeldist.training.output.pictures.heat_maps import largest_share, plot_confusion, plot_ldm
from labeldist.training.output.pictures.names import font_sentence
from labeldist.training.output.pictures.themes import ThemeName
from labeldist.training.output.projection import two_dimensions

__all__ = [
    "ThemeName",
    "class_order",
    "draw_pictures",
    "font_sentence",
    "largest_share",
    "note_on_the_rest",
    "plot_comparison",
    "plot_confusion",
    "plot_curves",
    "plot_embeddings",
    "plot_ldm",
    "two_dimensions",
]
