"""On devices with generators of their own a training goes on bit by bit, whatever is drawn in between."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cases
import pytest
import torch

import blob_pyro as bp
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.random_state import RandomState

CONFIG = bp.TrainConfig(num_steps=4, batch_size=4, lr=1e-2, save_steps=2)
FIRST, OTHER = (
    ("model.embed_tokens", "model.rotary_emb", "model.layers.0"),
    ("model.layers.1", "model.norm", "lm_head"),
)
PLACES: dict[str, Any] = {
    "one": "second:1",  # not the current one
    "two": dict.fromkeys(FIRST, "second:0") | dict.fromkeys(OTHER, "second:1"),
}


def start(place: str, guide: str, seed: int) -> tuple[bp.BayesianLoRA, Any]:
    torch.manual_seed(1)
    model = cases.pretrained(device_map=PLACES[place], lora_dropout=0.2)
    made = bp.guides.GUIDES[guide](model)
    torch.manual_seed(seed)
    return model, made


def trained(model: bp.BayesianLoRA, guide: Any, **settings: Any) -> list[torch.Tensor]:
    """The parameters behind the training, and where the generators of the network's devices stand."""
    bp.fit(model, guide, [cases.make_batch()], settings.pop("config", CONFIG), progress=False, **settings)
    states = RandomState.here(model.network).devices.values()
    return [*(p.detach().cpu() for p in cases.trainable(model, guide).values()), *states]


def stop(result: bp.StepResult) -> None:
    if result.step == 3:
        raise KeyboardInterrupt


@pytest.mark.parametrize("guide", ["blob", "dropout"])
@pytest.mark.parametrize("place", PLACES)
def test_a_training_goes_on_bit_by_bit(device: Any, place: str, guide: str, tmp_path: Path) -> None:
    device.own_generators(True)
    expected = trained(*start(place, guide, 5))
    with pytest.raises(KeyboardInterrupt):
        trained(*start(place, guide, 5), checkpoints=Checkpoints(tmp_path), callbacks=[stop])
    found = trained(*start(place, guide, 99), checkpoints=Checkpoints(tmp_path), resume=True)
    assert len(found) == len(expected) > 2
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("place", PLACES)
def test_held_out_items_leave_the_generators_where_they_are(device: Any, place: str) -> None:
    device.own_generators(True)
    expected = trained(*start(place, "blob", 5), config=dataclasses.replace(CONFIG, save_steps=None))
    model, guide = start(place, "blob", 5)
    predictive = bp.PosteriorPredictive(model, guide, num_samples=2)
    nlls = iter(range(4, 0, -1))  # the last parameters are the best

    def validate() -> float:
        predictive(cases.make_batch())
        return float(next(nlls))

    found = trained(model, guide, config=dataclasses.replace(CONFIG, save_steps=None, eval_steps=1), validate=validate)
    assert all(map(torch.equal, found, expected))


def test_the_state_has_one_for_each_device_of_the_network() -> None:
    """A network on the CPU has none; the first of a type has the type's name, as in checkpoints of former versions."""
    names = {"one": ["second"], "two": ["second", "second.1"]}
    for place, expected in names.items():
        assert list(RandomState.here(cases.pretrained(device_map=PLACES[place]).network).devices) == expected
    assert not RandomState.here(cases.pretrained().network).devices
