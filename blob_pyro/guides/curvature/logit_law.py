"""The Gaussian over an item's logits that a Gaussian over the weights becomes when the network is linearised."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from blob_pyro.distributions.gaussian_kl import elementwise_normal
from blob_pyro.distributions.kronecker_normal import KroneckerNormal
from blob_pyro.distributions.low_rank_normal import LowRankNormal
from blob_pyro.errors import UnsupportedPosteriorError
from blob_pyro.guides.curvature.jacobians import Linearised, contrasts, psd_root


@singledispatch
def linear_covariance(law: Distribution, matrices: Tensor) -> Tensor:
    """Covariance of C linear functions of a matrix of the given law, for each of B items.

    Args:
        law: a Gaussian over (d_out, d_in): independent entries, `KroneckerNormal` or `LowRankNormal`.
        matrices: (C, B, d_out, d_in) coefficients.

    Returns:
        (..., B, C, C), where ... is the law's batch shape.

    Raises:
        UnsupportedPosteriorError: the law is another one.
    """
    raise UnsupportedPosteriorError(
        f"linearised network: expected a Gaussian posterior; got {type(law).__name__}; use PosteriorPredictive"
    )


@linear_covariance.register(Independent)
def _of_independent(law: Independent[Any], matrices: Tensor) -> Tensor:
    try:
        scale = elementwise_normal(law)[1]
    except NotImplementedError:
        return linear_covariance(law.base_dist, matrices)
    return torch.einsum("...oi,cboi,dboi->...bcd", scale.square(), matrices, matrices)


@linear_covariance.register
def _of_kronecker(law: KroneckerNormal, matrices: Tensor) -> Tensor:
    return law.covariance_of(matrices)


@linear_covariance.register
def _of_low_rank(law: LowRankNormal, matrices: Tensor) -> Tensor:
    inside = torch.einsum("koi,cboi->bck", law.factor, matrices)
    return torch.einsum("oi,cboi,dboi->bcd", law.scale.square(), matrices, matrices) + inside @ inside.mT


def logit_covariance(laws: Mapping[str, Distribution], linearised: Linearised) -> Tensor:
    """(..., B, C, C) J Sigma J^T in the C = K - 1 directions of `contrasts`, summed over the independent sites.

    Args:
        laws: site -> its posterior; all of one batch shape.
        linearised: logits and Jacobians of B items. One site's derivatives are made at a time.
    """
    terms = (linear_covariance(law, linearised.sites[site].matrices()) for site, law in laws.items())
    total = None
    for term in terms:
        total = term if total is None else total + term.to(total.device)
    assert total is not None
    return total


def draw_probs(logits: Tensor, covariance: Tensor, noise: Tensor) -> Tensor:
    """softmax of draws of f ~ Normal(logits, Q covariance Q^T), Q = contrasts(K): (S, ..., B, K).

    What softmax cannot see, a common shift of an item's logits, is not drawn. Every item is shown the same noise, by
    the symmetric root of its covariance: its answer does not depend on the items beside it.

    Args:
        logits: (B, K).
        covariance: (..., B, C, C).
        noise: (S, C) standard normal.
    """
    root = psd_root(covariance.double())
    shift = torch.einsum("...bcd,sd->s...bc", root, noise.to(root))
    return (logits.double() + shift @ contrasts(logits.shape[-1]).to(root).mT).softmax(-1).to(logits.dtype)
