"""The posterior's spread, layer by layer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blob_pyro.errors import DataError
from blob_pyro.guides import AdapterGuide
from blob_pyro.report.plots.cells import draw_cells
from blob_pyro.report.plots.panels import axes_or_new
from blob_pyro.report.plots.sources import RunLike
from blob_pyro.report.plots.style import check_some
from blob_pyro.storage.reading import read_scales
from blob_pyro.storage.saving import Run, mean_scales

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTSIDE = "–"
LEAST_SPAN = 0.1


def scale_heatmap(source: RunLike | AdapterGuide | Mapping[str, float], *, ax: Axes | None = None) -> Axes:
    """The mean posterior standard deviation of each adapted layer: blocks from left to right, modules from the top.

    Layers outside the blocks (a head, say) stand in a column of their own, "–"; a block without a module has a hatched
    cell. The colours span a tenth of the values at least.

    Args:
        source: a run, a guide, or site -> mean standard deviation over its entries.
        ax: where to draw; None makes a figure.

    Raises:
        DataError: there is no site.
        RunDirectoryError: a run directory that does not tell, since an older version wrote it.

    Example:
        >>> scales = {f"model.layers.{k}.self_attn.{m}_proj.lora_A": 0.01 * (k + 1) for k in (0, 1) for m in "qv"}
        >>> ax = scale_heatmap(scales)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['v_proj', 'q_proj']
    """
    from matplotlib.ticker import MaxNLocator

    scales = _scales_of(source)
    check_some("source", scales, "site")
    places = {site: place_of(site) for site in scales}
    modules = list(dict.fromkeys(module for _, module in places.values()))[::-1]
    found = {block for block, _ in places.values()}
    blocks: list[int | None] = list(range(max((b for b in found if b is not None), default=-1) + 1))
    blocks += [None] if None in found else []
    values = {place: scales[site] for site, place in places.items()}
    grid = [[values.get((block, module), math.nan) for block in blocks] for module in modules]
    few = len(blocks) <= 8
    texts = [["" if math.isnan(value) else f"{value:.2g}" for value in row] for row in grid] if few else None
    ax = axes_or_new(ax, 6.4 if len(blocks) > 8 else 5.4, 1.35 + 0.36 * len(modules))
    image = draw_cells(ax, grid, texts)
    every = max(1, math.ceil(len(blocks) / 16))
    ticks = [k for k in range(len(blocks)) if k % every == 0 or blocks[k] is None]
    ax.set_xticks(ticks, [OUTSIDE if blocks[k] is None else str(blocks[k]) for k in ticks])
    ax.set_yticks(range(len(modules)), _short(modules))
    ax.set(xlabel="block")
    _widen(image)
    bar = ax.figure.colorbar(image, ax=ax, location="top", aspect=40, fraction=0.08, pad=0.04, format="%.3g")
    bar.locator = MaxNLocator(5)
    bar.set_label("mean posterior standard deviation", fontsize="medium")
    bar.ax.tick_params(labelsize="small")
    bar.outline.set_visible(False)
    return ax


def _widen(image: Any) -> None:
    """Let the colours span a tenth of the values at least, or differences of no size would look like large ones."""
    low, high = image.get_clim()
    middle = (low + high) / 2
    half = max((high - low) / 2, LEAST_SPAN * abs(middle) / 2)
    image.set_clim(middle - half, middle + half)


def place_of(site: str) -> tuple[int | None, str]:
    """The block and the module of a site; its random matrix is named where it is not A.

    Example:
        >>> place_of("model.layers.12.self_attn.q_proj.lora_A"), place_of("lm_head.lora_B")
        ((12, 'self_attn.q_proj'), (None, 'lm_head (B)'))
    """
    path, _, matrix = site.rpartition(".lora_")
    found = re.match(r"(?:.*?\.)??(\d+)\.(.+)", path)
    block, module = (int(found[1]), found[2]) if found else (None, path)
    return block, module if matrix == "A" else f"{module} ({matrix})"


def _short(modules: list[str]) -> list[str]:
    """Last names, where they tell the modules apart."""
    last = [module.rpartition(".")[2] for module in modules]
    return last if len(set(last)) == len(last) else modules


def _scales_of(source: RunLike | AdapterGuide | Mapping[str, float]) -> Mapping[str, float]:
    if isinstance(source, Mapping):
        odd = [site for site, value in source.items() if not math.isfinite(value)]
        if odd:
            raise DataError(f"source[{odd[0]!r}]: expected a finite standard deviation; got {source[odd[0]]}")
        return source
    if isinstance(source, AdapterGuide):
        return mean_scales(source)
    return mean_scales(source.guide) if isinstance(source, Run) else read_scales(Path(source))
