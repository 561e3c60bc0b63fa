"""A layer that the forward never applies is refused: its draws would change nothing."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from cases import MODELS, causal, draw_all, make_batch

import blob_pyro as bp
from blob_pyro.errors import UnsupportedLayerError
from blob_pyro.model.layers.drawn_linear import DrawnLinear
from blob_pyro.model.layers.first_forward import FirstForward

BART = {"vocab_size": 96, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "pad_token_id": 0, "init_std": 0.2}
BART |= {"decoder_attention_heads": 4, "decoder_ffn_dim": 48, "max_position_embeddings": 64}
MAMBA = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4}
# kind of network, its settings, targets, the first layer that is passed by, how many, of how many
PASSED_BY: dict[str, tuple[str, dict[str, Any], list[str], str, str]] = {
    "a lone decoder": ("BartForCausalLM", BART, ["q_proj", "v_proj"], "encoder_attn.v_proj", "4 of 8"),
    "a weight that others read": ("MambaForCausalLM", MAMBA, ["in_proj", "dt_proj"], "mixer.dt_proj", "2 of 4"),
}


@pytest.mark.parametrize("name", PASSED_BY)
def test_layers_that_the_forward_passes_by_are_refused_each_time(name):
    kind, settings, targets, path, count = PASSED_BY[name]
    model = causal(kind, settings, *targets)()
    for _ in range(2):
        with pytest.raises(UnsupportedLayerError, match=f"layer base_model.*{path}: .* passes by, as {count} sites"):
            model.logits(make_batch(), draw_all(model))
    with pytest.raises(UnsupportedLayerError, match=path):
        bp.BLoBSVI(model, bp.BLoBGuide(model), num_steps=2).step(make_batch())


def test_without_them_the_network_is_taken():
    model = causal("BartForCausalLM", BART, *(f"self_attn.{name}" for name in ("q_proj", "v_proj")))()
    draws = draw_all(model, 2)
    logits = model.logits(make_batch(), draws)
    for site in model.sites:  # each of them changes the answers
        assert not torch.allclose(model.logits(make_batch(), {site: 3 * draws[site]}), logits)


@pytest.mark.parametrize("name", ["llama", "llama_last_both", "bert", "gpt2"])
def test_nothing_is_watched_behind_a_whole_forward(name):
    model = MODELS[name]()
    hooked = [layer for layer in model.network.modules() if layer._forward_hooks]
    assert hooked
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    model.logits(make_batch())
    assert not any(layer._forward_hooks for layer in hooked)
    for twin in twins:  # each is watched by itself
        assert any(layer._forward_hooks for layer in twin.network.modules())
        assert torch.equal(twin.logits(make_batch()), model.logits(make_batch()))
        assert not any(layer._forward_hooks for layer in twin.network.modules())


def test_experts_that_no_token_is_sent_to_and_heads_are_no_fault():
    seen, unseen = (DrawnLinear.sharing(torch.nn.Linear(4, 2, bias=False)) for _ in range(2))
    watched = FirstForward({"h.0.q.lora_A": seen, "h.0.experts.1.up.lora_A": unseen, "lm_head.lora_A": unseen})
    with pytest.raises(UnsupportedLayerError, match="layer h.0.q: .* 1 of 1 sites"):
        watched.check()
    seen(torch.ones(1, 4))
    watched.check()
    assert not seen._forward_hooks and not unseen._forward_hooks
