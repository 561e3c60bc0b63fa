"""Where a picture is drawn: on the axes that a caller gives, or on those of a new figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blob_pyro.errors import DataError
from blob_pyro.report.plots.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that belongs to no backend."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def axes_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes given, or the only ones of a new figure of this size in inches."""
    return new_figure(width, height).add_subplot() if ax is None else ax


@dataclass(frozen=True)
class Panels:
    """The axes of a picture of several panels, and whether their figure was made for it.

    Attributes:
        axes: one for each panel, rows first.
        own: whether the figure is a new one. Legend and note then stand outside the axes; on axes of a caller's, which
            may be those of several figures, the legend is in the first panel of each and the note below its x axis.
    """

    axes: tuple[Axes, ...]
    own: bool

    @classmethod
    def of(
        cls, given: Iterable[Axes] | None, rows: int, columns: int, size: tuple[float, float], **options: Any
    ) -> Panels:
        """Those given, or rows x columns new ones.

        Args:
            given: as many axes, in any nesting (what `Figure.subplots` returns, say); None makes a figure.
            rows, columns: how many panels.
            size: of a new figure, width and height in inches.
            options: of `Figure.subplots`.

        Raises:
            DataError: another number of axes.
        """
        import numpy as np

        if given is None:
            grid = new_figure(*size).subplots(rows, columns, squeeze=False, **options)
            return cls(tuple(grid.flatten()), own=True)
        found = tuple(np.ravel(np.array(list(given), dtype=object)))
        if len(found) != rows * columns:
            shape = f" ({rows} rows of {columns})" if rows > 1 else ""
            raise DataError(f"ax: expected {rows * columns} axes, one for each panel{shape}; got {len(found)}")
        return cls(found, own=False)

    @property
    def firsts(self) -> list[Axes]:
        """The first panel of each figure."""
        return list({id(ax.figure): ax for ax in reversed(self.axes)}.values())[::-1]

    def legend(self, handles: Sequence[Any], labels: Sequence[str], place: str = "upper") -> None:
        """What the lines stand for; nothing for none."""
        if not handles:
            return
        if self.own:
            figure: Any = self.axes[0].figure
            columns = min(4, len(labels))
            figure.legend(handles, labels, loc=f"outside {place} center", ncols=columns, frameon=False)
            return
        for ax in self.firsts:
            own = ax.get_legend_handles_labels()  # of several figures, each shows what it has
            ax.legend(*(own if own[0] else (handles, labels)), fontsize="small", framealpha=0.8, edgecolor="none")

    def note(self, text: str) -> None:
        """A small line on how to read the picture; called once the x axes have their labels."""
        if self.own:
            figure: Any = self.axes[0].figure
            figure.supxlabel(text, fontsize="small", color=GREY)
            return
        for ax in self.firsts:
            ax.set_xlabel(f"{ax.get_xlabel()}\n{text}")
