"""Figure 5: where the draws put each item, in a plane of the last hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyro
from torch import Tensor

from blob_pyro.evaluation import evaluate
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
from blob_pyro.experiments.paper.figures.hidden_states import hidden_states
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.report.comparison import Outcome, comparison_csv, comparison_markdown
from blob_pyro.report.plots import embedding_plot
from blob_pyro.runs.build import labels_of

TASK = "openbookqa"
METHOD_NAMES = ("mle", "dropout", "blob")
NUM_ITEMS, NUM_DRAWS = 30, 20

States = Mapping[str, Tensor]
"""What is kept of a run: "states" (S, n, D), "probs" (S, n, K), "labels" (n,)."""


def figure5(order: Order) -> Reproduction:
    """The last hidden states of the first 30 test items under 20 draws: MLE (a point), MC dropout and BLoB.

    The picture is that of the first seed under which every method has a run, or else of the first that one has. The
    table has, over all seeds, the scores on these items and how far the draws spread them (`relative_spread`).

    Args:
        order: what was asked for.

    Raises:
        ConfigError, RunDirectoryError: as `run_methods`; also where no run ends.

    Source: BLoB, arXiv 2406.11675, Figure 5.
    """
    config = configuration(order, TASK)
    progress = order.console.progress
    found, failures = of_runs(
        order, config, METHOD_NAMES, lambda path: states_of_run(path, NUM_ITEMS, NUM_DRAWS, progress=progress)
    )
    rows = {
        title: {seed: _outcome(by_seed[seed]) if seed in by_seed else None for seed in order.seeds}
        for title, by_seed in found.items()
    }
    seed = max(order.seeds, key=lambda seed: sum(seed in by_seed for by_seed in found.values()))
    shown = {title: by_seed[seed] for title, by_seed in found.items() if seed in by_seed}
    axes = embedding_plot(
        {title: one["states"] for title, one in shown.items()},
        classes=next(iter(shown.values()))["labels"],
        class_names=labels_of(config.data),
    )
    count = len(next(iter(shown.values()))["labels"])
    title = f"Figure 5: last hidden states of the first {count} test items; {describe(order, config)}"
    note = (
        f"The picture shows seed {seed}, items by their true answer. Scores are those of the {count} items. Spread: "
        "standard deviation of an item's hidden state over the draws, relative to that of the items' means."
    )
    paragraphs = [title, comparison_markdown(rows), note, failed(failures)]
    return write(order, "figure5", paragraphs, comparison_csv(rows), figure5=axes)


def states_of_run(path: Path, num_items: int, num_samples: int, *, progress: bool = False) -> dict[str, Tensor]:
    """Hidden states of a finished run's first test items, kept in the run directory and not made again.

    Args:
        path: the run directory.
        num_items: how many items at most.
        num_samples: posterior draws under the run's seed; a point has its only value.
        progress: show progress.

    Returns:
        "states" (S, n, D), "probs" (S, n, K) and "labels" (n,), as in `HiddenStates`.
    """

    def make() -> dict[str, Tensor]:
        loaded = load_with_items(path, num_items)
        guide = loaded.run.guide
        pyro.set_rng_seed(loaded.config.seed)
        count = num_samples if guide.is_random else 0
        return vars(hidden_states(loaded.run.model, guide, loaded.items, count, progress=progress))

    return kept(path / f"hidden_states_n={num_items}_N={num_samples}.safetensors", make)


def relative_spread(states: Tensor, items: Tensor | None = None) -> float:
    """Standard deviation of an item's state over the draws, relative to that of the items' means.

    The root of the mean over items of the trace of the draws' covariance, divided by the trace of the covariance of the
    means of all items. 0 for a single draw.

    Args:
        states: (S, n, D), n being 2 at least.
        items: (n,) which items the first mean is over; None takes all.

    Example:
        >>> import torch
        >>> states = torch.tensor([[[0.0, 1.0], [4.0, 1.0]], [[0.0, -1.0], [4.0, -1.0]]])  # variances 2 and 8
        >>> relative_spread(states)
        0.5
    """
    states = states.double()
    if len(states) == 1:
        return 0.0
    within = states.var(0).sum(-1)
    between = states.mean(0).var(0).sum()
    return float(((within if items is None else within[items]).mean() / between).sqrt())


def _outcome(kept_states: States) -> Outcome:
    """Scores of the items, and spreads: of all, and of those answered right and wrong where there are some."""
    states, probs, labels = (kept_states[name] for name in ("states", "probs", "labels"))
    predictions = Predictions(probs.mean(0), probs, labels)
    right = predictions.probs.argmax(-1) == labels
    groups = {"spread, right": right, "spread, wrong": ~right}
    spreads = {name: relative_spread(states, items) for name, items in groups.items() if items.any()}
    metrics = evaluate(predictions)
    return Outcome(
        metrics,
        num_samples=len(states) if len(states) > 1 else 0,
        further={"spread": relative_spread(states)} | spreads,
    )
