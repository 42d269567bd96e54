"""Groups of rows of similar length: on a CPU, padding takes as much time as text."""

import torch
from torch import Tensor

__all__ = ["groups_by_length"]

# A division must save this share of the tokens that are computed, padding included, and at least this many of them.
# Each group adds a gradient of the whole embedding table.
MIN_SAVING = 0.1
MIN_TOKENS_SAVED = 128
MAX_DIVISIONS = 3  # one after another: at most 2 ** MAX_DIVISIONS groups


def groups_by_length(mask: Tensor) -> list[tuple[Tensor, int]] | None:
    """Divide the rows of a padded batch so that few tokens of padding are computed.

    Args:
        mask: `(B, L)`, 1 for tokens and 0 for padding.

    Returns:
        Positions of each group's rows, and the length of its longest row; `None` if a row has padding before a token,
        or no token, or if a division would save little.

    Examples:
        >>> mask = torch.arange(100) < torch.tensor([2, 100, 3, 99])[:, None]
        >>> groups_by_length(mask)
        [(tensor([0, 2]), 3), (tensor([3, 1]), 100)]
    """
    num_rows, width = mask.shape
    is_token = mask != 0
    lengths = is_token.sum(dim=1)
    is_padded_behind = torch.equal(is_token, torch.arange(width) < lengths[:, None])
    if not is_padded_behind or not num_rows or not lengths.min():
        return None
    lengths, order = lengths.sort(stable=True)
    groups = _divided(lengths, MAX_DIVISIONS)
    return [(order[start:end], int(lengths[end - 1])) for start, end in groups] if len(groups) > 1 else None


def _divided(lengths: Tensor, divisions: int, start: int = 0) -> list[tuple[int, int]]:
    """Ranges of ascending lengths, each divided in two where that saves most."""
    number = len(lengths)
    whole = number * int(lengths[-1])
    if divisions and number > 1:
        sizes = torch.arange(1, number)
        tokens = sizes * lengths[:-1] + (number - sizes) * lengths[-1]
        least, place = tokens.min(dim=0)
        if whole - int(least) >= max(MIN_SAVING * whole, MIN_TOKENS_SAVED):
            size = int(place) + 1
            below = _divided(lengths[:size], divisions - 1, start)
            return below + _divided(lengths[size:], divisions - 1, start + size)
    return [(start, start + number)]
