"""The mean of contrastive losses on the same rows: one for each level of a relation."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from labeldist.distributed import ProcessGroup
from labeldist.losses import LabelDistanceContrastiveLoss

__all__ = ["LevelContrast"]


class LevelContrast(nn.Module):
    r"""The mean of contrastive losses: $L = \frac{1}{K} \sum_k L_k$, with one loss for each table of `Relation.levels`.

    Args:
        losses: K losses, at least one, called as `loss(embeddings, labels)`.

    Examples:
        >>> from labeldist import Relation, StaticLDM
        >>> ones = StaticLDM.uniform(num_classes=3)
        >>> levels = Relation.from_groups([[0, 1]], num_classes=3, closeness=0.5).levels()
        >>> loss = LevelContrast([LabelDistanceContrastiveLoss(ones, relevance=table) for table in levels])
        >>> loss(torch.randn(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])).shape
        torch.Size([])
    """

    def __init__(self, losses: Sequence[LabelDistanceContrastiveLoss]):
        super().__init__()
        self.losses = nn.ModuleList(losses)

    @contextmanager
    def sharded_over(self, group: ProcessGroup) -> Iterator[None]:
        """Context manager in which the processes divide the pairs of each loss among themselves.

        See `LabelDistanceContrastiveLoss.sharded_over`.
        """
        with ExitStack() as contexts:
            for loss in self.losses:
                assert isinstance(loss, LabelDistanceContrastiveLoss)
                contexts.enter_context(loss.sharded_over(group))
            yield

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of the losses.

        Args:
            embeddings: `(B, D)`.
            labels: `(B,)`, integer, in [0, C).

        Returns:
            Scalar, in nats.
        """
        return torch.stack([loss(embeddings, labels) for loss in self.losses]).mean()
