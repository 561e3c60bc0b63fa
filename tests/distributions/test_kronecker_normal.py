"""`KroneckerNormal` against torch's dense multivariate normal."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.distributions.kl import kl_divergence

from blob_pyro.distributions import KroneckerNormal

D_OUT, D_IN = 3, 5
LAMBDA = 0.7


def factor(size: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, float64, of a random factor of the given rank."""
    basis = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).double()).Q
    return torch.linspace(4.0, 0.5, rank).double(), basis[:, :rank]


def make(out_rank: int = D_OUT, in_rank: int = 2) -> tuple[KroneckerNormal, MultivariateNormal]:
    """A law and its dense twin over the rows of W laid end to end."""
    loc = torch.randn(D_OUT, D_IN, generator=torch.Generator().manual_seed(3)).double()
    out_values, out_vectors = factor(D_OUT, out_rank, 1)
    in_values, in_vectors = factor(D_IN, in_rank, 2)
    precision = torch.tensor(LAMBDA).double()
    law = KroneckerNormal(loc, precision, out_values, out_vectors, in_values, in_vectors)
    F_out, F_in = (
        (vectors * values) @ vectors.T for values, vectors in ((out_values, out_vectors), (in_values, in_vectors))
    )
    dense = torch.kron(F_out, F_in) + LAMBDA * torch.eye(D_OUT * D_IN).double()
    return law, MultivariateNormal(loc.flatten(), precision_matrix=dense)


@pytest.mark.parametrize("ranks", [(3, 5), (3, 2), (1, 1), (2, 5)])
def test_is_the_dense_law(ranks: tuple[int, int]) -> None:
    """Mean, variance, density, determinant, KL and linear functions, to float64's rounding."""
    law, dense = make(*ranks)
    torch.testing.assert_close(law.mean.flatten(), dense.mean)
    torch.testing.assert_close(law.variance.flatten(), dense.variance)
    values = torch.randn(6, D_OUT, D_IN).double()
    torch.testing.assert_close(law.log_prob(values), dense.log_prob(values.flatten(1)))
    torch.testing.assert_close(law.log_det_precision(), torch.linalg.slogdet(dense.precision_matrix).logabsdet)
    means, scales = torch.randn(D_OUT, D_IN).double(), torch.rand(D_OUT, D_IN).double() + 0.2
    prior = MultivariateNormal(means.flatten(), torch.diag_embed(scales.flatten() ** 2))
    torch.testing.assert_close(kl_divergence(law, dist.Normal(means, scales).to_event(2)), kl_divergence(dense, prior))
    matrices = torch.randn(2, 4, D_OUT, D_IN).double()
    flat = matrices.flatten(2)
    expected = torch.einsum("cbi,ij,dbj->bcd", flat, dense.covariance_matrix, flat)
    torch.testing.assert_close(law.covariance_of(matrices), expected)


def test_draws_have_the_covariance() -> None:
    """200,000 draws: every entry of the covariance within 6 standard errors; 225 entries, seed fixed."""
    law, dense = make()
    gaps = (law.sample((200_000,)) - law.mean).flatten(1)
    found = gaps.T @ gaps / len(gaps)
    C = dense.covariance_matrix
    error = ((C.diag().outer(C.diag()) + C**2) / len(gaps)).sqrt()
    assert float(((found - C) / error).abs().max()) < 6
    assert float((found - found.diag().diag()).abs().max()) > 20 * float(error.max())


def test_a_draws_log_density_averages_to_minus_the_entropy() -> None:
    law, dense = make()
    log_probs = law.log_prob(law.sample((20_000,)))
    error = float(log_probs.std()) / math.sqrt(20_000)
    assert abs(float(log_probs.mean() + dense.entropy())) < 5 * error


def test_zero_curvature_is_the_prior() -> None:
    """Eigenvalues of zero with vectors of zero, as an unfinished rank leaves them."""
    zeros = torch.zeros
    law = KroneckerNormal(zeros(3, 5), torch.tensor(4.0), zeros(3), zeros(3, 3), zeros(2), zeros(5, 2))
    prior = dist.Normal(zeros(3, 5), 0.5).to_event(2)
    assert torch.equal(law.variance, torch.full((3, 5), 0.25))
    assert float(kl_divergence(law, prior)) == pytest.approx(0, abs=1e-5)
    value = torch.randn(3, 5)
    torch.testing.assert_close(law.log_prob(value), prior.log_prob(value))


def test_batches_of_precisions_and_expansion() -> None:
    law, _ = make()
    args = law.out_vectors, law.in_vectors
    precisions = torch.tensor([0.7, 3.0, 90.0]).double()
    out_values, in_values = factor(D_OUT, 3, 1)[0], factor(D_IN, 2, 2)[0]
    many = KroneckerNormal(law.loc, precisions, out_values, args[0], in_values, args[1])
    assert many.batch_shape == (3,) and many.event_shape == (D_OUT, D_IN)
    matrices, value = torch.randn(2, 4, D_OUT, D_IN).double(), torch.randn(D_OUT, D_IN).double()
    for i, precision in enumerate(precisions):
        one = KroneckerNormal(law.loc, precision, out_values, args[0], in_values, args[1])
        torch.testing.assert_close(many.variance[i], one.variance)
        torch.testing.assert_close(many.log_prob(value)[i], one.log_prob(value))
        torch.testing.assert_close(many.covariance_of(matrices)[i], one.covariance_of(matrices))
    wide = law.expand([4])
    assert wide.batch_shape == (4,) and wide.sample((2,)).shape == (2, 4, D_OUT, D_IN)
    assert law.rsample((2,)).shape == (2, D_OUT, D_IN)
    torch.testing.assert_close(wide.log_prob(value), law.log_prob(value).expand(4))
