"""What an evaluation leaves: metrics, predictions, pictures and the report."""

from dataclasses import replace
from pathlib import Path

from numpy.typing import ArrayLike

from labeldist.reports.findings import find
from labeldist.reports.page import About
from labeldist.reports.report import Report
from labeldist.serving.batches import Predictions
from labeldist.training.atomic import read_json
from labeldist.training.data.corpus import Split
from labeldist.training.output import pictures
from labeldist.training.output.projection import two_dimensions
from labeldist.training.records import CostedMetrics, PredictionMetrics, record_from_json, write_record
from labeldist.training.reporting import REPORT
from labeldist.training.reporting.places import with_map
from labeldist.training.reporting.prediction_table import read_predictions
from labeldist.training.reporting.saving import save_report
from labeldist.training.run_results import write_map, write_predictions

__all__ = ["evaluation_report", "is_evaluation", "save_evaluation"]

METRICS, PREDICTIONS, MAP = "metrics.json", "predictions.jsonl", "map.json"


def save_evaluation(
    folder: Path,
    split: Split,
    metrics: PredictionMetrics,
    predictions: Predictions,
    about: About,
    *,
    costs: ArrayLike | None = None,
) -> Path:
    """Write everything that an evaluation found.

    Args:
        folder: new or empty.
        split: the rows.
        metrics: of the rows.
        predictions: of the rows, in their order.
        about: for the report.
        costs: of mistakes, `(C, C)`.

    Returns:
        The report's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = metrics.class_names
    projection = two_dimensions(predictions.embeddings.numpy())
    write_predictions(split, names, predictions.probabilities, folder / PREDICTIONS)
    write_map(projection, folder / MAP)
    pictures.draw_pictures(folder, names, split.labels, metrics.confusion, projection=projection)
    write_record(folder / METRICS, metrics)
    return save_report(evaluation_report(folder, about, costs=costs), folder / REPORT)


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is one of `save_evaluation`."""
    return (folder / METRICS).is_file() and (folder / PREDICTIONS).is_file() and not (folder / "config.json").exists()


def evaluation_report(folder: Path, about: About | None = None, *, costs: ArrayLike | None = None) -> Report:
    """The report of an evaluation, from what its folder holds.

    Args:
        folder: of the evaluation.
        about: what the page says of it; the folder's name if `None`.
        costs: of mistakes, `(C, C)`; the folder does not keep them.

    Raises:
        UserError: if a file is broken.
    """
    stored = read_json(folder / METRICS)
    # A record of costs has one field more.
    kind = CostedMetrics if isinstance(stored, dict) and "costs" in stored else PredictionMetrics
    metrics = record_from_json(kind, stored, source=folder / METRICS)
    predictions = read_predictions(folder / PREDICTIONS, class_names=metrics.class_names)
    predictions, map_method = with_map(predictions, folder / MAP)
    about = replace(about or About(title=folder.name), map_method=map_method)
    return Report(find(predictions, costs=costs), about)
