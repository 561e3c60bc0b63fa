"""The paper's Table 1 (a decoder, six tasks), its table of RoBERTa (an encoder, five), and BLoB without its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from blob_pyro.config.methods import ABLATIONS
from blob_pyro.config.sections import RunConfig
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.experiments.paper.settings import config_for, decoder_config, encoder_config
from blob_pyro.experiments.paper.systems import check_order, run_systems, tasks_of
from blob_pyro.experiments.paper.writing import Section, told, write_table

DECODER_TASKS = ("winogrande_s", "arc_challenge", "arc_easy", "winogrande_m", "openbookqa", "boolq")
SMALL_DECODER_TASKS = ("winogrande_s", "arc_easy", "boolq")
ENCODER_TASKS = ("rte", "mrpc", "wic", "cola", "boolq")
SMALL_ENCODER_TASKS = ("rte", "mrpc", "cola")
ABLATION_TASKS, SMALL_ABLATION_TASKS = ("winogrande_s",), ("arc_easy",)


def table1(order: Order) -> Reproduction:
    """Accuracy, NLL, ECE and Brier score of every system on each task.

    Raises:
        ConfigError: a task, seed or setting cannot work.
        ModelLoadError: the model was not found.
        RunDirectoryError: the directory holds runs of another configuration.
        BlobPyroError: no run ended.
    """
    tasks = tasks_of(order, DECODER_TASKS, SMALL_DECODER_TASKS)
    return _table(order, "table1", "Table 1: a decoder, every system, every task", tasks, decoder_config)


def roberta(order: Order) -> Reproduction:
    """The same with an encoder and a classification head.

    Raises:
        BlobPyroError: as `table1`.
    """
    tasks = tasks_of(order, ENCODER_TASKS, SMALL_ENCODER_TASKS)
    return _table(order, "roberta", "An encoder, every system, every task", tasks, encoder_config)


def ablations(order: Order) -> Reproduction:
    """BLoB as it is, and with one of its parts changed or left out: what each part is worth.

    Raises:
        BlobPyroError: as `table1`.
    """
    tasks = tasks_of(order, ABLATION_TASKS, SMALL_ABLATION_TASKS)
    order = dataclasses.replace(order, methods=ABLATIONS if order.methods is None else order.methods)
    return _table(order, "ablations", "BLoB, and BLoB without one of its parts", tasks, config_for)


def _table(
    order: Order, name: str, heading: str, tasks: tuple[str, ...], config_of: Callable[[Order, str], RunConfig]
) -> Reproduction:
    """A section a task; tables are written anew when a task is done."""
    configs = {task: config_of(order, task) for task in tasks}
    check_order(order, configs)
    note = told(order, configs[tasks[0]])
    sections: list[Section] = []
    for number, (task, config) in enumerate(configs.items(), 1):
        order.console.log(f"{task} ({number} of {len(configs)})")
        sections.append(run_systems(order, config))
        if sections[-1].has_outcomes:
            made = write_table(order, name, heading, note, sections)
    return write_table(order, name, heading, note, sections) if not sections[-1].has_outcomes else made
