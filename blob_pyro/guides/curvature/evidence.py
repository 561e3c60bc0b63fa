"""The marginal likelihood of Laplace's approximation, and the prior precision that maximises it."""

from __future__ import annotations

import math

from torch import Tensor

from blob_pyro.errors import ConfigError


def log_evidence(log_likelihood: float, loc_square: float, eigenvalues: Tensor, precision: float) -> float:
    r"""Laplace's approximation of log p(D), in total nats, under the prior Normal(0, 1 / lambda):

        log p(D | M) - lambda/2 |M|^2 - 1/2 sum_i log(1 + h_i / lambda).

    The last term is 1/2 log det(lambda I) - 1/2 log det(H + lambda I); every 2 pi cancels.

    Args:
        log_likelihood: log p(D | M), summed over the items.
        loc_square: |M|^2, summed over all random entries.
        eigenvalues: (E,) h of H; those left out are zero.
        precision: lambda.

    Source: MacKay 1992, "A practical Bayesian framework"; Laplace-LoRA, arXiv 2308.13111, section 4.
    """
    occam = float((eigenvalues / precision).log1p().sum())
    return log_likelihood - 0.5 * precision * loc_square - 0.5 * occam


def evidence_precision(loc_square: float, eigenvalues: Tensor) -> float:
    r"""The prior precision lambda of largest `log_evidence`, by bisection.

    Its derivative in log lambda is 1/2 (gamma(lambda) - lambda |M|^2), gamma(lambda) = sum_i h_i / (h_i + lambda) being
    the effective number of parameters. gamma falls and lambda |M|^2 rises, so that there is one root, and it is the
    maximum. It lies between min(h_max, 1 / |M|^2) / 4, where gamma is at least 0.8, and E / |M|^2.

    Args:
        loc_square: |M|^2.
        eigenvalues: (E,) h of H.

    Raises:
        ConfigError: |M| or H is zero, or not finite: the evidence then grows for ever, towards one end or the other.
    """
    largest = float(eigenvalues.max()) if len(eigenvalues) else 0.0
    if not (0 < loc_square < math.inf and 0 < largest < math.inf):
        raise ConfigError(
            "prior_precision: expected weights and a curvature that are finite and not zero; "
            f"got |M|^2 = {loc_square:g} and a largest eigenvalue of {largest:g}; train the adapter first"
        )
    low = math.log(min(largest, 1 / loc_square) / 4)
    high = math.log(len(eigenvalues) / loc_square)
    while high - low > 1e-12 * max(1.0, abs(low)):
        middle = 0.5 * (low + high)
        precision = math.exp(middle)
        effective = float((eigenvalues / (eigenvalues + precision)).sum())
        low, high = (middle, high) if effective > precision * loc_square else (low, middle)
    return math.exp(0.5 * (low + high))
