"""`bp.save` of guides that are none of `bp.guides`, and `bp.load(..., guide=)`, which is told how they are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import LLAMA, causal_base, make_batch, model_for
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.nn import PyroModule, PyroParam
from safetensors.torch import load_file
from torch import nn
from torch.distributions import constraints
from torch.nn.attention import SDPBackend, sdpa_kernel

import blob_pyro as bp
from blob_pyro.errors import ConfigError, RunDirectoryError
from blob_pyro.guides import AdapterGuide, init_to_adapter
from blob_pyro.storage.reading import read_scales


class Scales(AdapterGuide):
    """A guide of one's own as docs/contributing.md shows it: one scale a site."""

    title = "Scales"
    is_random = True

    def __init__(self, model: bp.BayesianLoRA, start: float = 0.05) -> None:
        super().__init__(model)
        self.logs = nn.ParameterList(nn.Parameter(torch.tensor(start).log()) for _ in model.sites)
        self.start = start

    def scale(self, site: str) -> torch.Tensor:
        return self.logs[list(self.model.sites).index(site)].exp().expand_as(self.loc(site))

    def posterior(self, site: str) -> Any:
        return dist.Normal(self.loc(site), self.scale(site)).to_event(2)

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        return {f"{site}.log": log for site, log in zip(self.model.sites, self.logs, strict=True)}

    def settings(self) -> dict[str, Any]:
        return {"start": self.start}


class Plain(PyroModule):
    """A guide that Pyro knows nothing of beyond its parameters, and that holds the model as a submodule."""

    def __init__(self, model: bp.BayesianLoRA) -> None:
        super().__init__("plain")
        self.model = model
        for k, site in enumerate(model.sites):
            setattr(self, f"loc_{k}", nn.Parameter(model.location(site).detach().clone()))
            setattr(self, f"scale_{k}", PyroParam(torch.tensor(0.05), constraints.positive))

    def forward(self, batch: bp.Batch | None = None) -> dict[str, torch.Tensor]:
        return {
            site: pyro.sample(site, dist.Normal(getattr(self, f"loc_{k}"), getattr(self, f"scale_{k}")).to_event(2))
            for k, site in enumerate(self.model.sites)
        }


def auto(name: str, **settings: Any) -> Callable[[bp.BayesianLoRA], Any]:
    kind = getattr(autoguide, name)
    return lambda model: kind(model, init_loc_fn=init_to_adapter(model), **settings)


MAKERS: dict[str, Callable[[bp.BayesianLoRA], Any]] = {
    "AutoNormal": auto("AutoNormal"),
    "AutoLowRankMultivariateNormal": auto("AutoLowRankMultivariateNormal", rank=3),
    "AutoStructured": auto("AutoStructured", conditionals="normal", dependencies="linear"),
    "AutoDelta": auto("AutoDelta"),
    "Scales": Scales,
    "Plain": Plain,
}


@pytest.fixture(autouse=True)
def empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def base() -> Any:
    return causal_base("LlamaForCausalLM", LLAMA)


def trained(name: str, steps: int = 2) -> tuple[bp.BayesianLoRA, Any]:
    torch.manual_seed(0)
    model = model_for("blob")
    guide = MAKERS[name](model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(steps):
        svi.step(make_batch())
    return model, guide


def draws(model: bp.BayesianLoRA, guide: Any) -> torch.Tensor:
    pyro.set_rng_seed(3)
    return bp.PosteriorPredictive(model, guide, num_samples=3)(make_batch(labels=False)).draws


@pytest.mark.parametrize("name", list(MAKERS))
def test_it_predicts_as_before(name: str, tmp_path: Path) -> None:
    model, guide = trained(name)
    expected = draws(model, guide)
    bp.save(tmp_path / "run", model, guide)
    files = sorted(str(file.relative_to(tmp_path / "run")) for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert files == [
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "posterior.json", "posterior.safetensors",
    ]  # fmt: skip
    pyro.clear_param_store()
    again = bp.load(tmp_path / "run", guide=MAKERS[name], base=base())
    assert not list(pyro.get_param_store().keys())
    assert type(again.guide) is type(guide)
    assert torch.equal(draws(again.model, again.guide), expected)
    pyro.clear_param_store()
    untrained = MAKERS[name](again.model)
    untrained(make_batch())
    assert not torch.equal(draws(again.model, untrained), expected)
    scales = read_scales(tmp_path / "run")
    assert (scales.keys() == model.sites.keys()) == (name == "Scales")


def test_training_goes_on_from_it(tmp_path: Path) -> None:
    """The loaded guide's very parameters are trained, from where they were."""
    model, guide = trained("AutoNormal")
    bp.save(tmp_path / "run", model, guide)
    pyro.clear_param_store()
    again = bp.load(tmp_path / "run", guide=MAKERS["AutoNormal"], base=base())
    before = {name: value.clone() for name, value in again.guide.state_dict().items()}
    SVI(again.model, again.guide, pyro.optim.Adam({"lr": 1e-5}), Trace_ELBO()).step(make_batch())
    after = again.guide.state_dict()
    assert all(0 < (after[name] - value).abs().max() < 2e-5 for name, value in before.items())


def test_what_belongs_to_the_network_is_not_in_the_file(tmp_path: Path) -> None:
    model, guide = trained("Plain")
    bp.save(tmp_path / "run", model, guide)
    names = load_file(tmp_path / "run" / "posterior.safetensors").keys()
    assert names == {f"loc_{k}" for k in range(4)} | {f"scale_{k}_unconstrained" for k in range(4)}


def test_the_same_values_in_the_param_store_are_no_hindrance_and_others_are(tmp_path: Path) -> None:
    """Pyro gives a guide what its store holds under the names, whatever the guide has."""
    model, guide = trained("AutoNormal")
    expected = draws(model, guide)
    bp.save(tmp_path / "run", model, guide)
    again = bp.load(tmp_path / "run", guide=MAKERS["AutoNormal"], base=base())
    assert torch.equal(draws(again.model, again.guide), expected)
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(make_batch())
    with pytest.raises(ConfigError, match=r"other values as AutoNormal.locs.\S+, which .*: pyro.clear_param_store\(\)"):
        bp.load(tmp_path / "run", guide=MAKERS["AutoNormal"], base=base())


def test_a_run_of_ones_own_guide_wants_to_be_told(tmp_path: Path) -> None:
    bp.save(tmp_path / "auto", *trained("AutoLowRankMultivariateNormal"))
    pyro.clear_param_store()
    path = tmp_path / "auto"
    wanted = "guide=lambda model: AutoLowRankMultivariateNormal\\(model\\)\\)"
    with pytest.raises(ConfigError, match=f"{path}: expected to be told how its guide is made, .*{wanted}$"):
        bp.load(path, base=base())
    with pytest.raises(RunDirectoryError, match="expected one that makes AutoLowRank.*; got AutoNormal$"):
        bp.load(path, guide=MAKERS["AutoNormal"], base=base())
    with pytest.raises(RunDirectoryError, match=r"made with the same arguments; cov_factor differs"):
        bp.load(path, guide=auto("AutoLowRankMultivariateNormal", rank=2), base=base())
    model = model_for("blob")
    bp.save(tmp_path / "blob", model, bp.guides.BLoBGuide(model))
    with pytest.raises(ConfigError, match=r"guide: expected none beside a run that .* made \(blob\); got one"):
        bp.load(tmp_path / "blob", guide=MAKERS["AutoNormal"], base=base())


def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = model_for("blob")
    with pytest.raises(ConfigError, match=r"got AutoNormal that has not seen a batch yet"):
        bp.save(tmp_path / "run", model, MAKERS["AutoNormal"](model))
    with pytest.raises(ConfigError, match=r"another nn.Module, .*; got make_batch: write it as a pyro.nn.PyroModule"):
        bp.save(tmp_path / "run", model, make_batch)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_an_altered_description_is_one_line(tmp_path: Path) -> None:
    bp.save(tmp_path / "run", *trained("AutoNormal"))
    file = tmp_path / "run" / "posterior.json"
    described = json.loads(file.read_text())
    for guide in ({"own": True}, {"name": 3, "own": True}, [], "AutoNormal"):
        file.write_text(json.dumps(described | {"guide": guide}))
        with pytest.raises((RunDirectoryError, ConfigError), match=r"^[^\n]+$"):
            bp.load(tmp_path / "run", guide=MAKERS["AutoNormal"], base=base())


@pytest.mark.slow
def test_pyros_laplace_says_which_attention_has_a_hessian_and_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = model_for("blob")
    assert model.network.config._attn_implementation == "sdpa"
    guide = auto("AutoLaplaceApproximation")(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(150):  # at a point without curvature there is no such posterior
        svi.step(make_batch())
    with pytest.raises(
        ConfigError, match=r"attn_implementation: expected .* second derivatives.*take attn_impl.*eager"
    ):
        guide.laplace_approximation(make_batch())
    with sdpa_kernel(SDPBackend.MATH):
        laplace = guide.laplace_approximation(make_batch())
    model.network.get_base_model().set_attn_implementation("eager")
    torch.testing.assert_close(guide.laplace_approximation(make_batch()).scale, laplace.scale, rtol=1e-3, atol=1e-5)
    model.network.get_base_model().set_attn_implementation("sdpa")
    pyro.clear_param_store()
    expected = draws(model, laplace)
    bp.save(tmp_path / "run", model, laplace)
    again = bp.load(tmp_path / "run", guide=autoguide.AutoMultivariateNormal, base=base())
    torch.testing.assert_close(draws(again.model, again.guide), expected, rtol=0, atol=1e-4)
