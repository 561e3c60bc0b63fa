"""`ColumnNormal` against a dense Gaussian: independent columns, one covariance."""

from __future__ import annotations

import pytest
import torch
from laws import check_density, check_expand, check_kl, check_moments, dense, elementwise
from torch import Tensor
from torch.distributions.kl import kl_divergence

from blob_pyro.distributions import ColumnNormal

R, N = 3, 4


def case(seed: int = 0) -> tuple[ColumnNormal, Tensor]:
    """A law with a root that is neither symmetric nor triangular, and the covariance of vec A, in float64."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(R, N, generator=generator, dtype=torch.float64)
    factor = torch.randn(R, R, generator=generator, dtype=torch.float64)
    covariance = torch.kron(factor @ factor.mT, torch.eye(N, dtype=torch.float64))  # rows one after another
    return ColumnNormal(loc, factor), covariance


def test_moments() -> None:
    torch.manual_seed(1)
    law, covariance = case()
    assert torch.equal(law.mean, law.loc)
    check_moments(law, covariance)


@pytest.mark.parametrize("seed", [0, 1])
def test_density_and_kl_are_the_dense_ones(seed: int) -> None:
    torch.manual_seed(1)
    law, covariance = case(seed)
    twin = dense(law.loc, covariance)
    check_density(law, twin)
    check_kl(law, twin, elementwise(0.0, 0.4, (R, N)))
    check_kl(law, twin, elementwise(torch.randn(R, N), torch.rand(R, N) + 0.3, (R, N)))


def test_expand() -> None:
    check_expand(case()[0], elementwise(0.0, 0.4, (R, N)))


def test_a_scalar_prior_counts_every_entry() -> None:
    """A prior whose parameters are expanded scalars, as the model's."""
    law, _ = case()
    zero = torch.zeros((), dtype=torch.float64)
    scalar = torch.distributions.Independent(torch.distributions.Normal(zero, zero + 0.4).expand((R, N)), 2)
    torch.testing.assert_close(kl_divergence(law, scalar), kl_divergence(law, elementwise(0.0, 0.4, (R, N))))


def test_kl_of_the_prior_is_zero() -> None:
    law = ColumnNormal(torch.zeros(R, N), 0.4 * torch.eye(R))
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(R, N), 0.4), 2)
    assert abs(float(kl_divergence(law, prior))) < 1e-5


def test_gradients_of_the_kl() -> None:
    law, _ = case()
    loc, factor = law.loc.requires_grad_(), law.factor.requires_grad_()
    prior = elementwise(0.1, 0.4, (R, N))
    assert torch.autograd.gradcheck(lambda m, f: kl_divergence(ColumnNormal(m, f), prior), (loc, factor))


def test_another_prior_is_refused() -> None:
    """Pyro then samples the KL."""
    law, _ = case()
    prior = torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(R, N), 1.0), 2)
    with pytest.raises(NotImplementedError, match="expected a Normal with independent entries; got Laplace"):
        kl_divergence(law, prior)
