"""The pictures of one set of predictions, together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from labeldist.training.output.pictures.confused import MAX_DRAWN_CLASSES, MAX_GIVEN_ORDER, class_order
from labeldist.training.output.pictures.curves import plot_curves
from labeldist.training.output.pictures.embedding_map import plot_embeddings
from labeldist.training.output.pictures.heat_maps import plot_confusion, plot_ldm
from labeldist.training.output.pictures.themes import ThemeName
from labeldist.training.output.progress import SILENT, Progress
from labeldist.training.output.projection import TwoDimensions
from labeldist.training.records import Confusion

__all__ = ["draw_pictures", "note_on_the_rest"]


def draw_pictures(
    folder: Path,
    class_names: Sequence[str],
    labels: ArrayLike,
    confusion: ArrayLike | Confusion,
    *,
    projection: TwoDimensions | None = None,
    matrix: ArrayLike | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    theme: ThemeName = "light",
    progress: Progress = SILENT,
) -> None:
    """Draw `confusion.png`, and, of what is given, `embeddings.png`, `ldm.png` and `curves.png`.

    Args:
        folder: where the files go.
        class_names: name of each class, C of them.
        labels: true class index of each row, `(N,)`.
        confusion: counts, `(C, C)`, row = true class, column = predicted class, or their cells.
        projection: of the rows' embeddings: see `two_dimensions`.
        matrix: label distances, `(C, C)`.
        history: `log_history` of a Trainer.
        theme: the page that they are for.
        progress: where it shows which picture is drawn.
    """
    # Side by side, the same cell of both maps is the same pair of classes.
    order = class_order(confusion, len(class_names))
    note = note_on_the_rest(len(class_names))
    with progress.step("drawing confusion.png"):
        plot_confusion(confusion, class_names, folder / "confusion.png", note=note, order=order, theme=theme)
    if projection is not None:
        path = folder / "embeddings.png"
        with progress.step("drawing embeddings.png"):
            plot_embeddings(projection, labels, class_names, path, confusion=confusion, theme=theme)
    if matrix is not None:
        shared = order if len(class_names) > MAX_GIVEN_ORDER else None
        with progress.step("drawing ldm.png"):
            plot_ldm(matrix, class_names, folder / "ldm.png", order=shared, theme=theme)
    if history:
        with progress.step("drawing curves.png"):
            plot_curves(history, folder / "curves.png", theme=theme)


def note_on_the_rest(num_classes: int) -> str:
    """Where the classes are that a confusion matrix in a folder with a report leaves out; empty if it draws all.

    Examples:
        >>> note_on_the_rest(200), note_on_the_rest(11)
        ('report.html shows more classes', '')
    """
    return "report.html shows more classes" if num_classes > MAX_DRAWN_CLASSES else ""
