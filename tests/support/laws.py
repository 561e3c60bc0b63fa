"""Laws that a distribution over matrices has to keep, against a dense Gaussian or by many draws."""

from __future__ import annotations

import functools
import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.distributions.kl import kl_divergence

DRAWS = 40_000


def elementwise(mean: float | Tensor, scale: float | Tensor, shape: tuple[int, int]) -> Any:
    """A prior with independent Normal entries, event_shape `shape`, float64."""
    mean, scale = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(scale, dtype=torch.float64)
    return dist.Normal(mean.expand(shape), scale.expand(shape)).to_event(2)


def dense(mean: Tensor, covariance: Tensor) -> MultivariateNormal:
    """The Gaussian over vec A, rows one after another, from a whole covariance (r n, r n)."""
    return MultivariateNormal(mean.flatten(-2).double(), covariance.double())


def dense_prior(prior: Any) -> MultivariateNormal:
    """A prior with independent entries as a dense Gaussian over vec A."""
    return dense(prior.mean, torch.diag(prior.variance.flatten().double()))


def check_moments(law: Any, covariance: Tensor) -> None:
    """Mean and every entry of the covariance of vec A from 40,000 draws, within 5 standard errors.

    Also `mean` and `variance` against what they are meant to be. A normal error leaves 5 standard errors once in two
    million; for 12 entries that is 78 covariances.
    """
    torch.testing.assert_close(law.variance.flatten().double(), covariance.diagonal().double())
    draws = law.rsample((DRAWS,)).detach().flatten(1).double()
    mean = law.mean.flatten().double()
    spread = covariance.diagonal().double().sqrt()
    assert bool(((draws.mean(0) - mean).abs() <= 5 * spread / math.sqrt(DRAWS)).all())
    gaps = draws - mean
    products = gaps.unsqueeze(1) * gaps.unsqueeze(2)  # (DRAWS, rn, rn)
    errors = products.std(0) / math.sqrt(DRAWS)
    assert bool(((products.mean(0) - covariance).abs() <= 5 * errors + 1e-12).all())


def check_density(law: Any, twin: MultivariateNormal) -> None:
    """log_prob at draws of the law, and at points far from them, is the dense Gaussian's."""
    values = torch.cat([law.sample((5,)), law.mean + torch.randn(5, *law.event_shape, dtype=law.mean.dtype)])
    torch.testing.assert_close(law.log_prob(values), twin.log_prob(values.flatten(-2)))


def check_kl(law: Any, twin: MultivariateNormal, prior: Any) -> None:
    """torch's KL between the dense Gaussians, and the mean of log q - log p within 5 standard errors."""
    kl = kl_divergence(law, prior)
    torch.testing.assert_close(kl, kl_divergence(twin, dense_prior(prior)))
    check_kl_by_draws(law, prior)


def check_kl_by_draws(law: Any, prior: Any) -> None:
    """The mean of log q - log p over draws is the registered KL, within 5 standard errors."""
    draws = law.sample((DRAWS,))
    gaps = law.log_prob(draws) - prior.log_prob(draws)
    error = float(gaps.std()) / math.sqrt(DRAWS)
    kl = float(kl_divergence(law, prior))
    assert abs(float(gaps.mean()) - kl) < 5 * error
    assert error < 0.02 * abs(kl)


def check_expand(law: Any, prior: Any) -> None:
    """Copies have the law's density and KL, and draws of their own; shapes are as under two plates."""
    wide = law.expand((3, 1))
    assert type(wide) is type(law)
    assert wide.batch_shape == (3, 1) and wide.event_shape == law.event_shape
    assert wide.mean.shape == wide.variance.shape == (3, 1, *law.event_shape)
    draw = wide.rsample()
    assert draw.shape == (3, 1, *law.event_shape)
    assert wide.rsample((5,)).shape == (5, 3, 1, *law.event_shape)
    assert not torch.equal(draw[0], draw[1])
    torch.testing.assert_close(wide.log_prob(draw), torch.stack([law.log_prob(value) for value in draw[:, 0]])[:, None])
    assert wide.log_prob(law.mean).shape == (3, 1)
    torch.testing.assert_close(kl_divergence(wide, prior.expand((3, 1))), kl_divergence(law, prior).expand(3, 1))


@functools.cache
def rows_stand_alone() -> bool:
    """Whether a product with few columns, as the answer head's, sums a row alike whatever rows stand beside it.

    It does on AMD's CPUs; on Intel's MKL takes other kernels for other numbers of rows, which round otherwise (2e-6 for
    32 features), in one thread as well. No order of ours is behind that: the hidden states are equal there, too.
    """
    rows = torch.linspace(-1, 1, 24 * 32).sin().reshape(24, 32)
    for columns in range(2, 6):
        weight = torch.linspace(-1, 1, columns * 32).cos().reshape(columns, 32)
        for count in (1, 2, 3, 4, 6, 8):
            parts = [torch.nn.functional.linear(part, weight) for part in rows.split(count)]
            if not torch.equal(torch.nn.functional.linear(rows, weight), torch.cat(parts)):
                return False
    return True


def assert_equal_draws(found: Tensor, expected: Tensor, *, rounding: float = 1e-5) -> None:
    """Bit for bit where `rows_stand_alone`; elsewhere to `rounding`."""
    if rows_stand_alone():
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)
