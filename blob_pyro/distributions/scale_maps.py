"""How a free parameter becomes a standard deviation, which has a floor."""

from __future__ import annotations

import math
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
        kl_flow: (free parameter, time, prior scale) -> the free parameter that far down the gradient flow of its KL;
            None where it has no closed form.
        kl_time: (standard deviation, another, prior scale) -> how long that flow takes from the one to the other.
    """

    name: str
    parameter: str
    to_scale: Callable[[Tensor], Tensor]
    to_free: Callable[[Tensor], Tensor]
    kl_flow: Callable[[Tensor, float, float | Tensor], Tensor] | None = None
    kl_time: Callable[[float, float, float], float] | None = None


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


def square_kl_flow(free: Tensor, time: float, prior_scale: float | Tensor) -> Tensor:
    r"""G after dG/dt = -dKL/dG for some time, KL being that of Normal(0, G^4) from Normal(0, sigma_p^2), elementwise.

    With sigma = G^2 the flow is :math:`\dot\sigma = 4 (1 - \sigma^2 / \sigma_p^2)`, which a hyperbolic tangent solves:

    .. math:: \sigma(t) = \sigma_p \tanh(\operatorname{artanh}(\sigma(0) / \sigma_p) + 4 t / \sigma_p),

    and a cotangent from above. It comes to sigma_p from either side and never crosses it, however long the time.

    Args:
        free: G, any shape.
        time: at least 0; 0 leaves G as it is, bit by bit.
        prior_scale: sigma_p.

    Example:
        >>> square_kl_flow(torch.tensor([0.05, -0.05, 2.0]), 1.0, 0.25).square()  # the prior's, from both sides
        tensor([0.2500, 0.2500, 0.2500])
    """
    gain = torch.tanh(4 * time / torch.as_tensor(prior_scale, dtype=free.dtype, device=free.device))
    scale = free.square()
    moved = (scale + gain * prior_scale) / (1 + gain * scale / prior_scale)
    return torch.copysign(moved.sqrt(), free)


def square_kl_time(start: float, end: float, prior_scale: float) -> float:
    r"""How long `square_kl_flow` takes from one standard deviation up to another, both below the prior's; else 0.

    .. math:: \frac{\sigma_p}{4} \left(\operatorname{artanh} \frac{\sigma_1}{\sigma_p}
        - \operatorname{artanh} \frac{\sigma_0}{\sigma_p}\right)

    Example:
        >>> time = square_kl_time(0.0025, 0.1, 0.2)
        >>> round(time, 4), square_kl_flow(torch.tensor(0.05), time, 0.2).square()
        (0.0268, tensor(0.1000))
    """
    if not start < end < prior_scale:
        return 0.0
    return prior_scale / 4 * (math.atanh(end / prior_scale) - math.atanh(start / prior_scale))


SCALE_MAPS: dict[str, ScaleMap] = {
    "square": ScaleMap("square", "root_scale", square, torch.sqrt, square_kl_flow, square_kl_time),
    "softplus": ScaleMap("softplus", "unconstrained_scale", softplus, inverse_softplus),
}
