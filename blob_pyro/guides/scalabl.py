"""ScalaBL's posterior: only r numbers of each adapter are random."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blob_pyro.distributions import RadialNormal
from blob_pyro.guides.base import POSITIVE, AdapterGuide
from blob_pyro.guides.blob import initial_root_scale
from blob_pyro.guides.only_A import refuse_lora_B
from blob_pyro.model.bayesian_lora import BayesianLoRA


class ScalaBLGuide(AdapterGuide):
    r"""q(A): A = diag(s) V, s_i ~ Normal(|M_i|, G_i^4) and V_i = M_i / |M_i|, for the rows i = 1..r of M.

    The update of the weight is B diag(s) V: B and V map r random numbers into the whole weight. The KL is that of s,
    against what the prior Normal(0, sigma_p^2) on A's entries says of a row's coefficient along its unit direction,
    s_i ~ Normal(0, sigma_p^2), total nats:

        sum_i log sigma_p - 2 log |G_i| + (G_i^4 + |M_i|^2) / (2 sigma_p^2) - 1/2.

    Its gradient in M is BLoB's, M / sigma_p^2. The directions V are points, as B is: the true KL on A is infinite,
    since q lives on r of the r n dimensions. So this KL (r numbers a layer) and an evidence bound made of it compare
    with one another, not with those of guides over all of A; draws and predictions compare as ever.

    Differences from the paper's public code: it starts from the singular values and right singular vectors of a random
    A and keeps s's mean and V as separate parameters, V unconstrained; here both are read off the adapter's own A, so
    that the adapter stays what PEFT saves. Its prior is s ~ Normal(0, 1): that is prior_scale=1 here. It takes the
    logarithm of the scale as free parameter, and its KL formula is that of KL(prior || posterior).

    Source: Samplawski et al. 2025 (arXiv 2506.21408), section 3, and its public code (SRI-CSL/BayesAdapt).

    Valid for: a BayesianLoRA whose A matrices are random; several draws in one forward. Flipout refuses it: the entries
    of a row vary together.
    Cost against plain LoRA: r more parameters a layer; less noise to draw than any other guide.

    Args:
        model: the model.
        eps: the standard deviation of s starts as U(eps / sqrt 2, eps), float32, as in the paper's code.

    Raises:
        ConfigError: eps is not above 0, or the model has random B matrices.
    """

    title = "ScalaBL"
    is_random = True
    learns_prior_scale = True
    ranges: ClassVar = {"eps": POSITIVE}

    def __init__(self, model: BayesianLoRA, eps: float = 0.05) -> None:
        super().__init__(model)
        refuse_lora_B("scalabl", model.sites)
        self.check(eps=eps)
        self.eps = float(eps)
        rows = (model.location(site)[:, 0] for site in model.sites)
        self.root_scales = nn.ParameterList(nn.Parameter(initial_root_scale(row, eps).sqrt()) for row in rows)
        self._position = {site: position for position, site in enumerate(model.sites)}

    def scale(self, site: str) -> Tensor:
        """Posterior standard deviation of A at `site`, G_i^2 |V_ij|, (r, n), float32."""
        return self.posterior(site).variance.sqrt()

    def root_scale(self, site: str) -> nn.Parameter:
        """The free parameter G whose square is the standard deviation of s, (r,), float32."""
        return self.root_scales[self._position[site]]

    def posterior(self, site: str) -> RadialNormal:
        """Rows of random length, event_shape (r, n)."""
        return RadialNormal(self.loc(site), self.root_scale(site).square(), self.prior(site))

    def _width(self) -> Tensor:
        """Of the random numbers themselves, not of the entries that they become."""
        roots = torch.cat([root.flatten() for root in self.root_scales])
        return roots.square().mean() / self.prior_scale

    def _width_at(self, site: str) -> Tensor:
        return (self.root_scale(site).square().mean() / self.prior_scale).detach()

    @torch.no_grad()
    def kl_time(self, width: float) -> float:
        """As `AdapterGuide.kl_time`, found at one site."""
        return self._kl_time_of_one(width)

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """G of every site."""
        return {f"{site}.root_scale": self.root_scale(site) for site in self.model.sites}

    def num_random(self) -> int:
        """How many numbers the KL weighs against the prior: one for each row of A."""
        return sum(self.root_scale(site).numel() for site in self.model.sites)

    def settings(self) -> dict[str, Any]:
        """{"eps": ...}."""
        return {"eps": self.eps}
