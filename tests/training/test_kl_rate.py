"""How wide the posterior gets where nobody says: by a naive twin, in a real training, and on every road in."""

from __future__ import annotations

import itertools
import math

import pyro
import pytest
import torch
from cases import EVERY_GUIDE, MODELS, NUM_DATA, make_batch, model_for

import blob_pyro as bp
from blob_pyro.distributions.scale_maps import square_kl_flow, square_kl_time
from blob_pyro.errors import ConfigError
from blob_pyro.guides import AdapterGuide
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.kl_rate import (
    INIT_SCALE,
    NARROWEST,
    PAPER_RATE,
    SHRINKAGE,
    WIDEST,
    KLSettings,
    default_kl,
    default_width,
    mean_time,
    widening,
)
from blob_pyro.training.kl_schedule import kl_schedule
from blob_pyro.training.lr_schedule import linear_warmup_decay
from blob_pyro.training.making import kl_width

SCHEDULES = {"late": 1, "reweighted": 3, "uniform": 1, "constant": 1, "warmup": 4}


def walked(schedule, rate: float, rate_loc: float, num_steps: int, prior_scale: float) -> tuple[float, float]:
    """The naive twin: every step along the flow; the share of the prior's scale, and of the mean, at the end."""
    root, mean = torch.tensor(math.sqrt(INIT_SCALE), dtype=torch.float64), 1.0
    for step in range(1, num_steps + 1):
        weight = schedule(step) * linear_warmup_decay(step - 1, num_steps, 0.06 * num_steps)
        root = square_kl_flow(root, rate * weight, prior_scale)
        mean *= math.exp(-rate_loc * weight / prior_scale**2)
    return float(root.square()) / prior_scale, mean


@pytest.mark.parametrize(("schedule", "cycles"), SCHEDULES.items())
@pytest.mark.parametrize("num_steps", [20, 200, 601])
@pytest.mark.parametrize("prior_scale", [0.02, 0.2, 1.0])
@pytest.mark.parametrize("width", [0.1, 0.5, 0.97])
def test_the_kl_alone_reaches_the_width_and_leaves_most_of_the_mean(schedule, cycles, num_steps, prior_scale, width):
    weight = kl_schedule(schedule, num_steps // cycles)
    times = square_kl_time(INIT_SCALE, width * prior_scale, prior_scale), mean_time(width, prior_scale)
    kl = widening(weight, num_steps, *times, warmup_ratio=0.06)
    reached, kept = walked(kl.schedule, kl.lr, kl.lr_loc, num_steps, prior_scale)
    assert reached == pytest.approx(max(width, INIT_SCALE / prior_scale), rel=1e-6)
    assert kl.lr == PAPER_RATE
    if width > INIT_SCALE / prior_scale:
        assert kept == pytest.approx(math.exp(-SHRINKAGE * math.atanh(min(width, WIDEST)))) and kept > 0.8


def test_the_width_grows_with_the_passes_and_falls_with_the_items():
    """A pass counts the same in many small steps and in few large ones."""
    widths = [default_width(100, 4, num_steps) for num_steps in (1, 25, 100, 250, 10**6)]
    assert widths == sorted(widths) and len(set(widths)) == 5 and widths[-1] == WIDEST
    widths = [default_width(num_data, 4, num_data) for num_data in (20, 100, 1000, 10**5)]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 4 and widths[-1] == NARROWEST
    for num_data, batch_size, num_steps in itertools.product((7, 40, 2000), (1, 4, 32), (1, 20, 5000)):
        expected = max(NARROWEST, min(WIDEST, math.tanh(0.85 * math.sqrt(num_steps * batch_size / num_data**1.5))))
        assert default_width(num_data, batch_size, num_steps) == pytest.approx(expected)
    for wrong in ((0, 4, 10), (10, 0, 10), (10, 4, 0)):
        with pytest.raises(ConfigError, match=r"^(num_data|batch_size|num_steps): expected a number above 0; got 0"):
            default_width(*wrong)


def test_what_is_set_stays():
    train = bp.TrainConfig(num_steps=80)
    assert kl_width(train, 32) == default_width(32, 4, 80)
    assert kl_width(bp.TrainConfig(num_steps=80, kl_width=0.4), 32) == 0.4
    for by_rate in ({"kl_lr": 0.03}, {"kl_lr": 0.0}, {"kl_step": "explicit"}, {"recipe": "elbo"}):
        assert kl_width(bp.TrainConfig(num_steps=80, **by_rate), 32) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kl_width": 1.0}, "train.kl_width: expected a share between 0 and 1, or null; got 1.0"),
        ({"kl_width": 0.0}, "train.kl_width: expected a share between 0 and 1, or null; got 0.0"),
        (
            {"kl_width": 0.4, "kl_lr": 0.01},
            "train.kl_width: expected it alone, with kl_step: flow; beside it stands train.kl_lr: 0.01: leave one",
        ),
        (
            {"kl_width": 0.4, "kl_step": "explicit"},
            "train.kl_width: expected it alone, with kl_step: flow; beside it stands train.kl_step: exp",
        ),
        (
            {"kl_width": 0.4, "recipe": "elbo"},
            "train.kl_width: expected it alone, with kl_step: flow; beside it stands train.recipe: elbo",
        ),
        ({"kl_lr_loc": -1.0}, "train.kl_lr_loc: expected a number of at least 0; got -1.0"),
    ],
)
def test_a_width_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError) as raised:
        bp.TrainConfig(**wrong)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "wrong", [{}, {"num_steps": 5, "kl_lr": 0.1}, {"num_steps": 5, "kl_step": "explicit"}, {"num_steps": 5, "at": 1.5}]
)
def test_blob_svi_refuses_a_width_that_cannot_be(wrong):
    model, guide = start()
    with pytest.raises(
        ConfigError, match=r"^kl_width: expected (a share between 0 and 1|num_steps, kl_step='flow', a recipe)"
    ):
        bp.BLoBSVI(model, guide, kl_width=wrong.pop("at", 0.4), **wrong)


@pytest.mark.parametrize(
    ("width", "words"),
    [(1e-3, "is where it began"), (0.0095, "is where it began"), (0.99, "is the prior"), (0.5, None)],
)
def test_a_training_says_where_its_posterior_ended(width, words, recwarn):
    """At its start, where draws hardly differ, and at the prior, where they know nothing of the data."""
    model, guide = start()
    svi = bp.BLoBSVI(model, guide, num_steps=4, kl_width=width)
    for step in range(4):
        svi.step(items(step))
    said = [str(warning.message) for warning in recwarn if "posterior" in str(warning.message)]
    assert len(said) == (words is not None) and all(f"the posterior {words}" in line for line in said)
    assert all("kl_width" in line for line in said)


def test_a_point_and_a_spread_that_is_as_wide_have_the_mean_shrunk_alone():
    """MAP has no spread to widen, and ScalaBL starts at a fifth of the prior's."""
    kl = widening(kl_schedule("late", 60), 60, 0.0, mean_time(0.5, 0.02), warmup_ratio=0.06)
    _, kept = walked(kl.schedule, kl.lr, kl.lr_loc, 60, 0.02)
    assert kept == pytest.approx(math.exp(-SHRINKAGE * math.atanh(0.5)))
    model = MODELS["llama"](bayesian="A")
    model = bp.BayesianLoRA(model.network, model.likelihood, num_data=NUM_DATA, prior_scale=0.02)
    before = [model.location(site).detach().norm() for site in model.sites]
    bp.fit(model, bp.MAPGuide(model), [make_batch()], bp.TrainConfig(num_steps=40, lr=1e-12), progress=False)
    kept = math.exp(-SHRINKAGE * math.atanh(default_width(NUM_DATA, 4, 40)))
    after = [model.location(site).detach().norm() for site in model.sites]
    for one, other in zip(after, before, strict=True):
        assert float(one / other) == pytest.approx(kept, rel=1e-3)


def test_where_the_kl_hardly_acts_the_rates_are_the_papers():
    schedule = kl_schedule("reweighted", 1000)
    kl = widening(schedule, 80, 0.03, 0.01, warmup_ratio=0.06)
    assert kl == KLSettings(schedule, PAPER_RATE, PAPER_RATE)


@pytest.mark.slow
@pytest.mark.parametrize("num_data", [12, 5000, None])
def test_a_training_without_a_likelihood_widens_by_the_rule(num_data):
    """B is 0 and AdamW hardly moves, so that the KL alone acts: in the second half."""
    model = MODELS["llama"](bayesian="A")
    model.num_data = num_data
    for name, parameter in model.network.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    guide = bp.BLoBGuide(model)
    train = bp.TrainConfig(num_steps=60, batch_size=2, lr=1e-12)  # the loader's batches have 4 items, and those count
    results = bp.fit(model, guide, [make_batch()], train, progress=False)
    width = default_width(num_data or 240, 4, 60)
    assert float(guide.mean_scale()) == pytest.approx(width * model.prior_scale, rel=0.05)
    assert [result.kl_weight > 0 for result in results] == [False] * 30 + [True] * 30


def items(seed: int) -> bp.Batch:
    return make_batch((7, 4, 6, 3), seed=seed)


def test_every_road_has_the_same_schedule_and_rate():
    """`bp.fit`, `BLoBSVI` with a number of steps, and with what `default_kl` gives, whose spread starts at its mean."""
    config = bp.TrainConfig(num_steps=12, lr=1e-2)
    kl = default_kl(NUM_DATA, 4, 12, 0.2)
    given = {"kl_schedule": kl.schedule, "kl_lr": kl.lr, "kl_lr_loc": kl.lr_loc}

    def by_hand(**settings):
        model, guide = start()
        svi = bp.BLoBSVI(model, guide, num_steps=12, lr=1e-2, **settings)
        with bp.flipout():
            return [svi.step(items(seed)) for seed in range(12)]

    model, guide = start()
    fitted = bp.fit(model, guide, [items(seed) for seed in range(12)], config, progress=False)
    assert fitted == by_hand()
    for one, other in zip(fitted, by_hand(**given), strict=True):
        assert one.kl_weight == pytest.approx(other.kl_weight, rel=0.01) and one.nll == pytest.approx(other.nll, 0.01)
    assert fitted[-1].scale > 10 * fitted[0].scale and fitted[5].scale < 1.1 * fitted[0].scale


def start():
    model = MODELS["llama"]()
    torch.manual_seed(0)
    guide = bp.BLoBGuide(model)
    torch.manual_seed(1)
    return model, guide


@pytest.mark.parametrize("num_steps", [1, 2, 5, 60])
def test_blob_svi_of_any_length_leaves_its_start(num_steps):
    """Its paper's cycle would be 106 steps: the KL would never act."""
    model, guide = start()
    svi = bp.BLoBSVI(model, guide, num_steps=num_steps, warmup_ratio=0.0)
    for step in range(num_steps):
        svi.step(items(step))
    width = default_width(NUM_DATA, 4, num_steps)
    assert float(guide.mean_scale()) == pytest.approx(width * model.prior_scale, rel=0.05)


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


def width_after(guide, *, loader, num_steps, **settings):
    bp.fit(guide.model, guide, loader, bp.TrainConfig(num_steps=num_steps, lr=1e-3, **settings), progress=False)
    return guide.width()


@pytest.mark.parametrize(("batch_size", "per_pass"), [(1, 12), (4, 3), (5, 3), (12, 1), (100, 1)])
def test_fit_counts_the_passes_of_its_loader(batch_size, per_pass):
    """Whatever TrainConfig.batch_size says, and no more items a step than there are."""
    model, _ = start()
    model.num_data = 12
    encoded = [bp.data.Encoded(tuple(range(5, 9)), k % 3) for k in range(12)]
    dataset = bp.data.EncodedDataset(tuple(bp.Example("x", 0, str(k)) for k in range(12)), tuple(encoded), 0)
    loader = bp.train_loader(dataset, batch_size, 0, seed=0)
    assert len(loader) == per_pass
    width = width_after(bp.BLoBGuide(model), loader=loader, num_steps=6)
    assert width == pytest.approx(default_width(12, 12 / per_pass, 6), rel=0.05)


@pytest.mark.parametrize("recipe", ["blob", "decoupled", "elbo"])
def test_fit_is_a_loop_of_blob_svi_under_every_recipe(recipe):
    model, guide = start()
    svi = bp.BLoBSVI(model, guide, num_steps=6, lr=1e-2, recipe=recipe)
    with bp.flipout():
        by_hand = [svi.step(items(seed)) for seed in range(6)]
    model, guide = start()
    loader = [items(seed) for seed in range(6)]
    config = bp.TrainConfig(num_steps=6, lr=1e-2, recipe=recipe)
    assert bp.fit(model, guide, loader, config, progress=False) == by_hand
    assert {result.kl_weight for result in by_hand} == {1.0} or recipe != "elbo"


@pytest.mark.parametrize("wider", [0.32, 1.5, 40.0])
def test_a_start_beyond_the_width_is_told_once(wider):
    """Wider than was asked for, or than the prior: a smaller kl_width would not help."""
    model, _ = start()
    guide = bp.BLoBGuide(model)
    for free in guide.free_scales:
        free.data.fill_(math.sqrt(wider * model.prior_scale))
    with pytest.warns(UserWarning, match="kl_width: the posterior begins at .* does not narrow to the 20 %") as told:
        width_after(guide, loader=[items(0)], num_steps=6, kl_width=0.2)
    assert len(told) == 1


@pytest.mark.filterwarnings("default:the posterior is the prior")
def test_a_learned_prior_that_comes_down_to_the_posterior_is_told():
    law = torch.distributions.LogNormal(0.0, 0.5)
    network = MODELS["llama"]().network
    model = bp.BayesianLoRA(network, bp.MultipleChoice([5, 17, 40]), num_data=NUM_DATA, prior_scale=law)
    guide = bp.BLoBGuide(model)
    with pytest.warns(
        UserWarning, match="the posterior is the prior, whose learned scale is .*: .* hold the prior scale"
    ):
        width = width_after(guide, loader=[items(0)], num_steps=60, kl_width=0.3)
    assert width > 0.95


def test_the_best_parameters_from_before_the_kl_are_told():
    """With patience, and where the last step is reached."""
    for patience in (None, 1):
        model, guide = start()
        held_out = iter([1.0, *([2.0] * 20)])
        config = bp.TrainConfig(num_steps=12, lr=1e-3, eval_steps=2, patience=patience)
        with pytest.warns(UserWarning, match="where 35 % was asked for: its parameters are those of step 2") as told:
            bp.fit(model, guide, [items(0)], config, progress=False, validate=lambda: next(held_out))  # noqa: B023
        assert len(told) == 1 and guide.width() < 0.05
    model, guide = start()
    held_out = iter([3.0, 2.0, 1.5, 1.2, 1.1, 1.0])
    config = bp.TrainConfig(num_steps=12, lr=1e-3, eval_steps=2)
    bp.fit(model, guide, [items(0)], config, progress=False, validate=lambda: next(held_out))


@pytest.mark.parametrize("guide", ["blob", "low_rank", "scalabl", "mean_field"])
def test_a_training_that_goes_on_for_longer_comes_to_its_own_width(guide, tmp_path):
    """The time of the first training is no use to the second."""
    model = model_for(guide)
    posterior = EVERY_GUIDE[guide](model)
    for num_steps, width in ((6, 0.3), (18, 0.6), (24, 0.8)):
        config = bp.TrainConfig(num_steps=num_steps, lr=1e-3, kl_width=width)
        kept = Checkpoints(tmp_path)
        bp.fit(model, posterior, [items(0)], config, progress=False, checkpoints=kept, resume=True)
        assert posterior.width() == pytest.approx(width, rel=0.05)


class SharedGuide(AdapterGuide):
    """A user's guide whose sites share numbers: one alone says all spreads, or each site begins elsewhere."""

    title, is_random = "Shared", True

    def __init__(self, model, starts):
        super().__init__(model)
        self.free = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(float(start))) for start in starts])

    def scale(self, site):
        number = self.free[list(self.model.sites).index(site) % len(self.free)]
        return torch.nn.functional.softplus(number).expand_as(self.model.location(site))

    def posterior(self, site):
        return pyro.distributions.Normal(self.loc(site), self.scale(site)).to_event(2)

    def scale_parameters(self):
        return {f"free.{k}": number for k, number in enumerate(self.free)}

    def settings(self):
        return {}


@pytest.mark.parametrize("starts", [(-6.0,), (-6.0, -4.0), (-3.0, -7.0)])
def test_a_guide_whose_sites_differ_or_share_comes_to_the_width(starts):
    model, _ = start()
    width = width_after(SharedGuide(model, starts), loader=[items(0)], num_steps=20, kl_width=0.5)
    assert width == pytest.approx(0.5, rel=0.1)


def test_arguments_of_default_kl():
    good = {"num_data": 12, "batch_size": 4, "num_steps": 6, "prior_scale": 0.2}
    bad = {
        "num_data": (0, -1, math.nan, "12", None, True),
        "batch_size": (0, -4, math.inf, "4", None, True),
        "num_steps": (0, 2.5, "6", None, True),
        "prior_scale": (0, -1.0, math.nan, math.inf, "0.2", None, True),
        "width": (0, 1, 1.5, -1, math.nan, "0.5", True),
        "warmup_ratio": (-1, 2, math.nan, None, "0", True),
    }
    for key, values in bad.items():
        for value in values:
            with pytest.raises(ConfigError, match=rf"^{key}: expected .*; got {value!r}$"):
                default_kl(**good | {key: value})
    assert default_kl(**good, warmup_ratio=1).lr == PAPER_RATE


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("num_steps", (0, -3, 2.5, "6", True)),
        ("kl_width", (0, 1, math.nan, "0.5", True)),
        ("kl_lr", (-1, math.nan, "x")),
        ("kl_lr_loc", (-1, math.nan, "0.1", True)),
        ("kl_weight", (-1, math.inf, "1")),
        ("kl_schedule", ("late", 3)),
        ("warmup_ratio", (-1, 2, math.nan)),
        ("lr", (0, -1, math.nan, "x")),
    ],
)
def test_blob_svi_and_train_config_check_their_arguments(setting, values):
    model, guide = start()
    for value in values:
        with pytest.raises(ConfigError, match=rf"^{setting}: expected .*; got {value!r}$"):
            bp.BLoBSVI(model, guide, **{"num_steps": 6, setting: value})
        if setting != "kl_schedule":
            with pytest.raises(ConfigError, match=rf"^train.{setting}: expected .*; got {value!r}$"):
                bp.TrainConfig(**{setting: value})
    for wrong in ({"kl_schedule": "foo"}, {"kl_step": "foo"}, {"recipe": "foo"}, {"flipout": 1}, {"trackers": "x"}):
        ((name, value),) = wrong.items()
        with pytest.raises(ConfigError, match=rf"^train.{name}: expected .*; got {value!r}$"):
            bp.TrainConfig(**wrong)
