"""The Trainer with cached gradients: large batches, one chunk's activations at a time."""

from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from labeldist.checks import check_count
from labeldist.integrations.transformers.objective import TrainerObjective

__all__ = ["CachedTrainer"]


class CachedTrainer(Trainer):
    r"""A Trainer for batches that do not fit in memory: it holds the activations of one chunk at a time.

    The contrastive loss compares all `per_device_train_batch_size` rows. Loss, gradient and log equal those of the
    Trainer with that batch, at the cost of a second forward pass: see `labeldist.CachedGradients`. Evaluations and
    predictions work as in the Trainer.

    `gradient_accumulation_steps` is not needed to save memory. If it is set, the rows of each micro-batch are compared
    only with each other, as in the Trainer.

    Args:
        *args: arguments of the Trainer.
        chunk_size: number of rows that are encoded together in training, >= 1; each view of a text is a row.
        **kwargs: arguments of the Trainer, with a `TrainerObjective` as `compute_loss_func`.

    Raises:
        TypeError: if `compute_loss_func` is not a `TrainerObjective`, or `chunk_size` is not an integer.
        ValueError: if `chunk_size` is below 1, or FSDP or DeepSpeed shards the model.
    """

    def __init__(self, *args: Any, chunk_size: int, **kwargs: Any):
        check_count("chunk_size", chunk_size)
        super().__init__(*args, **kwargs)
        if not isinstance(self.compute_loss_func, TrainerObjective):
            raise TypeError(
                "CachedTrainer needs a TrainerObjective, which knows the embeddings of a chunk, got compute_loss_func "
                f"= {self.compute_loss_func!r}. Pass compute_loss_func=TrainerObjective(loss, model)."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "CachedTrainer encodes a batch twice, which FSDP and DeepSpeed do not support. Train with "
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
        """Compute the loss of a batch. In training, the batch is encoded in chunks."""
        encode: Any = model
        if self._objective.model.training:
            encode = self._objective.in_chunks(model, self.chunk_size)
        # The Trainer's own method only calls its `model`, so a function serves.
        return super().compute_loss(encode, inputs, return_outputs, num_items_in_batch)
