"""Every likelihood on bases of 8 bit, 4 bit and bfloat16: a step, draws in one forward, a saved run, a text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from cases import ANSWERS, NUM_DATA, Q_V, base_folder, draw_all, fill_B, make_batch, trainable
from laws import assert_equal_draws

import blob_pyro as bp
from blob_pyro.errors import ConfigError
from blob_pyro.model.likelihoods import Likelihood

LIKELIHOODS: dict[str, Likelihood] = {
    "multiple_choice": bp.MultipleChoice(ANSWERS),
    "whole_answer": bp.WholeAnswer(((5, 17), (5, 40, 9), (7,))),
    "causal_lm": bp.CausalLM(),
    "sequence_classification": bp.SequenceClassification(3),
}
BASES: dict[str, Mapping[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "8bit": {"quantization": "8bit", "llm_int8_threshold": 0.0},
    "4bit": {"quantization": "4bit"},
}
EVERY = pytest.mark.parametrize(("likelihood", "base"), list(itertools.product(LIKELIHOODS, BASES)))


def make(likelihood: str, base: str, **settings: Any) -> bp.BayesianLoRA:
    """The tiny model with that answer on that base, B not zero, in evaluation mode."""
    torch.manual_seed(4)
    model = bp.BayesianLoRA.from_pretrained(
        str(base_folder()), LIKELIHOODS[likelihood], r=4, lora_alpha=8, target_modules=list(Q_V), num_data=NUM_DATA,
        **(dict(BASES[base]) | settings),
    )  # fmt: skip
    fill_B(model.network)
    model.network.eval()
    return model


def batch_for(likelihood: str) -> bp.Batch:
    batch = make_batch()
    if likelihood != "causal_lm":
        return batch
    tokens = torch.where(batch.attention_mask > 0, batch.input_ids, -100)
    return bp.Batch(batch.input_ids, batch.attention_mask, labels=tokens, index=batch.index)


@EVERY
def test_a_step_moves_everything_that_is_trained_and_stays_finite(likelihood: str, base: str) -> None:
    model = make(likelihood, base)
    guide = bp.BLoBGuide(model)
    before = {name: value.detach().clone() for name, value in trainable(model.network, guide).items()}
    with bp.flipout():
        result = bp.BLoBSVI(model, guide, lr=1e-2).step(batch_for(likelihood))
    assert all(map(torch.isfinite, map(torch.tensor, (result.nll, result.kl, result.loss))))
    for name, value in trainable(model.network, guide).items():
        assert value.dtype == torch.float32 or "score" in name
        assert torch.isfinite(value).all() and not torch.equal(value, before[name]), name


@EVERY
def test_gradients_of_the_elbo_are_finite(likelihood: str, base: str) -> None:
    model = make(likelihood, base)
    guide = bp.BLoBGuide(model)
    pyro.infer.TraceMeanField_ELBO()(model, guide)(batch_for(likelihood)).backward()
    gradients = {name: value.grad for name, value in trainable(model.network, guide).items()}
    for name, gradient in gradients.items():
        assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().sum() > 0, name


@EVERY
def test_draws_in_one_forward_are_those_of_a_loop(likelihood: str, base: str) -> None:
    model, batch = make(likelihood, base), batch_for(likelihood)
    draws = draw_all(model, 3)
    with torch.no_grad():
        together = model.logits(batch, draws)
        one_by_one = torch.stack(
            [model.logits(batch, {name: value[s] for name, value in draws.items()}) for s in range(3)]
        )
    assert not torch.equal(one_by_one[0], one_by_one[1]) and torch.isfinite(together).all()
    assert_equal_draws(together, one_by_one)


@pytest.mark.slow
@EVERY
def test_a_saved_run_comes_back_bit_for_bit(likelihood: str, base: str, tmp_path: Path) -> None:
    model, batch = make(likelihood, base), batch_for(likelihood)
    guide = bp.BLoBGuide(model)
    bp.BLoBSVI(model, guide, lr=1e-2).step(batch)
    model.network.eval()
    bp.save(tmp_path, model, guide)
    for device_map in (None, "cpu", "auto"):
        run = bp.load(tmp_path, device_map=device_map)
        run.model.network.eval()
        assert run.model.source == model.source
        draws = draw_all(model)
        assert torch.equal(run.model.logits(batch, draws), model.logits(batch, draws))
        assert all(torch.equal(run.guide.loc(site), guide.loc(site)) for site in model.sites)
        assert all(torch.equal(run.guide.scale(site), guide.scale(site)) for site in model.sites)


@EVERY
def test_texts_are_those_of_the_network(likelihood: str, base: str) -> None:
    """At the posterior mean the figures of a greedy text are those of one forward; under draws they are finite."""
    model = make(likelihood, base)
    guide = bp.BLoBGuide(model)
    if likelihood == "sequence_classification":
        with pytest.raises(ConfigError, match="expected a causal language model"):
            bp.generate(model, guide, "w3 w4 w5", max_new_tokens=4)
        return
    found = bp.generate(model, guide, "w3 w4 w5", num_draws=0, max_new_tokens=4)
    prompt, written = torch.tensor(found.prompts), found.tokens[0]
    with torch.no_grad():
        law = model.network(torch.cat((prompt, written), 1)).logits[:, prompt.shape[1] - 1 : -1].float().log_softmax(-1)
    # a cached forward rounds otherwise, by up to 0.02 in bfloat16
    torch.testing.assert_close(found.log_probs[0, 0], law.gather(-1, written[..., None])[..., 0], atol=0.05, rtol=0)
    assert float((law.max(-1).values - found.log_probs[0, 0]).max()) < 0.05
    drawn = bp.generate(model, guide, "w3 w4 w5", num_draws=2, mode="per_draw", max_new_tokens=4)
    assert drawn.log_probs.shape[:3] == (2, 1, 2) and torch.isfinite(drawn.log_probs).all()
    assert torch.isfinite(drawn.mutual_information).all() and float(drawn.entropy[drawn.mask].min()) > 0
