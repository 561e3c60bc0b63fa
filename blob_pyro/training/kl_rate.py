"""How far and how fast the KL acts where nobody says: by the number of passes over the items, and late."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from blob_pyro.config.checks import check, check_number
from blob_pyro.distributions.scale_maps import square_kl_time
from blob_pyro.training.kl_schedule import late
from blob_pyro.training.lr_schedule import linear_warmup_decay, warmup_steps

PAPER_RATE = 0.01
INIT_SCALE = (0.05 * (1 + math.sqrt(0.5)) / 2) ** 2
"""Standard deviation at the start: G at the mean of U(eps / sqrt 2, eps) with the paper's eps = 0.05."""
WIDENING = 0.85
"""See `default_width`; chosen by docs/defaults.md."""
NARROWEST, WIDEST = 0.1, 0.9
SHRINKAGE = 0.15
"""How much of the mean the KL takes beside a width, see `mean_time`; chosen by docs/defaults.md."""


@dataclass(frozen=True)
class KLSettings:
    """How a training applies the KL.

    Attributes:
        schedule: step (from 1) -> weight of the KL (paper: pi_i).
        lr: learning rate of the separate step on the spread, before its warm-up and decay.
        lr_loc: the same for the mean.
    """

    schedule: Callable[[int], float]
    lr: float
    lr_loc: float


@dataclass(frozen=True)
class Settled:
    """How a training of known length brings the spread to a width.

    Attributes:
        width: share of the prior's standard deviation.
        num_steps: of the training.
        scale_time: for how long the KL acts on the spread.
        loc_time: the same for the mean.
        done: the steps before, in which it did not act so.
    """

    width: float
    num_steps: int
    scale_time: float
    loc_time: float
    done: int


def default_width(num_data: int, batch_size: float, num_steps: int) -> float:
    r"""How wide a training makes the posterior where nobody says: a share of the prior's standard deviation.

    What a training has seen once, of many items, it has learnt; what it comes back to often, of few items, it knows by
    heart, and may be less sure of:

    .. math:: \max(0.1, \min(0.9, \tanh(0.85 \sqrt{\text{passes} / \sqrt{\text{num\_data}}}))), \qquad
        \text{passes} = \text{num\_steps} \cdot \text{batch\_size} / \text{num\_data}.

    Args:
        num_data: training items.
        batch_size: items a step, on average.
        num_steps: optimiser steps.

    Raises:
        ConfigError: one of them is no number above 0.

    Source: this library's, chosen and tested by the protocol of docs/defaults.md.

    Example:
        >>> [round(default_width(120, 4, num_steps), 2) for num_steps in (30, 60, 200, 600)]
        [0.25, 0.35, 0.58, 0.82]
        >>> [round(default_width(num_data, 4, 2 * num_data // 4), 2) for num_data in (40, 240, 5000)]  # two passes
        [0.44, 0.3, 0.14]
    """
    for name, value in (("num_data", num_data), ("batch_size", batch_size), ("num_steps", num_steps)):
        check_number(name, value, "a number above 0", lambda number: 0 < number < math.inf)
    passes = num_steps * batch_size / num_data
    return max(NARROWEST, min(WIDEST, math.tanh(WIDENING * math.sqrt(passes / math.sqrt(num_data)))))


def default_kl(
    num_data: int,
    batch_size: int,
    num_steps: int,
    prior_scale: float,
    *,
    width: float | None = None,
    warmup_ratio: float = 0.06,
) -> KLSettings:
    """The schedule and rates that `bp.fit` and `BLoBSVI` take where nobody sets them, for a loop of your own.

    The KL waits until half of the steps have taught the mean (`kl_schedule.late`); then it widens the posterior to
    `width`, and takes little of the mean (`mean_time`). The spread is taken to be BLoB's; of another guide `BLoBSVI`
    asks how long it takes (`AdapterGuide.kl_time`).

    Args:
        num_data: training items.
        batch_size: items a step.
        num_steps: optimiser steps.
        prior_scale: standard deviation of the prior.
        width: share of it, between 0 and 1, that the KL alone brings the posterior's to; None takes `default_width`.
        warmup_ratio: share of the steps over which the learning rates rise; they then fall linearly to 0.

    Raises:
        ConfigError: an argument is no number, or out of its range.

    Source: this library's (docs/defaults.md).

    Example:
        >>> kl = default_kl(120, 4, 60, 0.2)
        >>> kl.lr, round(kl.lr_loc, 5), kl.schedule(30), round(kl.schedule(31), 3)
        (0.01, 0.00123, 0.0, 0.215)
    """
    check_number("prior_scale", prior_scale, "a number above 0", lambda number: 0 < number < math.inf)
    check_number("warmup_ratio", warmup_ratio, "a share in [0, 1]", lambda number: 0 <= number <= 1)
    check(isinstance(num_steps, int), "num_steps", "a whole number", num_steps)
    by_rule = default_width(num_data, batch_size, num_steps)
    width = by_rule if width is None else width
    check_number("width", width, "a share between 0 and 1", lambda number: 0 < number < 1)
    times = square_kl_time(INIT_SCALE, width * prior_scale, prior_scale), mean_time(width, prior_scale)
    return widening(partial(late, cycle=num_steps), num_steps, *times, warmup_ratio=warmup_ratio)


def mean_time(width: float, prior_scale: float) -> float:
    r"""How long the KL acts on the mean while it brings the spread to a width.

    In the time that the spread takes the mean would shrink by :math:`e^{-t / \sigma_p^2}`, nearly all of it where the
    prior is narrow. In this time it shrinks by :math:`e^{-0.15 \operatorname{artanh} s}`, whatever the prior scale:
    by a tenth at a width of 0.6, by a fifth at 0.9 and beyond.

    Example:
        >>> round(math.exp(-mean_time(0.6, 0.2) / 0.2**2), 2), round(math.exp(-mean_time(0.9, 0.02) / 0.02**2), 2)
        (0.9, 0.8)
    """
    return SHRINKAGE * prior_scale**2 * math.atanh(min(width, WIDEST))


def widening(
    schedule: Callable[[int], float],
    num_steps: int,
    scale_time: float,
    loc_time: float,
    *,
    warmup_ratio: float,
    done: int = 0,
) -> KLSettings:
    """The schedule, times a factor, under which the KL acts on spread and mean for these times in all.

    Along the KL's flow (`kl_step="flow"`) it does not matter how a time is cut into steps; a step's is the rate times
    the schedule's weight. The rate stays the paper's 0.01, for it is also that of the spread on the NLL.

    Args:
        schedule: step (from 1) -> weight of the KL.
        num_steps: optimiser steps.
        scale_time: what the spread takes to its width (`AdapterGuide.kl_time`); 0 of a point, and of a spread that is
            as wide: it then takes the mean's.
        loc_time: for the mean, above 0 (`mean_time`).
        warmup_ratio: share of the steps over which the learning rates rise.
        done: steps that lie behind, in which it does not act.

    Returns:
        The scaled schedule with the rates; where the KL hardly acts in these steps, the schedule as it is.

    Example:
        >>> from blob_pyro.training.kl_schedule import kl_schedule
        >>> pulses = widening(kl_schedule("reweighted", 100), 300, 0.0824, 0.01, warmup_ratio=0.0)
        >>> round(pulses.schedule(100), 2), round(pulses.lr_loc, 5)  # eight times the paper's 0.5
        (4.04, 0.00121)
    """
    acting = with_warmup(schedule, num_steps, warmup_ratio)
    total = PAPER_RATE * math.fsum(map(acting, range(done + 1, num_steps + 1)))
    if never_acts(schedule, num_steps) or not total or not (scale_time or loc_time):
        return KLSettings(schedule, PAPER_RATE, PAPER_RATE)
    time = scale_time or loc_time
    return KLSettings(partial(_times, schedule, time / total), PAPER_RATE, PAPER_RATE * loc_time / time)


def _times(schedule: Callable[[int], float], factor: float, step: int) -> float:
    return factor * schedule(step)


def with_warmup(schedule: Callable[[int], float], num_steps: int, warmup_ratio: float) -> Callable[[int], float]:
    """Step (from 1) -> weight of the KL times the factor on its learning rate."""
    rise = warmup_steps(num_steps, warmup_ratio)
    return lambda step: schedule(step) * linear_warmup_decay(step - 1, num_steps, rise)


def never_acts(kl_weight: Callable[[int], float], num_steps: int) -> bool:
    """Whether all steps together have less than a hundredth of one KL, as in a cycle that is longer than a training."""
    return sum(map(kl_weight, range(1, num_steps + 1))) < 0.01
