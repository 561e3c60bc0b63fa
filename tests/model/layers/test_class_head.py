"""A decoder's classes are read at the last real token of each item, whatever stands for padding."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from architectures import IN_LISTS
from cases import GPT2, HEAD_DIM, LLAMA, OPT, adapt, causal_base, make_batch

import blob_pyro as bp

NARROW = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
# Each way in which transformers reads a decoder's head, an encoder's that is read at every token, and one that is not.
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "llama": ("LlamaForSequenceClassification", LLAMA, ("q_proj", "score")),
    "mistral": ("MistralForSequenceClassification", LLAMA | HEAD_DIM, ("q_proj",)),
    "gpt2": ("GPT2ForSequenceClassification", GPT2, ("c_attn",)),
    "opt": ("OPTForSequenceClassification", OPT, ("q_proj",)),
    "ctrl": ("CTRLForSequenceClassification", NARROW | {"dff": 48}, ("Wq",)),
    "openai-gpt": ("OpenAIGPTForSequenceClassification", NARROW, ("c_attn",)),
    "modernbert-decoder": ("ModernBertDecoderForSequenceClassification", LLAMA, ("q_proj",)),
}
ENCODERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "eurobert": ("EuroBertForSequenceClassification", LLAMA | {"classifier_pooling": "late"}, ("q_proj",)),
    "albert": (*IN_LISTS["albert"][:2], ("query",)),
}


def built(name: str, **changes: Any) -> bp.BayesianLoRA:
    kind, settings, targets = (NETWORKS | ENCODERS)[name]
    likelihood = bp.SequenceClassification(3)
    base = causal_base(kind, settings | {"num_labels": 3} | changes)
    lora = {"fan_in_fan_out": True} if targets == ("c_attn",) else {}
    return bp.BayesianLoRA(adapt(base, targets, likelihood, **lora), likelihood, num_data=40)


@pytest.mark.slow
@pytest.mark.parametrize("pad", [0, 7, None, -1])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_mask_tells_where_a_text_ends(name: str, pad: int | None) -> None:
    """As of each item alone, whose head is read at its own last token; token 7 ends two of the items."""
    if name == "modernbert-decoder" and pad is None:
        pytest.skip("its configuration must have one")
    model = built(name)
    model.network.get_base_model().config.pad_token_id = pad
    batch = make_batch((7, 4, 6, 3))
    ids = batch.input_ids.clone()
    ids[[0, 1], [6, 3]] = 7
    ids[2, 5:] = 7
    batch = dataclasses.replace(batch, input_ids=ids)
    base = model.network.get_base_model()
    with torch.no_grad():
        alone = []
        for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
            base.config.pad_token_id = -5  # stands nowhere: what is read is the last token
            alone.append(model.network(input_ids=row[mask.bool()][None]).logits[0])
        base.config.pad_token_id = pad
        for filler in (0, 7, 9):
            padded = batch.input_ids.where(batch.attention_mask.bool(), filler)
            found = model.logits(dataclasses.replace(batch, input_ids=padded))
            torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-5)
    assert base.config.pad_token_id == pad


@pytest.mark.parametrize("name", ["llama", "eurobert", "albert"])
def test_where_the_configurations_token_pads_they_are_transformers_own(name: str) -> None:
    model, batch = built(name), make_batch()
    with torch.no_grad():
        expected = model.network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        assert torch.equal(model.logits(batch), expected)


@pytest.mark.parametrize("pad", [0, 7])
def test_draws_and_steps_do_not_depend_on_it(pad: int) -> None:
    """Gradients, several draws in a forward and a head that is drawn."""
    found = []
    for config_pad in (pad, 5):
        model = built("llama")
        model.network.get_base_model().config.pad_token_id = config_pad
        batch = make_batch()
        batch = dataclasses.replace(batch, input_ids=batch.input_ids.where(batch.attention_mask.bool(), pad))
        batch = dataclasses.replace(batch, input_ids=batch.input_ids.where(batch.input_ids != 5, 6))
        torch.manual_seed(0)
        guide = bp.BLoBGuide(model, eps=0.2)
        bp.fit(model, guide, [batch] * 2, bp.TrainConfig(num_steps=2, batch_size=4, lr=1e-2), progress=False)
        torch.manual_seed(0)
        found.append(bp.PosteriorPredictive(model, guide, 3)(batch).draws)
    torch.testing.assert_close(*found)
