"""Sends each step of a training to experiment trackers: accelerate's own, for TensorBoard, Weights & Biases and others.

They are off by default; a run's history.jsonl has the same numbers and is always written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blob_pyro.config.file import flat_settings
from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import BlobPyroError, ConfigError, MissingPackageError
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.processes import Ranks
from blob_pyro.training.svi import StepResult

PROJECT = "blob_pyro"  # the name under which trackers that are no folder of the run file it

Track = Callable[[StepResult], None]


def check_trackers(names: Sequence[str] | None) -> None:
    """Refuse trackers that cannot work.

    Raises:
        ConfigError: a name that accelerate does not know.
        MissingPackageError: its package is not installed.
    """
    if not names:
        return
    from accelerate import tracking  # type: ignore[import-untyped]

    for name in names:
        if name not in tracking.LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(tracking.LOGGER_TYPE_TO_CLASS))
            raise ConfigError(f"train.trackers: expected some of {known}; got {name!r}")
        if name in set(tracking.LoggerType.list()) - set(map(str, tracking.get_available_trackers())):
            raise MissingPackageError(
                f"train.trackers: expected the package of {name} to be installed; it is not: pip install {name}"
            )


@contextlib.contextmanager
def tracked(config: RunConfig, path: str | Path, done: int = 0) -> Iterator[Track]:
    """A callback for `fit` that sends each step to the trackers of `config.train.trackers`, open for the while.

    What is sent: nll, kl, kl_weight and loss, held_out_nll and scale where they were measured, and skipped (0 or 1),
    under the number of the step (of an ensemble, whose members follow one another, the number of the line in
    history.jsonl); and
    once every setting of the configuration by its whole name. Trackers with files put them into a folder of their name
    in `path`; the others take the project "blob_pyro". Of several processes the first one alone sends.

    Args:
        config: the run; where it names no tracker nothing is sent, and accelerate is not asked.
        path: the run directory.
        done: steps that were made before, in a run that goes on.

    Raises:
        ConfigError, MissingPackageError: as `check_trackers`.
        BlobPyroError: a tracker does not start.
    """
    names = dict.fromkeys(config.train.trackers or ())
    if not names or not Ranks.here().is_first:
        yield _track_nothing
        return
    check_trackers(list(names))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_accelerate_state())
        trackers = []
        for name in names:
            trackers.append(_start(name, Path(path), done))
            stack.callback(trackers[-1].finish)  # not Accelerator.end_training, which disconnects the processes
            trackers[-1].store_init_configuration(_simple_values(config))
        yield _Tracking(trackers, done).send


class _Tracking:
    """Counts the steps, since those of an ensemble's members begin anew."""

    def __init__(self, trackers: Sequence[Any], done: int) -> None:
        self._trackers, self._step = trackers, done

    def send(self, result: StepResult) -> None:
        self._step += 1
        values = dataclasses.asdict(result) | {"skipped": int(result.skipped)}
        del values["step"]
        for tracker in self._trackers:
            tracker.log({name: value for name, value in values.items() if value is not None}, step=self._step)


def _track_nothing(result: StepResult) -> None:
    """For runs without trackers."""


@contextlib.contextmanager
def _accelerate_state() -> Iterator[None]:
    """accelerate's trackers ask its global state whether they are in the first process; it is left as it was."""
    import torch
    from accelerate import PartialState

    fresh = not PartialState._shared_state
    PartialState(cpu=not torch.cuda.is_available())
    try:
        yield
    finally:
        if fresh:
            PartialState._reset_state()


def _start(name: str, path: Path, done: int) -> Any:
    """A tracker that is ready; whatever its package raises becomes one line."""
    from accelerate import tracking

    kind = tracking.LOGGER_TYPE_TO_CLASS[name]
    places = (name, str(path)) if kind.requires_logging_directory else (PROJECT,)
    # steps behind the checkpoint that a run goes on from are made again: TensorBoard then hides the first ones
    settings: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": done + 1},
        "wandb": {"dir": str(path), "name": path.name},
    }
    try:
        tracker = kind(*places, **settings.get(name, {}))
        tracker.start()
    except Exception as error:
        raise BlobPyroError(f"train.trackers: expected {name} to start; it says: {one_line(error)}") from error
    return tracker


def _simple_values(config: RunConfig) -> dict[str, Any]:
    """Every setting by its whole name; a list, which trackers do not take, as JSON."""
    settings = flat_settings(config)
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in settings.items()}
