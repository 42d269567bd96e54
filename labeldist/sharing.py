"""One label-distance loss on several processes: what must be the same on all of them, and how they share its work."""

import zlib
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from labeldist.distributed import WorldGroup, num_processes, require_same
from labeldist.ldm import LabelDistanceMatrix
from labeldist.losses import LabelDistanceContrastiveLoss

__all__ = ["check_same_loss", "sharded_pairs"]


def check_same_loss(module: nn.Module) -> None:
    """Raise on every process unless all hold the same label-distance matrices, to the bit, and the same settings.

    Looks for matrices and label-distance losses anywhere in `module`; without any, processes do not meet. Every process
    calls this. It costs one exchange of some bytes, and a copy of the matrix to the CPU.

    Args:
        module: a loss, a miner, a matrix, or what holds one.

    Raises:
        ValueError: on all processes, with the first difference.

    Examples:
        >>> from labeldist import StaticLDM
        >>> check_same_loss(LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=2)))
    """
    if num_processes() == 1:
        return
    found: dict[str, list[object]] = {}
    for part in module.modules():
        for name, value in _terms(part).items():
            found.setdefault(name, []).append(value)
    if found:
        values = {name: entries[0] if len(entries) == 1 else entries for name, entries in found.items()}
        require_same(
            values,
            "Build or load the same loss everywhere, call AdaptiveLDM.update on every process, and put a loss whose "
            "matrix learns into DistributedDataParallel.",
        )


def _terms(part: nn.Module) -> dict[str, object]:
    """What processes have to agree in, by name."""
    if isinstance(part, LabelDistanceMatrix):
        return {
            "number of classes": part.num_classes,
            "label-distance matrix": f"one with checksum {_checksum(part.matrix):08x}",
        }
    if isinstance(part, LabelDistanceContrastiveLoss):
        return {"temperature": part.temperature, "weighting": part.weighting, "backend": part.backend}
    return {}


def _checksum(matrix: Tensor) -> int:
    entries = matrix.detach().cpu().contiguous().view(torch.uint8)  # numpy has no bfloat16
    return zlib.crc32(entries.numpy().tobytes())


def sharded_pairs(loss: nn.Module) -> AbstractContextManager[None]:
    """While it holds, the processes share the pairs of a `LabelDistanceContrastiveLoss`; of another loss they do not.

    Every process then calls the loss with the same rows in the same order, those that `gather_rows` returns.

    Args:
        loss: any loss. Only of the class itself is it known that it takes the rows as they are: one inside another
            module is not shared.

    Examples:
        >>> from labeldist import StaticLDM
        >>> loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=2))
        >>> with sharded_pairs(loss):
        ...     loss(torch.randn(4, 8), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([])
    """
    if num_processes() > 1 and isinstance(loss, LabelDistanceContrastiveLoss):
        return loss.sharded_over(WorldGroup())
    return nullcontext()
