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

    Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$ over `views` dropout views of each text: while the model trains, its
    inputs are repeated `views` times, so that one tokenized batch of M texts gives `views * M` rows. The loss of a
    micro-batch is weighted by its share of the accumulated batch, so accumulation gives the same cross-entropy as one
    large batch. The contrast still sees one micro-batch at a time: accumulation adds no negatives.

    Pass the loss's own baseline through the same objective (`contrastive=None`): the Trainer scales other losses
    differently.

    The embeddings are those of a `ContrastiveClassifier`, else what the model's class layer receives: the layer with
    one output per class. Where it scores every token and the model takes one (GPT-2, Llama), they are that token's.

    With several processes (`torchrun`, `accelerate launch`) the contrast is over the rows of all of them, and loss and
    gradient are those of one process on the concatenated batch. The processes share the pairs as under a
    `DistributedLossWrapper`, and each training step checks that all have the same matrix.

    Evaluations leave the loss as it was: their rows never enter the queue of a `CrossBatchMemory`. A loss with weights
    of its own (distances that are learned, proxies) needs `attach`.

    Args:
        contrastive: $L_s$, such as a `LabelDistanceContrastiveLoss`; `None` for the classification loss alone.
        model: the model that the Trainer trains, with any adapters already on it. An earlier objective is detached.
        ce_weight: $\lambda$ in [0, 1], the share of the classification loss; 0.5 in the paper.
        classification: $L_c$, called as `classification(logits, labels)`, returns a mean, such as
            `nn.CrossEntropyLoss(weight=...)` or a focal loss. `None` is cross-entropy, smoothed by the
            `label_smoothing_factor` of the Trainer's arguments. With a `MarginalCrossEntropy` labels may be coarse, and
            `contrastive` must be in `FineLabelsOnly`; an adaptive matrix then learns from rows with a fine label.
        views: dropout views of each text, >= 1; 2 in the paper.
        ce_views: views that the classification loss sees, from 1 (Eq. 10 taken literally) to `views` (the default).
        confusion: fixed confusion counts, `(C, C)`, that update an adaptive matrix in place of the evaluation's.
        update_from: the one evaluation that updates an adaptive matrix, by its `metric_key_prefix`: `"eval"`, or
            `"eval_NAME"` where `eval_dataset` is a dictionary. Other evaluations and predictions never do.
        gather: whether the contrast is over the rows of all processes while the model trains; else each process
            contrasts its own, and the mean of the processes' losses is trained.

    Attributes:
        callback: give it to the Trainer; it logs both parts of the loss, updates an `AdaptiveLDM` and stores the
            state of the loss (matrix, queue, weights) in checkpoints.
        losses: the losses that were given, as a module: its state is what checkpoints hold.

    Raises:
        ValueError: if an argument lies outside its range, the model shows no place to read embeddings from, or its
            classes are not those of the matrix, or in another order, or `contrastive` would take coarse labels for
            classes; in a training step, on all processes, if their matrices or settings of the loss differ.
        TypeError: if `contrastive` is no loss of embeddings and labels, or gathers rows itself, or `classification` is
            no module.
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
        """The loss's matrix, if it has one, through any wrappers around the loss."""
        return main_matrix(self.losses, "contrastive")

    def attach(self, trainer: Trainer) -> None:
        """Give the callback to a Trainer ahead of its trackers, in place of `callbacks=[objective.callback]`.

        TensorBoard, Weights & Biases and others then report both parts of the loss and the matrix, too. They come
        before any callback that the Trainer is made with, and report a log before that callback can add to it.

        Weights of the loss itself join the Trainer's optimizer, as its last group of parameters, without weight decay.

        Args:
            trainer: made with `compute_loss_func=objective`.

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
        """Remove the hooks from the model, which then sees each text once. The objective cannot be called any more."""
        self._hooks.detach()

    def follow(self, model: nn.Module) -> bool:
        """Work with another model of the same kind: the Trainer makes one anew where it has a `model_init`.

        Args:
            model: that the Trainer is about to train. If the objective's own model is part of it, nothing changes.

        Returns:
            Whether it is another model.
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
            factor: in [0, 1]: the share of each label's probability that is spread evenly over all classes.

        Raises:
            ValueError: if there is a `classification` loss of its own, which is not the objective's to smooth.
        """
        if factor and self.classification is not None:
            raise ValueError(
                f"label_smoothing_factor = {factor} smooths the Trainer's cross-entropy, which classification = "
                f"{type(self.classification).__name__} replaces. Set it to 0, and smooth in the loss itself: "
                "nn.CrossEntropyLoss(label_smoothing=...)."
            )
        self._label_smoothing = factor

    def in_chunks(self, model: nn.Module, chunk_size: int) -> Callable[..., Mapping[str, Tensor]]:
        """The model for batches that its memory would not hold: see `CachedGradients`. `CachedTrainer` calls this.

        In a loop of your own, call the result where the model is called, and the objective with what it returns:
        `objective(objective.in_chunks(model, 64)(**inputs), labels).backward()`.

        Args:
            model: the objective's own, inside `DistributedDataParallel` where there are several processes.
            chunk_size: rows that are encoded together, >= 1; each view of a text is a row.

        Returns:
            A function of the model's inputs that returns `logits`, and `embeddings` where they are contrasted.
        """

        def encode(*inputs: Any, **named_inputs: Any) -> Mapping[str, Tensor]:
            views = self.views if self.model.training else 1
            cached = CachedGradients(model, chunk_size=chunk_size, views=views, encode=self._encode_chunk)
            return cached(*inputs, **named_inputs)

        return encode

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Return the loss of one (micro-)batch.

        Args:
            outputs: what the model returned, with `logits` `(V * M, C)`.
            labels: `(M,)`, integer.
            num_items_in_batch: texts in the whole accumulated batch of all processes; the Trainer passes it. Leave it
                out in a loop of your own: the loss is then the batch's mean.

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
