"""Posteriors over the A matrices: one algorithm a file, the same names in the same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide import init_to_value

from blob_pyro.guides.base import AdapterGuide
from blob_pyro.guides.blob import BLoBGuide
from blob_pyro.guides.map import MAPGuide
from blob_pyro.guides.mle import MLEGuide
from blob_pyro.guides.post_hoc import PostHocGuide
from blob_pyro.model import BayesianLoRA

__all__ = ["GUIDES", "AdapterGuide", "BLoBGuide", "MAPGuide", "MLEGuide", "PostHocGuide", "init_to_adapter"]

GUIDES: dict[str, type[AdapterGuide]] = {"blob": BLoBGuide, "map": MAPGuide, "mle": MLEGuide}


def init_to_adapter(model: BayesianLoRA) -> Callable[[Any], Any]:
    """An `init_loc_fn` that starts Pyro's autoguides at the adapter's own weights.

    `AutoNormal` otherwise starts every A at 0, where B gets no gradient:
    `AutoNormal(model, init_loc_fn=init_to_adapter(model), init_scale=0.002)` starts where BLoBGuide does.
    """
    values = {site: model.location(site).detach().float().clone() for site in model.sites}
    start: Callable[[Any], Any] = init_to_value(values=values)
    return start
