"""An encoder with two heads in plain PyTorch, for training and serving."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import repeat
from torch import Tensor, nn

from labeldist.distributed import num_processes
from labeldist.models._by_length import groups_by_length
from labeldist.models.heads import ProjectionHead
from labeldist.models.textcnn import TextCNN
from labeldist.options import Pooling, Projection

__all__ = [
    "ANY_PADDING",
    "CONFIG_FILE",
    "MODEL_TYPE",
    "WEIGHTS_FILE",
    "HeadOutputs",
    "TwoHeadedTextCNN",
    "TwoHeads",
    "read_config",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ANY_PADDING = ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
"""Types of encoders whose outputs do not depend on the padding behind a text."""
MODEL_TYPE = "labeldist-classifier"


class HeadOutputs(NamedTuple):
    """The outputs of both heads for a batch.

    Attributes:
        logits: class scores, `(B, C)`.
        embeddings: the projection head's output, `(B, D)`.
    """

    logits: Tensor
    embeddings: Tensor


class TwoHeads(nn.Module):
    """The layers of a classifier and their order. A base class: `_put_heads` creates the layers.

    Attributes:
        encoder: a `TextCNN`, or a Hugging Face encoder.
        dropout: before the class layer.
        classifier: the class layer, Eq. 2.
        projection: the projection head, Eq. 3.
        pooling: how the token vectors of a transformer are combined into one vector.
        views: dropout views of each text in training mode.
    """

    encoder: nn.Module
    dropout: nn.Dropout
    classifier: nn.Linear
    projection: ProjectionHead
    pooling: Pooling
    views: int

    def _put_heads(
        self,
        encoder: nn.Module,
        hidden_size: int,
        *,
        num_classes: int,
        projection: Projection,
        projection_dim: int,
        dropout: float,
        pooling: Pooling,
    ) -> None:
        """Register all layers. The class layer's weights are drawn first, then the projection's."""
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling must be 'mean' or 'cls', got {pooling!r}.")
        self.encoder = encoder
        self.pooling = pooling
        self.views = 1
        # A TextCNN has a dropout of its own.
        self.dropout = nn.Dropout(0.0 if isinstance(encoder, TextCNN) else dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)
        self.projection = ProjectionHead(hidden_size, projection_dim, kind=projection)

    def encode(self, **inputs: Tensor) -> Tensor:
        """Encode each text, Eq. 1: return its pooled vector for each view, `(views * B, hidden_size)`.

        On a CPU, and in a single process, an encoder of `ANY_PADDING` encodes texts of similar length together, so
        that short texts are not padded to the longest one.
        """
        views = self.views if self.training else 1
        if isinstance(self.encoder, TextCNN):
            return self.encoder(inputs["input_ids"], inputs.get("attention_mask"), views=views)
        if views > 1:
            inputs = {name: repeat(value, "b ... -> (v b) ...", v=views) for name, value in inputs.items()}
        groups = _groups(self.encoder, inputs)
        if groups is None:
            return self._pooled(inputs)
        pooled = [
            self._pooled({name: value[rows, :length] for name, value in inputs.items()}) for rows, length in groups
        ]
        return torch.cat(pooled)[torch.cat([rows for rows, _ in groups]).argsort()]

    def _pooled(self, inputs: dict[str, Tensor]) -> Tensor:
        tokens = self.encoder(**inputs).last_hidden_state
        if self.pooling == "cls":
            return tokens[:, 0]
        mask = inputs.get("attention_mask")
        if mask is None:
            return tokens.mean(dim=1)
        mask = mask[..., None].to(tokens.dtype)
        return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)

    def heads_of(self, vectors: Tensor) -> HeadOutputs:
        """Apply both heads to the encoder's vectors, `(B, hidden_size)`."""
        return HeadOutputs(self.classifier(self.dropout(vectors)), self.projection(vectors))


def _groups(encoder: nn.Module, inputs: dict[str, Any]) -> list[tuple[Tensor, int]] | None:
    """On a CPU, rows of similar length and the tokens of the longest; `None` to encode all rows together."""
    mask = inputs.get("attention_mask")
    model_type = getattr(getattr(encoder, "config", None), "model_type", None)
    if model_type not in ANY_PADDING or type(mask) is not Tensor or mask.device.type != "cpu":
        return None
    # Traced, the graph would hold for the lengths of one batch only. Several processes must call their encoders equally
    # often: those of sharded weights wait for each other.
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if is_traced or num_processes() > 1:
        return None
    if any(not isinstance(value, Tensor) or value.shape[:2] != mask.shape for value in inputs.values()):
        return None
    return groups_by_length(mask)


class TwoHeadedTextCNN(TwoHeads):
    """A saved `ContrastiveClassifier` with a TextCNN encoder, for serving without transformers.

    Args:
        config: the result of `read_config`.

    Examples:
        >>> import torch
        >>> encoder = {"model_type": "textcnn", "vocab_size": 50}
        >>> heads = {"projection": "mlp", "projection_dim": 16, "dropout": 0.5, "pooling": "mean"}
        >>> model = TwoHeadedTextCNN({"encoder": encoder, "num_classes": 4, **heads}).eval()
        >>> model(input_ids=torch.tensor([[7, 8, 9]])).logits.shape
        torch.Size([1, 4])
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        heads = {name: value for name, value in config.items() if name != "encoder"}
        encoder = TextCNN(**{name: value for name, value in config["encoder"].items() if name != "model_type"})
        self._put_heads(encoder, encoder.hidden_size, **heads)

    def forward(self, **inputs: Tensor) -> HeadOutputs:
        """Encode a batch and apply both heads."""
        return self.heads_of(self.encode(**inputs))


def read_config(folder: Path) -> dict[str, Any]:
    """Read the options of a saved classifier.

    Args:
        folder: a folder that `ContrastiveClassifier.save_pretrained` wrote.

    Returns:
        `encoder`, a dictionary with its `model_type`; `num_classes`, `projection`, `projection_dim`, `dropout` and
        `pooling`.

    Raises:
        OSError: if there is no `config.json`.
        ValueError: if `config.json` does not belong to a `ContrastiveClassifier`.
    """
    stored = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if not isinstance(stored, dict) or stored.get("model_type") != MODEL_TYPE:
        raise ValueError(f"{folder / CONFIG_FILE} is not that of a classifier of labeldist.")
    names = ("projection", "projection_dim", "dropout", "pooling")
    try:
        # transformers leaves out the names of two classes.
        num_classes = len(stored.get("id2label") or ("0", "1"))
        encoder = dict(stored["encoder"])
        return {"encoder": encoder, "num_classes": num_classes, **{name: stored[name] for name in names}}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} lacks an option of the classifier: {error}.") from error
