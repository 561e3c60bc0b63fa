"""How a free parameter becomes a standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ScaleMap:
    """A map from the reals to standard deviations, elementwise.

    Attributes:
        name: its key in `SCALE_MAPS`.
        parameter: what the free parameter is called.
        to_scale: free parameter -> standard deviation.
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


SCALE_MAPS: dict[str, ScaleMap] = {
    "square": ScaleMap("square", "root_scale", torch.square, torch.sqrt),
    "softplus": ScaleMap("softplus", "unconstrained_scale", F.softplus, inverse_softplus),
}
