"""The cost model against what is counted on real networks: numbers, bytes that are alive, operations."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers as tf
from cases import ANSWERS, KINDS, QUANTISED
from cost_model import (
    Machine,
    Setup,
    Shapes,
    adapter_numbers,
    memory,
    posterior_numbers,
    step_flops,
    step_time,
)
from cost_model.activations import kept
from live_bytes import LiveBytes
from peft import LoraConfig, get_peft_model
from several import in_processes
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.flop_counter import FlopCounterMode

import blob_pyro as bp
from blob_pyro.errors import ConfigError
from blob_pyro.model.layers.checkpointing import enable_checkpointing
from blob_pyro.model.layers.sharding import shard_base
from blob_pyro.system.processes import Ranks
from blob_pyro.training.elbo import negative_log_likelihood
from blob_pyro.training.recipes import RECIPES

SMALL = {
    "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 6, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 512,
}  # fmt: skip
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_70B = {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
CONFIGS = {
    "small": tf.LlamaConfig(**SMALL),
    "biased": tf.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "smollm2": tf.LlamaConfig(**SMOLLM2),
    "70B": tf.LlamaConfig(**LLAMA_70B),
    "mistral": tf.MistralConfig(**SMALL, head_dim=24),
    "qwen2": tf.Qwen2Config(**SMALL),
    "qwen3": tf.Qwen3Config(**SMALL, head_dim=32, attention_bias=True),
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_number_of_a_network_is_counted(name: str) -> None:
    with torch.device("meta"):
        network = tf.AutoModelForCausalLM.from_config(CONFIGS[name])
    shapes = Shapes.of(CONFIGS[name])
    assert shapes.numbers == sum(p.numel() for p in network.parameters())
    linears = {path: tuple(layer.weight.shape) for path, layer in network.model.layers[0].named_modules()
               if isinstance(layer, nn.Linear)}  # fmt: skip
    assert {path.split(".")[-1]: shape for path, shape in linears.items()} == shapes.block_linears


def build(setup: Setup, config: Any = CONFIGS["small"]) -> tuple[bp.BayesianLoRA, Any, bp.Batch]:
    """A random network in training mode as `setup` has it, its guide, and a batch."""
    config = type(config).from_dict(config.to_dict())
    torch.manual_seed(0)
    network = tf.AutoModelForCausalLM.from_config(
        config, dtype=DTYPES[setup.dtype], attn_implementation=setup.attn_implementation
    )
    lora = LoraConfig(r=setup.r, target_modules=list(setup.target_modules), task_type="CAUSAL_LM")
    network = get_peft_model(network, lora)
    if setup.gradient_checkpointing:
        enable_checkpointing(network.get_base_model())
    likelihood = bp.CausalLM() if setup.answer_tokens else bp.MultipleChoice(ANSWERS)
    model = bp.BayesianLoRA(network, likelihood, num_data=100, bayesian=KINDS[setup.guide].bayesian)
    guide = KINDS[setup.guide](model, **({"rank": setup.guide_rank} if setup.guide == "low_rank" else {}))
    network.train()
    ids = torch.randint(5, 512, (setup.batch_size, setup.length))
    labels = torch.zeros(setup.batch_size, dtype=torch.long)
    if setup.answer_tokens:
        labels = torch.where(torch.arange(setup.length) < setup.length - setup.answer_tokens, -100, ids)
    return model, guide, bp.Batch(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)


def noise(setup: Setup) -> Any:
    return bp.flipout() if setup.flips else contextlib.nullcontext()


GUIDES = ("blob", "mean_field", "low_rank", "scalabl", "mle", "map", "dropout")


@pytest.mark.slow
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("k_proj", "down_proj", "lm_head"), ALL])
@pytest.mark.parametrize("guide", GUIDES)
def test_every_trained_number_is_counted(guide: Any, targets: tuple[str, ...]) -> None:
    setup = Setup(guide=guide, guide_rank=3, r=4, target_modules=targets, length=6)
    model, posterior, _ = build(setup)
    shapes = Shapes.of(CONFIGS["small"])
    assert adapter_numbers(shapes, setup) == sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    beside = (*posterior.scale_parameters().values(), *posterior.prior_parameters().values())
    assert posterior_numbers(shapes, setup) == sum(p.numel() for p in beside)


def nbytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("guide", ["blob", "low_rank", "mle"])
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_moments_copies_and_gradients_are_those_of_a_real_step(recipe: Any, guide: Any) -> None:
    setup = Setup(recipe=recipe, guide=guide, length=6, flipout=False)
    model, posterior, batch = build(setup)
    svi = bp.BLoBSVI(model, posterior, recipe=recipe)
    svi.step(batch)
    moments = [value for optimizer in svi.recipe.optimizers for state in optimizer.state.values()
               for value in state.values() if value.dim() > 0]  # fmt: skip
    assert svi.last_good is not None
    found = memory(Shapes.of(CONFIGS["small"]), setup)
    assert found.optimizer == nbytes(moments)
    assert found.copies == found.gradients == nbytes(svi.last_good) == nbytes(svi.recipe.parameters())
    twice = memory(Shapes.of(CONFIGS["small"]), Setup(recipe=recipe, guide=guide, evaluates=True))
    assert twice.copies == 2 * found.copies  # `training_state.Best` copies as much


@pytest.mark.slow
@pytest.mark.parametrize("guide_name", ["blob", "mle"])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL], ids=["two", "all"])
@pytest.mark.parametrize(("dtype", "attention"), list(itertools.product(DTYPES, ("sdpa", "eager"))))
def test_what_a_forward_keeps_is_counted(dtype: Any, attention: Any, targets: tuple[str, ...], guide_name: Any) -> None:
    """Every storage that autograd saves, without parameters; up to 7 % too much, for what is shared."""
    setup = Setup(
        dtype=dtype, attn_implementation=attention, target_modules=targets, batch_size=3, length=40, guide=guide_name
    )
    model, guide, batch = build(setup)
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*model.network.parameters(), *model.network.buffers())}
    saved: dict[int, Tensor] = {}

    def see(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in owned:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with noise(setup), torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        negative_log_likelihood(model, guide, batch)
    counted = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    shapes = Shapes.of(CONFIGS["small"])
    assert 0.99 < (kept(shapes, setup) + memory(shapes, setup).draws) / counted < 1.07


SETUPS = [
    Setup(
        dtype=dtype,
        attn_implementation=attention,
        gradient_checkpointing=checkpointing,
        batch_size=4,
        length=length,
        answer_tokens=answer_tokens,
    )
    for dtype, attention, checkpointing, (length, answer_tokens) in itertools.product(
        ("float32", "bfloat16"), ("sdpa", "eager"), (False, True), ((64, 0), (200, 0), (100, 99))
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("setup", SETUPS, ids=lambda s: "-".join(map(str, (
    s.dtype, s.attn_implementation, "recomputed" if s.gradient_checkpointing else "kept", s.length, s.answer_tokens
))))  # fmt: skip
def test_the_peak_of_real_steps_is_predicted(setup: Setup) -> None:
    """All tensors that are alive at the worst moment of three steps, to 15 %."""
    model, guide, batch = build(setup)
    svi = bp.BLoBSVI(model, guide, num_steps=10)
    with noise(setup), LiveBytes([*model.network.parameters(), *guide.parameters()]) as live:
        loaded = live.now
        for _ in range(3):
            svi.step(batch)
    found = memory(Shapes.of(CONFIGS["small"]), setup)
    assert found.loaded == loaded
    assert 0.95 < (found.total - found.loaded) / (live.peak - loaded) < 1.15


def test_live_bytes_are_those_that_are_alive() -> None:
    with LiveBytes([kept := torch.zeros(10)]) as live:
        first = torch.zeros(100)
        view = first[:5]
        del first
        assert live.now == 440
        del view
        assert live.now == 40
        second = kept + 1
    assert live.now == 80 and live.peak == 440
    del second


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("answer_tokens", [0, 59])
def test_operations_are_those_that_a_real_step_makes(checkpointing: bool, answer_tokens: int) -> None:
    """Counted by torch. The model leaves out the rows of a few answers, and what the first block saves: its input
    needs no gradient.
    """
    setup = Setup(
        batch_size=4, length=60, dtype="float32", attn_implementation="eager", gradient_checkpointing=checkpointing,
        answer_tokens=answer_tokens,
    )  # fmt: skip
    model, guide, batch = build(setup)
    with noise(setup), FlopCounterMode(display=False) as counter:
        bp.BLoBSVI(model, guide).step(batch)
    assert 0.999 < step_flops(Shapes.of(CONFIGS["small"]), setup) / counter.get_total_flops() < 1.05


@pytest.mark.parametrize("quantization", list(QUANTISED))
def test_a_quantised_base_has_the_bytes_of_its_matrices_and_their_scales(quantization: Any) -> None:
    model = QUANTISED[quantization]()
    network = model.network.get_base_model()
    counted = nbytes(p for p in network.parameters() if not p.requires_grad)
    for weight in network.parameters():
        if quantization == "4bit" and getattr(weight, "quant_state", None) is not None:
            counted += nbytes([weight.quant_state.absmax])
        if quantization == "8bit" and getattr(weight, "SCB", None) is not None:
            counted += nbytes([weight.SCB])
    kind = str(network.dtype).removeprefix("torch.")
    setup = Setup(quantization=quantization, dtype=kind)  # type: ignore[arg-type]
    assert memory(Shapes.of(network.config), setup).base == counted


def bytes_of_a_process() -> int:
    """Of the base's weights that this process holds."""
    model, _, _ = build(Setup(dtype="float32"))
    shard_base(model.network, Ranks.here())
    frozen = [p for p in model.network.parameters() if not p.requires_grad]
    return nbytes(p.to_local() if isinstance(p, DTensor) else p for p in frozen)


@pytest.mark.slow
def test_a_sharded_base_is_shared_out_as_predicted() -> None:
    shapes = Shapes.of(CONFIGS["small"])
    found = in_processes(2, bytes_of_a_process)
    assert found == [memory(shapes, Setup(dtype="float32", num_processes=2, shard_base=True)).base] * 2
    assert memory(shapes, Setup(dtype="float32", num_processes=2)).base == 4 * shapes.numbers


MACHINE = Machine(flops=1e12, bandwidth=1e11, link=1e10)


def test_shares_of_a_step() -> None:
    """Each process computes its share; forwards one after another take the memory of one."""
    shapes = Shapes.of(CONFIGS["small"])
    one, four = Setup(batch_size=16), Setup(batch_size=16, num_processes=4)
    assert four.rows == 4 and step_flops(shapes, one) == 4 * step_flops(shapes, four)
    pieces = Setup(batch_size=16, gradient_accumulation_steps=4)
    assert pieces.rows == 4 and step_flops(shapes, pieces) == step_flops(shapes, one)
    assert memory(shapes, pieces).activations == memory(shapes, four).activations == memory(shapes, one).activations / 4
    assert Setup(batch_size=3, gradient_accumulation_steps=8).num_forwards == 3
    assert Setup(batch_size=3, num_processes=8).rows == 1


def test_what_a_link_carries() -> None:
    shapes = Shapes.of(CONFIGS["small"])
    setup = functools.partial(Setup, batch_size=8, num_processes=4)
    whole, sharded = (step_time(shapes, setup(shard_base=share), MACHINE) for share in (False, True))
    blocks = shapes.layers * (shapes.linear_numbers + shapes.other_numbers) * 2
    assert whole.gather == 0 and sharded.gather == pytest.approx(2 * blocks * 3 / 4 / 1e10)
    pieces = step_time(shapes, setup(shard_base=True, gradient_accumulation_steps=2), MACHINE)
    assert pieces.gather == 2 * sharded.gather and pieces.gradients == sharded.gradients > 0
    for found in (whole, sharded, pieces):
        assert 0 < found.least <= found.most < math.inf
    assert step_time(shapes, Setup(), Machine(1e12, 1e11)).gradients == 0


MISTAKES: Sequence[tuple[Any, str]] = (
    (lambda: Shapes.of(tf.GPT2Config()), "expected a configuration of one of llama, mistral, qwen2, qwen3; got gpt2"),
    (lambda: Setup(batch_size=0), "batch_size: expected at least 1; got 0"),
    (
        lambda: Setup(shard_base=True),
        "shard_base: expected several processes and a base that is not quantised; got num",
    ),
    (lambda: memory(Shapes.of(CONFIGS["small"]), Setup(target_modules=("q",))), "expected some of q_proj, .* got 'q'"),
    (
        lambda: step_time(Shapes.of(CONFIGS["small"]), Setup(num_processes=2), Machine(1e12, 1e11)),
        "machine.link: expected bytes a second between the processes; got None",
    ),
)


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_one_line(mistake: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        mistake()
    assert "\n" not in str(caught.value)
