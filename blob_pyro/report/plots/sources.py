"""What a picture is drawn from: predictions, scores and steps, in memory or in a run directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

from blob_pyro.errors import DataError, RunDirectoryError
from blob_pyro.evaluation.metrics import Scores, evaluate
from blob_pyro.evaluation.predictions import Predictions, TokenPredictions
from blob_pyro.evaluation.tokens import evaluate_tokens
from blob_pyro.storage.answers import read_predictions
from blob_pyro.storage.directory import METRICS, PREDICTIONS
from blob_pyro.storage.reading import read_metrics, read_steps
from blob_pyro.storage.saving import Run
from blob_pyro.system.files import file_in
from blob_pyro.training.svi import StepResult

T = TypeVar("T")

RunLike = Run | Path | str
"""A run: what `bp.load` gives, or its directory, of which files are read and nothing else."""

Answered = Predictions | RunLike
"""Labelled predictions, or a run whose predictions.parquet holds them."""

Trained = RunLike | Sequence[StepResult]
"""A run with history.jsonl, or the steps that `bp.fit` returns."""


def path_of(run: RunLike) -> Path:
    """A run's directory."""
    return run.path if isinstance(run, Run) else Path(run)


def predictions_of(source: Answered) -> Predictions:
    """The predictions themselves.

    Raises:
        RunDirectoryError: the run has no predictions of classes.
    """
    return source if isinstance(source, Predictions) else read_predictions(file_in(path_of(source), PREDICTIONS))


def scores_of(source: Predictions | TokenPredictions | RunLike | Sequence[Scores]) -> Sequence[Scores]:
    """Scores of one or several runs; of a run those of its metrics.json with the most draws.

    Raises:
        RunDirectoryError: the run has no metrics.
        DataError: as `evaluate`.
    """
    if isinstance(source, Predictions):
        return [evaluate(source)]
    if isinstance(source, TokenPredictions):
        return [evaluate_tokens(source)]
    if isinstance(source, Run | Path | str):
        path = path_of(source)
        if not (metrics := read_metrics(path)):
            raise RunDirectoryError(
                f"{path}: expected a run with {METRICS}; it has none: `blob-pyro evaluate` makes it"
            )
        return list(metrics.values())[-1:]
    return source


def steps_of(source: Trained) -> Sequence[StepResult]:
    """The steps of a training.

    Raises:
        RunDirectoryError: the run has no history.
        DataError: there is no step.
    """
    steps = read_steps(path_of(source)) if isinstance(source, Run | Path | str) else source
    if not steps:
        raise DataError("steps: expected at least one step of a training; got none")
    return steps


def members_of(steps: Iterable[StepResult]) -> list[list[StepResult]]:
    """The steps cut where they begin anew: one list for each member of an ensemble.

    Example:
        >>> steps = [StepResult(1.0, 0.0, 0.0, 1.0, step) for step in (1, 2, 1, 2, 3)]
        >>> [len(member) for member in members_of(steps)]
        [2, 3]
    """
    members: list[list[StepResult]] = []
    for step in steps:
        if not members or step.step <= members[-1][-1].step:
            members.append([])
        members[-1].append(step)
    return members


def named(source: Mapping[str, T] | T, name: str = "") -> Mapping[str, T]:
    """A mapping as it is; a single source under a name. No source is a mapping itself."""
    return cast("Mapping[str, T]", source) if isinstance(source, Mapping) else {name: source}
