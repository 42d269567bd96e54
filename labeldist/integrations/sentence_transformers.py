"""Label-distance contrastive learning of sentence embeddings, as a loss of sentence-transformers.

```python
loss = SentenceLabelDistanceLoss(model, LabelDistanceContrastiveLoss(ldm))
trainer = SentenceTransformerTrainer(
    model, args, train_dataset=rows, loss=loss
)
trainer.train()
```

An `AdaptiveLDM` also needs a `LabelDistanceEvaluator`, which counts confusions, and a `LabelDistanceCallback`, which
updates the matrix with these counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labeldist import functional
from labeldist.checks import check_count, check_labels
from labeldist.coarse import check_coarse_contrast
from labeldist.confusion import confusion_counts
from labeldist.distributed import check_agreement, sum_over_processes
from labeldist.integrations._shared.gradients import call_with_mean_gradients, learned_weights, weights_from_main
from labeldist.integrations._shared.losses import (
    call_without_change,
    check_classification,
    check_one_queue,
    classification_loss,
)
from labeldist.integrations._shared.matrices import check_num_classes, main_matrix
from labeldist.integrations._shared.versions import imports_of
from labeldist.joint import JointLoss
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix

with imports_of(
    "sentence-transformers",
    # Older versions keep their evaluators in another place.
    minimum="6.2",
    module="labeldist.integrations.sentence_transformers",
    extra="sentence-transformers",
):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

    from labeldist.integrations._shared.trainer_callback import LossCallback

__all__ = ["LabelDistanceCallback", "LabelDistanceEvaluator", "SentenceLabelDistanceLoss", "centroid_confusion"]

METRIC = "centroid_accuracy"
# Where a batch's dictionary of inputs keeps its views, so that a loss around this one finds them again.
_VIEWS = "label_distance_views"


class SentenceLabelDistanceLoss(nn.Module):
    r"""A contrastive loss of labeled sentences, for `SentenceTransformerTrainer(loss=...)`.

    The data set has a column of texts and an integer column `label`. Several columns of texts are several views of a
    row, all with its label. Batches need several rows of the same class: use `batch_sampler="group_by_label"`.

    With a `classifier`, the loss is the joint objective, Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$. Both terms,
    $\lambda L_c$ as `cross_entropy` and $(1 - \lambda) L_s$ as `contrastive`, are then logged in addition to their sum.
    The classifier is trained with the model, but it is not part of the saved model: save it yourself.

    The loss may be used inside `MatryoshkaLoss` (without a classifier) and `AdaptiveLayerLoss`. Evaluations do not
    change its state: their rows never enter the queue of a `CrossBatchMemory`.

    Args:
        model: the `SentenceTransformer` to train.
        contrastive: $L_s$, a loss of embeddings and labels such as `LabelDistanceContrastiveLoss`. With several
            processes, each one compares its own rows, unless this is a `labeldist.DistributedLossWrapper`.
        classifier: maps embeddings to class scores, such as `nn.Linear(model.get_embedding_dimension(), C)`.
        ce_weight: $\lambda$ in [0, 1], the weight of the classification loss; 0.5 in the paper. Unused without a
            classifier.
        classification: $L_c$, a loss that is called as `classification(logits, labels)` and returns a mean, such as
            `nn.CrossEntropyLoss(weight=...)` or a focal loss. `None` uses the cross-entropy.
        views: number of times that each text is encoded during training, >= 1: the views differ by dropout. 2 in the
            paper. 1 takes half the time and is enough if batches contain several rows of the same class.

    Raises:
        ValueError: if `ce_weight` lies outside [0, 1], `views` is below 1, or there is a `classification` without a
            classifier; in the first call, on all processes, if their matrices or settings of the loss differ.
        TypeError: if `contrastive` is not a loss of embeddings and labels, or `classification` is not a module.

    Examples:
        >>> from labeldist import LabelDistanceContrastiveLoss, StaticLDM
        >>> model = SentenceTransformer(modules=[nn.Identity()], device="cpu")
        >>> loss = SentenceLabelDistanceLoss(model, LabelDistanceContrastiveLoss(StaticLDM.uniform(1.0, num_classes=2)))
        >>> embeddings = [torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])]
        >>> loss.compute_loss_from_embeddings(embeddings, torch.tensor([0, 0, 1])).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: SentenceTransformer,
        contrastive: nn.Module,
        *,
        classifier: nn.Module | None = None,
        ce_weight: float = 0.5,
        classification: nn.Module | None = None,
        views: int = 1,
    ):
        super().__init__()
        check_count("views", views)
        check_classification(classification)
        if classification is not None and classifier is None:
            raise ValueError(
                "classification is a loss of class scores, and there is no classifier to give them. Pass "
                "classifier=nn.Linear(model.get_embedding_dimension(), num_classes)."
            )
        check_coarse_contrast(contrastive, classification)
        # The trainer looks for this very name, to put the distributed or compiled model in its place.
        self.model = model
        self.joint = JointLoss(contrastive, ce_weight=ce_weight)
        self.classifier = classifier
        self.classification = classification
        self.views = views
        self._has_begun = False

    @property
    def ldm(self) -> LabelDistanceMatrix | None:
        """The label-distance matrix of the loss, also if the loss is inside wrappers; `None` if it has none."""
        return main_matrix(self.joint, "contrastive")

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor | dict[str, Tensor]:
        """Encode the texts and compute the loss.

        Args:
            sentence_features: tokenized texts, one entry per column of texts. As with other losses of
                sentence-transformers, the model writes its outputs into them.
            labels: `(B,)`, integer.

        Returns:
            Scalar, in nats; with a classifier, the two terms of Eq. 9 by name.
        """
        views = self.views if self.model.training else 1
        embeddings = [
            self.model(view)["sentence_embedding"]
            for features in sentence_features
            for view in _views_of(features, views)
        ]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute the loss of precomputed embeddings.

        Args:
            embeddings: views of the same rows, each `(B, D)`.
            labels: `(B,)`, integer.

        Returns:
            The same as `forward`.
        """
        if labels is None:
            raise ValueError("labels are required: give the rows of the data set an integer column named 'label'.")
        self._begin_alike()
        rows, labels = torch.cat(embeddings), labels.view(-1).repeat(len(embeddings))
        # The contrastive loss first: it checks the labels.
        call = call_with_mean_gradients if self.model.training else call_without_change
        contrastive = call(self.joint.contrastive, rows, labels)
        if self.classifier is None:
            return contrastive
        logits = call_with_mean_gradients(self.classifier, self._checked_rows(rows))
        check_num_classes(self.ldm, logits.shape[1], what="classifier", hint="Give it as many outputs.")
        classification = classification_loss(self.classification, logits, labels.long())
        ce_weight = self.joint.ce_weight
        return _Parts(cross_entropy=ce_weight * classification, contrastive=(1 - ce_weight) * contrastive)

    def _checked_rows(self, rows: Tensor) -> Tensor:
        size = getattr(self.classifier, "in_features", rows.shape[1])
        if rows.shape[1] != size:
            raise ValueError(
                f"classifier must take embeddings as they come, of {rows.shape[1]} columns, and takes {size}. Inside "
                "MatryoshkaLoss, which shortens them, leave the classifier out."
            )
        return rows

    def _begin_alike(self) -> None:
        """Take the main process's classifier, and whatever else is learned in the loss; the rest must be the same."""
        if not self._has_begun:
            weights = learned_weights(self)
            weights_from_main(weight for name, weight in weights if not name.startswith("model."))
            check_agreement(self.joint)
            hint = "Wrap it: DistributedLossWrapper(CrossBatchMemory(...))."
            check_one_queue(self.joint.contrastive, is_gathered=False, hint=hint)
        self._has_begun = True

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that the model card lists."""
        return {
            "contrastive": type(self.joint.contrastive).__name__,
            "ce_weight": None if self.classifier is None else self.joint.ce_weight,
            "classification": None if self.classification is None else type(self.classification).__name__,
            "views": self.views,
        }

    @property
    def citation(self) -> str:
        """The paper, for the model card."""
        return """
@article{lan2021clld,
    title={{CLLD}: Contrastive Learning with Label Distance for Text Classification},
    author={Lan, Jinhe and Zhan, Qingyuan and Jiang, Chenhao and Yuan, Kunping and Wang, Desheng},
    journal={arXiv preprint arXiv:2110.13656},
    year={2021}
}
"""


class _Parts(dict):
    """Both terms of the loss, which the trainer logs and adds up. A loss around this one gets their sum."""

    def total(self) -> Tensor:
        return torch.stack(list(self.values())).sum()

    def __mul__(self, factor: Any) -> Tensor:
        return self.total() * factor

    def __add__(self, other: Any) -> Tensor:
        return self.total() + other

    __rmul__, __radd__ = __mul__, __add__


def _views_of(features: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """A text's inputs, one dictionary per view, the same ones at each call with the same `features`.

    The model writes its outputs into a dictionary: `AdaptiveLayerLoss` calls the loss once for each layer, and looks
    for that layer's outputs where the model left them.
    """
    if number == 1:
        return [features]
    if _VIEWS not in features:
        features[_VIEWS] = [dict(features) for _ in range(number)]
    return features[_VIEWS]


def centroid_confusion(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    r"""Confusion counts of embeddings without a classifier: the class of the nearest centroid is predicted.

    With unit rows $u_i$, the row $i$ is compared with the sum of each class's unit rows, its own left out:

    $$\hat y_i = \underset{c}{\operatorname{argmax}}\, \cos\Big(u_i, \sum_{j \ne i,\, y_j = c} u_j\Big)$$

    Rows whose class has no other row are not counted; a class without rows is never predicted.

    Args:
        embeddings: `(N, D)`, floating point.
        labels: `(N,)`, integer, in [0, `num_classes`).
        num_classes: `C`.

    Returns:
        `(C, C)`, int64, row = true class, column = predicted class.

    Raises:
        ValueError: if lengths disagree or a label lies outside the range.
        TypeError: if labels are not integers.

    Examples:
        >>> rows = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.2]])
        >>> centroid_confusion(rows, torch.tensor([0, 0, 1, 1, 1]), 2)
        tensor([[2, 0],
                [1, 2]])
    """
    check_labels(labels, len(embeddings), num_classes, rows="embeddings")
    units, labels = functional.unit_rows(embeddings.detach()), labels.long()
    sums = units.new_zeros(num_classes, units.shape[1]).index_add(0, labels, units)
    numbers = units.new_zeros(num_classes).index_add(0, labels, units.new_ones(len(units)))
    similarity = units @ functional.unit_rows(sums).T  # (N, C)
    own = (units * functional.unit_rows(sums[labels] - units)).sum(dim=1)
    similarity[torch.arange(len(units), device=units.device), labels] = own
    similarity[:, numbers == 0] = -torch.inf
    counted = numbers[labels] > 1
    return confusion_counts(labels[counted], similarity.argmax(dim=1)[counted], num_classes)


class LabelDistanceEvaluator(SentenceEvaluator):
    """Nearest-centroid accuracy on labeled sentences, and the confusion counts behind it: see `centroid_confusion`.

    Pass it to the trainer as `evaluator`, alone or together with others. It reports `centroid_accuracy`, in [0, 1].

    Args:
        sentences: sentences that the model is not trained on.
        labels: class of each sentence, `(N,)`, integer, in [0, `num_classes`).
        num_classes: `C`, as in the label-distance matrix.
        batch_size: number of sentences that are encoded together.
        name: prefix of the metric, to distinguish several evaluators.

    Attributes:
        counts: confusion counts of the last evaluation, `(C, C)`; `None` before the first.

    Raises:
        ValueError: if lengths disagree, a label lies outside the range, or no class has two sentences.

    Examples:
        >>> LabelDistanceEvaluator(["a", "b", "c"], [0, 0, 1], num_classes=2).primary_metric
        'centroid_accuracy'
    """

    def __init__(
        self, sentences: Sequence[str], labels: Sequence[int], num_classes: int, *, batch_size: int = 32, name: str = ""
    ):
        super().__init__()
        self.labels = torch.as_tensor(labels)
        check_labels(self.labels, len(sentences), num_classes, rows="sentences")
        if not (torch.bincount(self.labels.long()) > 1).any():
            raise ValueError(
                f"At least one class must have two of the {len(sentences)} sentences: each is compared with the others "
                "of its class."
            )
        self.sentences = list(sentences)
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.name = name
        self.primary_metric = METRIC
        self.counts: Tensor | None = None

    # The base class takes any model; this evaluator needs one that encodes sentences.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Encode the sentences and count confusions.

        Returns:
            `centroid_accuracy`, with the prefix `name`.
        """
        embeddings = model.encode(
            self.sentences, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False
        )
        self.counts = centroid_confusion(embeddings, self.labels.to(embeddings.device), self.num_classes)
        accuracy = (self.counts.trace() / self.counts.sum()).item()
        metrics = self.prefix_name_to_metrics({METRIC: accuracy}, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)  # type: ignore[arg-type]
        return metrics


class LabelDistanceCallback(LossCallback):
    """Update an adaptive matrix after each evaluation, and store the state of the loss in checkpoints.

    sentence-transformers stores only the model. Without this callback, a resumed training starts with a new matrix, a
    new queue and a new classifier.

    After each update, the callback adds `ldm_epsilon` (the step size) and `ldm_mean` (the mean distance between
    different classes) to `state.log_history`. Several losses need one callback each. Each callback writes its own file,
    numbered in the order of the callbacks.

    Args:
        loss: the loss of the trainer, or the inner loss of a wrapper such as `MatryoshkaLoss`.
        evaluator: the evaluator of the trainer, or one of its evaluators. An `AdaptiveLDM` needs it.
        update_from: `metric_key_prefix` of the evaluations that update an adaptive matrix. For a dictionary of
            evaluation sets, the trainer runs the evaluator once, with the prefix `"eval"`.

    Raises:
        ValueError: if the matrix of the loss is adaptive, and `evaluator` is missing or has another number of classes.
    """

    def __init__(
        self,
        loss: SentenceLabelDistanceLoss,
        evaluator: LabelDistanceEvaluator | None = None,
        *,
        update_from: str = "eval",
    ):
        super().__init__(loss, exclude="model", update_from=update_from)
        ldm = self.ldm
        if isinstance(ldm, AdaptiveLDM) and evaluator is None:
            raise ValueError(
                "An AdaptiveLDM learns from evaluations: give LabelDistanceCallback and the trainer a "
                "LabelDistanceEvaluator."
            )
        if ldm is not None and evaluator is not None and evaluator.num_classes != ldm.num_classes:
            raise ValueError(
                f"evaluator must have the LDM's number of classes, {ldm.num_classes}, got {evaluator.num_classes}."
            )
        self._evaluator = evaluator

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Update an adaptive matrix from the evaluator's confusion counts."""
        metrics = metrics or {}
        is_needed = self._in_training and isinstance(self.ldm, AdaptiveLDM) and self._is_deciding(metrics)
        if is_needed and self._metric not in metrics:
            raise RuntimeError(
                "The evaluator of LabelDistanceCallback did not run in this evaluation: give it to the trainer, too, "
                "as evaluator=evaluator."
            )
        super().on_evaluate(args, state, control, metrics=metrics, **kwargs)

    @property
    def _metric(self) -> str | None:
        """What the trainer calls the evaluator's metric in the evaluation that updates the matrix."""
        if self._evaluator is None:
            return None
        name = f"{self._evaluator.name}_{METRIC}" if self._evaluator.name else METRIC
        prefix = f"{self._update_from}_"
        return name if name.startswith(prefix) else prefix + name

    def _is_deciding(self, metrics: Mapping[str, float]) -> bool:
        return self._metric in metrics or super()._is_deciding(metrics)

    def _take_counts(self) -> Tensor | None:
        return None if self._evaluator is None else self._evaluator.counts

    def _sum_counts(self, counts: Tensor | None, args: Any, state: Any) -> Tensor:
        ldm = self.ldm
        assert ldm is not None
        # The main process evaluates for all; the others add nothing to the sum.
        if counts is None or not state.is_world_process_zero:
            counts = torch.zeros(ldm.num_classes, ldm.num_classes, dtype=torch.int64)
        check_agreement(ldm)
        return sum_over_processes(counts.to(args.device))
