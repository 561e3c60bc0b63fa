"""`DropoutGuide`: torch's dropout on the adapters' input, one mask a draw."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import MODELS, make_batch
from guide_laws import check_fit, check_prediction, check_random_B_is_refused, check_refusals
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import blob_pyro as bp
from blob_pyro.errors import ConfigError
from blob_pyro.guides import DropoutGuide
from blob_pyro.training.elbo import negative_log_likelihood


def dropping(model: bp.BayesianLoRA, masks: dict[str, Tensor]) -> list[torch.utils.hooks.RemovableHandle]:
    """Multiply what enters each lora_A by its mask."""

    def hook(mask: Tensor) -> object:
        return lambda module, inputs: (inputs[0] * mask,)

    layers = {site: layer.lora_A[model.adapter] for site, layer in model.sites.items()}
    return [layer.register_forward_pre_hook(hook(masks[site])) for site, layer in layers.items()]


def masks_of(model: bp.BayesianLoRA, draw: dict[str, Tensor], p: float) -> dict[str, Tensor]:
    """The mask of each site, read off a draw, over 1 - p."""
    return {site: (value != 0).any(0) / (1 - p) for site, value in draw.items()}


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_draw_is_dropout_on_the_adapters_input(name: str) -> None:
    """Logits and the gradients of A and B, against the adapter's own weights behind a masked input."""
    model = MODELS[name]()
    guide, batch = DropoutGuide(model, p=0.4), make_batch()
    torch.manual_seed(1)
    draw = guide()
    masks = masks_of(model, draw, 0.4)
    assert all(0 < int((mask == 0).sum()) < mask.numel() for mask in masks.values())
    logits = model.logits(batch, draw)
    F.cross_entropy(logits, batch.labels).backward()
    ours = gradients(model)
    handles = dropping(model, masks)
    twin = model.logits(batch)
    F.cross_entropy(twin, batch.labels).backward()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits, twin, rtol=1e-4, atol=1e-5)
    assert float((logits - model.logits(batch)).detach().abs().max()) > 0.05
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-3, atol=1e-5)


def gradients(model: bp.BayesianLoRA) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.network.named_parameters() if p.grad is not None}
    model.network.zero_grad()
    assert any("lora_A" in name for name in found) and any("lora_B" in name for name in found)
    return found


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_loss_is_the_likelihood_alone(elbo: type[Trace_ELBO]) -> None:
    """Value and gradients of Pyro's ELBOs: those of num_data * NLL on the same draw."""
    model = MODELS["llama"]()
    guide, batch = DropoutGuide(model, p=0.3), make_batch()
    torch.manual_seed(1)
    loss = elbo().differentiable_loss(model, guide, batch)
    loss.backward()
    ours = gradients(model)
    torch.manual_seed(1)
    nll = 40 * negative_log_likelihood(model, guide, batch)
    nll.backward()
    assert float(loss.detach()) == pytest.approx(float(nll.detach()), rel=1e-5)
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-4, atol=1e-4)
    assert float(guide.kl()) == 0.0


def test_masks_are_the_sites_own() -> None:
    """40 draws of one mask for each layer: about p of the features dropped, no two layers alike."""
    model = MODELS["llama"]()
    guide = DropoutGuide(model, p=0.1)
    torch.manual_seed(0)
    kept = [{site: (value != 0).any(0) for site, value in guide().items()} for _ in range(40)]
    shares = torch.cat([mask for draw in kept for mask in draw.values()]).float()
    error = (0.1 * 0.9 / shares.numel()) ** 0.5
    assert abs(float(shares.mean()) - 0.9) < 5 * error
    first, second = list(kept[0].values())[:2]
    assert not torch.equal(first, second)


def test_scale() -> None:
    model = MODELS["llama"]()
    site = next(iter(model.sites))
    torch.testing.assert_close(DropoutGuide(model, p=0.2).scale(site), model.location(site).detach().abs() / 2)


def test_prediction() -> None:
    check_prediction(lambda model: DropoutGuide(model, p=0.3))


def test_fit_learns() -> None:
    check_fit(DropoutGuide)


def test_refusals() -> None:
    check_refusals(DropoutGuide, "DroppedColumns")
    check_random_B_is_refused(DropoutGuide)
    assert not list(nn.Module.parameters(DropoutGuide(MODELS["llama"]())))


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, float("nan")])
def test_p_is_a_probability(p: float) -> None:
    with pytest.raises(ConfigError, match=f"p: expected a probability between 0 and 1; got {p}"):
        DropoutGuide(MODELS["llama"](), p=p)
