"""`learn`: trains what a configuration asks for into a run directory, from the start or from its checkpoints."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.data.batches.collate import EncodedDataset, padding_id
from blob_pyro.data.batches.loaders import ordered_loader, predict_loader, train_loader
from blob_pyro.guides import GUIDES, AdapterGuide, EnsembleGuide, PostHocGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.runs.answerer import num_draws
from blob_pyro.runs.build import Items, Parts
from blob_pyro.runs.history import History, TrainingClock
from blob_pyro.runs.item_kinds import kind_of
from blob_pyro.runs.tracking import tracked
from blob_pyro.storage.saving import Run, describe, save
from blob_pyro.system.processes import Ranks
from blob_pyro.system.terminal import SILENT, Console
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.ensemble import fit_ensemble
from blob_pyro.training.extending import Past, begin_behind
from blob_pyro.training.trainer import fit

POST_HOC_BATCH_SIZE = 16  # what comes out does not depend on it
_OF_CHECKPOINTS = ("save_steps", "save_total_limit", "trackers")  # settings that change nothing of what is learnt


def learn(
    parts: Parts,
    config: RunConfig,
    path: Path,
    console: Console,
    *,
    checkpoints: Path | None = None,
    resume: bool = False,
    past: Past | None = None,
) -> float:
    """Train and save into `path`; what was learnt is saved also when training stops early.

    Args:
        parts: model and guide as built, untrained; the items to train on, and to evaluate on meanwhile.
        config: the run.
        path: its directory.
        console: shows progress, and is told where training goes on.
        checkpoints: a folder for checkpoints; None keeps none.
        resume: go on from those that are there.
        past: what lies behind model and guide where they were trained before, and go on; with `resume`.

    Returns:
        Seconds of the training, those before a break included.
    """
    model, guide, items, clock = parts.model, parts.guide, parts.items, TrainingClock(past.seconds if past else 0.0)
    trained = trained_guide(parts)
    if not (isinstance(guide, PostHocGuide) and config.model.adapter):
        stores = [] if checkpoints is None else _stores(checkpoints, model, trained, config, clock)
        if past is not None and not stores[0].last_step:
            _begin_behind(past, trained, items, config, stores[0])
        kept = sum(store.last_step for store in stores) if resume else 0
        clock.go_on_from(stores if resume else [])
        total = config.train.num_steps * max(1, len(stores))
        history = History(path, items.train, model, trained, kept=kept, resumable=bool(stores))
        with history, tracked(config, path, kept) as track:
            shared: dict[str, Any] = {
                "progress": console.progress, "callbacks": [history.record, track], "resume": resume,
                "on_resume": _once(lambda: console.resumed(f"resumed at step {kept} of {total}")),
            }  # fmt: skip
            if isinstance(trained, EnsembleGuide):
                _fit_members(model, trained, items, config, stores, shared)
            else:
                validate = partial(_held_out_nll, path, items, config, model, trained)
                fit(
                    model, trained, training_loader(items, model, config, config.seed), config.train, **shared,
                    description=config.guide.name, validate=validate if config.train.eval_steps else None,
                    checkpoints=stores[0] if stores else None,
                )  # fmt: skip
    if isinstance(guide, PostHocGuide):
        batches, held_out = (_batches(part, model) for part in (items.train, items.validation))
        guide.fit(batches, held_out if len(items.validation) else None, progress=console.progress)
        if Ranks.here().is_first:
            save(path, model, guide)
    return clock.seconds


def trained_guide(parts: Parts) -> AdapterGuide:
    """What is trained by steps: the guide, or the point that one is fitted to afterwards."""
    guide = parts.guide
    return GUIDES[guide.trained_as](parts.model) if isinstance(guide, PostHocGuide) else guide


def _begin_behind(past: Past, guide: AdapterGuide, items: Items, config: RunConfig, checkpoints: Checkpoints) -> None:
    """The checkpoint that an extension starts from."""
    model, seed = guide.model, (config.seed + past.steps) % 2**32
    loader = training_loader(items, model, config, config.seed)
    begin_behind(past, model, guide, loader, config.train, checkpoints, seed=seed)


def checkpoints_of(
    folder: Path, model: BayesianLoRA, guide: AdapterGuide, config: RunConfig, also: Callable[[Path], None]
) -> Checkpoints:
    """Checkpoints of one training of a guide, which go on under the same settings alone.

    Args:
        folder: of the checkpoints.
        model, guide: what is trained.
        config: the run.
        also: writes what else there is into a checkpoint.
    """
    return Checkpoints(
        folder, keep=config.train.save_total_limit, belongs_to=_identity(model, guide, config), also=also
    )


def training_loader(items: Items, model: BayesianLoRA, config: RunConfig, seed: int) -> Any:
    """Batches for training, in the order that the configuration asks for."""
    train = config.train
    pad = padding_id(model.tokenizer)
    if config.in_authors_order:
        return ordered_loader(items.train, train.batch_size, pad)
    return train_loader(items.train, train.batch_size, pad, seed, group_by_length=train.group_by_length)


def _fit_members(
    model: BayesianLoRA,
    guide: EnsembleGuide,
    items: Items,
    config: RunConfig,
    stores: Sequence[Checkpoints],
    shared: dict[str, Any],
) -> None:
    loaders = [training_loader(items, model, config, config.seed + k) for k in range(guide.num_members)]
    validate = partial(_held_out_nll, Path(), items, config) if config.train.eval_steps else None
    fit_ensemble(model, guide, loaders, config.train, seed=config.seed, validate=validate, checkpoints=stores, **shared)


def _held_out_nll(path: Path, items: Items, config: RunConfig, model: BayesianLoRA, guide: AdapterGuide) -> float:
    """Of the validation items under the run's draws, nats per item."""
    kind, count = kind_of(config), num_draws(guide, config)
    predictions = kind.predict(Run(path, model, guide), items.validation, config, count, SILENT)
    return statistics.fmean(kind.nlls(predictions))


def _stores(
    folder: Path, model: BayesianLoRA, guide: AdapterGuide, config: RunConfig, clock: TrainingClock
) -> list[Checkpoints]:
    """Checkpoints of the training; of an ensemble, of each member's. Others are a run's adapter and posterior too."""
    if isinstance(guide, EnsembleGuide):
        places = [folder / f"member-{k}" for k in range(guide.num_members)]
        return [checkpoints_of(place, model, guide, config, clock.write) for place in places]

    def write(into: Path) -> None:
        save(into, model, guide)
        clock.write(into)

    return [checkpoints_of(folder, model, guide, config, write)]


def _once(action: Callable[[], None]) -> Callable[[int], None]:
    """Of the members of an ensemble that go on the first one tells of all."""
    left = [action]

    def act(step: int) -> None:
        if left:
            left.pop()()

    return act


def _identity(model: BayesianLoRA, guide: AdapterGuide, config: RunConfig) -> dict[str, Any]:
    """What must be the same for training to go on."""
    described = describe(model, guide)
    train = {name: value for name, value in dataclasses.asdict(config.train).items() if name not in _OF_CHECKPOINTS}
    names = ("base", "guide", "likelihood", "prior_scale", "num_data", "bayesian", "bayesian_layers", "sites")
    return {name: described[name] for name in names} | {"train": train, "seed": config.seed}


def _batches(items: EncodedDataset, model: BayesianLoRA) -> Any:
    """Batches in the order of the items, for guides that are fitted to them."""
    return predict_loader(items, POST_HOC_BATCH_SIZE, padding_id(model.tokenizer))
