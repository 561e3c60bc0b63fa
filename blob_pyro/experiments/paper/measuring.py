"""What one system costs, in a process of its own."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blob_pyro.config.sections import RunConfig
from blob_pyro.experiments.bench.memory import memory_meter
from blob_pyro.guides import GUIDES, PostHocGuide
from blob_pyro.runs.answerer import num_draws, predict_items
from blob_pyro.runs.build import build_parts, load_data
from blob_pyro.runs.fit import parameter_counts
from blob_pyro.runs.train import learn
from blob_pyro.storage.directory import read_config, write_json
from blob_pyro.storage.saving import Run
from blob_pyro.system.apart import run_apart
from blob_pyro.system.terminal import SILENT

MEASURED = "measured.json"
WARM_UP, STEPS = 3, 20


@dataclass(frozen=True)
class Cost:
    """What one system costs.

    Attributes:
        parameters: trained and stored numbers.
        train_seconds: a whole training: the configuration's steps at the speed of the measured ones, and what is
            fitted once after them.
        predict_seconds: answers to the test items.
        peak_bytes: most memory in use during training: of the process, or of tensors on a GPU.
        num_samples: posterior draws behind the answers.
    """

    parameters: int
    train_seconds: float
    predict_seconds: float
    peak_bytes: int
    num_samples: int


def measure(config: RunConfig) -> Cost:
    """Train for a few steps and predict the test items, both after a warm-up; nothing is kept.

    Args:
        config: the run; its output is not written to.

    Raises:
        BlobPyroError: as `fit_run`.
    """
    data = load_data(config)
    parts = build_parts(config, data)
    model, guide, items = parts.model, parts.guide, parts.items
    trained = GUIDES[guide.trained_as](model) if isinstance(guide, PostHocGuide) else guide
    at_first = dataclasses.replace(parts, guide=trained)
    num_steps = min(STEPS, config.train.num_steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        learn(at_first, _with_steps(config, WARM_UP), path, SILENT)
        meter = memory_meter(str(model.device))
        meter.restart()
        steps = _seconds(lambda: learn(at_first, _with_steps(config, num_steps), path, SILENT))
        once = 0.0
        if isinstance(guide, PostHocGuide):  # a named adapter is one that needs no training
            ready = dataclasses.replace(config, model=dataclasses.replace(config.model, adapter=str(path)))
            once = _seconds(lambda: learn(parts, ready, path, SILENT))
        peak = meter.peak()
        count = num_draws(guide, config)
        run = Run(path, model, guide)
        predict_items(run, items.test, config, count, SILENT)
        predicting = _seconds(lambda: predict_items(run, items.test, config, count, SILENT))
    whole = steps * config.train.num_steps / num_steps + once
    return Cost(sum(parameter_counts(model, guide).values()), whole, predicting, peak, count)


def measure_apart(path: Path) -> Cost:
    """`measure` of the configuration in a directory, in a process of its own; what it finds is kept there.

    Raises:
        BlobPyroError: the process failed, or was killed.
    """
    cost = Cost(**run_apart(__name__, str(path)))
    write_json(path / MEASURED, dataclasses.asdict(cost))
    return cost


def _with_steps(config: RunConfig, num_steps: int) -> RunConfig:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=num_steps))


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main(path: str) -> dict[str, float]:
    """Measure the configuration in a directory."""
    return dataclasses.asdict(measure(read_config(path)))
