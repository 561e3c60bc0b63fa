"""Selective prediction: how many errors are left when only the surest answers are given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.evaluation.checks import checked
from blob_pyro.evaluation.predictions import Predictions


@dataclass(frozen=True)
class RiskCoverage:
    """Share of errors among the k surest of n items, for k = 1 to n.

    Attributes:
        coverage: (n,) k / n, float64.
        risk: (n,) share of wrong answers among the k surest, float64; the last is 1 - accuracy.
        confidence: (n,) that of the k-th item, falling, float64.
        area: mean of the risks (AURC), in [0, 1]; the lower the better. It cannot fall below what an order that puts
            all right answers first has, so that it judges accuracy and order together.
    """

    coverage: Tensor
    risk: Tensor
    confidence: Tensor
    area: float


def risk_coverage(predictions: Predictions) -> RiskCoverage:
    """The risk-coverage curve of labelled predictions, and the area under it.

    An item's confidence is the probability of its most probable class; that class (the first, on ties) is its answer.
    Items of equal confidence (float32 has many at 1.0) have no order: the risk is its mean over all of their orders,
    so the result does not depend on the order of the items.

    Args:
        predictions: n items with labels.

    Raises:
        DataError: as `evaluate`.

    Source: Geifman, Uziel and El-Yaniv, Bias-reduced uncertainty estimation for deep neural classifiers,
    arXiv 1805.08206, section 2.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
        >>> curve = risk_coverage(Predictions(probs, probs[None], labels=torch.tensor([0, 1, 1])))
        >>> [round(risk, 3) for risk in curve.risk.tolist()], round(curve.area, 3)
        ([0.0, 0.0, 0.333], 0.111)
    """
    probs, labels = checked(predictions)
    confidence, predicted = probs.max(-1)
    confidence, order = confidence.sort(descending=True, stable=True)
    wrong = _shared_among_ties((predicted != labels).double()[order], confidence)
    count = torch.arange(1, len(labels) + 1, dtype=torch.float64)
    risk = wrong.cumsum(0) / count
    return RiskCoverage(coverage=count / len(labels), risk=risk, confidence=confidence, area=float(risk.mean()))


def _shared_among_ties(values: Tensor, keys: Tensor) -> Tensor:
    """(n,) values, each replaced by the mean over the items with the same key; keys are sorted."""
    _, group, count = keys.unique_consecutive(return_inverse=True, return_counts=True)
    means = torch.zeros(len(count), dtype=values.dtype).index_add(0, group, values) / count
    return means[group]
