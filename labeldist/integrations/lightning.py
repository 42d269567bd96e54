"""Label-distance contrastive learning inside Lightning. Only an adaptive matrix needs this module.

```python
# in __init__ of the module
contrastive = LabelDistanceContrastiveLoss(AdaptiveLDM(num_classes))
self.criterion = JointLoss(contrastive)

# at the end of validation_step
return {"logits": logits, "labels": labels}

# where the trainer is made
trainer = Trainer(callbacks=[LabelDistanceCallback()])
```
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

from labeldist.coarse import takes_coarse_labels
from labeldist.confusion import confusion_counts
from labeldist.distributed import check_agreement
from labeldist.integrations._shared.losses import QueueSnapshot
from labeldist.integrations._shared.matrices import check_class_names, main_matrix, matrices_in
from labeldist.integrations._shared.versions import imports_of
from labeldist.ldm import AdaptiveLDM
from labeldist.samplers import LabelDistanceBatchSampler

with imports_of("lightning", minimum="2.5", module="labeldist.integrations.lightning", extra="lightning"):
    import lightning  # noqa: F401
    from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["LabelDistanceCallback"]


class LabelDistanceCallback(Callback):
    r"""Updates the module's `AdaptiveLDM` from the confusion counts of each validation epoch.

    The matrix may be anywhere in the `LightningModule` (`self.criterion = ...` registers it), so it moves to the device
    and into checkpoints with the module, and a resumed training continues with it. A static matrix is left as it is.

    `validation_step` returns a mapping with `"logits"`, `(B, C)`, and `"labels"`, `(B,)`, and other entries if needed.
    Neither `trainer.validate` nor the sanity check before training updates the matrix. Each of several processes counts
    the rows that it validated; `AdaptiveLDM.update` sums their counts.

    `progress` of Algorithm 1 is the completed fraction of training: batches of `max_epochs`, or optimizer steps of
    `max_steps`, whichever ends training first.

    The callback calls `set_epoch` of a `LabelDistanceBatchSampler` in the training loader (Lightning calls it of row
    samplers only), so that a resumed training continues with the batches of its epoch.

    The loss may be called in `validation_step`: validation rows are removed from the queue of a `CrossBatchMemory`.

    Lightning's `WeightAveraging` and `EMAWeightAveraging`, before or after this callback, average the weights but not
    the matrix. The averaged model has the same `AdaptiveLDM`, which is updated from the confusions of the averaged
    weights.

    Logs, after each update, `ldm_mean` (mean distance between different classes) and `ldm_epsilon` (the step size),
    as the module's own metrics are logged.

    Args:
        dataloader_idx: which of several validation loaders updates the matrix. The others never do.

    Raises:
        ValueError: at the start of `fit`, if the module has no label-distance matrix or several adaptive ones; if the
            matrix and a model in the module have the same class names in different orders; if neither `max_epochs` nor
            `max_steps` is set; or, on all processes, if their matrices differ.

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
        self._queues: QueueSnapshot | None = None
        self._unaveraged: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that all processes have the same matrix: `DistributedDataParallel` would silently use the first."""
        if stage == "fit":
            # The strategy broadcasts matrices that are learned, like any weight.
            fixed = [matrix for matrix in matrices_in(pl_module) if not list(matrix.parameters())]
            check_agreement(nn.ModuleList(fixed))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the matrix, and check that the length of training is known."""
        self._ldm = _adaptive_matrix(pl_module)
        if self._ldm is not None and trainer.max_epochs in (None, -1) and trainer.max_steps == -1:
            raise ValueError(
                "The steps of an AdaptiveLDM shrink as training proceeds, and neither max_epochs nor max_steps is set: "
                "give the Trainer one of them."
            )
        self._unaveraged = None
        if self._ldm is not None and _share_with_averaged(trainer, pl_module, self._ldm):
            self._unaveraged = self._ldm.matrix.clone()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the epoch of the sampler."""
        _set_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the batches of the epoch."""
        self._batches_of_epoch = batch_idx + 1
        self._undo_averaging()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the queues of the loss, should `validation_step` call it."""
        self._undo_averaging()
        self._queues = QueueSnapshot(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the validation rows out of the queues."""
        if self._queues is not None:
            self._queues.restore()
        self._queues = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to count, inside `fit` and after the sanity check."""
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
                f"validation_step must return logits of shape (B, {num_classes}), one column per class of the LDM, got "
                f"{tuple(logits.shape)}."
            )
        if takes_coarse_labels(pl_module):
            # Coarse labels are no classes.
            labels, logits = labels[labels < num_classes], logits[labels < num_classes]
        self._counts += confusion_counts(labels, logits.argmax(dim=1), num_classes).to(self._counts.device)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update the matrix and log it."""
        counts, self._counts = self._counts, None
        if self._ldm is None or counts is None:
            return
        # Validation runs in inference mode; buffers made there could not be written to later.
        with torch.inference_mode(False):
            moved = self._ldm.update(counts.clone(), progress=self._progress(trainer))
            if self._unaveraged is not None:
                self._unaveraged.copy_(self._ldm.matrix)
        if moved:
            # Equal on all processes: sync_dist changes nothing, and Lightning warns without it.
            values = {"ldm_mean": self._ldm.mean_off_diagonal, "ldm_epsilon": self._ldm.epsilon}
            pl_module.log_dict(values, sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End with the matrix of the last update."""
        self._undo_averaging()

    def _undo_averaging(self) -> None:
        """Undo the rounding of an average of the matrix with itself, which adds up over many steps."""
        if self._ldm is not None and self._unaveraged is not None:
            with torch.inference_mode(False), torch.no_grad():
                self._ldm.matrix.copy_(self._unaveraged)

    def _progress(self, trainer: Trainer) -> float:
        shares = [0.0]
        if trainer.max_steps != -1:
            shares.append(trainer.global_step / trainer.max_steps)
        if trainer.max_epochs not in (None, -1):
            # Of a loader of unknown length only whole epochs count.
            length = trainer.num_training_batches
            of_epoch = 1.0 if trainer.is_last_batch else self._batches_of_epoch / length
            shares.append((trainer.current_epoch + of_epoch) / trainer.max_epochs)
        return min(max(shares), 1.0)


def _set_epoch(trainer: Trainer) -> None:
    for loader in tree_leaves(trainer.train_dataloader):
        sampler = getattr(loader, "batch_sampler", None)
        if isinstance(sampler, LabelDistanceBatchSampler):
            sampler.set_epoch(trainer.current_epoch)


def _adaptive_matrix(module: LightningModule) -> AdaptiveLDM | None:
    ldm = main_matrix(module, type(module).__name__)
    if ldm is None:
        raise ValueError(
            f"{type(module).__name__} has no label-distance matrix for LabelDistanceCallback to update. Keep the loss "
            "as an attribute: self.criterion = LabelDistanceContrastiveLoss(AdaptiveLDM(num_classes))."
        )
    check_class_names(module, ldm)
    return ldm if isinstance(ldm, AdaptiveLDM) else None


def _share_with_averaged(trainer: Trainer, module: LightningModule, ldm: AdaptiveLDM) -> bool:
    """Give the averaged copies of a module its own matrix; return whether there are any.

    `WeightAveraging` swaps the module's buffers with those of its copy around each validation: an update of the matrix
    would end in the copy, and training would never see it.
    """
    averaged = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    averaged = [model.module for model in averaged if isinstance(model, AveragedModel)]
    places = [name for name, part in module.named_modules(remove_duplicate=False) if part is ldm]
    for copy in averaged:
        for place in places:
            copy.set_submodule(place, ldm)
    return bool(averaged)


def _labels_and_logits(outputs: Any, module: LightningModule) -> tuple[Tensor, Tensor]:
    if not isinstance(outputs, Mapping) or not {"labels", "logits"} <= outputs.keys():
        got = sorted(map(str, outputs)) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise ValueError(
            f"{type(module).__name__}.validation_step must return a mapping with 'logits' and 'labels', from which "
            f'LabelDistanceCallback counts confusions, got {got}: return {{"logits": logits, "labels": labels}}.'
        )
    return outputs["labels"], outputs["logits"]
