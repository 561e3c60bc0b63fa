"""Growth of sigma under the KL alone: closed-form gradients, the figures of the paper's run, and its limit."""

from __future__ import annotations

import math

import pytest
import torch

import blob_pyro as bp
from blob_pyro.experiments.paper.scale_growth import scale_growth
from blob_pyro.training.kl_schedule import cycle_length, reweighted
from blob_pyro.training.lr_schedule import linear_warmup_decay

NUM_STEPS, SIGMA = 5120, 0.2


def by_recursion(scale: str, init_scale: float, kl_lr: float, num_steps: int, weight: float) -> list[float]:
    """The same descent with the gradients written out, in Python floats."""
    free = math.sqrt(init_scale) if scale == "square" else math.log(math.expm1(init_scale))
    scales = []
    for _ in range(num_steps + 1):
        s = free**2 if scale == "square" else math.log1p(math.exp(free))
        scales.append(s)
        if scale == "square":
            gradient = 2 * free**3 / SIGMA**2 - 2 / free
        else:
            gradient = (s / SIGMA**2 - 1 / s) / (1 + math.exp(-free))
        free -= kl_lr * weight * gradient
    return scales


@pytest.mark.parametrize(("scale", "init_scale"), [("square", 0.002), ("square", 0.5), ("softplus", 0.002)])
def test_is_the_recursion(scale: str, init_scale: float) -> None:
    found = scale_growth(scale, init_scale=init_scale, kl_lr=0.004, num_steps=300, kl_weight=lambda step: 0.5)
    expected = torch.tensor(by_recursion(scale, init_scale, 0.004, 300, 0.5), dtype=torch.float64)
    assert found.dtype == torch.float64 and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def paper_weight(step: int) -> float:
    """winogrande_s at batch 4: the KL's weight times the learning rate's factor."""
    rate = linear_warmup_decay(step - 1, NUM_STEPS, int(0.06 * NUM_STEPS))
    return reweighted(step, cycle_length(640, 4)) * rate


def test_square_under_the_papers_schedule() -> None:
    """KL rate 0.01, G from 0.043: sigma after the pulses at steps 316, 632, 948 and 1,264, and after 5,120."""
    found = scale_growth("square", init_scale=0.043**2, num_steps=NUM_STEPS, kl_weight=paper_weight)
    seen = [float(found[step]) for step in (316, 632, 948, 1264, NUM_STEPS)]
    assert seen == pytest.approx([0.048, 0.084, 0.111, 0.132, 0.187], abs=1e-3)
    # nothing happens between the pulses
    assert float(found[316 + 290] - found[316]) < 1e-6


def test_softplus_under_the_papers_schedule_hardly_moves() -> None:
    """rho gains less than kl_lr for each of the 16 pulses, and sigma less than e^0.16 times its start."""
    found = scale_growth("softplus", init_scale=0.043**2, num_steps=NUM_STEPS, kl_weight=paper_weight)
    assert 1.05 < float(found[-1] / found[0]) < math.exp(0.16)


@pytest.mark.slow
def test_both_end_at_the_prior_and_the_square_is_there_first() -> None:
    """At a constant weight: within 5 % of sigma_p after 20 steps, and after more than 500."""
    square, softplus = scale_growth("square"), scale_growth("softplus")
    assert square.shape == softplus.shape == (5001,)
    for found in (square, softplus):
        assert float(found[-1]) == pytest.approx(SIGMA, rel=1e-6)
    arrived = [int((found - SIGMA).abs().gt(0.05 * SIGMA).nonzero().max()) for found in (square, softplus)]
    assert arrived[0] < 20 and arrived[1] > 500


def test_arguments_that_cannot_be_are_refused() -> None:
    with pytest.raises(bp.errors.ConfigError, match="scale: expected one of square, softplus; got 'exp'"):
        scale_growth("exp")
    for name in ("init_scale", "prior_scale", "kl_lr"):
        with pytest.raises(bp.errors.ConfigError, match=f"{name}: expected a number above 0; got 0"):
            scale_growth("square", **{name: 0.0})
