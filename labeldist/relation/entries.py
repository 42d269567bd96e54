"""What an entry of a label-distance matrix means: an angle between two classes."""

import math

import torch

from labeldist.checks import check_temperature
from labeldist.ldm.distances import check_max_distance

__all__ = ["cosine_gap", "max_distance_for"]


def max_distance_for(gap: float, *, temperature: float) -> float:
    r"""The entry that shifts the cosine of a class pair by `-gap` in `"log"` weighting: $m = e^{\mathrm{gap} / (2T)}$.

    With classes as points, the loss with `weighting="log"` is stationary where $\mathrm{LDM}_{ab}\, e^{S_{ab} / T}$ is
    the same for all pairs. $S$ is half of the cosine, plus a half, so an entry of $m$ moves the pair's cosine by
    $-2 T \log m$: an entry is an angle, not a strength.

    Args:
        gap: by how much the cosine falls, in [-2, 2]; negative for an entry below 1.
        temperature: $T > 0$ of the loss.

    Returns:
        The entry, > 0.

    Raises:
        ValueError: if an argument is out of range.

    Examples:
        >>> round(max_distance_for(0.5, temperature=0.1), 2)
        12.18
    """
    check_temperature(temperature)
    if not -2 <= gap <= 2:
        raise ValueError(f"gap must lie in [-2, 2], the range of a difference of cosines, got {gap}.")
    if gap / (2 * temperature) > math.log(torch.finfo(torch.float32).max):
        raise ValueError(
            f"An entry for a gap of {gap} at temperature {temperature} is too large for float32. Raise the temperature "
            "or lower the gap."
        )
    return math.exp(gap / (2 * temperature))


def cosine_gap(entry: float, *, temperature: float) -> float:
    r"""By how much an entry lowers the cosine of its class pair in `"log"` weighting, $2 T \log m$.

    The inverse of `max_distance_for`.

    Examples:
        >>> round(cosine_gap(5.0, temperature=0.1), 2)
        0.32
    """
    check_temperature(temperature)
    check_max_distance(entry)
    return 2 * temperature * math.log(entry)
