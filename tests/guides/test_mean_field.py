"""Bayes by Backprop: its formula, its start; every other law comes with `cases.GUIDES`."""

from __future__ import annotations

import math

import pytest
import torch
from cases import MODELS

import blob_pyro as bp
from blob_pyro.guides import MeanFieldGuide

SIGMA = 0.2


@pytest.mark.parametrize("init_scale", [0.002, 0.4])
@pytest.mark.parametrize("name", ["llama", "llama_both", "llama_bfloat16"])
def test_kl_is_the_formula(name: str, init_scale: float) -> None:
    """Entry by entry in float64, at free parameters that differ from one another; and the slope in each of them."""
    model = MODELS[name]()
    guide = MeanFieldGuide(model, init_scale)
    kl = 0.0
    for site in model.sites:
        rho = guide.unconstrained_scale(site).data
        rho += torch.randn_like(rho)
        M, s = model.location(site).detach().double(), (1 + rho.double().exp()).log()
        torch.testing.assert_close(guide.scale(site).double(), s, rtol=1e-5, atol=0)
        kl += float((math.log(SIGMA) - s.log() + (s**2 + M**2) / (2 * SIGMA**2) - 0.5).sum())
    found = guide.kl()
    assert float(found.detach()) == pytest.approx(kl, rel=1e-5)
    found.backward()
    for site in model.sites:
        rho = guide.unconstrained_scale(site)
        x = rho.detach().double()
        s = (1 + x.exp()).log()
        torch.testing.assert_close(rho.grad.double(), (s / SIGMA**2 - 1 / s) / (1 + (-x).exp()), rtol=1e-4, atol=1e-4)


def test_starts_at_init_scale() -> None:
    """The default within the range in which BLoB starts, float32 whatever the base's dtype."""
    for name in ("llama", "llama_bfloat16"):
        model = MODELS[name]()
        default, wide = MeanFieldGuide(model), MeanFieldGuide(model, init_scale=0.3)
        for site in model.sites:
            assert default.scale(site).dtype == torch.float32
            torch.testing.assert_close(default.scale(site), torch.full(model.location(site).shape, 0.002))
            torch.testing.assert_close(wide.scale(site), torch.full(model.location(site).shape, 0.3))
            assert torch.equal(default.loc(site), model.location(site).float())
        assert 0.05**2 / 2 <= default.init_scale <= 0.05**2


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_init_scale_must_be_positive(value: float) -> None:
    with pytest.raises(bp.errors.ConfigError, match="init_scale: expected a number above 0; got"):
        MeanFieldGuide(MODELS["llama"](), init_scale=value)
