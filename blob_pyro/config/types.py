"""The types of settings: whether a value is of one, and words for it."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_type_hints

from blob_pyro.config.checks import check


def check_types(settings: object, section: str = "") -> None:
    """Raise where a field of a dataclass holds a value of another type; numbers that are not finite pass.

    Args:
        settings: an instance.
        section: put before the names in messages.

    Raises:
        ConfigError: names the setting.
    """
    own: Any = type(settings)
    for name, kind in _hints(own).items():
        value = getattr(settings, name)
        odd = isinstance(value, float) and not math.isfinite(value)
        check(fits(0.0 if odd else value, kind), section + name, expected_type(kind), value)


@functools.cache
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    """Field -> type."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; a tuple will do for a list, a whole number for a number, a bool not.

    Example:
        >>> fits([1, 2], list[float]), fits(True, int), fits(None, int | None), fits("x", Literal["a", "b"])
        (True, False, True, False)
        >>> fits({"": "cpu"}, dict[str, int | str] | None), fits({"": [0]}, dict[str, int | str])
        (True, False)
    """
    options: tuple[Any, ...] = getattr(kind, "__args__", ())
    if getattr(kind, "__origin__", None) is Literal:
        return isinstance(value, str) and value in options
    if getattr(kind, "__origin__", None) is list:
        return isinstance(value, list | tuple) and all(fits(item, options[0]) for item in value)
    if getattr(kind, "__origin__", None) is dict:
        return isinstance(value, dict) and all(fits(k, options[0]) and fits(v, options[1]) for k, v in value.items())
    if options:
        return any(fits(value, option) for option in options)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def expected_type(kind: Any) -> str:
    """A type in words, for messages.

    Example:
        >>> expected_type(int | None)
        'a whole number, or null'
        >>> expected_type(Literal["blob", "mle"])
        "one of 'blob', 'mle'"
    """
    options = getattr(kind, "__args__", ())
    if type(None) in options:
        return f"{', or '.join(expected_type(option) for option in options if option is not type(None))}, or null"
    if getattr(kind, "__origin__", None) is Literal:
        return f"{'one of ' if len(options) > 1 else ''}{', '.join(map(repr, options))}"
    if dataclasses.is_dataclass(kind):
        return "a YAML file with the keys of this section"
    return _TYPE_WORDS.get(kind, str(kind))


def names_of(kind: Any) -> list[str]:
    """The names that a type allows; none where it is not one of names.

    Example:
        >>> names_of(Literal["blob", "mle"] | None), names_of(int)
        (['blob', 'mle'], [])
    """
    options = getattr(kind, "__args__", ())
    if getattr(kind, "__origin__", None) is Literal:
        return [option for option in options if isinstance(option, str)]
    return [name for option in options for name in names_of(option)]


_TYPE_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    list[float]: "a list of numbers, like [1.0, 2.0]",
    list[int]: "a list of whole numbers, like [-1]",
    dict[str, str]: 'texts by name, like {"0": " zero", "1": " one"}',
    list[str]: 'a list of texts, like ["a", "b"] with quotes',
    tuple[int, ...]: "whole numbers in brackets, like [64,128]",
    tuple[str, ...]: "names in brackets, like [q_proj,v_proj]",
}
