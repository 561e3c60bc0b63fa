"""Methods beside each other: a chart of their scores, and their reliability diagrams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from blob_pyro.evaluation.tokens import TokenMetrics
from blob_pyro.predictions import Predictions
from blob_pyro.report.plots import reliability_diagram
from blob_pyro.report.style import (
    ACCURACY,
    COLOURS,
    ECE,
    GREY,
    NLL,
    SINGLE_RUN,
    TEXT_NLL,
    TOKEN_NLL,
    Score,
    Spread,
    check_some,
    light_grid,
    new_figure,
    spread_note,
)
from blob_pyro.report.table import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 4


def methods_plot(scores: Mapping[str, Sequence[Scores]]) -> Figure:
    """Accuracy, NLL and ECE of each method, a row a method, from the top in the order given; of texts the two NLLs.

    A dot is the mean over the method's seeds, its bar one standard deviation (n - 1) to either side, and small dots
    are the single runs. Where every method has a single seed, the bar is the standard error over the test items; a
    method that alone has a single one has no bar. The line below says which.

    Args:
        scores: method -> the metrics of its seeds.

    Raises:
        DataError: there is no method, or one without metrics.

    Example:
        >>> from blob_pyro.evaluation import Metrics
        >>> metrics = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> figure = methods_plot({"MLE": [metrics], "BLoB": [metrics]})
        >>> figure.get_supxlabel()
        'one seed; bars: standard error over the test items'
    """
    check_some("scores", scores, "method")
    note = spread_note(scores.values())
    one_seed = all(len(runs) == 1 for runs in scores.values())
    figure = new_figure(9.6, 1.3 + 0.33 * len(scores))
    of_tokens = isinstance(next(iter(scores.values()))[0], TokenMetrics)
    shown = (TOKEN_NLL, TEXT_NLL) if of_tokens else (ACCURACY, NLL, ECE)
    for ax, score in zip(figure.subplots(1, len(shown), sharey=True), shown, strict=True):
        _draw_scores(ax, score, list(scores.values()), one_seed)
        ax.set_xlabel(f"{score.label}\n{score.better} is better")
        light_grid(ax, "x")
    first = figure.axes[0]
    first.set_yticks(range(len(scores)), list(scores))
    first.set_ylim(len(scores) - 0.4, -0.6)
    figure.supxlabel(
        f"{note}; bars: standard error over the test items" if one_seed else note, fontsize="small", color=GREY
    )
    return figure


def reliability_diagrams(predictions: Mapping[str, Predictions], *, num_bins: int = 15) -> Figure:
    """The reliability diagrams of several methods, four a row, each with the method above its ECE.

    Args:
        predictions: method -> labelled predictions of the same items.
        num_bins: bins of equal width.

    Raises:
        DataError: there is no method; or as `evaluate`.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> predictions = Predictions(probs, probs[None], labels=torch.tensor([0, 1, 1]))
        >>> reliability_diagrams({"MLE": predictions}).axes[0].get_title()
        'MLE\\nECE 36.7 % (n = 3)'
    """
    check_some("predictions", predictions, "method")
    columns = min(len(predictions), MOST_COLUMNS)
    rows = math.ceil(len(predictions) / columns)
    height = 3.9 * rows
    figure = new_figure(3.1 * columns + 0.4, height)
    # The strip of counts is no part of a constrained layout, which would let rows overlap.
    figure.set_layout_engine("none")
    spaces = {"wspace": 0.25, "hspace": 0.38, "top": 1 - 0.55 / height}
    places = figure.subplots(rows, columns, squeeze=False, gridspec_kw=spaces).flatten()
    for index, (method, found) in enumerate(predictions.items()):
        ax = reliability_diagram(found, num_bins=num_bins, ax=places[index])
        ax.set_title(f"{method}\n{ax.get_title()}", fontsize="medium")
        ax.legend().remove()
        if index % columns:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
            figure.axes[-1].set_ylabel("")  # of the strip
    for place in places[len(predictions) :]:
        place.remove()
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(4, 2 * columns), frameon=False
    )
    return figure


def _draw_scores(ax: Axes, score: Score, methods: Sequence[Sequence[Scores]], one_seed: bool) -> None:
    """A dot with its bar for each method, among its single runs; every other row has a light ground."""
    for row in range(1, len(methods), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
    runs = [(score.of(run), row) for row, metrics in enumerate(methods) for run in metrics if len(metrics) > 1]
    if runs:
        ax.plot(*zip(*runs, strict=True), zorder=4, **SINGLE_RUN)  # type: ignore[arg-type]
    spreads = [Spread.of(score, metrics) for metrics in methods]
    errors = [score.error_of(metrics[0]) for metrics in methods] if one_seed else [one.width for one in spreads]
    ax.errorbar(
        [spread.mean for spread in spreads], range(len(methods)), xerr=[0.0 if math.isnan(e) else e for e in errors],
        linestyle="", marker="o", markersize=6, color=COLOURS[0], elinewidth=1.6, capsize=3, zorder=2,
    )  # fmt: skip
    ax.tick_params(axis="y", length=0)
