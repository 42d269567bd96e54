"""Convolutional sentence encoder (Kim, 2014)."""

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import pad

__all__ = ["TextCNN"]


class TextCNN(nn.Module):
    """Encode token ids with convolutions of several widths and max pooling over time.

    This is the variant "CNN-rand" of Kim (2014), *Convolutional Neural Networks for Sentence Classification*, with
    learned token embeddings: windows of 3, 4 and 5 tokens with 100 feature maps each, ReLU, max pooling over time, and
    dropout 0.5 on the result. The output does not depend on the padding.

    Args:
        vocab_size: number of token ids.
        embedding_dim: size of a token embedding.
        widths: window sizes, in tokens.
        num_maps: feature maps per width.
        dropout: dropout probability of the output, in [0, 1). It makes the views of a text differ.
        padding_idx: id of the padding token.

    Attributes:
        hidden_size: size of the output, `len(widths) * num_maps`.

    Examples:
        >>> encoder = TextCNN(vocab_size=50).eval()
        >>> encoder(torch.tensor([[7, 8, 9], [7, 0, 0]])).shape
        torch.Size([2, 300])
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        embedding_dim: int = 300,
        widths: Sequence[int] = (3, 4, 5),
        num_maps: int = 100,
        dropout: float = 0.5,
        padding_idx: int = 0,
    ):
        super().__init__()
        self.padding_idx = padding_idx
        self.hidden_size = len(widths) * num_maps
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=padding_idx)
        self.convolutions: Sequence[nn.Conv1d] = nn.ModuleList(  # type: ignore[assignment]
            nn.Conv1d(embedding_dim, num_maps, width) for width in widths
        )
        self.dropout = nn.Dropout(dropout)
        self.options = {
            "vocab_size": vocab_size,
            "embedding_dim": embedding_dim,
            "widths": list(widths),
            "num_maps": num_maps,
            "dropout": dropout,
            "padding_idx": padding_idx,
        }

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, views: int = 1) -> Tensor:
        """Encode a batch.

        Args:
            input_ids: `(B, L)`, integer, padded on the right.
            attention_mask: `(B, L)`, 1 for tokens and 0 for padding; `None` derives it from `padding_idx`.
            views: dropout views of each text. Dropout comes after the convolutions, so they run once for all views.

        Returns:
            `(views * B, hidden_size)`, all rows of the first view, then all of the second.
        """
        if attention_mask is None:
            attention_mask = input_ids != self.padding_idx
        is_token = attention_mask.bool()
        # An empty text keeps its first position.
        is_token = is_token | (torch.arange(is_token.shape[1], device=is_token.device) == 0)
        input_ids = input_ids.masked_fill(~attention_mask.bool(), self.padding_idx)
        # A graph that is exported must not hang on how many tokens its example has.
        is_recorded = torch.compiler.is_exporting() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        # Hooks on the embedding, such as the Trainer's NEFTune, expect `(B, L, D)`. On a GPU, padding costs less than
        # waiting for the number of tokens.
        has_rows = is_recorded or bool(self.embedding._forward_hooks) or input_ids.device.type != "cpu"
        maximum = self._maximum_over_rows if has_rows else self._maximum_over_time
        pooled = maximum(input_ids, is_token)
        return self.dropout(repeat(pooled, "b m -> (v b) m", v=views))

    def _maximum_over_time(self, input_ids: Tensor, is_token: Tensor) -> Tensor:
        """The largest value of each feature map over the windows that start within a text, `(B, hidden_size)`.

        The texts are laid end to end with a gap of padding between them, so that no work is spent on the padding of a
        batch: on short texts most of it.
        """
        gap = max(convolution.kernel_size[0] for convolution in self.convolutions) - 1
        # The gap behind a text is as long as the widest window, less one: no window reaches the next text.
        keep = pad(is_token, (0, gap)) | pad(is_token, (gap, 0))
        for shift in range(1, gap):
            keep = keep | pad(is_token, (shift, gap - shift))
        ids = pad(input_ids, (0, gap), value=self.padding_idx)[keep]  # (T,)
        starts_window = pad(is_token, (0, gap))[keep]
        text = torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(keep)[keep][starts_window]
        line = rearrange(self.embedding(ids), "t d -> 1 d t")
        pooled = []
        for convolution in self.convolutions:
            # The last text's gap is as long as any window that starts in the text.
            maps = rearrange(convolution(line), "1 m t -> t m")
            maps = maps[starts_window[: len(maps)]].relu()
            index = text[:, None].expand_as(maps)
            # Values are at least 0 after ReLU, and each text has a window: 0 never wins wrongly.
            pooled.append(maps.new_zeros(len(input_ids), maps.shape[1]).scatter_reduce(0, index, maps, "amax"))
        return torch.cat(pooled, dim=1)

    def _maximum_over_rows(self, input_ids: Tensor, is_token: Tensor) -> Tensor:
        """The same by rows of one length, whose shapes depend on the batch's alone."""
        gap = max(convolution.kernel_size[0] for convolution in self.convolutions) - 1
        rows = rearrange(self.embedding(pad(input_ids, (0, gap), value=self.padding_idx)), "b l d -> b d l")
        pooled = []
        for convolution in self.convolutions:
            maps = convolution(rows)[:, :, : input_ids.shape[1]].relu()
            pooled.append((maps * is_token[:, None]).amax(dim=2))
        return torch.cat(pooled, dim=1)
