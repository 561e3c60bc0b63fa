"""Reads the files of a run directory that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.evaluation.metrics import Scores
from blob_pyro.storage.answers import SavedAnswers, read_answers
from blob_pyro.storage.completions import SavedTexts, read_completions
from blob_pyro.storage.directory import (
    ABOUT,
    CHECKPOINTS,
    CONFIG,
    COST,
    HISTORY,
    METRICS,
    PREDICTIONS,
    read_config,
    read_json,
    refuse_links,
)
from blob_pyro.storage.posterior_files import DESCRIPTION
from blob_pyro.storage.reading import read_cost, read_metrics, read_scales, read_steps
from blob_pyro.system.files import WRITTEN, file_in, together_in
from blob_pyro.training.svi import StepResult


@dataclass(frozen=True)
class RunFiles:
    """What a run directory tells.

    Attributes:
        path: the directory, as it was given.
        config: what the run was made with.
        about: versions, machine, items and notes; empty for a run of an older version.
        cost: seconds and parameters, by name.
        metrics: "N=0" and "N=<draws>" -> scores; empty where there are no test items.
        steps: of its training, in order; of an ensemble those of the members, one after the other.
        answers: items and answers with the most draws; None where there are none, or the run learns tokens.
        texts: scored texts; None where there are none, or the run tells classes apart.
        scales: site -> mean posterior standard deviation; empty where that is not told.
        width: the spread as a share of the prior's; None where that is not told.
        unfinished: whether checkpoints of a training that has not ended are there.
        missing: a line for each part that is not there and would be shown.
    """

    path: Path
    config: RunConfig
    about: Mapping[str, Any]
    cost: Mapping[str, float]
    metrics: Mapping[str, Scores]
    steps: tuple[StepResult, ...]
    answers: SavedAnswers | None
    texts: SavedTexts | None
    scales: Mapping[str, float]
    width: float | None
    unfinished: bool
    missing: tuple[str, ...]

    @property
    def last(self) -> str | None:
        """The key of the scores with the most draws."""
        return list(self.metrics)[-1] if self.metrics else None

    @property
    def notes(self) -> list[str]:
        """What was noted of the run's items when it was made."""
        found = self.about.get("notes")
        return [str(note) for note in found] if isinstance(found, list) else []


def read_run(path: str | Path) -> RunFiles:
    """What there is of a run; parts that are not there are named, altered ones refused.

    Raises:
        RunDirectoryError: it is no run directory, a part of it was altered, or a link leads out of it.
    """
    path = Path(path)
    description = together_in(path) / DESCRIPTION
    read = (CONFIG, ABOUT, COST, METRICS, HISTORY, PREDICTIONS, WRITTEN, str(description.relative_to(path)))
    refuse_links(path, read)
    config = read_config(path)
    there = {name: file_in(path, name).is_file() for name in (ABOUT, METRICS, HISTORY, PREDICTIONS)}
    of_tokens = config.learns_tokens
    predicted = there[PREDICTIONS]
    scales, told = _scales(path, description)
    return RunFiles(
        path=path,
        config=config,
        about=read_json(file_in(path, ABOUT)),
        cost=read_cost(path),
        metrics=read_metrics(path, config),
        steps=tuple(read_steps(path)) if there[HISTORY] else (),
        answers=read_answers(file_in(path, PREDICTIONS)) if predicted and not of_tokens else None,
        texts=read_completions(file_in(path, PREDICTIONS)) if predicted and of_tokens else None,
        scales=scales,
        width=_width(description) if told else None,
        unfinished=(path / CHECKPOINTS).is_dir(),
        missing=tuple(_missing(there, told)),
    )


def _scales(path: Path, description: Path) -> tuple[dict[str, float], bool]:
    """The spread by site, and whether the run tells of it."""
    if "mean_scales" not in read_json(description):
        return {}, False
    return read_scales(path), True


def _width(description: Path) -> float | None:
    """The spread as a share of the prior's; runs of older versions do not tell it."""
    width = read_json(description).get("width")
    return width if isinstance(width, float) and width > 0 else None


def _missing(there: Mapping[str, bool], scales_told: bool) -> list[str]:
    lines = {
        METRICS: "no scores: the run has no test items, or was not evaluated (blob-pyro evaluate RUN)",
        PREDICTIONS: "no predictions, so that no items can be shown (blob-pyro evaluate RUN writes them)",
        HISTORY: "no history of its training",
        ABOUT: "made by an older version: which versions, machine and items it had was not noted",
    }
    found = [f"{name}: {line}." for name, line in lines.items() if not there[name]]
    if not scales_told:
        found.append(f"{DESCRIPTION}: an older version wrote it: the posterior's spread by layer is not in it.")
    return found
