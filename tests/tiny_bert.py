"""A BERT of random weights and rows of tokens that it learns in seconds, for the tests of the Trainer."""

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

NUM_CLASSES = 3
SMALL: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 8,
    "num_labels": NUM_CLASSES,
}


class Rows(torch.utils.data.Dataset):
    """Six tokens a text; the first is the class's own."""

    def __init__(self, num_rows: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(num_rows) % NUM_CLASSES
        self.input_ids = torch.randint(5, 20, (num_rows, 6), generator=generator)
        self.input_ids[:, 0] = self.labels + 1

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids[index], "labels": self.labels[index]}

    def batch(self) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids}


def bert(*, dropout: float = 0.0) -> Any:
    """The same weights at each call."""
    torch.manual_seed(0)
    config = BertConfig(**SMALL, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return BertForSequenceClassification(config)
