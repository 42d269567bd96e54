"""A hold on a model: its inputs are repeated for each view, and what its class layer receives is seen."""

from collections.abc import Iterator
from typing import Any

import torch
from einops import repeat
from torch import Tensor, nn

__all__ = ["Hold"]

SAME_MODEL = "Give TrainerObjective the very model that the Trainer trains, after any adapters are put on it."


class Hold:
    """What stands between a model and its objective. A model is in one hold at a time.

    Args:
        model: left as it is until `take`.
        reads_embeddings: whether `embeddings` will be asked for.

    Attributes:
        classifier: the `ContrastiveClassifier` in the model, if there is one: it repeats and returns embeddings itself.
        num_classes: that the model scores, if it says so.

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
    def is_taken(self) -> bool:
        """Whether the model is held."""
        return bool(self._handles)

    def take(self, views: int) -> None:
        """Repeat the model's inputs and see its embeddings, from now on. An earlier hold lets go of it."""
        for earlier in _holds_on(self._model):
            earlier.release()
        self.set_views(views)
        self._handles = [
            self._model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            *(layer.register_forward_hook(self._capture) for layer in self._layers),
        ]

    def release(self) -> None:
        """Let go of the model, which then sees each text once again."""
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
        # Every token has scores: the model took those of one token for the text's, and so do we.
        is_taken = (scores.to(logits.dtype) == logits[:, None]).all(dim=-1)  # (V * M, L)
        if not self._is_pooling_known and not is_taken.any(dim=1).all():
            raise RuntimeError(
                f"{type(self._model).__name__} must take the class scores of one token for the text's, got scores that "
                "are no token's. Use labeldist.models.classifier.ContrastiveClassifier."
            )
        self._is_pooling_known = True
        # The last of several: where a class layer starts at zero, all tokens score alike.
        position = is_taken.shape[1] - 1 - is_taken.flip(1).int().argmax(dim=1)
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
            # View-major: all rows of the first view, then all of the second. What has no row a text stays.
            if isinstance(value, Tensor) and value.ndim and len(value) == num_texts:
                return repeat(value, "b ... -> (v b) ...", v=self._repeats)
            return value

        return tuple(repeated(value) for value in args), {name: repeated(value) for name, value in kwargs.items()}

    def _capture(self, layer: nn.Module, inputs: tuple[Tensor, ...], scores: Tensor) -> None:
        # The class layer comes last: whatever else has as many outputs is overwritten.
        self._captured = inputs[0], scores


def _classifier_in(model: nn.Module) -> Any:
    """The `ContrastiveClassifier` in `model`, below any wrapper: it repeats inputs and returns embeddings itself."""
    # Imported here: the classifier is one model among others.
    from labeldist.models.classifier import ContrastiveClassifier

    return next((module for module in model.modules() if isinstance(module, ContrastiveClassifier)), None)


def _num_classes_of(model: nn.Module) -> int | None:
    """What the model, or what it wraps, is configured for."""
    numbers = (getattr(getattr(module, "config", None), "num_labels", None) for module in model.modules())
    return next((number for number in numbers if number is not None), None)


def _class_layers(model: nn.Module, num_classes: int | None) -> list[nn.Module]:
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


def _holds_on(model: nn.Module) -> set[Hold]:
    """The holds on this model or a part of it."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    owners = (getattr(hook, "__self__", None) for hook in hooks)
    return {owner for owner in owners if isinstance(owner, Hold)}
