"""Scores against the number of draws at prediction (the paper's Figure 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from blob_pyro.errors import DataError
from blob_pyro.evaluation.metrics import Metrics, evaluate
from blob_pyro.report.plots.panels import Panels
from blob_pyro.report.plots.sources import Answered, named, predictions_of
from blob_pyro.report.plots.style import (
    ACCURACY,
    COLOURS,
    ECE,
    LINES,
    NLL,
    Score,
    Spread,
    check_some,
    light_grid,
    series,
    spread_note,
    tick_values,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNTS = (1, 2, 3, 5, 10, 20, 40, 80, 160, 320)
ByCount = Mapping[int, Sequence[Metrics]]


def scores_by_count(source: Answered, counts: Iterable[int] | None = None) -> dict[int, Metrics]:
    """Number of draws N -> the scores of the first N draws, which are what fewer draws would have answered.

    Args:
        source: labelled predictions, or a run.
        counts: numbers of draws; None takes 1, 2, 3, 5, 10, 20, 40, ... up to those that there are.

    Raises:
        DataError, RunDirectoryError: as `reliability_diagram`.
        ValueError: there are fewer draws than a count.

    Example:
        >>> import torch
        >>> from blob_pyro.evaluation.predictions import Predictions
        >>> draws = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
        >>> found = scores_by_count(Predictions(draws.mean(0), draws, torch.tensor([0])))
        >>> {count: round(metrics.nll, 3) for count, metrics in found.items()}
        {1: 0.693, 2: 0.288}
    """
    predictions = predictions_of(source)
    most = len(predictions.draws)
    if counts is None:
        counts = [*(count for count in COUNTS if count < most), most]
    return {count: evaluate(predictions.first_draws(count)) for count in counts}


def num_samples_plot(
    scores: Mapping[str, ByCount | Answered] | Answered, *, ax: Iterable[Axes] | None = None
) -> tuple[Axes, ...]:
    """Accuracy, ECE and NLL against the number of draws N, on a logarithmic axis.

    Lines are means over the seeds, bands one standard deviation (n - 1) to either side. N = 0, the posterior mean or
    a point estimate, has no place on the axis and is a level across it, with its band.

    Args:
        scores: method -> N -> the metrics of its seeds; or method -> predictions, or a run, of which the first draws
            are taken (`scores_by_count`); or one of these alone.
        ax: three axes; None makes a figure.

    Returns:
        The axes of accuracy, ECE and NLL.

    Raises:
        DataError: there is no method, an N below 0, or an N without metrics.

    Source: BLoB, arXiv 2406.11675, Figure 3.

    Example:
        >>> metrics = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> axes = num_samples_plot({"BLoB": {0: [metrics], 1: [metrics], 10: [metrics]}})
        >>> [ax.get_ylabel() for ax in axes]
        ['accuracy (%)', 'ECE (%)', 'NLL (nats per item)']
    """
    scores = named(scores, "mean over N draws")
    check_some("scores", scores, "method")
    found = {method: _by_count(one) for method, one in scores.items()}
    counts = {count for runs in found.values() for count in runs}
    if min(counts) < 0:
        raise DataError(f"scores: expected numbers of draws of at least 0; got {min(counts)}")
    note = spread_note(runs for by_count in found.values() for runs in by_count.values())
    panels = Panels.of(ax, 1, 3, (9.6, 3.5))
    for axes, score in zip(panels.axes, (ACCURACY, ECE, NLL), strict=True):
        for index, (method, by_count) in enumerate(found.items()):
            _draw_line(axes, score, {n: runs for n, runs in by_count.items() if n}, index, method)
            if 0 in by_count:
                label = f"{method}, N = 0" if len(by_count) > 1 else method
                _draw_level(axes, Spread.of(score, by_count[0]), index, label)
        if counts - {0}:
            tick_values(axes, counts - {0})
        axes.set(xlabel="draws N", ylabel=score.label)
        light_grid(axes)
    handles, labels = panels.axes[0].get_legend_handles_labels()
    if panels.own or len(labels) > 1:
        panels.legend(handles, labels)
    panels.note(note)
    return panels.axes


def _by_count(source: ByCount | Answered) -> ByCount:
    """N -> the metrics of all runs."""
    if isinstance(source, Mapping):
        return source
    return {count: [metrics] for count, metrics in scores_by_count(source).items()}


def _draw_line(ax: Axes, score: Score, by_count: ByCount, index: int, label: str) -> None:
    """Means joined by a line, in a band; nothing for no counts."""
    if not by_count:
        return
    counts = sorted(by_count)
    spreads = [Spread.of(score, by_count[count]) for count in counts]
    means, widths = [spread.mean for spread in spreads], [spread.width for spread in spreads]
    ax.plot(counts, means, label=label, markersize=4.5, linewidth=1.6, **series(index))
    low = [mean - width for mean, width in zip(means, widths, strict=True)]
    high = [mean + width for mean, width in zip(means, widths, strict=True)]
    ax.fill_between(counts, low, high, color=COLOURS[index % len(COLOURS)], alpha=0.18, linewidth=0)


def _draw_level(ax: Axes, spread: Spread, index: int, label: str) -> None:
    """A level in a band, without marks and never solid."""
    colour, line = COLOURS[index % len(COLOURS)], LINES[1 + index % (len(LINES) - 1)]
    ax.axhline(spread.mean, color=colour, linestyle=line, linewidth=1.2, label=label)
    if spread.width:
        ax.axhspan(spread.mean - spread.width, spread.mean + spread.width, color=colour, alpha=0.08, linewidth=0)
