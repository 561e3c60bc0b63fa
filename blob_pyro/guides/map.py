"""Maximum a posteriori: a point, with the model's prior."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from blob_pyro.guides.base import AdapterGuide


class MAPGuide(AdapterGuide):
    r"""A point at the adapter's own weight; its "KL" is -log prior(A):

        sum_ij A_ij^2 / (2 sigma_p^2) + log sigma_p + 1/2 log 2 pi   (total nats).

    B is a point without a prior. The paper's MAP row is plain LoRA with AdamW's weight decay 1e-5 on A and
    B: take `MLEGuide` and `weight_decay=1e-5` for that.

    Valid for: any BayesianLoRA. Flipout refuses it: a point has no perturbation to flip.
    Cost against plain LoRA: none.
    """

    title = "MAP, prior on A"
    is_random = False

    def scale(self, site: str) -> Tensor:
        """Zeros, (r, n)."""
        return torch.zeros_like(self.loc(site))

    def posterior(self, site: str) -> dist.Delta:
        """The point, event_shape (r, n)."""
        return dist.Delta(self.loc(site), event_dim=2, validate_args=False)  # the host would wait for a look at it

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}
