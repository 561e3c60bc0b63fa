"""What guides with an independent Gaussian for every entry have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from blob_pyro.distributions import gaussian_kl, pooled_normals
from blob_pyro.distributions.scale_maps import ScaleMap
from blob_pyro.guides.base import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA


class FactorisedGaussianGuide(AdapterGuide):
    r"""Abstract. q = prod_ij Normal(loc_ij, scale_ij^2), the scale being a function of one free parameter an entry.

    The KL against Normal(0, sigma_p^2) is analytic,

        sum_ij log sigma_p - log scale_ij + (scale_ij^2 + loc_ij^2) / (2 sigma_p^2) - 1/2   (total nats),

    and draws and KL of all sites are made together. Where the model has a law for sigma_p, the guide learns a point
    for it.

    Args:
        model: the model.
        scale_map: how a free parameter becomes a standard deviation.
        free_scales: where the free parameters start, one tensor for each site, of its shape, float32.
    """

    is_random = True
    supports_flipout = True
    learns_prior_scale = True

    def __init__(self, model: BayesianLoRA, scale_map: ScaleMap, free_scales: Iterable[Tensor]) -> None:
        super().__init__(model)
        self.scale_map = scale_map
        self.free_scales = nn.ParameterList(nn.Parameter(free) for free in free_scales)
        self._position = {site: position for position, site in enumerate(model.sites)}

    def scale(self, site: str) -> Tensor:
        """Posterior standard deviation at `site`, of the site's shape, float32."""
        return self.scale_map.to_scale(self.free_scale(site))

    def free_scale(self, site: str) -> nn.Parameter:
        """The free parameter of which the standard deviation is made, of the site's shape, float32."""
        return self.free_scales[self._position[site]]

    def posterior(self, site: str) -> dist.Independent:
        """Normal(loc, scale^2) with independent entries, event_shape that of the site."""
        # unvalidated: a NaN is to become a non-finite loss that names step and items, not a page of values
        return dist.Normal(self.loc(site), self.scale(site), validate_args=False).to_event(2)

    def posteriors(self) -> dict[str, TorchDistributionMixin]:
        """The law of every site; their first draws are made together, in a handful of operations."""
        locs = [self.loc(site) for site in self.model.sites]
        laws = pooled_normals(locs, list(self.free_scales), self.scale_map.to_scale)
        return {site: law.to_event(2) for site, law in zip(self.model.sites, laws, strict=True)}

    def kl(self) -> Tensor:
        """KL(posterior || prior) over all sites, total nats, in a handful of operations. Scalar.

        Where sigma_p has a law, minus the log of its density at the learned point is in it.
        """
        devices: dict[torch.device, list[str]] = {}
        for site in self.model.sites:
            devices.setdefault(self.model.location(site).device, []).append(site)
        terms = [self._kl_of(sites, device) for device, sites in devices.items()]
        total = terms[0] if len(terms) == 1 else torch.stack([term.to(terms[0].device) for term in terms]).sum()
        return self._with_hyperprior(total)

    def _kl_of(self, sites: list[str], device: torch.device) -> Tensor:
        """The KL of sites on one device, as of one long vector."""
        loc = torch.cat([self.loc(site).flatten() for site in sites])
        free = torch.cat([self.free_scale(site).flatten() for site in sites])
        prior_scale = self.prior_scale
        if isinstance(prior_scale, Tensor):
            prior_scale = prior_scale.to(device)
        return gaussian_kl(loc, self.scale_map.to_scale(free), prior_scale)

    @torch.no_grad()
    def descend_kl_(self, loc_time: float, scale_time: float) -> None:
        """As `AdapterGuide.descend_kl_`; where the free parameter's flow has a closed form, that."""
        if self.scale_map.kl_flow is None:
            super().descend_kl_(loc_time, scale_time)
            return
        variance = torch.as_tensor(self.prior_scale).detach() ** 2
        for site in self.model.sites:
            loc, free = self.model.location(site), self.free_scale(site)
            prior_scale = torch.as_tensor(self.prior_scale).detach().to(free.device)
            if loc.requires_grad:
                loc.mul_(torch.exp(-loc_time / variance).to(loc.device, loc.dtype))
            free.copy_(self.scale_map.kl_flow(free, scale_time, prior_scale))

    @torch.no_grad()
    def kl_time(self, width: float) -> float:
        """As `AdapterGuide.kl_time`; where the free parameter's flow has a closed form, by that."""
        if self.scale_map.kl_time is None:
            return self._kl_time_of_one(width)
        prior_scale = float(self.prior_scale)
        return self.scale_map.kl_time(self.width() * prior_scale, width * prior_scale, prior_scale)

    def mean_scale(self) -> Tensor:
        """As `AdapterGuide.mean_scale`, in a handful of operations."""
        devices: dict[torch.device, list[Tensor]] = {}
        for free in self.free_scales:
            devices.setdefault(free.device, []).append(free.detach().flatten())
        sums = [self.scale_map.to_scale(torch.cat(frees)).sum() for frees in devices.values()]
        return torch.stack([one.to(sums[0].device) for one in sums]).sum() / sum(f.numel() for f in self.free_scales)

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """The free parameter of every site."""
        return {f"{site}.{self.scale_map.parameter}": self.free_scale(site) for site in self.model.sites}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Arguments (beside the model) that make this guide again; JSON types only."""
