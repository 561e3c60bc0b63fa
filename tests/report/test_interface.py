"""Every picture takes axes and returns axes, draws what a run directory holds, and shows the numbers it was given."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import blob_pyro as bp
from blob_pyro.errors import DataError, RunDirectoryError
from blob_pyro.evaluation import Metrics, evaluate, risk_coverage
from blob_pyro.report.plots import (
    draws_histogram,
    embedding_plot,
    growth_plot,
    methods_plot,
    num_samples_plot,
    reliability_diagram,
    reliability_diagrams,
    risk_coverage_plot,
    scale_heatmap,
    scores_by_count,
    settings_heatmap,
    settings_plot,
    training_curves,
)
from blob_pyro.report.plots.training import running_mean
from blob_pyro.storage.answers import write_predictions
from blob_pyro.training.svi import StepResult

METRICS = Metrics(0.67, 1.19, 0.213, 0.45, 0.5, 0.1, 400, 10, 15, 0.0235, 0.061, 0.018, 0.019)


def answers(n: int = 60, num_draws: int = 6, num_classes: int = 3, seed: int = 0) -> bp.Predictions:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(num_draws, n, num_classes, generator=generator).mul(2).softmax(-1)
    return bp.Predictions(draws.mean(0), draws, torch.randint(num_classes, (n,), generator=generator))


STEPS = [
    StepResult(
        math.nan if step == 7 else 2.0 / step, 100.0 / step, 0.5, 1.0, step, skipped=step == 7, scale=0.01 * step,
        held_out_nll=1.0 if step == 5 else None,
    )
    for step in range(1, 21)
]  # fmt: skip
STATES = torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(1))
SCALES = {f"model.layers.{k}.self_attn.{m}_proj.lora_A": 0.1 + 0.1 * k for k in range(3) for m in "qv"}

ONE: dict[str, Callable[..., Axes]] = {
    "reliability": lambda ax: reliability_diagram(answers(), ax=ax),
    "risk": lambda ax: risk_coverage_plot(answers(), ax=ax),
    "draws": lambda ax: draws_histogram(answers(), 0, ax=ax),
    "growth": lambda ax: growth_plot(STEPS, ax=ax),
    "scales": lambda ax: scale_heatmap(SCALES, ax=ax),
}
SEVERAL: dict[str, tuple[int, Callable[..., tuple[Axes, ...]]]] = {
    "reliabilities": (2, lambda ax: reliability_diagrams({"a": answers(), "b": answers(seed=1)}, ax=ax)),
    "num_samples": (3, lambda ax: num_samples_plot(answers(), ax=ax)),
    "methods": (3, lambda ax: methods_plot({"a": answers(), "b": answers(seed=1)}, ax=ax)),
    "settings": (3, lambda ax: settings_plot({"prior scale": {0.1: [METRICS], 0.2: [METRICS]}}, ax=ax)),
    "heat map": (3, lambda ax: settings_heatmap({(0.01, 0.1): [METRICS], (0.1, 0.2): [METRICS]}, ax=ax)),
    "embedding": (2, lambda ax: embedding_plot({"a": STATES[:1], "b": STATES}, ax=ax)),
    "training": (4, lambda ax: training_curves(STEPS, ax=ax)),
}


@pytest.mark.parametrize("name", ONE)
def test_a_picture_of_one_panel_is_drawn_on_the_axes_given(name: str) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert ONE[name](left) is left and left.has_data() and not right.has_data()
    made = ONE[name](None)
    assert made.figure is not figure and made.has_data()


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_a_picture_of_several_panels_is_drawn_on_those_given(name: str) -> None:
    count, draw = SEVERAL[name]
    grid = Figure().subplots(1, count)
    assert draw(grid) == tuple(grid) and all(ax.has_data() for ax in grid)
    apart = [Figure().add_subplot() for _ in range(count)]
    assert draw(apart) == tuple(apart)
    assert len(draw(None)) == count
    with pytest.raises(DataError, match=f"ax: expected {count} axes, one for each panel.*; got {count + 1}"):
        draw(Figure().subplots(1, count + 1))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The files of a run that pictures are drawn from."""
    examples = [bp.Example(f"prompt {i}", int(label), f"item {i}") for i, label in enumerate(answers().labels)]
    write_predictions(tmp_path / "predictions.parquet", answers(), examples, [" no", " maybe", " yes"])
    (tmp_path / "metrics.json").write_text(json.dumps({"N=6": evaluate(answers()).to_dict()}))
    lines = [json.dumps({k: v for k, v in dataclasses.asdict(step).items() if v is not None}) for step in STEPS]
    (tmp_path / "history.jsonl").write_text("\n".join(lines).replace("NaN", "null") + '\n{"nll": 0.1, "k')
    (tmp_path / "posterior.json").write_text(json.dumps({"mean_scales": SCALES}))
    return tmp_path


def points(axes: Axes | tuple[Axes, ...]) -> list[Any]:
    panels = axes if isinstance(axes, tuple) else (axes,)
    return [torch.tensor(line.get_xydata()).nan_to_num(-1).tolist() for ax in panels for line in ax.lines]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Path, str, "run"])
def test_a_run_is_drawn_as_what_it_holds(run_dir: Path, kind: Any) -> None:
    # no model is asked of a run here, so that a Run without one serves
    run = bp.Run(run_dir, None, None) if kind == "run" else kind(run_dir)  # type: ignore[arg-type]
    assert reliability_diagram(run).get_title() == reliability_diagram(answers()).get_title()
    for draw, held in (
        (risk_coverage_plot, answers()), (num_samples_plot, answers()), (training_curves, STEPS), (growth_plot, STEPS),
    ):  # fmt: skip
        assert points(draw(run)) == points(draw(held))
    assert methods_plot({"a": run})[1].lines[0].get_xdata() == pytest.approx([evaluate(answers()).nll])
    labels = [label.get_text() for label in draws_histogram(run, "item 3").get_yticklabels()]
    assert sorted(label.removeprefix("★ ") for label in labels) == ["maybe", "no", "yes"]
    if kind != "run":
        assert (scale_heatmap(run).images[0].get_array() == scale_heatmap(SCALES).images[0].get_array()).all()


def test_the_risk_is_that_of_the_curve() -> None:
    curve, ax = risk_coverage(answers()), risk_coverage_plot({"a": answers(), "b": answers(seed=1)})
    assert ax.lines[0].get_ydata() == pytest.approx((100 * curve.risk).tolist())
    assert ax.lines[0].get_label() == f"a (AURC {curve.area:.3f})"
    best = next(line for line in risk_coverage_plot(answers()).lines if line.get_linestyle() == ":").get_ydata()
    right = round(60 * evaluate(answers()).accuracy)
    assert best == pytest.approx([100 * max(0, k - right) / k for k in range(1, 61)])


def test_the_bars_of_an_item_count_its_draws() -> None:
    predictions = answers(num_draws=50)
    ax = draws_histogram(predictions, 4, num_bins=10)
    order = predictions.probs[4].argsort(descending=False).tolist()
    bars = [[bar.get_height() for bar in container.patches] for container in ax.containers]
    counts = [
        [sum(min(int(10 * p), 9) == b for p in predictions.draws[:, 4, k].double().tolist()) for b in range(10)]
        for k in order
    ]
    most = max(map(max, counts))
    for found, expected in zip(bars, counts, strict=True):
        assert found == pytest.approx([0.8 * count / most for count in expected])
    assert ax.lines[-1].get_xdata() == pytest.approx(predictions.probs[4][order].tolist())


def test_a_heat_map_has_a_cell_for_each_layer() -> None:
    ax = scale_heatmap(SCALES | {"lm_head.lora_A": 0.7})
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2", "–"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["lm_head", "v_proj", "q_proj"]
    grid = ax.images[0].get_array().filled(-1.0).tolist()
    assert grid == [[-1, -1, -1, 0.7], [0.1, 0.2, pytest.approx(0.3), -1], [0.1, 0.2, pytest.approx(0.3), -1]]


def test_differences_of_no_size_have_no_colour() -> None:
    image = scale_heatmap({site: 0.1 + 1e-6 * k for k, site in enumerate(SCALES)}).images[0]
    low, high = image.get_clim()
    assert high - low == pytest.approx(0.01, rel=1e-3)


def test_settings_are_cells_and_the_default_is_framed() -> None:
    runs = [METRICS, dataclasses.replace(METRICS, ece=0.233)]
    scores = {(0.01, 0.1): runs, (0.1, 0.1): [METRICS], (0.1, 0.2): runs}
    ece, *_ = settings_heatmap(scores, marked=(0.1, 0.2))
    grid = ece.images[0].get_array().filled(-1.0)
    assert grid.tolist() == [[pytest.approx(22.3), pytest.approx(21.3)], [-1, pytest.approx(22.3)]]
    assert [text.get_text() for text in ece.texts] == ["22.3\n± 1.4", "21.3", "22.3\n± 1.4"]
    frames = [patch for patch in ece.patches if not patch.get_fill()]
    assert [patch.get_xy() for patch in frames] == [pytest.approx((0.54, 0.54))] * 2


def test_training_curves_are_the_steps() -> None:
    nll, kl, weight, scale = training_curves(STEPS)
    assert [line.get_label() for line in nll.lines] == ["a step", "running mean", "held-out items", "skipped steps"]
    assert nll.lines[-1].get_xdata() == [7] and nll.lines[2].get_xdata() == [5]
    assert kl.get_yscale() == "log" and kl.lines[0].get_ydata() == pytest.approx([step.kl for step in STEPS])
    assert weight.lines[0].get_ydata() == pytest.approx([0.5] * 20)
    assert scale.lines[0].get_ydata() == pytest.approx([step.scale for step in STEPS])
    members = training_curves([*STEPS, *STEPS])
    assert len(members[1].lines) == 2
    _, _, _, none = training_curves([dataclasses.replace(step, scale=None) for step in STEPS])
    assert not none.lines and [text.get_text() for text in none.texts] == ["no trained spread is recorded"]


@pytest.mark.parametrize("window", [1, 3, 50])
def test_the_running_mean_is_that_of_a_loop(window: int) -> None:
    values = [math.nan if k == 4 else math.sin(k) for k in range(12)]
    for k, mean in enumerate(running_mean(values, window)):
        seen = [value for value in values[max(0, k - window + 1) : k + 1] if not math.isnan(value)]
        assert mean == pytest.approx(sum(seen) / len(seen)) if seen else math.isnan(mean)


def test_the_first_draws_are_scored() -> None:
    predictions = answers()
    found = scores_by_count(predictions)
    assert list(found) == [1, 2, 3, 5, 6]
    for count, metrics in found.items():
        draws = predictions.draws[:count]
        assert metrics == evaluate(bp.Predictions(draws.mean(0), draws, predictions.labels))


def test_what_cannot_be_drawn_is_refused(run_dir: Path) -> None:
    with pytest.raises(DataError, match="item: expected a position from 0 to 59, or of a run an id; got 'item 99'"):
        draws_histogram(run_dir, "item 99")
    with pytest.raises(DataError, match="class_names: expected 3 names; got 2"):
        draws_histogram(answers(), 0, class_names=["a", "b"])
    with pytest.raises(DataError, match="expected a training with a spread; its steps tell of none"):
        growth_plot([dataclasses.replace(step, scale=None) for step in STEPS])
    with pytest.raises(DataError, match="expected at least one step of a training; got none"):
        training_curves([])
    (run_dir / "history.jsonl").write_text('{"nll": "high", "kl": 1, "kl_weight": 1, "loss": 1, "step": 1}\n')
    with pytest.raises(RunDirectoryError, match="expected a step of a training in line 1; it was altered"):
        training_curves(run_dir)
    (run_dir / "posterior.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="expected mean_scales, a number for each site; it has none"):
        scale_heatmap(run_dir)
    (run_dir / "predictions.parquet").unlink()
    with pytest.raises(RunDirectoryError, match="it is not there: `blob-pyro evaluate` writes it"):
        reliability_diagram(run_dir)
