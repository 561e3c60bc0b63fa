"""Free parameters as standard deviations, and their floor."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from cases import MODELS, make_batch

import blob_pyro as bp
from blob_pyro.distributions.scale_maps import SCALE_FLOOR, SCALE_MAPS

PLAIN = {"square": torch.square, "softplus": F.softplus}


@pytest.mark.parametrize("name", list(SCALE_MAPS))
def test_above_the_floor_it_is_the_plain_map_bit_by_bit(name: str) -> None:
    free = torch.linspace(-3, 3, 4001).clone().requires_grad_()
    twin = free.detach().clone().requires_grad_()
    scale, plain = SCALE_MAPS[name].to_scale(free), PLAIN[name](twin)
    above = plain > SCALE_FLOOR
    assert above.sum() > 3990 and torch.equal(scale[above], plain[above])
    weights = torch.rand(4001)
    (scale * weights).sum().backward()
    (plain * weights).sum().backward()
    assert torch.equal(free.grad, twin.grad)  # below the floor too


@pytest.mark.parametrize(("name", "free"), [("square", 0.0), ("square", 1e-30), ("softplus", -200.0)])
def test_nothing_is_below_the_floor(name: str, free: float) -> None:
    value = torch.tensor(free, requires_grad=True)
    scale = SCALE_MAPS[name].to_scale(value)
    assert float(scale.detach()) == pytest.approx(SCALE_FLOOR)
    scale.log().backward()
    assert value.grad is not None and math.isfinite(float(value.grad))


def test_a_posterior_without_spread_has_the_stated_kl_and_goes_on_learning() -> None:
    """One entry whose G is 0, at which log G would be minus infinity."""
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model)
    before = float(guide.kl().detach())
    G = guide.root_scales[0]
    scale = float(G.detach()[0, 0]) ** 2
    prior = float(model.prior_scale)
    G.data[0, 0] = 0.0
    expected = before + math.log(scale / SCALE_FLOOR) + (SCALE_FLOOR**2 - scale**2) / (2 * prior**2)
    assert float(guide.kl().detach()) == pytest.approx(expected, rel=1e-5)
    assert math.log(prior / SCALE_FLOOR) - 0.5 < 12.2
    svi = bp.BLoBSVI(model, guide, lr=1e-3)
    for _ in range(3):
        assert math.isfinite(svi.step(make_batch()).loss)
    G.data[0, 0] = 1e-5  # below the floor, and not 0: the KL pulls it up
    guide.zero_grad()
    guide.kl().backward()
    assert G.grad is not None and float(G.grad[0, 0]) == pytest.approx(-2e-5 / SCALE_FLOOR, rel=1e-3)
