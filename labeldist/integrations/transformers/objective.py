"""The joint objective as a `compute_loss_func`."""

from collections.abc import Callable, Mapping
from typing import Any

from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer

from labeldist import functional
from labeldist.cached import CachedGradients
from labeldist.checks import check_ce_weight, check_count, check_labels
from labeldist.distributed import check_agreement, gather_rows, num_processes, require_same
from labeldist.integrations.transformers.callback import LabelDistanceCallback
from labeldist.integrations.transformers.hold import SAME_MODEL, Hold
from labeldist.joint import JointLoss
from labeldist.ldm import LabelDistanceMatrix
from labeldist.losses import sharded_pairs
from labeldist.precision import at_least_float32

__all__ = ["TrainerObjective"]


class TrainerObjective:
    r"""The joint objective as a `compute_loss_func` of the Hugging Face Trainer.

    Eq. 9: $L = \lambda L_c + (1 - \lambda) L_s$ over `views` dropout views of each text: while the model trains, its
    inputs are repeated `views` times, so that one tokenised batch of M texts gives `views * M` rows. The loss of a
    micro-batch counts for its share of the accumulated batch, so accumulation gives the same cross-entropy as one large
    batch. The contrast still sees one micro-batch at a time: accumulation adds no negatives.

    Pass the loss's own baseline through the same objective (`contrastive=None`): the Trainer scales other losses
    differently.

    The embeddings are those of a `ContrastiveClassifier`, else what the model's class layer receives: the layer with
    one output a class. Where it scores every token and the model takes one (GPT-2, Llama), they are that token's.

    With several processes (`torchrun`, `accelerate launch`) the contrast is over the rows of all of them, and loss and
    gradient are those of one process on the concatenated batch. The processes share the pairs as under a
    `DistributedLossWrapper`, and each training step checks that all have the same matrix.

    Args:
        contrastive: $L_s$, such as a `LabelDistanceContrastiveLoss`; `None` for cross-entropy alone.
        model: the model that the Trainer trains, with any adapters already on it. An earlier objective lets go of it.
        ce_weight: $\lambda$ in [0, 1], the cross-entropy's share; 0.5 in the paper.
        views: dropout views of each text, >= 1; 2 in the paper.
        ce_views: views that the cross-entropy sees, from 1 (the letter of Eq. 10) to `views` (the default).
        confusion: fixed confusion counts, `(C, C)`, that refresh an adaptive matrix in place of the evaluation's.
        gather: whether the contrast is over the rows of all processes while the model trains; else each process
            contrasts its own, and the mean of the processes' losses is trained.

    Attributes:
        callback: give it to the Trainer; it logs both parts of the loss, refreshes an `AdaptiveLDM` and stores the
            matrix in checkpoints.

    Raises:
        ValueError: if an argument lies outside its range, the model shows no place to read embeddings from, or its
            classes are not those of the matrix; in a training step, on all processes, if their matrices or settings of
            the loss differ.
        TypeError: if `contrastive` is no loss of embeddings and labels, or gathers rows itself.
    """

    def __init__(
        self,
        contrastive: nn.Module | None,
        model: nn.Module,
        *,
        ce_weight: float = 0.5,
        views: int = 2,
        ce_views: int | None = None,
        confusion: Tensor | None = None,
        gather: bool = True,
    ):
        check_count("views", views)
        if ce_views is not None and not 1 <= ce_views <= views:
            raise ValueError(f"ce_views must lie between 1 and views = {views}, got {ce_views}.")
        check_ce_weight(ce_weight)
        if isinstance(contrastive, DistributedLossWrapper):
            raise TypeError(
                "contrastive must be the loss itself, got a DistributedLossWrapper: TrainerObjective gathers the rows."
            )
        self.joint = None if contrastive is None else JointLoss(contrastive, ce_weight=ce_weight)
        self.views = views
        self.ce_views = ce_views or views
        self.gather = gather
        self.model = model
        self.callback = LabelDistanceCallback(self.ldm, confusion)
        self._is_begun = False
        self._hold = Hold(model, reads_embeddings=self.joint is not None)
        num_classes = self._hold.num_classes
        if self.ldm is not None and num_classes != self.ldm.num_classes:
            raise ValueError(
                f"The model must have one output a class of the LDM, {self.ldm.num_classes}, got {num_classes}. Load "
                f"it with num_labels={self.ldm.num_classes}, or build the LDM for the model's classes."
            )
        self._hold.take(views)

    @property
    def ldm(self) -> LabelDistanceMatrix | None:
        """The loss's matrix, if it has one, through any wrappers around the loss."""
        parts = () if self.joint is None else self.joint.contrastive.modules()
        return next((part for part in parts if isinstance(part, LabelDistanceMatrix)), None)

    def attach(self, trainer: Trainer) -> None:
        """Give the callback to a Trainer ahead of its trackers, in place of `callbacks=[objective.callback]`.

        TensorBoard, Weights & Biases and others then report both parts of the loss and the matrix, too. They stand
        before any callback that the Trainer is made with, and report a log before that callback can add to it.

        Args:
            trainer: made with `compute_loss_func=objective`.
        """
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self.callback, *(callback for callback in callbacks if callback is not self.callback)]
        self.callback.trainer = trainer

    def detach(self) -> None:
        """Let go of the model, which then sees each text once again. The objective cannot be called any more."""
        self._hold.release()

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
        self._begin_alike()
        num_texts = len(labels)
        is_training = self.model.training
        if is_training and num_items_in_batch is not None:
            self.callback.check_in_use()
        if not is_training:
            self.callback.count(labels, logits)
        ce_logits = at_least_float32(logits[: self.ce_views * num_texts])
        labels = labels.long().repeat(len(logits) // num_texts)
        # The contrast first: it checks the labels' range.
        contrastive, mean_texts = self._contrast(outputs, logits, labels, num_texts)
        classification = cross_entropy(ce_logits, labels[: len(ce_logits)])

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

    def _begin_alike(self) -> None:
        """Raise on all processes, in their first step of training, unless they have the same objective.

        Those that contrast wait for each other at every step, and would wait forever for one that does not.
        """
        if self._is_begun or not self.model.training:
            return
        self._is_begun = True
        contrastive = None if self.joint is None else self.joint.contrastive
        require_same(
            {
                "contrastive loss": type(contrastive).__name__ if contrastive is not None else None,
                "ce_weight": None if self.joint is None else self.joint.ce_weight,
                "views": self.views,
                "ce_views": self.ce_views,
                "gather": self.gather,
            },
            "Make the same TrainerObjective everywhere.",
        )

    def _contrast(
        self, outputs: Any, logits: Tensor, labels: Tensor, num_texts: int
    ) -> tuple[Tensor | None, float | int]:
        """The contrastive loss of the rows it sees, and how many texts of each process these are, on average."""
        if self.joint is None:
            return None, num_texts
        # Once, where the rows are: a matrix left on the CPU would be copied at every step.
        self.joint.to(logits.device)
        is_chunked = isinstance(outputs, _Chunk)
        embeddings = outputs["embeddings"] if is_chunked else self._hold.embeddings(outputs, logits)
        embeddings = at_least_float32(embeddings)
        # Evaluations may have more batches on one process than on another: only training waits for all.
        if not self.model.training or num_processes() == 1:
            return self.joint.contrastive(embeddings, labels), num_texts
        check_agreement(self.joint)
        if not self.gather:
            return self.joint.contrastive(embeddings, labels), num_texts
        views = len(labels) // num_texts
        embeddings, labels = gather_rows(embeddings), gather_rows(labels)
        with sharded_pairs(self.joint.contrastive):
            return self.joint.contrastive(embeddings, labels), len(labels) / views / num_processes()

    def _encode_chunk(self, model: nn.Module, *inputs: Any, **named_inputs: Any) -> "_Chunk":
        """One view of a chunk: `CachedGradients` asks for each view on its own."""
        self._hold.set_views(1)
        try:
            outputs = model(*inputs, **named_inputs)
        finally:
            self._hold.set_views(self.views)
        logits = self._logits_of(outputs)
        # Without contrast a classifier's embeddings are still what its projection hangs on: see `_keep_in_graph`.
        if self.joint is None and self._hold.classifier is None:
            return _Chunk(logits=logits)
        return _Chunk(logits=logits, embeddings=self._hold.embeddings(outputs, logits))

    def _logits_of(self, outputs: Any) -> Tensor:
        if not self._hold.is_taken:
            raise RuntimeError(
                "This TrainerObjective was detached from its model, which another one may have taken over. Make a new "
                "TrainerObjective for the model."
            )
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            raise TypeError(
                f"The model must return a dictionary with logits, got {type(outputs).__name__}. Use a "
                "sequence-classification model, with return_dict=True."
            )
        logits = outputs["logits"]
        if logits.ndim != 2:
            raise ValueError(
                f"{type(self.model).__name__} must return one row of class scores a text, (B, C), got logits of shape "
                f"{tuple(logits.shape)}. Use a sequence-classification model."
            )
        return logits

    def _checked_logits(self, outputs: Any, labels: Tensor) -> Tensor:
        """The model's class scores, `(V * M, C)`."""
        logits = self._logits_of(outputs)
        if labels is None:
            raise ValueError("labels are required: give the rows of the data set a column `labels` of class indices.")
        check_labels(labels, len(labels), logits.shape[1], rows="the texts", validate=labels.device.type == "cpu")
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
    """A zero that hangs on the embeddings.

    `DistributedDataParallel` waits for the gradient of every parameter that the outputs hang on.
    """
    embeddings = outputs.get("embeddings")
    return 0.0 if embeddings is None or num_processes() == 1 else embeddings[:0].sum()
