"""`fit_run`: a whole run, once through: data -> model -> guide -> SVI -> predictive -> metrics -> run directory."""

from __future__ import annotations

from pathlib import Path

from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import Stopped
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.runs.about import about
from blob_pyro.runs.build import _make, _say_nothing, load_data, with_read_labels
from blob_pyro.runs.checks import check_run
from blob_pyro.runs.evaluate import RunResult, evaluate_test_items
from blob_pyro.runs.train import learn
from blob_pyro.runs.tune import tune
from blob_pyro.runs.tuning import is_unfinished_search
from blob_pyro.storage.directory import (
    ABOUT,
    CHECKPOINTS,
    COST,
    holds_run_of,
    is_finished,
    new_run_directory,
    read_json,
    refuse_links,
    refuse_used_directory,
    write_json,
)
from blob_pyro.storage.reading import read_metrics
from blob_pyro.storage.saving import Run
from blob_pyro.system.processes import Ranks, connected
from blob_pyro.system.terminal import Say
from blob_pyro.training.checkpoints import Checkpoints


def fit_run(
    config: RunConfig,
    *,
    resume: bool = False,
    progress: bool = True,
    say: Say = print,
    say_resumed: Say | None = None,
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
            none. Of a finished run the metrics come back as they are, without predictions.
        progress: show progress bars.
        say: receives lines for the user.
        say_resumed: receives the line that tells where an unfinished training goes on; None is `say`.

    Raises:
        BlobPyroError: one of its kinds, with a one-line message, for whatever the user can mend.
    """
    with connected() as ranks:
        if not ranks.is_first:
            progress, say, say_resumed = False, _say_nothing, _say_nothing
        return _fit_run(config, resume, progress, say, say_resumed or say, ranks)


def _fit_run(config: RunConfig, resume: bool, progress: bool, say: Say, say_resumed: Say, ranks: Ranks) -> RunResult:
    check_run(config)
    config = with_read_labels(config, say)
    goes_on = resume and holds_run_of(config)
    if not goes_on and not is_unfinished_search(config):
        refuse_used_directory(config.output)
    path = Path(config.output)
    refuse_links(path)
    if goes_on and is_finished(config):
        say(f"already done: {path}")
        return RunResult(path, read_metrics(path, config), {})
    data = load_data(config)
    for note in data.notes:
        say(note)
    tuning = tune(config, data, progress, say, say_resumed) if config.tune.search else None
    chosen = config if tuning is None else tuning.config
    model, guide, items = _make(chosen, data)
    ranks.wait()  # until all have seen the directory as it was
    if ranks.is_first and tuning is None and not goes_on:
        new_run_directory(config)
    if ranks.is_first:
        write_json(path / ABOUT, about(model, data, ranks.num))
    ranks.wait()
    checkpoints = path / CHECKPOINTS
    seconds = learn(
        model, guide, items, chosen, path, progress, checkpoints=checkpoints, resume=goes_on, say=say_resumed
    )
    cost = {"train_seconds": seconds}
    if tuning is not None:
        cost["tune_seconds"] = tuning.seconds
    if ranks.is_first:
        write_json(path / COST, read_json(path / COST) | cost | parameter_counts(model, guide))
        say(f"saved adapter and posterior in {path}")
    try:
        result = evaluate_test_items(Run(path, model, guide), items, config, progress, say)
    except KeyboardInterrupt as error:
        told = f"{path} holds the adapter and posterior, but no metrics yet: the same command with --resume goes on"
        raise Stopped.after(error, told) from None
    if ranks.is_first:
        Checkpoints(checkpoints).remove()
    return result


def parameter_counts(model: BayesianLoRA, guide: AdapterGuide) -> dict[str, int]:
    """How many numbers the run trained and stores: "adapter_parameters" of the network, "guide_parameters" beside."""
    adapter = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    return {"adapter_parameters": adapter, "guide_parameters": sum(t.numel() for t in guide.tensors().values())}
