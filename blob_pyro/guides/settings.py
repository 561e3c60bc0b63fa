"""The settings of every guide: what its constructor takes by position, and the ranges that it names.

What is keyword-only is for scripts: no configuration has it.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

from blob_pyro.config.checks import did_you_mean, unknown_name
from blob_pyro.config.file import keys_of
from blob_pyro.config.sections import GuideConfig
from blob_pyro.config.types import expected_type, fits
from blob_pyro.errors import ConfigError
from blob_pyro.guides import GUIDES


def types_of(name: str) -> dict[str, Any]:
    """Setting -> its type, of one guide.

    Example:
        >>> types_of("low_rank")
        {'rank': <class 'int'>, 'eps': <class 'float'>}
    """
    parameters = inspect.signature(GUIDES[name], eval_str=True).parameters.values()
    return {own.name: own.annotation for own in parameters if own.kind is not own.KEYWORD_ONLY and own.name != "model"}


TYPES: dict[str, Any] = {setting: kind for name in GUIDES for setting, kind in types_of(name).items()}
"""Setting -> its type, of all guides; what two of them call by one name has one type."""

KEYS: dict[str, Any] = keys_of(
    {"name": Literal[tuple(GUIDES)]} | {setting: kind | None for setting, kind in TYPES.items()}
)
"""Every key of a configuration, those of the guides among them, with its type."""


def check_settings(config: GuideConfig) -> None:
    """Refuse a guide that there is not, and settings that it does not have or that cannot work.

    Raises:
        ConfigError: names the setting and what would do.
    """
    if config.name not in GUIDES:
        raise unknown_name("guide.name", GUIDES, config.name)
    known = types_of(config.name)
    for setting, value in config.settings.items():
        if setting not in known:
            has = ", ".join(known) or "none"
            raise ConfigError(
                f"guide.{setting}: expected a setting of the guide {config.name!r}, which has {has}"
                f"{did_you_mean(setting, known)}"
            )
        if not fits(value, known[setting]) or (isinstance(value, int) and abs(value) >= 2**63):
            raise ConfigError(f"guide.{setting}: expected {expected_type(known[setting])}; got {str(value)[:100]}")
    try:
        GUIDES[config.name].check(**config.settings)
    except ConfigError as error:
        raise ConfigError(f"guide.{error}") from error


def describe_settings() -> dict[str, str]:
    """Setting -> what it is, in the words of the guides that have it."""
    import docstring_parser

    told: dict[str, list[str]] = {setting: [] for setting in TYPES}
    for name, guide in GUIDES.items():
        for setting in types_of(name):
            for param in docstring_parser.parse(guide.__doc__ or "").params:
                if setting in param.arg_name.split(", "):
                    told[setting].append(f"of {name}: {' '.join((param.description or '').split())}")
    return {setting: " ".join(words) for setting, words in told.items()}
