"""Checks that settings make of themselves."""

from __future__ import annotations

import math
from typing import Any

from blob_pyro.errors import ConfigError


def check(condition: bool, name: str, expected: str, value: Any) -> None:
    """Raise a one-line ConfigError unless `condition` holds.

    Args:
        condition: whether the value can work.
        name: of the setting.
        expected: what would work, in words.
        value: what came.
    """
    if not condition:
        raise ConfigError(f"{name}: expected {expected}; got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Raise unless the value is above 0 and finite."""
    check(0 < value < math.inf, name, "a number above 0", value)
