"""The commands and their options; field docstrings are the help."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from labeldist.training.config import RunSettings
from labeldist.training.measures import Measure
from labeldist.training.objectives import DEFAULT_COMPARED, HELP, Objective
from labeldist.training.recipes import RECIPES

__all__ = ["COMMANDS", "Compare", "Evaluate", "Predict", "ReportOf", "Train", "with_few_labels"]

Verbose = Annotated[bool, arg(aliases=["-v"])]
Output = Annotated[Path | None, arg(aliases=["-o"])]


class _Trains(RunSettings):
    """What the commands that train have in common."""

    def settings(self) -> RunSettings:
        """The part of the command that decides a run's outcome."""
        return RunSettings(**{section.name: getattr(self, section.name) for section in fields(RunSettings)})

    def data_and_encoder(self) -> str:
        """Names for a folder."""
        from labeldist.training.data.names import data_name

        return f"{data_name(self.data.data)}-{Path(self.model.encoder).name or self.model.encoder}"


@dataclass(frozen=True)
class Train(_Trains):
    """Train a classifier and see which classes it confuses.

    $ labeldist train --data demo
    $ labeldist train --data train.csv test.csv --encoder minilm
    $ labeldist train --data train.csv --objective static --confusable slow,fast
    $ labeldist train --resume runs/demo-textcnn-adaptive-seed0

    Writes a run folder: model, label distances, metrics, predictions, report.
    """

    objective: Annotated[Objective, arg(help=HELP)] = "adaptive"
    seed: int = 0
    """Determines the split, the drawn shots, the initial weights and the order of the rows."""
    output: Output = None
    """The run folder; runs/DATA-ENCODER-OBJECTIVE-seedN if not given. Never overwritten."""
    resume: Path | None = None
    """Continue the interrupted run in this folder, with its settings. No other flags but --trust-remote-code."""
    report: bool = True
    """Draw pictures and write report.html, which takes seconds. `labeldist report RUN` makes the page later."""
    verbose: Verbose = False
    """Print the decisions during the run, and warnings."""

    def folder(self) -> Path:
        """The run folder."""
        if self.resume is not None or self.output is not None:
            return self.resume or self.output  # type: ignore[return-value]
        return Path("runs") / f"{self.data_and_encoder()}-{self.objective}-seed{self.seed}"

    def how_to_go_on(self) -> str:
        """What to say after an interruption."""
        folder = self.folder()
        return f" Go on with --resume {folder}." if (folder / "config.json").exists() else ""


@dataclass(frozen=True)
class Compare(_Trains):
    """Find out whether label distance helps on your data.

    $ labeldist compare --data demo
    $ labeldist compare --data train.csv test.csv --encoder minilm --seeds 0 1 2

    Trains each objective with each seed on the same splits.

    Three controls separate label distance from other causes of a gain:
    - ce-two-views: each text is encoded twice, without a contrastive loss
    - contrastive: a contrastive loss without label distances
    - uniform: the mean of the static distances for every pair of classes

    The same command continues an interrupted comparison.
    """

    objectives: Annotated[tuple[Objective, ...], arg(help=f"At least two of these:\n{HELP}")] = DEFAULT_COMPARED
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs. All objectives with the same seed have the same split, shots and initial weights."""
    jobs: Annotated[int, arg(aliases=["-j"])] = 1
    """Number of runs at a time. Each uses its part of the CPU cores."""
    measure: Measure = "accuracy"
    """The measure that the verdict compares. mean-absolute-error needs --order, expected-cost needs --costs.
    graded-ndcg needs --order, --relation-file, --hierarchy or --hierarchy-separator; group-map one of the last three.
    """
    margin: float = 0.005
    """The smallest gain worth having: a fraction for scores, or a number of steps or cost units.
    The verdict "does not help" means that such a gain is ruled out."""
    output: Output = None
    """The folder of the comparison; runs/compare-DATA-ENCODER if not given."""
    verbose: Verbose = False
    """Print each finished run, and warnings."""

    def folder(self) -> Path:
        """The folder of the comparison."""
        return self.output or Path("runs") / f"compare-{self.data_and_encoder()}"

    def how_to_go_on(self) -> str:
        """What to say after an interruption."""
        return " The same command goes on where it stopped."


@dataclass(frozen=True)
class ReportOf:
    """See which classes any classifier confuses, and what to do about it.

    $ labeldist report predictions.csv
    $ labeldist report predictions.jsonl --train train.csv --output mail.html
    $ labeldist report runs/first

    Writes one HTML page that needs no server and no network.

    A table needs labels and predictions; texts and probabilities are optional.
    """

    source: Positional[Path]
    """A table of predictions (jsonl, csv, tsv, parquet), or the folder of a run, an evaluation or a comparison."""
    text_column: str | None = None
    """Column of the texts; found by name if not given."""
    label_column: str | None = None
    """Column of the true classes; found by name if not given."""
    prediction_column: str | None = None
    """Column of the predicted classes; found by name if not given."""
    probability_column: str | None = None
    """Column of the predicted class's probability; found by name if not given."""
    delimiter: str | None = None
    """Character between the fields of a csv or tsv file (`tab`, `;`, ...); found in the file if not given."""
    quotes: Literal["standard", "none"] | None = None
    """Quotes in a csv or tsv file: around fields (`standard`), or part of the text (`none`); found if not given."""
    train: str | None = None
    """Labeled texts that the classifier was trained on, to find rows that were seen in training, and similar texts."""
    costs: Path | None = None
    """Costs of mistakes: a JSON file {true class: {predicted class: cost}}, or a csv or tsv table.
    A table has class names in its first row and column."""
    order: tuple[str, ...] = ()
    """All classes from one end to the other: each step between true and predicted class costs 1."""
    title: str | None = None
    """Title of the page; the name of the source if not given."""
    output: Output = None
    """File of the page, or a folder for it. If not given: report.html in the folder of a run, SOURCE.report.html beside
    a table."""
    verbose: Verbose = False
    """Print which columns were read, and warnings."""

    def how_to_go_on(self) -> str:
        """What to say after an interruption."""
        return ""


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained classifier on other labeled rows.

    $ labeldist evaluate runs/first --data more.csv
    $ labeldist evaluate runs/first --data more.csv --costs costs.json
    """

    run: Positional[Path]
    """The run folder."""
    data: str
    """A labeled file, a folder (its test file), or `demo`."""
    text_column: str | None = None
    """Column of the texts; found by name if not given."""
    label_column: str | None = None
    """Column of the labels; found by name if not given."""
    delimiter: str | None = None
    """Character between the fields of a csv or tsv file (`tab`, `;`, ...); found in the file if not given."""
    quotes: Literal["standard", "none"] | None = None
    """Quotes in a csv or tsv file: around fields (`standard`), or part of the text (`none`); found if not given."""
    costs: Path | None = None
    """Costs of mistakes, to measure what decisions cost: a JSON file {true class: {chosen class: cost}}, or a table.
    A csv or tsv table has class names in its first row and column."""
    order: tuple[str, ...] = ()
    """All classes from one end to the other: each step between true and chosen class costs 1."""
    calibrated: bool = False
    """Use probabilities at the temperature that was fitted on the validation rows of the run, also with costs."""
    output: Output = None
    """New folder for metrics, predictions, pictures and the report; runs/evaluate-RUN-DATA if not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses a GPU if there is one."""
    trust_remote_code: bool = False
    """Run code that comes with the encoder of the run. Needed if the run was trained with this flag."""
    verbose: Verbose = False
    """Show warnings."""

    def how_to_go_on(self) -> str:
        """What to say after an interruption."""
        return ""


@dataclass(frozen=True)
class Predict:
    """Classify texts with a trained classifier.

    $ labeldist predict runs/first "the delivery was not slow"
    $ labeldist predict runs/first --file messages.csv --output labeled.jsonl
    $ cat messages.txt | labeldist predict runs/first

    Writes one JSON object per text. On a terminal, prints one line per text.

    A blank line of plain text gets the label null: answer N belongs to line N.
    """

    run: Positional[Path]
    """The run folder."""
    texts: Positional[tuple[str, ...]] = ()
    """Texts to classify. Without any, texts are read from --file or from standard input."""
    file: Annotated[str | None, arg(aliases=["-f"])] = None
    """jsonl, csv, tsv (each also .gz), parquet, or txt with one text per line; `-` is standard input."""
    text_column: str | None = None
    """Column of the texts; found by name if not given."""
    delimiter: str | None = None
    """Character between the fields of a csv or tsv file (`tab`, `;`, ...); found in the file if not given."""
    quotes: Literal["standard", "none"] | None = None
    """Quotes in a csv or tsv file: around fields (`standard`), or part of the text (`none`); found if not given."""
    costs: Path | None = None
    """Costs of mistakes, to choose the class of least expected cost: a JSON file, or a csv or tsv table.
    JSON is {true class: {chosen class: cost}}. A table has class names in its first row and column."""
    order: tuple[str, ...] = ()
    """All classes from one end to the other: each step between true and chosen class costs 1. Texts go before it."""
    calibrated: bool = False
    """Use probabilities at the temperature that was fitted on the validation rows of the run, also with costs."""
    top_k: Annotated[int | None, arg(aliases=["-k"])] = None
    """Number of the most probable classes to print; all classes if not given (on a terminal, one)."""
    output: Output = None
    """Write JSON Lines to this file instead of standard output. An existing file is never overwritten."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses a GPU if there is one."""
    trust_remote_code: bool = False
    """Run code that comes with the encoder of the run. Needed if the run was trained with this flag."""
    verbose: Verbose = False
    """Show warnings."""

    def how_to_go_on(self) -> str:
        """What to say after an interruption."""
        return ""


def with_few_labels(kind: type) -> Any:
    """A command that trains, with the defaults of the recipe of few labels; `None` for other commands."""
    recipe = RECIPES["few-labels"]
    sections = {section.name: getattr(recipe.settings, section.name) for section in fields(RunSettings)}
    if kind is Train:
        return Train(**sections, objective=recipe.objective)
    return Compare(**sections, objectives=recipe.objectives) if kind is Compare else None


COMMANDS: dict[str, Any] = {
    "report": ReportOf,
    "train": Train,
    "compare": Compare,
    "evaluate": Evaluate,
    "predict": Predict,
}
