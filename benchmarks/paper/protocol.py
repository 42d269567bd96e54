"""The protocol of the paper's tables: corpora, encoders, objectives, settings, seeds, and the paper's own figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.cells import DATA, development
from labeldist.training.objectives import Objective

__all__ = [
    "ABLATION",
    "BUILT_IN",
    "CONTRASTIVE",
    "CORPORA",
    "DEVELOPMENT_OBJECTIVES",
    "ENCODERS",
    "GROUPED",
    "NOT_REACHABLE",
    "OBJECTIVES",
    "PAPER",
    "PAPER_ABLATION",
    "SETTINGS",
    "TEMPERATURES",
    "Encoder",
    "PaperCorpus",
    "Setting",
    "flags_of",
    "objectives_of",
    "seeds_of",
]

Setting = Literal["paper", "development", "tuned"]
"""The paper's setting; runs on rows held out of train, that a temperature is chosen by; the paper's setting at it."""
SETTINGS: tuple[Setting, ...] = ("paper", "development", "tuned")

OBJECTIVES: tuple[Objective, ...] = ("ce", "ce-two-views", "contrastive", "uniform", "static", "adaptive")
CONTRASTIVE: tuple[Objective, ...] = ("contrastive", "uniform", "static", "adaptive")
"""Those that a temperature is part of. The others are the same runs at each temperature, and are not repeated."""
DEVELOPMENT_OBJECTIVES: tuple[Objective, ...] = ("contrastive", "adaptive")
"""The temperature is the one with the highest mean accuracy of plain contrast and of the paper's method."""
GROUPED: Objective = "near"
"""On 20ng only: distances from the groups in the class names (comp, rec, sci, ...), which stand for the paper's choice
of confusable classes by hand."""
TEMPERATURES = (1.0, 0.3, 0.1, 0.05)


@dataclass(frozen=True)
class PaperCorpus:
    """A corpus of Table II.

    Attributes:
        title: as the paper writes it.
        num_classes: `C`; of two, uniform and static distances are the same.
        groups: flags that name the groups of its classes.
    """

    title: str
    num_classes: int
    groups: tuple[str, ...] = ()


CORPORA = {
    "20ng": PaperCorpus("20NG", 20, ("--hierarchy-separator", ".")),
    "trec": PaperCorpus("TREC-6", 6),
    "r8": PaperCorpus("R8", 8),
    "r52": PaperCorpus("R52", 52),
    "mr": PaperCorpus("MR", 2),
}
"""In the order of the paper's table."""


@dataclass(frozen=True)
class Encoder:
    """An encoder of Table II.

    Attributes:
        title: what it is.
        paper: the paper's encoder that its figures stand beside.
        num_seeds: of the runs.
        num_development_seeds: of the runs that a temperature is chosen by.
    """

    title: str
    paper: Literal["BERT", "ALBERT", "TextCNN"]
    num_seeds: int
    num_development_seeds: int


ENCODERS = {
    "textcnn": Encoder("TextCNN, random word vectors", "TextCNN", 5, 2),
    "minilm": Encoder("all-MiniLM-L6-v2, a sentence encoder", "BERT", 5, 2),
    "mpnet": Encoder("all-mpnet-base-v2, a sentence encoder", "BERT", 3, 1),
    "bert-base-cased": Encoder("BERT-base cased, tuned on CoNLL entities, weights once in int8", "BERT", 3, 1),
    "albert": Encoder("ALBERT", "ALBERT", 3, 1),
}
BUILT_IN = {"textcnn": "textcnn", "minilm": "minilm"}
"""Encoders that need no folder."""
NOT_REACHABLE = {"albert": "not run here: weights not reachable"}
"""What a cell says in place of "not run"."""

# Table II: accuracy in percent, without and with CLLD; one number a cell, no seeds, no spread.
PAPER = {
    "20ng": {"BERT": (85.3, 86.6), "ALBERT": (80.6, 81.7), "TextCNN": (78.8, 80.0)},
    "trec": {"BERT": (97.6, 97.8), "ALBERT": (96.4, 96.6), "TextCNN": (88.2, 88.8)},
    "r8": {"BERT": (97.8, 98.1), "ALBERT": (97.3, 97.7), "TextCNN": (94.8, 95.0)},
    "r52": {"BERT": (96.4, 96.5), "ALBERT": (94.8, 95.6), "TextCNN": (91.1, 91.3)},
    "mr": {"BERT": (85.7, 87.0), "ALBERT": (86.6, 97.0), "TextCNN": (70.9, 72.1)},
}
# Table III: 20NG, BERT. The last two rows are controls that the paper lacks.
ABLATION: dict[Objective, str] = {
    "ce": "CT",
    "contrastive": "CT + CL",
    "static": "CT + CLSLD, pairs from confusions",
    GROUPED: "CT + CLSLD, groups by hand",
    "adaptive": "CT + CLALD",
    "ce-two-views": "CT on two views",
    "uniform": "CT + CL, mean of the static distances everywhere",
}
PAPER_ABLATION: dict[Objective, float] = {"ce": 85.3, "contrastive": 86.3, GROUPED: 86.6, "adaptive": 86.56}

# Section IV.B, flag by flag, also where it is the default of today. What the paper leaves open has the choice of
# docs/paper-to-code.md: pooling, projection, one evaluation an epoch, confusion rates, a validation split of 10 %.
_PAPER_FLAGS = (
    *("--recipe", "standard", "--epochs", "50", "--patience", "10", "--batch-size", "128", "--max-length", "128"),
    *("--weight-decay", "0.1", "--dropout", "0.5", "--ce-weight", "0.5", "--max-distance", "5"),
    *("--weighting", "scale", "--pooling", "mean", "--projection", "mlp", "--projection-dim", "128"),
    *("--normalization", "rate", "--warmup-fraction", "0.2", "--update-every", "1", "--validation-fraction", "0.1"),
)
_LEARNING_RATES = {"textcnn": "1e-3"}
_TRANSFORMER_LEARNING_RATE = "2e-5"


def flags_of(
    corpus: str, encoder: str, *, folder: str, temperature: float = 1.0, development_in: Path | None = None
) -> tuple[str, ...]:
    """Data and settings of a cell, as flags of `labeldist compare`.

    Args:
        corpus: one of `CORPORA`.
        encoder: one of `ENCODERS`.
        folder: of the encoder, or its name.
        temperature: of the contrast; the paper's is 1.
        development_in: folder that receives the training rows, some of them held out; without it, the corpus as it is
            published.

    Examples:
        >>> flags_of("trec", "textcnn", folder="textcnn")[-4:]
        ('--learning-rate', '1e-3', '--temperature', '1.0')
    """
    data = DATA / corpus if development_in is None else development(corpus, development_in / f"{corpus}-data")
    rate = _LEARNING_RATES.get(encoder, _TRANSFORMER_LEARNING_RATE)
    return (
        *("--data", str(data), *CORPORA[corpus].groups, "--encoder", folder, *_PAPER_FLAGS),
        *("--learning-rate", rate, "--temperature", str(temperature)),
    )


def objectives_of(corpus: str, setting: Setting) -> tuple[Objective, ...]:
    """What a cell compares.

    Examples:
        >>> objectives_of("20ng", "tuned")
        ('contrastive', 'uniform', 'static', 'adaptive', 'near')
    """
    if setting == "development":
        return DEVELOPMENT_OBJECTIVES
    grouped = (GROUPED,) if CORPORA[corpus].groups else ()
    return (*(OBJECTIVES if setting == "paper" else CONTRASTIVE), *grouped)


def seeds_of(encoder: str, setting: Setting) -> tuple[int, ...]:
    """Seeds of a cell.

    Examples:
        >>> seeds_of("mpnet", "tuned"), seeds_of("textcnn", "development")
        ((0, 1, 2), (0, 1))
    """
    chosen = ENCODERS[encoder]
    return tuple(range(chosen.num_development_seeds if setting == "development" else chosen.num_seeds))
