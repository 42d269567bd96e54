"""The chart of a comparison."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from labeldist.training.measures import MEASURES
from labeldist.training.output.pictures.drawing import lighten, new_figure, save, set_title
from labeldist.training.output.pictures.names import short_name
from labeldist.training.output.pictures.themes import THEMES, ThemeName
from labeldist.training.study.results import Comparison, PairedDifference

__all__ = ["plot_comparison"]


def plot_comparison(comparison: Comparison, path: Path, *, theme: ThemeName = "light") -> None:
    """Plot the measure of each objective, one dot per seed, and its mean difference to the baseline with an interval.

    Args:
        comparison: results of the comparison.
        path: file of the figure; its suffix determines the format.
        theme: colors for a light or a dark page.
    """
    colors = THEMES[theme]
    names, baseline = list(comparison.objectives), comparison.baseline
    measure = MEASURES[comparison.measure]
    scale = measure.scale
    figure = new_figure(10.4, 1.9 + 0.5 * len(names), colors)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    for position, name in enumerate(names):
        color = colors.blue if name in comparison.controls else colors.orange
        _seed_dots(left, getattr(comparison.objectives[name], measure.column), position, color, scale)
        difference = comparison.difference_to_baseline(name)
        if difference is not None:
            _interval(right, difference, position, color, scale)
    right.axvline(0, color=colors.muted, linewidth=1, zorder=1)
    right.plot(
        [0], [names.index(baseline)], "o", color=colors.muted, markersize=6, markerfacecolor=colors.page, zorder=3
    )
    margin = scale * comparison.margin
    right.axvspan(-margin, margin, color=colors.grid, alpha=0.55, linewidth=0, zorder=0)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    better = "; left is better" if measure.is_lower_better else ""
    left.set_xlabel(f"test {measure.noun}{', %' if measure.is_fraction else ''}{better}")
    change = "points of" if measure.is_fraction else "change of"
    right.set_xlabel(f"{change} {measure.noun}; gray: less than {margin:g}")
    num_seeds = len(comparison.seeds)
    dots = "one seed" if num_seeds == 1 else f"a dot for each of {num_seeds} seeds, bar = mean"
    set_title(
        left, f"Test {measure.noun}: {short_name(comparison.data)}, {short_name(comparison.encoder)}", dots, colors
    )
    interval = "one seed, so no interval" if num_seeds == 1 else "paired by seed, mean and its 95 % interval"
    set_title(right, f"Difference to {baseline}", interval, colors)
    for axes in (left, right):
        lighten(axes, colors)
        axes.tick_params(axis="y", length=0)
    right.tick_params(axis="y", labelleft=False)
    save(figure, path)


def _seed_dots(axes: Axes, found: Iterable[float | None], position: int, color: str, scale: int) -> None:
    values = scale * np.array([value for value in found if value is not None])
    if len(values):
        # A fixed fan instead of random jitter: equal values remain countable and the figure reproducible.
        fan = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(values, position + fan, "o", color=color, markersize=5.5, alpha=0.55, markeredgewidth=0, zorder=3)
        axes.plot([values.mean()] * 2, [position - 0.3, position + 0.3], color=color, linewidth=2.4, zorder=4)


def _interval(axes: Axes, difference: PairedDifference, position: int, color: str, scale: int) -> None:
    if difference.low is not None and difference.high is not None:
        ends = [scale * difference.low, scale * difference.high]
        axes.plot(ends, [position] * 2, color=color, linewidth=2, solid_capstyle="round", zorder=2)
    axes.plot([scale * difference.mean], [position], "o", color=color, markersize=7, zorder=3)
