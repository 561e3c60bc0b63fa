"""How the standard deviation of each parametrisation grows under the KL alone (the paper's Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blob_pyro.errors import DataError
from blob_pyro.report.style import GREY, LINES, check_some, light_grid, new_figure, series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[Tensor | Sequence[float], Tensor | Sequence[float]]


def growth_plot(curves: Mapping[str, Curve], *, prior_scale: float | None = None) -> Figure:
    """Standard deviation against optimiser steps, one line a parametrisation, both axes linear.

    Where all growth is within the first few steps, ``figure.axes[0].set_xscale("symlog")`` spreads them.

    Args:
        curves: label -> (steps, standard deviations), two sequences of one length.
        prior_scale: where the prior's standard deviation is marked, to which all of them tend; None marks nothing.

    Raises:
        DataError: there is no curve, or its two sequences have different lengths.

    Source: BLoB, arXiv 2406.11675, Figure 2.

    Example:
        >>> figure = growth_plot({"square": ([0, 1, 2], [0.01, 0.1, 0.2])}, prior_scale=0.2)
        >>> figure.axes[0].get_xlabel()
        'optimiser steps on the KL alone'
    """
    check_some("curves", curves, "label")
    figure = new_figure(5.4, 3.6)
    ax = figure.add_subplot()
    for index, (label, (steps, values)) in enumerate(curves.items()):
        x, y = (torch.as_tensor(one, dtype=torch.float64) for one in (steps, values))
        if x.shape != y.shape or x.dim() != 1 or not len(x):
            raise DataError(
                f"curves[{label!r}]: expected steps and values of one length; got {tuple(x.shape)} and "
                f"{tuple(y.shape)}; give one standard deviation a step"
            )
        look = series(index) | {"marker": ""}
        ax.plot(x.numpy(), y.numpy(), label=label, linewidth=1.8, **look)  # type: ignore[arg-type]
    if prior_scale is not None:
        ax.axhline(prior_scale, color=GREY, linewidth=1.0, linestyle=LINES[3], label=f"prior ({prior_scale:g})")
    ax.set(xlabel="optimiser steps on the KL alone", ylabel="posterior standard deviation")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    light_grid(ax)
    ax.legend(frameon=False, fontsize="small")
    return figure
