"""Graded targets that are learned from confusion counts during training."""

from torch import Tensor, nn

from labeldist.ldm import AdaptiveLDM
from labeldist.relation.closeness import check_relevance_options, relevance_of

__all__ = ["AdaptiveRelevance"]


class AdaptiveRelevance(nn.Module):
    r"""Graded targets that follow an `AdaptiveLDM`: rows of classes that are confused become weak positives.

    Off the diagonal, a class pair has relevance $w\, c_{ab}$, or 0 where $c_{ab}$ is below `level`, with
    $w$ = `weight`, $m$ = `max_distance` and

    $$c_{ab} = \frac{\mathrm{LDM}_{ab} - 1}{m - 1}$$

    On the diagonal it is 1. All entries of the matrix start at 1, so the targets start as those of the paper. The
    matrix is updated as usual, by `AdaptiveLDM.update` or by the callback of an integration.

    Args:
        ldm: the matrix that learns, with `use="near"`, `normalization="rate"` and `max_distance` above 1.
        weight: the largest relevance that a pair can reach, finite and >= 0. An update moves the relevance of a pair
            only part of the way, as it does the matrix: late updates change little.
        level: smallest $c_{ab}$, in [0, 1], at which classes are relevant to each other.

    Raises:
        ValueError: if an option is out of range, or the matrix has other options than those above.
        TypeError: if `ldm` is no `AdaptiveLDM`.

    Examples:
        >>> import torch
        >>> from labeldist import AdaptiveLDM, LabelDistanceContrastiveLoss, StaticLDM
        >>> learned = AdaptiveLDM(3, warmup_fraction=0.0)
        >>> relevance = AdaptiveRelevance(learned, weight=0.1)
        >>> loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(1.0, num_classes=3), relevance=relevance)
        >>> learned.update(torch.tensor([[6, 4, 0], [4, 6, 0], [0, 0, 10]]), progress=0.5)
        True
        >>> relevance()  # halfway from the identity to 0.1 for the confused pair
        tensor([[1.0000, 0.0500, 0.0000],
                [0.0500, 1.0000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """

    def __init__(self, ldm: AdaptiveLDM, *, weight: float = 0.1, level: float = 0.0):
        super().__init__()
        check_relevance_options(weight, level)
        if not isinstance(ldm, AdaptiveLDM):
            raise TypeError(
                f"ldm must be an AdaptiveLDM, which learns from confusions, got {type(ldm).__name__}. For a fixed "
                "table pass Relation.relevance() to the loss."
            )
        if ldm.use != "near" or ldm.normalization != "rate" or not ldm.max_distance > 1:
            raise ValueError(
                "AdaptiveRelevance needs an AdaptiveLDM with use='near', normalization='rate' and max_distance above "
                f"1, got use={ldm.use!r}, normalization={ldm.normalization!r} and max_distance={ldm.max_distance}."
            )
        self.ldm = ldm
        self.weight = weight
        self.level = level

    def forward(self) -> Tensor:
        """The current table of relevance, `(C, C)`."""
        return self.table_of(self.ldm.matrix)

    def table_of(self, matrix: Tensor) -> Tensor:
        """The table of relevance for another state of the matrix, `(C, C)`, such as one of `AdaptiveLDM.history`."""
        closeness = ((matrix - 1) / (self.ldm.max_distance - 1)).clamp(0, 1)
        return relevance_of(closeness, self.weight, self.level)
