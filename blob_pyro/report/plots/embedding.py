"""Where the draws put each item: hidden states in a plane, with contours (the paper's Figure 5)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from blob_pyro.errors import DataError
from blob_pyro.report.plots.panels import Panels
from blob_pyro.report.plots.saving import figure_of
from blob_pyro.report.plots.style import COLOURS, GREY, MARKERS, check_some, light_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTOUR_POINTS = 120


@dataclass(frozen=True)
class Plane:
    """Hidden states projected to two dimensions.

    Attributes:
        points: method -> (S, n, 2) coordinates, float64; each method's states are centred on their own mean.
        explained: shares of the variance of all methods' states along the two axes.
    """

    points: dict[str, Tensor]
    explained: tuple[float, float]


def principal_plane(states: Mapping[str, Tensor]) -> Plane:
    """The plane of the two principal components of all methods' states together.

    Each method's states are first centred on their own mean, so that the axes are directions in which items or draws
    differ, and not that in which two fine-tuned networks do.

    Args:
        states: method -> (S, n, D) hidden states of n items under S draws; D is 2 at least and the same for all.

    Raises:
        DataError: there is no method, or a shape does not fit.

    Example:
        >>> states = torch.tensor([[[0.0, 0.0, 5.0], [4.0, 0.0, 5.0], [0.0, 2.0, 5.0], [4.0, 2.0, 5.0]]])
        >>> plane = principal_plane({"MLE": states})
        >>> tuple(plane.points["MLE"].shape), [round(share, 3) for share in plane.explained]
        ((1, 4, 2), [0.8, 0.2])
    """
    check_some("states", states, "method")
    sizes = {found.shape[-1] for found in states.values()}
    for method, found in states.items():
        if found.dim() != 3 or 0 in found.shape or found.shape[-1] < 2 or len(sizes) > 1:
            raise DataError(
                f"states[{method!r}]: expected (S, n, D) with one D of at least 2 for all methods; "
                f"got {tuple(found.shape)}"
            )
    flat = {method: found.detach().cpu().double().flatten(0, 1) for method, found in states.items()}
    centred = {method: rows - rows.mean(0) for method, rows in flat.items()}
    _, singular, axes = torch.linalg.svd(torch.cat(list(centred.values())), full_matrices=False)
    axes = axes[:2]
    # An axis has no sign of its own: its largest entry is made positive.
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    variance = singular.square()
    shares = (variance[:2] / variance.sum().clamp(min=torch.finfo(torch.float64).tiny)).tolist()
    points = {method: (rows @ axes.mT).reshape(*states[method].shape[:2], -1) for method, rows in centred.items()}
    return Plane(points, (shares[0], shares[1]))


def mass_contour(points: Tensor, mass: float) -> Tensor:
    r"""The ellipse that holds a share of the mass of the Gaussian with the points' mean and covariance.

    .. math:: (x - \mu)^T C^{-1} (x - \mu) = -2 log(1 - mass)

    which is the quantile of a chi-square law with two degrees of freedom. Points in a line give a segment.

    Args:
        points: (S, 2), at least two; the covariance is the unbiased one.
        mass: between 0 and 1.

    Returns:
        (121, 2) points around the ellipse, the last being the first.

    Raises:
        DataError: too few points, or a mass outside (0, 1).

    Example:
        >>> corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # covariance 4/3 I
        >>> radius = mass_contour(corners, 0.5).norm(dim=-1)
        >>> round(radius.min().item(), 3), round(radius.max().item(), 3)  # sqrt(4/3 * 2 log 2)
        (1.36, 1.36)
    """
    if points.dim() != 2 or points.shape[-1] != 2 or len(points) < 2:
        raise DataError(f"points: expected (S, 2) with at least two points; got {tuple(points.shape)}")
    if not 0 < mass < 1:
        raise DataError(f"mass: expected a share between 0 and 1; got {mass}")
    points = points.double()
    values, vectors = torch.linalg.eigh(points.mT.cov())
    half_axes = vectors * values.clamp(min=0).sqrt()
    angle = torch.arange(CONTOUR_POINTS + 1, dtype=torch.float64) % CONTOUR_POINTS * (2 * math.pi / CONTOUR_POINTS)
    circle = torch.stack((angle.cos(), angle.sin()), -1)
    return points.mean(0) + math.sqrt(-2 * math.log1p(-mass)) * circle @ half_axes.mT


def embedding_plot(
    states: Mapping[str, Tensor],
    *,
    classes: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    masses: Sequence[float] = (0.5, 0.75),
    ax: Iterable[Axes] | None = None,
) -> tuple[Axes, ...]:
    """The items of each method in one common plane, each with contours that hold these shares of its draws' mass.

    Panels share their axes and one scale, so that a wide contour is an uncertain item, in whichever panel. The mark
    is the mean over the item's draws. Contours are those of a Gaussian with the mean and covariance of the item's
    draws in the plane (`mass_contour`); with fewer than three draws (a point estimate) there is the mark alone. The
    axes name the share of the variance that the plane shows. Some 10 to 40 items are seen best.

    Args:
        states: method -> (S, n, D) last hidden states of the same n items, S may differ.
        classes: (n,) class of each item, for colours and marks; None draws all alike.
        class_names: their names in order, for the legend; None numbers them.
        masses: shares of the mass, each drawn with a thinner line than the one before.
        ax: axes for each method, which should share theirs; None makes a figure.

    Returns:
        The axes of each method.

    Raises:
        DataError: there is no method, or shapes do not fit.

    Source: BLoB, arXiv 2406.11675, Figure 5.

    Example:
        >>> states = torch.randn(10, 5, 8, generator=torch.Generator().manual_seed(0))
        >>> axes = embedding_plot({"MLE": states[:1], "BLoB": states}, classes=torch.tensor([0, 1, 0, 1, 1]))
        >>> [ax.get_title() for ax in axes]
        ['MLE', 'BLoB (10 draws)']
    """
    plane = principal_plane(states)
    classes = _checked_classes(plane, classes)
    panels = Panels.of(ax, 1, len(states), (3.5 * len(states) + 0.3, 4.1), sharex=True, sharey=True)
    for axes, (method, points) in zip(panels.axes, plane.points.items(), strict=True):
        _draw_items(axes, points, classes, masses)
        draws = f" ({len(points)} draws)" if len(points) > 1 else ""
        axes.set_title(f"{method}{draws}", fontsize="medium")
        axes.set_xlabel(f"component 1 ({100 * plane.explained[0]:.0f} % of the variance)")
        axes.set_aspect("equal", adjustable="box" if panels.own else "datalim")
        light_grid(axes)
    first = panels.axes[0]
    if panels.own:
        (left, right), (low, high) = first.get_xlim(), first.get_ylim()
        figure_of(first).set_figheight(1.2 + min(max((high - low) / (right - left), 0.4), 1.5) * 3.1)
    first.set_ylabel(f"component 2 ({100 * plane.explained[1]:.0f} %)")
    contours = masses if any(len(one) > 2 for one in plane.points.values()) else ()
    handles = _legend(classes, class_names, contours)
    panels.legend(handles, [str(handle.get_label()) for handle in handles], "lower")
    return panels.axes


def _checked_classes(plane: Plane, classes: Tensor | None) -> Tensor:
    """(n,) classes, zeros where none are given, once all methods have the same items."""
    counts = {points.shape[1] for points in plane.points.values()}
    if len(counts) > 1:
        raise DataError(f"states: expected the same items for every method; got {sorted(counts)} of them")
    (count,) = counts
    if classes is None:
        return torch.zeros(count, dtype=torch.long)
    if classes.shape != (count,):
        raise DataError(f"classes: expected one class an item, ({count},); got {tuple(classes.shape)}")
    return classes.long()


def _draw_items(ax: Axes, points: Tensor, classes: Tensor, masses: Sequence[float]) -> None:
    """Marks at the items' means; contours around them where there are draws enough."""
    from matplotlib.collections import LineCollection

    for which in classes.unique().tolist():
        items, colour = points[:, classes == which], COLOURS[which % len(COLOURS)]
        centres = items.mean(0)
        ax.plot(
            *centres.mT.numpy(), linestyle="", marker=MARKERS[which % len(MARKERS)], markersize=4.5, color=colour,
            markeredgecolor="white", markeredgewidth=0.4, zorder=3,
        )  # fmt: skip
        if len(points) < 3:
            continue
        for level, mass in enumerate(masses):
            outlines = [mass_contour(item, mass).numpy() for item in items.unbind(1)]
            ax.add_collection(LineCollection(outlines, colors=colour, zorder=2, **_contour_look(level)))


def _contour_look(level: int) -> dict[str, float]:
    """Thinner and lighter from level to level."""
    return {"linewidths": 1.5 / (1 + level), "alpha": max(0.3, 0.9 - 0.25 * level)}


def _legend(classes: Tensor, class_names: Sequence[str] | None, masses: Sequence[float]) -> list[Any]:
    """Classes by colour and mark, contours by width; nothing where there is nothing to tell."""
    from matplotlib.lines import Line2D

    handles = []
    found = classes.unique().tolist()
    for which in found if len(found) > 1 or class_names else []:
        name = class_names[which].strip() if class_names else f"class {which}"
        look: dict[str, Any] = {"color": COLOURS[which % len(COLOURS)], "marker": MARKERS[which % len(MARKERS)]}
        handles.append(Line2D([], [], linestyle="", label=name, **look))
    for level, mass in enumerate(masses):
        look = {"linewidth": 1.5 / (1 + level), "alpha": _contour_look(level)["alpha"]}
        handles.append(Line2D([], [], color=GREY, label=f"{100 * mass:g} % of an item's mass", **look))
    return handles
