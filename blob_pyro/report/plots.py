"""Plots made through matplotlib's object interface: no pyplot figure, no change of backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blob_pyro.evaluation.metrics import ReliabilityBins, reliability_bins
from blob_pyro.predictions import Predictions
from blob_pyro.report.style import GREY, ORANGE, SKY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Z_95 = 1.959964


def reliability_diagram(predictions: Predictions, *, num_bins: int = 15, ax: Axes | None = None) -> Axes:
    """Accuracy against confidence, bin by bin, with a strip of item counts below.

    Bars are the accuracies of the bins with 95 % Wilson intervals; the hatched part reaches from a bin's
    accuracy to its mean confidence, so its height is the bin's gap (overconfident where it lies above the
    bar's top). The title gives the expected calibration error. Binning as in `reliability_bins`.

    Args:
        predictions: n items with labels.
        num_bins: bins of equal width.
        ax: where to draw; the count strip takes the lower fifth of its place. None makes a new figure, which
            belongs to no backend: show it with ``display(ax.figure)`` or `save_figure`.

    Returns:
        The upper axes; ``ax.figure`` is the figure.

    Raises:
        DataError: as `evaluate`.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> predictions = Predictions(probs, probs[None], labels=torch.tensor([0, 1, 1]))
        >>> reliability_diagram(predictions).get_title()
        'ECE 36.7 % (n = 3)'
    """
    bins = reliability_bins(predictions, num_bins)
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(4.5, 5.0), layout="constrained").add_subplot()
    strip = _append_strip(ax)
    _draw_bars(ax, bins)
    _draw_counts(strip, bins)
    ax.set_title(f"ECE {100 * bins.ece:.1f} % (n = {len(predictions)})", fontsize="medium")
    return ax


def save_figure(picture: Axes | Figure, path: str | Path) -> Path:
    """Write a figure, or the one that some axes belong to; the ending (.png, .pdf, .svg) chooses the format.

    The same calls on the same data give the same bytes: an SVG file holds no date, and its ids come from a fixed salt.

    Args:
        picture: a figure, or any axes of it.
        path: file to write, replaced if it is there.

    Returns:
        The path.

    Raises:
        OSError: the folder does not exist or cannot be written.
        ValueError: the axes were removed from their figure.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> save_figure(Figure().add_subplot(), Path(tempfile.mkdtemp()) / "empty.png").name
        'empty.png'
    """
    from matplotlib import rc_context

    figure = picture.get_figure(root=True)
    if figure is None:
        raise ValueError("expected axes on a figure; got axes that were removed from theirs; draw them again")
    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    with rc_context({"svg.hashsalt": "blob_pyro"}):
        figure.savefig(path, dpi=200, bbox_inches="tight", metadata=metadata)
    return Path(path)


def save_png_and_svg(picture: Axes | Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write a figure twice, as `stem`.png and as `stem`.svg (a dot in the name is part of it); as `save_figure`."""
    png, svg = (save_figure(picture, Path(f"{stem}{ending}")) for ending in (".png", ".svg"))
    return png, svg


def wilson_interval(correct: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """95 % Wilson score interval of a share, elementwise.

    Args:
        correct: (...) number of right items.
        count: (...) number of items, above 0.

    Returns:
        (...) lower and upper ends, within [0, 1] and around the observed share.

    Example:
        >>> low, high = wilson_interval(torch.tensor([5.0]), torch.tensor([10.0]))
        >>> round(low.item(), 3), round(high.item(), 3)
        (0.237, 0.763)
    """
    share, z2 = correct / count, Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * (share * (1 - share) / count + z2 / (4 * count**2)).sqrt()
    # At a share of 0 or 1 rounding can put the end on the wrong side of the share.
    return torch.minimum(centre - half, share), torch.maximum(centre + half, share)


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
    ax.legend(loc="upper left", fontsize="x-small", handlelength=1.6, edgecolor="none", framealpha=0.7)


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
