"""Uncertainty of predictions, one number an item: entropies in nats, and scores by name to abstain or acquire by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blob_pyro.config.checks import unknown_name
from blob_pyro.errors import ConfigError
from blob_pyro.evaluation.checks import check_probabilities
from blob_pyro.evaluation.predictions import Predictions

# Draws that agree have a mutual information of 0, and of up to 1e-15 by rounding, which must not order them.
SMALLEST_INFORMATION = 1e-12


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


def uncertainty(predictions: Predictions, score: str = "entropy") -> Tensor:
    r"""One of `SCORES` for each item, labels unused.

    =============  ================================================  ============
    score          value, p the mean over the draws                  range
    =============  ================================================  ============
    "confidence"   1 - max_k p_k                                     [0, 1 - 1/K]
    "margin"       1 - (the highest p_k - the second highest)        [0, 1]
    "entropy"      H(p) in nats                                      [0, log K]
    "bald"         H(p) - mean over draws of H(p_s), in nats         [0, log K]
    =============  ================================================  ============

    The first three add up what the posterior does not know and what no posterior could know of the label; "bald", the
    mutual information of label and weights, is the first part alone (Houlsby et al., arXiv 1112.5745). It is exactly
    0 where the draws agree.

    Args:
        predictions: n items.
        score: name of the score.

    Returns:
        (n,) float64 on the CPU.

    Raises:
        ConfigError: there is no score of this name, or "bald" is asked of a single draw.
        DataError: there are no items, or a row of probabilities is not one, as in `evaluate`.

    Example:
        >>> probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> uncertainty(Predictions(probs, probs[None]), "margin").tolist()
        [0.5, 1.0]
    """
    check_score(score)
    check_probabilities(predictions)
    return SCORES[score](predictions)


def check_score(score: str) -> None:
    """Raise unless there is such a score.

    Raises:
        ConfigError: names those there are.
    """
    if score not in SCORES:
        raise unknown_name("score", SCORES, score)


def information(draws: Tensor) -> Tensor:
    """(n,) mutual informations of (S, n, K) draws in nats, exactly 0 where the draws agree."""
    found = mutual_information(draws.detach().cpu())
    return found.where(found > SMALLEST_INFORMATION, 0.0)


def _confidence(predictions: Predictions) -> Tensor:
    return 1 - _probs(predictions).max(-1).values


def _margin(predictions: Predictions) -> Tensor:
    first, second = _probs(predictions).topk(2).values.unbind(-1)
    return 1 - (first - second)


def _entropy(predictions: Predictions) -> Tensor:
    return predictive_entropy(_probs(predictions))


def _bald(predictions: Predictions) -> Tensor:
    if len(predictions.draws) < 2:
        raise ConfigError(
            "score 'bald': expected at least 2 posterior draws, which can disagree; got 1: raise num_samples, or take "
            "another score where the guide is a point"
        )
    return information(predictions.draws)


def _probs(predictions: Predictions) -> Tensor:
    return predictions.probs.detach().cpu().double()


SCORES: dict[str, Callable[[Predictions], Tensor]] = {
    "confidence": _confidence,
    "margin": _margin,
    "entropy": _entropy,
    "bald": _bald,
}
NEED_DRAWS = ("bald",)
"""The scores that a point posterior does not have."""
