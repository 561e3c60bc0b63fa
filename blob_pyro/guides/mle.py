"""Plain LoRA as a guide: a point, without a prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blob_pyro.distributions import UnpenalisedDelta
from blob_pyro.guides.base import AdapterGuide


class MLEGuide(AdapterGuide):
    """A point at the adapter's own weight whose KL is zero: maximum likelihood, i.e. plain LoRA.

    Under any of Pyro's ELBOs the prior cancels, so the loss is the negative log-likelihood alone.

    Valid for: any BayesianLoRA. Flipout refuses it: a point has no perturbation to flip.
    Cost against plain LoRA: none; it is plain LoRA.
    """

    title = "MLE (plain LoRA)"
    is_random = False

    def scale(self, site: str) -> Tensor:
        """Zeros, (r, n)."""
        return torch.zeros_like(self.loc(site))

    def posterior(self, site: str) -> UnpenalisedDelta:
        """The point, event_shape (r, n)."""
        return UnpenalisedDelta(self.loc(site), self.model.prior(site))

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}
