"""Tiny random models of every shape that people fine-tune: default layers, a fit, answers, save and load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as tf
from architectures import CAUSAL, CLASSIFIERS, DEBERTA, saved
from cases import LLAMA, SMALL, make_batch

import blob_pyro as bp
from blob_pyro.errors import ConfigError, UnsupportedLayerError
from blob_pyro.model.likelihoods import Likelihood


def check(path: str, likelihood: Likelihood, targets: set[str], run: Path) -> None:
    """The layers that are adapted by default; two steps under flipout; three draws; the same after save and load."""
    model = bp.BayesianLoRA.from_pretrained(path, likelihood, r=2, lora_alpha=4, num_data=8)
    assert {site.removesuffix(".lora_A").rsplit(".", 1)[-1] for site in model.sites} == targets
    guide, batch = bp.BLoBGuide(model, eps=0.2), make_batch()
    before = {site: model.location(site).detach().clone() for site in model.sites}
    history = bp.fit(model, guide, [batch], bp.TrainConfig(num_steps=3, batch_size=4, lr=0.05), progress=False)
    assert len(history) == 3
    assert all(not torch.equal(before[site], model.location(site)) for site in model.sites)
    torch.manual_seed(0)
    found = bp.PosteriorPredictive(model, guide, num_samples=3)(batch)
    assert float((found.draws[0] - found.draws[1]).abs().max()) > 0
    bp.save(run, model, guide)
    again = bp.load(run)
    torch.manual_seed(0)
    assert torch.equal(bp.PosteriorPredictive(again.model, again.guide, num_samples=3)(batch).draws, found.draws)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CAUSAL))
def test_causal_language_models(name: str, tmp_path: Path) -> None:
    model_class, settings, targets = CAUSAL[name]
    check(saved(model_class, settings), bp.MultipleChoice([5, 17, 40]), targets, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*random there")
@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_classifiers(name: str, tmp_path: Path) -> None:
    """Encoders and decoders; the head is trained and saved."""
    model_class, settings, targets = CLASSIFIERS[name]
    check(saved(model_class, settings | {"num_labels": 3}), bp.SequenceClassification(3), targets, tmp_path)


@pytest.mark.parametrize("targets", [["query_proj"], ["query_proj", "value_proj"]])
def test_a_layer_that_all_items_share_is_named_and_refused(targets: list[str]) -> None:
    """DeBERTa-v2's query projection of the relative positions; one draw for all is no trouble."""
    path = saved("DebertaV2ForSequenceClassification", DEBERTA | {"num_labels": 3})
    model = bp.BayesianLoRA.from_pretrained(path, bp.SequenceClassification(3), r=2, target_modules=targets, num_data=8)
    guide, batch = bp.BLoBGuide(model), make_batch()
    bp.PosteriorPredictive(model, guide, num_samples=1)(batch)
    for attempt in (
        lambda: bp.PosteriorPredictive(model, guide, num_samples=3)(batch),
        lambda: bp.fit(model, guide, [batch], bp.TrainConfig(num_steps=1, batch_size=4), progress=False),
    ):
        with pytest.raises(
            UnsupportedLayerError, match=r"got 1; a layer that is applied .* leave it out of target_mod"
        ):
            attempt()


def test_an_unknown_architecture_lists_its_linear_layers() -> None:
    """Olmo is in neither table."""
    with pytest.raises(
        ConfigError, match="target_modules: .*Its linear layers are: down_proj, gate_proj, k_proj, lm_h"
    ):
        bp.BayesianLoRA.from_pretrained(saved("OlmoForCausalLM", LLAMA), bp.MultipleChoice([5, 17]))


def test_a_configuration_without_a_padding_token_is_loaded() -> None:
    """CodeGen's has no such field."""
    settings = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "n_ctx": 64}
    path = saved(
        "CodeGenForCausalLM", settings | {name: SMALL[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    )
    bp.BayesianLoRA.from_pretrained(path, bp.MultipleChoice([5, 17]))


def test_every_default_is_tested() -> None:
    from blob_pyro.model.layers.targets import DEFAULT_TARGET_MODULES

    tested = {getattr(tf, kind).config_class.model_type for kind, *_ in (*CAUSAL.values(), *CLASSIFIERS.values())}
    assert set(DEFAULT_TARGET_MODULES) <= tested
