"""Label-distance contrastive learning of sentence embeddings, as a loss of sentence-transformers.

loss = SentenceLabelDistanceLoss(model, LabelDistanceContrastiveLoss(ldm))
trainer = SentenceTransformerTrainer(model, args, train_dataset=rows, loss=loss)
trainer.train()

An `AdaptiveLDM` needs two more: `LabelDistanceEvaluator` finds the confusions, `LabelDistanceCallback` uses them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labeldist import functional
from labeldist.checks import check_count, check_labels
from labeldist.confusion import confusion_counts
from labeldist.distributed import broadcast_from_first, check_agreement, num_processes, sum_over_processes
from labeldist.joint import JointLoss
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix

try:
    import sentence_transformers
    from packaging.version import Version
except ImportError as error:
    raise ImportError(
        "labeldist.integrations.sentence_transformers needs sentence-transformers. Install it with: pip install "
        "'labeldist[sentence-transformers]'"
    ) from error
# Older ones keep their evaluators in another place.
if Version(sentence_transformers.__version__) < Version("6.2"):
    raise ImportError(
        "labeldist.integrations.sentence_transformers needs sentence-transformers >= 6.2, got "
        f"{sentence_transformers.__version__}. Upgrade it with: pip install -U 'labeldist[sentence-transformers]'"
    )

from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

__all__ = ["LabelDistanceCallback", "LabelDistanceEvaluator", "SentenceLabelDistanceLoss", "centroid_confusion"]

STATE_FILE = "label_distance.safetensors"


class SentenceLabelDistanceLoss(nn.Module):
    r"""A contrastive loss of labelled sentences, for `SentenceTransformerTrainer(loss=...)`.

    The data set has a column of texts and an integer column `label`; several columns of texts are several views of a
    row, all of its class. Batches need rows of the same class: `batch_sampler="group_by_label"` draws them.

    With a `classifier` the loss is the joint objective, Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$. Both shares,
    $\lambda L_c$ as `cross_entropy` and $(1 - \lambda) L_s$ as `contrastive`, are then logged beside their sum. The
    classifier is trained along, and is no part of the saved model: keep it yourself.

    Args:
        model: the `SentenceTransformer` that is trained.
        contrastive: $L_s$ of embeddings and labels, such as a `LabelDistanceContrastiveLoss`. Under several processes
            each contrasts its own rows, unless this is a `labeldist.DistributedLossWrapper`.
        classifier: class scores of embeddings, such as `nn.Linear(model.get_embedding_dimension(), C)`.
        ce_weight: $\lambda$ in [0, 1], the cross-entropy's share; 0.5 in the paper. Unused without a classifier.
        views: how often each text is encoded while the model trains, >= 1: views that differ by dropout. 2 in the
            paper; 1 where batches hold rows of the same class anyway, at half of the time.

    Raises:
        ValueError: if `ce_weight` lies outside [0, 1] or `views` is below 1; in the first call, on all processes, if
            their matrices or settings of the loss differ.
        TypeError: if `contrastive` is no loss of embeddings and labels.

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
        views: int = 1,
    ):
        super().__init__()
        check_count("views", views)
        # The trainer looks for this very name, to put the distributed or compiled model in its place.
        self.model = model
        self.joint = JointLoss(contrastive, ce_weight=ce_weight)
        self.classifier = classifier
        self.views = views
        # DistributedDataParallel wraps the model alone: what else learns must begin alike and get one gradient.
        self._own_parameters = [
            parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and not name.startswith("model.")
        ]
        for parameter in self._own_parameters:
            parameter.register_hook(_mean_over_processes)
        self._is_begun = False

    @property
    def ldm(self) -> LabelDistanceMatrix | None:
        """The loss's matrix, if it has one, through any wrappers around the loss."""
        return next((part for part in self.joint.modules() if isinstance(part, LabelDistanceMatrix)), None)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor | dict[str, Tensor]:
        """Encode and compare.

        Args:
            sentence_features: tokenised texts, one entry a column of texts.
            labels: `(B,)`, integer.

        Returns:
            Scalar, in nats; with a classifier the shares of the two parts, which add up to Eq. 9.
        """
        views = self.views if self.model.training else 1
        # A copy: the model writes into what it is given.
        embeddings = [
            self.model(dict(features))["sentence_embedding"] for features in sentence_features for _ in range(views)
        ]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor | dict[str, Tensor]:
        """The loss of embeddings that are there.

        Args:
            embeddings: views of the same rows, each `(B, D)`.
            labels: `(B,)`, integer.

        Returns:
            As `forward`.
        """
        if labels is None:
            raise ValueError("labels are required: give the rows of the data set an integer column named 'label'.")
        self._begin_alike()
        rows, labels = torch.cat(embeddings), labels.view(-1).repeat(len(embeddings))
        if self.classifier is None:
            return self.joint.contrastive(rows, labels)
        terms = self.joint.terms(self.classifier(rows), rows, labels)
        ce_weight = self.joint.ce_weight
        return {"cross_entropy": ce_weight * terms.classification, "contrastive": (1 - ce_weight) * terms.contrastive}

    @torch.no_grad()
    def _begin_alike(self) -> None:
        """Take the first process's classifier, and whatever else learns beside the model; the rest must be the same."""
        if not self._is_begun:
            for parameter in self._own_parameters:
                parameter.copy_(broadcast_from_first(parameter))
            check_agreement(self.joint)
        self._is_begun = True

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card tells of the loss."""
        return {
            "contrastive": type(self.joint.contrastive).__name__,
            "ce_weight": None if self.classifier is None else self.joint.ce_weight,
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


def centroid_confusion(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    r"""Confusion counts of embeddings that come without a classifier: the class of the nearest centroid is predicted.

    With unit rows $u_i$, the row $i$ is compared with the sum of each class's unit rows, its own left out:

    $$\hat y_i = \underset{c}{\operatorname{argmax}}\, \cos\Big(u_i, \sum_{j \ne i,\, y_j = c} u_j\Big)$$

    Rows whose class has no other row tell nothing and are not counted; a class without rows is never predicted.

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
    """Nearest-centroid accuracy on labelled sentences, and the confusions behind it: see `centroid_confusion`.

    Give it to the trainer as `evaluator`, alone or among others. Reports `centroid_accuracy`, in [0, 1].

    Args:
        sentences: to encode; rows that the model does not train on.
        labels: class of each, `(N,)`, integer, in [0, `num_classes`).
        num_classes: `C`; that of the LDM.
        batch_size: sentences encoded at a time.
        name: put before the metric, where there are several evaluators.

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
        self.primary_metric = "centroid_accuracy"
        self.counts: Tensor | None = None

    # The base class speaks of any model; only one of sentences encodes them.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Encode the sentences and count.

        Returns:
            `centroid_accuracy`, under the evaluator's name.
        """
        embeddings = model.encode(
            self.sentences, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False
        )
        self.counts = centroid_confusion(embeddings, self.labels.to(embeddings.device), self.num_classes)
        accuracy = (self.counts.trace() / self.counts.sum()).item()
        metrics = self.prefix_name_to_metrics({"centroid_accuracy": accuracy}, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)  # type: ignore[arg-type]
        return metrics


class LabelDistanceCallback(TrainerCallback):
    """Refreshes an adaptive matrix after each evaluation, and stores what the loss has learnt in checkpoints.

    sentence-transformers keeps the model only: without this callback a resumed training starts with a new matrix and a
    new classifier.

    Adds to `state.log_history`, after each refresh, `ldm_epsilon` (the step size) and `ldm_mean` (mean distance between
    different classes).

    Args:
        loss: the loss that the trainer has.
        evaluator: the evaluator that the trainer has, alone or among others; needed by an `AdaptiveLDM`.

    Raises:
        ValueError: if the loss's matrix is adaptive and `evaluator` is missing or made for another number of classes.
    """

    def __init__(self, loss: SentenceLabelDistanceLoss, evaluator: LabelDistanceEvaluator | None = None):
        ldm = loss.ldm
        if isinstance(ldm, AdaptiveLDM) and evaluator is None:
            raise ValueError(
                "An AdaptiveLDM learns from evaluations: give LabelDistanceCallback and the trainer a "
                "LabelDistanceEvaluator."
            )
        if ldm is not None and evaluator is not None and evaluator.num_classes != ldm.num_classes:
            raise ValueError(
                f"evaluator must have the LDM's number of classes, {ldm.num_classes}, got {evaluator.num_classes}."
            )
        self._loss = loss
        self._evaluator = evaluator
        self._in_training = False

    def on_train_begin(self, args, state, control, **kwargs):
        """On resuming, take what the loss had learnt from the checkpoint."""
        if self._evaluator is not None:
            self._evaluator.counts = None
            if isinstance(self._loss.ldm, AdaptiveLDM) and args.eval_strategy == "no":
                raise ValueError(
                    "An AdaptiveLDM learns from evaluations, and eval_strategy is 'no': set 'epoch' or 'steps'."
                )
        self._in_training = True
        if state.global_step and self._learnt():
            path = _checkpoint(args, state) / STATE_FILE
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing. Resume from a checkpoint in output_dir that was saved with this callback."
                )
            # The model has its own file: of the loss's state its part alone is missing here.
            self._loss.load_state_dict(load_file(path), strict=False)

    def on_evaluate(self, args, state, control, **kwargs):
        """Refresh an adaptive matrix from the evaluator's confusions."""
        ldm, evaluator = self._loss.ldm, self._evaluator
        if not self._in_training or not isinstance(ldm, AdaptiveLDM) or evaluator is None:
            return
        counts, evaluator.counts = evaluator.counts, None
        # The first process evaluates for all; the others bring nothing to the sum.
        if counts is None or not state.is_world_process_zero:
            counts = torch.zeros(ldm.num_classes, ldm.num_classes, dtype=torch.int64)
        check_agreement(ldm)
        counts = sum_over_processes(counts.to(args.device))
        if not counts.any():
            raise RuntimeError(
                "The evaluator of LabelDistanceCallback did not run in this evaluation: give it to the trainer, too, "
                "as evaluator=evaluator."
            )
        progress = min(state.global_step / state.max_steps, 1.0)
        if ldm.update(counts.to(ldm.matrix.device), progress=progress, is_local=False):
            refreshed = {"ldm_epsilon": ldm.epsilon, "ldm_mean": ldm.mean_off_diagonal}
            state.log_history.append({**refreshed, "epoch": state.epoch, "step": state.global_step})

    def on_save(self, args, state, control, **kwargs):
        """Store what the loss has learnt beside the model."""
        if args.should_save and self._learnt():
            path = _checkpoint(args, state) / STATE_FILE
            partial = path.with_name(path.name + ".partial")
            save_file(self._learnt(), partial)
            partial.replace(path)

    def on_train_end(self, args, state, control, **kwargs):
        """Later evaluations are tests: they do not move the matrix."""
        self._in_training = False

    def _learnt(self) -> dict[str, Tensor]:
        """The loss's state without the model's."""
        return {name: value for name, value in self._loss.state_dict().items() if not name.startswith("model.")}


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _mean_over_processes(gradient: Tensor) -> Tensor:
    return sum_over_processes(gradient) / num_processes()
