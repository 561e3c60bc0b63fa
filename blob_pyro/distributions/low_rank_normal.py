"""`LowRankNormal`: a Gaussian over a matrix with a diagonal plus low-rank covariance."""

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


class LowRankNormal(TorchDistribution):
    r"""Law of A = loc + scale * E + sum_k z_k F_k with all E_ij, z_k ~ Normal(0, 1), k = 1..rank:

        vec A ~ Normal(vec loc, diag(vec(scale)^2) + sum_k vec(F_k) vec(F_k)^T).

    Nothing larger than (rank, r n) is formed: densities go by the matrix determinant lemma and a QR of the directions,
    in O(rank^2 r n) and in float64, so that an entry of `scale` may pass near 0. The KL against a Normal with
    independent entries is analytic (`torch.distributions.kl_divergence`):

        sum_ij [ log s + (scale^2 + sum_k F_k^2 + (loc - m)^2) / (2 s^2) - 1/2 ] - 1/2 log det covariance

    for a prior of mean m and standard deviation s, total nats.

    Source: Ong, Nott and Smith 2018 (arXiv 1701.03208), section 3; the law is that of
    `torch.distributions.LowRankMultivariateNormal`, which takes vectors and has no such KL.

    Args:
        loc: (..., r, n).
        scale: (r, n) standard deviations of the diagonal part, positive; shared by the batch.
        factor: (rank, r, n) the F_k; shared by the batch.

    Example:
        >>> law = LowRankNormal(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 1, 2))
        >>> law.variance.tolist()
        [[2.0, 2.0]]
        >>> law.rsample((5,)).shape
        torch.Size([5, 1, 2])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
        "factor": constraints.independent(constraints.real, 3),
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, factor: Tensor) -> None:
        self.loc, self.scale, self.factor = loc, scale, factor
        # unvalidated: a NaN is to become a non-finite loss that names step and items, not a page of values
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(..., r, n) loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """(..., r, n) variances of the entries: scale^2 + sum_k F_k^2."""
        return (self.scale.square() + self.factor.square().sum(0)).expand(self.loc.shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape sample_shape + batch_shape + (r, n), differentiable in all three arguments."""
        shape = self._extended_shape(torch.Size(sample_shape))
        own = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        common = torch.randn(shape[:-2] + self.factor.shape[:1], dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * own + (common @ self.factor.flatten(1)).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, one number for each matrix."""
        rows, Q, R = self._whitened()
        target = ((value - self.loc) / self.scale).flatten(-2).double()
        target = torch.cat([target.new_zeros(*target.shape[:-1], R.shape[0]), target], dim=-1)
        # ridge regression on the directions: what it leaves has the length that Woodbury's identity finds by
        # subtracting two squares, which cancel where an entry of scale is near 0
        found = torch.linalg.solve_triangular(R, (target @ Q).unsqueeze(-1), upper=True).squeeze(-1)
        square = (target - found @ rows.mT).square().sum(-1).to(self.loc.dtype)
        return -0.5 * (square + self._log_det(R) + self.event_shape.numel() * math.log(2 * math.pi))

    def log_det(self) -> Tensor:
        """Log determinant of the covariance of vec A. Scalar."""
        return self._log_det(self._whitened()[2])

    def expand(self, batch_shape: Sequence[int], _instance: LowRankNormal | None = None) -> LowRankNormal:
        """The same law with `loc` expanded to a new batch shape; no memory is copied."""
        new: LowRankNormal = self._get_checked_instance(LowRankNormal, _instance)
        new.loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        new.scale, new.factor = self.scale, self.factor
        super(LowRankNormal, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def _log_det(self, R: Tensor) -> Tensor:
        log_det: Tensor = self.scale.log().sum() + R.diagonal().abs().log().sum().to(self.scale.dtype)
        return 2 * log_det

    def _whitened(self) -> tuple[Tensor, Tensor, Tensor]:
        """[I; F / scale], its columns the directions, (rank + r n, rank) in float64, and its QR.

        R^T R = I + (F / scale)^T (F / scale), whose determinant is the covariance's over the diagonal part's.
        """
        directions = (self.factor.double() / self.scale.double()).flatten(1).mT
        eye = torch.eye(directions.shape[1], dtype=directions.dtype, device=directions.device)
        rows = torch.cat([eye, directions])
        Q, R = torch.linalg.qr(rows)
        return rows, Q, R


@register_kl(LowRankNormal, Independent)
def _kl_low_rank(q: LowRankNormal, p: Independent[Any]) -> Tensor:
    """KL(q || p) in nats, summed over the matrix; shape: the broadcast batch shapes."""
    return kl_to_independent(q.loc, q.variance, q.log_det(), p)
