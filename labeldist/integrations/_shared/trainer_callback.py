"""What a loss needs between the steps of a Hugging Face Trainer, which sentence-transformers uses as well."""

import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from labeldist.integrations._shared.gradients import learned_weights
from labeldist.integrations._shared.matrices import main_matrix
from labeldist.integrations._shared.state import load_state, read_notes, read_state, state_of, write_state
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix
from labeldist.samplers import LabelDistanceBatchSampler

STATE_FILE = "label_distance.safetensors"
RECORD = "label_distance"


class LossCallback(TrainerCallback, ABC):
    """Updates an adaptive matrix from one evaluation, and keeps the state of a loss in the Trainer's checkpoints.

    A new training restores the initial matrix and queue. A resumed training restores them, the loss's weights, and the
    batch sampler from the checkpoint.

    A subclass says where confusion counts come from (`_take_counts`, `_sum_counts`) and where logs go (`_report`).

    Args:
        loss: the loss whose state is kept.
        exclude: a part of the loss that the Trainer saves itself, by name.
        update_from: the evaluation that updates an adaptive matrix, by its `metric_key_prefix`. Others do not count.
    """

    def __init__(self, loss: nn.Module, *, exclude: str | None = None, update_from: str = "eval"):
        self._loss = loss
        self._exclude = exclude
        self._update_from = update_from
        self._in_training = False
        # Whether this training has another model than the one before.
        self._is_model_new = False
        # State before the first training; `None` until it begins.
        self._initial_state: dict[str, Any] | None = None
        self._record: _TrainingRecord = _TrainingRecord.begin(Path(), resumed=None)
        self._file_name = STATE_FILE
        self._began: tuple[int, float] = 0, 0.0
        self._updated_at: int | None = None
        self._other_evaluations: list[str] = []

    @property
    def ldm(self) -> LabelDistanceMatrix | None:
        """The matrix of the loss, through any wrappers around it."""
        return main_matrix(self._loss, "The loss")

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Take the state of the loss from the checkpoint that is resumed, or begin with a fresh one.

        Weights of the loss go on where the model does, and begin anew with a new model (`model_init`).
        """
        if isinstance(self.ldm, AdaptiveLDM) and args.eval_strategy == "no":
            raise ValueError(
                "An AdaptiveLDM learns from evaluations, and eval_strategy is 'no': set 'epoch' or 'steps'."
            )
        self._in_training = True
        self._began = state.global_step, state.epoch or 0.0
        self._updated_at, self._other_evaluations = None, []
        self._take_counts()
        number = self._register(args, state)
        self._file_name = STATE_FILE if number == 1 else STATE_FILE.replace(".", f"-{number}.")
        begun_before = self._initial_state is not None
        if self._initial_state is None:
            self._initial_state = state_of(self._loss, exclude=self._exclude)
        if state.global_step:
            self._resume(args, state, train_dataloader)
        elif begun_before:
            kept = set() if self._is_model_new else {name for name, _ in self._loss.named_parameters()}
            fresh = {name: value for name, value in self._initial_state.items() if name not in kept}
            whole = {**state_of(self._loss, exclude=self._exclude), **fresh}
            load_state(self._loss, whole, source="The state before training", exclude=self._exclude)

    def on_step_begin(self, args, state, control, **kwargs):
        """See that the evaluation that updates the matrix is among those that run."""
        self._take_counts()
        self._check_evaluations(args, state)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Update an adaptive matrix from the confusion counts of the evaluation named `update_from`."""
        counts, ldm = self._take_counts(), self.ldm
        if not self._in_training or not isinstance(ldm, AdaptiveLDM):
            return
        if not self._is_deciding(metrics or {}):
            self._other_evaluations += _names_of(metrics or {})
            return
        if self._updated_at == state.global_step:
            raise ValueError(
                f"One evaluation updates an AdaptiveLDM, got two named {self._update_from!r} at step "
                f"{state.global_step}. Give the other one a name of its own: "
                "trainer.evaluate(rows, metric_key_prefix='other')."
            )
        self._updated_at = state.global_step
        counts = self._sum_counts(counts, args, state)
        progress = min(state.global_step / state.max_steps, 1.0)
        if ldm.update(counts.to(ldm.matrix.device), progress=progress, is_local=False):
            self._report({"ldm_epsilon": ldm.epsilon, "ldm_mean": ldm.mean_off_diagonal}, state)

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        """Predictions are of rows that nothing is learned from."""
        self._take_counts()

    def on_save(self, args, state, control, train_dataloader=None, **kwargs):
        """Store the state of the loss beside the Trainer's own files."""
        saved = state_of(self._loss, exclude=self._exclude)
        if args.should_save and saved:
            folder = _checkpoint_of(args, state)
            if not folder.is_dir():
                # By their times or their steps, later checkpoints that were there before count as newer.
                warnings.warn(
                    f"The Trainer has deleted {folder}, which it had just written, to keep save_total_limit. Delete "
                    "the checkpoints of later steps before you resume from an older one.",
                    stacklevel=2,
                )
                return
            samplers = [sampler.epoch_state() for sampler in _samplers_in(train_dataloader)]
            write_state(folder / self._file_name, {"loss": saved, "samplers": samplers}, run=self._record.run)

    def on_train_end(self, args, state, control, **kwargs):
        """Take the weights of the loss that belong to the best model. Later evaluations do not move the matrix."""
        self._check_evaluations(args, state)
        self._in_training = False
        weights = [name for name, _ in self._weights()]
        if args.load_best_model_at_end and state.best_model_checkpoint and weights:
            path = Path(state.best_model_checkpoint) / self._file_name
            best = read_state(path)["loss"]
            whole = {**state_of(self._loss, exclude=self._exclude), **{name: best[name] for name in weights}}
            load_state(self._loss, whole, source=str(path), exclude=self._exclude)

    # Hooks for subclasses

    @abstractmethod
    def _take_counts(self) -> Tensor | None:
        """Return this process's confusion counts of the evaluation that just ended, and forget them."""

    @abstractmethod
    def _sum_counts(self, counts: Tensor | None, args: Any, state: Any) -> Tensor:
        """The counts of all processes; every process calls this."""

    def _is_deciding(self, metrics: Mapping[str, float]) -> bool:
        """Whether these are the metrics of the evaluation that updates the matrix."""
        return f"{self._update_from}_runtime" in metrics

    def _report(self, refreshed: dict[str, float], state: Any) -> None:
        """Log the update of the matrix."""
        state.log_history.append({**refreshed, "epoch": state.epoch, "step": state.global_step})

    # Checkpoints

    def _weights(self) -> list[tuple[str, nn.Parameter]]:
        """The weights of the loss itself, with their names."""
        kept = state_of(self._loss, exclude=self._exclude)
        return [(name, weight) for name, weight in learned_weights(self._loss) if name in kept]

    def _register(self, args: Any, state: Any) -> int:
        """Enter this callback in the training's record, in the Trainer's own state; returns its number, from 1."""
        record = state.stateful_callbacks.get(RECORD)
        if not isinstance(record, _TrainingRecord):
            # What stands there was read from the checkpoint that is resumed.
            record = _TrainingRecord.begin(Path(args.output_dir), resumed=record)
            state.stateful_callbacks[RECORD] = record
        self._record = record
        record.num_callbacks += 1
        return record.num_callbacks

    def _resume(self, args: Any, state: Any, train_dataloader: Any) -> None:
        if not state_of(self._loss, exclude=self._exclude):
            return
        saved = read_state(self._resumed_file(args, state))
        load_state(self._loss, saved["loss"], source="The checkpoint", exclude=self._exclude)
        for sampler, sampler_state in zip(_samplers_in(train_dataloader), saved["samplers"], strict=False):
            sampler.restore_epoch(sampler_state)

    def _resumed_file(self, args: Any, state: Any) -> Path:
        """The file of the checkpoint that is resumed. The Trainer does not tell where that is; its record does."""
        resumed = self._record.resumed or {}
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        expected = Path(args.output_dir) / name / self._file_name
        places = [expected]
        if isinstance(args.resume_from_checkpoint, str):
            places.insert(0, Path(args.resume_from_checkpoint) / self._file_name)
        if "folder" in resumed:
            places.append(Path(resumed["folder"]) / name / self._file_name)
        for place in places:
            if "run" in resumed and read_notes(place).get("run") == resumed["run"]:
                return place
        if not expected.is_file():
            raise FileNotFoundError(
                f"{expected} is missing. Resume from a checkpoint in output_dir that was saved with this callback."
            )
        read_state(expected)
        raise ValueError(
            f"{expected} must be of the checkpoint that is resumed, and is of another training. Set output_dir to the "
            "folder of that checkpoint, or name it in TrainingArguments(resume_from_checkpoint=...), too."
        )

    # Evaluations

    def _check_evaluations(self, args: Any, state: Any) -> None:
        """Raise if evaluations ran and the one that updates the matrix was due and is not among them."""
        if self._updated_at is not None or not self._other_evaluations or not isinstance(self.ldm, AdaptiveLDM):
            return
        step, epoch = self._began
        if args.eval_strategy == "epoch":
            is_due = int(state.epoch or 0.0) > int(epoch) and (state.epoch or 0.0) >= (args.eval_delay or 0)
        else:
            is_due = state.global_step // state.eval_steps > step // state.eval_steps
            is_due = is_due and state.global_step >= (args.eval_delay or 0)
        if is_due:
            self._refuse_evaluations(sorted(set(self._other_evaluations)))

    def _refuse_evaluations(self, names: list[str]) -> None:
        raise ValueError(
            f"An AdaptiveLDM is updated by the evaluation {self._update_from!r}, and the evaluations here are {names}. "
            "Pass the name of your validation set's as update_from."
        )


class _TrainingRecord(dict):
    """One training, in the form in which the Trainer stores the state of callbacks. JSON makes it a plain `dict`.

    Attributes:
        resumed: what stood in the checkpoint that is resumed: `run` and `folder`.
    """

    resumed: dict[str, Any] | None = None

    @classmethod
    def begin(cls, folder: Path, *, resumed: Any) -> "_TrainingRecord":
        """The record of a training that begins in `folder`."""
        about = {"run": uuid.uuid4().hex, "folder": str(folder.resolve()), "num_callbacks": 0}
        record = cls(args={}, attributes=about)
        record.resumed = resumed["attributes"] if isinstance(resumed, dict) else None
        return record

    @property
    def run(self) -> str:
        """A name that no other training has."""
        return self["attributes"]["run"]

    @property
    def num_callbacks(self) -> int:
        """Callbacks of losses in this training, each of which has a file of its own."""
        return self["attributes"]["num_callbacks"]

    @num_callbacks.setter
    def num_callbacks(self, number: int) -> None:
        self["attributes"]["num_callbacks"] = number


def _checkpoint_of(args: Any, state: Any) -> Path:
    """The folder of the checkpoint that the Trainer has just written."""
    name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
    folder = Path(args.output_dir) / name
    if state.is_hyper_param_search and not folder.is_dir():
        # Each trial of a search has a folder of its own, whose name the Trainer keeps to itself.
        trials = [path for path in Path(args.output_dir).glob(f"*/{name}") if path.is_dir()]
        return max(trials, key=lambda path: path.stat().st_mtime, default=folder)
    return folder


def _names_of(metrics: Mapping[str, float]) -> list[str]:
    """The `metric_key_prefix` of an evaluation, from its metrics."""
    return [key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime")]


def _samplers_in(loader: Any) -> Iterator[LabelDistanceBatchSampler]:
    """The samplers by label distance behind a data loader, through any wrappers around them."""
    if isinstance(loader, LabelDistanceBatchSampler):
        yield loader
        return
    for name in ("batch_sampler", "sampler", "batch_samplers"):
        inner = getattr(loader, name, None)
        for part in inner if isinstance(inner, list | tuple) else [inner]:
            if part is not None:
                yield from _samplers_in(part)
