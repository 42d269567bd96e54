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
    $ labeldist train --data tickets.train.csv tickets.test.csv --encoder minilm --objective adaptive
    $ labeldist train --data corpora/trec --objective static --confusable DESC,ENTY --max-distance 5
    $ labeldist train --resume runs/demo-textcnn-adaptive-seed0

    The run folder receives the model, the label distances, metrics, test predictions and pictures.
    """

    objective: Annotated[Objective, arg(help=HELP)] = "adaptive"
    seed: int = 0
    """Decides the split, the drawn shots, initial weights and the order of rows."""
    output: Output = None
    """The run folder; runs/DATA-ENCODER-OBJECTIVE-seedN if not given. Never overwritten."""
    resume: Path | None = None
    """Go on with this interrupted run folder, with its own settings; takes no others (but --trust-remote-code)."""
    verbose: Verbose = False
    """Say what is decided on the way, and show warnings."""

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
    $ labeldist compare --data corpora/trec --encoder minilm --shots 20 --seeds 0 1 2 3 4

    Trains each objective with each seed on the same splits and ends with one plain sentence. Three controls
    guard it: each text seen twice without contrast (ce-two-views), contrast without distances (contrastive), and the
    mean of the static distances between all classes (uniform). After an interruption, the same command continues where
    it stopped.
    """

    objectives: Annotated[tuple[Objective, ...], arg(help=f"At least two. {HELP}")] = DEFAULT_COMPARED
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed is one split, one draw of shots, one initialization, the same for every objective."""
    jobs: Annotated[int, arg(aliases=["-j"])] = 1
    """Runs at a time, each on its part of the cores."""
    measure: Measure = "accuracy"
    """What the verdict is about: mean-absolute-error needs --order, expected-cost needs --costs, graded-ndcg and
    group-map need --relation-file, --hierarchy, --hierarchy-separator or (graded-ndcg) --order."""
    margin: float = 0.005
    """Smallest gain worth having, what "does not help" is measured against: a fraction, or in the unit of an absolute
    error or cost."""
    output: Output = None
    """The folder of the comparison; runs/compare-DATA-ENCODER if not given."""
    verbose: Verbose = False
    """Name each finished run, and show warnings."""

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
    $ labeldist report runs/demo-textcnn-adaptive-seed0

    Writes one HTML page that needs no server and no network: the confused pairs with their texts, the confusion matrix,
    labels to check, thresholds. A table needs a column of labels and one of predictions; texts and probabilities are
    used where they are there. Nothing is trained.
    """

    source: Positional[Path]
    """A table of predictions (jsonl, csv, tsv, each also .gz, or parquet), or the folder of a run,
    an evaluation or a comparison."""
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
    """Labeled texts that the classifier was trained on: finds rows that were seen, and similar texts."""
    costs: Path | None = None
    """What mistakes cost: a JSON file {true class: {decided class: cost}}, or a csv or tsv table with class names in
    the first row and column."""
    order: tuple[str, ...] = ()
    """All classes from one end to the other: each step between true and decided class costs 1."""
    title: str | None = None
    """Title of the page; the name of the source if not given."""
    output: Output = None
    """The page, or a folder that receives it; report.html in the folder of a run, NAME.report.html beside NAME.csv, if
    not given."""
    verbose: Verbose = False
    """Say which columns were read, and show warnings."""

    def how_to_go_on(self) -> str:
        """What to say after an interruption."""
        return ""


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained run on other labeled rows.

    $ labeldist evaluate runs/demo-textcnn-adaptive-seed0 --data more.csv
    $ labeldist evaluate runs/demo-textcnn-adaptive-seed0 --data more.csv --costs costs.json
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
    """Also measure what decisions cost: a JSON file {true class: {decided class: cost}}, or a csv or tsv table with
    class names in the first row and column."""
    order: tuple[str, ...] = ()
    """All classes from one end to the other: each step between true and decided class costs 1."""
    calibrated: bool = False
    """Take probabilities at the temperature that was fitted on the run's validation rows; costs then weigh those."""
    output: Output = None
    """New folder for metrics, predictions, pictures and the report; runs/evaluate-RUN-DATA if not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    trust_remote_code: bool = False
    """Run code that comes with the run's encoder, as when it was trained; never without this."""
    verbose: Verbose = False
    """Show warnings."""

    def how_to_go_on(self) -> str:
        """What to say after an interruption."""
        return ""


@dataclass(frozen=True)
class Predict:
    """Classify texts with a trained run.

    $ labeldist predict runs/demo-textcnn-adaptive-seed0 "the delivery was not slow"
    $ labeldist predict runs/demo-textcnn-adaptive-seed0 --file messages.csv --output labeled.jsonl
    $ cat messages.txt | labeldist predict runs/demo-textcnn-adaptive-seed0

    Writes one JSON object per text; on a terminal, one line per text. Files of any size are read as they come. A blank
    line of plain text has no label: null, so that the answers stay in step with the lines.
    """

    run: Positional[Path]
    """The run folder."""
    texts: Positional[tuple[str, ...]] = ()
    """Texts to classify; from --file, or standard input, if there are none."""
    file: Annotated[str | None, arg(aliases=["-f"])] = None
    """jsonl, csv, tsv (each also .gz), parquet, or txt with one text a line; `-` is standard input."""
    text_column: str | None = None
    """Column of the texts; found by name if not given."""
    delimiter: str | None = None
    """Character between the fields of a csv or tsv file (`tab`, `;`, ...); found in the file if not given."""
    quotes: Literal["standard", "none"] | None = None
    """Quotes in a csv or tsv file: around fields (`standard`), or part of the text (`none`); found if not given."""
    costs: Path | None = None
    """Decide at least expected cost: a JSON file {true class: {decided class: cost}}, or a csv or tsv table with
    class names in the first row and column."""
    order: tuple[str, ...] = ()
    """All classes from one end to the other: each step between true and decided class costs 1."""
    calibrated: bool = False
    """Take probabilities at the temperature that was fitted on the run's validation rows; costs then weigh those."""
    top_k: Annotated[int | None, arg(aliases=["-k"])] = None
    """How many classes to give the probabilities of, the most probable first; all if not given (on a terminal, one)."""
    output: Output = None
    """Write JSON Lines here rather than to standard output. Never overwritten."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    trust_remote_code: bool = False
    """Run code that comes with the run's encoder, as when it was trained; never without this."""
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
