"""Training curves: NLL, KL, KL weight and the posterior's spread, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from blob_pyro.report.plots.panels import Panels
from blob_pyro.report.plots.sources import Trained, members_of, named, steps_of
from blob_pyro.report.plots.style import COLOURS, GREY, ORANGE, check_some, light_grid, series
from blob_pyro.training.svi import StepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"nll": "NLL", "kl": "KL (total nats)", "kl_weight": "KL weight", "scale": "mean posterior σ"}


def training_curves(sources: Mapping[str, Trained] | Trained, *, ax: Iterable[Axes] | None = None) -> tuple[Axes, ...]:
    """NLL, KL, the KL's weight and the mean posterior standard deviation against the optimiser's steps.

    The NLL is that of a few items under one draw, and noisy: the line is its mean over the last twentieth of the
    steps, and of a single training dots are the steps themselves. Where held-out items were scored, triangles are their
    NLL; crosses at the bottom are steps that were skipped. The KL has a logarithmic axis where it is above 0. Of an
    ensemble each member has its line.

    Args:
        sources: name -> a run, or the steps of a training; or one of these alone.
        ax: four axes; None makes a figure.

    Returns:
        The axes of NLL, KL, KL weight and standard deviation.

    Raises:
        DataError: there is no training, or one without a step.
        RunDirectoryError: a run without history.jsonl.

    Example:
        >>> steps = [StepResult(1.0 / step, 100.0, 0.5, 51.0, step, scale=0.01) for step in range(1, 9)]
        >>> [axes.get_ylabel() for axes in training_curves(steps)]
        ['NLL', 'KL (total nats)', 'KL weight', 'mean posterior σ']
    """
    by_name: Mapping[str, Trained] = named(sources)
    check_some("sources", dict.fromkeys(by_name, 1), "training")
    panels = Panels.of(ax, 2, 2, (9.0, 5.6))
    trainings = {name: members_of(steps_of(source)) for name, source in by_name.items()}
    for axes, field in zip(panels.axes, NAMES, strict=True):
        for index, (name, members) in enumerate(trainings.items()):
            for position, steps in enumerate(members):
                alone = len(trainings) == 1 and len(members) == 1
                _draw_steps(axes, field, steps, index, name if position == 0 else "", alone=alone)
        _finish(axes, field)
    held_out = any(step.held_out_nll is not None for members in trainings.values() for one in members for step in one)
    if len(trainings) > 1 or held_out:
        handles, labels = panels.axes[0].get_legend_handles_labels()
        once = {label: handle for handle, label in zip(handles[::-1], labels[::-1], strict=True)}
        panels.legend(list(once.values())[::-1], list(once)[::-1])
    return panels.axes


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and those before it, `window` in all; what is not finite is left out of it.

    Example:
        >>> running_mean([1.0, 3.0, float("nan"), 5.0], 2)
        [1.0, 2.0, 3.0, 5.0]
    """
    numbers = torch.tensor(values, dtype=torch.float64)
    there = numbers.isfinite()
    sums = torch.where(there, numbers, 0.0).cumsum(0)
    counts = there.long().cumsum(0)
    first = torch.zeros(min(window, len(values)), dtype=torch.float64)
    before = torch.cat([first, sums[:-window]]) if window < len(values) else torch.zeros_like(sums)
    before_counts = torch.cat([first.long(), counts[:-window]]) if window < len(values) else torch.zeros_like(counts)
    return ((sums - before) / (counts - before_counts)).tolist()


def _draw_steps(ax: Axes, field: str, steps: Sequence[StepResult], index: int, name: str, *, alone: bool) -> None:
    """One training in one panel."""
    x = [step.step for step in steps]
    y = [math.nan if getattr(step, field) is None else float(getattr(step, field)) for step in steps]
    if not any(map(math.isfinite, y)):
        return
    look = series(index) | {"marker": "", "linewidth": 1.7, "label": name or None}
    if field != "nll":
        ax.plot(x, y, **look)
        return
    if alone:
        ax.plot(x, y, linestyle="", marker=".", markersize=3, color=GREY, alpha=0.45, zorder=1, label="a step")
        look["label"] = name or "running mean"
    ax.plot(x, running_mean(y, max(1, len(y) // 20)), zorder=3, **look)
    scored = [(step.step, step.held_out_nll) for step in steps if step.held_out_nll is not None]
    if scored:
        colour = ORANGE if alone else COLOURS[index % len(COLOURS)]
        label = "held-out items" if alone or (index == 0 and name) else None
        ax.plot(*zip(*scored, strict=True), marker="^", markersize=6, linestyle=":", color=colour,
                label=label, zorder=4)  # fmt: skip
    skipped = [step.step for step in steps if step.skipped]
    if skipped:
        ax.plot(skipped, [0.02] * len(skipped), linestyle="", marker="x", markersize=6, color="black",
                transform=ax.get_xaxis_transform(), label="skipped steps", zorder=5)  # fmt: skip


def _finish(ax: Axes, field: str) -> None:
    """Labels and scale of a panel; words where there is nothing to draw."""
    ax.set(xlabel="step", ylabel=NAMES[field])
    light_grid(ax)
    if not ax.lines:
        words = "no trained spread is recorded" if field == "scale" else "no finite number"
        ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes, fontsize="small", color=GREY)
        ax.set_yticks([])
        return
    heights = [value for line in ax.lines for value in np.asarray(line.get_ydata(), float) if math.isfinite(value)]
    if heights and min(heights) == max(heights) == 0:
        ax.set_ylim(0, 1)
        ax.text(
            0.5, 0.5, "0 at every step", ha="center", va="center", transform=ax.transAxes, fontsize="small", color=GREY
        )
        ax.set_yticks([0])
    elif field == "kl" and heights and min(heights) > 0:
        ax.set_yscale("log")
    else:
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-4, 4))
        if heights and min(heights) >= 0:
            ax.set_ylim(bottom=0)
