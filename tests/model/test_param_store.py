"""Pyro's own persistence: a store saved to a file, read in another process, and gone on with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch
from cases import make_batch, model_for, pretrained, snapshot
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal

import blob_pyro as bp
from blob_pyro.errors import ParamStoreError
from blob_pyro.guides import init_to_adapter

KINDS = ["blob", "low_rank", "mean_field", "auto"]
RESTORE = """
import sys, torch, pyro
sys.path[:0] = {path!r}
from test_param_store import made, draws
model, guide = made({kind!r})
pyro.get_param_store().load({file!r})
torch.save(draws(model, guide), {out!r})
"""


def made(kind: str) -> tuple[bp.BayesianLoRA, object]:
    torch.manual_seed(0)
    model = model_for("blob" if kind == "auto" else kind)
    if kind == "auto":
        return model, AutoNormal(model, init_loc_fn=init_to_adapter(model), init_scale=0.002)
    return model, bp.guides.GUIDES[kind](model)


def draws(model: bp.BayesianLoRA, guide: object) -> torch.Tensor:
    pyro.set_rng_seed(3)
    predictive = Predictive(model, guide=guide, num_samples=2, return_sites=("_RETURN",))
    return predictive(make_batch(labels=False))["_RETURN"].detach()


def trained(kind: str, steps: int = 2) -> tuple[bp.BayesianLoRA, object, SVI]:
    model, guide = made(kind)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    for _ in range(steps):
        svi.step(make_batch())
    return model, guide, svi


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_process_predicts_as_the_one_that_trained(kind: str, tmp_path: Path) -> None:
    model, guide, _ = trained(kind)
    file, out = str(tmp_path / "store"), str(tmp_path / "draws")
    pyro.get_param_store().save(file)
    before = made(kind)
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    code = RESTORE.format(path=path, kind=kind, file=file, out=out)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = draws(model, guide)
    assert torch.equal(torch.load(out), expected)
    pyro.clear_param_store()
    assert not torch.equal(draws(*before), expected)


def predicted(model: bp.BayesianLoRA, guide: object) -> torch.Tensor:
    pyro.set_rng_seed(3)
    return bp.PosteriorPredictive(model, guide, num_samples=2)(make_batch()).draws


@pytest.mark.parametrize("kind", KINDS)
def test_the_librarys_predictives_take_a_loaded_store_up(kind: str, tmp_path: Path) -> None:
    model, guide, _ = trained(kind)
    expected = predicted(model, guide)
    pyro.get_param_store().save(tmp_path / "store")
    pyro.clear_param_store()
    again, its_guide = made(kind)
    assert not torch.equal(predicted(again, its_guide), expected)
    pyro.get_param_store().load(tmp_path / "store")
    assert torch.equal(predicted(again, its_guide), expected)


def test_blob_svi_goes_on_from_a_loaded_store(tmp_path: Path) -> None:
    model, guide, _ = trained("blob")
    expected = snapshot(model.network, guide)
    pyro.get_param_store().save(tmp_path / "store")
    pyro.clear_param_store()
    again, its_guide = made("blob")
    pyro.get_param_store().load(tmp_path / "store")
    bp.BLoBSVI(again, its_guide, num_steps=2)
    assert all(torch.equal(value, expected[name]) for name, value in snapshot(again.network, its_guide).items())


def test_a_loaded_store_is_what_is_saved(tmp_path: Path) -> None:
    model = pretrained()
    guide = bp.BLoBGuide(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    svi.step(make_batch())
    expected = predicted(model, guide)
    pyro.get_param_store().save(tmp_path / "store")
    pyro.clear_param_store()
    again = pretrained()
    its_guide = bp.BLoBGuide(again)
    pyro.get_param_store().load(tmp_path / "store")
    bp.save(tmp_path / "run", again, its_guide)
    loaded = bp.load(tmp_path / "run")
    assert torch.equal(predicted(loaded.model, loaded.guide), expected)


def test_a_store_of_this_process_is_left_alone() -> None:
    """Another model's, which lives: a new one is not to become it."""
    trained("blob")
    again, guide = made("blob")
    before = snapshot(again.network, guide)
    predicted(again, guide)
    assert all(torch.equal(value, before[name]) for name, value in snapshot(again.network, guide).items())


@pytest.mark.parametrize("kind", ["blob", "auto"])
def test_training_goes_on_from_a_file_in_the_very_parameters(kind: str, tmp_path: Path) -> None:
    """A file that is read behind some steps counts, and what is trained from then on are the module's parameters."""
    model, guide, svi = trained(kind)
    pyro.get_param_store().save(tmp_path / "store")
    expected = draws(model, guide)
    for _ in range(3):
        svi.step(make_batch())
    assert not torch.equal(draws(model, guide), expected)
    pyro.get_param_store().load(tmp_path / "store")
    assert torch.equal(draws(model, guide), expected)
    before = snapshot(model.network)
    svi.step(make_batch())
    moved = [name for name, value in snapshot(model.network).items() if not torch.equal(value, before[name])]
    assert any("lora_B" in name for name in moved)


def test_a_state_of_another_model_that_lives_is_refused_and_so_is_another_shape(tmp_path: Path) -> None:
    trained("blob")
    _, guide = made("blob")
    with pytest.raises(ParamStoreError, match=r"another model's tensor \(or that of a guide made before\)"):
        guide(make_batch())
    store = pyro.get_param_store()
    store.save(tmp_path / "store")
    pyro.clear_param_store()
    store.load(tmp_path / "store")
    name = next(iter(store.keys()))
    value = store[name].detach()
    del store[name]
    pyro.param(name, torch.zeros(3, *value.shape))
    with pytest.raises(ParamStoreError, match=r"expected shape \(.*\) in Pyro's param store; got \(3, "):
        guide(make_batch())
