"""Heat maps: a grid of cells on a colour map whose lightness rises evenly, with numbers that can be read on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from blob_pyro.report.plots.style import COLOUR_MAP

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_cells(
    ax: Axes,
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]] | None = None,
    *,
    dark_is_high: bool = False,
) -> Any:
    """Cells coloured by their values, the first row lowest; NaN is an empty cell, hatched.

    Args:
        ax: where to draw.
        values: rows of numbers.
        texts: what stands in each cell, or nothing.
        dark_is_high: the highest value is the darkest, and not the lightest.

    Returns:
        The image, for a colour bar.
    """
    import numpy as np
    from matplotlib import colormaps

    grid = np.ma.masked_invalid(np.array(values, dtype=float))
    colours = colormaps[COLOUR_MAP + ("_r" if dark_is_high else "")]
    ax.set_facecolor("#E8E8E8")
    image = ax.imshow(grid, origin="lower", aspect="auto", cmap=colours, interpolation="nearest")
    # cells between which there is nothing to tell keep the middle colour
    low, high = (float(grid.min()), float(grid.max())) if grid.count() else (0.0, 1.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        image.set_clim(low - 1, high + 1)
    for row, cells in enumerate(values):
        for column, value in enumerate(cells):
            if math.isnan(value):
                _hatch(ax, column, row)
            elif texts is not None:
                colour = _readable_on(image.to_rgba(np.array([value]))[0])
                ax.text(column, row, texts[row][column], ha="center", va="center", color=colour, fontsize="small")
    ax.set_xticks([edge - 0.5 for edge in range(1, grid.shape[1])], minor=True)
    ax.set_yticks([edge - 0.5 for edge in range(1, grid.shape[0])], minor=True)
    ax.grid(which="minor", color="white", linewidth=1.0)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    return image


def _hatch(ax: Axes, column: int, row: int) -> None:
    """An empty cell."""
    from matplotlib.patches import Rectangle

    place = (column - 0.5, row - 0.5)
    ax.add_patch(Rectangle(place, 1, 1, facecolor="#E8E8E8", edgecolor="#A8A8A8", hatch="////", linewidth=0))


def _readable_on(colour: Any) -> str:
    """White or black, whichever stands out more (relative luminance as in WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in map(float, colour[:3])]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.179 else "black"
