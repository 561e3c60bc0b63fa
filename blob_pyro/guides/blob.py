"""BLoB's asymmetric posterior: Gaussian over A, a point for B."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from blob_pyro.distributions import gaussian_kl, pooled_normals
from blob_pyro.errors import ConfigError
from blob_pyro.guides.base import AdapterGuide
from blob_pyro.model import BayesianLoRA


class BLoBGuide(AdapterGuide):
    r"""q(A) = prod_ij Normal(M_ij, G_ij^4), i.e. standard deviation G∘G, elementwise.

    Squaring a free parameter, instead of softplus, lets the spread leave zero quickly: near zero the KL's
    gradient -2 / G grows, where softplus' tends to -1. The KL against Normal(0, sigma_p^2) is analytic,

        sum_ij log sigma_p - 2 log |G_ij| + (G_ij^4 + M_ij^2) / (2 sigma_p^2) - 1/2   (total nats).

    Source: BLoB, arXiv 2406.11675, equations 5 to 9 and section 3.3.

    Valid for: any BayesianLoRA; flipout; several draws in one forward.
    Cost against plain LoRA: one more parameter for each entry of A.

    Args:
        model: the model.
        eps: G starts as U(eps / sqrt 2, eps), float32 (paper: epsilon).

    Raises:
        ConfigError: eps is not above 0.
    """

    is_random = True
    supports_flipout = True

    def __init__(self, model: BayesianLoRA, eps: float = 0.05) -> None:
        super().__init__(model)
        if not eps > 0:
            raise ConfigError(f"eps: expected a number above 0; got {eps}")
        self.eps = float(eps)
        self.root_scales = nn.ParameterList(_initial_root_scale(model.location(site), eps) for site in model.sites)
        self._position = {site: position for position, site in enumerate(model.sites)}

    def scale(self, site: str) -> Tensor:
        """Posterior standard deviation of A at `site`, (r, n), float32."""
        return self.root_scale(site).square()

    def root_scale(self, site: str) -> nn.Parameter:
        """The free parameter G whose square is the standard deviation, (r, n), float32."""
        return self.root_scales[self._position[site]]

    def posterior(self, site: str) -> dist.Independent:
        """Normal(loc, scale^2) with independent entries, event_shape (r, n)."""
        # unvalidated: a NaN is to become a non-finite loss that names step and items, not a page of values
        return dist.Normal(self.loc(site), self.scale(site), validate_args=False).to_event(2)

    def posteriors(self) -> dict[str, TorchDistributionMixin]:
        """The law of every site; their first draws are made together, in a handful of operations."""
        laws = pooled_normals([self.loc(site) for site in self.model.sites], list(self.root_scales))
        return {site: law.to_event(2) for site, law in zip(self.model.sites, laws, strict=True)}

    def kl(self) -> Tensor:
        """KL(posterior || prior) over all sites, total nats, in a handful of operations. Scalar."""
        devices: dict[torch.device, list[str]] = {}
        for site in self.model.sites:
            devices.setdefault(self.model.location(site).device, []).append(site)
        terms = [self._kl_of(sites) for sites in devices.values()]
        return terms[0] if len(terms) == 1 else torch.stack([term.to(terms[0].device) for term in terms]).sum()

    def _kl_of(self, sites: list[str]) -> Tensor:
        """The KL of sites on one device, as of one long vector."""
        loc = torch.cat([self.loc(site).flatten() for site in sites])
        root_scale = torch.cat([self.root_scale(site).flatten() for site in sites])
        return gaussian_kl(loc, root_scale.square(), self.model.prior_scale)

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """G of every site."""
        return {f"{site}.root_scale": self.root_scale(site) for site in self.model.sites}

    def settings(self) -> dict[str, Any]:
        """{"eps": ...}."""
        return {"eps": self.eps}


def _initial_root_scale(weight: Tensor, eps: float) -> nn.Parameter:
    root = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    return nn.Parameter(root.uniform_(eps / math.sqrt(2), eps))
