"""A trained run at work: predictions for texts as they come, and metrics on other labeled rows."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from labeldist.models.two_heads import WEIGHTS_FILE
from labeldist.serving import SavedClassifier
from labeldist.training.errors import UserError
from labeldist.training.run_folder import RunConfig, RunFolder

if TYPE_CHECKING:
    from labeldist.serving.batches import Predictions
    from labeldist.training.data.corpus import Split
    from labeldist.training.output.progress import Progress
    from labeldist.training.records import PredictionMetrics

__all__ = ["Predictor", "check_top_k"]


def check_top_k(top_k: int | None) -> None:
    """Raise `UserError` for a number of classes that is none.

    Examples:
        >>> check_top_k(0)
        Traceback (most recent call last):
        ...
        labeldist.training.errors.UserError: --top-k must be at least 1, got 0.
    """
    if top_k is not None and top_k < 1:
        raise UserError(f"--top-k must be at least 1, got {top_k}.")


@dataclass(frozen=True)
class Predictor:
    """A trained classifier with what it needs to read texts.

    Attributes:
        classifier: model and tokenizer.
        class_names: one name per class.
        folder: of the run.
    """

    classifier: SavedClassifier
    class_names: tuple[str, ...]
    folder: Path = field(repr=False)

    @classmethod
    def from_run(cls, folder: Path, *, device: str = "auto", trust_remote_code: bool = False) -> "Predictor":
        """Read a finished run folder, wherever it stands now: its configuration and its model, and nothing else.

        Args:
            folder: of the run.
            device: `"auto"`, `"cpu"` or `"cuda"`.
            trust_remote_code: whether code that comes with the encoder may run, as when the run was begun. The encoder
                is then read from where it was, for a run folder holds no code; its weights are the run's.

        Raises:
            UserError: if `folder` is no finished run, or a GPU is asked for where there is none.
        """
        run = RunFolder(folder)
        config = run.read_finished(trust_remote_code=trust_remote_code)
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda needs a CUDA GPU, and PyTorch sees none here. Use --device cpu or auto.")
        where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        names, max_length = config.class_names, config.spec.settings.model.max_length
        try:
            if config.spec.settings.model.trust_remote_code:
                classifier = _with_code(run, config, where)
            else:
                classifier = SavedClassifier.from_folder(run.model, max_length=max_length, device=where)
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(f"The model in {run.model} cannot be read: {error}") from error
        if (num_classes := classifier.model.classifier.out_features) != len(names):
            raise UserError(f"{folder} names {len(names)} classes, and its model has {num_classes}.")
        return cls(classifier, names, folder)

    def probabilities(self, texts: list[str]) -> Tensor:
        """Class probabilities, `(N, C)`, float32 on the CPU, of at least one text."""
        return self.classifier.predict(texts).probabilities

    def vectors(self, texts: list[str]) -> Tensor:
        """The encoder's vectors, `(N, hidden_size)`, float32 on the CPU."""
        if not texts:
            return torch.empty(0, self.classifier.model.classifier.in_features, dtype=torch.float32)
        return self.classifier.predict(texts).vectors

    @cached_property
    def temperature(self) -> float:
        """The temperature that was fitted on the run's validation rows.

        Raises:
            UserError: if the run had none.
        """
        calibration = RunFolder(self.folder).read_metrics().calibration
        if calibration is None:
            raise UserError(
                f"--calibrated needs a temperature that was fitted on validation rows, and {self.folder} has none. "
                "Train with --validation-fraction 0.1."
            )
        return calibration.temperature

    def predictions(
        self, texts: Iterable[str], costs: Tensor | None = None, *, top_k: int | None = None, calibrated: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield a prediction for each text, in order, with a few thousand texts in memory.

        Args:
            texts: any number.
            costs: `(C, C)`, row = true class, column = decided class: the label is then the class of least expected
                cost, and the probability is that class's. The most probable class if `None`.
            top_k: how many classes `probabilities` has, >= 1; all of them if `None`.
            calibrated: whether probabilities are taken at the run's `temperature`, for decisions by cost, too.

        Yields:
            `{"text", "label", "probability", "probabilities": {class: probability}}`, the most probable class first. A
            blank text has no label: `None` stands for it and for its probability, and there are no probabilities.

        Raises:
            UserError: if there is no temperature.
        """
        names, temperature = self.class_names, self.temperature if calibrated else None
        for window, plain in self.classifier.probabilities(texts):
            probabilities = plain if temperature is None else _at(temperature, plain)
            # Stable: equal probabilities stay in the order of the classes. Of the probabilities as they are: rounding
            # may tie calibrated ones.
            order = plain.argsort(dim=1, descending=True, stable=True)[:, :top_k]
            decided = order[:, 0] if costs is None else _decided(probabilities, costs)
            rows = zip(window, decided.tolist(), probabilities.tolist(), order.tolist(), strict=True)
            for text, label, row, ranked in rows:
                if not text.strip():
                    yield {"text": text, "label": None, "probability": None, "probabilities": {}}
                    continue
                yield {
                    "text": text,
                    "label": names[label],
                    "probability": round(row[label], 6),
                    "probabilities": {names[c]: round(row[c], 6) for c in ranked},
                }

    def evaluate(
        self,
        split: "Split",
        costs: Tensor | None = None,
        *,
        calibrated: bool = False,
        progress: "Progress | None" = None,
    ) -> "PredictionMetrics":
        """Metrics on labeled rows: see `labeldist.training.metrics.evaluate_predictions`.

        An order, costs or a relation of the classes that the run was begun with are measured, too, as far as the files
        that they came from are still there.

        Args:
            split: the rows.
            costs: `(C, C)`, row = true class, column = decided class: the result is then a `CostedMetrics`.
            calibrated: whether probabilities are taken at the run's `temperature`, for decisions by cost, too.
            progress: where it shows how far it is; nowhere if `None`.

        Raises:
            UserError: if there is no temperature.
        """
        return self.measure(split, costs, calibrated=calibrated, progress=progress)[0]

    def measure(
        self,
        split: "Split",
        costs: Tensor | None = None,
        *,
        calibrated: bool = False,
        progress: "Progress | None" = None,
    ) -> "tuple[PredictionMetrics, Predictions]":
        """Metrics on labeled rows, and the predictions that they were taken of; as `evaluate` otherwise."""
        # Here: scikit-learn and the matrix, with its history, are nothing that predictions need.
        from labeldist.training.metrics import evaluate_predictions, with_costs, with_relation
        from labeldist.training.output.progress import SILENT
        from labeldist.training.relations import measure_tables

        run = RunFolder(self.folder)
        tables = None
        with contextlib.suppress(UserError):
            tables = measure_tables(run.read_config().spec.settings, self.class_names)
        with (progress or SILENT).counted("predicting", len(split), "row") as advance:
            predictions = self.classifier.predict(list(split.texts), advance=advance)
        if calibrated:
            predictions = predictions._replace(probabilities=_at(self.temperature, predictions.probabilities))
        metrics = evaluate_predictions(
            split.labels,
            predictions.probabilities,
            self.class_names,
            split.texts,
            vectors=predictions.vectors,
            matrix=run.read_matrix(),
        )
        metrics = with_relation(metrics, split.labels, predictions.probabilities, tables, vectors=predictions.vectors)
        if costs is not None:
            metrics = with_costs(metrics, split.labels, predictions.probabilities, costs)
        return metrics, predictions


def _at(temperature: float, probabilities: Tensor) -> Tensor:
    from labeldist.evaluation import calibrate

    return calibrate(probabilities, temperature)


def _decided(probabilities: Tensor, costs: Tensor) -> Tensor:
    from labeldist.evaluation import decide

    return decide(probabilities, costs)


def _with_code(run: RunFolder, config: RunConfig, device: str) -> SavedClassifier:
    """The classifier of a run whose encoder, wherever it was at the beginning, brings code of its own."""
    from labeldist.serving.pretrained import PretrainedTokenizer
    from labeldist.training.encoders import build_classifier

    settings = config.spec.settings.model
    model, tokenizer = build_classifier(settings, [], len(config.class_names))
    try:
        model.load_state_dict(load_file(run.model / WEIGHTS_FILE))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    return SavedClassifier(model.eval(), PretrainedTokenizer(tokenizer, settings.max_length))
