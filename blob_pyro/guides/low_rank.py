"""A Gaussian with low-rank plus diagonal covariance for each adapter."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blob_pyro.distributions import LowRankNormal
from blob_pyro.guides.base import POSITIVE, AdapterGuide, at_least
from blob_pyro.guides.blob import initial_root_scale
from blob_pyro.model.bayesian_lora import BayesianLoRA


class LowRankGuide(AdapterGuide):
    r"""q(vec A) = Normal(vec M, diag(vec(G)^4) + sum_k vec(F_k) vec(F_k)^T), k = 1..rank, for each site.

    What BLoBGuide's independent entries miss: `rank` directions in which the entries of one A vary together. The KL
    against Normal(0, sigma_p^2) is analytic, total nats:

        sum_ij [ log sigma_p + (G^4 + sum_k F_k^2 + M^2) / (2 sigma_p^2) - 1/2 ] - 1/2 log det covariance.

    The free parameters are G and V, with F_k = G V_k, so that a direction is to V as a standard deviation is to BLoB's
    G. The KL's slope in V is then at most 1 / (2 |G|), where in F it would be up to 1 / (2 G^2): an SGD step on the KL
    would throw F far off wherever an entry of G passes near 0.

    V starts random, of G's size: V_k = G e_k / sqrt(rank) with e_k ~ Normal(0, 1), which doubles the variance on
    average. At V = 0 its gradients vanish, those of the KL and on average those of the likelihood: it would stay there.

    Source: Ong, Nott and Smith 2018 (arXiv 1701.03208), section 3; G as in BLoB (arXiv 2406.11675), section 3.3.

    Valid for: any BayesianLoRA; several draws in one forward. Flipout refuses it: the entries are correlated.
    Cost against plain LoRA: 1 + rank more parameters for each entry of A; for each layer and step O(rank^2) operations
    for each entry of A, and memory for the F_k and their gradients.

    Args:
        model: the model.
        rank: number of common directions for each site.
        eps: G starts as U(eps / sqrt 2, eps), float32, as in BLoBGuide.

    Raises:
        ConfigError: rank is below 1, or eps is not above 0.
    """

    title = "Low rank"
    is_random = True
    learns_prior_scale = True
    ranges: ClassVar = {"rank": at_least(1, "direction"), "eps": POSITIVE}

    def __init__(self, model: BayesianLoRA, rank: int = 4, eps: float = 0.05) -> None:
        super().__init__(model)
        self.check(rank=rank, eps=eps)
        self.rank, self.eps = int(rank), float(eps)
        roots = (initial_root_scale(model.location(site), eps) for site in model.sites)
        self.root_scales = nn.ParameterList(map(nn.Parameter, roots))
        self.root_factors = nn.ParameterList(_initial_root_factor(root, rank) for root in self.root_scales)
        self._position = {site: position for position, site in enumerate(model.sites)}

    def scale(self, site: str) -> Tensor:
        """Posterior standard deviation of A at `site`, sqrt(G^4 + sum_k F_k^2), (r, n), float32."""
        return (self.root_scale(site).pow(4) + self.factor(site).square().sum(0)).sqrt()

    def root_scale(self, site: str) -> nn.Parameter:
        """The free parameter G whose square is the independent part's standard deviation, (r, n), float32."""
        return self.root_scales[self._position[site]]

    def root_factor(self, site: str) -> nn.Parameter:
        """The free parameter V of the common directions F_k = G V_k, (rank, r, n), float32."""
        return self.root_factors[self._position[site]]

    def factor(self, site: str) -> Tensor:
        """The common directions F, (rank, r, n), float32."""
        return self.root_scale(site) * self.root_factor(site)

    def posterior(self, site: str) -> LowRankNormal:
        """Gaussian with correlated entries, event_shape (r, n)."""
        return LowRankNormal(self.loc(site), self.root_scale(site).square(), self.factor(site))

    @torch.no_grad()
    def kl_time(self, width: float) -> float:
        """As `AdapterGuide.kl_time`, found at one site."""
        return self._kl_time_of_one(width)

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """G and V of every site."""
        roots = {f"{site}.root_scale": self.root_scale(site) for site in self.model.sites}
        return roots | {f"{site}.root_factor": self.root_factor(site) for site in self.model.sites}

    def settings(self) -> dict[str, Any]:
        """{"rank": ..., "eps": ...}."""
        return {"rank": self.rank, "eps": self.eps}


def _initial_root_factor(root_scale: Tensor, rank: int) -> nn.Parameter:
    noise = torch.randn(rank, *root_scale.shape, dtype=torch.float32, device=root_scale.device)
    return nn.Parameter(root_scale.detach() * noise / math.sqrt(rank))
