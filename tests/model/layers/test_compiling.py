"""Compiled blocks compute what they compute uncompiled, bit for bit, and draws are no reason to compile again."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from cases import GUIDES, MODELS, QUANTISED, draw_all, held_draws, make_batch, trainable
from peft import PeftModel
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import blob_pyro as bp
from blob_pyro.errors import ConfigError, UnsupportedCheckpointingError
from blob_pyro.model.layers.checkpointing import enable_checkpointing
from blob_pyro.model.layers.compiling import compile_blocks
from blob_pyro.training.elbo import negative_log_likelihood

# torch reads .grad of tensors that are no leaves and hides the warning itself; where warnings are errors it cannot
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

NAMES = ("llama", "llama_bfloat16", "llama_both", "gpt2", "bert")
LONGER = (11, 3, 9, 10, 2)  # sizes unlike each other's and the model's: torch takes two equal ones for the same


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Compiled code is kept for the process: forget it before and after."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def setup(
    build: Callable[..., bp.BayesianLoRA], backend: str | None = None, **changes: Any
) -> tuple[bp.BayesianLoRA, Any, CompileCounterWithBackend]:
    """A model in training mode, compiled if there is a backend, and a guide whose noise matters."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    model = build(**changes)
    guide = GUIDES["blob"](model, eps=0.6)
    counter = CompileCounterWithBackend(backend or "eager")
    if backend is not None:
        model.compile_blocks(backend=counter)
    model.network.train()
    torch.manual_seed(1)
    return model, guide, counter


def gradients(model: bp.BayesianLoRA, guide: Any) -> dict[str, Tensor]:
    """Copies of every gradient, by name; none may be missing or zero."""
    found = {name: p.grad.clone() for name, p in trainable(model.network, guide).items()}
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    return found


def assert_bit_equal(ours: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert ours.keys() == other.keys()
    assert not [name for name in ours if not torch.equal(ours[name], other[name])]


def train(model: bp.BayesianLoRA, guide: Any, counter: CompileCounterWithBackend, flipped: bool) -> tuple[Any, Any]:
    """Gradients after each of four steps with draws of their own, and the graphs compiled until then."""
    found, graphs = [], []
    for seed in range(4):
        with bp.flipout() if flipped else nullcontext():
            negative_log_likelihood(model, guide, make_batch(LONGER, seed=seed)).backward()
        found.append(gradients(model, guide))
        graphs.append(counter.frame_count)
    return found, graphs


@pytest.mark.parametrize("flipped", [False, True], ids=["shared", "flipout"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_bit_equal_and_no_step_compiles_again(name: str, flipped: bool) -> None:
    eager, none = train(*setup(MODELS[name]), flipped)
    compiled, graphs = train(*setup(MODELS[name], "eager"), flipped)
    for ours, other in zip(compiled, eager, strict=True):
        assert_bit_equal(ours, other)
    assert none == [0, 0, 0, 0]
    assert graphs == [2, 2, 2, 2]  # only the input of the first block needs no gradient


def test_gradients_of_a_compiled_backward_are_bit_equal() -> None:
    """The default backend's front end, which makes the backward as well, without its code generation."""
    eager, _ = train(*setup(MODELS["llama"]), True)
    compiled, graphs = train(*setup(MODELS["llama"], "aot_eager"), True)
    for ours, other in zip(compiled, eager, strict=True):
        assert_bit_equal(ours, other)
    assert graphs[0] > 0 and len(set(graphs)) == 1


@pytest.mark.parametrize("kind", list(QUANTISED))
def test_gradients_of_quantised_bases_are_bit_equal(kind: str) -> None:
    eager, _ = train(*setup(QUANTISED[kind]), True)
    compiled, graphs = train(*setup(QUANTISED[kind], "eager"), True)
    for ours, other in zip(compiled, eager, strict=True):
        assert_bit_equal(ours, other)
    assert graphs[0] > 0 and len(set(graphs[1:])) == 1  # 8-bit layers set themselves up in their first forward


def test_gradients_of_several_draws_in_one_forward_are_bit_equal() -> None:
    found = []
    for backend in (None, "eager"):
        model, guide, _ = setup(MODELS["llama"], backend)
        elbo = TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
        elbo.differentiable_loss(model, guide, make_batch()).backward()
        found.append(gradients(model, guide))
    assert_bit_equal(*found)


def test_blocks_share_their_code() -> None:
    graphs = []
    for layers in (2, 5):
        model, guide, counter = setup(MODELS["llama"], "eager", num_hidden_layers=layers)
        negative_log_likelihood(model, guide, make_batch()).backward()
        graphs.append(counter.frame_count)
    assert graphs == [2, 2]


def test_other_lengths_and_batch_sizes_do_not_compile_again() -> None:
    model, guide, counter = setup(MODELS["llama"], "eager")
    graphs = []
    for lengths in (LONGER, (9, 5, 3), (7, 6, 7, 2, 3, 7), (13, 2)):
        with bp.flipout():
            negative_log_likelihood(model, guide, make_batch(lengths)).backward()
        graphs.append(counter.frame_count)
    assert graphs == [2, 2, 2, 2]


@pytest.mark.parametrize("name", ["llama", "llama_last", "bert"])
def test_training_and_prediction_agree(name: str) -> None:
    """BLoBSVI's steps, the posterior mean and averages over draws; new draws then compile nothing."""
    found = []
    for backend in (None, "eager"):
        model, guide, counter = setup(MODELS[name], backend)
        svi = bp.BLoBSVI(model, guide)
        losses = []
        for seed in range(3):
            with bp.flipout():
                losses.append(svi.step(make_batch(seed=seed)).loss)
        results = {"losses": torch.tensor(losses)}
        for num_samples in (0, 3):
            predict = bp.PosteriorPredictive(model, guide, num_samples)
            results[f"N = {num_samples}"] = predict(make_batch(LONGER)).draws
            graphs = counter.frame_count
            results[f"again, N = {num_samples}"] = predict(make_batch(LONGER, seed=8)).draws
            assert counter.frame_count == graphs
        assert not held_draws(model)
        found.append(results)
    assert_bit_equal(*found)


@pytest.mark.skipif("isolate_recompiles" not in inspect.signature(torch.compile).parameters, reason="newer than 2.6")
def test_other_networks_in_the_process_do_not_use_up_the_variants() -> None:
    """torch keeps 8 variants of one function, whosoever they are."""
    for _ in range(10):
        model, _, counter = setup(MODELS["llama"], "eager", num_hidden_layers=1)
        model.logits(make_batch(), draw_all(model))
        assert counter.frame_count == 1


def test_names_files_and_copies_are_those_of_the_uncompiled_network(tmp_path: Path) -> None:
    model, guide, counter = setup(MODELS["llama"], "eager")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    modules = [name for name, _ in model.network.named_modules()]
    negative_log_likelihood(model, guide, make_batch()).backward()
    assert counter.frame_count > 0
    assert_bit_equal(dict(model.network.state_dict()), before)
    assert [name for name, _ in model.network.named_modules()] == modules

    model.network.eval()
    batch = make_batch()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    model.network.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(MODELS["llama"]().network.unload(), tmp_path).eval()
    copied = copy.deepcopy(model.network)
    expected = model.network(**inputs).logits
    graphs = counter.frame_count
    assert torch.equal(loaded(**inputs).logits, expected)
    assert torch.equal(copied(**inputs).logits, expected)
    assert counter.frame_count == graphs


def test_forwards_that_fill_a_cache_run_uncompiled() -> None:
    model, _, counter = setup(MODELS["llama"])
    model.network.eval()
    settings = {"input_ids": make_batch((5, 5)).input_ids, "max_new_tokens": 4, "do_sample": False}
    expected = model.network.generate(**settings)
    model.compile_blocks(backend=counter)
    assert torch.equal(model.network.generate(**settings), expected)
    assert counter.frame_count == 0


CHECKPOINTED = "expected compiled blocks or gradient checkpointing; got both; call network"


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_checkpointing_is_refused(name: str) -> None:
    model, _, counter = setup(MODELS[name])
    enable_checkpointing(model.network)
    with pytest.raises(UnsupportedCheckpointingError, match=CHECKPOINTED):
        model.compile_blocks(backend=counter)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_checkpointing_turned_on_later_is_refused(name: str) -> None:
    model, guide, counter = setup(MODELS[name], "eager")
    enable_checkpointing(model.network)
    with pytest.raises(UnsupportedCheckpointingError, match=CHECKPOINTED) as caught:
        bp.BLoBSVI(model, guide).step(make_batch())
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedCheckpointingError, match=CHECKPOINTED) as caught:
        SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), TraceMeanField_ELBO()).step(make_batch())
    assert "\n" not in str(caught.value)
    assert counter.frame_count == 0
    assert not held_draws(model)


def test_a_network_without_one_list_of_blocks_is_refused() -> None:
    message = "compile_blocks: expected a network whose blocks stand in one list; found none, or several"
    with pytest.raises(ConfigError, match=message):
        compile_blocks(nn.Linear(2, 2))
