"""The model of a run: how it is trained, and what it predicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labeldist.coarse import FineLabelsOnly
from labeldist.integrations.transformers import TrainerObjective
from labeldist.ldm import LabelDistanceMatrix, StaticLDM
from labeldist.losses import LabelDistanceContrastiveLoss
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.relation import AdaptiveRelevance
from labeldist.serving.batches import Predictions
from labeldist.training import processes
from labeldist.training.classification import classification_loss, related_loss, with_coarse_labels
from labeldist.training.config import LossSettings
from labeldist.training.data.corpus import Corpus, joined, training_rows
from labeldist.training.encoders import build_classifier
from labeldist.training.errors import UserError
from labeldist.training.fit import DivergedError, FitOptions, Fitted, fit, predict_batches, resolve_device
from labeldist.training.frozen import fit_class_layer, rows_of_class_layer
from labeldist.training.label_distances import MatrixChoice
from labeldist.training.levels import LevelContrast
from labeldist.training.objectives import OBJECTIVES, FrozenHead
from labeldist.training.output.progress import SILENT, Progress
from labeldist.training.relations import needed_relation
from labeldist.training.run_folder import RunFolder, RunSpec
from labeldist.training.seeding import seed_everything
from labeldist.training.tokenized import EncodedSplit, TokenCache

__all__ = ["TrainedModel", "make_objective", "train_model"]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A classifier after its training, and what it was trained on.

    Attributes:
        spec: of the run.
        corpus: the rows of the run.
        model: with the weights of its best epoch.
        tokenizer: of its texts.
        tokens: of the corpus's texts.
        fitted: what happened in training.
    """

    spec: RunSpec
    corpus: Corpus
    model: ContrastiveClassifier
    tokenizer: Any
    tokens: TokenCache
    fitted: Fitted

    @property
    def frozen_head(self) -> FrozenHead | None:
        """The classifier that is fitted on the embeddings of the frozen encoder; `None` if the encoder was trained."""
        return OBJECTIVES[self.spec.objective].frozen_head

    def fit_class_layer(self) -> None:
        """Fit the class layer on the training rows' vectors, where the objective or the settings say so."""
        settings = self.spec.settings
        if self.frozen_head is None and settings.model.class_layer != "logistic":
            return
        known = rows_of_class_layer(self.spec.objective, self.corpus)
        vectors = self.predict(known.texts).vectors
        balanced = settings.loss.class_weights == "balanced"
        fit_class_layer(self.model, vectors, known.labels, self.frozen_head or "logistic", balanced=balanced)

    def predict(self, texts: Sequence[str], *, progress: Progress = SILENT) -> Predictions:
        """Probabilities, embeddings and vectors of texts, in their order."""
        settings = self.spec.settings
        encodings = self.tokens.encode(texts, self.tokenizer, settings, self.corpus)
        return predict_batches(
            self.model, self.tokenizer, texts, settings.model.max_length, encodings=encodings, progress=progress
        )

    def save(self, folder: Path) -> None:
        """Write the model, with the names of its classes, and the tokenizer."""
        self.model.name_classes(self.corpus.class_names)
        self.model.save(folder)
        self.tokenizer.save_pretrained(folder)


def train_model(
    spec: RunSpec,
    corpus: Corpus,
    run: RunFolder,
    choice: MatrixChoice,
    tokens: TokenCache,
    *,
    progress: Progress = SILENT,
    resume: bool = False,
) -> TrainedModel:
    """Build the classifier and train it; on the frozen encoder nothing is trained here.

    Args:
        spec: of the run.
        corpus: the rows.
        run: receives the checkpoints.
        choice: the label distances.
        tokens: of the corpus's texts, shared with the runs of the same split.
        progress: where it shows how far it is.
        resume: go on from the newest checkpoint.

    Raises:
        UserError: if the loss became NaN or infinite before any weights were worth keeping.
    """
    settings = spec.settings
    seed_everything(spec.seed)
    rows = training_rows(corpus)
    model, tokenizer = build_classifier(settings.model, rows.texts, len(corpus.class_names), is_checked=True)
    fitted = Fitted([])
    if OBJECTIVES[spec.objective].frozen_head is None:
        train, validation = (
            EncodedSplit(split, tokens.encode(split.texts, tokenizer, settings, corpus))
            for split in (rows, corpus.validation)
        )
        objective = make_objective(spec, choice, model, corpus)
        options = FitOptions(
            run.checkpoints,
            spec.seed,
            settings.optim.epochs,
            settings.optim.steps,
            progress=progress,
            resume=resume,
            report_to=settings.optim.report_to,
        )
        try:
            fitted = fit(model, objective, (train, validation), tokenizer, settings, options)
        except DivergedError as error:
            sentence = f"{run}: {error}"
            processes.on_main(lambda: run.fail(sentence))
            raise UserError(sentence) from error
    else:
        model.to(processes.device(resolve_device(settings.optim)))  # pyright: ignore[reportArgumentType]
    return TrainedModel(spec, corpus, model, tokenizer, tokens, fitted)


def make_objective(spec: RunSpec, choice: MatrixChoice, model: torch.nn.Module, corpus: Corpus) -> TrainerObjective:
    """The loss that a run trains with."""
    settings, views = spec.settings.loss, OBJECTIVES[spec.objective].views
    options: dict[str, Any] = {}
    fine = joined(corpus.train, corpus.label_texts)
    labels = torch.as_tensor(fine.labels)
    if OBJECTIVES[spec.objective].classification is None:
        classification = classification_loss(settings, labels, len(corpus.class_names))
    else:
        relation = needed_relation(spec.objective, spec.settings, corpus.class_names)
        classification = related_loss(spec.objective, relation, settings, labels)
    classification = with_coarse_labels(classification, corpus)
    if classification is not None:
        options["classification"] = classification
    if choice.ldm is None:
        return TrainerObjective(None, model, views=views, **options)
    contrastive = _contrastive_loss(choice, choice.ldm, settings)
    if corpus.groups:
        contrastive = FineLabelsOnly(contrastive)
    return TrainerObjective(
        contrastive, model, views=views, ce_weight=settings.ce_weight, confusion=choice.confusion, **options
    )


def _contrastive_loss(choice: MatrixChoice, ldm: LabelDistanceMatrix, settings: LossSettings) -> torch.nn.Module:
    """The contrastive loss, or the mean of one for each level."""
    is_learned = isinstance(choice.relevance, AdaptiveRelevance)
    distances = StaticLDM.uniform(1.0, class_names=ldm.class_names) if is_learned else ldm
    # The first level is the identity. Without a table it is the same loss, and faster.
    relevances = (None, *choice.levels[1:]) if choice.levels else (choice.relevance,)
    losses = [
        LabelDistanceContrastiveLoss(
            distances,
            temperature=settings.temperature,
            weighting=settings.weighting,
            relevance=relevance,
            # The corpus has been checked, and two views of each text are positives: no step waits for a GPU to say so.
            validate=False,
        )
        for relevance in relevances
    ]
    return losses[0] if len(losses) == 1 else LevelContrast(losses)
