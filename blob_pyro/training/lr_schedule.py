"""The learning rate over training."""

from __future__ import annotations


def linear_warmup_decay(step: int, num_steps: int, num_warmup_steps: float) -> float:
    """Factor on the learning rate: linear from 0 to 1 over the warm-up, then linear to 0 at `num_steps`.

    Equal to `transformers.get_linear_schedule_with_warmup`, as a pure function. With a warm-up the very first
    step (0) has rate 0; from `num_steps` on the rate is 0.

    Args:
        step: number of optimiser steps taken so far, from 0 (KL schedules count from 1).
        num_steps: length of the schedule.
        num_warmup_steps: steps of the rise, a fraction allowed; 0 starts at the full rate.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: `step` or `num_warmup_steps` is below 0, or `num_steps` below 1.

    Example:
        >>> [linear_warmup_decay(step, num_steps=10, num_warmup_steps=2) for step in (0, 1, 2, 6, 10)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < 0:
        raise ValueError(f"expected a step of at least 0; got {step}; count the optimiser steps taken so far")
    if num_steps < 1 or num_warmup_steps < 0:
        raise ValueError(
            f"expected num_steps of at least 1 and num_warmup_steps of at least 0; got {num_steps} and "
            f"{num_warmup_steps}; give counts of optimiser steps"
        )
    if step < num_warmup_steps:
        return step / num_warmup_steps
    return max(0.0, (num_steps - step) / max(1.0, num_steps - num_warmup_steps))


def warmup_steps(num_steps: int, warmup_ratio: float) -> float:
    """How many steps the rise takes: a share of all, but none of a single step, whose rate would be 0.

    Example:
        >>> warmup_steps(100, 0.06), warmup_steps(1, 0.06)
        (6.0, 0.0)
    """
    return num_steps * warmup_ratio if num_steps > 1 else 0.0
