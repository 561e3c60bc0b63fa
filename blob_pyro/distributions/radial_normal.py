"""`RadialNormal`: the law of a matrix whose rows vary in length only."""

# torch.distributions and Pyro leave many of their functions without types.
# mypy: allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints, kl_divergence, register_kl

from blob_pyro.distributions.gaussian_kl import elementwise_normal


class RadialNormal(TorchDistribution):
    r"""Law of A = diag(c) V, where row V_i = loc_i / |loc_i| is a direction and c_i ~ Normal(|loc_i|, scale_i^2).

    Only the r coefficients c are random; the directions are points. So the law lives on r of the r n dimensions, and
    has no density against a prior on the whole matrix. What is compared is c: under a prior with independent Normal
    entries the projection <A_i, V_i> is Normal, and

        log_prob(A) = log q(c) - log p(c) + log prior(A),    KL = KL(q(c) || p(c)),

    the KL registered with torch (total nats). log prior - log q is then that of the coefficients under `Trace_ELBO` and
    `TraceMeanField_ELBO` alike, while directions go unpenalised, as a LoRA's B does.

    Args:
        loc: (..., r, n); a row of zeros points along (1, ..., 1) / sqrt n.
        scale: (r,) standard deviations of the coefficients, positive; shared by the batch.
        prior: the law to compare with, event_shape (r, n): a Normal with independent entries.

    Example:
        >>> prior = Normal(torch.zeros(1, 2), 1.0).to_event(2)
        >>> law = RadialNormal(torch.tensor([[3.0, 4.0]]), torch.ones(1), prior)
        >>> law.variance.tolist()
        [[0.36..., 0.64...]]
        >>> kl_divergence(law, prior).item()
        12.5
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, prior: Distribution) -> None:
        self.loc, self.scale, self.prior = loc, scale, prior
        # unvalidated: a NaN is to become a non-finite loss that names step and items, not a page of values
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=False)

    @property
    def direction(self) -> Tensor:
        """(..., r, n) rows of length 1."""
        length = self.loc.norm(dim=-1, keepdim=True)
        unit = self.loc / torch.where(length == 0, 1.0, length)
        return torch.where(length == 0, 1 / math.sqrt(self.loc.shape[-1]), unit)

    @property
    def coefficients(self) -> Independent[Any]:
        """The law of c: independent Normals, batch shape as here, event shape (r,)."""
        law: Independent[Any] = Normal(self.loc.norm(dim=-1), self.scale, validate_args=False).to_event(1)
        return law

    @property
    def mean(self) -> Tensor:
        """(..., r, n) loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """(..., r, n) variances of the entries: scale_i^2 V_ij^2."""
        return (self.scale.unsqueeze(-1) * self.direction).square()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape sample_shape + batch_shape + (r, n), differentiable in loc and scale."""
        shape = self._extended_shape(torch.Size(sample_shape))[:-1]
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + (self.scale * noise).unsqueeze(-1) * self.direction

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(c) - log p(c) + log prior(value), c_i = <value_i, V_i>; -inf for a value off the subspace.

        Off it means: a residual of relative Frobenius norm above sqrt(eps) of the floating type (3.5e-4 in float32).
        """
        direction = self.direction
        c = (value * direction).sum(-1)
        residual = torch.linalg.matrix_norm(value - c.unsqueeze(-1) * direction)
        on = residual <= math.sqrt(torch.finfo(value.dtype).eps) * torch.linalg.matrix_norm(value)
        log_ratio = self.coefficients.log_prob(c) - _projected(self.prior, direction).log_prob(c)
        return torch.where(on, log_ratio + self.prior.log_prob(value), -math.inf)

    def expand(self, batch_shape: Sequence[int], _instance: RadialNormal | None = None) -> RadialNormal:
        """The same law with `loc` expanded to a new batch shape; no memory is copied."""
        new: RadialNormal = self._get_checked_instance(RadialNormal, _instance)
        new.loc, new.scale = self.loc.expand(torch.Size(batch_shape) + self.event_shape), self.scale
        new.prior = self.prior
        super(RadialNormal, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new


def _projected(prior: Distribution, direction: Tensor) -> Independent[Any]:
    """Law of <A_i, V_i> under a prior of A with independent Normal entries, event shape (r,)."""
    mean, scale = elementwise_normal(prior)
    spread = (scale * direction).norm(dim=-1)
    law: Independent[Any] = Normal((mean * direction).sum(-1), spread, validate_args=False).to_event(1)
    return law


@register_kl(RadialNormal, Independent)
def _kl_radial(q: RadialNormal, p: Independent[Any]) -> Tensor:
    """KL of the coefficients' law against the prior's projection, in nats; shape: the broadcast batch shapes."""
    kl: Tensor = kl_divergence(q.coefficients, _projected(p, q.direction))
    return kl
