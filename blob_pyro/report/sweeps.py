"""Scores against a setting: draws at prediction (the paper's Figure 3), prior scale and KL rate (its Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from blob_pyro.errors import DataError
from blob_pyro.evaluation.metrics import Metrics
from blob_pyro.report.style import (
    ACCURACY,
    COLOURS,
    ECE,
    GREY,
    LINES,
    MARKERS,
    NLL,
    SINGLE_RUN,
    Score,
    Spread,
    check_some,
    light_grid,
    new_figure,
    series,
    spread_note,
    tick_values,
)
from blob_pyro.report.table import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Runs = Mapping[float, Sequence[Scores]]


def num_samples_plot(scores: Mapping[str, Mapping[int, Sequence[Metrics]]]) -> Figure:
    """Accuracy, ECE and NLL against the number of draws N, on a logarithmic axis.

    Lines are means over the seeds, bands one standard deviation (n - 1) to either side. N = 0, the posterior mean or
    a point estimate, has no place on the axis and is a level across it, with its band.

    Args:
        scores: method -> N -> the metrics of its seeds.

    Raises:
        DataError: there is no method, an N below 0, or an N without metrics.

    Source: BLoB, arXiv 2406.11675, Figure 3.

    Example:
        >>> metrics = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> figure = num_samples_plot({"BLoB": {0: [metrics], 1: [metrics], 10: [metrics]}})
        >>> [ax.get_ylabel() for ax in figure.axes]
        ['accuracy (%)', 'ECE (%)', 'NLL (nats per item)']
    """
    check_some("scores", scores, "method")
    counts = {count for runs in scores.values() for count in runs}
    if min(counts) < 0:
        raise DataError(f"scores: expected numbers of draws of at least 0; got {min(counts)}")
    note = spread_note(runs for by_count in scores.values() for runs in by_count.values())
    figure = new_figure(9.6, 3.5)
    for ax, score in zip(figure.subplots(1, 3), (ACCURACY, ECE, NLL), strict=True):
        for index, (method, by_count) in enumerate(scores.items()):
            _draw_line(ax, score, {n: runs for n, runs in by_count.items() if n}, index, method)
            if 0 in by_count:
                _draw_level(
                    ax, Spread.of(score, by_count[0]), index, f"{method}, N = 0" if len(by_count) > 1 else method
                )
        if counts - {0}:
            tick_values(ax, counts - {0})
        ax.set(xlabel="draws N", ylabel=score.label)
        light_grid(ax)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False)
    figure.supxlabel(note, fontsize="small", color=GREY)
    return figure


def settings_plot(scores: Mapping[str, Runs], *, marked: Mapping[str, float] | None = None) -> Figure:
    """ECE, NLL and accuracy (rows) against each of several settings (columns), on logarithmic axes.

    Points are means over the seeds, bars one standard deviation (n - 1) to either side; small dots are the single
    runs. A row has one scale, so that columns can be compared.

    Args:
        scores: setting, as its axis is to be labelled -> value above 0 -> the metrics of its seeds.
        marked: setting -> the value to mark with a dotted line, the default, say.

    Raises:
        DataError: there is no setting, a value that is not above 0, or a value without metrics.

    Source: BLoB, arXiv 2406.11675, Figure 4.

    Example:
        >>> metrics = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> runs = {0.1: [metrics], 0.2: [metrics]}
        >>> figure = settings_plot({"prior scale": runs, "KL learning rate": runs}, marked={"prior scale": 0.2})
        >>> len(figure.axes), figure.axes[-1].get_xlabel()
        (6, 'KL learning rate')
    """
    check_some("scores", scores, "setting")
    note = spread_note(runs for by_value in scores.values() for runs in by_value.values())
    figure = new_figure(1.2 + 3.4 * len(scores), 6.6)
    grid = figure.subplots(3, len(scores), sharex="col", sharey="row", squeeze=False)
    for row, score in zip(grid, (ECE, NLL, ACCURACY), strict=True):
        for ax, (setting, by_value) in zip(row, scores.items(), strict=True):
            _check_positive(setting, by_value)
            _draw_points(ax, score, by_value)
            tick_values(ax, by_value)
            if marked and setting in marked:
                ax.axvline(marked[setting], color="black", linestyle=":", linewidth=1.5, zorder=1)
            light_grid(ax)
        row[0].set_ylabel(f"{score.label}\n{score.better} is better")
    for ax, setting in zip(grid[-1], scores, strict=True):
        ax.set_xlabel(setting)
    figure.align_ylabels(grid[:, 0])
    figure.supxlabel(f"{note}{'; dotted: the default' if marked else ''}", fontsize="small", color=GREY)
    return figure


def _draw_line(ax: Axes, score: Score, by_count: Runs, index: int, label: str) -> None:
    """Means joined by a line, in a band; nothing for no counts."""
    if not by_count:
        return
    counts = sorted(by_count)
    spreads = [Spread.of(score, by_count[count]) for count in counts]
    means, widths = [spread.mean for spread in spreads], [spread.width for spread in spreads]
    ax.plot(counts, means, label=label, markersize=4.5, linewidth=1.6, **series(index))  # type: ignore[arg-type]
    low = [mean - width for mean, width in zip(means, widths, strict=True)]
    high = [mean + width for mean, width in zip(means, widths, strict=True)]
    ax.fill_between(counts, low, high, color=COLOURS[index % len(COLOURS)], alpha=0.18, linewidth=0)


def _draw_level(ax: Axes, spread: Spread, index: int, label: str) -> None:
    """A level in a band, without marks and never solid."""
    colour, line = COLOURS[index % len(COLOURS)], LINES[1 + index % (len(LINES) - 1)]
    ax.axhline(spread.mean, color=colour, linestyle=line, linewidth=1.2, label=label)
    if spread.width:
        ax.axhspan(spread.mean - spread.width, spread.mean + spread.width, color=colour, alpha=0.08, linewidth=0)


def _draw_points(ax: Axes, score: Score, by_value: Runs) -> None:
    """Means with bars, joined by a line, among the single runs."""
    values = sorted(by_value)
    spreads = [Spread.of(score, by_value[value]) for value in values]
    runs = [(value, score.of(run)) for value in values for run in by_value[value] if len(by_value[value]) > 1]
    if runs:
        ax.plot(*zip(*runs, strict=True), zorder=3, **SINGLE_RUN)  # type: ignore[arg-type]
    ax.errorbar(
        values, [spread.mean for spread in spreads], yerr=[spread.width for spread in spreads],
        color=COLOURS[0], marker=MARKERS[0], markersize=5, linewidth=1.4, elinewidth=1.2, capsize=3,
    )  # fmt: skip


def _check_positive(setting: str, by_value: Runs) -> None:
    """Raise unless every value has a place on a logarithmic axis."""
    for value in by_value:
        if not (math.isfinite(value) and value > 0):
            raise DataError(f"scores[{setting!r}]: expected values above 0, for a logarithmic axis; got {value}")
