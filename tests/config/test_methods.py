"""One registry of what systems are called: `compare` and `report` know a run by one title, for every method."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report_runs import write_run

import blob_pyro as bp
from blob_pyro.config.file import to_dict
from blob_pyro.config.methods import METHODS, method_of
from blob_pyro.config.sections import TuneConfig
from blob_pyro.experiments.compare.runs import run_config
from blob_pyro.guides import GUIDES
from blob_pyro.report.page import read_run
from blob_pyro.report.page.facts import facts_of
from blob_pyro.report.page.naming import systems_of, title_of

DEFAULT = bp.RunConfig(bp.DataConfig(task="boolq", num_validation=10), output="runs/all")


def shared(**sections: object) -> bp.RunConfig:
    return dataclasses.replace(DEFAULT, **sections)  # type: ignore[arg-type]


# What runs of a comparison share; of many of these, two methods come to the same settings.
SHARED = {
    "defaults": DEFAULT,
    "no flipout": shared(train=bp.TrainConfig(flipout=False)),
    "uniform KL": shared(train=bp.TrainConfig(kl_schedule="uniform", recipe="decoupled", flipout=False)),
    "weight decay": shared(train=bp.TrainConfig(weight_decay=1e-5)),
    "tuned": shared(tune=TuneConfig(search=True)),
    "tempered": shared(predict=bp.PredictConfig(temperature=True)),
    "200 draws": shared(predict=bp.PredictConfig(num_samples=200)),
    "no draws": shared(predict=bp.PredictConfig(num_samples=0)),
    "last block": shared(model=bp.ModelConfig(bayesian_layers=[-1])),
    "both": shared(model=bp.ModelConfig(bayesian="both", prior_scale_spread=1.0)),
    "softplus": shared(guide=bp.GuideConfig(scale="softplus")),
    **{f"guide {name}": shared(guide=bp.GuideConfig(name=name)) for name in GUIDES},
}


@pytest.mark.slow
@pytest.mark.parametrize("config", SHARED.values(), ids=SHARED)
def test_a_run_that_compare_made_has_the_title_of_its_method(config: bp.RunConfig) -> None:
    titles = {name: title_of(run_config(config, method, 3)) for name, method in METHODS.items()}
    assert titles == {name: method.title for name, method in METHODS.items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_ones_own_has_the_title_of_the_method_whose_settings_it_has(name: str) -> None:
    own = dataclasses.replace(METHODS[name].configure(DEFAULT), output="runs/mine", seed=5)
    assert method_of(own) is METHODS[name]
    longer = dataclasses.replace(own.train, num_steps=7, batch_size=3)
    assert title_of(dataclasses.replace(own, train=longer)) == METHODS[name].title


OWN = {
    "a point, which has no flipout": (shared(guide=bp.GuideConfig("mle")), "MLE (plain LoRA)"),
    "a point with much weight decay": (
        shared(guide=bp.GuideConfig("mle"), train=bp.TrainConfig(flipout=False, weight_decay=0.1)), "MLE (plain LoRA)",
    ),
    "a point with a prior": (shared(guide=bp.GuideConfig("map")), "MAP, prior on A"),
    "few draws of logits": (shared(guide=bp.GuideConfig("laplace")), "Laplace-LoRA"),
    "the folder of another method": (shared(output="runs/map/seed0"), "BLoB"),
    "two ablations, the first named": (
        shared(model=bp.ModelConfig(bayesian="B"), train=bp.TrainConfig(flipout=False)), "BLoB, no flipout",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "title"), OWN.values(), ids=OWN)
def test_another_run_of_ones_own_has_the_title_of_what_is_nearest(config: bp.RunConfig, title: str) -> None:
    assert title_of(config) == title


@pytest.mark.parametrize("name", GUIDES)
def test_every_guide_has_a_title_of_its_own_which_no_method_with_another_guide_has(name: str) -> None:
    titles = [kind.title for kind in GUIDES.values()]
    assert titles.count(GUIDES[name].title) == 1 and "title" in vars(GUIDES[name])
    for method in METHODS.values():
        if method.title == GUIDES[name].title:
            assert method.configure(DEFAULT).guide.name == name


def test_titles_tell_methods_apart() -> None:
    titles = [method.title for method in METHODS.values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", METHODS)
def test_the_guide_of_a_method_is_its_own_whatever_the_configuration_has(name: str) -> None:
    """BLoB is BLoB where the file says `guide: {name: mle}`, too."""
    guides = {METHODS[name].configure(config).guide.name for config in SHARED.values()}
    assert len(guides) == 1
    assert name.split("_")[0] not in GUIDES or name == "map" or guides == {name.split("_")[0]}


def test_a_report_calls_runs_as_compare_does(tmp_path: Path) -> None:
    """Also where what they share makes their settings equal, and in the facts of each."""
    paths = {}
    for name in ("map", "blob", "blob_no_flipout"):
        for seed in (0, 1):
            output = str(tmp_path / name / f"seed{seed}")
            config = METHODS[name].configure(SHARED["no flipout"])
            path = write_run(
                Path(output), seed=seed, guide=to_dict(config)["guide"], train=dataclasses.asdict(config.train)
            )
            paths[path] = METHODS[name].title
    runs = [read_run(path) for path in paths]
    systems = systems_of(runs)
    assert [system.name for system in systems] == ["MAP", "BLoB", "BLoB, no flipout"]
    assert all(paths[run.path] == system.name for system in systems for run in system.runs.values())
    for run in runs:
        assert dict(facts_of(run))["posterior"].startswith(f"{paths[run.path]} (guide {run.config.guide.name})")
