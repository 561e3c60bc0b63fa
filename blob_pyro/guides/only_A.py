"""Guides whose law is one about the A matrices."""

from __future__ import annotations

from collections.abc import Iterable

from blob_pyro.errors import ConfigError
from blob_pyro.model.layers.inject import factor_of


def refuse_lora_B(guide: str, sites: Iterable[str]) -> None:
    """Raise unless every site is a lora_A.

    Raises:
        ConfigError: a site is none; the message names it.
    """
    for site in sites:
        if factor_of(site) != "lora_A":
            raise ConfigError(f"guide {guide}: expected random A matrices only; got the site {site}; take bayesian='A'")
