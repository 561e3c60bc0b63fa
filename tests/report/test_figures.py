"""The pictures draw the numbers they were given: data of lines, bars and contours, not pixels."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from blob_pyro.errors import DataError
from blob_pyro.evaluation import Metrics, reliability_bins
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.report.plots import (
    embedding_plot,
    growth_plot,
    methods_plot,
    num_samples_plot,
    reliability_diagrams,
    save_png_and_svg,
    settings_plot,
)
from blob_pyro.report.plots.style import COLOURS

METRICS = Metrics(0.67, 1.19, 0.213, 0.45, 0.5, 0.1, 400, 10, 15, 0.0235, 0.061, 0.018, 0.019)


def run(value: float) -> Metrics:
    """A run whose three scores all tell it apart."""
    return dataclasses.replace(METRICS, accuracy=0.6 + value / 10, ece=0.1 + value / 5, nll=1 + value)


def runs(centre: float) -> list[Metrics]:
    return [run(centre), run(centre + 0.1), run(centre - 0.3)]


def answers(seed: int, n: int = 80) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randn(n, 3, generator=generator).mul(2).softmax(-1)
    return Predictions(probs, probs[None], torch.randint(3, (n,), generator=generator))


def states(num_draws: int, scale: float = 0.3, seed: int = 0) -> torch.Tensor:
    """Six items in five dimensions, and draws about them."""
    items = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(9))
    return items + scale * torch.randn(num_draws, 6, 5, generator=torch.Generator().manual_seed(seed))


def line(ax: Axes, label: str) -> dict[float, float]:
    """x -> y of the line with this label."""
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return dict(zip(map(float, found.get_xdata()), map(float, found.get_ydata()), strict=True))


def bars(ax: Axes, axis: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Points (x, y) of the error bars, and both ends of each bar along one axis."""
    (container,) = [one for one in ax.containers if isinstance(one, ErrorbarContainer)]
    points = container.lines[0].get_xydata()
    ends = [(float(ends[0, axis]), float(ends[1, axis])) for ends in container.lines[2][0].get_segments()]
    return [(float(x), float(y)) for x, y in points], ends


SCORES: dict[str, Callable[[Metrics], float]] = {
    "accuracy (%)": lambda metrics: 100 * metrics.accuracy,
    "ECE (%)": lambda metrics: 100 * metrics.ece,
    "NLL (nats per item)": lambda metrics: metrics.nll,
}


def test_growth_shows_the_curves_and_the_prior() -> None:
    steps = torch.arange(4)
    ax = growth_plot({"square": (steps, [0.1, 0.2, 0.2, 0.3]), "softplus": ([0, 2], [0.1, 0.11])}, prior_scale=0.2)
    assert line(ax, "square") == {0: 0.1, 1: 0.2, 2: 0.2, 3: 0.3}
    assert line(ax, "softplus") == pytest.approx({0: 0.1, 2: 0.11})
    assert set(line(ax, "prior (0.2)").values()) == {0.2}


def test_scores_against_draws_are_means_in_bands() -> None:
    scores = {"BLoB": {n: runs(1 / max(n, 1)) for n in (0, 1, 10, 160)}, "MLE": {0: runs(2.0)}}
    figure = num_samples_plot(scores)[0].figure
    assert [ax.get_ylabel() for ax in figure.axes] == list(SCORES)
    for ax, of in zip(figure.axes, SCORES.values(), strict=True):
        values = {n: [of(one) for one in scores["BLoB"][n]] for n in (1, 10, 160)}
        assert line(ax, "BLoB") == pytest.approx({n: statistics.fmean(found) for n, found in values.items()})
        band = ax.collections[0].get_paths()[0].vertices
        for n, found in values.items():
            edge = [float(y) for x, y in band if x == n]
            assert min(edge) == pytest.approx(statistics.fmean(found) - statistics.stdev(found))
            assert max(edge) == pytest.approx(statistics.fmean(found) + statistics.stdev(found))
        for label, method in (("BLoB, N = 0", "BLoB"), ("MLE", "MLE")):
            level = statistics.fmean(of(one) for one in scores[method][0])
            assert list(line(ax, label).values()) == pytest.approx([level, level])
        assert ax.get_xscale() == "log" and list(ax.get_xticks()) == [1, 10, 160]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["BLoB", "BLoB, N = 0", "MLE"]
    assert figure.get_supxlabel() == "mean ± standard deviation over 3 seeds"


def test_settings_are_columns_and_scores_are_rows() -> None:
    scores = {
        "prior scale": {0.4: runs(0.5), 0.1: runs(0.2)},
        "KL learning rate": {0.01: runs(0.7), 0.05: runs(0.3), 0.1: [run(0.9)]},
    }
    figure = settings_plot(scores, marked={"prior scale": 0.2})[0].figure
    grid = [figure.axes[row : row + 2] for row in (0, 2, 4)]
    rows = [SCORES["ECE (%)"], SCORES["NLL (nats per item)"], SCORES["accuracy (%)"]]
    for axes, of in zip(grid, rows, strict=True):
        for ax, by_value in zip(axes, scores.values(), strict=True):
            points, ends = bars(ax, 1)
            for (value, mean), (low, high) in zip(points, ends, strict=True):
                found = [of(one) for one in by_value[value]]
                width = statistics.stdev(found) if len(found) > 1 else 0.0
                assert mean == pytest.approx(statistics.fmean(found))
                assert (low, high) == pytest.approx((mean - width, mean + width))
            assert [value for value, _ in points] == sorted(by_value)
            single = next(one for one in ax.lines if one.get_markersize() < 3)
            expected = [(value, of(one)) for value in sorted(by_value) for one in by_value[value]]
            expected = [pair for pair in expected if len(by_value[pair[0]]) > 1]
            assert [tuple(pair) for pair in single.get_xydata().tolist()] == expected
        assert axes[0].get_ylim() == axes[1].get_ylim()
        assert [one.get_xdata()[0] for one in axes[0].lines if one.get_linestyle() == ":"] == [0.2]
        assert not [one for one in axes[1].lines if one.get_linestyle() == ":"]
    assert [ax.get_xlabel() for ax in grid[-1]] == list(scores)
    assert figure.get_supxlabel() == "mean ± standard deviation over 1 to 3 seeds; dotted: the default"


def test_methods_are_rows_from_the_top() -> None:
    scores = {"MLE": runs(0.9), "TFB": [run(0.4)], "BLoB": runs(0.1)}
    figure = methods_plot(scores)[0].figure
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == list(scores)
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]
    for ax, name in zip(figure.axes, ("accuracy (%)", "NLL (nats per item)", "ECE (%)"), strict=True):
        assert ax.get_xlabel().startswith(name)
        points, ends = bars(ax, 0)
        for row, found in enumerate([SCORES[name](one) for one in metrics] for metrics in scores.values()):
            width = statistics.stdev(found) if len(found) > 1 else 0.0
            assert points[row] == pytest.approx((statistics.fmean(found), row))
            assert ends[row] == pytest.approx((points[row][0] - width, points[row][0] + width))
    assert figure.get_supxlabel() == "mean ± standard deviation over 1 to 3 seeds"


def test_one_seed_has_the_errors_over_the_items() -> None:
    figure = methods_plot({"MLE": [run(0.9)], "BLoB": [dataclasses.replace(run(0.1), ece_se=math.nan)]})[0].figure
    _, ends = bars(figure.axes[1], 0)
    assert [(high - low) / 2 for low, high in ends] == pytest.approx([METRICS.nll_se] * 2)
    _, ends = bars(figure.axes[2], 0)
    assert [(high - low) / 2 for low, high in ends] == pytest.approx([100 * METRICS.ece_se, 0.0])
    assert "standard error over the test items" in str(figure.get_supxlabel())


@pytest.mark.parametrize("count", [1, 3, 5])
def test_reliability_diagrams_stand_side_by_side(count: int) -> None:
    predictions = {f"method {seed}": answers(seed) for seed in range(count)}
    figure = reliability_diagrams(predictions, num_bins=10)[0].figure
    figure.canvas.draw()
    panels = [ax for ax in figure.axes if ax.get_title()]
    strips = [ax for ax in figure.axes if not ax.get_title()]
    assert [ax.get_title().split("\n")[0] for ax in panels] == list(predictions)
    for ax, strip, found in zip(panels, strips, predictions.values(), strict=True):
        bins = reliability_bins(found, 10)
        heights = [bar.get_height() for bar in ax.containers[0].patches]
        assert heights == pytest.approx(bins.accuracy[bins.count > 0].tolist())
        assert [bar.get_height() for bar in strip.patches] == bins.count.tolist()
    boxes = [ax.get_tightbbox() for ax in (*panels, *strips)]
    for one in range(len(boxes)):
        for other in range(one):
            a, b = boxes[one], boxes[other]
            assert a is not None and b is not None
            own = one - other == count  # a strip reaches up to its own panel
            assert own or min(a.x1, b.x1) <= max(a.x0, b.x0) or min(a.y1, b.y1) <= max(a.y0, b.y0)


@pytest.mark.parametrize(("count", "rows"), [(4, [4]), (5, [3, 2]), (6, [3, 3]), (9, [3, 3, 3])])
def test_rows_of_reliability_diagrams_are_even(count: int, rows: list[int]) -> None:
    places = reliability_diagrams({f"method {seed}": answers(seed) for seed in range(count)})
    heights = [ax.get_position().y0 for ax in places]
    assert [heights.count(height) for height in sorted(set(heights), reverse=True)] == rows


def test_reliability_diagrams_on_axes_have_one_legend() -> None:
    axes = Figure().subplots(2, 1)
    places = reliability_diagrams({"a": answers(0), "b": answers(1)}, ax=axes)
    assert [ax.get_legend() is not None for ax in places] == [True, False]


def test_the_embedding_shows_means_and_contours_of_each_class() -> None:
    classes = torch.tensor([0, 1, 1, 0, 2, 0])
    found = {"MLE": states(1), "BLoB": states(40)}
    figure = embedding_plot(found, classes=classes, class_names=["no", " maybe", "yes"])[0].figure
    from blob_pyro.report.plots import principal_plane

    plane = principal_plane(found)
    left, right = figure.axes
    for ax, points in ((left, plane.points["MLE"]), (right, plane.points["BLoB"])):
        for which, drawn in enumerate(ax.lines):
            torch.testing.assert_close(torch.tensor(drawn.get_xydata()), points[:, classes == which].mean(0))
            assert drawn.get_color() == COLOURS[which]
    assert not left.collections
    assert [len(one.get_paths()) for one in right.collections] == [3, 3, 2, 2, 1, 1]
    assert (left.get_title(), right.get_title()) == ("MLE", "BLoB (40 draws)")
    assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim() and left.get_aspect() == 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["no", "maybe", "yes", "50 % of an item's mass", "75 % of an item's mass"]


PICTURES: dict[str, Callable[[], Axes | tuple[Axes, ...]]] = {
    "growth": lambda: growth_plot({"square": ([0, 1], [0.1, 0.2])}),
    "num_samples": lambda: num_samples_plot({"BLoB": {n: runs(0.5) for n in (0, 1, 5)}}),
    "only N = 0": lambda: num_samples_plot({"MLE": {0: [run(0.5)]}}),
    "settings": lambda: settings_plot({"prior scale": {0.2: [run(0.5)]}}),
    "methods": lambda: methods_plot({"BLoB": runs(0.5)}),
    "diagrams": lambda: reliability_diagrams({"MLE": answers(0)}),
    "embedding": lambda: embedding_plot({"MLE": states(1), "BLoB": states(5)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_written_twice_and_the_same_again(name: str, tmp_path: Path) -> None:
    png, svg = save_png_and_svg(PICTURES[name](), tmp_path / "N=1.5")
    assert (png.name, svg.name) == ("N=1.5.png", "N=1.5.svg")
    assert png.read_bytes().startswith(b"\x89PNG") and svg.read_bytes().startswith(b"<?xml")
    _, again = save_png_and_svg(PICTURES[name](), tmp_path / "again")
    assert again.read_bytes() == svg.read_bytes()


def test_nothing_to_draw_is_refused() -> None:
    for draw in (growth_plot, num_samples_plot, settings_plot, methods_plot, reliability_diagrams, embedding_plot):
        with pytest.raises(DataError, match="expected at least one (label|method|setting); got none"):
            draw({})
    with pytest.raises(DataError, match=r"curves\['square'\]: expected steps and values of one length; got \(2,\)"):
        growth_plot({"square": ([0, 1], [0.1])})
    with pytest.raises(DataError, match="scores: expected values for every method; got none for 'BLoB'"):
        methods_plot({"BLoB": []})
    with pytest.raises(DataError, match="expected metrics of at least one run at every value; got none"):
        num_samples_plot({"BLoB": {1: []}})
    with pytest.raises(DataError, match="expected numbers of draws of at least 0; got -1"):
        num_samples_plot({"BLoB": {-1: runs(0.5)}})
    with pytest.raises(DataError, match=r"scores\['prior scale'\]: expected values above 0"):
        settings_plot({"prior scale": {0.0: runs(0.5)}})
