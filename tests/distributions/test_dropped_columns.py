"""`DroppedColumns`: whole columns are zero together; the prior cancels."""

from __future__ import annotations

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from laws import check_expand, check_moments, elementwise
from torch.distributions.kl import kl_divergence

from blob_pyro.distributions import DroppedColumns

R, N, P = 3, 4, 0.3
PRIOR = elementwise(0.0, 0.4, (R, N))


def case() -> DroppedColumns:
    loc = torch.randn(R, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return DroppedColumns(loc, P, PRIOR)


def test_moments() -> None:
    """The covariance within a column is loc loc^T p / (1 - p); columns are independent."""
    torch.manual_seed(1)
    law = case()
    covariance = torch.zeros(R, N, R, N, dtype=torch.float64)
    for column in range(N):
        column_loc = law.loc[:, column]
        covariance[:, column, :, column] = torch.outer(column_loc, column_loc) * P / (1 - P)
    assert torch.equal(law.mean, law.loc)
    check_moments(law, covariance.reshape(R * N, R * N))


def test_every_mask_has_its_probability() -> None:
    """All 16 masks in 40,000 draws, each count within 5 standard errors; a draw is loc / (1 - p) or 0, by columns."""
    torch.manual_seed(1)
    law = case()
    draws = law.sample((40_000,))
    kept = (draws != 0).all(1)
    assert torch.equal(kept, (draws != 0).any(1))
    torch.testing.assert_close(draws, law.loc * kept[:, None] / (1 - P))
    for mask in itertools.product([False, True], repeat=N):
        share = float((kept == torch.tensor(mask)).all(1).double().mean())
        probability = math.prod(1 - P if keep else P for keep in mask)
        assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / 40_000)


def test_dropping_columns_is_dropping_inputs() -> None:
    """A x = loc (mask * x) / (1 - p), torch's dropout with the draw's mask."""
    law = case()
    torch.manual_seed(1)
    A = law.rsample()
    mask = (A != 0).any(0)
    x = torch.randn(7, N, dtype=torch.float64)
    torch.testing.assert_close(x @ A.T, (x * mask / (1 - P)) @ law.loc.T)


def test_gradient_goes_through_the_mask() -> None:
    law = case()
    law.loc.requires_grad_()
    torch.manual_seed(3)
    draw = law.rsample()
    target = torch.randn(R, N, dtype=torch.float64)
    (draw * target).sum().backward()
    assert law.loc.grad is not None
    torch.testing.assert_close(law.loc.grad, target * (draw != 0) / (1 - P))
    assert bool((law.loc.grad == 0).any()) and bool((law.loc.grad != 0).any())


@pytest.mark.parametrize("other", [PRIOR, dist.Laplace(torch.zeros(R, N), 1.0).to_event(2)])
def test_it_is_free_against_anything(other: dist.Independent) -> None:
    law = case()
    assert float(kl_divergence(law, other)) == 0.0
    draw = law.sample((3,))
    assert torch.equal(law.log_prob(draw), PRIOR.log_prob(draw))


def test_expand() -> None:
    check_expand(case(), PRIOR)
