"""Reads what a run directory tells of a run: scores, steps and the spread of its posterior. No model is loaded."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import RunDirectoryError
from blob_pyro.evaluation.metrics import Metrics, Scores
from blob_pyro.evaluation.tokens import TokenMetrics
from blob_pyro.storage.directory import COST, HISTORY, METRICS, read_json
from blob_pyro.storage.posterior_files import DESCRIPTION
from blob_pyro.system.files import file_in, together_in
from blob_pyro.training.svi import StepResult

NUMBERS = ("nll", "kl", "kl_weight", "loss")
FURTHER = ("scale", "held_out_nll")


def read_metrics(path: Path, config: RunConfig | None = None) -> dict[str, Scores]:
    """ "N=0" and "N=<draws>" -> the scores of a run's test items, in the file's order; empty where there is no file.

    A score may be NaN, as the standard error of a single item is.

    Args:
        path: the run directory.
        config: what the run was made with, which says of what kind its scores are; None takes either.

    Raises:
        RunDirectoryError: the file is not what a run writes: a score is missing, unknown, or no number.
    """
    file = file_in(path, METRICS)
    if not file.is_file():
        return {}
    found = read_json(file)
    try:
        if odd := [name for name in found if not re.fullmatch(r"N=[0-9]{1,9}", name)]:
            raise ValueError(f"expected N=<draws>; got {odd[0][:40]!r}")
        if not found:
            raise ValueError("it has none")
        return {name: _scores(values, config) for name, values in found.items()}
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        raise RunDirectoryError(
            f"{file}: expected the scores of a run; it was altered ({error}): `blob-pyro evaluate` makes it anew"
        ) from error


def read_cost(path: Path) -> dict[str, float]:
    """Seconds and parameters of a run by name; empty where there is no file.

    Raises:
        RunDirectoryError: the file holds something else than numbers.
    """
    found = read_json(file_in(path, COST))
    if odd := [name for name, value in found.items() if not _is_number(value)]:
        raise RunDirectoryError(f"{path / COST}: expected numbers; {odd[0]} has none; it was altered")
    return found


def read_steps(path: Path) -> list[StepResult]:
    """What each step of a run's training saw; NaN where that was no finite number.

    A last line without an end, of a process that was killed while writing it, is no step yet.

    Raises:
        RunDirectoryError: there is no history, or a line is no step.
    """
    file = file_in(path, HISTORY)
    if not file.is_file():
        raise RunDirectoryError(f"{path}: expected a run with {HISTORY}; it is not there; check the path")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"{file}: expected the steps of a run; it cannot be read: {error}") from error
    return [_step(file, number, line) for number, line in enumerate(lines, 1)]


def read_scales(path: Path) -> dict[str, float]:
    """Site -> mean posterior standard deviation over its entries, as the run was saved.

    Raises:
        RunDirectoryError: the run does not tell, or was altered.
    """
    file = together_in(path) / DESCRIPTION
    found = read_json(file).get("mean_scales")
    if not isinstance(found, Mapping) or not all(map(_is_number, found.values())):
        raise RunDirectoryError(
            f"{file}: expected mean_scales, a number for each site; it has none: give the run that bp.load makes of it"
        )
    return {str(site): float(value) for site, value in found.items()}


def _scores(values: Mapping[str, Any], config: RunConfig | None) -> Scores:
    values = {name: math.nan if value is None and _may_be_null(name) else value for name, value in values.items()}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is no number")
        float(value)  # of an integer that is too large: OverflowError
    of_tokens = "perplexity" in values if config is None else config.learns_tokens
    return TokenMetrics(**values) if of_tokens else Metrics.from_dict(values)


def _may_be_null(name: str) -> bool:
    """Standard errors of a single item are no numbers; a label of probability 0 has no finite NLL."""
    return name.endswith(("_se", "nll")) or name == "perplexity"


def _step(file: Path, number: int, line: str) -> StepResult:
    """The step that a line of history.jsonl tells of."""
    try:
        found = json.loads(line)
        values = {name: _number(found[name]) for name in NUMBERS}
        values |= {name: _number(found[name]) for name in FURTHER if name in found}
        if type(found["step"]) is not int:
            raise TypeError("step is no whole number")
        return StepResult(**values, step=found["step"], skipped=found.get("skipped") is True)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunDirectoryError(
            f"{file}: expected a step of a training in line {number}; it was altered ({type(error).__name__}: "
            f"{str(error)[:100]})"
        ) from error


def _number(value: Any) -> float:
    """A number; NaN for null."""
    if value is None:
        return math.nan
    if not _is_number(value):
        raise TypeError(f"expected a number; got {str(value)[:40]!r}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
