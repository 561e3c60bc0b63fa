"""Temperature scaling: one number, fitted on held-out items, that makes any guide's answers milder or sharper."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from blob_pyro.errors import ConfigError
from blob_pyro.evaluation.checks import SMALLEST_PROB, check_probabilities, checked
from blob_pyro.evaluation.predictions import Predictions

HIGHEST = 100.0
LOWEST = 1 / HIGHEST
GRID_STEPS = 50
BISECTIONS = 60
# An NLL that falls by less than this is rounding, not a better temperature.
SMALLEST_GAIN = 1e-12


@dataclass(frozen=True)
class Temperature:
    r"""Divides the logits of every draw by one number, then averages the draws as before.

    .. math:: p_T(y | x) = 1/S \sum_s softmax(log p_s(\cdot | x) / T)_y

    log p_s stands for the logits, from which it differs by a constant of each row; so any guide's `Predictions`
    can be scaled, and the network is not run again. T above 1 makes the answers milder, below 1 sharper.
    A single draw keeps its most probable class (two classes that come closer than float32 tells apart become a
    tie); the average of several draws may change its own.

    Probabilities below 1.2e-38 (float32's smallest normal number) count as that before the logarithm, so that one
    that underflowed to 0 has a logit 87.3 below that of certainty and grows with T like any other.

    Args:
        value: the temperature T, above 0. At exactly 1 predictions come back as they are.

    Raises:
        ConfigError: `value` is not a number above 0.

    Source: Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, arXiv 1706.04599, section 4.2.

    Valid for: any predictions with draws of probabilities.

    Cost against plain LoRA: one number, and held-out items to fit it on.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.8, 0.2]])
        >>> Temperature(2.0)(Predictions(probs, probs[None])).probs  # the odds of 4 become their square root, 2
        tensor([[0.6667, 0.3333]])
    """

    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise ConfigError(f"temperature: expected a number above 0; got {self.value}")

    @property
    def at_bound(self) -> bool:
        """Whether it lies at the end of the range that `fit_temperature` searches, so that no optimum was found."""
        return self.value in (LOWEST, HIGHEST)

    def __str__(self) -> str:
        """The number, and in words that it is no optimum where that is so."""
        if not self.at_bound:
            return f"T = {self.value:.4g}"
        end, why = ("top", "milder") if self.value == HIGHEST else ("bottom", "sharper")
        return f"T = {self.value:.4g}, the {end} of the range: the {why}, the better on the held-out items"

    def __call__(self, predictions: Predictions) -> Predictions:
        """Predictions at this temperature: same items, labels, number of draws and dtype.

        Raises:
            DataError: there are no items, or a row of probabilities is not one, as in `evaluate`.
        """
        check_probabilities(predictions)
        if self.value == 1.0:
            return predictions
        draws = (_log_probs(predictions.draws) / self.value).softmax(-1).to(predictions.draws.dtype)
        return Predictions(draws.mean(0), draws, predictions.labels, predictions.shares, predictions.index)


def fit_temperature(predictions: Predictions) -> Temperature:
    """The temperature with the lowest NLL of the averaged probabilities on held-out items.

    Searched between 1/100 and 100: 101 temperatures at equal ratios, among them 1, then 60 bisections of the NLL's
    derivative around the best of them. In 1/T the NLL of a single draw is convex, so that this is its minimum; that
    of several draws need not be, and then it is the minimum of the valley that holds the best of the 101. On the
    items given, the NLL is never above that at T = 1, and 1 is the answer where no other lowers it.

    There is no optimum inside the range where every held-out answer is right (the sharper, the better) or where
    confidence and correctness go against each other (the milder, the better). The bound is then returned, and
    `Temperature.at_bound` and ``str(temperature)`` say so. Take at least some hundred items, and none of those that
    were trained on: there a fine-tuned network is nearly always right.

    Args:
        predictions: n labelled items that were not trained on, under the guide and number of draws to be scaled.

    Returns:
        One temperature for all classes and draws.

    Raises:
        DataError: there are no items or no labels, or probabilities or labels are not valid, as in `evaluate`.

    Source: Guo et al., arXiv 1706.04599, section 4.2. They fit a single network's logits; the NLL of averaged draws
    is what `evaluate` reports, and is fitted here.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.99, 0.01]]).expand(4, 2)  # sure, and right three times out of four
        >>> temperature = fit_temperature(Predictions(probs, probs[None], labels=torch.tensor([0, 0, 0, 1])))
        >>> print(temperature)
        T = 4.183
        >>> round(temperature(Predictions(probs, probs[None])).probs[0, 0].item(), 4)
        0.75
    """
    _, labels = checked(predictions)
    log_probs = _log_probs(predictions.draws.cpu())

    def nll(log_temperature: float) -> tuple[float, float]:
        return mean_nll(log_probs, labels, log_temperature)

    grid = [math.log(HIGHEST) * step / GRID_STEPS for step in range(-GRID_STEPS, GRID_STEPS + 1)]
    values = [nll(point)[0] for point in grid]
    best = min(range(len(grid)), key=values.__getitem__)
    found = _root(nll, grid[max(best - 1, 0)], grid[best], grid[min(best + 1, len(grid) - 1)])
    lowest, log_temperature = min((nll(found)[0], found), (values[best], grid[best]))
    if lowest > values[GRID_STEPS] - SMALLEST_GAIN:
        return Temperature(1.0)
    if abs(log_temperature) == grid[-1]:
        return Temperature(HIGHEST if log_temperature > 0 else LOWEST)
    return Temperature(math.exp(log_temperature))


def mean_nll(log_probs: Tensor, labels: Tensor, log_temperature: float) -> tuple[float, float]:
    """NLL of the averaged probabilities at a temperature, and its derivative.

    With z_si = log softmax(log p_s / T)_y for item i, nll = -1/n sum_i log (1/S sum_s exp z_si).

    Args:
        log_probs: (S, n, K) logarithms of the draws' probabilities.
        labels: (n,) classes.
        log_temperature: log T.

    Returns:
        nll in nats per item, and d nll / d log T.
    """
    scaled = log_probs * math.exp(-log_temperature)
    log_softmax = scaled.log_softmax(-1)
    index = labels.expand(log_probs.shape[0], -1)[..., None]
    per_draw = log_softmax.gather(-1, index)[..., 0]
    # d z / d log T = -(a_y - sum_k p_k a_k) with a the scaled logits
    slope = (log_softmax.exp() * scaled).sum(-1) - scaled.gather(-1, index)[..., 0]
    nll = math.log(log_probs.shape[0]) - per_draw.logsumexp(0)
    derivative = -(per_draw.softmax(0) * slope).sum(0)
    return float(nll.mean()), float(derivative.mean())


def _root(nll: Callable[[float], tuple[float, float]], low: float, middle: float, high: float) -> float:
    """Where the derivative turns from negative to positive, in the half of [low, high] that falls from `middle`."""
    if nll(middle)[1] > 0:
        high = middle
    else:
        low = middle
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if nll(middle)[1] > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _log_probs(draws: Tensor) -> Tensor:
    """(S, n, K) logarithms in float64, finite."""
    return draws.detach().double().clamp(min=SMALLEST_PROB).log()
