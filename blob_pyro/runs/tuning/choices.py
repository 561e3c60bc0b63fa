"""The settings that `--tune` searches: the steps, how fast the KL acts, the prior's width, which layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import ConfigError
from blob_pyro.guides import GUIDES, EnsembleGuide, PostHocGuide
from blob_pyro.training.making import kl_learning_rate

Settings = dict[str, Any]
Step = Callable[[Any], Any]

KL_FACTOR = 3.0
PRIOR_FACTOR = 2.0


@dataclass(frozen=True)
class Choice:
    """One setting, and where to look for a better value.

    Attributes:
        key: of the configuration, "train.kl_lr".
        directions: each leads from a value to the next one that way, and to None where there is none.
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


def choices(config: RunConfig, num_blocks: int) -> tuple[Choice, ...]:
    """What is searched, in this order.

    The steps come first: on few items they decide how far the fit is driven, and fewer of them make every later trial
    cheaper. Then the KL rate, which decides how far the posterior widens in these steps; the prior scale mostly says
    where that would end.

    Args:
        config: where the search starts; blocks that it names (`model.bayesian_layers`) stay, and so do all
            where it names an adapter.
        num_blocks: transformer blocks of the network; 0 where they are not in one list.
    """
    found = [Choice("train.num_steps", (_half,))]
    if not has_spread(config):
        return tuple(found)
    found += [
        Choice(_kl_key(config), (_times(KL_FACTOR), _times(1 / KL_FACTOR))),
        Choice("model.prior_scale", (_times(PRIOR_FACTOR), _times(1 / PRIOR_FACTOR))),
    ]
    # an adapter of the user's own may leave out the last blocks
    if config.model.bayesian_layers is None and config.model.adapter is None and num_blocks > 1:
        found.append(Choice("model.bayesian_layers", (lambda blocks: _last_blocks(blocks, num_blocks),)))
    return tuple(found)


def settings_of(config: RunConfig) -> Settings:
    """The searched settings of a configuration, by key.

    Example:
        >>> from blob_pyro.config.sections import DataConfig
        >>> settings_of(RunConfig(DataConfig(task="tweets")))
        {'train.num_steps': 5000, 'train.kl_lr': None, 'model.prior_scale': 0.2, 'model.bayesian_layers': None}
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


def with_kl_rate(config: RunConfig, num_data: int) -> RunConfig:
    """`config` with a number for its KL learning rate, the rule's where it has none.

    Args:
        config: the run.
        num_data: number of training items.
    """
    rate = kl_learning_rate(config.train, num_data, config.model.prior_scale)
    return with_settings(config, {"train.kl_lr": rate})


def _kl_key(config: RunConfig) -> str:
    """What sets how fast the KL acts: the recipe "elbo" has no rate of its own for it."""
    return "train.kl_weight" if config.train.recipe == "elbo" else "train.kl_lr"


def _get(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _times(factor: float) -> Step:
    """To `factor` times the value, to three digits; from 0 there is no way."""

    def step(value: float) -> float | None:
        return float(f"{factor * value:.3g}") or None

    return step


def _half(num_steps: int) -> int | None:
    return num_steps // 2 or None


def _last_blocks(blocks: list[int] | None, num_blocks: int) -> list[int] | None:
    """From all blocks to the last half, and from there to the last quarter.

    Example:
        >>> _last_blocks(None, 8), _last_blocks([-4, -3, -2, -1], 8), _last_blocks([-2, -1], 8)
        ([-4, -3, -2, -1], [-2, -1], None)
    """
    kept = (num_blocks if blocks is None else len(blocks)) // 2
    return list(range(-kept, 0)) if kept >= max(1, num_blocks // 4) else None
