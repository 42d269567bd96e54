"""Confidence intervals of fractions."""

import math
from dataclasses import dataclass

__all__ = ["Share", "share_of"]

# Two-sided 95 % quantile of the normal distribution.
Z = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A fraction of rows with its 95 % interval.

    Attributes:
        num: number of rows in the numerator.
        total: number of all rows, at least `num`.
        value: `num / total`, in [0, 1].
        low: lower end of the interval.
        high: upper end of the interval.
    """

    num: int
    total: int
    value: float
    low: float
    high: float


def share_of(num: int, total: int, *, repeats: float = 1.0) -> Share | None:
    r"""Compute a fraction and its 95 % score interval (Wilson, 1927).

    $$\frac{p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}$$

    with the fraction $p = \mathrm{num} / \mathrm{total}$ and $n = \mathrm{total} / \mathrm{repeats}$ rows.

    Unlike the interval of the normal approximation, it stays within [0, 1] and does not vanish if `num` is 0 or
    `total`.

    Args:
        num: number of rows in the numerator, in [0, total].
        total: number of all rows.
        repeats: mean number of times that each text occurs in these rows. Pooled runs have the same texts, so only
            `total / repeats` rows are independent.

    Returns:
        The fraction and its interval, or `None` without rows.

    Examples:
        >>> share = share_of(9, 10)
        >>> f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"
        '0.90 [0.60, 0.98]'
    """
    if not total:
        return None
    value, size = num / total, total / repeats
    center = (value + Z**2 / (2 * size)) / (1 + Z**2 / size)
    half = Z * math.sqrt(value * (1 - value) / size + Z**2 / (4 * size**2)) / (1 + Z**2 / size)
    # At 0 and 1 the end is exact; rounding would put it beside.
    low = 0.0 if num == 0 else max(0.0, center - half)
    high = 1.0 if num == total else min(1.0, center + half)
    return Share(num, total, value, low, high)
