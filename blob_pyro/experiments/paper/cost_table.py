"""The paper's table of costs: parameters, time and memory of every system against plain LoRA."""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from blob_pyro.config.methods import METHODS, Method
from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import BlobPyroError, RunDirectoryError
from blob_pyro.experiments.compare.runs import run_path
from blob_pyro.experiments.paper.measuring import MEASURED, STEPS, Cost, measure_apart
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.experiments.paper.settings import decoder_config
from blob_pyro.experiments.paper.systems import check_order, methods_of, tasks_of
from blob_pyro.experiments.paper.writing import told, write_files
from blob_pyro.report.tables import csv_text, markdown_table, value_cell
from blob_pyro.storage.directory import new_run_directory, read_config, read_json
from blob_pyro.system.hub_errors import one_line

TASKS = ("winogrande_s",)
NUM_ITEMS = {"full": 200, "small": 16}
BASE = "mle"
NOTE = (
    f"Each system was measured in a process of its own, all in turn, once for each seed: a training of {STEPS} steps "
    "after a warm-up, scaled to the number of steps above, with what is fitted once at its end; then the test items, "
    "after a warm-up, under N draws; and the peak memory of training, with the model in it. Ratios are to plain LoRA "
    "under the same seed, ± their standard deviation over seeds; other work on the machine moves them."
)
RATIOS: tuple[tuple[str, Callable[[Cost], float]], ...] = (
    ("training", lambda cost: cost.train_seconds),
    ("prediction", lambda cost: cost.predict_seconds),
    ("memory", lambda cost: cost.peak_bytes),
)

Costs = dict[str, dict[int, Cost]]


def cost(order: Order) -> Reproduction:
    """Parameters, and the ratios of training time, prediction time and peak memory to plain LoRA's.

    What was measured is kept, and not measured again.

    Raises:
        ConfigError: a task, seed or setting cannot work.
        ModelLoadError: the model was not found.
        RunDirectoryError: the directory holds measurements of another configuration.
        BlobPyroError: plain LoRA could not be measured.
    """
    task = tasks_of(order, TASKS, TASKS)[:1]
    configs = {name: cost_config(order, name) for name in task}
    check_order(order, configs)
    config = configs[task[0]]
    names = dict.fromkeys([BASE, *(method.name for method in methods_of(order))])
    wanted = {(seed, name): _wanted(config, METHODS[name], seed) for seed in order.seeds for name in names}
    for one in wanted.values():
        _refuse_other(one)
    costs: Costs = {name: {} for name in names}
    failures: list[str] = []
    for number, ((seed, name), one) in enumerate(wanted.items(), 1):
        order.console.log(f"[{number}/{len(wanted)}] {name}, seed {seed}")
        try:
            costs[name][seed] = _measured(one)
        except (BlobPyroError, OSError) as error:
            failures.append(f"{name}, seed {seed}: {one_line(error)}")
            order.console.log(failures[-1])
    if not costs[BASE]:
        raise BlobPyroError(f"cost: expected plain LoRA to be measured; it failed: {failures[0]}")
    text = _markdown(costs, f"{told(order, config)} Task {task[0]}. {NOTE}", failures)
    return Reproduction(text, write_files(order, "cost", text, _csv(costs)))


def cost_config(order: Order, task: str) -> RunConfig:
    """The settings of a run, with few items to predict."""
    config = decoder_config(order, task)
    num_test = min(config.data.num_test or math.inf, NUM_ITEMS[order.scale])
    data = dataclasses.replace(config.data, num_test=int(num_test))
    return dataclasses.replace(config, data=data, output=f"{config.output}-cost")


def _wanted(config: RunConfig, method: Method, seed: int) -> RunConfig:
    """The configuration of one measurement; what starts from another method's run is trained as that one."""
    own = method.configure(config)
    if method.after is not None:
        own = dataclasses.replace(own, train=METHODS[method.after].configure(config).train)
    return dataclasses.replace(own, seed=seed, output=str(run_path(config, method.name, seed)))


def _refuse_other(config: RunConfig) -> None:
    """Raise where measurements of another configuration are in the way."""
    if (Path(config.output) / MEASURED).is_file() and read_config(config.output) != config:
        raise RunDirectoryError(
            f"{config.output}: expected a measurement of this configuration; it was made with another; "
            "choose another --out"
        )


def _measured(config: RunConfig) -> Cost:
    """What is measured already, or is now."""
    path = Path(config.output)
    if (path / MEASURED).is_file():
        return Cost(**read_json(path / MEASURED))
    shutil.rmtree(path, ignore_errors=True)  # a measurement that did not end
    return measure_apart(new_run_directory(config))


def _markdown(costs: Costs, note: str, failures: list[str]) -> str:
    header = ["method", "N", "parameters", *(f"{name} ratio" for name, _ in RATIOS)]
    body = [_row(name, by_seed, costs[BASE]) for name, by_seed in costs.items()]
    failed = [f"Failed: {failure.removesuffix('.')}." for failure in failures]
    return "\n\n".join(["# What it costs", note, markdown_table(header, body), *failed])


def _row(name: str, by_seed: Mapping[int, Cost], base: Mapping[int, Cost]) -> list[str]:
    """Cells of one method; "-" for what could not be measured."""
    if not by_seed:
        return [METHODS[name].title, *["-"] * (2 + len(RATIOS))]
    first = next(iter(by_seed.values()))
    cells = [METHODS[name].title, str(first.num_samples), f"{first.parameters:,}"]
    for _, of in RATIOS:
        ratios = [of(found) / of(base[seed]) for seed, found in by_seed.items() if seed in base]
        spread = statistics.stdev(ratios) if len(ratios) > 1 and name != BASE else math.nan
        cells.append(value_cell(statistics.fmean(ratios), spread, 1, 2) if ratios else "-")
    return cells


def _csv(costs: Costs) -> str:
    """Every measurement, in seconds and bytes, and its ratios."""
    lines: list[dict[str, object]] = []
    for name, by_seed in costs.items():
        for seed, found in by_seed.items():
            base = costs[BASE].get(seed)
            ratios = {f"{ratio}_ratio": of(found) / of(base) if base else None for ratio, of in RATIOS}
            lines.append({"method": METHODS[name].title, "seed": seed, **dataclasses.asdict(found), **ratios})
    return csv_text(lines)
