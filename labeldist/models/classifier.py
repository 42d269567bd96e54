"""A text classifier: any encoder with a class layer and a projection head."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labeldist.models.textcnn import TextCNN
from labeldist.models.two_heads import MODEL_TYPE, WEIGHTS_FILE, TwoHeads, read_config
from labeldist.options import Pooling, Projection

try:
    from safetensors.torch import load_file
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        PreTrainedConfig,
        PreTrainedModel,
    )
    from transformers.utils.generic import ModelOutput
except ImportError as error:
    raise ImportError(
        "labeldist.models.classifier needs transformers. Install it with: pip install 'labeldist[train]'"
    ) from error

from labeldist.models.pretrained import encoder_from_config, load_encoder, without_progress_bar

__all__ = ["ClassifierOutput", "ContrastiveClassifier", "ContrastiveClassifierConfig", "Pooling"]


class ContrastiveClassifierConfig(PreTrainedConfig):
    """The configuration of a `ContrastiveClassifier`, saved as `config.json`.

    Args:
        encoder: configuration of the encoder, with its `model_type`: `"textcnn"`, or a model type of transformers.
        projection: kind of the projection head.
        projection_dim: size of the embeddings.
        dropout: dropout probability before the class layer.
        pooling: how the token vectors of a transformer are combined into one vector.
        **kwargs: options of every Hugging Face configuration, such as `num_labels` and `id2label`.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        projection: Projection = "mlp",
        projection_dim: int = 128,
        dropout: float = 0.5,
        pooling: Pooling = "mean",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.projection = projection
        self.projection_dim = projection_dim
        self.dropout = dropout
        self.pooling = pooling

    def to_diff_dict(self) -> dict[str, Any]:
        """The saved options: all options of the classifier, including defaults."""
        names = ("encoder", "projection", "projection_dim", "dropout", "pooling")
        return {**super().to_diff_dict(), **{name: getattr(self, name) for name in names}}


@dataclass
class ClassifierOutput(ModelOutput):
    """The output of a `ContrastiveClassifier`.

    Attributes:
        loss: cross-entropy, a scalar; `None` without labels.
        logits: class scores, `(B, C)`.
        embeddings: the projection head's output, `(B, D)`, for the contrastive loss.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None


class ContrastiveClassifier(TwoHeads, PreTrainedModel):
    r"""An encoder with a class layer (Eq. 2) and a projection head for the contrastive loss (Eq. 3).

    It is a Hugging Face model: `save_pretrained`, `from_pretrained`, `push_to_hub`, the Trainer, `pipeline` and PEFT
    work with it. Importing this module registers it with `AutoModelForSequenceClassification`.

    Args:
        encoder: a `TextCNN`, or any Hugging Face encoder (`AutoModel`) with `config.hidden_size`. `from_pretrained`
            passes a `ContrastiveClassifierConfig` instead, which creates an encoder with random weights.
        num_classes: `C`; taken from the configuration if that is given.
        projection: kind of the projection head, see `ProjectionHead`.
        projection_dim: size of the embeddings.
        dropout: dropout probability before the class layer; 0.5 in the paper. Ignored for a `TextCNN`, which has its
            own dropout.
        pooling: how the token vectors of a transformer are combined: `"mean"`, or `"cls"` for the vector of the first
            token.

    Examples:
        >>> import torch
        >>> model = ContrastiveClassifier(TextCNN(vocab_size=50), num_classes=4, projection_dim=16)
        >>> output = model(input_ids=torch.tensor([[7, 8, 9], [7, 8, 0]]))
        >>> output.logits.shape, output.embeddings.shape
        (torch.Size([2, 4]), torch.Size([2, 16]))

    Attributes:
        views: dropout views of each text in training mode; 1 by default. A `TrainerObjective` sets it. The outputs
            then have `views * B` rows: all rows of the first view, then all rows of the second.
    """

    config_class = ContrastiveClassifierConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # The Trainer would otherwise pass `num_items_in_batch` to the encoder.
    accepts_loss_kwargs = False

    def __init__(
        self,
        encoder: nn.Module | ContrastiveClassifierConfig,
        num_classes: int | None = None,
        *,
        projection: Projection = "mlp",
        projection_dim: int = 128,
        dropout: float = 0.5,
        pooling: Pooling = "mean",
    ):
        if isinstance(encoder, ContrastiveClassifierConfig):
            config, encoder = encoder, _built(encoder)
        else:
            if num_classes is None:
                raise TypeError("num_classes is required: how many classes there are.")
            config = ContrastiveClassifierConfig(
                _config_of(encoder), projection, projection_dim, dropout, pooling, num_labels=num_classes
            )
        super().__init__(config)
        self._put_heads(encoder, _hidden_size(encoder), **self.options)
        self.post_init()

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments, without the encoder."""
        names = ("projection", "projection_dim", "dropout", "pooling")
        return {"num_classes": self.config.num_labels, **{name: getattr(self.config, name) for name in names}}

    @classmethod
    def from_pretrained_encoder(
        cls,
        name_or_folder: str,
        num_classes: int,
        *,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> "ContrastiveClassifier":
        """Create a classifier from a pretrained Hugging Face encoder (BERT, ALBERT, MPNet, ...) with two new heads.

        Args:
            name_or_folder: model id or folder of the encoder, as for `AutoModel.from_pretrained`.
            num_classes: `C`.
            local_files_only: use only a folder or files that were downloaded before, without contacting the hub.
            trust_remote_code: whether Python code that comes with the encoder may run.
            **options: as in the constructor.

        Raises:
            EncoderError: if the encoder cannot be used; see `labeldist.models.pretrained.load_encoder`.
        """
        encoder = load_encoder(name_or_folder, local_files_only=local_files_only, trust_remote_code=trust_remote_code)
        return cls(encoder, num_classes, **options)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> Any:
        """Encode a batch and apply both heads.

        Args:
            input_ids: `(B, L)`, integer.
            attention_mask: `(B, L)`, 1 for tokens and 0 for padding.
            token_type_ids: `(B, L)`, for encoders that use them.
            inputs_embeds: token embeddings, `(B, L, E)`, instead of `input_ids`, for encoders that support them.
            labels: class indices, `(B,)`, for the cross-entropy.
            return_dict: return a `ClassifierOutput`; `False` returns a tuple.
            **inputs: other outputs of the tokenizer that the encoder uses.

        Returns:
            A `ClassifierOutput` with `logits`, `(B, C)`, `embeddings`, `(B, D)`, and, if labels are given, `loss`.
        """
        inputs |= {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
        }
        vectors = self.encode(**{name: value for name, value in inputs.items() if value is not None})
        logits, embeddings = self.heads_of(vectors)
        loss = None
        if labels is not None:
            loss = cross_entropy(logits.float(), labels.repeat(len(logits) // len(labels)))
        output = ClassifierOutput(loss=loss, logits=logits, embeddings=embeddings)
        return output.to_tuple() if return_dict is False else output

    def name_classes(self, names: Sequence[str]) -> None:
        """Store the class names in the configuration, in the order of the class indices. `pipeline` reads them there.

        Raises:
            ValueError: if there is not one name per class.
        """
        if len(names) != self.config.num_labels:
            raise ValueError(f"names must be {self.config.num_labels}, one per class, got {len(names)}.")
        self.config.id2label = dict(enumerate(names))
        self.config.label2id = {name: index for index, name in enumerate(names)}

    def init_weights(self) -> None:
        """Do nothing: keep the initial weights of the layers and the weights of the encoder."""
        self.tie_weights()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings of the encoder."""
        return self.encoder.embedding if isinstance(self.encoder, TextCNN) else self.encoder.get_input_embeddings()  # type: ignore[operator, return-value]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of the encoder."""
        if isinstance(self.encoder, TextCNN):
            self.encoder.embedding = value  # type: ignore[assignment]
        else:
            self.encoder.set_input_embeddings(value)  # type: ignore[operator]

    def activation_checkpointing_enable(self, *arguments: Any, **options: Any) -> None:
        """Enable activation checkpointing in the encoder. The Trainer calls this.

        Raises:
            ValueError: if the encoder is a `TextCNN`, which does not support it.
        """
        if isinstance(self.encoder, TextCNN):
            raise ValueError("A TextCNN has no activation checkpointing. Train it without, or another encoder.")
        # transformers below 5.2x knows the older name only.
        enable = getattr(self.encoder, "activation_checkpointing_enable", None)
        (enable or self.encoder.gradient_checkpointing_enable)(*arguments, **options)  # type: ignore[operator]

    def gradient_checkpointing_enable(self, *arguments: Any, **options: Any) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(*arguments, **options)

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """Save like any Hugging Face model, without a progress bar."""
        with without_progress_bar():
            super().save_pretrained(*arguments, **options)

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors) and configuration to a local folder.

        Args:
            folder: the folder; created if it does not exist.
        """
        self.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | Path) -> "ContrastiveClassifier":
        """Load a classifier from a local folder, in evaluation mode, on the CPU.

        Unlike `from_pretrained`, it reads only the configuration and the weights, and changes neither.

        Raises:
            FileNotFoundError: if `folder` contains no classifier.
            ValueError: if its configuration does not belong to a classifier.
        """
        folder = Path(folder)
        config = read_config(folder)
        num_classes = config.pop("num_classes")
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names = {int(index): name for index, name in (stored.get("id2label") or {}).items()} or None
        heads = ContrastiveClassifierConfig(**config, **({"id2label": names} if names else {"num_labels": num_classes}))
        heads.name_or_path = str(folder)
        model = cls(heads)
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return model.eval()


def _built(config: ContrastiveClassifierConfig) -> nn.Module:
    if config.encoder is None:
        raise ValueError("A ContrastiveClassifierConfig needs the configuration of its encoder.")
    if config.encoder.get("model_type") == "textcnn":
        return TextCNN(**{name: value for name, value in config.encoder.items() if name != "model_type"})
    return encoder_from_config(config.encoder, name=config.name_or_path or "the configuration")


def _config_of(encoder: nn.Module) -> dict[str, Any]:
    if isinstance(encoder, TextCNN):
        return {"model_type": "textcnn", **encoder.options}
    config = json.loads(encoder.config.to_json_string())  # type: ignore[union-attr, operator]
    # Where the encoder came from, on whose machine, is nobody's business.
    return {name: value for name, value in config.items() if name not in ("_name_or_path", "auto_map")}


def _hidden_size(encoder: nn.Module) -> int:
    if isinstance(encoder, TextCNN):
        return encoder.hidden_size
    return encoder.config.hidden_size  # type: ignore[union-attr, return-value]


# How `pipeline` and `AutoModelForSequenceClassification` find the class of a saved model.
AutoConfig.register(MODEL_TYPE, ContrastiveClassifierConfig, exist_ok=True)
AutoModelForSequenceClassification.register(ContrastiveClassifierConfig, ContrastiveClassifier, exist_ok=True)
