"""A text classifier with two heads, one for classes and one for contrast, around any encoder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from einops import repeat
from torch import Tensor, nn

from labeldist.models.heads import Projection, ProjectionHead
from labeldist.models.pretrained import encoder_from_config, load_encoder
from labeldist.models.textcnn import TextCNN

try:
    from safetensors.torch import load_file, save_file
    from transformers.utils.generic import ModelOutput
except ImportError as error:
    raise ImportError(
        "labeldist.models.classifier needs transformers. Install it with: pip install 'labeldist[train]'"
    ) from error

__all__ = ["ClassifierOutput", "ContrastiveClassifier", "Pooling"]

Pooling = Literal["mean", "cls"]

_OPTIONS_FILE = "classifier.json"
_WEIGHTS_FILE = "model.safetensors"
_ENCODER_FOLDER = "encoder"


@dataclass
class ClassifierOutput(ModelOutput):
    """What a `ContrastiveClassifier` returns.

    Attributes:
        logits: class scores, `(B, C)`.
        embeddings: the projection head's output, `(B, D)`, for the contrastive loss.
    """

    logits: Tensor | None = None
    embeddings: Tensor | None = None


class ContrastiveClassifier(nn.Module):
    r"""An encoder with a dense layer for the classes (Eq. 2) and a projection for the contrast (Eq. 3).

    Args:
        encoder: a `TextCNN`, or any Hugging Face encoder (`AutoModel`) with `config.hidden_size`.
        num_classes: `C`.
        projection: kind of the projection head, see `ProjectionHead`.
        projection_dim: size of the embeddings.
        dropout: probability before the dense layer; 0.5 in the paper. A `TextCNN` brings its own and ignores this.
        pooling: how a transformer's token vectors become one: their `"mean"`, or the first token's (`"cls"`).

    Examples:
        >>> model = ContrastiveClassifier(TextCNN(vocab_size=50), num_classes=4, projection_dim=16)
        >>> output = model(input_ids=torch.tensor([[7, 8, 9], [7, 8, 0]]))
        >>> output.logits.shape, output.embeddings.shape
        (torch.Size([2, 4]), torch.Size([2, 16]))

    Attributes:
        views: dropout views of each text in training mode, 1 unless set (a `TrainerObjective` sets it). The outputs
            then have `views * B` rows: all of the first view, then all of the second.
    """

    # The Trainer would otherwise pass `num_items_in_batch` to the encoder.
    accepts_loss_kwargs = False

    def __init__(
        self,
        encoder: nn.Module,
        num_classes: int,
        *,
        projection: Projection = "mlp",
        projection_dim: int = 128,
        dropout: float = 0.5,
        pooling: Pooling = "mean",
    ):
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling must be 'mean' or 'cls', got {pooling!r}.")
        self.options: dict[str, Any] = {
            "num_classes": num_classes,
            "projection": projection,
            "projection_dim": projection_dim,
            "dropout": dropout,
            "pooling": pooling,
        }
        self.encoder = encoder
        self.pooling = pooling
        self.views = 1
        hidden_size = _hidden_size(encoder)
        self.dropout = nn.Dropout(0.0 if isinstance(encoder, TextCNN) else dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)
        self.projection = ProjectionHead(hidden_size, projection_dim, kind=projection)

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
        """Put two fresh heads on a pretrained Hugging Face encoder (BERT, ALBERT, MPNet, ...), by name or folder.

        Args:
            name_or_folder: what `AutoModel.from_pretrained` takes.
            num_classes: `C`.
            local_files_only: whether to keep off the hub, and take a folder or what was downloaded before.
            trust_remote_code: whether Python code that comes with the encoder may run.
            **options: as in the constructor.

        Raises:
            EncoderError: if the encoder cannot be used; see `labeldist.models.pretrained.load_encoder`.
        """
        encoder = load_encoder(name_or_folder, local_files_only=local_files_only, trust_remote_code=trust_remote_code)
        return cls(encoder, num_classes, **options)

    def forward(self, **inputs: Tensor) -> ClassifierOutput:
        """Encode a batch and apply both heads.

        Args:
            **inputs: what the tokenizer returns: `input_ids` and `attention_mask`, each `(B, L)`, ...

        Returns:
            `logits` `(B, C)` and `embeddings` `(B, D)`.
        """
        vectors = self.encode(**inputs)
        return ClassifierOutput(logits=self.classifier(self.dropout(vectors)), embeddings=self.projection(vectors))

    def encode(self, **inputs: Tensor) -> Tensor:
        """One vector a text and view, `(B, hidden_size)`: the encoder's pooled output, Eq. 1."""
        views = self.views if self.training else 1
        if isinstance(self.encoder, TextCNN):
            return self.encoder(inputs["input_ids"], inputs.get("attention_mask"), views=views)
        if views > 1:
            inputs = {name: repeat(value, "b ... -> (v b) ...", v=views) for name, value in inputs.items()}
        tokens = self.encoder(**inputs).last_hidden_state
        if self.pooling == "cls":
            return tokens[:, 0]
        mask = inputs.get("attention_mask")
        if mask is None:
            return tokens.mean(dim=1)
        mask = mask[..., None].to(tokens.dtype)
        return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Switch on the encoder's activation checkpointing; the Trainer calls this."""
        # transformers below 5.2x knows the older name only.
        enable = getattr(self.encoder, "activation_checkpointing_enable", None)
        (enable or self.encoder.gradient_checkpointing_enable)(**kwargs)  # type: ignore[operator]

    gradient_checkpointing_enable = activation_checkpointing_enable

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors) and options to `folder`, so that `load` needs nothing else.

        Args:
            folder: created if absent.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        options = dict(self.options)
        if isinstance(self.encoder, TextCNN):
            options["textcnn"] = self.encoder.options
        else:
            self.encoder.config.save_pretrained(folder / _ENCODER_FOLDER)  # type: ignore[union-attr]
        (folder / _OPTIONS_FILE).write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / _WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: str | Path) -> "ContrastiveClassifier":
        """Read a classifier that `save` wrote, in evaluation mode, on the CPU.

        Raises:
            FileNotFoundError: if `folder` holds no classifier.
        """
        folder = Path(folder)
        options = json.loads((folder / _OPTIONS_FILE).read_text(encoding="utf-8"))
        textcnn = options.pop("textcnn", None)
        if textcnn is not None:
            encoder: nn.Module = TextCNN(**textcnn)
        else:
            config = json.loads((folder / _ENCODER_FOLDER / "config.json").read_text(encoding="utf-8"))
            encoder = encoder_from_config(config, name=str(folder))
        model = cls(encoder, **options)
        model.load_state_dict(load_file(folder / _WEIGHTS_FILE))
        return model.eval()


def _hidden_size(encoder: nn.Module) -> int:
    if isinstance(encoder, TextCNN):
        return encoder.hidden_size
    return encoder.config.hidden_size  # type: ignore[union-attr, return-value]
