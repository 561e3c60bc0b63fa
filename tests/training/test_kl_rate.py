"""The KL learning rate that nobody sets: how far it widens, by a naive twin and in a real training."""

from __future__ import annotations

import pytest
import torch
from cases import MODELS, NUM_DATA, make_batch

import blob_pyro as bp
from blob_pyro.experiments.paper.scale_growth import scale_growth
from blob_pyro.training.kl_rate import INIT_SCALE, PAPER_RATE, PAPER_SHARE, default_kl, widening_rate
from blob_pyro.training.kl_schedule import kl_schedule
from blob_pyro.training.lr_schedule import linear_warmup_decay
from blob_pyro.training.making import kl_learning_rate


def grown(train: bp.TrainConfig, cycle: int, rate: float, prior_scale: float) -> float:
    """The naive twin: every step of the descent in float64, by autograd."""
    pulse = kl_schedule(train.kl_schedule, cycle)
    num_warmup = train.warmup_ratio * train.num_steps
    curve = scale_growth(
        "square",
        init_scale=INIT_SCALE,
        prior_scale=prior_scale,
        kl_lr=rate,
        num_steps=train.num_steps,
        kl_weight=lambda step: pulse(step) * linear_warmup_decay(step - 1, train.num_steps, num_warmup),
    )
    return float(curve[-1])


def test_it_is_the_papers_at_the_papers_settings():
    assert kl_learning_rate(bp.TrainConfig(), 640, 0.2) == PAPER_RATE
    assert grown(bp.TrainConfig(), 316, PAPER_RATE, 0.2) == pytest.approx(PAPER_SHARE * 0.2, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["reweighted", "uniform", "constant"])
@pytest.mark.parametrize(("num_steps", "cycle"), [(200, 66), (80, 26), (600, 100), (30, 10)])
@pytest.mark.parametrize("prior_scale", [0.05, 0.2, 0.8])
def test_the_kl_alone_reaches_the_share(schedule, num_steps, cycle, prior_scale):
    train = bp.TrainConfig(num_steps=num_steps, kl_cycle=cycle, kl_schedule=schedule)
    rate = kl_learning_rate(train, 100, prior_scale)
    assert grown(train, cycle, rate, prior_scale) == pytest.approx(PAPER_SHARE * prior_scale, rel=0.01)
    assert grown(train, cycle, 0.7 * rate, prior_scale) < PAPER_SHARE * prior_scale


def test_a_rate_that_is_set_stays():
    assert kl_learning_rate(bp.TrainConfig(num_steps=80, kl_lr=0.03), 32, 0.2) == 0.03
    assert kl_learning_rate(bp.TrainConfig(num_steps=80, kl_lr=0.0), 32, 0.2) == 0.0


def test_where_the_kl_hardly_acts_it_is_the_papers():
    assert kl_learning_rate(bp.TrainConfig(num_steps=80, kl_cycle=1000), 32, 0.2) == PAPER_RATE
    assert widening_rate(lambda step: 0.0, 10, 0.2) == PAPER_RATE


@pytest.mark.slow
@pytest.mark.parametrize("num_data", [12, 5000, None])
def test_a_training_without_a_likelihood_widens_by_the_share(num_data):
    """B is 0 and AdamW hardly moves, so that the KL alone acts; for any number of items in three pulses or more."""
    model = MODELS["llama"](bayesian="A")
    model.num_data = num_data
    for name, parameter in model.network.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    guide = bp.BLoBGuide(model)
    train = bp.TrainConfig(num_steps=60, batch_size=2, lr=1e-12)
    results = bp.fit(model, guide, [make_batch()], train, progress=False)
    scales = torch.cat([guide.scale(site).detach().flatten() for site in model.sites])
    assert float(scales.mean()) == pytest.approx(PAPER_SHARE * model.prior_scale, rel=0.05)
    assert sum(result.kl_weight > 0.4 for result in results) >= 3


def items(seed: int) -> bp.Batch:
    return make_batch((7, 4, 6, 3), seed=seed)


def test_every_road_has_the_same_schedule_and_rate():
    """`bp.fit`, `BLoBSVI` with a number of steps, and `BLoBSVI` with what `default_kl` gives: the same steps."""
    config = bp.TrainConfig(num_steps=12, lr=1e-2)
    kl = default_kl(NUM_DATA, 4, 12, 0.2)
    given = {"kl_schedule": kl.schedule, "kl_lr": kl.lr}

    def by_hand(**settings):
        model, guide = start()
        svi = bp.BLoBSVI(model, guide, num_steps=12, lr=1e-2, **settings)
        with bp.flipout():
            return [svi.step(items(seed)) for seed in range(12)]

    model, guide = start()
    fitted = bp.fit(model, guide, [items(seed) for seed in range(12)], config, progress=False)
    assert fitted == by_hand() == by_hand(**given)
    assert fitted[-1].scale > 20 * fitted[0].scale and kl.lr == kl_learning_rate(config, NUM_DATA, 0.2)


def start():
    model = MODELS["llama"]()
    torch.manual_seed(0)
    guide = bp.BLoBGuide(model)
    torch.manual_seed(1)
    return model, guide


@pytest.mark.parametrize("num_steps", [1, 2, 5, 60])
def test_blob_svi_of_any_length_leaves_its_start(num_steps):
    """Its cycle would be 106 steps: the KL would never act."""
    model, guide = start()
    svi = bp.BLoBSVI(model, guide, num_steps=num_steps, warmup_ratio=0.0)
    before = float(guide.mean_scale())
    for step in range(num_steps):
        svi.step(items(step))
    assert float(guide.mean_scale()) > 10 * before


def test_a_kl_that_never_acts_is_told():
    model, guide = start()
    svi = bp.BLoBSVI(model, guide, num_steps=60, kl_schedule=kl_schedule("reweighted", 106))
    with pytest.warns(UserWarning, match=r"^kl_schedule: expected weights .* in 60 steps; .*cycle_length"):
        svi.step(items(0))
    svi.step(items(1))  # once
    bp.BLoBSVI(model, bp.MLEGuide(model), num_steps=60, kl_schedule=kl_schedule("reweighted", 106)).step(items(0))
    for silent in ({"kl_lr": 0.0}, {"kl_weight": 0.0}, {"recipe": "elbo", "kl_weight": 1e-3}):
        model, guide = start()
        bp.BLoBSVI(model, guide, num_steps=60, kl_schedule=kl_schedule("reweighted", 106), **silent).step(items(0))
