"""The part before the first adapted block runs once for all draws, and changes no answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from cases import LLAMA, MODELS, PLAIN, draw_all, fill_B, make_batch
from laws import assert_equal_draws
from peft import LoraConfig, get_peft_model

import blob_pyro as bp
from blob_pyro.model.layers.inject import layer_path
from blob_pyro.model.layers.shared_prefix import find_shared_prefix

LAST = {"layers_to_transform": [2]}
CASES: dict[str, tuple[list[str], dict[str, Any], list[int]]] = {
    # adapted layers, LoRA settings, rows that each of the three blocks sees for 4 items under 5 draws
    "last block": (["q_proj", "v_proj"], LAST, [4, 4, 20]),
    "middle block": (["q_proj", "down_proj"], {"layers_to_transform": [1]}, [4, 20, 20]),
    "head": (["lm_head"], {}, [4, 4, 4]),
    # adapters in every block: those of the first ones are points, and run once for all draws
    "last block drawn": (["q_proj", "v_proj"], {"bayesian_layers": [-1]}, [4, 4, 20]),
    "last block's B drawn": (["q_proj", "v_proj"], {"bayesian_layers": [-1], "bayesian": "B"}, [4, 4, 20]),
    "last block and head drawn": (
        ["q_proj", "v_proj", "lm_head"],
        {"bayesian_layers": [2], "bayesian": "both"},
        [4, 4, 20],
    ),
    "first and last block drawn": (["q_proj", "v_proj"], {"bayesian_layers": [0, 2]}, [20, 20, 20]),
    "head drawn": (["q_proj", "lm_head"], {"bayesian_layers": []}, [4, 4, 4]),
}


def build(targets: list[str], settings: dict[str, Any], dtype: torch.dtype = torch.float32, attn: str = "sdpa") -> Any:
    """Three blocks; of the settings, those named bayesian are the model's and the others LoRA's."""
    drawn = {name: value for name, value in settings.items() if name.startswith("bayesian")}
    settings = {name: value for name, value in settings.items() if name not in drawn}
    torch.manual_seed(1)
    config = tf.LlamaConfig(**LLAMA | {"num_hidden_layers": 3, "attn_implementation": attn})
    base = tf.LlamaForCausalLM(config).to(dtype)
    network = get_peft_model(base, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", **settings))
    fill_B(network)
    return bp.BayesianLoRA(network.eval(), bp.MultipleChoice([5, 17, 40]), num_data=8, **drawn)


def rows_seen(model: bp.BayesianLoRA) -> list[int]:
    """Rows of each block's feed-forward part from now on."""
    seen: list[int] = []
    for block in model.network.get_base_model().model.layers:
        block.mlp.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("lengths", [(7, 4, 6, 3), (5, 5, 5, 5), (6,)])
@pytest.mark.parametrize("name", list(CASES))
def test_equals_the_repeated_batch(name: str, lengths: tuple[int, ...], attn: str) -> None:
    """With gradients the batch is repeated from the start: the slow twin."""
    targets, settings, rows = CASES[name]
    model = build(targets, settings, attn=attn)
    batch, draws = make_batch(lengths), draw_all(model, 5)
    slow = model.logits(batch, draws).detach()
    seen = rows_seen(model)
    with torch.no_grad():
        fast = model.logits(batch, draws)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    assert seen == [count * len(lengths) // 4 for count in rows]
    assert float((slow[0] - slow[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("num_draws", [2, 5])
@pytest.mark.parametrize("lengths", [(7, 4, 6, 3), (5, 5, 5, 5)])
@pytest.mark.parametrize("name", list(CASES))
def test_is_bit_equal_to_a_loop_over_draws(name: str, lengths: tuple[int, ...], num_draws: int) -> None:
    """One forward for all draws against one for each, which shares nothing.

    (With one or two items the head's few rows take another kernel for one draw than for all, which rounds otherwise.)
    """
    model = build(*CASES[name][:2], attn="eager")
    batch, draws = make_batch(lengths), draw_all(model, num_draws)
    with torch.no_grad():
        loop = [model.logits(batch, {site: value[s] for site, value in draws.items()}) for s in range(num_draws)]
        assert_equal_draws(model.logits(batch, draws), torch.stack(loop))


@pytest.mark.parametrize("name", list(PLAIN))
def test_every_decoder_shares_its_first_block(name: str) -> None:
    """All architectures of `PLAIN_HEADS`, adapted in their second block alone."""
    adapted = PLAIN[name]().network
    config = adapted.peft_config["default"]
    config.layers_to_transform = [1]
    network = get_peft_model(adapted.unload(), config).eval()
    fill_B(network)
    model = bp.BayesianLoRA(network, bp.MultipleChoice([5, 17, 40]))
    batch, draws = make_batch(), draw_all(model, 3)
    slow = model.logits(batch, draws).detach()
    seen: list[int] = []
    embeddings = network.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(batch, draws), slow, rtol=1e-5, atol=1e-5)
    assert seen == [len(batch)]
    assert float((slow[0] - slow[1]).abs().max()) > 1e-2


@pytest.mark.parametrize("name", list(CASES))
def test_in_bfloat16(name: str) -> None:
    """bfloat16 has 8 bits: sums in another order differ by some 2^-8 of logits of a few units."""
    model = build(*CASES[name][:2], dtype=torch.bfloat16)
    batch, draws = make_batch(), draw_all(model, 5)
    slow = model.logits(batch, draws).detach()
    with torch.no_grad():
        torch.testing.assert_close(model.logits(batch, draws), slow, rtol=0.02, atol=0.1)


def test_as_many_draws_as_items_and_tokens() -> None:
    """Nothing is taken for a row of items because its size happens to be theirs."""
    model = build(["v_proj"], LAST)
    batch, draws = make_batch((4, 4, 3, 2)), draw_all(model, 4)
    with torch.no_grad():
        fast = model.logits(batch, draws)
        loop = torch.stack([model.logits(batch, {site: a[s] for site, a in draws.items()}) for s in range(4)])
    torch.testing.assert_close(fast, loop, rtol=1e-5, atol=1e-5)


def test_no_hook_stays_behind() -> None:
    model = build(["q_proj"], LAST)
    with torch.no_grad():
        model.logits(make_batch(), draw_all(model, 2))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.network.modules())


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_nothing_is_shared_where_nothing_can_be(name: str) -> None:
    """Adapters in the first block, or an architecture whose end is not known."""
    model = MODELS[name]()
    assert find_shared_prefix(model.network, map(layer_path, model.sites)) is None
