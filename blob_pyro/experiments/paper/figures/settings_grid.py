"""Figure 4: BLoB under a grid of prior scales and KL learning rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import ConfigError
from blob_pyro.evaluation.metrics import Scores
from blob_pyro.experiments.compare.comparison import run_methods
from blob_pyro.experiments.paper.figures.common import configuration, describe, failed, write
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.report.comparison import Outcome, comparison_csv, comparison_markdown
from blob_pyro.report.plots import settings_heatmap, settings_plot

TASK, SMALL_TASK = "winogrande_s", "arc_easy"
# At each of these the KL steps of the square map are stable (`blob_pyro.experiments.paper.scale_growth`).
FULL_GRID = ((0.05, 0.1, 0.2, 0.3, 0.4), (0.002, 0.005, 0.01, 0.02, 0.05))
SMALL_GRID = ((0.1, 0.2, 0.4), (0.01, 0.03, 0.1))

Grid = tuple[tuple[float, ...], tuple[float, ...]]
Cell = tuple[float, float]
BySeed = Mapping[int, Outcome | None]


def figure4(order: Order, *, grid: Grid | None = None) -> Reproduction:
    """BLoB's scores with draws, for every prior scale under every KL learning rate.

    The cell of the default settings is the run that other figures and tables have; the others are beside it, in
    grid/prior_scale_SCALE_kl_lr_RATE/blob.

    Args:
        order: what was asked for.
        grid: prior scales, and KL learning rates; None takes five by five at full scale and three by three at small.

    Raises:
        ConfigError, RunDirectoryError: as `run_methods`; also where no run ends.

    Source: BLoB, arXiv 2406.11675, Figure 4.
    """
    config = configuration(order, TASK, SMALL_TASK)
    scales, rates = grid or (FULL_GRID if order.scale == "full" else SMALL_GRID)
    if config.train.kl_lr is None:
        raise ConfigError("train.kl_lr: expected a number, as the grid of figure 4 has them; got null")
    found: dict[Cell, BySeed] = {}
    failures: list[str] = []
    for cell in ((scale, rate) for rate in rates for scale in scales):
        order.console.log(cell_name(cell))
        try:
            comparison = run_methods(
                cell_config(config, cell),
                ["blob"],
                order.seeds,
                workers=order.workers,
                console=order.console,
            )
        except ConfigError as error:  # no run of this cell ends; others may
            failures.append(f"{cell_name(cell)}: {error}")
            continue
        failures += [f"{cell_name(cell)}: {failure}" for failure in comparison.failures]
        found[cell] = list(comparison.rows.values())[-1]  # the row with the most draws
    if not found:
        raise ConfigError(failures[0])
    rows = {cell_name(cell): _scores_alone(by_seed) for cell, by_seed in found.items()}
    draws = f"{config.predict.num_samples} draws"
    title = f"Figure 4: BLoB with {draws} under prior scales and KL learning rates; {describe(order, config)}"
    note = f"Default: {cell_name((config.model.prior_scale, config.train.kl_lr))}."
    paragraphs = [title, comparison_markdown(rows), note, failed(tuple(failures))]
    columns = _columns(found)
    marked = {_column_name(config.train.kl_lr): config.model.prior_scale}
    cells = {(rate, scale): runs for (scale, rate), by_seed in found.items() if (runs := _runs(by_seed))}
    default = (config.train.kl_lr, config.model.prior_scale)
    return write(
        order, "figure4", paragraphs, comparison_csv(rows),
        figure4=settings_heatmap(cells, marked=default), figure4_lines=settings_plot(columns, marked=marked),
    )  # fmt: skip


def cell_name(cell: Cell) -> str:
    """ "prior scale SCALE, KL rate RATE"."""
    return f"prior scale {cell[0]:g}, KL rate {cell[1]:g}"


def cell_config(config: RunConfig, cell: Cell) -> RunConfig:
    """`config` under a prior scale and a KL learning rate, with a directory of its own unless they are its own."""
    if cell == (config.model.prior_scale, config.train.kl_lr):
        return config
    scale, rate = cell
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, prior_scale=scale),
        train=dataclasses.replace(config.train, kl_lr=rate),
        output=str(Path(config.output) / "grid" / f"prior_scale_{scale:g}_kl_lr_{rate:g}"),
    )


def _scores_alone(by_seed: BySeed) -> dict[int, Outcome | None]:
    """Without cost: parameters and draws are the same everywhere, and times differ by what else the machine did."""
    return {seed: outcome and Outcome(outcome.metrics) for seed, outcome in by_seed.items()}


def _columns(found: Mapping[Cell, BySeed]) -> dict[str, dict[float, list[Scores]]]:
    """KL learning rate, as its axis is labelled -> prior scale -> the metrics of its seeds."""
    columns: dict[str, dict[float, list[Scores]]] = {}
    for (scale, rate), by_seed in found.items():
        columns.setdefault(_column_name(rate), {})[scale] = _runs(by_seed)
    return columns


def _runs(by_seed: BySeed) -> list[Scores]:
    """The metrics of the runs that are there."""
    return [outcome.metrics for outcome in by_seed.values() if outcome]


def _column_name(rate: float) -> str:
    return f"prior scale at KL learning rate {rate:g}"
