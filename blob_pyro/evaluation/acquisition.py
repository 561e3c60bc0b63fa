"""Active learning: which unlabelled items to have labelled next."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blob_pyro.errors import ConfigError
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.evaluation.scores import NEED_DRAWS, uncertainty


@dataclass(frozen=True)
class Acquired:
    """Items to label.

    Attributes:
        index: (k,) their positions, the most uncertain first; of equal ones the earlier first.
        scores: (k,) their uncertainties, float64.
    """

    index: Tensor
    scores: Tensor


def acquire(predictions: Predictions, k: int, score: str = "bald") -> Acquired:
    """The k items with the highest uncertainty.

    "bald" asks where the posterior draws disagree: there a label tells most about the weights, while "entropy",
    "margin" and "confidence" also choose items that are ambiguous whatever the weights. Each item is scored alone, so
    that k near copies of one item may be chosen together.

    Args:
        predictions: n unlabelled items (the pool), under draws of the posterior.
        k: how many to choose.
        score: one of `SCORES`.

    Raises:
        ConfigError: k is not in 1 .. n, there is no such score, or "bald" is asked of a single draw or of draws that
            agree on every item, and so says nothing.
        DataError: there are no items, or a row of probabilities is not one, as in `evaluate`.

    Source: Houlsby, Huszár, Ghahramani and Lengyel, Bayesian active learning for classification and preference
    learning, arXiv 1112.5745, equation 2 (BALD).

    Example:
        >>> import torch
        >>> draws = torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.5, 0.5], [0.1, 0.9]]])  # they disagree on item 1
        >>> acquire(Predictions(draws.mean(0), draws), k=1).index.tolist()
        [1]
    """
    scores = uncertainty(predictions, score)
    check_k(k, len(scores))
    if score in NEED_DRAWS and not bool(scores.any()):
        raise ConfigError(
            f"score {score!r}: expected draws that disagree on some item; got {len(predictions.draws)} that agree on "
            "all: the posterior is too narrow to choose by; take the score 'entropy' or 'margin'"
        )
    values, order = scores.sort(descending=True, stable=True)
    return Acquired(index=order[:k], scores=values[:k])


def check_k(k: int, num_items: int) -> None:
    """Raise unless k of the items can be chosen.

    Raises:
        ConfigError: k is below 1 or above the number of items.
    """
    if not 1 <= k <= num_items:
        raise ConfigError(f"k: expected 1 to {num_items}, the number of items; got {k}")
