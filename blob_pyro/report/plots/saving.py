"""Writes pictures to files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from blob_pyro.system.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure_of(picture: Axes | Figure | Iterable[Axes]) -> Figure:
    """The figure that axes belong to, the first of several.

    Raises:
        ValueError: the axes were removed from their figure, or there are none.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    first = picture if isinstance(picture, Axes | Figure) else next(iter(picture), None)
    figure = None if first is None else first.get_figure(root=True)
    if figure is None:
        raise ValueError("expected axes on a figure; got axes that were removed from theirs; draw them again")
    return figure


def save_figure(picture: Axes | Figure | Iterable[Axes], path: str | Path) -> Path:
    """Write a figure, or the one that some axes belong to; the ending (.png, .pdf, .svg) chooses the format.

    The same calls on the same data give the same bytes: an SVG file holds no date, and its ids come from a fixed salt.

    Args:
        picture: a figure, any axes of it, or what a function of several panels returns.
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

    ending = Path(path).suffix.removeprefix(".") or "png"
    metadata = {"Date": None} if ending == "svg" else None
    with rc_context({"svg.hashsalt": "blob_pyro"}), new_file(Path(path)) as partial:
        figure_of(picture).savefig(partial, format=ending, dpi=200, bbox_inches="tight", metadata=metadata)
    return Path(path)


def save_png_and_svg(picture: Axes | Figure | Iterable[Axes], stem: str | Path) -> tuple[Path, Path]:
    """Write a figure twice, as `stem`.png and as `stem`.svg (a dot in the name is part of it); as `save_figure`."""
    figure = figure_of(picture)
    png, svg = (save_figure(figure, Path(f"{stem}{ending}")) for ending in (".png", ".svg"))
    return png, svg
