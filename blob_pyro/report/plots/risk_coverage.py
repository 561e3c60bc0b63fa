"""Risk against coverage: how many errors are left when only the surest answers are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from blob_pyro.evaluation.selective import RiskCoverage, risk_coverage
from blob_pyro.report.plots.panels import axes_or_new
from blob_pyro.report.plots.sources import Answered, named, predictions_of
from blob_pyro.report.plots.style import COLOURS, GREY, check_some, light_grid, series, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BANDS = 3
NUM_MARKS = 8


def risk_coverage_plot(sources: Mapping[str, Answered] | Answered, *, ax: Axes | None = None) -> Axes:
    """The share of errors among the surest answers, against the share of the items that are answered.

    The order is by confidence, the probability of the most probable class. Bands are pointwise 95 % Wilson intervals,
    of up to three methods; the dotted line is what the single method given would have if all its right answers came
    first. AURC is the area under the line: the lower the better.

    Args:
        sources: method -> labelled predictions, or a run; or one of these alone.
        ax: where to draw; None makes a figure.

    Raises:
        DataError: there is no method; or as `risk_coverage`.
        RunDirectoryError: a run without predictions of classes.

    Source: Geifman, Uziel and El-Yaniv, arXiv 1805.08206.

    Example:
        >>> from blob_pyro.evaluation.predictions import Predictions
        >>> probs = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> ax = risk_coverage_plot({"MLE": Predictions(probs, probs[None], labels=torch.tensor([0, 1, 1]))})
        >>> ax.lines[0].get_label()
        'MLE (AURC 0.111)'
    """
    by_method: Mapping[str, Answered] = named(sources)
    check_some("sources", by_method, "method")
    ax = axes_or_new(ax, 5.2, 3.8)
    curves = {method: risk_coverage(predictions_of(source)) for method, source in by_method.items()}
    for index, (method, curve) in enumerate(curves.items()):
        _draw_curve(ax, curve, index, method, with_band=len(curves) <= MOST_BANDS)
    if len(curves) == 1:
        (curve,) = curves.values()
        ax.plot(100 * curve.coverage, 100 * _best_risk(curve), color=GREY, linestyle=":", linewidth=1.4,
                label="best order of these answers")  # fmt: skip
    ax.set(xlabel="coverage: items answered, the surest first (%)", ylabel="risk: errors among them (%)")
    ax.set_xlim(0, 100)
    ax.set_ylim(0, _top(curves.values()))
    light_grid(ax)
    ax.legend(frameon=False, fontsize="small")
    return ax


def _draw_curve(ax: Axes, curve: RiskCoverage, index: int, method: str, *, with_band: bool) -> None:
    """A line with a few marks, in a band."""
    coverage, risk = 100 * curve.coverage.numpy(), curve.risk
    label = f"{method or 'risk'} (AURC {curve.area:.3f})"
    every = max(1, len(risk) // NUM_MARKS)
    look = series(index) | {"markevery": (every - 1, every), "markersize": 5}
    ax.plot(coverage, 100 * risk.numpy(), label=label, linewidth=1.7, **look)
    if with_band:
        count = torch.arange(1, len(risk) + 1, dtype=torch.float64)
        low, high = wilson_interval(risk * count, count)
        colour = COLOURS[index % len(COLOURS)]
        ax.fill_between(coverage, 100 * low.numpy(), 100 * high.numpy(), color=colour, alpha=0.15, linewidth=0)


def _best_risk(curve: RiskCoverage) -> torch.Tensor:
    """(n,) the risk at each coverage if every right answer came before every wrong one."""
    n = len(curve.risk)
    right = round(n * (1 - float(curve.risk[-1])))
    count = torch.arange(1, n + 1, dtype=torch.float64)
    return (count - right).clamp(min=0) / count


def _top(curves: Iterable[RiskCoverage]) -> float:
    """Upper end of the axis, per cent: the bands of the first few items reach anywhere and are cut."""
    risks = [curve.risk for curve in curves]
    highest = max(float(risk[len(risk) // 20 :].max()) for risk in risks)
    return min(100.0, max(5.0, 130 * highest))
