"""Layers whose A matrix cannot be drawn are refused by name, with what to do; never skipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import LLAMA, MODELS, Q_V, adapt, causal_base, make_batch
from peft import IA3Config, LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn

import blob_pyro as bp
from blob_pyro.errors import ConfigError, UnsupportedLayerError
from blob_pyro.model.layers.inject import base_weight
from blob_pyro.model.likelihoods import MultipleChoice
from blob_pyro.model.loading import BaseSource

LIKELIHOOD = MultipleChoice((5, 17, 40))


def llama(**lora: Any) -> Any:
    """A tiny Llama with the given LoRA settings."""
    settings = {"r": 4, "target_modules": list(Q_V), "task_type": TaskType.CAUSAL_LM}
    return get_peft_model(causal_base("LlamaForCausalLM", LLAMA), LoraConfig(**(settings | lora)))


class Odd(nn.Module):
    """Layers that PEFT can adapt and the library cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.attention = nn.MultiheadAttention(8, 2)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x


def odd(*targets: str) -> Any:
    return get_peft_model(Odd(), LoraConfig(r=2, target_modules=list(targets)))


def merged() -> Any:
    network = adapt(causal_base("LlamaForCausalLM", LLAMA), Q_V, LIKELIHOOD)
    network.merge_adapter()
    return network


def two_active() -> Any:
    network = llama()
    network.add_adapter("second", LoraConfig(r=2, target_modules=list(Q_V), task_type=TaskType.CAUSAL_LM))
    network.base_model.set_adapter(["default", "second"])
    return network


def shared() -> Any:
    network = llama()
    layers = [m for n, m in network.named_modules() if n.endswith("q_proj")]
    layers[1].lora_A["default"].weight = layers[0].lora_A["default"].weight
    return network


def shared_B() -> Any:
    network = llama()
    layers = [m for n, m in network.named_modules() if n.endswith("q_proj")]
    layers[1].lora_B["default"].weight = layers[0].lora_B["default"].weight
    return network


def ia3() -> Any:
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type=TaskType.CAUSAL_LM)
    return get_peft_model(causal_base("LlamaForCausalLM", LLAMA), config)


REFUSED: dict[str, tuple[Any, str]] = {
    "embedding": (
        lambda: llama(target_modules=["q_proj", "embed_tokens"]),
        r"layer base_model.model.model.embed_tokens: expected a LoRA layer that calls lora_A .*; "
        r"got layer.Embedding over Embedding; leave it out of target_modules",
    ),
    "dora": (
        lambda: llama(use_dora=True),
        r"layer base_model.model.model.layers.0.self_attn.q_proj: expected plain LoRA; got the variant "
        "DoraLinearVariant; turn it off in LoraConfig, or leave it out",
    ),
    "conv2d": (lambda: odd("linear", "conv"), "layer base_model.model.conv: .* got layer.Conv2d over Conv2d; leave it"),
    "attention": (
        lambda: odd("attention"),
        "layer base_model.model.attention: .* got layer.MultiheadAttention over MultiheadAttention; leave it out",
    ),
    "parameter": (
        lambda: llama(target_modules=[], target_parameters=["mlp.gate_proj.weight"]),
        "layer base_model.model.model.layers.0.mlp.gate_proj: .* got layer.ParamWrapper over Linear; leave it out",
    ),
    "ia3": (ia3, "expected LoRA layers in adapter 'default'; found none .its type is .*IA3"),
    "plain": (
        lambda: causal_base("LlamaForCausalLM", LLAMA),
        "expected a peft.PeftModel; got LlamaForCausalLM; wrap it with peft.get_peft_model first",
    ),
    "two active": (
        two_active,
        r"expected one active adapter; got \['default', 'second'\]; choose one with set_adapter",
    ),
    "merged": (merged, "layer .*q_proj: expected an unmerged adapter; call unmerge_adapter.. first"),
    "shared": (
        shared,
        "layer .*layers.1.self_attn.q_proj: expected its own lora_A; it shares the one of .*layers.0.self_attn.q_proj",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # PEFT's own, about what it is asked here
def test_refused_in_one_line(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=message) as caught:
        bp.BayesianLoRA(build(), LIKELIHOOD, source=BaseSource("odd"))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed")
def test_a_B_that_cannot_be_drawn_is_refused_only_where_it_is() -> None:
    """A bias on B, or one B in two layers: they do no harm while B is a point."""
    q_proj = "layer base_model.model.model.layers.{}.self_attn.q_proj: "
    for build, message in (
        (
            lambda: llama(lora_bias=True),
            q_proj.format(0) + "expected lora_B without a bias, .*; got lora_bias=True; tu",
        ),
        (shared_B, q_proj.format(1) + "expected its own lora_B; it shares the one of .*layers.0.self_attn.q_proj"),
    ):
        assert len(bp.BayesianLoRA(build(), LIKELIHOOD).sites) == 4
        for bayesian in ("B", "both"):
            with pytest.raises(UnsupportedLayerError, match=message) as caught:
                bp.BayesianLoRA(build(), LIKELIHOOD, bayesian=bayesian)
            assert "\n" not in str(caught.value)


def adapted(*targets: str, **lora: Any) -> Any:
    return llama(target_modules=list(targets), **lora)


SITES: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "A": (lambda: adapted("q_proj"), {}, ["0.lora_A", "1.lora_A"]),
    "B": (lambda: adapted("q_proj"), {"bayesian": "B"}, ["0.lora_B", "1.lora_B"]),
    "both": (lambda: adapted("q_proj"), {"bayesian": "both"}, ["0.lora_A", "0.lora_B", "1.lora_A", "1.lora_B"]),
    "last": (lambda: adapted("q_proj"), {"bayesian_layers": [-1]}, ["1.lora_A"]),
    "first": (lambda: adapted("q_proj"), {"bayesian_layers": [0]}, ["0.lora_A"]),
    "twice": (lambda: adapted("q_proj"), {"bayesian_layers": [-1, 1]}, ["1.lora_A"]),
    "last and head": (
        lambda: adapted("q_proj", "lm_head"),
        {"bayesian_layers": [1], "bayesian": "both"},
        ["1.lora_A", "1.lora_B", "head.lora_A", "head.lora_B"],
    ),
    "head": (lambda: adapted("q_proj", "lm_head"), {"bayesian_layers": []}, ["head.lora_A"]),
    "one adapted": (lambda: adapted("q_proj", layers_to_transform=[1]), {"bayesian_layers": [0, 1]}, ["1.lora_A"]),
}


@pytest.mark.parametrize("name", list(SITES))
def test_which_are_random(name: str) -> None:
    """The sites, in order; every other trainable tensor is a point, and nothing is both."""
    build, settings, expected = SITES[name]
    model = bp.BayesianLoRA(build(), LIKELIHOOD, **settings)
    long = {"0": "model.layers.0.self_attn.q_proj", "1": "model.layers.1.self_attn.q_proj", "head": "lm_head"}
    assert list(model.sites) == [
        f"base_model.model.{long[where]}.{factor}" for where, factor in (site.split(".") for site in expected)
    ]
    random = {id(model.location(site)) for site in model.sites}
    points = {id(parameter) for parameter in model.point_parameters().values()}
    assert not random & points
    assert random | points == {id(p) for p in model.network.parameters() if p.requires_grad}


def without_blocks() -> Any:
    return odd("linear")


NOT_THERE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "factor": (llama, {"bayesian": "a"}, "bayesian: expected one of A, B, both; got 'a'"),
    "too far": (llama, {"bayesian_layers": [2]}, "expected indices of the network's 2 blocks, -2 to 1; got 2"),
    "too far back": (llama, {"bayesian_layers": [0, -3]}, "expected indices of the network's 2 blocks, .*; got -3"),
    "no index": (llama, {"bayesian_layers": ["last"]}, "bayesian_layers: expected indices .*; got 'last'"),
    "nothing left": (llama, {"bayesian_layers": []}, "bayesian_layers: expected blocks with an adapter; got .., and"),
    "not adapted": (
        lambda: llama(layers_to_transform=[1]),
        {"bayesian_layers": [0]},
        "bayesian_layers: expected blocks with an adapter; got .0., and nothing would be random",
    ),
    "no blocks": (
        without_blocks,
        {"bayesian_layers": [0]},
        "bayesian_layers: expected a network whose blocks stand in",
    ),
}


@pytest.mark.parametrize("name", list(NOT_THERE))
def test_what_is_not_there_cannot_be_random(name: str) -> None:
    build, settings, message = NOT_THERE[name]
    with pytest.raises(ConfigError, match=message) as caught:
        bp.BayesianLoRA(build(), LIKELIHOOD, source=BaseSource("odd"), **settings)
    assert "\n" not in str(caught.value)


def test_an_adapter_loaded_for_inference_is_trainable_all_of_it() -> None:
    """Also the blocks whose adapters are points."""
    network = llama()
    network.requires_grad_(False)
    model = bp.BayesianLoRA(network, LIKELIHOOD, bayesian="B", bayesian_layers=[-1])
    assert len(model.sites) == 2 and len(model.point_parameters()) == 6


def test_what_is_left_out_may_be_odd() -> None:
    """The same odd network is accepted where only its linear layer is adapted."""
    model = bp.BayesianLoRA(odd("linear"), LIKELIHOOD, source=BaseSource("odd"))
    assert list(model.sites) == ["base_model.model.linear.lora_A"]


def test_an_unmerged_adapter_is_accepted_again() -> None:
    network = merged()
    network.unmerge_adapter()
    assert len(bp.BayesianLoRA(network, LIKELIHOOD).sites) == 4


def test_only_the_active_adapter_is_drawn() -> None:
    network = two_active()
    network.set_adapter("second")
    model = bp.BayesianLoRA(network, LIKELIHOOD)
    assert model.adapter == "second"
    assert {tuple(model.location(site).shape) for site in model.sites} == {(2, 32)}


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed")  # by PEFT, since merging is not possible then
@pytest.mark.parametrize("lora", [{"use_rslora": True}, {"lora_bias": True}, {"rank_pattern": {"q_proj": 2}}])
def test_other_settings_of_lora_work(lora: dict[str, Any]) -> None:
    """Another scaling, a bias on B, a rank for each layer: drawing the mean is the plain network."""
    network = llama(**lora).eval()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    batch = make_batch()
    plain = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    rows, last = torch.arange(4), batch.attention_mask.sum(1) - 1
    model = bp.BayesianLoRA(network, LIKELIHOOD)
    mean = {site: model.location(site).detach() for site in model.sites}
    torch.testing.assert_close(model.logits(batch, mean), plain[rows, last][:, [5, 17, 40]], rtol=1e-4, atol=1e-4)
    guide = bp.BLoBGuide(model)
    if "lora_bias" not in lora:
        laws = {site: guide.full_weight_posterior(site).mean for site in model.sites}
        model.network.merge_adapter()
        for site, layer in model.sites.items():
            torch.testing.assert_close(laws[site], layer.get_base_layer().weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama_bfloat16"])
def test_base_weight_is_out_by_in(name: str) -> None:
    """(m, n) float32: applied to unit vectors it is the base layer."""
    model = MODELS[name]()
    for layer in model.sites.values():
        base = layer.get_base_layer()
        weight = base_weight(layer)
        assert weight.dtype == torch.float32
        unit = torch.eye(weight.shape[1], dtype=base.weight.dtype)
        bias = 0 if base.bias is None else base.bias
        torch.testing.assert_close(base(unit).float() - bias, weight.T, rtol=1e-5, atol=1e-5)
