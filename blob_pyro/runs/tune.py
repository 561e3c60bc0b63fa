"""`tune`: the search for settings that a configuration asks for, in its run directory."""

from __future__ import annotations

from pathlib import Path

from blob_pyro.config.sections import RunConfig
from blob_pyro.data.tasks.task_data import TaskData
from blob_pyro.errors import NonFiniteLossError, Stopped
from blob_pyro.model.layers.targets import block_list
from blob_pyro.runs.answerer import num_draws
from blob_pyro.runs.build import Parts, build_parts
from blob_pyro.runs.history import TrainingClock
from blob_pyro.runs.item_kinds import kind_of
from blob_pyro.runs.train import checkpoints_of, training_loader
from blob_pyro.runs.tuning import (
    TRIALS,
    TUNING,
    Measured,
    TrialLog,
    TrialPlace,
    Tuning,
    remove_trial_checkpoints,
    search,
)
from blob_pyro.storage.directory import CONFIG, new_run_directory, write_json
from blob_pyro.storage.saving import Run
from blob_pyro.system.terminal import Console
from blob_pyro.training.trainer import fit


def tune(config: RunConfig, data: TaskData, console: Console) -> Tuning:
    """Search for settings that do better on the held-out items than the configuration's own; test items are not used.

    Each trial is the run of `fit_run` with other settings: same items, same seed, same draws. Trials are kept in the
    run directory as they end; those that an interrupted search has left there are not repeated, and one that was
    not at its end goes on from its newest checkpoint.

    Args:
        config: the run; `config.tune` bounds the search.
        data: its items.
        console: is told of each trial, and where an unfinished one goes on.

    Raises:
        BlobPyroError: as `fit_run`.
    """
    path = Path(config.output)

    def measure(trial: RunConfig) -> Measured:
        parts = build_parts(trial, data)
        if not (path / CONFIG).exists():
            new_run_directory(config)
            (path / TRIALS).touch()
        place = TrialPlace(path, len(log) + 1)
        place.remove_others()  # once a trial is in the file, its checkpoints are of no use
        clock = TrainingClock()
        nlls = _held_out_nlls(parts, trial, place, clock, console)
        blocks = block_list(parts.model.network.get_base_model())
        return Measured(nlls, len(blocks or ()), clock.seconds)

    log = TrialLog(path, measure)
    try:
        found = search(config, log, num_data=len(data.train), say=console.log)
    except KeyboardInterrupt as error:
        begun = (path / CONFIG).exists()
        told = f"{path} holds {len(log)} trials; the same command goes on" if begun else "nothing was saved"
        raise Stopped.after(error, told) from None
    write_json(path / TUNING, found.to_dict())
    remove_trial_checkpoints(path)
    return found


def _held_out_nlls(
    parts: Parts, config: RunConfig, place: TrialPlace, clock: TrainingClock, console: Console
) -> tuple[float, ...] | None:
    """Train, or go on with it, and the NLL of each held-out item; None where the loss was not finite."""
    model, guide, items = parts.model, parts.guide, parts.items
    loader = training_loader(items, model, config, config.seed)
    checkpoints = checkpoints_of(place.folder, model, guide, config, clock.write)
    clock.go_on_from([checkpoints])

    def resumed(step: int) -> None:
        console.resumed(f"trial {place.number}: resumed at step {step} of {config.train.num_steps}")

    try:
        fit(
            model, guide, loader, config.train, progress=console.progress, description=f"trial {place.number}",
            checkpoints=checkpoints, resume=True, on_resume=resumed,
        )  # fmt: skip
    except NonFiniteLossError:
        return None
    kind, run = kind_of(config), Run(Path(config.output), model, guide)
    return kind.nlls(kind.predict(run, items.validation, config, num_draws(guide, config), console))
