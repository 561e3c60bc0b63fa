"""Gradients with non-reentrant checkpointing on and off are bit-equal; reentrant checkpointing is refused."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pyro
import pytest
import torch
import torch.nn.functional as F
from cases import ANSWERS, GUIDES, MODELS, held_draws, make_batch, trainable
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor

import blob_pyro as bp
from blob_pyro.errors import UnsupportedCheckpointingError
from blob_pyro.model.layers.checkpointing import enable_checkpointing
from blob_pyro.training.elbo import negative_log_likelihood

CHECKPOINTED = {
    "llama": MODELS["llama"],
    "llama_head": MODELS["llama_head"],
    "llama_bfloat16": MODELS["llama_bfloat16"],
    "gpt2": MODELS["gpt2"],
    "gpt2_dropout": lambda: MODELS["gpt2"](resid_pdrop=0.2, embd_pdrop=0.2),
    "bert": MODELS["bert"],
    "llama_head_both": MODELS["llama_head_both"],
    "llama_last_both": MODELS["llama_last_both"],
}


def setup(name: str, guide: str, *, checkpointed: bool) -> tuple[bp.BayesianLoRA, Any]:
    """A model in training mode and a guide whose noise matters."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    model = CHECKPOINTED[name]()
    posterior = GUIDES[guide](model, eps=0.6) if guide == "blob" else GUIDES[guide](model)
    if checkpointed:
        enable_checkpointing(model.network, use_reentrant=False)
    model.network.train()
    return model, posterior


def gradients(model: bp.BayesianLoRA, guide: Any) -> dict[str, Tensor]:
    """Every gradient, by name; none may be missing."""
    found = {name: p.grad for name, p in trainable(model.network, guide).items()}
    assert found and all(gradient is not None for gradient in found.values())
    return found


def assert_bit_equal(ours: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert ours.keys() == other.keys()
    different = [name for name in ours if not torch.equal(ours[name], other[name])]
    assert not different
    assert all(gradient.abs().max() > 0 for gradient in ours.values())


class Recomputed:
    """Counts the forwards of the first adapted layer's base: checkpointing has to double them."""

    def __init__(self, model: bp.BayesianLoRA) -> None:
        self.count = 0
        next(iter(model.sites.values())).get_base_layer().register_forward_hook(self._seen)

    def _seen(self, *_: Any) -> None:
        self.count += 1


@pytest.mark.parametrize("flipped", [False, True], ids=["shared", "flipout"])
@pytest.mark.parametrize("name", list(CHECKPOINTED))
def test_gradients_are_bit_equal(name: str, flipped: bool) -> None:
    """Two graphs are alive, each with draws of its own, when one backward goes through both."""
    found, forwards = [], []
    for checkpointed in (False, True):
        model, guide = setup(name, "blob", checkpointed=checkpointed)
        counter = Recomputed(model)
        torch.manual_seed(1)
        with bp.flipout() if flipped else nullcontext():
            first = negative_log_likelihood(model, guide, make_batch(seed=4))
            second = negative_log_likelihood(model, guide, make_batch((5, 3), seed=5))
        assert not held_draws(model)
        (first + 2 * second).backward()
        assert not held_draws(model)
        found.append(gradients(model, guide))
        forwards.append(counter.count)
    assert_bit_equal(*found)
    assert forwards == [2, 4]


@pytest.mark.parametrize("guide_name", list(GUIDES))
def test_gradients_through_plain_pyro_are_bit_equal(guide_name: str) -> None:
    found = []
    for checkpointed in (False, True):
        model, guide = setup("llama", guide_name, checkpointed=checkpointed)
        elbo = TraceMeanField_ELBO(num_particles=2)
        svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), elbo)
        torch.manual_seed(1)
        svi.loss_and_grads(model, guide, make_batch())
        found.append(gradients(model, guide))
    assert_bit_equal(*found)


def test_gradients_of_several_draws_in_one_forward_are_bit_equal() -> None:
    found = []
    for checkpointed in (False, True):
        model, guide = setup("llama", "blob", checkpointed=checkpointed)
        elbo = TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
        torch.manual_seed(1)
        elbo.differentiable_loss(model, guide, make_batch()).backward()
        found.append(gradients(model, guide))
    assert_bit_equal(*found)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_reentrant_is_refused(name: str) -> None:
    model, guide = setup(name, "blob", checkpointed=False)
    enable_checkpointing(model.network, use_reentrant=True)
    message = "expected non-reentrant gradient checkpointing; got use_reentrant=True; call network"
    with pytest.raises(UnsupportedCheckpointingError, match=message) as caught:
        bp.BLoBSVI(model, guide).step(make_batch())
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedCheckpointingError, match=message) as caught:
        SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), TraceMeanField_ELBO()).step(make_batch())
    assert "\n" not in str(caught.value)
    assert not held_draws(model)


def test_reentrant_does_not_matter_without_a_backward() -> None:
    model, guide = setup("llama", "blob", checkpointed=False)
    enable_checkpointing(model.network, use_reentrant=True)
    probs = bp.PosteriorPredictive(model, guide, num_samples=2)(make_batch()).probs
    assert torch.isfinite(probs).all()


def test_network_used_directly_after_a_step_is_the_mean() -> None:
    """No draw is left in any layer or checkpoint function: forward and backward are those of plain PEFT."""
    found = []
    for stepped in (False, True):
        model, guide = setup("llama", "blob", checkpointed=True)
        if stepped:
            negative_log_likelihood(model, guide, make_batch(seed=9)).backward()
            model.network.zero_grad()
        assert not held_draws(model)
        batch = make_batch()
        logits = model.network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        F.cross_entropy(logits[:, 0, list(ANSWERS)], batch.labels).backward()
        grads = {name: p.grad for name, p in trainable(model.network).items() if p.grad is not None}
        found.append(grads | {"logits": logits.detach()})
    assert_bit_equal(*found)


def test_an_error_in_the_forward_leaves_no_draw() -> None:
    model, guide = setup("llama", "blob", checkpointed=True)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.network.get_output_embeddings().register_forward_pre_hook(stop)
    layer = list(model.sites.values())[-1].get_base_layer()
    layer_handle = layer.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        bp.BLoBSVI(model, guide).step(make_batch())
    handle.remove()
    layer_handle.remove()
    assert not held_draws(model)
    assert model._held is None
