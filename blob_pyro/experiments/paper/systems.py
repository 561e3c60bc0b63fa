"""The paper's systems on one task: runs that resume, and the answers that are read from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch

from blob_pyro.config.methods import METHODS, Method, choose
from blob_pyro.config.sections import RunConfig
from blob_pyro.data.tasks.load import find_task
from blob_pyro.data.tasks.task_data import TaskData
from blob_pyro.errors import BlobPyroError, ConfigError, RunDirectoryError
from blob_pyro.evaluation import calibrated_ece, evaluate
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.experiments.compare.comparison import HELD_OUT_MARK, Comparison, run_methods
from blob_pyro.experiments.compare.runs import run_path
from blob_pyro.experiments.paper.order import Order
from blob_pyro.experiments.paper.writing import Section
from blob_pyro.model.loading import load_tokenizer
from blob_pyro.report.comparison import Outcome, Rows
from blob_pyro.runs.build import build_likelihood, load_data, with_class_weights
from blob_pyro.storage.answers import read_predictions
from blob_pyro.storage.directory import PREDICTIONS
from blob_pyro.system.hub_errors import one_line

SYSTEMS = ("mle", "map", "dropout", "ensemble", "bbb", "laplace", "blob")
"""The rows of the paper's tables, names in `METHODS`."""
FEW_DRAWS = 5


def check_order(order: Order, configs: Mapping[str, RunConfig]) -> None:
    """Refuse what no run could work with, before hours are spent.

    Args:
        order: what is asked for.
        configs: task -> the configuration of its runs.

    Raises:
        ConfigError: there is no task or seed, one comes twice, or a task or method is unknown.
        ModelLoadError: the model was not found.
    """
    if not order.seeds or len(set(order.seeds)) < len(order.seeds):
        raise ConfigError(f"seeds: expected at least one, each once; got {list(order.seeds)}")
    methods_of(order)
    if not configs:
        raise ConfigError("tasks: expected at least one; got none; see blob-pyro tasks")
    for task in configs:
        find_task(task)
    for model in {config.model.id for config in configs.values()}:
        load_tokenizer(model)


def methods_of(order: Order) -> list[Method]:
    """The systems that the order names, or the paper's, each after the one it starts from."""
    return choose(SYSTEMS if order.methods is None else order.methods)


def tasks_of(order: Order, full: Sequence[str], small: Sequence[str]) -> tuple[str, ...]:
    """The tasks that the order names, or those of its scale.

    Raises:
        ConfigError: a task comes twice.
    """
    if order.tasks is None:
        return tuple(full if order.scale == "full" else small)
    if len(set(order.tasks)) < len(order.tasks):
        raise ConfigError(f"tasks: expected each once; got {', '.join(order.tasks)}")
    return tuple(order.tasks)


def run_systems(order: Order, config: RunConfig) -> Section:
    """The paper's systems on one task: a row each, and of BLoB the posterior mean, 5 draws and 10.

    Args:
        order: what is asked for.
        config: what the runs share.

    Returns:
        The rows; none, and the reason, where the task's items cannot be read or every run fails.

    Raises:
        RunDirectoryError: the directory holds runs of another configuration.
    """
    task = str(config.data.task)
    try:
        data = load_data(config, order.seeds[0])  # one answer for all runs where there are no items
        build_likelihood(with_class_weights(config, data.train, data.labels).model, data.labels)
        found = run_methods(
            config,
            [method.name for method in methods_of(order)],
            order.seeds,
            workers=order.workers,
            console=order.console,
        )
    except RunDirectoryError:
        raise
    except (BlobPyroError, OSError) as error:
        failure = one_line(error)
        order.console.log(f"{task}: {failure}")
        return Section(task, {}, (failure,))
    note = " ".join(filter(None, (_without_network(order, config), _floor(found, config))))
    return Section(task, with_few_draws(found, config), found.failures, note)


def _without_network(order: Order, config: RunConfig) -> str:
    """What the label frequencies of the training items would score: whoever does worse has learnt nothing of use."""
    scores = [evaluate(label_frequencies(load_data(config, seed))) for seed in order.seeds]
    accuracy, nll = fmean(score.accuracy for score in scores), fmean(score.nll for score in scores)
    return f"The training items' label frequencies alone: accuracy {100 * accuracy:.1f} %, NLL {nll:.3f}."


def label_frequencies(data: TaskData) -> Predictions:
    """Every test item answered with the label frequencies of the training items, each label counted once more."""
    train, test = (torch.tensor([item.label for item in items]) for items in (data.train, data.test))
    counts = torch.bincount(train, minlength=len(data.labels)) + 1
    probs = (counts / counts.sum()).expand(len(test), -1)
    return Predictions(probs, probs[None], test)


def _floor(found: Comparison, config: RunConfig) -> str:
    """What the ECE of few items is to be read against: that of BLoB's answers, were they calibrated."""
    method = METHODS["blob"]
    ended = [seed for seed, outcome in found.rows.get(_last_row(method, config), {}).items() if outcome is not None]
    paths = [run_path(config, method.name, seed) / PREDICTIONS for seed in ended]
    floors = [calibrated_ece(read_predictions(path))[0] for path in paths if path.is_file()]
    if not floors:
        return ""
    return f"Perfectly calibrated answers as confident as BLoB's would score an ECE of {100 * fmean(floors):.1f} %."


def with_few_draws(found: Comparison, config: RunConfig) -> Rows:
    """The rows, and before BLoB's last one another with the first 5 of its draws.

    The draws of a run are independent, so that the first 5 are what a run with 5 draws is: its answers need no
    forwards of their own.
    """
    method = METHODS["blob"]
    few = [row for row, count in draws_of_rows(method, config).items() if count == FEW_DRAWS]
    rows: Rows = {}
    for row, by_seed in found.rows.items():
        if few and row == _last_row(method, config):
            rows[few[0]] = {
                seed: None if outcome is None else _few(outcome, run_path(config, method.name, seed))
                for seed, outcome in by_seed.items()
            }
        rows[row] = by_seed
    return rows


def draws_of_rows(method: Method, config: RunConfig) -> dict[str, int | None]:
    """Row of the table -> how many draws are behind it; None stands for all that the run makes.

    Example:
        >>> from blob_pyro.config.sections import DataConfig
        >>> draws_of_rows(METHODS["blob"], RunConfig(DataConfig(task="boolq")))
        {'BLoB N=0': 0, 'BLoB N=5': 5, 'BLoB N=10': None}
    """
    rows: dict[str, int | None] = {}
    many = method.configure(config).predict.num_samples
    if method.posterior_mean and many:
        rows[f"{_title(method)} N=0"] = 0
        if method.name == "blob" and many > FEW_DRAWS:
            rows[f"{_title(method)} N={FEW_DRAWS}"] = FEW_DRAWS
    return rows | {_last_row(method, config): None}


def _last_row(method: Method, config: RunConfig) -> str:
    title, many = _title(method), method.configure(config).predict.num_samples
    return f"{title} N={many}" if method.posterior_mean and many else title


def _title(method: Method) -> str:
    return method.title + (HELD_OUT_MARK if method.held_out else "")


def _few(outcome: Outcome, path: Path) -> Outcome:
    """The outcome with the first draws of a run alone."""
    metrics = evaluate(read_predictions(path / PREDICTIONS).first_draws(FEW_DRAWS))
    return dataclasses.replace(outcome, metrics=metrics, num_samples=FEW_DRAWS)
