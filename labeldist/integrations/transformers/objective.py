"""The joint objective as a `compute_loss_func`."""

from collections.abc import Callable, Mapping
from typing import Any

from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor, nn
from transformers import Trainer

from labeldist import functional
from labeldist.cached import CachedGradients
from labeldist.checks import check_ce_weight, check_count, check_labels
from labeldist.coarse import FineLabelsOnly, check_coarse_contrast, takes_coarse_labels
from labeldist.distributed import check_agreement, gather_rows, num_processes, require_same
from labeldist.integrations._shared.gradients import call_with_mean_gradients, learned_weights, weights_from_main
from labeldist.integrations._shared.losses import (
    call_without_change,
    check_classification,
    check_one_queue,
    classification_loss,
)
from labeldist.integrations._shared.matrices import check_class_names, check_num_classes, main_matrix
from labeldist.integrations.transformers.callback import LabelDistanceCallback
from labeldist.integrations.transformers.hooks import SAME_MODEL, ModelHooks
from labeldist.joint import JointLoss
from labeldist.ldm import LabelDistanceMatrix
from labeldist.losses import sharded_pairs
from labeldist.precision import at_least_float32

__all__ = ["TrainerObjective"]


class TrainerObjective:
    r"""The joint objective as a `compute_loss_func` of the Hugging Face Trainer.

    Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$ over `views` dropout views of each text. While the model trains, its
    inputs are repeated `views` times, so a tokenized batch of M texts gives `views * M` rows. With gradient
    accumulation, the loss of a micro-batch is weighted by its number of rows, so the cross-entropy equals that of one
    large batch. The contrastive loss compares the rows of one micro-batch: accumulation adds no negatives.

    Train the baseline with the same objective (`contrastive=None`), because the Trainer scales other losses
    differently.

    The embeddings are those of a `ContrastiveClassifier`. For any other model they are the input of its class layer,
    the layer with one output per class. If that layer scores every token and the model uses the scores of one token
    (GPT-2, Llama), the embedding is the vector of this token.

    With several processes (`torchrun`, `accelerate launch`), the contrastive loss compares the rows of all processes.
    Loss and gradient equal those of one process with the concatenated batch. The processes divide the pairs as with a
    `DistributedLossWrapper`, and each training step checks that all processes have the same matrix.

    Evaluations do not change the state of the loss: their rows never enter the queue of a `CrossBatchMemory`. A loss
    with its own weights (learned distances, proxies) needs `attach`.

    Args:
        contrastive: $L_s$, such as a `LabelDistanceContrastiveLoss`; `None` for the classification loss only.
        model: the model that the Trainer trains, including any adapters. An earlier objective is detached from it.
        ce_weight: $\lambda$ in [0, 1], the weight of the classification loss; 0.5 in the paper.
        classification: $L_c$, a loss that is called as `classification(logits, labels)` and returns a mean, such as
            `nn.CrossEntropyLoss(weight=...)` or a focal loss. `None` uses the cross-entropy, with the
            `label_smoothing_factor` of the Trainer's arguments. With a `MarginalCrossEntropy`, labels may be coarse,
            and `contrastive` must be in `FineLabelsOnly`; an adaptive matrix then learns from rows with a fine label.
        views: dropout views of each text, >= 1; 2 in the paper.
        ce_views: number of views in the classification loss, from 1 (Eq. 10 taken literally) to `views` (the default).
        confusion: fixed confusion counts, `(C, C)`, that update an adaptive matrix instead of those of the evaluation.
        update_from: `metric_key_prefix` of the one evaluation that updates an adaptive matrix: `"eval"`, or
            `"eval_NAME"` if `eval_dataset` is a dictionary. Other evaluations and predictions never update it.
        gather: compare the rows of all processes in training. With `False`, each process compares its own rows, and
            the mean of the losses of all processes is minimized.

    Attributes:
        callback: a callback for the Trainer, which logs both parts of the loss, updates an `AdaptiveLDM` and stores the
            state of the loss (matrix, queue, weights) in checkpoints.
        losses: a module with both losses; its state is stored in checkpoints.

    Raises:
        ValueError: if an argument is out of range; if the embeddings of the model cannot be found; if the classes of
            the model and of the matrix differ or have different orders; if `contrastive` would treat coarse labels as
            classes; or, in a training step and on all processes, if their matrices or settings of the loss differ.
        TypeError: if `contrastive` is not a loss of embeddings and labels or gathers rows itself, or `classification`
            is not a module.
    """

    def __init__(
        self,
        contrastive: nn.Module | None,
        model: nn.Module,
        *,
        ce_weight: float = 0.5,
        classification: nn.Module | None = None,
        views: int = 2,
        ce_views: int | None = None,
        confusion: Tensor | None = None,
        update_from: str = "eval",
        gather: bool = True,
    ):
        check_count("views", views)
        if ce_views is not None and not 1 <= ce_views <= views:
            raise ValueError(f"ce_views must lie between 1 and views = {views}, got {ce_views}.")
        check_ce_weight(ce_weight)
        check_classification(classification)
        inner = contrastive.loss if isinstance(contrastive, FineLabelsOnly) else contrastive
        if isinstance(inner, DistributedLossWrapper):
            raise TypeError(
                "contrastive must be the loss itself, got a DistributedLossWrapper: TrainerObjective gathers the rows."
            )
        check_coarse_contrast(contrastive, classification)
        self.joint = None if contrastive is None else JointLoss(contrastive, ce_weight=ce_weight)
        self.classification = classification
        given = {"contrastive": contrastive, "classification": classification}
        self.losses = nn.ModuleDict({name: loss for name, loss in given.items() if loss is not None})
        self.views = views
        self.ce_views = ce_views or views
        self.gather = gather
        self.model = model
        self.callback = LabelDistanceCallback(self, confusion=confusion, update_from=update_from)
        self._label_smoothing = 0.0
        self._has_begun = False
        self._hooks = self._attach_hooks(model)

    @property
    def ldm(self) -> LabelDistanceMatrix | None:
        """The label-distance matrix of the loss, also if the loss is inside wrappers; `None` if it has none."""
        return main_matrix(self.losses, "contrastive")

    def attach(self, trainer: Trainer) -> None:
        """Add the callback to a Trainer ahead of its trackers, instead of passing `callbacks=[objective.callback]`.

        Trackers such as TensorBoard and Weights & Biases then also report both parts of the loss and the matrix. They
        run before callbacks that are passed to the Trainer, and so before these can add to a log.

        Weights of the loss itself are added to the Trainer's optimizer as its last parameter group, without weight
        decay.

        Args:
            trainer: a Trainer with `compute_loss_func=objective`.

        Raises:
            ValueError: if the loss has weights, and FSDP or DeepSpeed shards the model.
        """
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self.callback, *(callback for callback in callbacks if callback is not self.callback)]
        self.callback.trainer = trainer
        self.callback.use_arguments(trainer.args)
        weights = [weight for _, weight in learned_weights(self.losses)]
        if not weights:
            return
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(
                "A loss with weights of its own needs a model that is whole on each process. Start with torchrun, "
                "without fsdp or deepspeed in the arguments."
            )
        if trainer.optimizer is None:
            self.losses.to(trainer.args.device)
            trainer.create_optimizer()
            assert trainer.optimizer is not None
            trainer.optimizer.add_param_group({"params": weights, "weight_decay": 0.0})

    def detach(self) -> None:
        """Remove the hooks from the model, which then encodes each text once. The objective can no longer be called."""
        self._hooks.detach()

    def follow(self, model: nn.Module) -> bool:
        """Switch to another model of the same kind: a Trainer with a `model_init` creates new models.

        Args:
            model: the model that the Trainer is about to train. If it contains the current model, nothing changes.

        Returns:
            Whether the model is a different one.
        """
        if any(part is self.model for part in model.modules()):
            return False
        self._hooks.detach()
        self._hooks = self._attach_hooks(model)
        self.model = model
        return True

    def smooth_labels(self, factor: float) -> None:
        """Smooth the labels of the cross-entropy; the callback passes the Trainer's `label_smoothing_factor`.

        Args:
            factor: fraction of each label's probability that is spread evenly over all classes, in [0, 1].

        Raises:
            ValueError: if there is a `classification` loss, which the objective cannot smooth.
        """
        if factor and self.classification is not None:
            raise ValueError(
                f"label_smoothing_factor = {factor} smooths the Trainer's cross-entropy, which classification = "
                f"{type(self.classification).__name__} replaces. Set it to 0, and smooth in the loss itself: "
                "nn.CrossEntropyLoss(label_smoothing=...)."
            )
        self._label_smoothing = factor

    def in_chunks(self, model: nn.Module, chunk_size: int) -> Callable[..., Mapping[str, Tensor]]:
        """Wrap the model for batches that do not fit in memory: see `CachedGradients`. `CachedTrainer` calls this.

        In your own loop, call the result instead of the model, and pass its output to the objective:
        `objective(objective.in_chunks(model, 64)(**inputs), labels).backward()`.

        Args:
            model: the model of the objective; with several processes, the `DistributedDataParallel` module that
                contains it.
            chunk_size: number of rows that are encoded together, >= 1; each view of a text is a row.

        Returns:
            A function of the model's inputs. It returns `logits`, and `embeddings` if there is a contrastive loss.
        """

        def encode(*inputs: Any, **named_inputs: Any) -> Mapping[str, Tensor]:
            views = self.views if self.model.training else 1
            cached = CachedGradients(model, chunk_size=chunk_size, views=views, encode=self._encode_chunk)
            return cached(*inputs, **named_inputs)

        return encode

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Compute the loss of one batch or micro-batch.

        Args:
            outputs: the output of the model, with `logits` of shape `(V * M, C)` for V views.
            labels: `(M,)`, integer.
            num_items_in_batch: number of texts in the accumulated batch of all processes; the Trainer passes it. Omit
                it in your own loop: the loss is then the mean of the batch.

        Returns:
            Scalar, in nats.
        """
        logits = self._checked_logits(outputs, labels)
        self._check_same_objective()
        num_texts = len(labels)
        is_training = self.model.training
        if is_training and num_items_in_batch is not None:
            self.callback.check_in_use()
        if not is_training:
            self.callback.count(labels, logits, takes_coarse_labels=takes_coarse_labels(self.classification))
        # Once, where the rows are: a matrix left on the CPU would be copied at every step.
        self.losses.to(logits.device)
        ce_logits = logits[: self.ce_views * num_texts]
        labels = labels.long().repeat(len(logits) // num_texts)
        # The contrastive loss first: it checks the labels' range.
        contrastive, mean_texts = self._contrast(outputs, logits, labels, num_texts)
        classification = classification_loss(
            self.classification, ce_logits, labels[: len(ce_logits)], label_smoothing=self._label_smoothing
        )

        # DistributedDataParallel averages gradients, and the Trainer multiplies by the number of processes where it
        # counts the items of all of them: shares of the whole batch then add up to it.
        num_items = mean_texts if num_items_in_batch is None else num_items_in_batch
        parts = {"cross_entropy": classification * num_texts / num_items}
        if self.joint is None or contrastive is None:
            total = parts["cross_entropy"] + _keep_in_graph(outputs)
        else:
            parts["contrastive"] = contrastive * mean_texts / num_items
            total = functional.joint_objective(
                parts["cross_entropy"], parts["contrastive"], ce_weight=self.joint.ce_weight
            )
        if is_training:
            self.callback.record(parts)
        return total

    def _attach_hooks(self, model: nn.Module) -> ModelHooks:
        hooks = ModelHooks(model, reads_embeddings=self.joint is not None)
        ldm = self.ldm
        hint = "" if ldm is None else f"Load it with num_labels={ldm.num_classes}, or build the LDM for its classes."
        check_num_classes(ldm, hooks.num_classes, what="The model", hint=hint)
        check_class_names(model, ldm)
        hooks.attach(self.views)
        return hooks

    def _check_same_objective(self) -> None:
        """Raise on all processes, in their first step of training, unless they have the same objective.

        Those that contrast wait for each other at every step, and would wait forever for one that does not.
        """
        if self._has_begun or not self.model.training:
            return
        self._has_begun = True
        contrastive = None if self.joint is None else self.joint.contrastive
        weights = learned_weights(self.losses)
        require_same(
            {
                "contrastive loss": type(contrastive).__name__ if contrastive is not None else None,
                "classification loss": type(self.classification).__name__ if self.classification else None,
                "ce_weight": None if self.joint is None else self.joint.ce_weight,
                "views": self.views,
                "ce_views": self.ce_views,
                "gather": self.gather,
                "weights of the loss": [(name, tuple(weight.shape)) for name, weight in weights],
            },
            "Make the same TrainerObjective everywhere.",
        )
        check_one_queue(contrastive, is_gathered=self.gather, hint="Leave gather=True.")
        weights_from_main(weight for _, weight in weights)

    def _contrast(
        self, outputs: Any, logits: Tensor, labels: Tensor, num_texts: int
    ) -> tuple[Tensor | None, float | int]:
        """The contrastive loss of the rows it sees, and the mean number of texts per process."""
        if self.joint is None:
            return None, num_texts
        contrastive = self.joint.contrastive
        is_chunked = isinstance(outputs, _Chunk)
        embeddings = outputs["embeddings"] if is_chunked else self._hooks.embeddings(outputs, logits)
        embeddings = at_least_float32(embeddings)
        # Evaluations may have more batches on one process than on another: only training waits for all.
        if not self.model.training:
            return call_without_change(contrastive, embeddings, labels), num_texts
        if num_processes() == 1:
            return contrastive(embeddings, labels), num_texts
        check_agreement(self.joint)
        if not self.gather:
            return call_with_mean_gradients(contrastive, embeddings, labels), num_texts
        views = len(labels) // num_texts
        embeddings, labels = gather_rows(embeddings), gather_rows(labels)
        with sharded_pairs(contrastive):
            loss = call_with_mean_gradients(contrastive, embeddings, labels)
        return loss, len(labels) / views / num_processes()

    def _encode_chunk(self, model: nn.Module, *inputs: Any, **named_inputs: Any) -> "_Chunk":
        """One view of a chunk: `CachedGradients` asks for each view on its own."""
        self._hooks.set_views(1)
        try:
            outputs = model(*inputs, **named_inputs)
        finally:
            self._hooks.set_views(self.views)
        logits = self._logits_of(outputs)
        # Without contrast a classifier's embeddings still keep its projection in the graph: see `_keep_in_graph`.
        if self.joint is None and self._hooks.classifier is None:
            return _Chunk(logits=logits)
        return _Chunk(logits=logits, embeddings=self._hooks.embeddings(outputs, logits))

    def _logits_of(self, outputs: Any) -> Tensor:
        if not self._hooks.is_attached:
            raise RuntimeError(
                "This TrainerObjective was detached from its model, perhaps by a later one for the same model. Make a "
                "new TrainerObjective for the model."
            )
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            raise TypeError(
                f"The model must return a dictionary with logits, got {type(outputs).__name__}. Use a "
                "sequence-classification model, with return_dict=True."
            )
        logits = outputs["logits"]
        if logits.ndim != 2:
            raise ValueError(
                f"{type(self.model).__name__} must return one row of class scores per text, (B, C), got logits of "
                f"shape {tuple(logits.shape)}. Use a sequence-classification model."
            )
        return logits

    def _checked_logits(self, outputs: Any, labels: Tensor) -> Tensor:
        """The model's class scores, `(V * M, C)`."""
        logits = self._logits_of(outputs)
        if labels is None:
            raise ValueError("labels are required: give the rows of the data set a column `labels` of class indices.")
        # A loss that takes coarse labels knows their range, and checks it itself.
        validate = labels.device.type == "cpu" and not takes_coarse_labels(self.classification)
        check_labels(labels, len(labels), logits.shape[1], rows="the texts", validate=validate)
        views = self.views if self.model.training else 1
        if len(logits) != views * len(labels):
            raise RuntimeError(
                f"The model must return {views * len(labels)} rows of logits, {views} views of {len(labels)} texts, "
                f"got {len(logits)}. {SAME_MODEL}"
            )
        return logits


class _Chunk(dict):
    """Logits and embeddings that `in_chunks` took from the model's outputs, of a chunk or of all."""


def _keep_in_graph(outputs: Any) -> Tensor | float:
    """A zero that depends on the embeddings.

    `DistributedDataParallel` waits for the gradient of every parameter that the outputs depend on.
    """
    embeddings = outputs.get("embeddings")
    return 0.0 if embeddings is None or num_processes() == 1 else embeddings[:0].sum()
