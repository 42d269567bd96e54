"""Few-label training with the library: its public door, and the same as a bare PyTorch loop to measure that against.

The whole encoder is tuned. Its own pooled vector is both classified and contrasted, in two dropout views; all pairs of
classes have the same distance.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import set_seed

import labeldist
from benchmarks.few_labels.rows import MAX_LENGTH
from labeldist import LabelDistanceContrastiveLoss, StaticLDM
from labeldist.models.classifier import ContrastiveClassifier
from labeldist.models.pretrained import load_tokenizer, without_progress_bar
from labeldist.training.config import BATCH_SIZE
from labeldist.training.data.corpus import Split
from labeldist.training.fit import fastest_precision
from labeldist.training.frozen import threads_for_logistic
from labeldist.training.recipes import MIN_BATCH_SIZE, MIN_STEPS, STEPS_PER_CLASS

EVAL_BATCH_SIZE = 256
Predict = Callable[[Sequence[str]], np.ndarray]
"""From texts to class indices, `(N,)`."""


@dataclass(frozen=True)
class Options:
    """How `train_in_bare_loop` trains. The defaults are those of the recipe `few-labels`.

    Attributes:
        steps: updates of the weights; if `None`, the recipe's minimum and `steps_per_class` for each class.
        steps_per_class: see `steps`.
        batch_size: rows a step, each seen `views` times; all rows if there are fewer. A fraction below 1 is of all
            rows, limited to 16 to 128 rows.
        order: of the rows in an epoch. In `"classes"` the rows of a class follow one another: a small batch has a few
            classes, with all rows of each class, except the first and the last class. In `"random"` few rows of a small
            batch have another row of their class.
        learning_rate: of the encoder, at its highest.
        head_learning_rate: of the class layer, at its highest.
        warmup: share of the steps in which the learning rates rise; they fall to zero in the others.
        weight_decay: of AdamW.
        pair_loss: the contrastive loss; or `"cosine"`, SetFit's mean squared error of cosines with 1 for rows of one
            class and 0 for others, here over all pairs of a batch, with the same weight for both kinds of pairs; or
            `"both"`, the sum of it and of the contrastive loss times its temperature. The factor makes their gradients
            about equally large.
        temperature: of the contrastive loss.
        ce_weight: of the cross-entropy; the loss of pairs has the rest.
        dropout: before the class layer.
        encoder_dropout: within the encoder; its own if `None`.
        views: dropout views of each row.
        label_text_rows: whether the label texts are rows to train on.
        label_text_forms: each label text is a row in each of these forms, with `{}` in its place.
        head: what predicts: the class layer that was trained along, or a logistic regression on the tuned vectors.
        is_mixed: whether to train in bfloat16 autocast; if `None`, where `labeldist train` does.
        token_embeddings: whether the encoder's token embeddings are trained.
        tuned_share: fraction of the tuned weights in the encoder's final weights, from 0 to 1; the rest are its weights
            before tuning.
    """

    steps: int | None = None
    steps_per_class: int = STEPS_PER_CLASS
    batch_size: float = 0.25
    order: Literal["random", "classes"] = "random"
    learning_rate: float = 3e-5
    head_learning_rate: float = 1e-2
    warmup: float = 0.0
    weight_decay: float = 0.1
    pair_loss: Literal["contrastive", "cosine", "both"] = "contrastive"
    temperature: float = 0.07
    ce_weight: float = 0.2
    dropout: float = 0.1
    encoder_dropout: float | None = None
    views: int = 2
    label_text_rows: bool = True
    label_text_forms: Sequence[str] = ("{}", "This sentence is {}")
    head: Literal["trained", "logistic"] = "logistic"
    is_mixed: bool | None = None
    token_embeddings: Literal["trained", "frozen"] = "frozen"
    tuned_share: float = 1.0

    def num_steps(self, num_classes: int) -> int:
        """Updates of the weights, for a number of classes.

        Examples:
            >>> Options(steps=7).num_steps(20), Options(steps_per_class=1).num_steps(20)
            (7, 70)
        """
        return MIN_STEPS + self.steps_per_class * num_classes if self.steps is None else self.steps

    def num_rows(self, num_rows: int) -> int:
        """Rows of a batch, for a number of rows to train on.

        Examples:
            >>> Options(batch_size=32).num_rows(60), Options(batch_size=32).num_rows(20)
            (32, 20)
            >>> Options(batch_size=0.25).num_rows(60), Options(batch_size=0.25).num_rows(200)
            (16, 50)
        """
        size = round(self.batch_size)
        if self.batch_size < 1:
            size = min(BATCH_SIZE, max(MIN_BATCH_SIZE, round(self.batch_size * num_rows)))
        return min(size, num_rows)


def train_with_recipe(
    rows: Split,
    label_texts: Sequence[str] | None,
    seed: int,
    *,
    num_classes: int,
    encoder: str,
    device: str = "cpu",
    **settings: Any,
) -> Predict:
    """`labeldist.train` with the recipe of few labels, as a user calls it.

    Args:
        rows: the shots.
        label_texts: a text for each class, or `None`.
        seed: of the class layer's weights, dropout and the order of the rows.
        num_classes: `C`.
        encoder: folder of a Hugging Face encoder.
        device: to train and predict on.
        **settings: of `labeldist.train`.
    """
    texts = "none" if label_texts is None else {str(label): text for label, text in enumerate(label_texts)}
    run = labeldist.train(
        list(rows.texts),
        rows.labels.tolist(),
        # Figures of the run itself are of no use here: one row for each class, so that they cost nothing.
        test=([f"text {label}" for label in range(num_classes)], list(range(num_classes))),
        encoder=encoder,
        recipe="few-labels",
        label_texts=texts,
        seed=seed,
        device="cuda" if device.startswith("cuda") else "cpu",
        progress=False,
        # SetFit draws none either.
        report=False,
        **{"max_length": MAX_LENGTH, **settings},
    )
    return lambda new: np.array([int(one["label"]) for one in run.predict(new)])


def train_in_bare_loop(
    rows: Split,
    label_texts: Sequence[str] | None,
    seed: int,
    *,
    num_classes: int,
    encoder: str,
    device: str = "cpu",
    **options: Any,
) -> Predict:
    """Tune an encoder on a few rows.

    Args:
        rows: the shots.
        label_texts: a text for each class, or `None`.
        seed: of the class layer's weights, dropout and the order of the rows.
        num_classes: `C`.
        encoder: folder of a Hugging Face encoder.
        device: to train and predict on.
        **options: see `Options`.

    Returns:
        The trained classifier, which predicts.
    """
    chosen = Options(**options)
    chosen = replace(chosen, steps=chosen.num_steps(num_classes))
    set_seed(seed)
    model, tokenizer = _classifier(encoder, num_classes, chosen)
    model.to(device)
    texts, labels = list(rows.texts), rows.labels
    if label_texts is not None and chosen.label_text_rows:
        for form in chosen.label_text_forms:
            texts = [*texts, *(form.replace("{}", text) for text in label_texts)]
            labels = np.concatenate([labels, np.arange(num_classes)])
    before = deepcopy(model.encoder.state_dict()) if chosen.tuned_share < 1 else {}
    _fit(model, _tokenized(tokenizer, texts), torch.from_numpy(labels).to(device), chosen)
    with torch.no_grad():
        for name, start in before.items():
            weight = model.encoder.state_dict()[name]
            if weight.is_floating_point():
                weight.lerp_(start, 1 - chosen.tuned_share)
    model.eval()
    if chosen.head == "trained":
        return lambda new: outputs_of(model, tokenizer, new)[1].argmax(axis=1)
    # Of the rows that the encoder was tuned on.
    logistic = logistic_head(outputs_of(model, tokenizer, texts)[0], labels)
    return lambda new: logistic(outputs_of(model, tokenizer, new)[0])


def logistic_head(vectors: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A logistic regression on unit vectors, as scikit-learn sets it up: from vectors to class indices."""
    from sklearn.linear_model import LogisticRegression

    with threads_for_logistic(vectors, len(np.unique(labels))):
        fitted = LogisticRegression(max_iter=1000).fit(vectors, labels)
    return lambda new: fitted.predict(new)


def _tokenized(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Token indices and mask, `(N, L)`."""
    batch = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def _classifier(encoder: str, num_classes: int, options: Options) -> tuple[ContrastiveClassifier, Any]:
    with without_progress_bar():
        model = ContrastiveClassifier.from_pretrained_encoder(
            encoder, num_classes, local_files_only=True, projection="none", dropout=options.dropout
        )
    model.views = options.views
    if options.encoder_dropout is not None:
        for module in model.encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = options.encoder_dropout
    return model, load_tokenizer(encoder, local_files_only=True)


def _fit(model: ContrastiveClassifier, tokens: dict[str, Tensor], labels: Tensor, options: Options) -> None:
    """The bare loop: batches, two losses, AdamW."""
    num_classes = model.config.num_labels
    pair_loss = _pair_loss(num_classes, options)
    if options.token_embeddings == "frozen":
        model.get_input_embeddings().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in model.encoder.parameters() if one.requires_grad], "lr": options.learning_rate},
            {"params": model.classifier.parameters(), "lr": options.head_learning_rate},
        ],
        weight_decay=options.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options))
    is_mixed = options.is_mixed
    if is_mixed is None:
        is_mixed = fastest_precision(labels.device.type, is_pretrained=True) == "bf16"
    lengths = tokens["attention_mask"].sum(dim=1)
    model.train()
    for rows in _batches(labels.cpu(), options):
        # No wider than the longest row of the batch.
        width = int(lengths[rows].max())
        batch = {name: values[rows, :width].to(labels.device) for name, values in tokens.items()}
        targets = labels[rows.to(labels.device)].repeat(options.views)
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=is_mixed):
            output = model(**batch)
        loss = options.ce_weight * cross_entropy(output.logits.float(), targets)
        # Without a share of the loss it would cost time only.
        if options.ce_weight < 1:
            loss = loss + (1 - options.ce_weight) * pair_loss(output.embeddings.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _pair_loss(num_classes: int, options: Options) -> Callable[[Tensor, Tensor], Tensor]:
    if options.pair_loss == "cosine":
        return _squared_errors_of_cosines
    contrastive = LabelDistanceContrastiveLoss(
        StaticLDM.uniform(1.0, num_classes=num_classes),
        temperature=options.temperature,
        weighting="log",
        validate=False,
    )
    if options.pair_loss == "contrastive":
        return contrastive
    return lambda embeddings, labels: (
        options.temperature * contrastive(embeddings, labels) + _squared_errors_of_cosines(embeddings, labels)
    )


def _squared_errors_of_cosines(embeddings: Tensor, labels: Tensor) -> Tensor:
    unit = nn.functional.normalize(embeddings, dim=1)
    cosines = unit @ unit.T
    is_same = labels[:, None] == labels
    is_other_row = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)

    def error(wanted: float, pairs: Tensor) -> Tensor:
        # A batch may have no pairs of a kind.
        return ((cosines - wanted).square() * pairs).sum() / pairs.sum().clamp_min(1)

    return (error(1.0, is_same & is_other_row) + error(0.0, ~is_same)) / 2


def _rate(step: int, options: Options) -> float:
    """Linear warm-up, linear decay; a share of the highest rate."""
    assert options.steps is not None
    warmup = round(options.warmup * options.steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (options.steps - step) / max(1, options.steps - warmup))


def _batches(labels: Tensor, options: Options) -> Iterator[Tensor]:
    """Rows of each step: epoch after epoch in a new order, without a smaller last batch.

    Examples:
        >>> labels = torch.tensor([0, 1, 2, 0, 1, 2])
        >>> batches = list(_batches(labels, Options(steps=3, batch_size=2, order="classes")))
        >>> [len(labels[rows].unique()) for rows in batches]
        [1, 1, 1]
    """
    size = options.num_rows(len(labels))
    order = torch.empty(0, dtype=torch.int64)
    assert options.steps is not None
    for _ in range(options.steps):
        if len(order) < size:
            order = torch.cat([order, _epoch(labels, options)])
        yield order[:size]
        order = order[size:]


def _epoch(labels: Tensor, options: Options) -> Tensor:
    order = torch.randperm(len(labels))
    if options.order == "random":
        return order
    classes = torch.randperm(int(labels.max()) + 1)
    return order[classes[labels[order]].argsort(stable=True)]


@torch.inference_mode()
def outputs_of(model: ContrastiveClassifier, tokenizer: Any, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors `(N, D)` and class scores `(N, C)`, in the order of the texts."""
    # Texts of one length in one batch: little padding.
    order = np.argsort([len(text) for text in texts], kind="stable")
    vectors, scores = [], []
    for start in range(0, len(texts), EVAL_BATCH_SIZE):
        batch = _tokenized(tokenizer, [texts[row] for row in order[start : start + EVAL_BATCH_SIZE]])
        output = model(**{name: values.to(model.device) for name, values in batch.items()})
        vectors.append(nn.functional.normalize(output.embeddings, dim=1))
        scores.append(output.logits)
    back = np.argsort(order)
    return torch.cat(vectors).cpu().numpy()[back], torch.cat(scores).cpu().numpy()[back]
