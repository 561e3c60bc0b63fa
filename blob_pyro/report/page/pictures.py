"""The pictures of a report, as SVG inside the page: one panel each, so that they can be read on a phone."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blob_pyro.evaluation.metrics import Scores
from blob_pyro.evaluation.tokens import TokenMetrics
from blob_pyro.report.page.extremes import uncertain_items
from blob_pyro.report.page.naming import System
from blob_pyro.report.plots import (
    draws_histogram,
    methods_plot,
    num_samples_plot,
    reliability_diagram,
    risk_coverage_plot,
    scale_heatmap,
    training_curves,
)
from blob_pyro.report.plots.panels import new_figure
from blob_pyro.storage.answers import SavedAnswers
from blob_pyro.storage.run_files import RunFiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (4.6, 3.3)
TRAINING = ("NLL of the training", "KL", "weight of the KL", "mean posterior standard deviation")
SCORES = ("accuracy", "NLL", "ECE")


@dataclass(frozen=True)
class Picture:
    """One picture of a page.

    Attributes:
        title: what it shows, for its caption and for readers who cannot see it.
        caption: how to read it.
        source: the picture itself, a data URI.
        width, height: in CSS pixels.
    """

    title: str
    caption: str
    source: str
    width: int
    height: int


def pictures_of(run: RunFiles) -> list[Picture]:
    """What there is to see of one run."""
    return [*_of_answers(run), *_of_training(run), *_of_spread(run)]


def pictures_of_several(systems: Sequence[System], scores: Mapping[str, Sequence[Scores]]) -> list[Picture]:
    """The systems beside each other.

    Args:
        systems: of each the run of the lowest seed is drawn, where a picture shows single runs.
        scores: row of the table -> the scores of its seeds.
    """
    return [*_of_scores(scores), *_of_several(systems)]


def _of_answers(run: RunFiles) -> Iterator[Picture]:
    if run.answers is None:
        return
    predictions = run.answers.predictions
    yield drawn(
        "Reliability",
        "Accuracy of the answers in each bin of confidence; the hatched part is the gap between the two. Bars are 95 % "
        "Wilson intervals, the strip below counts the items.",
        reliability_diagram(predictions, ax=_axes(4.6, 4.8)),
    )
    yield drawn(
        "Risk and coverage",
        "Errors among the surest answers, when only so many are given. The band is a pointwise 95 % interval.",
        risk_coverage_plot(predictions, ax=_axes()),
    )
    if len(predictions.draws) > 2:
        panels = [_axes() for _ in range(3)]
        for title, axes in zip(("Accuracy", "ECE", "NLL"), num_samples_plot(predictions, ax=panels), strict=True):
            axes.set_xlabel("draws N")
            yield drawn(f"{title} against N", "Scores of the first N draws, of one run.", axes)
        yield _least_certain(run.answers)


def _least_certain(answers: SavedAnswers) -> Picture:
    """The draws of the item that the run is least certain of."""
    item = answers.ids.index(uncertain_items(answers, 1)[0].name)
    axes = draws_histogram(answers.predictions, item, class_names=answers.class_names)
    axes.set_title(f"{len(answers.predictions.draws)} draws", fontsize="medium")
    caption = "The least certain item: how many draws give a class which probability."
    return drawn("Draws of one item", f"{caption} Its id: {answers.ids[item]}", axes)


def _of_training(run: RunFiles) -> Iterator[Picture]:
    if not run.steps:
        return
    drawn_panels = training_curves(run.steps, ax=[_axes() for _ in TRAINING])
    for title, axes in zip(TRAINING, drawn_panels, strict=True):
        if not axes.get_yticks().size or not axes.lines:
            continue  # a point has neither KL nor spread
        legend = axes.get_legend()
        if legend is not None and title != TRAINING[0]:
            legend.remove()
        caption = "Each step, and the mean over the last twentieth of the steps." if title == TRAINING[0] else ""
        yield drawn(title[:1].upper() + title[1:], caption, axes)


def _of_spread(run: RunFiles) -> Iterator[Picture]:
    if run.scales and any(run.scales.values()):
        caption = "Mean posterior standard deviation over each layer's random entries."
        yield drawn("Spread by layer", caption, scale_heatmap(run.scales))


def _of_scores(scores: Mapping[str, Sequence[Scores]]) -> Iterator[Picture]:
    if len(scores) < 2:
        return
    of_tokens = isinstance(next(iter(scores.values()))[0], TokenMetrics)
    titles = ("NLL per token", "NLL per text") if of_tokens else SCORES
    height = 1.6 + 0.33 * len(scores)
    panels = methods_plot(scores, ax=[_axes(5.2, height) for _ in titles])
    for title, axes in zip(titles, panels, strict=True):
        caption = "The scores of the table; what the bars are is written below them."
        yield drawn(f"{title[:1].upper()}{title[1:]} of the systems", caption, axes)


def _of_several(systems: Sequence[System]) -> Iterator[Picture]:
    answered = {s.name: s.first.answers.predictions for s in systems if s.first.answers is not None}
    seed = "" if all(len(system.runs) == 1 for system in systems) else " The run of the lowest seed is shown."
    if len(answered) > 1:
        caption = "Errors among the surest answers, when only so many are given."
        yield drawn("Risk and coverage", caption + seed, risk_coverage_plot(answered, ax=_axes(5.2, 3.8)))
        for name, predictions in answered.items():
            axes = reliability_diagram(predictions, ax=_axes(4.6, 4.8))
            axes.set_title(f"{_short(name)}\n{axes.get_title()}", fontsize="medium")
            yield drawn(f"Reliability of {name}", f"Accuracy against confidence.{seed}", axes)
    trained = {system.name: system.first.steps for system in systems if system.first.steps}
    if len(trained) > 1:
        short = {_short(name): steps for name, steps in trained.items()}
        panels = training_curves(short, ax=[_axes() for _ in TRAINING])
        for title, axes in zip(TRAINING, panels, strict=True):
            yield drawn(f"{title[:1].upper()}{title[1:]} of the systems", f"Running mean of the NLL.{seed}"
                        if title == TRAINING[0] else seed.strip(), axes)  # fmt: skip


def _short(name: str) -> str:
    """A name that fits a legend."""
    return name if len(name) <= 40 else f"{name[:39]}…"


def _axes(width: float = PANEL[0], height: float = PANEL[1]) -> Axes:
    return new_figure(width, height).add_subplot()


def drawn(title: str, caption: str, axes: Axes) -> Picture:
    """The figure of these axes as a picture of a page."""
    figure: Any = axes.get_figure(root=True)
    text = _svg(figure)
    encoded = base64.b64encode(text.encode()).decode("ascii")
    return Picture(title, caption, f"data:image/svg+xml;base64,{encoded}", *_size(text))


def _size(svg: str) -> tuple[int, int]:
    """Width and height in CSS pixels, of which matplotlib's points are 3/4."""
    found = re.search(r'<svg [^>]*?height="([\d.]+)pt"[^>]*?', svg), re.search(r'<svg [^>]*?width="([\d.]+)pt"', svg)
    height, width = (round(float(one[1]) / 0.75) if one else 0 for one in found)
    return width, height


def _svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same figure: no date, ids from a fixed salt, letters as outlines."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "blob_pyro", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.06)
    return buffer.getvalue()
