"""`ColumnNormal`: a Gaussian over a matrix whose columns are independent and share one covariance."""

# torch.distributions and Pyro leave many of their functions without types.
# mypy: allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, constraints, register_kl

from blob_pyro.distributions.gaussian_kl import kl_to_independent


class ColumnNormal(TorchDistribution):
    r"""Law of A = loc + L E with all E_ij ~ Normal(0, 1): column j is Normal(loc_j, L L^T), independent of the others.

    A matrix normal with row covariance L L^T and column covariance I. Its KL against a Normal with independent entries,
    mean m and standard deviation s, is analytic (`torch.distributions.kl_divergence`), total nats:

        sum_ij [ log s + ((L L^T)_ii + (loc - m)^2) / (2 s^2) - 1/2 ] - n log |det L|.

    Args:
        loc: (..., r, n).
        factor: (r, r) L, any invertible square root of the covariance; shared by the batch.

    Example:
        >>> law = ColumnNormal(torch.zeros(2, 3), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        >>> law.variance.tolist()
        [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
        >>> law.rsample((5,)).shape
        torch.Size([5, 2, 3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 2),
        "factor": constraints.independent(constraints.real, 2),
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, loc: Tensor, factor: Tensor) -> None:
        self.loc, self.factor = loc, factor
        # unvalidated: a NaN is to become a non-finite loss that names step and items, not a page of values
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(..., r, n) loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """(..., r, n) variances of the entries, (L L^T)_ii: the same along a row."""
        return self.factor.square().sum(-1, keepdim=True).expand(self.loc.shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape sample_shape + batch_shape + (r, n), differentiable in loc and factor."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.loc + self.factor @ torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, one number for each matrix."""
        standard: Tensor = torch.linalg.solve_ex(self.factor, value - self.loc)[0]
        r, n = self.event_shape
        square = standard.square().sum((-2, -1))
        return -0.5 * (square + r * n * math.log(2 * math.pi)) - n * self._log_det()

    def expand(self, batch_shape: Sequence[int], _instance: ColumnNormal | None = None) -> ColumnNormal:
        """The same law with `loc` expanded to a new batch shape; no memory is copied."""
        new: ColumnNormal = self._get_checked_instance(ColumnNormal, _instance)
        new.loc, new.factor = self.loc.expand(torch.Size(batch_shape) + self.event_shape), self.factor
        super(ColumnNormal, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def _log_det(self) -> Tensor:
        """log |det L|. Scalar."""
        log_det: Tensor = torch.linalg.slogdet(self.factor).logabsdet
        return log_det


@register_kl(ColumnNormal, Independent)
def _kl_column_normal(q: ColumnNormal, p: Independent[Any]) -> Tensor:
    """KL(q || p) in nats, summed over the matrix; shape: the broadcast batch shapes."""
    return kl_to_independent(q.loc, q.variance, 2 * q.event_shape[-1] * q._log_det(), p)
