"""Label-distance contrastive learning inside the Hugging Face Trainer, without a change to the model.

objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
trainer = Trainer(model, args, train_dataset=rows, compute_loss_func=objective, callbacks=[objective.callback])
trainer.train()
"""

from pathlib import Path
from typing import Any

from einops import repeat
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labeldist import functional
from labeldist.confusion import confusion_counts
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix
from labeldist.losses import JointLoss

try:
    from safetensors.torch import load_file, save_file
    from transformers import TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    raise ImportError(
        "labeldist.integrations.transformers needs transformers. Install it with: pip install 'labeldist[train]'"
    ) from error

__all__ = ["LabelDistanceCallback", "TrainerObjective"]

STATE_FILE = "label_distance.safetensors"


class TrainerObjective:
    r"""The joint objective as a `compute_loss_func` of the Hugging Face Trainer.

    Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$ over `views` dropout views of each text: while the model trains, its
    inputs are repeated `views` times, so that one tokenised batch of M texts gives `views * M` rows. The loss of a
    micro-batch counts for its share of the accumulated batch, so accumulation gives the same cross-entropy as one large
    batch. The contrast still sees one micro-batch at a time: accumulation adds no negatives.

    Pass the loss's own baseline through the same objective (`contrastive=None`): the Trainer scales other losses
    differently.

    The embeddings are `outputs.embeddings` where the model returns them (`ContrastiveClassifier`), else what the
    model's last `nn.Linear` with one output a class receives. An `AdaptiveLDM` is refreshed by `callback` after each
    evaluation.

    Args:
        contrastive: $L_s$, such as a `LabelDistanceContrastiveLoss`; `None` for cross-entropy alone.
        model: the model that the Trainer trains.
        weight: $\lambda$ in [0, 1], the cross-entropy's share; 0.5 in the paper.
        views: dropout views of each text, >= 1; 2 in the paper.
        ce_views: views that the cross-entropy sees, from 1 (the letter of Eq. 10) to `views` (the default).
        confusion: fixed confusion counts, `(C, C)`, that refresh an adaptive matrix in place of the evaluation's.

    Attributes:
        callback: give it to the Trainer; it logs both parts of the loss, refreshes an `AdaptiveLDM` and stores the
            matrix in checkpoints.

    Raises:
        ValueError: if an argument lies outside its range, or the model shows no place to read embeddings from.
    """

    def __init__(
        self,
        contrastive: nn.Module | None,
        model: nn.Module,
        *,
        weight: float = 0.5,
        views: int = 2,
        ce_views: int | None = None,
        confusion: Tensor | None = None,
    ):
        if views < 1:
            raise ValueError(f"views must be at least 1, got {views}.")
        if ce_views is not None and not 1 <= ce_views <= views:
            raise ValueError(f"ce_views must lie between 1 and views = {views}, got {ce_views}.")
        functional.check_weight(weight)
        self.joint = None if contrastive is None else JointLoss(contrastive, weight=weight)
        self.views = views
        self.ce_views = ce_views or views
        self.model = model
        self.callback = LabelDistanceCallback(self, confusion)
        self._captured: Tensor | None = None
        if _makes_views(model):
            model.views = views  # type: ignore[assignment]
            return
        if self.joint is not None:
            _last_class_layer(model).register_forward_pre_hook(self._capture)
        if views > 1:
            model.register_forward_pre_hook(self._repeat_inputs, with_kwargs=True)

    @property
    def ldm(self) -> LabelDistanceMatrix | None:
        """The loss's matrix, if it has one."""
        matrix = getattr(self.joint.contrastive, "ldm", None) if self.joint is not None else None
        return matrix if isinstance(matrix, LabelDistanceMatrix) else None

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Return the loss of one (micro-)batch.

        Args:
            outputs: what the model returned, with `logits` `(V * M, C)`.
            labels: `(M,)`, integer.
            num_items_in_batch: texts in the whole accumulated batch; the Trainer passes it.

        Returns:
            Scalar, in nats.
        """
        logits = outputs["logits"]
        num_texts = len(labels)
        views = self.views if self.model.training else 1
        if len(logits) != views * num_texts:
            raise RuntimeError(
                f"The model must return {views * num_texts} rows of logits, {views} views of {num_texts} texts, got "
                f"{len(logits)}. Attach one TrainerObjective to a model, and make a fresh model for the next."
            )
        if not self.model.training:
            self.callback.count(labels, logits)
        labels = labels.repeat(views)
        ce_logits = logits[: self.ce_views * num_texts]
        if self.joint is None:
            classification = cross_entropy(functional.at_least_float32(ce_logits), labels[: len(ce_logits)])
            total, parts = classification, {"cross_entropy": classification}
        else:
            # Once, where the rows are: a matrix left on the CPU would be copied at every step.
            self.joint.to(logits.device)
            terms = self.joint.terms(ce_logits, self._embeddings(outputs), labels)
            total, parts = terms.total, {"cross_entropy": terms.cross_entropy, "contrastive": terms.contrastive}
        self.callback.record(parts, training=self.model.training)
        if num_items_in_batch is None:
            return total
        return total * num_texts / num_items_in_batch

    def _embeddings(self, outputs: Any) -> Tensor:
        embeddings = outputs.get("embeddings")
        if embeddings is None:
            embeddings, self._captured = self._captured, None
        if embeddings is None:
            raise RuntimeError(
                "The model's class layer was not called in this forward pass: no embeddings to contrast."
            )
        return embeddings

    def _capture(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._captured = inputs[0]

    def _repeat_inputs(
        self, model: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        if not model.training:
            return None
        # View-major: all rows of the first view, then all of the second, as JointLoss expects.
        return args, {
            name: repeat(value, "b ... -> (v b) ...", v=self.views)
            if isinstance(value, Tensor) and value.ndim
            else value
            for name, value in kwargs.items()
        }


class LabelDistanceCallback(TrainerCallback):
    """Logs the loss's parts, refreshes an adaptive matrix after evaluations, and stores the matrix in checkpoints.

    Made by `TrainerObjective`. Adds to the Trainer's logs and `state.log_history`: `cross_entropy` and `contrastive`
    (means since the last log), and after each refresh `ldm_epsilon` and `ldm_mean` (mean distance between different
    classes).
    """

    def __init__(self, objective: TrainerObjective, confusion: Tensor | None = None):
        self._objective = objective
        self._confusion = confusion
        self._counts: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._num_batches = 0
        self._in_training = False

    def record(self, parts: dict[str, Tensor], *, training: bool) -> None:
        """Add one batch's parts to the running means; evaluation batches are left out."""
        if training:
            for name, value in parts.items():
                self._sums[name] = self._sums.get(name, 0) + value.detach()
            self._num_batches += 1

    def count(self, labels: Tensor, logits: Tensor) -> None:
        """Add one evaluation batch to the confusion counts."""
        if self._in_training and isinstance(self._objective.ldm, AdaptiveLDM):
            counts = confusion_counts(labels, logits.argmax(dim=1), logits.shape[1])
            self._counts = counts if self._counts is None else self._counts + counts

    def on_train_begin(self, args, state, control, **kwargs):
        """On resuming, take the matrix from the checkpoint."""
        self._in_training = True
        if args.n_gpu > 1:
            raise RuntimeError(
                f"TrainerObjective needs one process a GPU, got DataParallel over {args.n_gpu}: it would scatter views "
                "and labels apart. Start with torchrun, or set CUDA_VISIBLE_DEVICES to one GPU."
            )
        if isinstance(self._objective.ldm, AdaptiveLDM) and args.eval_strategy == "no":
            raise ValueError(
                "An AdaptiveLDM learns from evaluations, and eval_strategy is 'no': set 'epoch' or 'steps'."
            )
        if self._objective.ldm is not None and state.global_step:
            stored = load_file(_checkpoint(args, state) / STATE_FILE)
            self._objective.ldm.load_state_dict(stored)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add the means of both parts to the Trainer's training log."""
        if logs is None or "loss" not in logs or not self._num_batches:
            return
        means = {name: total.item() / self._num_batches for name, total in self._sums.items()}
        logs.update(means)
        state.log_history[-1].update(means)
        self._sums, self._num_batches = {}, 0

    def on_evaluate(self, args, state, control, **kwargs):
        """Refresh an adaptive matrix from the evaluation's confusion counts."""
        counts, self._counts = self._counts, None
        ldm = self._objective.ldm
        if not self._in_training or not isinstance(ldm, AdaptiveLDM) or counts is None:
            return
        if self._confusion is not None:
            counts = self._confusion.to(counts.device)
        if ldm.update(counts.to(ldm.matrix.device), progress=min(state.global_step / state.max_steps, 1.0)):
            refreshed = {"ldm_epsilon": ldm.epsilon, "ldm_mean": ldm.mean_off_diagonal()}
            state.log_history.append({**refreshed, "epoch": state.epoch, "step": state.global_step})

    def on_save(self, args, state, control, **kwargs):
        """Store the matrix beside the Trainer's own files."""
        if self._objective.ldm is not None and state.is_world_process_zero:
            path = _checkpoint(args, state) / STATE_FILE
            partial = path.with_name(path.name + ".partial")
            save_file(self._objective.ldm.state_dict(), partial)
            partial.replace(path)

    def on_train_end(self, args, state, control, **kwargs):
        """Later evaluations are tests: they do not move the matrix."""
        self._in_training = False


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _makes_views(model: nn.Module) -> bool:
    """Whether the model itself repeats its inputs and returns embeddings."""
    # Imported here: the classifier is one model among others.
    from labeldist.models.classifier import ContrastiveClassifier

    return isinstance(model, ContrastiveClassifier)


def _last_class_layer(model: nn.Module) -> nn.Linear:
    """The last `nn.Linear` that has one output a class."""
    num_labels = getattr(getattr(model, "config", None), "num_labels", None)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == num_labels]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear with config.num_labels = {num_labels} outputs to read embeddings "
            "from. Use a sequence-classification model, or labeldist.models.classifier.ContrastiveClassifier."
        )
    return layers[-1]
