"""What the commands do: thin users of `labeldist.training.api`, imported when a command is carried out."""

import itertools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labeldist.cli.commands import Compare, Evaluate, Predict, ReportOf, Train
from labeldist.messages import escape_controls
from labeldist.training.atomic import check_absent, new_file, writing_to
from labeldist.training.config import ModelSettings
from labeldist.training.data.dialects import TableFormat
from labeldist.training.errors import UserError
from labeldist.training.output.text_layout import wrap_for
from labeldist.training.recipes import ByRecipe
from labeldist.training.reporting import REPORT

if TYPE_CHECKING:
    from labeldist.training.output.progress import Progress

__all__ = ["HANDLERS", "carry_out"]


def carry_out(command: Any, under_few_labels: Any = None) -> None:
    """Do what a command says.

    Args:
        command: as it was parsed.
        under_few_labels: a command that trains, parsed with the defaults of the recipe of few labels.

    Raises:
        UserError: for any mistake of the user.
    """
    more = (under_few_labels,) if isinstance(command, Train | Compare) else ()
    HANDLERS[type(command)](command, *more)


def _report(command: ReportOf) -> None:
    from labeldist.training.reporting.prediction_table import PredictionColumns
    from labeldist.training.reporting.saving import check_page, report_path, save_report

    columns = PredictionColumns(
        command.text_column, command.label_column, command.prediction_column, command.probability_column
    )
    table_format = TableFormat.of(command.delimiter, command.quotes)
    of_tables = (command.train, command.costs, *command.order, command.title)
    path = report_path(command.source, command.output)
    # Before a long table is read.
    check_page(path, command.source)
    progress = _progress()
    if command.source.is_dir():
        if columns != PredictionColumns() or table_format or any(one is not None for one in of_tables):
            raise UserError(f"{command.source} is a folder: only --output goes with it, the rest belongs to a table.")
        from labeldist.training.reporting.sources import folder_report

        with progress.step(f"reading {command.source}"):
            report = folder_report(command.source)
    else:
        from labeldist.training.reporting.tables import table_report

        report = table_report(
            command.source,
            columns,
            train=command.train,
            costs=command.costs,
            order=command.order,
            title=command.title,
            table_format=table_format,
            command=["labeldist", *sys.argv[1:]],
            note=_say if command.verbose else _say_nothing,
            say=_say,
            progress=progress,
        )
    with progress.step(f"writing {path}"):
        save_report(report, path, command.source)
    print(report)
    print(f"\nReport: {escape_controls(str(path))}")


def _train(command: Train, under_few_labels: Train) -> None:
    from labeldist.training import processes
    from labeldist.training.api import carry_out_run
    from labeldist.training.data.sources import find_source
    from labeldist.training.output.progress import SILENT
    from labeldist.training.output.terminal import train_summary
    from labeldist.training.run import RunOptions, resume_run
    from labeldist.training.run_folder import RunFolder, RunSpec

    say, note = _say, _say if command.verbose else _say_nothing
    if not processes.is_main():
        note = say = _say_nothing
    progress = _progress() if processes.is_main() else SILENT
    options = RunOptions(progress=progress, report=command.report, say=say, note=note)
    folder = command.folder()
    if command.resume is not None:
        _check_resume_alone(command)
        resume_run(folder, options, trust_remote_code=command.model.trust_remote_code)
    else:
        wanted = ByRecipe(*(RunSpec(one.settings(), one.objective, one.seed) for one in (command, under_few_labels)))

        def folder_of(spec: RunSpec) -> Path:
            nonlocal folder
            folder = (under_few_labels if spec.settings.optim.recipe == "few-labels" else command).folder()
            return folder

        carry_out_run(wanted, lambda: find_source(command.data.data), folder_of, options)
    if not processes.is_main():
        return
    run = RunFolder(folder)
    config, metrics = run.read_config(), run.read_metrics()
    title = f"{config.data_name}, {Path(config.spec.settings.model.encoder).name}, {config.spec.objective}"
    seconds = run.read_history()["seconds"]
    print(train_summary(metrics.test, title=title, seconds=seconds, folder=str(folder), stream=sys.stdout))
    shown = escape_controls(str(folder / REPORT if command.report else folder))
    print(f"Report: {shown}" if command.report else f"No report was asked for. To make it: labeldist report {shown}")


def _compare(command: Compare, under_few_labels: Compare) -> None:
    from labeldist.training.api import carry_out_comparison
    from labeldist.training.data.sources import find_source
    from labeldist.training.output.terminal import comparison_table
    from labeldist.training.study.compare import CompareSpec

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("labeldist compare starts processes of its own: give --jobs, and no launcher such as torchrun.")
    folder = command.folder()
    comparison = carry_out_comparison(
        ByRecipe(
            *(
                CompareSpec(one.settings(), one.objectives, one.seeds, one.margin, one.measure)
                for one in (command, under_few_labels)
            )
        ),
        lambda: find_source(command.data.data),
        folder,
        jobs=command.jobs,
        show_progress=sys.stderr.isatty(),
        say=_say if command.verbose or not sys.stderr.isatty() else _say_nothing,
    )
    print(comparison_table(comparison, sys.stdout))
    _say(f"\nSaved in {escape_controls(str(folder))}")
    _say(f"Report: {escape_controls(str(folder / REPORT))}")


def _evaluate(command: Evaluate) -> None:
    from labeldist.reports.page import About
    from labeldist.training.data.corpus import read_split
    from labeldist.training.data.names import data_name
    from labeldist.training.inference import Predictor
    from labeldist.training.output.terminal import train_summary
    from labeldist.training.relations import costs_of
    from labeldist.training.reporting.evaluations import save_evaluation
    from labeldist.training.run_folder import check_new_folder

    table_format = TableFormat.of(command.delimiter, command.quotes)
    folder = command.output or _free_folder(Path("runs") / f"evaluate-{command.run.name}-{data_name([command.data])}")
    check_new_folder(folder)
    predictor = Predictor.from_run(command.run, device=command.device, trust_remote_code=command.trust_remote_code)
    costs = costs_of(command.costs, command.order, predictor.class_names)
    notes: list[str] = []

    def note(sentence: str) -> None:
        notes.append(sentence)
        _say(sentence)

    split = read_split(
        command.data,
        predictor.class_names,
        text_column=command.text_column,
        label_column=command.label_column,
        table_format=table_format,
        note=note,
    )
    progress = _progress()
    metrics, predictions = predictor.measure(split, costs, calibrated=command.calibrated, progress=progress)
    title = f"{command.run.name} on {command.data}"
    about = About(
        title=title,
        settings={"Run": str(command.run), "Data": command.data, "Rows": f"{len(split):,}"},
        notes=notes,
        command=shlex.join(["labeldist", *sys.argv[1:]]),
    )
    with writing_to(folder):
        path = save_evaluation(
            folder,
            split,
            metrics,
            predictions,
            about,
            costs=None if costs is None else costs.double().numpy(),
            progress=progress,
        )
    print(train_summary(metrics, title=title, folder=str(folder), stream=sys.stdout))
    print(f"Report: {escape_controls(str(path))}")


def _free_folder(folder: Path) -> Path:
    """The folder, or the first of `-2`, `-3`, ... that does not exist."""
    others = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder], others) if not path.exists())


def _predict(command: Predict) -> None:
    from labeldist.training.data.columns import text_of
    from labeldist.training.data.readers import read_texts
    from labeldist.training.inference import Predictor, check_top_k

    check_top_k(command.top_k)
    if command.texts and command.file is not None:
        raise UserError("Give texts either on the command line or by --file, not both.")
    if command.text_column is not None and command.file is None:
        raise UserError("--text-column belongs to --file.")
    table_format = TableFormat.of(command.delimiter, command.quotes)
    if table_format and command.file is None:
        raise UserError("--delimiter and --quotes belong to --file.")
    if not command.texts and command.file is None and sys.stdin.isatty():
        where = " (before --order)" if command.order else ""
        raise UserError(f"Give texts on the command line{where}, a file by --file, or pipe texts in.")
    _check_new_file(command.output)
    predictor = Predictor.from_run(command.run, device=command.device, trust_remote_code=command.trust_remote_code)
    given = [text_of({"text": text}, "text", f"Text {i}") for i, text in enumerate(command.texts, 1)]
    texts = given or read_texts(
        command.file or "-", text_column=command.text_column, note=_say, table_format=table_format
    )
    costs = None
    if command.costs is not None or command.order:
        # Here: other predictions need none of it.
        from labeldist.training.relations import costs_of

        try:
            costs = costs_of(command.costs, command.order, predictor.class_names)
        except UserError as error:
            # --order takes all words that follow it.
            cure = " Texts go before --order." if command.order and not command.texts and not command.file else ""
            raise UserError(f"{error}{cure}") from error
    predictions = predictor.predictions(texts, costs, top_k=command.top_k, calibrated=command.calibrated)
    if command.output is not None or not sys.stdout.isatty():
        predictions = _counted(predictions)
    if command.output is None:
        shown = _for_people(command.top_k) if sys.stdout.isatty() else _json_for(sys.stdout.encoding)
        for prediction in predictions:
            print(shown(prediction))
        return
    shown = _json_for("utf-8")
    with writing_to(command.output.parent), new_file(command.output) as file:
        file.writelines(shown(prediction) + "\n" for prediction in predictions)


HANDLERS: dict[type, Any] = {
    ReportOf: _report,
    Train: _train,
    Compare: _compare,
    Evaluate: _evaluate,
    Predict: _predict,
}


def _say(sentence: str) -> None:
    """Tell a user something: on a terminal in lines of its width, and above a progress bar; else on one line."""
    text = escape_controls(sentence, keep="\n")
    if not sys.stderr.isatty():
        print(text, file=sys.stderr)
        return
    from tqdm import tqdm

    tqdm.write(wrap_for(sys.stderr, text), file=sys.stderr)


def _progress() -> "Progress":
    """Bars on a terminal, and a line now and then anywhere else."""
    from labeldist.training.output.progress import NowAndThen, Progress

    return Progress(bar=True) if sys.stderr.isatty() else Progress(tell=NowAndThen(_say))


def _counted(predictions: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same, and how many there were so far where nobody sees them."""
    with _progress().counted("predicting", None, "text") as advance:
        for number, prediction in enumerate(predictions, 1):
            yield prediction
            advance(number)


def _say_nothing(sentence: str) -> None:
    pass


def _check_resume_alone(command: Train) -> None:
    """A resumed run keeps its own settings: others beside --resume would silently do nothing."""
    model = ModelSettings(trust_remote_code=command.model.trust_remote_code)
    if command != Train(resume=command.resume, verbose=command.verbose, model=model):
        raise UserError(
            "--resume takes every setting from the run folder. Give it alone (but for -v and --trust-remote-code)."
        )


def _check_new_file(path: Path | None) -> None:
    if path is None:
        return
    with writing_to(path.parent):
        check_absent(path)
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} of --output does not exist.")


def _json_for(encoding: str | None):
    """JSON that an output of this encoding holds: other characters are escaped as JSON does."""
    is_unicode = (encoding or "").lower().replace("-", "").startswith("utf")
    return lambda prediction: json.dumps(prediction, ensure_ascii=not is_unicode)


def _for_people(top_k: int | None) -> Callable[[dict[str, Any]], str]:
    """What a terminal shows of a prediction: one line; with several classes, a line for each below the text."""
    from labeldist.training.output.predictions import prediction_text

    return lambda prediction: prediction_text(prediction, ranked=top_k is not None and top_k > 1, stream=sys.stdout)
