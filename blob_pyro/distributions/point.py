"""A point whose density cancels a prior's: what maximum likelihood is to variational inference."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl


class UnpenalisedDelta(dist.Delta):
    """A point mass at `v` with log density log prior(v), so that log prior - log q is zero.

    KL(UnpenalisedDelta || anything) is registered as 0: under `Trace_ELBO` and `TraceMeanField_ELBO`
    alike, a guide of such points maximises the likelihood.

    Args:
        v: the point; all of its dimensions right of the prior's batch shape are event dimensions.
        prior: the law to cancel.
    """

    def __init__(self, v: Tensor, prior: Distribution) -> None:
        # unvalidated: a NaN is to become a non-finite loss, not an error inside a Pyro model
        super().__init__(v, log_density=prior.log_prob(v), event_dim=len(prior.event_shape), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: UnpenalisedDelta | None = None) -> UnpenalisedDelta:
        """The same point with batch dimensions to its left."""
        new = self._get_checked_instance(UnpenalisedDelta, _instance)
        expanded: UnpenalisedDelta = super().expand(batch_shape, new)
        return expanded


# Pyro registers (Delta, pyro Distribution): without the first line torch would find two matches and warn.
@register_kl(UnpenalisedDelta, dist.Distribution)  # type: ignore[untyped-decorator]
@register_kl(UnpenalisedDelta, Distribution)  # type: ignore[untyped-decorator]
def _kl_unpenalised_delta(p: UnpenalisedDelta, q: Distribution) -> Tensor:
    return torch.zeros(p.batch_shape, dtype=p.v.dtype, device=p.v.device)
