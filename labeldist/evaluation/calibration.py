"""Temperature scaling, which calibrates probabilities, and measures of calibration."""

import math

import torch
from torch import Tensor

from labeldist.checks import check_count, check_labels, check_temperature
from labeldist.confusion import ArrayLike
from labeldist.evaluation.decisions import checked_probabilities

__all__ = ["calibrate", "expected_calibration_error", "fit_temperature", "negative_log_likelihood"]

MAX_TEMPERATURE = 100.0
"""Temperatures are fitted in [1 / 100, 100]."""
_ITERATIONS = 40


def calibrate(probabilities: ArrayLike, temperature: float) -> Tensor:
    r"""Change the temperature of probabilities: $\operatorname{softmax}(z / T)$ instead of $\operatorname{softmax}(z)$.

    Eq. 9 of Guo et al. The logits $z$ are not needed, because the result equals $p_c^{1/T} / \sum_b p_b^{1/T}$. The
    order of the classes in a row does not change, so the most probable class stays the same. Decisions by cost may
    change.

    Args:
        probabilities: `(N, C)`, non-negative; each row sums to 1.
        temperature: $T > 0$; above 1 the probabilities become more equal. See `fit_temperature`.

    Returns:
        `(N, C)`, with the dtype of `probabilities`.

    Raises:
        ValueError: if an argument is out of range.

    Examples:
        >>> calibrate([[0.8, 0.2]], 2.0)
        tensor([[0.6667, 0.3333]])

    References:
        Guo, Pleiss, Sun and Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017.
    """
    check_temperature(temperature)
    given = torch.as_tensor(probabilities)
    # Where a probability is 0 its logarithm is minus infinity, and it stays 0.
    return (checked_probabilities(given).log() / temperature).softmax(dim=1).to(given.dtype)


@torch.no_grad()
def fit_temperature(probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""Find the maximum-likelihood temperature of held-out rows, $\operatorname{argmin}_T -\sum_i \log p_i^{(T)}[y_i]$.

    Fit it on rows that the classifier was not trained on. Then `calibrate` the probabilities of other rows. The loss is
    convex in $1 / T$, so it has one minimum; bisection finds the zero of its derivative.

    Args:
        probabilities: `(N, C)`, non-negative; each row sums to 1.
        labels: true classes, `(N,)`, integer, in [0, C).

    Returns:
        $T$ in [1 / 100, 100], above 1 for an overconfident classifier. The result is 1 if there are no rows, or if the
        most probable class of every row is correct, because then the likelihood increases without bound as $T$ falls.

    Raises:
        ValueError: if lengths differ, or a class or a probability is out of range.
        TypeError: if the classes are not integers.

    Examples:
        >>> sure = [[0.99, 0.01]] * 4  # three of the four rows are correct
        >>> temperature = fit_temperature(sure, [0, 0, 0, 1])
        >>> round(temperature, 2), calibrate(sure[:1], temperature)
        (4.18, tensor([[0.7500, 0.2500]]))

    References:
        Guo, Pleiss, Sun and Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017.
    """
    logits, classes = _logits(probabilities, labels)
    if not len(logits):
        return 1.0
    true = logits.gather(1, classes[:, None])
    if bool((true[:, 0] >= logits.amax(dim=1)).all()):
        return 1.0

    def slope(inverse: float) -> float:
        """Derivative of the mean loss by 1 / T, which grows with 1 / T: expected less true logit."""
        return ((logits * inverse).softmax(dim=1).mul(logits).sum(dim=1) - true[:, 0]).mean().item()

    low, high = -math.log(MAX_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(_ITERATIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    temperature = math.exp(-(low + high) / 2)
    return temperature if _mean_loss(logits, classes, temperature) <= _mean_loss(logits, classes, 1.0) else 1.0


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike, *, temperature: float = 1.0) -> float:
    r"""Mean negative log-likelihood of the true classes, $-\frac1N \sum_i \log p_i[y_i]$, in nats.

    A probability of 0 is replaced by the smallest positive float32, because most such zeros come from rounding.

    Args:
        probabilities: `(N, C)`, non-negative; each row sums to 1.
        labels: true classes, `(N,)`, integer, in [0, C).
        temperature: temperature of the probabilities, > 0: see `calibrate`.

    Returns:
        The mean; NaN without rows.

    Raises:
        ValueError: if lengths differ, or an argument is out of range.
        TypeError: if the classes are not integers.

    Examples:
        >>> round(negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 3)
        0.49
    """
    check_temperature(temperature)
    return _mean_loss(*_logits(probabilities, labels), temperature)


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    r"""Mean absolute difference between the probability of the predicted class and the accuracy, in bins of rows.

    Eq. 3 of Guo et al.:

    $$\mathrm{ECE} = \sum_{m=1}^{M} \frac{|B_m|}{N}\, \bigl|\mathrm{acc}(B_m) - \mathrm{conf}(B_m)\bigr|$$

    $B_m$ is the set of rows whose largest probability lies in $((m - 1) / M, m / M]$, $\mathrm{acc}$ the fraction of
    these rows whose most probable class is correct, and $\mathrm{conf}$ the mean of their largest probabilities.

    Args:
        probabilities: `(N, C)`, non-negative; each row sums to 1.
        labels: true classes, `(N,)`, integer, in [0, C).
        num_bins: $M$, at least 1; 15 in the paper. With few rows in a bin the error is overestimated.

    Returns:
        In [0, 1]; NaN without rows.

    Raises:
        ValueError: if lengths differ, or an argument is out of range.
        TypeError: if the classes are not integers.

    Examples:
        >>> round(expected_calibration_error([[0.9, 0.1], [0.9, 0.1]], [0, 1]), 3)  # 90 % sure, right in 50 %
        0.4

    References:
        Guo, Pleiss, Sun and Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017.
    """
    check_count("num_bins", num_bins)
    table, classes = _checked(probabilities, labels)
    if not len(table):
        return math.nan
    confidence, predicted = table.max(dim=1)
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    gap = (predicted == classes).to(table) - confidence
    # The difference of the means of a bin, times its share, is the sum of its differences over N.
    return (torch.zeros(num_bins).to(table).index_add(0, bins, gap).abs().sum() / len(table)).item()


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Tensor, Tensor]:
    table = checked_probabilities(probabilities)
    classes = torch.as_tensor(labels)
    classes = (classes if classes.numel() else classes.long()).to(table.device)
    check_labels(classes, len(table), table.shape[1], rows="probabilities")
    return table, classes.long()


def _logits(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Tensor, Tensor]:
    table, classes = _checked(probabilities, labels)
    return table.clamp_min(torch.finfo(torch.float32).tiny).log(), classes


def _mean_loss(logits: Tensor, classes: Tensor, temperature: float) -> float:
    return torch.nn.functional.cross_entropy(logits / temperature, classes).item() if len(logits) else math.nan
