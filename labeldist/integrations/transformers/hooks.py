"""Hooks on a model: they repeat its inputs for each view and capture what its class layer receives."""

from collections.abc import Iterator
from typing import Any

import torch
from einops import repeat
from torch import Tensor, nn

__all__ = ["ModelHooks"]

SAME_MODEL = "Give TrainerObjective the very model that the Trainer trains, after any adapters are put on it."


class ModelHooks:
    """The hooks by which an objective works with a model. A model has those of one objective at a time.

    Args:
        model: left as it is until `attach`.
        reads_embeddings: whether `embeddings` will be asked for.

    Attributes:
        classifier: the `ContrastiveClassifier` in the model, if there is one: it repeats and returns embeddings itself.
        num_classes: that the model scores; `None` if its configuration does not say.

    Raises:
        ValueError: if the model shows no place to read embeddings from.
    """

    def __init__(self, model: nn.Module, *, reads_embeddings: bool):
        self.classifier = _classifier_in(model)
        self.num_classes: int | None = (
            _num_classes_of(model) if self.classifier is None else self.classifier.classifier.out_features
        )
        is_seen = reads_embeddings and self.classifier is None
        self._layers = _class_layers(model, self.num_classes) if is_seen else []
        self._model = model
        self._captured: tuple[Tensor, Tensor] | None = None
        self._is_pooling_known = False
        self._repeats = 1
        self._handles: list[Any] = []

    @property
    def is_attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    def attach(self, views: int) -> None:
        """Repeat the model's inputs and capture its embeddings from now on, in place of earlier hooks of this kind."""
        for earlier in _hooks_on(self._model):
            earlier.detach()
        self.set_views(views)
        self._handles = [
            self._model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            *(layer.register_forward_hook(self._capture) for layer in self._layers),
        ]

    def detach(self) -> None:
        """Remove the hooks; the model then sees each text once."""
        for handle in self._handles:
            handle.remove()
        if self._handles and self.classifier is not None:
            self.classifier.views = 1
        self._handles = []

    def set_views(self, views: int) -> None:
        """How often the model, in training mode, sees each text of its inputs from now on."""
        self._repeats = views
        if self.classifier is not None:
            self.classifier.views = views

    def embeddings(self, outputs: Any, logits: Tensor) -> Tensor:
        """What the contrast compares, `(V * M, D)`."""
        if self.classifier is not None:
            return outputs["embeddings"]
        if self._captured is None:
            raise RuntimeError(
                f"The model's class layer was not called in this forward pass: no embeddings to contrast. {SAME_MODEL}"
            )
        (embeddings, scores), self._captured = self._captured, None
        if embeddings.ndim == 2:
            return embeddings
        # Every token has scores, and the model returned those of one token: that token's embedding is the text's.
        is_chosen = (scores.to(logits.dtype) == logits[:, None]).all(dim=-1)  # (V * M, L)
        if not self._is_pooling_known and not is_chosen.any(dim=1).all():
            raise RuntimeError(
                f"{type(self._model).__name__} must return the class scores of one of its tokens, got scores of "
                "none of them. Use labeldist.models.classifier.ContrastiveClassifier."
            )
        self._is_pooling_known = True
        # The last of several: where a class layer starts at zero, all tokens score alike.
        position = is_chosen.shape[1] - 1 - is_chosen.flip(1).int().argmax(dim=1)
        return embeddings[torch.arange(len(embeddings), device=position.device), position]

    def _before_forward(
        self, model: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        self._captured = None
        if self._repeats == 1 or self.classifier is not None or not model.training:
            return None
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim]
        num_texts = len(inputs[0]) if inputs else 0

        def repeated(value: Any) -> Any:
            # View-major: all rows of the first view, then all of the second. Inputs without one row per text stay.
            if isinstance(value, Tensor) and value.ndim and len(value) == num_texts:
                return repeat(value, "b ... -> (v b) ...", v=self._repeats)
            return value

        return tuple(repeated(value) for value in args), {name: repeated(value) for name, value in kwargs.items()}

    def _capture(self, layer: nn.Module, inputs: tuple[Tensor, ...], scores: Tensor) -> None:
        # The class layer is called last: it overwrites what other layers with as many outputs left here.
        self._captured = inputs[0], scores


def _classifier_in(model: nn.Module) -> Any:
    """The `ContrastiveClassifier` in `model`, below any wrapper: it repeats inputs and returns embeddings itself."""
    # Imported here: other models work without it.
    from labeldist.models.classifier import ContrastiveClassifier

    return next((module for module in model.modules() if isinstance(module, ContrastiveClassifier)), None)


def _num_classes_of(model: nn.Module) -> int | None:
    """The number of classes in the configuration of the model, or of what it wraps."""
    numbers = (getattr(getattr(module, "config", None), "num_labels", None) for module in model.modules())
    return next((number for number in numbers if number is not None), None)


def _class_layers(model: nn.Module, num_classes: int | None) -> list[nn.Module]:
    """Layers with one output per class; of an adapter its wrapper, not the layers inside."""
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


def _hooks_on(model: nn.Module) -> set[ModelHooks]:
    """The hooks of this kind on this model or a part of it."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    owners = (getattr(hook, "__self__", None) for hook in hooks)
    return {owner for owner in owners if isinstance(owner, ModelHooks)}
