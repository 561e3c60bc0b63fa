"""What was run: a run's configuration, data, versions and cost, in lines to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blob_pyro.config.data import files_of
from blob_pyro.config.file import flat_settings, to_dict
from blob_pyro.config.sections import RunConfig, TrainConfig
from blob_pyro.report.page.naming import title_of
from blob_pyro.storage.directory import REVISIONS
from blob_pyro.storage.run_files import RunFiles
from blob_pyro.training.kl_rate import PAPER_RATE

Facts = list[tuple[str, str]]


def facts_of(run: RunFiles) -> Facts:
    """Name and value of what a reader has to know to judge the numbers."""
    config = run.config
    found = [
        ("run directory", str(run.path)),
        ("base model", _model(run)),
        ("adapter", _adapter(config)),
        ("posterior", _posterior(config)),
        ("data", _data(run)),
        ("items", _items(run)),
        ("noted of them", "; ".join(run.notes)),
        ("training", _training(run)),
        ("prediction", _prediction(config, run)),
        ("seed", str(config.seed)),
        ("parameters", _parameters(run.cost)),
        ("time", _time(run.cost)),
        ("machine", _machine(run.about)),
        ("versions", _versions(run.about)),
    ]
    return [(name, value) for name, value in found if value]


def changed_settings(config: RunConfig) -> Facts:
    """The settings that are not the library's defaults; where the data is from, and where the run went, left out."""
    default = flat_settings(RunConfig(data=config.data))
    own = flat_settings(config)
    return [
        (name, f"{own[name]} (default {default.get(name, 'of the guide')})")
        for name in own
        if own[name] != default.get(name)
        and not name.startswith("data.")
        and name not in ("output", "seed", "model.id")
    ]


def _model(run: RunFiles) -> str:
    model = run.config.model
    parts = [model.id + _at(run, "model"), model.likelihood, f"dtype {model.dtype}"]
    return ", ".join([*parts, *([model.quantization] if model.quantization else [])])


def _adapter(config: RunConfig) -> str:
    model = config.model
    where = "PEFT's default layers" if model.target_modules is None else ", ".join(model.target_modules)
    if model.adapter is not None:
        return f"starts from {model.adapter}"
    dropout = f", dropout {model.lora_dropout:g}" if model.lora_dropout else ""
    return f"LoRA r {model.r}, lora_alpha {model.lora_alpha:g}{dropout}, on {where}"


def _posterior(config: RunConfig) -> str:
    settings = [f"{name} {value}" for name, value in config.guide.settings.items()]
    parts = [f"{title_of(config)} (guide {config.guide.name})", *settings, f"prior scale {config.model.prior_scale:g}"]
    if config.model.bayesian is not None:
        parts.append(f"random: {config.model.bayesian}")
    if config.model.bayesian_layers is not None:
        parts.append(f"random blocks: {config.model.bayesian_layers}")
    return ", ".join(parts)


def _at(run: RunFiles, part: str) -> str:
    """The commit of the hub that the "model" or the "data" are of, or what was asked for; "" where they are not."""
    asked = (run.config.model if part == "model" else run.config.data).revision
    told = run.about.get(REVISIONS)
    commit = told.get(part) if isinstance(told, Mapping) else None
    found = str(commit)[:12] if commit else asked
    return f" at {found}" if found else ""


def _data(run: RunFiles) -> str:
    data = run.config.data
    if data.task is not None:
        return f"task {data.task}{_at(run, 'data')}" + (f", compat {data.compat}" if data.compat else "")
    if data.dataset is not None:
        return f"data set {data.dataset}{_at(run, 'data')}"
    return ", ".join([*files_of(data.train_file), *files_of(data.test_file)])


def _items(run: RunFiles) -> str:
    items = run.about.get("items")
    if isinstance(items, Mapping):
        return ", ".join(f"{value:,} {name}" for name, value in items.items() if isinstance(value, int))
    tested = next((metrics.num_items for metrics in run.metrics.values()), None)
    return "" if tested is None else f"{tested:,} test"


def _training(run: RunFiles) -> str:
    train = run.config.train
    parts = [
        f"{train.num_steps:,} steps of {train.batch_size} items",
        f"recipe {train.recipe}",
        f"lr {train.lr:g}",
        _kl(train),
    ]
    if run.config.tune.search:
        parts.append("settings searched on held-out items (tuning.json)")
    return ", ".join(parts)


def _kl(train: TrainConfig) -> str:
    """How the KL acts: to which width, or at which rate; on which schedule."""
    if train.widens:
        how = f"KL width {'by rule' if train.kl_width is None else f'{train.kl_width:g}'}"
    elif train.recipe == "elbo":
        how = "KL in the loss"
    else:
        how = f"KL lr {PAPER_RATE if train.kl_lr is None else train.kl_lr:g}"
    return f"{how}, schedule {train.schedule}, weight {train.kl_weight:g}"


def _prediction(config: RunConfig, run: RunFiles) -> str:
    parts = [] if run.last is None else [f"{run.last} draws" if run.last != "N=0" else "the posterior mean"]
    if config.predict.sampling is not None:
        parts.append(f"draws of {config.predict.sampling}")
    if config.predict.temperature:
        parts.append("with a temperature fitted on held-out items")
    return ", ".join(parts)


def _parameters(cost: Mapping[str, float]) -> str:
    names = {"adapter_parameters": "of the adapter", "guide_parameters": "of the posterior's spread"}
    return ", ".join(f"{int(cost[name]):,} {words}" for name, words in names.items() if name in cost)


def _time(cost: Mapping[str, float]) -> str:
    names = {"tune_seconds": "searching", "train_seconds": "training", "predict_seconds": "predicting the test items"}
    return ", ".join(f"{cost[name]:,.0f} s {words}" for name, words in names.items() if name in cost)


def _machine(about: Mapping[str, Any]) -> str:
    machine = about.get("machine")
    if not isinstance(machine, Mapping):
        return ""
    return ", ".join(f"{name} {value}" for name, value in machine.items() if isinstance(value, str | int))


def _versions(about: Mapping[str, Any]) -> str:
    versions = about.get("versions")
    if not isinstance(versions, Mapping):
        return ""
    return ", ".join(f"{name} {value}" for name, value in versions.items() if isinstance(value, str))


def configuration(config: RunConfig) -> str:
    """The whole configuration as YAML."""
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
