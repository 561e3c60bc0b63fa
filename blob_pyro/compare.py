"""`compare`: several systems under one configuration and several seeds, and one table."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blob_pyro.building import check_guide
from blob_pyro.checkpoint import ADAPTER, DESCRIPTION, TENSORS
from blob_pyro.config import RunConfig
from blob_pyro.errors import BlobPyroError, ConfigError, RunDirectoryError
from blob_pyro.evaluation import Metrics
from blob_pyro.methods import METHODS, Method, choose
from blob_pyro.report.comparison import Outcome, comparison_csv, comparison_markdown
from blob_pyro.run_directory import COST, HISTORY, METRICS, new_run_directory, read_config, read_json
from blob_pyro.tuning import clear_unfinished_run
from blob_pyro.workflow import evaluate_run, fit_run

TABLE, SCORES, CHART = "comparison.md", "comparison.csv", "comparison"
HELD_OUT_MARK = " †"

Say = Callable[[str], None]
Rows = dict[str, dict[int, Outcome | None]]


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
    progress: bool = True,
    say: Say = print,
) -> Comparison:
    """`run_methods`, and tables and a chart in `config.output`, written anew after each run.

    Raises:
        BlobPyroError: as `run_methods`.
    """
    return run_methods(config, methods, seeds, progress=progress, say=say, on_run=_write)


def run_methods(
    config: RunConfig,
    methods: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    progress: bool = True,
    say: Say = print,
    on_run: Callable[[Comparison], None] = lambda found: None,
) -> Comparison:
    """Run every method under every seed, where that is not done yet.

    All runs share the configuration but for what makes the method; all runs of one seed share their items and the
    start of their adapter. What a method starts from is run first, once. A run that a former call has finished is
    read and not repeated: an interrupted comparison goes on where it stopped. A run that fails is told and left out
    of the means.

    Args:
        config: what the methods share; `config.output` is the directory, `config.seed` is not used.
        methods: names in `METHODS`, or "systems" or "ablations".
        seeds: of the runs.
        progress: show progress bars.
        say: receives lines for the user.
        on_run: receives what there is after each run, once there is a row.

    Raises:
        ConfigError: an unknown method, no seed or one given twice, held-out items missing, or no run ends.
        RunDirectoryError: the directory holds runs of another configuration.
        DataError: there are no items to test on.
    """
    chosen = choose(methods)
    _check(config, chosen, seeds)
    _refuse_other_runs(config, chosen, seeds)
    runs = [(seed, method) for seed in seeds for method in chosen]
    rows: Rows = {row: {} for method in chosen for row in _row_names(method, config)}
    failures: list[str] = []
    for position, (seed, method) in enumerate(runs, 1):
        say(f"[{position}/{len(runs)}] {method.name}, seed {seed}")
        try:
            path = _run(config, method, seed, progress, say)
            found = _outcomes(path, method, config)
        except (BlobPyroError, OSError) as error:
            failures.append(f"{method.name}, seed {seed}: {' '.join(str(error).split())}")
            say(failures[-1])
            found = {}
        for row in _row_names(method, config):
            rows[row][seed] = found.get(row)
        finished = Comparison(Path(config.output), _some(rows), tuple(failures), config.data.num_validation)
        if finished.rows:
            on_run(finished)
    if not finished.rows:
        raise ConfigError(f"expected at least one run that ends; all failed: {failures[0]}")
    return finished


def _check(config: RunConfig, methods: Sequence[Method], seeds: Sequence[int]) -> None:
    """Refuse what cannot work, before hours are spent."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: expected at least one, each once; got {list(seeds)}")
    if config.model.adapter is not None:
        raise ConfigError("model.adapter: expected none, since every method trains its own; got a folder")
    for method in methods:
        check_guide(method.configure(config).guide)
        if _sees_held_out(method, config) and not config.data.num_validation:
            raise ConfigError(f"method {method.name}: expected held-out items; set data.num_validation")


def _run(config: RunConfig, method: Method, seed: int, progress: bool, say: Say) -> Path:
    """The finished run of one method under one seed."""
    wanted = _wanted(config, method, seed)
    path = Path(wanted.output)
    if (path / METRICS).is_file():
        say(f"already done: {path}")
        return path
    clear_unfinished_run(path)
    if method.after is not None and wanted.model.adapter is None:
        _copy_run(_directory(config, method.after, seed), wanted)
        evaluate_run(path, progress=progress, say=say)
    else:
        fit_run(wanted, progress=progress, say=say if wanted.tune.search else lambda line: None)
    return path


def _wanted(config: RunConfig, method: Method, seed: int) -> RunConfig:
    """The configuration of a run. One that starts from the adapter of a run with another guide names it."""
    wanted = dataclasses.replace(method.configure(config), seed=seed, output=str(_directory(config, method.name, seed)))
    if method.after is None or METHODS[method.after].configure(config).guide == wanted.guide:
        return wanted
    adapter = str(_directory(config, method.after, seed) / ADAPTER)
    return dataclasses.replace(wanted, model=dataclasses.replace(wanted.model, adapter=adapter))


def _refuse_other_runs(config: RunConfig, methods: Sequence[Method], seeds: Sequence[int]) -> None:
    """Raise where a run of another configuration is in the way."""
    for method, seed in itertools.product(methods, seeds):
        wanted = _wanted(config, method, seed)
        if Path(wanted.output).exists() and read_config(wanted.output) != wanted:
            raise RunDirectoryError(
                f"{wanted.output}: expected a run of this configuration; it was made with another; "
                "choose another --output"
            )


def _copy_run(base: Path, config: RunConfig) -> None:
    """A run with the adapter and posterior of another."""
    path = new_run_directory(config)
    shutil.copytree(base / ADAPTER, path / ADAPTER)
    for name in (TENSORS, DESCRIPTION, HISTORY):
        shutil.copy2(base / name, path / name)


def _outcomes(path: Path, method: Method, config: RunConfig) -> dict[str, Outcome]:
    """Row -> outcome of one finished run."""
    metrics = {name: Metrics(**found) for name, found in read_json(path / METRICS).items()}
    cost = read_json(path / COST)
    seconds = float(cost.get("train_seconds", 0.0)) + float(cost.get("tune_seconds", 0.0))
    if method.after is not None:
        base = read_json(_directory(config, method.after, read_config(path).seed) / COST)
        seconds += float(base["train_seconds"]) + float(base.get("tune_seconds", 0.0))
        cost = base | cost
    num_parameters = int(cost["adapter_parameters"] + cost["guide_parameters"])
    shown = dict(zip(_row_names(method, config), _shown(list(metrics), method), strict=True))
    return {
        row: Outcome(metrics[name], seconds, num_parameters, int(name.removeprefix("N=")))
        for row, name in shown.items()
    }


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


def _some(rows: Rows) -> Rows:
    """The rows that have an outcome, or whose runs have been tried."""
    tried = {row: by_seed for row, by_seed in rows.items() if by_seed}
    return tried if any(outcome for by_seed in tried.values() for outcome in by_seed.values()) else {}


def _directory(config: RunConfig, name: str, seed: int) -> Path:
    return Path(config.output) / name / f"seed{seed}"


def _write(comparison: Comparison) -> None:
    """Tables and chart of the runs that there are."""
    from blob_pyro.report.methods import methods_plot
    from blob_pyro.report.plots import save_png_and_svg

    (comparison.path / TABLE).write_text(comparison.text() + "\n", encoding="utf-8")
    (comparison.path / SCORES).write_text(comparison_csv(comparison.rows), encoding="utf-8")
    runs = {
        row: [outcome.metrics for outcome in by_seed.values() if outcome] for row, by_seed in comparison.rows.items()
    }
    save_png_and_svg(methods_plot({row: found for row, found in runs.items() if found}), comparison.path / CHART)
