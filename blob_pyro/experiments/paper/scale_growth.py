"""How a standard deviation grows under the KL alone: the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blob_pyro.config.checks import unknown_name
from blob_pyro.distributions import gaussian_kl
from blob_pyro.distributions.scale_maps import SCALE_MAPS
from blob_pyro.errors import ConfigError


def scale_growth(
    scale: str,
    *,
    init_scale: float = 0.002,
    prior_scale: float = 0.2,
    kl_lr: float = 0.01,
    num_steps: int = 5000,
    kl_weight: Callable[[int], float] = lambda step: 1.0,
) -> Tensor:
    r"""One entry of a posterior of mean zero under SGD on its KL against Normal(0, prior_scale^2), and nothing else.

    The gradient of the KL is 2 G^3 / sigma_p^2 - 2 / G for sigma = G^2, so that the first steps are the largest; for
    sigma = log(1 + e^rho) it is (sigma / sigma_p^2 - 1 / sigma) / (1 + e^-rho), which tends to -1 at small sigma.

    Args:
        scale: "square" or "softplus", as in `BLoBGuide`.
        init_scale: standard deviation at the start.
        prior_scale: standard deviation of the prior (paper: sigma_p).
        kl_lr: learning rate. A square root G near zero takes a first step of 2 kl_lr / G, which should stay below
            a few times sqrt(prior_scale).
        num_steps: SGD steps.
        kl_weight: step (from 1) -> factor on the KL, or on the learning rate, which is the same here.

    Returns:
        Standard deviations before the first and after every step, (num_steps + 1,), float64.

    Raises:
        ConfigError: an unknown scale, or a number that is not above 0.

    Source: BLoB, arXiv 2406.11675, section 3.3 and Figure 2.

    Example:
        >>> square, softplus = (scale_growth(name, num_steps=20)[-1].item() for name in ("square", "softplus"))
        >>> round(square, 3), round(softplus, 3)
        (0.2, 0.002)
    """
    if scale not in SCALE_MAPS:
        raise unknown_name("scale", SCALE_MAPS, scale)
    for name, value in (("init_scale", init_scale), ("prior_scale", prior_scale), ("kl_lr", kl_lr)):
        if not value > 0:
            raise ConfigError(f"{name}: expected a number above 0; got {value}")
    to_scale = SCALE_MAPS[scale].to_scale
    free = SCALE_MAPS[scale].to_free(torch.tensor(init_scale, dtype=torch.float64))
    loc = torch.zeros_like(free)
    scales = [to_scale(free)]
    for step in range(1, num_steps + 1):
        free = free.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(gaussian_kl(loc, to_scale(free), prior_scale), free)
        free = free.detach() - kl_lr * kl_weight(step) * gradient
        scales.append(to_scale(free))
    return torch.stack(scales).detach()
