"""How the standard deviation of each parametrisation grows under the KL alone (the paper's Figure 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blob_pyro.errors import DataError
from blob_pyro.report.plots.panels import axes_or_new
from blob_pyro.report.plots.sources import Trained, named, steps_of
from blob_pyro.report.plots.style import GREY, LINES, check_some, light_grid, series
from blob_pyro.storage.saving import Run
from blob_pyro.training.svi import StepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import TypeIs

Curve = tuple[Tensor | Sequence[float], Tensor | Sequence[float]]


def growth_plot(
    curves: Mapping[str, Curve | Trained] | Trained, *, prior_scale: float | None = None, ax: Axes | None = None
) -> Axes:
    """Standard deviation against optimiser steps, one line a parametrisation, both axes linear.

    Where all growth is within the first few steps, ``ax.set_xscale("symlog")`` spreads them.

    Args:
        curves: label -> (steps, standard deviations), two sequences of one length; or label -> a run, or the steps
            of a training, whose mean posterior standard deviation is drawn; or one such run alone.
        prior_scale: where the prior's standard deviation is marked, to which all of them tend; None marks nothing.
        ax: where to draw; None makes a figure.

    Raises:
        DataError: there is no curve, its two sequences have different lengths, or a training has no spread to show.

    Source: BLoB, arXiv 2406.11675, Figure 2.

    Example:
        >>> ax = growth_plot({"square": ([0, 1, 2], [0.01, 0.1, 0.2])}, prior_scale=0.2)
        >>> ax.get_xlabel()
        'optimiser steps on the KL alone'
    """
    curves = named(curves, "posterior mean σ")
    check_some("curves", curves, "label")
    ax = axes_or_new(ax, 5.4, 3.6)
    trained = False
    for index, (label, found) in enumerate(curves.items()):
        curve = found if _is_curve(found) else _of_training(label, found)
        trained = trained or curve is not found
        x, y = (torch.as_tensor(one, dtype=torch.float64) for one in curve)
        if x.shape != y.shape or x.dim() != 1 or not len(x):
            raise DataError(
                f"curves[{label!r}]: expected steps and values of one length; got {tuple(x.shape)} and "
                f"{tuple(y.shape)}; give one standard deviation a step"
            )
        look = series(index) | {"marker": ""}
        ax.plot(x.numpy(), y.numpy(), label=label, linewidth=1.8, **look)
    if prior_scale is not None:
        ax.axhline(prior_scale, color=GREY, linewidth=1.0, linestyle=LINES[3], label=f"prior ({prior_scale:g})")
    ax.set(xlabel=f"optimiser steps{'' if trained else ' on the KL alone'}", ylabel="posterior standard deviation")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    light_grid(ax)
    ax.legend(frameon=False, fontsize="small")
    return ax


def _is_curve(found: Curve | Trained) -> TypeIs[Curve]:
    """Whether it is a pair of sequences, and not steps of a training or a run."""
    of_steps = isinstance(found, Sequence) and bool(found) and isinstance(found[0], StepResult)
    return not of_steps and not isinstance(found, Run | Path | str)


def _of_training(label: str, source: Trained) -> Curve:
    """Steps and mean standard deviations of a training, without the steps that tell none."""
    told = [step for step in steps_of(source) if step.scale is not None and math.isfinite(step.scale)]
    if not told:
        raise DataError(
            f"curves[{label!r}]: expected a training with a spread; its steps tell of none: a point has none"
        )
    return [step.step for step in told], [step.scale or 0.0 for step in told]
