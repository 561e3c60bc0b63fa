"""Reliability diagrams: how often answers are right against how sure they are, with counts and intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blob_pyro.evaluation.metrics import ReliabilityBins, reliability_bins
from blob_pyro.report.plots.panels import Panels, axes_or_new
from blob_pyro.report.plots.saving import figure_of
from blob_pyro.report.plots.sources import Answered, predictions_of
from blob_pyro.report.plots.style import GREY, ORANGE, SKY, check_some, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COLUMNS = 4


def reliability_diagram(source: Answered, *, num_bins: int = 15, ax: Axes | None = None) -> Axes:
    """Accuracy against confidence, bin by bin, with a strip of item counts below.

    Bars are the accuracies of the bins with 95 % Wilson intervals; the hatched part reaches from a bin's
    accuracy to its mean confidence, so its height is the bin's gap (overconfident where it lies above the
    bar's top). The title gives the expected calibration error. Binning as in `reliability_bins`.

    Args:
        source: labelled predictions, or a run.
        num_bins: bins of equal width.
        ax: where to draw; the count strip takes the lower fifth of its place. None makes a new figure, which
            belongs to no backend: show it with ``display(ax.figure)`` or `save_figure`.

    Returns:
        The upper axes; ``ax.figure`` is the figure.

    Raises:
        DataError: as `evaluate`.
        RunDirectoryError: a run without predictions of classes.

    Example:
        >>> from blob_pyro.evaluation.predictions import Predictions
        >>> probs = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> predictions = Predictions(probs, probs[None], labels=torch.tensor([0, 1, 1]))
        >>> reliability_diagram(predictions).get_title()
        'ECE 36.7 % (n = 3)'
    """
    predictions = predictions_of(source)
    bins = reliability_bins(predictions, num_bins)
    ax = axes_or_new(ax, 4.5, 5.0)
    strip = _append_strip(ax)
    _draw_bars(ax, bins)
    _draw_counts(strip, bins)
    ax.set_title(f"ECE {100 * bins.ece:.1f} % (n = {len(predictions)})", fontsize="medium")
    return ax


def reliability_diagrams(
    predictions: Mapping[str, Answered], *, num_bins: int = 15, ax: Iterable[Axes] | None = None
) -> tuple[Axes, ...]:
    """The reliability diagrams of several methods, at most four a row, each with the method above its ECE.

    Args:
        predictions: method -> labelled predictions of the same items, or a run.
        num_bins: bins of equal width.
        ax: axes for each method, the first with the legend; None makes a figure with the legend above it.

    Returns:
        The upper axes of each method.

    Raises:
        DataError: there is no method; or as `reliability_diagram`.

    Example:
        >>> from blob_pyro.evaluation.predictions import Predictions
        >>> probs = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> predictions = Predictions(probs, probs[None], labels=torch.tensor([0, 1, 1]))
        >>> reliability_diagrams({"MLE": predictions})[0].get_title()
        'MLE\\nECE 36.7 % (n = 3)'
    """
    check_some("predictions", predictions, "method")
    if ax is not None:
        panels = Panels.of(ax, 1, len(predictions), (0, 0))
        for place, (method, found) in zip(panels.axes, predictions.items(), strict=True):
            _draw_titled(place, method, found, num_bins)
        for place in panels.axes[1:]:
            place.legend().remove()
        return panels.axes
    rows = math.ceil(len(predictions) / MOST_COLUMNS)
    columns = math.ceil(len(predictions) / rows)
    height = 3.9 * rows
    # The strip of counts is no part of a constrained layout, which would let rows overlap.
    spaces = {"wspace": 0.25, "hspace": 0.38, "top": 1 - 0.55 / height}
    panels = Panels.of(None, rows, columns, (3.1 * columns + 0.4, height), gridspec_kw=spaces)
    figure = figure_of(panels.axes)
    figure.set_layout_engine("none")
    places = panels.axes[: len(predictions)]
    for index, (place, (method, found)) in enumerate(zip(places, predictions.items(), strict=True)):
        _draw_titled(place, method, found, num_bins)
        place.legend().remove()
        if index % columns:
            place.set_ylabel("")
            place.tick_params(labelleft=False)
            figure.axes[-1].set_ylabel("")  # of the strip
    for place in panels.axes[len(predictions) :]:
        place.remove()
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(4, 2 * columns), frameon=False
    )
    return places


def _draw_titled(ax: Axes, method: str, source: Answered, num_bins: int) -> None:
    """The diagram of one method, with its name above."""
    reliability_diagram(source, num_bins=num_bins, ax=ax)
    ax.set_title(f"{method}\n{ax.get_title()}", fontsize="medium")


def _append_strip(ax: Axes) -> Axes:
    """New axes in the lower fifth of the place of `ax`, with the same x axis."""
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    strip: Axes = make_axes_locatable(ax).append_axes("bottom", size="22%", pad=0.12, sharex=ax)
    return strip


def _draw_bars(ax: Axes, bins: ReliabilityBins) -> None:
    """Accuracy bars with intervals, hatched gaps and the diagonal."""
    filled = bins.count > 0
    count, accuracy, confidence = bins.count[filled], bins.accuracy[filled], bins.confidence[filled]
    centre, width = _centres(bins)[filled].numpy(), 1 / len(bins.count)
    low, high = wilson_interval(accuracy * count, count)
    ax.bar(centre, accuracy.numpy(), width, color=SKY, edgecolor="white", linewidth=0.6, label="accuracy")
    ax.bar(
        centre, (confidence - accuracy).numpy(), width, bottom=accuracy.numpy(),
        facecolor=(*_rgb(ORANGE), 0.25), edgecolor=ORANGE, hatch="////", linewidth=0.8, label="gap to confidence",
    )  # fmt: skip
    ends = torch.stack((accuracy - low, high - accuracy)).numpy()
    ax.errorbar(
        centre, accuracy.numpy(), yerr=ends, fmt="none", ecolor="black", elinewidth=1.0, capsize=2.5,
        label="95 % interval",
    )  # fmt: skip
    ax.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1.2, label="perfect calibration")
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    ax.tick_params(labelbottom=False)
    ax.legend(loc="upper left", fontsize="small", handlelength=1.6, edgecolor="none", framealpha=0.7)


def _draw_counts(strip: Axes, bins: ReliabilityBins) -> None:
    """Bars of the item counts."""
    strip.bar(_centres(bins).numpy(), bins.count.numpy(), 1 / len(bins.count), color=GREY, edgecolor="white")
    strip.set(xlabel="confidence", ylabel="items", ylim=(0, 1.05 * max(1, int(bins.count.max()))))
    strip.locator_params(axis="y", nbins=3, integer=True)


def _centres(bins: ReliabilityBins) -> Tensor:
    """(num_bins,) middles of the bins."""
    return (torch.arange(len(bins.count)) + 0.5) / len(bins.count)


def _rgb(colour: str) -> tuple[float, float, float]:
    """Red, green and blue in [0, 1]."""
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
