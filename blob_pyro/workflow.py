"""A whole run, once through: data -> model -> guide -> SVI -> predictive -> metrics -> run directory."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro

from blob_pyro.adapters.blocks import block_list
from blob_pyro.answering import (
    Answerer,
    Say,
    found_temperature,
    load_run,
    num_draws,
    predict_items,
    with_fields,
    with_samples,
)
from blob_pyro.building import (
    build_guide,
    build_model,
    check_guide,
    encode_items,
    in_authors_order,
    labels_of,
    load_data,
    with_class_weights,
)
from blob_pyro.checkpoint import Run, save
from blob_pyro.config import RunConfig
from blob_pyro.data.collate import EncodedDataset, padding_id
from blob_pyro.data.files import read_rows
from blob_pyro.data.loaders import ordered_loader, predict_loader, train_loader
from blob_pyro.data.own_files import with_labels
from blob_pyro.data.task_data import TaskData
from blob_pyro.data.tasks import examples_for
from blob_pyro.deciding import Decisions, decide, prepare
from blob_pyro.errors import ConfigError, DataError, NonFiniteLossError
from blob_pyro.evaluation import Metrics, evaluate
from blob_pyro.guides import GUIDES, AdapterGuide, EnsembleGuide, LaplaceGuide, PostHocGuide
from blob_pyro.inference.ensemble import fit_ensemble
from blob_pyro.inference.svi import StepResult
from blob_pyro.inference.trainer import fit
from blob_pyro.model import BayesianLoRA
from blob_pyro.predictions import Predictions
from blob_pyro.report.answers import answers_of, write_predictions
from blob_pyro.run_directory import (
    CONFIG,
    COST,
    HISTORY,
    METRICS,
    PREDICTIONS,
    RELIABILITY,
    new_run_directory,
    read_config,
    read_json,
    refuse_used_directory,
    write_json,
)
from blob_pyro.tuning import (
    TRIALS,
    TUNING,
    Measured,
    TrialLog,
    Tuning,
    check_tuning,
    is_unfinished_search,
    label_nlls,
    search,
    with_kl_rate,
)

POST_HOC_BATCH_SIZE = 16  # what comes out does not depend on it


@dataclass(frozen=True)
class RunResult:
    """What a finished run found.

    Attributes:
        path: the run directory.
        metrics: "N=0" (posterior mean) and "N=<draws>" -> metrics on the test items; empty without any.
        predictions: the same keys -> predictions in the order of the test items.
    """

    path: Path
    metrics: dict[str, Metrics]
    predictions: dict[str, Predictions]


@dataclass(frozen=True)
class Items:
    """The encoded items of a run; `labels` are the answer words."""

    train: EncodedDataset
    test: EncodedDataset
    validation: EncodedDataset
    labels: tuple[str, ...]


def fit_run(config: RunConfig, *, progress: bool = True, say: Say = print) -> RunResult:
    """Fine-tune, predict the test items, and write the run directory.

    With `config.tune.search` the settings are searched first (`tune`); the run's config.yaml stays the configuration
    that was asked for. Nothing is written before training starts. When training stops early (NaN loss, Ctrl-C) the
    last good state is saved before the error goes on; its message says where.

    Args:
        config: the run.
        progress: show progress bars.
        say: receives lines for the user.

    Raises:
        BlobPyroError: one of its kinds, with a one-line message, for whatever the user can mend.
    """
    config = with_read_labels(config, say)
    if not is_unfinished_search(config):
        refuse_used_directory(config.output)
    _check(config)
    data = load_data(config)
    for note in data.notes:
        say(note)
    tuning = tune(config, data, progress, say) if config.tune.search else None
    chosen = config if tuning is None else tuning.config
    model, guide, items = _make(chosen, data)
    path = new_run_directory(config) if tuning is None else Path(config.output)
    start = time.perf_counter()
    learn(model, guide, items, chosen, path, progress)
    cost = {"train_seconds": time.perf_counter() - start}
    if tuning is not None:
        cost["tune_seconds"] = tuning.seconds
    write_json(path / COST, cost | parameter_counts(model, guide))
    say(f"saved adapter and posterior in {path}")
    try:
        return _evaluate(Run(path, model, guide), items, config, progress, say)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{path} holds the adapter and posterior, but no metrics yet") from None


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

    The draws are those of `fit_run` (same seed): with the run's own number of them so are the metrics.

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
    data = load_data(config)
    if not data.test:
        raise DataError(f"{run_dir}: expected a run with test items; it has none; use `blob-pyro predict` on a file")
    run = load_run(run_dir, data.labels)
    return _evaluate(run, encode_task(data, run.model, config), config, progress, say)


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
        file: .jsonl, .csv (both also .gz) or .parquet, with the fields of the run's prompt; labels are not needed.
        num_samples: posterior draws; None takes the run's own number.
        decisions: what else to decide on each item, by held-out items under the same draws and temperature.
        progress: show a progress bar.
        say: receives lines for the user.

    Returns:
        The rows in file order, each with "prediction", "probabilities" (label -> probability), "confidence", "margin",
        "entropy" and "mutual_information" (nats) added, and what `decisions` ask for (see `Decisions`). Where a row
        has a field of such a name, the answer's takes its place, and `say` is told.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        DataError: the file cannot be read, or a row lacks a field of the prompt.
        ConfigError: a decision cannot be made, as `prepare` has it.
    """
    config, decisions = with_samples(read_config(run_dir), num_samples), decisions or Decisions()
    labels = labels_of(config.data)
    rows = read_rows(file)
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
    except KeyboardInterrupt:
        told = f"{path} holds {len(log)} trials; the same command goes on" if path.exists() else "nothing was saved"
        raise KeyboardInterrupt(told) from None
    write_json(path / TUNING, found.to_dict())
    return found


def learn(
    model: BayesianLoRA, guide: AdapterGuide, items: Items, config: RunConfig, path: Path, progress: bool
) -> None:
    """Train and save into `path`; what was learnt is saved also when training stops early."""
    if isinstance(guide, EnsembleGuide):
        with _History(path, items.train, model, guide) as history:
            loaders = [_train_loader(items, model, config, config.seed + k) for k in range(guide.num_members)]
            fit_ensemble(
                model, guide, loaders, config.train, seed=config.seed, progress=progress, callbacks=[history.record]
            )
        return
    trained = GUIDES[guide.trained_as](model) if isinstance(guide, PostHocGuide) else guide
    if not (isinstance(guide, PostHocGuide) and config.model.adapter):
        with _History(path, items.train, model, trained) as history:
            fit(
                model, trained, _train_loader(items, model, config, config.seed), config.train,
                progress=progress, callbacks=[history.record], description=config.guide.name,
            )  # fmt: skip
    if isinstance(guide, PostHocGuide):
        batches, held_out = (_batches(part, model) for part in (items.train, items.validation))
        guide.fit(batches, held_out if len(items.validation) else None)
        save(path, model, guide)


def parameter_counts(model: BayesianLoRA, guide: AdapterGuide) -> dict[str, int]:
    """How many numbers the run trained and stores: "adapter_parameters" of the network, "guide_parameters" beside."""
    adapter = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    return {"adapter_parameters": adapter, "guide_parameters": sum(t.numel() for t in guide.tensors().values())}


class _History:
    """Writes one line a step, and saves when training ends, however it ends."""

    def __init__(self, path: Path, train: EncodedDataset, model: BayesianLoRA, guide: AdapterGuide) -> None:
        self.path, self.train, self.model, self.guide = path, train, model, guide

    def __enter__(self) -> _History:
        self._file = (self.path / HISTORY).open("w", encoding="utf-8")
        return self

    def record(self, result: StepResult) -> None:
        """Append one step."""
        self._file.write(json.dumps(dataclasses.asdict(result)) + "\n")
        self._file.flush()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        save(self.path, self.model, self.guide)
        if isinstance(error, NonFiniteLossError):
            raise NonFiniteLossError(self._where_it_failed(error), error.items) from error
        if isinstance(error, KeyboardInterrupt):
            told = f"{self.path} holds the adapter and posterior after step {self._last_step()}"
            raise KeyboardInterrupt(told) from None

    def _last_step(self) -> int:
        """Of the last line that was written, since Ctrl-C may come right after writing it; 0 without any."""
        lines = (self.path / HISTORY).read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def _where_it_failed(self, error: NonFiniteLossError) -> str:
        """The message of a loss that is not finite, with the items' names and what was saved."""
        names = ", ".join(self.train.examples[i].id for i in error.items)
        steps = self._last_step()
        saved = f"the parameters before step {steps}, whose loss was finite" if steps else "the untrained parameters"
        return f"{error} ({names} of the training data); {self.path} holds {saved}"


def _check(config: RunConfig) -> None:
    """What one section asks of another, before anything is loaded."""
    check_guide(config.guide)
    check_tuning(config)
    if config.predict.temperature and not config.data.num_validation:
        raise ConfigError("predict.temperature: expected held-out items to fit it with; set data.num_validation")
    if config.predict.sampling == "logits" and GUIDES[config.guide.name] is not LaplaceGuide:
        raise ConfigError(f"predict.sampling: expected 'weights' with the guide {config.guide.name!r}; got 'logits'")


def _make(config: RunConfig, data: TaskData) -> tuple[BayesianLoRA, AdapterGuide, Items]:
    """Model, guide and encoded items, as the seed has them."""
    pyro.set_rng_seed(config.seed)
    model = build_model(with_class_weights(config, data.train, data.labels), data.labels, num_data=len(data.train))
    items = encode_task(data, model, config)
    return model, build_guide(model, config.guide, config.model.adapter), items


def _held_out_nlls(run: Run, items: Items, config: RunConfig, progress: bool) -> tuple[float, ...] | None:
    """Train, and the NLL of each held-out item; None where the loss was not finite."""
    loader = _train_loader(items, run.model, config, config.seed)
    try:
        fit(run.model, run.guide, loader, config.train, progress=progress, description="tune")
    except NonFiniteLossError:
        return None
    count = num_draws(run.guide, config)
    return label_nlls(predict_items(run, items.validation, config, count, progress))


def encode_task(data: TaskData, model: BayesianLoRA, config: RunConfig) -> Items:
    source = config.data.train_file
    train, validation = (encode_items(part, model, config.data, source) for part in (data.train, data.validation))
    test = encode_items(data.test, model, config.data, config.data.test_file)
    return Items(train, test, validation, data.labels)


def _train_loader(items: Items, model: BayesianLoRA, config: RunConfig, seed: int) -> Any:
    train = config.train
    pad = padding_id(model.tokenizer)
    if in_authors_order(config):
        return ordered_loader(items.train, train.batch_size, pad)
    return train_loader(items.train, train.batch_size, pad, seed, group_by_length=train.group_by_length)


def _batches(items: EncodedDataset, model: BayesianLoRA) -> Any:
    """Batches in the order of the items, for guides that are fitted to them."""
    return predict_loader(items, POST_HOC_BATCH_SIZE, padding_id(model.tokenizer))


def _evaluate(run: Run, items: Items, config: RunConfig, progress: bool, say: Say) -> RunResult:
    """Predict with the posterior mean and with draws; write metrics, predictions and diagram."""
    if not len(items.test):
        return RunResult(run.path, {}, {})
    counts = sorted({0, num_draws(run.guide, config)})
    start = time.perf_counter()
    predictions = {f"N={count}": predict_items(run, items.test, config, count, progress) for count in counts}
    cost = {"predict_seconds": time.perf_counter() - start}
    if config.predict.temperature:
        scaled = {
            count: found_temperature(predict_items(run, items.validation, config, count, progress), count, say)
            for count in counts
        }
        predictions = {f"N={count}": scaled[count](predictions[f"N={count}"]) for count in counts}
        cost |= {f"temperature_N={count}": found.value for count, found in scaled.items()}
    metrics = {name: evaluate(found) for name, found in predictions.items()}
    last = predictions[f"N={counts[-1]}"]
    write_predictions(run.path / PREDICTIONS, last, items.test.examples, items.labels)
    _write_diagram(run.path / RELIABILITY, last)
    write_json(run.path / COST, read_json(run.path / COST) | cost)
    write_json(run.path / METRICS, {name: found.to_dict() for name, found in metrics.items()})
    return RunResult(run.path, metrics, predictions)


def _write_diagram(path: Path, predictions: Predictions) -> None:
    from blob_pyro.report.plots import reliability_diagram, save_figure

    save_figure(reliability_diagram(predictions), path)
