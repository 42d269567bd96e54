"""Convert between an entry of a label-distance matrix and a difference of cosines."""

import math

import torch

from labeldist.checks import check_temperature
from labeldist.ldm.distances import check_max_distance

__all__ = ["cosine_gap", "max_distance_for"]


def max_distance_for(gap: float, *, temperature: float) -> float:
    r"""Compute the entry that lowers the cosine of a class pair by `gap`: $m = e^{\mathrm{gap} / (2T)}$.

    This holds for `weighting="log"` at the optimum, if all rows of a class have the same embedding: there
    $\mathrm{LDM}_{ab}\, e^{S_{ab} / T}$ is the same for all pairs of classes. $S$ is $(\cos + 1) / 2$, so an entry of
    $m$ changes the cosine of its pair by $-2 T \log m$.

    Args:
        gap: decrease of the cosine, in [-2, 2]; negative for an entry below 1.
        temperature: temperature $T$ of the loss, > 0.

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
    r"""Compute by how much an entry $m$ lowers the cosine of its class pair with `weighting="log"`: $2 T \log m$.

    This is the inverse of `max_distance_for`.

    Examples:
        >>> round(cosine_gap(5.0, temperature=0.1), 2)
        0.32
    """
    check_temperature(temperature)
    check_max_distance(entry)
    return 2 * temperature * math.log(entry)
