"""How a free parameter becomes a standard deviation, which has a floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE_FLOOR = 1e-6
"""Standard deviations are never smaller: the KL of an entry stays finite, at most 12.2 nats against a prior of 0.2, and
its gradient with respect to G below 2,000. An entry there is a point for all that float32 can tell of A."""


@dataclass(frozen=True)
class ScaleMap:
    """A map from the reals to standard deviations, elementwise.

    Attributes:
        name: its key in `SCALE_MAPS`.
        parameter: what the free parameter is called.
        to_scale: free parameter -> standard deviation, at least `SCALE_FLOOR`.
        to_free: standard deviation above 0 -> the (positive, for "square") free parameter.
    """

    name: str
    parameter: str
    to_scale: Callable[[Tensor], Tensor]
    to_free: Callable[[Tensor], Tensor]


def inverse_softplus(scale: Tensor) -> Tensor:
    """log(e^scale - 1) for scale above 0, without overflow or cancellation.

    Example:
        >>> F.softplus(inverse_softplus(torch.tensor([0.5, 30.0]))).tolist()
        [0.5, 30.0]
    """
    return scale + torch.log(-torch.expm1(-scale))


def floored(scale: Tensor) -> Tensor:
    """The standard deviations, those below `SCALE_FLOOR` raised to it; the gradient is as if they were not.

    So an entry at the floor can leave it again.

    Example:
        >>> free = torch.tensor([0.0001, 0.5], requires_grad=True)
        >>> scale = floored(free.square())
        >>> scale.sum().backward()
        >>> scale.tolist(), free.grad.tolist()
        ([9.999999974752427e-07, 0.25], [0.00019999999494757503, 1.0])
    """
    return scale + F.relu(SCALE_FLOOR - scale.detach())


def square(free: Tensor) -> Tensor:
    """free², and the floor."""
    return floored(torch.square(free))


def softplus(free: Tensor) -> Tensor:
    """log(1 + e^free), and the floor."""
    return floored(F.softplus(free))


SCALE_MAPS: dict[str, ScaleMap] = {
    "square": ScaleMap("square", "root_scale", square, torch.sqrt),
    "softplus": ScaleMap("softplus", "unconstrained_scale", softplus, inverse_softplus),
}
