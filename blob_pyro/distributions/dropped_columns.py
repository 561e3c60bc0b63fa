"""`DroppedColumns`: the law of a matrix whose input features are dropped at random."""

# torch.distributions and Pyro leave many of their functions without types.
# mypy: allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl


class DroppedColumns(TorchDistribution):
    r"""Law of A = loc diag(z) / (1 - p), where z_j ~ Bernoulli(1 - p) independently for each column j.

    Applied to an input, A x = loc (z * x) / (1 - p): one dropout mask over the features of x. Mean loc, variance
    loc^2 p / (1 - p) elementwise; the entries of one column are zero together.

    A law on 2^n points has no density against a Gaussian prior. As in `UnpenalisedDelta`, log_prob is the
    prior's, so that log prior - log q is zero, and KL(DroppedColumns || anything) is registered as 0: under
    `Trace_ELBO` and `TraceMeanField_ELBO` alike only the likelihood is left.

    Args:
        loc: (..., r, n).
        p: probability that a column is dropped, in (0, 1).
        prior: the law to cancel, event_shape (r, n).

    Example:
        >>> from pyro.distributions import Normal
        >>> law = DroppedColumns(torch.ones(2, 3), 0.5, Normal(torch.zeros(2, 3), 1.0).to_event(2))
        >>> law.variance.tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
        >>> sorted(set(law.rsample((20,)).flatten().tolist()))
        [0.0, 2.0]
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"loc": constraints.independent(constraints.real, 2)}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, loc: Tensor, p: float, prior: Distribution) -> None:
        self.loc, self.p, self.prior = loc, float(p), prior
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(..., r, n) loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """(..., r, n) loc^2 p / (1 - p)."""
        return self.loc.square() * (self.p / (1 - self.p))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape sample_shape + batch_shape + (r, n), differentiable in loc under the drawn mask."""
        shape = self._extended_shape(torch.Size(sample_shape))
        mask = self.loc.new_empty((*shape[:-2], 1, *shape[-1:])).bernoulli_(1 - self.p)
        return self.loc * (mask / (1 - self.p))

    def log_prob(self, value: Tensor) -> Tensor:
        """log prior(value): what cancels the prior; not a density of this law."""
        log_prob: Tensor = self.prior.log_prob(value)
        return log_prob

    def expand(self, batch_shape: Sequence[int], _instance: DroppedColumns | None = None) -> DroppedColumns:
        """The same law with `loc` expanded to a new batch shape; the copies are dropped independently."""
        new: DroppedColumns = self._get_checked_instance(DroppedColumns, _instance)
        new.loc, new.p = self.loc.expand(torch.Size(batch_shape) + self.event_shape), self.p
        new.prior = self.prior.expand(torch.Size(batch_shape))
        super(DroppedColumns, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new


@register_kl(DroppedColumns, Distribution)
def _kl_dropped_columns(q: DroppedColumns, p: Distribution) -> Tensor:
    return q.loc.new_zeros(q.batch_shape)
