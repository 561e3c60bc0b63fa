"""What PEFT can do to an adapter behind the model's back: every entry says so, and goes on once it is undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from cases import EVERY_GUIDE, MODELS, make_batch, model_for, snapshot
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

import blob_pyro as bp
from blob_pyro.errors import UnsupportedLayerError


def add_second(network: Any) -> None:
    network.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))


def another(network: Any) -> None:
    add_second(network)
    network.set_adapter("second")


def both(network: Any) -> None:
    add_second(network)
    network.base_model.set_adapter(["default", "second"])


def another_merged(network: Any) -> None:
    add_second(network)
    network.merge_adapter(["second"])


def added_again(network: Any) -> None:
    """New matrices under the old name."""
    network.delete_adapter("default")
    network.add_adapter("default", LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    network.set_adapter("default")


def scaled(network: Any, scale: float | None) -> None:
    for layer in network.modules():
        if isinstance(layer, LoraLayer):
            layer.unscale_layer() if scale is None else layer.scale_layer(scale)


# what is done -> (how, what the message names, how it is undone)
DONE: dict[str, tuple[Callable[[Any], Any], str, Callable[[Any], Any] | None]] = {
    "merged": (lambda net: net.merge_adapter(), "unmerge_adapter", lambda net: net.unmerge_adapter()),
    "disabled": (
        lambda net: net.base_model.disable_adapter_layers(),
        "enable_adapter_layers",
        lambda net: net.base_model.enable_adapter_layers(),
    ),
    "another active": (
        another,
        r"active is \['second'\].*set_adapter\('default'\)",
        lambda net: net.set_adapter("default"),
    ),
    "two active": (both, r"set_adapter\('default'\)", lambda net: net.set_adapter("default")),
    "another merged": (another_merged, r"\['second'\] is merged", lambda net: net.unmerge_adapter()),
    "unloaded": (lambda net: net.unload(), "taken out", None),
    "merged and unloaded": (lambda net: net.merge_and_unload(), "taken out", None),
    "deleted": (lambda net: net.delete_adapter("default"), "deleted", None),
    "added again": (added_again, "added again", None),
    "scaled to 0": (lambda net: scaled(net, 0.0), "scaled to 0.*unscale_layer", lambda net: scaled(net, None)),
}  # fmt: skip


def predicts(model: bp.BayesianLoRA, guide: Any, folder: Path) -> torch.Tensor:
    pyro.set_rng_seed(0)
    return bp.PosteriorPredictive(model, guide, num_samples=3)([make_batch()]).draws


def steps(model: bp.BayesianLoRA, guide: Any, folder: Path) -> None:
    bp.BLoBSVI(model, guide, num_steps=2, lr=1e-2).step(make_batch(labels=True))


def fits(model: bp.BayesianLoRA, guide: Any, folder: Path) -> None:
    bp.fit(model, guide, [make_batch(labels=True)], bp.TrainConfig(num_steps=2, lr=1e-2), progress=False)


def plain_svi(model: bp.BayesianLoRA, guide: Any, folder: Path) -> None:
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.TraceMeanField_ELBO())
    svi.step(make_batch(labels=True))


def plain_predictive(model: bp.BayesianLoRA, guide: Any, folder: Path) -> None:
    pyro.infer.Predictive(model, guide=guide, num_samples=2)(make_batch())


def saves(model: bp.BayesianLoRA, guide: Any, folder: Path) -> None:
    bp.save(folder / "run", model, guide)


def generates(model: bp.BayesianLoRA, guide: Any, folder: Path) -> None:
    bp.generate(model, guide, make_batch(), num_draws=2, max_new_tokens=2)


ENTRIES = [predicts, steps, fits, plain_svi, plain_predictive, saves, generates]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("done", DONE)
def test_every_entry_says_what_was_done_and_changes_nothing(
    done: str, entry: Callable[..., Any], tmp_path: Path
) -> None:
    model = model_for("blob")
    guide = bp.BLoBGuide(model, eps=0.2)
    before = predicts(model, guide, tmp_path)
    assert float(before.std(0).mean()) > 0
    weights = snapshot(guide)
    do, message, undo = DONE[done]
    do(model.network)
    with pytest.raises(UnsupportedLayerError, match=message) as told:
        entry(model, guide, tmp_path)
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(weights[name], value) for name, value in snapshot(guide).items())
    if undo is not None:
        undo(model.network)
        torch.testing.assert_close(predicts(model, guide, tmp_path), before)
        entry(model, guide, tmp_path)


FROZEN: dict[str, Callable[[Any], Any]] = {
    "set_adapter": lambda net: net.set_adapter("default", inference_mode=True),
    "set_requires_grad": lambda net: net.set_requires_grad("default", False),
    "requires_grad_": lambda net: net.requires_grad_(False),
}


@pytest.mark.parametrize("kind", ["blob", "mle", "scalabl"])
@pytest.mark.parametrize("entry", [steps, fits, plain_svi], ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("how", FROZEN)
def test_a_frozen_adapter_is_not_trained_in_silence(
    how: str, entry: Callable[..., Any], kind: str, tmp_path: Path
) -> None:
    model = model_for(kind)
    guide = EVERY_GUIDE[kind](model)
    FROZEN[how](model.network)
    before = snapshot(guide)
    predicts(model, guide, tmp_path)  # answers need no gradients
    with pytest.raises(UnsupportedLayerError, match="got one that is frozen.*set requires_grad"):
        entry(model, guide, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in snapshot(guide).items())


def test_an_adapter_that_was_loaded_for_inference_is_trained_with_its_head() -> None:
    base = MODELS["bert"]().network
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    model = bp.BayesianLoRA(base, bp.SequenceClassification(3), num_data=40)
    assert any("classifier" in name for name in model.point_parameters())
    before = snapshot(model)
    fits(model, bp.BLoBGuide(model), Path())
    moved = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    assert moved == set(before)


def test_a_model_made_in_inference_mode_is_not_trained(tmp_path: Path) -> None:
    with torch.inference_mode():
        model = model_for("blob")
        guide = bp.BLoBGuide(model)
    for entry in (steps, fits):
        with pytest.raises(UnsupportedLayerError, match="made inside torch.inference_mode"):
            entry(model, guide, tmp_path)
