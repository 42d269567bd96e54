"""The report of a run folder."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeldist.messages import escape_controls
from labeldist.reports.findings import find
from labeldist.reports.page import About
from labeldist.reports.report import Report
from labeldist.training.errors import UserError
from labeldist.training.output.words import duration
from labeldist.training.relations import costs_of, read_costs, relation_of
from labeldist.training.reporting.commands import compare_base, train_command
from labeldist.training.reporting.places import with_map, with_nearest
from labeldist.training.reporting.prediction_table import read_predictions
from labeldist.training.run_folder import RunConfig, RunFolder

__all__ = ["costs_of_run", "run_report", "settings_of_run"]


def run_report(folder: Path) -> Report:
    """The report of a finished run, from what its folder holds.

    Raises:
        UserError: if it is no finished run, or a file is broken.
    """
    run = RunFolder(folder)
    config, metrics = run.read_finished(), run.read_metrics()
    if not run.predictions.exists():
        raise UserError(f"{run.predictions} is missing: a report is made from it.")
    predictions, map_method = with_map(read_predictions(run.predictions, class_names=config.class_names), run.map)
    predictions = with_nearest(predictions, run.nearest)
    settings = settings_of_run(config)
    settings["Label distances"] = metrics.matrix_source
    seconds = run.read_history()["seconds"]
    if seconds is not None:
        settings["Training took"] = duration(seconds)
    spec = config.spec
    about = About(
        title=f"{config.data_name}, {Path(spec.settings.model.encoder).name}, {spec.objective}",
        settings=settings,
        notes=config.notes,
        command=train_command(spec),
        compare=compare_base(spec.settings),
        map_method=map_method,
    )
    return Report(find(predictions, costs=costs_of_run(config)), about)


def costs_of_run(config: RunConfig) -> NDArray[np.float64] | None:
    """What mistakes cost: the run's own costs, steps of its order, or how little related its classes are."""
    settings = config.spec.settings
    order = [name.strip() for name in settings.matrix.order]
    try:
        costs = read_costs(settings.data.costs, config.class_names) if settings.data.costs is not None else None
        if costs is None and order:
            costs = costs_of(None, order, config.class_names)
        if costs is not None:
            return costs.double().numpy()
        relation = relation_of(settings, config.class_names)
    # A file may have gone since: the report is worth having without it.
    except UserError:
        return None
    return None if relation is None else 1 - relation.closeness.double().numpy()


def settings_of_run(config: RunConfig) -> dict[str, str]:
    """What a report says of a run, by name."""
    settings = config.spec.settings
    rows = ", ".join(f"{escape_controls(name)} {number:,}" for name, number in config.num_rows.items())
    return {
        "Data": config.data_name,
        "Rows": rows,
        "Classes": f"{len(config.class_names):,}",
        "Encoder": settings.model.encoder,
        "Objective": config.spec.objective,
        "Seed": str(config.spec.seed),
        "Recipe": settings.optim.recipe,
        "Temperature": f"{settings.loss.temperature:g}",
        "Share of the cross-entropy": f"{settings.loss.ce_weight:g}",
        "Processes": str(config.num_processes),
        "Machine": config.machine,
        "Versions": ", ".join(f"{name} {version}" for name, version in config.versions.items()),
        "Fingerprint of the data": config.fingerprint,
    }
