"""What an evaluation leaves: metrics, predictions, pictures and the report."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from labeldist.reports.findings import find
from labeldist.reports.page import About
from labeldist.reports.report import Report
from labeldist.serving.batches import Predictions
from labeldist.training.atomic import read_json, write_json
from labeldist.training.data.corpus import Split
from labeldist.training.errors import UserError
from labeldist.training.output import pictures
from labeldist.training.output.progress import SILENT, Progress
from labeldist.training.output.projection import two_dimensions
from labeldist.training.records import CostedMetrics, PredictionMetrics, record_from_json, write_record
from labeldist.training.reporting import REPORT
from labeldist.training.reporting.places import with_map
from labeldist.training.reporting.prediction_table import read_predictions
from labeldist.training.reporting.saving import save_report
from labeldist.training.run_results import write_map, write_predictions

__all__ = ["evaluation_report", "is_evaluation", "save_evaluation"]

METRICS, PREDICTIONS, MAP, ABOUT = "metrics.json", "predictions.jsonl", "map.json", "evaluation.json"


def save_evaluation(
    folder: Path,
    split: Split,
    metrics: PredictionMetrics,
    predictions: Predictions,
    about: About,
    *,
    costs: ArrayLike | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write everything that an evaluation found.

    Args:
        folder: new or empty.
        split: the rows.
        metrics: of the rows.
        predictions: of the rows, in their order.
        about: for the report.
        costs: of mistakes, `(C, C)`.
        progress: where it shows what is drawn and written.

    Returns:
        The report's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = metrics.class_names
    with progress.step("drawing the map of the embeddings"):
        projection = two_dimensions(predictions.embeddings.numpy())
    write_predictions(split, names, predictions.probabilities, folder / PREDICTIONS)
    write_map(projection, folder / MAP)
    pictures.draw_pictures(folder, names, split.labels, metrics.confusion, projection=projection, progress=progress)
    write_record(folder / METRICS, metrics)
    told = {
        "title": about.title,
        "settings": dict(about.settings),
        "notes": list(about.notes),
        "command": about.command,
    }
    write_json(folder / ABOUT, {**told, "costs": None if costs is None else np.asarray(costs).tolist()})
    with progress.step(f"writing {REPORT}"):
        return save_report(evaluation_report(folder), folder / REPORT, folder)


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is one of `save_evaluation`."""
    return (folder / METRICS).is_file() and (folder / PREDICTIONS).is_file() and not (folder / "config.json").exists()


def evaluation_report(folder: Path) -> Report:
    """The report of an evaluation, from what its folder holds.

    Raises:
        UserError: if a file is broken.
    """
    stored = read_json(folder / METRICS)
    # A record of costs has one field more.
    kind = CostedMetrics if isinstance(stored, dict) and "costs" in stored else PredictionMetrics
    metrics = record_from_json(kind, stored, source=folder / METRICS)
    predictions = read_predictions(folder / PREDICTIONS, class_names=metrics.class_names)
    predictions, map_method = with_map(predictions, folder / MAP)
    told = read_json(folder / ABOUT)
    try:
        about = About(
            title=str(told["title"]),
            settings={str(name): str(value) for name, value in told["settings"].items()},
            notes=[str(note) for note in told["notes"]],
            command=str(told["command"]),
            map_method=map_method,
        )
        findings = find(predictions, costs=told["costs"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / ABOUT} does not tell of this evaluation: {error}.") from error
    return Report(findings, about)
