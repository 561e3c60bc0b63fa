"""The settings that `--tune` searches: the steps, how far the posterior widens, the prior's width, which layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import ConfigError
from blob_pyro.guides import GUIDES, EnsembleGuide, PostHocGuide
from blob_pyro.training.kl_rate import PAPER_RATE, WIDEST
from blob_pyro.training.making import kl_width

Settings = dict[str, Any]
Step = Callable[[Settings], Any]

KL_FACTOR = 3.0
WIDTH_FACTOR = 2.0
PRIOR_FACTOR = 2.0


@dataclass(frozen=True)
class Choice:
    """One setting, and where to look for a better value.

    Attributes:
        key: of the configuration, "train.kl_width".
        directions: each leads from the settings to the key's next value that way, and to None where there is none.
    """

    key: str
    directions: tuple[Step, ...]


def tunes(config: RunConfig) -> bool:
    """Whether the guide can be tuned: whether one training makes it."""
    return config.guide.name in _tunable()


def has_spread(config: RunConfig) -> bool:
    """Whether the guide has a spread that is trained against a prior; of others the steps alone are searched."""
    return GUIDES[config.guide.name].learns_prior_scale


def describe_guides() -> str:
    """The guides that can be tuned.

    Example:
        >>> describe_guides()
        'blob, dropout, low_rank, map, mean_field, mle, scalabl'
    """
    return ", ".join(_tunable())


def _tunable() -> list[str]:
    return sorted(name for name, guide in GUIDES.items() if not issubclass(guide, (EnsembleGuide, PostHocGuide)))


def check_tuning(config: RunConfig) -> None:
    """Refuse a search that cannot work, before anything is loaded.

    Raises:
        ConfigError: there are no held-out items, or the guide is not made by one training.
    """
    if not config.tune.search:
        return
    if not tunes(config):
        raise ConfigError(
            f"tune: expected a guide that one training makes ({describe_guides()}); "
            f"got {config.guide.name!r}; leave out --tune"
        )
    if not config.data.num_validation:
        raise ConfigError("tune: expected held-out items to choose by; got none; set data.num_validation")


def choices(config: RunConfig, num_blocks: int, num_data: int) -> tuple[Choice, ...]:
    """What is searched, in this order.

    The steps come first: on few items they decide how far the fit is driven, and fewer of them make every later trial
    cheaper. Then how far the posterior widens in these steps; the prior scale mostly says where that would end.

    Args:
        config: where the search starts; blocks that it names (`model.bayesian_layers`) stay, and so do all
            where it names an adapter.
        num_blocks: transformer blocks of the network; 0 where they are not in one list.
        num_data: training items, of which the rule makes the width of a trial that names none.
    """
    found = [Choice("train.num_steps", (lambda settings: settings["train.num_steps"] // 2 or None,))]
    if not has_spread(config):
        return tuple(found)
    found += [_kl_choice(config, num_data), Choice("model.prior_scale", _up_or_down("model.prior_scale", PRIOR_FACTOR))]
    # an adapter of the user's own may leave out the last blocks
    if config.model.bayesian_layers is None and config.model.adapter is None and num_blocks > 1:
        found.append(
            Choice("model.bayesian_layers", (lambda now: _last_blocks(now["model.bayesian_layers"], num_blocks),))
        )
    return tuple(found)


def _kl_choice(config: RunConfig, num_data: int) -> Choice:
    key = _kl_key(config)
    if key != "train.kl_width":
        return Choice(key, _up_or_down(key, KL_FACTOR))

    def times(factor: float) -> Step:
        def step(settings: Settings) -> float | None:
            width = kl_width(with_settings(config, settings).train, num_data)
            assert width is not None
            wanted = float(f"{math.tanh(factor * math.atanh(width)):.3g}")
            if factor > 1 and width >= WIDEST:
                return None  # as wide as the search goes
            return min(WIDEST, wanted)

        return step

    return Choice(key, (times(WIDTH_FACTOR), times(1 / WIDTH_FACTOR)))


def settings_of(config: RunConfig) -> Settings:
    """The searched settings of a configuration, by key.

    Example:
        >>> from blob_pyro.config.sections import DataConfig
        >>> settings_of(RunConfig(DataConfig(task="tweets")))
        {'train.num_steps': 5000, 'train.kl_width': None, 'model.prior_scale': 0.2, 'model.bayesian_layers': None}
    """
    keys = ("train.num_steps", _kl_key(config), "model.prior_scale", "model.bayesian_layers")
    return {key: _get(config, key) for key in keys}


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """`config` with other values at some keys."""
    for key, value in settings.items():
        section, name = key.split(".")
        changed = dataclasses.replace(getattr(config, section), **{name: value})
        config = dataclasses.replace(config, **{section: changed})
    return config


def _kl_key(config: RunConfig) -> str:
    """What sets how far the KL widens: the width, a rate that the configuration sets, or the weight under "elbo"."""
    if config.train.recipe == "elbo":
        return "train.kl_weight"
    return "train.kl_width" if config.train.widens else "train.kl_lr"


def _get(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _up_or_down(key: str, factor: float) -> tuple[Step, Step]:
    """To `factor` times the value and to one over it, to three digits; from 0 there is no way."""

    def times(factor: float) -> Step:
        return lambda now: float(f"{factor * (PAPER_RATE if now[key] is None else now[key]):.3g}") or None

    return times(factor), times(1 / factor)


def _last_blocks(blocks: list[int] | None, num_blocks: int) -> list[int] | None:
    """From all blocks to the last half, and from there to the last quarter.

    Example:
        >>> _last_blocks(None, 8), _last_blocks([-4, -3, -2, -1], 8), _last_blocks([-2, -1], 8)
        ([-4, -3, -2, -1], [-2, -1], None)
    """
    kept = (num_blocks if blocks is None else len(blocks)) // 2
    return list(range(-kept, 0)) if kept >= max(1, num_blocks // 4) else None
