"""What every score asks of predictions: items, draws, rows that are probabilities, and labels in range."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation.predictions import Predictions

# Probabilities come as float32: below this, their logarithm would be that of a rounded number, or of zero.
SMALLEST_PROB = torch.finfo(torch.float32).tiny
ROW_SUM_TOLERANCE = 1e-3


def checked(predictions: Predictions) -> tuple[Tensor, Tensor]:
    """(n, K) float64 probabilities and (n,) labels on the CPU, once they have passed every check."""
    check_probabilities(predictions)
    if predictions.labels is None:
        raise DataError("expected labels; got None; give the items' labels to score their predictions")
    labels = predictions.labels.detach().cpu()
    _check_labels(labels, predictions.probs.shape[1])
    # A mean of float32 rows may exceed 1 by rounding, which torchmetrics would take for logits.
    return predictions.probs.detach().cpu().double().clamp(0.0, 1.0), labels.long()


def checked_shares(predictions: Predictions) -> Tensor | None:
    """(n, K) float64 shares of the annotators on the CPU, rows summing to 1; None where there are none.

    Raises:
        DataError: a row is not finite, negative or off 1.
    """
    if predictions.shares is None:
        return None
    _check_rows("shares", predictions.shares)
    shares = predictions.shares.detach().cpu().double()
    return shares / shares.sum(-1, keepdim=True)


def check_probabilities(predictions: Predictions) -> None:
    """Raise unless there are items, and every row of `probs` and `draws` is a distribution; labels may be absent.

    Raises:
        DataError: no item, no draw, one class only, or a row that is not finite, not positive or off 1.
    """
    if len(predictions) == 0:
        raise DataError("expected at least one item; got empty predictions; predict on a data set with items")
    _check_rows("probs", predictions.probs)
    _check_rows("draws", predictions.draws)


def check_share(name: str, value: float) -> None:
    """Raise unless a setting lies between 0 and 1, both excluded.

    Raises:
        ConfigError: names the setting.
    """
    if not 0 < value < 1:
        raise ConfigError(f"{name}: expected a number between 0 and 1; got {value}")


def _check_rows(name: str, probs: Tensor) -> None:
    """Raise unless the last dimension holds at least two probabilities that sum to 1."""
    if probs.shape[-1] < 2:
        raise DataError(f"expected {name} of at least 2 classes; got {probs.shape[-1]}; give one column per class")
    if probs.shape[0] == 0:
        raise DataError(f"expected {name} of at least one draw; got 0; give draws of shape (S, n, K)")
    probs = probs.detach()
    if not torch.isfinite(probs).all():
        raise DataError(f"expected finite {name}; got NaN or infinity; check the network's logits for overflow")
    if probs.min() < 0:
        raise DataError(f"expected {name} of at least 0; got {float(probs.min()):.4g}; give probabilities, not logits")
    error = (probs.double().sum(-1) - 1).abs().max()
    if error > ROW_SUM_TOLERANCE:
        raise DataError(f"expected rows of {name} that sum to 1; got a sum off by {float(error):.4g}; apply softmax")


def _check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise unless the labels are integers in [0, num_classes)."""
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"expected integer labels; got {labels.dtype}; give class indices")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside) > 0:
        raise DataError(
            f"expected labels in 0..{num_classes - 1}; got {int(outside[0])}; "
            "check the order and number of the task's labels"
        )
