"""`tune`: the search for settings that a configuration asks for, in its run directory."""

from __future__ import annotations

from pathlib import Path

from blob_pyro.config.sections import RunConfig
from blob_pyro.data.tasks.task_data import TaskData
from blob_pyro.errors import NonFiniteLossError, Stopped
from blob_pyro.model.layers.targets import block_list
from blob_pyro.runs.answerer import num_draws
from blob_pyro.runs.build import Items, _make
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
    with_kl_rate,
)
from blob_pyro.storage.directory import CONFIG, new_run_directory, write_json
from blob_pyro.storage.saving import Run
from blob_pyro.system.terminal import Say
from blob_pyro.training.trainer import fit


def tune(
    config: RunConfig, data: TaskData, progress: bool = True, say: Say = print, say_resumed: Say = print
) -> Tuning:
    """Search for settings that do better on the held-out items than the configuration's own; test items are not used.

    Each trial is the run of `fit_run` with other settings: same items, same seed, same draws. Trials are kept in the
    run directory as they end; those that an interrupted search has left there are not repeated, and one that was
    not at its end goes on from its newest checkpoint.

    Args:
        config: the run; `config.tune` bounds the search.
        data: its items.
        progress: show progress bars.
        say: receives a line for each trial.
        say_resumed: receives the line that tells where an unfinished trial goes on.

    Raises:
        BlobPyroError: as `fit_run`.
    """
    path = Path(config.output)

    def measure(trial: RunConfig) -> Measured:
        model, guide, items = _make(trial, data)
        if not (path / CONFIG).exists():
            new_run_directory(config)
            (path / TRIALS).touch()
        place = TrialPlace(path, len(log) + 1)
        place.remove_others()  # once a trial is in the file, its checkpoints are of no use
        clock = TrainingClock()
        nlls = _held_out_nlls(Run(path, model, guide), items, trial, progress, place, clock, say_resumed)
        blocks = block_list(model.network.get_base_model())
        return Measured(nlls, len(blocks or ()), clock.seconds)

    log = TrialLog(path, measure)
    try:
        found = search(config, log, start=with_kl_rate(config, len(data.train)), say=say)
    except KeyboardInterrupt as error:
        told = f"{path} holds {len(log)} trials; the same command goes on" if path.exists() else "nothing was saved"
        raise Stopped.after(error, told) from None
    write_json(path / TUNING, found.to_dict())
    remove_trial_checkpoints(path)
    return found


def _held_out_nlls(
    run: Run,
    items: Items,
    config: RunConfig,
    progress: bool,
    place: TrialPlace,
    clock: TrainingClock,
    say_resumed: Say,
) -> tuple[float, ...] | None:
    """Train, or go on with it, and the NLL of each held-out item; None where the loss was not finite."""
    loader = training_loader(items, run.model, config, config.seed)
    checkpoints = checkpoints_of(place.folder, run.model, run.guide, config, clock.write)
    clock.go_on_from([checkpoints])

    def tell(step: int) -> None:
        say_resumed(f"trial {place.number}: resumed at step {step} of {config.train.num_steps}")

    try:
        fit(
            run.model, run.guide, loader, config.train, progress=progress, description=f"trial {place.number}",
            checkpoints=checkpoints, resume=True, on_resume=tell,
        )  # fmt: skip
    except NonFiniteLossError:
        return None
    kind, count = kind_of(config), num_draws(run.guide, config)
    return kind.nlls(kind.predict(run, items.validation, config, count, progress))
