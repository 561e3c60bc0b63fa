"""Holds draws of a posterior in the network, for whatever the network is called for meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from blob_pyro.errors import ConfigError
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.layers.drawn_linear import WeightDraw, hold
from blob_pyro.model.layers.inject import drawn_linear


def hold_draws(model: BayesianLoRA, draws: Mapping[str, Tensor] | None) -> hold:
    """Context manager in which the network applies the draws; plain `network.generate` is then that draw's own.

    Args:
        model: the model.
        draws: site -> (r, n), or (S, r, n): the network's rows are then S groups, one draw each. A site that is not in
            it, and every site for None, is at the adapter's own weight.

    Raises:
        ConfigError: a name is no site.
    """
    draws = draws or {}
    if points := sorted(draws.keys() - model.sites.keys()):
        raise ConfigError(
            f"generate: expected draws of the sites alone, which share a forward; got values of {points[0]} too, a "
            "point parameter, of which the network holds one at a time; take a guide whose draws share their heads"
        )
    layers = {site: drawn_linear(model.sites[site], site, model.adapter) for site in draws}
    return hold({layers[site]: WeightDraw(value) for site, value in draws.items()})
