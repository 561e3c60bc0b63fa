"""The law of W0 + B A against dense (m n, m n) covariances, Monte Carlo and theorem 3.2."""

from __future__ import annotations

import math
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from blob_pyro.distributions import FullWeightNormal

M, N, R = 6, 4, 2


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal float64 numbers that depend on the seed only."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_law(seed: int = 0, batch: tuple[int, ...] = (), B: Tensor | None = None) -> FullWeightNormal:
    """A small float64 law with every argument random."""
    B = normal(M, R, seed=seed + 1) if B is None else B
    r = B.shape[-1]
    scale = normal(*batch, r, N, seed=seed + 3).abs() + 0.1
    return FullWeightNormal(normal(M, N, seed=99), B, normal(*batch, r, N, seed=seed + 2), scale)


def vec(matrix: Tensor) -> Tensor:
    """Columns stacked, (..., m, n) -> (..., m n)."""
    return matrix.mT.flatten(-2)


def dense_covariance(law: FullWeightNormal) -> Tensor:
    """The naive twin: [I_n (x) B] diag(vec(scale)^2) [I_n (x) B^T]."""
    lift = torch.kron(torch.eye(N, dtype=torch.float64), law.B)
    return lift @ torch.diag(vec(law.scale).square()) @ lift.mT


def dense_kl(q: FullWeightNormal, p: FullWeightNormal) -> float:
    """KL of the two dense normals of vec W, projected on an orthonormal basis of q's support."""
    basis = torch.linalg.svd(torch.kron(torch.eye(N, dtype=torch.float64), q.B), full_matrices=False).U
    laws = [
        torch.distributions.MultivariateNormal(basis.mT @ vec(law.mean), basis.mT @ dense_covariance(law) @ basis)
        for law in (q, p)
    ]
    return float(kl_divergence(*laws))


def test_mean_and_variance_equal_the_dense_law() -> None:
    law = make_law()
    torch.testing.assert_close(law.mean, law.base_weight + law.B @ law.loc)
    torch.testing.assert_close(vec(law.variance), dense_covariance(law).diagonal())


def test_draws_have_the_dense_covariance() -> None:
    # 200,000 draws: each entry of the empirical covariance has standard error below sqrt(2) v / 447, v <= 12
    # being the largest variance; 5 standard errors over 576 entries fail with probability below 4e-4.
    law, size = make_law(), 200_000
    torch.manual_seed(0)
    draws = vec(law.rsample((size,)))
    covariance = dense_covariance(law)
    variance = covariance.diagonal()
    error = (covariance.square() + torch.outer(variance, variance)).sqrt() / math.sqrt(size)
    assert ((draws.T.cov() - covariance).abs() <= 5 * error + 1e-12).all()
    assert ((draws.mean(0) - vec(law.mean)).abs() <= 5 * (variance / size).sqrt()).all()


def test_draws_stay_in_the_column_span() -> None:
    law = make_law()
    torch.manual_seed(0)
    delta = law.rsample((3,)) - law.base_weight
    basis = torch.linalg.qr(law.B).Q
    torch.testing.assert_close(basis @ basis.mT @ delta, delta)


def test_rsample_is_differentiable_in_every_argument() -> None:
    arguments = [normal(M, N, seed=0), normal(M, R, seed=1), normal(R, N, seed=2), normal(R, N, seed=3).abs() + 0.1]
    arguments = [argument.requires_grad_() for argument in arguments]
    FullWeightNormal(*arguments).rsample().square().sum().backward()
    assert all(argument.grad is not None and argument.grad.abs().sum() > 0 for argument in arguments)


def test_coefficients_are_the_law_of_A() -> None:
    law = make_law()
    expected = dist.Normal(law.loc, law.scale).log_prob(law.loc + 0.3).sum()
    torch.testing.assert_close(law.coefficients.log_prob(law.loc + 0.3), expected)
    assert law.coefficients.event_shape == (R, N)


def test_log_prob_refuses_and_points_to_the_coefficients() -> None:
    with pytest.raises(NotImplementedError, match=r"singular in R\^\(6 x 4\).*coefficients\.log_prob"):
        make_law().log_prob(torch.zeros(M, N))


def test_batch_shape_is_broadcast_from_loc_and_scale() -> None:
    law = FullWeightNormal(torch.zeros(M, N), torch.ones(M, R), torch.zeros(5, 1, R, N), torch.ones(3, R, N))
    assert (law.batch_shape, law.event_shape) == ((5, 3), (M, N))
    assert law.mean.shape == law.variance.shape == law.rsample().shape == (5, 3, M, N)
    assert law.rsample((2,)).shape == (2, 5, 3, M, N)


def test_expand_keeps_the_law() -> None:
    law = make_law()
    wide = law.expand((3, 2))
    assert (wide.batch_shape, wide.event_shape) == ((3, 2), (M, N))
    torch.testing.assert_close(wide.variance, law.variance.expand(3, 2, M, N))
    assert wide.loc.data_ptr() == law.loc.data_ptr()
    assert law.expand_by((4,)).batch_shape == (4,)


def test_pyro_can_draw_it_at_a_sample_statement() -> None:
    law = make_law()
    pyro.set_rng_seed(0)
    first = pyro.sample("W", law)
    pyro.set_rng_seed(0)
    assert torch.equal(first, law.rsample())


def test_half_precision_is_raised_to_float32_and_float64_stays() -> None:
    low = FullWeightNormal(
        torch.zeros(M, N, dtype=torch.bfloat16),
        torch.ones(M, R, dtype=torch.bfloat16),
        torch.zeros(R, N, dtype=torch.bfloat16),
        torch.ones(R, N, dtype=torch.bfloat16),
    )
    assert low.mean.dtype == low.rsample().dtype == torch.float32
    assert make_law().mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((M, N), (M + 1, R), (R, N), (R, N)), r"expected base_weight of shape \(m, n\)"),
        (((M, N), (M, R), (R + 1, N), (R, N)), r"expected loc of shape \(\.\.\., 2, 4\); got \(3, 4\)"),
        (((M, N), (M, R), (R, N), (R, N + 1)), r"expected scale of shape \(\.\.\., 2, 4\); got \(2, 5\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FullWeightNormal(*(torch.ones(shape) for shape in shapes))


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="scale"):
        FullWeightNormal(torch.zeros(M, N), torch.ones(M, R), torch.zeros(R, N), torch.zeros(R, N), validate_args=True)


def test_kl_of_a_law_with_itself_is_zero() -> None:
    q = make_law()
    assert kl_divergence(q, q) == 0.0


def test_kl_with_one_B_is_the_kl_on_A_and_the_dense_kl() -> None:
    q = make_law(0)
    p = make_law(10, B=q.B.clone())
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(q.coefficients, p.coefficients))
    assert float(kl_divergence(q, p)) == pytest.approx(dense_kl(q, p), rel=1e-9)


def test_kl_with_one_B_equals_blobs_closed_form() -> None:
    q, prior_scale = make_law(), 0.2
    p = FullWeightNormal(q.base_weight, q.B, torch.zeros(R, N), torch.full((R, N), prior_scale))
    square = (q.scale**2 + q.loc**2) / (2 * prior_scale**2)
    expected = (math.log(prior_scale) - q.scale.log() + square - 0.5).sum()
    torch.testing.assert_close(kl_divergence(q, p), expected)


def test_kl_by_monte_carlo() -> None:
    # 100,000 draws, seed fixed: 5 standard errors of the estimate (about 0.05 nats each), failure rate 6e-7.
    q, size = make_law(0), 100_000
    p = make_law(10, B=q.B)
    torch.manual_seed(0)
    draws = q.coefficients.sample((size,))
    ratios = q.coefficients.log_prob(draws) - p.coefficients.log_prob(draws)
    assert float(kl_divergence(q, p)) == pytest.approx(float(ratios.mean()), abs=5 * float(ratios.std()) / size**0.5)


def test_theorem_3_2_an_isotropic_prior_depends_on_R_through_R_Rt_only() -> None:
    q = make_law()
    rotation = torch.linalg.qr(normal(R, R, seed=7)).Q
    zeros, wide = torch.zeros(R, N, dtype=torch.float64), torch.full((R, N), 0.2, dtype=torch.float64)
    same = kl_divergence(q, FullWeightNormal(q.base_weight, q.B, zeros, wide))
    rotated = kl_divergence(q, FullWeightNormal(q.base_weight, q.B @ rotation, zeros, wide))
    torch.testing.assert_close(rotated, same)


@pytest.mark.parametrize("r_prior", [R, R + 2])
def test_kl_with_another_factor_equals_the_dense_kl(r_prior: int) -> None:
    q = make_law(0)
    p = make_law(10, B=q.B @ normal(R, r_prior, seed=5))
    assert float(kl_divergence(q, p)) == pytest.approx(dense_kl(q, p), rel=1e-8)


def test_kl_counts_the_difference_of_the_base_weights() -> None:
    q = make_law(0)
    shifted = q.base_weight + q.B @ normal(R, N, seed=6)
    p = FullWeightNormal(shifted, q.B, q.loc, q.scale)
    assert float(kl_divergence(q, p)) == pytest.approx(dense_kl(q, p), rel=1e-8)


def test_kl_of_a_batch_is_the_kl_of_its_members() -> None:
    q = make_law(0, batch=(3,))
    p = make_law(10, B=q.B @ normal(R, R, seed=5))
    batched = kl_divergence(q, p)
    members = [FullWeightNormal(q.base_weight, q.B, q.loc[k], q.scale[k]) for k in range(3)]
    torch.testing.assert_close(batched, torch.stack([kl_divergence(member, p) for member in members]))


def test_general_kl_has_the_gradient_of_the_kl_on_A() -> None:
    q0 = make_law(0)
    loc, scale = q0.loc.clone().requires_grad_(), q0.scale.clone().requires_grad_()
    q = FullWeightNormal(q0.base_weight, q0.B, loc, scale)
    prior = (torch.zeros(R, N, dtype=torch.float64), torch.full((R, N), 0.2, dtype=torch.float64))
    rotation = torch.linalg.qr(normal(R, R, seed=7)).Q
    grads = [
        torch.autograd.grad(kl_divergence(q, FullWeightNormal(q0.base_weight, factor, *prior)), (loc, scale))
        for factor in (q0.B, q0.B @ rotation)
    ]
    for on_A, general in zip(*grads, strict=True):
        torch.testing.assert_close(general, on_A)


def test_kl_is_infinite_when_the_spans_differ() -> None:
    q = make_law(0)
    assert kl_divergence(q, make_law(10)) == math.inf
    narrow = torch.cat((q.B[:, :1], q.B[:, :1]), 1)
    assert kl_divergence(q, make_law(10, B=narrow)) == math.inf
    wide = torch.cat((q.B, normal(M, 1, seed=8)), 1)
    assert kl_divergence(q, make_law(10, B=wide)) == math.inf
    assert kl_divergence(make_law(0, batch=(3,)), make_law(10)).tolist() == [math.inf] * 3


def test_kl_is_infinite_when_the_base_weights_differ_outside_the_span() -> None:
    q = make_law(0)
    p = FullWeightNormal(q.base_weight + normal(M, N, seed=6), q.B, q.loc, q.scale)
    assert kl_divergence(q, p) == math.inf


@pytest.mark.parametrize(("columns", "rank"), [((0.0, 0.0), 0), ((1.0, 2.0), 1)])
def test_kl_refuses_a_B_without_full_column_rank(columns: tuple[float, float], rank: int) -> None:
    q = make_law(0, B=normal(M, 1, seed=1) * torch.tensor([columns], dtype=torch.float64))
    with pytest.raises(ValueError, match=rf"expected B of full column rank; got rank {rank} of 2.*use the KL on A"):
        kl_divergence(q, q)


def test_kl_refuses_weights_of_two_shapes() -> None:
    p = FullWeightNormal(torch.zeros(M, N + 1), torch.ones(M, R), torch.zeros(R, N + 1), torch.ones(R, N + 1))
    with pytest.raises(ValueError, match=r"expected weights of one shape; got \(6, 4\) and \(6, 5\)"):
        kl_divergence(make_law(), p)


def test_a_4096_square_weight_of_rank_8_takes_seconds_and_no_large_matrix() -> None:
    size, r = 4096, 8
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(size, size, generator=generator)
    B = 0.02 * torch.randn(size, r, generator=generator)
    q = FullWeightNormal(base, B, 0.01 * torch.randn(r, size, generator=generator), torch.full((r, size), 0.05))
    rotation = torch.linalg.qr(torch.randn(r, r, generator=generator)).Q
    prior = (torch.zeros(r, size), torch.full((r, size), 0.2))
    started = time.perf_counter()
    assert q.mean.shape == q.variance.shape == q.rsample().shape == (size, size)
    on_A = kl_divergence(q, FullWeightNormal(base, B, *prior))
    rotated = kl_divergence(q, FullWeightNormal(base.clone(), B @ rotation, *prior))
    # Loose on purpose: a dense covariance would need 10^15 bytes; the machine may be busy.
    assert time.perf_counter() - started < 30
    torch.testing.assert_close(rotated, on_A, rtol=1e-4, atol=0)
