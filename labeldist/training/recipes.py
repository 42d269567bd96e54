"""Recipes: sets of defaults, one for many labels and one for few.

Nothing here imports PyTorch, so that `labeldist --help` answers at once.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from labeldist.training.config import (
    BATCH_SIZE,
    DataSettings,
    LossSettings,
    MatrixSettings,
    ModelSettings,
    OptimSettings,
    RunSettings,
)
from labeldist.training.objectives import DEFAULT_COMPARED, Objective

__all__ = ["MAX_FEW", "RECIPES", "ByRecipe", "Recipe", "RecipeName"]

RecipeName = Literal["standard", "few-labels"]

MAX_FEW = 20
"""Labels per class, on average, up to which `auto` takes few-labels."""

MIN_STEPS, STEPS_PER_CLASS = 50, 3
"""Optimizer steps of few-labels: with few classes 50 are enough, and 50 classes gain by each hundred more."""

BATCHES_PER_EPOCH, MIN_BATCH_SIZE = 4, 16
"""A batch of few-labels is a quarter of the rows, with one label text for each class: at least `MIN_BATCH_SIZE`, at
most `BATCH_SIZE`."""

COARSE_PASSES = 10
"""Least passes over coarse rows in few-labels: beside many of them the steps above would hardly reach each row."""


@dataclass(frozen=True)
class Recipe:
    """Defaults of everything that decides a run or a comparison.

    Attributes:
        settings: of a run.
        objective: of a run.
        objectives: of a comparison.
    """

    settings: RunSettings
    objective: Objective
    objectives: tuple[Objective, ...]


NOT_BY_EPOCHS = 1_000_000
"""The recipe's most epochs: training ends by steps, unless epochs are given."""

RECIPES: dict[RecipeName, Recipe] = {
    "standard": Recipe(RunSettings(), "adaptive", DEFAULT_COMPARED),
    "few-labels": Recipe(
        RunSettings(
            data=DataSettings(
                validation_fraction=0.0, label_texts="names", label_text_forms=("{}", "This sentence is {}")
            ),
            model=ModelSettings(projection="none", dropout=0.1, token_embeddings="frozen", class_layer="logistic"),
            loss=LossSettings(ce_weight=0.2, temperature=0.07, weighting="log"),
            matrix=MatrixSettings(confusion_from="cross-validation"),
            optim=OptimSettings(epochs=NOT_BY_EPOCHS, head_learning_rate=1e-2),
        ),
        "contrastive",
        (
            "logistic",
            "logistic-label-texts",
            "centroid-label-texts",
            "ce-two-views",
            "contrastive",
            "uniform",
            "static",
        ),
    ),
}


class _HasSettings(Protocol):
    """A run or a comparison: a dataclass with settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def settings(self) -> RunSettings: ...


T = TypeVar("T", bound=_HasSettings)


@dataclass(frozen=True)
class ByRecipe(Generic[T]):
    """What a user asked for, a run or a comparison, under each recipe: what was not given has the recipe's default.

    Attributes:
        standard: under the recipe of many labels.
        few_labels: under that of few.
    """

    standard: T
    few_labels: T

    @property
    def decided(self) -> T | None:
        """What holds whatever the data are; `None` if the data decide."""
        settings = self.standard.settings
        recipe, shots = settings.optim.recipe, settings.data.shots
        if recipe == "auto" and settings.model.is_pretrained:
            return self.few() if shots is not None and shots <= MAX_FEW else None
        return self.few() if recipe == "few-labels" else self.many()

    def chosen(self, labels_per_class: float, num_classes: int, num_coarse: int = 0, num_processes: int = 1) -> T:
        """What holds for these data.

        Args:
            labels_per_class: training labels of a class, on average.
            num_classes: `C`.
            num_coarse: training rows of which only a group is known.
            num_processes: that share each batch.
        """
        wanted = self.decided
        if wanted is None:
            wanted = self.few() if labels_per_class <= MAX_FEW else self.many()
        if wanted.settings.optim.recipe == "standard":
            return wanted
        # Written down: a later recipe may have others.
        wanted = _with_optim(wanted, learning_rate=wanted.settings.learning_rate)
        if wanted.settings.optim.batch_size is None:
            data = wanted.settings.data
            forms = 0 if data.label_texts == "none" else len(data.label_text_forms)
            num_rows = (labels_per_class + forms) * num_classes + num_coarse
            size = min(BATCH_SIZE, max(MIN_BATCH_SIZE, round(num_rows / BATCHES_PER_EPOCH)))
            wanted = _with_optim(wanted, batch_size=num_processes * math.ceil(size / num_processes))
        optim = wanted.settings.optim
        # Epochs of very few rows are steps of very different numbers: count steps, unless epochs were asked for.
        if optim.steps is None and optim.epochs == NOT_BY_EPOCHS:
            coarse_steps = math.ceil(COARSE_PASSES * num_coarse / wanted.settings.batch_size)
            return _with_optim(wanted, steps=max(MIN_STEPS + STEPS_PER_CLASS * num_classes, coarse_steps))
        return wanted

    def many(self) -> T:
        """Under the recipe of many labels."""
        return _with_optim(self.standard, recipe="standard", batch_size=self.standard.settings.batch_size)

    def few(self) -> T:
        """Under the recipe of few labels."""
        return _with_optim(self.few_labels, recipe="few-labels")


def _with_optim(wanted: T, **changes: Any) -> T:
    settings = wanted.settings
    return replace(wanted, settings=replace(settings, optim=replace(settings.optim, **changes)))
