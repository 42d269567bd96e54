"""Label-distance contrastive learning inside the Hugging Face Trainer, without a change to the model.

objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
trainer = Trainer(model, args, train_dataset=rows, compute_loss_func=objective, callbacks=[objective.callback])
trainer.train()
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from einops import repeat
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labeldist import functional
from labeldist.cached import CachedGradients
from labeldist.confusion import confusion_counts
from labeldist.distributed import gather_rows, num_processes, process_index, sum_over_processes
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix
from labeldist.losses import JointLoss
from labeldist.sharing import check_same_loss, pairs_shared

try:
    from accelerate.state import GradientState
    from safetensors.torch import load_file, save_file
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    raise ImportError(
        "labeldist.integrations.transformers needs transformers. Install it with: pip install 'labeldist[train]'"
    ) from error

__all__ = ["CachedTrainer", "LabelDistanceCallback", "TrainerObjective"]

STATE_FILE = "label_distance.safetensors"
_SAME_MODEL = "Give TrainerObjective the very model that the Trainer trains, after any adapters are put on it."


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
        weight: $\lambda$ in [0, 1], the cross-entropy's share; 0.5 in the paper.
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
        TypeError: if `contrastive` gathers rows itself.
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
        gather: bool = True,
    ):
        if views < 1:
            raise ValueError(f"views must be at least 1, got {views}.")
        if ce_views is not None and not 1 <= ce_views <= views:
            raise ValueError(f"ce_views must lie between 1 and views = {views}, got {ce_views}.")
        functional.check_weight(weight)
        if isinstance(contrastive, DistributedLossWrapper):
            raise TypeError(
                "contrastive must be the loss itself, got a DistributedLossWrapper: TrainerObjective gathers the rows."
            )
        self.joint = None if contrastive is None else JointLoss(contrastive, weight=weight)
        self.views = views
        self.ce_views = ce_views or views
        self.gather = gather
        self.model = model
        self.callback = LabelDistanceCallback(self, confusion)
        self._captured: tuple[Tensor, Tensor] | None = None
        self._is_pooling_known = False
        self._classifier = _classifier_in(model)
        num_classes = _num_classes(model) if self._classifier is None else self._classifier.classifier.out_features
        layers = [] if self.joint is None or self._classifier is not None else _class_layers(model, num_classes)
        if self.ldm is not None and num_classes != self.ldm.num_classes:
            raise ValueError(
                f"The model must have one output a class of the LDM, {self.ldm.num_classes}, got {num_classes}. Load "
                f"it with num_labels={self.ldm.num_classes}, or build the LDM for the model's classes."
            )
        self._repeats = views
        self._handles = self._take_hold(layers)

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
        for handle in self._handles:
            handle.remove()
        if self._handles and self._classifier is not None:
            self._classifier.views = 1
        self._handles = []

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
        num_texts = len(labels)
        is_training = self.model.training
        if is_training and num_items_in_batch is not None:
            self.callback.check_in_use()
        if not is_training:
            self.callback.count(labels, logits)
        ce_logits = functional.at_least_float32(logits[: self.ce_views * num_texts])
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
            total = functional.joint_objective(parts["cross_entropy"], parts["contrastive"], weight=self.joint.weight)
        if is_training:
            self.callback.record(parts)
        return total

    def _contrast(
        self, outputs: Any, logits: Tensor, labels: Tensor, num_texts: int
    ) -> tuple[Tensor | None, float | int]:
        """The contrastive loss of the rows it sees, and how many texts of each process these are, on average."""
        if self.joint is None:
            return None, num_texts
        # Once, where the rows are: a matrix left on the CPU would be copied at every step.
        self.joint.to(logits.device)
        embeddings = functional.at_least_float32(self._embeddings(outputs, logits))
        # Evaluations may have more batches on one process than on another: only training waits for all.
        if not self.model.training or num_processes() == 1:
            return self.joint.contrastive(embeddings, labels), num_texts
        check_same_loss(self.joint)
        if not self.gather:
            return self.joint.contrastive(embeddings, labels), num_texts
        views = len(labels) // num_texts
        embeddings, labels = gather_rows(embeddings), gather_rows(labels)
        with pairs_shared(self.joint.contrastive):
            return self.joint.contrastive(embeddings, labels), len(labels) / views / num_processes()

    def _encode_chunk(self, model: nn.Module, *inputs: Any, **named_inputs: Any) -> "_Chunk":
        """One view of a chunk: `CachedGradients` asks for each view on its own."""
        self._repeat(1)
        try:
            outputs = model(*inputs, **named_inputs)
        finally:
            self._repeat(self.views)
        logits = self._logits_of(outputs)
        # Without contrast a classifier's embeddings are still what its projection hangs on: see `_keep_in_graph`.
        if self.joint is None and self._classifier is None:
            return _Chunk(logits=logits)
        return _Chunk(logits=logits, embeddings=self._embeddings(outputs, logits))

    def _repeat(self, views: int) -> None:
        """How often the model, in training mode, sees each text of its inputs from now on."""
        self._repeats = views
        if self._classifier is not None:
            self._classifier.views = views

    def _logits_of(self, outputs: Any) -> Tensor:
        if not self._handles:
            raise RuntimeError(
                "This TrainerObjective was detached from its model, which another one may have taken over. Make a new "
                "TrainerObjective for the model."
            )
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            raise TypeError(
                f"The model must return a dictionary with logits, got {type(outputs).__name__}. Use a "
                "sequence-classification model, with return_dict=True."
            )
        return outputs["logits"]

    def _checked_logits(self, outputs: Any, labels: Tensor) -> Tensor:
        """The model's class scores, `(V * M, C)`."""
        logits = self._logits_of(outputs)
        if labels is None:
            raise ValueError("labels are required: give the rows of the data set a column `labels` of class indices.")
        functional.check_labels(
            labels, len(labels), logits.shape[1], rows="the texts", validate=labels.device.type == "cpu"
        )
        views = self.views if self.model.training else 1
        if len(logits) != views * len(labels):
            raise RuntimeError(
                f"The model must return {views * len(labels)} rows of logits, {views} views of {len(labels)} texts, "
                f"got {len(logits)}. {_SAME_MODEL}"
            )
        return logits

    def _embeddings(self, outputs: Any, logits: Tensor) -> Tensor:
        """What the contrast compares, `(V * M, D)`."""
        if self._classifier is not None or isinstance(outputs, _Chunk):
            return outputs["embeddings"]
        if self._captured is None:
            raise RuntimeError(
                f"The model's class layer was not called in this forward pass: no embeddings to contrast. {_SAME_MODEL}"
            )
        (embeddings, scores), self._captured = self._captured, None
        if embeddings.ndim == 2:
            return embeddings
        # Every token has scores: the model took those of one token for the text's, and so do we.
        is_taken = (scores.to(logits.dtype) == logits[:, None]).all(dim=-1)  # (V * M, L)
        if not self._is_pooling_known and not is_taken.any(dim=1).all():
            raise RuntimeError(
                f"{type(self.model).__name__} must take the class scores of one token for the text's, got scores that "
                "are no token's. Use labeldist.models.classifier.ContrastiveClassifier."
            )
        self._is_pooling_known = True
        # The last of several: where a class layer starts at zero, all tokens score alike.
        position = is_taken.shape[1] - 1 - is_taken.flip(1).int().argmax(dim=1)
        return embeddings[torch.arange(len(embeddings), device=position.device), position]

    def _take_hold(self, layers: list[nn.Module]) -> list[Any]:
        """Repeat the model's inputs and see its embeddings, from now on."""
        for earlier in _objectives_on(self.model):
            earlier.detach()
        self._repeat(self.views)
        return [
            self.model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            *(layer.register_forward_hook(self._capture) for layer in layers),
        ]

    def _before_forward(
        self, model: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        self._captured = None
        if self._repeats == 1 or self._classifier is not None or not model.training:
            return None
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim]
        num_texts = len(inputs[0]) if inputs else 0

        def repeated(value: Any) -> Any:
            # View-major: all rows of the first view, then all of the second. What has no row a text stays.
            if isinstance(value, Tensor) and value.ndim and len(value) == num_texts:
                return repeat(value, "b ... -> (v b) ...", v=self._repeats)
            return value

        return tuple(repeated(value) for value in args), {name: repeated(value) for name, value in kwargs.items()}

    def _capture(self, layer: nn.Module, inputs: tuple[Tensor, ...], scores: Tensor) -> None:
        # The class layer comes last: whatever else has as many outputs is overwritten.
        self._captured = inputs[0], scores


class _Chunk(dict):
    """Logits and embeddings that `in_chunks` took from the model's outputs, of a chunk or of all."""


class CachedTrainer(Trainer):
    r"""The Trainer for batches that memory does not hold: the activations of one chunk at a time are held.

    `per_device_train_batch_size` is the batch that the contrast sees, however large. Loss, gradient and log are those
    of the Trainer with that batch, at the price of a second forward pass: see `labeldist.CachedGradients`. Evaluations
    and predictions are the Trainer's own.

    `gradient_accumulation_steps` need not be raised for memory's sake. Where it is, each micro-batch is a contrast of
    its own, as in the Trainer.

    Args:
        *args: the Trainer's.
        chunk_size: rows that are encoded together while the model trains, >= 1; each view of a text is a row.
        **kwargs: the Trainer's, with a `TrainerObjective` as `compute_loss_func`.

    Raises:
        TypeError: if `compute_loss_func` is no `TrainerObjective`.
        ValueError: if `chunk_size` is below 1, or FSDP or DeepSpeed shards the model.
    """

    def __init__(self, *args: Any, chunk_size: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")
        if not isinstance(self.compute_loss_func, TrainerObjective):
            raise TypeError(
                "CachedTrainer needs a TrainerObjective, which knows the embeddings of a chunk, got compute_loss_func "
                f"= {self.compute_loss_func!r}. Pass compute_loss_func=TrainerObjective(loss, model)."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "CachedTrainer encodes a batch twice, which FSDP and DeepSpeed do not take part in. Train with "
                "DistributedDataParallel: start with torchrun, without fsdp or deepspeed in the arguments."
            )
        self.chunk_size = chunk_size
        self._objective = self.compute_loss_func

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch, which in training is encoded in chunks."""
        encode: Any = model
        if self._objective.model.training:
            encode = self._objective.in_chunks(model, self.chunk_size)
        # The Trainer's own method calls what it is given, and no more.
        return super().compute_loss(encode, inputs, return_outputs, num_items_in_batch)


class LabelDistanceCallback(TrainerCallback):
    """Logs the loss's parts, refreshes an adaptive matrix after evaluations, and stores the matrix in checkpoints.

    Made by `TrainerObjective`. Adds to the Trainer's logs and `state.log_history`: `cross_entropy` and `contrastive`
    (means since the last log, over all processes), and after each refresh `ldm_epsilon` and `ldm_mean` (mean distance
    between different classes).
    """

    def __init__(self, objective: TrainerObjective, confusion: Tensor | None = None):
        self.trainer: Trainer | None = None
        self._objective = objective
        self._confusion = confusion
        self._counts: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._last_logged_step = 0
        self._scale = 1
        self._in_training = False

    def check_in_use(self) -> None:
        """Raise `RuntimeError` if a Trainer trains without this callback, so that an adaptive matrix stays as it is."""
        if not self._in_training and isinstance(self._objective.ldm, AdaptiveLDM):
            raise RuntimeError(
                "An AdaptiveLDM is refreshed by the objective's callback, and the Trainer has none: pass "
                "callbacks=[objective.callback]. In a loop of your own, leave num_items_in_batch out and call "
                "ldm.update."
            )

    def record(self, parts: dict[str, Tensor]) -> None:
        """Add one batch's shares of the parts to the sums since the last log."""
        if self._in_training:
            for name, value in parts.items():
                self._sums[name] = self._sums.get(name, 0) + value.detach() * self._scale

    def count(self, labels: Tensor, logits: Tensor) -> None:
        """Add one evaluation batch to the confusion counts."""
        if self._in_training and isinstance(self._objective.ldm, AdaptiveLDM):
            num_rows = _rows_that_count(len(labels))
            counts = confusion_counts(labels[:num_rows], logits[:num_rows].argmax(dim=1), logits.shape[1])
            self._counts = counts if self._counts is None else self._counts + counts

    def on_train_begin(self, args, state, control, **kwargs):
        """On resuming, take the matrix from the checkpoint."""
        ldm = self._objective.ldm
        if args.n_gpu > 1:
            raise RuntimeError(
                f"TrainerObjective needs one process a GPU, got DataParallel over {args.n_gpu}: it would scatter views "
                "and labels apart. Start with torchrun, or set CUDA_VISIBLE_DEVICES to one GPU."
            )
        if isinstance(ldm, AdaptiveLDM) and args.eval_strategy == "no":
            raise ValueError(
                "An AdaptiveLDM learns from evaluations, and eval_strategy is 'no': set 'epoch' or 'steps'."
            )
        self._in_training = True
        self._sums, self._last_logged_step, self._counts = {}, state.global_step, None
        # What the Trainer multiplies the returned loss by.
        self._scale = num_processes() if args.average_tokens_across_devices else 1
        if ldm is not None and state.global_step:
            path = _checkpoint(args, state) / STATE_FILE
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing. Resume from a checkpoint in output_dir that was saved with the objective's "
                    "callback."
                )
            ldm.load_state_dict(load_file(path))

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add the means of both parts to the Trainer's training log."""
        if logs is None or "loss" not in logs or not self._sums:
            return
        num_steps = max(state.global_step - self._last_logged_step, 1)
        sums = sum_over_processes(torch.stack(list(self._sums.values()))) / num_processes() / num_steps
        means = dict(zip(self._sums, sums.tolist(), strict=True))
        logs.update(means)
        state.log_history[-1].update(means)
        self._sums, self._last_logged_step = {}, state.global_step

    def on_evaluate(self, args, state, control, **kwargs):
        """Refresh an adaptive matrix from the evaluation's confusion counts, those of all processes."""
        counts, self._counts = self._counts, None
        ldm = self._objective.ldm
        if not self._in_training or not isinstance(ldm, AdaptiveLDM):
            return
        if self._confusion is not None:
            counts = self._confusion
        else:
            # A process that had no row to evaluate takes part: the others wait for it.
            counts = torch.zeros_like(ldm.matrix, dtype=torch.int64) if counts is None else counts
            check_same_loss(ldm)
            counts = sum_over_processes(counts.to(args.device))
        if not counts.any():
            return
        progress = min(state.global_step / state.max_steps, 1.0)
        if ldm.update(counts.to(ldm.matrix.device), progress=progress, is_local=False):
            refreshed = {"ldm_epsilon": ldm.epsilon, "ldm_mean": ldm.mean_off_diagonal}
            if self.trainer is not None:
                self.trainer.log(refreshed)
            else:
                state.log_history.append({**refreshed, "epoch": state.epoch, "step": state.global_step})

    def on_save(self, args, state, control, **kwargs):
        """Store the matrix beside the Trainer's own files."""
        if self._objective.ldm is not None and args.should_save:
            path = _checkpoint(args, state) / STATE_FILE
            partial = path.with_name(path.name + ".partial")
            save_file(self._objective.ldm.state_dict(), partial)
            partial.replace(path)

    def on_train_end(self, args, state, control, **kwargs):
        """Later evaluations are tests: they do not move the matrix."""
        self._in_training = False


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _rows_that_count(num_rows: int) -> int:
    """How many rows of this process's evaluation batch stand for themselves.

    Accelerate fills up the last batches with rows that were seen already, so that all processes have equally many. The
    last step's rows, in the order of the processes, begin with the `remainder` that are new.
    """
    state = GradientState()
    if num_processes() == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return num_rows
    return min(num_rows, max(state.remainder - process_index() * num_rows, 0))


def _keep_in_graph(outputs: Any) -> Tensor | float:
    """A zero that hangs on the embeddings.

    `DistributedDataParallel` waits for the gradient of every parameter that the outputs hang on.
    """
    embeddings = outputs.get("embeddings")
    return 0.0 if embeddings is None or num_processes() == 1 else embeddings[:0].sum()


def _classifier_in(model: nn.Module) -> Any:
    """The `ContrastiveClassifier` in `model`, below any wrapper: it repeats inputs and returns embeddings itself."""
    # Imported here: the classifier is one model among others.
    from labeldist.models.classifier import ContrastiveClassifier

    return next((module for module in model.modules() if isinstance(module, ContrastiveClassifier)), None)


def _num_classes(model: nn.Module) -> int | None:
    """What the model, or what it wraps, is configured for."""
    numbers = (getattr(getattr(module, "config", None), "num_labels", None) for module in model.modules())
    return next((number for number in numbers if number is not None), None)


def _class_layers(model: nn.Module, num_classes: int | None) -> list[nn.Module]:
    """Layers with one output a class, an adapter's wrapper in place of the layers in it."""
    layers = [] if num_classes is None else list(_layers_of_width(model, num_classes))
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear with config.num_labels = {num_classes} outputs to read "
            "embeddings from. Use a sequence-classification model, or a ContrastiveClassifier of "
            "labeldist.models.classifier."
        )
    return layers


def _layers_of_width(module: nn.Module, num_outputs: int) -> Iterator[nn.Module]:
    for child in module.children():
        # PEFT's wrappers have the `out_features` of what they wrap.
        if getattr(child, "out_features", None) == num_outputs:
            yield child
        else:
            yield from _layers_of_width(child, num_outputs)


def _objectives_on(model: nn.Module) -> set[TrainerObjective]:
    """The objectives that hold this model or a part of it."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    owners = (getattr(hook, "__self__", None) for hook in hooks)
    return {owner for owner in owners if isinstance(owner, TrainerObjective)}
