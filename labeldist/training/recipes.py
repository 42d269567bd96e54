"""Recipes: sets of defaults, one for many labels and one for few.

Nothing here imports PyTorch, so that `labeldist --help` answers at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from labeldist.training.config import (
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
            data=DataSettings(validation_fraction=0.0, label_texts="names"),
            model=ModelSettings(projection="none", dropout=0.1, class_layer="logistic"),
            loss=LossSettings(ce_weight=0.2, temperature=0.1, weighting="log"),
            matrix=MatrixSettings(confusion_from="cross-validation"),
            optim=OptimSettings(epochs=NOT_BY_EPOCHS, batch_size=128, head_learning_rate=1e-2),
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

T = TypeVar("T")


@dataclass(frozen=True)
class ByRecipe(Generic[T]):
    """What a user asked for, under each recipe: what was not given has the recipe's default.

    Attributes:
        standard: under the recipe of many labels.
        few_labels: under that of few.
        settings_of: the settings in either.
        with_settings: either, with other settings.
    """

    standard: T
    few_labels: T
    settings_of: Callable[[T], RunSettings]
    with_settings: Callable[[T, RunSettings], T]

    @property
    def decided(self) -> T | None:
        """What holds whatever the data are; `None` if the data decide."""
        settings = self.settings_of(self.standard)
        recipe, shots = settings.optim.recipe, settings.data.shots
        if recipe == "auto" and settings.model.is_pretrained:
            return self.few() if shots is not None and shots <= MAX_FEW else None
        return self.few() if recipe == "few-labels" else self._named(self.standard, "standard")

    def chosen(self, labels_per_class: float, num_classes: int) -> T:
        """What holds for data with so many training labels per class, on average, and so many classes."""
        wanted = self.decided
        if wanted is None:
            wanted = self.few() if labels_per_class <= MAX_FEW else self._named(self.standard, "standard")
        settings = self.settings_of(wanted)
        optim = settings.optim
        # Epochs of very few rows are steps of very different numbers: count steps, unless epochs were asked for.
        if optim.recipe == "few-labels" and optim.steps is None and optim.epochs == NOT_BY_EPOCHS:
            steps = MIN_STEPS + STEPS_PER_CLASS * num_classes
            wanted = self.with_settings(wanted, replace(settings, optim=replace(optim, steps=steps)))
        return wanted

    def few(self) -> T:
        """Under the recipe of few labels."""
        return self._named(self.few_labels, "few-labels")

    def _named(self, wanted: T, recipe: RecipeName) -> T:
        settings = self.settings_of(wanted)
        return self.with_settings(wanted, replace(settings, optim=replace(settings.optim, recipe=recipe)))
