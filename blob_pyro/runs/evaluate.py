"""`evaluate_run`: predictions of a run's test items, their scores and what is drawn of them."""

from __future__ import annotations

import contextlib
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import DataError
from blob_pyro.runs.answerer import found_temperature, load_run, num_draws, with_samples
from blob_pyro.runs.build import Items, encode_task, load_data
from blob_pyro.runs.item_kinds import ItemKind, kind_of
from blob_pyro.storage.directory import (
    COST,
    METRICS,
    RELIABILITY,
    pinned,
    read_config,
    read_json,
    refuse_links,
    write_json,
)
from blob_pyro.storage.saving import Run
from blob_pyro.system.files import end_replacing, new_files
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.locks import alone_in
from blob_pyro.system.printing import tell_line
from blob_pyro.system.processes import Ranks, connected
from blob_pyro.system.terminal import SILENT, Console, Say


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


def evaluate_test_items(run: Run, items: Items, config: RunConfig, console: Console) -> RunResult:
    """Predict with the posterior mean and with draws; write metrics and predictions, then the diagram."""
    if not len(items.test):
        return RunResult(run.path, {}, {})
    kind = kind_of(config)
    counts = sorted({0, num_draws(run.guide, config)})
    start = time.perf_counter()
    predictions = {f"N={count}": kind.predict(run, items.test, config, count, console) for count in counts}
    cost = {"predict_seconds": time.perf_counter() - start}
    if config.predict.temperature:
        scaled = {
            count: found_temperature(kind.predict(run, items.validation, config, count, console), count, console)
            for count in counts
        }
        predictions = {f"N={count}": scaled[count](predictions[f"N={count}"]) for count in counts}
        cost |= {f"temperature_N={count}": found.value for count, found in scaled.items()}
    metrics = {name: kind.evaluate(found) for name, found in predictions.items()}
    if not Ranks.here().is_first:
        return RunResult(run.path, metrics, predictions)
    with new_files(run.path) as new:
        kind.write(new, predictions[f"N={counts[-1]}"], items.test.examples, items.labels)
        write_json(new / COST, read_json(run.path / COST) | cost)
        write_json(new / METRICS, {name: found.to_dict() for name, found in metrics.items()})
    _draw(kind, run.path, predictions[f"N={counts[-1]}"])
    return RunResult(run.path, metrics, predictions)


def _draw(kind: ItemKind[Any, Any], path: Path, predictions: Any) -> None:
    """The picture, when the scores are there: whatever stops it costs none of them."""
    try:
        kind.draw(path, predictions)
    except Exception as error:  # of matplotlib, of its fonts, of the disk
        with contextlib.suppress(OSError):
            (path / RELIABILITY).unlink()  # of other answers
        warnings.warn(
            f"{path / RELIABILITY}: not drawn ({type(error).__name__}: {one_line(error, limit=200)}); the scores are "
            "written",
            stacklevel=2,
        )


def evaluate_run(
    run_dir: str | Path,
    *,
    num_samples: int | None = None,
    base: str | Path | None = None,
    progress: bool = True,
    say: Say = tell_line,
) -> RunResult:
    """Predict a saved run's test items again, and rewrite its metrics and predictions.

    The draws are those of `fit_run` (same seed): with the run's own number of them so are the metrics. Several
    processes share the items out, as in `fit_run`.

    Args:
        run_dir: a directory that `fit_run` wrote.
        num_samples: posterior draws; None takes the run's own number.
        base: the folder, hub id or alias that the base is loaded from, where it has moved.
        progress: show progress bars; those of other libraries are theirs (`system.terminal.quiet_libraries`).
        say: receives lines for the user.

    Raises:
        ConfigError: `num_samples` is below 0.
        RunDirectoryError: the directory is not a whole run.
        DataError: the run has no test items.
    """
    config = with_samples(pinned(read_config(run_dir), run_dir), num_samples)
    refuse_links(run_dir)
    with connected() as ranks, alone_in(run_dir, ranks):
        if ranks.is_first:
            end_replacing(Path(run_dir))
        ranks.wait()
        console = Console(progress, say) if ranks.is_first else SILENT
        data = load_data(config)
        if not data.test:
            raise DataError(
                f"{run_dir}: expected a run with test items; it has none; use `blob-pyro predict` on a file"
            )
        run = load_run(run_dir, data.labels, base=base, shard_base=config.model.shard_base and ranks.num > 1)
        return evaluate_test_items(run, encode_task(data, run.model, config), config, console)
