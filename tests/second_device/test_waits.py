"""How often the host waits for the device: once a training step, once a group of items that is predicted together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import cases
import pytest
from pyro.distributions import LogNormal
from test_laws import EXACT, batch

import blob_pyro as bp

PLACE = "second:0"
# Their KL has no closed flow: a wait for each small step of it, as many as the width asks for.
DESCENDING = ("low_rank", "mean_field", "scalabl", "blob_softplus")
CLOSED = [name for name in cases.TRAINED if name not in DESCENDING]


def waits(device: Any, run: Callable[[], object]) -> int:
    before = device.waits()
    run()
    return int(device.waits() - before)


def steps(model: bp.BayesianLoRA, guide: Any, **settings: Any) -> bp.BLoBSVI:
    """A training whose first step is done: it settles what the others keep to."""
    svi = bp.BLoBSVI(model, guide, num_steps=6, lr=1e-2, **settings)
    svi.step(batch(type(model.likelihood).__name__))
    return svi


@pytest.mark.parametrize("recipe", ["blob", "decoupled", "elbo"])
@pytest.mark.parametrize("name", CLOSED)
def test_a_step_waits_once(device, name, recipe):
    model = cases.model_for(name, **EXACT).to(PLACE)
    svi = steps(model, cases.EVERY_GUIDE[name](model), recipe=recipe)
    assert [waits(device, lambda: svi.step(batch())) for _ in range(4)] == [1] * 4


@pytest.mark.parametrize(("name", "expected"), [("blob", [4, 1, 2]), ("map", [1, 1, 1])])
def test_the_first_step_settles_how_the_kl_acts_and_the_last_looks_back(device, name, expected):
    model = cases.model_for(name, **EXACT).to(PLACE)
    svi = bp.BLoBSVI(model, cases.EVERY_GUIDE[name](model), num_steps=3, lr=1e-2)
    assert [waits(device, lambda: svi.step(batch())) for _ in range(3)] == expected


SETTINGS: dict[str, dict[str, Any]] = {
    "pieces": {"gradient_accumulation_steps": 2},
    "largest gradient": {"max_grad_norm": 1.0},
    "steps to skip": {"max_skipped_steps": 3},
    "bf16": {"mixed_precision": "bf16"},
    "explicit": {"kl_step": "explicit", "kl_lr": 1e-3},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("flipout", [False, True])
def test_a_step_of_other_settings_waits_once(device, name, flipout):
    model = cases.MODELS["llama"](**EXACT).to(PLACE)
    with bp.flipout() if flipout else contextlib.nullcontext():
        svi = steps(model, bp.guides.BLoBGuide(model), **SETTINGS[name])
        assert [waits(device, lambda: svi.step(batch())) for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("name", DESCENDING)
def test_a_step_without_a_widening_kl_waits_once_whatever_the_guide(device, name):
    model = cases.model_for(name, **EXACT).to(PLACE)
    svi = steps(model, cases.EVERY_GUIDE[name](model))
    assert waits(device, lambda: svi.step(batch())) == 1  # the KL acts in the second half


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", DESCENDING)
def test_a_widening_kl_without_a_closed_flow_waits_once_a_small_step(device, name, learned):
    network = cases.model_for(name, **EXACT).network
    prior_scale = LogNormal(math.log(0.2), 0.5) if learned else 0.2
    likelihood = cases.LIKELIHOODS["MultipleChoice"]()
    model = bp.BayesianLoRA(network, likelihood, prior_scale=prior_scale, num_data=cases.NUM_DATA).to(PLACE)
    guide = cases.EVERY_GUIDE[name](model)
    svi = steps(model, guide)
    for _ in range(2):  # without a KL
        svi.step(batch())
    kl, seen = guide.kl, []
    guide.kl = lambda: seen.append(kl()) or seen[-1]
    for _ in range(2):  # and the last step looks back once
        seen.clear()
        found = waits(device, lambda: svi.step(batch()))
        # for the figures, of the mean, at the beginning of the flow, and for a learned prior scale
        small_steps = len(seen) - 3 - learned
        assert found == 1 + small_steps and small_steps >= 1


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "llama_classifier", "llama_whole", "llama_both"])
def test_a_models_step_and_answers_wait_once(device, name):
    model = cases.MODELS[name](**EXACT).to(PLACE)
    guide = bp.guides.BLoBGuide(model)
    svi = steps(model, guide)
    assert waits(device, lambda: svi.step(batch())) == 1
    predictive = bp.PosteriorPredictive(model, guide, num_samples=3)
    assert waits(device, lambda: predictive([batch()])) == 1


@pytest.mark.parametrize("num_samples", [0, 3])
@pytest.mark.parametrize("name", cases.EVERY_GUIDE)
def test_answers_to_a_batch_wait_once_in_however_many_groups(device, name, num_samples):
    model = cases.model_for(name, **EXACT).to(PLACE)
    guide = cases.EVERY_GUIDE[name](model)
    for max_tokens in (None, 1):
        predictive = bp.PosteriorPredictive(model, guide, num_samples=num_samples, max_tokens=max_tokens)
        ranks = name == "tfb" and num_samples > 0  # of every B, together
        assert waits(device, partial(predictive, [batch()])) == 1 + ranks


@pytest.mark.parametrize(("name", "settings", "expected"), [("llama", {}, 2), ("bert", EXACT, 1)])
def test_masks_that_transformers_looks_at_are_the_rest(device, name, settings, expected):
    """In each forward: whether there is padding, and with sdpa whether texts are packed. Nothing of ours is in it."""
    model = cases.MODELS[name](**settings).to(PLACE)
    svi = steps(model, bp.guides.BLoBGuide(model))
    assert waits(device, lambda: svi.step(batch())) == 1 + expected


@pytest.mark.parametrize("num_tokens", [None, 60])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_step_over_texts_waits_once(device, num_tokens, pieces):
    model = cases.causal("LlamaForCausalLM", cases.LLAMA, *cases.Q_V, likelihood="CausalLM")(**EXACT).to(PLACE)
    model.likelihood.num_tokens = num_tokens
    svi = steps(model, bp.guides.BLoBGuide(model), gradient_accumulation_steps=pieces)
    assert [waits(device, lambda: svi.step(batch("CausalLM"))) for _ in range(4)] == [1] * 4


@pytest.mark.parametrize("num_samples", [0, 3])
@pytest.mark.parametrize(("max_tokens", "groups"), [(None, 1), (1, len(cases.LENGTHS))])
def test_reading_texts_waits_once_a_group(device, num_samples, max_tokens, groups):
    model = cases.causal("LlamaForCausalLM", cases.LLAMA, *cases.Q_V, likelihood="CausalLM")(**EXACT).to(PLACE)
    predictive = bp.TokenPredictive(model, bp.guides.BLoBGuide(model), num_samples=num_samples, max_tokens=max_tokens)
    for items in (batch("CausalLM"), cases.make_batch(labels=False)):
        assert waits(device, partial(predictive, [items])) == groups
