"""Settings of a run: frozen dataclasses whose field docstrings are the command line's help, saved as JSON.

Nothing here imports PyTorch, so that `labeldist --help` answers at once.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from labeldist.label_texts import check_forms
from labeldist.options import Normalization, Pooling, Projection, Weighting
from labeldist.training.data.dialects import TableFormat
from labeldist.training.errors import UserError
from labeldist.training.record_json import ADDED

__all__ = [
    "LABEL_TEXTS",
    "DataSettings",
    "LossSettings",
    "MatrixSettings",
    "ModelSettings",
    "OptimSettings",
    "RunSettings",
    "check_settings",
    "flag_of",
    "option_names",
    "section_of",
]


BATCH_SIZE = 128
"""Default number of texts per step."""

LABEL_TEXTS = ("none", "names", "given")
"""Values of `label_texts` other than a file; `given` stands for a mapping that was passed in Python."""


@dataclass(frozen=True)
class DataSettings:
    """The texts and labels."""

    data: tuple[str, ...] = ("demo",)
    """`demo` (built in), a folder with train.* and test.*, files TRAIN TEST [VALIDATION], one file, or a hub id."""
    text_column: str | None = None
    """Column of the texts; found by name (text, sentence, question, ...) if not given."""
    label_column: str | None = None
    """Column of the labels; found by name (label, intent, category, ...) if not given."""
    delimiter: str | None = None
    """Character between the fields of csv and tsv files (`tab`, `;`, ...); found in the file if not given."""
    quotes: Literal["standard", "none"] | None = None
    """Quotes in csv and tsv files: around fields (`standard`), or part of the text (`none`); found if not given."""
    validation_fraction: float = 0.1
    """Fraction of the training rows that becomes the validation set (stratified), if the data have none.
    With 0 none is drawn: training runs to its end and keeps the last weights."""
    coarse_column: str | None = None
    """Column with the coarse label (a group of classes) of training rows whose label is missing."""
    hierarchy: str | None = None
    """JSON file {group: [classes or nested groups]}. A training label that names a group is a coarse label.
    The objectives that use a relation of the classes (near, far, graded, ...) take it from the hierarchy."""
    hierarchy_separator: str | None = None
    """Text between the parts of class names such as NUM:date. A training label that is a prefix is a coarse label.
    The objectives that use a relation of the classes (near, far, graded, ...) take it from these parts."""
    costs: str | None = field(default=None, metadata=ADDED)
    """Costs of mistakes, to measure them on the test rows: a JSON file {true class: {chosen class: cost}}, or a table.
    A csv or tsv table has class names in its first row and column."""
    shots: int | None = None
    """Number of training labels per class, drawn by the seed and the same for every objective; all if not given."""
    label_texts: str = "none"
    """Training rows that say what each class is: `names` (the class names as words), a file, or `none`.
    The file is JSON with one or several sentences per class, or a table with text and label."""
    label_text_forms: tuple[str, ...] = field(default=("{}",), metadata=ADDED)
    """Forms of a label text, with {} in the place of the text: each label text is a training row in each form.
    Example: "{}" "This sentence is {}"."""

    @property
    def hierarchy_file(self) -> Path | None:
        """The file of the hierarchy; `None` without one, and where the hierarchy is JSON itself."""
        return (
            None if self.hierarchy is None or self.hierarchy.lstrip().startswith(("{", "[")) else Path(self.hierarchy)
        )

    @property
    def costs_file(self) -> Path | None:
        """The file of the costs; `None` without one, and where the costs are JSON itself."""
        return None if self.costs is None or self.costs.lstrip().startswith("{") else Path(self.costs)

    @property
    def table_format(self) -> TableFormat:
        """What is said about csv and tsv files."""
        return TableFormat.of(self.delimiter, self.quotes)


@dataclass(frozen=True)
class ModelSettings:
    """The encoder and its two heads."""

    encoder: str = "textcnn"
    """`textcnn` (from scratch), `minilm` (pretrained, no download), or name or folder of a Hugging Face encoder."""
    trust_remote_code: bool = False
    """Run Python code that comes with the encoder. Use it only for encoders whose code you have read."""
    max_length: int = 128
    """Maximum number of tokens; longer texts are truncated."""
    embedding_dim: int = 300
    """Size of a token embedding in textcnn."""
    pooling: Pooling = "mean"
    """How the token vectors of a transformer are combined: their mean, or the vector of the first token."""
    projection: Projection = "mlp"
    """Head before the contrastive loss: two layers as in the paper, one layer, or none."""
    projection_dim: int = 128
    """Size of the projected embedding."""
    dropout: float = 0.5
    """Dropout before the class layer of a transformer, or on the output of textcnn."""
    token_embeddings: Literal["trained", "frozen"] = field(default="trained", metadata=ADDED)
    """Whether the token embeddings of a pretrained encoder are trained. textcnn always trains its own."""
    class_layer: Literal["trained", "logistic"] = "trained"
    """The final class layer: the trained one, or a logistic regression on the embeddings of the trained encoder."""

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoder is a transformer, and not trained from scratch."""
        return self.encoder != "textcnn"


@dataclass(frozen=True)
class LossSettings:
    """The loss: lambda * classification loss + (1 - lambda) * contrastive loss."""

    ce_weight: float = 0.5
    """lambda, the weight of the classification loss (cross-entropy)."""
    temperature: float = 1.0
    """Softmax temperature of the contrastive loss; 1 in the paper."""
    weighting: Weighting = "scale"
    """What a label distance multiplies: the similarity (`scale`, the paper), or the term in the softmax sum (`log`)."""
    label_smoothing: float = 0.0
    """Fraction of each label that the cross-entropy spreads over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the cross-entropy and in a logistic regression.
    With `balanced`, the weight of a class is inverse to its number of training texts."""
    focal_gamma: float = 0.0
    """Above 0, the focal loss with this gamma: texts that are classified well have less weight."""
    softness: float = field(default=0.2, metadata=ADDED)
    """soft-labels: related classes get exp(-(1 - closeness) / softness) of a label where its own class gets 1."""
    class_margin: float = field(default=2.0, metadata=ADDED)
    """margin: by how much the logit of a text's class must exceed the logit of the least related class, in nats."""


@dataclass(frozen=True)
class MatrixSettings:
    """The label-distance matrix and the relation of the classes."""

    max_distance: float = 5.0
    """Distance of the most confusable classes (near: the most related; far: the least related). 1 is neutral."""
    confusable: tuple[str, ...] = ()
    """static: pairs of confusable classes, each written `first,second`."""
    matrix_file: Path | None = None
    """static: a file with pairs, groups, a hierarchy or a full matrix, by class name (JSON; a matrix also as CSV)."""
    confusion_from: Literal["validation", "cross-validation"] = "validation"
    """The rows on which confusions are counted: the validation set, or held-out folds of the training set."""
    folds: int = 3
    """Number of folds of the cross-validation."""
    confusion_epochs: int | None = None
    """Epochs of each short run that counts confusions; a fifth of `epochs`, at least 3 and 150 steps, if not given."""
    num_pairs: int | None = None
    """static without pairs or a file: number of most confused pairs to use; the number of classes if not given."""
    warmup_fraction: float = 0.2
    """adaptive: fraction of training before the first update."""
    update_every: int = 1
    """adaptive: number of evaluations (epochs) per update; 10 in the paper."""
    normalization: Normalization = "rate"
    """adaptive: confusion rates scaled to max_distance, or the raw counts (the paper's literal form)."""
    symmetric: bool = True
    """adaptive: average both directions of confusion."""
    adaptive_use: Literal["near", "far", "graded"] = field(default="near", metadata=ADDED)
    """adaptive: push confused classes apart harder (`near`, the paper), or all others (`far`).
    `graded`: rows of confused classes are weak positives."""
    order: tuple[str, ...] = ()
    """All classes from one end to the other, such as `bad fair good`: the relation for near, far, graded, ...
    The run then measures the mean absolute error in steps of this order."""
    relation_file: Path | None = field(default=None, metadata=ADDED)
    """The relation for near, far, graded, ...: a csv or tsv table of closeness, or JSON.
    A table has class names in its first row and column.
    JSON contains closeness, distances, costs, an order, groups, pairs or a hierarchy."""
    relevance_weight: float = 0.1
    """graded: relevance of a row of another class with closeness 1; a row of the same class has 1."""
    relevance_level: float = 0.0
    """graded: smallest closeness, in [0, 1], at which rows of another class are relevant."""


@dataclass(frozen=True)
class OptimSettings:
    """The training: AdamW, linear decay of the learning rate, early stopping on validation accuracy."""

    recipe: Literal["auto", "standard", "few-labels"] = "auto"
    """Defaults of all settings: `standard`, or `few-labels` (see the guide on few labels).
    `auto` uses few-labels for a pretrained encoder and at most 20 labels per class, and prints it."""
    epochs: int = 50
    """Maximum number of epochs."""
    steps: int | None = None
    """Number of optimizer steps, instead of epochs."""
    patience: int = 10
    """Stop after this many evaluations without a better validation accuracy.
    There is one evaluation per epoch; with `steps` there are five in total."""
    batch_size: int | None = None
    """Texts per step, over all processes. If not given: 128.
    With the recipe few-labels: a quarter of the training rows and of one label text per class, from 16 to 128."""
    chunk_size: int | None = None
    """Number of texts that are encoded together, for batches that do not fit in memory; all if not given."""
    learning_rate: float | None = None
    """If not given: 1e-3 for textcnn, 2e-5 for transformers, 3e-5 for transformers with the recipe few-labels."""
    head_learning_rate: float | None = None
    """Learning rate of the class layer and the projection; that of the encoder if not given."""
    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 (or fp16) on a GPU, bf16 on a CPU with AMX for a pretrained encoder, and fp32 otherwise."""
    report_to: tuple[str, ...] = ()
    """Experiment trackers of the Hugging Face Trainer: tensorboard, wandb, trackio, mlflow, ..."""


@dataclass(frozen=True)
class RunSettings:
    """All settings of a run, except its objective and seed."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    matrix: MatrixSettings = field(default_factory=MatrixSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)

    @property
    def learning_rate(self) -> float:
        """The learning rate given, or the default of the encoder and the recipe."""
        if self.optim.learning_rate is not None:
            return self.optim.learning_rate
        if not self.model.is_pretrained:
            return 1e-3
        return 3e-5 if self.optim.recipe == "few-labels" else 2e-5

    @property
    def batch_size(self) -> int:
        """The batch size given, or the default."""
        return BATCH_SIZE if self.optim.batch_size is None else self.optim.batch_size

    @property
    def confusion_epochs(self) -> int:
        """Epochs of a short run that counts confusions."""
        return self.matrix.confusion_epochs or max(3, self.optim.epochs // 5)

    def with_absolute_paths(self) -> "RunSettings":
        """The same settings, readable from any working directory: what exists here is named by its whole path.

        Examples:
            >>> RunSettings().with_absolute_paths() == RunSettings()
            True
        """
        data = tuple(name if name == "demo" else _absolute(name) for name in self.data.data)
        texts = self.data.label_texts
        texts = texts if texts in LABEL_TEXTS else _absolute(texts)
        encoder = self.model.encoder
        if encoder not in ("textcnn", "minilm"):
            encoder = _absolute(encoder)
        files = {name: getattr(self.matrix, name) for name in ("matrix_file", "relation_file")}
        hierarchy = self.data.hierarchy
        if hierarchy is not None and self.data.hierarchy_file is not None:
            hierarchy = _absolute(hierarchy)
        costs = self.data.costs
        if costs is not None and self.data.costs_file is not None:
            costs = _absolute(costs)
        return replace(
            self,
            data=replace(self.data, data=data, label_texts=texts, hierarchy=hierarchy, costs=costs),
            model=replace(self.model, encoder=encoder),
            matrix=replace(self.matrix, **{name: file and file.absolute() for name, file in files.items()}),
        )


def _absolute(name: str) -> str:
    """A name of the hub stays as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def flag_of(name: str) -> str:
    """The flag of a setting on the command line.

    Examples:
        >>> flag_of("max_distance")
        '--max-distance'
    """
    return f"--{name.replace('_', '-')}"


def section_of(option: str) -> str | None:
    """The section of `RunSettings` that holds an option, by the option's field name; `None` if there is none.

    Examples:
        >>> section_of("temperature"), section_of("colour")
        ('loss', None)
    """
    for section in fields(RunSettings):
        if option in {one.name for one in fields(section.default_factory)}:  # type: ignore[arg-type]
            return section.name
    return None


def option_names() -> list[str]:
    """The field names of all options of a run's settings.

    Examples:
        >>> option_names()[:2]
        ['data', 'text_column']
    """
    return [one.name for section in fields(RunSettings) for one in fields(section.default_factory)]  # type: ignore[arg-type]


def check_settings(settings: RunSettings) -> None:
    """Raise `UserError` for a value outside its range, named as on the command line."""
    data, model, loss, matrix, optim = settings.data, settings.model, settings.loss, settings.matrix, settings.optim
    head_rate = settings.learning_rate if optim.head_learning_rate is None else optim.head_learning_rate
    # Raises for a delimiter that is none.
    _ = data.table_format
    try:
        check_forms(data.label_text_forms)
    except ValueError as error:
        raise UserError(f"--label-text-forms: {error}") from error
    inside: list[tuple[str, Any, bool, str]] = [
        ("--temperature", loss.temperature, 0 < loss.temperature < float("inf"), "a number above 0"),
        ("--ce-weight", loss.ce_weight, 0 <= loss.ce_weight <= 1, "between 0 and 1"),
        ("--label-smoothing", loss.label_smoothing, 0 <= loss.label_smoothing < 1, "at least 0 and below 1"),
        ("--focal-gamma", loss.focal_gamma, 0 <= loss.focal_gamma < float("inf"), "0 or more"),
        ("--softness", loss.softness, 0 <= loss.softness < float("inf"), "0 or more"),
        ("--class-margin", loss.class_margin, 0 <= loss.class_margin < float("inf"), "0 or more"),
        ("--max-distance", matrix.max_distance, 0 < matrix.max_distance < float("inf"), "a number above 0"),
        (
            "--validation-fraction",
            data.validation_fraction,
            0 <= data.validation_fraction < 1,
            "at least 0 and below 1",
        ),
        ("--warmup-fraction", matrix.warmup_fraction, 0 <= matrix.warmup_fraction <= 1, "between 0 and 1"),
        ("--dropout", model.dropout, 0 <= model.dropout < 1, "at least 0 and below 1"),
        ("--weight-decay", optim.weight_decay, 0 <= optim.weight_decay < float("inf"), "0 or more"),
        ("--learning-rate", settings.learning_rate, 0 < settings.learning_rate < float("inf"), "a number above 0"),
        ("--head-learning-rate", head_rate, 0 < head_rate < float("inf"), "a number above 0"),
        ("--folds", matrix.folds, matrix.folds >= 2, "at least 2"),
        ("--relevance-weight", matrix.relevance_weight, 0 <= matrix.relevance_weight < float("inf"), "0 or more"),
        ("--relevance-level", matrix.relevance_level, 0 <= matrix.relevance_level <= 1, "between 0 and 1"),
    ]
    at_least_one = {
        "--shots": data.shots,
        "--max-length": model.max_length,
        "--embedding-dim": model.embedding_dim,
        "--projection-dim": model.projection_dim,
        "--epochs": optim.epochs,
        "--steps": optim.steps,
        "--patience": optim.patience,
        "--batch-size": optim.batch_size,
        "--chunk-size": optim.chunk_size,
        "--confusion-epochs": matrix.confusion_epochs,
        "--num-pairs": matrix.num_pairs,
        "--update-every": matrix.update_every,
    }
    inside += [(name, value, value is None or value >= 1, "at least 1") for name, value in at_least_one.items()]
    for name, value, holds, wanted in inside:
        if not holds:
            raise UserError(f"{name} must be {wanted}, got {value}.")
    if matrix.confusable and matrix.matrix_file:
        raise UserError("Give the static matrix either by --confusable or by --matrix-file, not by both.")
    if matrix.order and matrix.relation_file is not None:
        raise UserError("Give the relation of the classes either by --order or by --relation-file, not by both.")
    if data.hierarchy is not None and data.hierarchy_separator is not None:
        raise UserError("Give the groups of classes either by --hierarchy or by --hierarchy-separator, not by both.")
    if matrix.adaptive_use != "near" and matrix.normalization != "rate":
        raise UserError(
            f"--adaptive-use {matrix.adaptive_use} needs --normalization rate: raw counts have no upper limit."
        )
    if matrix.adaptive_use == "graded" and not matrix.max_distance > 1:
        raise UserError(f"--adaptive-use graded needs a --max-distance above 1, got {matrix.max_distance:g}.")
    if data.hierarchy_separator == "":
        raise UserError("--hierarchy-separator must have at least one character.")
    if loss.focal_gamma and loss.label_smoothing:
        raise UserError("Give either --focal-gamma or --label-smoothing: no focal loss is defined for smoothed labels.")
