"""Methods (guides) beside each other: a chart of their scores with error bars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from blob_pyro.evaluation.metrics import Scores
from blob_pyro.evaluation.predictions import Predictions, TokenPredictions
from blob_pyro.evaluation.tokens import TokenMetrics
from blob_pyro.report.plots.panels import Panels
from blob_pyro.report.plots.sources import RunLike, scores_of
from blob_pyro.report.plots.style import (
    ACCURACY,
    COLOURS,
    ECE,
    NLL,
    SINGLE_RUN,
    TEXT_NLL,
    TOKEN_NLL,
    Score,
    Spread,
    check_some,
    light_grid,
    spread_note,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def methods_plot(
    scores: Mapping[str, Sequence[Scores] | Predictions | TokenPredictions | RunLike],
    *,
    ax: Iterable[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Accuracy, NLL and ECE of each method, a row a method, from the top in the order given; of texts the two NLLs.

    A dot is the mean over the method's seeds, its bar one standard deviation (n - 1) to either side, and small dots
    are the single runs. Where every method has a single seed, the bar is the standard error over the test items; a
    method that alone has a single one has no bar. The line below says which.

    Args:
        scores: method -> the metrics of its seeds, predictions, or a run.
        ax: three axes, of texts two; None makes a figure.

    Returns:
        The axes of each score.

    Raises:
        DataError: there is no method, or one without metrics.
        RunDirectoryError: a run without metrics.

    Example:
        >>> from blob_pyro.evaluation import Metrics
        >>> metrics = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> axes = methods_plot({"MLE": [metrics], "BLoB": [metrics]})
        >>> axes[0].figure.get_supxlabel()
        'one seed; bars: standard error over the test items'
    """
    check_some("scores", scores, "method")
    found = {method: scores_of(one) for method, one in scores.items()}
    note = spread_note(found.values())
    one_seed = all(len(runs) == 1 for runs in found.values())
    of_tokens = isinstance(next(iter(found.values()))[0], TokenMetrics)
    shown = (TOKEN_NLL, TEXT_NLL) if of_tokens else (ACCURACY, NLL, ECE)
    panels = Panels.of(ax, 1, len(shown), (9.6, 1.3 + 0.33 * len(found)), sharey=True)
    for axes, score in zip(panels.axes, shown, strict=True):
        _draw_scores(axes, score, list(found.values()), one_seed)
        axes.set_xlabel(f"{score.label}\n{score.better} is better")
        light_grid(axes, "x")
        axes.set_ylim(len(found) - 0.4, -0.6)
    for axes in panels.firsts:
        axes.set_yticks(range(len(found)), list(found))
    panels.note(f"{note}; bars: standard error over the test items" if one_seed else note)
    return panels.axes


def _draw_scores(ax: Axes, score: Score, methods: Sequence[Sequence[Scores]], one_seed: bool) -> None:
    """A dot with its bar for each method, among its single runs; every other row has a light ground."""
    for row in range(1, len(methods), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
    runs = [(score.of(run), row) for row, metrics in enumerate(methods) for run in metrics if len(metrics) > 1]
    if runs:
        ax.plot(*zip(*runs, strict=True), zorder=4, **SINGLE_RUN)
    spreads = [Spread.of(score, metrics) for metrics in methods]
    errors = [score.error_of(metrics[0]) for metrics in methods] if one_seed else [one.width for one in spreads]
    ax.errorbar(
        [spread.mean for spread in spreads], range(len(methods)), xerr=[0.0 if math.isnan(e) else e for e in errors],
        linestyle="", marker="o", markersize=6, color=COLOURS[0], elinewidth=1.6, capsize=3, zorder=2,
    )  # fmt: skip
    ax.tick_params(axis="y", length=0)
