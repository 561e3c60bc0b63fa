"""Checks that settings make of themselves, and the error for a name that there is not."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
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
        raise ConfigError(f"{name}: expected {expected}; got {shown(value)}")


def shown(value: object, limit: int = 200) -> str:
    """A value as a message shows it: Python's repr, cut where it is long.

    Example:
        >>> shown("x"), shown("x" * 9, limit=6)
        ("'x'", "'xx...")
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def check_positive(name: str, value: float) -> None:
    """Raise unless the value is above 0 and finite."""
    check(0 < value < math.inf, name, "a number above 0", value)


def check_revision(name: str, value: str | None) -> None:
    """Raise unless the value is None, or may be a branch, tag or commit of the hub: a path without dots in front."""
    fits = value is None or re.fullmatch(r"(?!.*\.\.)\w[\w.-]*(/\w[\w.-]*)*", value) is not None
    check(fits, name, "a branch, tag or commit, or null", value)


def check_number(name: str, value: Any, expected: str, holds: Callable[[float], bool]) -> None:
    """Raise unless the value is a number, true and false being none, for which `holds` is true."""
    check(isinstance(value, int | float) and not isinstance(value, bool) and holds(value), name, expected, value)


def unknown_name(setting: str, known: Iterable[str], given: object) -> ConfigError:
    """The error for a name that there is not; it lists what there is, and tells the nearest.

    Example:
        >>> str(unknown_name("mode", ("average", "per_draw"), "averge"))
        "mode: expected one of average, per_draw; got 'averge'; did you mean average?"
    """
    known = list(known)
    return ConfigError(f"{setting}: expected one of {', '.join(known)}; got {shown(given)}{did_you_mean(given, known)}")


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """The end of a message: the known name that is nearest to the given one; "" where none is near.

    Example:
        >>> did_you_mean("blbo", ["blob", "mle"]), did_you_mean("x", ["blob", "mle"])
        ('; did you mean blob?', '')
    """
    near = nearest(given, known)
    return f"; did you mean {near}?" if near else ""


def nearest(given: object, known: Iterable[str], least: float = 0.6) -> str | None:
    """The known name that is most like a given one, by difflib's ratio; None where none reaches the least ratio."""
    return next(iter(difflib.get_close_matches(str(given), list(known), n=1, cutoff=least)), None)
