"""`fit_run`: a whole run, once through: data -> model -> guide -> SVI -> predictive -> metrics -> run directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.data.tasks.load import data_commit
from blob_pyro.data.tasks.own_rows import TrainRows
from blob_pyro.data.tasks.task_data import TaskData
from blob_pyro.errors import ConfigError, Stopped
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.report.page.cautions import OF_THE_POSTERIOR, cautions_of
from blob_pyro.runs.about import about
from blob_pyro.runs.build import Parts, build_parts, load_data, with_read_labels
from blob_pyro.runs.checks import check_run, unused_kl_settings
from blob_pyro.runs.evaluate import RunResult, evaluate_test_items
from blob_pyro.runs.extend import begun_parts, end_extension, in_extension, is_extension
from blob_pyro.runs.train import learn, trained_guide
from blob_pyro.runs.tune import tune
from blob_pyro.runs.tuning import is_unfinished_search
from blob_pyro.storage.base_digest import check_base
from blob_pyro.storage.directory import (
    ABOUT,
    CHECKPOINTS,
    COST,
    holds_run_of,
    is_finished,
    new_run_directory,
    pinned,
    read_json,
    refuse_links,
    refuse_used_directory,
    write_json,
)
from blob_pyro.storage.posterior_files import DESCRIPTION, read_description
from blob_pyro.storage.reading import read_metrics
from blob_pyro.storage.run_files import read_run
from blob_pyro.storage.saving import Run
from blob_pyro.system.files import WRITTEN, end_replacing
from blob_pyro.system.locks import alone_in
from blob_pyro.system.printing import tell_line
from blob_pyro.system.processes import Ranks, connected
from blob_pyro.system.terminal import SILENT, Console, Say
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.extending import Past


def fit_run(
    config: RunConfig,
    *,
    resume: bool = False,
    base: str | Path | None = None,
    progress: bool = True,
    say: Say = tell_line,
) -> RunResult:
    """Fine-tune, predict the test items, and write the run directory.

    With `config.tune.search` the settings are searched first (`tune`); the run's config.yaml stays the configuration
    that was asked for. Nothing is written before training starts. When training stops early (NaN loss, Ctrl-C,
    SIGTERM) the last good state is saved before the error goes on; its message says where.

    Where a launcher (`accelerate launch`, torchrun) has started several processes, all of them call this: they train
    and predict together, and the first one writes and speaks.

    Args:
        config: the run.
        resume: go on with the run of this very configuration that `config.output` holds, from its newest checkpoint,
            bit by bit as if it had never stopped (CPU, same libraries, threads and processes); start where there is
            none. Of a finished run the metrics come back as they are, without predictions; with more
            `train.num_steps` than it had it goes on to that many.
        base: the folder, hub id or alias that the base of the run that goes on is loaded from, where it has moved.
        progress: show progress bars; those of other libraries are theirs (`system.terminal.quiet_libraries`).
        say: receives lines for the user.

    Raises:
        BlobPyroError: one of its kinds, with a one-line message, for whatever the user can mend.
    """
    return fit_with(config, Console(progress, say), resume=resume, base=None if base is None else str(base))


def fit_with(config: RunConfig, console: Console, *, resume: bool = False, base: str | None = None) -> RunResult:
    """`fit_run` under a console."""
    if base is not None and not resume:
        raise ConfigError(f"--base: expected --resume beside it; a new run has its base in model.id; got {base}")
    with connected() as ranks:
        console = console if ranks.is_first else SILENT
        check_run(config)
        read, train_rows = with_read_labels(_made_with(config, resume), console)
        data = dataclasses.replace(read.data, revision=config.data.revision)  # as it was asked for
        config = dataclasses.replace(read, model=config.model, data=data)
        with alone_in(config.output, ranks):
            return _fit(config, train_rows, console, resume, base)


def _fit(
    config: RunConfig, train_rows: TrainRows | None, console: Console, resume: bool, base: str | None
) -> RunResult:
    """The run, where nobody else writes into its directory."""
    if resume:
        refuse_links(config.output)
        _end_what_was_begun(Path(config.output))
        if is_extension(config):
            return _extended(config, load_data(_made_with(config, resume), train_rows=train_rows), console, base)
    goes_on = resume and holds_run_of(config)
    if not goes_on and not is_unfinished_search(config):
        refuse_used_directory(config.output)
    refuse_links(config.output)
    if goes_on and is_finished(config):
        return _as_it_is(config, console)
    made_with = _made_with(config, resume)
    data = load_data(made_with, train_rows=train_rows)
    for note in data.notes:
        console.log(note)
    tuning = tune(config, data, console) if config.tune.search else None
    chosen = config if tuning is None else tuning.config
    parts = build_parts(_made_with(chosen, resume), data, base)
    if base is not None:
        _check_moved(parts.model, config)
    for line in (*parts.notes, unused_kl_settings(chosen, trained_guide(parts))):
        if line is not None:
            console.log(line)
    told = about(parts.model, data, Ranks.here().num, data_commit(made_with.data))
    _begin(config, told, is_new=tuning is None and not goes_on)
    _train(parts, chosen, console, goes_on, {} if tuning is None else {"tune_seconds": tuning.seconds})
    return _evaluate(parts, config, console)


def _made_with(config: RunConfig, resume: bool) -> RunConfig:
    """The configuration to load by: of a run that goes on, with the commits of the hub that it began with."""
    return pinned(config, config.output) if resume else config


def _end_what_was_begun(path: Path) -> None:
    """Put in their places files that a killed process had still to; of several processes the first one does."""
    ranks = Ranks.here()
    if ranks.is_first:
        end_replacing(path)
    ranks.wait()


def _check_moved(model: BayesianLoRA, config: RunConfig) -> None:
    """Check a base from another place against the newest that the run has saved."""
    path = Path(config.output)
    places = [path / WRITTEN, path, *sorted((path / CHECKPOINTS).glob("step-*"))[-1:]]
    found = next((place / DESCRIPTION for place in places if (place / DESCRIPTION).is_file()), None)
    if found is not None:
        check_base(model, config.model.id, read_description(found.parent))


def _extended(config: RunConfig, data: TaskData, console: Console, base: str | None) -> RunResult:
    """A finished run with more steps: the old one stays until the new one is whole."""
    inside, path = in_extension(config), Path(config.output)
    refuse_links(path)
    for note in data.notes:
        console.log(note)
    parts, past = begun_parts(config, data, base)
    _train(parts, inside, console, True, {}, past)
    result = _evaluate(parts, inside, console)
    if Ranks.here().is_first:
        end_extension(config)
        console.log(f"extended from {past.steps} to {config.train.num_steps} steps: {path}")
    return RunResult(path, result.metrics, result.predictions)


def _as_it_is(config: RunConfig, console: Console) -> RunResult:
    """What a finished run holds."""
    console.log(f"already done: {config.output}")
    return RunResult(Path(config.output), read_metrics(Path(config.output), config), {})


def _begin(config: RunConfig, about: dict[str, Any], is_new: bool) -> None:
    """Make the run directory where it is new, and note what the run is made with, when all processes have come here."""
    ranks = Ranks.here()
    ranks.wait()  # until all have seen the directory as it was
    if ranks.is_first:
        if is_new:
            new_run_directory(config)
        write_json(Path(config.output) / ABOUT, about)
    ranks.wait()


def _train(
    parts: Parts,
    config: RunConfig,
    console: Console,
    goes_on: bool,
    cost: dict[str, float],
    past: Past | None = None,
) -> None:
    """Train, with checkpoints, and note the cost; `cost` is what was spent before."""
    path = Path(config.output)
    seconds = learn(parts, config, path, console, checkpoints=path / CHECKPOINTS, resume=goes_on, past=past)
    if Ranks.here().is_first:
        counts = parameter_counts(parts.model, parts.guide)
        write_json(path / COST, read_json(path / COST) | {"train_seconds": seconds} | cost | counts)
        if past is None:
            console.log(f"saved adapter and posterior in {path}")


def _evaluate(parts: Parts, config: RunConfig, console: Console) -> RunResult:
    """Predict and score the test items; the run then needs its checkpoints no more."""
    path = Path(config.output)
    try:
        result = evaluate_test_items(Run(path, parts.model, parts.guide), parts.items, config, console)
    except KeyboardInterrupt as error:
        told = f"{path} holds the adapter and posterior, but no metrics yet: the same command with --resume goes on"
        raise Stopped.after(error, told) from None
    if Ranks.here().is_first:
        Checkpoints(path / CHECKPOINTS).remove()
        for caution in cautions_of(read_run(path), OF_THE_POSTERIOR):
            console.log(f"note: {caution.text}")
    return result


def parameter_counts(model: BayesianLoRA, guide: AdapterGuide) -> dict[str, int]:
    """How many numbers the run trained and stores: "adapter_parameters" of the network, "guide_parameters" beside."""
    adapter = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    return {"adapter_parameters": adapter, "guide_parameters": sum(t.numel() for t in guide.tensors().values())}
