"""Settings that an objective does not use: a user who gave them must know."""

from labeldist.training.objectives import OBJECTIVES, Objective
from labeldist.training.recipes import RECIPES
from labeldist.training.run_folder import RunSpec

__all__ = ["unused_settings"]

_OF_CONTRAST = ("ce_weight", "temperature", "weighting")
_OF_DISTANCES = ("max_distance",)
_OF_TARGETS = ("relevance_weight", "relevance_level")
_OF_CLASSIFICATION = {"soft-labels": "softness", "margin": "class_margin"}
_OF_UPDATES = ("warmup_fraction", "update_every", "normalization", "symmetric", "adaptive_use")


def unused_settings(spec: RunSpec) -> list[str]:
    """The settings of losses and label distances that differ from their defaults and that the objective does not use.

    Examples:
        >>> from labeldist.training.config import LossSettings, MatrixSettings, RunSettings
        >>> settings = RunSettings(loss=LossSettings(temperature=0.1), matrix=MatrixSettings(max_distance=3))
        >>> unused_settings(RunSpec(settings, "ce", 0)), unused_settings(RunSpec(settings, "static", 0))
        (['temperature', 'max_distance'], [])
    """
    used = _used(spec.objective, spec.settings.matrix.adaptive_use)
    recipe = RECIPES["few-labels" if spec.settings.optim.recipe == "few-labels" else "standard"].settings
    sections = ((spec.settings.loss, recipe.loss), (spec.settings.matrix, recipe.matrix))
    known = (*_OF_CONTRAST, *_OF_CLASSIFICATION.values(), *_OF_DISTANCES, *_OF_TARGETS, *_OF_UPDATES)
    return [
        name
        for given, default in sections
        for name in known
        if hasattr(given, name) and name not in used and getattr(given, name) != getattr(default, name)
    ]


def _used(objective: Objective, adaptive_use: str) -> set[str]:
    spec = OBJECTIVES[objective]
    is_graded = spec.matrix == "graded" or (spec.matrix == "adaptive" and adaptive_use == "graded")
    used: set[str] = set()
    if spec.matrix != "none":
        used.update(_OF_CONTRAST)
    if spec.matrix in ("spread", "static", "adaptive", "near", "far") and not is_graded:
        used.update(_OF_DISTANCES)
    if is_graded:
        used.update(_OF_TARGETS)
    if spec.matrix == "adaptive":
        used.update(_OF_UPDATES)
    if spec.classification is not None:
        used.add(_OF_CLASSIFICATION[spec.classification])
    return used
