"""Down a KL in small steps: where its gradient flow has no closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

FIRST_TIME, SHORTEST, LARGEST_CHANGE, MOST_STEPS = 1e-6, 1e-9, 8 / 7, 400


def go_down(
    kl: Callable[[], Tensor], parameters: list[nn.Parameter], width: Callable[[], Tensor], time: float, target: float
) -> float:
    """Gradient descent in small steps, for a time, or with a target until that width is reached; the time it took.

    A step by which the KL rises, or the width changes by more than a seventh, is taken back and made a quarter as
    long; the one behind a good step may be twice as long. What of the time `MOST_STEPS` leave over is left out.

    The host waits for the device once a step, since how long the next one is, and whether there is one, depends on it.

    Args:
        kl: the KL at the present parameters, scalar.
        parameters: of the spread, changed in place.
        width: the width at the present parameters, scalar.
        time: how long; with a target the first step.
        target: a width; infinity for none.
    """
    left = time if math.isinf(target) else math.inf
    taken, step = 0.0, time
    wide, (value, slopes) = width(), with_slopes(kl, parameters)
    for _ in range(MOST_STEPS if slopes else 0):
        starts = [parameter.clone() for parameter, _ in slopes]
        for parameter, slope in slopes:
            parameter.sub_(step * slope)
        new_wide, (new_value, new_slopes) = width(), with_slopes(kl, parameters)
        before, after, old_kl, new_kl = numbers(wide, new_wide, value, new_value)
        if new_kl <= old_kl and before <= LARGEST_CHANGE * after <= LARGEST_CHANGE**2 * before:
            if after >= target:
                return taken + step * (target - before) / (after - before)
            taken, left = taken + step, left - step
            value, slopes, wide, step = new_value, new_slopes, new_wide, min(2 * step, left)
        else:
            for (parameter, _), start in zip(slopes, starts, strict=True):
                parameter.copy_(start)
            step /= 4
        if left <= 0 or step < SHORTEST * time:
            break
    return taken


def with_slopes(
    kl: Callable[[], Tensor], parameters: list[nn.Parameter]
) -> tuple[Tensor, list[tuple[nn.Parameter, Tensor]]]:
    """A KL, and its gradient with respect to each parameter that is trained and in it."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    with torch.enable_grad():
        value = kl()
    if not (trained and value.requires_grad):
        return value, []
    slopes: tuple[Tensor | None, ...] = torch.autograd.grad(value, trained, allow_unused=True)
    found = zip(trained, slopes, strict=True)
    return value.detach(), [(parameter, slope) for parameter, slope in found if slope is not None]


def numbers(first: Tensor, *others: Tensor) -> list[float]:
    """Scalars, on any devices, as numbers, in one transfer."""
    found = torch.stack([value.detach().to(first.device, torch.float64) for value in (first, *others)])
    return [float(number) for number in found.tolist()]
