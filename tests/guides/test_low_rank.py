"""`LowRankGuide`: its start, its law from its parameters, and that training uses its directions."""

from __future__ import annotations

import math

import pytest
import torch
from cases import MODELS, NUM_DATA, make_batch
from guide_laws import check_fit, check_prediction, check_refusals
from torch.distributions import MultivariateNormal
from torch.distributions.kl import kl_divergence

import blob_pyro as bp
from blob_pyro.errors import ConfigError
from blob_pyro.guides import LowRankGuide
from blob_pyro.inference.elbo import negative_elbo, negative_log_likelihood

SIGMA = 0.2


def test_the_law_is_the_dense_gaussian_of_G_and_F() -> None:
    """KL of all sites, and the density of a draw, from a whole covariance in float64."""
    model = MODELS["llama"]()
    guide = LowRankGuide(model, rank=2, eps=0.4)
    total = 0.0
    for site in model.sites:
        G, F = guide.root_scale(site).detach().double(), guide.factor(site).detach().double().flatten(1)
        M = model.location(site).detach().double().flatten()
        twin = MultivariateNormal(M, torch.diag(G.flatten() ** 4) + F.T @ F)
        prior = MultivariateNormal(torch.zeros_like(M), SIGMA**2 * torch.eye(len(M), dtype=torch.float64))
        total += float(kl_divergence(twin, prior))
        draw = guide.posterior(site).sample()
        expected = twin.log_prob(draw.double().flatten())
        torch.testing.assert_close(guide.posterior(site).log_prob(draw).double(), expected, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(guide.scale(site).flatten().double(), twin.variance.sqrt(), rtol=1e-5, atol=1e-7)
    assert float(guide.kl().detach()) == pytest.approx(total, rel=1e-5)


def test_start() -> None:
    """G as BLoB's; the directions double the variance on average: the mean ratio is within 5 standard errors of 1.

    A ratio is chi square with 4 degrees of freedom over 4: of variance 2 / 4.
    """
    model = MODELS["llama"]()
    torch.manual_seed(0)
    guide = LowRankGuide(model, rank=4)
    roots = torch.cat([guide.root_scale(site).flatten() for site in model.sites]).detach()
    assert 0.05 / math.sqrt(2) <= float(roots.min()) and float(roots.max()) <= 0.05
    ratios = torch.cat(
        [(guide.factor(site).square().sum(0) / guide.root_scale(site) ** 4).flatten() for site in model.sites]
    ).detach()
    assert abs(float(ratios.mean()) - 1) < 5 * math.sqrt(2 / 4 / ratios.numel())
    assert guide.factor(next(iter(model.sites))).shape == (4, 4, 32)


def test_directions_are_learnt() -> None:
    """On the ELBO of one batch, the gradient of F is not only the KL's, and 60 steps move F away from its start's span.

    The part of F outside the span that it started in: all of it came from training.
    """
    model = MODELS["llama"]()
    torch.manual_seed(0)
    guide = LowRankGuide(model, rank=1)
    start = {site: guide.factor(site).detach().clone() for site in model.sites}
    batch = make_batch()
    negative_log_likelihood(model, guide, batch).backward()
    assert all(guide.factor(site).grad.abs().max() > 0 for site in model.sites)
    adam = torch.optim.Adam(guide.parameters(), lr=3e-3)
    for _ in range(60):
        adam.zero_grad()
        nll = negative_log_likelihood(model, guide, batch)
        negative_elbo(nll, guide.kl(), NUM_DATA, 0.1).backward()
        adam.step()
    for site in model.sites:
        F, F0 = guide.factor(site).detach().flatten(), start[site].flatten()
        outside = F - F0 * (F @ F0) / (F0 @ F0)
        assert float(outside.norm()) > float(F0.norm())


def test_prediction() -> None:
    check_prediction(lambda model: LowRankGuide(model, eps=0.5))


def test_fit_learns() -> None:
    check_fit(LowRankGuide)


def test_refusals() -> None:
    check_refusals(LowRankGuide, "LowRankNormal")
    with pytest.raises(ConfigError, match="rank: expected at least 1 direction; got 0"):
        LowRankGuide(MODELS["llama"](), rank=0)
    with pytest.raises(ConfigError, match="eps: expected a number above 0; got 0.0"):
        LowRankGuide(MODELS["llama"](), eps=0.0)


def test_random_B_matrices_too() -> None:
    model = MODELS["llama_both"]()
    guide = LowRankGuide(model, rank=2)
    assert bp.PosteriorPredictive(model, guide, num_samples=2)(make_batch()).draws.shape == (2, 4, 3)
    for site in model.sites:
        assert guide.posterior(site).event_shape == model.location(site).shape
