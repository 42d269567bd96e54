"""What the objective does between the Trainer's steps: logs, the adaptive matrix, checkpoints."""

from pathlib import Path
from typing import Any

import torch
from accelerate.state import GradientState
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from labeldist.confusion import confusion_counts
from labeldist.distributed import check_agreement, num_processes, process_index, sum_over_processes
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix

__all__ = ["LabelDistanceCallback"]

STATE_FILE = "label_distance.safetensors"


class LabelDistanceCallback(TrainerCallback):
    """Logs the loss's parts, refreshes an adaptive matrix after evaluations, and stores the matrix in checkpoints.

    Made by `TrainerObjective`. Adds to the Trainer's logs and `state.log_history`: `cross_entropy` and `contrastive`
    (means since the last log, over all processes), and after each refresh `ldm_epsilon` and `ldm_mean` (mean distance
    between different classes).
    """

    def __init__(self, ldm: LabelDistanceMatrix | None, confusion: Tensor | None = None):
        self.trainer: Trainer | None = None
        self._ldm = ldm
        self._confusion = confusion
        self._counts: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._last_logged_step = 0
        self._scale = 1
        self._in_training = False

    def check_in_use(self) -> None:
        """Raise `RuntimeError` if a Trainer trains without this callback, so that an adaptive matrix stays as it is."""
        if not self._in_training and isinstance(self._ldm, AdaptiveLDM):
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
        if self._in_training and isinstance(self._ldm, AdaptiveLDM):
            num_rows = _rows_that_count(len(labels))
            counts = confusion_counts(labels[:num_rows], logits[:num_rows].argmax(dim=1), logits.shape[1])
            self._counts = counts if self._counts is None else self._counts + counts

    def on_train_begin(self, args, state, control, **kwargs):
        """On resuming, take the matrix from the checkpoint."""
        ldm = self._ldm
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
        ldm = self._ldm
        if not self._in_training or not isinstance(ldm, AdaptiveLDM):
            return
        if self._confusion is not None:
            counts = self._confusion
        else:
            # A process that had no row to evaluate takes part: the others wait for it.
            counts = torch.zeros_like(ldm.matrix, dtype=torch.int64) if counts is None else counts
            check_agreement(ldm)
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
        if self._ldm is not None and args.should_save:
            path = _checkpoint(args, state) / STATE_FILE
            partial = path.with_name(path.name + ".partial")
            save_file(self._ldm.state_dict(), partial)
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
