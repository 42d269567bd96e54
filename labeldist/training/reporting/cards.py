"""The model card of a run folder: a README.md with the metadata that the Hugging Face hub reads."""

from dataclasses import replace
from pathlib import Path

from labeldist.reports.card import card_text
from labeldist.reports.report import Report
from labeldist.training.atomic import write_text
from labeldist.training.data.hub import is_hub_id
from labeldist.training.reporting.commands import train_command
from labeldist.training.reporting.runs import settings_of_run
from labeldist.training.run_folder import RunFolder, RunSpec

__all__ = ["CARD", "write_card"]

CARD = "README.md"


def write_card(run: RunFolder, report: Report) -> None:
    """Write the card of a finished run.

    Args:
        run: the folder.
        report: of the run.
    """
    from huggingface_hub import EvalResult, ModelCardData

    config, findings = run.read_config(), report.findings
    spec = config.spec
    encoder = spec.settings.model.encoder
    # A name of a hub has an owner; a path that exists is no such name.
    names = [name for name in spec.settings.data.data if "/" in name and is_hub_id(name) and not Path(name).exists()]
    hub_data = [name.partition(":")[0] for name in names]
    task, kind, data = "text-classification", hub_data[0] if hub_data else "text", config.data_name
    metadata = ModelCardData(
        model_name=f"{config.data_name}-{Path(encoder).name}-{spec.objective}",
        library_name="labeldist",
        pipeline_tag=task,
        tags=["labeldist", "text-classification", "contrastive-learning"],
        datasets=hub_data or None,
        base_model=encoder if "/" in encoder and not Path(encoder).exists() else None,
        metrics=["accuracy", "f1"],
        eval_results=[
            EvalResult(task, kind, data, "accuracy", round(findings.accuracy.value, 4), dataset_split="test"),
            EvalResult(
                task, kind, data, "f1", round(findings.macro_f1, 4), metric_name="macro-F1", dataset_split="test"
            ),
        ],
    )
    text = card_text(
        findings,
        title=f"{config.data_name}, {Path(encoder).name}, {spec.objective}",
        encoder=Path(encoder).name,
        objective=spec.objective,
        settings={name: value for name, value in settings_of_run(config).items() if name != "Machine"},
        command=train_command(_without_folders(spec)),
    )
    write_text(run.path / CARD, f"---\n{metadata.to_yaml()}\n---\n\n{text}")


def _without_folders(spec: RunSpec) -> RunSpec:
    """The same with the names of local files alone: a card is for others."""
    data = spec.settings.data
    names = tuple(Path(name).name if Path(name).is_absolute() else name for name in data.data)
    return replace(spec, settings=replace(spec.settings, data=replace(data, data=names)))
