"""The draws of one item: how far the posterior draws agree on its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from blob_pyro.errors import DataError
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.report.plots.panels import axes_or_new
from blob_pyro.report.plots.sources import Answered, path_of
from blob_pyro.report.plots.style import COLOURS, HATCHES
from blob_pyro.storage.answers import read_answers
from blob_pyro.storage.directory import PREDICTIONS
from blob_pyro.system.files import file_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 6
ROOM = 0.8  # of a row, for its highest bar


def draws_histogram(
    source: Answered,
    item: int | str,
    *,
    class_names: Sequence[str] | None = None,
    num_bins: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Histograms of the probability that each draw gives to each class of one item, a row a class.

    All rows have one scale of counts, so that narrow and high means that the draws agree. A triangle marks the mean
    over the draws, which is the answer; the true class is starred. Of many classes the six most probable are shown,
    and the title says of how many.

    Args:
        source: predictions, or a run.
        item: its position, or of a run its id.
        class_names: in order; None takes those of the run, or numbers the classes.
        num_bins: bins of equal width between 0 and 1.
        ax: where to draw; None makes a figure.

    Raises:
        DataError: there is no such item, or another number of names than of classes.
        RunDirectoryError: the run has no predictions of classes.

    Example:
        >>> draws = torch.tensor([[[0.8, 0.2]], [[0.6, 0.4]], [[0.7, 0.3]]])
        >>> ax = draws_histogram(Predictions(draws.mean(0), draws, torch.tensor([0])), 0, class_names=["no", "yes"])
        >>> [label.get_text() for label in ax.get_yticklabels()], ax.get_title()
        (['yes', '★ no'], 'item 0: 3 draws')
    """
    if isinstance(source, Predictions):
        predictions, name, names = source, str(item), class_names
    else:
        saved = read_answers(file_in(path_of(source), PREDICTIONS))
        predictions, names = saved.predictions, class_names or saved.class_names
        if isinstance(item, str) and item in saved.ids:
            item = saved.ids.index(item)
        name = saved.ids[item] if isinstance(item, int) and 0 <= item < len(saved.ids) else str(item)
    if not isinstance(item, int) or not 0 <= item < len(predictions):
        raise DataError(f"item: expected a position from 0 to {len(predictions) - 1}, or of a run an id; got {item!r}")
    num_classes = predictions.probs.shape[1]
    if names is not None and len(names) != num_classes:
        raise DataError(f"class_names: expected {num_classes} names; got {len(names)}")
    shown = predictions.probs[item].topk(min(num_classes, MOST_CLASSES)).indices.flip(0).tolist()
    ax = axes_or_new(ax, 5.2, 1.3 + 0.62 * len(shown))
    draws = predictions.draws[:, item].double()
    counts = torch.stack([torch.histc(draws[:, which], num_bins, 0, 1) for which in shown])
    _draw_rows(ax, counts, shown)
    means = predictions.probs[item][shown].tolist()
    ax.plot(means, range(len(shown)), linestyle="", marker=6, markersize=8, color="black", zorder=4, clip_on=False)
    label = None if predictions.labels is None else int(predictions.labels[item])
    ax.set_yticks(range(len(shown)), [_row_name(which, names, label) for which in shown])
    star = "★: true class; " if label is not None else ""
    note = f"{star}▲: mean over the draws; highest bar: {int(counts.max())} of {len(draws)}"
    ax.set(xlabel=f"probability under a draw\n{note}", xlim=(0, 1), ylim=(-0.25, len(shown) - 0.1))
    of_all = f", {len(shown)} of {num_classes} classes" if len(shown) < num_classes else ""
    ax.set_title(f"item {name}: {len(draws)} draw{'s' if len(draws) > 1 else ''}{of_all}", fontsize="medium")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def _draw_rows(ax: Axes, counts: torch.Tensor, classes: Sequence[int]) -> None:
    """Bars that stand on each class's line."""
    num_bins = counts.shape[1]
    left = [bin_ / num_bins for bin_ in range(num_bins)]
    for row, (which, heights) in enumerate(zip(classes, counts, strict=True)):
        ax.axhline(row, color="#B0B0B0", linewidth=0.8, zorder=1)
        ax.bar(
            left, (heights * ROOM / counts.max()).tolist(), 1 / num_bins, bottom=row, align="edge", zorder=2,
            color=COLOURS[which % len(COLOURS)], hatch=HATCHES[which % len(HATCHES)], edgecolor="white", linewidth=0.5,
        )  # fmt: skip


def _row_name(which: int, names: Sequence[str] | None, label: int | None) -> str:
    """The class, starred where it is the true one; long names are cut."""
    name = f"class {which}" if names is None else names[which].strip()
    name = name if len(name) <= 24 else f"{name[:23]}…"
    return f"★ {name}" if which == label else name
