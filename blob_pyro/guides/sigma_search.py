"""The largest noise that leaves the negative log-likelihood as it is, by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from blob_pyro.errors import ConfigError


@dataclass(frozen=True)
class SigmaSearch:
    """What a search for sigma saw.

    Attributes:
        sigma: the largest sigma that was tried and found within the tolerance.
        nll: NLL with that sigma, mean nats per item.
        mean_nll: the same without noise, under the adapter itself.
        trials: (sigma, nll) in the order of the search.
    """

    sigma: float
    nll: float
    mean_nll: float
    trials: tuple[tuple[float, float], ...]


def search_sigma(
    nll: Callable[[float], float], mean_nll: float, tolerance: float, interval: tuple[float, float], num_steps: int
) -> SigmaSearch:
    r"""The largest sigma with |nll(sigma) - mean_nll| <= tolerance * |mean_nll|, where the left side grows with sigma.

    Halves the interval `num_steps` times on a logarithmic scale; its lower end is taken to be within the tolerance, the
    upper one outside. So the answer is below the largest by a factor of at most (high / low)^(1 / 2^num_steps).

    Args:
        nll: sigma -> NLL, mean nats per item.
        mean_nll: NLL at sigma = 0.
        tolerance: largest relative change.
        interval: (low, high), both above 0.
        num_steps: how often nll is called.

    Raises:
        ConfigError: no sigma that was tried is within the tolerance.

    Example:
        >>> round(search_sigma(lambda sigma: 1 + sigma**2, 1.0, 0.01, (1e-4, 1.0), num_steps=20).sigma, 4)
        0.1
    """
    low, high = math.log(interval[0]), math.log(interval[1])
    trials: list[tuple[float, float]] = []
    best: tuple[float, float] | None = None
    for _ in range(num_steps):
        middle = (low + high) / 2
        trial = (math.exp(middle), nll(math.exp(middle)))
        trials.append(trial)
        if abs(trial[1] - mean_nll) <= tolerance * abs(mean_nll):
            low, best = middle, trial
        else:
            high = middle
    if best is None:
        sigma, found = trials[-1]
        raise ConfigError(
            f"tolerance: expected a sigma above {interval[0]:.2g} whose NLL is within {tolerance:.2%} of "
            f"{mean_nll:.4g}; got {found:.4g} at {sigma:.2g}; raise it, or lower min_sigma"
        )
    return SigmaSearch(*best, mean_nll, tuple(trials))
