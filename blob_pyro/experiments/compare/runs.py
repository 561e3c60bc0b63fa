"""The run of one method under one seed: where it is, its configuration, and how it is made."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blob_pyro.config.methods import METHODS, Method
from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import BlobPyroError, RunDirectoryError
from blob_pyro.runs.evaluate import evaluate_run
from blob_pyro.runs.fit import fit_with
from blob_pyro.storage.directory import ABOUT, HISTORY, holds_run_of, new_run_directory, refuse_used_directory
from blob_pyro.storage.directory import is_finished as is_finished_run
from blob_pyro.storage.posterior_files import ADAPTER, DESCRIPTION, TENSORS
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.locks import alone_in
from blob_pyro.system.terminal import SILENT, Console


@dataclass(frozen=True)
class Ended:
    """One run that is there now, or failed.

    Attributes:
        name: of the method.
        seed: of the run.
        failure: why it failed, in one line; None where it is there.
    """

    name: str
    seed: int
    failure: str | None = None


def run_path(config: RunConfig, name: str, seed: int) -> Path:
    """The directory of the run of a method under a seed."""
    return Path(config.output) / name / f"seed{seed}"


def is_finished(config: RunConfig, name: str, seed: int) -> bool:
    """Whether that run has come to its end."""
    return is_finished_run(run_config(config, METHODS[name], seed))


def run_config(config: RunConfig, method: Method, seed: int) -> RunConfig:
    """The configuration of a run. One that starts from the adapter of a run with another guide names it."""
    wanted = dataclasses.replace(method.configure(config), seed=seed, output=str(run_path(config, method.name, seed)))
    if method.after is None or METHODS[method.after].configure(config).guide == wanted.guide:
        return wanted
    adapter = str(run_path(config, method.after, seed) / ADAPTER)
    return dataclasses.replace(wanted, model=dataclasses.replace(wanted.model, adapter=adapter))


def refuse_other_runs(config: RunConfig, methods: Sequence[Method], seeds: Sequence[int]) -> None:
    """Check that no run of another configuration is in the way.

    Raises:
        RunDirectoryError: one is, or parts of one.
    """
    for method, seed in itertools.product(methods, seeds):
        wanted = run_config(config, method, seed)
        if not holds_run_of(wanted):
            refuse_used_directory(wanted.output)


def make_runs(
    config: RunConfig, methods: Sequence[Method], seeds: Sequence[int], console: Console
) -> Generator[Ended, None, None]:
    """Make every run, one after the other, where it is not there yet; what a method starts from stands before it.

    One that was not at its end goes on from its newest checkpoint.
    """
    for position, (seed, method) in enumerate(itertools.product(seeds, methods), 1):
        console.log(f"[{position}/{len(seeds) * len(methods)}] {method.name}, seed {seed}")
        yield make_run(config, method, seed, console)


def make_run(config: RunConfig, method: Method, seed: int, console: Console) -> Ended:
    """Make one run where it is not there yet; a failure is told, and no error."""
    if is_finished(config, method.name, seed):
        console.log(f"already done: {run_path(config, method.name, seed)}")
        return Ended(method.name, seed)
    try:
        _make(config, method, seed, console)
    except (BlobPyroError, OSError) as error:
        failure = one_line(error)
        console.log(f"{method.name}, seed {seed}: {failure}")
        return Ended(method.name, seed, failure)
    return Ended(method.name, seed)


def _make(config: RunConfig, method: Method, seed: int, console: Console) -> None:
    if method.after is not None and not is_finished(config, method.after, seed):
        raise RunDirectoryError(f"expected the run of {method.after} that it starts from; that one has not ended well")
    wanted = run_config(config, method, seed)
    if method.after is not None and wanted.model.adapter is None:
        with alone_in(wanted.output):
            _copy_run(run_path(config, method.after, seed), wanted)
        evaluate_run(wanted.output, progress=console.progress, say=console.log)
        return
    own = Console(
        console.progress,
        log=console.log if wanted.tune.search else SILENT.log,
        log_resumed=lambda line: console.log(f"{method.name} seed {seed}: {line}"),
    )
    fit_with(wanted, own, resume=True)


def _copy_run(base: Path, config: RunConfig) -> None:
    """A run with the adapter and posterior of another; one that was left half copied is copied whole."""
    path = Path(config.output) if holds_run_of(config) else new_run_directory(config)
    shutil.copytree(base / ADAPTER, path / ADAPTER, dirs_exist_ok=True)
    for name in (TENSORS, DESCRIPTION, HISTORY, ABOUT):
        if name != ABOUT or (base / name).is_file():  # older runs have none
            shutil.copy2(base / name, path / name)
