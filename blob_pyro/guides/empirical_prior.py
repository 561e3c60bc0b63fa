"""The prior scale that the present posterior would choose."""

from __future__ import annotations

import math

import torch

from blob_pyro.guides.base import AdapterGuide


def empirical_prior_scale(guide: AdapterGuide) -> float:
    r"""sigma_p with the least KL(posterior || Normal(0, sigma_p^2)), in closed form.

        sigma_p^2 = sum of scale^2 + loc^2 over all entries / guide.num_random()

    That is what a guide learns under a flat law of sigma_p (the M step of empirical Bayes).

    Source: MacKay 1992 (Bayesian interpolation), section 4; here for the variational posterior.
    """
    with torch.no_grad():
        pairs = [(guide.scale(site).double(), guide.loc(site).double()) for site in guide.model.sites]
        total = sum(float((scale.square() + loc.square()).sum()) for scale, loc in pairs)
    return math.sqrt(total / guide.num_random())
