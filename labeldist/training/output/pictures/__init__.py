"""Figures of a run and of a comparison, saved as files; matplotlib's global state is not touched."""

from labeldist.training.output.pictures.comparison_chart import plot_comparison
from labeldist.training.output.pictures.curves import plot_curves
from labeldist.training.output.pictures.embedding_map import plot_embeddings
from labeldist.training.output.pictures.heat_maps import plot_confusion, plot_ldm
from labeldist.training.output.projection import two_dimensions

__all__ = ["plot_comparison", "plot_confusion", "plot_curves", "plot_embeddings", "plot_ldm", "two_dimensions"]
