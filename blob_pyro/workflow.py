"""A whole run, once through: data -> model -> guide -> SVI -> predictive -> metrics -> run directory."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pyro

from blob_pyro.about import about
from blob_pyro.adapters.blocks import block_list
from blob_pyro.adapters.sharding import shard_base
from blob_pyro.answering import Answerer, Say, load_run, num_draws, with_fields, with_samples
from blob_pyro.building import (
    build_guide,
    build_model,
    count_tokens,
    encode_items,
    labels_of,
    learns_tokens,
    load_data,
    with_class_weights,
)
from blob_pyro.checking import check_run
from blob_pyro.checkpoint import Run
from blob_pyro.completing import refuse_tokens, score_completions
from blob_pyro.config import RunConfig
from blob_pyro.data.files import read_rows
from blob_pyro.data.own_files import with_labels
from blob_pyro.data.task_data import TaskData
from blob_pyro.data.tasks import examples_for
from blob_pyro.deciding import Decisions, decide, prepare
from blob_pyro.errors import DataError, NonFiniteLossError, Stopped
from blob_pyro.evaluating import Items, RunResult, evaluate_test_items
from blob_pyro.guides import AdapterGuide
from blob_pyro.inference.checkpoints import Checkpoints
from blob_pyro.inference.trainer import fit
from blob_pyro.item_kinds import kind_of
from blob_pyro.learning import learn, training_loader
from blob_pyro.model import BayesianLoRA
from blob_pyro.ranks import Ranks, connected
from blob_pyro.report.answers import answers_of
from blob_pyro.run_directory import (
    ABOUT,
    CHECKPOINTS,
    CONFIG,
    COST,
    METRICS,
    holds_run_of,
    is_finished,
    new_run_directory,
    read_config,
    read_json,
    refuse_links,
    refuse_used_directory,
    write_json,
)
from blob_pyro.tuning import (
    TRIALS,
    TUNING,
    Measured,
    TrialLog,
    Tuning,
    is_unfinished_search,
    search,
    with_kl_rate,
)


def fit_run(config: RunConfig, *, resume: bool = False, progress: bool = True, say: Say = print) -> RunResult:
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

    Raises:
        BlobPyroError: one of its kinds, with a one-line message, for whatever the user can mend.
    """
    with connected() as ranks:
        if not ranks.is_first:
            progress, say = False, _say_nothing
        return _fit_run(config, resume, progress, say, ranks)


def _fit_run(config: RunConfig, resume: bool, progress: bool, say: Say, ranks: Ranks) -> RunResult:
    check_run(config)
    config = with_read_labels(config, say)
    goes_on = resume and holds_run_of(config)
    if not goes_on and not is_unfinished_search(config):
        refuse_used_directory(config.output)
    path = Path(config.output)
    refuse_links(path)
    if goes_on and is_finished(config):
        say(f"already done: {path}")
        kind = kind_of(config)
        return RunResult(path, {name: kind.read_scores(found) for name, found in read_json(path / METRICS).items()}, {})
    data = load_data(config)
    for note in data.notes:
        say(note)
    tuning = tune(config, data, progress, say) if config.tune.search else None
    chosen = config if tuning is None else tuning.config
    model, guide, items = _make(chosen, data)
    ranks.wait()  # until all have seen the directory as it was
    if ranks.is_first and tuning is None and not goes_on:
        new_run_directory(config)
    if ranks.is_first:
        write_json(path / ABOUT, about(model, data, ranks.num))
    ranks.wait()
    start = time.perf_counter()
    learn(model, guide, items, chosen, path, progress, checkpoints=path / CHECKPOINTS, resume=goes_on)
    cost = {"train_seconds": time.perf_counter() - start}
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
        Checkpoints(path / CHECKPOINTS).remove()
    return result


def _say_nothing(line: str) -> None:
    """For the processes that do not speak."""


def with_read_labels(config: RunConfig, say: Say) -> RunConfig:
    """The configuration with labels that it leaves out, as the training file has them; `say` is told of them.

    A run keeps the labels it was made with, whatever becomes of the file.

    Raises:
        BlobPyroError: the file cannot be read, or its labels cannot serve.
    """
    data, notes = with_labels(config.data)
    for note in notes:
        say(note)
    return dataclasses.replace(config, data=data)


def evaluate_run(
    run_dir: str | Path, *, num_samples: int | None = None, progress: bool = True, say: Say = print
) -> RunResult:
    """Predict a saved run's test items again, and rewrite its metrics and predictions.

    The draws are those of `fit_run` (same seed): with the run's own number of them so are the metrics. Several
    processes share the items out, as in `fit_run`.

    Args:
        run_dir: a directory that `fit_run` wrote.
        num_samples: posterior draws; None takes the run's own number.
        progress: show progress bars.
        say: receives lines for the user.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        DataError: the run has no test items.
    """
    config = with_samples(read_config(run_dir), num_samples)
    refuse_links(run_dir)
    with connected() as ranks:
        if not ranks.is_first:
            progress, say = False, _say_nothing
        data = load_data(config)
        if not data.test:
            raise DataError(
                f"{run_dir}: expected a run with test items; it has none; use `blob-pyro predict` on a file"
            )
        run = load_run(run_dir, data.labels)
        if config.model.shard_base and ranks.num > 1:
            shard_base(run.model.network, ranks)
        return evaluate_test_items(run, encode_task(data, run.model, config), config, progress, say)


def predict_run(
    run_dir: str | Path,
    file: str | Path,
    *,
    num_samples: int | None = None,
    decisions: Decisions | None = None,
    progress: bool = True,
    say: Say = print,
) -> list[dict[str, Any]]:
    """Answer the items of a file with a saved run.

    Args:
        run_dir: a directory that `fit_run` wrote.
        file: .jsonl, .csv, .tsv (also .gz) or .parquet, with the fields of the run's prompt; labels are not needed.
        num_samples: posterior draws; None takes the run's own number.
        decisions: what else to decide on each item, by held-out items under the same draws and temperature.
        progress: show a progress bar.
        say: receives lines for the user.

    Returns:
        The rows in file order, each with "prediction", "probabilities" (label -> probability), "confidence", "margin",
        "entropy" and "mutual_information" (nats) added, and what `decisions` ask for (see `Decisions`). Of a run that
        learns tokens each has the scores of its completion instead (see `completion_scores`). Where a row has a field
        of such a name, the answer's takes its place, and `say` is told.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        DataError: the file cannot be read, or a row lacks a field of the prompt or of the completion.
        ConfigError: a decision cannot be made, as `prepare` has it.
    """
    config, decisions = with_samples(read_config(run_dir), num_samples), decisions or Decisions()
    if decisions.need_held_out:
        refuse_tokens(run_dir, config, "decisions (target_risk, coverage, ood)")
    rows = read_rows(file)
    if learns_tokens(config):
        return score_completions(run_dir, config, rows, str(file), progress=progress, say=say)
    labels = labels_of(config.data)
    examples = examples_for(config.data, rows, with_labels=False, source=str(file))
    held_out = prepare(decisions, config, run_dir)
    run = load_run(run_dir, labels)
    answerer = Answerer(run, config, progress=progress, say=say)
    predictions = answerer(encode_items(examples, run.model, config.data, str(file)))
    decided = decide(predictions, answerer, decisions, held_out, labels)
    answers = zip(answers_of(predictions, labels), decided, strict=True)
    return with_fields(rows, [answer | more for answer, more in answers], say)


def tune(config: RunConfig, data: TaskData, progress: bool = True, say: Say = print) -> Tuning:
    """Search for settings that do better on the held-out items than the configuration's own; test items are not used.

    Each trial is the run of `fit_run` with other settings: same items, same seed, same draws. Trials are kept in the
    run directory as they end; those that an interrupted search has left there are not repeated.

    Args:
        config: the run; `config.tune` bounds the search.
        data: its items.
        progress: show progress bars.
        say: receives a line for each trial.

    Raises:
        BlobPyroError: as `fit_run`.
    """
    path = Path(config.output)

    def measure(trial: RunConfig) -> Measured:
        model, guide, items = _make(trial, data)
        if not (path / CONFIG).exists():
            new_run_directory(config)
            (path / TRIALS).touch()
        start = time.perf_counter()
        nlls = _held_out_nlls(Run(path, model, guide), items, trial, progress)
        blocks = block_list(model.network.get_base_model())
        return Measured(nlls, len(blocks or ()), time.perf_counter() - start)

    log = TrialLog(path, measure)
    try:
        found = search(config, log, start=with_kl_rate(config, len(data.train)), say=say)
    except KeyboardInterrupt as error:
        told = f"{path} holds {len(log)} trials; the same command goes on" if path.exists() else "nothing was saved"
        raise Stopped.after(error, told) from None
    write_json(path / TUNING, found.to_dict())
    return found


def parameter_counts(model: BayesianLoRA, guide: AdapterGuide) -> dict[str, int]:
    """How many numbers the run trained and stores: "adapter_parameters" of the network, "guide_parameters" beside."""
    adapter = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    return {"adapter_parameters": adapter, "guide_parameters": sum(t.numel() for t in guide.tensors().values())}


def _make(config: RunConfig, data: TaskData) -> tuple[BayesianLoRA, AdapterGuide, Items]:
    """Model, guide and encoded items, as the seed has them."""
    pyro.set_rng_seed(config.seed)
    model = build_model(with_class_weights(config, data.train, data.labels), data.labels, num_data=len(data.train))
    items = encode_task(data, model, config)
    count_tokens(model, items.train, config.model)
    return model, build_guide(model, config.guide, config.model.adapter), items


def _held_out_nlls(run: Run, items: Items, config: RunConfig, progress: bool) -> tuple[float, ...] | None:
    """Train, and the NLL of each held-out item; None where the loss was not finite."""
    loader = training_loader(items, run.model, config, config.seed)
    try:
        fit(run.model, run.guide, loader, config.train, progress=progress, description="tune")
    except NonFiniteLossError:
        return None
    kind, count = kind_of(config), num_draws(run.guide, config)
    return kind.nlls(kind.predict(run, items.validation, config, count, progress))


def encode_task(data: TaskData, model: BayesianLoRA, config: RunConfig) -> Items:
    source = config.data.train_file
    train, validation = (encode_items(part, model, config.data, source) for part in (data.train, data.validation))
    test = encode_items(data.test, model, config.data, config.data.test_file)
    return Items(train, test, validation, data.labels)
