"""`compare`: several systems under one configuration and several seeds, and one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from blob_pyro.config.methods import METHODS, Method, choose
from blob_pyro.config.ranges import MOST_WORKERS, check_range
from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import BlobPyroError, ConfigError, DataError
from blob_pyro.experiments.compare.runs import Ended, make_runs, refuse_other_runs, run_path
from blob_pyro.experiments.compare.workers import make_runs_at_once
from blob_pyro.guides.settings import check_settings
from blob_pyro.report.comparison import (
    PARAMETERS,
    SECONDS,
    Outcome,
    Rows,
    comparison_csv,
    comparison_markdown,
    scores_of_rows,
)
from blob_pyro.runs.build import with_read_labels
from blob_pyro.runs.checks import check_likelihood
from blob_pyro.storage.directory import COMPARISON, COST, METRICS, read_config
from blob_pyro.storage.reading import read_cost, read_metrics
from blob_pyro.system.files import write_whole
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.locks import alone_in
from blob_pyro.system.printing import tell_line
from blob_pyro.system.terminal import TERMINAL, Console, Say

TABLE, SCORES, CHART = COMPARISON, "comparison.csv", "comparison"
HELD_OUT_MARK = " †"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        path: directory of the tables; METHOD/seedSEED below it are the run directories.
        rows: row of the table -> seed -> outcome; None where a run failed.
        failures: "METHOD, seed SEED: why" of each run that failed.
        held_out: number of items that the methods marked † saw besides the training items.
    """

    path: Path
    rows: Rows
    failures: tuple[str, ...]
    held_out: int

    def text(self) -> str:
        """The table in Markdown, with what its marks mean and which runs failed."""
        parts = [comparison_markdown(self.rows)]
        if any(row.endswith(HELD_OUT_MARK) for row in self.rows):
            parts.append(f"† also sees {self.held_out} held-out items, which no method is trained or tested on.")
        parts += [f"Failed: {failure}." for failure in self.failures]
        return "\n\n".join(parts)


def compare(
    config: RunConfig,
    methods: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    workers: int = 1,
    progress: bool = True,
    say: Say = tell_line,
) -> Comparison:
    """Run every method under every seed, with tables and a chart in `config.output`, written anew after each run.

    All runs share the configuration but for what makes the method, and all runs of one seed their items and the start
    of their adapter. An interrupted comparison goes on where it stopped; a run that fails is told and left out of the
    means.

    Args:
        config: what the methods share; `config.output` is the directory, `config.seed` is not used.
        methods: names in `config.methods.METHODS`, or "systems" or "ablations".
        seeds: of the runs.
        workers: runs to make at once, each in a process with its share of the threads, which may change last digits.
        progress: show progress bars, in this process alone.
        say: receives lines for the user.

    Returns:
        The rows: of each method the metrics of its runs by seed, and what failed.

    Raises:
        ConfigError: an unknown method, no seed or one given twice, held-out items missing, or no run ends.
        RunDirectoryError: the directory holds runs of another configuration.
        DataError: there are no items to test on.
    """
    return run_methods(config, methods, seeds, workers=workers, console=Console(progress, say), on_run=_write)


def run_methods(
    config: RunConfig,
    methods: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    workers: int = 1,
    console: Console = TERMINAL,
    on_run: Callable[[Comparison], None] = lambda found: None,
) -> Comparison:
    """Run every method under every seed, where that is not done yet.

    All runs share the configuration but for what makes the method; all runs of one seed share their items and the
    start of their adapter. What a method starts from is run first, once. A run that a former call has finished is
    read and not repeated, and one that is not at its end goes on from its newest checkpoint: an interrupted comparison
    goes on where it stopped. A run that fails is told and left out of the means.

    Args:
        config: what the methods share; `config.output` is the directory, `config.seed` is not used.
        methods: names in `METHODS`, or "systems" or "ablations".
        seeds: of the runs.
        workers: runs to make at once, each in a process with its share of the threads. Sums of few threads are
            rounded otherwise than those of many, so that the last digits can differ.
        console: receives lines for the user, and shows progress; of several processes none is shown.
        on_run: receives what there is after each run, once there is a row.

    Raises:
        ConfigError: an unknown method, no seed or one given twice, held-out items missing, or no run ends.
        RunDirectoryError: the directory holds runs of another configuration.
        DataError: there are no items to test on.
    """
    chosen = choose(methods)
    _check(config, chosen, seeds, workers)
    config, _ = with_read_labels(config, console)
    with alone_in(config.output):
        return _run_methods(config, chosen, seeds, workers, console, on_run)


def _run_methods(
    config: RunConfig,
    chosen: Sequence[Method],
    seeds: Sequence[int],
    workers: int,
    console: Console,
    on_run: Callable[[Comparison], None],
) -> Comparison:
    """The runs and their table, where nobody else writes into the directory."""
    refuse_other_runs(config, chosen, seeds)
    rows: Rows = {row: {} for method in chosen for row in _row_names(method, config)}
    failures: list[str] = []
    if workers == 1:
        runs = make_runs(config, chosen, seeds, console)
    else:
        runs = make_runs_at_once(config, chosen, seeds, workers, console)
    with closing(runs):
        for run in runs:
            found, failure = _read(run, config)
            if failure is not None:
                failures.append(f"{run.name}, seed {run.seed}: {failure}")
            for row in _row_names(METHODS[run.name], config):
                rows[row][run.seed] = found.get(row)
            there = _some(rows, seeds)
            finished = Comparison(Path(config.output), there, tuple(failures), config.data.num_validation)
            if finished.rows:
                on_run(finished)
    if not finished.rows:
        raise ConfigError(f"expected at least one run that ends; all failed: {failures[0]}")
    return finished


def _check(config: RunConfig, methods: Sequence[Method], seeds: Sequence[int], workers: int) -> None:
    """Refuse what cannot work, before hours are spent."""
    if workers < 1:
        raise ConfigError(f"workers: expected at least 1; got {workers}")
    check_range("workers", workers, 1, MOST_WORKERS)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: expected at least one, each once; got {list(seeds)}")
    if config.data.task is None and config.data.test_file is None and config.data.test_split is None:
        raise DataError("data: expected items to test on, which a table is of; got none: set data.test_file")
    if config.model.adapter is not None:
        raise ConfigError("model.adapter: expected none, since every method trains its own; got a folder")
    _check_likelihood(config, methods)
    for method in methods:
        check_settings(method.configure(config).guide)
        if _sees_held_out(method, config) and not config.data.num_validation:
            raise ConfigError(f"method {method.name}: expected held-out items; set data.num_validation")


def _check_likelihood(config: RunConfig, methods: Sequence[Method]) -> None:
    """Refuse methods that the likelihood cannot have, and name those that it can."""
    refused: dict[str, ConfigError] = {}
    for method in methods:
        try:
            check_likelihood(method.configure(config))
        except ConfigError as error:
            refused[method.name] = error
    if not refused:
        return
    name, why = next(iter(refused.items()))
    others = [method.name for method in methods if method.name not in refused]
    advice = f"; leave out {', '.join(refused)}: --methods {','.join(others)}" if others else ""
    raise ConfigError(f"method {name}: {why}{advice}") from why


def _read(run: Ended, config: RunConfig) -> tuple[dict[str, Outcome], str | None]:
    """Row -> outcome of a run that has ended, or why there is none."""
    if run.failure is not None:
        return {}, run.failure
    path = run_path(config, run.name, run.seed)
    try:
        return _outcomes(path, METHODS[run.name], config), None
    except (BlobPyroError, OSError) as error:
        return {}, one_line(error)
    except (LookupError, ValueError) as error:
        return {}, f"{path}: expected {METRICS} and {COST} as a run writes them; one was altered ({error})"


def _outcomes(path: Path, method: Method, config: RunConfig) -> dict[str, Outcome]:
    """Row -> outcome of one finished run."""
    metrics, cost = read_metrics(path, config), read_cost(path)
    if method.after is not None:
        base = read_cost(run_path(config, method.after, read_config(path).seed))
        cost = base | cost | {name: base.get(name, 0.0) + cost.get(name, 0.0) for name in SECONDS}
    if unknown := [name for name in ("train_seconds", *PARAMETERS) if name not in cost]:
        raise LookupError(f"{COST} without {unknown[0]}")
    shown = dict(zip(_row_names(method, config), _shown(list(metrics), method), strict=True))
    return {row: Outcome.of(metrics[name], cost, name) for row, name in shown.items()}


def _shown(names: list[str], method: Method) -> list[str]:
    """Which of a run's predictions are rows: the one with the most draws, and perhaps the posterior mean."""
    last = names[-1]
    return ["N=0", last] if method.posterior_mean and last != "N=0" else [last]


def _row_names(method: Method, config: RunConfig) -> list[str]:
    mark = HELD_OUT_MARK if _sees_held_out(method, config) else ""
    num_samples = method.configure(config).predict.num_samples
    if method.posterior_mean and num_samples:
        return [f"{method.title} N={count}{mark}" for count in (0, num_samples)]
    return [method.title + mark]


def _sees_held_out(method: Method, config: RunConfig) -> bool:
    """Whether the method, a search for its settings, or what it starts from uses the held-out items."""
    if method.after is not None and _sees_held_out(METHODS[method.after], config):
        return True
    return method.held_out or method.configure(config).tune.search


def _some(rows: Rows, seeds: Sequence[int]) -> Rows:
    """The rows whose runs have been tried, seeds in their order; none where no run has ended well."""
    tried = {
        row: {seed: by_seed[seed] for seed in seeds if seed in by_seed} for row, by_seed in rows.items() if by_seed
    }
    return tried if any(outcome for by_seed in tried.values() for outcome in by_seed.values()) else {}


def _write(comparison: Comparison) -> None:
    """Tables and chart of the runs that there are."""
    from blob_pyro.report.plots import methods_plot, save_png_and_svg

    write_whole(comparison.path / TABLE, comparison.text() + "\n")
    write_whole(comparison.path / SCORES, comparison_csv(comparison.rows))
    save_png_and_svg(methods_plot(scores_of_rows(comparison.rows)), comparison.path / CHART)
