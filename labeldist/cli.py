"""The command line: `labeldist train | compare | evaluate | predict`."""

import contextlib
import errno
import io
import json
import logging
import os
import sys
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

try:
    import tyro
    from tyro.conf import DisallowNone, OmitArgPrefixes, Positional, arg
except ImportError:
    print("labeldist: error: the command line needs more packages: pip install 'labeldist[train]'", file=sys.stderr)
    sys.exit(2)

from labeldist import __version__
from labeldist.training.config import Objective, RunSettings
from labeldist.training.errors import LostProcessError, UserError

# Of several processes that a launcher such as torchrun started, the first one speaks.
_IS_FIRST = os.environ.get("RANK", "0") == "0"

Verbose = Annotated[bool, arg(aliases=["-v"])]
Output = Annotated[Path | None, arg(aliases=["-o"])]


@dataclass(frozen=True)
class Train(RunSettings):
    """Train a classifier and see which classes it confuses.

    $ labeldist train --data demo
    $ labeldist train --data tickets.train.csv tickets.test.csv --encoder minilm --objective adaptive
    $ labeldist train --data corpora/trec --objective static --confusable DESC,ENTY --max-distance 5
    $ labeldist train --resume runs/demo-textcnn-adaptive-seed0

    The run folder receives the model, the label distances, metrics, test predictions and pictures.
    """

    objective: Objective = "adaptive"
    """Cross-entropy, the same on two dropout views, or with contrast: plain, uniform, static or adaptive distances."""
    seed: int = 0
    """Decides the split, the drawn shots, initial weights and the order of rows."""
    output: Output = None
    """The run folder; runs/DATA-ENCODER-OBJECTIVE-seedN if not given. Never overwritten."""
    resume: Path | None = None
    """Go on with this interrupted run folder, with its own settings; takes no other settings."""
    verbose: Verbose = False
    """Say what is decided on the way, and show warnings."""


@dataclass(frozen=True)
class Compare(RunSettings):
    """Find out whether label distance helps on your data.

    $ labeldist compare --data demo
    $ labeldist compare --data corpora/trec --encoder minilm --shots 20 --seeds 0 1 2 3 4

    Trains each objective with each seed on the same splits and ends in one plain sentence. Two controls guard it: each
    text seen twice without contrast (ce-two-views), and the static distances spread evenly over all classes (uniform).
    Interrupted, the same command goes on where it stopped.
    """

    objectives: tuple[Objective, ...] = ("ce-two-views", "contrastive", "uniform", "static", "adaptive")
    """At least two of ce, ce-two-views, contrastive, uniform, static, adaptive."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed is one split, one draw of shots, one initialisation, the same for every objective."""
    jobs: Annotated[int, arg(aliases=["-j"])] = 1
    """Runs at a time, each on its part of the cores."""
    margin: float = 0.005
    """Smallest gain of accuracy worth having, as a fraction: what "does not help" is measured against."""
    output: Output = None
    """The folder of the comparison; runs/compare-DATA-ENCODER if not given."""
    verbose: Verbose = False
    """Name each finished run, and show warnings."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained run on other labelled rows.

    $ labeldist evaluate runs/demo-textcnn-adaptive-seed0 --data more.csv
    """

    run: Positional[Path]
    """The run folder."""
    data: str
    """A labelled file, a folder (its test file), or `demo`."""
    text_column: str | None = None
    """Column of the texts; found by name if not given."""
    label_column: str | None = None
    """Column of the labels; found by name if not given."""
    output: Output = None
    """Also write the metrics to this JSON file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    verbose: Verbose = False
    """Show warnings."""


@dataclass(frozen=True)
class Predict:
    """Classify texts with a trained run.

    $ labeldist predict runs/demo-textcnn-adaptive-seed0 "the delivery was not slow"
    $ labeldist predict runs/demo-textcnn-adaptive-seed0 --file messages.csv --output labelled.jsonl
    $ cat messages.txt | labeldist predict runs/demo-textcnn-adaptive-seed0

    Writes one JSON object a text; on a terminal, one line a text. Files of any size are read as they come.
    """

    run: Positional[Path]
    """The run folder."""
    texts: Positional[tuple[str, ...]] = ()
    """Texts to classify; from --file, or standard input, if there are none."""
    file: Annotated[str | None, arg(aliases=["-f"])] = None
    """jsonl, csv, tsv (each also .gz), parquet, or txt with one text a line; `-` is standard input."""
    text_column: str | None = None
    """Column of the texts; found by name if not given."""
    output: Output = None
    """Write JSON Lines here rather than to standard output. Never overwritten."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    verbose: Verbose = False
    """Show warnings."""


COMMANDS: dict[str, Any] = {"train": Train, "compare": Compare, "evaluate": Evaluate, "predict": Predict}


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments; the process's own if `None`.

    Returns:
        Exit code: 0, 2 for a user's mistake, 130 when interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its code, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if argv == ["--version"]:
        print(f"labeldist {__version__}")
        return 0
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="labeldist",
        description="Train text classifiers whose classes are easily confused, by label-distance contrastive learning.",
        args=argv or ["--help"],
        config=(OmitArgPrefixes, DisallowNone),
    )
    try:
        with _quiet(verbose=command.verbose):
            HANDLERS[type(command)](command)
            # Here, where a failure can still be told: at exit it cannot.
            sys.stdout.flush()
    except UserError as error:
        if _IS_FIRST or isinstance(error, LostProcessError):
            return _refuse(str(error))
        return 2
    except ImportError as error:
        missing = f"the package {error.name} is missing" if error.name else f"a package is missing: {error}"
        cure = ". Install it with: pip install 'labeldist[train]'"
        return _refuse(str(error) if "labeldist[" in str(error) else missing.rstrip(".") + cure)
    except KeyboardInterrupt:
        hints = {Train: _train_hint, Compare: lambda command: " The same command goes on where it stopped."}
        hint = hints.get(type(command), lambda command: "")(command)
        if _IS_FIRST:
            print(f"\nlabeldist: interrupted.{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is left to say, not even at exit.
        _forget_output()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _forget_output()
        return _refuse(f"standard output cannot be written: {os.strerror(error.errno)}.")
    return 0


def _refuse(sentence: str) -> int:
    """Print a user's mistake, on one line whatever another library wrote, and return the exit code."""
    print(f"labeldist: error: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def _forget_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _settings(command: RunSettings) -> RunSettings:
    """The part of a command that decides a run's outcome."""
    return RunSettings(**{section.name: getattr(command, section.name) for section in fields(RunSettings)})


def _train_hint(command: "Train") -> str:
    folder = _run_folder(command)
    return f" Go on with --resume {folder}." if (folder / "config.json").exists() else ""


def _run_folder(command: "Train") -> Path:
    from labeldist.training.study.compare import data_name

    if command.resume is not None or command.output is not None:
        return command.resume or command.output  # type: ignore[return-value]
    name = f"{data_name(command.data.data)}-{_base(command.model.encoder)}"
    return Path("runs") / f"{name}-{command.objective}-seed{command.seed}"


def _train(command: Train) -> None:
    from labeldist.training.files import read_json
    from labeldist.training.output.terminal import train_summary
    from labeldist.training.run import HISTORY, RunOptions, RunSpec, read_config, resume_run, start_run
    from labeldist.training.study.compare import data_name

    say, note = _say, _say if command.verbose else _say_nothing
    if not _IS_FIRST:
        note = say = _say_nothing
    options = RunOptions(show_progress=sys.stderr.isatty(), say=say, note=note)
    folder = _run_folder(command)
    if command.resume is not None:
        _check_resume_alone(command)
        metrics = resume_run(folder, options)
    else:
        _check_matrix_wanted(command)
        metrics = start_run(RunSpec(_settings(command), command.objective, command.seed), folder, options)
    if not _IS_FIRST:
        return
    stored = read_config(folder)
    title = f"{data_name(stored['data']['data'])}, {_base(stored['model']['encoder'])}, {stored['objective']}"
    seconds = read_json(folder / HISTORY)["seconds"]
    assert metrics is not None
    print(train_summary(metrics.test, title=title, seconds=seconds, folder=str(folder), stream=sys.stdout))


def _compare(command: Compare) -> None:
    from labeldist.training.output.terminal import comparison_table
    from labeldist.training.study.compare import CompareSpec, compare, data_name

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("labeldist compare starts processes of its own: give --jobs, and no launcher such as torchrun.")
    name = f"compare-{data_name(command.data.data)}-{_base(command.model.encoder)}"
    folder = command.output or Path("runs") / name
    spec = CompareSpec(_settings(command), command.objectives, command.seeds, command.margin)
    say = _say if command.verbose or not sys.stderr.isatty() else _say_nothing
    comparison = compare(spec, folder, jobs=command.jobs, show_progress=sys.stderr.isatty(), say=say)
    print(comparison_table(comparison, sys.stdout))
    print(f"\nSaved in {folder}", file=sys.stderr)


def _evaluate(command: Evaluate) -> None:
    from labeldist.training.data.corpus import read_split
    from labeldist.training.files import writing_to
    from labeldist.training.inference import Predictor
    from labeldist.training.output.terminal import train_summary
    from labeldist.training.records import write_record

    _check_new_file(command.output)
    predictor = Predictor.from_run(command.run, device=command.device)
    split = read_split(
        command.data, predictor.class_names, text_column=command.text_column, label_column=command.label_column
    )
    metrics = predictor.evaluate(split)
    if command.output is not None:
        with writing_to(command.output.parent):
            write_record(command.output, metrics)
    print(train_summary(metrics, title=f"{command.run.name} on {command.data}", stream=sys.stdout))


def _predict(command: Predict) -> None:
    from labeldist.training.data.columns import text_of
    from labeldist.training.data.readers import read_texts
    from labeldist.training.files import writing_to
    from labeldist.training.inference import Predictor

    if command.texts and command.file is not None:
        raise UserError("Give texts either on the command line or by --file, not both.")
    if command.text_column is not None and command.file is None:
        raise UserError("--text-column belongs to --file.")
    if not command.texts and command.file is None and sys.stdin.isatty():
        raise UserError("Give texts on the command line, a file by --file, or pipe texts in.")
    _check_new_file(command.output)
    predictor = Predictor.from_run(command.run, device=command.device)
    given = [text_of({"text": text}, "text", f"Text {i}") for i, text in enumerate(command.texts, 1)]
    texts = given or read_texts(command.file or "-", text_column=command.text_column)
    predictions = predictor.predictions(texts)
    if command.output is None:
        one_line = _for_people if sys.stdout.isatty() else _as_json
        for prediction in predictions:
            print(one_line(prediction))
        return
    partial = command.output.with_name(command.output.name + ".partial")
    try:
        with writing_to(command.output.parent), partial.open("w", encoding="utf-8") as file:
            file.writelines(_as_json(prediction) + "\n" for prediction in predictions)
        partial.replace(command.output)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


HANDLERS = {Train: _train, Compare: _compare, Evaluate: _evaluate, Predict: _predict}


@contextlib.contextmanager
def _quiet(*, verbose: bool):
    """Keep other libraries' log lines and warnings to themselves, unless asked for."""
    if verbose:
        yield
        return
    # The hub's and tokenizers' own notices; set before they are imported.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger().setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _say_nothing(sentence: str) -> None:
    pass


def _check_resume_alone(command: Train) -> None:
    """A resumed run keeps its own settings: others beside --resume would silently do nothing."""
    alone = Train(resume=command.resume, verbose=command.verbose)
    if command != alone:
        raise UserError("--resume takes every setting from the run folder. Give it alone (but for -v).")


def _check_matrix_wanted(command: Train) -> None:
    """Pairs and files make a static matrix: beside another objective they would silently do nothing."""
    matrix = command.matrix
    if command.objective not in ("static", "uniform") and (matrix.confusable or matrix.matrix_file):
        raise UserError(
            "--confusable and --matrix-file belong to --objective static or uniform, "
            f"got --objective {command.objective}."
        )


def _check_new_file(path: Path | None) -> None:
    if path is None:
        return
    if path.exists():
        raise UserError(f"{path} exists already and is never overwritten. Choose another --output.")
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} of --output does not exist.")


def _base(encoder: str) -> str:
    return Path(encoder).name or encoder


def _as_json(prediction: dict[str, Any]) -> str:
    return json.dumps(prediction, ensure_ascii=False)


def _for_people(prediction: dict[str, Any]) -> str:
    return f"{100 * prediction['probability']:5.1f} %  {prediction['label']}  {prediction['text']}"


if __name__ == "__main__":
    sys.exit(main())
