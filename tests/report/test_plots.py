"""The reliability diagram shows what `reliability_bins` counted, and touches nothing global."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from blob_pyro.errors import DataError
from blob_pyro.evaluation import reliability_bins
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.report.plots import reliability_diagram, save_figure, wilson_interval


@pytest.fixture
def predictions() -> Predictions:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(80, 3, generator=generator).mul(2).softmax(-1)
    return Predictions(probs, probs[None], torch.randint(3, (80,), generator=generator))


def test_bars_are_the_accuracies_and_gaps_reach_the_confidences(predictions: Predictions) -> None:
    bins = reliability_bins(predictions, 10)
    filled = bins.count > 0
    accuracy_bars, gap_bars = (bars.patches for bars in reliability_diagram(predictions, num_bins=10).containers[:2])
    assert [bar.get_height() for bar in accuracy_bars] == pytest.approx(bins.accuracy[filled].tolist())
    assert [bar.get_y() + bar.get_height() for bar in gap_bars] == pytest.approx(bins.confidence[filled].tolist())
    assert [bar.get_center()[0] for bar in accuracy_bars] == pytest.approx(
        [(b + 0.5) / 10 for b in range(10) if filled[b]]
    )


def test_the_strip_shows_the_counts(predictions: Predictions) -> None:
    figure = reliability_diagram(predictions, num_bins=10).figure
    strip = figure.axes[1]
    assert [bar.get_height() for bar in strip.patches] == reliability_bins(predictions, 10).count.tolist()
    assert strip.get_xlabel() == "confidence"


def test_the_title_gives_the_ece(predictions: Predictions) -> None:
    ece = reliability_bins(predictions).ece
    assert reliability_diagram(predictions).get_title() == f"ECE {100 * ece:.1f} % (n = 80)"


def test_it_draws_on_the_axes_given_and_stays_within_their_place(predictions: Predictions, tmp_path: Path) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    place = left.get_position()
    assert reliability_diagram(predictions, ax=left) is left
    figure.canvas.draw()
    new = [axes for axes in figure.axes if axes not in (left, right)]
    assert len(new) == 1 and not right.patches
    for axes in (left, *new):
        bounds = axes.get_position()
        assert bounds.x0 >= place.x0 - 1e-6 and bounds.x1 <= place.x1 + 1e-6
        assert bounds.y0 >= place.y0 - 1e-6 and bounds.y1 <= place.y1 + 1e-6


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_written_in_the_format_of_their_ending(
    predictions: Predictions, tmp_path: Path, ending: str, start: bytes
) -> None:
    path = save_figure(reliability_diagram(predictions), tmp_path / f"reliability.{ending}")
    assert path.read_bytes().startswith(start)


@pytest.mark.slow
def test_no_pyplot_figure_is_made_and_no_backend_chosen(tmp_path: Path) -> None:
    # torchmetrics imports pyplot, so that its presence proves nothing.
    code = (
        "import matplotlib, torch\n"
        "from blob_pyro.evaluation.predictions import Predictions\n"
        "from blob_pyro.report.plots import reliability_diagram, save_figure\n"
        "probs = torch.tensor([[0.7, 0.3]])\n"
        "ax = reliability_diagram(Predictions(probs, probs[None], torch.tensor([0])))\n"
        f"save_figure(ax, {str(tmp_path / 'one.png')!r})\n"
        "from matplotlib import pyplot\n"
        "print(pyplot.get_fignums(), matplotlib.get_backend(auto_select=False))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "[] None"


def test_predictions_without_labels_are_refused(predictions: Predictions) -> None:
    with pytest.raises(DataError, match="expected labels; got None"):
        reliability_diagram(Predictions(predictions.probs, predictions.draws))


def test_wilson_interval_of_known_shares() -> None:
    # Solutions p of |share - p| = z sqrt(p (1 - p) / n), checked by putting them back.
    correct, count = torch.tensor([0.0, 3.0, 10.0]).double(), torch.tensor([10.0, 10.0, 10.0]).double()
    low, high = wilson_interval(correct, count)
    assert low[0] == 0.0 and high[2] == 1.0
    for end in (low[1], high):
        share = correct[1] / 10 if end.dim() == 0 else correct / 10
        torch.testing.assert_close((share - end).abs(), 1.959964 * (end * (1 - end) / 10).sqrt(), atol=1e-9, rtol=0)
