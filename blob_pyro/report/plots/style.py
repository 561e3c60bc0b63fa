"""What all pictures share: colours, scores and their labels, means with a spread, intervals, ticks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from blob_pyro.errors import DataError
from blob_pyro.evaluation.metrics import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours: told apart by colour-blind readers, and by lightness in grey print.
SKY, ORANGE, GREY = "#56B4E9", "#D55E00", "#595959"
COLOURS = ("#0072B2", ORANGE, "#009E73", "#CC79A7", "#E69F00", SKY, "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SINGLE_RUN: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 2.8,
    "color": GREY,
    "markerfacecolor": "white",
}
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "||||")
COLOUR_MAP = "cividis"  # its lightness rises evenly: read alike by colour-blind people and in grey print
Z_95 = 1.959964  # quantile of the normal law: 95 % lie within so many standard deviations
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))


@dataclass(frozen=True)
class Score:
    """A score as pictures show it.

    Attributes:
        name: field of Metrics, or of TokenMetrics.
        label: what an axis says.
        factor: 100 for shares shown in per cent, else 1.
        better: "higher" or "lower".
    """

    name: str
    label: str
    factor: int
    better: str

    def of(self, metrics: Scores) -> float:
        """The score of one run, in the unit of its label."""
        return float(self.factor * getattr(metrics, self.name))

    def error_of(self, metrics: Scores) -> float:
        """Its standard error over the items, in the same unit; NaN for a single item."""
        return float(self.factor * getattr(metrics, f"{self.name}_se"))


ACCURACY = Score("accuracy", "accuracy (%)", 100, "higher")
ECE = Score("ece", "ECE (%)", 100, "lower")
NLL = Score("nll", "NLL (nats per item)", 1, "lower")
TOKEN_NLL = Score("nll", "NLL (nats per token)", 1, "lower")
TEXT_NLL = Score("sequence_nll", "NLL (nats per text)", 1, "lower")


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of a score over runs; the deviation of a single run is NaN."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, score: Score, runs: Sequence[Scores]) -> Spread:
        """Over the runs of one setting."""
        values = [score.of(run) for run in runs]
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)

    @property
    def width(self) -> float:
        """The deviation, or 0 where there is none: half the width of a band."""
        return 0.0 if math.isnan(self.deviation) else self.deviation


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


def series(index: int) -> dict[str, Any]:
    """Colour, marker and line of the index-th line; they repeat after seven."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


def check_some(name: str, given: Mapping[str, object], what: str) -> None:
    """Raise unless there is something to draw."""
    if not given:
        raise DataError(f"{name}: expected at least one {what}; got none; give {what} -> its values")
    empty = [label for label, values in given.items() if isinstance(values, Mapping | Sequence) and not values]
    if empty:
        raise DataError(f"{name}: expected values for every {what}; got none for {empty[0]!r}; leave it out")


def spread_note(groups: Iterable[Sequence[Scores]]) -> str:
    """One line on what bars and bands stand for."""
    counts = sorted({len(runs) for runs in groups})
    if not counts or counts[0] == 0:
        raise DataError("scores: expected metrics of at least one run at every value; got none; leave the value out")
    if counts[-1] == 1:
        return "one seed"
    seeds = f"{counts[0]} seeds" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]} seeds"
    return f"mean ± standard deviation over {seeds}"


def tick_values(ax: Axes, values: Iterable[float]) -> None:
    """A logarithmic x axis with ticks at these values; labels that would touch the one before are left out."""
    from matplotlib.ticker import NullLocator

    ordered = sorted(set(values))
    span = math.log(ordered[-1] / ordered[0]) or 1.0
    labels, last = [], -math.inf
    for value in ordered:
        place = math.log(value / ordered[0]) / span
        room = 0.025 + 0.018 * len(f"{value:g}")
        labels.append(f"{value:g}" if place - last >= room else "")
        last = place if labels[-1] else last
    ax.set_xscale("log")
    ax.set_xticks(ordered, labels, fontsize="small")
    ax.xaxis.set_minor_locator(NullLocator())


def light_grid(ax: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """A thin grid behind the data, and no box on the upper and right sides."""
    ax.set_axisbelow(True)
    ax.grid(axis=axis, color="#DDDDDD", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
