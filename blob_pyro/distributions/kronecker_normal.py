"""`KroneckerNormal`: a Gaussian over a matrix, of precision a Kronecker product plus a multiple of the identity."""

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


class KroneckerNormal(TorchDistribution):
    r"""Law of a matrix W (d_out, d_in), columns stacked into vec W:

        vec W ~ Normal(vec loc, (F_in (x) F_out + lambda I)^-1),   F = U diag(s) U^T on either side.

    The factors come as eigenpairs, all or only the leading ones: the eigenvalues that are left out count as zero.
    So the covariance is I / lambda, but for the directions u_out u_in^T of the pairs kept, where it is
    1 / (lambda + s_out s_in). Nothing larger than W and the two bases is formed.

    Args:
        loc: (..., d_out, d_in).
        precision: (...,) lambda, positive.
        out_values: (k_out,) eigenvalues s_out, at least zero.
        out_vectors: (d_out, k_out) orthonormal columns; those of zero eigenvalues may be zero.
        in_values: (k_in,).
        in_vectors: (d_in, k_in).

    The event shape is (d_out, d_in), the batch shape that of `loc` and `precision` broadcast.

    Source: Laplace-LoRA, arXiv 2308.13111, section 4 and the appendix on low-rank factors.

    Example:
        >>> one = torch.ones(1)
        >>> law = KroneckerNormal(torch.zeros(1, 2), one[0], one, torch.ones(1, 1), 3 * one, torch.eye(2, 1))
        >>> law.variance.tolist()
        [[0.25, 1.0]]
        >>> law.rsample((5,)).shape
        torch.Size([5, 1, 2])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 2),
        "precision": constraints.positive,
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        precision: Tensor,
        out_values: Tensor,
        out_vectors: Tensor,
        in_values: Tensor,
        in_vectors: Tensor,
    ) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-2], precision.shape)
        self.loc, self.precision = loc.expand(batch_shape + loc.shape[-2:]), precision.expand(batch_shape)
        self.out_vectors, self.in_vectors = out_vectors, in_vectors
        self.curvature = torch.outer(out_values, in_values)  # (k_out, k_in)
        # unvalidated: a NaN is to become a non-finite loss that names step and items, not a page of values
        super().__init__(batch_shape, loc.shape[-2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(..., d_out, d_in) loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """(..., d_out, d_in) variances of the entries."""
        return 1 / self._lambda + self.out_vectors.square() @ self._correction(-1.0) @ self.in_vectors.square().mT

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape sample_shape + batch_shape + (d_out, d_in), differentiable in loc and precision."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        inside = self._correction(-0.5) * self._coefficients(noise)
        return self.loc + noise * self._lambda.rsqrt() + self.out_vectors @ inside @ self.in_vectors.mT

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, one number for each matrix."""
        gap = value - self.loc
        square = self.precision * gap.square().sum((-2, -1))
        square = square + (self.curvature * self._coefficients(gap).square()).sum((-2, -1))
        return -0.5 * (square - self.log_det_precision() + self.event_shape.numel() * math.log(2 * math.pi))

    def log_det_precision(self) -> Tensor:
        """Log determinant of the precision of vec W, of the batch shape."""
        gains = (self.curvature / self._lambda).log1p().sum((-2, -1))
        return self.event_shape.numel() * self.precision.log() + gains

    def covariance_of(self, matrices: Tensor) -> Tensor:
        """Covariance of C linear functions of W, for each of B items.

        Args:
            matrices: (C, B, d_out, d_in); function c of item b is the sum of the entries of matrices[c, b] * W.

        Returns:
            (..., B, C, C), where ... is the batch shape.
        """
        whole = torch.einsum("cboi,dboi->bcd", matrices, matrices)
        inside = self._coefficients(matrices)
        kept = torch.einsum("...oi,cboi,dboi->...bcd", self._correction(-1.0), inside, inside)
        return whole / self._lambda.unsqueeze(-1) + kept

    def expand(self, batch_shape: Sequence[int], _instance: KroneckerNormal | None = None) -> KroneckerNormal:
        """The same law with `loc` and `precision` expanded to a new batch shape; no memory is copied."""
        new: KroneckerNormal = self._get_checked_instance(KroneckerNormal, _instance)
        new.loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        new.precision = self.precision.expand(torch.Size(batch_shape))
        new.out_vectors, new.in_vectors, new.curvature = self.out_vectors, self.in_vectors, self.curvature
        super(KroneckerNormal, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    @property
    def _lambda(self) -> Tensor:
        """(..., 1, 1)"""
        return self.precision[..., None, None]

    def _correction(self, power: float) -> Tensor:
        """(..., k_out, k_in) (lambda + s)^power - lambda^power."""
        return (self._lambda + self.curvature) ** power - self._lambda**power

    def _coefficients(self, matrix: Tensor) -> Tensor:
        """(..., k_out, k_in) of (..., d_out, d_in) in the kept eigenbasis."""
        return self.out_vectors.mT @ matrix @ self.in_vectors


@register_kl(KroneckerNormal, Independent)
def _kl_kronecker(q: KroneckerNormal, p: Independent[Any]) -> Tensor:
    """KL(q || p) in nats, summed over the matrix; shape: the broadcast batch shapes."""
    return kl_to_independent(q.loc, q.variance, -q.log_det_precision(), p)
