"""The confusion matrices of a comparison: of its baseline, and of the best other objective."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from labeldist.training.output import pictures
from labeldist.training.output.progress import SILENT, Progress
from labeldist.training.records import Confusion
from labeldist.training.study.results import Comparison, FinishedRun

__all__ = ["BASELINE_CONFUSION", "BEST_CONFUSION", "best_beside_baseline", "draw_confusions", "pool_confusions"]

BASELINE_CONFUSION = "confusion-baseline.png"
BEST_CONFUSION = "confusion-best.png"


def draw_confusions(
    runs: Sequence[FinishedRun],
    comparison: Comparison,
    folder: Path,
    *,
    theme: pictures.ThemeName = "light",
    progress: Progress = SILENT,
) -> None:
    """Draw the confusions of the baseline and of the best other objective, pooled over seeds.

    Both maps have the same classes in the same order and the same scale: a cell of one stands beside its cell of the
    other.

    Args:
        runs: that the comparison is of.
        comparison: of them.
        folder: receives `confusion-baseline.png` and `confusion-best.png`.
        theme: the page that they are for.
        progress: where it shows which picture is drawn.
    """
    best = best_beside_baseline(comparison)
    if best is None:
        return
    by_objective = {
        name: {run.seed: run.metrics for run in runs if run.objective == name} for name in (comparison.baseline, best)
    }
    seeds = sorted(set.intersection(*map(set, by_objective.values())))
    class_names = runs[0].metrics.class_names
    pooled = {
        name: pool_confusions([metrics[seed].confusion for seed in seeds]) for name, metrics in by_objective.items()
    }
    order = pictures.class_order(pool_confusions(list(pooled.values())), len(class_names))
    top_share = max(pictures.largest_share(confusion, len(class_names)) for confusion in pooled.values())
    seeds_in_words = f"pooled over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    note = "; ".join(filter(None, (seeds_in_words, pictures.note_on_the_rest(len(class_names)))))
    for file_name, (name, confusion) in zip((BASELINE_CONFUSION, BEST_CONFUSION), pooled.items(), strict=True):
        title = f"Confusion matrix: {name}"
        path = folder / file_name
        with progress.step(f"drawing {file_name}"):
            pictures.plot_confusion(
                confusion, class_names, path, title=title, note=note, order=order, top_share=top_share, theme=theme
            )


def best_beside_baseline(comparison: Comparison) -> str | None:
    """The objective with the highest mean accuracy on the baseline's seeds, but for the baseline itself.

    The first of equals; None where no other objective was run on a seed of the baseline.
    """
    means = {
        name: difference.mean
        for name in comparison.objectives
        if (difference := comparison.difference_to_baseline(name)) is not None
    }
    return max(means, key=means.__getitem__, default=None)


def pool_confusions(confusions: Sequence[Confusion]) -> Confusion:
    """Counts of several runs together.

    Examples:
        >>> pool_confusions([Confusion((0, 1), (0, 0), (4, 1)), Confusion((1,), (0,), (2,))])
        Confusion(true=(0, 1), predicted=(0, 0), num_rows=(4, 3))
    """
    columns = [(one.num_rows, one.true, one.predicted) for one in confusions]
    num_rows, true, predicted = np.concatenate([np.array(column, dtype=np.int64) for column in columns], axis=1)
    size = int(max(true.max(initial=0), predicted.max(initial=0))) + 1
    total = sparse.coo_array((num_rows, (true, predicted)), shape=(size, size)).tocsr().tocoo()
    return Confusion(*(tuple(column.tolist()) for column in (total.row, total.col, total.data)))
