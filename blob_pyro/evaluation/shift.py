"""How well uncertainty tells items of another kind from those of the training kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.evaluation.checks import check_probabilities
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.evaluation.scores import information
from blob_pyro.evaluation.uncertainty import predictive_entropy


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


def _auroc(inside: Tensor, outside: Tensor, limit: float) -> float:
    """AUROC of uncertainties in [0, limit]. Scaled to [0, 1], as torchmetrics puts others through a sigmoid."""
    from torchmetrics.functional.classification import binary_auroc

    scores = (torch.cat((inside, outside)) / limit).clamp(0.0, 1.0)
    shifted = torch.cat((torch.zeros(len(inside)), torch.ones(len(outside)))).long()
    return float(binary_auroc(scores, shifted))
