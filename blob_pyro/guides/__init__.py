"""Posteriors over the A matrices: one algorithm a file, the same names in the same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.autoguide import init_to_value

from blob_pyro.guides.base import AdapterGuide
from blob_pyro.guides.blob import BLoBGuide
from blob_pyro.guides.dropout import DropoutGuide
from blob_pyro.guides.empirical_prior import empirical_prior_scale
from blob_pyro.guides.ensemble import EnsembleGuide
from blob_pyro.guides.laplace import LaplaceGuide
from blob_pyro.guides.low_rank import LowRankGuide
from blob_pyro.guides.map import MAPGuide
from blob_pyro.guides.mean_field import MeanFieldGuide
from blob_pyro.guides.mle import MLEGuide
from blob_pyro.guides.post_hoc import PostHocGuide
from blob_pyro.guides.scalabl import ScalaBLGuide
from blob_pyro.guides.tfb import TFBGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.prior import PRIOR_SCALE

__all__ = [
    "GUIDES",
    "AdapterGuide",
    "BLoBGuide",
    "DropoutGuide",
    "EnsembleGuide",
    "LaplaceGuide",
    "LowRankGuide",
    "MAPGuide",
    "MLEGuide",
    "MeanFieldGuide",
    "PostHocGuide",
    "ScalaBLGuide",
    "TFBGuide",
    "empirical_prior_scale",
    "init_to_adapter",
]

GUIDES: dict[str, type[AdapterGuide]] = {
    "blob": BLoBGuide,
    "dropout": DropoutGuide,
    "ensemble": EnsembleGuide,
    "laplace": LaplaceGuide,
    "low_rank": LowRankGuide,
    "map": MAPGuide,
    "mean_field": MeanFieldGuide,
    "mle": MLEGuide,
    "scalabl": ScalaBLGuide,
    "tfb": TFBGuide,
}


def init_to_adapter(model: BayesianLoRA) -> Callable[[Any], Any]:
    """An `init_loc_fn` that starts Pyro's autoguides at the adapter's own weights.

    `AutoNormal` otherwise starts every A at 0, where B gets no gradient:
    `AutoNormal(model, init_loc_fn=init_to_adapter(model), init_scale=0.002)` starts where BLoBGuide does.
    """
    values = {site: model.location(site).detach().float().clone() for site in model.sites}
    if model.hyperprior is not None:
        values[PRIOR_SCALE] = torch.tensor(model.prior_scale, device=model.device)
    start: Callable[[Any], Any] = init_to_value(values=values)
    return start
