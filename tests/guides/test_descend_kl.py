"""A step down the KL: gradient descent to first order, a flow for BLoB, and stable at any rate and prior scale."""

from __future__ import annotations

import itertools
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from cases import EVERY_GUIDE, MODELS, make_batch, model_for
from torch import Tensor

import blob_pyro as bp
from blob_pyro.distributions.scale_maps import square_kl_flow
from blob_pyro.errors import ConfigError
from blob_pyro.training.kl_schedule import kl_schedule

NAMES = [name for name in EVERY_GUIDE if name != "ensemble"]  # whose members' mean is of several adapters
TIMES = (1e-3, 0.1, 10.0, 1e4)


def parameters(guide: Any) -> list[Tensor]:
    """Random matrices and spread, in one order."""
    return [*guide.location_parameters().values(), *guide.scale_parameters().values()]


@pytest.mark.parametrize("name", NAMES)
def test_a_short_step_is_gradient_descent(name: str) -> None:
    guide = EVERY_GUIDE[name](model_for(name))
    kl = guide.kl()
    starts = [p.detach().clone() for p in parameters(guide)]
    slopes = torch.autograd.grad(kl, parameters(guide), allow_unused=True) if kl.requires_grad else [None] * len(starts)
    time = 1e-6
    guide.descend_kl_(time, time)
    for p, start, slope in zip(parameters(guide), starts, slopes, strict=True):
        if slope is None:
            assert torch.equal(p, start)
        else:
            expected = start.double() - time * slope.double()
            tolerance = 1e-3 * time * float(slope.abs().max()) + 1e-6 * float(start.abs().max())
            torch.testing.assert_close(p.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "scalabl"])
def test_the_kl_never_rises_and_no_mean_changes_its_sign(name: str, time: float) -> None:
    guide = EVERY_GUIDE[name](model_for(name))
    means = [p.detach().clone() for p in guide.location_parameters().values()]
    seen = [float(guide.kl().detach())]
    for _ in range(8):
        guide.descend_kl_(time, time)
        seen.append(float(guide.kl().detach()))
    assert all(after <= before + 1e-5 * abs(before) + 1e-3 for before, after in itertools.pairwise(seen)), seen
    for p, mean in zip(guide.location_parameters().values(), means, strict=True):
        assert bool((p * mean >= 0).all()) and bool((p.abs() <= mean.abs()).all())


@pytest.mark.parametrize("time", TIMES)
def test_radial_rows_keep_their_sign_and_reach_the_prior(time: float) -> None:
    """ScalaBL's KL has no direction at a mean of zero, where a long time brings it: its spread is looked at alone."""
    guide = EVERY_GUIDE["scalabl"](model_for("scalabl"))
    before = float(guide.kl().detach())
    guide.descend_kl_(0.0, time)
    first = float(guide.kl().detach())
    for _ in range(40):
        guide.descend_kl_(0.0, time)
    assert float(guide.kl().detach()) <= first <= before
    roots = torch.cat([root.square() for root in guide.root_scales])
    assert bool((roots > 0).all()) and (time < 0.1 or bool(torch.isclose(roots, torch.tensor(0.2), rtol=1e-3).all()))


@pytest.mark.parametrize("kind", ["square", "softplus"])
@pytest.mark.parametrize("prior_scale", [0.02, 0.05, 0.1, 0.2, 1.0])
@pytest.mark.parametrize("rate", [1e-3, 0.01, 0.055, 1.0, 100.0])
def test_any_rate_prior_scale_and_cycle(rate: float, prior_scale: float, kind: str) -> None:
    """What the explicit step does with M, times 1 - rate * weight / prior_scale^2, is -1,200 in the worst corner."""
    model = MODELS["llama"]()
    model = bp.BayesianLoRA(model.network, model.likelihood, num_data=40, prior_scale=prior_scale)
    for cycle in (1, 5, 100):
        guide = bp.BLoBGuide(model, scale=kind)
        low, high = min(0.00125, prior_scale), max(0.0025, prior_scale)
        weight = kl_schedule("reweighted", cycle)
        means = {site: model.location(site).detach().clone() for site in model.sites}
        for step in range(1, 21):
            guide.descend_kl_(rate * weight(step), rate * weight(step))
        for site, mean in means.items():
            scale = guide.scale(site)
            assert bool((scale > 0.999 * low).all()) and bool((scale < 1.001 * high).all())
            assert bool((guide.loc(site) * mean >= 0).all())
            with torch.no_grad():
                model.location(site).copy_(mean)


def test_the_flow_is_that_of_many_small_steps() -> None:
    """The naive twin, in float64: from below the prior, above it, near zero, and of either sign."""
    start = torch.tensor([0.0354, 0.05, -0.05, 1e-4, 0.447, 0.9, -2.0], dtype=torch.float64)
    time, count, prior_scale = 0.02, 400_000, 0.2
    G = start.clone()
    for _ in range(count):
        G -= time / count * (2 * G**3 / prior_scale**2 - 2 / G)
    torch.testing.assert_close(square_kl_flow(start, time, prior_scale), G, rtol=2e-4, atol=0)


def test_the_flow_does_not_depend_on_how_its_time_is_cut() -> None:
    start = torch.linspace(0.01, 2, 50, dtype=torch.float64)
    once = square_kl_flow(start, 0.03, 0.2)
    twice = square_kl_flow(square_kl_flow(start, 0.02, 0.2), 0.01, 0.2)
    torch.testing.assert_close(once, twice, rtol=1e-12, atol=0)
    assert torch.equal(square_kl_flow(start.float(), 0.0, 0.2), start.float())


def test_a_learned_prior_scale_is_where_it_leads() -> None:
    model = MODELS["llama"]()
    model = bp.BayesianLoRA(
        model.network, model.likelihood, num_data=40, prior_scale=dist.LogNormal(torch.tensor(-1.0), torch.tensor(0.5))
    )
    guide = bp.BLoBGuide(model)
    guide.descend_kl_(100.0, 100.0)
    site = next(iter(model.sites))
    torch.testing.assert_close(guide.scale(site), torch.full_like(guide.scale(site), float(guide.prior_scale.detach())))


@pytest.mark.parametrize("recipe", ["blob", "decoupled"])
def test_a_training_at_a_rate_that_the_explicit_step_cannot_bear(recipe: str) -> None:
    """kl_lr 0.055 at a prior scale of 0.02: the explicit step left a KL of 1e14 without a word."""
    model = MODELS["llama"]()
    model = bp.BayesianLoRA(model.network, model.likelihood, num_data=40, prior_scale=0.02)
    guide = bp.BLoBGuide(model)
    svi = bp.BLoBSVI(
        model,
        guide,
        recipe=recipe,
        num_steps=30,
        lr=0.01,
        kl_lr=0.055,
        kl_step="flow",
        kl_schedule=kl_schedule("reweighted", 10),
    )
    start = float(guide.kl().detach())
    with bp.flipout(), pytest.warns(UserWarning, match="the posterior is the prior"):
        results = [svi.step(make_batch(seed=step)) for step in range(30)]
    assert not any(result.skipped for result in results)
    assert float(guide.kl().detach()) < start and 0.019 < float(guide.mean_scale()) < 0.0201


def test_the_two_steps_agree_at_a_small_rate() -> None:
    found = {}
    for kl_step in ("explicit", "flow"):
        model = MODELS["llama"]()
        torch.manual_seed(3)
        guide = bp.BLoBGuide(model, eps=0.6)
        start = torch.cat([p.detach().clone().flatten() for p in parameters(guide)])
        svi = bp.BLoBSVI(model, guide, kl_lr=1e-5, kl_step=kl_step, kl_schedule=lambda step: 1.0)
        for step in range(5):
            svi.step(make_batch(seed=step))
        found[kl_step] = torch.cat([p.detach().flatten() for p in parameters(guide)])
    torch.testing.assert_close(found["flow"], found["explicit"], rtol=1e-4, atol=1e-6)
    assert float((found["flow"] - start).abs().max()) > 1e-4


def test_an_unknown_step_is_refused() -> None:
    model = MODELS["llama"]()
    with pytest.raises(ConfigError, match=r"kl_step: expected one of explicit, flow; got 'flo'; did you mean flow\?"):
        bp.BLoBSVI(model, bp.BLoBGuide(model), kl_step="flo")


@pytest.mark.parametrize("num_steps", [2, 60])
@pytest.mark.parametrize("width", [0.05, 0.3, 0.65, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_the_time_to_a_width_is_what_the_way_there_takes(name: str, width: float, num_steps: int) -> None:
    """Whatever the guide's free parameters are, and in how few steps it is taken; asking for it moves nothing."""
    guide = EVERY_GUIDE[name](model_for(name))
    starts, began = [p.detach().clone() for p in parameters(guide)], guide.width()
    time = guide.kl_time(width)
    assert all(torch.equal(p, start) for p, start in zip(parameters(guide), starts, strict=True))
    if not guide.scale_parameters():
        assert time == 0
        return
    for _ in range(num_steps):
        guide.descend_kl_(0.0, time / num_steps)
    assert guide.width() == pytest.approx(max(width, began), rel=0.05)
    assert guide.kl_time(width / 2) == 0
