"""`ScalaBLGuide`: r random numbers a layer, their KL, and a start at the adapter."""

from __future__ import annotations

import math

import pytest
import torch
from cases import MODELS, make_batch
from guide_laws import check_fit, check_prediction, check_random_B_is_refused, check_refusals

import blob_pyro as bp
from blob_pyro.errors import ConfigError
from blob_pyro.guides import ScalaBLGuide

SIGMA = 0.2


def test_kl_and_its_gradients_are_the_formulas() -> None:
    """Written out row by row in float64; dKL/dM = M / sigma_p^2, dKL/dG = 2 G^3 / sigma_p^2 - 2 / G."""
    model = MODELS["llama"]()
    guide = ScalaBLGuide(model, eps=0.3)
    expected = 0.0
    for site in model.sites:
        M, G = model.location(site).detach().double(), guide.root_scale(site).detach().double()
        for row, root in zip(M, G, strict=True):
            square = root**4 + (row**2).sum()
            expected += math.log(SIGMA) - 2 * float(root.abs().log()) + float(square) / (2 * SIGMA**2) - 0.5
    kl = guide.kl()
    assert float(kl.detach()) == pytest.approx(expected, rel=1e-5)
    kl.backward()
    for site in model.sites:
        M, G = model.location(site), guide.root_scale(site)
        torch.testing.assert_close(M.grad, M.detach() / SIGMA**2, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(G.grad, 2 * G.detach() ** 3 / SIGMA**2 - 2 / G.detach(), rtol=1e-5, atol=1e-4)


def test_the_update_is_B_diag_s_V() -> None:
    """Logits under a draw: those of the adapter's V scaled by the r numbers of the draw, which all rows share."""
    model = MODELS["llama"]()
    guide, batch = ScalaBLGuide(model, eps=0.5), make_batch()
    torch.manual_seed(1)
    draw = {site: value.detach() for site, value in guide().items()}
    by_hand = {}
    for site in model.sites:
        M = model.location(site).detach()
        V = M / M.norm(dim=1, keepdim=True)
        s = (draw[site] * V).sum(1)
        by_hand[site] = torch.diag(s) @ V
        assert float((s - M.norm(dim=1)).abs().min()) > 0
    torch.testing.assert_close(model.logits(batch, draw), model.logits(batch, by_hand), rtol=1e-4, atol=1e-5)


def test_start_and_number_of_parameters() -> None:
    """The standard deviation of s starts as U(eps / sqrt 2, eps): r numbers a site, float32."""
    for name in ("llama", "llama_bfloat16"):
        model = MODELS[name]()
        guide = ScalaBLGuide(model, eps=0.05)
        scales = torch.cat([guide.root_scale(site).detach() ** 2 for site in model.sites])
        assert scales.shape == (4 * len(model.sites),) and scales.dtype == torch.float32
        assert 0.05 / math.sqrt(2) - 1e-6 <= float(scales.min()) < float(scales.max()) <= 0.05 + 1e-6
        assert sum(p.numel() for p in guide.parameters()) == 4 * len(model.sites)


def test_prediction() -> None:
    check_prediction(lambda model: ScalaBLGuide(model, eps=0.5))


def test_fit_learns() -> None:
    check_fit(ScalaBLGuide)


def test_refusals() -> None:
    check_refusals(ScalaBLGuide, "RadialNormal")
    check_random_B_is_refused(ScalaBLGuide)
    with pytest.raises(ConfigError, match="eps: expected a number above 0; got -1"):
        ScalaBLGuide(MODELS["llama"](), eps=-1)
    assert isinstance(bp.guides.GUIDES["scalabl"](MODELS["llama"]()), ScalaBLGuide)
