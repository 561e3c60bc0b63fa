"""Figure 3: accuracy, ECE and NLL against the number of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyro
from torch import Tensor

from blob_pyro.evaluation import Metrics, evaluate
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.experiments.paper.figures.common import (
    configuration,
    describe,
    failed,
    kept,
    load_with_items,
    of_runs,
    write,
)
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.prediction.predictive import PosteriorPredictive
from blob_pyro.report.comparison import Outcome, comparison_csv, comparison_markdown
from blob_pyro.report.plots import num_samples_plot
from blob_pyro.storage.reading import read_metrics

TASK, SMALL_TASK = "winogrande_s", "arc_easy"
METHOD_NAMES = ("blob", "bbb")
FULL_COUNTS = (1, 2, 3, 4, 5, 10, 20, 40, 80, 160)
SMALL_COUNTS = tuple(count for count in FULL_COUNTS if count <= 40)


def figure3(order: Order) -> Reproduction:
    """Scores against the number of draws N, for BLoB and Bayes by Backprop.

    A run's items are answered once, with the most draws; the answer with N draws is the mean over the first N of them,
    which are those of a prediction with N draws and the run's seed. N = 0 is the posterior mean.

    Args:
        order: what was asked for.

    Raises:
        ConfigError, RunDirectoryError: as `run_methods`; also where no run ends.

    Source: BLoB, arXiv 2406.11675, Figure 3.
    """
    config = configuration(order, TASK, SMALL_TASK)
    counts = FULL_COUNTS if order.scale == "full" else SMALL_COUNTS
    found, failures = of_runs(
        order, config, METHOD_NAMES, lambda path: scores_by_count(path, counts, progress=order.console.progress)
    )
    rows = {
        f"{title} N={count}": {
            seed: Outcome(by_seed[seed][count], num_samples=count) if seed in by_seed else None for seed in order.seeds
        }
        for title, by_seed in found.items()
        for count in (0, *counts)
    }
    axes = num_samples_plot({title: _by_count(list(by_seed.values())) for title, by_seed in found.items()})
    title = f"Figure 3: scores against the number of draws N; {describe(order, config)}"
    paragraphs = [title, comparison_markdown(rows), failed(failures)]
    return write(order, "figure3", paragraphs, comparison_csv(rows), figure3=axes)


def scores_by_count(path: Path, counts: Sequence[int], *, progress: bool = False) -> dict[int, Metrics]:
    """Number of draws -> metrics of a finished run's test items, 0 being the posterior mean.

    The draws' probabilities are kept in the run directory, and not made again.

    Args:
        path: the run directory.
        counts: numbers of draws above 0.
        progress: show a progress bar.
    """
    most = max(counts)
    answers = kept(path / f"draws_N={most}.safetensors", lambda: _answers(path, most, progress))
    mean = read_metrics(path)["N=0"]
    assert isinstance(mean, Metrics)  # of a built-in task, whose items are classes
    predictions = Predictions(answers["draws"].mean(0), **answers)
    return {0: mean} | {n: evaluate(predictions.first_draws(n)) for n in counts}


def _answers(path: Path, num_samples: int, progress: bool) -> Mapping[str, Tensor]:
    """Probabilities (S, n, K) under the draws that the run's seed gives, and the labels (n,)."""
    loaded = load_with_items(path)
    pyro.set_rng_seed(loaded.config.seed)
    predictive = PosteriorPredictive(
        loaded.run.model, loaded.run.guide, num_samples, max_tokens=loaded.config.predict.max_tokens
    )
    found = predictive(loaded.items, progress=progress, description=f"predict N={num_samples}")
    assert found.labels is not None  # of a built-in task every test item has one
    return {"draws": found.draws, "labels": found.labels}


def _by_count(runs: Sequence[Mapping[int, Metrics]]) -> dict[int, list[Metrics]]:
    """N -> the metrics of all runs."""
    return {count: [run[count] for run in runs] for count in runs[0]}
