"""`fit --resume` with more steps: a finished run goes on, in a folder of its own until it is the run."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

from blob_pyro.config.file import to_dict
from blob_pyro.config.sections import RunConfig
from blob_pyro.data.tasks.load import data_commit
from blob_pyro.data.tasks.task_data import TaskData
from blob_pyro.errors import RunDirectoryError
from blob_pyro.guides import PostHocGuide
from blob_pyro.model.layers.checkpointing import enable_checkpointing
from blob_pyro.runs.about import about
from blob_pyro.runs.answerer import device_map_of
from blob_pyro.runs.build import Parts, build_guide, encode_task
from blob_pyro.storage.directory import (
    ABOUT,
    CONFIG,
    COST,
    EXTENSION,
    HISTORY,
    changes,
    is_finished,
    pinned,
    read_config,
    read_json,
    write_json,
    write_yaml,
)
from blob_pyro.storage.reading import read_cost, read_steps
from blob_pyro.storage.saving import load
from blob_pyro.system.files import replace_together_by
from blob_pyro.system.processes import Ranks
from blob_pyro.training.extending import Past


def is_extension(config: RunConfig) -> bool:
    """Whether `config.output` holds a finished run of this configuration, but for fewer steps.

    Raises:
        RunDirectoryError: it does, and is of a kind that cannot go on.
    """
    path = Path(config.output)
    if not (path / CONFIG).is_file():
        return False
    before = read_config(path)
    if changes(before, config) != ["train.num_steps"] or before.train.num_steps >= config.train.num_steps:
        return False
    if not is_finished(dataclasses.replace(before, output=config.output)):  # it may have been moved
        raise RunDirectoryError(
            f"{path}: expected a finished run to extend to {config.train.num_steps} steps; its training of "
            f"{before.train.num_steps} has not ended: go on with --resume and that many first"
        )
    cannot = {
        "of an ensemble": config.guide.name == "ensemble",
        "that searched its settings": config.tune.search,
        "that trained nothing": not (path / HISTORY).is_file(),
    }
    for kind, holds in cannot.items():
        if holds:
            raise RunDirectoryError(
                f"{path}: expected a run that can be extended; got one {kind}: choose another --output"
            )
    return True


def in_extension(config: RunConfig) -> RunConfig:
    """The configuration with the folder in which an extension is made as its output."""
    return dataclasses.replace(config, output=str(Path(config.output) / EXTENSION))


def begun_parts(config: RunConfig, data: TaskData, base: str | None = None) -> tuple[Parts, Past]:
    """A finished run's model and guide to train on, and what lies behind; its extension is begun where it is not.

    Every process calls it.

    Args:
        config: the run, with more steps.
        data: its items.
        base: the place that the base is loaded from, where it has moved.

    Raises:
        RunDirectoryError: an extension to another number of steps was begun; or as `load`.
    """
    path, ranks = Path(config.output), Ranks.here()
    inside = path / EXTENSION
    if (inside / CONFIG).is_file() and (odd := changes(read_config(inside), config)):
        raise RunDirectoryError(
            f"{inside}: expected an extension to {config.train.num_steps} steps; one with another {odd[0]} was begun: "
            "go on with that, or delete this folder"
        )
    sharded = config.model.shard_base and ranks.num > 1
    run = load(path, base=base, device_map=device_map_of(path), shard_base=sharded)
    if base is not None:
        was = pinned(config, path).model.revision
        run.model.source = dataclasses.replace(run.model.source, id=config.model.id, revision=was)
    if config.model.gradient_checkpointing:
        enable_checkpointing(run.model.network.get_base_model())
    if run.model.num_data != len(data.train):
        raise RunDirectoryError(
            f"{path}: expected the {run.model.num_data} training items that its run was made with; got "
            f"{len(data.train)}: go on with the same, or start another run from it (model.adapter: {path})"
        )
    guide = build_guide(run.model, config.guide) if isinstance(run.guide, PostHocGuide) else run.guide
    parts = Parts(run.model, guide, encode_task(data, run.model, config))
    past = _past(path)
    ranks.wait()  # until all have seen the folder as it was
    if ranks.is_first and not (inside / CONFIG).is_file():
        _begin(config, inside, past, about(run.model, data, ranks.num, data_commit(pinned(config, path).data)))
    ranks.wait()
    return parts, past


def end_extension(config: RunConfig) -> None:
    """Make a finished extension the run, of which the old one is there until then. The first process calls it."""
    path = Path(config.output)
    replace_together_by(path, path / EXTENSION)


def _begin(config: RunConfig, inside: Path, past: Past, found: dict[str, object]) -> None:
    """Fill the folder of an extension; its configuration, which says that it is begun, comes last."""
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    for file in (inside.parent / HISTORY, inside.parent / COST):
        if file.is_file():
            shutil.copyfile(file, inside / file.name)
    before = read_json(inside.parent / ABOUT).get("extended_at", [])
    write_json(inside / ABOUT, found | {"extended_at": [*before, past.steps]})
    write_yaml(inside / CONFIG, to_dict(config))


def _past(path: Path) -> Past:
    steps = read_steps(path)
    held_out = [(step.held_out_nll, step.step) for step in steps if step.held_out_nll is not None]
    measured = [(nll, step) for nll, step in held_out if math.isfinite(nll)]
    last = steps[-1].step if steps else 0
    return Past(last, read_cost(path).get("train_seconds", 0.0), min(measured, default=None))
