"""`FullWeightNormal`: the law of an adapted weight W = W0 + B A when the LoRA matrix A is Gaussian.

Written for BLoB (arXiv 2406.11675): theorem 3.1 gives the law, theorem 3.2 its KL divergence.
"""

# torch.distributions and Pyro leave many of their functions without types.
# mypy: allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl


class FullWeightNormal(TorchDistribution):
    r"""Law of ``W = W0 + B A`` with independent entries ``A_ij ~ Normal(loc_ij, scale_ij^2)``.

    Theorem 3.1 of BLoB (arXiv 2406.11675), columns of W stacked into vec W:

        vec W ~ Normal(vec(W0 + B loc), [I_n (x) B] diag(vec(scale)^2) [I_n (x) B^T])

    Columns of W are independent; column j has the covariance ``B diag(scale_:j^2) B^T``, of rank at most
    r. Nothing larger than (m, n) is ever formed. LoRA's scaling lora_alpha / r must already be in `B`.

    Two such laws have a KL divergence (`torch.distributions.kl_divergence`), computed on r rows instead of
    m; it refuses a `B` without full column rank. There is no density in R^(m x n) while r < m: take
    `coefficients` for log densities.

    Args:
        base_weight: (m, n) the frozen weight W0.
        B: (m, r) the left LoRA factor, scaling included.
        loc: (..., r, n) mean of A.
        scale: (..., r, n) standard deviations of A, positive; broadcast with `loc`.
        validate_args: check the arguments' values; None takes the default of torch.distributions.

    All four are brought to one floating type, float32 at least. The event shape is (m, n); the batch
    shape is the leading dimensions of `loc` and `scale`.

    Raises:
        ValueError: the shapes do not fit together, or a value is out of its domain.

    Example:
        >>> law = FullWeightNormal(torch.zeros(3, 2), torch.eye(3, 1), torch.ones(1, 2), torch.full((1, 2), 0.5))
        >>> law.mean.tolist()
        [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
        >>> law.variance.tolist()
        [[0.25, 0.25], [0.0, 0.0], [0.0, 0.0]]
        >>> law.rsample((5,)).shape
        torch.Size([5, 3, 2])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "base_weight": constraints.independent(constraints.real, 2),
        "B": constraints.independent(constraints.real, 2),
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self, base_weight: Tensor, B: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        _check_shapes(base_weight, B, loc, scale)
        dtype = _common_dtype(base_weight, B, loc, scale)
        self.base_weight, self.B = base_weight.to(dtype), B.to(dtype)
        self.loc, self.scale = torch.broadcast_tensors(loc.to(dtype), scale.to(dtype))
        super().__init__(self.loc.shape[:-2], base_weight.shape, validate_args=validate_args)

    @property
    def coefficients(self) -> Independent:
        """The law of A: independent normals, batch shape as here, event shape (r, n)."""
        law: Independent = Normal(self.loc, self.scale, validate_args=False).to_event(2)
        return law

    @property
    def mean(self) -> Tensor:
        """(..., m, n) W0 + B loc."""
        mean: Tensor = self.base_weight + self.B @ self.loc
        return mean

    @property
    def variance(self) -> Tensor:
        """(..., m, n) variances of the entries of W: (B * B) scale^2, products and powers elementwise."""
        variance: Tensor = self.B.square() @ self.scale.square()
        return variance

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of W of shape sample_shape + batch_shape + (m, n), differentiable in all four arguments."""
        draw: Tensor = self.coefficients.rsample(torch.Size(sample_shape))
        return self.base_weight + self.B @ draw

    def log_prob(self, value: Tensor) -> Tensor:
        """Not defined: the law lives on an affine subspace of R^(m x n).

        Raises:
            NotImplementedError: always; it points to `coefficients`.
        """
        (m, r), n = self.B.shape, self.loc.shape[-1]
        raise NotImplementedError(
            f"expected a law with a density; got W = W0 + B A, singular in R^({m} x {n}) since column j has "
            f"covariance B diag(scale_:j^2) B^T of rank at most r = {r}; use .coefficients.log_prob(A)"
        )

    def expand(self, batch_shape: Sequence[int], _instance: FullWeightNormal | None = None) -> FullWeightNormal:
        """The same law with `loc` and `scale` expanded to a new batch shape; no memory is copied."""
        new: FullWeightNormal = self._get_checked_instance(FullWeightNormal, _instance)
        shape = torch.Size(batch_shape) + self.loc.shape[-2:]
        new.base_weight, new.B = self.base_weight, self.B
        new.loc, new.scale = self.loc.expand(shape), self.scale.expand(shape)
        super(FullWeightNormal, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


@register_kl(FullWeightNormal, FullWeightNormal)
def _kl_full_weight(q: FullWeightNormal, p: FullWeightNormal) -> Tensor:
    """KL(q || p) in nats, summed over the whole weight; shape: the broadcast batch shapes.

    With one B and one base weight this is the KL on A (theorem 3.2: both laws are images under one
    injective map). In general q, the law of W0 + B A, and p, the law of V0 + R A, are compared column by
    column in the coordinates of the span of B. The KL is +inf where q has no density against p: the column
    spans of B and R differ, or V0 - W0 leaves the span. Both tests allow for rounding: a residual of relative
    Frobenius norm sqrt(eps) of the floating type (3.5e-4 in float32, 1.5e-8 in float64).

    Raises:
        ValueError: the event shapes differ, or q's B has no full column rank (as in a fresh LoRA, B = 0).
    """
    if q.event_shape != p.event_shape:
        raise ValueError(f"expected weights of one shape; got {tuple(q.event_shape)} and {tuple(p.event_shape)}")
    _check_full_column_rank(q.B)
    if _same(q.B, p.B) and _same(q.base_weight, p.base_weight):
        kl: Tensor = kl_divergence(q.coefficients, p.coefficients)
        return kl
    return _kl_in_span(q, p)


def _kl_in_span(q: FullWeightNormal, p: FullWeightNormal) -> Tensor:
    """The general case of `_kl_full_weight`.

    With C = B^+ R and shift = B^+ (V0 - W0), the image of A under p has, in q's coordinates, column j of mean
    shift_j + C loc_pj and covariance C diag(scale_pj^2) C^T.
    """
    dtype = torch.promote_types(q.loc.dtype, p.loc.dtype)
    # The work past the (m, n) difference is on r rows: float64 costs nothing there and a trained B is ill-conditioned.
    basis, triangle = torch.linalg.qr(q.B.double())
    inside = basis.mT @ p.B.double()
    shift = _base_shift(q, p, basis.to(dtype))
    if shift is None or not _same_span(p.B.double(), basis, inside, dtype):
        batch_shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        return torch.full(batch_shape, math.inf, dtype=dtype, device=q.loc.device)
    map_p = torch.linalg.solve_triangular(triangle, inside, upper=True)
    offset = torch.linalg.solve_triangular(triangle, shift.double(), upper=True)
    gap = offset + map_p @ p.loc.double() - q.loc.double()
    return _sum_of_column_kls(gap, q.scale.double(), map_p, p.scale.double()).to(dtype)


def _sum_of_column_kls(gap: Tensor, scale_q: Tensor, map_p: Tensor, scale_p: Tensor) -> Tensor:
    """Sum over columns of KL(Normal(0, diag(scale_qj^2)) || Normal(gap_j, map_p diag(scale_pj^2) map_p^T)).

    Args:
        gap: (..., r, n) difference of the means.
        scale_q: (..., r, n).
        map_p: (r, r') of rank r.
        scale_p: (..., r', n).
    """
    # QR of the factor instead of Cholesky of the product: the condition number is not squared.
    factor = map_p * scale_p.mT.unsqueeze(-2)  # (..., n, r, r')
    upper = torch.linalg.qr(factor.mT).R  # covariance_j = upper_j^T upper_j
    lower = upper.mT
    spread = torch.linalg.solve_triangular(lower, torch.diag_embed(scale_q.mT), upper=False)
    shift = torch.linalg.solve_triangular(lower, gap.mT.unsqueeze(-1), upper=False)
    log_det_p = upper.diagonal(dim1=-2, dim2=-1).abs().log().sum((-2, -1))
    log_det_q = scale_q.log().sum((-2, -1))
    count = scale_q.shape[-2] * scale_q.shape[-1]
    square = spread.square().sum((-3, -2, -1)) + shift.square().sum((-3, -2, -1))
    total: Tensor = log_det_p - log_det_q + 0.5 * (square - count)
    return total


def _base_shift(q: FullWeightNormal, p: FullWeightNormal, basis: Tensor) -> Tensor | None:
    """(r, n) coordinates of V0 - W0 in the (m, r) orthonormal `basis`, or None where it leaves the span."""
    dtype, eps = basis.dtype, torch.finfo(basis.dtype).eps
    if q.base_weight is p.base_weight:
        return basis.new_zeros(basis.shape[-1], q.event_shape[-1])
    difference = p.base_weight.to(dtype) - q.base_weight.to(dtype)
    inside = basis.mT @ difference
    outside = torch.linalg.matrix_norm(difference - basis @ inside)
    # Rounding of the two base weights themselves, which may be much larger than their difference.
    rounding = 4 * eps * (torch.linalg.matrix_norm(q.base_weight) + torch.linalg.matrix_norm(p.base_weight))
    if outside > math.sqrt(eps) * torch.linalg.matrix_norm(difference) + rounding:
        return None
    return inside


def _same_span(R: Tensor, basis: Tensor, inside: Tensor, dtype: torch.dtype) -> bool:
    """Whether the (m, r') `R`, with coordinates `inside` = basis^T R, spans what the (m, r) `basis` spans."""
    outside = torch.linalg.matrix_norm(R - basis @ inside)
    if outside > math.sqrt(torch.finfo(dtype).eps) * torch.linalg.matrix_norm(R):
        return False
    return _rank(inside, dtype) == basis.shape[-1]


def _check_full_column_rank(B: Tensor) -> None:
    """Raise unless the (m, r) `B` has rank r."""
    rank, r = _rank(B.double(), B.dtype), B.shape[-1]
    if rank < r:
        raise ValueError(
            f"expected B of full column rank; got rank {rank} of {r} (a fresh LoRA has B = 0); "
            "use the KL on A: kl_divergence(q.coefficients, p.coefficients)"
        )


def _rank(matrix: Tensor, dtype: torch.dtype) -> int:
    """Numerical rank of a float64 (m, r) `matrix` whose entries were rounded to `dtype`."""
    singular_values = torch.linalg.svdvals(matrix.detach())
    # Rounding moves a singular value by at most eps |B|_F <= eps sqrt(r) s_max; sqrt(m) leaves room for the SVD.
    threshold = torch.finfo(dtype).eps * math.sqrt(matrix.numel()) * singular_values.max()
    return int((singular_values > threshold).sum())


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one object or hold equal values."""
    return a is b or torch.equal(a, b)


def _common_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest floating type among the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _check_shapes(base_weight: Tensor, B: Tensor, loc: Tensor, scale: Tensor) -> None:
    """Raise unless the shapes are (m, n), (m, r), (..., r, n) and (..., r, n)."""
    if base_weight.dim() != 2 or B.dim() != 2 or B.shape[0] != base_weight.shape[0]:
        raise ValueError(
            "expected base_weight of shape (m, n) and B of shape (m, r); "
            f"got {tuple(base_weight.shape)} and {tuple(B.shape)}"
        )
    expected = (B.shape[1], base_weight.shape[1])
    for name, value in (("loc", loc), ("scale", scale)):
        if tuple(value.shape[-2:]) != expected:
            raise ValueError(f"expected {name} of shape (..., {expected[0]}, {expected[1]}); got {tuple(value.shape)}")
