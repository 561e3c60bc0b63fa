"""`RadialNormal`: rows of random length, compared with a prior by their r coefficients."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from laws import check_expand, check_kl_by_draws, check_moments, elementwise
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.distributions.kl import kl_divergence

from blob_pyro.distributions import RadialNormal

R, N = 3, 4


def case(prior: dist.Independent | None = None, seed: int = 0) -> tuple[RadialNormal, Tensor]:
    """A law, and the covariance of vec A (of rank r), in float64."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(R, N, generator=generator, dtype=torch.float64)
    scale = torch.rand(R, generator=generator, dtype=torch.float64) + 0.2
    blocks = []
    for row, spread in zip(loc, scale, strict=True):
        unit = row / math.sqrt(float(row @ row))
        blocks.append(spread**2 * torch.outer(unit, unit))
    return RadialNormal(loc, scale, prior or elementwise(0.0, 0.4, (R, N))), torch.block_diag(*blocks)


def test_moments() -> None:
    torch.manual_seed(1)
    law, covariance = case()
    assert torch.equal(law.mean, law.loc)
    check_moments(law, covariance)


def test_draws_are_the_rows_times_a_number() -> None:
    """A = diag(s) V with unit rows V: the same law as r draws of s, by a loop."""
    law, _ = case()
    torch.manual_seed(1)
    draw = law.rsample()
    torch.manual_seed(1)
    noise = torch.randn(R, dtype=torch.float64)
    for i in range(R):
        length = torch.linalg.vector_norm(law.loc[i])
        torch.testing.assert_close(draw[i], (length + law.scale[i] * noise[i]) * law.loc[i] / length)


PRIORS = {
    "the model's": elementwise(0.0, 0.4, (R, N)),
    "another": elementwise(torch.linspace(-1, 1, R * N).reshape(R, N), torch.linspace(0.3, 1, N).expand(R, N), (R, N)),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=list(PRIORS))
def test_kl_is_that_of_the_coefficients(prior: dist.Independent) -> None:
    """Against torch's dense KL of the r coefficients, the prior projected by a matrix P: s = P vec A."""
    torch.manual_seed(1)
    law, _ = case(prior)
    units = law.loc / torch.linalg.vector_norm(law.loc, dim=-1, keepdim=True)
    P = torch.block_diag(*(row[None] for row in units))
    projected = MultivariateNormal(P @ prior.mean.flatten(), P @ torch.diag(prior.variance.flatten()) @ P.T)
    own = MultivariateNormal(P @ law.loc.flatten(), torch.diag(law.scale**2))
    torch.testing.assert_close(kl_divergence(law, prior), kl_divergence(own, projected))
    check_kl_by_draws(law, prior)
    value = law.sample((5,))
    expected = own.log_prob(value.flatten(1) @ P.T) - projected.log_prob(value.flatten(1) @ P.T)
    torch.testing.assert_close(law.log_prob(value) - prior.log_prob(value), expected)


def test_kl_by_the_formula() -> None:
    law, prior = case()[0], elementwise(0.0, 0.4, (R, N))
    expected = 0.0
    for row, spread in zip(law.loc, law.scale, strict=True):
        expected += math.log(0.4 / spread) + (float(spread) ** 2 + float(row @ row)) / (2 * 0.4**2) - 0.5
    assert float(kl_divergence(law, prior)) == pytest.approx(expected, rel=1e-9)


def test_gradient_of_the_kl_in_the_location_is_the_gaussians() -> None:
    """loc / prior_scale^2, as if every entry were random; and in the scale s / prior_scale^2 - 1 / s."""
    law, _ = case()
    loc, scale = law.loc.requires_grad_(), law.scale.requires_grad_()
    kl_divergence(law, elementwise(0.0, 0.4, (R, N))).backward()
    assert loc.grad is not None and scale.grad is not None
    torch.testing.assert_close(loc.grad, loc.detach() / 0.4**2)
    torch.testing.assert_close(scale.grad, scale.detach() / 0.4**2 - 1 / scale.detach())


def test_gradients_of_draw_and_density() -> None:
    law, _ = case()
    prior = law.prior

    def both(loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(2)
        q = RadialNormal(loc, scale, prior)
        value = q.rsample()
        return value, q.log_prob(value)

    assert torch.autograd.gradcheck(both, (law.loc.requires_grad_(), law.scale.requires_grad_()))


def test_off_the_subspace() -> None:
    """A row that turns is impossible; one that shrinks or flips over is not; rounding to float32 does not count."""
    law, _ = case()
    value = law.sample()
    turned = value.clone()
    turned[1] = value[1].flip(0)
    assert float(law.log_prob(turned)) == -math.inf
    assert math.isfinite(float(law.log_prob(-value)))
    narrow = RadialNormal(law.loc.float(), law.scale.float(), elementwise(0.0, 0.4, (R, N)))
    assert math.isfinite(float(narrow.log_prob(value.float())))


def test_expand() -> None:
    check_expand(case()[0], elementwise(0.0, 0.4, (R, N)))


def test_a_row_of_zeros() -> None:
    """It gets a direction; draws, KL and gradients are finite."""
    loc = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    prior = dist.Normal(torch.zeros(2, 2), 0.4).to_event(2)
    law = RadialNormal(loc, torch.full((2,), 0.5), prior)
    torch.testing.assert_close(law.direction.detach(), torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]]))
    draw = law.rsample()
    (kl_divergence(law, prior) + law.log_prob(draw) + draw.sum()).backward()
    assert loc.grad is not None and bool(loc.grad.isfinite().all())
