"""Where a model shows its embeddings: the layer that scores the classes."""

from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["class_layers", "classifier_in", "num_classes_of"]


def classifier_in(model: nn.Module) -> Any:
    """The `ContrastiveClassifier` in `model`, below any wrapper: it repeats inputs and returns embeddings itself."""
    # Imported here: the classifier is one model among others.
    from labeldist.models.classifier import ContrastiveClassifier

    return next((module for module in model.modules() if isinstance(module, ContrastiveClassifier)), None)


def num_classes_of(model: nn.Module) -> int | None:
    """What the model, or what it wraps, is configured for."""
    numbers = (getattr(getattr(module, "config", None), "num_labels", None) for module in model.modules())
    return next((number for number in numbers if number is not None), None)


def class_layers(model: nn.Module, num_classes: int | None) -> list[nn.Module]:
    """Layers with one output a class, an adapter's wrapper in place of the layers in it."""
    layers = [] if num_classes is None else list(_layers_of_width(model, num_classes))
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear with config.num_labels = {num_classes} outputs to read "
            "embeddings from. Use a sequence-classification model, or a ContrastiveClassifier of "
            "labeldist.models.classifier."
        )
    return layers


def _layers_of_width(module: nn.Module, num_outputs: int) -> Iterator[nn.Module]:
    for child in module.children():
        # PEFT's wrappers have the `out_features` of what they wrap.
        if getattr(child, "out_features", None) == num_outputs:
            yield child
        else:
            yield from _layers_of_width(child, num_outputs)
