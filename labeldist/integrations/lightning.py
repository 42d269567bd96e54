"""Label-distance contrastive learning inside Lightning. The loss needs nothing from here; an adaptive matrix does.

self.criterion = JointLoss(LabelDistanceContrastiveLoss(AdaptiveLDM(num_classes)))  # in the module's __init__
return {"logits": logits, "labels": labels}                                         # at the end of validation_step
trainer = Trainer(callbacks=[LabelDistanceCallback()])
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from labeldist.confusion import confusion_counts
from labeldist.distributed import check_agreement
from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix
from labeldist.samplers import LabelDistanceBatchSampler

try:
    import lightning
    from lightning.pytorch import Callback, LightningModule, Trainer
    from packaging.version import Version
except ImportError as error:
    raise ImportError(
        "labeldist.integrations.lightning needs lightning. Install it with: pip install 'labeldist[lightning]'"
    ) from error
if Version(lightning.__version__) < Version("2.5"):
    raise ImportError(
        f"labeldist.integrations.lightning needs lightning >= 2.5, got {lightning.__version__}. "
        "Upgrade it with: pip install -U 'labeldist[lightning]'"
    )

__all__ = ["LabelDistanceCallback"]


class LabelDistanceCallback(Callback):
    r"""Refreshes the module's `AdaptiveLDM` from the confusions of each validation epoch.

    The matrix is found wherever it stands in the `LightningModule` (`self.criterion = ...` registers it), so it moves
    to the device and into checkpoints with the module, and a resumed training goes on with it. A module whose matrix
    is static is left as it is.

    `validation_step` returns a mapping with `"logits"`, `(B, C)`, and `"labels"`, `(B,)`, beside whatever else. What
    `trainer.validate` and the sanity check before training see does not move the matrix. Several processes each bring
    the rows that they validated; `AdaptiveLDM.update` sums their counts.

    `progress` of Algorithm 1 is the share of training that is done: batches of `max_epochs`, or optimizer steps of
    `max_steps`, whichever ends training first.

    A `LabelDistanceBatchSampler` in the training loader is told its epoch, which Lightning tells row samplers only: a
    resumed training then goes on with the batches that were to come.

    Logs, after each refresh, `ldm_mean` (mean distance between different classes) and `ldm_epsilon` (the step size),
    as the module's own metrics are logged.

    Args:
        dataloader_idx: the validation loader that counts, where there are several.

    Raises:
        ValueError: at the start of `fit`, if the module has no label-distance matrix, more than one adaptive one, or
            if neither `max_epochs` nor `max_steps` says how long training will be; on all processes, if their matrices
            differ.

    Examples:
        >>> callback = LabelDistanceCallback()
        >>> callback.dataloader_idx
        0
    """

    def __init__(self, *, dataloader_idx: int = 0):
        self.dataloader_idx = dataloader_idx
        self._ldm: AdaptiveLDM | None = None
        self._counts: Tensor | None = None
        self._batches_of_epoch = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that the processes begin with one matrix: `DistributedDataParallel` would take the first one's unsaid."""
        if stage == "fit":
            # Those that learn are the strategy's to send round, like any weight.
            fixed = [matrix for matrix in _matrices_of(pl_module) if not list(matrix.parameters())]
            check_agreement(nn.ModuleList(fixed))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the matrix, and what training's length is told by."""
        self._ldm = _adaptive_matrix(pl_module)
        if self._ldm is not None and trainer.max_epochs in (None, -1) and trainer.max_steps == -1:
            raise ValueError(
                "The steps of an AdaptiveLDM shrink with the share of training that is done, and neither max_epochs "
                "nor max_steps is set: give the Trainer one of them."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the sampler its epoch."""
        _tell_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the place in the epoch."""
        self._batches_of_epoch = batch_idx + 1

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count, inside `fit` and after the sanity check."""
        is_training = trainer.state.fn == "fit" and not trainer.sanity_checking
        self._counts = None
        if is_training and self._ldm is not None:
            size = self._ldm.num_classes
            self._counts = torch.zeros(size, size, dtype=torch.int64, device=self._ldm.matrix.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count what `validation_step` returned."""
        if self._counts is None or dataloader_idx != self.dataloader_idx:
            return
        labels, logits = _labels_and_logits(outputs, pl_module)
        num_classes = len(self._counts)
        if logits.ndim != 2 or logits.shape[1] != num_classes:
            raise ValueError(
                f"validation_step must return logits of shape (B, {num_classes}), one column a class of the LDM, got "
                f"{tuple(logits.shape)}."
            )
        self._counts += confusion_counts(labels, logits.argmax(dim=1), num_classes).to(self._counts.device)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refresh the matrix and log it."""
        counts, self._counts = self._counts, None
        if self._ldm is None or counts is None:
            return
        # Validation runs in inference mode; buffers made there could not be written to later.
        with torch.inference_mode(False):
            moved = self._ldm.update(counts.clone(), progress=self._progress(trainer))
        if moved:
            # The same on all processes: the mean over them costs nothing and keeps Lightning from warning.
            values = {"ldm_mean": self._ldm.mean_off_diagonal, "ldm_epsilon": self._ldm.epsilon}
            pl_module.log_dict(values, sync_dist=True)

    def _progress(self, trainer: Trainer) -> float:
        shares = [0.0]
        if trainer.max_steps != -1:
            shares.append(trainer.global_step / trainer.max_steps)
        if trainer.max_epochs not in (None, -1):
            # A loader of unknown length: its epoch counts when it is over.
            length = trainer.num_training_batches
            of_epoch = 1.0 if trainer.is_last_batch else self._batches_of_epoch / length
            shares.append((trainer.current_epoch + of_epoch) / trainer.max_epochs)
        return min(max(shares), 1.0)


def _tell_epoch(trainer: Trainer) -> None:
    for loader in tree_leaves(trainer.train_dataloader):
        sampler = getattr(loader, "batch_sampler", None)
        if isinstance(sampler, LabelDistanceBatchSampler):
            sampler.set_epoch(trainer.current_epoch)


def _matrices_of(module: LightningModule) -> list[LabelDistanceMatrix]:
    return [part for part in module.modules() if isinstance(part, LabelDistanceMatrix)]


def _adaptive_matrix(module: LightningModule) -> AdaptiveLDM | None:
    matrices = _matrices_of(module)
    if not matrices:
        raise ValueError(
            f"{type(module).__name__} has no label-distance matrix for LabelDistanceCallback to refresh. Keep the loss "
            "as an attribute: self.criterion = LabelDistanceContrastiveLoss(AdaptiveLDM(num_classes))."
        )
    adaptive = [matrix for matrix in matrices if isinstance(matrix, AdaptiveLDM)]
    if len(adaptive) > 1:
        raise ValueError(
            f"{type(module).__name__} must have one AdaptiveLDM, got {len(adaptive)}: share one between its losses."
        )
    return adaptive[0] if adaptive else None


def _labels_and_logits(outputs: Any, module: LightningModule) -> tuple[Tensor, Tensor]:
    if not isinstance(outputs, Mapping) or not {"labels", "logits"} <= outputs.keys():
        got = sorted(map(str, outputs)) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise ValueError(
            f"{type(module).__name__}.validation_step must return a mapping with 'logits' and 'labels', from which "
            f'LabelDistanceCallback counts confusions, got {got}: return {{"logits": logits, "labels": labels}}.'
        )
    return outputs["labels"], outputs["logits"]
