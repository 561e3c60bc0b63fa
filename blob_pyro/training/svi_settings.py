"""What settings `BLoBSVI` takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from blob_pyro.config.checks import check_number
from blob_pyro.config.sections import TrainConfig
from blob_pyro.errors import ConfigError


def check_settings(given: Mapping[str, Any]) -> None:
    """Refuse settings of a wrong type or out of range, those that `TrainConfig` has too by its own checks.

    Raises:
        ConfigError: names the setting.
    """
    schedule = given["kl_schedule"]
    if not (schedule is None or callable(schedule)):
        raise ConfigError(
            f"kl_schedule: expected a function of the step, like kl_schedule({schedule!r}, cycle); got {schedule!r}"
        )
    shared = {field.name for field in dataclasses.fields(TrainConfig)} - {"kl_schedule", "kl_width"}
    try:
        TrainConfig(**{name: value for name, value in given.items() if name in shared and value is not None})
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("train.")) from None
    if (width := given["kl_width"]) is not None:
        check_number("kl_width", width, "a share between 0 and 1", lambda share: 0 < share < 1)
