"""Uncertainty of predicted probabilities, per item, in nats."""

from __future__ import annotations

import torch
from torch import Tensor


def predictive_entropy(probs: Tensor) -> Tensor:
    """Entropy H(p) = -sum_k p_k log p_k of each item, with 0 log 0 = 0.

    Args:
        probs: (..., K) class probabilities.

    Returns:
        (...) entropies in nats, between 0 and log K, float64.

    Example:
        >>> predictive_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    terms: Tensor = torch.special.entr(probs.double())
    return terms.sum(-1)


def mutual_information(draws: Tensor) -> Tensor:
    """Mutual information of label and weights: entropy of the mean minus mean of the entropies over draws.

    The part of the predictive entropy that more data could remove (epistemic, "BALD"). 0 where all draws
    agree, and so for a single draw. Rounding below 0 is clamped.

    Args:
        draws: (S, ..., K) class probabilities under each of S posterior draws.

    Returns:
        (...) mutual informations in nats, between 0 and log K, float64.

    Raises:
        ValueError: there is no draw.

    Example:
        >>> draws = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])  # draws disagree on item 0
        >>> mutual_information(draws)
        tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    if draws.shape[0] == 0:
        raise ValueError("expected at least one draw; got 0; give draws of shape (S, n, K) with S of at least 1")
    draws = draws.double()
    return (predictive_entropy(draws.mean(0)) - predictive_entropy(draws).mean(0)).clamp(min=0.0)
