"""`from_pretrained`: what is loaded, and one-line errors for what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import GPT2, MODELS, QUANTISED, base_folder, causal_base, make_batch, pretrained

import blob_pyro as bp
from blob_pyro.errors import ConfigError, ModelLoadError
from blob_pyro.model.layers.targets import linear_layer_names
from blob_pyro.model.likelihoods import MultipleChoice, SequenceClassification
from blob_pyro.model.loading import BaseSource

LIKELIHOOD = MultipleChoice((5, 17, 40))


def test_settings_reach_the_adapter() -> None:
    model = pretrained(r=3, lora_alpha=12, lora_dropout=0.25, target_modules=["o_proj"], prior_scale=0.5)
    (layer, _) = model.sites.values()
    assert (layer.r["default"], layer.scaling["default"], layer.lora_dropout["default"].p) == (3, 4.0, 0.25)
    assert all(site.endswith("self_attn.o_proj.lora_A") for site in model.sites)
    assert model.prior_scale == 0.5
    assert model.tokenizer.pad_token_id == 0
    assert model.source == BaseSource(str(base_folder()))


@pytest.mark.parametrize("name", list(QUANTISED))
def test_a_quantised_peft_model_says_how_to_load_its_base_again(name: str) -> None:
    model = QUANTISED[name]()
    found = BaseSource.of(model.network)
    assert (found.id, found.quantization) == (model.source.id, model.source.quantization) == (str(base_folder()), name)
    assert name == "4bit" or found.llm_int8_threshold == model.source.llm_int8_threshold == 0.0


def test_default_target_modules_are_pefts() -> None:
    model = pretrained(target_modules=None)
    assert {site.split(".")[-2] for site in model.sites} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.float32),
        ("bfloat16", torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_dtype_is_the_bases(dtype: Any, expected: torch.dtype) -> None:
    """Adapters, and with them posterior and noise, stay float32."""
    model = pretrained(dtype=dtype)
    for site, layer in model.sites.items():
        assert layer.get_base_layer().weight.dtype == expected
        assert model.location(site).dtype == torch.float32
        assert layer.lora_B["default"].weight.dtype == torch.float32


@pytest.mark.parametrize(("quantization", "kind"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_quantization(quantization: str, kind: str) -> None:
    model = pretrained(quantization=quantization, llm_int8_threshold=0.0)
    for layer in model.sites.values():
        assert type(layer.get_base_layer()).__name__ == kind
        if quantization == "8bit":
            assert layer.get_base_layer().state.threshold == 0.0
    assert model.source.quantization == quantization
    close = torch.corrcoef(torch.stack([m.logits(make_batch()).detach().flatten() for m in (model, pretrained())]))
    assert float(close[0, 1]) > 0.5


def test_a_classifier_gets_its_head(tmp_path: Path) -> None:
    """`SequenceClassification` loads a head with its number of labels and trains it."""
    model = bp.BayesianLoRA.from_pretrained(
        str(base_folder()), SequenceClassification(5), target_modules=["q_proj"], num_data=8
    )
    assert model.logits(make_batch()).shape == (4, 5)
    assert any("score" in name for name in model.point_parameters())


def test_gpt2_from_a_folder() -> None:
    """Conv1D layers need no word from the user."""
    folder = base_folder("GPT2LMHeadModel")
    model = bp.BayesianLoRA.from_pretrained(str(folder), LIKELIHOOD, target_modules=["c_attn"])
    assert all(layer.fan_in_fan_out for layer in model.sites.values())
    expected = MODELS["gpt2"]().network.unload()
    assert torch.equal(
        model.network.unload().transformer.h[0].attn.c_attn.weight, expected.transformer.h[0].attn.c_attn.weight
    )
    assert causal_base("GPT2LMHeadModel", GPT2).config.model_type == "gpt2"


def test_missing_folder() -> None:
    with pytest.raises(
        ModelLoadError, match="model ./nowhere: expected a hub id, a local folder or an alias .*; check the name"
    ) as c:
        bp.BayesianLoRA.from_pretrained("./nowhere", LIKELIHOOD)
    assert "\n" not in str(c.value)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ModelLoadError, match=f"model {tmp_path}: expected a model that transformers can load; it says: "
    ) as caught:
        bp.BayesianLoRA.from_pretrained(str(tmp_path), LIKELIHOOD)
    assert "\n" not in str(caught.value)


def test_unknown_target_modules() -> None:
    message = "target_modules: expected names of linear layers of .*; PEFT says: .*Its linear layers are: .*q_proj"
    with pytest.raises(ConfigError, match=message) as caught:
        pretrained(target_modules=["query"])
    assert "\n" not in str(caught.value)


def test_linear_layer_names() -> None:
    assert linear_layer_names(causal_base("GPT2LMHeadModel", GPT2)) == ["c_attn", "c_fc", "c_proj", "lm_head"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"quantization": "2bit"}, "quantization: expected '8bit', '4bit' or None; got '2bit'"),
        ({"dtype": "int8"}, "dtype: expected one of auto, float32, bfloat16, float16; got 'int8'"),
    ],
)
def test_bad_settings(setting: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrained(**setting)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"dtype": "bfloat16"}, "eager"),
        ({"dtype": "bfloat16", "attn_implementation": "sdpa"}, "sdpa"),
        ({"dtype": "float32"}, "sdpa"),
        ({"dtype": "float32", "attn_implementation": "eager"}, "eager"),
    ],
)
def test_attention_is_the_faster_one_unless_it_is_given(settings: dict[str, str], expected: str) -> None:
    """Measured on CPUs: docs/performance.md."""
    assert pretrained(**settings).network.get_base_model().config._attn_implementation == expected
