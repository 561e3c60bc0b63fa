"""Bayes by Backprop on the adapter: a Gaussian over A with a softplus scale, without BLoB's other parts."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blob_pyro.distributions.scale_maps import SCALE_MAPS
from blob_pyro.guides.base import POSITIVE
from blob_pyro.guides.gaussian import FactorisedGaussianGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA


class MeanFieldGuide(FactorisedGaussianGuide):
    r"""q(A) = prod_ij Normal(M_ij, log(1 + e^rho_ij)^2), elementwise.

    M is the adapter's own weight, and B a point. The KL against Normal(0, sigma_p^2) is analytic,

        sum_ij log sigma_p - log s_ij + (s_ij^2 + M_ij^2) / (2 sigma_p^2) - 1/2,   s = log(1 + e^rho)   (total nats),

    and its gradient with respect to rho tends to -1 near s = 0: a small scale takes many steps to grow. For the
    paper's row "BBB" train it with recipe="decoupled" and a uniform KL schedule, without flipout.

    Source: Blundell et al. 2015 (Bayes by Backprop, arXiv 1505.05424), section 3.2, with a Gaussian prior.

    Valid for: any BayesianLoRA; flipout; several draws in one forward; a learned prior scale.
    Cost against plain LoRA: one more parameter for each entry of A.

    Args:
        model: the model.
        init_scale: standard deviation at the start. The default is where BLoB's spread starts, 0.00125 to 0.0025, so
            that the two differ by what they do and not by where they begin. It is well below PEFT's initial entries of
            A, U(-1, 1) / sqrt(n); the 0.1 of Pyro's `AutoNormal` would bury those under noise while B is still zero.

    Raises:
        ConfigError: init_scale is not above 0.
    """

    title = "BBB"
    ranges: ClassVar = {"init_scale": POSITIVE}

    def __init__(self, model: BayesianLoRA, init_scale: float = 0.002) -> None:
        self.check(init_scale=init_scale)
        weights = [model.location(site) for site in model.sites]
        super().__init__(model, SCALE_MAPS["softplus"], (_initial(weight, init_scale) for weight in weights))
        self.init_scale = float(init_scale)

    def unconstrained_scale(self, site: str) -> nn.Parameter:
        """The free parameter rho, the standard deviation being log(1 + e^rho), (r, n), float32."""
        return self.free_scale(site)

    def settings(self) -> dict[str, Any]:
        """{"init_scale": ...}."""
        return {"init_scale": self.init_scale}


def _initial(weight: Tensor, init_scale: float) -> Tensor:
    scale = torch.full(weight.shape, init_scale, dtype=torch.float32, device=weight.device)
    return SCALE_MAPS["softplus"].to_free(scale)
