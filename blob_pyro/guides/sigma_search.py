"""The largest noise that leaves the negative log-likelihood as it is, by a safeguarded secant search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blob_pyro.errors import ConfigError

RATIO = 1.012  # how close the sigma that is found and the one that is known to be too large come
USUAL_EXPONENT = 2.0  # of sigma in the change of the NLL: what noise of mean 0 does to a smooth function
LONGEST = 60  # halvings beyond which a float has no more digits


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
    nll: Callable[[float], float],
    mean_nll: float,
    tolerance: float,
    interval: tuple[float, float],
    num_steps: int,
    ratio: float = RATIO,
) -> SigmaSearch:
    r"""The largest sigma with |nll(sigma) - mean_nll| <= tolerance * |mean_nll|, where the left side grows with sigma.

    Keeps a bracket of two sigmas, the lower within the tolerance and the upper outside (at first the interval, whose
    ends are taken to be so and not tried), until the upper is at most `ratio` times the lower one. Near 0 the change
    grows as a power of sigma, a line on logarithmic scales: each trial lies where the line through the last two crosses
    the tolerance (after the first one: the line of slope 2 through it), a third of log(ratio) below or above, so that
    two good guesses close the bracket. Five or six trials do where the change is a power of sigma.

    Bisection on the logarithmic scale is the fallback: it takes the place of a line that does not rise, and a trial
    goes no further from the middle than lets halvings alone close the bracket in the trials that are left. So
    `num_steps` trials suffice for every change that grows, where num_steps halvings would: 10 at the default ratio for
    an interval of five decades. With fewer than those, every trial is a halving; each one above them doubles how
    far a trial may go. Fewer leave a bracket of (high / low)^(1 / 2^num_steps).

    Args:
        nll: sigma -> NLL, mean nats per item; what is not finite is outside the tolerance.
        mean_nll: NLL at sigma = 0.
        tolerance: largest relative change.
        interval: (low, high), both above 0.
        num_steps: how often nll is called at most.
        ratio: where the search ends, above 1.

    Raises:
        ConfigError: no sigma that was tried is within the tolerance.

    Example:
        >>> found = search_sigma(lambda sigma: 1 + sigma**2, 1.0, 0.01, (1e-5, 1.0), num_steps=14)
        >>> 0.1 / 1.012 <= found.sigma <= 0.1, len(found.trials)
        (True, 3)
    """
    low, high = math.log(interval[0]), math.log(interval[1])
    width, allowed = math.log(ratio), tolerance * abs(mean_nll)
    points: list[tuple[float, float]] = []
    trials: list[tuple[float, float]] = []
    best: tuple[float, float] | None = None
    for left in reversed(range(num_steps)):
        place = _next(points, low, high, width, reach=width * 2.0 ** min(left, LONGEST))
        trial = (math.exp(place), nll(math.exp(place)))
        trials.append(trial)
        points.append((place, _log_ratio(abs(trial[1] - mean_nll), allowed)))
        if abs(trial[1] - mean_nll) <= allowed:
            low, best = place, trial
        else:
            high = place
        if high - low <= width:
            break
    if best is None:
        sigma, found = trials[-1]
        raise ConfigError(
            f"tolerance: expected a sigma above {interval[0]:.2g} whose NLL is within {tolerance:.2%} of "
            f"{mean_nll:.4g}; got {found:.4g} at {sigma:.2g}; raise it, or lower min_sigma"
        )
    return SigmaSearch(*best, mean_nll, tuple(trials))


def _log_ratio(change: float, allowed: float) -> float:
    """log(change / allowed), which is 0 where sigma is to be: -inf for no change, inf for one that is not finite."""
    if change == 0:
        return -math.inf
    if not math.isfinite(change) or allowed == 0:
        return math.inf
    return math.log(change) - math.log(allowed)


def _next(points: Sequence[tuple[float, float]], low: float, high: float, width: float, reach: float) -> float:
    """log sigma of the next trial, strictly inside the bracket.

    Args:
        points: (log sigma, log of change / allowed) of the trials so far.
        low, high: the bracket, wider than `width` (but for the first trial).
        width: that of the last bracket.
        reach: the widest bracket that the trials after this one can close by halving.
    """
    root = _crossing(points)
    if root is None or reach <= (high - low) / 2:
        return (low + high) / 2
    side = width / 3
    low_is_close = any(place == low for place, _ in points) and root + side - low <= width
    place = root + side if low_is_close else root - side
    place = min(max(place, low + side), high - side)
    return min(max(place, high - reach), low + reach)


def _crossing(points: Sequence[tuple[float, float]]) -> float | None:
    """Where the line through the last two points is 0; None where that says nothing."""
    if not points or points[-1][1] == math.inf:
        return None
    if len(points) == 1:
        place, value = points[0]
        return place - value / USUAL_EXPONENT
    (x0, y0), (x1, y1) = points[-2:]
    if not math.isfinite(y1):
        return None
    if not math.isfinite(y0):
        return x1 - y1 / USUAL_EXPONENT
    slope = (y1 - y0) / (x1 - x0)
    return x1 - y1 / slope if slope > 0 else None
