"""Items of another kind than the training items: flagged by their uncertainty, and how well that tells them apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.evaluation.checks import check_probabilities
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.evaluation.scores import information, predictive_entropy, uncertainty


@dataclass(frozen=True)
class ShiftDetection:
    """Area under the ROC curve of detecting shifted items by their uncertainty.

    It is the probability that a shifted item is more uncertain than an unshifted one, ties counting half: 0.5 is
    chance, 1 is perfect, and below 0.5 the model is surer of what it has not learnt.

    Attributes:
        entropy: by predictive entropy.
        mutual_information: by mutual information of label and weights; 0.5 for a single draw.
        num_inside: items of the training kind.
        num_outside: shifted items.
    """

    entropy: float
    mutual_information: float
    num_inside: int
    num_outside: int


def auroc_out_of_distribution(inside: Predictions, outside: Predictions) -> ShiftDetection:
    """Detect the items of `outside` by predictive entropy and by mutual information, with torchmetrics' AUROC.

    Labels are not needed. The two may have different numbers of classes; uncertainties are compared in nats.

    Args:
        inside: items of the training kind that were not trained on.
        outside: items of another kind, predicted by the same guide.

    Raises:
        DataError: one of the two has no items, or a row of probabilities is not one, as in `evaluate`.

    Example:
        >>> sure, unsure = torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([[0.7, 0.3], [0.5, 0.5]])
        >>> auroc_out_of_distribution(Predictions(sure, sure[None]), Predictions(unsure, unsure[None])).entropy
        0.75
    """
    for predictions in (inside, outside):
        check_probabilities(predictions)
    limit = math.log(max(inside.probs.shape[1], outside.probs.shape[1]))
    entropies = [predictive_entropy(part.probs.detach().cpu()) for part in (inside, outside)]
    informations = [information(part.draws) for part in (inside, outside)]
    return ShiftDetection(
        entropy=_auroc(entropies[0], entropies[1], limit),
        mutual_information=_auroc(informations[0], informations[1], limit),
        num_inside=len(inside),
        num_outside=len(outside),
    )


def ood_p_values(held_out: Predictions, predictions: Predictions, score: str = "entropy") -> Tensor:
    r"""p-values of "this item is of the held-out items' kind", by its uncertainty; small where it is unusually unsure.

    .. math:: p = (1 + \#\{i: u_i \ge u\}) / (n + 1)

    with u the item's uncertainty and u_i those of the n held-out items. An item exchangeable with them has p <= a with
    a probability of at most a, so that flagging p <= 0.05 raises a false alarm on at most one such item in twenty, on
    average over held-out sets. How many others are found is not promised: `auroc_out_of_distribution` measures it. No
    p is below 1 / (n + 1).

    Args:
        held_out: n items of the training kind that were not trained on; labels are not needed.
        predictions: m items, under the same guide and draws.
        score: one of `SCORES`.

    Returns:
        (m,) in (0, 1], float64.

    Raises:
        ConfigError: there is no such score, or "bald" is asked of a single draw.
        DataError: one of the two has no items, or a row of probabilities is not one, as in `evaluate`.

    Source: conformal p-values, Bates, Candès, Lei, Romano and Sesia, Testing for outliers with conformal p-values,
    arXiv 2104.08279.

    Example:
        >>> sure, unsure = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]), torch.tensor([[0.5, 0.5], [0.7, 0.3]])
        >>> ood_p_values(Predictions(sure, sure[None]), Predictions(unsure, unsure[None])).tolist()
        [0.25, 0.5]
    """
    inside = uncertainty(held_out, score).sort().values
    as_unsure = len(inside) - torch.searchsorted(inside, uncertainty(predictions, score))
    return (1 + as_unsure).double() / (len(inside) + 1)


def _auroc(inside: Tensor, outside: Tensor, limit: float) -> float:
    """AUROC of uncertainties in [0, limit]. Scaled to [0, 1], as torchmetrics puts others through a sigmoid."""
    from torchmetrics.functional.classification import binary_auroc

    scores = (torch.cat((inside, outside)) / limit).clamp(0.0, 1.0)
    shifted = torch.cat((torch.zeros(len(inside)), torch.ones(len(outside)))).long()
    return float(binary_auroc(scores, shifted))
