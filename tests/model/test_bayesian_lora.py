"""`BayesianLoRA`: an item's answer depends on the item alone, and plain Pyro works on the model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyro
import pytest
import torch
from cases import (
    EVERY_GUIDE,
    FLIPPABLE,
    FLOAT32,
    GUIDES,
    MODELS,
    NUM_DATA,
    QUANTISED,
    TRAINED,
    draw_all,
    held_draws,
    make_batch,
    model_for,
    snapshot,
    trainable,
)
from laws import assert_equal_draws
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal
from pyro.infer.inspect import get_model_relations

import blob_pyro as bp
from blob_pyro.guides import init_to_adapter

ALL = {name: MODELS[name] for name in FLOAT32} | QUANTISED


def probs(model: bp.BayesianLoRA, batch: bp.Batch, draws: dict[str, torch.Tensor]) -> torch.Tensor:
    """Probabilities under three held draws, (3, B, K)."""
    with torch.no_grad():
        return model.logits(batch, draws).softmax(-1)


def select(batch: bp.Batch, rows: list[int]) -> bp.Batch:
    return bp.Batch(batch.input_ids[rows], batch.attention_mask[rows])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ALL))
def test_an_items_probabilities_are_its_own(name: str) -> None:
    """Padding side and width, the rest of the batch, its order, and gaps in the mask: within 1e-5."""
    model = ALL[name]()
    draws = draw_all(model, 3)
    batch = make_batch()
    expected = probs(model, batch, draws)
    assert float((expected[:, :1] - expected[:, 1:]).abs().max()) > 0.1  # items differ, draws differ
    assert float((expected[0] - expected[1]).abs().max()) > 0.1

    def same(other: bp.Batch, rows: list[int]) -> None:
        torch.testing.assert_close(probs(model, other, draws), expected[:, rows], rtol=0, atol=1e-5)

    everyone = [0, 1, 2, 3]
    same(make_batch(side="left"), everyone)
    same(make_batch(width=12), everyone)
    same(make_batch(side="left", width=12), everyone)
    same(select(batch, [2, 0, 3, 1]), [2, 0, 3, 1])
    for row in everyone:
        same(select(batch, [row]), [row])
    same(select(batch, [1, 3]), [1, 3])
    gap = torch.zeros(4, 14, dtype=torch.long)
    ids, mask = gap.clone(), gap.clone()
    ids[:, ::2], mask[:, ::2] = batch.input_ids, batch.attention_mask
    ids[:, 1::2] = 77  # what stands under a zero of the mask does not matter
    same(bp.Batch(ids * mask if name == "llama_classifier" else ids, mask), everyone)
    garbage = dataclasses.replace(batch, input_ids=batch.input_ids + 77 * (1 - batch.attention_mask))
    if name != "llama_classifier":  # transformers itself finds its last token by the padding token
        same(garbage, everyone)


@pytest.mark.parametrize("name", list(MODELS))
def test_sites_are_named_by_layer(name: str) -> None:
    model = MODELS[name]()
    modules = dict(model.network.named_modules())
    for site, layer in model.sites.items():
        path, _, factor = site.rpartition(".")
        assert modules[path] is layer
        assert getattr(layer, factor)["default"].weight is model.location(site)
        assert (
            model.location(site).shape == {"lora_A": (4, layer.in_features), "lora_B": (layer.out_features, 4)}[factor]
        )
    trace = poutine.trace(model).get_trace(make_batch())
    samples = [node for node, found in trace.nodes.items() if found["type"] == "sample"]
    assert samples == [*model.sites, "data", "label"]
    for site in model.sites:
        assert trace.nodes[site]["fn"].event_shape == model.location(site).shape
        assert trace.nodes[site]["value"].dtype == torch.float32
    declared = set(trace.param_nodes)
    assert declared == set(model.point_parameters())


@pytest.mark.parametrize("name", list(MODELS))
def test_nothing_but_adapters_and_heads_is_trainable(name: str) -> None:
    model = MODELS[name]()
    for parameter in trainable(model.network):
        assert any(part in parameter for part in ("lora_A", "lora_B", "classifier", "score")), parameter


def test_label_site_scales_with_num_data() -> None:
    """The batch counts N / B times; without num_data, or in a batch larger than N, each item counts once."""
    model = MODELS["llama"]()
    draws = draw_all(model)
    batch = make_batch()
    conditioned = poutine.condition(model, data=draws)

    def log_prob() -> float:
        trace = poutine.trace(conditioned).get_trace(batch)
        trace.compute_log_prob()
        return float(trace.nodes["label"]["log_prob_sum"].detach())

    full = log_prob()
    model.num_data = None
    each = log_prob()
    assert full == pytest.approx(each * NUM_DATA / 4, rel=1e-5)
    model.num_data = 2
    assert log_prob() == pytest.approx(each, rel=1e-6)


def test_pyro_sees_that_the_labels_depend_on_every_site() -> None:
    """What `pyro.render_model` draws, twice on one model: its wrapped parameters are the model's own."""
    model, batch = MODELS["llama"](), make_batch()
    for _ in range(2):
        found = get_model_relations(model, (batch,))
        assert set(found["sample_sample"]["label"]) == set(model.sites)
        assert found["observed"] == ["label"] and found["plate_sample"] == {"data": ["label"]}


def test_without_labels_labels_are_drawn() -> None:
    model = MODELS["llama"]()
    trace = poutine.trace(model).get_trace(make_batch(labels=False))
    assert not trace.nodes["label"]["is_observed"]
    assert trace.nodes["label"]["value"].shape == (4,)


@pytest.mark.parametrize("name", ["llama", "llama_head", "gpt2", "bert"])
def test_vectorised_predictive_agrees_with_the_loop(name: str) -> None:
    """The same five draws, one forward against five."""
    model = MODELS[name]()
    batch = make_batch(labels=False)
    draws = draw_all(model, 5)
    loop = Predictive(model, posterior_samples=draws, return_sites=("_RETURN",))(batch)["_RETURN"]
    wide = {site: value.unsqueeze(1) for site, value in draws.items()}  # the data plate's dimension
    together = Predictive(model, posterior_samples=wide, parallel=True, return_sites=("_RETURN",))(batch)["_RETURN"]
    assert together.shape == loop.shape == (5, 4, 3)
    assert_equal_draws(together, loop)
    assert_equal_draws(model.logits(batch, draws), loop)


@pytest.mark.parametrize("name", list(EVERY_GUIDE))
def test_vectorised_particles_agree_with_the_loop(name: str) -> None:
    """The mean over 3 draws in one forward of N * NLL, plus the KL, equals a loop over the same draws."""
    model = model_for(name)
    guide = EVERY_GUIDE[name](model)
    batch = make_batch()
    kept: list[dict[str, torch.Tensor]] = []

    class Keep(poutine.messenger.Messenger):
        def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
            if msg["name"] in model.sites:
                kept[-1][msg["name"]] = msg["value"].detach()

    elbo = TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    kept.append({})
    with Keep():
        loss = elbo.loss(model, guide, batch)
    values = {site: value.reshape(-1, *value.shape[-2:]) for site, value in kept[0].items()}
    count = next(iter(values.values())).shape[0]
    assert count == 3
    assert batch.labels is not None
    with torch.no_grad():
        nlls = [
            torch.nn.functional.cross_entropy(model.logits(batch, {k: v[s] for k, v in values.items()}), batch.labels)
            for s in range(count)
        ]
        expected = NUM_DATA * torch.stack(nlls).mean() + guide.kl()
    assert loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flipped"), [(name, False) for name in TRAINED] + [(name, True) for name in FLIPPABLE]
)
def test_plain_svi_trains_everything(name: str, flipped: bool) -> None:
    """lora_B, lora_A (M), the head and G all move, from a fresh adapter with B = 0; the NLL falls."""
    model = MODELS["bert"]()
    for key, parameter in model.point_parameters().items():
        if "lora_B" in key:
            parameter.data.zero_()
    guide = GUIDES[name](model)
    before = snapshot(model.network, guide)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    batch = make_batch()
    losses = []
    for _ in range(12):
        if flipped:
            with bp.flipout():
                losses.append(svi.step(batch))
        else:
            losses.append(svi.step(batch))
    after = snapshot(model.network, guide)
    unmoved = [key for key in before if torch.equal(before[key], after[key])]
    assert not unmoved
    assert losses[-1] < losses[0]
    assert not held_draws(model)


AUTOGUIDES: dict[str, Any] = {
    "AutoNormal": lambda model: AutoNormal(model, init_loc_fn=init_to_adapter(model), init_scale=0.002),
    "AutoLowRankMultivariateNormal": lambda model: AutoLowRankMultivariateNormal(
        model, rank=2, init_loc_fn=init_to_adapter(model), init_scale=0.002
    ),
    "AutoDelta": lambda model: AutoDelta(model, init_loc_fn=init_to_adapter(model)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(AUTOGUIDES))
def test_pyros_autoguides_learn(name: str) -> None:
    """The mean loss of the last 5 of 40 steps is below that of the first 5; B moves; they start at the adapter."""
    model = MODELS["llama"]()
    guide = AUTOGUIDES[name](model)
    batch = make_batch()
    before = snapshot(model.network)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    losses = [svi.step(batch)]
    start = guide.median()
    for site in model.sites:
        torch.testing.assert_close(start[site], model.location(site).detach(), rtol=0, atol=0.011)
    losses += [svi.step(batch) for _ in range(39)]
    assert sum(losses[-5:]) < sum(losses[:5])
    moved = [key for key, value in snapshot(model.network).items() if not torch.equal(value, before[key])]
    assert moved == [key for key in before if "lora_B" in key]  # A itself is a start, not a parameter, here
    found = bp.PosteriorPredictive(model, guide, num_samples=3)(batch)
    assert found.draws.shape == (3, 4, 3)
    mean = bp.PosteriorPredictive(model, guide, num_samples=0)(batch).probs
    median = {site: value.detach() for site, value in guide.median().items()}
    assert torch.equal(mean, model.logits(batch, median).softmax(-1).detach())


@pytest.mark.slow
@pytest.mark.parametrize("local", [False, True], ids=["global", "module_local_params"])
@pytest.mark.parametrize("name", list(EVERY_GUIDE))
def test_elbo_as_a_module_under_one_torch_optimiser(name: str, local: bool) -> None:
    """The road for accelerate: `elbo(model, guide)` holds every parameter and is differentiable."""
    batch = make_batch()
    with pyro.settings.context(module_local_params=local):
        model = model_for(name)
        guide = EVERY_GUIDE[name](model)
        loss_fn = TraceMeanField_ELBO()(model, guide)
        parameters = [p for p in loss_fn.parameters() if p.requires_grad]
        assert {id(p) for p in parameters} == {id(p) for p in trainable(model.network, guide).values()}
        before = snapshot(model.network, guide)
        adam = torch.optim.Adam(parameters, lr=1e-2)
        losses = []
        for _ in range(10):
            adam.zero_grad()
            loss = loss_fn(batch)
            loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(not torch.equal(value, before[key]) for key, value in snapshot(model.network, guide).items())


@pytest.mark.parametrize("name", list(GUIDES))
def test_plain_svi_with_module_local_params(name: str) -> None:
    """A pyro setting under which SVI refuses the Parameters of ordinary submodules."""
    with pyro.settings.context(module_local_params=True):
        model = MODELS["llama"]()
        guide = GUIDES[name](model)
        before = snapshot(model.network, guide)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
        for _ in range(2):
            svi.step(make_batch())
    assert all(not torch.equal(value, before[key]) for key, value in snapshot(model.network, guide).items())


@pytest.mark.parametrize(("setting", "value"), [("prior_scale", 0.0), ("prior_scale", -1.0), ("num_data", 0)])
def test_settings_out_of_range(setting: str, value: float) -> None:
    model = MODELS["llama"]()
    with pytest.raises(bp.errors.ConfigError, match=f"{setting}: expected .*; got {value}"):
        bp.BayesianLoRA(model.network, model.likelihood, **{setting: value})


def test_wrapping_again_is_the_same_model() -> None:
    """One network may be wrapped twice: the layers that hold draws are shared."""
    model = MODELS["llama"]()
    again = bp.BayesianLoRA(model.network, model.likelihood, prior_scale=1.0)
    assert list(again.sites) == list(model.sites)
    assert all(again.location(site) is model.location(site) for site in model.sites)
    batch = make_batch()
    assert torch.equal(again.logits(batch), model.logits(batch))


def test_prior_is_float32_for_a_bfloat16_base() -> None:
    model = MODELS["llama_bfloat16"]()
    for site in model.sites:
        law = model.prior(site)
        assert law.mean.dtype == law.variance.dtype == torch.float32
        torch.testing.assert_close(law.variance, torch.full(model.location(site).shape, 0.04))
