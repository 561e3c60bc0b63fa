"""`LowRankNormal` against a dense Gaussian and torch's own vector law."""

from __future__ import annotations

import time

import mpmath
import pytest
import torch
from laws import check_density, check_expand, check_kl, check_moments, dense, elementwise
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal
from torch.distributions.kl import kl_divergence

from blob_pyro.distributions import LowRankNormal

R, N = 3, 4


def case(rank: int = 2, seed: int = 0) -> tuple[LowRankNormal, Tensor]:
    """A law, and the covariance of vec A, in float64."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(R, N, generator=generator, dtype=torch.float64)
    scale = torch.rand(R, N, generator=generator, dtype=torch.float64) + 0.2
    factor = torch.randn(rank, R, N, generator=generator, dtype=torch.float64)
    covariance = torch.diag(scale.flatten() ** 2)
    for common in factor:
        covariance = covariance + torch.outer(common.flatten(), common.flatten())
    return LowRankNormal(loc, scale, factor), covariance


@pytest.mark.parametrize("rank", [1, 3])
def test_moments(rank: int) -> None:
    torch.manual_seed(1)
    law, covariance = case(rank)
    assert torch.equal(law.mean, law.loc)
    check_moments(law, covariance)


@pytest.mark.parametrize("rank", [1, 2, 20])
def test_density_and_kl_are_the_dense_ones(rank: int) -> None:
    """Also for more directions than entries."""
    torch.manual_seed(1)
    law, covariance = case(rank)
    twin = dense(law.loc, covariance)
    check_density(law, twin)
    check_kl(law, twin, elementwise(0.0, 0.4, (R, N)))
    check_kl(law, twin, elementwise(torch.randn(R, N), torch.rand(R, N) + 0.3, (R, N)))


def test_density_is_torchs() -> None:
    law, _ = case()
    twin = LowRankMultivariateNormal(law.loc.flatten(), law.factor.flatten(1).T, law.scale.flatten() ** 2)
    value = law.sample((4,))
    torch.testing.assert_close(law.log_prob(value), twin.log_prob(value.flatten(1)))


def test_expand() -> None:
    check_expand(case()[0], elementwise(0.0, 0.4, (R, N)))


def test_kl_of_the_prior_is_zero() -> None:
    law = LowRankNormal(torch.zeros(R, N), torch.full((R, N), 0.4), torch.zeros(2, R, N))
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(R, N), 0.4), 2)
    assert abs(float(kl_divergence(law, prior))) < 1e-5


def test_gradients_of_kl_and_density() -> None:
    law, _ = case()
    arguments = (law.loc.requires_grad_(), law.scale.requires_grad_(), law.factor.requires_grad_())
    prior, value = elementwise(0.1, 0.4, (R, N)), law.sample()
    assert torch.autograd.gradcheck(lambda *a: kl_divergence(LowRankNormal(*a), prior), arguments)
    assert torch.autograd.gradcheck(lambda *a: LowRankNormal(*a).log_prob(value), arguments)


def test_gradients_vanish_without_directions() -> None:
    """F = 0 is a saddle of the KL, whatever the rest: why a guide starts elsewhere."""
    law, _ = case()
    factor = torch.zeros_like(law.factor).requires_grad_()
    kl_divergence(LowRankNormal(law.loc, law.scale, factor), elementwise(0.1, 0.4, (R, N))).backward()
    assert factor.grad is not None and not factor.grad.any()


def test_a_large_adapter_is_cheap() -> None:
    """8 x 4096 entries, rank 4, in float32: a KL with its gradients in under a second; its covariance has 4 GB.

    And to a relative 1e-5 of the same in float64.
    """
    torch.manual_seed(0)
    loc, factor = 0.01 * torch.randn(8, 4096), 0.02 * torch.randn(4, 8, 4096)
    scale = torch.full((8, 4096), 0.002)
    arguments = [value.requires_grad_() for value in (loc, scale, factor)]
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(8, 4096), 0.2), 2)
    start = time.perf_counter()
    law = LowRankNormal(*arguments)
    kl = kl_divergence(law, prior)
    (kl + law.log_prob(law.rsample())).backward()
    assert time.perf_counter() - start < 1.0
    exact = kl_divergence(
        LowRankNormal(*(value.detach().double() for value in arguments)), elementwise(0, 0.2, (8, 4096))
    )
    torch.testing.assert_close(kl.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("small", [1e-8, 1e-12])
def test_an_entry_without_noise_of_its_own(small: float) -> None:
    """A scale on its way through 0, in float32: one direction through that entry alone, so all entries are independent.

    Entry 0 then has variance small^2 + 0.02^2, the others 0.3^2.
    """
    scale, factor = torch.full((1, 4), 0.3), torch.zeros(1, 1, 4)
    scale[0, 0], factor[0, 0, 0] = small, 0.02
    law = LowRankNormal(torch.zeros(1, 4), scale, factor)
    spread = torch.tensor([[0.02, 0.3, 0.3, 0.3]])
    twin = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1, 4), spread), 2)
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1, 4), 0.2), 2)
    torch.testing.assert_close(kl_divergence(law, prior), kl_divergence(twin, prior))
    value = twin.sample((5,))
    torch.testing.assert_close(law.log_prob(value), twin.log_prob(value), rtol=1e-4, atol=1e-4)


def test_several_directions_through_one_entry() -> None:
    """In float32, against 60 digits: the determinant of the capacitance has cancelled all but one direction there."""
    mpmath.mp.dps = 60
    torch.manual_seed(0)
    scale, factor = torch.full((2, 3), 0.002), 0.002 * torch.randn(3, 2, 3)
    scale[0, 0] = 1e-10
    law = LowRankNormal(torch.zeros(2, 3), scale, factor)
    F = mpmath.matrix(factor.flatten(1).double().tolist())
    D = mpmath.diag([mpmath.mpf(x) ** 2 for x in scale.flatten().double().tolist()])
    assert float(law.log_det()) == pytest.approx(float(mpmath.log(mpmath.det(D + F.T * F))), rel=1e-6)


def test_a_nan_stays_a_nan() -> None:
    """No error out of a factorisation: the loss is to tell."""
    law, _ = case()
    law.factor[0, 0, 0] = torch.nan
    assert bool(law.log_prob(torch.zeros(R, N, dtype=torch.float64)).isnan())
    assert bool(kl_divergence(law, elementwise(0.0, 0.4, (R, N))).isnan())
