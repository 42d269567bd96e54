"""The Hugging Face Trainer as a run needs it: it stops when training diverges, and its bar is quiet."""

import math
import time
from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_callback import ProgressCallback, TrainerCallback

from labeldist.distributed import sum_over_processes
from labeldist.integrations.transformers import CachedTrainer
from labeldist.training import processes
from labeldist.training.output.progress import Tell

__all__ = [
    "CheckpointsByTime",
    "LossCheck",
    "LossNotFiniteError",
    "QuietProgress",
    "StoppingCachedTrainer",
    "StoppingTrainer",
    "ToldProgress",
]

# Of work that a kill may cost a training without validation rows; how often its time is looked at.
CHECKPOINT_EVERY_S, LOOKS_AT_TIME = 60.0, 20


class LossNotFiniteError(Exception):
    """Stops the Trainer.

    Args:
        step: whose loss was NaN or infinite, counted from 1.
    """

    def __init__(self, step: int):
        super().__init__(f"the loss of step {step} is NaN or infinite")
        self.step = step


class _Later:
    """A number on a device, to be read later. Reading does not wait for work that the device got after it."""

    def __init__(self, number: Tensor):
        self._number = number.to("cpu", non_blocking=True)
        self._is_there = None
        if number.is_cuda:
            self._is_there = torch.cuda.Event()
            self._is_there.record()

    def read(self) -> int:
        if self._is_there is not None:
            self._is_there.synchronize()
        return int(self._number)


class StoppingTrainer(Trainer):
    """Stops soon after the first loss that is NaN or infinite: no later step makes up for it.

    A loss is looked at only after the next step has been sent to the GPU, so that the GPU does not wait for the host.
    `LossCheck` looks at it earlier where something is logged, evaluated or saved.

    Attributes:
        head_learning_rate: of everything but the encoder; that of the encoder if `None`.
    """

    head_learning_rate: float | None = None
    _unchecked: tuple[int, _Later] | None = None
    _per_token: int | None = None

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's optimizer, with groups of their own for what is not the encoder."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self.head_learning_rate is not None:
            model = self.accelerator.unwrap_model(self.model)
            encoder = {id(parameter) for parameter in model.encoder.parameters()}
            for group in list(optimizer.param_groups):
                heads = [parameter for parameter in group["params"] if id(parameter) not in encoder]
                if heads:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) in encoder]
                    optimizer.add_param_group({**group, "params": heads, "lr": self.head_learning_rate})
        return optimizer

    def get_train_dataloader(self) -> Any:
        """The Trainer's batches. A training by steps drops the rows left over at the end of an epoch.

        They would be a batch of their own, of a single row perhaps, and few rows have many epochs. Which rows are left
        over differs from epoch to epoch.
        """
        rows, size = self.train_dataset, self.args.train_batch_size * self.args.world_size
        self.args.dataloader_drop_last = self.args.max_steps > 0 and isinstance(rows, Sized) and len(rows) >= size
        try:
            return super().get_train_dataloader()
        finally:
            # Evaluations go by it, too.
            self.args.dataloader_drop_last = False

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The Trainer's count. The Trainer would count the weights again at each step."""
        tokens = inputs["input_ids"].numel()
        if self._per_token is None:
            self._per_token = super().floating_point_ops(inputs) // tokens
        return self._per_token * tokens

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One step; raises `LossNotFiniteError` for the step before."""
        loss = super().training_step(*args, **kwargs)
        self.check_loss()
        # All processes stop together: one that went on would wait for the others forever.
        num_wrong = sum_over_processes((~torch.isfinite(loss.detach())).sum())
        self._unchecked = self.state.global_step + 1, _Later(num_wrong)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate. The mean loss leaves out losses that are not finite; in training, this would wait at each step."""
        self.args.logging_nan_inf_filter = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.args.logging_nan_inf_filter = False

    def check_loss(self) -> None:
        """Raise `LossNotFiniteError` if the loss of the newest step was NaN or infinite."""
        unchecked, self._unchecked = self._unchecked, None
        if unchecked is not None and unchecked[1].read():
            raise LossNotFiniteError(unchecked[0])


class StoppingCachedTrainer(StoppingTrainer, CachedTrainer):
    """The same for batches in chunks."""


class LossCheck(TrainerCallback):
    """Looks at the newest loss before it is logged, and before weights that it made are evaluated or saved.

    Comes after every callback that asks for such a thing.

    Args:
        trainer: whose loss it is.
    """

    def __init__(self, trainer: StoppingTrainer):
        self._trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        """Look, if there is a reason to."""
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
            self._trainer.check_loss()

    # Not at every end of an epoch: an epoch of few rows is a single step.
    on_epoch_end = on_step_end


class CheckpointsByTime(TrainerCallback):
    """A checkpoint each minute: a training that is over sooner writes none, which would take as long as its steps."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the time."""
        self._saved = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Save if it is time."""
        if state.global_step % max(1, state.max_steps // LOOKS_AT_TIME) == 0:
            # All processes save together, by the clock of one.
            control.should_save = processes.broadcast(time.monotonic() - self._saved >= CHECKPOINT_EVERY_S)

    def on_save(self, args, state, control, **kwargs):
        """Start the time again."""
        self._saved = time.monotonic()


class QuietProgress(ProgressCallback):
    """The Trainer's progress bar, with the newest accuracy beside it in place of printed dictionaries.

    Args:
        title: what stands before the bar.
    """

    def __init__(self, title: str = "training"):
        super().__init__()
        self._title = title

    def on_train_begin(self, args, state, control, **kwargs):
        """Draw the bar."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            # Gone when it is done, as all other bars are.
            self.training_bar.leave = False
            self.training_bar.set_description(self._title)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print nothing."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Show the newest validation accuracy at the end of the bar."""
        super().on_evaluate(args, state, control, **kwargs)
        if self.training_bar is not None and (found := _accuracy_of(metrics)):
            self.training_bar.set_postfix_str(f"validation {found}")


class ToldProgress(TrainerCallback):
    """How far training is, in words, for what is no terminal.

    Args:
        tell: is told after each step, on the main process.
        title: what is trained.
    """

    def __init__(self, tell: Tell, title: str = "training"):
        self._tell, self._title = tell, title
        self._found = ""

    def on_step_end(self, args, state, control, **kwargs):
        """Tell the step, and what the newest evaluation found."""
        if state.is_world_process_zero:
            self._tell(f"{self._title}: step {state.global_step:,} of {state.max_steps:,}{self._found}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Keep the newest accuracy."""
        if found := _accuracy_of(metrics):
            self._found = f", validation accuracy {found}"


def _accuracy_of(metrics: dict[str, float] | None) -> str:
    accuracy = (metrics or {}).get("eval_accuracy", math.nan)
    return "" if math.isnan(accuracy) else f"{100 * accuracy:.1f} %"
