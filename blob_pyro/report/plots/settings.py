"""Scores against settings: prior scale and KL rate (the paper's Figure 4), as lines and as a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from blob_pyro.errors import DataError
from blob_pyro.evaluation.metrics import Scores
from blob_pyro.report.plots.cells import draw_cells
from blob_pyro.report.plots.panels import Panels
from blob_pyro.report.plots.saving import figure_of
from blob_pyro.report.plots.style import (
    ACCURACY,
    COLOURS,
    ECE,
    MARKERS,
    NLL,
    SINGLE_RUN,
    Score,
    Spread,
    check_some,
    light_grid,
    spread_note,
    tick_values,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Runs = Mapping[float, Sequence[Scores]]


def settings_plot(
    scores: Mapping[str, Runs], *, marked: Mapping[str, float] | None = None, ax: Iterable[Axes] | None = None
) -> tuple[Axes, ...]:
    """ECE, NLL and accuracy (rows) against each of several settings (columns), on logarithmic axes.

    Points are means over the seeds, bars one standard deviation (n - 1) to either side; small dots are the single
    runs. A row has one scale, so that columns can be compared.

    Args:
        scores: setting, as its axis is to be labelled -> value above 0 -> the metrics of its seeds.
        marked: setting -> the value to mark with a dotted line, the default, say.
        ax: three rows of an axes for each setting; None makes a figure.

    Returns:
        The axes, rows first.

    Raises:
        DataError: there is no setting, a value that is not above 0, or a value without metrics.

    Source: BLoB, arXiv 2406.11675, Figure 4.

    Example:
        >>> from blob_pyro.evaluation import Metrics
        >>> metrics = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> runs = {0.1: [metrics], 0.2: [metrics]}
        >>> axes = settings_plot({"prior scale": runs, "KL learning rate": runs}, marked={"prior scale": 0.2})
        >>> len(axes), axes[-1].get_xlabel()
        (6, 'KL learning rate')
    """
    check_some("scores", scores, "setting")
    note = spread_note(runs for by_value in scores.values() for runs in by_value.values())
    columns = len(scores)
    panels = Panels.of(ax, 3, columns, (1.2 + 3.4 * columns, 6.6), sharex="col", sharey="row")
    grid = [panels.axes[row * columns : (row + 1) * columns] for row in range(3)]
    for row, score in zip(grid, (ECE, NLL, ACCURACY), strict=True):
        for axes, (setting, by_value) in zip(row, scores.items(), strict=True):
            _check_positive(setting, by_value)
            _draw_points(axes, score, by_value)
            tick_values(axes, by_value)
            if marked and setting in marked:
                axes.axvline(marked[setting], color="black", linestyle=":", linewidth=1.5, zorder=1)
            light_grid(axes)
        row[0].set_ylabel(f"{score.label}\n{score.better} is better")
    for axes, setting in zip(grid[-1], scores, strict=True):
        axes.set_xlabel(setting)
    if panels.own:
        figure_of(panels.axes).align_ylabels([row[0] for row in grid])
    panels.note(f"{note}{'; dotted: the default' if marked else ''}")
    return panels.axes


def settings_heatmap(
    scores: Mapping[tuple[float, float], Sequence[Scores]],
    *,
    names: tuple[str, str] = ("KL learning rate", "prior scale $\\sigma_p$"),
    marked: tuple[float, float] | None = None,
    ax: Iterable[Axes] | None = None,
) -> tuple[Axes, ...]:
    """ECE, NLL and accuracy on a grid of two settings, a cell for each pair that was run.

    A cell has the mean over its seeds, and below it the standard deviation (n - 1), where there are several. The
    lighter, the better, in all three. Pairs that were not run are hatched.

    Args:
        scores: (value along x, value along y) -> the metrics of its seeds.
        names: of the two settings, for the axes.
        marked: the pair to put a frame around: the default, say.
        ax: three axes; None makes a figure.

    Returns:
        The axes of ECE, NLL and accuracy.

    Raises:
        DataError: there is no pair, or one without metrics.

    Source: BLoB, arXiv 2406.11675, Figure 4.

    Example:
        >>> from blob_pyro.evaluation import Metrics
        >>> metrics = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> axes = settings_heatmap({(0.01, 0.1): [metrics], (0.01, 0.2): [metrics], (0.05, 0.2): [metrics]})
        >>> [ax.get_title() for ax in axes]
        ['ECE (%), lower is better', 'NLL (nats per item), lower is better', 'accuracy (%), higher is better']
    """
    check_some("scores", {str(pair): runs for pair, runs in scores.items()}, "pair of settings")
    note = spread_note(scores.values())
    columns, rows = (sorted({pair[axis] for pair in scores}) for axis in (0, 1))
    width = 3 * (1.0 + 0.62 * max(3, len(columns)))
    panels = Panels.of(ax, 1, 3, (width, 1.4 + 0.58 * len(rows)))
    for axes, score in zip(panels.axes, (ECE, NLL, ACCURACY), strict=True):
        spreads = {pair: Spread.of(score, runs) for pair, runs in scores.items()}
        grid = [[spreads[x, y].mean if (x, y) in spreads else math.nan for x in columns] for y in rows]
        texts = [[_cell_text(score, spreads.get((x, y))) for x in columns] for y in rows]
        draw_cells(axes, grid, texts, dark_is_high=score.better == "lower")
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.set_title(f"{score.label}, {score.better} is better", fontsize="medium")
        if marked in spreads:
            _frame(axes, columns.index(marked[0]), rows.index(marked[1]))
    panels.note(f"{note}{'; framed: the default' if marked in scores else ''}")
    return panels.axes


def _cell_text(score: Score, spread: Spread | None) -> str:
    """The mean and, below it, the deviation where there is one."""
    if spread is None:
        return ""
    decimals = 1 if score.factor == 100 else 3
    below = "" if math.isnan(spread.deviation) else f"\n± {spread.deviation:.{decimals}f}"
    return f"{spread.mean:.{decimals}f}{below}"


def _frame(ax: Axes, column: int, row: int) -> None:
    """A frame around a cell, dark in light, so that it is seen on any colour."""
    from matplotlib.patches import Rectangle

    for colour, width in (("white", 4.0), ("black", 1.8)):
        place = (column - 0.46, row - 0.46)
        ax.add_patch(Rectangle(place, 0.92, 0.92, fill=False, edgecolor=colour, linewidth=width))


def _draw_points(ax: Axes, score: Score, by_value: Runs) -> None:
    """Means with bars, joined by a line, among the single runs."""
    values = sorted(by_value)
    spreads = [Spread.of(score, by_value[value]) for value in values]
    runs = [(value, score.of(run)) for value in values for run in by_value[value] if len(by_value[value]) > 1]
    if runs:
        ax.plot(*zip(*runs, strict=True), zorder=3, **SINGLE_RUN)
    ax.errorbar(
        values, [spread.mean for spread in spreads], yerr=[spread.width for spread in spreads],
        color=COLOURS[0], marker=MARKERS[0], markersize=5, linewidth=1.4, elinewidth=1.2, capsize=3,
    )  # fmt: skip


def _check_positive(setting: str, by_value: Runs) -> None:
    """Raise unless every value has a place on a logarithmic axis."""
    for value in by_value:
        if not (math.isfinite(value) and value > 0):
            raise DataError(f"scores[{setting!r}]: expected values above 0, for a logarithmic axis; got {value}")
