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
from blob_pyro.training.elbo import negative_elbo, negative_log_likelihood
from blob_pyro.training.kl_schedule import cycle_length

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
    assert all(guide.root_factor(site).grad.abs().max() > 0 for site in model.sites)
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


@pytest.mark.parametrize("small", [1e-2, 1e-4, 1e-6])
def test_the_slope_of_the_KL_near_a_scale_of_zero(small: float) -> None:
    """At most 1 / (2 |G|) in V, as for one entry alone, and as much as BLoB's 2 / |G|, twice, in G.

    With F itself free its slope would reach 1 / (2 G^2): an SGD step of 0.005 at G = 1e-4 would move F by 250,000.
    """
    model = MODELS["llama"]()
    torch.manual_seed(0)
    guide = LowRankGuide(model)
    for site in model.sites:
        with torch.no_grad():
            guide.root_scale(site)[0].mul_(small / guide.root_scale(site)[0])
            guide.root_factor(site)[:, 0] = small * torch.randn_like(guide.root_factor(site)[:, 0])
    guide.kl().backward()
    for site in model.sites:
        V, G = guide.root_factor(site), guide.root_scale(site)
        assert V.grad is not None and G.grad is not None
        assert bool((V.grad.norm(dim=0) <= 1.001 / (2 * G.abs()) + V.norm(dim=0)).all())
        assert bool((G.grad.abs() <= 4.001 / G.abs() + 1).all())


def test_a_KL_step_at_a_high_learning_rate_stays_small() -> None:
    """AdamW at 0.02 takes entries of G towards 0; the directions stay small, and the items are learnt nonetheless.

    With F itself free they reached 0.33, above the prior's 0.2, and the NLL stayed five times as high.
    """
    model = MODELS["llama"]()
    torch.manual_seed(0)
    guide = LowRankGuide(model)
    rates = {"lr": 0.02, "kl_lr": 0.01, "kl_cycle": cycle_length(NUM_DATA, 4)}  # narrow: the KL hardly acts
    config = bp.TrainConfig(num_steps=100, batch_size=4, recipe="decoupled", **rates)
    history = bp.fit(model, guide, [make_batch()], config, progress=False)
    assert all(math.isfinite(step.loss) for step in history)
    assert min(float(guide.root_scale(site).detach().abs().min()) for site in model.sites) < 0.03
    assert max(float(guide.factor(site).detach().abs().max()) for site in model.sites) < 0.15
    assert history[-1].nll < 0.03


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
