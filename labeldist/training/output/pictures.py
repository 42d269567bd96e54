"""Figures of a run and of a comparison, saved as files; matplotlib's global state is not touched."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

__all__ = ["plot_comparison", "plot_confusion", "plot_curves", "plot_embeddings", "plot_ldm"]

DPI = 150
INK, MUTED, GRID = "#222222", "#6b6b6b", "#e4e4e4"
BLUE, ORANGE, GREEN, PURPLE = "#2f6690", "#d1663a", "#4b8b5d", "#7d5a94"
CONFUSION_COLOURS = LinearSegmentedColormap.from_list(
    "confusion", ["#ffffff", "#c9dcea", "#6fa0c4", "#2f6690", "#123a5a"]
)
# darker = larger distance, as in the paper's Fig. 2; the darkest grey stops short of black
LDM_COLOURS = LinearSegmentedColormap.from_list("ldm", ["#fbfbfb", "#bdbdbd", "#737373", "#252525"])
LDM_DIAGONAL = "#f1e7da"
CLASS_COLOURS = (
    "#2f6690", "#d1663a", "#4b8b5d", "#b5394a", "#7d5a94", "#8a6642", "#d98fb5",
    "#5b5b5b", "#a3a134", "#3aa6b0", "#e0a83c", "#8fb0e0", "#1d3b2f",
)  # fmt: skip
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<")
# fonts made for Chinese, Japanese and Korean, tried before any other that has the characters
CJK_FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "SimHei", "Heiti SC", "Hiragino Sans GB", "Noto Sans CJK JP", "Hiragino Sans", "Yu Gothic",
    "Noto Sans CJK KR", "Malgun Gothic", "Arial Unicode MS",
)  # fmt: skip
MAX_CELL_NUMBERS = 15
MAX_NAME_CHARACTERS = 30
MAX_EMBEDDINGS = 2000
MIN_TSNE_ROWS = 10


def plot_confusion(counts: ArrayLike, class_names: Sequence[str], path: Path) -> None:
    """Confusion matrix as a heat map: counts in the cells (up to 15 classes), colour = share of the true class's rows.

    The colour scale follows the square root of the share, so that rare confusions remain visible.

    Args:
        counts: `(C, C)`, row = true class, column = predicted class.
        class_names: name of each class, C of them.
        path: where the figure goes; the suffix says the format.
    """
    matrix = _square(counts, class_names, "counts")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    total, right = int(matrix.sum()), int(np.trace(matrix))
    norm = PowerNorm(0.5, 0, 1)
    figure, axes, bar = _heat_map(shares, class_names, CONFUSION_COLOURS, norm, "share of the true class")
    bar.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    if len(class_names) <= MAX_CELL_NUMBERS:
        _cell_numbers(axes, matrix, shares > 0.3, lambda count: f"{count:.0f}" if count else "")
    axes.set(xlabel="predicted class", ylabel="true class")
    _title(axes, "Confusion matrix", f"{right:,} of {total:,} rows lie on the diagonal")
    _save(figure, path)


def plot_ldm(matrix: ArrayLike, class_names: Sequence[str], path: Path, title: str | None = None) -> None:
    """Label-distance matrix as a heat map, as in the paper's Fig. 2: the darker a pair, the larger its label distance.

    White is the neutral distance 1, or the smallest entry where that is below 1. The diagonal is no pair of two classes
    and is left out of the scale.

    Args:
        matrix: `(C, C)`, row = the anchor's class, column = the other class.
        class_names: name of each class, C of them.
        path: where the figure goes; the suffix says the format.
        title: heading; None takes "Label distance".
    """
    distances = _square(matrix, class_names, "matrix")
    is_pair = ~np.eye(len(class_names), dtype=bool)
    low = min(1.0, float(distances[is_pair].min(initial=1.0)))
    high = float(distances[is_pair].max(initial=low))
    norm = Normalize(low, high if high > low else low + 1)
    masked = np.ma.array(distances, mask=~is_pair)
    figure, axes, _ = _heat_map(masked, class_names, LDM_COLOURS, norm, "label distance")
    if len(class_names) <= MAX_CELL_NUMBERS:
        is_dark = (norm(distances) > 0.55) & is_pair
        _cell_numbers(axes, distances, is_dark, lambda distance: f"{distance:.3g}", muted=~is_pair)
    axes.set(xlabel="other class", ylabel="class of the anchor")
    _title(axes, title or "Label distance", "darker = pushed further apart")
    _save(figure, path)


def _square(values: ArrayLike, class_names: Sequence[str], name: str) -> NDArray[np.float64]:
    matrix = np.asarray(values, dtype=np.float64)
    size = len(class_names)
    if matrix.shape != (size, size):
        raise ValueError(f"{name} must have shape (C, C) = ({size}, {size}), as class_names says, got {matrix.shape}.")
    return matrix


def _heat_map(
    values: NDArray[np.float64],
    class_names: Sequence[str],
    colours: LinearSegmentedColormap,
    norm: Normalize,
    scale_label: str,
) -> tuple[Figure, Axes, Axes]:
    size = len(class_names)
    # inches: roomy cells for few classes, then small ones, so that the page grows slowly
    cell = 0.85 if size <= 4 else 0.55 if size <= MAX_CELL_NUMBERS else 0.3 if size <= 30 else 0.19
    cell = min(cell, 20 / size)
    names = _labels(class_names)
    side = max(size * cell, 2.4)
    font_size = max(1.5, min(10.0, 0.62 * 72 * cell))
    margin = 0.8 * font_size / 72 * max(map(_text_width, names)) + 0.5
    figure = _figure(side + margin + 1.2, side + margin + 0.9)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap=colours.with_extremes(bad=LDM_DIAGONAL), norm=norm, aspect="equal")
    is_wide = max(map(_text_width, names)) * font_size * 0.62 / 72 > 0.95 * side / size
    axes.set_xticks(range(size), names, fontsize=font_size, rotation=90 if is_wide else 0)
    axes.set_yticks(range(size), names, fontsize=font_size)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(False)
    axes.grid(which="minor", color=GRID, linewidth=0.6 if size <= 30 else 0.3)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_color(GRID)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    # an inset keeps the height of the map; a colour bar beside the axes would stretch beyond a square
    inset = axes.inset_axes((1 + 0.2 / side, 0, 0.15 / side, 1))
    bar = figure.colorbar(image, cax=inset)
    bar.set_label(scale_label, color=MUTED)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] (matplotlib types the spine as a callable)
    bar.ax.tick_params(length=0, labelcolor=MUTED)
    return figure, axes, bar.ax


def _cell_numbers(
    axes: Axes,
    values: NDArray[np.float64],
    is_dark: NDArray[np.bool_],
    number: Any,
    muted: NDArray[np.bool_] | None = None,
) -> None:
    for row, column in np.ndindex(*values.shape):
        colour = "white" if is_dark[row, column] else INK
        if muted is not None and muted[row, column]:
            colour = "#b5a48d"
        axes.text(column, row, number(values[row, column]), ha="center", va="center", fontsize=8.5, color=colour)


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Losses and validation scores over the epochs of a training run, with the updates of the label distances marked.

    Args:
        history: `log_history` of a Trainer: entries with `epoch` and some of `loss`, `cross_entropy`, `contrastive`,
            `eval_loss`, `eval_accuracy`, `eval_macro_f1`, `ldm_epsilon`; what is not there is not drawn.
        path: where the figure goes; the suffix says the format.
    """
    figure = _figure(8.4, 6.2)
    loss_axes, score_axes = figure.subplots(2, 1, sharex=True)
    for key, label, colour, line in (
        ("loss", "training", INK, "-"),
        ("cross_entropy", "training: cross-entropy", BLUE, "--"),
        ("contrastive", "training: contrastive", ORANGE, "--"),
        ("eval_loss", "validation", GREEN, "-"),
    ):
        _curve(loss_axes, history, key, label, colour, line, 1)
    for key, label, colour in (("eval_accuracy", "accuracy", BLUE), ("eval_macro_f1", "macro-F1", ORANGE)):
        _curve(score_axes, history, key, label, colour, "-", 100)
    _mark_best(score_axes, history)
    updates = [entry["epoch"] for entry in history if "ldm_epsilon" in entry and "epoch" in entry]
    if updates:
        heights = np.full(len(updates), 0.02)
        marks = score_axes.plot(updates, heights, "|", transform=score_axes.get_xaxis_transform())
        marks[0].set(color=PURPLE, markersize=8, markeredgewidth=1.2, label="update of label distances")
    _title(loss_axes, "Loss", "training, its parts, and validation")
    _title(score_axes, "Validation", "accuracy and macro-F1 after each epoch")
    loss_axes.set_ylabel("nats")
    score_axes.set(xlabel="epoch", ylabel="%")
    for axes in (loss_axes, score_axes):
        _lighten(axes)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK)
        else:
            axes.text(0.5, 0.5, "nothing was logged", transform=axes.transAxes, ha="center", color=MUTED)
            axes.set(xticks=[], yticks=[])
    _save(figure, path)


def _curve(
    axes: Axes, history: Sequence[Mapping[str, Any]], key: str, label: str, colour: str, line: str, factor: float
) -> None:
    points = sorted((entry["epoch"], factor * entry[key]) for entry in history if key in entry and "epoch" in entry)
    if points:
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) <= 40 else ""
        axes.plot(epochs, values, line, color=colour, label=label, marker=marker, markersize=3, linewidth=1.5)


def _mark_best(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    points = [
        (entry["epoch"], 100 * entry["eval_accuracy"])
        for entry in history
        if {"eval_accuracy", "epoch"} <= entry.keys()
    ]
    if points:
        epoch, best = max(points, key=lambda point: point[1])
        label = f"best accuracy: {best:.1f} %"
        axes.plot([epoch], [best], "o", markersize=9, markerfacecolor="none", markeredgecolor=BLUE, label=label)


def plot_embeddings(embeddings: ArrayLike, labels: ArrayLike, class_names: Sequence[str], path: Path) -> None:
    """Embeddings in two dimensions, one colour and marker for each class.

    Rows are scaled to unit length, as the loss sees them. t-SNE of at most 2000 rows, both by a fixed seed; principal
    components where there are fewer than 10 rows.

    Args:
        embeddings: `(N, D)`, finite, N >= 1.
        labels: class index of each row, `(N,)`.
        class_names: name of each class.
        path: where the figure goes; the suffix says the format.
    """
    rows, classes = np.asarray(embeddings, dtype=np.float64), np.asarray(labels)
    if rows.ndim != 2 or not len(rows) or classes.shape != (len(rows),):
        raise ValueError(f"embeddings must be (N, D) with N labels, N >= 1, got {rows.shape} and {classes.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError("embeddings must be finite, got NaN or infinity.")
    num_rows = len(rows)
    if num_rows > MAX_EMBEDDINGS:
        kept = np.sort(np.random.default_rng(0).choice(num_rows, MAX_EMBEDDINGS, replace=False))
        rows, classes = rows[kept], classes[kept]
    points, method = _two_dimensions(rows)
    present = np.unique(classes).tolist()
    names = _labels(class_names)
    num_columns = math.ceil(len(present) / 27)
    width = 0.085 * max(_text_width(names[c]) for c in present) + 0.4
    figure = _figure(7.2 + num_columns * width, 6.4)
    axes = figure.add_subplot()
    size = 26 if len(rows) <= 500 else 15
    for c in present:
        x, y = points[classes == c].T
        axes.scatter(x, y, s=size, marker=_marker(c), color=_colour(c), alpha=0.8, linewidths=0.3, edgecolors="white")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(GRID)
    axes.set_aspect("equal", adjustable="datalim")
    shown = f"{len(rows):,} of {num_rows:,} rows" if len(rows) < num_rows else f"{num_rows:,} rows"
    _title(axes, "Embeddings in two dimensions", f"{method} of {shown}; rows that lie close are similar to the model")
    handles = [Line2D([], [], linestyle="", marker=_marker(c), color=_colour(c), markersize=6) for c in present]
    # matplotlib drops legend entries whose label starts with an underscore: set the names afterwards
    legend = axes.legend(
        handles,
        ["class"] * len(present),
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        ncols=num_columns,
        labelcolor=INK,
        fontsize=9 if len(present) <= 30 else 8,
        handletextpad=0.2,
        columnspacing=1.0,
    )
    for text, c in zip(legend.get_texts(), present, strict=True):
        text.set_text(names[c])
    _save(figure, path)


def _two_dimensions(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    # t-SNE starts from principal components and fails on rows that are all equal
    if len(rows) >= MIN_TSNE_ROWS and rows.shape[1] >= 2 and np.ptp(rows, axis=0).max() > 1e-9:
        perplexity = min(30.0, (len(rows) - 1) / 3)
        return TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(rows), "t-SNE"
    points = np.zeros((len(rows), 2))
    num_components = min(2, *rows.shape)
    if len(rows) > 1 and np.ptp(rows, axis=0).max() > 1e-9:
        points[:, :num_components] = PCA(num_components, random_state=0).fit_transform(rows)
    return points, "principal components"


def _colour(class_index: int) -> str:
    return CLASS_COLOURS[class_index % len(CLASS_COLOURS)]


def _marker(class_index: int) -> str:
    return CLASS_MARKERS[class_index // len(CLASS_COLOURS) % len(CLASS_MARKERS)]


def plot_comparison(comparison: Mapping[str, Any], path: Path) -> None:
    """Accuracy of every objective, one dot for each seed, beside the mean difference to the baseline with its interval.

    Args:
        comparison: result of `labeldist.training.comparison.build_comparison`.
        path: where the figure goes; the suffix says the format.
    """
    names, baseline = list(comparison["objectives"]), comparison["baseline"]
    figure = _figure(10.4, 1.9 + 0.5 * len(names))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    for position, name in enumerate(names):
        colour = BLUE if name in comparison["controls"] else ORANGE
        _seed_dots(left, comparison["objectives"][name]["accuracy"], position, colour)
        difference = comparison["differences"].get(name, {}).get(baseline)
        if difference is not None:
            _interval(right, difference, position, colour)
    right.axvline(0, color=MUTED, linewidth=1, zorder=1)
    right.plot([0], [names.index(baseline)], "o", color=MUTED, markersize=6, markerfacecolor="white", zorder=3)
    margin = 100 * comparison["margin"]
    right.axvspan(-margin, margin, color=GRID, alpha=0.55, linewidth=0, zorder=0)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    left.set_xlabel("test accuracy, %")
    right.set_xlabel(f"points of accuracy; grey: less than {margin:g}")
    num_seeds = len(comparison["seeds"])
    dots = "one seed" if num_seeds == 1 else f"a dot for each of {num_seeds} seeds, bar = mean"
    _title(left, f"Test accuracy: {_short(comparison['data'])}, {_short(comparison['encoder'])}", dots)
    interval = "one seed, so no interval" if num_seeds == 1 else "paired by seed, mean and its 95 % interval"
    _title(right, f"Difference to {baseline}", interval)
    for axes in (left, right):
        _lighten(axes)
        axes.tick_params(axis="y", length=0)
    right.tick_params(axis="y", labelleft=False)
    _save(figure, path)


def _seed_dots(axes: Axes, accuracies: Iterable[float | None], position: int, colour: str) -> None:
    values = 100 * np.array([value for value in accuracies if value is not None])
    if len(values):
        # a fixed fan instead of random jitter: equal accuracies remain countable and the figure reproducible
        fan = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(values, position + fan, "o", color=colour, markersize=5.5, alpha=0.55, markeredgewidth=0, zorder=3)
        axes.plot([values.mean()] * 2, [position - 0.3, position + 0.3], color=colour, linewidth=2.4, zorder=4)


def _interval(axes: Axes, difference: Mapping[str, Any], position: int, colour: str) -> None:
    if difference["low"] is not None:
        ends = [100 * difference["low"], 100 * difference["high"]]
        axes.plot(ends, [position] * 2, color=colour, linewidth=2, solid_capstyle="round", zorder=2)
    axes.plot([100 * difference["mean"]], [position], "o", color=colour, markersize=7, zorder=3)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _title(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(f"{title}\n", loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.annotate(
        subtitle, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=MUTED, fontsize=9
    )


def _lighten(axes: Axes) -> None:
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bdbdbd")
    axes.tick_params(colors=MUTED, labelcolor=INK, length=0)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARACTERS else name[: MAX_NAME_CHARACTERS - 1] + "…"


def _text_width(text: str) -> int:
    # in Latin letters; ideographs and other characters beyond the general punctuation are about twice as wide
    return sum(2 if ord(character) > 0x2E80 else 1 for character in text)


def _save(figure: Figure, path: Path) -> None:
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
    families, missing = _families(frozenset("".join(text.get_text() for text in texts)))
    for text in texts:
        text.set_fontfamily(families)
        # a name may hold dollar signs: it is no formula
        text.set_parse_math(False)
        text.set_text("".join("□" if character in missing else character for character in text.get_text()))
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)


def _labels(class_names: Sequence[str]) -> list[str]:
    """Class names cut to a readable length; a name that no installed font can show becomes the number of its class."""
    names = [_short(" ".join(name.split())) for name in class_names]
    missing = _families(frozenset("".join(names)))[1]
    return [f"class {c}" if missing & set(name) else name for c, name in enumerate(names)]


@cache
def _families(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Font families that together have glyphs for `characters`, and the characters that no installed font has."""
    families, missing = ["DejaVu Sans"], {character for character in characters if not character.isspace()}
    missing -= _characters(font_manager.findfont("DejaVu Sans"))
    fonts = {font.name: font.fname for font in font_manager.fontManager.ttflist if font.style == "normal"}
    ordered = [name for name in CJK_FAMILIES if name in fonts] + sorted(fonts.keys() - set(CJK_FAMILIES))
    for family in ordered:
        if not missing:
            break
        # the fonts of last resort claim every character and draw a box
        if not family.startswith((".", "Last")) and missing & _characters(fonts[family]):
            families.append(family)
            missing -= _characters(fonts[family])
    return tuple(families), frozenset(missing)


@cache
def _characters(font_path: str) -> frozenset[str]:
    """Characters that a font file has glyphs for; none if it cannot be read."""
    try:
        return frozenset(map(chr, FT2Font(font_path).get_charmap()))
    except (RuntimeError, OSError):
        return frozenset()
