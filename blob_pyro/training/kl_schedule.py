"""Weights of the KL term over training: one pure function of the step per schedule.

Every schedule has the signature ``(step, cycle) -> float``, steps counted from 1, so that
``functools.partial(schedule, cycle=...)`` (or `kl_schedule`) is all a training loop needs. `reweighted` and
`uniform` share about one whole KL among the steps of a cycle, `late` among those of its second half; `constant`
and `warmup` charge a whole KL at every step, `cycle` times as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

from blob_pyro.errors import ConfigError

NUM_CYCLES = 3
"""Cycles that a training should see at the least: in one that it does not see the end of, the KL does not act."""


def cycle_length(
    num_data: int, batch_size: int, gamma: float = 8.0, num_processes: int = 1, num_steps: int | None = None
) -> int:
    """Steps in a KL cycle: M = int(100 N^(pi / gamma) / batch_size / num_processes), at least 1.

    Nearly all of a `reweighted` cycle's KL falls on its last few steps: a training that is shorter than a cycle never
    meets it. Say how long it is, and the cycle is a third of it at most.

    The rule of BLoB's public code; pi is the number 3.14159... As there, N counts the items of whole batches
    only: 2,248 of ARC-Easy's 2,251 at batch size 4, hence 517 and not 518.

    Args:
        num_data: number of training items.
        batch_size: items a step and process.
        gamma: larger values give shorter cycles.
        num_processes: data-parallel processes.
        num_steps: optimiser steps of the training; None bounds nothing.

    Raises:
        ConfigError: an argument is not positive.

    Example:
        >>> cycle_length(640, 4), cycle_length(640, 4, num_steps=60)
        (316, 20)
    """
    arguments = {"num_data": num_data, "batch_size": batch_size, "gamma": gamma, "num_processes": num_processes}
    for name, value in arguments.items():
        if not value > 0:
            raise ConfigError(f"expected {name} above 0; got {value}; give a positive number")
    in_whole_batches = num_data // batch_size * batch_size or num_data
    by_rule = int(100 * in_whole_batches ** (math.pi / gamma) / batch_size / num_processes)
    return max(1, by_rule if num_steps is None else min(by_rule, num_steps // NUM_CYCLES))


def reweighted(step: int, cycle: int) -> float:
    """BLoB's pulse: 2^i / (2^(cycle + 1) - 1), i = 1..cycle being the place of the step in its cycle.

    Half of the KL falls on the last step of a cycle, a quarter on the one before; the weights of a cycle sum
    to 1 - 1 / (2^(cycle + 1) - 1). Correctly rounded for every cycle length (0.0 below 5e-324). Source:
    arXiv 2406.11675, section 3.3, after Blundell et al. 2015, in ascending order.

    Args:
        step: optimiser step, from 1.
        cycle: steps in a cycle.

    Raises:
        ValueError: `step` or `cycle` is below 1.

    Example:
        >>> [round(reweighted(step, cycle=3), 4) for step in (1, 2, 3, 4)]
        [0.1333, 0.2667, 0.5333, 0.1333]
    """
    _check(step, cycle)
    place = (step - 1) % cycle + 1
    # Numerator and denominator divided by 2^(cycle + 1), which overflows a float from cycle = 1023 on.
    return math.ldexp(1.0, place - cycle - 1) / (1.0 - math.ldexp(1.0, -cycle - 1))


def late(step: int, cycle: int) -> float:
    """Nothing in the first half of a cycle, even shares of one KL in the second.

    With all of training as its cycle, the posterior widens once the mean has learnt: what comes early costs more
    (docs/defaults.md).

    Args:
        step: optimiser step, from 1.
        cycle: steps in a cycle.

    Raises:
        ValueError: `step` or `cycle` is below 1.

    Example:
        >>> [late(step, cycle=4) for step in (1, 2, 3, 4)]
        [0.0, 0.0, 0.5, 0.5]
    """
    _check(step, cycle)
    half = cycle // 2
    return 1.0 / (cycle - half) if (step - 1) % cycle >= half else 0.0


def uniform(step: int, cycle: int) -> float:
    """An even share, 1 / cycle at every step.

    Args:
        step: optimiser step, from 1.
        cycle: steps in a cycle.

    Raises:
        ValueError: `step` or `cycle` is below 1.

    Example:
        >>> uniform(7, cycle=4)
        0.25
    """
    _check(step, cycle)
    return 1.0 / cycle


def constant(step: int, cycle: int = 1) -> float:
    """The whole KL, 1.0, at every step.

    Args:
        step: optimiser step, from 1.
        cycle: not used; it is there so that all schedules have one signature.

    Raises:
        ValueError: `step` or `cycle` is below 1.

    Example:
        >>> constant(7)
        1.0
    """
    _check(step, cycle)
    return 1.0


def warmup(step: int, cycle: int) -> float:
    """Linear rise over the first `cycle` steps, min(1, step / cycle), then 1.0.

    Args:
        step: optimiser step, from 1.
        cycle: steps of the rise; it is not repeated.

    Raises:
        ValueError: `step` or `cycle` is below 1.

    Example:
        >>> [warmup(step, cycle=4) for step in (1, 2, 4, 9)]
        [0.25, 0.5, 1.0, 1.0]
    """
    _check(step, cycle)
    return min(1.0, step / cycle)


class KLSchedule(Protocol):
    """Weight of the KL at a step: what every entry of `KL_SCHEDULES` is."""

    def __call__(self, step: int, cycle: int) -> float: ...


KL_SCHEDULES: dict[str, KLSchedule] = {
    "late": late,
    "reweighted": reweighted,
    "uniform": uniform,
    "constant": constant,
    "warmup": warmup,
}


def kl_schedule(name: str, cycle: int) -> Callable[[int], float]:
    """The schedule of that name, bound to its cycle length: a function of the step alone.

    Args:
        name: a key of `KL_SCHEDULES`.
        cycle: steps in a cycle; steps of the rise for "warmup".

    Raises:
        ConfigError: the name is not known, or `cycle` is below 1.

    Example:
        >>> weight = kl_schedule("reweighted", cycle=316)
        >>> weight(316)
        0.5
    """
    if name not in KL_SCHEDULES:
        raise ConfigError(f"expected a KL schedule among {', '.join(KL_SCHEDULES)}; got {name!r}; choose one of them")
    if cycle < 1:
        raise ConfigError(f"expected a KL cycle of at least 1 step; got {cycle}; see cycle_length")
    return partial(KL_SCHEDULES[name], cycle=cycle)


def _check(step: int, cycle: int) -> None:
    """Raise unless both are at least 1."""
    if step < 1:
        raise ValueError(f"expected a step of at least 1; got {step}; count optimiser steps from 1")
    if cycle < 1:
        raise ValueError(f"expected a cycle of at least 1 step; got {cycle}; see cycle_length")
