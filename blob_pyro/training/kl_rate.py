"""The KL's schedule and learning rate, where nobody sets them: they widen the posterior as far as the paper's do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from blob_pyro.training.kl_schedule import cycle_length, kl_schedule
from blob_pyro.training.lr_schedule import linear_warmup_decay

PAPER_RATE = 0.01
PAPER_SHARE = 0.9335
"""Share of the prior scale that the paper's settings reach on winogrande_s, from `INIT_SCALE`, by the KL alone."""
INIT_SCALE = (0.05 * (1 + math.sqrt(0.5)) / 2) ** 2
"""Standard deviation at the start: G at the mean of U(eps / sqrt 2, eps) with the paper's eps = 0.05."""
SMALLEST_WEIGHT = 1e-9


@dataclass(frozen=True)
class KLSettings:
    """How a training applies the KL.

    Attributes:
        schedule: step (from 1) -> weight of the KL (paper: pi_i).
        lr: learning rate of the KL's own step, before its warm-up and decay.
    """

    schedule: Callable[[int], float]
    lr: float


def default_kl(
    num_data: int, batch_size: int, num_steps: int, prior_scale: float, *, warmup_ratio: float = 0.06
) -> KLSettings:
    """The schedule and rate that `bp.fit` and `BLoBSVI` take where nobody sets them, for a loop of your own.

    The paper's re-weighting in cycles of its length, but a third of the steps at most, and the rate by which the KL
    alone widens the posterior in these steps as far as the paper's settings do (`widening_rate`).

    Args:
        num_data: training items.
        batch_size: items a step.
        num_steps: optimiser steps.
        prior_scale: standard deviation of the prior.
        warmup_ratio: share of the steps over which the learning rates rise; they then fall linearly to 0.

    Raises:
        ConfigError: `num_data` or `batch_size` is not positive.

    Source: the schedule is BLoB's, arXiv 2406.11675, section 3.3; cap and rate are this library's.

    Example:
        >>> kl = default_kl(120, 4, 60, 0.2)
        >>> kl.lr, round(kl.schedule(19), 3), round(kl.schedule(20), 3)  # half of a KL in the last step of each 20
        (0.0534, 0.25, 0.5)
    """
    schedule = kl_schedule("reweighted", cycle_length(num_data, batch_size, num_steps=num_steps))
    return KLSettings(schedule, widening_rate(with_warmup(schedule, num_steps, warmup_ratio), num_steps, prior_scale))


def with_warmup(schedule: Callable[[int], float], num_steps: int, warmup_ratio: float) -> Callable[[int], float]:
    """Step (from 1) -> weight of the KL times the factor on its learning rate."""
    return lambda step: schedule(step) * linear_warmup_decay(step - 1, num_steps, num_steps * warmup_ratio)


def widening_rate(
    kl_weight: Callable[[int], float], num_steps: int, prior_scale: float, *, share: float = PAPER_SHARE
) -> float:
    r"""The learning rate at which the KL alone brings the standard deviation to a share of the prior's.

    The KL acts in a few steps of each cycle, and a training of few cycles needs a larger rate for the same width: the
    paper's 0.01 leaves a standard deviation of 0.05, a quarter of the prior's, after three cycles. The rate is found by
    bisection on the descent of one entry of mean zero,

    .. math:: G \leftarrow G - \eta \pi_t (2 G^3 / \sigma_p^2 - 2 / G), \qquad \sigma = G^2,

    from the paper's start. The likelihood, which narrows the entries that it knows something of, plays no part.

    Args:
        kl_weight: step (from 1) -> factor on the KL's learning rate: schedule of the KL times schedule of the rate.
        num_steps: optimiser steps.
        prior_scale: standard deviation of the prior (paper: sigma_p).
        share: of `prior_scale`, to be reached after `num_steps`.

    Returns:
        The smallest rate that does, to three digits; 0.01, the paper's, where the KL hardly acts in these steps.

    Source: the descent is BLoB's, arXiv 2406.11675, section 3.3; the rule is this library's.

    Example:
        >>> from blob_pyro.training.kl_schedule import kl_schedule
        >>> pulses = kl_schedule("reweighted", 100)
        >>> widening_rate(pulses, 300, 0.2), widening_rate(pulses, 3000, 0.2)  # three pulses, and thirty
        (0.023, 0.00273)
    """
    if never_acts(kl_weight, num_steps):
        return PAPER_RATE
    weights = [weight for step in range(1, num_steps + 1) if (weight := kl_weight(step)) > SMALLEST_WEIGHT]

    def reaches(rate: float) -> bool:
        return _grown(weights, rate, prior_scale) >= share * prior_scale

    high = 1e-6
    while not reaches(high):
        high *= 1.25
    low = high / 1.25
    for _ in range(20):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return float(f"{high:.3g}")


def never_acts(kl_weight: Callable[[int], float], num_steps: int) -> bool:
    """Whether all steps together have less than a hundredth of one KL, as in a cycle that is longer than a training."""
    return sum(map(kl_weight, range(1, num_steps + 1))) < 0.01


def _grown(weights: list[float], rate: float, prior_scale: float) -> float:
    """Standard deviation after these steps; infinite once a step is too long to stay near the prior's."""
    root = math.sqrt(INIT_SCALE)
    for weight in weights:
        root -= rate * weight * (2 * root**3 / prior_scale**2 - 2 / root)
        if not 0 < root < 4 * math.sqrt(prior_scale):
            return math.inf
    return root**2
