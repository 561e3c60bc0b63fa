"""How large an expected calibration error comes from having few items alone."""

from __future__ import annotations

import torch

from blob_pyro.errors import ConfigError
from blob_pyro.evaluation.bins import bin_index
from blob_pyro.evaluation.checks import check_probabilities
from blob_pyro.evaluation.predictions import Predictions


def calibrated_ece(predictions: Predictions, num_bins: int = 15, *, num_resamples: int = 200) -> tuple[float, float]:
    r"""The ECE that these answers would score if they were perfectly calibrated.

    The ECE sums absolute values, so that it is above 0 on few items even where every probability is right. Here each
    item is right with its own confidence, which is what calibration means: the mean ECE of such items is the floor
    that no method can be expected to get below, and an ECE is to be read against it.

    .. math:: E_{c_i \sim Bernoulli(conf_i)} \sum_b \left| \frac1n \sum_{i \in b} (c_i - conf_i) \right|

    Args:
        predictions: n items; labels are not used.
        num_bins: bins of the ECE.
        num_resamples: how often the items are drawn right or wrong, with a fixed seed.

    Returns:
        Mean and standard deviation of the ECE over the resamples, in [0, 1].

    Raises:
        DataError: there are no items, or a row of probabilities is not one.
        ConfigError: fewer than one bin, or fewer than two resamples.

    Source: consistency resampling, Bröcker and Smith 2007, Increasing the reliability of reliability diagrams.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2]]).repeat(100, 1)
        >>> few, many = (calibrated_ece(Predictions(p, p[None]))[0] for p in (probs, probs.repeat(100, 1)))
        >>> round(few, 3), round(many, 3)  # sqrt(2 / pi) of the standard error 0.04, and of 0.004
        (0.032, 0.003)
    """
    if num_bins < 1:
        raise ConfigError(f"num_bins: expected at least 1; got {num_bins}; the paper uses 15")
    if num_resamples < 2:
        raise ConfigError(f"num_resamples: expected at least 2; got {num_resamples}")
    check_probabilities(predictions)
    confidence = predictions.probs.double().max(-1).values.cpu()
    index = bin_index(confidence, num_bins)
    generator = torch.Generator().manual_seed(0)
    eces = torch.empty(num_resamples, dtype=torch.float64)
    for resample in range(num_resamples):
        right = torch.rand(len(confidence), generator=generator, dtype=torch.float64) < confidence
        eces[resample] = torch.bincount(index, right.double() - confidence).abs().sum() / len(confidence)
    return float(eces.mean()), float(eces.std())
