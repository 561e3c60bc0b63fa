"""`evaluate`: accuracy, likelihood and calibration of `Predictions`, with standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from blob_pyro.evaluation.annotators import AnnotatorMetrics, against_annotators
from blob_pyro.evaluation.bins import bin_index, bootstrap_ece_se, standard_error
from blob_pyro.evaluation.checks import SMALLEST_PROB, checked, checked_shares
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.evaluation.scores import mutual_information, predictive_entropy
from blob_pyro.evaluation.tokens import TokenMetrics


@dataclass(frozen=True)
class Metrics:
    """Scores of n predictions; every mean gives each item the same weight, however the items were batched.

    Attributes:
        accuracy: share of items whose most probable class (the first, on ties) is the label.
        nll: mean of -log p(label) in nats per item, p averaged over the draws. Probabilities below 1.2e-38
            (float32's smallest normal number) count as that: an impossible label costs 87.3 nats, not infinity.
        ece: expected calibration error in [0, 1] over bins of equal width (see `reliability_bins`).
        brier: squared error of the probabilities, summed over classes and averaged over items; in [0, 2]
            (twice the one-column Brier score when K = 2).
        entropy: mean predictive entropy, nats.
        mutual_information: mean mutual information of label and weights, nats; 0 for a single draw.
        num_items: n.
        num_samples: S, posterior draws behind each prediction; 1 for the posterior mean.
        num_bins: bins of the ECE.
        accuracy_se: standard error over items, standard deviation (n - 1) / sqrt n; NaN for one item.
        nll_se: likewise.
        brier_se: likewise.
        ece_se: standard deviation of the ECE over 200 bootstrap resamples of the items (fixed seed). ECE itself
            is biased upwards on small n, which this does not show.
        annotators: scores against the shares of the annotators, where the predictions carry them. The scores above
            are then those of the largest share.
    """

    accuracy: float
    nll: float
    ece: float
    brier: float
    entropy: float
    mutual_information: float
    num_items: int
    num_samples: int
    num_bins: int
    accuracy_se: float
    nll_se: float
    brier_se: float
    ece_se: float
    annotators: AnnotatorMetrics | None = None

    def to_dict(self) -> dict[str, float | int]:
        """The scores by name, plain numbers; those against annotators, where there are any, stand beside the others."""
        own = {name: getattr(self, name) for name in OWN_SCORES}
        return own if self.annotators is None else own | self.annotators.to_dict()

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Metrics:
        """What `to_dict` gave.

        Raises:
            TypeError: scores are missing, or unknown.

        Example:
            >>> probs = torch.tensor([[0.8, 0.2], [0.6, 0.4]])
            >>> metrics = evaluate(Predictions(probs, probs[None], shares=torch.tensor([[0.75, 0.25], [0.0, 1.0]])))
            >>> Metrics.from_dict(metrics.to_dict()) == metrics
            True
        """
        own = {name: value for name, value in found.items() if name in OWN_SCORES}
        others = {name: value for name, value in found.items() if name not in OWN_SCORES}
        return cls(**own, annotators=AnnotatorMetrics(**others) if others else None)


OWN_SCORES = tuple(field.name for field in fields(Metrics) if field.name != "annotators")
"""The scores of `Metrics` itself."""


@dataclass(frozen=True)
class ReliabilityBins:
    """Items grouped by confidence, the probability of their most probable class.

    Attributes:
        count: (num_bins,) items per bin, int64.
        accuracy: (num_bins,) share of right items in each bin, float64; NaN in an empty bin.
        confidence: (num_bins,) mean confidence in each bin, float64; NaN in an empty bin.
        ece: expected calibration error, sum over bins of count / n * |accuracy - confidence|.
    """

    count: Tensor
    accuracy: Tensor
    confidence: Tensor
    ece: float


def evaluate(predictions: Predictions, num_bins: int = 15) -> Metrics:
    """Score labelled predictions. No global random state is touched.

    Accuracy and ECE come from torchmetrics. Everything is computed in float64 but the ECE: torchmetrics sums it
    in float32, which was seen to move it by up to 3e-5 at 10,000 items and 1e-3 at 100,000.

    Args:
        predictions: n items with labels, or shares of annotators.
        num_bins: bins of the ECE.

    Raises:
        DataError: labels are missing or out of range, there are no items, or a row of probabilities or shares is not
            one (not finite, negative, or a sum off 1 by more than 1e-3).
        ValueError: `num_bins` is below 1.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])
        >>> metrics = evaluate(Predictions(probs, probs[None], labels=torch.tensor([0, 1, 1, 1])))
        >>> metrics.accuracy, round(metrics.nll, 4), round(metrics.ece, 4), round(metrics.brier, 4)
        (0.75, 0.4004, 0.3, 0.25)
    """
    (probs, labels), shares = checked(predictions), checked_shares(predictions)
    nll = -_label_probs(probs, labels).clamp(min=SMALLEST_PROB).log()
    brier = (probs - torch.nn.functional.one_hot(labels, probs.shape[1])).square().sum(-1)
    confidence, correct = _confidence_and_correct(probs, labels)
    return Metrics(
        accuracy=_accuracy(probs, labels),
        nll=float(nll.mean()),
        ece=_ece(probs, labels, num_bins),
        brier=float(brier.mean()),
        entropy=float(predictive_entropy(probs).mean()),
        mutual_information=float(mutual_information(predictions.draws.detach().cpu()).mean()),
        num_items=len(predictions),
        num_samples=predictions.draws.shape[0],
        num_bins=num_bins,
        accuracy_se=standard_error(correct),
        nll_se=standard_error(nll),
        brier_se=standard_error(brier),
        ece_se=bootstrap_ece_se(confidence, correct, num_bins),
        annotators=None if shares is None else against_annotators(probs, shares, num_bins),
    )


def reliability_bins(predictions: Predictions, num_bins: int = 15) -> ReliabilityBins:
    """Group items into `num_bins` bins of equal width by confidence.

    Bin b holds the confidences in [b / num_bins, (b + 1) / num_bins), compared in float32 as torchmetrics
    does; the last bin also takes 1.0. In the ECE torchmetrics gives the confidence of exactly 1.0 a bin of
    its own, and so does `ece` here, as in the paper's code: the two ways differ only where the last bin is
    underconfident.

    Args:
        predictions: n items with labels.
        num_bins: number of bins.

    Raises:
        DataError: as `evaluate`.
        ValueError: `num_bins` is below 1.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.0, 1.0]])
        >>> bins = reliability_bins(Predictions(probs, probs[None], labels=torch.tensor([0, 1, 1, 1])), num_bins=4)
        >>> bins.count.tolist(), bins.accuracy[2:].tolist()
        ([0, 0, 2, 2], [0.5, 1.0])
    """
    probs, labels = checked(predictions)
    ece = _ece(probs, labels, num_bins)
    confidence, correct = _confidence_and_correct(probs, labels)
    index = bin_index(confidence, num_bins).clamp(max=num_bins - 1)
    count = torch.bincount(index, minlength=num_bins)
    return ReliabilityBins(
        count=count,
        accuracy=torch.bincount(index, correct, minlength=num_bins) / count,
        confidence=torch.bincount(index, confidence, minlength=num_bins) / count,
        ece=ece,
    )


def _accuracy(probs: Tensor, labels: Tensor) -> float:
    """Share of right items; torchmetrics' count, divided in float64 (its own accuracy is float32)."""
    from torchmetrics.functional.classification import multiclass_stat_scores

    counts = multiclass_stat_scores(probs, labels, num_classes=probs.shape[1], average="micro")
    return int(counts[0]) / len(labels)


def _ece(probs: Tensor, labels: Tensor, num_bins: int) -> float:
    """Expected calibration error by torchmetrics."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    if num_bins < 1:
        raise ValueError(f"expected num_bins of at least 1; got {num_bins}; the paper uses 15")
    return float(multiclass_calibration_error(probs, labels, num_classes=probs.shape[1], n_bins=num_bins, norm="l1"))


def _confidence_and_correct(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) probability of the most probable class, and (n,) 1.0 where it is the label, else 0.0."""
    confidence, predicted = probs.max(-1)
    return confidence, (predicted == labels).double()


def _label_probs(probs: Tensor, labels: Tensor) -> Tensor:
    """(n,) probability of each item's label."""
    return probs.gather(1, labels[:, None])[:, 0]


Scores = Metrics | TokenMetrics


def label_nlls(predictions: Predictions) -> tuple[float, ...]:
    """-log p(label) of each item in nats, p averaged over the draws.

    Raises:
        DataError: labels are missing or out of range, or a row of probabilities is not one.
    """
    probs, labels = checked(predictions)
    found = probs.gather(1, labels[:, None]).squeeze(1).clamp(min=SMALLEST_PROB)
    return tuple((-found.log()).tolist())
