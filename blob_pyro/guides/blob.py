"""BLoB's asymmetric posterior: Gaussian over A, a point for B."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from blob_pyro.config.checks import unknown_name
from blob_pyro.distributions.scale_maps import SCALE_MAPS, ScaleMap
from blob_pyro.errors import ConfigError
from blob_pyro.guides.base import POSITIVE
from blob_pyro.guides.gaussian import FactorisedGaussianGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA


class BLoBGuide(FactorisedGaussianGuide):
    r"""q(A) = prod_ij Normal(M_ij, G_ij^4), i.e. standard deviation G∘G, elementwise.

    Squaring a free parameter, instead of softplus, lets the spread leave zero quickly: near zero the KL's
    gradient -2 / G grows, where softplus' tends to -1. The KL against Normal(0, sigma_p^2) is analytic,

        sum_ij log sigma_p - 2 log |G_ij| + (G_ij^4 + M_ij^2) / (2 sigma_p^2) - 1/2   (total nats).

    The paper's ablation, scale="softplus", has the standard deviation log(1 + e^rho) instead, everything else and
    the law of the initial standard deviations being the same.

    Source: BLoB, arXiv 2406.11675, equations 5 to 9 and section 3.3.

    Valid for: any BayesianLoRA; flipout; several draws in one forward; a learned prior scale.
    Cost against plain LoRA: one more parameter for each entry of A.

    Args:
        model: the model.
        eps: G starts as U(eps / sqrt 2, eps), float32 (paper: epsilon); under softplus, rho where log(1 + e^rho) = G^2.
        scale: how the free parameter becomes the standard deviation: "square" (G∘G) or "softplus".

    Raises:
        ConfigError: eps is not above 0, or an unknown scale.
    """

    title = "BLoB"
    ranges: ClassVar = {"eps": POSITIVE}

    def __init__(self, model: BayesianLoRA, eps: float = 0.05, scale: Literal["square", "softplus"] = "square") -> None:
        self.check(eps=eps)
        if scale not in SCALE_MAPS:
            raise unknown_name("scale", SCALE_MAPS, scale)
        scale_map = SCALE_MAPS[scale]
        roots = (initial_root_scale(model.location(site), eps) for site in model.sites)
        super().__init__(model, scale_map, (_free(root, scale_map) for root in roots))
        self.eps = float(eps)

    @property
    def root_scales(self) -> nn.ParameterList:
        """G of every site, in the order of the sites; of scale="square" alone."""
        self._expect("root_scale")
        return self.free_scales

    def root_scale(self, site: str) -> nn.Parameter:
        """The free parameter G whose square is the standard deviation, (r, n), float32; of scale="square" alone."""
        self._expect("root_scale")
        return self.free_scale(site)

    def unconstrained_scale(self, site: str) -> nn.Parameter:
        """The free parameter rho, the standard deviation being log(1 + e^rho); of scale="softplus" alone."""
        self._expect("unconstrained_scale")
        return self.free_scale(site)

    def settings(self) -> dict[str, Any]:
        """{"eps": ..., "scale": ...}."""
        return {"eps": self.eps, "scale": self.scale_map.name}

    def _expect(self, parameter: str) -> None:
        if self.scale_map.parameter != parameter:
            raise ConfigError(
                f"{parameter}: expected a guide with that free parameter; got scale={self.scale_map.name!r}; "
                f"take {self.scale_map.parameter}, or free_scale for both"
            )


def initial_root_scale(weight: Tensor, eps: float) -> Tensor:
    """G ~ Uniform(eps / sqrt(2), eps), of a weight's shape and on its device, float32."""
    root = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    return root.uniform_(eps / math.sqrt(2), eps)


def _free(root: Tensor, scale_map: ScaleMap) -> Tensor:
    """The free parameter at which the standard deviation is root^2."""
    return root if scale_map.name == "square" else scale_map.to_free(root.square())
