"""A run's items, and the evaluation of its test items: predictions, scores and what is drawn of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.answering import Say, found_temperature, num_draws
from blob_pyro.checkpoint import Run
from blob_pyro.config import RunConfig
from blob_pyro.data.collate import EncodedDataset
from blob_pyro.item_kinds import kind_of
from blob_pyro.ranks import Ranks
from blob_pyro.run_directory import COST, METRICS, read_json, write_json


@dataclass(frozen=True)
class RunResult:
    """What a finished run found.

    Attributes:
        path: the run directory.
        metrics: "N=0" (posterior mean) and "N=<draws>" -> `Metrics` on the test items, or `TokenMetrics` where the
            likelihood is causal_lm; empty without any.
        predictions: the same keys -> `Predictions`, or `TokenPredictions`, in the order of the test items.
    """

    path: Path
    metrics: dict[str, Any]
    predictions: dict[str, Any]


@dataclass(frozen=True)
class Items:
    """The encoded items of a run; `labels` are the answer words, none where tokens are learnt."""

    train: EncodedDataset
    test: EncodedDataset
    validation: EncodedDataset
    labels: tuple[str, ...]


def evaluate_test_items(run: Run, items: Items, config: RunConfig, progress: bool, say: Say) -> RunResult:
    """Predict with the posterior mean and with draws; write metrics, predictions and diagram."""
    if not len(items.test):
        return RunResult(run.path, {}, {})
    kind = kind_of(config)
    counts = sorted({0, num_draws(run.guide, config)})
    start = time.perf_counter()
    predictions = {f"N={count}": kind.predict(run, items.test, config, count, progress) for count in counts}
    cost = {"predict_seconds": time.perf_counter() - start}
    if config.predict.temperature:
        scaled = {
            count: found_temperature(kind.predict(run, items.validation, config, count, progress), count, say)
            for count in counts
        }
        predictions = {f"N={count}": scaled[count](predictions[f"N={count}"]) for count in counts}
        cost |= {f"temperature_N={count}": found.value for count, found in scaled.items()}
    metrics = {name: kind.evaluate(found) for name, found in predictions.items()}
    if not Ranks.here().is_first:
        return RunResult(run.path, metrics, predictions)
    kind.write(run.path, predictions[f"N={counts[-1]}"], items.test.examples, items.labels)
    write_json(run.path / COST, read_json(run.path / COST) | cost)
    write_json(run.path / METRICS, {name: found.to_dict() for name, found in metrics.items()})
    return RunResult(run.path, metrics, predictions)
