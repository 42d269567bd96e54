"""A trained run at work: predictions for texts as they come, and metrics on other labelled rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from labeldist.models.classifier import ContrastiveClassifier
from labeldist.training.config import OptimSettings
from labeldist.training.data.corpus import Split
from labeldist.training.errors import UserError
from labeldist.training.fit import EVAL_BATCH_SIZE, predict_batches, resolve_device
from labeldist.training.metrics import evaluate_predictions
from labeldist.training.run_folder import RunFolder


@dataclass(frozen=True)
class Predictor:
    """A trained classifier with what it needs to read texts.

    Attributes:
        model: in evaluation mode.
        tokenizer: its own.
        class_names: one name a class.
        max_length: tokens a text is cut to.
        matrix: the label distances that it was trained with, as nested lists; `None` for cross-entropy alone.
    """

    model: ContrastiveClassifier
    tokenizer: PreTrainedTokenizerBase
    class_names: tuple[str, ...]
    max_length: int
    matrix: list[list[float]] | None = None

    @classmethod
    def from_run(cls, folder: Path, *, device: str = "auto") -> "Predictor":
        """Read a finished run folder, wherever it stands now.

        Raises:
            UserError: if `folder` is no finished run, or a GPU is asked for where there is none.
        """
        run = RunFolder(folder)
        config = run.read_finished()
        where = resolve_device(OptimSettings(device=device))  # type: ignore[arg-type]
        try:
            model = ContrastiveClassifier.load(run.model).to(where)
            tokenizer = AutoTokenizer.from_pretrained(run.model, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"The model in {run.model} cannot be read: {error}") from error
        return cls(model, tokenizer, config.class_names, config.spec.settings.model.max_length, run.read_matrix())

    def probabilities(self, texts: list[str]) -> Tensor:
        """Class probabilities, `(N, C)`, float32 on the CPU."""
        return predict_batches(self.model, self.tokenizer, texts, self.max_length).probabilities

    def predictions(self, texts: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yield a prediction for each text, in order, holding one batch in memory at a time.

        Yields:
            `{"text", "label", "probability", "probabilities": {class: probability}}`.
        """
        texts = iter(texts)
        while batch := list(islice(texts, EVAL_BATCH_SIZE)):
            for text, row in zip(batch, self.probabilities(batch).tolist(), strict=True):
                best = max(range(len(row)), key=row.__getitem__)
                named = {name: round(value, 6) for name, value in zip(self.class_names, row, strict=True)}
                yield {
                    "text": text,
                    "label": self.class_names[best],
                    "probability": round(row[best], 6),
                    "probabilities": named,
                }

    def evaluate(self, split: Split) -> dict[str, Any]:
        """Metrics on labelled rows: see `labeldist.training.metrics.evaluate_predictions`."""
        predictions = predict_batches(self.model, self.tokenizer, split.texts, self.max_length)
        return evaluate_predictions(
            split.labels,
            predictions.probabilities,
            self.class_names,
            split.texts,
            vectors=predictions.vectors,
            matrix=self.matrix,
        )
