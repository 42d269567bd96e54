"""The curves of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from labeldist.training.output.pictures.drawing import lighten, new_figure, save, set_title
from labeldist.training.output.pictures.themes import THEMES, Theme, ThemeName

__all__ = ["plot_curves"]


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path, *, theme: ThemeName = "light") -> None:
    """Plot the losses and validation scores of a training run by epoch, and mark the updates of the label distances.

    Args:
        history: `log_history` of a Trainer: entries with `epoch` and any of `loss`, `cross_entropy`, `contrastive`,
            `eval_loss`, `eval_accuracy`, `eval_macro_f1` and `ldm_epsilon`. Missing values are not drawn.
        path: file of the figure; its suffix determines the format.
        theme: colors for a light or a dark page.
    """
    colors = THEMES[theme]
    # Without validation rows, as with few labels, one panel says all.
    is_validated = any("eval_accuracy" in entry for entry in history)
    figure = new_figure(8.4, 6.2 if is_validated else 3.4, colors)
    panels = list(figure.subplots(1 + is_validated, 1, sharex=True, squeeze=False)[:, 0])
    _draw_losses(panels[0], history, colors, is_validated=is_validated)
    if is_validated:
        _draw_scores(panels[1], history, colors)
    panels[-1].set_xlabel("epoch")
    for axes in panels:
        lighten(axes, colors)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=colors.ink)
        else:
            axes.text(0.5, 0.5, "nothing was logged", transform=axes.transAxes, ha="center", color=colors.muted)
            axes.set(xticks=[], yticks=[])
    save(figure, path)


def _draw_losses(axes: Axes, history: Sequence[Mapping[str, Any]], theme: Theme, *, is_validated: bool) -> None:
    for key, label, color, line in (
        ("loss", "training", theme.ink, "-"),
        ("cross_entropy", "training: cross-entropy", theme.blue, "--"),
        ("contrastive", "training: contrastive", theme.orange, "--"),
        ("eval_loss", "validation", theme.green, "-"),
    ):
        _curve(axes, history, key, label, color, line, 1)
    set_title(axes, "Loss", "training, its parts, and validation" if is_validated else "training and its parts", theme)
    axes.set_ylabel("nats")


def _draw_scores(axes: Axes, history: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    for key, label, color in (("eval_accuracy", "accuracy", theme.blue), ("eval_macro_f1", "macro-F1", theme.orange)):
        _curve(axes, history, key, label, color, "-", 100)
    _mark_best(axes, history, theme)
    updates = [entry["epoch"] for entry in history if "ldm_epsilon" in entry and "epoch" in entry]
    if updates:
        marks = axes.plot(updates, np.full(len(updates), 0.02), "|", transform=axes.get_xaxis_transform())
        marks[0].set(color=theme.purple, markersize=8, markeredgewidth=1.2, label="update of label distances")
    set_title(axes, "Validation", "accuracy and macro-F1 at each evaluation", theme)
    axes.set_ylabel("%")


def _curve(
    axes: Axes, history: Sequence[Mapping[str, Any]], key: str, label: str, color: str, line: str, factor: float
) -> None:
    points = sorted((entry["epoch"], factor * entry[key]) for entry in history if key in entry and "epoch" in entry)
    if points:
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) <= 40 else ""
        axes.plot(epochs, values, line, color=color, label=label, marker=marker, markersize=3, linewidth=1.5)


def _mark_best(axes: Axes, history: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    points = [
        (entry["epoch"], 100 * entry["eval_accuracy"])
        for entry in history
        if {"eval_accuracy", "epoch"} <= entry.keys()
    ]
    if points:
        epoch, best = max(points, key=lambda point: point[1])
        label = f"best accuracy: {best:.1f} %"
        axes.plot([epoch], [best], "o", markersize=9, markerfacecolor="none", markeredgecolor=theme.blue, label=label)
