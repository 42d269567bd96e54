"""What the objective does between the Trainer's steps: logs, the adaptive matrix, checkpoints, weights of the loss."""

from typing import Any, Protocol

import torch
from accelerate.state import GradientState
from torch import Tensor, nn
from transformers import Trainer
from transformers.utils.generic import find_labels

from labeldist.confusion import confusion_counts
from labeldist.distributed import check_agreement, num_processes, process_index, sum_over_processes
from labeldist.integrations._shared.gradients import learned_weights
from labeldist.integrations._shared.trainer_callback import STATE_FILE, LossCallback
from labeldist.ldm import AdaptiveLDM

__all__ = ["STATE_FILE", "LabelDistanceCallback"]


class Objective(Protocol):
    """What the callback needs of a `TrainerObjective`.

    Attributes:
        losses: the modules whose state is kept and whose weights are trained.
    """

    losses: nn.ModuleDict

    def follow(self, model: nn.Module) -> bool:
        """Work with this model from now on."""
        ...

    def smooth_labels(self, factor: float) -> None:
        """Smooth the labels of the cross-entropy."""


class LabelDistanceCallback(LossCallback):
    """Log both parts of the loss, update an adaptive matrix, and store the state of the loss in checkpoints.

    `TrainerObjective` creates the callback. It adds `cross_entropy` and `contrastive` (means over all processes since
    the last log) to the Trainer's logs and `state.log_history`, and after each update of the matrix `ldm_epsilon` (the
    step size) and `ldm_mean` (the mean distance between different classes).
    """

    def __init__(self, objective: Objective, *, confusion: Tensor | None, update_from: str):
        super().__init__(objective.losses, update_from=update_from)
        self.trainer: Trainer | None = None
        self._objective = objective
        self._confusion = confusion
        self._counted: list[tuple[Tensor, Tensor]] = []
        self._sums: dict[str, Tensor] = {}
        self._last_logged_step = 0
        self._scale = 1

    def check_in_use(self) -> None:
        """Raise `RuntimeError` if a Trainer trains without this callback."""
        if not self._in_training:
            raise RuntimeError(
                "TrainerObjective reads the Trainer's arguments, updates an AdaptiveLDM and writes checkpoints through "
                "its callback, and the Trainer has none: pass callbacks=[objective.callback]. In a loop of your own, "
                "leave num_items_in_batch out and call ldm.update."
            )

    def record(self, parts: dict[str, Tensor]) -> None:
        """Add one batch's terms of the loss to the sums since the last log."""
        if self._in_training:
            for name, value in parts.items():
                self._sums[name] = self._sums.get(name, 0) + value.detach() * self._scale

    def count(self, labels: Tensor, logits: Tensor, *, takes_coarse_labels: bool = False) -> None:
        """Add one evaluation batch to the confusion counts; of coarse labels, which are no classes, nothing."""
        if self._in_training and isinstance(self.ldm, AdaptiveLDM):
            num_rows = _num_new_rows(len(labels))
            labels, logits = labels[:num_rows].detach(), logits[:num_rows].detach()
            if takes_coarse_labels:
                is_fine = labels < logits.shape[1]
                labels, logits = labels[is_fine], logits[is_fine]
            self._counted.append((labels, logits.argmax(dim=1)))

    def use_arguments(self, args: Any) -> None:
        """Take from the Trainer's arguments what changes the loss."""
        self._objective.smooth_labels(args.label_smoothing_factor)

    def on_init_end(self, args, state, control, **kwargs):
        """Evaluations before any training have the loss of the training."""
        self.use_arguments(args)

    def on_train_begin(self, args, state, control, train_dataloader=None, model=None, optimizer=None, **kwargs):
        """See that this training can use the objective; begin with the state of the checkpoint or with a fresh one."""
        if args.n_gpu > 1:
            raise RuntimeError(
                f"TrainerObjective needs one process per GPU, got DataParallel over {args.n_gpu}: it would scatter "
                "views and labels apart. Start with torchrun, or set CUDA_VISIBLE_DEVICES to one GPU."
            )
        self.use_arguments(args)
        self._is_model_new = False
        if model is not None:
            self._is_model_new = self._objective.follow(model)
            self._check_evaluations_see_labels(args, model)
        self._check_optimizer(optimizer)
        super().on_train_begin(args, state, control, train_dataloader=train_dataloader, **kwargs)
        self._sums, self._last_logged_step = {}, state.global_step
        # What the Trainer multiplies the returned loss by.
        self._scale = num_processes() if args.average_tokens_across_devices else 1
        if self.trainer is not None and isinstance(self.ldm, AdaptiveLDM):
            sets = self.trainer.eval_dataset
            names = [f"eval_{name}" for name in sets] if isinstance(sets, dict) else ["eval"]
            if self._update_from not in names:
                self._refuse_evaluations(names)

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Forget the gradients of the loss's own weights: the Trainer forgets those of the model."""
        self._objective.losses.zero_grad()

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

    def _take_counts(self) -> Tensor | None:
        counted, self._counted = self._counted, []
        if not counted or self.ldm is None:
            return None
        # Once for all batches: with many classes the counts are large.
        labels, predictions = (torch.cat(column) for column in zip(*counted, strict=True))
        return confusion_counts(labels, predictions, self.ldm.num_classes)

    def _sum_counts(self, counts: Tensor | None, args: Any, state: Any) -> Tensor:
        if self._confusion is not None:
            return self._confusion
        ldm = self.ldm
        assert ldm is not None
        # A process that had no row to evaluate takes part: the others wait for it.
        counts = torch.zeros_like(ldm.matrix, dtype=torch.int64) if counts is None else counts
        check_agreement(ldm)
        counts = sum_over_processes(counts.to(args.device))
        if not counts.any():
            raise ValueError(
                f"An AdaptiveLDM learns from labels, and the evaluation {self._update_from!r} had none. Give its rows "
                "a column of labels, and name it in TrainingArguments(label_names=['labels'])."
            )
        return counts

    def _report(self, refreshed: dict[str, float], state: Any) -> None:
        if self.trainer is not None:
            self.trainer.log(refreshed)
        else:
            super()._report(refreshed, state)

    def _check_evaluations_see_labels(self, args: Any, model: nn.Module) -> None:
        """Raise where the Trainer would evaluate without labels, and so without a loss."""
        if args.eval_strategy != "no" and args.label_names is None and not find_labels(_base_class(model)):
            raise ValueError(
                f"The Trainer looks for labels among the arguments of {type(model).__name__}.forward, and none is "
                "named so: its evaluations would have no loss. Set TrainingArguments(label_names=['labels'])."
            )

    def _check_optimizer(self, optimizer: Any) -> None:
        """Raise unless the weights of the loss itself are trained."""
        groups = [] if optimizer is None else optimizer.param_groups
        trained = {id(weight) for group in groups for weight in group["params"]}
        left_out = [name for name, weight in learned_weights(self._objective.losses) if id(weight) not in trained]
        if left_out:
            raise RuntimeError(
                f"The weights of the loss itself must be trained, and the Trainer's optimizer has no {left_out[0]!r}. "
                "Call objective.attach(trainer) before train(). With model_init or an optimizer of your own, put the "
                "loss's parameters into that optimizer."
            )


def _base_class(model: nn.Module) -> type:
    """The class whose `forward` the Trainer inspects: below adapters, that of the model they are on."""
    base = getattr(model, "get_base_model", None)
    return type(base()) if callable(base) else type(model)


def _num_new_rows(num_rows: int) -> int:
    """How many rows of this process's evaluation batch are counted for the first time.

    Accelerate fills up the last batches with rows that were seen already, so that all processes have equally many. The
    last step's rows, in the order of the processes, begin with the `remainder` that are new.
    """
    state = GradientState()
    if num_processes() == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return num_rows
    return min(num_rows, max(state.remainder - process_index() * num_rows, 0))
