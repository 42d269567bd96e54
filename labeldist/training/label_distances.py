"""The label-distance matrix of each objective: given, read from a file, or derived from counted confusions."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labeldist.confusion import confusion_counts, most_confused_pairs
from labeldist.integrations.transformers import TrainerObjective
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix, StaticLDM
from labeldist.relation import AdaptiveRelevance, Relation
from labeldist.training import processes
from labeldist.training.atomic import read_json, write_json
from labeldist.training.classification import with_coarse_labels
from labeldist.training.config import RunSettings
from labeldist.training.data.corpus import Corpus, Split, training_rows
from labeldist.training.data.splits import stratified_folds
from labeldist.training.encoders import build_classifier
from labeldist.training.errors import UserError
from labeldist.training.fit import FitOptions, fit, predict_batches
from labeldist.training.matrix_file import parse_pair, read_matrix_file
from labeldist.training.matrix_json import matrix_from_json, matrix_to_json
from labeldist.training.objectives import OBJECTIVES, Objective, takes_given_matrix, takes_relation
from labeldist.training.output.progress import SILENT, Progress
from labeldist.training.relations import needed_relation, relation_in_words
from labeldist.training.seeding import seed_everything
from labeldist.training.tokenized import EncodedSplit, TokenCache, encode

MIN_COUNTING_STEPS = 150
MAX_PAIRS_SAID = 3
# Of the classes, in search of one that makes another relation.
MAX_EXCHANGES = 100


@dataclass(frozen=True)
class MatrixChoice:
    """The matrix of one run and where it came from.

    Attributes:
        ldm: `None` for cross-entropy alone. If graded targets are learned, this is the matrix that
            they are computed from, and the distances in the loss are ones.
        summary: what was taken, in words, without the pairs.
        confusion: fixed counts that refresh an adaptive matrix. `None`: use the validation set's counts.
        relevance: graded targets, `(C, C)`; or a module of them that learns; `None` where only
            rows of the same class are positives.
        levels: tables of graded targets, `(C, C)`, the identity first: the loss is the mean of one contrastive loss for
            each. Empty where there is one loss.
        pairs: names of the classes that were pushed apart as pairs, if any.
    """

    ldm: LabelDistanceMatrix | None
    summary: str
    confusion: Tensor | None = None
    relevance: Tensor | AdaptiveRelevance | None = None
    levels: tuple[Tensor, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> str:
        """What was taken, in words, with all pairs."""
        return self._with_pairs([f"{first} / {second}" for first, second in self.pairs])

    def in_short(self) -> str:
        """The same with the first pairs, for a terminal: others have fifty."""
        shown = [f"{first} / {second}" for first, second in self.pairs[:MAX_PAIRS_SAID]]
        more = len(self.pairs) - len(shown)
        return self._with_pairs([*shown, *([f"and {more} more in ldm.json"] if more else [])])

    def _with_pairs(self, shown: list[str]) -> str:
        return f"{self.summary}: {'; '.join(shown)}" if shown else self.summary


def choose_matrix(
    objective: Objective, settings: RunSettings, corpus: Corpus, count: Callable[[], Tensor], *, seed: int = 0
) -> MatrixChoice:
    """The matrix that `objective` trains with.

    Args:
        objective: of the run.
        settings: of the run.
        corpus: gives the classes.
        count: counts confusions by short cross-entropy runs; called only if they are needed.
        seed: of the run: it exchanges the classes of a permuted relation.

    Raises:
        UserError: if a given pair, file, order or hierarchy does not fit the classes, or a relation of the classes is
            needed and none was given.
    """
    names, kind = corpus.class_names, OBJECTIVES[objective].matrix
    if takes_relation(objective):
        return _related(objective, settings, names, seed)
    if kind == "none":
        is_frozen = OBJECTIVES[objective].frozen_head is not None
        return MatrixChoice(None, "none: nothing is trained" if is_frozen else "none: cross-entropy alone")
    if kind == "ones":
        return MatrixChoice(StaticLDM.uniform(1.0, class_names=names), "1 between all classes")
    if kind == "static":
        return _static(settings, corpus, count)
    if kind == "spread":
        static = _static(settings, corpus, count)
        assert static.ldm is not None
        flat = static.ldm.flattened() if isinstance(static.ldm, StaticLDM) else static.ldm
        mean = flat.mean_off_diagonal
        summary = f"{mean:.3g} between all classes, the mean of this static matrix: {static.summary}"
        return MatrixChoice(flat, summary, pairs=static.pairs)
    assert kind == "adaptive"
    return _adaptive(settings, names, count)


def _adaptive(settings: RunSettings, names: tuple[str, ...], count: Callable[[], Tensor]) -> MatrixChoice:
    matrix = settings.matrix
    ldm = AdaptiveLDM(
        class_names=names,
        warmup_fraction=matrix.warmup_fraction,
        update_every=matrix.update_every,
        max_distance=matrix.max_distance,
        normalization=matrix.normalization,
        symmetric=matrix.symmetric,
        use="far" if matrix.adaptive_use == "far" else "near",
    )
    is_validation = matrix.confusion_from == "validation"
    where = "the validation set's confusions"
    if not is_validation:
        where = f"confusions in {matrix.folds}-fold cross-validation"
    relevance, summary = None, f"learned from {where}"
    if matrix.adaptive_use == "far":
        summary += ", pushes classes apart that are not confused"
    elif matrix.adaptive_use == "graded":
        weight, level = matrix.relevance_weight, matrix.relevance_level
        relevance = AdaptiveRelevance(ldm, weight=weight, level=level)
        summary = (
            f"1 between all classes; rows of confused classes are weak positives, of relevance up to {weight:.3g}, "
            f"learned from {where}"
        )
    return MatrixChoice(ldm, summary, None if is_validation else count(), relevance)


def needs_counting(objective: Objective, settings: RunSettings) -> bool:
    """Whether `choose_matrix` will call `count`: nothing was given, or confusions come from cross-validation."""
    if takes_given_matrix(objective):
        return not settings.matrix.confusable and settings.matrix.matrix_file is None
    return OBJECTIVES[objective].matrix == "adaptive" and settings.matrix.confusion_from == "cross-validation"


def moves_at_evaluations(objective: Objective) -> bool:
    """Whether the objective's matrix is updated at evaluations on validation rows."""
    return OBJECTIVES[objective].matrix == "adaptive"


def check_matrix(objective: Objective, settings: RunSettings, corpus: Corpus, seed: int) -> None:
    """Find a mistake in given pairs, a matrix file, a relation or the number of folds, before any training.

    Raises:
        UserError: for the first mistake found.
    """
    counts_held_out = needs_counting(objective, settings) and settings.matrix.confusion_from == "validation"
    if not len(corpus.validation) and (counts_held_out or moves_at_evaluations(objective)):
        cures = "--confusion-from cross-validation, or " if counts_held_out else ""
        raise UserError(
            f"--objective {objective} learns from validation rows, and there are none. Give {cures}"
            "--validation-fraction 0.1, or another objective."
        )
    if takes_given_matrix(objective) or takes_relation(objective):
        # Placeholder counts: only given pairs and files, and the relation, are checked.
        num_classes = len(corpus.class_names)
        choose_matrix(objective, settings, corpus, lambda: torch.zeros(num_classes, num_classes).long())
    if needs_counting(objective, settings) and settings.matrix.confusion_from == "cross-validation":
        draw_folds(settings, corpus, seed)


def count_confusions(
    settings: RunSettings,
    corpus: Corpus,
    seed: int,
    scratch: Path,
    tokens: TokenCache | None = None,
    *,
    progress: Progress = SILENT,
) -> Tensor:
    """Count confusions of short cross-entropy runs on rows that they were not trained on.

    Args:
        settings: of the run.
        corpus: gives the rows.
        seed: of the folds, the weights and the order of rows.
        scratch: folder for checkpoints; what an earlier attempt left there is removed first, and all of it at the end.
        tokens: of the corpus's texts, shared with the runs of the same split.
        progress: where it shows how far it is.

    Returns:
        `(C, C)`, int64, row = true class: on the validation set, or over the held-out parts of a cross-validation.
    """
    if settings.matrix.confusion_from == "validation":
        parts = (corpus.train, corpus.validation)
        return _count_once(settings, corpus, parts, seed, scratch, tokens, progress, "counting confusions")
    everything = np.arange(len(corpus.train))
    counts = torch.zeros(len(corpus.class_names), len(corpus.class_names), dtype=torch.int64)
    for fold, held_out in enumerate(draw_folds(settings, corpus, seed), 1):
        kept = np.setdiff1d(everything, held_out)
        # Label texts and coarse rows are trained on, and never counted.
        parts = (_rows(corpus.train, kept), _rows(corpus.train, held_out))
        # Each fold has a vocabulary of its own: its tokens are of use to no other training.
        title = f"counting confusions, fold {fold} of {settings.matrix.folds}"
        counts += _count_once(settings, corpus, parts, seed, scratch, None, progress, title)
    return counts


def load_or_count_confusions(
    settings: RunSettings,
    corpus: Corpus,
    seed: int,
    path: Path,
    tokens: TokenCache | None = None,
    *,
    progress: Progress = SILENT,
) -> Tensor:
    """Confusion counts of short cross-entropy runs: from `path` where an earlier run of the same split left them."""
    if path.exists() and (counts := _stored_counts(path, corpus)) is not None:
        return counts
    # Every process counts; keep the main process's counts.
    scratch = path.with_suffix("")
    counts = processes.broadcast(count_confusions(settings, corpus, seed, scratch, tokens, progress=progress))
    if not processes.is_main():
        return counts
    path.parent.mkdir(parents=True, exist_ok=True)
    counted = {"class_names": list(corpus.class_names), "counts": matrix_to_json(counts)}
    write_json(path, {**counted, "fingerprint": corpus.fingerprint})
    return counts


def _stored_counts(path: Path, corpus: Corpus) -> Tensor | None:
    """Counts of the same rows; none where the file is of others, or damaged: they are counted again."""
    num_classes = len(corpus.class_names)
    try:
        stored = read_json(path)
        counts = matrix_from_json(stored["counts"], num_classes)
        is_same = stored["fingerprint"] == corpus.fingerprint
    except (UserError, TypeError, KeyError):
        return None
    if counts is None or not is_same or not ((counts >= 0) & (counts == counts.round())).all():
        return None
    return torch.from_numpy(counts.astype(np.int64))


def draw_folds(settings: RunSettings, corpus: Corpus, seed: int) -> list[np.ndarray]:
    """The held-out rows of each fold of the training set.

    Raises:
        UserError: if there are more folds than rows.
    """
    try:
        return stratified_folds(corpus.train.labels, settings.matrix.folds, seed)
    except ValueError as error:
        raise UserError(
            f"--folds {settings.matrix.folds} does not fit the training set: {error} Give static and uniform a matrix "
            "by --confusable or --matrix-file, or take other objectives."
        ) from error


def _static(settings: RunSettings, corpus: Corpus, count: Callable[[], Tensor]) -> MatrixChoice:
    names, matrix = corpus.class_names, settings.matrix
    if matrix.matrix_file is not None:
        return MatrixChoice(
            read_matrix_file(matrix.matrix_file, names, max_distance=matrix.max_distance),
            f"from {matrix.matrix_file.name}",
        )
    if matrix.confusable:
        pairs = [parse_pair(pair, names) for pair in matrix.confusable]
        origin = "as given"
    else:
        counts = count()
        confused = most_confused_pairs(counts, num_pairs=matrix.num_pairs or len(names))
        pairs = [(names[pair.first], names[pair.second]) for pair in confused]
        where = (
            "the validation set" if matrix.confusion_from == "validation" else f"{matrix.folds}-fold cross-validation"
        )
        share = counts.diagonal().sum().item() / max(counts.sum().item(), 1)
        origin = f"the most confused of a short cross-entropy run on {where} ({100 * share:.0f} % right there)"
    if not pairs:
        return MatrixChoice(StaticLDM.uniform(1.0, class_names=names), f"1 between all classes: no pair was {origin}")
    plural = "" if len(pairs) == 1 else "s"
    ldm = StaticLDM.from_pairs(pairs, max_distance=matrix.max_distance, class_names=names)
    summary = f"{matrix.max_distance:g} between {len(pairs)} pair{plural}, {origin}"
    return MatrixChoice(ldm, summary, pairs=tuple(pairs))


def _related(objective: Objective, settings: RunSettings, names: tuple[str, ...], seed: int) -> MatrixChoice:
    """What the relation does: large entries, graded targets beside ones, levels, or a part in the cross-entropy."""
    relation = needed_relation(objective, settings, names)
    matrix, described, kind = settings.matrix, relation_in_words(settings), OBJECTIVES[objective].matrix
    if OBJECTIVES[objective].is_permuted:
        relation = _exchanged(relation, seed)
        described += ", its classes exchanged at random"
    if kind == "none":
        return MatrixChoice(None, f"none: cross-entropy alone, with soft labels by {described}")
    ones = StaticLDM.uniform(1.0, class_names=names)
    if kind == "ones":
        margin = settings.loss.class_margin
        return MatrixChoice(ones, f"1 between all classes; the cross-entropy has a margin of {margin:g} by {described}")
    if kind == "graded":
        relevance = relation.relevance(weight=matrix.relevance_weight, level=matrix.relevance_level)
        low, high = _off_diagonal_range(relevance)
        if not high:
            return MatrixChoice(ones, f"1 between all classes, and no class is relevant to another, by {described}")
        return MatrixChoice(
            ones,
            f"1 between all classes; rows of related classes are weak positives, of relevance {low:.3g} to {high:.3g}, "
            f"by {described}",
            relevance=relevance,
        )
    if kind == "levels":
        return _levels(objective, relation, ones, described)
    ldm = relation.near(matrix.max_distance) if kind == "near" else relation.far(matrix.max_distance)
    low, high = _off_diagonal_range(ldm.matrix)
    pushed = "related" if kind == "near" else "unrelated"
    how = "harder" if matrix.max_distance >= 1 else "less hard"
    return MatrixChoice(ldm, f"{low:.3g} to {high:.3g}, pushes {pushed} classes apart {how}, by {described}")


def _levels(objective: Objective, relation: Relation, ones: StaticLDM, described: str) -> MatrixChoice:
    """A contrastive loss for each level of closeness; with one level that is plain contrast."""
    try:
        levels = relation.levels()
    except ValueError as error:
        raise UserError(f"--objective {objective}: {error} That is the objective graded.") from error
    if len(levels) == 1:
        return MatrixChoice(ones, f"1 between all classes, and no classes are closer than others, by {described}")
    lowest = [f"{relation.closeness[table > 0].min():.3g}" for table in levels[1:]]
    return MatrixChoice(
        ones,
        f"1 between all classes; the mean of {len(levels)} contrastive losses, whose positives are rows of the same "
        f"class, or of classes with a closeness of at least {', '.join(lowest)}, by {described}",
        levels=tuple(levels),
    )


def _exchanged(relation: Relation, seed: int) -> Relation:
    """The relation between exchanged classes: another one, if any exchange makes another."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(MAX_EXCHANGES):
        permuted = relation.permuted(generator)
        if not torch.equal(permuted.closeness, relation.closeness):
            return permuted
    return relation


def _off_diagonal_range(table: Tensor) -> tuple[float, float]:
    entries = table[~torch.eye(len(table), dtype=torch.bool)]
    return entries.min().item(), entries.max().item()


def _count_once(
    settings: RunSettings,
    corpus: Corpus,
    parts: tuple[Split, Split],
    seed: int,
    scratch: Path,
    tokens: TokenCache | None,
    progress: Progress,
    title: str,
) -> Tensor:
    """Train a fresh classifier by cross-entropy on the first part and count its confusions on the second."""
    train, held_out = training_rows(corpus, parts[0]), parts[1]
    num_classes = len(corpus.class_names)
    seed_everything(seed)
    model, tokenizer = build_classifier(settings.model, train.texts, num_classes, is_checked=True)
    if tokens is None:
        encodings = [encode(part.texts, tokenizer, settings.model.max_length) for part in (train, held_out)]
    else:
        encodings = [tokens.encode(part.texts, tokenizer, settings, corpus) for part in (train, held_out)]
    splits = (EncodedSplit(train, encodings[0]), EncodedSplit(held_out, encodings[1]))
    objective = TrainerObjective(None, model, views=1, classification=with_coarse_labels(None, corpus))
    # Few rows make few steps an epoch: a model that has hardly begun confuses everything.
    steps_per_epoch = math.ceil(len(train) / settings.batch_size)
    epochs = max(settings.confusion_epochs, math.ceil(MIN_COUNTING_STEPS / steps_per_epoch))
    processes.on_main(lambda: shutil.rmtree(scratch, ignore_errors=True))
    steps = settings.optim.steps and max(MIN_COUNTING_STEPS, settings.optim.steps // 5)
    options = FitOptions(scratch, seed, epochs, steps, progress=progress, title=title)
    try:
        fit(model, objective, splits, tokenizer, settings, options)
    finally:
        if processes.is_main():
            shutil.rmtree(scratch, ignore_errors=True)
    predictions = predict_batches(
        model, tokenizer, held_out.texts, settings.model.max_length, encodings=splits[1].encodings
    )
    return confusion_counts(torch.as_tensor(held_out.labels), predictions.probabilities.argmax(dim=1), num_classes)


def _rows(split: Split, indices: np.ndarray) -> Split:
    return Split([split.texts[i] for i in indices], split.labels[indices])
