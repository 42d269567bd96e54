"""A saved classifier with its tokenizer, which predicts class probabilities of texts."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from labeldist.models.two_heads import WEIGHTS_FILE, TwoHeadedTextCNN, TwoHeads, read_config
from labeldist.serving.batches import BATCH_SIZE, Encodings, Predictions, predict_encoded
from labeldist.serving.tokenizer import TextTokenizer

__all__ = ["SavedClassifier", "windows"]

MAX_WINDOW = 16 * BATCH_SIZE
"""Texts that are read ahead at most, so that those of like length share a batch."""


class _Tokenizes(Protocol):
    def encode(self, texts: list[str]) -> Encodings: ...

    def pad(self, rows: dict[str, list[list[int]]]) -> Any: ...


class SavedClassifier:
    """A trained classifier for prediction.

    Args:
        model: the classifier; it is put into evaluation mode.
        tokenizer: the tokenizer of the classifier.
    """

    def __init__(self, model: TwoHeads, tokenizer: _Tokenizes):
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def from_folder(cls, folder: Path, *, max_length: int, device: str = "cpu") -> "SavedClassifier":
        """Load a classifier and its tokenizer from a folder.

        Args:
            folder: the folder with both.
            max_length: maximum number of tokens; longer texts are truncated.
            device: device of the model.

        Raises:
            OSError: if a file is missing.
            ValueError: if a file is damaged, or the files do not belong together.
        """
        config = read_config(folder)
        # Building a model draws random weights; the caller's random state must not change.
        with torch.random.fork_rng(devices=[]):
            return cls._from_folder(folder, config, max_length, device)

    @classmethod
    def _from_folder(cls, folder: Path, config: dict[str, Any], max_length: int, device: str) -> "SavedClassifier":
        try:
            if config["encoder"].get("model_type") == "textcnn":
                model: TwoHeads = TwoHeadedTextCNN(config)
                model.load_state_dict(load_file(folder / WEIGHTS_FILE))
                return cls(model.to(torch.device(device)).eval(), TextTokenizer(folder, max_length))
            return cls._with_transformers(folder, max_length, device)
        except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(str(error)) from error

    @classmethod
    def _with_transformers(cls, folder: Path, max_length: int, device: str) -> "SavedClassifier":
        from labeldist.serving.pretrained import load_pretrained, load_saved_tokenizer

        model = load_pretrained(folder)
        model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
        return cls(model, load_saved_tokenizer(folder, max_length))

    def predict(self, texts: list[str], *, advance: Callable[[int], None] | None = None) -> Predictions:
        """Compute the class probabilities, embeddings and encoder vectors of at least one text, in order.

        Args:
            texts: texts to classify.
            advance: called after each batch with the number of texts that are done.
        """
        return predict_encoded(self.model, self.tokenizer.encode(texts), self.tokenizer.pad, advance=advance)

    def probabilities(self, texts: Iterable[str]) -> Iterator[tuple[list[str], Tensor]]:
        """Classify a stream of texts in order, with a few thousand texts in memory at a time.

        Yields:
            The next N texts and their class probabilities, `(N, C)`, float32.
        """
        with ThreadPoolExecutor(1) as ahead:
            for window in windows(texts):
                yield window, self._of_window(window, ahead)

    def _of_window(self, texts: list[str], ahead: Executor) -> Tensor:
        # Texts of like length share a batch, and each batch is tokenized while the one before is computed.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        batches = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
        encoded = (ahead.submit(self.tokenizer.encode, [texts[i] for i in batch]) for batch in batches)
        found, coming = [], next(encoded)
        while coming is not None:
            current, coming = coming, next(encoded, None)
            found.append(predict_encoded(self.model, current.result(), self.tokenizer.pad).probabilities)
        return torch.cat(found)[torch.tensor(order).argsort()]


def windows(texts: Iterable[Any]) -> Iterator[list[Any]]:
    """Divide a stream into lists that grow up to `MAX_WINDOW`, so that first results come early and long streams fast.

    Examples:
        >>> [len(window) for window in windows(range(1000))]
        [256, 256, 488]
    """
    texts = iter(texts)
    taken, size = 0, BATCH_SIZE
    while window := list(islice(texts, size)):
        yield window
        taken += len(window)
        # 256, 256, 512, 1024, ...
        size = min(max(taken, BATCH_SIZE), MAX_WINDOW)
